//! Tables in the documentation that name tests: whether those tests are there, and are run.

use std::{
    fs,
    path::{Path, PathBuf},
};

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
