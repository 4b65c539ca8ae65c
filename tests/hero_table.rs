//! docs/hero.md says which test shows each thing that the hero stack needs. A test that was renamed or removed would leave
//! a promise that nobody looks after any more.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod table_support;

use table_support::{assert_rows, is_test};

/// What the hero stack needs, by number.
const ROWS: u32 = 12;

#[test]
fn every_row_says_how_it_works_and_names_tests_that_exist() {
    assert_rows("docs/hero.md", ROWS);
}

#[test]
fn a_test_is_told_from_what_only_looks_like_one() {
    let source = "#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\n#[cfg(unix)]\nasync fn two() {}\n\
                  fn three() {}\n#[test]\n#[ignore]\nfn four() {}\n// #[test] fn five()";
    let is = |name| is_test(source, name);
    assert_eq!(
        ["one", "two", "three", "four", "five", "on"].map(is),
        [true, true, false, false, false, false]
    );
}
