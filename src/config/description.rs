//! The words and types that describe the file: what a section is, and what each of its keys takes and does.
//!
//! Each file of [`sections`](super::sections) describes its own section, beside the struct that reads it, and
//! [`catalogue`](super::catalogue) lists them all. From these descriptions come the limits that numbers are held to, the
//! commented files, the answers of `sidecar check-config`, and the hints about misspelled keys.

use std::fmt;

use super::bounds::{COUNT_MAX, DAY_SECONDS, GIB, KIB, MIB, MILLISECONDS_MAX, PIB, PORT_MAX, SECONDS_MAX, TIB};

/// A section of the file.
#[derive(Debug)]
pub(super) struct SectionDescription {
    /// Its full path, such as `storage.log`. Empty for the keys before the first section.
    pub(super) path: &'static str,
    /// Whether the file may have any number of such tables, as in `[[sse_server.connections]]`.
    pub(super) is_list: bool,
    /// What it is for.
    pub(super) text: &'static str,
    /// Its keys, in the order of a commented file; without the sections in it.
    pub(super) keys: &'static [KeyDescription],
}

/// A key of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyDescription {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: DefaultValue,
    pub(super) origin: Origin,
    /// What it does. The first sentence is understood alone.
    pub(super) text: &'static str,
    /// The value in a commented file, as TOML, where that is not the default.
    example: Option<&'static str>,
    /// Whether a commented file with every key only shows it, though it has a value.
    left_out: bool,
    /// The environment variable that overrides the key.
    pub(super) variable: Option<&'static str>,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Switch,
    /// Any text.
    Text,
    /// A text that nothing may show.
    Secret,
    /// A file or a folder.
    Path,
    /// An IP address.
    IpAddress,
    /// An IP address or a host name.
    Host,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any list of texts.
    Texts,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// One of these, or a list of them.
    OneOrSeveral(&'static Kind),
    /// A table with keys that only the part itself knows.
    Table,
    /// A whole number from `min` to `max`.
    Number { unit: Unit, min: i64, max: i64 },
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things, which the key names.
    Things,
    /// A TCP port.
    Port,
    Bytes,
    Seconds,
    Milliseconds,
}

/// What a key is when the file does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefaultValue {
    /// The file must have it.
    Required,
    /// This value, as TOML.
    Value(&'static str),
    /// None, or a value that depends on other things: in words.
    Otherwise(&'static str),
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The Casper Sidecar has it too.
    Reference,
    /// The Casper Sidecar has it; here it is accepted and has no effect.
    NoEffect,
    /// Only Sidecar has it, since this version.
    New { since: &'static str },
}

impl KeyDescription {
    /// A key that the Casper Sidecar has too.
    pub(super) const fn reference(name: &'static str, kind: Kind, default: DefaultValue, text: &'static str) -> Self {
        Self { name, kind, default, text, origin: Origin::Reference, example: None, left_out: false, variable: None }
    }

    /// A key that the Casper Sidecar does not have.
    pub(super) const fn new(name: &'static str, kind: Kind, default: DefaultValue, text: &'static str) -> Self {
        Self { origin: Origin::New { since: "0.1.0" }, ..Self::reference(name, kind, default, text) }
    }

    /// A key of the Casper Sidecar that is accepted and has no effect; `text` is why.
    pub(super) const fn no_effect(name: &'static str, kind: Kind, example: &'static str, text: &'static str) -> Self {
        let key = Self::reference(name, kind, DefaultValue::Otherwise("none"), text).with_example(example);
        Self { origin: Origin::NoEffect, ..key }
    }

    /// The same as a key that the Casper Sidecar has too.
    pub(super) const fn in_reference(self) -> Self {
        Self { origin: Origin::Reference, ..self }
    }

    /// The same with this default.
    pub(super) const fn of_reference(self, default: DefaultValue) -> Self {
        Self { default, ..self.in_reference() }
    }

    /// Comments it out in a commented file with every key.
    pub(super) const fn left_out(self) -> Self {
        Self { left_out: true, ..self }
    }

    /// Shows `value`, as TOML, in commented files.
    pub(super) const fn with_example(self, value: &'static str) -> Self {
        Self { example: Some(value), ..self }
    }

    /// Lets the environment variable `name` win over the key.
    pub(super) const fn with_variable(self, name: &'static str) -> Self {
        Self { variable: Some(name), ..self }
    }

    /// The value in a commented file, as TOML.
    pub(super) fn example(&self) -> &'static str {
        match (self.example, self.default) {
            (Some(example), _) => example,
            (None, DefaultValue::Value(default)) => default,
            (None, DefaultValue::Required | DefaultValue::Otherwise(_)) => "",
        }
    }

    /// Whether a commented file with every key only shows it: it has no single default, or turns something on.
    pub(super) fn is_left_out(&self) -> bool {
        self.left_out || matches!(self.default, DefaultValue::Otherwise(_))
    }

    /// Whether `"none"` is another word for 0.
    pub(super) fn takes_none(&self) -> bool {
        let may_be_zero = matches!(self.kind, Kind::Number { min: 0, unit, .. } if unit != Unit::Port);
        may_be_zero && matches!(self.origin, Origin::New { .. })
    }

    /// What it does, in one sentence.
    pub(super) fn summary(&self) -> &'static str {
        self.text.split_once(". ").map_or(self.text, |(first, _)| first).trim_end_matches('.')
    }

    /// What it takes, and what it is without: `1 MiB to 16 GiB, default 128 MiB`. Empty where the text has said all.
    pub(super) fn range(&self) -> String {
        let mut parts = Vec::new();
        match self.kind {
            Kind::Number { unit: Unit::Port, .. } => {}
            // No real value comes near this limit, so it is not named.
            Kind::Number { unit, min, max: COUNT_MAX | SECONDS_MAX | MILLISECONDS_MAX | i64::MAX } => {
                parts.extend((min > 0).then(|| format!("at least {}", Quantity(min, unit))));
            }
            Kind::Number { unit, min, max } => {
                parts.push(format!("{} to {}", Quantity(min, unit), Quantity(max, unit)));
            }
            _ => {}
        }
        match (self.origin, self.default) {
            (Origin::NoEffect, _) => return String::new(),
            (_, DefaultValue::Required) => {}
            (_, DefaultValue::Value(default)) => parts.push(format!("default {}", self.shown(default))),
            (_, DefaultValue::Otherwise(words)) => parts.push(format!("default: {words}")),
        }
        parts.join(", ")
    }

    /// The value `toml` of this key in the form of its limits.
    fn shown(&self, toml: &str) -> String {
        match (self.kind, toml.replace('_', "").parse()) {
            (Kind::Number { unit, .. }, Ok(number)) => Quantity(number, unit).to_string(),
            (Kind::Number { .. }, Err(_)) if toml != "\"none\"" => toml.trim_matches('"').to_owned(),
            (Kind::Words(_) | Kind::Texts | Kind::Table, _) if toml == "[]" || toml == "{}" => "none".to_owned(),
            _ => toml.to_owned(),
        }
    }
}

/// Any number of things from `min` to `max`.
pub(super) const fn count(min: i64, max: i64) -> Kind {
    Kind::Number { unit: Unit::Things, min, max }
}

/// A TCP port; `min` is 0 where that means any free one.
pub(super) const fn port(min: i64) -> Kind {
    Kind::Number { unit: Unit::Port, min, max: PORT_MAX }
}

pub(super) const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Number { unit: Unit::Bytes, min, max }
}

pub(super) const fn seconds(min: i64, max: i64) -> Kind {
    Kind::Number { unit: Unit::Seconds, min, max }
}

pub(super) const fn milliseconds(min: i64, max: i64) -> Kind {
    Kind::Number { unit: Unit::Milliseconds, min, max }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Switch => "true or false",
            Self::Text | Self::Secret => "text",
            Self::Path => "path",
            Self::IpAddress => "IP address",
            Self::Host => "IP address or host name",
            Self::Word(_) => "word",
            Self::Texts => "list of texts",
            Self::Words(_) => "list of words",
            Self::OneOrSeveral(kind) => return write!(formatter, "{kind}, or a list"),
            Self::Table => "table",
            Self::Number { unit: Unit::Things, .. } => "number",
            Self::Number { unit: Unit::Port, .. } => "port",
            Self::Number { unit: Unit::Bytes, .. } => "bytes",
            Self::Number { unit: Unit::Seconds, .. } => "seconds",
            Self::Number { unit: Unit::Milliseconds, .. } => "milliseconds",
        })
    }
}

/// A number with its unit, as an operator writes it: `128 MiB`, `100 ms`.
pub(super) struct Quantity(pub(super) i64, pub(super) Unit);

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, unit) = *self;
        match unit {
            Unit::Things | Unit::Port => write!(formatter, "{number}"),
            Unit::Seconds if number == DAY_SECONDS => write!(formatter, "1 day"),
            Unit::Seconds if number > 0 && number % DAY_SECONDS == 0 => {
                write!(formatter, "{} days", number / DAY_SECONDS)
            }
            Unit::Seconds => write!(formatter, "{number} s"),
            Unit::Bytes if number == 0 => write!(formatter, "0"),
            Unit::Bytes if number == 1 => write!(formatter, "1 byte"),
            Unit::Milliseconds => write!(formatter, "{number} ms"),
            Unit::Bytes => {
                let units = [(PIB, "PiB"), (TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
                match units.into_iter().find(|(size, _)| number % size == 0) {
                    Some((size, name)) => write!(formatter, "{} {name}", number / size),
                    None => write!(formatter, "{number} bytes"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_shown_in_the_largest_unit_that_fits_whole() {
        let bytes = [0, 1, 1024, 1536, 5 * MIB, 2 * PIB].map(|bytes| Quantity(bytes, Unit::Bytes).to_string());
        assert_eq!(bytes, ["0", "1 byte", "1 KiB", "1536 bytes", "5 MiB", "2 PiB"]);
        let seconds = [0, 90, 86_400, 3 * 86_400].map(|seconds| Quantity(seconds, Unit::Seconds).to_string());
        assert_eq!(seconds, ["0 s", "90 s", "1 day", "3 days"]);
    }

    #[test]
    fn the_summary_is_the_first_sentence() {
        let key = |text| KeyDescription::new("x", Kind::Text, DefaultValue::Required, text);
        assert_eq!(key("Does this. And that.").summary(), "Does this");
        assert_eq!(key("Does this.").summary(), "Does this");
    }

    #[test]
    fn the_range_names_limits_and_default() {
        let key = |kind, default| KeyDescription::new("x", kind, default, "X.").range();
        assert_eq!(key(bytes(MIB, GIB), DefaultValue::Value("\"128 MiB\"")), "1 MiB to 1 GiB, default 128 MiB");
        assert_eq!(key(count(1, i64::MAX), DefaultValue::Value("50")), "at least 1, default 50");
        assert_eq!(key(seconds(0, 9), DefaultValue::Value("\"none\"")), "0 s to 9 s, default \"none\"");
        assert_eq!(key(Kind::Switch, DefaultValue::Required), "");
    }
}
