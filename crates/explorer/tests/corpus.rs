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

use std::{collections::BTreeSet, fs, path::Path};

use checks::Verdict;

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

fn replay(target: &str, check: fn(&[u8]) -> Verdict, at_least: usize, wanted: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let (mut verdicts, mut wrong) = (BTreeSet::new(), Vec::new());
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).expect("the seeds are committed") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let verdict = check(&fs::read(&path).expect("a readable seed")).to_string();
        let expected = name.split_once('-').map(|(verdict, _)| verdict);
        if Some(verdict.as_str()) != expected {
            wrong.push(format!("{target}/{name} is {verdict}"));
        }
        verdicts.insert(verdict);
        seeds += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seeds >= at_least, "only {seeds} seeds in {}", folder.display());
    for wanted in wanted {
        assert!(verdicts.contains(*wanted), "no seed of {target} is {wanted}");
    }
}
