//! Checking a whole log: every checksum, row, sequence, version and chain value, and the head.
//!
//! A storage goes in, a [`Verification`] comes out; nothing is changed and no lock is taken. It works on a read-only
//! directory and while the log is being written, up to the head as it was at the start.

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use crate::{
    Error, Result, Sequence,
    bytes_codec::hex,
    error::BadBytes,
    examine::{Examined, Stretch, Survey},
    head::{self, HeadState},
    inspect::{CopyLacks, copied_note},
    losses::{Collection, LossKind, Losses},
    oldest,
    segment::file_name,
    storage::Storage,
};

pub use crate::examine::StretchStart;

/// How many problems are listed; all are counted.
const PROBLEMS_LISTED_MAX: usize = 1000;

/// What verifying found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// The log's directory.
    pub directory: String,
    /// The id that the log got when it was made, in hexadecimal digits, if a segment's header has it.
    pub log_id: Option<String>,
    /// Whether nothing is wrong.
    pub is_sound: bool,
    /// Segments looked at.
    pub segments: u64,
    /// Sound blocks.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Marks.
    pub marks: u64,
    /// Bytes of blocks and headers on disk.
    pub bytes_stored: u64,
    /// Wire bytes of the events.
    pub bytes_raw: u64,
    /// The first retained sequence.
    pub first_sequence: Sequence,
    /// The sequence after the last event.
    pub next_sequence: Sequence,
    /// The last event that was there to be checked; damage may follow it. `None` when there was none.
    pub last_checked: Option<Sequence>,
    /// The chain value after that event, in hexadecimal digits.
    pub chain: Option<String>,
    /// The chain in order: events whose values were recomputed one from the other. One stretch, if the log is whole; more
    /// where holes or changed events lie between them. At most a thousand.
    pub stretches: Vec<ChainStretch>,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first thousand of them, in order.
    pub problems: Vec<Problem>,
    /// Sequences that a mark explains the absence of.
    pub holes: Vec<MarkedHole>,
    /// Events that are lost: what is damaged or missing, and the marked holes.
    pub losses: Losses,
    /// What this copy does not hold though its head names it. Not wrong by itself: a copy is a prefix.
    pub copy_lacks: Option<CopyLacks>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, relative to the log's directory.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// The first sequence that is affected.
    pub first_sequence: Option<Sequence>,
    /// The last one.
    pub last_sequence: Option<Sequence>,
    /// What does not fit.
    pub reason: String,
}

/// Events whose chain is unbroken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainStretch {
    /// The first one.
    pub first_sequence: Sequence,
    /// The last one.
    pub last_sequence: Sequence,
    /// What it begins with.
    pub start: StretchStart,
    /// The chain value before the first one, in hexadecimal digits, where it is known.
    pub chain_before: Option<String>,
    /// The chain value after the last one, in hexadecimal digits.
    pub chain_after: String,
}

impl From<&Stretch> for ChainStretch {
    fn from(stretch: &Stretch) -> Self {
        ChainStretch {
            first_sequence: stretch.sequences.start,
            last_sequence: stretch.sequences.end.saturating_sub(1),
            start: stretch.start,
            chain_before: stretch.chain_before.map(|chain| hex(&chain)),
            chain_after: hex(&stretch.chain_after),
        }
    }
}

/// Sequences that name no event, as a LOSS mark says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MarkedHole {
    /// The first one.
    pub first_sequence: Sequence,
    /// The last one.
    pub last_sequence: Sequence,
    /// Why.
    pub reason: String,
}

/// How far verifying has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes looked at.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// Verifies a log, reporting progress after every block.
///
/// # Errors
/// [`Error::NotALog`], or what the storage answers when it is asked what there is. Damage, and files that cannot be read,
/// are part of the answer.
pub fn verify(storage: &Arc<dyn Storage>, progress: &mut dyn FnMut(Progress)) -> Result<Verification> {
    let mut survey = Survey::begin(Arc::clone(storage))?;
    let mut verification = Verification {
        directory: storage.name(),
        log_id: None,
        is_sound: true,
        segments: 0,
        blocks: 0,
        events: 0,
        marks: 0,
        bytes_stored: 0,
        bytes_raw: 0,
        first_sequence: survey.segments.first().copied().unwrap_or_default(),
        next_sequence: 0,
        last_checked: None,
        chain: None,
        stretches: Vec::new(),
        problem_count: 0,
        problems: Vec::new(),
        holes: Vec::new(),
        losses: Losses::default(),
        copy_lacks: None,
        notes: Vec::new(),
    };
    let lengths = lengths(&survey);
    let bytes_total = lengths.iter().sum();
    let mut bytes_before = 0;
    let mut losses = Collection::default();
    for (index, length) in lengths.into_iter().enumerate() {
        let mut bytes = bytes_before;
        let examined = survey.examine(index, survey.extent(index), &mut |more| {
            bytes += more;
            progress(Progress { bytes: bytes.min(bytes_total), bytes_total });
        });
        match examined {
            Ok(examined) => {
                collect_losses(&mut losses, &examined, survey.extent(index).end_sequence);
                verification.add(&examined);
            }
            Err(error) => {
                let first = survey.segments.get(index).copied().unwrap_or_default();
                let end = survey.extent(index).end_sequence.unwrap_or(first);
                verification.cannot_read(&survey, first..end, error, &mut losses)?;
                survey.examiner.skip_segment();
            }
        }
        bytes_before += length;
        progress(Progress { bytes: bytes_before, bytes_total });
    }
    verification.next_sequence = survey.examiner.next_sequence();
    // Not the examiner's own value: that may be what the header of a damaged block says, whose events were not read.
    if let Some(last) = survey.examiner.stretches.last() {
        verification.last_checked = last.sequences.end.checked_sub(1);
        verification.chain = Some(hex(&last.chain_after));
    }
    verification.log_id = survey.examiner.log_id().map(|id| hex(&id));
    let stretches = survey.examiner.stretches.iter().take(PROBLEMS_LISTED_MAX);
    verification.stretches = stretches.map(ChainStretch::from).collect();
    verification.holes = survey
        .examiner
        .holes
        .iter()
        .map(|hole| MarkedHole {
            first_sequence: hole.sequences.start,
            last_sequence: hole.sequences.end.saturating_sub(1),
            reason: hole.reason.clone(),
        })
        .collect();
    for hole in &survey.examiner.holes {
        losses.add(hole.sequences.clone(), LossKind::Marked, &hole.reason);
    }
    verification.losses = losses.losses(survey.oldest.sequence().unwrap_or_default());
    verification.check_oldest(&survey);
    verification.check_head(&survey)?;
    verification.is_sound = verification.problem_count == 0;
    Ok(verification)
}

/// What of a segment a reader does not get before a repair. The log continues at `end`, as far as that is known.
fn collect_losses(losses: &mut Collection, examined: &Examined, end: Option<Sequence>) {
    for damage in &examined.damage {
        // Where no byte is wrong, a file or a part of it is gone.
        let kind = if damage.length > 0 { LossKind::Damaged } else { LossKind::Missing };
        losses.add(damage.lost.clone(), kind, &damage.reason);
    }
    if let Some(damage) = examined.file.header_damage.as_ref().filter(|damage| !damage.source.is_copy()) {
        let first = examined.file.header.first_sequence;
        losses.add(first..end.unwrap_or(examined.footer.end_sequence), LossKind::Damaged, &damage.reason);
    }
}

/// The bytes of each segment that are to be looked at, for the progress.
fn lengths(survey: &Survey) -> Vec<u64> {
    (0..survey.segments.len())
        .map(|index| {
            let name = file_name(survey.segments.get(index).copied().unwrap_or_default());
            let length = survey.storage.open(&name, false).and_then(|file| file.len()).unwrap_or_default();
            survey.extent(index).durable_end.map_or(length, |end| end.min(length))
        })
        .collect()
}

impl Verification {
    fn add(&mut self, examined: &Examined) {
        self.segments += 1;
        self.bytes_stored += examined.end;
        self.bytes_raw += examined.footer.payload_raw;
        self.blocks += examined.footer.blocks.len() as u64;
        self.events += examined.footer.counts.iter().sum::<u64>();
        self.marks += examined.footer.marks;
        let file = &examined.file.name;
        if let Some(damage) = &examined.file.header_damage {
            self.problem(file, 0, None, damage.to_string());
        }
        for damage in &examined.damage {
            self.problem(file, damage.offset, Some(&damage.lost), damage.reason.clone());
        }
        if let Some(torn) = &examined.torn_end {
            self.notes.push(format!(
                "{file} was copied while it was being written and ends in {} unusable bytes; the next opening for \
                 writing cuts them off",
                torn.length
            ));
        }
        for mismatch in &examined.mismatches {
            self.problem(file, mismatch.offset, Some(&mismatch.sequences), mismatch.reason.clone());
        }
        if let Some(reason) = &examined.footer_damage {
            self.problem(file, examined.end, None, format!("footer: {reason}"));
        }
        for trusted in &examined.trusted {
            self.notes.push(format!(
                "sequences {} to {} stand behind a loss that left no chain value: theirs is taken as it stands",
                trusted.start,
                trusted.end.saturating_sub(1)
            ));
        }
    }

    fn cannot_read(
        &mut self,
        survey: &Survey,
        sequences: Range<Sequence>,
        error: Error,
        losses: &mut Collection,
    ) -> Result<()> {
        let file = file_name(sequences.start);
        let (offset, reason, kind) = match error {
            Error::Storage { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let oldest = oldest::read(survey.storage.as_ref())?.sequence();
                if oldest.is_none_or(|oldest| sequences.start < oldest) {
                    self.notes.push(format!("{file} was dropped by retention meanwhile"));
                    return Ok(());
                }
                (0, "the file is gone, and retention did not drop it".to_owned(), LossKind::Missing)
            }
            error if error.is_bad_bytes() => {
                let BadBytes { offset, reason, .. } = error.bad_bytes()?;
                (offset, reason, LossKind::Damaged)
            }
            error => (0, error.to_string(), LossKind::Damaged),
        };
        losses.add(sequences.clone(), kind, &reason);
        self.problem(&file, offset, Some(&sequences), reason);
        Ok(())
    }

    fn check_oldest(&mut self, survey: &Survey) {
        match survey.oldest.sequence() {
            None => self.problem(
                oldest::FILE,
                0,
                None,
                format!(
                    "there is no such file, or no sound slot in it: it is unknown whether events before {} were \
                     dropped or are lost; the next opening for writing makes it again",
                    self.first_sequence
                ),
            ),
            // Another slot may be in the middle of being written: that is settled by the next look.
            Some(_) if survey.oldest.is_damaged => {
                let again = oldest::read(survey.storage.as_ref());
                if again.is_ok_and(|again| again.is_damaged) {
                    self.problem(oldest::FILE, 0, None, "the checksum of a slot does not fit".to_owned());
                }
            }
            Some(_) => {}
        }
    }

    /// Counts it as a problem that a copy ends before its head, which it is when the original is not written any more.
    pub fn require_whole(&mut self) {
        if let Some(lacks) = self.copy_lacks {
            let sequences = lacks.first_sequence..lacks.last_sequence.saturating_add(1);
            self.problem(head::FILE, 0, Some(&sequences), "it names events that are not in this copy".to_owned());
            self.is_sound = false;
        }
    }

    fn check_head(&mut self, survey: &Survey) -> Result<()> {
        // A slot may be in the middle of being written; then it is whole the next time.
        let mut damaged = head::damaged_places(survey.storage.as_ref())?;
        for _ in 0..3 {
            if !damaged.is_empty() {
                damaged = head::damaged_places(survey.storage.as_ref())?;
            }
        }
        for offset in damaged {
            self.problem(head::FILE, offset, None, "the checksum does not fit".to_owned());
        }
        match &survey.head {
            HeadState::Missing => {
                self.problem(head::FILE, 0, None, "there is no head, or no sound one".to_owned());
            }
            HeadState::Copied(slot) => {
                self.copy_lacks = CopyLacks::between(self.next_sequence, slot.next_sequence);
                self.notes.push(copied_note(self.copy_lacks));
            }
            HeadState::Own(slot) => {
                let known = survey.examiner.chain().filter(|_| slot.next_sequence == survey.examiner.next_sequence());
                if known.is_some_and(|chain| chain != slot.chain) {
                    self.problem(head::FILE, 0, None, "its chain value is not that of the last event".to_owned());
                }
            }
        }
        Ok(())
    }

    fn problem(&mut self, file: &str, offset: u64, sequences: Option<&Range<Sequence>>, reason: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            let sequences = sequences.filter(|sequences| !sequences.is_empty());
            self.problems.push(Problem {
                file: file.to_owned(),
                offset,
                first_sequence: sequences.map(|sequences| sequences.start),
                last_sequence: sequences.map(|sequences| sequences.end.saturating_sub(1)),
                reason,
            });
        }
    }
}
