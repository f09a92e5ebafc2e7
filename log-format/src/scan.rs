//! Finding out what an unsealed segment holds: block by block, from its headers.

use crate::{
    Error, Result,
    block::{self, Block, BlockHeader, BlockType},
    segment::{Footer, SegmentFile},
};

/// What a scan found.
pub(crate) struct Scan {
    /// The blocks so far, as a footer would list them; events are not counted by kind.
    pub(crate) footer: Footer,
    /// Where the last sound block ends.
    pub(crate) end: u64,
    /// Bytes in the middle that are no block, with sound blocks behind them.
    pub(crate) damage: Vec<Error>,
    /// What stands at `end`, when it is neither zeros nor the end of the file.
    pub(crate) tail: Option<Error>,
}

impl Scan {
    pub(crate) fn begin(segment: &SegmentFile) -> Self {
        Scan { footer: Footer::empty(&segment.header), end: segment.blocks_start, damage: Vec::new(), tail: None }
    }

    /// Goes on to the end of the segment, or to `limit`.
    ///
    /// Blocks that end at or before `trusted` were synced, so their headers are enough (a reader checks the parts when it
    /// needs them); behind it every part is checked, because a block there may have been cut short by a crash or a copy.
    pub(crate) fn advance(&mut self, segment: &SegmentFile, trusted: u64, limit: u64) -> Result<()> {
        self.tail = None;
        while self.end < limit {
            match self.next_block(segment, trusted) {
                Ok(Some(header)) if header.block_type == BlockType::FOOTER => break,
                Ok(Some(header)) => {
                    self.footer.add(&header, self.end);
                    self.end += header.stored_bytes();
                }
                Ok(None) => break,
                Err(error @ Error::Corrupt { .. }) => {
                    match segment.find_block_after(self.end + 1, self.footer.end_sequence)? {
                        Some(next) if next < limit => {
                            self.damage.push(error);
                            self.end = next;
                        }
                        _ => {
                            self.tail = Some(error);
                            break;
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next_block(&self, segment: &SegmentFile, trusted: u64) -> Result<Option<BlockHeader>> {
        let Some(header) = segment.read_header(self.end)? else { return Ok(None) };
        let block_end = self.end + header.stored_bytes();
        if header.first_sequence < self.footer.end_sequence {
            let reason = format!(
                "the block begins at sequence {}, but the one before it ends at {}",
                header.first_sequence, self.footer.end_sequence
            );
            return Err(segment.corrupt(self.end, block::corrupt(reason)));
        }
        if block_end > trusted {
            check_parts(segment, self.end, &header)?;
        }
        Ok(Some(header))
    }
}

/// Reads a block's parts and checks them against their checksums.
fn check_parts(segment: &SegmentFile, offset: u64, header: &BlockHeader) -> Result<()> {
    let (header, bytes) = segment.read_block(offset, header.stored_bytes() as u32)?;
    let parts = bytes.get(block::BLOCK_HEADER_BYTES..).unwrap_or_default();
    block::decode_table_part(&header, parts)
        .and_then(|_| block::checked_payload(&header, parts))
        .map(|_| ())
        .map_err(|error| segment.corrupt(offset, error))
}

/// Counts events by kind and source, which headers don't tell, for the footer of a segment whose writer is gone.
pub(crate) fn count_events(segment: &SegmentFile, footer: &mut Footer) -> Result<()> {
    // What its writer has counted since it took the segment over is among the blocks too.
    footer.counts = [0; 64];
    footer.sources.clear();
    let entries: Vec<_> = footer.blocks.iter().filter(|entry| entry.count > 0).copied().collect();
    for entry in entries {
        let (header, bytes) = match segment.read_block(entry.offset, entry.stored_bytes) {
            Ok(read) => read,
            // A damaged block counts for nothing; verify reports it.
            Err(Error::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        let parts = bytes.get(block::BLOCK_HEADER_BYTES..).unwrap_or_default();
        if let Ok(decoded) = Block::decode(&header, parts) {
            for row in decoded.rows() {
                footer.count(row.kind(), row.source());
            }
        }
    }
    Ok(())
}

/// Whether a block holds marks.
pub(crate) fn is_marks(block_type: u8) -> bool {
    block_type == BlockType::MARKS.0
}
