//! Tables in the documentation that name tests: whether those tests are there, and are run.
#![allow(dead_code, reason = "each of the test files uses a part of it")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Asserts that the table of a page has these rows, each of which says how it works and names tests that exist.
pub(crate) fn assert_rows(page: &str, rows: u32) {
    let text = fs::read_to_string(workspace().join(page)).expect("the page");
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let Some(cells) = cells(line) else { continue };
        let Ok(number) = cells[0].parse::<u32>() else { continue };
        let [_, what, how, tests] = cells[..] else { panic!("not four cells: {line}") };
        assert!(seen.insert(number), "row {number} is there twice");
        assert!(!what.is_empty() && how.split_whitespace().count() >= 5, "row {number}: how it works");
        let tests: Vec<String> = in_code(tests).collect();
        assert!(!tests.is_empty(), "row {number}: no test");
        for named in &tests {
            assert_test(&format!("row {number}"), named);
        }
    }
    assert_eq!(seen, (1..=rows).collect());
}

/// The cells of a line of a table; `None` for every other line.
pub(crate) fn cells(line: &str) -> Option<Vec<&str>> {
    Some(line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect())
}

/// What a cell holds in code quotes.
pub(crate) fn in_code(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Asserts that `FILE::NAME` is a test that is run.
pub(crate) fn assert_test(row: &str, named: &str) {
    let (file, test) = named.split_once("::").unwrap_or_else(|| panic!("{row}: {named}"));
    let source =
        fs::read_to_string(workspace().join(file)).unwrap_or_else(|error| panic!("{row}: {file}: {error}"));
    assert!(is_test(&source, test), "{row}: {file} has no test {test}");
}

/// Whether a function of this name has `#[test]` or `#[tokio::test…]` above it, and nothing that skips it.
pub(crate) fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &&str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(begins) else { return false };
    let attributes: Vec<&str> =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).copied().collect();
    attributes.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
        && !attributes.iter().any(|line| line.contains("ignore"))
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
