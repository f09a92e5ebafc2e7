//! zstd frames made here, for what is not sent as it is stored.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

/// Level 1 is the best trade on this data in any block size that is sent (see the design).
const LEVEL: i32 = 1;

thread_local! {
    /// A compressor's working memory is larger than most of what it compresses, so each thread keeps one.
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(compressor());
}

fn compressor() -> CCtx<'static> {
    let mut context = CCtx::create();
    // The level is in range, so that this cannot fail; a frame of another level would do as well.
    let _ = context.set_parameter(CParameter::CompressionLevel(LEVEL));
    context
}

/// `bytes` as one zstd frame of its own, with its content size.
///
/// # Errors
/// The library's name for what failed.
pub(super) fn frame(bytes: &[u8]) -> Result<Bytes, &'static str> {
    let mut out = Vec::with_capacity(compress_bound(bytes.len()));
    COMPRESSOR.with_borrow_mut(|context| context.compress2(&mut out, bytes)).map_err(get_error_name)?;
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_one_after_another_decode_to_what_went_in() {
        let mut joined = Vec::new();
        for text in [":\n\n", "", "data:{\"Step\":1}\nid:7\n\n"] {
            joined.extend_from_slice(&frame(text.as_bytes()).unwrap());
        }
        assert_eq!(zstd::decode_all(&joined[..]).unwrap(), b":\n\ndata:{\"Step\":1}\nid:7\n\n");
    }
}
