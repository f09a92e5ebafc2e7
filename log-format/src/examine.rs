//! Going through segments block by block and believing nothing: what verify reports, repair acts on and a rewrite must pass.
//!
//! A [`Survey`] fixes what of the log is to be looked at; its [`Examiner`] carries what must hold from one block and one
//! segment to the next (sequence, chain value, version). Out comes an [`Examined`] per segment: the sound blocks, the
//! damage with its extent in bytes and sequences, and what fits no more. Nothing is changed here.

use std::{ops::Range, sync::Arc};

use crate::{
    ApiVersion, CHAIN_START, ChainValue, Error, Mark, MarkKind, Result, Sequence,
    block::{self, BLOCK_HEADER_BYTES, Block, BlockHeader, BlockType, Row},
    chain::next_chain_value,
    head::{self, HeadState},
    history::parse_in_front_of,
    log::list_segments,
    oldest::{self, OldestState},
    segment::{BlockEntry, Footer, SegmentFile, SegmentHeader, file_name, misnamed, storage_error},
    storage::Storage,
    wire::version_frame,
};

/// Bytes that are not what was written, or sequences that are missing without a mark.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    /// 0 when events are missing and no byte is wrong.
    pub(crate) length: u64,
    /// The events that are gone with it.
    pub(crate) lost: Range<Sequence>,
    /// The header of the last damaged block, where that at least is sound: it says how the log goes on.
    pub(crate) header: Option<BlockHeader>,
    /// No sound block follows.
    pub(crate) is_tail: bool,
    pub(crate) reason: String,
}

/// Sound bytes that do not fit what stands before them: nothing that could be repaired from the log alone.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch {
    pub(crate) offset: u64,
    pub(crate) sequences: Range<Sequence>,
    pub(crate) reason: String,
}

/// Sequences that name no event, and the mark that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) sequences: Range<Sequence>,
    pub(crate) reason: String,
}

/// Events whose chain was recomputed from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) sequences: Range<Sequence>,
    pub(crate) start: StretchStart,
    /// Before the first of them, where it is known.
    pub(crate) chain_before: Option<ChainValue>,
    pub(crate) chain_after: ChainValue,
}

/// What a stretch of the chain begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StretchStart {
    /// The first event of the log.
    NewLog,
    /// The value in the header of the oldest segment: what stood before was dropped and cannot be checked.
    OldestSegment,
    /// The first event that the log had before history was imported in front of it.
    AfterHistory,
    /// The value that the log says it goes on from behind a hole.
    AfterHole,
    /// Nothing tells what stood before: the first block is taken as it stands.
    Unknown,
    /// The events do not follow from what stands before them: something was changed.
    Broken,
}

/// What one segment really holds.
pub(crate) struct Examined {
    pub(crate) file: SegmentFile,
    /// What is wrong with the segment's own header, which `file.header` has set right.
    pub(crate) header_damage: Option<HeaderDamage>,
    /// Why the footer cannot be used, or that it is missing where there must be one.
    pub(crate) footer_damage: Option<String>,
    pub(crate) is_sealed: bool,
    /// The sound blocks, counted, as a footer lists them.
    pub(crate) footer: Footer,
    /// Where the blocks end.
    pub(crate) end: u64,
    pub(crate) damage: Vec<Damage>,
    /// What stands behind `end` and was never visible: a copy's torn end, or a write that a crash cut short.
    pub(crate) torn_end: Option<Damage>,
    pub(crate) mismatches: Vec<Mismatch>,
    /// The chain value before the first event, where it is known.
    pub(crate) chain_before: Option<ChainValue>,
    /// Events whose chain value had nothing to be computed from.
    pub(crate) trusted: Vec<Range<Sequence>>,
}

impl Examined {
    /// Whether a repair has anything to do here.
    pub(crate) fn needs_repair(&self) -> bool {
        self.header_damage.is_some() || self.footer_damage.is_some() || !self.damage.is_empty()
    }

    /// Where the newest segment of a log that was copied while it was being written is torn: a copy is not made at one
    /// moment, so nothing behind the first bad block proves anything, and what the copied head does not speak of was not
    /// visible then.
    fn torn_end_of_copy(&self, head: Sequence) -> Option<Damage> {
        if self.is_sealed && self.footer_damage.is_none() {
            return None;
        }
        let is_torn = |damage: &&Damage| (damage.is_tail && damage.lost.is_empty()) || damage.lost.start >= head;
        self.damage.iter().find(is_torn).map(|damage| self.torn_from(damage))
    }

    /// A write that a crash cut short behind `durable_end`: it was never acknowledged.
    pub(crate) fn torn_write(&self, durable_end: u64) -> Option<Damage> {
        let last = self.damage.last().filter(|last| last.offset + last.length == self.end)?;
        (last.length > 0 && last.offset >= durable_end).then(|| self.torn_from(last))
    }

    /// Everything from some damage on, as what no event is lost with.
    fn torn_from(&self, damage: &Damage) -> Damage {
        Damage {
            length: self.end - damage.offset,
            lost: damage.lost.start..damage.lost.start,
            header: None,
            is_tail: true,
            ..damage.clone()
        }
    }
}

/// What is wrong with the header of a segment.
#[derive(Clone, Debug)]
pub(crate) struct HeaderDamage {
    pub(crate) reason: String,
    /// It is known again as it was written. Otherwise it is put together from blocks and other segments.
    pub(crate) is_mended: bool,
}

/// How far to look in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The segment may lack a footer, because it is being written.
    pub(crate) is_last: bool,
    /// Blocks up to here are durable; `None`: whatever is found.
    pub(crate) durable_end: Option<u64>,
    /// The sequence after the last event, as far as something outside the segment says so.
    pub(crate) end_sequence: Option<Sequence>,
}

/// What a LOSS mark says of how the log goes on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainAfterLoss {
    /// The next event's chain value follows on the last one before the loss.
    Unchanged,
    /// It follows on this value, which the lost block's header told.
    Value(ChainValue),
    /// Nothing tells: the next block's value is taken as it stands.
    Unknown,
}

/// The body of a LOSS mark.
pub(crate) fn loss_body(lost: &Range<Sequence>, reason: &str, chain: Option<ChainValue>) -> String {
    let chain = chain.map(|chain| hex(&chain));
    // The last one lost; none when only marks were.
    let to = lost.end.checked_sub(1).filter(|_| !lost.is_empty());
    serde_json::json!({ "from": lost.start, "to": to, "reason": reason, "chain": chain }).to_string()
}

/// Reads the body of a LOSS mark.
pub(crate) fn parse_loss(body: &str) -> Option<(Range<Sequence>, String, ChainAfterLoss)> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let from = body.get("from")?.as_u64()?;
    let lost = match body.get("to")? {
        serde_json::Value::Null => from..from,
        to => from..to.as_u64()?.checked_add(1)?,
    };
    let reason = body.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default().to_owned();
    let chain = match body.get("chain") {
        None => ChainAfterLoss::Unchanged,
        Some(value) => value.as_str().and_then(parse_hex).map_or(ChainAfterLoss::Unknown, ChainAfterLoss::Value),
    };
    Some((lost, reason, chain))
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<ChainValue> {
    let mut value = ChainValue::default();
    if text.len() != 2 * value.len() {
        return None;
    }
    for (place, at) in value.iter_mut().zip((0..text.len()).step_by(2)) {
        *place = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(value)
}

/// Which segments there are, and how far each is to be looked at.
pub(crate) struct Survey {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) head: HeadState,
    pub(crate) segments: Vec<Sequence>,
    pub(crate) oldest: OldestState,
    pub(crate) examiner: Examiner,
}

impl Survey {
    /// Looks at the head first: what it names was on disk before it.
    pub(crate) fn begin(storage: Arc<dyn Storage>) -> Result<Self> {
        let head = head::read(storage.as_ref())?;
        let segments = list_segments(storage.as_ref())?;
        if segments.is_empty() {
            return Err(Error::NotALog { directory: storage.name() });
        }
        // After the segments were listed: a drop records itself before it removes any.
        let oldest = oldest::read(storage.as_ref())?;
        let mut examiner = Examiner::default();
        let first = segments.first().copied();
        // Segments below it may be left over from a drop that was cut short.
        examiner.thread.next_sequence = oldest.sequence().filter(|&oldest| first.is_some_and(|first| oldest < first));
        Ok(Survey { storage, head, segments, oldest, examiner })
    }

    /// How far the segment at `index` is to be looked at.
    pub(crate) fn extent(&self, index: usize) -> Extent {
        let next = self.segments.get(index + 1).copied();
        if next.is_some() {
            return Extent { is_last: false, durable_end: None, end_sequence: next };
        }
        let newest = self.segments.get(index).copied().unwrap_or_default();
        let (durable_end, end_sequence) = match self.head {
            HeadState::Own(slot) if slot.segment == newest => (Some(slot.offset), Some(slot.next_sequence)),
            // Begun after the head was read: nothing in it is visible yet.
            HeadState::Own(slot) if slot.segment < newest && slot.next_sequence <= newest => (Some(0), None),
            HeadState::Own(slot) => (None, Some(slot.next_sequence)),
            HeadState::Copied(_) | HeadState::Missing => (None, None),
        };
        Extent { is_last: true, durable_end, end_sequence }
    }

    /// Examines the segment at `index`; those before it must have been.
    pub(crate) fn examine(&mut self, index: usize, extent: Extent, progress: &mut dyn FnMut(u64)) -> Result<Examined> {
        let copied = match self.head {
            HeadState::Copied(slot) if extent.is_last => Some((slot, self.examiner.clone())),
            _ => None,
        };
        let examined = self.examine_to(index, extent, progress)?;
        if let Some((slot, before)) = copied
            && let Some(torn) = examined.torn_end_of_copy(slot.next_sequence)
        {
            return self.examine_before(index, extent, before, torn);
        }
        Ok(examined)
    }

    /// Examines a segment as if it ended where `torn` begins, from what stood `before` it.
    pub(crate) fn examine_before(
        &mut self,
        index: usize,
        extent: Extent,
        before: Examiner,
        torn: Damage,
    ) -> Result<Examined> {
        self.examiner = before;
        let extent = Extent { durable_end: Some(torn.offset), ..extent };
        let examined = self.examine_to(index, extent, &mut |_| {})?;
        Ok(Examined { torn_end: Some(torn), ..examined })
    }

    fn examine_to(&mut self, index: usize, extent: Extent, progress: &mut dyn FnMut(u64)) -> Result<Examined> {
        let first = self.segments.get(index).copied().unwrap_or_default();
        let (file, header_damage) = self.open(first)?;
        self.examiner.segment(file, header_damage, extent, progress)
    }

    /// Opens a segment, with a header put together from elsewhere where its own is damaged.
    fn open(&self, first: Sequence) -> Result<(SegmentFile, Option<HeaderDamage>)> {
        let name = file_name(first);
        let storage = self.storage.as_ref();
        let file = storage.open(&name, false).map_err(storage_error("open", &name))?;
        let neighbour = || self.other_header(first);
        let damage = match SegmentHeader::read(&name, file.as_ref()) {
            Ok((header, blocks_start)) if header.first_sequence == first => {
                return Ok((SegmentFile { name, file, header, blocks_start }, None));
            }
            Ok((header, _)) => {
                return Err(misnamed(name, header.first_sequence));
            }
            Err(Error::Corrupt { reason, .. }) => reason,
            // One damaged byte can look like a newer version; then the checksum does not fit and others are of ours.
            Err(error @ Error::NewerFormat { .. }) if neighbour().is_some() => error.to_string(),
            Err(error) => return Err(error),
        };
        if let Some((header, blocks_start)) = SegmentHeader::mend(&name, file.as_ref())?
            && header.first_sequence == first
        {
            let damage = HeaderDamage { reason: damage, is_mended: true };
            return Ok((SegmentFile { name, file, header, blocks_start }, Some(damage)));
        }
        let Some(salvaged) = SegmentHeader::salvage(&name, file.as_ref())? else {
            SegmentHeader::read(&name, file.as_ref())?;
            return Err(Error::Corrupt { file: name, offset: 0, reason: damage });
        };
        let readable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let identity = match neighbour() {
            Some(header) => header,
            None if readable(&salvaged.dialect) && salvaged.form.kinds().iter().all(|(_, kind)| readable(kind)) => {
                salvaged
            }
            None => {
                let reason =
                    format!("{damage}, and no other segment tells which log this is; restore it from a backup");
                return Err(Error::Corrupt { file: name, offset: 0, reason });
            }
        };
        let mut segment = SegmentFile { name, file, header: identity, blocks_start: 0 };
        self.restore_header(&mut segment, first)?;
        Ok((segment, Some(HeaderDamage { reason: damage, is_mended: false })))
    }

    /// Fills in what a segment's blocks and the segment before it tell about its header.
    fn restore_header(&self, segment: &mut SegmentFile, first: Sequence) -> Result<()> {
        let length = segment.file.len().map_err(storage_error("read", &segment.name))?;
        let start = segment.find_block_after(0, first, |_, _| true)?.map(|(offset, _)| offset);
        let block = match start {
            Some(start) => segment.read_header(start)?,
            None => None,
        };
        let thread = &self.examiner.thread;
        let follows = thread.next_sequence == Some(first);
        let version = block.as_ref().map_or(thread.wire_version.unwrap_or_default(), |block| block.version_before);
        segment.blocks_start = start.unwrap_or(length);
        segment.header = SegmentHeader {
            generation: 0,
            rewritten_level: 0,
            first_sequence: first,
            created: block.as_ref().map_or(0, |block| block.received_min),
            version_before: version,
            version_announced: thread.announced_version.max(version),
            chain_before: thread.chain.filter(|_| follows).unwrap_or(CHAIN_START),
            ..segment.header.clone()
        };
        Ok(())
    }

    /// The header of the nearest other segment that has a sound one.
    fn other_header(&self, first: Sequence) -> Option<SegmentHeader> {
        let (before, after): (Vec<_>, Vec<_>) =
            self.segments.iter().copied().filter(|&other| other != first).partition(|&other| other < first);
        before
            .into_iter()
            .rev()
            .chain(after)
            .find_map(|other| SegmentFile::open(self.storage.as_ref(), other, false).ok())
            .map(|segment| segment.header)
    }
}

/// What must hold for the next block; `None` where nothing tells.
#[derive(Clone, Debug, Default)]
struct Thread {
    next_sequence: Option<Sequence>,
    chain: Option<ChainValue>,
    wire_version: Option<ApiVersion>,
    announced_version: ApiVersion,
    epoch: u64,
    identity: Option<([u8; 16], String)>,
    /// Where history ends that was imported in front of the log, as the last import mark says.
    history_end: Option<Sequence>,
}

/// Goes through segments in order.
#[derive(Clone, Default)]
pub(crate) struct Examiner {
    thread: Thread,
    /// What LOSS marks have named and the log has not reached yet.
    losses: Vec<Hole>,
    /// What they have named and the log has passed.
    pub(crate) holes: Vec<Hole>,
    /// The chain so far.
    pub(crate) stretches: Vec<Stretch>,
}

/// What stands at an offset.
enum Found {
    Block(BlockHeader, Content),
    Footer,
    /// Zeros, or the end of the file.
    Nothing,
}

enum Content {
    Events(Box<Block>),
    Marks(Vec<Mark>),
    Other,
}

/// Why there is no sound block at an offset, and its header if that is sound.
struct Bad {
    reason: String,
    header: Option<BlockHeader>,
}

impl Examiner {
    /// The sequence after the last event seen, or that is known to be lost.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.thread.next_sequence.unwrap_or_default()
    }

    /// The chain value after the last event seen, where it is known.
    pub(crate) fn chain(&self) -> Option<ChainValue> {
        self.thread.chain
    }

    /// Which log the segments belong to.
    pub(crate) fn log_id(&self) -> Option<[u8; 16]> {
        self.thread.identity.as_ref().map(|(log_id, _)| *log_id)
    }

    /// Goes through one segment. Damage is part of the answer, not an error.
    pub(crate) fn segment(
        &mut self,
        file: SegmentFile,
        header_damage: Option<HeaderDamage>,
        extent: Extent,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Examined> {
        let length = file.file.len().map_err(storage_error("read", &file.name))?;
        let (stored_footer, footer_damage) = match Footer::read(&file.name, file.file.as_ref()) {
            Ok(Some((footer, offset))) => (Some((footer, offset)), None),
            Ok(None) if extent.is_last => (None, None),
            Ok(None) => (None, Some("the segment does not end in a footer".to_owned())),
            Err(Error::Corrupt { reason, .. }) => (None, Some(reason)),
            Err(error) => return Err(error),
        };
        let mut examined = Examined {
            header_damage,
            is_sealed: stored_footer.is_some() || footer_damage.is_some(),
            footer_damage,
            footer: Footer::empty(&file.header),
            end: file.blocks_start,
            damage: Vec::new(),
            torn_end: None,
            mismatches: Vec::new(),
            chain_before: None,
            trusted: Vec::new(),
            file,
        };
        self.begin(&mut examined);
        let (limit, is_bounded) = match (&stored_footer, extent.durable_end) {
            (Some((_, offset)), _) => (*offset, true),
            (None, Some(end)) => (end, true),
            (None, None) => (length, false),
        };
        let end_sequence = stored_footer.as_ref().map(|(footer, _)| footer.end_sequence).or(extent.end_sequence);
        let listed = stored_footer.as_ref().map_or(&[][..], |(footer, _)| footer.blocks.as_slice());
        while examined.end < limit {
            let at = examined.end;
            match self.look_at(&examined.file, at, limit)? {
                Ok(Found::Block(header, content)) => {
                    self.take_in(&mut examined, &header, &content);
                    examined.end = at + header.stored_bytes();
                }
                Ok(found @ (Found::Footer | Found::Nothing)) => {
                    let reason = match found {
                        Found::Footer => "a footer stands among the blocks",
                        _ => "nothing is written where a block stood",
                    };
                    let bad = Bad { reason: reason.to_owned(), header: None };
                    if !self.take_damage(&mut examined, bad, listed, limit, is_bounded.then_some(end_sequence))? {
                        break;
                    }
                }
                Err(bad) => {
                    self.take_damage(&mut examined, bad, listed, limit, Some(end_sequence))?;
                }
            }
            progress(examined.end - at);
        }
        // Marks at the end may speak of sequences beyond the last event.
        let claimed = examined.footer.end_sequence;
        self.settle_hole(&mut examined, claimed);
        self.settle_end(&mut examined, extent);
        if let Some((stored, _)) = &stored_footer
            && !examined.needs_repair()
            && let Some(what) = difference(stored, &examined.footer)
        {
            examined.footer_damage = Some(format!("its {what} not fit the blocks"));
        }
        Ok(examined)
    }

    /// Checks a segment's header against what stands before it, and goes on from what it says.
    fn begin(&mut self, examined: &mut Examined) {
        let header = &examined.file.header;
        let first = header.first_sequence;
        let identity = (header.log_id, header.dialect.clone());
        let mut mismatch = |reason: String| {
            examined.mismatches.push(Mismatch { offset: 0, sequences: first..first, reason });
        };
        let follows = self.thread.next_sequence.is_none_or(|next| next == first);
        let begins_again = self.thread.history_end == Some(first) && header.chain_before == CHAIN_START;
        if examined.header_damage.as_ref().is_some_and(|damage| !damage.is_mended) {
            self.thread.chain = match self.thread.next_sequence {
                Some(_) => self.thread.chain.filter(|_| follows),
                None => (first == 0).then_some(CHAIN_START),
            };
            self.thread.wire_version = Some(header.version_before);
        } else {
            if let Some(next) = self.thread.next_sequence.filter(|&next| next > first) {
                mismatch(format!("it begins at sequence {first}, but the segment before it ends at {next}"));
            } else if follows && !begins_again && self.thread.chain.is_some_and(|chain| chain != header.chain_before) {
                mismatch("its chain value is not that of the segment before it".to_owned());
            }
            if follows
                && !begins_again
                && self.thread.wire_version.is_some_and(|version| version != header.version_before)
            {
                mismatch("its API version is not that of the segment before it".to_owned());
            }
            if self.thread.identity.as_ref().is_some_and(|known| *known != identity) {
                mismatch("it belongs to another log".to_owned());
            }
            if header.epoch < self.thread.epoch {
                mismatch(format!("its epoch {} is below {} before it", header.epoch, self.thread.epoch));
            }
            self.thread.chain = Some(header.chain_before);
            self.thread.wire_version = Some(header.version_before);
            self.thread.identity.get_or_insert(identity);
            self.thread.epoch = self.thread.epoch.max(header.epoch);
        }
        self.thread.announced_version = self.thread.announced_version.max(header.version_announced);
        self.thread.next_sequence.get_or_insert(first);
        examined.chain_before = self.thread.chain;
    }

    /// Reads and checks the block at `at` by itself.
    fn look_at(&self, file: &SegmentFile, at: u64, limit: u64) -> Result<std::result::Result<Found, Bad>> {
        let bad = |reason: String, header| Ok(Err(Bad { reason, header }));
        let header = match file.read_header(at) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Ok(Found::Nothing)),
            Err(Error::Corrupt { reason, .. }) => return bad(reason, None),
            Err(error) => return Err(error),
        };
        if header.block_type == BlockType::FOOTER {
            return Ok(Ok(Found::Footer));
        }
        let next = self.next_sequence();
        if header.first_sequence < next {
            return bad(format!("it begins at sequence {}, but {next} is next", header.first_sequence), None);
        }
        if at.saturating_add(header.stored_bytes()) > limit {
            return bad("the block is cut off".to_owned(), Some(header));
        }
        let bytes = match file.read_block(at, header.stored_bytes() as u32) {
            Ok((_, bytes)) => bytes,
            Err(Error::Corrupt { reason, .. }) => return bad(reason, Some(header)),
            Err(error) => return Err(error),
        };
        let (form, parts) = (&file.header.form, bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default());
        let content = match header.block_type {
            BlockType::EVENTS => Block::decode(&header, form, parts).map(|events| Content::Events(Box::new(events))),
            BlockType::MARKS => block::decode_marks(&header, form, parts).map(Content::Marks),
            _ => block::decode_table_part(&header, parts)
                .and_then(|_| block::checked_payload(&header, parts))
                .map(|_| Content::Other),
        };
        let content = match content {
            Ok(content) => content,
            Err(error) => match file.corrupt(at, error) {
                Error::Corrupt { reason, .. } => return bad(reason, Some(header)),
                error => return Err(error),
            },
        };
        if let Content::Events(events) = &content
            && let Some(reason) = unsound(&header, events)
        {
            return bad(reason, Some(header));
        }
        Ok(Ok(Found::Block(header, content)))
    }

    /// Takes a sound block into account and checks it against what stands before it.
    fn take_in(&mut self, examined: &mut Examined, header: &BlockHeader, content: &Content) {
        let at = examined.end;
        let sequences = header.first_sequence..header.end_sequence();
        let mut mismatches = Vec::new();
        match content {
            Content::Events(events) => {
                self.settle_hole(examined, header.first_sequence);
                let follows = self.thread.chain.map(|chain| chain_over(chain, events) == header.chain_after);
                match follows {
                    Some(true) => {}
                    Some(false) => {
                        mismatches.push("the chain value over its events is another than the one stored".to_owned());
                    }
                    None => examined.trusted.push(sequences.clone()),
                }
                self.stretch(header, follows != Some(false));
                for row in events.rows() {
                    examined.footer.count(row.kind(), row.source());
                }
                self.thread.chain = Some(header.chain_after);
                self.check_version(header, &mut mismatches);
                self.thread.wire_version = Some(header.version_after);
                self.thread.next_sequence = Some(header.end_sequence());
            }
            Content::Marks(marks) => {
                let history_end = marks
                    .iter()
                    .filter(|mark| mark.kind == MarkKind::IMPORT)
                    .find_map(|mark| parse_in_front_of(&mark.body));
                self.thread.history_end = history_end.or(self.thread.history_end);
                let told = self.hear_losses(marks);
                match told.unwrap_or(ChainAfterLoss::Unchanged) {
                    ChainAfterLoss::Unchanged => {
                        if self.thread.chain.is_some_and(|chain| chain != header.chain_after) {
                            mismatches.push("its chain value is not that of the event before it".to_owned());
                        }
                        self.thread.chain = Some(header.chain_after);
                    }
                    ChainAfterLoss::Value(chain) => {
                        if chain != header.chain_after {
                            mismatches.push("its chain value is not that of the loss it marks".to_owned());
                        }
                        self.thread.chain = Some(chain);
                    }
                    ChainAfterLoss::Unknown => self.thread.chain = None,
                }
                if told.is_none() {
                    self.check_version(header, &mut mismatches);
                }
                self.thread.wire_version = Some(header.version_before);
            }
            Content::Other => {}
        }
        self.thread.announced_version = self.thread.announced_version.max(header.version_after);
        examined.footer.add(header, at);
        examined.mismatches.extend(mismatches.into_iter().map(|reason| Mismatch {
            offset: at,
            sequences: sequences.clone(),
            reason,
        }));
    }

    /// Takes the events of a block into the chain; `follows`: their values follow from the one before, if that is known.
    fn stretch(&mut self, header: &BlockHeader, follows: bool) {
        let (before, first) = (self.thread.chain, header.first_sequence);
        let last = self.stretches.last_mut();
        let adjoins = last.as_ref().is_some_and(|last| last.sequences.end == first);
        let start = match (&last, before) {
            _ if !follows => StretchStart::Broken,
            (_, None) => StretchStart::Unknown,
            (None, Some(CHAIN_START)) => StretchStart::NewLog,
            (None, Some(_)) => StretchStart::OldestSegment,
            (Some(_), Some(CHAIN_START)) if adjoins && self.thread.history_end == Some(first) => {
                StretchStart::AfterHistory
            }
            (Some(last), Some(before)) if adjoins && last.chain_after != before => StretchStart::Broken,
            (Some(_), Some(_)) => StretchStart::AfterHole,
        };
        match last {
            Some(last) if adjoins && start == StretchStart::AfterHole => {
                last.sequences.end = header.end_sequence();
                last.chain_after = header.chain_after;
            }
            _ => self.stretches.push(Stretch {
                sequences: first..header.end_sequence(),
                start,
                chain_before: before,
                chain_after: header.chain_after,
            }),
        }
    }

    fn check_version(&self, header: &BlockHeader, mismatches: &mut Vec<String>) {
        if let Some(version) = self.thread.wire_version.filter(|&version| version != header.version_before) {
            mismatches.push(format!("it goes on from API version {}, not {version}", header.version_before));
        }
    }

    /// Remembers what LOSS marks name; says how the chain goes on if one of them speaks of that.
    fn hear_losses(&mut self, marks: &[Mark]) -> Option<ChainAfterLoss> {
        let mut told = None;
        for (sequences, reason, chain) in
            marks.iter().filter(|mark| mark.kind == MarkKind::LOSS).filter_map(|mark| parse_loss(&mark.body))
        {
            told = Some(chain);
            self.losses.push(Hole { sequences, reason });
        }
        told
    }

    /// The log goes on at `to`: whatever is missing before it must have a mark.
    fn settle_hole(&mut self, examined: &mut Examined, to: Sequence) {
        let mut next = self.next_sequence();
        while next < to {
            let known = self.losses.iter().find(|loss| loss.sequences.contains(&next)).cloned();
            let end = match known {
                Some(loss) => {
                    let end = loss.sequences.end.min(to);
                    self.holes.push(Hole { sequences: next..end, reason: loss.reason });
                    end
                }
                None => {
                    let starts = self.losses.iter().map(|loss| loss.sequences.start);
                    let end = starts.filter(|&start| start > next).min().unwrap_or(to).min(to);
                    examined.damage.push(Damage {
                        offset: examined.end,
                        length: 0,
                        lost: next..end,
                        header: None,
                        is_tail: false,
                        reason: "events are missing and no mark says why".to_owned(),
                    });
                    // Behind the header of a segment the chain is known; elsewhere the next block has to be trusted.
                    if examined.footer.blocks.iter().any(|block| block.count > 0) {
                        self.thread.chain = None;
                    }
                    end
                }
            };
            next = end;
        }
        self.thread.next_sequence = Some(next);
        self.losses.retain(|loss| loss.sequences.end > next);
    }

    /// Nothing follows: what was durable beyond the last block is gone.
    fn settle_end(&mut self, examined: &mut Examined, extent: Extent) {
        let next = self.next_sequence();
        if let Some(end) = extent.end_sequence.filter(|&end| extent.is_last && end > next) {
            examined.damage.push(Damage {
                offset: examined.end,
                length: 0,
                lost: next..end,
                header: None,
                is_tail: true,
                reason: "the head names events that are gone".to_owned(),
            });
            self.thread.next_sequence = Some(end);
            self.thread.chain = None;
        }
    }

    /// A segment could not be looked at: what follows it has nothing to fit.
    pub(crate) fn skip_segment(&mut self) {
        self.thread.next_sequence = None;
        self.thread.chain = None;
        self.thread.wire_version = None;
    }

    /// Finds out how far damage reaches and steps over it. `tail`: whether it may reach to the limit, and up to which
    /// sequence it then does; says whether there was damage at all.
    fn take_damage(
        &mut self,
        examined: &mut Examined,
        bad: Bad,
        listed: &[BlockEntry],
        limit: u64,
        tail: Option<Option<Sequence>>,
    ) -> Result<bool> {
        let (at, next) = (examined.end, self.next_sequence());
        let entry = listed.binary_search_by_key(&at, |entry| entry.offset).ok().and_then(|found| listed.get(found));
        let whole = |length: u64| Some(at + length).filter(|&end| end > at && end <= limit);
        let found = match (&bad.header, entry) {
            (_, Some(entry)) => whole(entry.stored_bytes.into()).map(|end| (end, entry.end_sequence())),
            (Some(header), None) => whole(header.stored_bytes()).map(|end| (end, header.end_sequence())),
            (None, None) => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => examined.file.find_block_after(at + 1, next, |offset, _| offset < limit)?,
        };
        let is_tail = found.is_none();
        let (end, end_sequence) = match (found, tail) {
            (Some(found), _) => found,
            (None, Some(end_sequence)) => (limit, end_sequence.unwrap_or(next)),
            (None, None) => return Ok(false),
        };
        if is_tail && end_sequence <= next && examined.is_sealed && examined.footer_damage.is_some() {
            // All events are there: what does not decode was the footer.
            examined.end = end;
            return Ok(true);
        }
        let lost = next..end_sequence.max(next);
        // Where the damage reaches further than the block, its header does not tell what stands behind.
        let is_last = |header: &BlockHeader| header.first_sequence >= next && at + header.stored_bytes() == end;
        let header = bad.header.filter(is_last);
        if let Some(header) = &header {
            self.thread.chain = chain_behind(header, &lost);
            let wire =
                if header.block_type == BlockType::EVENTS { header.version_after } else { header.version_before };
            self.thread.wire_version = Some(wire);
            self.thread.announced_version = self.thread.announced_version.max(header.version_after);
        } else if !lost.is_empty() {
            self.thread.chain = None;
            self.thread.wire_version = None;
        }
        self.thread.next_sequence = Some(lost.end);
        match examined.damage.last_mut() {
            Some(last) if last.length > 0 && last.offset + last.length == at && last.lost.end == lost.start => {
                last.length = end - last.offset;
                last.lost.end = lost.end;
                last.header = header;
                last.is_tail = is_tail;
            }
            _ => {
                examined.damage.push(Damage { offset: at, length: end - at, lost, header, is_tail, reason: bad.reason })
            }
        }
        examined.end = end;
        Ok(true)
    }
}

/// The chain value behind a damaged block, by its header and what is lost with it.
///
/// Marks that name a loss also say whether the chain goes on from there, and they are gone.
pub(crate) fn chain_behind(header: &BlockHeader, lost: &Range<Sequence>) -> Option<ChainValue> {
    (header.block_type != BlockType::MARKS || lost.is_empty()).then_some(header.chain_after)
}

/// The chain value after a block's events.
fn chain_over(before: ChainValue, events: &Block) -> ChainValue {
    events.rows().fold(before, chain_after)
}

/// The chain value after an event, from that before it.
pub(crate) fn chain_after(before: ChainValue, row: Row<'_>) -> ChainValue {
    next_chain_value(&before, row.sequence(), row.kind(), row.api_version(), row.network(), row.name(), &row.payload())
}

/// What does not fit between a block's header, its rows and its frames.
fn unsound(header: &BlockHeader, events: &Block) -> Option<String> {
    let (mut kinds, mut earliest, mut latest) = (0, u64::MAX, 0);
    let mut version = header.version_before;
    for row in events.rows() {
        if !row.is_sound() {
            return Some(format!("the row of sequence {} does not fit its frame", row.sequence()));
        }
        if let Some(rise) = row.rise() {
            let frame = events.wire().get(row.range_with_rise().start..row.range().start);
            if rise <= version || frame != Some(&version_frame(rise)) {
                let sequence = row.sequence();
                return Some(format!("the version frame before sequence {sequence} is not one that rises"));
            }
            version = rise;
        }
        kinds |= row.kind().bit();
        earliest = earliest.min(row.received());
        latest = latest.max(row.received());
    }
    if version != header.version_after {
        return Some(format!("it ends at API version {version}, its header says {}", header.version_after));
    }
    if (kinds, earliest, latest) != (header.kinds, header.received_min, header.received_max) {
        return Some("its kinds or receive times are not those in its header".to_owned());
    }
    None
}

/// What a footer says differently from the blocks, as the subject of a sentence.
fn difference(stored: &Footer, found: &Footer) -> Option<&'static str> {
    let checks = [
        (stored.blocks == found.blocks, "index does"),
        (stored.end_sequence == found.end_sequence, "last sequence does"),
        (stored.counts == found.counts, "events by kind do"),
        (stored.sources == found.sources, "sources do"),
        (stored.chain_after == found.chain_after, "chain value does"),
        (stored == found, "totals do"),
    ];
    checks.into_iter().find(|(fits, _)| !fits).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_mark_tells_how_the_chain_goes_on() {
        let value: ChainValue = std::array::from_fn(|place| place as u8 * 7);
        let told = |body: &str| parse_loss(body);
        assert_eq!(
            told(&loss_body(&(3..5), "it \"broke\"", Some(value))),
            Some((3..5, "it \"broke\"".to_owned(), ChainAfterLoss::Value(value)))
        );
        assert_eq!(told(&loss_body(&(3..5), "x", None)).map(|told| told.2), Some(ChainAfterLoss::Unknown));
        assert_eq!(told(&loss_body(&(0..0), "x", None)).map(|told| told.0), Some(0..0));
        // What recovery writes.
        let body = r#"{"from":3,"to":4,"reason":"x"}"#;
        assert_eq!(told(body), Some((3..5, "x".to_owned(), ChainAfterLoss::Unchanged)));
    }

    #[test]
    fn a_body_that_is_no_loss_tells_nothing() {
        for body in ["", "{}", "[1]", r#"{"from":-1,"to":5}"#, r#"{"from":"1","to":5}"#] {
            assert_eq!(parse_loss(body), None, "{body}");
        }
        let odd = format!(r#"{{"from":1,"to":2,"chain":"{}é"}}"#, "0".repeat(62));
        assert_eq!(parse_loss(&odd).map(|told| told.2), Some(ChainAfterLoss::Unknown));
    }
}
