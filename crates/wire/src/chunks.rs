//! A queue of byte pieces, as a transport hands them over.
//!
//! Frames and records are cut out of it without joining the pieces first: only what really lies across two pieces is
//! copied.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// An empty queue that once held more pieces than this gives its memory back.
const PIECES_KEPT: usize = 16;

/// More pieces than this are joined: each costs far more than the one byte it may hold.
const PIECES_MAX: usize = 128;

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
            if self.pieces.len() > PIECES_MAX {
                self.join_last();
            }
        }
    }

    /// Makes one piece of the later half.
    fn join_last(&mut self) {
        let last = self.pieces.split_off(PIECES_MAX / 2);
        let mut joined = BytesMut::with_capacity(last.iter().map(Bytes::len).sum());
        for piece in last {
            joined.extend_from_slice(&piece);
        }
        self.pieces.push_back(joined.freeze());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(pieces: &[&'static str]) -> Chunks {
        let mut chunks = Chunks::default();
        for piece in pieces {
            chunks.push(Bytes::from_static(piece.as_bytes()));
        }
        chunks
    }

    #[test]
    fn takes_across_pieces_and_counts() {
        let mut chunks = chunks(&["ab", "", "c", "defg"]);
        assert_eq!(chunks.len(), 7);
        assert_eq!(chunks.peek::<4>(), Some(*b"abcd"));
        assert_eq!(chunks.peek::<8>(), None);
        assert_eq!(chunks.take(8), None);
        assert_eq!(chunks.take(4).unwrap(), "abcd");
        assert_eq!(chunks.take_piece(100), "efg");
        assert_eq!((chunks.len(), chunks.take(0).unwrap().len(), chunks.take_piece(1).len()), (0, 0, 0));
    }

    #[test]
    fn skips_what_is_there_and_keeps_the_rest() {
        let mut chunks = chunks(&["abc", "def"]);
        assert_eq!(chunks.skip(4), 4);
        assert_eq!(chunks.take_all(), "ef");
        assert_eq!(chunks.skip(4), 0);
        assert!(chunks.take_all().is_empty());
    }

    #[test]
    fn a_flood_of_tiny_pieces_is_joined_and_nothing_is_lost() {
        let mut chunks = Chunks::default();
        let sent: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        for byte in &sent {
            chunks.push(Bytes::copy_from_slice(&[*byte]));
            assert!(chunks.pieces.len() <= PIECES_MAX);
        }
        assert_eq!(chunks.take_all(), sent);
    }

    #[test]
    fn an_emptied_queue_gives_its_memory_back() {
        let mut chunks = Chunks::default();
        for _ in 0..10_000 {
            chunks.push(Bytes::from_static(b"x"));
        }
        assert_eq!(chunks.skip(10_000), 10_000);
        assert!(chunks.pieces.capacity() <= PIECES_KEPT);
    }
}
