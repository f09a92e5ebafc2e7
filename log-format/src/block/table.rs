//! The table of a block: what is known about each event, one row per event.
//!
//! Stored column by column, because columns compress to a few bytes a row, as an rkyv archive that is checked once and
//! then read in place. Every value is absolute, or relative to what the block's header and the row's own sequence
//! say: no row needs the ones before it, except for the place of its frame, which [`Rows`] adds up when it is opened.

use rkyv::rancor;
use yoke::Yoke;

use super::header::{BlockError, BlockHeader, BlockType, corrupt};
use crate::{ApiVersion, FrameForm, wire};

/// A block is closed at this many names, versions or rises, which are numbered with 16 bits and searched one by one.
pub(super) const BLOCK_NAMES_MAX: usize = 1024;

/// The payload was folded over lines or shifted by a space.
pub(super) const FLAG_FOLDED: u8 = 1;
/// The source gave the event an id.
pub(super) const FLAG_UPSTREAM_ID: u8 = 2;

/// The table as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize)]
pub(super) struct Table {
    /// Sources, networks and names of events, by number.
    pub(super) names: Vec<String>,
    /// API versions, by number.
    pub(super) versions: Vec<[u32; 3]>,
    /// Rows with a version frame before their own.
    pub(super) rises: Vec<Rise>,
    pub(super) payload_length: Vec<u32>,
    /// Length of the frame beyond that of the payload.
    pub(super) frame_extra: Vec<u32>,
    pub(super) kind: Vec<u8>,
    pub(super) flags: Vec<u8>,
    /// The event's own name; an empty one means that of its kind.
    pub(super) name: Vec<u16>,
    pub(super) source: Vec<u16>,
    pub(super) network: Vec<u16>,
    pub(super) api_version: Vec<u16>,
    /// Wrapping difference to the event's sequence, which is the same for a long run of events of one source.
    pub(super) upstream_id: Vec<u64>,
    /// Difference to the least receive time in the block's header.
    pub(super) received: Vec<u64>,
}

/// A version frame is before the frame of this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize)]
pub(super) struct Rise {
    pub(super) row: u32,
    pub(super) version: [u32; 3],
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.kind.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.names.len() >= BLOCK_NAMES_MAX
            || self.versions.len() >= BLOCK_NAMES_MAX
            || self.rises.len() >= BLOCK_NAMES_MAX
    }

    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        rkyv::api::high::to_bytes_in::<_, rancor::Error>(self, Vec::new()).map_err(std::io::Error::other)
    }
}

/// A checked table, and where the frame of each row begins.
pub(super) struct Rows {
    table: Yoke<&'static ArchivedTable, Vec<u8>>,
    /// Where each row begins, its version frame included, and where the last one ends.
    bounds: Vec<u32>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rows").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Rows {
    /// Checks the table of a block whose wire form has `payload_length` bytes.
    pub(super) fn open(
        header: &BlockHeader,
        frames: FrameForm,
        table: Vec<u8>,
        payload_length: usize,
    ) -> Result<Self, BlockError> {
        let table = Yoke::<&'static ArchivedTable, _>::try_attach_to_cart(table, |bytes: &[u8]| {
            rkyv::access::<ArchivedTable, rancor::Error>(bytes)
        });
        let table = table.map_err(|error| corrupt(format!("the table does not decode: {error}")))?;
        let checked = *table.get();
        checked.check_columns(header.count as usize)?;
        checked.check_rises(header, frames)?;
        let bounds = checked.bounds().ok_or_else(|| corrupt("the rows are longer than the payload"))?;
        if bounds.last().is_none_or(|&end| end as usize != payload_length) {
            return Err(corrupt("the rows do not add up to the payload"));
        }
        Ok(Rows { table, bounds })
    }

    pub(super) fn table(&self) -> &ArchivedTable {
        self.table.get()
    }

    pub(super) fn len(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// Where row `index` begins, its version frame included; of the index after the last row, where that one ends.
    pub(super) fn bound(&self, index: usize) -> usize {
        self.bounds.get(index).copied().unwrap_or_default() as usize
    }

    /// The version frame that is right before row `index`.
    pub(super) fn rise(&self, index: usize) -> Option<ApiVersion> {
        let rises = &self.table().rises;
        let at = rises.binary_search_by_key(&index, |rise| rise.row.to_native() as usize).ok()?;
        rises.get(at).map(ArchivedRise::version)
    }

    /// The last version frame before row `index`, its own not counted.
    pub(super) fn last_rise_before(&self, index: usize) -> Option<ApiVersion> {
        let rises = &self.table().rises;
        let before = rises.partition_point(|rise| (rise.row.to_native() as usize) < index);
        rises.get(before.checked_sub(1)?).map(ArchivedRise::version)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.backing_cart().len() + 4 * self.bounds.len()
    }
}

impl ArchivedRise {
    fn version(&self) -> ApiVersion {
        version(self.version.map(|number| number.to_native()))
    }
}

impl ArchivedTable {
    /// Checks that each column is as long as the block, and that each number is in its name table.
    fn check_columns(&self, count: usize) -> Result<(), BlockError> {
        let columns = [
            self.payload_length.len(),
            self.frame_extra.len(),
            self.kind.len(),
            self.flags.len(),
            self.name.len(),
            self.source.len(),
            self.network.len(),
            self.api_version.len(),
            self.upstream_id.len(),
            self.received.len(),
        ];
        if columns.iter().any(|&length| length != count) {
            return Err(corrupt("a column of the table has another number of rows than the block"));
        }
        let greatest = |numbers: &[rkyv::rend::unaligned::u16_ule]| {
            numbers.iter().map(|number| usize::from(number.to_native())).max().unwrap_or_default()
        };
        if [&self.name, &self.source, &self.network].into_iter().any(|column| greatest(column) >= self.names.len())
            || greatest(&self.api_version) >= self.versions.len()
        {
            return Err(corrupt("a row of the table names something that the name table lacks"));
        }
        Ok(())
    }

    /// Rises name rows in order, each a higher version than the one before, and the last is in force after the block.
    fn check_rises(&self, header: &BlockHeader, frames: FrameForm) -> Result<(), BlockError> {
        if header.block_type != BlockType::EVENTS || frames == FrameForm::Named {
            return if self.rises.is_empty() {
                Ok(())
            } else {
                Err(corrupt("a block that has none raises the version"))
            };
        }
        let (mut next_row, mut in_force) = (0, header.version_before);
        for rise in self.rises.iter() {
            let row = rise.row.to_native();
            if row < next_row || row >= header.count || rise.version() <= in_force {
                return Err(corrupt("the rises of the version are out of order"));
            }
            (next_row, in_force) = (row + 1, rise.version());
        }
        if in_force != header.version_after {
            return Err(corrupt("the version after the block is not the last that rose in it"));
        }
        Ok(())
    }

    fn bounds(&self) -> Option<Vec<u32>> {
        let mut bounds = Vec::with_capacity(self.kind.len() + 1);
        let mut rises = self.rises.iter().peekable();
        let mut end = 0u32;
        bounds.push(end);
        for (row, (payload, extra)) in self.payload_length.iter().zip(self.frame_extra.iter()).enumerate() {
            if let Some(rise) = rises.next_if(|rise| rise.row.to_native() as usize == row) {
                end = end.checked_add(wire::version_frame_length(rise.version()) as u32)?;
            }
            end = end.checked_add(payload.to_native())?.checked_add(extra.to_native())?;
            bounds.push(end);
        }
        Some(bounds)
    }
}

pub(crate) fn numbers(version: ApiVersion) -> [u32; 3] {
    [version.major, version.minor, version.patch]
}

pub(crate) fn version([major, minor, patch]: [u32; 3]) -> ApiVersion {
    ApiVersion { major, minor, patch }
}
