//! Content codings: which one a client asks for, and an answer in it.
//!
//! An answer is compressed as a whole before it is sent, so that a slow client holds the compressed bytes and not an encoder.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use axum::http::{HeaderMap, HeaderValue, header};

use super::weights::{weighed, weight_of};

/// Sizes of the answers that are worth compressing: less fits into few packets anyway, more would take long.
pub const COMPRESSED_BYTES: RangeInclusive<usize> = 8 << 10..=64 << 20;

/// Fast, and three times smaller than an event.
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 4;

/// A compressed form of an answer, the preferred one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The coding that `Accept-Encoding` weighs most, if it weighs more than nothing and no less than `identity`.
    #[must_use]
    pub fn accepted(headers: &HeaderMap) -> Option<Coding> {
        let weighed: Vec<(&str, f32)> = weighed(headers, &header::ACCEPT_ENCODING).collect();
        let weight = |name: &str| weight_of(&weighed, &[name, "*"]).unwrap_or_default();
        // One that is not mentioned is acceptable, but not asked for.
        let least = weight_of(&weighed, &["identity"]).unwrap_or_default().max(f32::MIN_POSITIVE);
        let codings = [Coding::Gzip, Coding::Zstd].map(|coding| (coding, weight(coding.name())));
        let accepted = codings.into_iter().filter(|(_, weight)| *weight >= least);
        accepted.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(coding, _)| coding)
    }

    fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// The value of `Content-Encoding`.
    #[must_use]
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// The compressed form of a body of `bytes`, given part by part. Takes long for a large one.
    ///
    /// # Errors
    /// What the encoder answers.
    pub fn compress<'a>(self, bytes: usize, mut parts: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
        let room = Vec::with_capacity(bytes / 4);
        match self {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(room, ZSTD_LEVEL)?;
                encoder.set_pledged_src_size(Some(bytes as u64))?;
                parts.try_for_each(|part| encoder.write_all(part))?;
                encoder.finish()
            }
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL));
                parts.try_for_each(|part| encoder.write_all(part))?;
                encoder.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_coding_is_the_one_that_weighs_most_and_zstd_among_equals() {
        for (accepted, coding) in [
            ("", None),
            ("identity", None),
            ("br, deflate", None),
            ("gzip", Some(Coding::Gzip)),
            ("GZip", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=0.9, zstd;q=0.8", Some(Coding::Gzip)),
            ("zstd; q = 0, gzip", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.1", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0", None),
            ("zstd;q=0, *", Some(Coding::Gzip)),
            ("gzip;q=x", None),
            ("gzip;q=NaN", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(Coding::accepted(&headers), coding, "{accepted}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("br"));
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(Coding::accepted(&headers), Some(Coding::Gzip), "of several headers all count");
    }

    #[test]
    fn a_compressed_body_is_smaller_and_comes_out_as_it_was() {
        let body = r#"{"sequence":1,"kind":"BlockAdded"},"#.repeat(5000).into_bytes();
        let parts = || body.chunks(1000);
        let zstd = Coding::Zstd.compress(body.len(), parts()).unwrap();
        assert!(zstd.len() < body.len() / 10);
        assert_eq!(zstd::bulk::decompress(&zstd, body.len()).unwrap(), body);
        let gzip = Coding::Gzip.compress(body.len(), parts()).unwrap();
        assert!(gzip.len() < body.len() / 10);
        let mut decompressed = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut decompressed).unwrap();
        assert_eq!(decompressed, body);
    }
}
