//! The product as it is meant to be used, with the real binary: a strict explorer, nodes that join by one pasted line,
//! people who log in, and what becomes of those who should not be there.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cli_support::{Home, SOON, finished, refused, services};
use reachback_testkit::{
    eventually,
    process::{Finished, Process, Signal, run},
};
use serde_json::Value;

/// How long a revocation may take to be felt.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A strict explorer on loopback and its address.
struct Hub {
    home: Home,
    process: Process,
    address: String,
}

impl Hub {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let home = Home::new();
        let (process, address) = home.explorer(&[&["--mode", "strict"], more].concat());
        Self { home, process, address }
    }

    /// Ends it and starts it again at the same address.
    fn restart(&mut self) {
        self.process.signal(Signal::Terminate).unwrap();
        assert_eq!(self.process.wait(SOON).unwrap().code(), Some(0), "{}", self.process.tail());
        let again = [
            "explorer",
            "--id",
            "hub-1",
            "--mode",
            "strict",
            "--listen",
            &self.address,
            "--heartbeat",
            "500ms",
        ];
        self.process = self.home.start(&again);
        self.process.wait_for_line("listening", SOON).unwrap();
    }

    /// What `token create` prints as JSON.
    fn token(&self, arguments: &[&str]) -> Value {
        let made = self.home.run(&[&["token", "create", "--json"], arguments].concat());
        assert!(made.status.success(), "{}", made.stderr);
        serde_json::from_str(&made.stdout).unwrap()
    }

    /// The line of a new token.
    fn line(&self, arguments: &[&str]) -> String {
        self.token(arguments)["join"].as_str().unwrap().to_owned()
    }

    /// A node that has joined and is online.
    fn node(&self, home: &Home, id: &str, more: &[&str]) -> Process {
        let line = self.line(&["--role", "register", "--node", id]);
        let node = home.start(&[&["node", "--join", &line, "--id", id], more].concat());
        node.wait_for_line(&format!("{id} online at hub-1"), SOON).unwrap();
        node
    }

    /// A machine on which somebody has logged in who may reach what `allow` says.
    fn user(&self, name: &str, allow: &[&str]) -> Home {
        let mut arguments = vec!["--role", "user", "--name", name];
        for right in allow {
            arguments.extend(["--allow", right]);
        }
        let line = self.line(&arguments);
        let home = Home::new();
        let said = home.run_with_input(&["login", "-"], line.as_bytes());
        assert!(said.status.success(), "{}", said.stderr);
        assert!(said.stdout.contains(&format!("logged in as {name} at {}", self.address)), "{}", said.stdout);
        home
    }
}

/// A JSON-RPC service that answers with its parameters, and an echo.
fn offers(home: &Home) -> [String; 2] {
    let rpc = home.path("rpc.sock");
    services::json_rpc(&rpc);
    [format!("rpc={},framing=lines", rpc.display()), format!("echo={}", services::echo())]
}

#[test]
fn one_pasted_line_and_a_call() {
    let mut hub = Hub::start();
    let head = hub.process.wait_for_line("explorer \"hub-1\"", SOON).unwrap();
    assert!(head.contains("strict (mutual TLS, node ids checked)"), "{head}");
    hub.process.wait_for_line("new certificate authority made just now", SOON).unwrap();
    let state = hub.home.path("state/explorer");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&state).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || (mode == 0o700 && file.path().is_dir()), "{:?}: {mode:o}", file.path());
    }

    let edge = Home::new();
    let [rpc, echo] = offers(&edge);
    let mut node = hub.node(&edge, "edge-7", &["--service", &rpc, "--service", &echo]);
    node.wait_for_line("certificate until 20", SOON).unwrap();

    let ann = hub.user("ann", &["edge-*/rpc", "@explorer/api:explorer.nodes"]);
    let called = ann.run(&["call", "edge-7/rpc", "double", "[21]"]);
    assert!(called.status.success() && called.stdout.contains("21"), "{} {}", called.stdout, called.stderr);
    assert!(ann.run(&["nodes"]).stdout.contains("edge-7  online"));

    // What nobody has allowed is denied with the sentence that says what to ask for.
    let denied = ann.run_with_input(&["connect", "edge-7/echo"], b"x");
    let sentence = refused(&denied, 77);
    assert!(sentence.starts_with("denied: user \"ann\" may call edge-*/rpc"), "{sentence}");
    assert!(sentence.contains("reachback token create --role user"), "{sentence}");
    for operators in [&["token", "list"][..], &["revoke", "edge-7"], &["kick", "edge-7"], &["audit"]] {
        let denied = ann.run(operators);
        assert!(refused(&denied, 77).starts_with("denied: "), "{operators:?}: {}", denied.stderr);
    }

    // Both come back without the line.
    hub.restart();
    node.wait_for_line_after(node.mark(), "edge-7 online", SOON).unwrap();
    node.signal(Signal::Terminate).unwrap();
    node.wait(SOON).unwrap();
    let again = edge.start(&["node", "--id", "edge-7", "--service", &rpc]);
    again.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    eventually(SOON, "ann calls again", || {
        let called = ann.run(&["call", "edge-7/rpc", "double", "[21]"]);
        if called.status.success() { Ok(()) } else { Err(called.stderr) }
    });
}

#[test]
fn whoever_is_revoked_is_cut_off_and_told_so() {
    let hub = Hub::start();
    let edge = Home::new();
    let [_, echo] = offers(&edge);
    let node = hub.node(&edge, "edge-7", &["--service", &echo]);
    let ann = hub.user("ann", &["edge-*/echo"]);

    // A stream is open and alive.
    let (mut stream, mut input) = {
        let mut command = ann.command(&["connect", "edge-7/echo"]);
        Process::spawn_with_stdin("connect", &mut command).unwrap()
    };
    input.write_all(b"hello\n").unwrap();
    stream.wait_for_line("hello", SOON).unwrap();

    let said = hub.home.run(&["revoke", "ann"]);
    assert!(
        said.status.success() && said.stdout.contains("user ann is revoked"),
        "{} {}",
        said.stdout,
        said.stderr
    );
    stream.wait(REVOKED_WITHIN).unwrap();
    let cut = finished(&mut stream);
    assert!(!cut.status.success() && cut.stderr.contains("revoked"), "{}", cut.stderr);
    let refused_again = ann.run(&["connect", "edge-7/echo"]);
    assert!(refused_again.stderr.contains("revoked"), "{}", refused_again.stderr);

    let mark = node.mark();
    let said = hub.home.run(&["revoke", "edge-7"]);
    assert!(said.stdout.contains("node edge-7 is revoked"), "{} {}", said.stdout, said.stderr);
    let told = node.wait_for_line_after(mark, "edge-7 offline", REVOKED_WITHIN).unwrap();
    assert!(told.contains("revoked") && told.contains("reachback release edge-7"), "{told}");
    drop(node);

    // Back with a new key, once somebody has said that this is fine.
    let other = Home::new();
    let line = hub.line(&["--role", "register", "--node", "edge-7"]);
    let start = ["node", "--join", &line, "--id", "edge-7", "--service", &echo];
    let squatter = other.start(&start);
    let told = squatter.wait_for_line("edge-7 offline", SOON).unwrap();
    assert!(told.contains("reachback release edge-7"), "{told}");
    drop(squatter);
    assert!(hub.home.run(&["release", "edge-7"]).status.success());
    let back = other.start(&start);
    back.wait_for_line("edge-7 online at hub-1", SOON).unwrap();

    let records = hub.home.run(&["audit", "--json"]).stdout;
    for what in ["ann", "edge-7", "revoke", "release"] {
        assert!(records.contains(what), "{what}: {records}");
    }
}

/// What a container has: variables, no home, no disk.
#[test]
fn a_container_joins_from_variables_alone() {
    let hub = Hub::start();
    let line = hub.line(&["--role", "register", "--node", "web-*", "--uses", "unlimited", "--ephemeral"]);
    let home = Home::new();
    let service = format!("echo={}", services::echo());
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reachback"));
        command.arg("node").env_clear().current_dir("/");
        command.env("REACHBACK_JOIN", &line).env("REACHBACK_ID", "web-1").env("REACHBACK_SERVICE", &service);
        // Nothing can be made there, whoever asks.
        command.env("REACHBACK_STATE_DIR", "/proc/reachback").env("REACHBACK_CONTROL_SOCKET", "off");
        Process::spawn("a container", &mut command).unwrap()
    };
    let mut container = start();
    container.wait_for_line("web-1 online at hub-1", SOON).unwrap();
    container.signal(Signal::Terminate).unwrap();
    container.wait(SOON).unwrap();
    // The next one has another key, and the name all the same.
    let next = start();
    next.wait_for_line("web-1 online at hub-1", SOON).unwrap();
    let admin = hub.home.run_with_input(&["connect", "web-1/echo"], b"through\n");
    assert_eq!(admin.stdout, "through\n", "{}", admin.stderr);
    drop(home);
}

#[test]
fn a_grant_lets_somebody_in_for_a_while() {
    let hub = Hub::start();
    let edge = Home::new();
    let [_, echo] = offers(&edge);
    let _node = hub.node(&edge, "edge-7", &["--service", &echo]);
    let ann = hub.user("ann", &["edge-7/other"]);
    let visit = || ann.run_with_input(&["connect", "edge-7/echo"], b"hello\n");
    refused(&visit(), 77);
    let said = edge.run(&["grant", "echo", "--to", "ann", "--for", "6s", "--reason", "ticket 4711"]);
    assert!(said.stdout.contains("ann may use edge-7/echo for 6 s"), "{} {}", said.stdout, said.stderr);
    eventually(SOON, "ann is let in", || {
        let visited = visit();
        if visited.stdout == "hello\n" { Ok(()) } else { Err(visited.stderr) }
    });
    let mut command = ann.command(&["connect", "edge-7/echo"]);
    let (mut stream, mut input) = Process::spawn_with_stdin("connect", &mut command).unwrap();
    input.write_all(b"hello\n").unwrap();
    let end = finished(&mut stream);
    assert!(end.stderr.contains("expired"), "{}", end.stderr);
    refused(&visit(), 77);
}

/// Everything that programs said, and what others on the machine can see of them.
#[derive(Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    fn note(&mut self, place: &str, text: impl Into<String>) {
        self.0.push((place.to_owned(), text.into()));
    }

    fn finished(&mut self, place: &str, finished: &Finished) {
        self.note(place, format!("{}\n{}", finished.stdout, finished.stderr));
    }

    /// Its command line, as `ps` shows it to everybody.
    fn command_line(&mut self, place: &str, process: &Process) {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap();
        assert!(!line.is_empty());
        self.note(&format!("{place}: command line"), String::from_utf8_lossy(&line));
    }

    fn ended(&mut self, place: &str, mut process: Process) {
        process.signal(Signal::Terminate).unwrap();
        let end = finished(&mut process);
        assert!(end.stdout.len() + end.stderr.len() > 200, "{place} said next to nothing: {}", end.stderr);
        self.finished(place, &end);
    }

    /// Where any stretch of `secret` appears that is long enough to be of use.
    fn places_of(&self, secret: &str) -> Vec<String> {
        let window = 20;
        let characters: Vec<char> = secret.chars().collect();
        let parts: Vec<String> = match characters.len() <= window {
            true => vec![secret.to_owned()],
            false => characters.windows(window).step_by(4).map(|part| part.iter().collect()).collect(),
        };
        let shows = |text: &str| parts.iter().find(|part| text.contains(part.as_str())).cloned();
        self.0.iter().filter_map(|(place, text)| Some(format!("{place}: {}", shows(text)?))).collect()
    }
}

/// The base64 of every private key below a directory.
fn keys_below(directory: &Path) -> Vec<String> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            keys.extend(keys_below(&entry.path()));
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some((_, key)) = text.split_once("PRIVATE KEY-----") {
            let body = key.split("-----END").next().unwrap();
            keys.push(body.split_whitespace().collect());
        }
    }
    keys
}

#[test]
fn no_secret_shows_in_logs_command_lines_children_or_refusals() {
    let mut seen = Seen::default();
    let hub = Hub::start_with(&["-vv"]);
    let register = hub.line(&["--role", "register", "--node", "edge-7"]);
    let login = hub.line(&["--role", "user", "--name", "ann", "--allow", "*/*"]);
    let mut secrets = vec![("a register line", register.clone()), ("a login line", login.clone())];

    // A node that joins, a user who logs in and calls.
    let edge = Home::new();
    let [_, echo] = offers(&edge);
    fs::write(edge.path("join"), &register).unwrap();
    let start = [
        "node",
        "--id",
        "edge-7",
        "--join-file",
        "join",
        "--service",
        &echo,
        "--service",
        "ssh=1,probe=off",
        "-vv",
    ];
    let node = edge.start(&start);
    node.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    let ann = Home::new();
    seen.finished("login", &ann.run_with_input(&["login", "-", "-vv"], login.as_bytes()));
    let called = ann.run_with_input(&["connect", "edge-7/echo", "-vv"], b"hello");
    assert!(called.status.success(), "{}", called.stderr);
    seen.finished("connect", &called);
    seen.finished("nodes", &ann.run(&["nodes", "-vv"]));
    seen.finished("the audit", &hub.home.run(&["audit", "--json"]));
    seen.finished("the tokens", &hub.home.run(&["token", "list"]));

    // ssh is a child: it gets neither more variables nor more arguments than it needs.
    let program = ann.path("bin/ssh");
    fs::create_dir(ann.path("bin")).unwrap();
    fs::write(&program, "#!/bin/sh\necho \"$@\"\nenv\ntr '\\0' '\\n' < /proc/$PPID/environ\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = ann.command(&["ssh", "edge-7"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", ann.path("bin").display()));
    let child = run("ssh", &mut command, SOON).unwrap();
    assert!(child.stdout.contains("ProxyCommand") && child.stdout.contains("HOME="), "{}", child.stderr);
    seen.finished("a child", &child);

    // Lines that are not taken, and what is said of them.
    let mistyped: String =
        login.chars().enumerate().map(|(n, c)| if n == 40 && c != 'x' { 'x' } else { c }).collect();
    for line in [&login[..login.len() - 7], &mistyped, &login[4..], &login] {
        let other = Home::new();
        let finished = other.run_with_input(&["login", "-", "-vv"], line.as_bytes());
        assert!(!finished.status.success());
        seen.finished("a refused login", &finished);
        fs::write(other.path("join"), line).unwrap();
        let check = other.run(&["check", "node", "--id", "edge-8", "--join-file", "join"]);
        seen.finished("a checked line", &check);
    }
    seen.command_line("the explorer", &hub.process);
    seen.command_line("the node", &node);

    // A lab: one secret for all, and a token where one is not taken.
    let lab = Home::new();
    let shared = "correct-horse-battery-staple-4711";
    fs::write(lab.path("secret"), shared).unwrap();
    secrets.push(("the shared secret", shared.to_owned()));
    let (explorer, address) = lab.explorer(&["--secret-file", "secret", "-vv"]);
    let member =
        lab.start(&["node", "--explorer", &address, "--id", "lab-1", "--secret-file", "secret", "-vv"]);
    member.wait_for_line("lab-1 online at hub-1", SOON).unwrap();
    let other = lab.path("other");
    fs::write(&other, "incorrect-horse-battery-staple-11").unwrap();
    secrets.push(("another secret", "incorrect-horse-battery-staple-11".to_owned()));
    let wrong = lab.run(&["nodes", "--explorer", &address, "--secret-file", "other", "-vv"]);
    assert!(!wrong.status.success());
    seen.finished("a wrong secret", &wrong);
    let bearer = lab.run(&["nodes", "--explorer", &address, "--token-file", "other", "-vv"]);
    assert!(!bearer.status.success());
    seen.finished("a token that is none", &bearer);
    let mut web = TcpStream::connect(&address).unwrap();
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {shared}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    web.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).unwrap();
    seen.note("an HTTP answer", answer);
    seen.command_line("the lab's node", &member);
    seen.ended("the lab's node", member);
    seen.ended("the lab's explorer", explorer);
    seen.ended("the node", node);
    let Hub { home, process, .. } = hub;
    seen.ended("the explorer", process);

    let directories: [PathBuf; 3] = [home.path(""), edge.path(""), ann.path("")];
    for directory in &directories {
        let keys = keys_below(directory);
        assert!(!keys.is_empty(), "no key below {}", directory.display());
        secrets.extend(keys.into_iter().map(|key| ("a private key", key)));
    }
    for (name, secret) in &secrets {
        assert!(secret.len() > 30, "{name} is too short to be looked for");
        assert_eq!(seen.places_of(secret), Vec::<String>::new(), "{name} shows");
    }
    // The test itself sees what is there.
    seen.note("here", format!("x{}y", &register[9..40]));
    assert_eq!(seen.places_of(&register).len(), 1);
}
