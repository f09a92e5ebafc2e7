//! Times in RFC 3339, as queries and answers have them: to and from a [`Timestamp`].

use std::fmt::Display;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serializer;
use sidecar_log_format::Timestamp;

/// The last microsecond that RFC 3339 can name: the year 10000 has too many digits.
pub const LAST: Timestamp = 253_402_300_799_999_999;

/// A time in UTC, with microseconds; what is later than [`LAST`] shows as that.
pub fn format(time: Timestamp) -> impl Display {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(time.min(LAST)))
}

/// Serialises a time as [`format()`] writes it.
pub(crate) fn as_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&format(*time)),
        None => serializer.serialize_none(),
    }
}

/// Reads a time as RFC 3339 has it, in microseconds since the Unix epoch. A `+` before the offset that came unescaped, as a
/// space, is understood. Nothing was received before the epoch: an earlier time counts as the epoch, one after [`LAST`] as that.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let (local, offset_minutes) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (local, minutes_east(offset)?)
        }
    };
    let local = local.to_ascii_uppercase();
    let (year, within_year) = local.split_at_checked(4)?;
    let year: u16 = year.parse().ok().filter(|_| year.bytes().all(|digit| digit.is_ascii_digit()))?;
    if year < 1970 {
        // humantime reads none before the epoch. The calendar repeats itself after 400 years.
        let later = year + 400 * (1 + (1970 - year) / 400);
        return humantime::parse_rfc3339_weak(&format!("{later}{within_year}")).ok().map(|_| 0);
    }
    let local = humantime::parse_rfc3339_weak(&local).ok()?;
    let seconds_east = offset_minutes.unsigned_abs() * 60;
    let offset = Duration::from_secs(seconds_east);
    let time = if offset_minutes < 0 { local.checked_add(offset)? } else { local.checked_sub(offset)? };
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp::try_from(since_epoch.as_micros()).unwrap_or(LAST).min(LAST))
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
    fn times_are_written_in_utc_with_microseconds() {
        assert_eq!(format(1_767_225_600_000_001).to_string(), "2026-01-01T00:00:00.000001Z");
        assert_eq!(format(u64::MAX).to_string(), format(LAST).to_string());
        assert_eq!(parse(&format(LAST).to_string()), Some(LAST));
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
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse("2026-01-01T00:00:00.000001Z"), Some(1_767_225_600_000_001));
        assert_eq!(parse("9999-12-31T23:59:59.999999Z"), Some(LAST));
        for early in
            ["1969-12-31T00:00:00Z", "0916-03-10T22:44:38.8Z", "0000-02-29T00:00:00Z", "1970-01-01T00:00:00+02:00"]
        {
            assert_eq!(parse(early), Some(0), "{early}");
        }
        assert_eq!(parse("9999-12-31T23:59:59-00:01"), Some(LAST));
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
            "1969-02-29T00:00:00Z",
            "+969-12-31T00:00:00Z",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
