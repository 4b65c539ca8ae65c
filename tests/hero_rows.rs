//! What the hero stack asks of a replacement for its socket bridges and hero_compute.rs does not show: the bytes of old
//! exchanges, every way to say where a node is, and a server that thinks for long.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use cli_support::{Home, SOON, services::closed_port};
use reachback_testkit::{eventually, process::Process};

/// How long the slowest server of the table thinks.
const LONG: Duration = Duration::from_secs(10);

/// What a caller of old sends, blanks where nobody expects any; `pad` makes it as long as is wanted.
fn request(node: &str, method: &str, pad: usize) -> String {
    let pad = "x".repeat(pad);
    format!(
        r#"{{"jsonrpc":"2.0",  "method":"{method}","params":{{"node_id":"{node}" , "pad":"{pad}"}},"id":"c-7"}}"#
    )
}

/// What a server answers: the request with its method replaced by the name of an answer's member, as long as before.
fn answer_to(request: &str) -> String {
    request.replacen(r#""method":"vm.fail","params":"#, r#""error"                  :"#, 1).replacen(
        r#""method":"vm.list","params":"#,
        r#""result"                 :"#,
        1,
    )
}

/// A server of one framing on a Unix socket, a thread for each request.
fn server(path: &Path, framing: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || match framing {
                "http" => drop(serve_http(&stream)),
                _ => drop(serve_raw(&stream)),
            });
        }
    });
}

fn serve_raw(stream: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = Vec::new();
    // Every request here ends with its id.
    while !request.ends_with(br#""id":"c-7"}"#) {
        if reader.read_until(b'}', &mut request)? == 0 {
            return Ok(());
        }
    }
    (&*stream).write_all(answer_to(&String::from_utf8_lossy(&request)).as_bytes())
}

/// Answers with the claims it was sent as a header of its own.
fn serve_http(stream: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let line = head[begin..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    assert!(head.starts_with("POST /rpc HTTP/1.1\r\n"), "{head}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = answer_to(&String::from_utf8_lossy(&body));
    let claims = head.lines().find_map(|line| line.strip_prefix("x-hero-claims: ")).unwrap_or("none");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let head = format!("{head}\r\nX-Hero-Seen: {claims}\r\nContent-Length: {}\r\n\r\n", answer.len());
    (&*stream).write_all(head.as_bytes())?;
    (&*stream).write_all(answer.as_bytes())
}

/// An explorer as the start scripts of old start it.
fn explorer(home: &Home, framing: &str, port: Option<&str>) -> Process {
    let file = format!(
        "id = \"hub-1\"\nheartbeat = \"500ms\"\n[compat.hero]\nheartbeat_methods = [\"heartbeat\"]\n\
         node_fields = [\"node_id\"]\nforward = true\nframing = \"{framing}\"\n"
    );
    fs::write(home.path("explorer.toml"), file).unwrap();
    let socket = home.path("explorer.sock").display().to_string();
    let mut command = home.command(&["explorer", "--config", "explorer.toml", "--socket", &socket]);
    if let Some(port) = port {
        command.env("EXPLORER_TCP_ADDR", port);
    }
    let process = Process::spawn("explorer", &mut command).unwrap();
    process.wait_for_line("local ", SOON).unwrap();
    process
}

fn socket(home: &Home) -> UnixStream {
    let socket = UnixStream::connect(home.path("explorer.sock")).unwrap();
    socket.set_read_timeout(Some(2 * SOON)).unwrap();
    socket
}

/// A node that dials the explorer's socket, listens nowhere and has this as its `rpc`.
fn node(home: &Home, id: &str, rpc: &str) -> Process {
    let explorer = format!("unix://{}", home.path("explorer.sock").display());
    home.node(&explorer, id, &["--service", &format!("rpc={rpc}")])
}

/// A heartbeat as an old node sends it; what the explorer says of it.
fn heartbeat(home: &Home, node: &str, address: &str) -> String {
    let mut stream = socket(home);
    let params = format!(r#"{{"node_id":"{node}","socket_path":"{address}"}}"#);
    write!(stream, r#"{{"jsonrpc":"2.0","method":"heartbeat","params":{params},"id":1}}"#).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

/// An old client: the text, nothing behind it, nothing closed; then as many bytes as the answer should have.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![0; request.len()];
    let mut got = 0;
    while got < answer.len() && !whole(&answer[..got]) {
        match stream.read(&mut answer[got..]).unwrap() {
            0 => break,
            more => got += more,
        }
    }
    answer.truncate(got);
    String::from_utf8(answer).unwrap()
}

/// Whether this is a whole text that is shorter than expected: a refusal, to be shown instead of waited for.
fn whole(text: &[u8]) -> bool {
    text.len() < 4096 && serde_json::from_slice::<serde_json::Value>(text).is_ok()
}

/// What is said over HTTP, headers in order, without the time of day.
fn post(home: &Home, body: &str) -> String {
    let mut stream = socket(home);
    let head =
        "POST /rpc HTTP/1.1\r\nHost: explorer.sock\r\nContent-Type: application/json\r\nX-Hero-Claims: admin";
    write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
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
            server(&home.path("rpc.sock"), framing);
            let beat = heartbeat(&home, "old-1", home.path("rpc.sock").to_str().unwrap());
            assert!(beat.contains(r#""ok":true"#), "{beat}");
            // Errors of the node are the node's, however they are put.
            let fail = request("old-1", "vm.fail", 3);
            assert_eq!(ask(socket(&home), &fail), answer_to(&fail));
            (beat, ask(socket(&home), &list), post(&home, &list))
        });
        assert_eq!(said[0], said[1], "{framing}: a port changes nothing at the socket");
        let (_, raw, http) = &said[0];
        assert_eq!(*raw, answer_to(&list), "{framing}");
        let (head, body) = http.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(framing == "raw" || head.contains("x-hero-seen: admin"), "headers go both ways: {head}");
        assert!(body.contains(&answer_to(&list)), "{framing}: {body}");
    }
}

#[test]
fn a_node_is_called_wherever_it_says_it_is() {
    let home = Home::new();
    let _explorer = explorer(&home, "raw", None);
    let path = |name: &str| home.path(name).display().to_string();
    for name in ["uri.sock", "bare.sock", "tunnel.sock"] {
        server(&home.path(name), "raw");
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut said = vec![0; request("by-tcp", "vm.list", 0).len()];
            if stream.read_exact(&mut said).is_ok() {
                drop(stream.write_all(answer_to(&String::from_utf8_lossy(&said)).as_bytes()));
            }
        }
    });
    let _node = node(&home, "by-tunnel", &format!("{},framing=raw", path("tunnel.sock")));
    for (node, address) in [
        ("by-uri", format!("unix://{}", path("uri.sock"))),
        ("by-path", path("bare.sock")),
        ("by-tcp", format!("tcp://{port}")),
        ("by-tunnel", "tunnel".to_owned()),
    ] {
        let beat = heartbeat(&home, node, &address);
        assert!(beat.contains(r#""ok":true"#), "{address}: {beat}");
    }
    for node in ["by-uri", "by-path", "by-tcp", "by-tunnel"] {
        let said = request(node, "vm.list", 0);
        assert_eq!(ask(socket(&home), &said), answer_to(&said), "{node}");
    }
    let beat = heartbeat(&home, "by-mistake", "ftp://hub:21");
    assert!(beat.contains(r#""error""#) && beat.contains("ftp://hub:21"), "{beat}");
}

#[test]
fn whoever_closes_its_half_gets_the_answer_of_a_server_that_thinks_for_ten_seconds() {
    let home = Home::new();
    let explorer = explorer(&home, "raw", Some("127.0.0.1:0"));
    let line = explorer.wait_for_line("listening", SOON).unwrap();
    let hub = line.split_whitespace().nth(1).unwrap().to_owned();
    // Thinks from the end of the request on, if the caller has no other way to say that it is done.
    let thinker = |path: &Path, half_closed: bool| {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut said = vec![0; request("by-node", "vm.list", 0).len()];
                    if stream.read_exact(&mut said).is_err() {
                        return;
                    }
                    if half_closed && stream.read(&mut [0]).unwrap() != 0 {
                        return;
                    }
                    thread::park_timeout(LONG);
                    drop(stream.write_all(answer_to(&String::from_utf8_lossy(&said)).as_bytes()));
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
    let port = line.split_whitespace().next().unwrap().to_owned();

    thread::scope(|scope| {
        let ways = [
            scope.spawn(|| close_and_read(socket(&home), |s| s.shutdown(Shutdown::Write), "by-path")),
            scope.spawn(|| close_and_read(socket(&home), |s| s.shutdown(Shutdown::Write), "by-node")),
            scope.spawn(|| {
                close_and_read(TcpStream::connect(&hub).unwrap(), |s| s.shutdown(Shutdown::Write), "by-node")
            }),
            scope.spawn(|| {
                close_and_read(TcpStream::connect(&port).unwrap(), |s| s.shutdown(Shutdown::Write), "by-node")
            }),
            scope.spawn(|| {
                let said = request("by-node", "vm.list", 0);
                let arguments = ["connect", "--explorer", &hub, "by-node/pipe"];
                let finished = home.run_with_input(&arguments, said.as_bytes());
                assert!(finished.status.success(), "{}", finished.stderr);
                finished.stdout.trim_end().to_owned()
            }),
        ];
        for (number, way) in ways.into_iter().enumerate() {
            let answer = way.join().unwrap();
            let node = if number == 0 { "by-path" } else { "by-node" };
            assert_eq!(answer, answer_to(&request(node, "vm.list", 0)), "way {number}");
        }
    });
}

fn close_and_read<S: Read + Write>(
    mut stream: S,
    close: impl Fn(&S) -> std::io::Result<()>,
    node: &str,
) -> String {
    stream.write_all(request(node, "vm.list", 0).as_bytes()).unwrap();
    close(&stream).unwrap();
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) => panic!("{error}"),
    }
}
