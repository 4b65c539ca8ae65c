//! The programs of the hero stack, played by the tests of several files: its start script, its nodes' servers, and its
//! callers, who send a JSON text or a POST and wait.

#![allow(dead_code, reason = "each of the test files uses a part of it")]

use std::{
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use reachback_testkit::process::Process;
use serde_json::Value;

use crate::cli_support::{Home, SOON};

/// An explorer as the start scripts of old start it: a socket path, and the variable if there is a port. `framing` is
/// how nodes with an address are spoken to.
pub(crate) fn explorer(home: &Home, framing: &str, port: Option<&str>) -> Process {
    explorer_with(home, framing, port, "")
}

/// The same, with more in its configuration. The heartbeat is the usual one: what reads 16 MiB of JSON in a debug build
/// is silent for longer than a fast one allows.
pub(crate) fn explorer_with(home: &Home, framing: &str, port: Option<&str>, more: &str) -> Process {
    let file = format!(
        "id = \"hub-1\"\n[compat.hero]\nheartbeat_methods = [\"heartbeat\"]\n\
         node_fields = [\"node_id\"]\nforward = true\nframing = \"{framing}\"\n{more}"
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

/// The port that an explorer says it listens on.
pub(crate) fn port(explorer: &Process) -> String {
    let line = explorer.wait_for_line("listening", SOON).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// A caller at the explorer's Unix socket.
pub(crate) fn socket(home: &Home) -> UnixStream {
    UnixStream::connect(home.path("explorer.sock")).unwrap()
}

/// A heartbeat as an old node sends it; what the explorer says of it.
pub(crate) fn heartbeat(home: &Home, node: &str, address: &str) -> String {
    let params = format!(r#"{{"node_id":"{node}","socket_path":"{address}"}}"#);
    let request = format!(r#"{{"jsonrpc":"2.0","method":"heartbeat","params":{params},"id":1}}"#);
    ask(socket(home), &request)
}

/// What a caller of old sends, blanks where nobody expects any, with `pad` bytes that repeat only after a prime number.
pub(crate) fn request(node: &str, method: &str, pad: usize) -> String {
    let pad = pattern(pad);
    format!(
        r#"{{"jsonrpc":"2.0",  "method":"{method}","params":{{"node_id":"{node}" , "pad":"{pad}"}},"id":"c-7"}}"#
    )
}

/// A request of exactly so many bytes.
pub(crate) fn request_of(node: &str, method: &str, size: usize) -> String {
    request(node, method, size - request(node, method, 0).len())
}

/// What a server answers: the request with its method replaced by the name of an answer's member, as long as before.
/// So whoever gets the right bytes knows that the server had them too.
pub(crate) fn answer_to(request: &str) -> String {
    request.replacen(r#""method":"vm.fail","params":"#, r#""error"                  :"#, 1).replacen(
        r#""method":"vm.list","params":"#,
        r#""result"                 :"#,
        1,
    )
}

/// Letters and digits in an order in which a missing, doubled or moved piece is seen.
pub(crate) fn pattern(size: usize) -> String {
    const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const PERIOD: usize = 65_521;
    let one: String =
        (0..PERIOD.min(size)).map(|at| char::from(LETTERS[((at * 37) ^ (at >> 6)) % 62])).collect();
    let mut all = one.repeat(size.div_ceil(PERIOD));
    all.truncate(size);
    all
}

/// A request as a server saw it.
pub(crate) struct Seen {
    /// What came before the body, for servers of HTTP; empty for the others.
    pub(crate) head: String,
    /// The JSON text.
    pub(crate) body: String,
}

/// A server on a Unix socket that speaks `http`, `lines` or `raw`: each request on a thread of its own, so that answers
/// go out in the order in which `answer` gives them. None: it closes without one.
pub(crate) fn server<A>(path: &Path, framing: &'static str, answer: A)
where
    A: Fn(&Seen) -> Option<String> + Send + Sync + 'static,
{
    let listener = UnixListener::bind(path).unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            // Callers that go away are none of a server's business.
            thread::spawn(move || match framing {
                "http" => drop(serve_http(&stream, &*answer)),
                "lines" => drop(serve_lines(stream, &answer)),
                "raw" => drop(serve_raw(&stream, &*answer)),
                other => unreachable!("no framing {other}"),
            });
        }
    });
}

/// A server that gives each request back as its answer.
pub(crate) fn mirror(path: &Path, framing: &'static str) {
    server(path, framing, |seen| Some(answer_to(&seen.body)));
}

fn serve_raw(stream: &UnixStream, answer: &impl Fn(&Seen) -> Option<String>) -> io::Result<()> {
    let body = text(stream)?;
    // Whoever only looks whether somebody listens sends nothing.
    if body.is_empty() {
        return Ok(());
    }
    let answer = answer(&Seen { head: String::new(), body });
    (&*stream).write_all(answer.unwrap_or_default().as_bytes())
}

fn serve_lines<A>(stream: UnixStream, answer: &Arc<A>) -> io::Result<()>
where
    A: Fn(&Seen) -> Option<String> + Send + Sync + 'static,
{
    let reader = BufReader::new(stream.try_clone()?);
    let (to_write, answers) = mpsc::channel();
    let mut writer = stream;
    thread::spawn(move || {
        for answer in answers {
            let outcome = match answer {
                Some(answer) => writer.write_all(format!("{answer}\n").as_bytes()),
                None => writer.shutdown(Shutdown::Both),
            };
            if outcome.is_err() {
                return;
            }
        }
    });
    for line in reader.lines() {
        let seen = Seen { head: String::new(), body: line? };
        let (to_write, answer) = (to_write.clone(), answer.clone());
        // Nobody writes any more once the connection is gone.
        thread::spawn(move || drop(to_write.send(answer(&seen))));
    }
    Ok(())
}

/// Says the claims it was sent in a header of its own.
fn serve_http(stream: &UnixStream, answer: &impl Fn(&Seen) -> Option<String>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    assert!(head.starts_with("POST /rpc HTTP/1.1\r\n"), "{head}");
    let length = header(&head, "content-length").expect("nodes send a length").parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let seen = Seen { head, body: String::from_utf8(body).unwrap() };
    let Some(answer) = answer(&seen) else { return Ok(()) };
    let claims = header(&seen.head, "x-hero-claims").unwrap_or("none");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let head = format!("{head}\r\nX-Hero-Seen: {claims}\r\nContent-Length: {}\r\n\r\n", answer.len());
    (&*stream).write_all(head.as_bytes())?;
    (&*stream).write_all(answer.as_bytes())
}

/// The value of a header, whose name is given in lower case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A connection of a caller.
pub(crate) trait Caller: Read + Write + Send + Sized {
    /// Another handle of the same connection, so that one thread writes while another reads.
    fn second(&self) -> Self;
    /// Closes the half that it writes to.
    fn half_close(&self);
    /// A test that would hang fails instead.
    fn patient(&self);
}

macro_rules! caller {
    ($kind:ty) => {
        impl Caller for $kind {
            fn second(&self) -> Self {
                self.try_clone().unwrap()
            }

            fn half_close(&self) {
                // Who has been refused finds the other end gone.
                drop(self.shutdown(Shutdown::Write));
            }

            fn patient(&self) {
                self.set_read_timeout(Some(2 * SOON)).unwrap();
                self.set_write_timeout(Some(2 * SOON)).unwrap();
            }
        }
    };
}
caller!(UnixStream);
caller!(TcpStream);

/// An old client: the text, nothing behind it, nothing closed. Once there is an answer it closes its half, and whatever
/// else came is part of what it got.
pub(crate) fn ask(stream: impl Caller, request: &str) -> String {
    try_ask(stream, request).unwrap()
}

/// The same for whoever expects that the answer may break off.
pub(crate) fn try_ask(stream: impl Caller, request: &str) -> io::Result<String> {
    exchange(stream, request.as_bytes(), |stream| {
        let mut answer = text(&mut *stream)?;
        stream.half_close();
        match stream.read_to_string(&mut answer) {
            // Whoever refuses a request does not read the rest of it, and the kernel resets what is closed unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && answer.contains("too_large") => {}
            read => drop(read?),
        }
        Ok(answer)
    })
}

/// The same for whoever reads JSON.
pub(crate) fn ask_value(stream: impl Caller, request: &Value) -> Value {
    serde_json::from_str(&ask(stream, &request.to_string())).unwrap_or(Value::Null)
}

/// A client that closes its half behind its request, as socat does at the end of its input.
pub(crate) fn close_and_ask(stream: impl Caller, request: &str) -> io::Result<String> {
    stream.patient();
    let mut stream = stream;
    stream.write_all(request.as_bytes())?;
    stream.half_close();
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// An answer over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status line and headers in order, without the time of day.
    pub(crate) head: String,
    /// Without the marks of pieces; what there was of it, if it broke off.
    pub(crate) body: String,
    /// Whether it broke off.
    pub(crate) broken: bool,
}

/// A POST as other programs of the stack send it.
pub(crate) fn post(stream: impl Caller, path: &str, body: &str) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Hero-Claims: admin"
    );
    let request = format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    exchange(stream, request.as_bytes(), |stream| {
        let mut reader = BufReader::new(stream);
        let (mut head, mut body) = (String::new(), Vec::new());
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the head broke off: {head}");
        }
        let chunked = header(&head, "transfer-encoding") == Some("chunked");
        let read = if chunked {
            chunks(&mut reader, &mut body)
        } else {
            body.resize(header(&head, "content-length").expect("pieces or a length").parse().unwrap(), 0);
            reader.read_exact(&mut body)
        };
        let broken = read.is_err();
        let head = head.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        Answer { head, body: String::from_utf8(body).unwrap(), broken }
    })
}

fn chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        let begin = body.len() as u64;
        reader.by_ref().take(size).read_to_end(body)?;
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
        if body.len() as u64 != begin + size || end != *b"\r\n" {
            return Err(io::Error::other("a piece broke off"));
        }
        if size == 0 {
            return Ok(());
        }
    }
}

/// Writes on one thread while `read` reads on this one: nobody may wait for the other to be done.
fn exchange<S: Caller, T>(mut stream: S, request: &[u8], read: impl FnOnce(&mut S) -> T) -> T {
    stream.patient();
    let mut to = stream.second();
    thread::scope(|scope| {
        // Who is refused is not read to the end; the answer tells.
        scope.spawn(move || drop(to.write_all(request)));
        read(&mut stream)
    })
}

/// One whole JSON text, an object or a digit, and what came with it; less if the other end closed before.
pub(crate) fn text(mut stream: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut some = vec![0; 1 << 16];
    loop {
        let count = stream.read(&mut some)?;
        bytes.extend_from_slice(&some[..count]);
        // No pattern holds a bracket, so this is looked at a few times and not for each read.
        let ends = bytes.len() == 1 || bytes.trim_ascii_end().ends_with(b"}");
        if count == 0 || ends && serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
            return String::from_utf8(bytes).map_err(io::Error::other);
        }
    }
}
