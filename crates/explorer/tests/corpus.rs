//! The seeds of the explorer's fuzz targets keep the promises that the targets assert, on every run of the tests.
//!
//! A seed's name begins with what becomes of it (`fine`, `incomplete`, or the code of the refusal), and is held to that:
//! a seed that no longer gets where it was made for would protect nothing.

#[allow(
    unreachable_pub,
    dead_code,
    reason = "the fuzz targets see it as a crate; the wire's part has a test of its own"
)]
#[path = "../../../fuzz/src/lib.rs"]
mod checks;
#[path = "../../../fuzz/src/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn proxy_headers() {
    replay("proxy", checks::explorer::proxy::check, 20, &["fine", "incomplete", "bad_frame"]);
}

#[test]
fn tokens() {
    replay("token", checks::explorer::token::check, 20, &["fine", "unauthenticated", "expired"]);
}

#[test]
fn certificates_and_requests() {
    replay("certificate", checks::explorer::certificate::check, 20, &["fine", "bad_frame"]);
}

#[test]
fn strangers_at_the_door() {
    let wanted = ["fine", "incomplete", "bad_frame", "handshake_failed", "plaintext_rejected"];
    replay("door", checks::explorer::door::check, 20, &wanted);
}
