//! An event that is too large to be held in memory, and is read in pieces.

use std::{io, sync::Arc};

use crate::{
    ApiVersion, Block, ChainValue, Result, Sequence,
    block::{self, BLOCK_HEADER_BYTES, BlockHeader},
    pieces::PIECE_BYTES,
    segment::{BlockEntry, SegmentFile},
};

/// An event that is read in pieces.
pub struct LargeEvent {
    file: Arc<SegmentFile>,
    offset: u64,
    header: BlockHeader,
    shape: Block,
}

impl std::fmt::Debug for LargeEvent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LargeEvent").field("sequence", &self.header.first_sequence).finish_non_exhaustive()
    }
}

impl LargeEvent {
    /// Nothing is given out before all of it is known to be sound.
    pub(crate) fn open(file: Arc<SegmentFile>, entry: &BlockEntry) -> Result<LargeEvent> {
        let (header, shape) = file.read_shape(entry.offset)?;
        file.check_listed(entry, &header)?;
        file.check_parts(entry.offset, &header)?;
        Ok(LargeEvent { file, offset: entry.offset, header, shape })
    }

    /// Its sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// A block of its shape without the wire bytes: what is known about the event, but its frame and payload are empty.
    #[must_use]
    pub fn shape(&self) -> &Block {
        &self.shape
    }

    /// The API version in force after it.
    #[must_use]
    pub fn version_after(&self) -> ApiVersion {
        self.header.version_after
    }

    /// The chain value after it.
    pub(crate) fn chain_after(&self) -> ChainValue {
        self.header.chain_after
    }

    /// Bytes of its wire form, its version frame included.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.header.payload_raw.into()
    }

    /// Its payload, byte for byte as the source said it, whole in memory.
    ///
    /// # Errors
    /// What the storage answers, and [`crate::Error::Corrupt`] when it gives something else than what was sound before.
    pub fn payload(&self) -> Result<Vec<u8>> {
        let corrupt = |error| self.file.corrupt(self.offset, error);
        let mut stored = vec![0; self.header.stored_bytes() as usize];
        let header = self.file.read_block_into(self.offset, &mut stored)?;
        let parts = stored.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let form = &self.file.header.form;
        let block = Block::decode(&header, form, parts).map_err(corrupt)?;
        let payload = block.row(0).and_then(|row| crate::wire::unfold(form.frames, row.frame()));
        payload.ok_or_else(|| corrupt(block::corrupt("the event's frame is malformed")))
    }

    /// Reads its wire form in pieces; at most the decoder's window of 8 MiB is held in memory.
    ///
    /// # Errors
    /// When the decoder cannot be set up.
    pub fn wire(&self) -> io::Result<impl io::Read + Send + use<>> {
        let start = self.offset + BLOCK_HEADER_BYTES as u64 + u64::from(self.header.table_stored);
        let end = start + u64::from(self.header.payload_stored);
        let stored = PositionedReader { file: Arc::clone(&self.file.file), at: start, end };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(io::BufReader::with_capacity(PIECE_BYTES, stored))?;
        decoder.window_log_max(block::WINDOW_LOG_MAX)?;
        Ok(decoder.single_frame())
    }
}

struct PositionedReader {
    file: Arc<dyn crate::storage::File>,
    at: u64,
    end: u64,
}

impl io::Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
