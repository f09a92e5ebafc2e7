//! Events that were recorded, not made: a whole network's life, a transcript of the reference, and single samples.

use crate::repository;

/// The recorded network: ids and payloads in the order in which a real node sent them, from genesis to shutdown.
/// Before them the node announced the version 2.0.0.
pub fn recorded_network() -> Vec<(u64, String)> {
    let compressed = std::fs::File::open(repository().join("resources/demo/devnet-events.sse.zst")).unwrap();
    let stream = String::from_utf8(zstd::decode_all(compressed).unwrap()).unwrap();
    let with_id = |frame: &str| {
        let (payload, id) = frame.strip_prefix("data:")?.split_once("\nid:")?;
        Some((id.parse().unwrap(), payload.to_owned()))
    };
    stream.split("\n\n").filter_map(with_id).collect()
}

/// What the scripted node of the transcript sent: ids and payloads. Event 9 repeats event 5.
pub fn transcript_events() -> Vec<(u64, String)> {
    let table = String::from_utf8(transcript("node-events.tsv")).unwrap();
    table
        .lines()
        .map(|line| {
            let (id, payload) = line.split_once('\t').unwrap();
            (id.parse().unwrap(), payload.to_owned())
        })
        .collect()
}

/// A file of the transcript: what a client of the reference got, for example `events.stream`.
pub fn transcript(file: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/data/transcript").join(file)).unwrap()
}

/// What a 1.x client gets of the recorded network from `/events/NAME?start_from=0`. It was made by a second implementation
/// of the translation, which shares nothing with Sidecar's.
pub fn legacy_network(name: &str) -> Vec<u8> {
    let path = repository().join("tests/data/legacy").join(format!("devnet-{name}.stream.zst"));
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

/// The SQL that makes the SQLite database which the reference of the transcript left: its tables and ten events.
pub fn sqlite_dump() -> String {
    let dump = String::from_utf8(transcript("sqlite-dump.sql")).unwrap();
    dump.replace("'TIMESTAMP'", "'2026-01-02 03:04:05'").replace("NODE:SSEPORT", "10.0.0.1:9999")
}

/// All sample payloads with their names, for example `BlockAdded.node_plain`, sorted by name.
pub fn samples() -> Vec<(String, String)> {
    let mut samples: Vec<_> = std::fs::read_dir(repository().join("tests/data/events"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let payload = std::fs::read_to_string(&path).unwrap().trim_end().to_owned();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), payload)
        })
        .collect();
    samples.sort();
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_network_is_complete() {
        let events = recorded_network();
        assert_eq!(events.len(), 3_905);
        assert!(events.iter().zip(0..).all(|((id, _), expected)| *id == expected), "the ids have no holes");
        assert_eq!(events.last().unwrap().1, "\"Shutdown\"");
        assert!(events.iter().all(|(_, payload)| serde_json::from_str::<serde_json::Value>(payload).is_ok()));
    }

    #[test]
    fn the_transcript_repeats_one_event() {
        let events = transcript_events();
        assert_eq!(events.len(), 11);
        assert_eq!(events[9].1, events[5].1);
        assert!(transcript("events.stream").ends_with(b"data:\"Shutdown\"\nid:9\n\n"));
    }

    #[test]
    fn there_is_a_sample_of_every_kind() {
        let names: Vec<String> = samples().into_iter().map(|(name, _)| name).collect();
        for kind in ["BlockAdded", "Fault", "FinalitySignature", "Step", "TransactionProcessed", "Shutdown"] {
            assert!(names.iter().any(|name| name.starts_with(kind)), "{kind} is missing in {names:?}");
        }
    }
}
