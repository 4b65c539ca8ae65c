//! `docs/PROTOCOL.md` is what other implementations are written from, so what it shows is compared with what this crate
//! does: every example byte for byte, in both directions, and every table cell by cell.
//!
//! Examples are blocks marked `json NAME` and `hex NAME`; a hex block may have comments behind `;`. Tables are found by
//! their header row. Whoever changes the wire is told here what the page has to say instead.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use bytes::Bytes;
use reachback_wire::{
    Accepted, Bye, Caller, Challenge, Code, ControlMessage, Credential, Delivered, Delivery, EndReport,
    EndStatus, Ends, Enrolled, FrameDecoder, FrameType, Generation, GrantInfo, Health, HealthState,
    Heartbeat, HeartbeatAck, Hello, Hex, Instance, Mac, Nonce, Open, Opened, Proof, ProtocolRange, Record,
    RecordDecoder, RecordKind, Refusal, Renew, Renewed, Replaced, Retry, Role, Secret, ServiceHealth,
    ServiceInfo, Services, SessionId, SessionLimits, Stage, Welcome,
    frame::{HEADER_LEN, encode},
    join::{JoinString, Pin},
    limits,
    record::{encode_compressed, encode_end, encode_head, encode_reset, record_header},
};
use serde::Serialize;
use serde_json::{Value, json};

/// Two random values, as an example shows them.
const INSTANCE: Instance = Instance([
    0x3f, 0x7a, 0x90, 0x1c, 0x55, 0xe2, 0x4b, 0x08, 0xa6, 0xd1, 0x0e, 0x97, 0x2b, 0xc4, 0x68, 0xf0,
]);
const NONCE: [u8; 32] = [0x5c; 32];

/// What this crate can't compute; `link::tls::secret` compares the same two.
const ACCEPTOR_PROOF: Mac = Mac([
    0x5f, 0x16, 0xf7, 0x67, 0x0a, 0xb1, 0x2c, 0x5f, 0x92, 0xe0, 0x67, 0xe1, 0xc8, 0x38, 0x95, 0x09, 0xee,
    0xf6, 0x5c, 0x7b, 0xa1, 0x33, 0x79, 0x08, 0xfd, 0xe1, 0xc4, 0x7b, 0x40, 0x91, 0x44, 0x85,
]);
const DIALER_PROOF: Mac = Mac([
    0x0f, 0x39, 0x01, 0xfa, 0x2e, 0xeb, 0xb2, 0xe5, 0xd0, 0xba, 0xad, 0x40, 0x30, 0xbf, 0x65, 0x07, 0xc7,
    0x6e, 0x52, 0x25, 0x5a, 0x6b, 0x96, 0x8b, 0x69, 0x0c, 0xb1, 0xca, 0x88, 0x95, 0x01, 0x79,
]);

#[test]
fn every_frame_is_shown_as_it_is_sent() {
    let page = Page::read();
    for Example { name, stage, bytes, payload } in frames() {
        assert_hex(&page, name, &bytes, HEADER_LEN);
        let shown: Value = serde_json::from_str(page.block("json", name)).expect("an example is JSON");
        assert_eq!(shown, payload, "the JSON of {name}");

        let mut decoder = FrameDecoder::new(stage);
        decoder.push(page.hex(name).into());
        let frame = decoder.next().expect("an example can be read").expect("an example is whole");
        assert_eq!(frame.parse::<Value>().expect("JSON"), payload, "the payload of {name}");
        decoder.finish().expect("an example is one frame");
    }
}

#[test]
fn every_record_is_shown_as_it_is_sent() {
    let page = Page::read();
    for (name, bytes, record) in records() {
        assert_hex(&page, name, &bytes, 4);
        let mut decoder = RecordDecoder::new(Delivery::Whole).with_lz4();
        decoder.push(page.hex(name).into());
        assert_eq!(decoder.next(), Ok(Some(record)), "{name}");
        assert!(decoder.is_between_records(), "{name}");
    }
}

#[test]
fn the_first_substream_is_shown_in_its_mux_frame() {
    let open = encode(FrameType::Open, &Open::control());
    let length = u32::try_from(open.len()).unwrap().to_be_bytes();
    // Version 0, type 0 (data), flags 1 (SYN), stream 1.
    let bytes = [&[0, 0, 0, 1, 0, 0, 0, 1][..], &length, &open].concat();
    assert_hex(&Page::read(), "mux-control", &bytes, 12);
}

#[test]
fn the_join_string_is_shown_as_it_is_made() {
    let page = Page::read();
    let shown = page.blocks.iter().find(|block| block.1 == "join-string").expect("it is there");
    let pin = Pin(std::array::from_fn(|index| u8::try_from(index).unwrap()));
    let token = Secret::new("header.claims.signature");
    let join = JoinString::new(vec!["hub.example.com:9002".to_owned()], pin, token).unwrap();
    assert_eq!(shown.2.trim(), join.expose().expose());
    assert_eq!(shown.2.parse(), Ok(join));
}

#[test]
fn no_example_is_left_unchecked() {
    let page = Page::read();
    let mut known: Vec<_> = frames().iter().map(|example| example.name).collect();
    known.extend(records().iter().map(|(name, ..)| *name));
    known.push("mux-control");
    known.sort_unstable();
    let mut shown: Vec<_> =
        page.blocks.iter().filter(|block| block.0 == "hex").map(|block| &*block.1).collect();
    shown.sort_unstable();
    assert_eq!(shown, known);
    let kinds: Vec<_> = frames().iter().map(|example| example.bytes[4]).collect();
    for kind in FrameType::ALL {
        assert!(kinds.contains(&kind.number()), "{kind:?} has no example");
    }
}

#[test]
fn the_table_of_frame_types() {
    let stage = |sent: &str| match sent {
        "dialer, first" => Stage::HelloExpected,
        "acceptor, first" => Stage::HelloReply,
        "acceptor, to a request" => Stage::EnrolmentReply,
        "dialer, challenged" => Stage::ProofExpected,
        "opener, first" => Stage::OpenExpected,
        "acceptor of an open" => Stage::OpenReply,
        "control" => Stage::Control,
        other => panic!("who sends it: {other}"),
    };
    let mut listed = Vec::new();
    for row in Page::read().table("| number | name | sent by, where | longest payload | meaning |") {
        let number: u8 = row[0].parse().expect("a number");
        match FrameType::from_number(number) {
            Some(kind) => {
                assert_eq!(row[1], format!("`{kind:?}`"));
                let limit =
                    stage(&row[2]).limit(kind).unwrap_or_else(|| panic!("{kind:?} is not sent there"));
                assert_eq!(row[3], grouped(limit), "{kind:?}");
                listed.push(kind);
            }
            None => assert_eq!((&*row[2], &*row[3]), ("reserved", ""), "type {number}"),
        }
    }
    assert_eq!(listed, FrameType::ALL);
}

#[test]
fn the_table_of_record_types() {
    let rows = Page::read().table("| number | name | longest payload | payload |");
    for (number, row) in (0..).zip(&rows) {
        let kind = RecordKind::from_number(number).expect("no more rows than records");
        let expected = [number.to_string(), format!("`{kind:?}`"), grouped(kind.limit())];
        assert_eq!(row[..3], expected);
    }
    assert_eq!(RecordKind::from_number(u8::try_from(rows.len()).unwrap()), None, "a record without a row");
}

#[test]
fn the_table_of_codes() {
    let rows = Page::read().table("| number | name | delivered | retry | HTTP | JSON-RPC | exit | meaning |");
    assert_eq!(rows.len(), Code::ALL.len());
    for (row, code) in rows.iter().zip(Code::ALL) {
        let facts = code.row();
        let delivered = match facts.delivered {
            Delivered::No => "no",
            Delivered::Maybe => "maybe",
            Delivered::Yes => "yes",
        };
        let retry = match facts.retry {
            Retry::Now => "now",
            Retry::After => "after",
            Retry::No => "no",
        };
        let expected = [
            code.number().to_string(),
            format!("`{}`", code.name()),
            delivered.to_owned(),
            retry.to_owned(),
            facts.http.to_string(),
            facts.jsonrpc.to_string(),
            facts.exit.to_string(),
        ];
        assert_eq!(row[..7], expected);
        assert!(!row[7].is_empty(), "{code} has no meaning");
    }
}

#[test]
fn the_table_of_limits() {
    let rows = Page::read().table("| what | limit | in `wire::limits` |");
    let shown: BTreeMap<_, _> = rows.iter().map(|row| (row[2].trim_matches('`'), &*row[1])).collect();
    assert_eq!(shown.len(), rows.len(), "a limit stands there twice");
    let known = known_limits();
    for (name, value) in &known {
        assert_eq!(shown.get(name).copied(), Some(value.as_str()), "{name}");
    }
    assert_eq!(shown.len(), known.len(), "a limit in the page is not compared: {shown:?}");
}

/// What both ends have to know.
fn known_limits() -> Vec<(&'static str, String)> {
    let bytes = |n: usize| format!("{} bytes", grouped(n));
    vec![
        ("SNIFF_TIMEOUT", time(limits::SNIFF_TIMEOUT)),
        ("HANDSHAKE_TIMEOUT", time(limits::HANDSHAKE_TIMEOUT)),
        ("HANDSHAKE_BYTES_MAX", bytes(limits::HANDSHAKE_BYTES_MAX)),
        ("PROOF_MAX", bytes(limits::PROOF_MAX)),
        ("CERTIFICATES_MAX", bytes(limits::CERTIFICATES_MAX)),
        ("OPEN_MAX", bytes(limits::OPEN_MAX)),
        ("SERVICES_MAX", bytes(limits::SERVICES_MAX)),
        ("OPEN_HEADER_TIMEOUT", time(limits::OPEN_HEADER_TIMEOUT)),
        ("OPEN_TIMEOUT", time(limits::OPEN_TIMEOUT)),
        ("ACCEPTED_AFTER", time(limits::ACCEPTED_AFTER)),
        ("EARLY_BYTES_MAX", bytes(limits::EARLY_BYTES_MAX)),
        ("SERVICE_OPENS_IN_FLIGHT", grouped(limits::SERVICE_OPENS_IN_FLIGHT)),
        ("SERVICE_OPENS_WAITING", grouped(limits::SERVICE_OPENS_WAITING)),
        ("SUBSTREAMS_FROM_CLIENT", grouped(limits::SUBSTREAMS_FROM_CLIENT as usize)),
        ("SUBSTREAMS_FROM_NODE", grouped(limits::SUBSTREAMS_FROM_NODE as usize)),
        ("MUX_STREAMS_MAX", grouped(limits::MUX_STREAMS_MAX)),
        ("MUX_ACK_BACKLOG", grouped(limits::MUX_ACK_BACKLOG)),
        (
            "STREAM_IDS_BEFORE_ROLL",
            grouped(usize::try_from(limits::STREAM_IDS_BEFORE_ROLL).expect("30 bits")),
        ),
        ("MAX_RECORD_PAYLOAD", bytes(limits::MAX_RECORD_PAYLOAD)),
        ("HEAD_MAX", bytes(limits::HEAD_MAX)),
        ("END_TEXT_MAX", bytes(limits::END_TEXT_MAX)),
        ("CALL_BODY_MAX", bytes(limits::CALL_BODY_MAX)),
        ("STREAM_UNREAD_MAX", bytes(limits::STREAM_UNREAD_MAX)),
        ("SESSION_UNREAD_MAX", bytes(limits::SESSION_UNREAD_MAX)),
        ("LEDGER_MIN_CHARGE", bytes(limits::LEDGER_MIN_CHARGE)),
        ("PONGS_OWED_MAX", grouped(limits::PONGS_OWED_MAX)),
        ("HEARTBEAT", time(limits::HEARTBEAT)),
        ("HEARTBEAT_MIN", time(limits::HEARTBEAT_MIN)),
        ("HEARTBEAT_MAX", time(limits::HEARTBEAT_MAX)),
        ("GHOST_PING", time(limits::GHOST_PING)),
        ("RECONNECT_FIRST", time(limits::RECONNECT_FIRST)),
        ("RECONNECT_MAX", time(limits::RECONNECT_MAX)),
        ("HEALTHY_AFTER", time(limits::HEALTHY_AFTER)),
        ("CLOSE_FLUSH", time(limits::CLOSE_FLUSH)),
        ("ENDS_KEPT", grouped(limits::ENDS_KEPT)),
    ]
}

struct Example {
    name: &'static str,
    stage: Stage,
    bytes: Vec<u8>,
    payload: Value,
}

fn frames() -> Vec<Example> {
    fn frame<T: Serialize>(name: &'static str, stage: Stage, kind: FrameType, message: &T) -> Example {
        let payload = serde_json::to_value(message).expect("messages are JSON");
        Example { name, stage, bytes: encode(kind, message), payload }
    }
    fn control(name: &'static str, message: ControlMessage) -> Example {
        let bytes = message.encode();
        let payload = serde_json::from_slice(&bytes[HEADER_LEN..]).expect("messages are JSON");
        Example { name, stage: Stage::Control, bytes, payload }
    }
    use FrameType as F;
    let target = |target: &str| target.parse().expect("a target");
    let name = |name: &str| name.parse().expect("a service name");
    let mut stream = Open::stream(target("edge-7/ssh")).within(Duration::from_secs(10)).expecting(INSTANCE);
    stream.caller = Some(Caller {
        role: Role::Client,
        id: "laptop".into(),
        name: Some("ann".into()),
        granted: false,
        session: Some(SessionId(42)),
        address: Some("198.51.100.7:50412".into()),
    });
    stream.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    let failing = HealthState::Failing { reason: "connection refused (is the service running?)".into() };
    let saturated = "service rpc takes long to accept: 128 opens dial it, 1024 more wait";
    vec![
        frame("hello", Stage::HelloExpected, F::Hello, &hello()),
        frame(
            "challenge",
            Stage::HelloReply,
            F::Challenge,
            &Challenge { nonce: Nonce([0xa7; 32]), proof: ACCEPTOR_PROOF },
        ),
        frame("proof", Stage::ProofExpected, F::Proof, &Proof { proof: DIALER_PROOF }),
        frame(
            "enrolled",
            Stage::EnrolmentReply,
            F::Enrolled,
            &Enrolled { chain: der(&[0x0a, 0x0b]), ca: der(&[0x0b]), name: "edge-7".into() },
        ),
        frame("welcome", Stage::HelloReply, F::Welcome, &welcome()),
        frame(
            "denied",
            Stage::HelloReply,
            F::Denied,
            &Refusal::new(
                Code::VersionMismatch,
                "the dialer speaks protocol 2 to 3, this end speaks protocol 1; update the explorer",
            ),
        ),
        frame("open-control", Stage::OpenExpected, F::Open, &Open::control()),
        frame(
            "open-call",
            Stage::OpenExpected,
            F::Open,
            &Open::call(target("@explorer/api"), Duration::from_secs(5)),
        ),
        frame("open-stream", Stage::OpenExpected, F::Open, &stream),
        frame("accepted", Stage::OpenReply, F::Accepted, &Accepted {}),
        frame("opened", Stage::OpenReply, F::Opened, &Opened::default()),
        frame(
            "refused",
            Stage::OpenReply,
            F::Refused,
            &Refusal::new(Code::Saturated, saturated).retry_after(Duration::from_secs(1)),
        ),
        control("heartbeat", ControlMessage::Heartbeat(Heartbeat { seq: 3, sent_ms: 20_004 })),
        control("heartbeat-ack", ControlMessage::HeartbeatAck(HeartbeatAck { seq: 3 })),
        control(
            "services",
            ControlMessage::Services(Services {
                labels: [("region".to_owned(), "eu".to_owned())].into(),
                services: vec![
                    ServiceInfo {
                        name: name("rpc"),
                        framing: Some("http".into()),
                        compression: None,
                        health: HealthState::Ok,
                    },
                    ServiceInfo {
                        name: name("ssh"),
                        framing: None,
                        compression: None,
                        health: HealthState::Unknown,
                    },
                ],
                grants: vec![GrantInfo {
                    service: name("ssh"),
                    to: "node:edge-*".parse().expect("a pattern"),
                    left_ms: 3_600_000,
                }],
                capabilities: Some(json!({ "model": "x1", "memory_mb": 8192 })),
            }),
        ),
        control(
            "health",
            ControlMessage::Health(Health {
                services: vec![ServiceHealth { name: name("rpc"), health: failing }],
            }),
        ),
        control(
            "replaced",
            ControlMessage::Replaced(Replaced { message: "another process uses this id".into() }),
        ),
        control("renew", ControlMessage::Renew(Renew { csr: Hex(vec![0x30, 0x81, 0xe2]) })),
        control("renewed", ControlMessage::Renewed(Renewed { chain: der(&[0x0c, 0x0b]), ca: der(&[0x0b]) })),
        control(
            "not-renewed",
            ControlMessage::NotRenewed(Refusal::new(
                Code::Denied,
                "the request is for another key than the certificate of this session",
            )),
        ),
        control("bye", ControlMessage::Bye(Bye { reason: "shutting down".into() })),
        control(
            "ends",
            ControlMessage::Ends(Ends {
                ends: vec![
                    EndReport {
                        at_unix_ms: 1_790_000_000_000,
                        session: Some(SessionId(40)),
                        code: Code::Lost,
                        message: "no heartbeat for 20 s".into(),
                    },
                    EndReport {
                        at_unix_ms: 1_790_000_004_200,
                        session: None,
                        code: Code::PeerUnreachable,
                        message: "no route to host".into(),
                    },
                ],
            }),
        ),
    ]
}

/// Certificates as an example shows them: their first bytes, the last of which tells them apart.
fn der(certificates: &[u8]) -> Vec<Hex> {
    certificates.iter().map(|last| Hex(vec![0x30, 0x82, 0x01, *last])).collect()
}

fn hello() -> Hello {
    Hello {
        role: Role::Node,
        id: "edge-7".parse().expect("an id"),
        generation: Generation { instance: INSTANCE, slot: 0, seq: 1 },
        protocol: ProtocolRange { min: 1, max: 1 },
        agent: "reachback/0.1.0".into(),
        nonce: Nonce(NONCE),
        features: vec![],
        credential: Some(Credential::Token { token: Secret::new("…") }),
        resume: None,
    }
}

fn welcome() -> Welcome {
    Welcome {
        explorer: "hub-1".parse().expect("an id"),
        session: SessionId(41),
        heartbeat_ms: 10_000,
        time_unix_ms: 1_790_000_010_000,
        limits: SessionLimits { max_substreams: limits::SUBSTREAMS_FROM_NODE },
        features: vec![],
        siblings: vec![],
        reconnect_window_ms: 0,
        resume: None,
    }
}

fn records() -> Vec<(&'static str, Vec<u8>, Record)> {
    let with_header = |kind, payload: &[u8]| [&record_header(kind, payload.len())[..], payload].concat();
    let head = encode_head(&json!({ "status": 200 })).expect("a short head");
    let status = EndStatus { code: Code::Timeout, message: "no answer within 2 s".into() };
    let text = "the local end failed: connection reset by the peer";
    let hundred = vec![b'x'; 100];
    let compressed = encode_compressed(RecordKind::Data, &hundred).expect("it is smaller");
    vec![
        ("data", with_header(RecordKind::Data, b"hello"), Record::Data(Bytes::from_static(b"hello"))),
        ("data-lz4", compressed.to_vec(), Record::Data(hundred.into())),
        ("item", with_header(RecordKind::Item, b"{}"), Record::Item(Bytes::from_static(b"{}"))),
        ("head", head, Record::Head(Bytes::from_static(br#"{"status":200}"#))),
        ("end", encode_end(None), Record::End(None)),
        ("end-with-status", encode_end(Some(&status)), Record::End(Some(status))),
        ("reset", encode_reset(Code::Reset, text), Record::Reset { code: 5, text: text.to_owned() }),
    ]
}

/// `docs/PROTOCOL.md`, its fenced blocks as language, name and content.
struct Page {
    text: String,
    blocks: Vec<(String, String, String)>,
}

impl Page {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROTOCOL.md");
        let text = fs::read_to_string(&path).expect("docs/PROTOCOL.md is there");
        let mut blocks: Vec<(String, String, String)> = Vec::new();
        let mut inside = false;
        for line in text.lines() {
            match line.strip_prefix("```") {
                Some(_) if inside => inside = false,
                Some(info) => {
                    inside = true;
                    let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                    blocks.push((language.to_owned(), name.to_owned(), String::new()));
                }
                None => {
                    if let Some((.., content)) = blocks.last_mut().filter(|_| inside) {
                        content.push_str(line);
                        content.push('\n');
                    }
                }
            }
        }
        Self { text, blocks }
    }

    fn block(&self, language: &str, name: &str) -> &str {
        let found: Vec<_> =
            self.blocks.iter().filter(|block| block.0 == language && block.1 == name).collect();
        let [(.., content)] = &found[..] else { panic!("{} blocks `{language} {name}`", found.len()) };
        content
    }

    fn hex(&self, name: &str) -> Vec<u8> {
        let digits: String = self
            .block("hex", name)
            .lines()
            .flat_map(|line| line.split(';').next())
            .flat_map(str::split_whitespace)
            .collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits
            .as_bytes()
            .chunks(2)
            .map(pair)
            .collect::<Option<_>>()
            .unwrap_or_else(|| panic!("{name} is no hex"))
    }

    /// The cells of the rows below this header.
    fn table(&self, header: &str) -> Vec<Vec<String>> {
        let mut lines = self.text.lines().skip_while(|line| *line != header);
        assert!(lines.next().is_some(), "no table {header}");
        let columns = header.matches('|').count() - 1;
        let rows: Vec<Vec<String>> = lines
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| row.len() == columns), "{header}: {rows:?}");
        rows
    }
}

/// Compares an example and shows, if it is wrong, what to write instead.
#[track_caller]
fn assert_hex(page: &Page, name: &str, bytes: &[u8], header: usize) {
    if page.hex(name) != bytes {
        let mut right = String::new();
        let (header, payload) = bytes.split_at(header);
        for line in std::iter::once(header).chain(payload.chunks(32)) {
            let pairs: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(right, "{}", pairs.join(" ")).expect("a String takes everything");
        }
        panic!("docs/PROTOCOL.md is wrong about `hex {name}`; it should say:\n```hex {name}\n{right}```");
    }
}

/// As people read it: 262,144.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn time(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}
