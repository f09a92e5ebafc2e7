//! The value of a row: the events that have its key, packed.
//!
//! A posting is the sequence of an event and a number, its *tag*, that describes the event to look-ups, so that
//! they need not read it. Postings flow in in the order of their sequences, and out in that order. Packed, each is two LEB128 numbers: its
//! sequence less the one before it, and its tag.

use sidecar_log_format::Sequence;

use crate::engine::derived::RowError;

/// One event in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) sequence: Sequence,
    pub(crate) tag: u64,
}

/// A row that [`Packed`] did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for RowError {
    fn from(_: Malformed) -> Self {
        Self::Malformed("a malformed row".to_owned())
    }
}

/// A row's value on its way in.
#[derive(Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    count: usize,
    last: Sequence,
}

impl Packed {
    /// The value of a stored row, to continue it.
    pub(super) fn stored(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut count, mut last) = (0, 0);
        for posting in unpacked(bytes) {
            last = posting?.sequence;
            count += 1;
        }
        Ok(Self { bytes: bytes.to_vec(), count, last })
    }

    /// Adds an event after the last one.
    pub(super) fn push(&mut self, posting: Posting) {
        pack_number(posting.sequence.saturating_sub(self.last), &mut self.bytes);
        pack_number(posting.tag, &mut self.bytes);
        self.last = posting.sequence;
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromIterator<Posting> for Packed {
    fn from_iter<I: IntoIterator<Item = Posting>>(postings: I) -> Self {
        let mut packed = Self::default();
        postings.into_iter().for_each(|posting| packed.push(posting));
        packed
    }
}

/// All postings of a row.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<Posting>, Malformed> {
    unpacked(bytes).collect()
}

/// The postings of a row, one by one; nothing follows a malformed one.
fn unpacked(mut bytes: &[u8]) -> impl Iterator<Item = Result<Posting, Malformed>> {
    let mut last: Sequence = 0;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let posting = unpack_posting(&mut bytes, last);
        match posting {
            Ok(posting) => last = posting.sequence,
            Err(Malformed) => bytes = &[],
        }
        Some(posting)
    })
}

fn unpack_posting(bytes: &mut &[u8], last: Sequence) -> Result<Posting, Malformed> {
    let sequence = last.checked_add(unpack_number(bytes)?).ok_or(Malformed)?;
    Ok(Posting { sequence, tag: unpack_number(bytes)? })
}

fn pack_number(mut number: u64, packed: &mut Vec<u8>) {
    while number >= 0x80 {
        packed.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    packed.push(number as u8);
}

fn unpack_number(packed: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = packed.split_first().ok_or(Malformed)?;
        *packed = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Malformed);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signature_of_the_next_sequence_takes_four_bytes() {
        let mut postings: Packed = [Posting { sequence: 1 << 27, tag: 0 }].into_iter().collect();
        let before = postings.bytes().len();
        postings.push(Posting { sequence: (1 << 27) + 1, tag: (1 << 21) - 1 });
        assert_eq!(postings.bytes().len() - before, 4);
    }

    proptest! {
        #[test]
        fn what_was_packed_in_two_goes_comes_out(
            deltas in proptest::collection::vec((1..=u64::MAX / 64, any::<u64>()), 0..60),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut sequence = 0;
            let postings: Vec<_> = deltas
                .into_iter()
                .map(|(delta, tag)| {
                    sequence += delta;
                    Posting { sequence, tag }
                })
                .collect();
            let (first, second) = postings.split_at(cut.index(postings.len() + 1));
            let first: Packed = first.iter().copied().collect();
            let mut both = Packed::stored(first.bytes()).unwrap();
            second.iter().for_each(|posting| both.push(*posting));
            prop_assert_eq!(both.len(), postings.len());
            prop_assert_eq!(unpack(both.bytes()).unwrap(), postings);
        }

        #[test]
        fn any_bytes_are_postings_or_malformed(packed in proptest::collection::vec(any::<u8>(), 0..64)) {
            let all = unpack(&packed);
            prop_assert_eq!(Packed::stored(&packed).map(|postings| postings.len()), all.map(|all| all.len()));
        }
    }
}
