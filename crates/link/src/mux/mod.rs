//! Many substreams on one connection: the only folder that knows which mux carries them.
//!
//! The yamux crate gives the wire format and the stream state machine; how it behaves under pressure is ours to
//! handle (see the module docs of `layer`, `substream` and `driver`). What the rest of the
//! program sees is small: open with a header, accept, read and write records, finish, reset with a code, and why it
//! ended. Replacing the mux means replacing this folder.
//!
//! ```text
//! Session ──requests──▶ Driver ── owns ─▶ yamux::Connection ─▶ Layer ─▶ Slot ─▶ Transport
//!    │                    │ ▲
//! Substream ──records─────┘ └── Control (heartbeats), Liveness, Ledger
//! ```

mod control;
mod driver;
mod end;
mod header;
mod inbound;
mod layer;
mod ledger;
mod opening;
mod session;
mod slot;
mod stream_io;
mod substream;

pub use control::ControlInbox;
pub use driver::{Driver, session};
pub use end::{InboundError, OpenError, SessionEnd, StreamEnd};
pub use inbound::{Inbound, Incoming};
pub(crate) use layer::describe;
pub use opening::Early;
pub use session::{Pulse, Session, SessionConfig};
pub use stream_io::StreamIo;
pub use substream::{Outgoing, Substream};
