//! Sizes and times in words: `"128 MiB"`, `"1 day"` and `"none"` become the numbers that the keys mean.
//!
//! This is done in the TOML table, so that everything after this file reads numbers only. Which keys count bytes, seconds
//! or milliseconds is in their descriptions.

use std::cell::OnceCell;

use toml::{Spanned, de::DeValue};

use super::{
    bounds::{GIB, KIB, MIB, PIB, TIB},
    catalogue::SECTIONS,
    description::{KeyDescription, Kind, SectionDescription, Unit},
    document::{Document, for_each_table},
    error::{InvalidValue, NotConstructed, line_at},
};

/// The digits of numbers that were words. They live as long as the document, as its text does.
pub(super) type Digits = OnceCell<Vec<String>>;

/// Replaces every size and time in words in `document`.
pub(super) fn to_numbers<'text>(document: &mut Document<'text>, digits: &'text Digits) -> Result<(), NotConstructed> {
    let text = document.text;
    let mut found = Vec::new();
    for_each_in_words(document, &mut |section, key, value| {
        let words = value.get_ref().as_str().unwrap_or_default();
        let number = number(key, words).map_err(|fix| {
            let (key, line) = (section.path_of(key.name), line_at(text, value.span().start));
            InvalidValue { key, value: format!("'{words}'"), line: Some(line), fix }
        })?;
        found.push(number.to_string());
        Ok(())
    })?;
    let mut digits = digits.get_or_init(|| found).iter();
    for_each_in_words(document, &mut |_, _, value| {
        if let Some(Ok(number)) = digits.next().map(|digits| DeValue::parse(digits)) {
            *value.get_mut() = number.into_inner();
        }
        Ok(())
    })
}

/// The number that `value` means, if it is a text and `key` takes such.
pub(super) fn number_in_words(key: &KeyDescription, value: &DeValue<'_>) -> Option<i64> {
    value.as_str().filter(|_| takes_words(key)).and_then(|words| number(key, words).ok())
}

/// Takes one text that means a number, with its section and key.
type Visit<'a, 'text> =
    dyn FnMut(&SectionDescription, &KeyDescription, &mut Spanned<DeValue<'text>>) -> Result<(), NotConstructed> + 'a;

/// Calls `visit` with each text that means a number.
fn for_each_in_words<'text>(
    document: &mut Document<'text>,
    visit: &mut Visit<'_, 'text>,
) -> Result<(), NotConstructed> {
    SECTIONS.iter().try_for_each(|section| {
        for_each_table(document.root.get_mut(), section.path, &mut |table| {
            for (name, value) in table.iter_mut().filter(|(_, value)| value.get_ref().is_str()) {
                match section.key(name.get_ref()) {
                    Some(key) if takes_words(key) => visit(section, key, value)?,
                    // Reading the document refuses a text in place of a number.
                    _ => {}
                }
            }
            Ok(())
        })
    })
}

fn takes_words(key: &KeyDescription) -> bool {
    match key.kind {
        Kind::Number { unit: Unit::Bytes | Unit::Seconds | Unit::Milliseconds, .. } => true,
        _ => key.takes_none(),
    }
}

/// The number that `words` mean for `key`, or what to write instead.
fn number(key: &KeyDescription, words: &str) -> Result<i64, String> {
    // `off` was the word for that in the first days of retention_age_max.
    if key.takes_none() && (words == "none" || words == "off") {
        return Ok(0);
    }
    let (number, examples) = match key.kind {
        Kind::Number { unit: Unit::Bytes, .. } => (bytes(words), "a number of bytes or a size such as '128 MiB'"),
        Kind::Number { unit: Unit::Seconds, .. } => {
            (whole(words, 1_000_000_000), "a number of whole seconds or a time such as '30 days' or '12h'")
        }
        Kind::Number { unit: Unit::Milliseconds, .. } => {
            (whole(words, 1_000_000), "a number of milliseconds or a time such as '100 ms' or '2 s'")
        }
        _ => (None, "a number"),
    };
    let or_none = if key.takes_none() { ", or to 'none'" } else { "" };
    // Zero days could mean both ends of the range.
    let number = number.filter(|number| *number > 0 || !key.takes_none());
    number.ok_or_else(|| format!("set it to {examples}{or_none}"))
}

/// `128 MiB`, `5kB`. A bare number is none: it belongs outside quotation marks.
fn bytes(words: &str) -> Option<i64> {
    let unit_start = words.find(|digit: char| !digit.is_ascii_digit() && digit != '_')?;
    let (number, unit) = words.split_at_checked(unit_start)?;
    let size = match unit.trim_start().to_ascii_lowercase().as_str() {
        "b" | "bytes" => 1,
        "kib" => KIB,
        "mib" => MIB,
        "gib" => GIB,
        "tib" => TIB,
        "pib" => PIB,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        _ => return None,
    };
    number.replace('_', "").parse::<i64>().ok()?.checked_mul(size)
}

/// `1 day 12h` in units of so many nanoseconds, if that is a whole number.
fn whole(words: &str, nanoseconds: u128) -> Option<i64> {
    let time = humantime::parse_duration(words).ok()?.as_nanos();
    if time % nanoseconds == 0 { i64::try_from(time / nanoseconds).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        description::Origin,
        samples::{EVERY_SECTION, loaded, refused, with},
    };

    fn with_words(key: &str, words: &str) -> String {
        with(EVERY_SECTION, key, toml::Value::String(words.to_owned()))
    }

    #[test]
    fn sizes_and_times_in_words_are_the_numbers_they_mean() {
        for (key, words, number) in [
            ("storage.log.segment_bytes_max", "64 MiB", 64 << 20),
            ("storage.log.segment_bytes_max", "64MB", 64_000_000),
            ("storage.log.free_bytes_min", "1_000 b", 1000),
            ("storage.log.segment_age_max_seconds", "2 days", 2 * 86_400),
            ("storage.log.sync_interval_ms", "2 s", 2000),
            ("storage.log.retention_age_max", "1day 12h", 36 * 3600),
            ("sse_server.connections.delay_between_retries_in_seconds", "1 min", 60),
            ("rpc_server.node_client.exponential_backoff.max_delay_ms", "1500ms", 1500),
        ] {
            let in_words = loaded(&with_words(key, words)).config;
            assert_eq!(in_words, loaded(&with(EVERY_SECTION, key, toml::Value::Integer(number))).config, "{key}");
            assert_ne!(in_words, loaded(EVERY_SECTION).config, "{key} = {words}");
        }
    }

    #[test]
    fn none_is_the_word_for_zero_wherever_a_key_of_ours_may_be_zero() {
        let mut keys = 0;
        for section in &SECTIONS {
            for key in section.keys.iter().filter(|key| key.takes_none()) {
                let path = section.path_of(key.name);
                let zero = loaded(&with(EVERY_SECTION, &path, toml::Value::Integer(0))).config;
                assert_eq!(loaded(&with_words(&path, "none")).config, zero, "{path}");
                keys += 1;
            }
        }
        assert!(keys > 3, "{keys}");
        assert!(refused(&with_words("sse_server.connections.max_attempts", "none")).contains("invalid type: string"));
    }

    #[test]
    fn every_size_and_time_of_ours_takes_words() {
        for section in &SECTIONS {
            for key in section.keys.iter().filter(|key| matches!(key.origin, Origin::New { .. })) {
                let Kind::Number { unit, min, .. } = key.kind else { continue };
                let words = match unit {
                    Unit::Bytes => format!("{} B", min.max(1)),
                    Unit::Seconds => format!("{} s", min.max(1)),
                    Unit::Milliseconds => format!("{} ms", min.max(1)),
                    Unit::Things | Unit::Port => continue,
                };
                loaded(&with_words(&section.path_of(key.name), &words));
            }
        }
    }

    #[test]
    fn words_that_mean_no_number_are_refused_with_key_line_and_examples() {
        for (key, words, examples) in [
            ("storage.log.retention_age_max", "yesterday", "a time such as '30 days' or '12h', or to 'none'"),
            ("storage.log.retention_age_max", "0s", "or to 'none'"),
            ("storage.log.retention_age_max", "30", "a time such as '30 days'"),
            ("storage.log.retention_age_max", "", "a time such as '30 days'"),
            ("storage.log.segment_age_max_seconds", "1500 ms", "a number of whole seconds"),
            ("storage.log.segment_bytes_max", "128", "a number of bytes or a size such as '128 MiB'"),
            ("storage.log.segment_bytes_max", "128 MiX", "a size such as '128 MiB'"),
            ("storage.log.segment_bytes_max", "MiB", "a size such as '128 MiB'"),
            ("storage.log.segment_bytes_max", "9999999999999 PiB", "a size such as '128 MiB'"),
        ] {
            let error = refused(&with_words(key, words));
            assert!(error.contains(&format!("`{key}` is '{words}' (line ")) && error.contains(examples), "{error}");
        }
        let error = refused(&with_words("storage.log.segment_bytes_max", "1 B"));
        assert!(error.contains("`storage.log.segment_bytes_max` is 1 (line "), "{error}");
    }
}
