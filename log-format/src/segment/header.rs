//! The header of a segment: what it says of itself before its first block.
//!
//! [`SegmentHeader::decode`] believes nothing before the checksum over the whole header fits.

use crate::{
    ApiVersion, ChainValue, Error, Result, Sequence, Timestamp,
    bytes_codec::{Reader, checked, put_checksum, put_version},
    form::{Form, KINDS_MAX},
    head::COPIED_HEADER_BYTES_MAX,
    pieces::read_up_to,
    position::Position,
    storage::File,
    wire::FrameForm,
};

/// The format version that this release writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SIDECLOG";
const FIXED_BYTES: usize = 140;
/// Two bytes: how many the header has.
const LENGTH_AT: usize = 10;
/// After magic, version, length and flags.
const FIXED_FIELDS_AT: usize = 20;
/// The longest header: one of which a copy can be kept.
const HEADER_BYTES_MAX: usize = COPIED_HEADER_BYTES_MAX;
pub(crate) const DIALECT_BYTES: usize = 16;

/// What a segment says of itself before its first block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Which writing of this range it is: compaction counts it up.
    pub(crate) generation: u32,
    /// The zstd level that the blocks of events were compressed again with; 0 while they are as they were committed.
    pub(crate) rewritten_level: u8,
    pub(crate) epoch: u64,
    pub(crate) log_id: [u8; 16],
    pub(crate) dialect: String,
    pub(crate) first_sequence: Sequence,
    pub(crate) created: Timestamp,
    /// What the wire form announced last before the first event.
    pub(crate) version_before: ApiVersion,
    /// The highest that any source had announced.
    pub(crate) version_announced: ApiVersion,
    /// Before the first event.
    pub(crate) chain_before: ChainValue,
    /// How its frames look, and what its kinds are called.
    pub(crate) form: Form,
}

impl SegmentHeader {
    /// The header's bytes. Dialect and kinds are within the limits that [`crate::Writer::open`] checks.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&u32::from(self.rewritten_level).to_le_bytes());
        out.extend_from_slice(&self.form.frames.bits().to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.log_id);
        let mut dialect = self.dialect.as_bytes().to_vec();
        dialect.resize(DIALECT_BYTES, 0);
        out.extend_from_slice(&dialect);
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        put_version(&mut out, self.version_before);
        put_version(&mut out, self.version_announced);
        out.extend_from_slice(&self.chain_before);
        out.extend_from_slice(&(self.form.kinds().len() as u32).to_le_bytes());
        for (number, name) in self.form.kinds() {
            out.push(*number);
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        let length = (out.len() + 4) as u16;
        if let Some(place) = out.get_mut(LENGTH_AT..LENGTH_AT + 2) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        put_checksum(&mut out, 0);
        out
    }

    /// Reads the header and says how many bytes it takes.
    pub(crate) fn read(name: &str, file: &dyn File) -> Result<(SegmentHeader, u64)> {
        let bytes = match read_up_to(name, file, 0, HEADER_BYTES_MAX) {
            // It may be what comes after the header that cannot be read.
            Err(Error::Unreadable { .. }) => {
                let start = read_up_to(name, file, 0, FIXED_BYTES)?;
                let length = start.get(LENGTH_AT..).map_or(0, |bytes| Reader::new(bytes).u16());
                read_up_to(name, file, 0, HEADER_BYTES_MAX.min(length.into()))?
            }
            read => read?,
        };
        Self::decode(name, &bytes)
    }

    /// The place before its first event.
    pub(crate) fn start(&self) -> Position {
        Position {
            next_sequence: self.first_sequence,
            wire_version: self.version_before,
            announced_version: self.version_announced,
            chain: self.chain_before,
        }
    }

    /// Reads the header at the start of `bytes` and says how many of them it takes.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<(SegmentHeader, u64)> {
        let corrupt = |reason: &str| Error::Corrupt { file: name.to_owned(), offset: 0, reason: reason.to_owned() };
        let mut reader = Reader::new(bytes);
        let magic: [u8; 8] = reader.array();
        if magic != MAGIC || bytes.len() < FIXED_BYTES {
            return Err(corrupt("no segment header begins here"));
        }
        let version = reader.u16();
        let length = usize::from(reader.u16());
        let header = bytes.get(..length).ok_or_else(|| corrupt("the header is cut off"))?;
        // Before the version: a damaged byte can look like a newer one.
        let Some(covered) = checked(header).filter(|_| length >= FIXED_BYTES + 4) else {
            return Err(corrupt("the header's checksum does not fit"));
        };
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat { file: name.to_owned(), found: version, known: FORMAT_VERSION });
        }
        let may_ignore = reader.u32();
        let must_understand = reader.u32();
        let Some(frames) = FrameForm::from_bits(must_understand) else {
            let file = name.to_owned();
            return Err(match must_understand {
                0 => Error::UnreleasedFormat { file },
                flags => Error::UnknownFeature { file, offset: 0, flags },
            });
        };
        let mut reader = Reader::new(covered);
        reader.take(FIXED_FIELDS_AT);
        let header = Self::fields(may_ignore, frames, &mut reader);
        if header.dialect.len() > DIALECT_BYTES || header.form.check().is_err() {
            return Err(corrupt("the header has names that no writer gives"));
        }
        Ok((header, length as u64))
    }

    /// The fields after magic, version, length and flags.
    fn fields(may_ignore: u32, frames: FrameForm, reader: &mut Reader<'_>) -> SegmentHeader {
        let [rewritten_level, ..] = may_ignore.to_le_bytes();
        let generation = reader.u32();
        let epoch = reader.u64();
        let log_id = reader.array();
        let dialect = reader.array::<DIALECT_BYTES>();
        let dialect = String::from_utf8_lossy(dialect.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
        let first_sequence = reader.u64();
        let created = reader.u64();
        let version_before = reader.version();
        let version_announced = reader.version();
        let chain_before = reader.array();
        let kind_count = reader.u32().min(KINDS_MAX as u32);
        let kinds = (0..kind_count)
            .map(|_| {
                let number = reader.u8();
                let length = usize::from(reader.u8());
                (number, String::from_utf8_lossy(reader.take(length)).into_owned())
            })
            .collect();
        SegmentHeader {
            generation,
            rewritten_level,
            epoch,
            log_id,
            dialect,
            first_sequence,
            created,
            version_before,
            version_announced,
            chain_before,
            form: Form::new(frames, kinds),
        }
    }
}
