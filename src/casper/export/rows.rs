//! What one event writes: a row of `event_log`, and one of its kind's table.
//!
//! An event of the log flows in, an [`EventRow`] borrowed from it flows out. What the values mean is the reference's
//! (its tables are read by people's SQL); how they get into a database is not known here.

use std::borrow::Cow;

use sidecar_log_format::{Kind, Row, Sequence, Timestamp};

use crate::casper::{
    event::{
        BLOCK_ADDED, FAULT, FINALITY_SIGNATURE, SHUTDOWN, STEP, TRANSACTION_ACCEPTED, TRANSACTION_EXPIRED,
        TRANSACTION_PROCESSED,
    },
    keys::{Keys, Stage, TransactionType, keys, rest_payload},
};

/// The rows of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRow<'a> {
    pub(super) sequence: Sequence,
    /// `http://HOST:PORT/` of the node's event stream.
    pub(super) source_address: String,
    /// The id that the node gave it; 0 if it gave none.
    pub(super) event_id: u64,
    pub(super) event_key: Cow<'a, str>,
    pub(super) api_version: String,
    pub(super) network: &'a str,
    /// When the event was received: the tables' `emitted_timestamp`.
    pub(super) received: Timestamp,
    pub(super) content: Content<'a>,
}

/// The row in the table of the event's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Block { height: u64, hash: Cow<'a, str>, raw: Cow<'a, str> },
    Transaction { stage: Stage, transaction_type: i16, hash: Cow<'a, str>, raw: Cow<'a, str> },
    Fault { era: u64, public_key: Cow<'a, str>, raw: Cow<'a, str> },
    Signature { block_hash: Cow<'a, str>, public_key: Cow<'a, str>, raw: Cow<'a, str> },
    Step { era: u64, raw: Cow<'a, str> },
    Shutdown,
}

impl Content<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Block { .. } => BLOCK_ADDED,
            Self::Transaction { stage: Stage::Accepted, .. } => TRANSACTION_ACCEPTED,
            Self::Transaction { stage: Stage::Expired, .. } => TRANSACTION_EXPIRED,
            Self::Transaction { stage: Stage::Processed, .. } => TRANSACTION_PROCESSED,
            Self::Fault { .. } => FAULT,
            Self::Signature { .. } => FINALITY_SIGNATURE,
            Self::Step { .. } => STEP,
            Self::Shutdown => SHUTDOWN,
        }
    }

    /// The event's number in `event_type`: kinds were numbered after it.
    pub(super) fn event_type(&self) -> i16 {
        i16::from(self.kind().0)
    }

    /// The place of its table in [`OF_KINDS`](super::tables::OF_KINDS).
    pub(super) fn table(&self) -> usize {
        usize::from(self.kind().0).saturating_sub(1)
    }
}

/// What the tables say of the event in `row`; `None` where they have no place for it.
pub(super) fn event_row<'a>(row: &Row<'a>, payload: &'a str) -> Option<EventRow<'a>> {
    let kind = row.kind();
    let source_address = format!("http://{}/", row.source());
    let (event_key, content) = match kind {
        SHUTDOWN => (shutdown_key(&source_address, row.received()).into(), Content::Shutdown),
        _ => content(kind, payload)?,
    };
    Some(EventRow {
        sequence: row.sequence(),
        source_address,
        event_id: row.upstream_id().unwrap_or_default(),
        event_key,
        api_version: row.api_version().to_string(),
        network: row.network(),
        received: row.received(),
        content,
    })
}

fn content(kind: Kind, payload: &str) -> Option<(Cow<'_, str>, Content<'_>)> {
    let raw = rest_payload(kind, payload)?;
    Some(match keys(kind, payload)? {
        Keys::Block { hash, height } => (hash.clone(), Content::Block { height, hash, raw }),
        Keys::Transaction { stage, transaction_type, hash, .. } => {
            let transaction_type = match transaction_type {
                TransactionType::Deploy => 0,
                TransactionType::Version1 => 1,
            };
            (hash.clone(), Content::Transaction { stage, transaction_type, hash, raw })
        }
        Keys::Fault { era, public_key } => {
            (format!("{era} {public_key}").into(), Content::Fault { era, public_key, raw })
        }
        Keys::Signature { block_hash, public_key } => {
            (format!("{block_hash} {public_key}").into(), Content::Signature { block_hash, public_key, raw })
        }
        Keys::Step { era } => (era.to_string().into(), Content::Step { era, raw }),
    })
}

/// A shutdown is known by its second, and it is the second in which it was received: with the second of the export, a
/// back-fill would make one of all, and an export gone through again would double them.
fn shutdown_key(source_address: &str, received: Timestamp) -> String {
    format!("{source_address}-{}", received / 1_000_000)
}

#[cfg(test)]
mod tests {
    use sidecar_log_format::{ApiVersion, Event, Opened, Read, WriteOptions, Writer, storage::Directory};
    use std::sync::Arc;

    use super::*;
    use crate::casper::event::{Classified, classify};

    /// The rows of payloads in a log, each with id 7 from one node.
    fn rows_of(payloads: &[&str], look: impl Fn(&[Option<EventRow<'_>>])) {
        let directory = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::create(directory.path()).unwrap());
        let Opened { mut writer, log, .. } = Writer::open(storage, WriteOptions::new("casper", [1; 16], 1)).unwrap();
        for payload in payloads {
            let Ok(Classified::Event(facts)) = classify(payload) else { panic!("not an event: {payload}") };
            let event = Event {
                kind: facts.kind,
                name: "",
                source: "10.0.0.1:9999",
                network: "casper-test",
                api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
                upstream_id: Some(7),
                received: 1_795_321_842_492_000,
                payload,
            };
            writer.append(&event).unwrap();
        }
        writer.commit().unwrap();
        let Read::Events { block, .. } = log.read(0).unwrap() else { panic!("the log has events") };
        let texts: Vec<_> = block.rows().map(|row| String::from_utf8(row.payload().into_owned()).unwrap()).collect();
        look(&block.rows().zip(&texts).map(|(row, text)| event_row(&row, text)).collect::<Vec<_>>());
    }

    #[test]
    fn a_fault_is_keyed_by_era_and_key_with_a_space_between_and_loses_its_wrapper() {
        let payload = r#"{"Fault":{"era_id":18446744073709551615,"public_key":"01ab","timestamp":"x"}}"#;
        rows_of(&[payload], |rows| {
            let row = rows[0].as_ref().unwrap();
            assert_eq!(row.event_key, "18446744073709551615 01ab");
            assert_eq!(row.source_address, "http://10.0.0.1:9999/");
            assert_eq!((row.event_id, row.api_version.as_str(), row.network), (7, "2.0.0", "casper-test"));
            assert_eq!(row.content.event_type(), 5);
            let raw = r#"{"era_id":18446744073709551615,"public_key":"01ab","timestamp":"x"}"#.into();
            assert_eq!(row.content, Content::Fault { era: u64::MAX, public_key: "01ab".into(), raw });
        });
    }

    #[test]
    fn a_shutdown_is_keyed_by_the_second_in_which_it_was_received() {
        rows_of(&["\"Shutdown\""], |rows| {
            let row = rows[0].as_ref().unwrap();
            assert_eq!(row.event_key, "http://10.0.0.1:9999/-1795321842");
            assert_eq!(row.content.event_type(), 8);
        });
    }

    #[test]
    fn unknown_kinds_and_shapes_have_no_table() {
        rows_of(&[r#"{"New":1}"#, r#"{"Fault":{"era_id":"x"}}"#, "7"], |rows| {
            assert_eq!(rows, [None, None, None]);
        });
    }

    #[test]
    fn each_stage_of_a_transaction_has_its_event_type() {
        let accepted = include_str!("../../../tests/data/events/TransactionAccepted.deploy.json").trim_end();
        let expired = include_str!("../../../tests/data/events/TransactionExpired.deploy.json").trim_end();
        let processed = include_str!("../../../tests/data/events/TransactionProcessed.node_version1.json").trim_end();
        rows_of(&[accepted, expired, processed], |rows| {
            let found: Vec<_> = rows.iter().flatten().map(|row| (row.content.event_type(), &row.content)).collect();
            assert_eq!(found.iter().map(|(event_type, _)| *event_type).collect::<Vec<_>>(), [2, 3, 4]);
            let Content::Transaction { raw, transaction_type: 0, .. } = found[0].1 else { panic!("{found:?}") };
            assert!(raw.starts_with(r#"{"transaction":{"Deploy":{"#), "{raw}");
            let Content::Transaction { transaction_type: 1, .. } = found[2].1 else { panic!("{found:?}") };
        });
    }
}
