//! What the hero stack asks of a replacement for its socket bridges and hero_compute.rs does not show: the bytes of old
//! exchanges, every way to say where a node is, and a server that thinks for long.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod hero_support;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    thread,
    time::Duration,
};

use cli_support::{Home, SOON, services::closed_port};
use hero_support::{
    Caller, answer_to, ask, close_and_ask, explorer, header, heartbeat, mirror, port, post, request, server,
    socket, text,
};
use reachback_testkit::{eventually, process::Process};

/// How long the slowest server of the table thinks.
const LONG: Duration = Duration::from_secs(10);

/// A node that dials the explorer's socket, listens nowhere and has this as its `rpc`.
fn node(home: &Home, id: &str, rpc: &str) -> Process {
    let explorer = format!("unix://{}", home.path("explorer.sock").display());
    home.node(&explorer, id, &["--service", &format!("rpc={rpc}")])
}

#[test]
fn the_variable_opens_the_address_it_names_and_no_other() {
    let home = Home::new();
    let address = closed_port();
    let _explorer = explorer(&home, "raw", Some(&address.to_string()));
    eventually(SOON, "the port is open", || TcpStream::connect(address));
    for other in ["127.0.0.2", "[::1]"] {
        let dialled = TcpStream::connect(format!("{other}:{}", address.port()));
        assert!(dialled.is_err(), "{other} was not asked for");
    }
}

#[test]
fn exchanges_of_old_are_the_same_byte_for_byte_with_and_without_a_port() {
    let list = request("old-1", "vm.list", 100);
    for framing in ["raw", "http"] {
        let said = [None, Some("127.0.0.1:0")].map(|port| {
            let home = Home::new();
            let _explorer = explorer(&home, framing, port);
            mirror(&home.path("rpc.sock"), framing);
            let beat = heartbeat(&home, "old-1", home.path("rpc.sock").to_str().unwrap());
            assert!(beat.contains(r#""ok":true"#), "{beat}");
            // Errors of the node are the node's, however they are put.
            let fail = request("old-1", "vm.fail", 3);
            assert_eq!(ask(socket(&home), &fail), answer_to(&fail));
            (beat, ask(socket(&home), &list), post(socket(&home), "/rpc", &list))
        });
        assert_eq!(said[0], said[1], "{framing}: a port changes nothing at the socket");
        let (_, raw, http) = &said[0];
        assert_eq!(*raw, answer_to(&list), "{framing}");
        assert!(http.head.starts_with("HTTP/1.1 200 OK\r\n") && !http.broken, "{}", http.head);
        let seen = (framing == "http").then_some("admin");
        assert_eq!(header(&http.head, "x-hero-seen"), seen, "headers go both ways: {}", http.head);
        assert_eq!(http.body, answer_to(&list), "{framing}");
    }
}

#[test]
fn a_node_is_called_wherever_it_says_it_is() {
    let home = Home::new();
    let _explorer = explorer(&home, "raw", None);
    let path = |name: &str| home.path(name).display().to_string();
    for name in ["uri.sock", "bare.sock"] {
        mirror(&home.path(name), "raw");
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            drop(text(&mut stream).and_then(|said| stream.write_all(answer_to(&said).as_bytes())));
        }
    });
    for (node, address) in [
        ("by-uri", format!("unix://{}", path("uri.sock"))),
        ("by-path", path("bare.sock")),
        ("by-tcp", format!("tcp://{port}")),
    ] {
        let beat = heartbeat(&home, node, &address);
        assert!(beat.contains(r#""ok":true"#), "{address}: {beat}");
        let said = request(node, "vm.list", 0);
        assert_eq!(ask(socket(&home), &said), answer_to(&said), "{node}");
    }
    for address in ["ftp://hub:21", "rpc.sock", "./rpc.sock", "hub:9003"] {
        let beat = heartbeat(&home, "by-mistake", address);
        assert!(beat.contains(r#""error""#) && beat.contains(address), "{beat}");
        let answer = ask(socket(&home), &request("by-mistake", "vm.list", 0));
        assert!(answer.contains(r#""node_not_found""#), "{address} is remembered: {answer}");
    }
}

#[test]
fn a_node_that_names_its_tunnel_is_reached_through_that_and_in_no_other_way() {
    let home = Home::new();
    let _explorer = explorer(&home, "raw", None);
    mirror(&home.path("tunnel.sock"), "raw");
    server(&home.path("before.sock"), "raw", |_| Some(r#"{"result":"where it was before"}"#.to_owned()));
    let said = request("moved", "vm.list", 0);
    let offline = |answer: &str| answer.contains(r#""node_offline""#) && answer.contains("moved");

    let beat = heartbeat(&home, "moved", "tunnel");
    assert!(offline(&beat) && beat.contains("reachback node"), "it has no tunnel yet: {beat}");
    let beat = heartbeat(&home, "moved", home.path("before.sock").to_str().unwrap());
    assert!(beat.contains(r#""ok":true"#), "{beat}");
    assert!(ask(socket(&home), &said).contains("where it was before"));

    let moved = node(&home, "moved", &format!("{},framing=raw", home.path("tunnel.sock").display()));
    assert!(heartbeat(&home, "moved", "tunnel").contains(r#""ok":true"#));
    assert_eq!(ask(socket(&home), &said), answer_to(&said));
    drop(moved);
    let last = eventually(SOON, "an answer that is not the tunnel's", || {
        let answer = ask(socket(&home), &said);
        (answer != answer_to(&said) && !answer.contains(r#""lost""#)).then_some(answer)
    });
    assert!(offline(&last), "nobody is dialled: {last}");
}

#[test]
fn whoever_closes_its_half_gets_the_answer_of_a_server_that_thinks_for_ten_seconds() {
    let home = Home::new();
    let explorer = explorer(&home, "raw", Some("127.0.0.1:0"));
    let hub = port(&explorer);
    // Thinks from the end of the request on, if the caller has no other way to say that it is done.
    let thinker = |path: &Path, half_closed: bool| {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let said = text(&mut stream).unwrap();
                    if said.is_empty() || half_closed && stream.read(&mut [0]).unwrap() != 0 {
                        return;
                    }
                    thread::park_timeout(LONG);
                    drop(stream.write_all(answer_to(&said).as_bytes()));
                });
            }
        });
    };
    thinker(&home.path("call.sock"), false);
    thinker(&home.path("pipe.sock"), true);
    let (call, pipe) = (home.path("call.sock"), home.path("pipe.sock"));
    let rpc = format!("rpc={},framing=raw", call.display());
    let _node =
        home.node(&hub, "by-node", &["--service", &rpc, "--service", &format!("pipe={}", pipe.display())]);
    assert!(heartbeat(&home, "by-path", call.to_str().unwrap()).contains(r#""ok":true"#));
    let forward = home.start(&["forward", "--explorer", &hub, "by-node/pipe"]);
    let line = forward.wait_for_line(" -> by-node/pipe", SOON).unwrap();
    let forwarded = line.split_whitespace().next().unwrap().to_owned();

    thread::scope(|scope| {
        let ways = [
            ("the socket", "by-path", scope.spawn(|| half_closed(socket(&home), "by-path"))),
            ("the socket", "by-node", scope.spawn(|| half_closed(socket(&home), "by-node"))),
            (
                "the port",
                "by-path",
                scope.spawn(|| half_closed(TcpStream::connect(&hub).unwrap(), "by-path")),
            ),
            (
                "the port",
                "by-node",
                scope.spawn(|| half_closed(TcpStream::connect(&hub).unwrap(), "by-node")),
            ),
            (
                "forward",
                "by-node",
                scope.spawn(|| half_closed(TcpStream::connect(&forwarded).unwrap(), "by-node")),
            ),
            (
                "connect",
                "by-node",
                scope.spawn(|| {
                    let said = request("by-node", "vm.list", 0);
                    let arguments = ["connect", "--explorer", &hub, "by-node/pipe"];
                    let finished = home.run_with_input(&arguments, said.as_bytes());
                    assert!(finished.status.success(), "{}", finished.stderr);
                    finished.stdout.trim_end().to_owned()
                }),
            ),
        ];
        for (way, node, answer) in ways {
            assert_eq!(answer.join().unwrap(), answer_to(&request(node, "vm.list", 0)), "{way} to {node}");
        }
    });
}

fn half_closed(stream: impl Caller, node: &str) -> String {
    close_and_ask(stream, &request(node, "vm.list", 0)).unwrap_or_else(|error| error.to_string())
}
