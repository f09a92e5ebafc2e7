//! The file `oldest`: the first sequence that the log has to hold.
//!
//! Retention writes it before it removes a segment, to distinguish a missing segment from a dropped one. Two slots
//! with a CRC, written in turn; one is whole at any moment.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    Result, Sequence,
    bytes_codec::{Reader, checked, put_checksum},
    error::{Operation, storage_error},
    pieces::{open_if_there, read_up_to, sync_directory},
    storage::{File, Storage},
};

pub(crate) const FILE: &str = "oldest";
const MAGIC: [u8; 4] = *b"OLDS";
const SLOT_BYTES: usize = 32;
/// Slots are a disk sector apart.
const SLOT_DISTANCE: u64 = 512;

/// What one slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldestSlot {
    /// Counts up with every write that was synced.
    counter: u64,
    /// The first sequence that the log has to hold.
    sequence: Sequence,
}

impl OldestSlot {
    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.counter.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        put_checksum(&mut out, 0);
        out.try_into().unwrap_or([0; SLOT_BYTES])
    }

    fn decode(bytes: &[u8]) -> Option<OldestSlot> {
        let mut reader = Reader::new(checked(bytes.get(..SLOT_BYTES)?)?.strip_prefix(&MAGIC)?);
        reader.take(4);
        Some(OldestSlot { counter: reader.u64(), sequence: reader.u64() })
    }

    fn offset(self) -> u64 {
        (self.counter % 2) * SLOT_DISTANCE
    }
}

/// What the file says, and whether it can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OldestState {
    newest: Option<OldestSlot>,
    /// A slot was written and does not decode.
    pub(crate) is_damaged: bool,
}

impl OldestState {
    /// Nothing in the file can be read.
    pub(crate) const DAMAGED: OldestState = OldestState { newest: None, is_damaged: true };

    /// The first sequence that the log has to hold; `None` where there is no whole slot.
    pub(crate) fn sequence(self) -> Option<Sequence> {
        self.newest.map(|slot| slot.sequence)
    }
}

/// Reads the file. To compare it with the segments, list those first: a drop writes this file before it removes any.
pub(crate) fn read(storage: &dyn Storage) -> Result<OldestState> {
    let Some(file) = open_if_there(storage, FILE)? else { return Ok(OldestState::default()) };
    let bytes = read_up_to(FILE, file.as_ref(), 0, SLOT_DISTANCE as usize + SLOT_BYTES)?;
    let mut state = OldestState::default();
    for start in [0, SLOT_DISTANCE as usize] {
        let slot = bytes.get(start..bytes.len().min(start + SLOT_BYTES)).unwrap_or_default();
        match OldestSlot::decode(slot) {
            Some(slot) => state.newest = state.newest.into_iter().chain([slot]).max_by_key(|slot| slot.counter),
            None => state.is_damaged |= slot.iter().any(|&byte| byte != 0),
        }
    }
    Ok(state)
}

/// Where the log begins, as its readers, its writer and its maintenance know it.
#[derive(Default)]
pub(crate) struct Retained {
    from: AtomicU64,
    /// Open while this process holds the writer's lock.
    file: Mutex<Option<OldestFile>>,
}

impl Retained {
    /// The first sequence that the log has to hold.
    pub(crate) fn from(&self) -> Sequence {
        self.from.load(Ordering::Acquire)
    }

    /// Looks at the file, for a reader of a log whose oldest segment begins at `first`.
    pub(crate) fn look(&self, storage: &dyn Storage, first: Sequence) -> Result<()> {
        self.from.store(read(storage)?.sequence().unwrap_or(first), Ordering::Release);
        Ok(())
    }

    /// Opens the file for the holder of the writer's lock, or makes it. The one opened before is closed: it may have been
    /// moved away meanwhile, and a drop recorded there would read as a loss later.
    pub(crate) fn keep(&self, storage: &dyn Storage, first: Sequence) -> Result<()> {
        let file = OldestFile::open(storage, first)?;
        let mut kept = self.lock_file();
        self.from.store(file.sequence(), Ordering::Release);
        *kept = Some(file);
        Ok(())
    }

    /// Records durably that retention drops everything before `sequence`. A log never begins earlier again.
    pub(crate) fn record(&self, storage: &dyn Storage, sequence: Sequence) -> Result<()> {
        let mut kept = self.lock_file();
        if kept.is_none() {
            *kept = Some(OldestFile::open(storage, self.from())?);
        }
        if let Some(file) = kept.as_mut() {
            file.record(sequence.max(file.sequence()))?;
            self.from.store(file.sequence(), Ordering::Release);
        }
        Ok(())
    }

    fn lock_file(&self) -> MutexGuard<'_, Option<OldestFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file.
pub(crate) struct OldestFile {
    file: Arc<dyn File>,
    /// What is on the device for sure.
    slot: OldestSlot,
    /// Whether the other slot has the same sequence, for sure.
    is_in_both: bool,
}

impl OldestFile {
    /// Opens the file for writing and sees to it that the device has what it says. Where it says nothing, the log has to
    /// hold everything from `first` on.
    pub(crate) fn open(storage: &dyn Storage, first: Sequence) -> Result<Self> {
        let state = read(storage)?;
        let Some(slot) = state.newest else { return Self::make(storage, first) };
        let file = storage.open(FILE, true).map_err(storage_error(Operation::Open, FILE))?;
        let mut oldest = OldestFile { file, slot, is_in_both: false };
        // A sync of it may have failed before: then the kernel takes it for written.
        oldest.store(slot)?;
        oldest.record(slot.sequence)?;
        Ok(oldest)
    }

    /// Makes the file, replacing what is there.
    pub(crate) fn make(storage: &dyn Storage, first: Sequence) -> Result<Self> {
        let slot = OldestSlot { counter: 1, sequence: first };
        let file = storage.create(FILE).map_err(storage_error(Operation::Create, FILE))?;
        let mut oldest = OldestFile { file, slot, is_in_both: false };
        oldest.store(slot)?;
        sync_directory(storage)?;
        // The other slot too: a drop on a full device must need no more room.
        oldest.record(first)?;
        Ok(oldest)
    }

    fn sequence(&self) -> Sequence {
        self.slot.sequence
    }

    /// Records durably that the log has to hold everything from `sequence` on, unless that is so already.
    pub(crate) fn lower_to(&mut self, sequence: Sequence) -> Result<()> {
        if sequence < self.sequence() { self.record(sequence) } else { Ok(()) }
    }

    /// Records durably that the log has to hold everything from `sequence` on, and nothing before it. In both slots: one of
    /// them may be damaged later, and must not bring back what the other had replaced.
    pub(crate) fn record(&mut self, sequence: Sequence) -> Result<()> {
        if self.slot.sequence != sequence {
            self.is_in_both = false;
            self.store_next(sequence)?;
        }
        if !self.is_in_both {
            self.store_next(sequence)?;
            self.is_in_both = true;
        }
        Ok(())
    }

    fn store_next(&mut self, sequence: Sequence) -> Result<()> {
        let next = OldestSlot { counter: self.slot.counter.saturating_add(1), sequence };
        self.store(next)?;
        // Only now: a slot that was not synced is written again in the same place, and the other one stays whole.
        self.slot = next;
        Ok(())
    }

    fn store(&self, slot: OldestSlot) -> Result<()> {
        self.file.write_at(&slot.encode(), slot.offset()).map_err(storage_error(Operation::Write, FILE))?;
        self.file.sync().map_err(storage_error(Operation::Sync, FILE))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod doors {
    //! For `crate::fuzzing`.
    use super::*;

    /// A slot that decodes, encoded again, decodes to the same.
    pub(crate) fn check_slot(bytes: &[u8]) {
        if let Some(slot) = OldestSlot::decode(bytes) {
            assert_eq!(OldestSlot::decode(&slot.encode()), Some(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_slot_comes_back_and_no_other_bit_pattern_does(
            (counter, sequence) in any::<(u64, u64)>(),
            flipped in 0..8 * SLOT_BYTES,
        ) {
            let slot = OldestSlot { counter, sequence };
            let mut bytes = slot.encode();
            prop_assert_eq!(OldestSlot::decode(&bytes), Some(slot));
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(OldestSlot::decode(&bytes), None);
        }
    }
}
