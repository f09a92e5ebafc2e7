//! The way through segments in order: what must hold from one block to the next, and how far damage reaches.

use super::{
    block_checks::{chain_behind, difference, unsound},
    examined::{Damage, Examined, Extent, Hole, Mismatch, Stretch, StretchStart},
};
use crate::{
    ApiVersion, Block, CHAIN_START, ChainValue, Mark, MarkKind, Result, Sequence,
    block::{self, BLOCK_HEADER_BYTES, BlockHeader, BlockType},
    error::{Operation, Unreadable, storage_error},
    history::parse_in_front_of,
    loss_mark::{ChainAfterLoss, parse_loss},
    segment::{BlockEntry, Footer, SegmentFile},
};

/// What must hold for the next block; `None` where it is unknown.
#[derive(Clone, Debug, Default)]
pub(super) struct Thread {
    pub(super) next_sequence: Option<Sequence>,
    pub(super) chain: Option<ChainValue>,
    pub(super) wire_version: Option<ApiVersion>,
    pub(super) announced_version: ApiVersion,
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

/// What is at an offset.
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
    /// What must hold for the next block.
    pub(super) fn thread(&self) -> &Thread {
        &self.thread
    }

    /// The first segment must begin here, where something outside it shows that.
    pub(super) fn expect_from(&mut self, sequence: Option<Sequence>) {
        self.thread.next_sequence = sequence;
    }

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
        extent: Extent,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Examined> {
        let length = file.file.len().map_err(storage_error(Operation::Read, &file.name))?;
        let (stored_footer, footer_damage) = match Footer::read(&file.name, file.file.as_ref()) {
            Ok(Some((footer, offset))) => (Some((footer, offset)), None),
            Ok(None) if extent.is_last => (None, None),
            Ok(None) => (None, Some("the segment does not end in a footer".to_owned())),
            Err(error) => (None, Some(error.bad_bytes()?.reason)),
        };
        let mut examined = Examined {
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
                        Found::Footer => "a footer is among the blocks",
                        _ => "nothing is written where a block was",
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

    /// Checks a segment's header against what is before it, and continues from what it says.
    fn begin(&mut self, examined: &mut Examined) {
        let header = &examined.file.header;
        let first = header.first_sequence;
        let identity = (header.log_id, header.dialect.clone());
        let mut mismatch = |reason: String| {
            examined.mismatches.push(Mismatch { offset: 0, sequences: first..first, reason });
        };
        let follows = self.thread.next_sequence.is_none_or(|next| next == first);
        let begins_again = self.thread.history_end == Some(first) && header.chain_before == CHAIN_START;
        if examined.file.header_damage.as_ref().is_some_and(|damage| !damage.source.is_copy()) {
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
            Err(error) => return bad(error.bad_bytes()?.reason, None),
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
            Err(error) => return bad(error.bad_bytes()?.reason, Some(header)),
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
            Err(error) => return bad(file.corrupt(at, error).bad_bytes()?.reason, Some(header)),
        };
        if let Content::Events(events) = &content
            && let Some(reason) = unsound(&header, events)
        {
            return bad(reason, Some(header));
        }
        Ok(Ok(Found::Block(header, content)))
    }

    /// Takes a sound block into account and checks it against what is before it.
    fn take_in(&mut self, examined: &mut Examined, header: &BlockHeader, content: &Content) {
        let at = examined.end;
        let sequences = header.first_sequence..header.end_sequence();
        let mut mismatches = Vec::new();
        match content {
            Content::Events(events) => {
                self.settle_hole(examined, header.first_sequence);
                let follows = self.thread.chain.map(|chain| events.chain_over(chain) == header.chain_after);
                match follows {
                    Some(true) => {}
                    Some(false) => {
                        mismatches.push("the chain value over its events is another than the one stored".to_owned());
                    }
                    None => examined.trusted.push(sequences.clone()),
                }
                self.stretch(header, follows != Some(false));
                examined.footer.count(events);
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
                let told = self.read_losses(marks);
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
            mismatches.push(format!("it continues from API version {}, not {version}", header.version_before));
        }
    }

    /// Remembers what LOSS marks name; says how the chain continues if one of them speaks of that.
    fn read_losses(&mut self, marks: &[Mark]) -> Option<ChainAfterLoss> {
        let mut told = None;
        for (sequences, reason, chain) in
            marks.iter().filter(|mark| mark.kind == MarkKind::LOSS).filter_map(|mark| parse_loss(&mark.body))
        {
            told = Some(chain);
            self.losses.push(Hole { sequences, reason });
        }
        told
    }

    /// The log continues at `to`: every missing event before it must have a mark.
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
            None => examined.file.find_block_after(at + 1, next, Unreadable::IsDamage, |offset, _| offset < limit)?,
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
        // Where the damage reaches further than the block, its header does not show what is after.
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
