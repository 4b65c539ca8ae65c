//! LZ4 for the payload of one record, and how little of it is believed.
//!
//! Compression is where a few bytes of a stranger become many of ours. So nothing of a compressed payload outlives its
//! record (no window, no dictionary, nothing that mixes one stream's bytes with another's), the size it claims is
//! judged before there is room for it, and what does not come out as claimed is an error.
//!
//! ```text
//! 0                    4
//! | size, u32 LITTLE   | one LZ4 block
//! | endian             |
//! ```
//!
//! The size is in the byte order of LZ4 itself: this is what its libraries call a block with its size in front.

use bytes::{Bytes, BytesMut};

use crate::limits::LZ4_RATIO_MAX;

/// What it is called in `features` and in `Open.compression`.
pub const NAME: &str = "lz4";

/// Bytes in front of the block.
const SIZE_LEN: usize = 4;

/// Appends the compressed payload to `out` if it is smaller than the plain one; says whether it is.
pub(crate) fn compress(payload: &[u8], out: &mut BytesMut) -> bool {
    let start = out.len();
    let block = start + SIZE_LEN;
    let Ok(size) = u32::try_from(payload.len()) else { return false };
    out.resize(block + lz4_flex::block::get_maximum_output_size(payload.len()), 0);
    out[start..block].copy_from_slice(&size.to_le_bytes());
    // It fails only without room, and there is room for the worst case.
    let written = lz4_flex::block::compress_into(payload, &mut out[block..]).ok();
    let smaller = written.filter(|written| SIZE_LEN + written < payload.len());
    out.truncate(smaller.map_or(start, |written| block + written));
    smaller.is_some()
}

/// The plain payload, of `limit` bytes at most.
///
/// # Errors
/// What is wrong with it, as the end of a sentence. Nothing was allocated for a size that can't be true.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Result<Bytes, String> {
    let Some((size, block)) = payload.split_first_chunk::<SIZE_LEN>() else {
        return Err(format!("{} bytes are too few for its size and a block", payload.len()));
    };
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    if size > limit {
        return Err(format!("it claims to hold {size} bytes; at most {limit} are allowed"));
    }
    if size <= payload.len() {
        return Err(format!("it holds {size} bytes in {}; such a payload is sent as it is", payload.len()));
    }
    if size > block.len() * LZ4_RATIO_MAX {
        return Err(format!("it claims to hold {size} bytes in {}, which no block can", block.len()));
    }
    let mut plain = vec![0; size];
    match lz4_flex::block::decompress_into(block, &mut plain) {
        Ok(written) if written == size => Ok(plain.into()),
        Ok(written) => Err(format!("it holds {written} bytes, not the {size} it claims")),
        Err(error) => Err(format!("its block is broken ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(payload: &[u8]) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        compress(payload, &mut out).then_some(out)
    }

    fn refusal(payload: &[u8]) -> String {
        decompress(payload, 1000).unwrap_err()
    }

    #[test]
    fn golden_bytes() {
        // A literal x, a match of 93 at distance 1 (15 + 4 by its token, 74 behind it), then the last six.
        let packed = packed(&[b'x'; 100]).unwrap();
        assert_eq!(packed[..], *b"\x64\0\0\0\x1fx\x01\0\x4a\x60xxxxxx");
        assert_eq!(decompress(&packed, 100).unwrap(), vec![b'x'; 100]);
    }

    #[test]
    fn what_does_not_shrink_stays_out() {
        let mut out = BytesMut::from(&b"head"[..]);
        for payload in [&b""[..], b"x", b"no two parts of this are alike"] {
            assert!(!compress(payload, &mut out));
            assert_eq!(out, "head");
        }
    }

    #[test]
    fn a_size_that_can_not_be_true_is_refused_before_there_is_room_for_it() {
        for (payload, why) in [
            (&b""[..], "too few"),
            (b"\0\0\0", "too few"),
            (b"\xff\xff\xff\xff\x1fx\x01\0", "4294967295 bytes; at most 1000"),
            (b"\xe9\x03\0\0\x1fx\x01\0", "1001 bytes; at most 1000"),
            (b"\0\0\0\0\0", "sent as it is"),
            (b"\x05\0\0\0\x50", "sent as it is"),
            (b"\xe8\x03\0\0\x1fx\x01", "no block can"),
        ] {
            let error = refusal(payload);
            assert!(error.contains(why), "{payload:?}: {error}");
        }
    }

    #[test]
    fn a_block_that_holds_something_else_than_claimed_is_refused() {
        let good = packed(&[b'x'; 100]).unwrap();
        for size in [99, 101, 1000] {
            let mut lies = good.clone();
            lies[..4].copy_from_slice(&u32::to_le_bytes(size));
            refusal(&lies);
        }
        for len in SIZE_LEN..good.len() {
            refusal(&good[..len]);
        }
    }

    #[test]
    fn no_block_holds_more_than_the_ratio_allows() {
        let payload = vec![0; 1 << 20];
        let packed = packed(&payload).unwrap();
        assert!((packed.len() - SIZE_LEN) * LZ4_RATIO_MAX >= payload.len());
        assert_eq!(decompress(&packed, payload.len()).unwrap(), payload);
    }
}
