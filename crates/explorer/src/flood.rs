//! What strangers may cost: everything between an accepted socket and a peer that is known.
//!
//! Anyone can connect, so each bound here holds without asking who it is. Three of them work together. A source (a /24 or
//! /56, since addresses are cheap) may leave a few handshakes a second unfinished; all strangers together may begin so
//! many a second; and there is a fixed number of places in which they can be slow. Whoever finishes a handshake gets
//! back what he used, so a fleet behind one address is never punished for its size. When the places are taken it is the
//! one who has been idle longest who loses his, so that filling them keeps nobody out.

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use reachback_link::{BucketRules, Cidr, PeerAddress, RawSocket, TokenBucket, Transport};
use tokio::{
    io::AsyncReadExt,
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    buckets::Buckets,
    limits,
    proxy_protocol::{self, ProxyHeader},
    stats::{Stats, count},
};

/// What one source may leave unfinished.
const SOURCE: BucketRules = BucketRules::every(limits::SOURCE_BURST, limits::SOURCE_EVERY);

/// What all of them together may begin.
const EVERYONE: BucketRules = BucketRules::every(limits::STRANGERS_BURST, limits::STRANGERS_EVERY);

/// How often the log says that strangers are turned away.
const SAID: BucketRules = BucketRules::every(1, limits::FLOOD_SAID_EVERY);

/// The bounds of one explorer.
#[derive(Debug)]
pub(crate) struct Flood {
    everyone: Mutex<TokenBucket>,
    sources: Buckets<Source>,
    waiting: Mutex<BTreeMap<(Instant, u64), Arc<Notify>>>,
    places: usize,
    numbers: AtomicU64,
    said: Mutex<TokenBucket>,
    stats: Arc<Stats>,
}

/// Addresses that are counted together: what one customer of a provider is usually given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// A /24.
    V4(u32),
    /// A /56.
    V6(u64),
}

/// A stranger who may go on.
pub(crate) struct Entry {
    pub(crate) transport: Transport,
    /// Who it is, as the kernel says or as a listed balancer does.
    pub(crate) peer: PeerAddress,
    pub(crate) place: Place,
}

/// A stranger's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    flood: Arc<Flood>,
    key: (Instant, u64),
    evicted: Arc<Notify>,
    source: Option<Source>,
}

impl Flood {
    pub(crate) fn new(stats: Arc<Stats>) -> Arc<Self> {
        Self::with_places(stats, limits::UNADMITTED)
    }

    fn with_places(stats: Arc<Stats>, places: usize) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            everyone: Mutex::new(TokenBucket::full(now)),
            sources: Buckets::new(SOURCE, limits::SOURCES, limits::SOURCES_KEPT),
            waiting: Mutex::default(),
            places,
            numbers: AtomicU64::new(0),
            said: Mutex::new(TokenBucket::full(now)),
            stats,
        })
    }

    /// From an accepted socket to a stranger with a place; `None` if he was turned away, which has been counted and, now
    /// and then, logged. `proxies`: who has to say whom he connects for.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        socket: RawSocket,
        peer: PeerAddress,
        proxies: &[Cidr],
        deadline: Instant,
    ) -> Option<Entry> {
        let balancer =
            matches!(&peer, PeerAddress::Tcp(from) if proxies.iter().any(|one| one.contains(from.ip())));
        let source = if balancer { None } else { self.admit(&peer)? };
        let mut place = self.place(source);
        let transport = socket
            .into_transport()
            .map_err(|error| tracing::warn!(%peer, %error, "the runtime can't take the connection"))
            .ok()?;
        if !balancer {
            return Some(Entry { transport, peer, place });
        }
        let reading =
            timeout_at(deadline.min(Instant::now() + limits::PROXY_HEADER_TIMEOUT), read_header(transport));
        let told = tokio::select! {
            told = reading => told,
            () = place.evicted() => return None,
        };
        let (source, transport) = match told {
            Ok(Ok(header)) => header,
            Ok(Err(why)) => {
                self.refuse_proxy(&peer, &why);
                return None;
            }
            Err(_) => {
                self.refuse_proxy(&peer, "it did not say in time whom it connects for");
                return None;
            }
        };
        let peer = match source {
            Some(source) => PeerAddress::Tcp(source),
            None => peer,
        };
        // The balancer itself is exempt: it looks whether we are there.
        place.source = if source.is_some() { self.admit(&peer)? } else { None };
        place.progress();
        Some(Entry { transport, peer, place })
    }

    /// Takes the tokens of a stranger, if any are asked of him.
    fn admit(&self, peer: &PeerAddress) -> Option<Option<Source>> {
        let Some(source) = Source::of(peer) else { return Some(None) };
        if self.sources.take(&source).is_err() {
            count(&self.stats.sources_limited);
            self.say(peer, "too many handshakes from its network were not finished");
            return None;
        }
        if self.everyone.lock().take(EVERYONE, Instant::now()).is_err() {
            // It is not the fault of this one.
            self.sources.give_back(&source);
            count(&self.stats.strangers_limited);
            self.say(peer, "too many strangers connect");
            return None;
        }
        Some(Some(source))
    }

    /// A place among those who are not known yet, at the cost of the one who has been idle longest if there is none.
    fn place(self: &Arc<Self>, source: Option<Source>) -> Place {
        let key = (Instant::now(), self.numbers.fetch_add(1, Ordering::Relaxed));
        let evicted = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.places
            && let Some((_, idle)) = waiting.pop_first()
        {
            count(&self.stats.connections_shed);
            idle.notify_one();
        }
        waiting.insert(key, evicted.clone());
        drop(waiting);
        Place { flood: self.clone(), key, evicted, source }
    }

    fn refuse_proxy(&self, peer: &PeerAddress, why: &str) {
        count(&self.stats.proxy_headers_refused);
        self.say(peer, why);
    }

    /// A flood must not become one of the log.
    fn say(&self, peer: &PeerAddress, why: &str) {
        if self.said.lock().take(SAID, Instant::now()).is_ok() {
            tracing::warn!(%peer, "a connection is closed: {why} (said at most every {:?})", limits::FLOOD_SAID_EVERY);
        } else {
            tracing::debug!(%peer, "a connection is closed: {why}");
        }
    }
}

impl Place {
    /// It did something: others have been idle for longer now.
    pub(crate) fn progress(&mut self) {
        let mut waiting = self.flood.waiting.lock();
        // Evicted meanwhile: it is about to hear of it.
        if let Some(evicted) = waiting.remove(&self.key) {
            self.key.0 = Instant::now();
            waiting.insert(self.key, evicted);
        }
    }

    /// Ready when somebody else has been given the place.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let evicted = self.evicted.clone();
        async move { evicted.notified().await }
    }

    /// It has finished its handshake, and its network gets back what it was charged; it may still be a stranger.
    pub(crate) fn through(self) {
        if let Some(source) = &self.source {
            self.flood.sources.give_back(source);
        }
    }

    /// It is known now, and gets back all that strangers are charged.
    pub(crate) fn admitted(self) {
        if self.source.is_some() {
            self.flood.everyone.lock().give_back(EVERYONE);
        }
        self.through();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.flood.waiting.lock().remove(&self.key);
    }
}

impl Source {
    /// `None` for whoever is on this machine: he has better ways to do harm.
    fn of(peer: &PeerAddress) -> Option<Self> {
        let PeerAddress::Tcp(address) = peer else { return None };
        match address.ip().to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(ip) => Some(Self::V4(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => Some(Self::V6((ip.to_bits() >> 72) as u64)),
        }
    }
}

/// Reads the header of a balancer and no further.
async fn read_header(mut transport: Transport) -> Result<(Option<std::net::SocketAddr>, Transport), String> {
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        match proxy_protocol::parse(&bytes).map_err(|error| error.to_string())? {
            ProxyHeader::Whole { source, length } => {
                let rest = bytes.split_off(length);
                if !rest.is_empty() {
                    transport.put_back(Bytes::from(rest));
                }
                return Ok((source, transport));
            }
            ProxyHeader::Unfinished(_) => match transport.read_buf(&mut bytes).await {
                Ok(0) => return Err("it left before it had said whom it connects for".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt, sync::mpsc, time::advance};

    use super::*;
    use crate::listen::{Door, ListenerRules, accept};

    fn stranger(address: &str) -> PeerAddress {
        PeerAddress::Tcp(address.parse().unwrap())
    }

    fn flood(places: usize) -> Arc<Flood> {
        Flood::with_places(Arc::default(), places)
    }

    fn counted(flood: &Flood) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &flood.stats;
        (read(&stats.sources_limited), read(&stats.strangers_limited), read(&stats.connections_shed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_finishes_nothing_is_held_to_twenty_a_second_and_others_are_not() {
        let flood = flood(10_000);
        for n in 0..limits::SOURCE_BURST {
            flood.admit(&stranger(&format!("192.0.2.{}:1", n % 256))).unwrap();
        }
        assert!(flood.admit(&stranger("192.0.2.9:1")).is_none());
        advance(Duration::from_millis(50)).await;
        assert!(flood.admit(&stranger("192.0.2.9:1")).is_some());
        assert!(flood.admit(&stranger("192.0.2.9:1")).is_none());
        for elsewhere in ["192.0.3.9:1", "[2001:db8::1]:1", "127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(flood.admit(&stranger(elsewhere)).is_some(), "{elsewhere}");
        }
        for n in 1..u64::from(limits::SOURCE_BURST) {
            flood.admit(&stranger(&format!("[2001:db8:0:{:x}::1]:1", n % 256))).unwrap();
        }
        assert!(flood.admit(&stranger("[2001:db8:0:ff::2]:1")).is_none(), "a /56 is one source");
        assert!(flood.admit(&stranger("[2001:db8:0:100::2]:1")).is_some(), "and the next is another");
        assert_eq!(counted(&flood), (3, 0, 0));
        let loopback = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"].map(stranger);
        for local in
            loopback.into_iter().chain([PeerAddress::Memory, PeerAddress::Unix { uid: None, pid: None }])
        {
            for _ in 0..10_000 {
                assert_eq!(flood.admit(&local), Some(None));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_behind_one_address_that_finishes_its_handshakes_is_not_held_up() {
        let flood = flood(10_000);
        for _ in 0..10_000 {
            let source = flood.admit(&stranger("192.0.2.9:1")).unwrap();
            flood.place(source).admitted();
        }
        assert_eq!(counted(&flood), (0, 0, 0));
        assert!(flood.waiting.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_strangers_together_are_held_to_five_hundred_a_second() {
        let flood = flood(10_000);
        let mut taken = 0;
        for second in 0..3 {
            for n in 0..2_000 {
                let from = format!("10.{second}.{}.{}:1", n / 8, n % 8);
                taken += u64::from(flood.admit(&stranger(&from)).is_some());
            }
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(taken, u64::from(limits::STRANGERS_BURST) + 2 * 500);
        let (sources, strangers, _) = counted(&flood);
        assert_eq!((sources, strangers), (0, 6_000 - taken));
        for n in 0..limits::STRANGERS_BURST {
            assert!(flood.admit(&stranger(&format!("10.3.{}.1:1", n % 250))).is_some());
        }
        for _ in 0..2 * limits::SOURCE_BURST {
            assert!(flood.admit(&stranger("10.4.0.1:1")).is_none());
        }
        assert_eq!(flood.sources.take(&Source::V4(0x000a_0400)), Ok(()), "no source pays for the others");
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_who_was_idle_longest_makes_room() {
        let flood = flood(3);
        let mut first = flood.place(None);
        advance(Duration::from_millis(1)).await;
        let second = flood.place(None);
        let third = flood.place(None);
        advance(Duration::from_millis(1)).await;
        first.progress();
        let fourth = flood.place(None);
        second.evicted().await;
        for kept in [&first, &third, &fourth] {
            assert!(futures::FutureExt::now_or_never(kept.evicted()).is_none());
        }
        let mut second = second;
        second.progress();
        assert_eq!(flood.waiting.lock().len(), 3, "who has lost a place does not come back");
        drop((first, second, third, fourth));
        assert!(flood.waiting.lock().is_empty());
        assert_eq!(counted(&flood), (0, 0, 1));
    }

    /// A connection that begins with these bytes, from a balancer at 10.0.0.1.
    async fn balanced(flood: &Arc<Flood>, bytes: &[u8]) -> Option<Entry> {
        let (network, connections) = mpsc::channel(1);
        let (mut far, near) = tokio::io::duplex(4096);
        network.send(near).await.unwrap();
        let mut listener = reachback_link::Listener::memory(connections, "test");
        let arrival =
            accept(&mut listener, Door::Tunnel(Arc::new(ListenerRules::local())), &Default::default())
                .await
                .unwrap();
        far.write_all(bytes).await.unwrap();
        // Whoever stops in the middle of a line stays and says no more.
        let _stays = (!bytes.is_empty()).then_some(far);
        let deadline = Instant::now() + limits::HANDSHAKE_TIMEOUT;
        flood.enter(arrival.socket, stranger("10.0.0.1:5"), &["10.0.0.0/24".parse().unwrap()], deadline).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_listed_balancer_has_to_say_whom_it_connects_for() {
        let flood = flood(10);
        let entry = balanced(&flood, b"PROXY TCP4 192.0.2.7 10.0.0.9 40000 9002\r\nGET / ").await.unwrap();
        assert_eq!(entry.peer, stranger("192.0.2.7:40000"));
        assert_eq!(entry.place.source, Some(Source::V4(0x00c0_0002)));
        let mut rest = [0; 6];
        let mut transport = entry.transport;
        transport.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET / ");

        let entry = balanced(&flood, b"PROXY UNKNOWN\r\n").await.unwrap();
        assert_eq!((entry.peer, entry.place.source), (stranger("10.0.0.1:5"), None));

        assert!(balanced(&flood, b"GET / HTTP/1.1\r\n").await.is_none());
        assert!(balanced(&flood, b"").await.is_none(), "it closed without a word");
        let begun = Instant::now();
        assert!(balanced(&flood, b"PROXY TCP4 ").await.is_none(), "it stopped in the middle");
        assert_eq!(begun.elapsed(), limits::PROXY_HEADER_TIMEOUT);
        assert_eq!(flood.stats.proxy_headers_refused.load(Ordering::Relaxed), 3);

        for _ in 0..limits::SOURCE_BURST {
            balanced(&flood, b"PROXY TCP4 192.0.2.7 10.0.0.9 40000 9002\r\n").await.unwrap();
        }
        assert!(
            balanced(&flood, b"PROXY TCP4 192.0.2.7 10.0.0.9 40000 9002\r\n").await.is_none(),
            "it is counted by the address behind the balancer"
        );
        balanced(&flood, b"PROXY TCP4 192.0.3.7 10.0.0.9 40000 9002\r\n").await.unwrap();
        assert_eq!(counted(&flood), (1, 0, 0));
    }
}
