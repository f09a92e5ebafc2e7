//! The unsealed segment of a log that another process writes.

use std::sync::Arc;

use crate::{
    Result, Sequence,
    error::{Operation, Unreadable, storage_error},
    head::HeadState,
    position::Head,
    scan::Scan,
    segment::{SegmentFile, file_name},
    storage::{FileIdentity, Storage},
};

/// The unsealed segment as a reader in another process knows it.
pub(super) struct Following {
    pub(super) file: Arc<SegmentFile>,
    identity: FileIdentity,
    pub(super) scan: Scan,
}

impl Following {
    /// Continues with the segment that was the newest, unless there is a newer one, or another of the same name.
    pub(super) fn take_up(
        storage: &dyn Storage,
        known: Option<Following>,
        newest: Sequence,
        head_state: &HeadState,
    ) -> Result<Following> {
        let name = file_name(newest);
        if let Some(known) = known.filter(|known| known.file.header.first_sequence == newest) {
            let file = storage.open(&name, false).map_err(storage_error(Operation::Open, &name))?;
            if file.identity().map_err(storage_error(Operation::Read, &name))?.is_same_file(known.identity) {
                return Ok(known);
            }
        }
        let file = SegmentFile::open(storage, newest, false)?;
        let identity = file.file.identity().map_err(storage_error(Operation::Read, &name))?;
        let scan = match head_state {
            HeadState::Copied(_) => Scan::begin_copied(&file, Unreadable::IsDamage),
            _ => Scan::begin(&file, Unreadable::IsDamage),
        };
        Ok(Following { file: Arc::new(file), identity, scan })
    }

    /// Reads on up to the head, which is where visibility ends.
    pub(super) fn advance(&mut self, head_state: &HeadState) -> Result<Head> {
        let newest = self.file.header.first_sequence;
        let (trusted, limit) = match head_state.durable_end(newest) {
            Some(end) => (end, end),
            None => (0, u64::MAX),
        };
        self.scan.advance(&self.file, trusted, limit)?;
        let position = self.scan.footer.position();
        let durable = match head_state {
            HeadState::Own(slot) => slot.next_sequence,
            HeadState::Copied(_) | HeadState::Missing => 0,
        };
        Ok(Head {
            // After what is damaged or missing at the very end.
            next_sequence: position.next_sequence.max(durable),
            api_version: position.announced_version,
            chain: position.chain,
            epoch: self.file.header.epoch,
        })
    }
}
