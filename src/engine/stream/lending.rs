//! Bytes that HTTP keeps until a client takes them, all of them together within one bound.
//!
//! A large piece is cheapest when HTTP gets a slice of the shared block itself. The block then stays in memory for as
//! long as the client stalls, so it is lent only while the budget has room for it. Clients beyond that get small copies:
//! they are slower, but no client is cut or made to wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// Pieces up to this size are copied: they are not worth the memory that they would keep.
pub(super) const COPIED_BYTES_MAX: usize = 7 << 10;

/// Bytes that may be kept by stalled clients.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    left: Arc<AtomicUsize>,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    left: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Budget { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Sets `bytes` aside, if there is room.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Reserved { left: Arc::clone(&self.left), bytes })
    }
}

impl Reserved {
    /// Bytes that keep their part of the budget until the last of them is gone.
    pub(super) fn lend(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Lent { bytes, _reserved: self })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

struct Lent {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_bytes_count_until_the_last_of_them_is_gone() {
        let budget = Budget::new(10);
        let lent = budget.reserve(6).unwrap().lend(Bytes::from_static(b"abcdef"));
        let part = lent.slice(2..4);
        drop(lent);
        assert!(budget.reserve(5).is_none());
        assert_eq!(part, "cd");
        drop(part);
        assert!(budget.reserve(10).is_some());
    }

    #[test]
    fn what_was_reserved_and_not_lent_is_free_again() {
        let budget = Budget::new(10);
        drop(budget.reserve(10).unwrap());
        assert!(budget.reserve(10).is_some());
    }
}
