//! Runs the seeds of a target through its check, for the tests that do so on every `cargo test`.
//!
//! Not part of the fuzz crate: the tests of each crate whose decoders are fuzzed take it in by its path.

use std::{collections::BTreeSet, fmt::Display, fs, path::Path};

/// Each seed of `target` must get the verdict that its name begins with; there are `at_least` so many, and for each of the
/// verdicts `wanted` there is one.
pub(crate) fn replay<V: Display>(target: &str, check: fn(&[u8]) -> V, at_least: usize, wanted: &[&str]) {
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
