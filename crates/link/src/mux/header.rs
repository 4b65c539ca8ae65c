//! The twelve bytes in front of every mux frame (yamux specification), read by the layer below the crate.
//!
//! The layer looks at headers to account for memory, to answer pings and to end a session whose peer breaks the
//! rules; it rewrites none.

/// Bytes of a header.
pub(super) const LEN: usize = 12;

/// The largest body the crate accepts; it would allocate that much on the header alone.
pub(super) const MAX_BODY: u32 = 1024 * 1024;

pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const FIN: u16 = 4;
pub(super) const RST: u16 = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    WindowUpdate,
    Ping,
    GoAway,
}

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    pub(super) stream: u32,
    /// Body length, window credit, ping value or go-away code, by kind.
    pub(super) value: u32,
}

/// A header no peer of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("mux version {0}, expected 0")]
    Version(u8),
    #[error("unknown mux frame type {0}")]
    Kind(u8),
    #[error("a mux frame of {0} bytes; at most {MAX_BODY} are allowed")]
    TooLarge(u32),
    #[error("a mux frame for stream 0, which is no stream")]
    StreamZero,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; LEN]) -> Result<Self, HeaderError> {
        if bytes[0] != 0 {
            return Err(HeaderError::Version(bytes[0]));
        }
        let kind = match bytes[1] {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            unknown => return Err(HeaderError::Kind(unknown)),
        };
        let header = Self {
            kind,
            flags: u16::from_be_bytes([bytes[2], bytes[3]]),
            stream: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            value: u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
        };
        match kind {
            Kind::Data if header.value > MAX_BODY => Err(HeaderError::TooLarge(header.value)),
            Kind::Data | Kind::WindowUpdate if header.stream == 0 => Err(HeaderError::StreamZero),
            Kind::Data | Kind::WindowUpdate | Kind::Ping | Kind::GoAway => Ok(header),
        }
    }

    /// The answer to a ping of this value.
    pub(super) fn pong(value: u32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[1] = 2;
        bytes[2..4].copy_from_slice(&ACK.to_be_bytes());
        bytes[8..].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of body that follow.
    pub(super) fn body(&self) -> usize {
        match self.kind {
            Kind::Data => self.value as usize,
            Kind::WindowUpdate | Kind::Ping | Kind::GoAway => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_says() {
        let header = Header::parse(&[0, 0, 0, 5, 0, 0, 0, 7, 0, 1, 0, 0]).unwrap();
        assert_eq!(header, Header { kind: Kind::Data, flags: SYN | FIN, stream: 7, value: 65_536 });
        assert_eq!(header.body(), 65_536);
        let pong = Header::parse(&Header::pong(9)).unwrap();
        assert_eq!((pong.kind, pong.flags, pong.value, pong.body()), (Kind::Ping, ACK, 9, 0));
    }

    #[test]
    fn broken_headers_are_named() {
        assert_eq!(Header::parse(&[1; LEN]), Err(HeaderError::Version(1)));
        assert_eq!(Header::parse(&[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Err(HeaderError::Kind(4)));
        assert_eq!(
            Header::parse(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0x10, 0, 1]),
            Err(HeaderError::TooLarge(MAX_BODY + 1))
        );
        assert_eq!(Header::parse(&[0; LEN]), Err(HeaderError::StreamZero));
        assert!(
            Header::parse(&[0, 2, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_ok(),
            "a ping's value is no length"
        );
    }
}
