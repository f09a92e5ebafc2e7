//! Pages of the log: a range of sequences, read upwards or downwards until the page is full.
//!
//! A page in words of a request flows in; [`Range`] says which sequences it is about, and events flow into [`Found`]. The
//! index passes over blocks that have none of the wanted kinds. Only so many blocks are read or passed over for one page,
//! which then ends early and says where the next one begins.

use sidecar_log_format::{Log, Outline, Read, Sequence};

use super::answers::{Found, MissingRange, Pushed};
use super::failure::Failure;
use super::question::PageOfEvents;

/// Blocks that one page reads, and that it passes over because the index knows of no event of its kinds there, before it
/// returns where to continue.
const BLOCKS_READ_MAX: usize = 64;
const BLOCKS_PASSED_MAX: usize = 4096;

/// The sequences that a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    from: Sequence,
    /// The first sequence that is not in it. Without one the range ends where the log does, and grows with it.
    end: Option<Sequence>,
}

impl Range {
    /// Finds the sequences that the times of a page name. Reads two small pieces of each segment.
    pub(super) fn of(log: &Log, page: &PageOfEvents) -> Result<Range, Failure> {
        let since = page.since.map(|time| log.start_at_time(time)).transpose()?;
        let until = page.until.map(|time| log.first_received_at_or_after(time)).transpose()?;
        Ok(Range {
            from: page.from.max(since.unwrap_or_default()),
            end: page.before.into_iter().chain(until.flatten()).min(),
        })
    }
}

/// Where a page of the log ends.
#[derive(Debug)]
pub(super) struct PageEnd {
    /// Where the next one begins: at this sequence, or, of the newest first, before it. `None` when there is no next one.
    pub(super) next: Option<Sequence>,
}

/// What is left of the limits of one page.
struct Budget {
    read: usize,
    passed: usize,
}

impl Budget {
    const WHOLE: Budget = Budget { read: BLOCKS_READ_MAX, passed: BLOCKS_PASSED_MAX };

    fn is_left(&self) -> bool {
        self.read > 0 && self.passed > 0
    }

    /// Whether a block has to be read for these kinds; counts it.
    fn reads(&mut self, outline: Outline, kinds: u64) -> bool {
        let reads = outline.kinds & kinds != 0;
        *(if reads { &mut self.read } else { &mut self.passed }) -= 1;
        reads
    }
}

/// Reads a page upwards; `None` when its first event needs room.
pub(super) fn scan(
    log: &Log,
    range: Range,
    page: &PageOfEvents,
    found: &mut Found,
) -> Result<Option<PageEnd>, Failure> {
    let (mut next, end) = (range.from, range.end.unwrap_or(Sequence::MAX));
    found.missing.clear();
    let mut budget = Budget::WHOLE;
    'page: while next < end && found.events < page.limit && budget.is_left() {
        if let Some(outline) = log.outline(next)?
            && !budget.reads(outline, page.kinds)
        {
            next = outline.end_sequence.min(end);
            continue;
        }
        match log.read(next)? {
            Read::Events { block, index } => {
                for row in (index..block.len()).filter_map(|index| block.row(index)) {
                    if found.events == page.limit || row.sequence() >= end {
                        break;
                    }
                    if row.kind().bit() & page.kinds != 0 {
                        match found.push_row(&row, &row.payload())? {
                            Pushed::Yes => {}
                            Pushed::NeedsRoom => return Ok(None),
                            Pushed::PageIsFull => break 'page,
                        }
                    }
                    next = row.sequence() + 1;
                }
            }
            Read::Large(event) => match found.push(Read::Large(event))? {
                Pushed::Yes => next += 1,
                Pushed::NeedsRoom => return Ok(None),
                Pushed::PageIsFull => break,
            },
            Read::Missing { from, to, why } => {
                let to = to.max(from + 1).min(end);
                found.missing.push((from, to - 1, why.for_clients()));
                next = to;
            }
            Read::End => break,
        }
    }
    let is_last_page = range.end.is_some_and(|end| next >= end);
    Ok(Some(PageEnd { next: (!is_last_page).then_some(next) }))
}

/// Reads a page downwards, the newest event first; `None` when its first event needs room.
pub(super) fn scan_back(
    log: &Log,
    range: Range,
    page: &PageOfEvents,
    found: &mut Found,
) -> Result<Option<PageEnd>, Failure> {
    // Where the oldest segments are lost, the log begins with what they held.
    let retained = log.oldest().min(log.retained_from());
    let (from, head) = (range.from.max(retained), log.head().next_sequence);
    let mut before = range.end.map_or(head, |end| end.min(head));
    found.missing.clear();
    let mut budget = Budget::WHOLE;
    'page: while before > from && found.events < page.limit && budget.is_left() {
        let outline = log.outline_before(before)?;
        let block_end = outline.map_or(from, |outline| outline.end_sequence.max(from));
        if block_end < before {
            found.missing.extend(missing_of_gap(log, block_end, before)?.into_iter().rev());
            before = block_end;
            continue;
        }
        let Some(outline) = outline else { break };
        if !budget.reads(outline, page.kinds) {
            before = outline.first_sequence;
            continue;
        }
        match log.read(outline.first_sequence)? {
            Read::Events { block, .. } => {
                for row in (0..block.len()).rev().filter_map(|index| block.row(index)) {
                    if row.sequence() >= before {
                        continue;
                    }
                    if found.events == page.limit || row.sequence() < from {
                        break;
                    }
                    if row.kind().bit() & page.kinds != 0 {
                        match found.push_row(&row, &row.payload())? {
                            Pushed::Yes => {}
                            Pushed::NeedsRoom => return Ok(None),
                            Pushed::PageIsFull => break 'page,
                        }
                    }
                    before = row.sequence();
                }
            }
            Read::Large(event) => match found.push(Read::Large(event))? {
                Pushed::Yes => before = outline.first_sequence,
                Pushed::NeedsRoom => return Ok(None),
                Pushed::PageIsFull => break,
            },
            Read::Missing { why, .. } => {
                let first = outline.first_sequence.max(from);
                found.missing.push((first, before - 1, why.for_clients()));
                before = first;
            }
            // No block begins at the head.
            Read::End => break,
        }
    }
    Ok(Some(PageEnd { next: (before > from).then_some(before) }))
}

/// The sequences between `from` and `end`, where no block is, in pieces: each was lost in its own way.
fn missing_of_gap(log: &Log, from: Sequence, end: Sequence) -> Result<Vec<MissingRange>, Failure> {
    let (mut next, mut missing) = (from, Vec::new());
    while next < end
        && let Read::Missing { to, why, .. } = log.read(next)?
    {
        let to = to.clamp(next + 1, end);
        missing.push((next, to - 1, why.for_clients()));
        next = to;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidecar_log_format::{Kind, Missing};

    use super::super::answers::Form;
    use super::super::from_log::tests::{event_of, log_of, opened};
    use super::super::question::Order;
    use super::*;

    const ALL: PageOfEvents = PageOfEvents {
        from: 0,
        from_height: None,
        since: None,
        before: None,
        until: None,
        order: Order::OldestFirst,
        limit: 1000,
        kinds: u64::MAX,
    };

    /// The sequences of a page, where the next one begins, and what is missing.
    fn page_of(log: &Log, page: &PageOfEvents) -> (Vec<u64>, Option<Sequence>, Vec<MissingRange>) {
        let mut found = Found::new("[", Form::Stored, &Arc::default()).paged();
        let range = Range::of(log, page).unwrap();
        let end = match page.order {
            Order::OldestFirst => scan(log, range, page, &mut found),
            Order::NewestFirst => scan_back(log, range, page, &mut found),
        };
        let end = end.unwrap().unwrap();
        found.push_text("]");
        let events: Vec<serde_json::Value> = serde_json::from_slice(&found.body).unwrap();
        (events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect(), end.next, found.missing)
    }

    #[test]
    fn a_page_passes_over_blocks_without_its_kinds_and_reads_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = std::iter::repeat_n(1, 3 * BLOCKS_READ_MAX).chain([2]);
        let log = log_of(folder.path(), kinds.map(event_of), usize::MAX);
        let last = 3 * BLOCKS_READ_MAX as u64;
        let page = |kinds: u64| {
            let mut found = Found::new("", Form::Stored, &Arc::default()).paged();
            let page = PageOfEvents { kinds, ..ALL };
            let end = scan(&log, Range::of(&log, &page).unwrap(), &page, &mut found).unwrap().unwrap();
            (found.events, end.next)
        };
        assert_eq!(page(Kind(2).bit()), (1, Some(last + 1)));
        assert!(log.read_cached(0).is_none() && log.read_cached(last).is_some());
        assert_eq!(page(u64::MAX), (BLOCKS_READ_MAX, Some(BLOCKS_READ_MAX as u64)));
    }

    #[test]
    fn the_newest_come_first_page_by_page_to_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let kinds: Vec<u8> = (0..200).map(|number| if number % 3 == 0 { 2 } else { 1 }).collect();
        let log = log_of(folder.path(), kinds.iter().copied().map(event_of), 30);
        for (kinds_wanted, expected) in [
            (u64::MAX, (0..200).rev().collect::<Vec<u64>>()),
            (Kind(2).bit(), (0..200).rev().filter(|number| number % 3 == 0).collect()),
        ] {
            let (mut seen, mut before) = (Vec::new(), None);
            loop {
                let page = PageOfEvents { before, order: Order::NewestFirst, limit: 7, kinds: kinds_wanted, ..ALL };
                let (sequences, next, missing) = page_of(&log, &page);
                assert!(sequences.len() <= 7 && missing.is_empty());
                seen.extend(sequences);
                match next {
                    Some(next) => before = Some(next),
                    None => break,
                }
            }
            assert_eq!(seen, expected);
        }
        let within = PageOfEvents { from: 50, before: Some(55), order: Order::NewestFirst, ..ALL };
        assert_eq!(page_of(&log, &within), (vec![54, 53, 52, 51, 50], None, vec![]));
        let upwards = PageOfEvents { order: Order::OldestFirst, ..within };
        assert_eq!(page_of(&log, &upwards), (vec![50, 51, 52, 53, 54], None, vec![]));
        let nothing = PageOfEvents { from: 55, before: Some(50), ..ALL };
        for order in [Order::OldestFirst, Order::NewestFirst] {
            assert_eq!(page_of(&log, &PageOfEvents { order, ..nothing }), (vec![], None, vec![]));
        }
    }

    #[test]
    fn what_is_missing_is_reported_upwards_and_downwards() {
        let folder = tempfile::tempdir().unwrap();
        drop(log_of(folder.path(), [1; 6].into_iter().map(event_of), 2));
        std::fs::remove_file(folder.path().join(format!("{:020}.segment", 2))).unwrap();
        let log = opened(folder.path());
        let (up, next, missing_up) = page_of(&log, &ALL);
        assert_eq!((up, next), (vec![0, 1, 4, 5], Some(6)));
        let (down, next, missing_down) = page_of(&log, &PageOfEvents { order: Order::NewestFirst, ..ALL });
        assert_eq!((down, next), (vec![5, 4, 1, 0], None));
        assert_eq!(missing_up, [(2, 3, Missing::Lost.for_clients())]);
        assert_eq!(missing_down, missing_up);
    }

    #[test]
    fn a_damaged_large_event_is_missing_like_other_damage() {
        let folder = tempfile::tempdir().unwrap();
        let large = (Kind(1), format!(r#"{{"Other":"{}"}}"#, "x".repeat(3 << 20)));
        drop(log_of(folder.path(), [event_of(1), large, event_of(1)].into_iter(), usize::MAX));
        let segment = folder.path().join(format!("{:020}.segment", 0));
        let mut bytes = std::fs::read(&segment).unwrap();
        let blocks: Vec<_> = memchr::memmem::find_iter(&bytes, b"SBLK").collect();
        // The end of the large event's payload.
        bytes[blocks[2] - 8] ^= 1;
        std::fs::write(segment, bytes).unwrap();
        let log = opened(folder.path());
        let damaged = (1, 1, Missing::Quarantined(String::new()).for_clients());
        assert_eq!(page_of(&log, &ALL), (vec![0, 2], Some(3), vec![damaged]));
        let newest = PageOfEvents { order: Order::NewestFirst, ..ALL };
        assert_eq!(page_of(&log, &newest), (vec![2, 0], None, vec![damaged]));
    }

    #[test]
    fn a_gap_is_reported_in_pieces_downwards_and_so_is_a_lost_beginning() {
        let folder = tempfile::tempdir().unwrap();
        drop(log_of(folder.path(), [1; 8].into_iter().map(event_of), 2));
        let segment = |first: u64| folder.path().join(format!("{first:020}.segment"));
        for lost in [0, 2] {
            std::fs::remove_file(segment(lost)).unwrap();
        }
        std::fs::write(segment(4), "not a segment").unwrap();
        let log = opened(folder.path());
        let (up, _, missing_up) = page_of(&log, &ALL);
        let (down, next, mut missing_down) = page_of(&log, &PageOfEvents { order: Order::NewestFirst, ..ALL });
        missing_down.reverse();
        assert_eq!((up, down, next), (vec![6, 7], vec![7, 6], None));
        assert_eq!(missing_down, missing_up);
        let damaged = Missing::Quarantined(String::new());
        assert_eq!(missing_up, [(0, 3, Missing::Lost.for_clients()), (4, 5, damaged.for_clients())]);
        // The range of a page cuts a piece.
        let within = PageOfEvents { from: 1, before: Some(5), order: Order::NewestFirst, ..ALL };
        let (none, next, missing) = page_of(&log, &within);
        assert_eq!((none, next), (vec![], None));
        assert_eq!(missing, [(4, 4, damaged.for_clients()), (1, 3, Missing::Lost.for_clients())]);
    }

    #[test]
    fn times_name_the_events_that_were_received_between_them() {
        let folder = tempfile::tempdir().unwrap();
        // All were received at 5.
        let log = log_of(folder.path(), [1; 6].into_iter().map(event_of), 2);
        let sequences = |since, until| page_of(&log, &PageOfEvents { since, until, ..ALL });
        let all: Vec<u64> = (0..6).collect();
        assert_eq!(sequences(Some(5), None), (all.clone(), Some(6), vec![]));
        assert_eq!(sequences(Some(5), Some(6)), (all, Some(6), vec![]), "there may be more before then");
        assert_eq!(sequences(Some(6), None), (vec![], Some(6), vec![]), "nothing yet");
        assert_eq!(sequences(None, Some(5)), (vec![], None, vec![]));
        let newest = PageOfEvents { since: Some(5), order: Order::NewestFirst, limit: 2, ..ALL };
        assert_eq!(page_of(&log, &newest), (vec![5, 4], Some(4), vec![]));
    }
}
