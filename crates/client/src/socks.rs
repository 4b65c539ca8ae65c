//! A SOCKS 5 server: every program that knows SOCKS reaches services by name, without a port of its own for each.
//!
//! The names are the targets of the command line, written as hosts: `SERVICE.NODE`, split at the first dot, whatever
//! the port. With a node as the way (`via`) every host and port is reached through that node instead, as far as it
//! allows. Only CONNECT and no authentication (RFC 1928): whoever can connect may use it, so it belongs on a loopback
//! address or a Unix socket.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use reachback_link::{
    Accepted, ListenAddress, Listener, LocalAddress, Net, Transport, accept::pause_after, splice,
};
use reachback_wire::{Code, NodeId, Target, limits::SNIFF_TIMEOUT, text::sanitize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{forward::SocketFile, limits::FORWARD_VISITORS, stats::add, uplink::Uplink};

/// A listening SOCKS server. Dropping it closes the listener and every visitor's connection.
pub struct Socks {
    local: LocalAddress,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Socks {
    /// Binds `on` and serves whoever connects over `uplink`: hosts are `SERVICE.NODE`, or with `via` what that node
    /// reaches.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn start(
        net: &dyn Net,
        uplink: Uplink,
        on: &ListenAddress,
        via: Option<NodeId>,
    ) -> io::Result<Self> {
        let listener = net.listen(on).await?;
        let local = listener.local();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let file = SocketFile::of(on);
        let serving = accept_loop(listener, uplink, via.map(Arc::new), stop.clone());
        tasks.spawn(async move {
            let _file = file;
            serving.await;
        });
        Ok(Self { local, stop, tasks })
    }

    /// Where it listens, with the port that was really bound.
    pub fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Resolves when the server has broken, with the reason; never while it works.
    pub async fn failed(&mut self) -> io::Error {
        match self.tasks.join_next().await {
            Some(Err(error)) => io::Error::other(error),
            Some(Ok(())) | None => std::future::pending().await,
        }
    }

    /// Closes the listener and every visitor's connection.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Only accepts: whatever takes time happens in the visitor's own task.
async fn accept_loop(
    mut listener: Listener,
    uplink: Uplink,
    via: Option<Arc<NodeId>>,
    stop: CancellationToken,
) {
    let mut visitors = JoinSet::new();
    loop {
        let room = visitors.len() < FORWARD_VISITORS;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(finished) = visitors.join_next() => {
                if let Err(error) = finished {
                    tracing::error!(%error, "a visitor's task failed");
                }
            }
            accepted = listener.accept(), if room => match accepted {
                Ok(visitor) => {
                    visitors.spawn(serve(visitor, uplink.clone(), via.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    if let Some(pause) = pause_after(&error) {
                        sleep(pause).await;
                    }
                }
            },
        }
    }
}

async fn serve(visitor: Accepted, uplink: Uplink, via: Option<Arc<NodeId>>) {
    let peer = visitor.peer;
    let mut local = match visitor.socket.into_transport() {
        Ok(local) => local,
        Err(error) => {
            tracing::warn!(%peer, %error, "a visitor's socket can't be used");
            return;
        }
    };
    let asked = match timeout(SNIFF_TIMEOUT, read_request(&mut local)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(Unusable { reply, why })) => {
            tracing::info!(%peer, %why, "no usable SOCKS request");
            if let Some(reply) = reply {
                answer(&mut local, reply).await;
            }
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "no SOCKS request in time");
            return;
        }
    };
    let target = match target(&asked, via.as_deref()) {
        Ok(target) => target,
        Err(why) => {
            add(&uplink.stats().visitors_refused, 1);
            tracing::warn!(%peer, reason = %why, "visitor turned away");
            answer(&mut local, Reply::HostUnreachable).await;
            return;
        }
    };
    match uplink.open(&target).await {
        Ok(substream) => {
            add(&uplink.stats().visitors_served, 1);
            if !answer(&mut local, Reply::Succeeded).await {
                substream.reset(Code::Cancelled, "the visitor is gone");
                return;
            }
            let spliced = splice(substream, local).await;
            add(&uplink.stats().bytes_to_services, spliced.to_peer);
            add(&uplink.stats().bytes_from_services, spliced.from_peer);
            if let Err(error) = spliced.end {
                tracing::info!(%peer, %target, %error, "stream broke");
            }
        }
        Err(error) => {
            add(&uplink.stats().visitors_refused, 1);
            tracing::warn!(%peer, %target, code = error.code().name(), reason = %error, "visitor turned away");
            answer(&mut local, Reply::of(error.code())).await;
        }
    }
}

/// What a visitor wants to reach.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// Some programs send an address as if it were a name.
    fn literal(name: &str) -> Option<Self> {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match bare.parse().ok()? {
            IpAddr::V4(ip) => Some(Self::V4(ip)),
            IpAddr::V6(ip) => Some(Self::V6(ip)),
        }
    }
}

/// Where a request leads, or why it leads nowhere.
fn target((host, port): &(Host, u16), via: Option<&NodeId>) -> Result<Target, String> {
    let literal = match host {
        Host::Name(name) => Host::literal(name),
        Host::V4(_) | Host::V6(_) => None,
    };
    let host = literal.as_ref().unwrap_or(host);
    let text = match (host, via) {
        (Host::Name(name), Some(node)) => format!("{node}/{name}:{port}"),
        (Host::V4(ip), Some(node)) => format!("{node}/{ip}:{port}"),
        (Host::V6(ip), Some(node)) => format!("{node}/[{ip}]:{port}"),
        (Host::Name(name), None) => match name.split_once('.') {
            Some((service, node)) if !node.contains(':') => format!("{node}/{service}"),
            _ => return Err(format!("host \"{}\": write SERVICE.NODE", sanitize(name, 80))),
        },
        (Host::V4(_) | Host::V6(_), None) => {
            return Err(
                "the host is an address: let the program send the name (socks5h), or name the node to go through \
                 (--via NODE)"
                    .into(),
            );
        }
    };
    let target = text.parse::<Target>().map_err(|error| error.to_string())?;
    match (&target, via) {
        (Target::Dial { .. }, Some(_)) | (Target::Service { .. }, None) => Ok(target),
        _ => Err(format!("\"{}\" is no host that can be reached here", sanitize(&text, 80))),
    }
}

/// RFC 1928, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The nearest thing that SOCKS can say.
    fn of(code: Code) -> Self {
        match code {
            Code::Denied | Code::Unauthenticated | Code::Revoked | Code::Expired => Self::NotAllowed,
            Code::PeerUnreachable | Code::NodeOffline | Code::Lost => Self::NetworkUnreachable,
            Code::NodeNotFound | Code::ServiceNotFound | Code::NotHere | Code::Timeout => {
                Self::HostUnreachable
            }
            Code::ServiceUnreachable => Self::ConnectionRefused,
            _ => Self::Failure,
        }
    }
}

/// A visitor that asks for nothing we can do.
struct Unusable {
    /// The answer, if it speaks SOCKS far enough to be given one.
    reply: Option<Reply>,
    why: String,
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self { reply: None, why: error.to_string() }
    }
}

async fn read_request(visitor: &mut Transport) -> Result<(Host, u16), Unusable> {
    let silent = |why: &str| Unusable { reply: None, why: why.into() };
    let [version, methods] = read::<2>(visitor).await?;
    if version != 5 {
        return Err(silent("its first byte is not 5: SOCKS 4, or HTTP?"));
    }
    let mut offered = vec![0; usize::from(methods)];
    visitor.read_exact(&mut offered).await?;
    if !offered.contains(&0) {
        visitor.write_all(&[5, 0xff]).await?;
        visitor.flush().await?;
        return Err(silent("it offers only ways to sign in; this server wants none"));
    }
    visitor.write_all(&[5, 0]).await?;
    visitor.flush().await?;

    let [version, command, _, kind] = read::<4>(visitor).await?;
    if version != 5 {
        return Err(silent("its request does not begin with 5"));
    }
    let host = match kind {
        1 => Host::V4(read::<4>(visitor).await?.into()),
        4 => Host::V6(read::<16>(visitor).await?.into()),
        3 => {
            let mut name = vec![0; usize::from(visitor.read_u8().await?)];
            visitor.read_exact(&mut name).await?;
            Host::Name(String::from_utf8_lossy(&name).trim_end_matches('.').to_ascii_lowercase())
        }
        _ => {
            let why = format!("address type {kind} is unknown");
            return Err(Unusable { reply: Some(Reply::AddressTypeNotSupported), why });
        }
    };
    let port = visitor.read_u16().await?;
    if command != 1 {
        let why = format!("command {command} is not CONNECT, the one there is");
        return Err(Unusable { reply: Some(Reply::CommandNotSupported), why });
    }
    Ok((host, port))
}

async fn read<const N: usize>(visitor: &mut Transport) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    visitor.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The answer, with an address that means nothing: there is no socket here that has one. False if it did not get out.
async fn answer(visitor: &mut Transport, reply: Reply) -> bool {
    let written = async {
        visitor.write_all(&[5, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        visitor.flush().await
    };
    matches!(timeout(SNIFF_TIMEOUT, written).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.into())
    }

    #[test]
    fn hosts_are_targets() {
        let via: NodeId = "gate".parse().unwrap();
        for (host, via, expected) in [
            (name("ssh.edge-7"), None, "edge-7/ssh"),
            (name("rpc.edge.7.lab"), None, "edge.7.lab/rpc"),
            (name("db.internal"), Some(&via), "gate/db.internal:22"),
            (Host::V4([10, 0, 0, 5].into()), Some(&via), "gate/10.0.0.5:22"),
            (Host::V6(Ipv6Addr::LOCALHOST), Some(&via), "gate/[::1]:22"),
            (name("::1"), Some(&via), "gate/[::1]:22"),
            (name("[fd00::5]"), Some(&via), "gate/[fd00::5]:22"),
        ] {
            let found = target(&(host, 22), via).unwrap_or_else(|error| panic!("{expected}: {error}"));
            assert_eq!(found.to_string(), expected);
        }
        for (host, port, via, part) in [
            (name("edge-7"), 22, None, "SERVICE.NODE"),
            (name(""), 22, None, "SERVICE.NODE"),
            (name("ssh.any"), 22, None, "any"),
            (name("ssh.@explorer"), 22, None, "no host"),
            (name("a.b/c"), 22, None, "c/a"),
            (name("x.y:1"), 22, None, "SERVICE.NODE"),
            (name("a b"), 22, Some(&via), "a b"),
            (name("ok"), 0, Some(&via), "port"),
            (Host::V4([10, 0, 0, 5].into()), 22, None, "--via NODE"),
            (name("10.0.0.5"), 22, None, "--via NODE"),
            (name("fd00::5"), 22, None, "--via NODE"),
        ] {
            let refusal = target(&(host, port), via).unwrap_err();
            assert!(refusal.contains(part), "{part}: {refusal}");
        }
    }
}
