//! The real programs that system tests talk to, and the rule for a machine that lacks them: where nobody promised
//! anything (a developer's machine) the test says so in `target/skipped.txt` and ends; in CI it fails, because a test
//! that is skipped everywhere tests nothing.
//!
//! `scripts/tools` puts the programs into `target/tools` without root, or installs them.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::lab::{self, Side};

/// Where `scripts/tools` puts what it fetched, below `target/tools`; the same list as there.
const FETCHED: [&str; 4] = ["bin", "usr/bin", "usr/sbin", "sbin"];

/// Directories of system programs that a user's PATH often lacks.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Set by `scripts/test quick`: no laboratory.
const QUICK: &str = "TESTKIT_QUICK";

/// The programs a test asked for.
#[derive(Debug)]
pub struct Tools {
    paths: BTreeMap<String, PathBuf>,
}

impl Tools {
    /// Where a program is.
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn path(&self, name: &str) -> &Path {
        self.paths.get(name).unwrap_or_else(|| panic!("{name} is missing in the list given to tools::need"))
    }

    /// A command that runs a program.
    pub fn command(&self, name: &str) -> Command {
        with_libraries(Command::new(self.path(name)))
    }

    /// A command that runs a program on one side of a lab.
    pub fn command_on(&self, side: &Side, name: &str) -> Command {
        with_libraries(side.command(self.path(name)))
    }
}

/// Looks for a program: in `target/tools`, then in PATH, then in the directories of system programs.
pub fn find(name: &str) -> Option<PathBuf> {
    let fetched = target().join("tools");
    let fetched = FETCHED.iter().map(|directory| fetched.join(directory));
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from)).collect::<Vec<_>>();
    let mut places = fetched.chain(installed).map(|directory| directory.join(name));
    places.find(|file| {
        fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// The programs a test needs, or `None` after noting why the test is skipped: `let Some(tools) = need(&[..]) else
/// { return };`.
///
/// # Panics
/// In CI (`CI=true`) instead of skipping.
pub fn need(names: &[&str]) -> Option<Tools> {
    let mut paths = BTreeMap::new();
    let mut missing = Vec::new();
    for name in names {
        match find(name) {
            Some(path) => drop(paths.insert((*name).to_owned(), path)),
            None => missing.push(*name),
        }
    }
    if missing.is_empty() {
        return Some(Tools { paths });
    }
    skip(&format!("missing {}; run scripts/tools", missing.join(", ")));
    None
}

/// The same for a test that needs a [`crate::lab::Lab`] as well.
///
/// # Panics
/// In CI (`CI=true`) instead of skipping.
pub fn need_lab(names: &[&str]) -> Option<Tools> {
    if env::var_os(QUICK).is_some() {
        skip("not in a quick run");
        return None;
    }
    if let Err(why) = lab::possible() {
        skip(&why);
        return None;
    }
    need(names)
}

/// The directory that cargo builds into by default, where tests leave what is not theirs to keep.
pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    workspace.expect("this crate lives two directories below the workspace").join("target")
}

/// Notes that the test that calls this is skipped; for what is neither a program nor a lab.
///
/// # Panics
/// In CI (`CI=true`) instead of skipping.
pub fn skip(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{test} cannot run, and CI must skip nothing: {why}"
    );
    let list = target().join("skipped.txt");
    let noted = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| file.write_all(format!("{test}: {why}\n").as_bytes()));
    assert!(
        noted.is_ok(),
        "{test} is skipped ({why}), and that cannot even be noted in {}: {noted:?}",
        list.display()
    );
}

/// Fetched programs find the fetched libraries, which the machine may lack.
fn with_libraries(mut command: Command) -> Command {
    let libraries = target().join("tools/usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    if libraries.is_dir() {
        // systemd's programs have a directory of their own for what they share.
        let places = [libraries.join("systemd"), libraries];
        command.env("LD_LIBRARY_PATH", env::join_paths(places).expect("no colon in our own path"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_people_have_them() {
        let shell = find("sh").unwrap();
        assert!(shell.is_absolute(), "{}", shell.display());
        assert_eq!(find("no program has this name"), None);
        assert_eq!(find("../bin"), None, "a directory is no program");
    }

    #[test]
    fn what_was_found_can_be_run() {
        let tools = need(&["sh"]).unwrap();
        assert!(tools.command("sh").args(["-c", "exit 0"]).status().unwrap().success());
    }
}
