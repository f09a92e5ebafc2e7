//! The file `head`: the last durable, visible position.
//!
//! Two slots with a CRC, written in turn after each sync and before publication, so that one is whole at any moment.
//! It is not synced itself: after a power cut it may be older than the log, never newer than what was synced.

use std::{io, sync::Arc};

use crate::{
    ChainValue, Result, Sequence,
    bytes_codec::{Reader, checked, put_checksum},
    error::{Operation, storage_error},
    pieces::{open_if_there, read_up_to, sync_directory},
    storage::{File, FileIdentity, Storage},
};

pub(crate) const FILE: &str = "head";
const MAGIC: [u8; 4] = *b"HEAD";
const SLOT_BYTES: usize = 96;
/// Slots are a disk sector apart.
const SLOT_DISTANCE: u64 = 512;
/// Where the copy of the newest segment's header is.
const COPY_AT: u64 = 1024;
const COPY_MAGIC: [u8; 4] = *b"SEGH";
/// Magic, length and checksum.
const COPY_FIXED_BYTES: usize = 12;
/// How long a header may be whose copy is kept.
pub(crate) const COPIED_HEADER_BYTES_MAX: usize = 8192;

/// A position in the log, as the head file stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadSlot {
    /// Counts up with every write.
    pub(crate) counter: u64,
    /// The sequence after the last durable event.
    pub(crate) next_sequence: Sequence,
    /// The first sequence of the segment it is in.
    pub(crate) segment: Sequence,
    /// Where the last durable block of that segment ends.
    pub(crate) offset: u64,
    /// The chain value after the last durable event.
    pub(crate) chain: ChainValue,
    pub(crate) epoch: u64,
    /// Of the head file: a copied head does not speak for the copy.
    pub(crate) file_identity: FileIdentity,
    /// The log was closed in order.
    pub(crate) clean: bool,
    /// The log was written without syncs: after a power cut, sequences beyond this head may have been given out.
    pub(crate) unsynced: bool,
}

const FLAG_CLEAN: u32 = 1;
const FLAG_UNSYNCED: u32 = 2;

impl HeadSlot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&MAGIC);
        let flags = if self.clean { FLAG_CLEAN } else { 0 } | if self.unsynced { FLAG_UNSYNCED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        let inode = self.file_identity.inode;
        for number in [self.counter, self.next_sequence, self.segment, self.offset, self.epoch, inode] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.file_identity.born.to_le_bytes());
        put_checksum(&mut out, 0);
        out.try_into().unwrap_or([0; SLOT_BYTES])
    }

    fn decode(bytes: &[u8]) -> Option<HeadSlot> {
        let mut reader = Reader::new(checked(bytes.get(..SLOT_BYTES)?)?.strip_prefix(&MAGIC)?);
        let flags = reader.u32();
        let [counter, next_sequence, segment, offset, epoch, inode] = std::array::from_fn(|_| reader.u64());
        Some(HeadSlot {
            counter,
            next_sequence,
            segment,
            offset,
            epoch,
            chain: reader.array(),
            file_identity: FileIdentity { inode, born: reader.u32() },
            clean: flags & FLAG_CLEAN != 0,
            unsynced: flags & FLAG_UNSYNCED != 0,
        })
    }
}

/// What the head file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadState {
    /// There is none, or no whole slot.
    Missing,
    /// It was written where it is.
    Own(HeadSlot),
    /// It came here with a copy of the log; the copy's segments may be older than it.
    Copied(HeadSlot),
}

impl HeadState {
    /// Where the durable blocks of the newest segment end, which begins at `newest`; `None` where the head does not speak
    /// of it, so that all that is found there counts.
    pub(crate) fn durable_end(&self, newest: Sequence) -> Option<u64> {
        match self {
            HeadState::Own(slot) if slot.segment == newest => Some(slot.offset),
            // The segment was begun after this head was written: nothing in it is visible yet.
            HeadState::Own(slot) if slot.segment < newest && slot.next_sequence <= newest => Some(0),
            HeadState::Own(_) | HeadState::Copied(_) | HeadState::Missing => None,
        }
    }

    /// The slot, unless it came here with a copy.
    pub(crate) fn own(&self) -> Option<&HeadSlot> {
        match self {
            HeadState::Own(slot) => Some(slot),
            HeadState::Missing | HeadState::Copied(_) => None,
        }
    }

    pub(crate) fn slot(&self) -> Option<&HeadSlot> {
        match self {
            HeadState::Missing => None,
            HeadState::Own(slot) | HeadState::Copied(slot) => Some(slot),
        }
    }
}

/// Reads the head file.
pub(crate) fn read(storage: &dyn Storage) -> Result<HeadState> {
    let Some(file) = open_if_there(storage, FILE)? else { return Ok(HeadState::Missing) };
    let bytes = read_up_to(FILE, file.as_ref(), 0, SLOT_DISTANCE as usize + SLOT_BYTES)?;
    let newest = [0, SLOT_DISTANCE as usize]
        .into_iter()
        .filter_map(|start| HeadSlot::decode(bytes.get(start..)?))
        .max_by_key(|slot| slot.counter);
    let identity = file.identity().map_err(storage_error(Operation::Read, FILE))?;
    Ok(match newest {
        None => HeadState::Missing,
        Some(slot) if slot.file_identity.is_same_file(identity) => HeadState::Own(slot),
        Some(slot) => HeadState::Copied(slot),
    })
}

/// The copy of the newest segment's header, as it is stored there; `None` if there is none, or a damaged one.
pub(crate) fn segment_header(storage: &dyn Storage) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_if_there(storage, FILE)? else { return Ok(None) };
    Ok(copy_of_header(&read_copy(file.as_ref())?).map(<[u8]>::to_vec))
}

/// The bytes where the copy of a header is.
fn read_copy(file: &dyn File) -> Result<Vec<u8>> {
    read_up_to(FILE, file, COPY_AT, COPY_FIXED_BYTES + COPIED_HEADER_BYTES_MAX)
}

/// The header in a copy whose checksum fits.
fn copy_of_header(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes.strip_prefix(&COPY_MAGIC)?);
    let length = usize::try_from(reader.u32()).ok().filter(|&length| length <= COPIED_HEADER_BYTES_MAX)?;
    checked(bytes.get(..COPY_FIXED_BYTES + length)?)?.get(COPY_MAGIC.len() + 4..)
}

/// Where the head file has slots, or the copy of a header, that were written and do not decode, or that cannot be read.
pub(crate) fn damaged_places(storage: &dyn Storage) -> Result<Vec<u64>> {
    let Some(file) = open_if_there(storage, FILE)? else { return Ok(Vec::new()) };
    let mut damaged = Vec::new();
    for offset in [0, SLOT_DISTANCE, COPY_AT] {
        let read = match offset {
            COPY_AT => read_copy(file.as_ref()),
            _ => read_up_to(FILE, file.as_ref(), offset, SLOT_BYTES),
        };
        let is_sound = match read {
            Err(error) if error.is_bad_bytes() => false,
            Err(error) => return Err(error),
            Ok(bytes) if bytes.iter().all(|&byte| byte == 0) => true,
            Ok(bytes) if offset == COPY_AT => copy_of_header(&bytes).is_some(),
            Ok(bytes) => HeadSlot::decode(&bytes).is_some(),
        };
        if !is_sound {
            damaged.push(offset);
        }
    }
    Ok(damaged)
}

/// Writes the head file.
pub(crate) struct HeadFile {
    file: Arc<dyn File>,
    identity: FileIdentity,
    counter: u64,
    /// What was written last.
    last: Option<HeadSlot>,
}

impl HeadFile {
    /// Opens the file for writing, continuing from counter `counter`.
    pub(crate) fn open(storage: &dyn Storage, counter: u64) -> Result<Self> {
        let file = match storage.open(FILE, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = storage.create(FILE).map_err(storage_error(Operation::Create, FILE))?;
                sync_directory(storage)?;
                file
            }
            result => result.map_err(storage_error(Operation::Open, FILE))?,
        };
        let identity = file.identity().map_err(storage_error(Operation::Read, FILE))?;
        Ok(HeadFile { file, identity, counter, last: None })
    }

    /// What [`File::identity`] says of it.
    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Writes the next slot; `slot.counter` and `slot.file_identity` are filled in.
    pub(crate) fn write(&mut self, slot: HeadSlot) -> Result<()> {
        let slot = HeadSlot { counter: self.counter.saturating_add(1), file_identity: self.identity, ..slot };
        let offset = (slot.counter % 2) * SLOT_DISTANCE;
        self.file.write_at(&slot.encode(), offset).map_err(storage_error(Operation::Write, FILE))?;
        // Only now: a write that failed is tried again in the same slot, and the other one stays whole.
        self.counter = slot.counter;
        self.last = Some(slot);
        Ok(())
    }

    /// Writes a copy of the newest segment's header: until that segment has a footer, a damaged header can be read from
    /// nowhere else. Not durable before [`HeadFile::sync`].
    pub(crate) fn copy_segment_header(&self, header: &[u8]) -> Result<()> {
        let mut bytes = COPY_MAGIC.to_vec();
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(header);
        put_checksum(&mut bytes, 0);
        self.file.write_at(&bytes, COPY_AT).map_err(storage_error(Operation::Write, FILE))
    }

    /// Says of what was written last that the log was closed in order after it.
    pub(crate) fn write_clean(&mut self) -> Result<()> {
        self.last.map_or(Ok(()), |last| self.write(HeadSlot { clean: true, ..last }))
    }

    /// Makes it durable; not for the hot path.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync().map_err(storage_error(Operation::Sync, FILE))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod doors {
    //! For `crate::fuzzing`.
    use super::*;

    /// A slot that decodes, encoded again, decodes to the same.
    pub(crate) fn check_slot(bytes: &[u8]) {
        if let Some(slot) = HeadSlot::decode(bytes) {
            assert_eq!(HeadSlot::decode(&slot.encode()), Some(slot));
        }
    }

    /// The file that the first slot of a head file names.
    pub(crate) fn identity_in(bytes: &[u8]) -> Option<FileIdentity> {
        HeadSlot::decode(bytes).map(|slot| slot.file_identity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_slot_comes_back_and_no_other_bit_pattern_does(
            numbers in any::<[u64; 6]>(),
            born in any::<u32>(),
            chain in any::<[u8; 32]>(),
            (clean, unsynced) in any::<(bool, bool)>(),
            flipped in 0..8 * SLOT_BYTES,
        ) {
            let [counter, next_sequence, segment, offset, epoch, inode] = numbers;
            let file_identity = FileIdentity { inode, born };
            let slot = HeadSlot {
                counter, next_sequence, segment, offset, chain, epoch, file_identity, clean, unsynced,
            };
            let mut bytes = slot.encode();
            prop_assert_eq!(HeadSlot::decode(&bytes), Some(slot));
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(HeadSlot::decode(&bytes), None);
        }
    }
}
