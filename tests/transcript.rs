//! Every command as somebody sees it who types it: on a real pseudo-terminal of 80 columns, its help, one success and
//! one refusal. A command without an entry here fails the test.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use cli_support::{Home, SOON, services};
use reachback_testkit::{eventually, process::Process};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// What a command does when it works.
enum Success {
    /// It ends with 0 and has shown this.
    Ends(&'static [&'static str], &'static str),
    /// It shows this and stays until it is told to stop.
    Stays(&'static [&'static str], &'static str),
}
use Success::{Ends, Stays};

/// The command, a part of its help, its success, and its refusal: what is typed, the exit code, a part of the text.
type Entry = (&'static str, &'static str, Success, (&'static [&'static str], i32, &'static str));

fn entries() -> Vec<Entry> {
    vec![
        (
            "explorer",
            "--insecure-plaintext",
            Stays(&["--id", "h2", "--socket", "HOME/h2.sock"], "local socket only"),
            (&["--listen", "http://x"], 64, "unknown scheme"),
        ),
        (
            "node",
            "NAME=ADDRESS[,key=value]",
            Stays(
                &["--id", "edge-8", "--control-socket", "off", "--service", "web=1"],
                "edge-8 online at hub-1",
            ),
            (&["edge-7"], 64, "reachback show edge-7"),
        ),
        ("nodes", "--watch", Ends(&[], "edge-7  online"), (&["-l", "eu"], 64, "region=eu")),
        (
            "show",
            "--json",
            Ends(&["edge-7"], "edge-7  online for"),
            (&["edge-6"], 69, "did you mean edge-7?"),
        ),
        (
            "status",
            "-q",
            Ends(&[], "explorer hub-1"),
            (&["--explorer", "nowhere.invalid", "--insecure-plaintext"], 69, "nowhere.invalid"),
        ),
        (
            "call",
            "Nothing is sent twice",
            Ends(&["edge-7/rpc", "double", "[21]"], "21"),
            (&["edge-7/rpc", "double", "{21}"], 64, "no JSON"),
        ),
        (
            "connect",
            "ProxyCommand",
            Ends(&["edge-7/bye"], "bye"),
            (&["edge-7/by"], 69, "service_not_found: "),
        ),
        (
            "forward",
            "--file",
            Stays(&["0=edge-7/bye"], "-> edge-7/bye"),
            (&["53=edge-7/dns/udp"], 64, "UDP is not in this version"),
        ),
        ("socks", "SERVICE.NODE", Stays(&["0"], "socks5h://127.0.0.1:"), (&["--via", "..", "0"], 64, "..")),
        (
            "ssh",
            "exit code is ssh's",
            // ssh shows what it would do and connects to nothing.
            Ends(&["edge-7", "-F", "none", "-G"], "proxycommand"),
            (&["edge-9"], 69, "offers no service called ssh"),
        ),
        (
            "ssh-config",
            "~/.ssh/config",
            Ends(&[], "Host edge-7"),
            (&["--explorer", "tls://x"], 78, "reachback login"),
        ),
        (
            "expose",
            "control socket",
            Ends(&["web=80"], "edge-7/web can be reached"),
            (&["web"], 64, "NAME=ADDRESS"),
        ),
        ("unexpose", "control socket", Ends(&["web"], "can't be reached any more"), (&["wob"], 1, "wob")),
        ("token", "reachback token list", Ends(&["list"], "may: */*"), (&["lst"], 64, "similar")),
        (
            "token create",
            "--ephemeral",
            Ends(&["--role", "user", "--name", "ann", "--allow", "edge-*/rpc"], "reachback login rb1_"),
            (&["--role", "register"], 64, "--node"),
        ),
        (
            "token list",
            "what is left of it",
            Ends(&[], "may: edge-*/rpc"),
            (&["--explorer", "tls://x"], 78, "reachback login"),
        ),
        (
            "login",
            "reads the line from stdin",
            Ends(&["LINE", "--profile", "hub"], "logged in as ben at 127.0.0.1:"),
            (&["rb1_AAAA"], 64, "cut off"),
        ),
        ("revoke", "within 5 s", Ends(&["ben"], "user ben is revoked"), (&["nobody"], 69, "nobody")),
        ("release", "new hardware", Ends(&["edge-4"], "edge-4"), (&["../x"], 64, "../x")),
        ("audit", "--last", Ends(&[], "revoke"), (&["--last", "0"], 64, "1..=10000")),
        (
            "backup",
            "authority's key",
            Ends(&["HOME/backup"], "keep it as you keep that machine"),
            (&["/proc/nowhere/backup"], 1, "/proc/nowhere/backup"),
        ),
        (
            "ca",
            "two steps",
            Ends(&["rotate", "begin"], "reachback ca rotate finish"),
            (&["rotat"], 64, "similar"),
        ),
        (
            "ca rotate",
            "half the life",
            Ends(&["finish"], "only the new authority is trusted"),
            (&["again"], 64, "possible values"),
        ),
        (
            "grant",
            "the explorer's rights say",
            Ends(
                &["rpc", "--to", "ann", "--for", "1h", "--reason", "ticket 4711"],
                "ann may use edge-7/rpc for 60 min",
            ),
            (&["rpc", "--to", "ann"], 64, "--for"),
        ),
        (
            "ungrant",
            "before its time",
            Ends(&["rpc", "--to", "ann"], "ann may not use rpc any more"),
            (&["rpc", "--to", "ann"], 1, "reachback status"),
        ),
        ("kick", "--for", Ends(&["edge-7"], "session is ended"), (&["edge-6"], 69, "node_not_found: ")),
        ("forget", "NODE", Ends(&["gone"], "gone is forgotten"), (&["edge-9"], 77, "edge-9 is online")),
        (
            "check",
            "where it comes from",
            Ends(&["node", "--id", "a"], "flag --id"),
            (&["--config", "missing.toml"], 78, "missing.toml"),
        ),
        (
            "check explorer",
            "--insecure-plaintext",
            Ends(&["--id", "a", "--listen", "127.0.0.1:1"], "flag --listen"),
            (&["--listen", ":1", "--mode", "legacy"], 78, "--insecure-plaintext"),
        ),
        (
            "check node",
            "--allow-dial",
            Ends(&["--id", "a", "--service", "ssh=22"], "ssh=127.0.0.1:22"),
            (&["--id", "a", "--service", "ssh"], 64, "NAME=ADDRESS"),
        ),
        (
            "man",
            "man1",
            Ends(&["HOME/man"], "read one: man "),
            (&["/dev/null/man"], 1, "can't write man pages to /dev/null/man"),
        ),
        ("help", "Print this message", Ends(&["kick"], "turn it away"), (&["kik"], 64, "kik")),
        ("completions", "bash", Ends(&["bash"], "_reachback"), (&["tcsh"], 64, "possible values")),
        ("demo", "--once", Ends(&["--once"], "All steps worked."), (&["--twice"], 64, "unexpected argument")),
    ]
}

#[test]
fn every_command_helps_works_and_refuses_in_words() {
    let home = Home::new();
    // One port for this machine, which believes everybody, and one that believes certificates.
    let file = "id = \"hub-1\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"strict\"\n";
    fs::write(home.path("explorer.toml"), file).unwrap();
    let (_explorer, address) = home.explorer(&["--config", "explorer.toml"]);
    let line =
        home.run(&["token", "create", "--role", "user", "--name", "ben", "--allow", "*/*", "--json"]).stdout;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let line = line["join"].as_str().unwrap();
    let rpc = home.path("rpc.sock");
    services::json_rpc(&rpc);
    let bye = services::serve(|mut stream| drop(stream.write_all(b"bye\n"))).to_string();
    let offers = [format!("rpc={},framing=lines", rpc.display()), format!("bye={bye}"), "ssh=1".to_owned()];
    let services: Vec<&str> = offers.iter().flat_map(|offer| ["--service", offer.as_str()]).collect();
    let _edge_7 = home.node(&address, "edge-7", &services);
    let _edge_9 = home.node(&address, "edge-9", &["--control-socket", "off"]);
    let gone = home.node(&address, "gone", &["--control-socket", "off"]);
    drop(gone);
    eventually(SOON, "gone is offline", || {
        let table = home.run(&["show", "gone", "--explorer", &address]).stdout;
        if table.contains("offline") { Ok(()) } else { Err(table) }
    });

    let typed = |command: &str, arguments: &[&str]| -> Vec<String> {
        let at = home.path("").display().to_string();
        let mut typed: Vec<String> = command.split(' ').map(str::to_owned).collect();
        typed.extend(arguments.iter().map(|argument| argument.replace("HOME/", &at).replace("LINE", line)));
        typed
    };
    for (command, help, success, (refused, exit, part)) in entries() {
        // `help` is a command that takes a command, and explains itself like any other.
        let asked = if command == "help" { typed("help", &["help"]) } else { typed(command, &["--help"]) };
        let shown = Terminal::start(&home, &address, &asked).ended();
        assert_eq!(shown.0.code(), Some(0), "{command} --help: {}", shown.1);
        assert!(shown.1.contains(help), "{command} --help: {}", shown.1);
        for line in shown.1.lines() {
            assert!(line.chars().count() <= 80, "{command} --help: wider than the terminal: {line}");
        }
        match success {
            Ends(arguments, part) => {
                let (status, text) = Terminal::start(&home, &address, &typed(command, arguments)).ended();
                assert!(status.success() && text.contains(part), "{command} {arguments:?}: {status}: {text}");
            }
            Stays(arguments, part) => {
                let mut terminal = Terminal::start(&home, &address, &typed(command, arguments));
                terminal.until(part);
                terminal.interrupt();
                let (status, text) = terminal.ended();
                assert!(status.success(), "{command} {arguments:?}: {status}: {text}");
            }
        }
        let (status, text) = Terminal::start(&home, &address, &typed(command, refused)).ended();
        assert_eq!(status.code(), Some(exit), "{command} {refused:?}: {text}");
        assert!(text.contains(part), "{command} {refused:?}: {text}");
    }
}

#[test]
fn no_command_is_left_out() {
    let home = Home::new();
    // Made from the tree that takes the command line apart, hidden commands and commands of commands too: a line
    // `PARENT,NAME)` for each.
    let script = home.run(&["completions", "bash"]).stdout;
    let there: BTreeSet<String> = script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("reachback")?.strip_suffix(')')?.split_once(','))
        .map(|(parents, name)| format!("{} {name}", parents.replace("__subcmd__", " ")).trim().to_owned())
        // What `help` takes are the same names once more.
        .filter(|path| !path.starts_with("help ") && !path.contains(" help"))
        .collect();
    let here: BTreeSet<String> = entries().iter().map(|entry| entry.0.to_owned()).collect();
    assert_eq!(there, here, "what can be typed (left) and what is shown here (right)");
}

#[test]
fn a_watch_redraws_on_a_terminal_and_prints_blocks_elsewhere() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let watch = ["nodes", "--watch", "--explorer", &address];
    let mut terminal = Terminal::start(&home, &address, &watch.map(str::to_owned));
    let piped = home.start(&watch);
    terminal.until("\u{1b}[H\u{1b}[J");
    let _edge_7 = home.node(&address, "edge-7", &["--control-socket", "off"]);
    terminal.until("edge-7  online");
    terminal.interrupt();
    assert!(terminal.ended().0.success());
    piped.wait_for_line("edge-7  online", SOON).unwrap();
    assert!(!piped.tail().contains('\u{1b}'), "{}", piped.tail());
}

#[test]
fn a_watch_counts_on_while_nothing_happens() {
    let home = Home::new();
    // No heartbeat comes in the time of this test, so nothing changes but the time.
    let (_explorer, address) = home.explorer(&["--heartbeat", "60s"]);
    let _edge_7 = home.node(&address, "edge-7", &["--control-socket", "off"]);
    let mut terminal = Terminal::start(&home, &address, &["nodes", "--watch"].map(str::to_owned));
    terminal.until("edge-7  online");
    let first = terminal.text.clone();
    let shown = |text: &str| (0..30).rev().find(|second| text.contains(&format!("online  {second} s ")));
    let then = shown(&first).unwrap_or(0);
    terminal.until(&format!("online  {} s ", then + 2));
    terminal.interrupt();
    assert!(terminal.ended().0.success());
}

/// A line for a node is a secret: whoever looks at the terminal gets one, whatever is kept in a log does not.
#[test]
fn a_line_for_a_node_is_for_eyes_only() {
    let home = Home::new();
    let typed = |listen: &str, more: &[&str]| -> Vec<String> {
        let typed = ["explorer", "--id", "hub-1", "--mode", "strict", "--listen", listen];
        typed.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let mut terminal = Terminal::start(&home, "", &typed(":0", &[]));
    terminal.until("(valid 15 min, one node)");
    terminal.until("is a guess");
    let text = terminal.text.clone();
    let line = text.lines().find(|line| line.starts_with("join       reachback node --join rb1_")).unwrap();
    terminal.interrupt();
    assert!(terminal.ended().0.success());

    // It is one that works.
    let mut terminal = Terminal::start(&home, "", &typed("127.0.0.1:0", &["--heartbeat", "500ms"]));
    terminal.until("(valid 15 min, one node)");
    let said = terminal.text.clone();
    assert!(!said.contains("a guess") && !said.contains("made just now"), "{said}");
    assert!(!said.contains(line), "each start has a line of its own");
    let line = said.lines().find_map(|line| line.strip_prefix("join       reachback node --join ")).unwrap();
    let edge = Home::new();
    let join = line.split_whitespace().next().unwrap();
    let node = edge.start(&["node", "--join", join, "--id", "edge-7", "--service", "web=1"]);
    node.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    let mut second = edge.command(&["node", "--join", join, "--id", "edge-8", "--service", "web=1"]);
    second.env("STATE_DIRECTORY", edge.path("second")).env("REACHBACK_CONTROL_SOCKET", "off");
    let second = Process::spawn("a second node", &mut second).unwrap();
    second.wait_for_line("edge-8 offline", SOON).unwrap();
    drop((node, second));
    terminal.interrupt();
    assert!(terminal.ended().0.success());

    let mut piped = home.start(&["explorer", "--id", "hub-1", "--mode", "strict", "--listen", "127.0.0.1:0"]);
    piped.wait_for_line("join       reachback token create --role register --node NAME", SOON).unwrap();
    piped.signal(reachback_testkit::process::Signal::Terminate).unwrap();
    let end = cli_support::finished(&mut piped);
    assert!(!end.stdout.contains("rb1_") && !end.stderr.contains("rb1_"), "{} {}", end.stdout, end.stderr);
}

/// A command on a pseudo-terminal of its own.
struct Terminal {
    child: Child,
    said: Receiver<Vec<u8>>,
    text: String,
    /// What is typed there; open, so that the command's stdin does not end.
    _keyboard: File,
}

impl Terminal {
    fn start(home: &Home, explorer: &str, arguments: &[String]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = || OwnedFd::from(OpenOptions::new().read(true).write(true).open(&name).unwrap());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = home.command(&arguments);
        command.env("TMPDIR", home.path("")).env("PATH", std::env::var_os("PATH").unwrap());
        if arguments[0] != "explorer" {
            command.env("REACHBACK_EXPLORER", explorer);
        }
        command.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = command.spawn().unwrap();
        // It holds the other end as long as it lives: after this only the child has it.
        drop(command);
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone().unwrap();
        let (say, said) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last writer's end is an error here, not the end of a file.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if say.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, said, text: String::new(), _keyboard: keyboard }
    }

    fn until(&mut self, part: &str) {
        while !self.text.contains(part) {
            let more = self.said.recv_timeout(SOON);
            let more = more.unwrap_or_else(|_| panic!("no {part:?} in {}", self.text));
            self.hear(&more);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.text.push_str(&String::from_utf8_lossy(bytes).replace('\r', ""));
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for its end; what it showed comes with it.
    fn ended(mut self) -> (ExitStatus, String) {
        // The screen goes dark when the last process that shows something there is gone.
        while let Ok(more) = self.said.recv_timeout(Duration::from_secs(90)) {
            self.hear(&more);
        }
        let status =
            eventually(SOON, "the command ends", || self.child.try_wait().unwrap().ok_or("it runs on"));
        (status, std::mem::take(&mut self.text))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_test_itself_sees_what_is_not_there() {
    let home = Home::new();
    let (status, text) = Terminal::start(&home, "127.0.0.1:1", &["nods".to_owned()]).ended();
    assert_eq!(status.code(), Some(64));
    assert!(text.contains("similar"), "{text}");
}
