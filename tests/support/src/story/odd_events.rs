//! Events that no story has: the node's end, kinds and shapes that no version of Sidecar knows, texts of a given size.

use rand::distributions::Alphanumeric;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{EventKind, StoryEvent};

/// The node announces that it stops.
pub fn shutdown() -> StoryEvent {
    StoryEvent {
        payload: "\"Shutdown\"".to_owned(),
        kind: EventKind::Shutdown,
        identity: "Shutdown".to_owned(),
        height: None,
    }
}

/// An event of a kind that a later node might bring; `number` makes it unique.
pub fn unknown_kind(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"SomethingNew":{{"number":{number},"of":["a","later","node"]}}}}"#))
}

/// A known kind in an unknown shape; `number` makes it unique.
pub fn unknown_shape(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"BlockAdded":{{"hashes":["{number:064x}"],"block":{{"Version9":[{number}]}}}}}}"#))
}

/// An event whose payload has exactly `bytes` bytes (at least 64); `number` makes it unique.
pub fn of_size(bytes: usize, number: u64) -> StoryEvent {
    let start = format!(r#"{{"Filler":{{"number":{number},"text":""#);
    let end = r#""}}"#;
    let filling = bytes.checked_sub(start.len() + end.len()).expect("the smallest event has 64 bytes");
    let text: String = "the quick brown fox jumps over the lazy dog ".chars().cycle().take(filling).collect();
    unclassified(format!("{start}{text}{end}"))
}

/// Like [`of_size`], but no compressor makes much less than three quarters of it.
pub fn of_random_text(bytes: usize, number: u64) -> StoryEvent {
    let start = format!(r#"{{"Filler":{{"number":{number},"text":""#);
    let end = r#""}}"#;
    let filling = bytes.checked_sub(start.len() + end.len()).expect("the smallest event has 64 bytes");
    let mut rng = StdRng::seed_from_u64(number);
    let text: String = (0..filling).map(|_| char::from(rng.sample(Alphanumeric))).collect();
    unclassified(format!("{start}{text}{end}"))
}

/// An event with text outside ASCII, escapes and characters of all UTF-8 lengths; `number` makes it unique.
pub fn non_ascii(number: u64) -> StoryEvent {
    unclassified(format!(r#"{{"SomethingNew":{{"number":{number},"text":"żółw é 漢字 😀 \"quoted\" \\ \n \u00e9"}}}}"#))
}

/// The same event with its JSON spread over several lines; on the wire each becomes a `data:` line of its own.
pub fn pretty_printed(event: &StoryEvent) -> StoryEvent {
    let value: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
    StoryEvent { payload: serde_json::to_string_pretty(&value).unwrap(), ..event.clone() }
}

fn unclassified(payload: String) -> StoryEvent {
    StoryEvent { identity: payload.clone(), payload, kind: EventKind::Unclassified, height: None }
}
