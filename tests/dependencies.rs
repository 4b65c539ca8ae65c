//! The rules about what may depend on what, checked on the resolved graph and on the sources, so that they hold without
//! anybody remembering them: the direction of imports, one home for each replaceable crate, minimum versions that no
//! advisory database enforces, licences, bans, duplicates. Advisories themselves are cargo-deny's (deny.toml).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Our crates and which of ours each may use outside its tests. Imports point one way; explorer and node never meet.
const LAYERS: [(&str, &[&str]); 6] = [
    ("reachback-wire", &[]),
    ("reachback-link", &["reachback-wire"]),
    ("reachback-client", &["reachback-wire", "reachback-link"]),
    ("reachback-node", &["reachback-wire", "reachback-link", "reachback-client"]),
    ("reachback-explorer", &["reachback-wire", "reachback-link"]),
    (
        "reachback",
        &["reachback-wire", "reachback-link", "reachback-client", "reachback-node", "reachback-explorer"],
    ),
];

/// Crates that are replaceable because few places know them: crate, and for each package that may depend on it the folder
/// or file (without `.rs`) of its sources that may name it.
///
/// hyper is in two packages: the explorer answers HTTP and asks nodes with an address, a node asks its services. Neither
/// may import the other, and what they have in common of it is hyper itself.
const HOMES: [(&str, &[(&str, &str)]); 13] = [
    ("lz4_flex", &[("reachback-wire", "crates/wire/src/lz4")]),
    ("yamux", &[("reachback-link", "crates/link/src/mux")]),
    ("backoff", &[("reachback-link", "crates/link/src/backoff")]),
    ("rustls", &TLS),
    ("tokio_rustls", &TLS),
    (
        "x509_parser",
        &[("reachback-link", "crates/link/src/tls"), ("reachback-explorer", "crates/explorer/src/security")],
    ),
    ("jsonwebtoken", &[("reachback-explorer", "crates/explorer/src/security")]),
    ("rusqlite", &[("reachback-explorer", "crates/explorer/src/security")]),
    (
        "rcgen",
        &[
            ("reachback-link", "crates/link/src/tls"),
            ("reachback-explorer", "crates/explorer/src/security"),
            ("reachback-testkit", "crates/testkit/src/certificates"),
        ],
    ),
    (
        "ring",
        &[("reachback-link", "crates/link/src/tls"), ("reachback-explorer", "crates/explorer/src/security")],
    ),
    ("hyper", &HTTP),
    ("hyper_util", &HTTP),
    ("http_body_util", &HTTP),
];

/// Who may speak of TLS as a library sees it.
const TLS: [(&str, &str); 1] = [("reachback-link", "crates/link/src/tls")];

/// Who may speak of HTTP as a library sees it.
const HTTP: [(&str, &str); 2] =
    [("reachback-explorer", "crates/explorer/src"), ("reachback-node", "crates/node/src/call/http")];

/// What `wire` must never pull in, directly or not: it does no I/O and reads no clock.
const NOT_IN_WIRE: [&str; 4] = ["tokio", "mio", "socket2", "getrandom"];

/// Versions below which a crate is known to be broken for us.
const MINIMUM: [(&str, [u64; 3], &str); 5] = [
    (
        "yamux",
        [0, 14, 1],
        "a deadlock of split streams; older ones panic on a peer's frame, unknown to RustSec",
    ),
    (
        "rustls",
        [0, 23, 18],
        "a panic and an endless loop that a peer could cause (RUSTSEC-2024-0399, RUSTSEC-2024-0336)",
    ),
    (
        "jsonwebtoken",
        [11, 0, 0],
        "claims of a wrong type counted as absent (CVE-2026-25537), unknown to RustSec",
    ),
    (
        "lz4_flex",
        [0, 11, 6],
        "copies from outside of what a block has written so far (RUSTSEC-2026-0041); 0.12.0 does too",
    ),
    ("tracing-subscriber", [0, 3, 20], "terminal escapes in text that peers choose (RUSTSEC-2025-0055)"),
];

/// Crates that must not appear anywhere: TLS is rustls.
const BANNED: [&str; 4] = ["openssl", "openssl-sys", "native-tls", "libssh2-sys"];

/// Licences that may be linked into the binary. A change here is a decision, not a fix.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that come in two versions, and why nothing can be done.
const TWICE: [(&str, &str); 4] = [
    ("getrandom", "backoff 0.4, through rand 0.8, wants 0.2"),
    ("rand", "backoff 0.4 wants 0.8"),
    ("rand_core", "with rand"),
    ("syn", "pin-project, through yamux, wants 2; only at build time"),
];

#[test]
fn imports_point_one_way() {
    let graph = Graph::load();
    let ours: BTreeSet<_> = graph.members().map(|package| package.name.clone()).collect();
    for (name, allowed) in LAYERS {
        let package = graph.member(name);
        let used =
            package.dependencies.iter().filter(|(_, kind)| kind != "dev").map(|(name, _)| name.as_str());
        for used in used.filter(|used| ours.contains(*used)) {
            assert!(allowed.contains(&used), "{name} must not depend on {used}; allowed: {allowed:?}");
        }
    }
}

#[test]
fn wire_pulls_in_no_io_and_no_clock() {
    let graph = Graph::load();
    let reached = graph.reached_from("reachback-wire");
    assert!(reached.contains("serde"), "the graph was read: {reached:?}");
    for forbidden in NOT_IN_WIRE {
        assert!(!reached.contains(forbidden), "reachback-wire must not pull in {forbidden}");
    }
}

#[test]
fn replaceable_crates_have_one_home() {
    let graph = Graph::load();
    let sources = sources();
    for (name, homes) in HOMES {
        // Sources write an underscore where packages may have a hyphen.
        let is_it = |used: &str| used.replace('-', "_") == name;
        for package in graph.members() {
            if homes.iter().any(|(owner, _)| *owner == package.name) {
                continue;
            }
            let mut used = package.dependencies.iter().filter(|(_, kind)| kind != "dev");
            assert!(
                !used.any(|(used, _)| is_it(used)),
                "only {homes:?} may depend on {name}, not {}",
                package.name
            );
        }
        let naming: Vec<_> =
            sources.iter().filter(|(_, text)| names_crate(text, name)).map(|(path, _)| path).collect();
        assert!(!naming.is_empty(), "no source names {name}: is the dependency unused, or this test blind?");
        for path in naming {
            let inside = homes
                .iter()
                .any(|(_, home)| path.starts_with(home) || path.with_extension("") == Path::new(home));
            assert!(inside, "{} names {name}; only {homes:?} may", path.display());
        }
    }
}

#[test]
fn versions_are_new_enough() {
    let graph = Graph::load();
    let found: Vec<(&str, &str)> =
        graph.packages.values().map(|package| (&*package.name, &*package.version)).collect();
    assert_eq!(too_old(&found), Vec::<String>::new());
    for (name, minimum, _) in MINIMUM {
        assert!(found.iter().any(|(found, _)| *found == name), "{name} is gone; remove its row");
        let below = newest_too_old(minimum);
        let mut lowered = found.clone();
        lowered.retain(|(found, _)| *found != name);
        lowered.push((name, &below));
        let said = too_old(&lowered);
        assert!(
            said.len() == 1 && said[0].contains(name) && said[0].contains(&below),
            "{name} {below}: {said:?}"
        );
    }
}

/// What cargo-deny is told must be what is tested here. With `@` in place of the colon it reads a comparison as something
/// else and says that all is well.
#[test]
fn deny_toml_knows_the_same_minimum_versions() {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    for (name, minimum, _) in MINIMUM {
        let rule = format!("crate = \"{name}:<={}\"", newest_too_old(minimum));
        assert!(text.contains(&rule), "deny.toml lacks: {rule}");
    }
}

#[test]
fn nothing_banned_and_every_licence_known() {
    let graph = Graph::load();
    for package in graph.packages.values() {
        let Package { name, version, licence, .. } = package;
        assert!(!BANNED.contains(&name.as_str()), "{name} {version} is banned");
        assert!(permits(licence), "{name} {version}: licence {licence:?} is not on the list");
    }
}

#[test]
fn duplicates_are_the_written_ones() {
    let graph = Graph::load();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in graph.packages.values() {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let twice: BTreeSet<_> =
        versions.iter().filter(|(_, found)| found.len() > 1).map(|(name, _)| *name).collect();
    let written: BTreeSet<_> = TWICE.iter().map(|(name, _)| *name).collect();
    let new: Vec<_> = twice.difference(&written).map(|name| (name, &versions[name])).collect();
    assert!(new.is_empty(), "in two versions now: {new:?}; unify them, or write down why not");
    let gone: Vec<_> = written.difference(&twice).collect();
    assert!(gone.is_empty(), "no longer in two versions: {gone:?}; remove the rows");
}

#[test]
fn licence_expressions_are_understood() {
    assert!(permits("MIT"));
    assert!(permits("MIT/Apache-2.0"));
    assert!(permits("GPL-3.0 OR MIT"));
    assert!(permits("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(permits("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    assert!(!permits("GPL-3.0"));
    assert!(!permits("MIT AND GPL-3.0"));
    assert!(!permits("MIT OR Apache-2.0 AND"), "what cannot be read is not permitted");
    assert!(!permits("(MIT"));
    assert!(!permits(""));
}

#[test]
fn a_named_crate_is_found_in_code_only() {
    assert!(names_crate("use yamux::Config;", "yamux"));
    assert!(names_crate("    let x = ::yamux::Mode::Client;", "yamux"));
    assert!(names_crate("use yamux as mux;", "yamux"));
    assert!(!names_crate("// yamux::Config would do", "yamux"));
    assert!(!names_crate("use crate::backoff::Backoff;", "backoff"));
    assert!(!names_crate("use myyamux::Config;", "yamux"));
    assert!(!names_crate("mod backoff;\npub use backoff::Reconnect;", "backoff"));
    assert!(names_crate("mod backoff;\npub use ::backoff::Backoff;", "backoff"));
}

/// What `cargo metadata` says, as far as the rules need it.
struct Graph {
    packages: BTreeMap<String, Package>,
    members: BTreeSet<String>,
    /// Package id to the ids it needs outside its tests.
    needs: BTreeMap<String, Vec<String>>,
}

struct Package {
    name: String,
    version: String,
    licence: String,
    /// Name and kind (`normal`, `dev`, `build`) as the manifest says.
    dependencies: Vec<(String, String)>,
}

impl Graph {
    fn load() -> Self {
        let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &platform])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let graph: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        Self {
            packages: list(&graph["packages"])
                .iter()
                .map(|package| (text(&package["id"]), Package::read(package)))
                .collect(),
            members: list(&graph["workspace_members"]).iter().map(text).collect(),
            needs: list(&graph["resolve"]["nodes"])
                .iter()
                .map(|node| (text(&node["id"]), needs(node)))
                .collect(),
        }
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|(id, _)| self.members.contains(*id)).map(|(_, package)| package)
    }

    fn member(&self, name: &str) -> &Package {
        self.members().find(|package| package.name == name).expect("a member of the workspace")
    }

    /// Names of everything a member needs, directly or not.
    fn reached_from(&self, name: &str) -> BTreeSet<&str> {
        let start = self
            .members
            .iter()
            .find(|id| self.packages[*id].name == name)
            .expect("a member of the workspace");
        let mut reached = BTreeSet::from([start]);
        let mut open = vec![start];
        while let Some(id) = open.pop() {
            open.extend(self.needs[id].iter().filter(|id| reached.insert(id)));
        }
        reached.into_iter().map(|id| self.packages[id].name.as_str()).collect()
    }
}

impl Package {
    fn read(package: &Value) -> Self {
        let kind = |dependency: &Value| dependency["kind"].as_str().unwrap_or("normal").to_owned();
        let dependencies = list(&package["dependencies"]);
        Self {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: package["license"].as_str().unwrap_or_default().to_owned(),
            dependencies: dependencies
                .iter()
                .map(|dependency| (text(&dependency["name"]), kind(dependency)))
                .collect(),
        }
    }
}

fn needs(node: &Value) -> Vec<String> {
    let outside_tests =
        |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
    list(&node["deps"]).iter().filter(outside_tests).map(|dependency| text(&dependency["pkg"])).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The last version before a minimum.
fn newest_too_old([major, minor, patch]: [u64; 3]) -> String {
    match (minor, patch) {
        (0, 0) => format!("{}.99.99", major - 1),
        (_, 0) => format!("{major}.{}.99", minor - 1),
        _ => format!("{major}.{minor}.{}", patch - 1),
    }
}

/// What is below its minimum version, and why that matters.
fn too_old(packages: &[(&str, &str)]) -> Vec<String> {
    let mut said = Vec::new();
    for (name, minimum, why) in MINIMUM {
        let old = packages.iter().filter(|(found, number)| *found == name && version(number) < minimum);
        said.extend(old.map(|(_, number)| format!("{name} {number}: {minimum:?} at least: {why}")));
    }
    said
}

fn version(text: &str) -> [u64; 3] {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = release.split('.').map(|part| part.parse().expect("a number"));
    std::array::from_fn(|_| parts.next().expect("three numbers"))
}

/// Whether an SPDX expression can be satisfied with the licences on the list. `/` is the old spelling of OR.
fn permits(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = all_of(rest)?;
    while take(rest, "OR") {
        permitted |= all_of(rest)?;
    }
    Some(permitted)
}

fn all_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = one(rest)?;
    while take(rest, "AND") {
        permitted &= one(rest)?;
    }
    Some(permitted)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    if take(rest, "(") {
        let permitted = any_of(rest)?;
        return take(rest, ")").then_some(permitted);
    }
    let (first, after) = rest.split_first()?;
    let mut licence = (*first).to_owned();
    *rest = after;
    if take(rest, "WITH") {
        let (exception, after) = rest.split_first()?;
        licence = format!("{licence} WITH {exception}");
        *rest = after;
    }
    Some(LICENCES.contains(&licence.as_str()))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let Some((first, after)) = rest.split_first() else { return false };
    if *first == word {
        *rest = after;
    }
    *first == word
}

/// Every source file of every crate, with its path below the workspace.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut open = vec![root().join("crates")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // The tests of a crate may talk to it through anything.
                if path.file_name().is_none_or(|name| name != "tests" && name != "target") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root()).expect("below the workspace").to_owned();
                files.push((below, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    files
}

fn names_crate(source: &str, name: &str) -> bool {
    // Where a module of ours has the name, `NAME::` is the module.
    if source.contains(&format!("mod {name};")) {
        return source.contains(&format!(" ::{name}::"));
    }
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.match_indices(name).any(|(at, _)| {
            let (before, after) = (&code[..at], &code[at + name.len()..]);
            let path =
                after.starts_with("::") || (before.trim_end().ends_with("use") && !after.starts_with('_'));
            // `crate::backoff::…` is our module; `::backoff::…` is the crate.
            let own = before.ends_with(|last: char| last.is_alphanumeric() || last == '_')
                || (before
                    .strip_suffix("::")
                    .is_some_and(|before| before.ends_with(|last: char| last.is_alphanumeric())));
            path && !own
        })
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this package lives two directories down")
}
