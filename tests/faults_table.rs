//! docs/faults.md says which test shows that each fault is survived. A test that was renamed or removed would leave a
//! promise that nobody looks after any more, and a table that still says somebody does.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The faults that a test has been promised for so far.
const FAULTS: [u32; 13] = [2, 5, 9, 10, 26, 27, 29, 30, 31, 32, 34, 35, 54];

#[test]
fn every_fault_has_a_promise_a_protection_and_tests_that_exist() {
    let text = fs::read_to_string(workspace().join("docs/faults.md")).unwrap();
    let mut faults = BTreeSet::new();
    for row in text.lines().filter_map(Row::read) {
        let fault = row.fault;
        assert!(faults.insert(fault), "fault {fault} is there twice");
        assert!(
            !row.what.is_empty() && row.promise.split_whitespace().count() >= 5,
            "fault {fault}: no promise"
        );
        assert!(!row.protections.is_empty(), "fault {fault}: no protection");
        for file in &row.protections {
            assert!(workspace().join(file).is_file(), "fault {fault}: there is no {file}");
        }
        assert!(!row.tests.is_empty(), "fault {fault}: no test");
        for named in &row.tests {
            let (file, test) = named.split_once("::").unwrap_or_else(|| panic!("fault {fault}: {named}"));
            let source = fs::read_to_string(workspace().join(file))
                .unwrap_or_else(|error| panic!("fault {fault}: {file}: {error}"));
            assert!(is_test(&source, test), "fault {fault}: {file} has no test {test}");
        }
    }
    assert_eq!(faults, BTreeSet::from(FAULTS));
}

/// A line of the table, its cells apart.
struct Row {
    fault: u32,
    what: String,
    promise: String,
    protections: Vec<String>,
    tests: Vec<String>,
}

impl Row {
    /// `None` for every line that does not begin with a number in a cell.
    fn read(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let fault = cells[0].parse().ok()?;
        let [_, what, promise, protections, tests] = cells[..] else { panic!("not five cells: {line}") };
        Some(Self {
            fault,
            what: what.to_owned(),
            promise: promise.to_owned(),
            protections: in_code(protections).filter(|word| word.contains('/')).collect(),
            tests: in_code(tests).collect(),
        })
    }
}

fn in_code(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Whether a function of this name has `#[test]` or `#[tokio::test…]` above it, and nothing that skips it.
fn is_test(source: &str, name: &str) -> bool {
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

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
