//! What must hold for any bytes a peer may send: the assertions behind the fuzz targets.
//!
//! They are a library because two run them: the targets with whatever the fuzzer finds, and
//! `crates/wire/tests/corpus.rs` with the committed seeds on every `cargo test`. Each check panics if a promise of the
//! wire is broken, and otherwise says what became of the input, so that a seed can state in its name what it is for.
//!
//! An input begins with a few bytes that choose the situation; [`situation`] cuts them off.

use std::fmt;

use bytes::Bytes;
use reachback_wire::Code;

pub mod frame;
pub mod hello;
pub mod join;
pub mod record;
pub mod rights;

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it was read and understood.
    Fine,
    /// More bytes could make something of it.
    Incomplete,
    /// It was turned away.
    Refused(Code),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => f.write_str("fine"),
            Self::Incomplete => f.write_str("incomplete"),
            Self::Refused(code) => f.write_str(code.name()),
        }
    }
}

/// The first byte of an input chooses what it is for, the next two where the rest is cut; missing ones are 0.
pub fn situation(input: &[u8]) -> (u8, [usize; 2], &[u8]) {
    let (head, bytes) = input.split_at(input.len().min(3));
    let at = |index| head.get(index).copied().unwrap_or(0);
    // Down to single bytes, up to more than the largest record.
    let cuts = [1 + usize::from(at(1)), 1 + usize::from(at(2)).pow(2) * 2];
    (at(0), cuts, bytes)
}

/// `bytes` in pieces whose lengths are taken from `cuts` in turn.
pub fn pieces(mut bytes: &[u8], cuts: [usize; 2]) -> impl Iterator<Item = Bytes> {
    let mut lengths = cuts.into_iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next()?.min(bytes.len());
        let (piece, rest) = bytes.split_at(length);
        bytes = rest;
        (length > 0).then(|| Bytes::copy_from_slice(piece))
    })
}
