//! Calls of the hero stack through the real binary: what is asked and answered arrives byte for byte, from one byte to
//! the largest body there may be, whatever a server on a Unix socket speaks and whichever way its caller takes; and
//! whoever waits for a slow answer waits alone.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod hero_support;

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use cli_support::{Home, SOON};
use hero_support::{
    Answer, answer_to, explorer_with, header, mirror, pattern, port, post, request, request_of, server,
    socket, try_ask,
};
use reachback_testkit::{eventually, process::Process};
use serde_json::Value;

const FRAMINGS: [&str; 3] = ["raw", "lines", "http"];

/// The largest body of a call.
const LARGEST: usize = 16 << 20;

/// An explorer with a port, and a node per framing that listens nowhere; their servers are the test's to start.
struct World {
    home: Home,
    hub: String,
    _programs: Vec<Process>,
}

impl World {
    /// `serve` starts the server of a framing at a path; `more` goes into the explorer's configuration.
    fn start(more: impl Fn(&Home) -> String, serve: impl Fn(&Home, &'static str)) -> Self {
        let home = Home::new();
        let explorer = explorer_with(&home, "raw", Some("127.0.0.1:0"), &more(&home));
        let hub = port(&explorer);
        let mut programs = vec![explorer];
        for framing in FRAMINGS {
            serve(&home, framing);
            let service =
                format!("rpc={},framing={framing}", home.path(&format!("{framing}.sock")).display());
            programs.push(home.node(&hub, &format!("by-{framing}"), &["--service", &service]));
        }
        Self { home, hub, _programs: programs }
    }

    fn tcp(&self) -> TcpStream {
        TcpStream::connect(&self.hub).unwrap()
    }

    /// Asks `node` with this text, another one only for `reachback call`, which makes its own.
    fn ask(&self, way: Way, node: &str, request: &str) -> Outcome {
        let path = format!("/n/{node}/rpc/rpc");
        match way {
            Way::RawSocket => Outcome::raw(try_ask(socket(&self.home), request)),
            Way::RawPort => Outcome::raw(try_ask(self.tcp(), request)),
            Way::RpcSocket => Outcome::http(post(socket(&self.home), "/rpc", request)),
            Way::RpcPort => Outcome::http(post(self.tcp(), "/rpc", request)),
            Way::PathSocket => Outcome::http(post(socket(&self.home), &path, request)),
            Way::PathPort => Outcome::http(post(self.tcp(), &path, request)),
            Way::Command => self.call(node, request),
        }
    }

    /// `reachback call` with the request's method and parameters; its output goes to a file, which keeps every byte.
    fn call(&self, node: &str, request: &str) -> Outcome {
        let request: Value = serde_json::from_str(request).unwrap();
        let file = |name: &str| self.home.path(&format!("{node}.{name}"));
        fs::write(file("in"), request["params"].to_string()).unwrap();
        let target = format!("{node}/rpc");
        let method = request["method"].as_str().unwrap();
        let mut command: Command =
            self.home.command(&["call", "--explorer", &self.hub, &target, method, "-"]);
        command.stdin(File::open(file("in")).unwrap());
        command.stdout(File::create(file("out")).unwrap()).stderr(File::create(file("err")).unwrap());
        let status = command.status().unwrap();
        let read = |name: &str| fs::read_to_string(file(name)).unwrap();
        if status.success() { Outcome::Answer(read("out")) } else { Outcome::Refused(read("err")) }
    }
}

/// Which way a call takes to the explorer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    RawSocket,
    RawPort,
    RpcSocket,
    RpcPort,
    PathSocket,
    PathPort,
    Command,
}

const WAYS: [Way; 7] = [
    Way::RawSocket,
    Way::RawPort,
    Way::RpcSocket,
    Way::RpcPort,
    Way::PathSocket,
    Way::PathPort,
    Way::Command,
];

/// What came of a call.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// What the server answered, byte for byte; of `reachback call` its result.
    Answer(String),
    /// An error of ours, whole.
    Refused(String),
    /// An answer that broke off, and can't be taken for a whole one.
    Broken,
}

impl Outcome {
    fn raw(answer: io::Result<String>) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Self::Broken,
            Err(error) => panic!("{error}"),
        };
        match serde_json::from_str::<Value>(&answer) {
            Ok(value) => Self::judge(answer, &value),
            Err(_) => Self::Broken,
        }
    }

    fn http(answer: Answer) -> Self {
        if answer.broken {
            return Self::Broken;
        }
        let value = serde_json::from_str(&answer.body).unwrap();
        let refused = Self::judge(answer.body, &value);
        let ok = answer.head.starts_with("HTTP/1.1 200 OK\r\n");
        assert_eq!(ok, matches!(refused, Self::Answer(_)), "{}", answer.head);
        refused
    }

    /// Errors of ours have a name; those of the servers here have none.
    fn judge(text: String, value: &Value) -> Self {
        if value["error"]["data"]["code"].is_string() { Self::Refused(text) } else { Self::Answer(text) }
    }
}

/// Nobody reads 16 MiB.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(text) if text.len() > 1000 => write!(f, "an answer of {} bytes", text.len()),
            Self::Answer(text) => write!(f, "the answer {text}"),
            Self::Refused(text) => write!(f, "the refusal {text}"),
            Self::Broken => write!(f, "an answer that broke off"),
        }
    }
}

/// What should come of a call that is mirrored.
fn mirrored(way: Way, request: &str) -> Outcome {
    if way == Way::Command {
        let request: Value = serde_json::from_str(request).unwrap();
        return Outcome::Answer(format!("{}\n", request["params"]));
    }
    Outcome::Answer(answer_to(request))
}

/// The request whose body, as `way` sends it, has exactly so many bytes.
fn sized(way: Way, node: &str, size: usize) -> String {
    let request = request_of(node, "vm.list", size);
    if way != Way::Command {
        return request;
    }
    // The command writes the same without blanks, and its own id.
    let own = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "vm.list", "params": {"node_id": node, "pad": ""}
    });
    let pad = pattern(size - own.to_string().len());
    request_with(node, &pad)
}

fn request_with(node: &str, pad: &str) -> String {
    request(node, "vm.list", 0).replace(r#""pad":"""#, &format!(r#""pad":"{pad}""#))
}

/// Nodes with an address in the configuration, one per framing.
fn dialled(home: &Home) -> String {
    let one = |framing: &str| {
        let path = home.path(&format!("{framing}.sock"));
        format!(
            "[[node]]\nid = \"at-{framing}\"\naddress = \"{}\"\nframing = \"{framing}\"\n",
            path.display()
        )
    };
    FRAMINGS.map(one).concat()
}

/// Every way to each node of a framing: the one behind its line, and the one that is dialled.
fn nodes(framing: &str) -> impl Iterator<Item = (String, Way)> {
    [format!("by-{framing}"), format!("at-{framing}")]
        .into_iter()
        .flat_map(|node| WAYS.map(|way| (node.clone(), way)))
}

#[test]
fn bodies_of_every_size_pass_byte_for_byte_in_each_framing_and_by_every_way() {
    let world =
        World::start(dialled, |home, framing| mirror(&home.path(&format!("{framing}.sock")), framing));
    thread::scope(|scope| {
        for framing in FRAMINGS {
            let world = &world;
            scope.spawn(move || {
                for (node, way) in nodes(framing) {
                    let one = request(&node, "vm.list", 1);
                    assert_eq!(world.ask(way, &node, &one), mirrored(way, &one), "{node} {way:?} one byte");
                    for size in [1 << 10, 64 << 10, 1 << 20, LARGEST] {
                        let request = sized(way, &node, size);
                        let outcome = world.ask(way, &node, &request);
                        assert!(outcome == mirrored(way, &request), "{node} {way:?} {size}: {outcome:?}");
                    }
                }
            });
        }
    });
    // Servers that don't speak JSON-RPC ids are given what they are sent, were it a single byte.
    for framing in ["raw", "http"] {
        for node in [format!("by-{framing}"), format!("at-{framing}")] {
            let answer = post(world.tcp(), &format!("/n/{node}/rpc/rpc"), "7");
            assert_eq!((answer.body.as_str(), answer.broken), ("7", false), "{node}: {}", answer.head);
            let seen = (framing == "http").then_some("admin");
            assert_eq!(header(&answer.head, "x-hero-seen"), seen, "headers go both ways: {}", answer.head);
        }
    }
}

#[test]
fn a_body_over_the_limit_is_refused_in_words_before_a_server_sees_it() {
    let longest = Arc::new(AtomicUsize::new(0));
    let noted = longest.clone();
    let world = World::start(dialled, move |home, framing| {
        let noted = noted.clone();
        server(&home.path(&format!("{framing}.sock")), framing, move |seen| {
            noted.fetch_max(seen.body.len(), SeqCst);
            Some(answer_to(&seen.body))
        });
    });
    for (node, way) in FRAMINGS.into_iter().flat_map(nodes) {
        let request = sized(way, &node, LARGEST + 1);
        let outcome = world.ask(way, &node, &request);
        let Outcome::Refused(text) = outcome else { panic!("{node} {way:?}: {outcome:?}") };
        assert!(text.contains("too_large") && text.contains("16777216"), "{node} {way:?}: {text}");
        // It cost nobody else anything.
        let one = request_with(&node, "x");
        assert_eq!(world.ask(way, &node, &one), mirrored(way, &one), "{node} {way:?}");
    }
    assert!((1..1000).contains(&longest.load(SeqCst)), "a server saw {longest:?} bytes");
}

#[test]
fn an_answer_over_the_limit_is_never_taken_for_a_whole_one() {
    let world = World::start(dialled, |home, framing| {
        server(&home.path(&format!("{framing}.sock")), framing, |seen| {
            // As much more than the request as is needed; the id stays whatever it is.
            let more = LARGEST + 100 - answer_to(&seen.body).len();
            Some(answer_to(&seen.body).replacen(r#""pad":""#, &format!(r#""pad":"{}"#, pattern(more)), 1))
        });
    });
    for (node, way) in FRAMINGS.into_iter().flat_map(nodes) {
        match world.ask(way, &node, &request_with(&node, "x")) {
            // A line is passed on when it is whole, so nobody has seen any of it yet.
            Outcome::Refused(text) if node == "by-lines" => {
                assert!(text.contains("too_large") && text.contains("16777216"), "{way:?}: {text}");
            }
            // The first bytes were passed on before it was too long. Over a session that ends in a reset, with its
            // reason if there was still room for that.
            Outcome::Refused(text) if way == Way::Command => {
                assert!(text.contains("too_large") || text.starts_with("reset: "), "{node}: {text}");
            }
            Outcome::Broken if node != "by-lines" && way != Way::Command => {}
            other => panic!("{node} {way:?}: {other:?}"),
        }
    }
}

#[test]
fn a_server_that_hangs_up_is_an_error_and_no_half_of_an_answer() {
    let world = World::start(dialled, |home, framing| {
        server(&home.path(&format!("{framing}.sock")), framing, |_| None);
    });
    for (node, way) in FRAMINGS.into_iter().flat_map(nodes) {
        let outcome = world.ask(way, &node, &request_with(&node, "x"));
        let Outcome::Refused(text) = outcome else { panic!("{node} {way:?}: {outcome:?}") };
        // Both say that nobody knows what became of the call.
        assert!(text.contains("lost") || text.contains("reset"), "{node} {way:?}: {text}");
    }
}

#[test]
fn a_request_of_several_lines_is_one_line_for_a_server_that_reads_lines() {
    let world =
        World::start(dialled, |home, framing| mirror(&home.path(&format!("{framing}.sock")), framing));
    for (node, way) in nodes("lines").filter(|(_, way)| *way != Way::Command) {
        let lines = request_with(&node, "x").replace("  ", "\r\n");
        assert_eq!(
            world.ask(way, &node, &lines),
            mirrored(way, &lines.replace("\r\n", "  ")),
            "{node} {way:?}"
        );
    }
}

#[test]
fn a_server_may_answer_before_it_has_read_its_request() {
    let world = World::start(dialled, |home, framing| {
        let listener = UnixListener::bind(home.path(&format!("{framing}.sock"))).unwrap();
        if framing == "raw" {
            thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(blurt(stream))));
        }
    });
    for (node, way) in nodes("raw") {
        let outcome = world.ask(way, &node, &sized(way, &node, 4 << 20));
        assert!(
            matches!(&outcome, Outcome::Answer(text) if text.len() > 4 << 20),
            "{node} {way:?}: {outcome:?}"
        );
    }
}

/// Answers with more than fits between two programs, and reads only then.
fn blurt(mut stream: UnixStream) -> io::Result<()> {
    let mut first = [0];
    if stream.read(&mut first)? == 1 {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":null,"result":"{}"}}"#, pattern(5 << 20));
        stream.write_all(answer.as_bytes())?;
        io::copy(&mut stream, &mut io::sink())?;
    }
    Ok(())
}

/// Where slow answers wait until the test lets them go.
#[derive(Default)]
struct Gate {
    holds: AtomicBool,
    is_open: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        self.holds.store(true, SeqCst);
        eventually(2 * SOON, "the gate is open", || self.is_open.load(SeqCst).then_some(()));
    }
}

#[test]
fn many_fast_calls_pass_a_slow_one_on_the_same_node() {
    const FAST: usize = 40;
    for framing in FRAMINGS {
        let gate = Arc::new(Gate::default());
        let world = World::start(dialled, |home, framing| {
            let gate = gate.clone();
            server(&home.path(&format!("{framing}.sock")), framing, move |seen| {
                if seen.body.contains("vm.slow") {
                    gate.pass();
                }
                Some(answer_to(&seen.body.replacen("vm.slow", "vm.list", 1)))
            });
        });
        let node = format!("by-{framing}");
        let slow = request(&node, "vm.slow", 200_000);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| world.ask(Way::RawPort, &node, &slow));
            eventually(SOON, "the slow call is with the server", || gate.holds.load(SeqCst).then_some(()));
            let fast: Vec<_> = WAYS
                .into_iter()
                .map(|way| {
                    let (world, node) = (&world, &node);
                    scope.spawn(move || {
                        let calls = if way == Way::Command { 3 } else { FAST };
                        for number in 0..calls {
                            let request = request(node, "vm.list", 100 * number);
                            assert_eq!(world.ask(way, node, &request), mirrored(way, &request), "{way:?}");
                        }
                    })
                })
                .collect();
            // A caller that is held up fails by its own deadline; the slow call is still there after the last of them.
            let passed: Vec<_> = fast.into_iter().map(|way| way.join()).collect();
            let early = waiting.is_finished();
            gate.is_open.store(true, SeqCst);
            assert!(passed.iter().all(Result::is_ok), "{framing}: fast calls waited for a slow one");
            assert!(!early, "{framing}: the fast calls were through only when the slow one had ended");
            let answer = waiting.join().unwrap();
            let expected = Outcome::Answer(answer_to(&slow.replacen("vm.slow", "vm.list", 1)));
            assert!(answer == expected, "{framing}: {answer:?}");
        });
    }
}
