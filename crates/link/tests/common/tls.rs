//! Two ends of a pipe that trust each other, and a network that is one pipe.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reachback_link::{
    Address, DialSecurity, ListenAddress, Listener, Net, Transport, dial, greet,
    tls::{AcceptIdentity, AcceptTls, DialTls, TrustClock},
};
use reachback_testkit::certificates::{Authority, Leaf};
use reachback_wire::{
    Generation, Hello, Instance, Nonce, ProtocolRange, Role, SessionId, SessionLimits, Welcome, limits,
};
use tokio::{sync::Semaphore, time::Instant};

/// A network of one pipe.
pub struct OnePipe(Mutex<Option<Transport>>);

impl OnePipe {
    /// Whoever dials gets this.
    pub fn of(transport: Transport) -> Self {
        Self(Mutex::new(Some(transport)))
    }

    /// Nobody can be reached.
    pub fn nobody() -> Self {
        Self(Mutex::new(None))
    }

    /// One in memory, and its far end.
    pub fn new() -> (Self, Transport) {
        let (near, far) = Transport::memory_pair(64 * 1024);
        (Self::of(near), far)
    }
}

impl Net for OnePipe {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async { self.0.lock().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into()) })
    }

    fn listen<'a>(&'a self, _: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

pub fn hello() -> Hello {
    Hello {
        role: Role::Node,
        id: "edge-7".parse().unwrap(),
        generation: Generation { instance: Instance([1; 16]), slot: 0, seq: 1 },
        protocol: ProtocolRange { min: 1, max: 1 },
        agent: "test".into(),
        nonce: Nonce([2; 32]),
        features: Vec::new(),
        credential: None,
        resume: None,
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        explorer: "hub-1".parse().unwrap(),
        session: SessionId(7),
        heartbeat_ms: 10_000,
        time_unix_ms: 1,
        limits: SessionLimits { max_substreams: 1024 },
        features: Vec::new(),
        siblings: Vec::new(),
        reconnect_window_ms: 0,
        resume: None,
    }
}

/// TLS on this pair: who dials, and who is dialled.
pub async fn secured(near: Transport, far: Transport) -> (Transport, Transport) {
    static PARTIES: LazyLock<(AcceptTls, DialSecurity)> = LazyLock::new(|| {
        let ca = Authority::new("ca");
        let tunnel = ca.issue(&Leaf::explorer()).identity();
        let node = ca.issue(&Leaf::node("edge-7")).identity();
        let dial = DialTls::new(&ca.trusted(), Some(&node), TrustClock::system()).unwrap();
        let accept = AcceptTls::new(AcceptIdentity { tunnel, web: Vec::new() }).unwrap();
        (accept, DialSecurity::Tls(Arc::new(dial)))
    });
    let (accept, security) = &*PARTIES;
    let (net, to, said) = (OnePipe::of(near), "hub:9002".parse().unwrap(), hello());
    let (places, deadline) = (Semaphore::new(1), Instant::now() + limits::HANDSHAKE_TIMEOUT);
    let (dialled, accepted) = tokio::join!(dial(&net, &to, &said, security), async {
        let transport = accept.accept(far, &places, deadline).await.unwrap();
        let admission = greet(transport, ProtocolRange::SUPPORTED).await.unwrap();
        admission.welcome(&welcome()).await.unwrap()
    });
    (dialled.unwrap().transport, accepted.transport)
}
