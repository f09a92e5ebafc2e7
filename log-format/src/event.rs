//! The log's vocabulary: what an event is, and the plain types that describe one.

use std::{fmt, num::ParseIntError, str::FromStr};

/// The global id of an event in its log: no holes but marked ones, never reused; also the SSE `id:`.
pub type Sequence = u64;

/// Microseconds since the Unix epoch.
pub type Timestamp = u64;

/// The kind of an event: a number that the log's dialect gives it, 1 to 62, or [`Kind::OTHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub u8);

impl Kind {
    /// Any kind that the dialect has no number for.
    pub const OTHER: Kind = Kind(63);

    /// The kind's bit in a block's kinds bitmap; every kind without a bit of its own shares the last.
    #[must_use]
    pub fn bit(self) -> u64 {
        1 << self.0.min(Self::OTHER.0)
    }
}

/// The version of the source's API that an event was announced under; ordered. All zero: none known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Patch number.
    pub patch: u32,
}

impl ApiVersion {
    /// No version is known.
    pub const NONE: ApiVersion = ApiVersion { major: 0, minor: 0, patch: 0 };

    /// Whether no version is known.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is not a version `major.minor.patch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiVersionError {
    /// There are not exactly three parts between the dots.
    #[error("version has not the form major.minor.patch")]
    Form,
    /// A part is not a number that fits 32 bits.
    #[error("version has a part that is not a number: {0}")]
    Number(#[from] ParseIntError),
}

impl FromStr for ApiVersion {
    type Err = ApiVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some(major), Some(minor), Some(patch), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ApiVersionError::Form);
        };
        Ok(Self { major: major.parse()?, minor: minor.parse()?, patch: patch.parse()? })
    }
}

/// An event to append: what a source said, and what is known about the saying.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The kind, in the log's dialect.
    pub kind: Kind,
    /// Its name; empty for that of its kind. At most 255 bytes on one line.
    pub name: &'a str,
    /// Which source said it, for instance `127.0.0.1:9999`; at most 255 bytes.
    pub source: &'a str,
    /// The network it belongs to; at most 255 bytes.
    pub network: &'a str,
    /// The API version that the source had announced.
    pub api_version: ApiVersion,
    /// The id that the source gave it.
    pub upstream_id: Option<u64>,
    /// When it was received.
    pub received: Timestamp,
    /// The payload, never re-serialized. UTF-8 without carriage returns.
    pub payload: &'a str,
}

impl<'a> Event<'a> {
    /// An event of which nothing else is known.
    #[must_use]
    pub fn new(kind: Kind, received: Timestamp, payload: &'a str) -> Self {
        Event {
            kind,
            name: "",
            source: "",
            network: "",
            api_version: ApiVersion::NONE,
            upstream_id: None,
            received,
            payload,
        }
    }
}

/// What a [`Mark`] says. Unknown numbers are kept and skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MarkKind(pub u8);

impl MarkKind {
    /// Events that no source has any more. Body: what it counts and between which numbers, both included:
    /// `{"of":"height","from":…,"to":…}`, `{"of":"time",…}` in microseconds since the Unix epoch.
    pub const GAP: MarkKind = MarkKind(1);
    /// A source announced a higher API version. Body: `{"version":"2.1.0"}`.
    pub const VERSION: MarkKind = MarkKind(2);
    /// A later copy of a stored event that carries more than the stored one. Body: `{"reason":…,"payload":…}`.
    pub const AMENDMENT: MarkKind = MarkKind(3);
    /// Visible events were lost: sequences `from` to `to`, both included, name nothing any more. Body: `{"from":…,"to":…,"reason":…}`.
    pub const LOSS: MarkKind = MarkKind(4);
    /// An import begins or ends here.
    pub const IMPORT: MarkKind = MarkKind(5);
    /// What makes an event this event, where its payload does not show it. Body: `{"sequence":…,"class":…,"time":…,"hash":…}`.
    /// See [`crate::Writer::mark_ahead`].
    pub const IDENTITY: MarkKind = MarkKind(6);

    /// The kind's bit in the kinds bitmap of a block of marks, as [`Kind::bit`] is that of an event's kind.
    #[must_use]
    pub fn bit(self) -> u64 {
        Kind(self.0).bit()
    }

    /// The name, as tools print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GAP => "gap",
            Self::VERSION => "version",
            Self::AMENDMENT => "amendment",
            Self::LOSS => "loss",
            Self::IMPORT => "import",
            Self::IDENTITY => "identity",
            _ => "unknown",
        }
    }
}

/// Something durable without a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it says.
    pub kind: MarkKind,
    /// The sequence that the next event had when the mark was made.
    pub position: Sequence,
    /// Which source it is about; empty when about none.
    pub source: String,
    /// When it was made.
    pub received: Timestamp,
    /// One JSON object on one line.
    pub body: String,
}
