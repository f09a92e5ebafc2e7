//! What must be true of a log, whatever happens to it: a list of events and marks, and what of it may be missing.

use std::{
    collections::BTreeSet,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use sidecar_log_format::{
    ApiVersion, Block, CHAIN_START, ChainValue, Durability, Error, Event, FrameForm, Kind, Log, Mark, MarkCursor,
    MarkKind, Missing, Opened, Read, ReadOptions, RewriteOptions, WriteOptions, Writer, next_chain_value,
    repair::{RepairOptions, repair},
    storage::Storage,
    verify::{Verification, verify},
};

use crate::simulated_disk::{Fault, Lie, Random, SimulatedDisk, Tally};

/// The files beside the segments that have the log's beginning and end.
const POSITIONS: [&str; 2] = ["head", "oldest"];
const NETWORKS: [&str; 2] = ["casper-test", "casper-other"];
/// The dialect's first kinds; an upgrade adds the last.
const KINDS: [(u8, &str); 3] = [(1, "one"), (2, "two"), (5, "five")];
/// What an event may be called by itself.
const OWN_NAMES: [&str; 3] = ["head", "two", "finalized_checkpoint"];
/// More than any operation on so small a log takes.
const CALLS_MAX: u64 = 300_000;

/// Says what is done, when a seed is replayed.
macro_rules! trace {
    ($model:expr, $($text:tt)*) => {
        if $model.trace {
            eprintln!("{:>7} {}", $model.disk.calls(), format_args!($($text)*));
        }
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    payload: String,
    kind: Kind,
    /// What it is called, whether by itself or by its kind.
    name: &'static str,
    source: String,
    network: &'static str,
    api_version: ApiVersion,
    upstream_id: Option<u64>,
    received: u64,
    /// It was appended with a mark that must be there as long as the event is.
    is_marked: bool,
}

impl Expected {
    fn random(random: &mut Random, announced: ApiVersion) -> Self {
        let number = random.next();
        let payload = match random.below(40) {
            0 => format!("{{\n \"pretty\":\n  {number}}}"),
            1 => format!(" {number}"),
            2 => format!("\"{}{number}\"", "long ".repeat(random.below(3000) as usize)),
            3 if random.one_in(100) => format!("\"{}{number}\"", "large ".repeat(200_000)),
            _ => {
                format!("{{\"Event\":{{\"number\":{number},\"text\":\"{}\"}}}}", "x".repeat(random.below(90) as usize))
            }
        };
        Expected {
            payload,
            kind: Kind(random.below(8) as u8 + 1),
            name: if random.one_in(3) { OWN_NAMES[random.below(3) as usize] } else { "" },
            source: format!("127.0.0.{}:9999", random.below(3)),
            network: NETWORKS[random.one_in(20) as usize],
            api_version: announced,
            upstream_id: (!random.one_in(9)).then(|| random.below(1 << 20)),
            // The clock jumps back now and then.
            received: 1_000_000_000_000 + random.below(1 << 33),
            is_marked: random.one_in(3),
        }
    }

    fn frame(&self, form: FrameForm, sequence: usize) -> String {
        if form == FrameForm::Named {
            let event = if self.name.is_empty() { String::new() } else { format!("event: {}\n", self.name) };
            let data = self.payload.split('\n').map(|line| format!("data: {line}\n")).collect::<String>();
            return format!("{event}{data}id: {sequence}\n\n");
        }
        let data = self.payload.split('\n').map(|line| match line.starts_with(' ') {
            true => format!("data: {line}\n"),
            false => format!("data:{line}\n"),
        });
        format!("{}id:{sequence}\n\n", data.collect::<String>())
    }
}

/// A mark that was appended.
struct Marked {
    position: usize,
    body: String,
    /// It was where a bit was flipped.
    may_be_gone: bool,
}

/// What a flipped bit, or a byte that cannot be read, may have cost.
#[derive(Debug)]
struct Flipped {
    file: String,
    byte: usize,
    /// `None`: the byte cannot be read.
    bit: Option<u32>,
    place: Place,
    /// What a reader may not get before a repair.
    unreadable: Range<usize>,
    /// What may be gone for good.
    lossable: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    SegmentHeader,
    Events,
    Marks,
    Footer,
    Head,
    Oldest,
    /// Where nothing is written, or nothing that counts.
    Nowhere,
}

impl Place {
    fn name(self, is_readable: bool) -> &'static str {
        match self {
            _ if !is_readable => "a byte that cannot be read",
            Place::SegmentHeader => "bit flips: a segment header",
            Place::Events | Place::Marks => "bit flips: a block",
            Place::Footer => "bit flips: a footer",
            Place::Head => "bit flips: the head",
            Place::Oldest => "bit flips: the file `oldest`",
            Place::Nowhere => "bit flips: where nothing is",
        }
    }
}

/// What is known of the log from outside.
pub(crate) struct Model {
    disk: SimulatedDisk,
    options: WriteOptions,
    random: Random,
    trace: bool,
    is_planted: bool,
    /// Appended, in order; `None` where numbering continued above sequences that were not appended here.
    events: Vec<Option<Expected>>,
    /// Which of them a mark says are lost. A reader that knew them before may still give them out.
    lost: BTreeSet<usize>,
    /// How many of them were visible.
    visible: usize,
    marks: Vec<Marked>,
    marks_visible: usize,
    announced: ApiVersion,
    announced_visible: ApiVersion,
    epoch: u64,
    /// Retention was asked to drop what is below this.
    drop_asked: usize,
    /// Below this, a drop has failed: the file may be gone, and is reported as dropped until the next drop ends it.
    drop_failed_below: usize,
    /// And has dropped what is below this.
    dropped: usize,
    flipped: Option<Flipped>,
    /// The power was cut, or a bit was flipped, and the log was not opened since. The head may be older than the log behind
    /// a power cut, and then damage at the end looks like a write that was cut short: only one of the two happens at once.
    was_power_cut: bool,
    was_flipped: bool,
    was_repaired: bool,
    /// Something else than a process restart has happened to the head since the log was opened, or it was written without syncs.
    may_begin_epoch: bool,
    failed_syncs: u64,
    /// A reader in another process, which outlives the writer's.
    other: Option<Log>,
}

impl Model {
    pub(crate) fn new(seed: u64, durability: Durability, trace: bool) -> Self {
        let mut random = Random(seed);
        let options = WriteOptions {
            durability,
            block_bytes_max: 1 + random.below(4000) as usize,
            segment_bytes_max: 1 + random.below(30_000),
            segment_blocks_max: 1 + random.below(60) as usize,
            allocate_bytes: 1 + random.below(5000),
            kinds: kinds(2),
            frame_form: if random.one_in(3) { FrameForm::Named } else { FrameForm::Plain },
            ..WriteOptions::new("casper", [7; 16], 1_000)
        };
        Model {
            disk: SimulatedDisk::new(seed),
            options,
            random,
            trace,
            is_planted: false,
            events: Vec::new(),
            lost: BTreeSet::new(),
            visible: 0,
            marks: Vec::new(),
            marks_visible: 0,
            announced: ApiVersion::NONE,
            announced_visible: ApiVersion::NONE,
            epoch: 0,
            drop_asked: 0,
            drop_failed_below: 0,
            dropped: 0,
            flipped: None,
            was_power_cut: false,
            was_flipped: false,
            was_repaired: false,
            may_begin_epoch: true,
            failed_syncs: 0,
            other: None,
        }
    }

    /// Plants a bug that the invariants have to notice.
    pub(crate) fn plant(&mut self, lie: Lie) {
        self.disk.lie_about(lie);
        self.is_planted = true;
    }

    /// One life of the writer, from its opening after whatever happened to its end, in order or not.
    pub(crate) fn live(&mut self) {
        let opened = self.open();
        self.recovered(&opened);
        self.work(opened);
        if self.flipped.is_none() && self.random.one_in(3) {
            self.misfortune();
        }
    }

    /// A last opening, and what happened in all lives.
    pub(crate) fn end(mut self) -> Tally {
        let opened = self.open();
        self.recovered(&opened);
        drop(opened);
        if self.flipped.is_some() {
            self.disk.restart_process();
            self.repair();
            let opened = self.open();
            self.recovered(&opened);
        }
        assert!(
            self.is_planted || self.options.durability == Durability::Os || !self.disk.head_ran_ahead(),
            "a head spoke of what was not synced"
        );
        let calls = self.disk.calls();
        let mut tally = self.disk.tally();
        tally.insert("calls to the disk".to_owned(), calls);
        tally
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.disk.clone())
    }

    fn is_synced(&self) -> bool {
        self.options.durability != Durability::Os
    }

    fn step(&self, what: &str) {
        self.disk.count("steps");
        self.disk.allow_calls(CALLS_MAX);
        trace!(self, "{what}");
    }

    /// Has a call fail soon.
    fn plan_fault(&mut self, calls: u64) {
        match self.random.below(5) {
            0 | 1 => self.disk.fail_after(self.random.below(calls), Fault::Io),
            2 => self.disk.fail_after(self.random.below(calls), Fault::Full),
            3 => self.disk.fill_up_for(self.random.below(20)),
            _ => self.disk.fail_after(self.random.below(calls), Fault::Stop),
        }
    }

    /// Runs something that may end in the middle, and returns whether it did.
    fn note_stop(&self, doing: &str) {
        if self.disk.is_stopped() {
            self.disk.count(&format!("stopped while {doing}"));
            trace!(self, "stopped while {doing}");
        }
    }

    /// Ends the process, and perhaps the machine.
    fn interrupt(&mut self) {
        if self.random.one_in(2) && !self.was_flipped {
            trace!(self, "power cut");
            (self.was_power_cut, self.may_begin_epoch) = (true, true);
            self.other = None;
            self.disk.cut_power();
        } else {
            trace!(self, "process restart");
            self.disk.restart_process();
        }
    }

    /// Opens the log after whatever happened, also when it happens again meanwhile.
    fn open(&mut self) -> Opened {
        for _ in 0..3 {
            self.look_from_outside();
            if self.random.one_in(3) {
                let calls = 20 + 60 * self.random.below(2);
                self.plan_fault(calls);
            }
            if self.random.one_in(8) {
                trace!(self, "a release with another kind");
                self.options.kinds = kinds(KINDS.len());
            }
            self.step("open");
            match Writer::open(self.storage(), self.options.clone()) {
                Ok(opened) => {
                    self.disk.clear_fault();
                    return opened;
                }
                Err(error) => trace!(self, "cannot open: {error}"),
            }
            // It may have written a head already that does not say any more that the log was closed in order.
            self.may_begin_epoch |= !self.is_synced();
            self.note_stop("opening");
            self.interrupt();
        }
        self.step("open");
        match Writer::open(self.storage(), self.options.clone()) {
            Ok(opened) => opened,
            Err(error) => {
                let flipped = self.flipped.as_ref();
                assert!(flipped.is_some_and(|flipped| flipped.place == Place::SegmentHeader), "cannot open: {error}");
                trace!(self, "needs repair: {error}");
                self.disk.restart_process();
                self.repair();
                Writer::open(self.storage(), self.options.clone()).expect("it opens behind a repair")
            }
        }
    }

    /// What a reader and verify find before the writer has recovered the log.
    fn look_from_outside(&mut self) {
        if !self.random.one_in(3) {
            return;
        }
        self.step("look from outside");
        match Log::open(self.storage(), ReadOptions::default()) {
            Ok(log) => self.check(&log, false),
            Err(Error::NotALog { .. }) if self.visible == 0 => {}
            Err(error) => {
                let place = self.flipped.as_ref().map(|flipped| flipped.place);
                assert!(place == Some(Place::SegmentHeader), "a reader cannot open: {error}");
            }
        }
        let _ = verify(&self.storage(), &mut |_| {});
        if self.random.one_in(3) && self.visible > 0 {
            self.repair();
        }
    }

    /// Repairs the log, also when something happens meanwhile.
    fn repair(&mut self) {
        // A reader that is still open may hold what was where a mark is now.
        self.other = None;
        self.was_repaired = true;
        let options = RepairOptions { dry_run: false, now: 5_000 };
        for attempt in 0..4 {
            if attempt < 3 && self.random.one_in(2) {
                self.plan_fault(60);
            }
            self.step("repair");
            let repaired = repair(&self.storage(), options);
            self.note_stop("repairing");
            self.disk.clear_fault();
            trace!(self, "repair: {repaired:?}");
            match repaired {
                Ok(actions) if actions.iter().all(|action| !is_left(action)) => break,
                Err(_) if attempt < 3 => self.interrupt(),
                result => {
                    // What only a back-up can set right.
                    let flipped = self.flipped.as_ref().expect("only damage is left alone");
                    assert_eq!(flipped.place, Place::SegmentHeader, "{result:?}");
                    trace!(self, "restored from a back-up");
                    self.do_damage(flipped);
                    self.flipped = None;
                    return;
                }
            }
        }
        if let Some(flipped) = &mut self.flipped {
            flipped.unreadable = flipped.lossable.clone();
        }
    }

    /// Something that no log can prevent, between two lives.
    fn misfortune(&mut self) {
        self.may_begin_epoch = true;
        match self.random.below(9) {
            0 => {
                if self.disk.remove("head").is_ok() {
                    trace!(self, "the head is lost");
                    self.disk.count("head lost");
                    // Its removal is no business of the log's, which need not sync it.
                    let _ = self.disk.sync_directory();
                }
            }
            1 => {
                if self.disk.remove("oldest").is_ok() {
                    trace!(self, "the file `oldest` is lost");
                    self.disk.count("`oldest` lost");
                    let _ = self.disk.sync_directory();
                }
            }
            2 => {
                trace!(self, "copied");
                self.disk.count("copied");
                self.disk.move_to_copy();
                self.other = None;
            }
            _ if self.was_power_cut => {}
            _ => self.flip(),
        }
    }

    /// Flips a bit at rest; verify must find it.
    fn flip(&mut self) {
        let was_sound = verify(&self.storage(), &mut |_| {}).is_ok_and(|found| found.is_sound);
        let files = self.disk.files();
        let is_of_log = |name: &&String| name.ends_with(".segment") || POSITIONS.contains(&name.as_str());
        let names: Vec<_> = files.keys().filter(is_of_log).cloned().collect();
        if names.is_empty() {
            return;
        }
        // `oldest` is the last by name, where it is there. It is small, and seldom chosen among many segments.
        let chosen = match self.random.one_in(6) {
            true => names.len() - 1,
            false => self.random.below(names.len() as u64) as usize,
        };
        let file = names[chosen].clone();
        let content = &files[&file];
        let written = content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if written == 0 {
            return;
        }
        let byte = match self.random.below(4) {
            0 => self.random.below(written.min(300) as u64) as usize,
            1 => written - 1 - self.random.below(written.min(300) as u64) as usize,
            _ => self.random.below(written as u64) as usize,
        };
        let is_segment = |name: &&String| !POSITIONS.contains(&name.as_str());
        let is_newest = names.iter().rfind(is_segment) == Some(&file);
        // Of the newest segment nothing may be cut because of it: only a repair helps there.
        let is_readable = is_newest || POSITIONS.contains(&file.as_str()) || self.random.one_in(2);
        let bit = is_readable.then(|| self.random.below(8) as u32);
        let next_segment = names.iter().filter(is_segment).find(|name| **name > file);
        let end = next_segment.map_or(self.events.len(), |name| name[..20].parse().unwrap());
        let flipped = self.classify(file, content, byte, bit, is_newest, end, files.get("head").map(Vec::as_slice));
        trace!(self, "flip {flipped:?}");
        self.disk.count(flipped.place.name(is_readable));
        self.do_damage(&flipped);
        if let Ok(found) = verify(&self.storage(), &mut |_| {}) {
            let is_found = !found.is_sound || flipped.place == Place::Nowhere;
            assert!(!was_sound || is_found, "verify does not find {flipped:?}: {found:?}");
        }
        self.flipped = Some(flipped);
        self.was_flipped = true;
    }

    /// Does the damage, or undoes it as a back-up does.
    fn do_damage(&self, flipped: &Flipped) {
        let byte = flipped.byte as u64;
        match flipped.bit {
            Some(bit) => self.disk.flip(&flipped.file, flipped.byte, bit),
            None if self.flipped.is_some() => self.disk.heal(&flipped.file),
            None => self.disk.spoil(&flipped.file, byte..byte + 1, u64::MAX),
        }
    }

    /// What a byte of a segment or the head is for, and what depends on it.
    #[expect(clippy::too_many_arguments, reason = "all of it is what stands around the byte")]
    fn classify(
        &self,
        file: String,
        content: &[u8],
        byte: usize,
        bit: Option<u32>,
        is_newest: bool,
        end: usize,
        head: Option<&[u8]>,
    ) -> Flipped {
        let flipped = |place, unreadable: Range<usize>, lossable: Range<usize>| Flipped {
            file: file.clone(),
            byte,
            bit,
            place,
            unreadable,
            lossable,
        };
        if file == "head" {
            // Two slots, and the copy of a segment's header.
            let copy_length =
                content.get(1028..1032).map_or(0, |length| u32::from_le_bytes(length.try_into().unwrap()));
            let is_copy = (1024..1036 + copy_length as usize).contains(&byte);
            let counts = is_copy || (byte < 1024 && byte % 512 < 96);
            return flipped(if counts { Place::Head } else { Place::Nowhere }, 0..0, 0..0);
        }
        if file == "oldest" {
            let is_slot = byte % 512 < 32;
            return flipped(if is_slot { Place::Oldest } else { Place::Nowhere }, 0..0, 0..0);
        }
        let first: usize = file[..20].parse().unwrap();
        let mut at = usize::from(u16::from_le_bytes([content[10], content[11]]));
        if byte < at {
            // The newest segment's copy of it may have gone with a power cut; the others have one in their footer.
            return flipped(Place::SegmentHeader, if is_newest { first..end } else { 0..0 }, 0..0);
        }
        let durable_end = head.map_or(0, |head| newest_slot(head, first as u64));
        let number = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap()) as usize;
        while content.get(at..at + 144).is_some_and(|header| header.starts_with(b"SBLK")) && content[at + 4] != 3 {
            let block_end = at + 144 + number(at + 72) + number(at + 80);
            if byte < block_end {
                let from = u64::from_le_bytes(content[at + 16..at + 24].try_into().unwrap()) as usize;
                let to = from + if content[at + 4] == 1 { number(at + 8) } else { 0 };
                // Without syncs nothing proves that what follows was written later, and it goes with the damage.
                let to = if is_newest && !self.is_synced() { end } else { to };
                let place = match content[at + 4] {
                    _ if is_newest && at >= durable_end => Place::Nowhere,
                    1 => Place::Events,
                    _ => Place::Marks,
                };
                return flipped(place, from..to, from..to);
            }
            at = block_end;
        }
        flipped(if is_newest { Place::Nowhere } else { Place::Footer }, 0..0, 0..0)
    }

    /// Takes over what of the uncommitted came through, having checked all of it.
    fn recovered(&mut self, opened: &Opened) {
        let failed_syncs = self.disk.failed_syncs();
        // A repair keeps what is sound after a block that a power cut or a failed sync has torn.
        let loses_pieces = self.was_repaired && (self.was_power_cut || failed_syncs > self.failed_syncs);
        (self.was_power_cut, self.was_flipped, self.was_repaired) = (false, false, false);
        let recovery = &opened.recovery;
        let head = opened.log.head();
        let next = head.next_sequence as usize;
        trace!(self, "recovered: next {next}, oldest {}, epoch {}, {recovery:?}", opened.log.oldest(), head.epoch);
        if self.flipped.is_none() {
            assert!(recovery.damage.is_empty(), "nothing was damaged: {recovery:?}");
        }
        if self.is_synced() && self.flipped.is_none() {
            assert_eq!(recovery.lost, None, "nothing that was visible is lost");
            assert!(recovery.kept_aside.is_none() || recovery.copied, "a tail that nobody saw is kept: {recovery:?}");
        }
        let is_first = self.visible == 0 && self.events.is_empty() && self.marks.is_empty();
        assert!(is_first || !recovery.created, "the log was not made anew");
        // The head may have gone with a sync that failed.
        let may_begin_epoch = self.may_begin_epoch || failed_syncs > self.failed_syncs;
        assert!(head.epoch == self.epoch || may_begin_epoch, "another epoch begins for no reason");
        // With the head taken back, damage at the end looks like a write that was cut short.
        let is_taken_for_torn = failed_syncs > self.failed_syncs
            && self
                .flipped
                .as_ref()
                .is_some_and(|flipped| (next..self.visible).all(|at| flipped.lossable.contains(&at)));
        self.failed_syncs = failed_syncs;
        self.may_begin_epoch = !self.is_synced();
        let marks = opened.log.marks(0).unwrap();
        // From the marks and not from the report: an opening that failed half-way may have made one already.
        for lost in losses(&marks) {
            self.lose(lost);
        }
        if next < self.visible && !is_taken_for_torn {
            assert!(!self.is_synced(), "sequences {next} to {} came back", self.visible);
            assert!(head.epoch > self.epoch, "another epoch begins where sequences come back");
        }
        assert!(next <= self.events.len(), "events that nobody appended");
        self.events.truncate(next);
        self.lost.retain(|&sequence| sequence < next);
        self.visible = next;
        self.epoch = head.epoch;
        let loses_marks =
            self.flipped.as_ref().is_some_and(|flipped| !matches!(flipped.place, Place::Head | Place::Oldest));
        if self.is_synced() && !loses_marks {
            let found = head.api_version;
            assert!(found >= self.announced_visible, "version {found} is older than {}", self.announced_visible);
        }
        (self.announced, self.announced_visible) = (head.api_version, head.api_version);
        self.recover_marks(&marks, opened.log.oldest() as usize, loses_marks);
        self.check_marked(&opened.log, loses_marks || loses_pieces);
        self.check(&opened.log, true);
        self.check_tail();
        assert!(self.lost.iter().all(|&sequence| is_missing(&opened.log, sequence)), "what is marked as lost is there");
        let found = self.verify();
        assert!(found.is_sound || self.flipped.is_some(), "not sound: {:?}", found.problems);
        if found.is_sound {
            self.flipped = None;
            assert_eq!(found.next_sequence, head.next_sequence);
        }
    }

    /// A LOSS mark names these.
    fn lose(&mut self, lost: Range<usize>) {
        if self.is_synced() {
            for sequence in lost.clone() {
                // What was not visible may be marked too, where no head has that.
                let is_known = self.lost.contains(&sequence) || sequence >= self.visible;
                let may_be = self.flipped.as_ref().is_some_and(|flipped| flipped.lossable.contains(&sequence));
                assert!(is_known || may_be, "{sequence} is marked as lost");
            }
        }
        self.events.resize(self.events.len().max(lost.end), None);
        self.lost.extend(lost);
    }

    /// Marks are there in order and once, and those that were visible are there.
    fn recover_marks(&mut self, found: &[Mark], oldest: usize, may_be_missing: bool) {
        let mut index = 0;
        let mut kept = vec![false; self.marks.len()];
        for mark in found.iter().filter(|mark| mark.kind == MarkKind::GAP) {
            let known = self.marks.iter().skip(index).position(|known| known.body == mark.body);
            let known = known.expect("a mark that nobody made, or a second time, or out of order") + index;
            kept[known] = true;
            index = known + 1;
        }
        let is_synced = self.is_synced();
        for (mark, kept) in self.marks.iter_mut().zip(&kept) {
            mark.may_be_gone |= !kept && may_be_missing;
        }
        for (mark, kept) in self.marks.iter().zip(&kept).take(self.marks_visible) {
            let must_be = mark.position > oldest && is_synced && !mark.may_be_gone;
            assert!(*kept || !must_be, "a mark before {} is missing", mark.position);
        }
        // What retention dropped may come back after a power cut, and what damage hides behind a repair; what was never
        // durable never does.
        let visible = self.marks_visible.min(self.marks.len());
        let mut number = 0;
        self.marks.retain(|mark| {
            number += 1;
            number <= visible || kept[number - 1] || mark.may_be_gone
        });
        self.marks_visible = self.marks.len();
    }

    /// Each event that was appended with a mark has it, in time for a reader of the events in order.
    fn check_marked(&mut self, log: &Log, may_be_missing: bool) {
        let mut marks = MarkCursor::new(log, log.oldest()).of_kinds(MarkKind::IDENTITY.bit());
        let mut known = BTreeSet::new();
        let (mut next, head) = (log.oldest(), log.head().next_sequence);
        while next < head {
            let end = match log.outline(next).unwrap() {
                Some(outline) => outline.end_sequence.max(next + 1),
                None => next + 1,
            };
            while let Some(mark) = marks.next_to(end).unwrap() {
                let sequence = mark.body.strip_prefix("{\"sequence\":").unwrap().strip_suffix('}').unwrap();
                known.insert((sequence.parse::<usize>().unwrap(), mark.received));
            }
            for sequence in next as usize..end as usize {
                let is_lost = self.lost.contains(&sequence);
                let Some(event) = self.events.get_mut(sequence).and_then(Option::as_mut) else { continue };
                if event.is_marked && !is_lost && !known.contains(&(sequence, event.received)) {
                    assert!(may_be_missing, "event {sequence} is there without its mark");
                    event.is_marked = false;
                }
            }
            next = end;
        }
    }

    /// Nothing may be left behind the last block: once others stand before it, it could be taken for one.
    fn check_tail(&self) {
        if self.flipped.is_some() {
            return;
        }
        let files = self.disk.files();
        let (name, content) = files.iter().rfind(|(name, _)| name.ends_with(".segment")).unwrap();
        let mut at = usize::from(u16::from_le_bytes([content[10], content[11]]));
        let number = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap()) as usize;
        while content.get(at..).is_some_and(|rest| rest.starts_with(b"SBLK")) {
            at += 144 + number(at + 72) + number(at + 80);
        }
        let is_clean = content[at..].iter().all(|&byte| byte == 0);
        assert!(is_clean, "{name} goes on behind its last block at {at}");
    }

    fn verify(&self) -> Verification {
        self.step("verify");
        verify(&self.storage(), &mut |_| {}).unwrap()
    }

    /// Reads a whole log, and the wire form along with it. Before recovery a reader may see less, or what was not
    /// committed; but nothing else.
    fn check(&self, log: &Log, is_recovered: bool) {
        self.step("read all");
        let (oldest, end) = (log.oldest() as usize, log.head().next_sequence as usize);
        assert!(
            oldest <= self.drop_asked,
            "{oldest} is the oldest, but only what is below {} was to go",
            self.drop_asked
        );
        if is_recovered {
            assert_eq!(end, self.visible);
            assert!(oldest >= self.dropped, "{oldest} is the oldest, but all below {} was dropped", self.dropped);
        }
        let may_be_lost = !self.is_synced() && !is_recovered;
        assert!(
            end <= self.events.len() || may_be_lost,
            "a reader sees {end}, but {} were appended",
            self.events.len()
        );
        if oldest > 0 && end > oldest {
            match log.read(oldest as u64 - 1).unwrap() {
                Read::Missing { why: Missing::Dropped, to, .. } => assert_eq!(to as usize, oldest),
                // Still in the cache.
                Read::Events { block, index } => {
                    let payload = self.expected(oldest - 1).payload.as_bytes();
                    assert_eq!(block.row(index).unwrap().payload(), payload);
                }
                other => panic!("before the oldest: {other:?}"),
            }
        }
        let marks = if is_recovered { losses(&log.marks(0).unwrap()) } else { Vec::new() };
        let mut next = oldest;
        let mut version = (oldest == 0).then_some(ApiVersion::NONE);
        let mut chain = (oldest == 0).then_some(CHAIN_START);
        let mut missing = BTreeSet::new();
        while next < end {
            match log.read(next as u64).unwrap() {
                Read::Events { block, index } => {
                    assert!(version.is_none_or(|version| version == block.version_in_force(index)), "before {next}");
                    let mut in_force = block.version_in_force(index);
                    for row in block.rows().skip(index) {
                        let expected = self.expected(next);
                        check_row(&block, self.options.frame_form, row.sequence(), expected, &mut in_force);
                        chain = chain.map(|chain| expected.chain(&chain, next));
                        next += 1;
                    }
                    assert_eq!(block.version_after(), in_force);
                    assert!(chain.is_none_or(|chain| chain == block.chain_after()), "the chain up to {next}");
                    // After a lost event that the reader still knows, the chain continues from before it.
                    let goes_on = !self.lost.contains(&(next - 1));
                    (chain, version) =
                        (Some(block.chain_after()).filter(|_| goes_on), Some(in_force).filter(|_| goes_on));
                }
                Read::Large(large) => {
                    let expected = self.expected(next);
                    assert_eq!(large.payload().unwrap(), expected.payload.as_bytes());
                    chain = chain.map(|chain| expected.chain(&chain, next));
                    version = Some(large.version_after());
                    next += 1;
                }
                Read::Missing { from, to, why } => {
                    assert!(from as usize == next && to > from, "{from} to {to} at {next}");
                    let range = next..(to as usize).min(self.events.len());
                    if why != Missing::Dropped {
                        missing.extend(range.clone());
                    }
                    self.check_missing(range, &why, &marks, is_recovered);
                    (chain, version) = (None, None);
                    next = to as usize;
                }
                Read::End => panic!("the end at {next}, before {end}"),
            }
        }
        assert!(matches!(log.read(end as u64).unwrap(), Read::End));
        if is_recovered {
            self.check_losses(log, oldest, &missing);
        }
        if is_recovered && self.flipped.is_none() {
            assert!(chain.is_none_or(|chain| chain == log.head().chain), "the head's chain value");
        }
    }

    /// What the log reports as lost is what its readers do not get. Events that a reader still has in memory may be lost too.
    fn check_losses(&self, log: &Log, oldest: usize, missing: &BTreeSet<usize>) {
        log.find_losses(&mut || ControlFlow::Continue(())).unwrap();
        let losses = log.losses();
        let sequences =
            losses.ranges().iter().flat_map(|lost| lost.first_sequence as usize..=lost.last_sequence as usize);
        let named: BTreeSet<_> = sequences.filter(|&sequence| sequence >= oldest).collect();
        // What a drop that was cut short has left over is about to go: it is not missed.
        let from = log.retained_from() as usize;
        let missed: BTreeSet<_> = missing.iter().copied().filter(|&sequence| sequence >= from).collect();
        assert!(missed.is_subset(&named), "{missed:?} are missing, and {named:?} are said to be lost");
        // Of a block that a compaction has merged with others, a reader may have some of the old ones in memory, too: then it
        // depends on where reading begins whether an event comes from memory.
        let is_lost = |sequence: &usize| {
            log.read_cached(*sequence as u64).is_some() || missing.contains(sequence) || is_missing(log, *sequence)
        };
        assert!(named.iter().all(is_lost), "{named:?} are said to be lost, and {missing:?} are missing");
        if self.flipped.is_none() {
            assert_eq!(losses.summary(), None, "nothing is lost without a mark");
        }
    }

    fn expected(&self, sequence: usize) -> &Expected {
        let event = self.events.get(sequence).and_then(Option::as_ref);
        event.unwrap_or_else(|| panic!("an event at {sequence} where none was"))
    }

    fn check_missing(&self, range: Range<usize>, why: &Missing, losses: &[Range<usize>], is_recovered: bool) {
        if *why == Missing::Dropped {
            assert!(range.end <= self.drop_failed_below, "{range:?} are told as dropped, and were not");
            return;
        }
        let unreadable = self.flipped.as_ref().map_or(0..0, |flipped| flipped.unreadable.clone());
        let may_be_missing = |sequence: &usize| {
            // A repair without a head cannot know what was visible.
            let was_not_visible = !is_recovered && (*sequence >= self.visible || !self.is_synced());
            self.lost.contains(sequence) || unreadable.contains(sequence) || was_not_visible
        };
        assert!(range.clone().all(|sequence| may_be_missing(&sequence)), "{range:?} are missing: {why:?}");
        let hides_marks = |flipped: &Flipped| matches!(flipped.place, Place::Marks | Place::SegmentHeader);
        let may_lack_mark = self.flipped.as_ref().is_some_and(hides_marks);
        if is_recovered && *why == Missing::Hole && !may_lack_mark {
            let is_marked = |sequence: usize| losses.iter().any(|lost| lost.contains(&sequence));
            assert!(range.clone().all(is_marked), "the hole {range:?} is not marked");
        }
    }

    /// Reads one event; a fault may prevent it.
    fn read_one(&mut self, log: &Log) {
        let end = log.head().next_sequence;
        let sequence = self.random.below(end.max(1));
        match log.read(sequence) {
            Ok(Read::Events { block, index }) => {
                let row = block.row(index).unwrap();
                assert_eq!(row.payload(), self.expected(sequence as usize).payload.as_bytes());
            }
            Ok(Read::Missing { from, to, why }) if why != Missing::Dropped => {
                assert!(to > from);
                self.check_missing(from as usize..(to as usize).min(self.events.len()), &why, &[], false);
            }
            Ok(Read::Missing { to, .. }) => assert!(to as usize <= self.drop_asked.max(end as usize)),
            Ok(Read::End) => assert!(sequence >= end),
            Ok(Read::Large(_)) | Err(_) => {}
        }
    }

    /// A commit that may find the disk full, and then is tried again.
    fn commit(&mut self, writer: &mut Writer) -> Result<(), ()> {
        let is_sealing = self.random.one_in(12);
        let is_synced = self.options.durability != Durability::Interval || self.random.one_in(2);
        let mut tries = 0;
        let head = loop {
            self.step(if is_sealing { "seal" } else { "commit" });
            let result = match is_synced {
                true if is_sealing => writer.seal_now(2_000).and_then(|()| writer.commit()),
                true if self.options.durability == Durability::Interval => writer.commit().and_then(|_| writer.sync()),
                _ => writer.commit(),
            };
            if is_sealing {
                self.note_stop("sealing");
            }
            match result {
                Ok(head) => break head,
                Err(error) if writer.is_poisoned() || self.disk.is_stopped() => {
                    trace!(self, "cannot commit: {error}");
                    return Err(());
                }
                Err(error) => {
                    trace!(self, "no room: {error}");
                    tries += 1;
                    assert!(tries < 30, "a full disk is no reason to give up: {error}");
                }
            }
        };
        if is_synced {
            assert_eq!(head.next_sequence as usize, self.events.len());
            self.visible = self.events.len();
            self.marks_visible = self.marks.len();
            self.announced_visible = self.announced;
        }
        Ok(())
    }

    fn append(&mut self, writer: &mut Writer) -> Result<(), ()> {
        let mut event = Expected::random(&mut self.random, self.announced);
        self.disk.count("steps");
        let appended = writer.append(&Event {
            kind: event.kind,
            name: event.name,
            source: &event.source,
            network: event.network,
            api_version: event.api_version,
            upstream_id: event.upstream_id,
            received: event.received,
            payload: &event.payload,
        });
        let sequence = appended.map_err(|_| ())?;
        assert_eq!(sequence as usize, self.events.len());
        if event.name.is_empty() {
            let named = KINDS.iter().take(self.options.kinds.len()).find(|(number, _)| Kind(*number) == event.kind);
            event.name = named.map_or("", |(_, name)| name);
        }
        let mark = event.is_marked.then(|| Mark {
            kind: MarkKind::IDENTITY,
            position: 0,
            source: event.source.clone(),
            received: event.received,
            body: format!("{{\"sequence\":{sequence}}}"),
        });
        self.events.push(Some(event));
        // In the name of its event, which is not stored without it.
        mark.map_or(Ok(()), |mark| writer.mark_ahead(&mark).map_err(|_| ()))
    }

    fn mark(&mut self, writer: &mut Writer) -> Result<(), ()> {
        let body = format!("{{\"gap\":{}}}", self.random.next());
        self.marks.push(Marked { position: self.events.len(), body: body.clone(), may_be_gone: false });
        let mark = Mark { kind: MarkKind::GAP, position: 0, source: "node".to_owned(), received: 3, body };
        writer.mark(&mark).map_err(|_| ())
    }

    fn announce(&mut self, writer: &mut Writer) -> Result<(), ()> {
        if self.options.frame_form == FrameForm::Named {
            return Ok(());
        }
        self.announced.minor += self.random.below(3) as u32;
        writer.announce_version(self.announced, "node", 5).map_err(|_| ())
    }

    fn drop_some(&mut self, writer: &mut Writer, log: &Log) -> Result<(), ()> {
        let (oldest, end) = (log.oldest() as usize, self.visible);
        let below = oldest + self.random.below((end - oldest.min(end)) as u64 / 2 + 1) as usize;
        self.step(&format!("drop below {below}"));
        self.drop_asked = self.drop_asked.max(below);
        if self.random.one_in(8) {
            self.plan_fault(4);
        }
        let dropped = writer.maintenance().drop_before(below as u64);
        self.note_stop("retaining");
        match dropped {
            Ok(_) => {
                self.dropped = log.oldest() as usize;
                assert!(self.dropped <= below);
                Ok(())
            }
            Err(error) => {
                trace!(self, "cannot drop: {error}");
                self.drop_failed_below = self.drop_failed_below.max(below);
                Err(())
            }
        }
    }

    fn compact(&mut self, writer: &Writer) -> Result<(), ()> {
        let maintenance = writer.maintenance();
        let block_bytes = 1 + self.random.below(20_000) as usize;
        let Ok(segments) = maintenance.segments_with_small_blocks(0, block_bytes) else { return Err(()) };
        for first in segments {
            self.step(&format!("compact {first}"));
            if self.random.one_in(8) {
                self.plan_fault(40);
            }
            let options = RewriteOptions { level: 1 + self.random.below(3) as i32, block_bytes };
            let rewritten = maintenance.rewrite(first, options);
            self.note_stop("compacting");
            match rewritten {
                Ok(_) => {}
                Err(error) if error.is_damage() && self.flipped.is_some() => {}
                Err(error) => {
                    trace!(self, "cannot compact: {error}");
                    assert!(self.disk.faults_fired() > 0, "cannot compact: {error}");
                    return Err(());
                }
            }
        }
        Ok(())
    }

    /// What the reader in another process sees.
    fn look_from_other(&mut self, log: &Log) {
        let Some(other) = self.other.clone() else { return };
        self.step("refresh");
        if let Ok(head) = other.refresh() {
            assert!(head.next_sequence <= log.head().next_sequence, "another process sees more than this one");
            self.read_one(&other);
        }
    }

    /// What a writer does all day.
    fn work(&mut self, opened: Opened) {
        let Opened { mut writer, log, .. } = opened;
        if self.other.is_none() {
            self.other = Log::open(self.storage(), ReadOptions::default()).ok();
        }
        let may_fail = self.random.one_in(2);
        for _ in 0..self.random.below(60) {
            if may_fail && self.random.one_in(20) {
                self.plan_fault(30);
            }
            let done = match self.random.below(40) {
                0 => self.announce(&mut writer),
                1 | 2 => self.mark(&mut writer),
                3..15 => self.commit(&mut writer),
                15 => self.drop_some(&mut writer, &log),
                16 => self.compact(&writer),
                22 if self.random.one_in(4) => self.move_away(&mut writer, &log),
                17..20 => {
                    self.look_from_other(&log);
                    Ok(())
                }
                20..22 => {
                    self.read_one(&log);
                    Ok(())
                }
                _ => self.append(&mut writer),
            };
            if self.disk.is_stopped() {
                break;
            }
            if done.is_err() && writer.is_poisoned() {
                self.disk.clear_fault();
                match self.reopen(writer, &log) {
                    Ok(reopened) => writer = reopened,
                    Err(()) => return self.die(&log),
                }
            }
            if self.options.durability == Durability::Commit {
                assert_eq!(log.head().next_sequence as usize, self.visible, "nothing is visible before its commit");
            }
        }
        self.disk.clear_fault();
        self.rest(writer, &log);
    }

    /// The directory is gone for a while: nothing becomes visible that is written meanwhile.
    fn move_away(&mut self, writer: &mut Writer, log: &Log) -> Result<(), ()> {
        self.step("the directory is moved away");
        self.disk.count("moved away");
        self.disk.move_away(true);
        let head = log.head();
        let looked = if self.random.one_in(2) { writer.check_in_place() } else { writer.sync().map(drop) };
        assert!(matches!(looked, Err(Error::NotInPlace { .. })) || self.disk.faults_fired() > 0, "{looked:?}");
        assert_eq!(log.head(), head);
        let again = Writer::reopen(log, self.options.clone()).err();
        assert!(matches!(again, Some(Error::LogMissing { .. })) || self.disk.faults_fired() > 0, "{again:?}");
        self.disk.move_away(false);
        looked.map_err(drop)
    }

    /// After a failure, the log is opened again in place: its readers see all of it meanwhile, and no sequence that they saw
    /// comes again.
    fn reopen(&mut self, writer: Writer, log: &Log) -> Result<Writer, ()> {
        drop(writer);
        self.visible = self.visible.max(log.head().next_sequence as usize);
        for attempt in 0..4 {
            if attempt < 3 && self.random.one_in(3) {
                let calls = 20 + 60 * self.random.below(2);
                self.plan_fault(calls);
            }
            self.step("reopen");
            let seen = log.head();
            let reopened = Writer::reopen(log, self.options.clone());
            self.note_stop("reopening");
            self.disk.clear_fault();
            if self.disk.is_stopped() {
                return Err(());
            }
            match reopened {
                Ok(opened) => {
                    self.disk.count("reopened");
                    let head = log.head();
                    assert_eq!(head, opened.log.head());
                    assert!(head.next_sequence >= seen.next_sequence, "{seen:?} was seen, and now {head:?}");
                    self.recovered(&opened);
                    return Ok(opened.writer);
                }
                Err(error) => {
                    trace!(self, "cannot reopen: {error}");
                    self.may_begin_epoch |= !self.is_synced();
                    assert!(log.head().next_sequence >= seen.next_sequence);
                    self.visible = self.visible.max(log.head().next_sequence as usize);
                    self.read_one(log);
                }
            }
        }
        Err(())
    }

    /// The end of a life without a writer.
    fn die(&mut self, log: &Log) {
        if !self.disk.is_stopped() {
            self.visible = self.visible.max(log.head().next_sequence as usize);
        }
        self.interrupt();
    }

    /// The end of a life.
    fn rest(&mut self, mut writer: Writer, log: &Log) {
        if !self.disk.is_stopped() {
            // Whatever was published counts, also when the caller was never notified of it; and what was visible still is,
            // also in a process whose writer has failed.
            self.visible = self.visible.max(log.head().next_sequence as usize);
            if self.is_synced() && log.head().next_sequence as usize == self.visible {
                self.check(log, true);
            }
        }
        if !writer.is_poisoned() && !self.disk.is_stopped() {
            if self.commit(&mut writer).is_ok() && self.options.durability != Durability::Interval {
                self.check(log, true);
                if let Some(other) = &self.other {
                    assert_eq!(other.refresh().unwrap(), log.head(), "readers elsewhere see the same");
                    self.check(other, true);
                }
            }
            if self.random.one_in(3) {
                self.step("close");
                writer.close().unwrap();
                (self.visible, self.marks_visible) = (self.events.len(), self.marks.len());
                self.announced_visible = self.announced;
                self.may_begin_epoch = false;
                self.disk.restart_process();
                return;
            }
        }
        self.visible = self.visible.max(log.head().next_sequence as usize);
        drop(writer);
        self.interrupt();
    }
}

impl Expected {
    fn chain(&self, before: &ChainValue, sequence: usize) -> ChainValue {
        let payload = self.payload.as_bytes();
        next_chain_value(before, sequence as u64, self.kind, self.api_version, self.network, self.name, payload)
    }
}

fn kinds(count: usize) -> Vec<(u8, String)> {
    KINDS.iter().take(count).map(|(number, name)| (*number, (*name).to_owned())).collect()
}

fn check_row(block: &Block, form: FrameForm, sequence: u64, expected: &Expected, version: &mut ApiVersion) {
    let row = block.row(block.index_of(sequence).unwrap()).unwrap();
    assert_eq!(row.payload(), expected.payload.as_bytes());
    assert_eq!((row.kind(), row.name(), row.source()), (expected.kind, expected.name, &*expected.source));
    assert_eq!((row.network(), row.received()), (expected.network, expected.received));
    assert_eq!((row.api_version(), row.upstream_id()), (expected.api_version, expected.upstream_id));
    assert_eq!(row.frame(), expected.frame(form, sequence as usize).as_bytes());
    if let Some(rise) = row.rise() {
        assert!(rise > *version, "{rise} does not rise above {version}");
        *version = rise;
        let frame = format!("data:{{\"ApiVersion\":\"{rise}\"}}\n\n");
        assert_eq!(&block.wire()[row.range_with_rise().start..row.range().start], frame.as_bytes());
    }
    assert!(*version >= expected.api_version, "an event before its version");
}

fn is_missing(log: &Log, sequence: usize) -> bool {
    matches!(log.read(sequence as u64).unwrap(), Read::Missing { .. })
}

/// What LOSS marks name.
fn losses(marks: &[Mark]) -> Vec<Range<usize>> {
    let bodies = marks.iter().filter(|mark| mark.kind == MarkKind::LOSS).map(|mark| &mark.body);
    let ranges = bodies.map(|body| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let from = body["from"].as_u64().unwrap() as usize;
        from..body["to"].as_u64().map_or(from, |to| to as usize + 1)
    });
    ranges.collect()
}

fn is_left(action: &sidecar_log_format::repair::Action) -> bool {
    matches!(action, sidecar_log_format::repair::Action::Leave { .. })
}

/// Where a segment's durable blocks end by its head; 0 when the head does not name the segment.
fn newest_slot(head: &[u8], segment: u64) -> usize {
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    let slots = [0, 512].into_iter().filter(|&start| head.len() >= start + 96 && head[start..].starts_with(b"HEAD"));
    let newest = slots.max_by_key(|&start| number(start + 8));
    newest.filter(|&start| number(start + 24) == segment).map_or(0, |start| number(start + 32) as usize)
}
