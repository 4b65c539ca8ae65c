//! The checks of all targets: those of the wire, and those of what an explorer reads before it knows who writes.
//!
//! They are two modules, because each is also run by the tests of the crate it checks, with the committed seeds, on every
//! `cargo test`: `crates/wire/tests/corpus.rs` and `crates/explorer/tests/corpus.rs`.

#[path = "wire.rs"]
mod wire;

pub use wire::*;

pub mod explorer;
