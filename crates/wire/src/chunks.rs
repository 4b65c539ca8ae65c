//! A queue of byte pieces, as a transport hands them over.
//!
//! Frames and records are cut out of it without joining the pieces first: only what really lies across two pieces is
//! copied.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// An empty queue that once held more pieces than this gives its memory back.
const PIECES_KEPT: usize = 16;

/// Bytes in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Chunks {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first `N` bytes, left where they are; `None` if fewer are here.
    pub(crate) fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.len < N {
            return None;
        }
        let mut first = [0; N];
        let mut filled = 0;
        for piece in &self.pieces {
            let n = piece.len().min(N - filled);
            first[filled..filled + n].copy_from_slice(&piece[..n]);
            filled += n;
            if filled == N {
                break;
            }
        }
        Some(first)
    }

    /// What is left of the first piece, at most `max` bytes: never a copy. Empty only if nothing is here or wanted.
    pub(crate) fn take_piece(&mut self, max: usize) -> Bytes {
        let Some(front) = self.pieces.front_mut() else { return Bytes::new() };
        let taken = front.split_to(front.len().min(max));
        if front.is_empty() {
            self.pieces.pop_front();
            if self.pieces.is_empty() && self.pieces.capacity() > PIECES_KEPT {
                self.pieces = VecDeque::new();
            }
        }
        self.len -= taken.len();
        taken
    }

    /// Exactly `n` bytes, `None` if fewer are here. Copies only across pieces.
    pub(crate) fn take(&mut self, n: usize) -> Option<Bytes> {
        if self.len < n {
            return None;
        }
        let first = self.take_piece(n);
        if first.len() == n {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity(n);
        joined.extend_from_slice(&first);
        while joined.len() < n {
            joined.extend_from_slice(&self.take_piece(n - joined.len()));
        }
        Some(joined.freeze())
    }

    /// Drops up to `n` bytes and says how many there were.
    pub(crate) fn skip(&mut self, n: usize) -> usize {
        let mut skipped = 0;
        while skipped < n && self.len > 0 {
            skipped += self.take_piece(n - skipped).remaining();
        }
        skipped
    }

    /// All of it.
    pub(crate) fn take_all(&mut self) -> Bytes {
        self.take(self.len).unwrap_or_default()
    }
}
