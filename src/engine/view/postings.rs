//! The value of a row: the events that have its key, packed.
//!
//! A posting is the sequence of an event and a number, its *tag*, that says what a look-up wants to know without reading
//! the event. Postings flow in in the order of their sequences, and out in that order. Packed, each is two LEB128 numbers:
//! its sequence less the one before it, and its tag.

use sidecar_log_format::Sequence;

/// One event in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posting {
    pub(super) sequence: Sequence,
    pub(super) tag: u64,
}

/// A row that is not what [`Postings`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A row's value on its way in.
#[derive(Debug, Default)]
pub(super) struct Postings {
    packed: Vec<u8>,
    count: usize,
    last: Sequence,
}

impl Postings {
    /// The value of a stored row, to go on with.
    pub(super) fn stored(packed: &[u8]) -> Result<Self, Malformed> {
        let postings = unpack(packed)?;
        let last = postings.last().map_or(0, |posting| posting.sequence);
        Ok(Self { packed: packed.to_vec(), count: postings.len(), last })
    }

    /// Adds an event behind the last one.
    pub(super) fn push(&mut self, posting: Posting) {
        pack_number(posting.sequence.saturating_sub(self.last), &mut self.packed);
        pack_number(posting.tag, &mut self.packed);
        self.last = posting.sequence;
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }
}

impl FromIterator<Posting> for Postings {
    fn from_iter<I: IntoIterator<Item = Posting>>(postings: I) -> Self {
        let mut packed = Self::default();
        postings.into_iter().for_each(|posting| packed.push(posting));
        packed
    }
}

/// All postings of a row.
pub(super) fn unpack(mut packed: &[u8]) -> Result<Vec<Posting>, Malformed> {
    let mut postings = Vec::with_capacity(packed.len() / 3);
    let mut last: Sequence = 0;
    while !packed.is_empty() {
        let sequence = last.checked_add(unpack_number(&mut packed)?).ok_or(Malformed)?;
        postings.push(Posting { sequence, tag: unpack_number(&mut packed)? });
        last = sequence;
    }
    Ok(postings)
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
        let mut postings: Postings = [Posting { sequence: 1 << 27, tag: 0 }].into_iter().collect();
        let before = postings.packed().len();
        postings.push(Posting { sequence: (1 << 27) + 1, tag: (1 << 21) - 1 });
        assert_eq!(postings.packed().len() - before, 4);
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
            let first: Postings = first.iter().copied().collect();
            let mut both = Postings::stored(first.packed()).unwrap();
            second.iter().for_each(|posting| both.push(*posting));
            prop_assert_eq!(both.len(), postings.len());
            prop_assert_eq!(unpack(both.packed()).unwrap(), postings);
        }

        #[test]
        fn any_bytes_are_postings_or_malformed(packed in proptest::collection::vec(any::<u8>(), 0..64)) {
            let all = unpack(&packed);
            prop_assert_eq!(Postings::stored(&packed).map(|postings| postings.len()), all.map(|all| all.len()));
        }
    }
}
