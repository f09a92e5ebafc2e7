//! Which log ids belong to: the log's id, and the epoch, which changes when ids may have been given out twice.

use std::fmt;

use sidecar_log_format::Log;

/// A log's name, as the header `sidecar-log` and the field `log` have it: `ID` or `ID;epoch=N`, the id in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName {
    id: [u8; 16],
    epoch: Option<u64>,
}

impl LogName {
    /// The full name of a log.
    #[must_use]
    pub fn of(log: &Log) -> LogName {
        LogName { id: log.id(), epoch: Some(log.head().epoch) }
    }

    /// Reads a name in this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<LogName> {
        let (id, epoch) = match text.split_once(";epoch=") {
            Some((id, epoch)) => (id, Some(epoch.parse().ok()?)),
            None => (text, None),
        };
        let mut name = LogName { id: [0; 16], epoch };
        hex::decode_to_slice(id, &mut name.id).ok()?;
        Some(name)
    }

    /// Whether this names the log that `other` names, as far as both say.
    #[must_use]
    pub fn matches(&self, other: &LogName) -> bool {
        self.id == other.id && self.epoch.zip(other.epoch).is_none_or(|(one, another)| one == another)
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.id))?;
        self.epoch.map_or(Ok(()), |epoch| write!(out, ";epoch={epoch}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn a_name_matches_with_or_without_its_epoch() {
        let name = |text: &str| LogName::parse(text).unwrap();
        let full = name(&format!("{ID};epoch=2"));
        assert_eq!(full.to_string(), format!("{ID};epoch=2"));
        assert!(full.matches(&name(ID)) && name(&ID.to_uppercase()).matches(&full));
        assert!(!full.matches(&name(&format!("{ID};epoch=3"))));
        assert!(!full.matches(&name(&ID.replace("0f", "10"))));
        for wrong in ["", "1", &ID[1..], &format!("{ID}0"), &format!("{ID};epoch="), &format!("{ID};generation=1")] {
            assert_eq!(LogName::parse(wrong), None, "{wrong}");
        }
    }
}
