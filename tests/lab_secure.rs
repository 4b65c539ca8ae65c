//! Two machines and two commands: an explorer is started, its join line is pasted on a machine that nobody can dial, and
//! a call goes through, with a capture of every packet between them that holds nothing of it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
};

use reachback_testkit::{
    eventually,
    lab::{Lab, LabConfig, Side},
    process::{Process, Signal},
    tools::{self, Tools},
};
use serde_json::{Value, json};

use self::support::{NODE, REACHBACK, SOON, Service, succeed};

/// What a caller says and hears; neither may be seen on the way.
const QUESTION: &str = "where-is-the-treasure";
const ANSWER: &str = "under-the-third-palm";

#[test]
fn a_pasted_line_is_all_it_takes_and_nothing_passes_in_the_clear() {
    let Some(tools) = tools::need_lab(&["tshark", "dumpcap", "script"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let capture = Capture::begin(&tools, lab.hub(), home.path());
    let service = Service::start(lab.edge(), |mut stream| {
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request)?;
        let request: Value = serde_json::from_slice(&request[..read])?;
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": [ANSWER, request["params"]] });
        stream.write_all(answer.to_string().as_bytes())
    });

    // The first command, on a terminal: only there the join line is shown.
    let address = lab.hub().address();
    let socket = home.path().join("explorer.sock");
    let typed = format!(
        "exec {REACHBACK} explorer --id hub-1 --listen :9002 --advertise {address}:9002 --state-dir {} --socket {}",
        home.path().join("explorer").display(),
        socket.display()
    );
    let mut terminal = tools.command_on(lab.hub(), "script");
    terminal.args(["-qefc", &typed, "/dev/null"]).env("HOME", home.path());
    let explorer = Process::spawn("explorer", &mut terminal).unwrap();
    let shown = explorer.wait_for_line("reachback node --join rb1_", SOON).unwrap();
    let line = shown.split("join").skip(1).collect::<Vec<_>>().join("join");
    let line = line.trim().split("   ").next().unwrap().trim().to_owned();

    // The second, pasted.
    let pasted = format!("exec {line} --id {NODE} --service rpc={},framing=raw", service.port());
    let pasted = pasted.replacen("reachback", REACHBACK, 1);
    let mut shell = lab.edge().command("sh");
    shell
        .args(["-c", &pasted])
        .env("HOME", home.path().join("edge"))
        .env("STATE_DIRECTORY", home.path().join("node"));
    shell.env("REACHBACK_CONTROL_SOCKET", "off");
    let node = Process::spawn("node", &mut shell).unwrap();
    node.wait_for_line("certificate until", SOON).unwrap();

    let mut call = lab.hub().command(REACHBACK);
    call.args(["call", "--explorer", &format!("unix://{}", socket.display())]);
    call.args([&format!("{NODE}/rpc"), "ask", &json!({ "q": QUESTION }).to_string()]);
    let called = eventually(SOON, "a call goes through", || succeed("call", &mut call, SOON));
    assert!(called.stdout.contains(ANSWER) && called.stdout.contains(QUESTION), "{}", called.stdout);

    let file = capture.end(lab.hub());
    let packets = fs::read(&file).unwrap();
    let token = line.split("rb1_").nth(1).unwrap();
    for secret in [QUESTION, ANSWER, NODE, "\"jsonrpc\"", "RBK\u{1}", &token[..24]] {
        assert!(!contains(&packets, secret.as_bytes()), "{secret:?} passed in the clear");
    }
    let fields = |filter: &str, field: &str| {
        let mut tshark = tools.command_on(lab.hub(), "tshark");
        tshark.args(["-n", "-d", "tcp.port==9002,tls", "-r"]).arg(&file);
        tshark.args(["-Y", filter, "-T", "fields", "-e", field]);
        succeed("tshark", &mut tshark, SOON).unwrap().stdout
    };
    let hellos = fields("tls.handshake.type == 1", "tls.handshake.extensions_alpn_str");
    assert!(hellos.lines().count() >= 2 && hellos.lines().all(|alpn| alpn == "reachback/1"), "{hellos}");
    let versions = fields("tls.handshake.type == 2", "tls.handshake.extensions.supported_version");
    assert!(!versions.is_empty() && versions.lines().all(|version| version == "0x0304"), "{versions}");
    // No certificate can be read either: TLS 1.3 encrypts them.
    assert_eq!(fields("tls.handshake.type == 11", "frame.number"), "");
}

/// Every packet that the explorer's machine sends or gets.
struct Capture {
    recorder: Process,
    file: PathBuf,
}

impl Capture {
    fn begin(tools: &Tools, side: &Side, directory: &Path) -> Self {
        let file = directory.join("packets.pcapng");
        let mut command = tools.command_on(side, "dumpcap");
        command.args(["-q", "-i", "any", "-f", "tcp port 9002", "-w"]).arg(&file);
        let recorder = Process::spawn("dumpcap", &mut command).unwrap();
        recorder.wait_for_line("File:", SOON).unwrap();
        Self { recorder, file }
    }

    /// Ends it once it has everything: packets are written in order and late, so one that is known must be in it.
    fn end(mut self, side: &Side) -> PathBuf {
        let known = b"the capture may end here";
        let sent = side.within(|| TcpStream::connect((side.address(), 9002))?.write_all(known)).unwrap();
        sent.unwrap();
        eventually(SOON, "the last packet is recorded", || {
            let packets = fs::read(&self.file).map_err(|error| error.to_string())?;
            if contains(&packets, known) { Ok(()) } else { Err(format!("{} bytes", packets.len())) }
        });
        self.recorder.signal(Signal::Interrupt).unwrap();
        self.recorder.wait(SOON).unwrap();
        self.file
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
