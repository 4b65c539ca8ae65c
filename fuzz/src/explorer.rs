//! What an explorer reads before it knows who writes: the first bytes of a connection in every language of the port, what
//! balancers put in front of them, tokens, certificates and requests for them.
//!
//! Run by `crates/explorer/tests/corpus.rs` too, with the committed seeds.

pub mod certificate;
pub mod door;
pub mod proxy;
pub mod token;

use super::{Verdict, hello, pieces, situation};
