//! What the real binary says when it can't do what it was asked: the exit code, and a sentence with a remedy.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
};

use cli_support::{Home, refused, services};
use reachback_testkit::process::Stream;

/// Golden texts: what is asserted is the whole message, so that a change of wording is a decision.
#[track_caller]
fn says(stderr: &str, expected: &str) {
    assert_eq!(stderr.trim_end(), expected);
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    let home = Home::new();
    for (arguments, exit, part) in [
        (&["--help"][..], 0, "reachback demo"),
        (&["--version"], 0, concat!("reachback ", env!("CARGO_PKG_VERSION"))),
        (&["explorer", "--help"], 0, "--insecure-plaintext"),
        (&["node", "--help"], 0, "NAME=ADDRESS[,key=value]"),
        (&["connect", "--help"], 0, "ProxyCommand"),
        (&["forward", "--help"], 0, "BIND"),
    ] {
        let finished = home.run(arguments);
        assert_eq!(finished.status.code(), Some(exit), "{arguments:?}");
        assert!(finished.stdout.contains(part), "{arguments:?}: {}", finished.stdout);
    }
    for (arguments, part) in [
        (&[][..], "Usage: reachback"),
        (&["nods"], "similar"),
        (&["nodes", "--jsn"], "--json"),
        (&["node", "--listen", ":9002"], "unexpected argument '--listen' found\n\nUsage"),
        (&["connect"], "<NODE/SERVICE>"),
        (&["connect", "edge-7"], "edge-7"),
        (&["connect", "*/rpc"], "*"),
        (&["connect", "any/rpc"], "any"),
        (&["explorer", "--listen", "http://x"], "unknown scheme"),
        (&["explorer", "--listen", "tls://x:1"], "follows from the explorer's mode"),
        (&["explorer", "--heartbeat", "10"], "10s"),
        (&["explorer", "--socket-mode", "rw"], "octal"),
        (&["explorer", "--publish", "edge-7/db"], "names no port"),
        (&["node", "--id", "../etc"], "../etc"),
        (&["forward", "53=edge-7/dns/udp"], "UDP is not in this version"),
        (&["-q", "-v", "nodes"], "cannot be used with"),
    ] {
        let finished = home.run(arguments);
        let stderr = refused(&finished, 64);
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}

#[test]
fn services_that_cannot_be_are_refused_with_the_nearest_key() {
    let home = Home::new();
    let finished = home.run(&["node", "--id", "edge-7", "--service", "rpc=80,framng=http"]);
    says(
        refused(&finished, 64),
        "error: service \"rpc=80,framng=http\": unknown key \"framng\"; did you mean \"framing\"?",
    );
    let finished = home.run(&["node", "--id", "edge-7", "--service", "dns=udp://127.0.0.1:53"]);
    assert!(refused(&finished, 64).contains("UDP is not in this version"), "{}", finished.stderr);
    let finished = home.run(&["node", "edge-7"]);
    says(
        refused(&finished, 64),
        "error: \"edge-7\": `reachback node` runs the agent of this machine and takes no name; to see how edge-7 is, type: \
         reachback show edge-7",
    );
}

#[test]
fn configuration_files_are_refused_by_line_and_nearest_key() {
    let home = Home::new();
    fs::write(home.path("explorer.toml"), "id = \"hub-1\"\nlisen = \"127.0.0.1:0\"\n").unwrap();
    let finished = home.run(&["explorer", "--config", "explorer.toml"]);
    says(
        refused(&finished, 78),
        "error: explorer.toml, line 2: unknown key \"lisen\"; did you mean \"listen\"?",
    );

    fs::write(home.path("node.toml"), "[[service]]\nname = \"a\"\naddress = \"http://x:1\"\n").unwrap();
    let finished = home.run(&["node", "--config", "node.toml"]);
    let stderr = refused(&finished, 78);
    assert!(stderr.contains("node.toml, line 3") && stderr.contains("unknown scheme"), "{stderr}");

    let finished = home.run(&["node", "--config", "missing.toml"]);
    assert!(refused(&finished, 78).contains("missing.toml"), "{}", finished.stderr);
}

#[test]
fn plaintext_for_strangers_needs_the_exact_flag() {
    let home = Home::new();
    for listen in [":0", "0.0.0.0:0", "[::]:0"] {
        for mode in ["development", "legacy"] {
            let finished = home.run(&["explorer", "--id", "hub-1", "--listen", listen, "--mode", mode]);
            let stderr = refused(&finished, 78);
            assert!(stderr.contains("--insecure-plaintext"), "{listen} {mode}: {stderr}");
            let checked =
                home.run(&["check", "explorer", "--id", "hub-1", "--listen", listen, "--mode", mode]);
            says(refused(&checked, 78), stderr.trim_end());
        }
    }
    let mut explorer =
        home.start(&["explorer", "--id", "hub-1", "--listen", "0.0.0.0:0", "--insecure-plaintext"]);
    explorer.wait_for_line("PLAINTEXT, reachable by other machines", cli_support::SOON).unwrap();
    explorer.wait_for_line("warning: --insecure-plaintext: nothing is encrypted", cli_support::SOON).unwrap();
    explorer.kill().unwrap();

    // Without a word about it, strangers meet TLS.
    let mut explorer = home.start(&["explorer", "--id", "hub-1", "--listen", "0.0.0.0:0"]);
    explorer.wait_for_line("strict (mutual TLS, node ids checked)", cli_support::SOON).unwrap();
    explorer.kill().unwrap();
}

#[test]
fn a_port_in_use_is_named_and_may_be_tried_again() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = home.run(&["explorer", "--id", "hub-1", "--listen", &address]);
    let stderr = refused(&finished, 75);
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");

    let (_explorer, explorer) = home.explorer(&[]);
    let spec = format!("{}=edge-7/db", taken.local_addr().unwrap().port());
    let finished = home.run(&["forward", "--explorer", &explorer, &spec]);
    says(
        refused(&finished, 75),
        &format!(
            "error: can't listen on {address}: Address already in use (os error 98); another program has that port: end it, \
             or name another port"
        ),
    );
}

#[test]
fn the_socket_never_replaces_what_is_not_a_dead_socket() {
    let home = Home::new();
    let at = |name: &str| home.path(name).display().to_string();
    let explorer = |socket: &str| home.run(&["explorer", "--id", "hub-1", "--socket", socket]);

    fs::write(home.path("file"), "precious").unwrap();
    let finished = explorer(&at("file"));
    assert!(refused(&finished, 78).contains("left untouched"), "{}", finished.stderr);
    assert_eq!(fs::read_to_string(home.path("file")).unwrap(), "precious");

    std::os::unix::fs::symlink(home.path("file"), home.path("link")).unwrap();
    let finished = explorer(&at("link"));
    assert!(refused(&finished, 78).contains("left untouched"), "{}", finished.stderr);
    assert!(fs::symlink_metadata(home.path("link")).unwrap().is_symlink());

    fs::create_dir(home.path("open")).unwrap();
    fs::set_permissions(home.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let finished = explorer(&at("open/explorer.sock"));
    assert!(refused(&finished, 78).contains("chmod o-w"), "{}", finished.stderr);

    let living = UnixListener::bind(home.path("living")).unwrap();
    let finished = explorer(&at("living"));
    assert!(refused(&finished, 75).contains("another explorer is running"), "{}", finished.stderr);
    drop(living);

    // What is left of a listener that is gone is replaced.
    let mut started = home.start(&["explorer", "--id", "hub-1", "--socket", &at("living")]);
    started.wait_for_line("local", cli_support::SOON).unwrap();
    started.kill().unwrap();
}

#[test]
fn no_explorer_is_said_with_what_to_do() {
    let home = Home::new();
    for command in [&["nodes"][..], &["connect", "edge-7/echo"], &["forward", "edge-7/echo"]] {
        let finished = home.run(command);
        let stderr = refused(&finished, 69);
        assert!(stderr.contains(&home.socket().display().to_string()), "{command:?}: {stderr}");
        assert!(
            stderr.contains("start an explorer on this machine with `reachback explorer`"),
            "{command:?}: {stderr}"
        );
    }
    let address = services::closed_port().to_string();
    for command in [&["nodes"][..], &["connect", "edge-7/echo"], &["forward", "edge-7/echo"]] {
        let finished = home.run(&[command, &["--explorer", &address]].concat());
        let stderr = refused(&finished, 69);
        assert!(
            stderr.contains(&address) && stderr.contains("is an explorer running"),
            "{command:?}: {stderr}"
        );
    }
}

#[test]
fn what_is_no_explorer_is_said_in_words_and_once() {
    let home = Home::new();
    let ssh = services::serve(|mut stream| {
        drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let finished = home.run(&["nodes", "--explorer", &ssh.to_string()]);
    says(
        refused(&finished, 69),
        &format!(
            "handshake_failed: {ssh} does not speak the Reachback protocol (the first bytes it sent are \"SSH-\"); check the \
             address and the port"
        ),
    );

    let closes = services::serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    let finished = home.run(&["nodes", "--explorer", &closes.to_string()]);
    says(
        refused(&finished, 69),
        &format!(
            "peer_unreachable: {closes} closed the connection during the handshake; is an explorer running, and is that its \
             address?"
        ),
    );
}

#[test]
fn whoever_is_refused_by_the_explorer_hears_the_code_once() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let arguments = ["node", "--explorer", &address, "--id", "edge-7", "--service", "ssh=22"];
    let nodes = [home.start(&arguments), home.start(&arguments)];
    let line = reachback_testkit::eventually(cli_support::SOON, "one is sent away", || {
        let lines = nodes.iter().flat_map(|node| node.lines(Stream::Out));
        lines.into_iter().find(|line| line.contains("two running processes"))
    });
    assert!(line.contains(": replaced: two running processes"), "{line}");
    assert!(!line.contains("replaced: replaced"), "{line}");
}

#[test]
fn refusals_of_the_explorer_and_the_node_arrive_as_sentences() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let echo = services::echo().to_string();
    let closed = services::closed_port().to_string();
    let entries = [format!("echo={echo}"), format!("broken={closed}")];
    let node = home.node(&address, "edge-7", &["--service", &entries[0], "--service", &entries[1]]);
    let connect = |target: &str| home.run(&["connect", target, "--explorer", &address]);

    let finished = connect("edge-8/echo");
    let stderr = refused(&finished, 69);
    assert!(stderr.starts_with("node_not_found: ") && stderr.contains("edge-7"), "{stderr}");

    let finished = connect("edge-7/eco");
    let stderr = refused(&finished, 69);
    assert!(stderr.starts_with("service_not_found: ") && stderr.contains("echo"), "{stderr}");

    let finished = connect("edge-7/broken");
    let stderr = refused(&finished, 69);
    assert!(stderr.starts_with("service_unreachable: ") && stderr.contains(&closed), "{stderr}");

    let many: Vec<String> = (1..=50).map(|n| format!("service-{n}={n}")).collect();
    let flags: Vec<&str> = many.iter().flat_map(|entry| ["--service", entry]).collect();
    let _many = home.node(&address, "edge-50", &flags);
    let finished = connect("edge-50/ssh");
    let stderr = refused(&finished, 69);
    assert!(stderr.contains("and 38 more; see: reachback nodes"), "{stderr}");

    drop(node);
    let finished =
        reachback_testkit::eventually(cli_support::SOON, "the explorer knows that edge-7 is gone", || {
            let finished = connect("edge-7/echo");
            finished.stderr.starts_with("node_offline: ").then_some(finished)
        });
    let stderr = refused(&finished, 69);
    assert!(stderr.contains("edge-7") && finished.stdout.is_empty(), "{stderr}");
}

/// The texts that somebody meets in the first ten minutes, whole.
#[test]
fn the_first_ten_minutes() {
    let home = Home::new();
    let nodes = |explorer: &str| home.run(&["nodes", "--explorer", explorer]);

    let local = home.socket().display().to_string();
    says(
        refused(&home.run(&["nodes"]), 69),
        &format!(
            "peer_unreachable: can't connect to unix://{local}: No such file or directory (os error 2); start an explorer on \
             this machine with `reachback explorer`, or name one: --explorer HOST:PORT"
        ),
    );
    let closed = services::closed_port().to_string();
    says(
        refused(&nodes(&closed), 69),
        &format!(
            "peer_unreachable: can't connect to {closed}: Connection refused (os error 111); is an explorer running, and is that \
             its address?"
        ),
    );
    // Whoever knows nothing of an explorer elsewhere says that plaintext is fine, or logs in.
    says(
        refused(&nodes("nowhere.invalid"), 78),
        "error: nowhere.invalid:9002: nothing says how that explorer is recognised, and in plaintext everybody on the way could \
         read and change what passes; log in with the line its admin has made: reachback login STRING, or, on a network you \
         trust, add --insecure-plaintext",
    );
    let node = home.run(&["node", "--id", "edge-7", "--explorer", "nowhere.invalid", "--service", "a=1"]);
    says(
        refused(&node, 78),
        "error: nowhere.invalid:9002: nothing says how that explorer is recognised, and in plaintext everybody on the way could \
         read and change what passes; give this node a line to join with: --join STRING, or, on a network you trust, add \
         --insecure-plaintext",
    );
    let finished = home.run(&["nodes", "--explorer", "nowhere.invalid", "--insecure-plaintext"]);
    let stderr = refused(&finished, 69);
    assert!(
        stderr.starts_with("peer_unreachable: can't connect to nowhere.invalid:9002: ")
            && stderr.trim_end().ends_with("is an explorer running, and is that its address?"),
        "{stderr}"
    );
    let answers = |answer: &'static [u8]| {
        services::serve(move |mut stream| {
            drop(stream.read(&mut [0; 1024]));
            drop(stream.write_all(answer));
        })
        .to_string()
    };
    let stranger = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let finished = nodes(&stranger);
    let stderr = refused(&finished, 69);
    let begin = format!(
        "handshake_failed: {stranger} does not speak the Reachback protocol (the first bytes it sent are \"HTTP"
    );
    assert!(stderr.starts_with(&begin), "{stderr}");
    assert!(stderr.trim_end().ends_with("; check the address and the port"), "{stderr}");
    // An alert: whoever is there wants TLS, and who asks knows nothing of it.
    let encrypted = answers(b"\x15\x03\x01\x00\x02\x02\x46");
    says(
        refused(&nodes(&encrypted), 78),
        &format!(
            "tls_required: no TLS with {encrypted}: it speaks TLS only, and this end was not told to. It needs something to \
             know the explorer by: a join string, a profile (reachback login), or the certificate of its authority (--ca-file)"
        ),
    );
    says(
        refused(&nodes("tls://hub:9002"), 78),
        "error: tls://hub:9002: nothing says how that explorer is recognised; log in with the line its admin has made: \
         reachback login STRING, or name its authority: --ca-file FILE",
    );
}

/// A listener whose queue is full answers no further greeting: to whoever dials it is a firewall that drops.
#[test]
fn a_firewall_that_drops_is_named() {
    let home = Home::new();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            let visitor = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            visitor.set_nonblocking(true).unwrap();
            // Under way, or never answered: both take the places.
            drop(visitor.connect(&address.into()));
            visitor
        })
        .collect();
    let finished = home.run(&["nodes", "--explorer", &address.to_string()]);
    says(
        refused(&finished, 69),
        &format!(
            "peer_unreachable: can't connect to {address}: {address} did not answer within 5s; is a firewall dropping packets?"
        ),
    );
    drop(crowd);
}

#[test]
fn what_can_go_wrong_with_a_node_and_its_services() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let closed = services::closed_port().to_string();
    let (web, rpc) = (format!("web={closed}"), format!("rpc={}", services::echo()));
    let node = home.node(&address, "edge-7", &["--service", &web, "--service", &rpc]);
    let run = |arguments: &[&str]| home.run(&[arguments, &["--explorer", &address]].concat());

    // Down at the start: the node says so to whoever looks, before anybody calls.
    let table = reachback_testkit::eventually(cli_support::SOON, "web is known to fail", || {
        let table = run(&["nodes"]).stdout;
        if table.contains("web (failing)") { Ok(table) } else { Err(table) }
    });
    assert!(table.contains("connection refused"), "{table}");

    says(
        refused(&run(&["call", "edge-7/rcp", "m"]), 69),
        "service_not_found: edge-7 has no service rcp, did you mean edge-7/rpc? it has: rpc, web",
    );
    says(
        refused(&run(&["show", "egde-7"]), 69),
        "node_not_found: hub-1 knows no node egde-7; did you mean edge-7?",
    );
    for command in ["kick", "forget"] {
        says(
            refused(&run(&[command, "egde-7"]), 69),
            "node_not_found: hub-1 knows no node egde-7; did you mean edge-7?",
        );
    }
    says(
        refused(&run(&["ssh", "edge-7"]), 69),
        "service_not_found: edge-7 offers no service called ssh (it offers: rpc, web (failing)); on that machine: \
         reachback expose ssh=22, or start its node with --service ssh=22",
    );
    says(
        refused(&run(&["call", "edge-7/rpc", "m", "{a: 1}"]), 64),
        "error: the parameters are no JSON (key must be a string at line 1 column 2); write an object or an array, in \
         single quotes: '{\"name\": \"a\"}'",
    );
    says(
        refused(&run(&["call", "any/rpc", "m"]), 64),
        "error: any/rpc means several nodes; add --all to call each of them, or name one: NODE/SERVICE",
    );

    // The explorer's own refusals have their codes here too, and what is mistyped is named.
    let kick = run(&["call", "@explorer/api", "explorer.forget", "{\"id\": \"edge-7\"}"]);
    says(refused(&kick, 77), "denied: edge-7 is online; only a node that is offline can be forgotten");
    let mistyped = run(&["call", "@explorer/api", "explorer.node5"]);
    assert!(refused(&mistyped, 1).contains("explorer.nodes"), "{}", mistyped.stderr);

    // The id is taken over by whoever comes later, and the one before is told.
    let later = home.start(&["node", "--id", "edge-7", "--explorer", &address, "--control-socket", "off"]);
    later.wait_for_line("edge-7 online", cli_support::SOON).unwrap();
    let told = node.wait_for_line("edge-7 offline", cli_support::SOON).unwrap();
    assert!(told.contains("another process with this node id took over"), "{told}");
    drop((node, later));
    reachback_testkit::eventually(cli_support::SOON, "edge-7 is offline", || {
        let finished = run(&["call", "edge-7/rpc", "m"]);
        let offline = finished.stderr.starts_with("node_offline: ") && finished.status.code() == Some(69);
        if offline { Ok(()) } else { Err(finished.stderr) }
    });
}

/// A name that stands in the configuration is its owner's.
#[test]
fn an_id_that_is_taken() {
    let home = Home::new();
    let file = "id = \"hub-1\"\n[[node]]\nid = \"old-1\"\naddress = \"unix:///run/old.sock\"\n";
    fs::write(home.path("explorer.toml"), file).unwrap();
    let (_explorer, address) = home.explorer(&["--config", "explorer.toml"]);
    let elsewhere = home.path("other.sock");
    let _listener = UnixListener::bind(&elsewhere).unwrap();
    let params = format!("{{\"node_id\": \"old-1\", \"address\": \"unix://{}\"}}", elsewhere.display());
    // By the local socket, whose users may name their own sockets.
    let beat = home.run(&["call", "@explorer/api", "explorer.heartbeat", &params]);
    let stderr = refused(&beat, 77);
    says(
        stderr,
        "id_taken: old-1 stands in the configuration with the address unix:///run/old.sock; change it there",
    );

    let called = home.run(&["call", "old-1/rpc", "m", "--explorer", &address]);
    says(
        refused(&called, 69),
        "service_unreachable: old-1/rpc can't be connected at unix:///run/old.sock: No such file or directory (os error 2); \
         is its server running there?",
    );
}

/// What root may is more than a test of permissions can bear: it goes on as nobody.
#[test]
fn sockets_and_directories_of_another_user() {
    let home = Home::new();
    let nobody = rustix::process::geteuid().is_root().then_some(65_534);
    // Others can look for the socket, and find it: what they may not is use it.
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path("theirs")).unwrap();
    fs::set_permissions(home.path("theirs"), fs::Permissions::from_mode(0o755)).unwrap();
    let (socket, control) = (home.path("theirs/explorer.sock"), home.path("theirs/node.sock"));
    let [socket, control] = [&socket, &control].map(|path| path.display().to_string());
    let (_explorer, address) = home.explorer(&["--socket", &socket]);
    let _node = home.node(&address, "edge-7", &["--control-socket", &control]);
    if nobody.is_none() {
        // Nobody is root here, so the owner takes the right from itself.
        for file in [&socket, &control] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap();
        }
        fs::set_permissions(home.path("theirs"), fs::Permissions::from_mode(0o555)).unwrap();
    }
    // The program of a developer is where nobody else may look.
    let program = home.path("reachback");
    fs::copy(env!("CARGO_BIN_EXE_reachback"), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).current_dir("/").env_clear().env("HOME", "/");
        if let Some(nobody) = nobody {
            std::os::unix::process::CommandExt::uid(&mut command, nobody);
        }
        reachback_testkit::process::run(&arguments.join(" "), &mut command, cli_support::SOON).unwrap()
    };
    says(
        refused(&run(&["nodes", "--explorer", &format!("unix://{socket}")]), 77),
        &format!(
            "denied: can't connect to unix://{socket}: Permission denied (os error 13); this user may not use that socket: \
             run it as the explorer's user, or dial the explorer's port"
        ),
    );
    says(
        refused(&run(&["expose", "web=80", "--control-socket", &control]), 77),
        &format!(
            "error: no node at {control}: Permission denied (os error 13); it belongs to another user: use sudo"
        ),
    );
    let other = home.path("theirs/other.sock").display().to_string();
    let finished = run(&["explorer", "--id", "hub-2", "--socket", &other]);
    says(
        refused(&finished, 77),
        &format!(
            "error: socket \"{other}\": making a private directory beside it: Permission denied (os error 13); choose a place \
             for it that this user may use: --socket PATH"
        ),
    );
    // So that the home can be taken away.
    fs::set_permissions(home.path("theirs"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn directories_and_sockets_that_others_own() {
    let home = Home::new();
    // A file where a directory is needed can't be written to even by root.
    fs::write(home.path("file"), "").unwrap();
    let socket = home.path("file/explorer.sock").display().to_string();
    let finished = home.run(&["explorer", "--id", "hub-1", "--socket", &socket]);
    let stderr = finished.stderr.clone();
    assert!(!finished.status.success() && stderr.contains(&socket), "{stderr}");

    let nobody = home.run(&["expose", "web=80", "--control-socket", "/nowhere/node.sock"]);
    says(
        refused(&nobody, 69),
        "no node at /nowhere/node.sock: No such file or directory (os error 2); no node runs here for this user: start \
         one, or name its socket: --control-socket PATH",
    );
}

/// What people see who have the wrong line, the wrong authority, the wrong name, or no place to keep anything.
#[test]
fn who_is_not_believed_is_told_why_and_what_to_do() {
    let hub = Home::new();
    let (_explorer, address) = hub.explorer(&["--mode", "strict"]);
    let line = |arguments: &[&str]| {
        let made = hub.run(&[&["token", "create", "--json"], arguments].concat());
        let made: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
        made["join"].as_str().unwrap().to_owned()
    };
    let register = line(&["--role", "register", "--node", "edge-7"]);
    let user = line(&["--role", "user", "--name", "ann", "--allow", "edge-*/rpc"]);
    let stranger = Home::new();

    // Plaintext, to a port that speaks TLS.
    says(
        refused(&stranger.run(&["nodes", "--explorer", &address]), 78),
        "plaintext_rejected: this listener is strict and speaks TLS only; nothing was done. Connect with TLS: a join string and \
         reachback login see to it, and a URL begins with https://",
    );

    // Lines that are none, or not all of one.
    let cut = &register[..register.len() - 5];
    let rest =
        "this join string is cut off: 5 of its characters are missing at the end; copy the whole of it";
    says(refused(&stranger.run(&["node", "--join", cut]), 78), &format!("error: {rest}"));
    says(refused(&stranger.run(&["check", "node", "--join", cut]), 78), &format!("error: {rest}"));
    says(
        refused(&stranger.run_with_input(&["login", "-"], &user.as_bytes()[..user.len() - 5]), 64),
        &format!("error: {rest}"),
    );

    // A line of a node is no login, and one login is one machine's.
    let finished = stranger.run_with_input(&["login", "-"], register.as_bytes());
    assert!(!finished.status.success() && finished.stderr.contains("reachback"), "{}", finished.stderr);
    assert!(stranger.run_with_input(&["login", "-"], user.as_bytes()).status.success());
    let other = Home::new();
    says(
        refused(&other.run_with_input(&["login", "-"], user.as_bytes()), 77),
        "id_taken: token \"ann\" was used to log in on another machine; ask an admin for one for this machine: reachback token \
         create --role user --name ann",
    );
    let named = other.run(&["nodes", "--profile", "work"]);
    assert!(refused(&named, 78).contains("no profile \"work\""), "{}", named.stderr);

    // A name that another key has.
    let [first, second] = [Home::new(), Home::new()];
    let join =
        |home: &Home, line: &str| home.start(&["node", "--join", line, "--id", "edge-7", "--service", "a=1"]);
    let _first = join(&first, &register);
    _first.wait_for_line("edge-7 online at hub-1", cli_support::SOON).unwrap();
    let again = join(&second, &line(&["--role", "register", "--node", "edge-7"]));
    let told = again.wait_for_line("edge-7 offline", cli_support::SOON).unwrap();
    let taken = format!(
        "edge-7 offline at {address}: id_taken: the id edge-7 is another machine's, which joined with another key. If that is \
         gone for good, run on the explorer: reachback release edge-7; or choose another id here with --id; next attempt in "
    );
    assert!(told.starts_with(&taken), "{told}");

    // Another explorer at the address of the one that was joined.
    let impostor = Home::new();
    drop(_explorer);
    let arguments =
        ["explorer", "--id", "hub-1", "--mode", "strict", "--listen", &address, "--heartbeat", "500ms"];
    let started = impostor.start(&arguments);
    started.wait_for_line("listening", cli_support::SOON).unwrap();
    says(
        refused(&stranger.run(&["nodes"]), 69),
        &format!(
            "handshake_failed: {address} is not believed: its certificate comes from another authority than the one this \
             machine was told. If the explorer was set up anew, join it again with a new join string; otherwise somebody is in \
             between"
        ),
    );

    // Nowhere to keep an authority, or a login.
    fs::write(stranger.path("file"), "").unwrap();
    let place = stranger.path("file/state").display().to_string();
    says(
        refused(&stranger.run(&["explorer", "--id", "hub-2", "--listen", ":0", "--state-dir", &place]), 78),
        &format!(
            "error: {place}: the directory can't be made: Not a directory (os error 20); the explorer keeps its authority and \
             what it knows of nodes and users there: let this user make it, or name another place: --state-dir PATH"
        ),
    );
}
