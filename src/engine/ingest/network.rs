//! Which network a log holds events of: that of the newest event that names one.

use sidecar_log_format::{Cursor, Item, Log, Result, Sequence};
use tracing::warn;

/// How often an older event is tried where the newest cannot be read or does not tell.
const TRIES_MAX: u32 = 32;

/// The network of the newest stored event that can be read and has one; each try looks twice as far back as the one before.
/// An event that cannot be read is an error only where no other tells the network.
pub(super) fn newest_network(log: &Log) -> Result<Option<String>> {
    let (oldest, head) = (log.oldest(), log.head().next_sequence);
    let mut failure = None;
    for back in (0..TRIES_MAX).map(|doublings| 1_u64 << doublings) {
        let Some(sequence) = head.checked_sub(back).filter(|&sequence| sequence >= oldest) else { break };
        match network_of(log, sequence) {
            Ok(Some(network)) => return Ok(Some(network)),
            Ok(None) => {}
            Err(error) => {
                warn!(sequence, %error, "event cannot be read, trying an older one for the log's network");
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

fn network_of(log: &Log, sequence: Sequence) -> Result<Option<String>> {
    let cursor = Cursor::new(log, sequence).until(sequence.saturating_add(1)).without_large_payloads();
    let Some(run) = cursor.waiting_for_the_device().next_run()? else { return Ok(None) };
    let network = run.items().find_map(|item| match item {
        Item::Event(row, _) => Some(row.network().to_owned()),
        Item::Missing(..) => None,
    });
    Ok(network.filter(|network| !network.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidecar_log_format::storage::Directory;
    use sidecar_log_format::{ApiVersion, Event, Kind, WriteOptions, Writer};

    use super::*;
    use crate::engine::failing_reads::over_failing_reads;

    fn append(writer: &mut Writer, network: &str) {
        let event = Event {
            kind: Kind(1),
            name: "",
            source: "",
            network,
            api_version: ApiVersion::NONE,
            upstream_id: None,
            received: 5,
            payload: "{}",
        };
        writer.append(&event).unwrap();
    }

    #[test]
    fn an_event_that_cannot_be_read_leaves_it_to_an_older_one_to_tell_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened =
            Writer::open(Arc::new(Directory::at(folder.path())), WriteOptions::new("notes", [7; 16], 5)).unwrap();
        for _ in 0..4 {
            append(&mut opened.writer, "main");
            opened.writer.commit().unwrap();
        }
        opened.writer.close().unwrap();
        let (open, reads) = over_failing_reads(folder.path());
        let log = open();
        reads.fail_after(0);
        assert_eq!(newest_network(&log).unwrap().as_deref(), Some("main"));
        let log = open();
        reads.fail(true);
        assert!(newest_network(&log).is_err());
    }

    #[test]
    fn the_network_is_that_of_the_newest_event_that_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened =
            Writer::open(Arc::new(Directory::at(folder.path())), WriteOptions::new("notes", [7; 16], 5)).unwrap();
        assert_eq!(newest_network(&opened.log).unwrap(), None);
        for network in ["main", "main", "test", "", ""] {
            append(&mut opened.writer, network);
        }
        opened.writer.commit().unwrap();
        // Back by 1, 2 and 4: the fourth event from the end is the first that is looked at and has one.
        assert_eq!(newest_network(&opened.log).unwrap().as_deref(), Some("main"));
        append(&mut opened.writer, "test");
        opened.writer.commit().unwrap();
        assert_eq!(newest_network(&opened.log).unwrap().as_deref(), Some("test"));
    }
}
