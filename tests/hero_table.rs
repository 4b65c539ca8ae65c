//! docs/hero.md says which test shows each thing that the hero stack needs. A test that was renamed or removed would leave
//! a promise that nobody looks after any more.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod table_support;

use std::{collections::BTreeSet, fs};

use table_support::{assert_test, cells, in_code, is_test, workspace};

/// What the hero stack needs, by number.
const ROWS: u32 = 12;

#[test]
fn every_row_says_how_it_works_and_names_tests_that_exist() {
    let text = fs::read_to_string(workspace().join("docs/hero.md")).unwrap();
    let mut rows = BTreeSet::new();
    for line in text.lines() {
        let Some(cells) = cells(line) else { continue };
        let Ok(number) = cells[0].parse::<u32>() else { continue };
        let [_, what, how, tests] = cells[..] else { panic!("not four cells: {line}") };
        assert!(rows.insert(number), "row {number} is there twice");
        assert!(!what.is_empty() && how.split_whitespace().count() >= 5, "row {number}: how it works");
        let tests: Vec<String> = in_code(tests).collect();
        assert!(!tests.is_empty(), "row {number}: no test");
        for named in &tests {
            assert_test(&format!("row {number}"), named);
        }
    }
    assert_eq!(rows, (1..=ROWS).collect());
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
