//! Because the networks this product is made for cannot be had in a test run (long links, lossy links, links that go
//! silent without a reset, hosts that cannot be dialled), and because "fast" means nothing without the others beside it.
//! Here both are made on one Linux machine.
//!
//! * [`emulator`]: a link with chosen faults between two network namespaces;
//! * [`netns`]: running code inside a network namespace;
//! * [`program`]: how the programs of this package say what they do, and end;
//! * [`sys`]: what has to be asked of the kernel in C, for this package and for the test kit.
//!
//! With the feature `load` (the default; the test kit does without):
//!
//! * [`load`]: the load generator, visitors and the service behind the tunnel;
//! * [`peers`]: the tunnels that are measured, each started as its users start it;
//! * [`procs`]: what those processes cost, from `/proc`;
//! * [`suite`]: what is measured of one tunnel; [`run`]: of all of them in turn; [`links`]: over a long link;
//! * [`fleet`]: thousands of nodes with real connections on one explorer;
//! * [`report`]: results as JSON, tables, bars met and missed, and the comparison with the last ones.
//!
//! Linux only. The emulator needs root (`CAP_NET_ADMIN`, `CAP_SYS_ADMIN`); what needs it and lacks it is reported as not
//! measured.

pub mod emulator;
pub mod netns;
pub mod program;
pub mod sys;

#[cfg(feature = "load")]
pub mod fleet;
#[cfg(feature = "load")]
pub mod links;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "load")]
pub mod peers;
#[cfg(feature = "load")]
pub mod procs;
#[cfg(feature = "load")]
pub mod report;
#[cfg(feature = "load")]
pub mod run;
#[cfg(feature = "load")]
pub mod suite;
