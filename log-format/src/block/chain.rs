//! The chain over the rows of a block.

use super::read::{Block, Row};
use crate::{ChainValue, chain::next_chain_value};

impl Row<'_> {
    /// The chain value after the event, from that before it.
    pub(crate) fn chain_after(self, before: ChainValue) -> ChainValue {
        let (name, payload) = (self.name(), self.payload());
        next_chain_value(&before, self.sequence(), self.kind(), self.api_version(), self.network(), name, &payload)
    }
}

impl Block {
    /// The chain value after its last event, computed from that before its first one.
    pub(crate) fn chain_over(&self, before: ChainValue) -> ChainValue {
        self.rows().fold(before, |chain, row| row.chain_after(chain))
    }

    /// The chain value after each event, computed from that before the first; `None` where they do not end in the value
    /// that the block has.
    pub(crate) fn chain_values_from(&self, before: ChainValue) -> Option<Vec<ChainValue>> {
        let mut chain = before;
        let step = |row: Row<'_>| {
            chain = row.chain_after(chain);
            chain
        };
        let values: Vec<_> = self.rows().map(step).collect();
        (values.last() == Some(&self.chain_after())).then_some(values)
    }
}
