//! An explorer's end of the line, built from the link's acceptor alone: what it says, opens and leaves unsaid is up to
//! the test.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by several test targets, each of which needs a part of it"
)]

use std::{sync::Arc, time::Duration};

use reachback_link::{
    Address, Admission, Compression, Congestion, ControlInbox, Incoming, ListenAddress, Listener,
    MemoryBudget, Net, RealNet, Session, SessionConfig, SessionEnd, SessionRules, Stats, Transport, greet,
    session,
};
use reachback_wire::{
    ControlMessage, Hello, NodeId, Open, ProtocolRange, Refusal, SessionId, SessionLimits, Target, Welcome,
    limits,
};
use tokio::{task::JoinSet, time::timeout};

/// Everything a test waits for comes within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A listening explorer without rules.
pub struct Hub {
    listener: Listener,
    pub welcome: Welcome,
}

/// A session that a test holds the other end of. Dropping it cuts the connection.
pub struct Peer {
    pub hello: Hello,
    pub session: Session,
    pub incoming: Incoming,
    pub control: ControlInbox,
    pub stats: Arc<Stats>,
    driver: JoinSet<SessionEnd>,
}

impl Hub {
    pub async fn bind() -> Self {
        let listener = RealNet.listen(&"127.0.0.1:0".parse::<ListenAddress>().unwrap()).await.unwrap();
        Self { listener, welcome: welcome() }
    }

    pub fn address(&self) -> Address {
        self.listener.local().to_string().parse().unwrap()
    }

    /// The next dialer's transport, before any word.
    pub async fn connection(&mut self) -> Transport {
        let accepted = within("a connection", self.listener.accept()).await.unwrap();
        accepted.socket.into_transport().unwrap()
    }

    /// The next dialer, its `Hello` read.
    pub async fn greeted(&mut self) -> Admission {
        let transport = self.connection().await;
        within("a hello", greet(transport, ProtocolRange::SUPPORTED)).await.unwrap()
    }

    /// The next dialer, let in.
    pub async fn admit(&mut self) -> Peer {
        let admission = self.greeted().await;
        Peer::new(admission, &self.welcome).await
    }

    /// The next dialer, turned away.
    pub async fn deny(&mut self, refusal: Refusal) {
        self.greeted().await.deny(&refusal).await;
    }
}

impl Peer {
    pub async fn new(admission: Admission, welcome: &Welcome) -> Self {
        let established = admission.welcome(welcome).await.unwrap();
        let stats: Arc<Stats> = Arc::default();
        let (session, incoming, control, driver) = session(
            established.transport,
            SessionConfig {
                side: established.side,
                heartbeat: Duration::from_millis(welcome.heartbeat_ms),
                max_open: limits::SUBSTREAMS_FROM_CLIENT,
                stats: stats.clone(),
                budget: Arc::new(MemoryBudget::new(256 << 20)),
                congestion: Congestion::default(),
                compression: Compression::default()
                    .with_peer(&welcome.features)
                    .with_peer(&established.hello.features),
                rules: SessionRules::default(),
            },
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        Self { hello: established.hello, session, incoming, control, stats, driver: tasks }
    }

    pub async fn control(&mut self) -> ControlMessage {
        within("a control message", self.control.next()).await.expect("the session lives")
    }

    /// How the session ended, once it has.
    pub async fn ended(&mut self) -> SessionEnd {
        within("the end of the session", self.driver.join_next()).await.unwrap().unwrap()
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        explorer: "hub-1".parse().unwrap(),
        session: SessionId(7),
        heartbeat_ms: 10_000,
        time_unix_ms: 1_700_000_000_000,
        limits: SessionLimits { max_substreams: limits::SUBSTREAMS_FROM_NODE },
        features: vec![],
        siblings: vec![],
        reconnect_window_ms: 0,
        resume: None,
    }
}

pub fn stream(target: &str) -> Open {
    Open::stream(target.parse::<Target>().unwrap())
}

pub fn node_id(id: &str) -> NodeId {
    id.parse().unwrap()
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}
