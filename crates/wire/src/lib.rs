//! What is said on the wire: frames, records, handshake, liveness; no I/O and no clock.
//!
//! Both ends of a connection, every role and every test have to agree on these bytes, so they stand in one crate
//! that knows nothing else. Everything here is a value or a small machine: bytes and points in time go in, messages
//! and decisions come out. That is what lets the same code run on a socket, in an in-memory pipe, in a simulation and
//! under a fuzzer, and what lets a reader check it against `docs/PROTOCOL.md` without a network in mind.
//!
//! * [`frame`]: the nine-byte header and JSON payload of everything that is not a record.
//! * [`handshake`]: `Hello`, `Welcome` and the two machines that exchange them.
//! * [`open`]: what the first frame of a substream says, and the positive reply.
//! * [`record`]: what `stream` and `call` substreams carry after that, with their ends in band.
//! * [`lz4`]: how the payload of a record is compressed, where both ends want it.
//! * [`control`]: the messages of the control substream.
//! * [`liveness`]: when a session is late, and when it is dead.
//! * [`headers`]: which headers of a call are its caller's.
//! * [`rights`]: what a caller may reach, as patterns.
//! * [`join`]: the one line that lets a machine or a person in.
//! * [`secret`]: tokens and shared secrets, which nothing shows.
//! * [`id`], [`target`], [`code`], [`refusal`], [`text`]: the words all of them use.
//! * [`limits`]: every bound, with its reason.

#![forbid(unsafe_code)]

mod brief;
mod chunks;
pub mod code;
pub mod control;
mod decimal;
pub mod frame;
pub mod handshake;
pub mod headers;
mod hex;
pub mod id;
pub mod join;
pub mod limits;
pub mod liveness;
pub mod lz4;
mod nearest;
pub mod open;
pub mod record;
pub mod refusal;
pub mod rights;
pub mod secret;
pub mod target;
pub mod text;
pub mod who;

pub use code::{Code, CodeRow, Delivered, Retry};
pub use control::{
    Bye, ControlMessage, EndReport, Ends, GrantInfo, Health, HealthState, Heartbeat, HeartbeatAck, Renew,
    Renewed, Replaced, ServiceHealth, ServiceInfo, Services,
};
pub use frame::{Frame, FrameDecoder, FrameError, FrameType, Stage};
pub use handshake::{
    Acceptor, Admission as HandshakeAdmission, Challenge, Challenged, Credential, Dialer, DialerStep,
    Enrolled, HandshakeError, Hello, Mac, Proof, ProtocolRange, Role, SessionLimits, Welcome,
};
pub use hex::Hex;
pub use id::{Generation, IdError, Instance, NodeId, Nonce, ServiceName, SessionId};
pub use liveness::{Death, Liveness, LivenessAction, Pulse};
pub use nearest::nearest;
pub use open::{Accepted, Caller, Open, OpenKind, Opened};
pub use record::{Delivery, EndStatus, Record, RecordDecoder, RecordError, RecordKind};
pub use refusal::Refusal;
pub use secret::Secret;
pub use target::{Target, TargetError};
pub use who::{CallerPattern, CallerPatternError};

/// The protocol version this crate speaks, offered in [`Hello::protocol`](handshake::Hello::protocol).
///
/// The frame format itself never changes; this number covers what the frames and records mean.
pub const PROTOCOL_VERSION: u32 = 1;
