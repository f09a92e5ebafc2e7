//! Query parameters, decoded, with one rule for those that come more than once: lists add up, the others are refused.
//! And times as parameters have them.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use sidecar_log_format::Timestamp;

/// The parameters of a query, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A parameter that takes one value came several times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is given more than once; give it once")]
pub struct Repeated {
    /// The parameter's name.
    pub name: &'static str,
}

impl<'a> Parameters<'a> {
    /// Decodes a query; without one, there are no parameters.
    #[must_use]
    pub fn parse(query: Option<&'a str>) -> Self {
        Parameters(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// The first name that is not one of `known`.
    #[must_use]
    pub fn unknown(&self, known: &[&str]) -> Option<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).find(|name| !known.contains(name))
    }

    /// The value of a parameter that may come once.
    ///
    /// # Errors
    /// [`Repeated`] when it came more often.
    pub fn single(&self, name: &'static str) -> Result<Option<&str>, Repeated> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Repeated { name }),
            (value, None) => Ok(value),
        }
    }

    /// The last value of a parameter, however often it came.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// The items of a comma-separated list, all its occurrences together; `None` when there is no such parameter.
    pub fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        self.values(name).next()?;
        Some(self.values(name).flat_map(|value| value.split(',')))
    }

    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_ref())
    }
}

/// The year 10000, which RFC 3339 cannot write.
const END_OF_TIME: Timestamp = 253_402_300_800_000_000;

/// Reads a time as RFC 3339 has it, in microseconds since the Unix epoch. A `+` before the offset that came unescaped, as a
/// space, is understood.
#[must_use]
pub fn timestamp(text: &str) -> Option<Timestamp> {
    let (local, offset_minutes) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, minutes_east(offset)?)
        }
    };
    let local = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase()).ok()?;
    let seconds_east = offset_minutes.unsigned_abs() * 60;
    let offset = Duration::from_secs(seconds_east);
    let time = if offset_minutes < 0 { local.checked_add(offset)? } else { local.checked_sub(offset)? };
    let time = u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?;
    (time < END_OF_TIME).then_some(time)
}

fn minutes_east(offset: &str) -> Option<i64> {
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |text: &str, end| text.parse::<u8>().ok().filter(|number| text.len() == 2 && *number < end);
    let east = i64::from(number(hours, 24)?) * 60 + i64::from(number(minutes, 60)?);
    match offset.chars().next()? {
        '+' | ' ' => Some(east),
        '-' => Some(-east),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_comes_twice_adds_up_and_any_other_parameter_is_refused() {
        let parameters = Parameters::parse(Some("types=A,B&from=1&types=C&limit=2&limit=2"));
        assert_eq!(parameters.list("types").unwrap().collect::<Vec<_>>(), ["A", "B", "C"]);
        assert_eq!(parameters.single("from"), Ok(Some("1")));
        assert_eq!(parameters.single("until"), Ok(None));
        let refused = parameters.single("limit").unwrap_err();
        assert_eq!(refused.to_string(), "`limit` is given more than once; give it once");
        assert!(parameters.list("kinds").is_none());
        assert_eq!(parameters.last("types"), Some("C"));
    }

    #[test]
    fn names_and_values_are_decoded_before_they_are_compared() {
        let parameters = Parameters::parse(Some("%74ypes=A%2CB&since=2026-01-01T00%3A00%3A00Z"));
        assert_eq!(parameters.list("types").unwrap().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(parameters.single("since"), Ok(Some("2026-01-01T00:00:00Z")));
        assert_eq!(parameters.unknown(&["types"]), Some("since"));
        assert_eq!(parameters.unknown(&["types", "since"]), None);
        assert_eq!(Parameters::parse(None).unknown(&[]), None);
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let expected = Some(1_767_225_600_000_000);
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01t00:00:00z",
            "2026-01-01T00:00:00.000000Z",
            "2026-01-01T02:00:00+02:00",
            "2026-01-01T02:00:00 02:00",
            "2025-12-31T18:30:00-05:30",
        ] {
            assert_eq!(timestamp(text), expected, "{text}");
        }
        assert_eq!(timestamp("2026-01-01T00:00:00.000001Z"), Some(1_767_225_600_000_001));
        assert_eq!(timestamp("9999-12-31T23:59:59.999999Z"), Some(END_OF_TIME - 1));
        for wrong in [
            "",
            "Z",
            "now",
            "1767225600",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00+2:00",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00ä00:00",
            "1969-12-31T00:00:00Z",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(timestamp(wrong), None, "{wrong}");
        }
    }
}
