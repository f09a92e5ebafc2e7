//! Reading and writing fixed-width little-endian fields, and hexadecimal digits for people.

use crate::{ApiVersion, ChainValue};

/// Reads fields off the front of a slice whose length the caller has checked; reads zeros past its end.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn version(&mut self) -> ApiVersion {
        ApiVersion { major: self.u32(), minor: self.u32(), patch: self.u32() }
    }
}

pub(crate) fn put_version(out: &mut Vec<u8>, version: ApiVersion) {
    out.extend_from_slice(&version.major.to_le_bytes());
    out.extend_from_slice(&version.minor.to_le_bytes());
    out.extend_from_slice(&version.patch.to_le_bytes());
}

/// Appends the CRC-32 of the bytes from `start` on.
pub(crate) fn put_checksum(out: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The bytes before the last four, if those are their CRC-32.
pub(crate) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (covered, crc) = bytes.split_last_chunk()?;
    (crc32fast::hash(covered).to_le_bytes() == *crc).then_some(covered)
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a chain value of 64 hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<ChainValue> {
    let mut value = ChainValue::default();
    if text.len() != 2 * value.len() {
        return None;
    }
    for (place, at) in value.iter_mut().zip((0..text.len()).step_by(2)) {
        *place = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(value)
}
