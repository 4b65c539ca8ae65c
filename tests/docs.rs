//! README.md and docs/setup.md are followed to the letter: every command block is run, every output shown is compared.
//! docs/ARCHITECTURE.md names every file that there is, and no file or test that there is not. Links lead somewhere.
//!
//! A block's first line says what it is: `sh` is run to its end and must succeed (`fails=78`: must end with that code);
//! `sh background` is started and stays up until the page ends; `toml file=NAME` is written to a file; `text` after
//! either is what it printed, where `…` stands for anything and blanks for any number of blanks (`text any-order`: its
//! lines come as they come). `sh by-hand` is not run, and this test knows the few that are allowed to be. Only ports
//! are changed, to free ones, and `rb1_…` is the join string that was printed last, as somebody would paste it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod pages;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use cli_support::{SOON, finished};
use pages::{Block, Expected, blocks, join_string, matches};
use reachback_testkit::{
    eventually,
    process::{Process, Stream},
    tools,
};

#[test]
fn the_readme_runs_as_written() {
    follow("README.md", &["socat", "nc", "curl"], 15);
}

#[test]
fn setup_runs_as_written() {
    follow("docs/setup.md", &["socat", "curl"], 19);
}

/// Blocks that a test can't run: they build, test or install this very tree, need a terminal's other side, or another
/// machine (tests/operations.rs and tests/lab_secure.rs have some).
const BY_HAND: [&str; 7] = [
    "cargo run",
    "scripts/test",
    "cargo build",
    "hub.example.com",
    "reachback node --join rb1_… --id edge-7 --service ssh=22",
    "reachback ssh",
    "sudo install",
];

fn follow(page: &str, programs: &[&str], at_least: usize) {
    let Some(tools) = tools::need(programs) else { return };
    let text = fs::read_to_string(workspace().join(page)).unwrap();
    let blocks = blocks(&text);
    let mut guide = Guide::new(&tools, programs);
    let mut followed = 0;
    for (number, block) in blocks.iter().enumerate() {
        let expected = blocks[number + 1..].first().filter(|next| next.kind == "text").map(Expected::of);
        let place = format!("{page}, line {}", block.line);
        match block.kind.as_str() {
            "sh" if block.has("by-hand") => {
                assert!(
                    BY_HAND.iter().any(|known| block.body.contains(known)),
                    "{place}: run it, or explain it here"
                );
                continue;
            }
            "sh" if block.has("background") => guide.start(&place, &block.body, expected),
            "sh" => guide.run(&place, &block.body, block.exit(), expected),
            "toml" => guide.write(block),
            _ => continue,
        }
        followed += 1;
    }
    assert!(followed >= at_least, "{page}: only {followed} blocks were followed; has their marking changed?");
}

#[test]
fn the_code_map_is_the_code() {
    let text = fs::read_to_string(workspace().join("docs/ARCHITECTURE.md")).unwrap();
    let mut sources = String::new();
    for package in ["wire", "link", "client", "node", "explorer", "cli", "testkit"] {
        let source = workspace().join("crates").join(package).join("src");
        let section =
            text.split(&format!("\n### {package}\n")).nth(1).unwrap_or_else(|| panic!("no map of {package}"));
        let section = section.split("\n##").next().unwrap();
        let named: BTreeSet<String> = section
            .lines()
            .filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()))
            .collect();
        let mut there = BTreeSet::new();
        for path in rust_files(&source) {
            sources.push_str(&fs::read_to_string(&path).unwrap());
            there.insert(path.strip_prefix(&source).unwrap().display().to_string());
        }
        there.retain(|file| file != "lib.rs" && file != "main.rs");
        assert!(there.len() > 3, "{package}: {there:?}");
        assert_eq!(named, there, "the map of {package} (left) and its files (right)");
    }
    for path in
        rust_files(&workspace().join("tests")).into_iter().chain(rust_files(&workspace().join("crates")))
    {
        sources.push_str(&fs::read_to_string(&path).unwrap());
    }
    let invariants = text.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    // Names of lints have fewer words than names of tests.
    let is_test = |word: &&str| word.matches('_').count() >= 3 && !word.contains([':', '/', '.']);
    let tests: Vec<&str> = invariants.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(tests.len() >= 12, "{tests:?}");
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "docs/ARCHITECTURE.md: there is no test {test}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for page in [
        "README.md",
        "docs/setup.md",
        "docs/operations.md",
        "docs/security.md",
        "docs/ARCHITECTURE.md",
        "docs/PROTOCOL.md",
        "docs/api.md",
    ] {
        let page = workspace().join(page);
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.starts_with("http") {
                continue;
            }
            let there = page.parent().unwrap().join(target);
            assert!(there.exists(), "{}: {link} leads nowhere", page.display());
            followed += 1;
        }
    }
    assert!(followed >= 10, "only {followed} links");
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Follows one page, in a home of its own.
struct Guide {
    home: cli_support::Home,
    path: String,
    libraries: Option<std::ffi::OsString>,
    ports: Ports,
    /// What stands for `rb1_…`.
    pasted: String,
    running: Vec<Process>,
}

impl Guide {
    fn new(tools: &tools::Tools, programs: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_reachback")).parent().unwrap().display().to_string();
        let mut places = vec![binary];
        places.extend(programs.iter().map(|name| tools.path(name).parent().unwrap().display().to_string()));
        places.push("/usr/local/bin:/usr/bin:/bin".to_owned());
        // Fetched programs need fetched libraries; the kit knows where they are.
        let probe = programs.first().map(|name| tools.command(name));
        let libraries = probe.and_then(|command| {
            let mut variables = command.get_envs();
            variables.find_map(|(name, value)| (name == "LD_LIBRARY_PATH").then(|| value.map(Into::into))?)
        });
        Self {
            home: cli_support::Home::new(),
            path: places.join(":"),
            libraries,
            ports: Ports::default(),
            pasted: String::new(),
            running: Vec::new(),
        }
    }

    fn shell(&mut self, script: &str) -> Command {
        let script = self.ports.replaced(script).replace("rb1_…", &self.pasted);
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).current_dir(self.home.path(""));
        command.env_clear().env("PATH", &self.path).env("HOME", self.home.path(""));
        command.env("RUNTIME_DIRECTORY", self.home.path("run"));
        command.env("STATE_DIRECTORY", self.home.path("state"));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    fn write(&mut self, block: &Block) {
        let name =
            block.option("file=").unwrap_or_else(|| panic!("line {}: toml needs file=NAME", block.line));
        fs::write(self.home.path(&name), self.ports.replaced(&block.body)).unwrap();
    }

    fn start(&mut self, place: &str, script: &str, expected: Option<Expected>) {
        // `exec`, so that what is killed at the end is the program and not its shell.
        let process = Process::spawn(place, &mut self.shell(&format!("exec {script}"))).unwrap();
        match expected {
            Some(expected) => {
                let expected = expected.replaced(|text| self.ports.replaced(text));
                eventually(SOON, place, || {
                    let said = expected.compare(&process.lines(Stream::Out).join("\n"));
                    said.map_err(|missing| format!("{missing}\n{}", process.tail()))
                });
            }
            None => self.wait_for_port(place, script),
        }
        self.running.push(process);
    }

    /// A service that prints nothing is up when its port is.
    fn wait_for_port(&mut self, place: &str, script: &str) {
        let replaced = self.ports.replaced(script);
        let port =
            numbers(&replaced).find_map(|(_, text)| text.parse::<u16>().ok().filter(|port| *port > 1024));
        let port = port.unwrap_or_else(|| panic!("{place}: neither an expected text nor a port to wait for"));
        eventually(SOON, place, || std::net::TcpStream::connect(("127.0.0.1", port)));
    }

    fn run(&mut self, place: &str, script: &str, exit: i32, expected: Option<Expected>) {
        let expected = expected.unwrap_or_default().replaced(|text| self.ports.replaced(text));
        let mut once = || {
            let mut process = Process::spawn(place, &mut self.shell(script)).unwrap();
            let finished = finished(&mut process);
            let output = format!("{}{}", finished.stdout, finished.stderr);
            match finished.status.code() == Some(exit) {
                true => expected.compare(&output).map(|()| output),
                false => Err(format!("{}: {output}", finished.status)),
            }
        };
        // A stream waits for a node that is arriving. A table and a published port show the moment, and a test is fast
        // enough to look before a node's first heartbeat is back.
        let output = match script.contains("reachback connect") {
            true => once().unwrap_or_else(|why| panic!("{place}: {why}")),
            false => eventually(SOON, place, &mut once),
        };
        if let Some(printed) = join_string(&output) {
            printed.clone_into(&mut self.pasted);
        }
    }
}

/// Ports of the page, and the free ones that stand for them.
#[derive(Default)]
struct Ports(BTreeMap<String, u16>);

impl Ports {
    /// Four digits that begin with 7, 8 or 9 are a port of ours.
    fn replaced(&mut self, text: &str) -> String {
        let mut replaced = String::new();
        let mut end = 0;
        for (at, number) in numbers(text) {
            let is_ours = number.len() == 4 && number.starts_with(['7', '8', '9']);
            replaced.push_str(&text[end..at]);
            end = at + number.len();
            if is_ours {
                replaced.push_str(&self.free(number).to_string());
            } else {
                replaced.push_str(number);
            }
        }
        replaced.push_str(&text[end..]);
        replaced
    }

    fn free(&mut self, port: &str) -> u16 {
        if let Some(port) = self.0.get(port) {
            return *port;
        }
        // Below the range that the kernel hands out, so that no port 0 of another test gets it meanwhile; and each
        // only once, because the pages are followed at the same time.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = u16::try_from(std::process::id() % 10_000).unwrap();
        let mut candidates =
            (0..10_000).map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000);
        let free = candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
        self.0.insert(port.to_owned(), free);
        free
    }
}

/// The runs of digits in a text that are not part of a longer word.
fn numbers(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + text[at..].find(|c: char| c.is_ascii_digit())?;
        let length = text[begin..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - begin);
        at = begin + length;
        Some((begin, &text[begin..at]))
    })
}

#[test]
fn shown_lines_are_compared() {
    assert!(matches("edge-7  online  2 s  echo", "edge-7 online … echo"));
    assert!(matches("edge-7 online", "edge-7   online"));
    assert!(matches("warning: add --x", "… add --x"));
    assert!(matches("code: text", "code: …"));
    assert!(!matches("edge-7 offline", "edge-7 online"));
    assert!(!matches("edge-7 online more", "edge-7 online"));
    assert!(!matches("edge-7 online 2 s ech", "edge-7 online … echo"));
    let expected = |text: &str, any_order| Expected::new(text, any_order);
    assert!(expected("a\nc", false).compare("a\nb\nc").is_ok());
    assert!(expected("c\na", false).compare("a\nb\nc").is_err(), "order counts");
    assert!(expected("c\na", true).compare("a\nb\nc").is_ok(), "unless it is said not to");
    assert!(expected("c\nd", true).compare("a\nb\nc").is_err());
}
