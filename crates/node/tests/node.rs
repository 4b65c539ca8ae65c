//! A node seen from an explorer that keeps no rules: whatever it asks for, the node answers as it should.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reachback_client::Random;
use reachback_link::{Net, OpenError, Pulse, RealNet, StreamEnd, Substream, splice};
use reachback_node::{Handler, LineState, Node, NodeConfig, Service, Visit};
use reachback_wire::{
    Code, ControlMessage, HealthState, Instance, Open, Record, RecordKind, Refusal, Target, limits,
};
use support::{Hub, PATIENCE, Peer, node_id, stream, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Notify,
    task::JoinSet,
};

/// A node called edge-7 with these services, its hub, and its first session.
struct World {
    hub: Hub,
    peer: Peer,
    node: Node,
    stats: Arc<reachback_node::Stats>,
}

async fn world(services: impl IntoIterator<Item = Service>) -> World {
    let mut hub = Hub::bind().await;
    let config = config(&hub, services);
    let stats = config.stats.clone();
    let node = Node::start(config, Arc::new(RealNet)).unwrap();
    let peer = hub.admit().await;
    World { hub, peer, node, stats }
}

fn config(hub: &Hub, services: impl IntoIterator<Item = Service>) -> NodeConfig {
    let mut config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    config.random = Random::seeded(5);
    for service in services {
        config = config.with_service(service).unwrap();
    }
    config
}

fn service(entry: &str) -> Service {
    entry.parse().unwrap()
}

fn handler(name: &str, handler: impl Handler) -> Service {
    Service::handler(name, handler).unwrap()
}

fn echo() -> Service {
    handler("echo", |visit: Visit| async move {
        let (mut from, mut to) = split(visit);
        copy(&mut from, &mut to).await?;
        to.shutdown().await
    })
}

/// A listener, its address as a service entry's, and nothing that accepts.
async fn tcp() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    within("the node's dial", listener.accept()).await.unwrap().0
}

async fn open(peer: &Peer, target: &str) -> Substream {
    within("the open", peer.session.open(stream(target)))
        .await
        .unwrap_or_else(|error| panic!("{target}: {error}"))
}

async fn refused(peer: &Peer, open: Open) -> Refusal {
    match within("the refusal", peer.session.open(open)).await {
        Err(OpenError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn next(substream: &mut Substream) -> Result<Record, StreamEnd> {
    within("a record", substream.next()).await
}

async fn read_to_end(substream: &mut Substream) -> Result<Vec<u8>, StreamEnd> {
    let mut all = Vec::new();
    loop {
        match next(substream).await? {
            Record::Data(bytes) => all.extend_from_slice(&bytes),
            Record::End(_) => return Ok(all),
            other => panic!("{other:?}"),
        }
    }
}

fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_service_that_asks_for_it_is_compressed_where_the_explorer_can() {
    for can in [true, false] {
        let mut hub = Hub::bind().await;
        hub.welcome.features = if can { vec!["lz4".to_owned()] } else { vec![] };
        let (listener, address) = tcp().await;
        let entries = [
            service(&format!("log={address},compression=lz4")),
            service("ssh=22"),
            service("db=80,compression=off"),
        ];
        let _node = Node::start(config(&hub, entries), Arc::new(RealNet)).unwrap();
        let mut peer = hub.admit().await;
        assert_eq!(peer.hello.features, ["lz4"]);
        let ControlMessage::Services(services) = peer.control().await else {
            panic!("something else came first")
        };
        let asks: Vec<_> =
            services.services.iter().map(|s| (s.name.as_ref(), s.compression.as_deref())).collect();
        assert_eq!(asks, [("db", None), ("log", Some("lz4")), ("ssh", None)]);

        // What an explorer does then; the node's own records are as small.
        let opening = peer.session.open(stream("edge-7/log").compressed());
        let (substream, mut socket) = tokio::join!(opening, accept(&listener));
        let mut substream = substream.unwrap();
        let before = counted(&peer.stats.bytes_in);
        let text = b"the same line again and again\n".repeat(10_000);
        let writing = async {
            socket.write_all(&text).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read_to_end(&mut substream), writing);
        assert!(read.unwrap() == text);
        let bytes = counted(&peer.stats.bytes_in) - before;
        assert_eq!(bytes < text.len() as u64 / 3, can, "{bytes} bytes");
    }
}

#[tokio::test]
async fn services_and_labels_are_the_first_thing_it_says() {
    let mut hub = Hub::bind().await;
    let config = config(&hub, [echo(), service("rpc=/run/none.sock,framing=http")])
        .with_label("region", "eu")
        .unwrap();
    let _node = Node::start(config, Arc::new(RealNet)).unwrap();
    let mut peer = hub.admit().await;
    let ControlMessage::Services(services) = peer.control().await else {
        panic!("something else came first")
    };
    assert_eq!(services.labels["region"], "eu");
    let told: Vec<_> = services.services.iter().map(|s| (s.name.as_ref(), s.framing.as_deref())).collect();
    assert_eq!(told, [("echo", None), ("rpc", Some("http"))]);
    assert!(services.services.iter().all(|s| s.health == HealthState::Unknown));
}

#[tokio::test]
async fn bytes_go_both_ways_and_half_closes_are_carried() {
    let (listener, address) = tcp().await;
    let world = world([service(&format!("db={address}"))]).await;
    let mut stream = open(&world.peer, "edge-7/db").await;
    let mut socket = accept(&listener).await;

    stream.send(RecordKind::Data, b"question").await.unwrap();
    stream.finish(None).await.unwrap();
    let mut question = Vec::new();
    within("the question's end", socket.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    // The service answers after the visitor's half is over.
    socket.write_all(b"answer").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await.unwrap(), b"answer");
    eventually("the visit's end", || counted(&world.stats.visits_finished) == 1).await;
    assert_eq!((counted(&world.stats.bytes_to_services), counted(&world.stats.bytes_from_services)), (8, 6));
}

#[tokio::test]
async fn a_unix_socket_is_a_service_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let world = world([service(&format!("rpc={}", path.display()))]).await;
    let mut stream = open(&world.peer, "edge-7/rpc").await;
    let (mut socket, _) = within("the node's dial", listener.accept()).await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    drop(socket);
    assert_eq!(read_to_end(&mut stream).await.unwrap(), b"hello");
}

#[tokio::test]
async fn only_what_was_declared_can_be_reached() {
    let (listener, address) = tcp().await;
    let world = world([service(&format!("db={address}")), echo()]).await;
    for (open, code, part) in [
        (stream("edge-7/ssh"), Code::ServiceNotFound, "it has: db, echo"),
        (stream("edge-8/db"), Code::NotHere, "this is node edge-7"),
        (stream("@explorer/api"), Code::NotHere, "this is node edge-7"),
        (
            Open { expect_instance: Some(Instance([9; 16])), ..stream("edge-7/db") },
            Code::NotHere,
            "restarted",
        ),
        (Open { hop: 2, ..stream("edge-7/db") }, Code::NotHere, "2 explorers"),
        (
            Open::call("edge-7/echo".parse::<Target>().unwrap(), PATIENCE),
            Code::ServiceNotFound,
            "connect or forward",
        ),
    ] {
        let shown = format!("{open:?}");
        let refusal = refused(&world.peer, open).await;
        assert_eq!(refusal.code, code, "{shown}: {refusal}");
        assert!(refusal.message.contains(part), "{shown}: {refusal}");
    }
    assert_eq!(counted(&world.stats.opens_refused), 6);
    // Nothing of it has touched the service, and it is still served.
    let instance = world.peer.hello.generation.instance;
    let right = Open { expect_instance: Some(instance), hop: 1, ..stream("edge-7/db") };
    let _stream = within("the open", world.peer.session.open(right)).await.unwrap();
    accept(&listener).await;
    assert!(
        tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err(),
        "one visitor, one connection"
    );
}

#[tokio::test]
async fn a_service_that_is_down_is_refused_with_the_reason_and_announced_as_failing() {
    let (listener, address) = tcp().await;
    drop(listener);
    let mut world = world([service(&format!("db={address}")), service("rpc=/nowhere/at.sock")]).await;
    let ControlMessage::Services(_) = world.peer.control().await else { panic!() };

    let refusal = refused(&world.peer, stream("edge-7/db")).await;
    assert_eq!(refusal.code, Code::ServiceUnreachable);
    assert!(refusal.message.contains(&address) && refusal.message.contains("refused"), "{refusal}");
    let ControlMessage::Health(health) = world.peer.control().await else { panic!() };
    assert_eq!(health.services[0].name.as_ref(), "db");
    let HealthState::Failing { reason } = &health.services[0].health else { panic!("{health:?}") };
    assert!(reason.contains("refused"), "{reason}");

    let refusal = refused(&world.peer, stream("edge-7/rpc")).await;
    assert_eq!(refusal.code, Code::ServiceUnreachable);
    assert!(refusal.message.contains("/nowhere/at.sock"), "{refusal}");
    let ControlMessage::Health(_) = world.peer.control().await else { panic!() };

    // Up again: the next visitor finds it, and the explorer hears of that once.
    let listener = TcpListener::bind(&address).await.unwrap();
    for _ in 0..2 {
        let _stream = open(&world.peer, "edge-7/db").await;
        accept(&listener).await;
    }
    let ControlMessage::Health(health) = world.peer.control().await else { panic!() };
    assert_eq!((health.services.len(), &health.services[0].health), (1, &HealthState::Ok));
    assert_eq!(counted(&world.stats.services_unreachable), 2);
    assert!(tokio::time::timeout(Duration::ZERO, world.peer.control.next()).await.is_err(), "said once");
}

#[tokio::test]
async fn resets_are_carried_both_ways_as_resets() {
    let (listener, address) = tcp().await;
    let world = world([service(&format!("db={address}"))]).await;

    let mut stream = open(&world.peer, "edge-7/db").await;
    let mut socket = accept(&listener).await;
    socket.write_all(b"half an ans").await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Record::Data(_))));
    reset(socket);
    let end = loop {
        match next(&mut stream).await {
            Ok(Record::Data(_)) => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(end.code(), Code::Reset, "{end}");

    let stream = open(&world.peer, "edge-7/db").await;
    let mut socket = accept(&listener).await;
    stream.reset(Code::Cancelled, "changed my mind");
    let error = within("the reset", socket.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "a service can tell an abort from an end");
    eventually("the visits' ends", || counted(&world.stats.visits_broken) == 2).await;
}

/// Closes with RST.
fn reset(socket: TcpStream) {
    reachback_link::Transport::from(socket).close_with_reset(true);
}

#[tokio::test]
async fn a_service_that_never_answers_leaves_the_others_alone() {
    // A Unix socket whose queue is full accepts nobody, and can be emptied.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let _occupant = std::os::unix::net::UnixStream::connect(&path).unwrap();

    let world = world([service(&format!("full={}", path.display())), echo()]).await;
    let total = limits::SERVICE_OPENS_IN_FLIGHT + limits::SERVICE_OPENS_WAITING + 40;
    let mut opens = JoinSet::new();
    for _ in 0..total {
        let session = world.peer.session.clone();
        opens.spawn(async move { session.open(stream("edge-7/full")).await });
    }
    // Those beyond the queue are told at once; the others wait.
    for _ in 0..40 {
        let outcome = within("a refusal", opens.join_next()).await.unwrap().unwrap();
        let Err(OpenError::Refused(refusal)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(refusal.code, Code::Saturated, "{refusal}");
        assert!(refusal.retry_after_ms.is_some());
    }
    let mut stream = open(&world.peer, "edge-7/echo").await;
    stream.send(RecordKind::Data, b"still here").await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Record::Data(_))));
    assert!(
        !opens.is_empty() && opens.try_join_next().is_none(),
        "the others still wait, this one did not have to"
    );

    // Each of those ends within its deadline, by the node's word where that is in time.
    let mut unreachable = 0;
    while let Some(outcome) = within("an answer", opens.join_next()).await {
        match outcome.unwrap() {
            Err(OpenError::Refused(refusal)) if refusal.code == Code::ServiceUnreachable => unreachable += 1,
            Err(OpenError::Refused(refusal)) => assert_eq!(refusal.code, Code::Saturated, "{refusal}"),
            // It reached the node late, behind so many others: its own clock was first.
            Err(OpenError::Timeout) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(unreachable > 0);
}

#[tokio::test]
async fn a_handler_that_returns_ends_cleanly_and_one_that_fails_resets() {
    let hello = handler("hello", |mut visit: Visit| async move {
        let caller = visit.caller().map_or("nobody".into(), |caller| caller.id.clone());
        visit.write_all(format!("hello {caller}").as_bytes()).await
    });
    let fails = handler("fails", |mut visit: Visit| async move {
        visit.write_all(b"half").await?;
        Err(io::Error::other("disk on fire"))
    });
    let panics = handler("panics", |visit: Visit| async move {
        assert!(visit.service().as_ref().is_empty(), "a bug in a handler");
        Ok(())
    });
    let world = world([hello, fails, panics, echo()]).await;

    let mut stream = open(&world.peer, "edge-7/hello").await;
    // What the handler never reads must not cost the visitor the answer.
    stream.send(RecordKind::Data, b"unasked for").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await.unwrap(), b"hello nobody");
    stream.finish(None).await.unwrap();

    let mut stream = open(&world.peer, "edge-7/fails").await;
    let end = read_to_end(&mut stream).await.unwrap_err();
    assert!(matches!(&end, StreamEnd::Reset { text, .. } if text.contains("disk on fire")), "{end}");

    let mut stream = open(&world.peer, "edge-7/panics").await;
    let end = read_to_end(&mut stream).await.unwrap_err();
    assert_eq!(end.code(), Code::Reset, "{end}");

    let mut stream = open(&world.peer, "edge-7/echo").await;
    stream.send(RecordKind::Data, b"unharmed").await.unwrap();
    stream.finish(None).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await.unwrap(), b"unharmed");
}

#[tokio::test]
async fn a_handler_that_never_flushes_still_gets_its_last_word_out() {
    // Four whole records and the answer to the open are a little more than a fresh stream's window: the last record
    // has been taken from the handler and not all of it has gone.
    const SIZE: usize = 4 * limits::MAX_RECORD_PAYLOAD;
    let written = Arc::new(Notify::new());
    let has_written = written.clone();
    let answers = handler("answers", move |mut visit: Visit| {
        let written = written.clone();
        async move {
            visit.write_all(&[7; SIZE]).await?;
            written.notify_one();
            // As with a plain socket: what was written goes out while we wait for the next question.
            while visit.read(&mut [0; 16]).await? > 0 {}
            Ok(())
        }
    });
    let world = world([answers]).await;
    let mut stream = open(&world.peer, "edge-7/answers").await;
    within("the handler's write", has_written.notified()).await;
    let mut read = 0;
    while read < SIZE {
        let Record::Data(bytes) = next(&mut stream).await.unwrap() else { panic!() };
        read += bytes.len();
    }
    stream.finish(None).await.unwrap();
    assert!(read_to_end(&mut stream).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cut_line_comes_back_and_tells_how_it_ended() {
    let mut world = world([echo()]).await;
    let first = world.peer.hello.generation;
    drop(world.peer);
    world.hub.deny(Refusal::new(Code::Denied, "not yet")).await;
    let mut peer = world.hub.admit().await;
    assert!(peer.hello.generation.same_line(&first));
    assert_eq!(peer.hello.generation.supersedes(&first), Some(true));
    let ControlMessage::Services(_) = peer.control().await else { panic!("Services first") };
    let ControlMessage::Ends(ends) = peer.control().await else { panic!("then the ends") };
    assert_eq!(ends.ends.len(), 2, "{ends:?}");
    assert_eq!(ends.ends[0].session, Some(world.hub.welcome.session));
    assert_eq!((ends.ends[1].session, ends.ends[1].code), (None, Code::Denied));
    let now = world.hub.welcome.time_unix_ms;
    assert!(ends.ends.iter().all(|end| end.at_unix_ms <= now && end.at_unix_ms + 20_000 > now), "{ends:?}");
    let mut stream = open(&peer, "edge-7/echo").await;
    stream.finish(None).await.unwrap();
    assert!(read_to_end(&mut stream).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_under_way_when_the_line_was_cut_is_reset_at_the_service() {
    let (listener, address) = tcp().await;
    let world = world([service(&format!("db={address}"))]).await;
    let _stream = open(&world.peer, "edge-7/db").await;
    let mut socket = accept(&listener).await;
    drop(world.peer);
    let error = within("the reset", socket.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn explorers_are_independent_and_told_apart() {
    let mut hub = Hub::bind().await;
    // Accepts connections and never says a word.
    let (_silent, silent) = tcp().await;
    let (gone, refusing) = tcp().await;
    drop(gone);
    let explorers = vec![silent.parse().unwrap(), refusing.parse().unwrap(), hub.address()];
    let config = NodeConfig::new(node_id("edge-7"), explorers).unwrap().with_service(echo()).unwrap();
    let node = Node::start(config, Arc::new(RealNet)).unwrap();
    let peer = hub.admit().await;
    assert_eq!(peer.hello.generation.slot, 2, "each explorer is a line of its own");
    let mut states = node.states();
    let lines = within(
        "the lines' states",
        states.wait_for(|lines| {
            matches!(lines[0].state, LineState::Handshaking)
                && matches!(lines[1].state, LineState::BackingOff { .. })
                && matches!(lines[2].state, LineState::Serving { pulse: Pulse::Live, .. })
        }),
    )
    .await
    .unwrap()
    .clone();
    assert_eq!(lines[1].explorer.to_string(), refusing);
    node.shutdown().await;
}

#[tokio::test]
async fn shutdown_says_goodbye_and_resets_what_is_open() {
    let (listener, address) = tcp().await;
    let mut world = world([service(&format!("db={address}"))]).await;
    let _stream = open(&world.peer, "edge-7/db").await;
    let mut socket = accept(&listener).await;
    let states = world.node.states();
    within("the shutdown", world.node.shutdown()).await;
    let end = world.peer.ended().await;
    assert!(end.message.contains("shutting down"), "{end}");
    let error = within("the reset", socket.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(states.borrow().iter().all(|line| line.state == LineState::Stopped));
}

#[tokio::test]
async fn a_node_that_works_has_not_failed() {
    let mut world = world([echo()]).await;
    let failed = world.node.failed();
    assert!(tokio::time::timeout(Duration::from_millis(50), failed).await.is_err());
}

#[tokio::test]
async fn a_local_socket_through_the_node_is_a_pipe_to_the_service() {
    // The way a published port goes: socket, substream, node, socket.
    let (listener, address) = tcp().await;
    let world = world([service(&format!("db={address}"))]).await;
    let (entrance, entrance_address) = tcp().await;
    let mut visitor = RealNet.connect(&entrance_address.parse().unwrap()).await.unwrap();
    let (at_entrance, _) = entrance.accept().await.unwrap();
    let substream = open(&world.peer, "edge-7/db").await;
    let mut splices = JoinSet::new();
    splices.spawn(splice(substream, at_entrance.into()));
    let mut socket = accept(&listener).await;

    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7) as u8).collect();
    let (mut received, mut echoed) = (Vec::new(), Vec::new());
    let upload = async {
        visitor.write_all(&sent).await.unwrap();
        visitor.shutdown().await.unwrap();
        visitor.read_to_end(&mut echoed).await.unwrap();
    };
    let service = async {
        socket.read_to_end(&mut received).await.unwrap();
        socket.write_all(&received).await.unwrap();
        socket.shutdown().await.unwrap();
    };
    within("both ways", async { tokio::join!(upload, service) }).await;
    assert!(echoed == sent, "{} of {} bytes came back", echoed.len(), sent.len());
    let spliced = within("the splice's end", splices.join_next()).await.unwrap().unwrap();
    assert!(spliced.end.is_ok(), "{:?}", spliced.end);
}
