//! Buffers of the size of a block, reused.
//!
//! Blocks are larger than what the allocator serves from its own memory, so each would cost a system call and a page
//! fault per 4 KiB. [`take`] hands out a buffer, [`share`] turns a filled one into [`Bytes`] that give it back when the
//! last reader lets go.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Smaller buffers are cheaper to allocate than to share.
const POOLED_BYTES_MIN: usize = 64 << 10;
const POOLED_BYTES_MAX: usize = 2 << 20;
const POOLED_MAX: usize = 8;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer with room for `capacity` bytes.
pub(crate) fn take(capacity: usize) -> Vec<u8> {
    let mut capacity = capacity;
    if capacity >= POOLED_BYTES_MIN {
        // No two blocks have the same size, and every buffer is to fit the next one.
        capacity = capacity.next_multiple_of(POOLED_BYTES_MIN);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        // A much larger one would pin more memory than its content is worth.
        let fits = |buffer: &Vec<u8>| (capacity..=capacity / 4 * 5).contains(&buffer.capacity());
        if let Some(found) = pool.iter().position(fits) {
            return pool.swap_remove(found);
        }
    }
    Vec::with_capacity(capacity)
}

/// Gives a buffer back.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if !(POOLED_BYTES_MIN..=POOLED_BYTES_MAX).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.len() >= POOLED_MAX {
        // The newest stays: what was given back long ago may have a size that is not needed any more.
        pool.remove(0);
    }
    pool.push(buffer);
}

/// The content of a buffer, which is given back when the last of its readers is gone.
pub(crate) fn share(buffer: Vec<u8>) -> Bytes {
    if buffer.capacity() < POOLED_BYTES_MIN {
        return Bytes::from(buffer);
    }
    if buffer.len() < buffer.capacity() / 4 * 3 {
        // What is held for long must not hold far more memory than it says: caches count the content.
        let copy = Bytes::copy_from_slice(&buffer);
        give_back(buffer);
        return copy;
    }
    lend(buffer)
}

/// Like [`share`], for short-lived content: it may be much smaller than its buffer.
pub(crate) fn lend(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Shared(buffer))
}

struct Shared(Vec<u8>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_holds_what_was_in_it_until_the_last_reader_is_gone() {
        let mut buffer = take(100_000);
        buffer.extend_from_slice(&[7; 100_000]);
        let shared = share(buffer);
        let part = shared.slice(10..20);
        drop(shared);
        let mut other = take(100_000);
        other.extend_from_slice(&[8; 100_000]);
        assert_eq!(&part[..], &[7; 10]);
    }

    #[test]
    fn a_buffer_serves_a_block_that_is_a_little_larger() {
        assert_eq!(take(100_000).capacity(), take(100_001).capacity());
    }

    #[test]
    fn a_content_holds_at_most_a_third_more_than_it_says() {
        for length in [1, 100_000, 299_999, 300_000, 400_000] {
            let mut buffer = Vec::with_capacity(400_000);
            buffer.resize(length, 7_u8);
            let place = buffer.as_ptr();
            let is_held = share(buffer).as_ptr() == place;
            assert_eq!(is_held, length >= 300_000, "{length}");
        }
        let mut pooled = take(1 << 20);
        pooled.resize(1 << 20, 7);
        give_back(pooled);
        assert!(take(600_000).capacity() <= 600_000 / 4 * 5 + POOLED_BYTES_MIN);
    }

    #[test]
    fn a_small_content_does_not_hold_a_large_buffer() {
        let mut buffer = take(1 << 20);
        buffer.extend_from_slice(b"few");
        let shared = share(buffer);
        assert_eq!(&shared[..], b"few");
        // An exclusive `Bytes` of its own copy turns into a vector without copying; a pooled one could not.
        assert!(Vec::from(shared).capacity() < 1024);
    }
}
