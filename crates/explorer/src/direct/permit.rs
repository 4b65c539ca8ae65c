//! Where this explorer lets itself be sent.
//!
//! A heartbeat makes the explorer dial what it names, with the explorer's rights and from the explorer's place in the
//! network. So a sender can name only what it could reach without the explorer, and never the explorer itself, which
//! would call itself in a circle. It is judged when the heartbeat comes, so that its sender is told, and again when
//! the node is called, because names and paths can lead elsewhere by then; what was judged is what is dialled.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use reachback_link::{
    Address, Cidr, HeldSocket, LocalAddress, Net, PeerAddress, Transport, is_this_machine, own_uid,
};
use reachback_wire::{Code, Refusal, limits::CONNECT_NEXT_ADDRESS, text::sanitize};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use crate::{config::HeroCompat, explorer::Addresses, hub::Hub, limits};

/// Who named an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedBy {
    /// The configuration, or the program that the explorer is part of.
    Operator,
    /// A process of this machine, through the local socket.
    Local {
        /// Who runs it, where the platform says so.
        uid: Option<u32>,
    },
    /// Somebody on the network.
    Remote(IpAddr),
}

/// What is to be dialled, judged.
#[derive(Debug)]
pub(crate) struct Way {
    /// One after the other.
    addresses: Vec<Address>,
    /// What a Unix address of these leads to, for as long as it is dialled.
    _held: Option<HeldSocket>,
}

/// Why there is no way.
#[derive(Debug)]
pub(crate) enum NoWay {
    /// Whoever named the address may not.
    Forbidden(Refusal),
    /// Nothing can be found there now.
    Missing(String),
}

/// The rules of one explorer.
#[derive(Debug)]
pub(crate) struct Permit {
    /// Below these, heartbeats from the network may name sockets.
    sockets: Vec<PathBuf>,
    /// In these, everybody's heartbeats may name addresses.
    networks: Vec<Cidr>,
    /// Whether heartbeats from the network may name anything: only where the configuration expects them, or where none
    /// but this machine can send one.
    expected: bool,
    /// Whether other machines can connect, so that a loopback address may be said by a stranger whom something on this
    /// machine passes on.
    exposed: bool,
    lookups: Semaphore,
}

impl From<&PeerAddress> for NamedBy {
    fn from(peer: &PeerAddress) -> Self {
        match peer {
            PeerAddress::Tcp(address) => Self::Remote(address.ip().to_canonical()),
            PeerAddress::Unix { uid, .. } => Self::Local { uid: *uid },
            PeerAddress::Memory => Self::Operator,
        }
    }
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(refusal) => f.write_str(&refusal.message),
            Self::Missing(why) => f.write_str(why),
        }
    }
}

impl Permit {
    /// The rules of this configuration; `exposed`: other machines can connect.
    pub(crate) fn new(hero: Option<&HeroCompat>, exposed: bool) -> Self {
        Self {
            sockets: hero.map(|hero| hero.heartbeat_sockets.clone()).unwrap_or_default(),
            networks: hero.map(|hero| hero.heartbeat_networks.clone()).unwrap_or_default(),
            expected: hero.is_some() || !exposed,
            exposed,
            lookups: Semaphore::new(limits::DIRECT_LOOKUPS),
        }
    }

    /// Judges an address.
    async fn judge(
        &self,
        net: &dyn Net,
        own: &Addresses,
        address: &Address,
        by: NamedBy,
    ) -> Result<Way, NoWay> {
        if matches!(by, NamedBy::Remote(_)) && !self.expected {
            return Err(forbidden(
                "this explorer can be reached by strangers, so it dials only nodes of its configuration and of its own \
                 machine; let the node connect with: reachback node, or configure [compat.hero]"
                    .to_owned(),
            ));
        }
        match address {
            Address::Unix(path) => self.judge_path(own, path, by).await,
            Address::Tcp { host, port } => {
                let found = self.look_up(net, host, *port).await?;
                for address in &found {
                    self.judge_socket(own, *address, by)?;
                }
                let addresses = found
                    .iter()
                    .map(|address| Address::Tcp { host: address.ip().to_string(), port: address.port() });
                Ok(Way { addresses: addresses.collect(), _held: None })
            }
        }
    }

    async fn judge_path(&self, own: &Addresses, path: &Path, by: NamedBy) -> Result<Way, NoWay> {
        let remote = matches!(by, NamedBy::Remote(_));
        // Before anything is looked at: a refusal must not tell strangers which files exist.
        if remote && !is_below(path, &self.sockets) {
            return Err(self.forbidden_socket(path));
        }
        let looking = {
            let (path, own, below) = (path.to_owned(), own.socket.clone(), self.sockets.clone());
            move || -> io::Result<_> {
                let held = HeldSocket::hold(&path)?;
                let is_own = own.is_some_and(|own| held.is(&own));
                let below: Vec<_> = below.iter().filter_map(|below| below.canonicalize().ok()).collect();
                let within = is_below(held.real_path(), &below);
                Ok((held, is_own, within))
            }
        };
        let looked = spawn_blocking(looking).await.map_err(io::Error::other).flatten();
        let (held, is_own, within) = looked.map_err(|error| NoWay::Missing(error.to_string()))?;
        if is_own {
            return Err(itself(&path.display()));
        }
        if remote && !within {
            return Err(self.forbidden_socket(path));
        }
        if let NamedBy::Local { uid } = by
            && !within
        {
            let own = own_uid().map_err(|error| NoWay::Missing(error.to_string()))?;
            let owner = held.owner();
            if !may_name(uid, owner, own) {
                let who = uid
                    .map_or("a user that this system does not name".to_owned(), |uid| format!("user {uid}"));
                return Err(forbidden(format!(
                    "{}: it belongs to user {owner}, and was named by {who}; a node names sockets of \
                     its own user, or below compat.hero.heartbeat_sockets",
                    sanitize(&path.display().to_string(), limits::TEXT)
                )));
            }
        }
        Ok(Way { addresses: vec![held.address()], _held: Some(held) })
    }

    fn judge_socket(&self, own: &Addresses, address: SocketAddr, by: NamedBy) -> Result<(), NoWay> {
        let ip = address.ip().to_canonical();
        if is_own(own, SocketAddr::new(ip, address.port())) {
            return Err(itself(&address));
        }
        if by == NamedBy::Operator || self.networks.iter().any(|network| network.contains(ip)) {
            return Ok(());
        }
        if is_special(ip) {
            return Err(forbidden(format!(
                "{address} is no address of one node's own; if it must be dialled, list it in \
                 compat.hero.heartbeat_networks"
            )));
        }
        let NamedBy::Remote(sender) = by else { return Ok(()) };
        if sender != ip {
            return Err(forbidden(format!(
                "{address}: a heartbeat from {sender} may name addresses of {sender}, or in a block of \
                 compat.hero.heartbeat_networks"
            )));
        }
        if self.exposed && is_this_machine(ip) {
            return Err(forbidden(format!(
                "{address} is this explorer's own machine, and other machines can connect to it; send the heartbeat to \
                 its local socket, or list the address in compat.hero.heartbeat_networks"
            )));
        }
        Ok(())
    }

    async fn look_up(&self, net: &dyn Net, host: &str, port: u16) -> Result<Vec<SocketAddr>, NoWay> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let _turn = self.lookups.try_acquire().map_err(|_| {
            let message = "too many names of nodes are being looked up; try again, or name an IP address";
            NoWay::Forbidden(Refusal::new(Code::Saturated, message).retry_after(limits::SATURATED_RETRY))
        })?;
        match net.resolve(host, port).await {
            Ok(found) if found.is_empty() => Err(NoWay::Missing(format!("{host} has no address"))),
            Ok(found) => Ok(found),
            Err(error) => Err(NoWay::Missing(error.to_string())),
        }
    }

    fn forbidden_socket(&self, path: &Path) -> NoWay {
        let allowed = match self.sockets.as_slice() {
            [] => "and none is there".to_owned(),
            some => {
                let some: Vec<_> = some.iter().map(|path| path.display().to_string()).collect();
                format!("which are: {}", some.join(", "))
            }
        };
        forbidden(format!(
            "{}: over the network a heartbeat may name sockets below compat.hero.heartbeat_sockets only, {allowed}; \
             send it to the explorer's local socket instead",
            sanitize(&path.display().to_string(), limits::TEXT)
        ))
    }
}

impl Way {
    /// Connects, every address in turn; one that stays silent gives way to the next after a moment.
    async fn connect(&self, net: &dyn Net) -> io::Result<Transport> {
        let Some((last, others)) = self.addresses.split_last() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no address"));
        };
        for address in others {
            match timeout(CONNECT_NEXT_ADDRESS, net.connect(address)).await {
                Ok(Ok(transport)) => return Ok(transport),
                Ok(Err(error)) => tracing::debug!(%address, %error, "address failed, trying the next"),
                Err(_) => tracing::debug!(%address, "address silent, trying the next"),
            }
        }
        net.connect(last).await
    }
}

/// Whether somebody may have this address dialled, now. What can't be found yet may be there when it is called.
///
/// # Errors
/// The refusal for whoever named it.
pub(crate) async fn check(hub: &Hub, address: &Address, by: NamedBy) -> Result<(), Refusal> {
    match find(hub, address, by, Instant::now() + limits::DIRECT_DIAL).await {
        Err(NoWay::Forbidden(refusal)) => Err(refusal),
        Ok(_) | Err(NoWay::Missing(_)) => Ok(()),
    }
}

/// Judges an address again and dials what was judged.
///
/// # Errors
/// It is forbidden now, nothing is there, or nobody answers.
pub(crate) async fn dial(
    hub: &Hub,
    address: &Address,
    by: NamedBy,
    deadline: Instant,
) -> Result<Transport, NoWay> {
    let way = find(hub, address, by, deadline).await?;
    match timeout_at(deadline, way.connect(hub.net.as_ref())).await {
        Ok(Ok(transport)) => Ok(transport),
        Ok(Err(error)) => Err(NoWay::Missing(error.to_string())),
        Err(_) => Err(NoWay::Missing("nobody answers there".to_owned())),
    }
}

async fn find(hub: &Hub, address: &Address, by: NamedBy, deadline: Instant) -> Result<Way, NoWay> {
    let nowhere = Addresses::default();
    let own = hub.addresses.get().unwrap_or(&nowhere);
    let judging = hub.permit.judge(hub.net.as_ref(), own, address, by);
    timeout_at(deadline, judging).await.map_err(|_| NoWay::Missing("it can't be found in time".to_owned()))?
}

fn forbidden(message: String) -> NoWay {
    NoWay::Forbidden(Refusal::new(Code::Denied, message))
}

fn itself(what: &dyn fmt::Display) -> NoWay {
    forbidden(format!(
        "{} is this explorer itself, which would call itself in a circle; name the socket or port of the node's own server",
        sanitize(&what.to_string(), limits::TEXT)
    ))
}

/// Whether what is dialled there comes in here: a listener of this explorer, or a port it publishes.
fn is_own(own: &Addresses, address: SocketAddr) -> bool {
    let published = own.published.iter().map(|(local, _)| local);
    own.listen.iter().chain(published).any(|local| match local {
        LocalAddress::Tcp(bound) if bound.port() != address.port() => false,
        LocalAddress::Tcp(bound) if bound.ip().is_unspecified() => is_this_machine(address.ip()),
        LocalAddress::Tcp(bound) => {
            // What is sent to no address at all goes to loopback.
            bound.ip().to_canonical() == address.ip() || address.ip().is_unspecified()
        }
        LocalAddress::Unix(_) | LocalAddress::Memory(_) => false,
    })
}

/// Addresses that are not one machine's own, or lead to what only this machine should reach, like the cloud's metadata
/// service.
fn is_special(ip: IpAddr) -> bool {
    ip.is_unspecified()
        || ip.is_multicast()
        || match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}

/// Whether a path is in one of these directories as it is written, or deeper.
fn is_below(path: &Path, directories: &[PathBuf]) -> bool {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    !climbs && directories.iter().any(|directory| path != directory && path.starts_with(directory))
}

/// Whether a user may have a socket of this owner dialled: it could dial it itself.
fn may_name(uid: Option<u32>, owner: u32, own: u32) -> bool {
    uid.is_some_and(|uid| uid == 0 || uid == own || uid == owner)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

    use futures::future::BoxFuture;
    use reachback_link::{ListenAddress, Listener, RealNet};
    use tokio::net::UnixListener;

    use super::*;

    /// Names that lead where a test says.
    struct Names(BTreeMap<&'static str, Vec<&'static str>>);

    impl Net for Names {
        fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
            RealNet.connect(to)
        }

        fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
            RealNet.listen(on)
        }

        fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            Box::pin(async move {
                let found = self.0.get(host).ok_or(io::ErrorKind::NotFound)?;
                Ok(found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect())
            })
        }
    }

    fn remote(ip: &str) -> NamedBy {
        NamedBy::Remote(ip.parse().unwrap())
    }

    fn hero(sockets: &[&Path], networks: &[&str]) -> HeroCompat {
        HeroCompat {
            heartbeat_sockets: sockets.iter().map(|path| path.to_path_buf()).collect(),
            heartbeat_networks: networks.iter().map(|block| block.parse().unwrap()).collect(),
            ..HeroCompat::default()
        }
    }

    /// `Ok`, or the words of the refusal.
    async fn verdict(permit: &Permit, own: &Addresses, address: &str, by: NamedBy) -> Result<(), String> {
        let names =
            Names(BTreeMap::from([("node", vec!["192.0.2.7"]), ("rebound", vec!["192.0.2.7", "127.0.0.1"])]));
        match permit.judge(&names, own, &address.parse().unwrap(), by).await {
            Ok(_) => Ok(()),
            Err(no) => Err(no.to_string()),
        }
    }

    #[tokio::test]
    async fn a_sender_names_its_own_address_or_one_of_a_configured_block() {
        let own = Addresses::default();
        let open = Permit::new(Some(&hero(&[], &["198.51.100.0/24", "169.254.7.0/24"])), true);
        let closed = Permit::new(None, false);
        let sender = remote("192.0.2.7");
        for (address, by, fine) in [
            ("192.0.2.7:9003", sender, true),
            ("[::ffff:192.0.2.7]:9003", sender, true),
            ("node:9003", sender, true),
            ("rebound:9003", sender, false),
            ("192.0.2.8:9003", sender, false),
            ("198.51.100.3:9003", sender, true),
            ("127.0.0.1:6379", sender, false),
            ("[::1]:6379", sender, false),
            ("0.0.0.0:6379", sender, false),
            ("169.254.169.254:80", sender, false),
            ("169.254.169.254:80", remote("169.254.169.254"), false),
            ("169.254.169.254:80", NamedBy::Local { uid: Some(0) }, false),
            ("169.254.7.1:80", sender, true),
            ("[fe80::1]:80", remote("fe80::1"), false),
            ("224.0.0.1:80", NamedBy::Local { uid: Some(0) }, false),
            ("127.0.0.1:6379", NamedBy::Local { uid: Some(7) }, true),
            ("169.254.169.254:80", NamedBy::Operator, true),
            // Somebody of this machine, or whom something on it passes on.
            ("127.0.0.1:6379", remote("127.0.0.1"), false),
        ] {
            let verdict = verdict(&open, &own, address, by).await;
            assert_eq!(verdict.is_ok(), fine, "{address} by {by:?}: {verdict:?}");
        }
        // Where nobody else can connect it is one of this machine.
        assert_eq!(verdict(&closed, &own, "127.0.0.1:6379", remote("127.0.0.1")).await, Ok(()));
        let missing = verdict(&open, &own, "nowhere:1", sender).await.unwrap_err();
        assert!(!missing.contains("heartbeat"), "what is not there is not forbidden: {missing}");
    }

    #[tokio::test]
    async fn nobody_sends_the_explorer_to_itself() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let _listener = UnixListener::bind(path("explorer.sock")).unwrap();
        symlink(path("explorer.sock"), path("link.sock")).unwrap();
        fs::hard_link(path("explorer.sock"), path("hard.sock")).unwrap();
        let tcp = |address: &str| LocalAddress::Tcp(address.parse().unwrap());
        let own = Addresses {
            listen: vec![tcp("[::]:9002"), tcp("127.0.0.1:9004")],
            socket: Some(path("explorer.sock")),
            published: vec![(tcp("192.0.2.1:5432"), "edge-7/db".parse().unwrap())],
        };
        let permit = Permit::new(Some(&hero(&[root.path()], &["0.0.0.0/0", "::/0"])), true);
        for (address, is_own) in [
            ("127.0.0.1:9002", true),
            ("127.8.8.8:9002", true),
            ("[::1]:9002", true),
            ("[::ffff:127.0.0.1]:9002", true),
            ("0.0.0.0:9002", true),
            ("192.0.2.7:9002", false),
            ("127.0.0.1:9003", false),
            ("127.0.0.1:9004", true),
            ("0.0.0.0:9004", true),
            ("127.0.0.2:9004", false),
            ("192.0.2.1:5432", true),
            ("192.0.2.2:5432", false),
            (path("explorer.sock").to_str().unwrap(), true),
            (path("link.sock").to_str().unwrap(), true),
            (path("hard.sock").to_str().unwrap(), true),
        ] {
            for by in [NamedBy::Operator, NamedBy::Local { uid: Some(0) }, remote("192.0.2.7")] {
                let verdict = verdict(&permit, &own, address, by).await;
                let refused = verdict.as_ref().is_err_and(|why| why.contains("itself"));
                assert_eq!(refused, is_own, "{address} by {by:?}: {verdict:?}");
            }
        }
    }

    #[tokio::test]
    async fn strangers_name_sockets_below_configured_directories_only() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).display().to_string();
        fs::create_dir(root.path().join("hero")).unwrap();
        let _good = UnixListener::bind(path("hero/rpc.sock")).unwrap();
        let _secret = UnixListener::bind(path("docker.sock")).unwrap();
        symlink(path("docker.sock"), path("hero/link.sock")).unwrap();
        symlink(path("hero"), path("other-name")).unwrap();
        let permit = Permit::new(Some(&hero(&[&root.path().join("hero")], &[])), true);
        let own = Addresses::default();
        let (stranger, sender) = ("heartbeat_sockets", remote("192.0.2.7"));
        for (name, refusal) in [
            ("hero/rpc.sock", None),
            ("docker.sock", Some(stranger)),
            ("hero/../docker.sock", Some(stranger)),
            ("hero/link.sock", Some(stranger)),
            // Not as it is written in the configuration: whether it is the same directory is not told.
            ("other-name/rpc.sock", Some(stranger)),
            ("none.sock", Some(stranger)),
            ("hero-else/rpc.sock", Some(stranger)),
            ("hero/none.sock", Some("No such file")),
        ] {
            let verdict = verdict(&permit, &own, &path(name), sender).await;
            match refusal {
                None => assert_eq!(verdict, Ok(()), "{name}"),
                Some(word) => {
                    assert!(verdict.as_ref().is_err_and(|why| why.contains(word)), "{name}: {verdict:?}")
                }
            }
        }
        let none = Permit::new(Some(&HeroCompat::default()), true);
        let refusal = verdict(&none, &own, &path("hero/rpc.sock"), sender).await.unwrap_err();
        assert!(refusal.contains("none is there"), "{refusal}");
    }

    #[tokio::test]
    async fn users_of_this_machine_name_their_own_sockets() {
        let root = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(root.path().join("rpc.sock")).unwrap();
        let path = root.path().join("rpc.sock").display().to_string();
        let own = own_uid().unwrap();
        let permit = Permit::new(None, false);
        for (uid, fine) in [(Some(own), true), (Some(0), true), (Some(own + 1), false), (None, false)] {
            let by = NamedBy::Local { uid };
            let verdict = verdict(&permit, &Addresses::default(), &path, by).await;
            assert_eq!(verdict.is_ok(), fine, "{uid:?}: {verdict:?}");
        }
        // The operator said that everybody's nodes may live there.
        let shared = Permit::new(Some(&hero(&[root.path()], &[])), false);
        let by = NamedBy::Local { uid: Some(own + 1) };
        assert_eq!(verdict(&shared, &Addresses::default(), &path, by).await, Ok(()));
        for (uid, owner, own, fine) in
            [(Some(7), 7, 9, true), (Some(7), 8, 9, false), (Some(9), 8, 9, true), (Some(0), 8, 9, true)]
        {
            assert_eq!(may_name(uid, owner, own), fine, "{uid:?} {owner} {own}");
        }
    }
}
