//! docs/faults.md says which test shows that each fault is survived. A test that was renamed or removed would leave a
//! promise that nobody looks after any more, and a table that still says somebody does.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod table_support;

use std::{collections::BTreeSet, fs};

use table_support::{assert_test, cells, in_code, workspace};

/// The faults that a test has been promised for so far.
const FAULTS: [u32; 24] =
    [2, 5, 9, 10, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 43, 44, 45, 46, 52, 54];

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
            assert_test(&format!("fault {fault}"), named);
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
        let cells = cells(line)?;
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
