//! From a payload to what makes it this event.
//!
//! The members of the natural key are picked out in one pass, without a copy of the payload. They are compared without
//! quotes and white space and in lower case, so that two clients' ways of writing one value do not matter. What has not
//! the members of its topic, and what is of no known topic, is known by its bytes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sidecar_log_format::Kind;

use super::topics::{self, KnownBy, MEMBERS_MAX};
use crate::engine::dialect::Identity;

/// Beside the number of a topic, in the class of an identity: the event is known by its bytes.
const BY_BYTES: u8 = 0x80;

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) identity: Identity,
    /// Whether its topic is unknown, or it has not the members of its topic.
    pub(super) is_unclassified: bool,
}

/// A payload that is not one JSON value.
#[derive(Debug, thiserror::Error)]
#[error("it is not one JSON value: {0}")]
pub(super) struct Malformed(serde_json::Error);

/// Reads an event of a topic. `name` counts only where the topic has no number.
///
/// # Errors
/// [`Malformed`].
pub(super) fn read(kind: Kind, name: &str, payload: &str) -> Result<Known, Malformed> {
    if let Some(KnownBy::Members { time, always, sometimes }) = topics::of_kind(kind).map(|topic| &topic.known_by)
        && let Some(identity) = of_members(kind, payload, *time, always, sometimes)
    {
        return Ok(Known { identity, is_unclassified: false });
    }
    serde_json::from_str::<IgnoredAny>(payload).map_err(Malformed)?;
    let is_unclassified = !topics::is_news_each_time(kind);
    let name = if kind == Kind::OTHER { name } else { "" };
    Ok(Known { identity: of_bytes(kind, &[name.as_bytes(), payload.as_bytes()]), is_unclassified })
}

/// The identity of an event that is known by these bytes.
pub(super) fn of_bytes(kind: Kind, parts: &[&[u8]]) -> Identity {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    identity(kind.0 | BY_BYTES, 0, &hasher)
}

fn identity(class: u8, time: u64, hasher: &blake3::Hasher) -> Identity {
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    Identity { class, time, hash }
}

fn of_members(
    kind: Kind,
    payload: &str,
    time: Option<&'static str>,
    always: &'static [&'static str],
    sometimes: &'static [&'static str],
) -> Option<Identity> {
    let mut members = Members { paths: [""; MEMBERS_MAX], found: [None; MEMBERS_MAX] };
    let paths = always.iter().chain(sometimes).copied().chain(time);
    members.paths.iter_mut().zip(paths).for_each(|(place, path)| *place = path);
    let mut json = serde_json::Deserializer::from_str(payload);
    Level { members: &mut members, depth: 0, open: u32::MAX }.deserialize(&mut json).ok()?;
    json.end().ok()?;

    let (required, rest) = members.found.split_at_checked(always.len())?;
    let (optional, rest) = rest.split_at_checked(sometimes.len())?;
    let time = match time {
        Some(_) => rest.first().copied().flatten()?.get().trim_matches('"').parse().ok()?,
        None => 0,
    };
    let mut key = Vec::with_capacity(payload.len());
    for member in required {
        push_plain(&mut key, (*member)?);
    }
    for member in optional {
        member.iter().for_each(|member| push_plain(&mut key, member));
        key.push(b'\n');
    }
    Some(identity(kind.0, time, blake3::Hasher::new().update(&key)))
}

/// Appends a value without what differs between writers of the same, and a line feed.
fn push_plain(key: &mut Vec<u8>, value: &RawValue) {
    let plain = value.get().bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'"');
    key.extend(plain.map(|byte| byte.to_ascii_lowercase()));
    key.push(b'\n');
}

/// The members to pick, by their paths, and those that were found.
struct Members<'de> {
    paths: [&'static str; MEMBERS_MAX],
    found: [Option<&'de RawValue>; MEMBERS_MAX],
}

/// One object, `depth` objects below the top.
struct Level<'a, 'de> {
    members: &'a mut Members<'de>,
    depth: usize,
    /// A bit for each path that leads here.
    open: u32,
}

impl<'de> DeserializeSeed<'de> for Level<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Level { members, depth, open } = self;
        while let Some(open) = map.next_key_seed(Key { paths: &members.paths, depth, open })? {
            let is_of = |place: usize| open & (1 << place) != 0;
            let last = members
                .paths
                .iter()
                .enumerate()
                .find(|(place, path)| is_of(*place) && path.split('.').nth(depth + 1).is_none());
            match last.map(|(place, _)| place) {
                Some(place) => {
                    let value = map.next_value()?;
                    if let Some(found) = members.found.get_mut(place) {
                        *found = Some(value);
                    }
                }
                None if open != 0 => map.next_value_seed(Level { members: &mut *members, depth: depth + 1, open })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The name of a member: which of the open paths it is on.
struct Key<'a> {
    paths: &'a [&'static str; MEMBERS_MAX],
    depth: usize,
    open: u32,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = u32;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a member")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<u32, E> {
        let is_on =
            |place: &usize, path: &str| self.open & (1 << place) != 0 && path.split('.').nth(self.depth) == Some(name);
        let on = self.paths.iter().enumerate().filter(|(place, path)| is_on(place, path));
        Ok(on.fold(0, |open, (place, _)| open | 1 << place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::topics::{TOPICS, named};
    use super::*;

    const SAMPLES: &str = include_str!("../../resources/demo/beacon-topics.sse");

    fn samples() -> impl Iterator<Item = (&'static str, &'static str)> {
        SAMPLES
            .split_terminator("\n\n")
            .map(|frame| frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap())
    }

    fn known(topic: &str, payload: &str) -> Known {
        read(named(topic).map_or(Kind::OTHER, |topic| topic.kind), topic, payload).unwrap()
    }

    /// The payload with its members in another order, spaces between them and hexadecimal digits in capitals.
    fn written_otherwise(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members = members.iter().rev();
                let members = members.map(|(name, value)| format!("\"{name}\" :  {}", written_otherwise(value)));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(" , "))
            }
            Value::Array(items) => {
                format!("[ {} ]", items.iter().map(written_otherwise).collect::<Vec<_>>().join(" , "))
            }
            Value::String(text) if text.starts_with("0x") => format!("\"0x{}\"", text[2..].to_uppercase()),
            other => other.to_string(),
        }
    }

    /// Every payload that has another text in one of the strings and booleans of `value`, with the path to it.
    fn changed(value: &Value) -> Vec<(String, Value)> {
        let below = |name: &str, (path, changed): (String, Value)| {
            (if path.is_empty() { name.to_owned() } else { format!("{name}.{path}") }, changed)
        };
        match value {
            Value::Object(members) => {
                let of_member = |(name, member): (&String, &Value)| {
                    let put = |(path, changed_member)| {
                        let mut all = members.clone();
                        all.insert(name.clone(), changed_member);
                        (path, Value::Object(all))
                    };
                    changed(member).into_iter().map(|one| put(below(name, one))).collect::<Vec<_>>()
                };
                members.iter().flat_map(of_member).collect()
            }
            Value::Array(items) => match items.split_first() {
                Some((first, rest)) => {
                    let put = |changed: Value| std::iter::once(changed).chain(rest.iter().cloned()).collect();
                    changed(first).into_iter().map(|(_, first)| (String::new(), Value::Array(put(first)))).collect()
                }
                None => Vec::new(),
            },
            Value::Bool(bool) => vec![(String::new(), Value::Bool(!bool))],
            // A digit before the last, so that a number stays one.
            Value::String(text) => vec![(String::new(), Value::String(format!("{text}1")))],
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_sample_has_the_members_of_its_topic_and_is_the_same_however_it_is_written() {
        for (topic, payload) in samples() {
            let one = known(topic, payload);
            assert!(!one.is_unclassified, "{topic}");
            let value: Value = serde_json::from_str(payload).unwrap();
            assert_eq!(known(topic, &written_otherwise(&value)), one, "{topic}");
        }
    }

    #[test]
    fn an_event_is_another_exactly_when_a_part_of_its_natural_key_is() {
        for (topic, payload) in samples() {
            let one = known(topic, payload);
            let KnownBy::Members { time, always, sometimes } = &named(topic).unwrap().known_by else {
                panic!("{topic}")
            };
            for (path, value) in changed(&serde_json::from_str(payload).unwrap()) {
                let is_key = always.iter().chain(*sometimes).chain(time).any(|known| *known == path);
                let other = known(topic, &value.to_string());
                assert_eq!(other.identity != one.identity, is_key, "{topic}: {path}");
            }
        }
    }

    #[test]
    fn what_has_not_the_members_of_its_topic_is_known_by_its_bytes_and_topics_never_meet() {
        let by_bytes = known("head", r#"{"slot":"1"}"#);
        assert!(by_bytes.is_unclassified);
        assert_ne!(by_bytes.identity, known("head", r#"{"slot": "1"}"#).identity);
        let all = TOPICS.iter().map(|topic| known(topic.name, r#"{"slot":"1"}"#).identity);
        let all: std::collections::HashSet<_> =
            all.chain([known("a", "1").identity, known("b", "1").identity]).collect();
        assert_eq!(all.len(), TOPICS.len() + 2);
        for malformed in ["", "{", r#"{"slot":"1","block":"0x"}}"#, "nothing", "{} {}"] {
            assert!(read(Kind(1), "", malformed).is_err(), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_malformed_and_malformed_only_if_it_is_not_json(
            number in 0_u8..=63,
            payload in prop_oneof![
                ".{0,80}",
                "\\{(\"(slot|block|epoch|data|message)\":(\"[0-9a-fx]{0,6}\"|[0-9]{1,3}|\\{\"slot\":\"1\"\\}|\\[\\])(,|)){0,4}\\}",
            ],
        ) {
            let read = read(Kind(number), "", &payload);
            prop_assert_eq!(read.is_ok(), serde_json::from_str::<IgnoredAny>(&payload).is_ok());
        }
    }
}
