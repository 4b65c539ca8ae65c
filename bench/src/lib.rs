//! Because the networks this product is made for cannot be had in a test run: long links, lossy links, links that go
//! silent without a reset, hosts that cannot be dialled. Here they are made on one Linux machine.
//!
//! * [`emulator`]: a link with chosen faults between two network namespaces;
//! * [`netns`]: running code inside a network namespace;
//! * [`sys`]: what has to be asked of the kernel in C, for this package and for the test kit.
//!
//! Linux only, and the emulator needs root (`CAP_NET_ADMIN`, `CAP_SYS_ADMIN`).

pub mod emulator;
pub mod netns;
pub mod sys;
