//! Decompressors, lent to the threads that decode.
//!
//! A decompressor's working memory is larger than most blocks, so it is used again. One for each thread would take many
//! times what is in use at once: a decompressor that has decoded a part of a block keeps a window of a mebibyte or more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zstd::zstd_safe::{DCtx, ResetDirective};

/// The most decompressors that are kept.
const KEPT_MAX: usize = 4;
/// A larger decompressor is not kept: few blocks need such a window.
const KEPT_BYTES_MAX: usize = 2 << 20;

static KEPT: Mutex<Vec<DCtx<'static>>> = Mutex::new(Vec::new());

/// Calls `work` with a decompressor that begins a frame.
pub(crate) fn with_decompressor<T>(work: impl FnOnce(&mut DCtx<'static>) -> T) -> T {
    let mut decompressor = kept().pop().unwrap_or_else(DCtx::create);
    let result = work(&mut decompressor);
    // It may have stopped in the middle of a frame.
    let is_reset = decompressor.reset(ResetDirective::SessionOnly).is_ok();
    if is_reset && decompressor.sizeof() <= KEPT_BYTES_MAX {
        let mut kept = kept();
        if kept.len() < KEPT_MAX {
            kept.push(decompressor);
        }
    }
    result
}

fn kept() -> MutexGuard<'static, Vec<DCtx<'static>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use zstd::zstd_safe::{InBuffer, OutBuffer};

    use super::*;

    #[test]
    fn a_decompressor_that_stopped_in_a_frame_decodes_the_next_one() {
        let stored = zstd::bulk::compress(&[7; 100_000], 1).unwrap();
        for _ in 0..3 {
            with_decompressor(|decompressor| {
                let mut start = [0; 10];
                let mut output = OutBuffer::around(start.as_mut_slice());
                decompressor.decompress_stream(&mut output, &mut InBuffer::around(&stored)).unwrap();
                assert_eq!(start, [7; 10]);
            });
            let mut whole = Vec::with_capacity(100_000);
            with_decompressor(|decompressor| decompressor.decompress(&mut whole, &stored)).unwrap();
            assert_eq!(whole, [7; 100_000]);
        }
    }

    #[test]
    fn only_a_few_decompressors_are_kept_however_many_threads_decode() {
        let together = std::sync::Barrier::new(3 * KEPT_MAX);
        std::thread::scope(|scope| {
            for _ in 0..3 * KEPT_MAX {
                scope.spawn(|| with_decompressor(|_| together.wait()));
            }
        });
        assert!(kept().len() <= KEPT_MAX);
    }
}
