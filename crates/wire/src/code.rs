//! One error code everywhere: on the wire, in resets, in JSON-RPC, in HTTP and as an exit code.
//!
//! A caller three hops away has to decide from a number alone whether its request may have happened and
//! whether trying again can help. So each code has exactly one row that says so, and every surface reads
//! that row instead of keeping a mapping of its own.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why something was refused or ended. The numbers are part of the protocol and never change; new codes are
/// added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Code {
    /// The deadline passed; the service may have had the request.
    Timeout = 1,
    /// No node of this name is known.
    NodeNotFound,
    /// The node is known and has no session; nothing was sent.
    NodeOffline,
    /// The connection ended after delivery may have happened: the outcome is unknown.
    Lost,
    /// The service reset the stream.
    Reset,
    /// The node declares no service of this name.
    ServiceNotFound,
    /// The node could not connect to the service.
    ServiceUnreachable,
    /// The caller is known and may not do this.
    Denied,
    /// The caller did not show who it is.
    Unauthenticated,
    /// The credential was withdrawn.
    Revoked,
    /// The credential's time is over.
    Expired,
    /// The id belongs to another key.
    IdTaken,
    /// The handshake broke off or was not understood.
    HandshakeFailed,
    /// No protocol version is common to both ends.
    VersionMismatch,
    /// This listener speaks TLS only.
    TlsRequired,
    /// This listener wants a client certificate.
    MtlsRequired,
    /// The certificate names another node than `Hello` does.
    NodeIdMismatch,
    /// Plaintext is not allowed here.
    PlaintextRejected,
    /// Too many requests or connections from this caller.
    RateLimited,
    /// A bound of memory or of concurrent work is reached.
    Saturated,
    /// A body or frame is over its limit.
    TooLarge,
    /// Bytes that the protocol does not allow at this place.
    BadFrame,
    /// A compressed record that is not allowed or does not decompress.
    Compression,
    /// A newer session of the same node took over.
    Replaced,
    /// The node already has another line to this explorer; it should dial a sibling.
    AlreadyHere,
    /// This end is shutting down and takes nothing new.
    Draining,
    /// The target is not at this place (any more).
    NotHere,
    /// The explorer that holds the node cannot be reached.
    PeerUnreachable,
    /// The session to be resumed is gone; a new one is needed.
    ResumeRefused,
    /// The caller gave up.
    Cancelled,
    /// A fault of our own, and every code this version does not know.
    Internal,
}

/// Whether anything of the request had reached the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Nothing reached it.
    No,
    /// Nobody can tell.
    Maybe,
    /// It was connected to the service, and the service ended it.
    Yes,
}

/// Whether a program may repeat the request without knowing what it does. Never, once it may have been
/// delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At once, once, elsewhere if there is another place.
    Now,
    /// After `retry_after_ms`, or after a growing delay of the caller's own.
    After,
    /// Not before somebody has changed something.
    No,
}

/// Everything the surfaces need to know about a code; PROTOCOL.md shows the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRow {
    /// The code this row is about.
    pub code: Code,
    /// Its name on the wire and for people.
    pub name: &'static str,
    /// Whether the request had reached the service.
    pub delivered: Delivered,
    /// Whether repeating it is safe and can help.
    pub retry: Retry,
    /// HTTP status of an answer with this code.
    pub http: u16,
    /// JSON-RPC error code: -32000 less the number, in the range the specification leaves to servers.
    pub jsonrpc: i32,
    /// Exit code of the command line.
    pub exit: u8,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: &'static [Code] = &{
        let mut all = [Code::Internal; ROWS.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = ROWS[i].code;
            i += 1;
        }
        all
    };

    /// The number used in `Reset` records.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The code with this number; `None` for numbers this version does not know, which a reader shows and
    /// otherwise treats like [`Code::Internal`].
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        ROWS.get(index).map(|row| row.code)
    }

    /// The name used in JSON and in everything people read.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The code with this name; `None` for names this version does not know.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.code)
    }

    /// What the surfaces need to know about it.
    #[must_use]
    pub fn row(self) -> &'static CodeRow {
        &ROWS[self as usize - 1]
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Code {
    /// An unknown name is [`Code::Internal`]: a newer peer's refusal stays a refusal, with its message.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::from_name(&name).unwrap_or(Self::Internal))
    }
}

const fn row(
    code: Code,
    name: &'static str,
    delivered: Delivered,
    retry: Retry,
    http: u16,
    exit: u8,
) -> CodeRow {
    CodeRow { code, name, delivered, retry, http, jsonrpc: -32_000 - code as i32, exit }
}

/// In the order of the numbers. Exit codes: 1 the service answered with an error (or a fault of our own),
/// 64 usage, 69 unreachable, 75 try again, 77 denied, 78 configuration refused, 124 timeout.
#[rustfmt::skip]
static ROWS: [CodeRow; 31] = [
    row(Code::Timeout,            "timeout",             Delivered::Maybe, Retry::No,    504, 124),
    row(Code::NodeNotFound,       "node_not_found",      Delivered::No,    Retry::No,    404, 69),
    row(Code::NodeOffline,        "node_offline",        Delivered::No,    Retry::After, 503, 69),
    row(Code::Lost,               "lost",                Delivered::Maybe, Retry::No,    502, 69),
    row(Code::Reset,              "reset",               Delivered::Yes,   Retry::No,    502, 1),
    row(Code::ServiceNotFound,    "service_not_found",   Delivered::No,    Retry::No,    404, 69),
    row(Code::ServiceUnreachable, "service_unreachable", Delivered::No,    Retry::After, 502, 69),
    row(Code::Denied,             "denied",              Delivered::No,    Retry::No,    403, 77),
    row(Code::Unauthenticated,    "unauthenticated",     Delivered::No,    Retry::No,    401, 77),
    row(Code::Revoked,            "revoked",             Delivered::No,    Retry::No,    403, 77),
    row(Code::Expired,            "expired",             Delivered::No,    Retry::No,    401, 77),
    row(Code::IdTaken,            "id_taken",            Delivered::No,    Retry::No,    409, 77),
    row(Code::HandshakeFailed,    "handshake_failed",    Delivered::No,    Retry::After, 400, 69),
    row(Code::VersionMismatch,    "version_mismatch",    Delivered::No,    Retry::No,    400, 78),
    row(Code::TlsRequired,        "tls_required",        Delivered::No,    Retry::No,    426, 78),
    row(Code::MtlsRequired,       "mtls_required",       Delivered::No,    Retry::No,    401, 77),
    row(Code::NodeIdMismatch,     "node_id_mismatch",    Delivered::No,    Retry::No,    403, 77),
    row(Code::PlaintextRejected,  "plaintext_rejected",  Delivered::No,    Retry::No,    426, 78),
    row(Code::RateLimited,        "rate_limited",        Delivered::No,    Retry::After, 429, 75),
    row(Code::Saturated,          "saturated",           Delivered::No,    Retry::After, 503, 75),
    row(Code::TooLarge,           "too_large",           Delivered::Maybe, Retry::No,    413, 64),
    row(Code::BadFrame,           "bad_frame",           Delivered::Maybe, Retry::No,    400, 69),
    row(Code::Compression,        "compression",         Delivered::Maybe, Retry::No,    502, 69),
    row(Code::Replaced,           "replaced",            Delivered::Maybe, Retry::No,    502, 69),
    row(Code::AlreadyHere,        "already_here",        Delivered::No,    Retry::Now,   409, 75),
    row(Code::Draining,           "draining",            Delivered::No,    Retry::Now,   503, 75),
    row(Code::NotHere,            "not_here",            Delivered::No,    Retry::Now,   503, 75),
    row(Code::PeerUnreachable,    "peer_unreachable",    Delivered::No,    Retry::After, 502, 69),
    row(Code::ResumeRefused,      "resume_refused",      Delivered::No,    Retry::Now,   409, 75),
    row(Code::Cancelled,          "cancelled",           Delivered::Maybe, Retry::No,    499, 75),
    row(Code::Internal,           "internal",            Delivered::Maybe, Retry::No,    500, 1),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_the_order_of_the_table_and_come_back() {
        assert_eq!(Code::ALL.len(), ROWS.len());
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.number() as usize, index + 1, "{code}");
            assert_eq!(code.row().code, *code);
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert_eq!(Code::from_name(code.name()), Some(*code));
        }
        assert_eq!(Code::Internal.number() as usize, Code::ALL.len(), "a code without a row");
        for unknown in [0, 32, u32::MAX] {
            assert_eq!(Code::from_number(unknown), None);
        }
    }

    #[test]
    fn numbers_that_are_on_the_wire_for_ever() {
        let fixed =
            [(1, "timeout"), (4, "lost"), (5, "reset"), (8, "denied"), (20, "saturated"), (31, "internal")];
        for (number, name) in fixed {
            assert_eq!(Code::from_number(number).map(Code::name), Some(name));
        }
    }

    #[test]
    fn names_are_the_variants_in_snake_case_and_all_different() {
        for code in Code::ALL {
            let mut snake = String::new();
            for character in format!("{code:?}").chars() {
                if character.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(character.to_ascii_lowercase());
            }
            assert_eq!(code.name(), snake);
        }
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        let jsonrpc: BTreeSet<_> = Code::ALL.iter().map(|code| code.row().jsonrpc).collect();
        assert_eq!((names.len(), jsonrpc.len()), (Code::ALL.len(), Code::ALL.len()));
    }

    #[test]
    fn nothing_that_may_have_been_delivered_is_repeated() {
        for row in &ROWS {
            assert!(row.delivered == Delivered::No || row.retry == Retry::No, "{}", row.name);
        }
    }

    #[test]
    fn every_surface_gets_a_value_it_may_use() {
        for row in &ROWS {
            assert!((400..600).contains(&row.http), "{}", row.name);
            assert!((-32_099..=-32_001).contains(&row.jsonrpc), "{}", row.name);
            assert!([1, 64, 69, 75, 77, 78, 124].contains(&row.exit), "{}", row.name);
        }
    }

    #[test]
    fn json_carries_the_name_and_an_unknown_one_stays_an_error() {
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.name()));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
        }
        assert_eq!(serde_json::from_str::<Code>("\"from_the_future\"").unwrap(), Code::Internal);
        serde_json::from_str::<Code>("4").unwrap_err();
    }
}
