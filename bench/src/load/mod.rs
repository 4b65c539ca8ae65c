//! The load generator. It shares two cores with what it measures, so it must cost little and never be what waits: bulk
//! copies have a thread of their own on each side, small round trips are blocking calls on another, buffers are large
//! and shared, and nothing is parsed on the way.
//!
//! ```text
//! service.rs   the service behind the tunnel, a process of its own     backend.rs   that process, as its starter sees it
//! bulk.rs      visitors that send or receive for ever                  small.rs     round trips, new and idle connections
//! calls.rs     JSON-RPC calls                http.rs   their HTTP      figures.rs   from samples to figures
//! ```

pub mod backend;
pub mod bulk;
pub mod calls;
pub mod figures;
pub mod service;
pub mod small;

mod http;

use std::io;

/// First byte of a connection that wants everything back.
pub(crate) const ECHO: u8 = b'E';
/// First byte of a connection that sends; its number follows, u32 big endian.
pub(crate) const SINK: u8 = b'S';
/// First byte of a connection that wants to receive.
pub(crate) const SOURCE: u8 = b'O';

/// What the service says when it listens.
pub(crate) const READY: &str = "ready";
/// What it is asked for the bytes its sinks have read.
pub(crate) const SNAPSHOT: &str = "snapshot";

/// Bytes per read and write of a bulk stream: more than the tunnels use, so that the generator makes fewer system calls.
pub(crate) const CHUNK: usize = 256 << 10;

/// What bulk streams carry.
pub(crate) static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Connections the kernel keeps for the service before it accepts them: more than the 50 that come at a time.
pub(crate) const BACKLOG: u32 = 4096;

/// Bytes of a small round trip: a call of a few words.
pub(crate) const SMALL: usize = 64;

/// A runtime on the thread that calls.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
