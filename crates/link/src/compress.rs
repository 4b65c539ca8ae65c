//! Whether the records of a session may be compressed, and from what size on.
//!
//! Compression is worth it for few services (text over a thin line) and costs processor time for all others, so nobody
//! gets it unasked: a node's service asks in its declaration, a client for everything it opens. It holds for one hop,
//! because the two lines that a stream passes over have nothing in common, and only if both ends of that hop said in
//! the handshake that they can.

use reachback_wire::{limits, lz4};

/// What one end of a session can and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// Whether the peer is told that records may be compressed. If not, none is sent and none is taken.
    pub enabled: bool,
    /// Bytes of payload from which on a record is compressed before it is sent, where its substream has it announced. It
    /// is sent as it is if that would not be smaller.
    pub min_size: usize,
    /// Announces it on every substream that this end opens, instead of only on those whose `Open` asks for it.
    pub every_open: bool,
}

impl Compression {
    /// Nothing is compressed, whoever asks.
    pub const OFF: Self = Self { enabled: false, min_size: limits::LZ4_MIN_SIZE, every_open: false };

    /// What belongs into the `features` of our `Hello` or `Welcome`.
    pub fn features(self) -> Vec<String> {
        if self.enabled { vec![lz4::NAME.to_owned()] } else { Vec::new() }
    }

    /// What holds in a session whose other end named these features.
    #[must_use]
    pub fn with_peer(self, features: &[String]) -> Self {
        Self { enabled: self.enabled && features.iter().any(|feature| feature == lz4::NAME), ..self }
    }
}

/// Possible from [`limits::LZ4_MIN_SIZE`] on, for whoever asks.
impl Default for Compression {
    fn default() -> Self {
        Self { enabled: true, min_size: limits::LZ4_MIN_SIZE, every_open: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_to_want_it() {
        let (on, off) = (Compression::default(), Compression::OFF);
        for (ours, theirs, holds) in [(on, on, true), (on, off, false), (off, on, false), (off, off, false)] {
            assert_eq!(ours.with_peer(&theirs.features()).enabled, holds, "{ours:?} and {theirs:?}");
        }
        assert!(!on.with_peer(&["resume".to_owned()]).enabled);
    }
}
