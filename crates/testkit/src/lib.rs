//! In-process explorers, nodes and broken links for tests.
//!
//! Blocking, for tests of the real binary: [`lab`] (two machines and a line), [`process`] (programs under test),
//! [`tools`] (the programs they talk to), [`eventually()`]. For every test: [`certificates`].

pub mod certificates;
pub mod eventually;
pub mod lab;
pub mod process;
pub mod tools;

pub use eventually::eventually;
