//! The seeds of the fuzz targets keep the promises that the targets assert, on every run of the tests.
//!
//! A seed's name begins with what becomes of it (`fine`, `incomplete`, or the code of the refusal), and is held to that:
//! a seed that no longer gets where it was made for would protect nothing.

#[allow(unreachable_pub, reason = "the fuzz targets see it as a crate")]
#[path = "../../../fuzz/src/wire.rs"]
mod checks;
#[path = "../../../fuzz/src/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn frames() {
    replay("frame", checks::frame::check, 30, &["fine", "incomplete", "bad_frame", "too_large"]);
}

#[test]
fn records() {
    replay(
        "record",
        checks::record::check,
        40,
        &["fine", "incomplete", "bad_frame", "too_large", "compression"],
    );
}

#[test]
fn handshakes() {
    replay("hello", checks::hello::check, 40, &["fine", "incomplete", "bad_frame", "too_large"]);
}

#[test]
fn join_strings() {
    replay("join", checks::join::check, 15, &["fine", "incomplete", "bad_frame", "version_mismatch"]);
}

#[test]
fn rights() {
    replay("rights", checks::rights::check, 15, &["fine", "denied", "bad_frame"]);
}
