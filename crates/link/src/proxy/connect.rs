//! Talking a proxy into a connection.
//!
//! Afterwards the proxy is a pipe like any other, so all of it happens before anybody above sees a transport. The
//! host's name goes to the proxy as it is: inside such a network names of the outside often can't be looked up at all.
//! Errors name the proxy and repeat its answer, because the one who has to change something is usually its operator.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use reachback_wire::{limits::PROXY_HEAD_MAX, text::sanitize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Credentials, Language, Proxy};
use crate::{Address, ListenAddress, Listener, Net, Transport};

/// A network whose connections go through a proxy, apart from the proxy's exceptions. Listening is not affected.
#[derive(Clone)]
pub struct Proxied {
    net: Arc<dyn Net>,
    proxy: Proxy,
}

/// What went wrong between us and a proxy.
#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}: {what}")]
struct ProxyError {
    proxy: String,
    what: String,
}

impl Proxied {
    /// The network `net` seen through `proxy`.
    pub fn new(net: Arc<dyn Net>, proxy: Proxy) -> Self {
        Self { net, proxy }
    }

    async fn through(&self, to: &Address) -> io::Result<Transport> {
        let Address::Tcp { host, port } = to else {
            return self.net.connect(to).await;
        };
        if host.is_empty() || host.len() > 255 || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the host is no name and no address"));
        }
        let connected = self.net.connect(&self.proxy.address()).await;
        let mut transport =
            connected.map_err(|error| self.failed(error.kind(), format!("can't connect to it: {error}")))?;
        let asked = match self.proxy.language {
            Language::Http => http_connect(&mut transport, &self.proxy, to).await,
            Language::Socks5 => socks_connect(&mut transport, &self.proxy, host, *port).await,
        };
        match asked {
            Ok(()) => Ok(transport),
            Err(Asked::Said(what)) => Err(self.failed(io::ErrorKind::Other, what)),
            Err(Asked::Broke(error)) => {
                let what = format!("the connection broke before it had answered: {error}");
                Err(self.failed(error.kind(), what))
            }
        }
    }

    fn failed(&self, kind: io::ErrorKind, what: String) -> io::Error {
        io::Error::new(kind, ProxyError { proxy: self.proxy.to_string(), what })
    }
}

impl Net for Proxied {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        if self.proxy.carries(to) { Box::pin(self.through(to)) } else { self.net.connect(to) }
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        self.net.listen(on)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.net.resolve(host, port)
    }
}

/// Why a proxy gave no connection.
enum Asked {
    /// It answered, and not with a yes.
    Said(String),
    /// It did not answer.
    Broke(io::Error),
}

impl From<io::Error> for Asked {
    fn from(error: io::Error) -> Self {
        Self::Broke(error)
    }
}

async fn http_connect(transport: &mut Transport, proxy: &Proxy, to: &Address) -> Result<(), Asked> {
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(Credentials { user, password }) = &proxy.credentials {
        let basic = base64(format!("{user}:{password}").as_bytes());
        request.push_str(&format!("Proxy-Authorization: Basic {basic}\r\n"));
    }
    request.push_str("\r\n");
    transport.write_all(request.as_bytes()).await?;
    transport.flush().await?;

    let head = read_head(transport).await?;
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let (version, status, reason) = (words.next(), words.next(), words.next().unwrap_or_default());
    let status = status.filter(|_| version.is_some_and(|version| version.starts_with("HTTP/1.")));
    let Some(status) = status.and_then(|status| status.parse::<u16>().ok()) else {
        return Err(Asked::Said(format!(
            "\"{}\" is not how an HTTP proxy answers; check its address, and whether it is a socks5:// one",
            sanitize(line, 80)
        )));
    };
    let answer = format!("{status} {}", sanitize(reason, 80));
    match status {
        200..=299 => Ok(()),
        // Some say 401, which is not theirs to say, where the credentials are wrong.
        401 | 407 => Err(Asked::Said(format!(
            "it answered {answer}: it wants {}; write http://USER:PASSWORD@HOST:PORT",
            if proxy.credentials.is_some() { "other credentials" } else { "credentials" }
        ))),
        _ => Err(Asked::Said(format!("it answered {answer} when asked for {to}; ask whoever runs it"))),
    }
}

/// The head of the answer; what came behind it is put back.
async fn read_head(transport: &mut Transport) -> Result<String, Asked> {
    let mut read = Vec::new();
    loop {
        let from = read.len();
        let mut chunk = [0; 1024];
        match transport.read(&mut chunk).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => read.extend_from_slice(&chunk[..n]),
        }
        let searched = from.saturating_sub(3);
        if let Some(at) = read[searched..].windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(searched + at + 4);
            transport.put_back(Bytes::from(rest));
            return Ok(String::from_utf8_lossy(&read).into_owned());
        }
        if read.len() > PROXY_HEAD_MAX {
            let text = format!("its answer goes on beyond {PROXY_HEAD_MAX} bytes; is it a proxy?");
            return Err(Asked::Said(text));
        }
    }
}

async fn socks_connect(transport: &mut Transport, proxy: &Proxy, host: &str, port: u16) -> Result<(), Asked> {
    const SIGN_IN: u8 = 2;
    let greeting: &[u8] = if proxy.credentials.is_some() { &[5, 2, 0, SIGN_IN] } else { &[5, 1, 0] };
    transport.write_all(greeting).await?;
    transport.flush().await?;
    let mut chosen = [0; 2];
    transport.read_exact(&mut chosen).await?;
    match (chosen, &proxy.credentials) {
        ([5, 0], _) => {}
        ([5, SIGN_IN], Some(credentials)) => sign_in(transport, credentials).await?,
        ([5, _], _) => {
            let text = "it takes none of our ways to sign in; write socks5://USER:PASSWORD@HOST:PORT";
            return Err(Asked::Said(text.into()));
        }
        _ => return Err(Asked::Said(NOT_SOCKS.into())),
    }

    let mut request = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            // At most 255: the caller has looked.
            request.extend_from_slice(&[3, host.len() as u8]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    transport.write_all(&request).await?;
    transport.flush().await?;

    let mut answer = [0; 4];
    transport.read_exact(&mut answer).await?;
    let [version, reply, _, kind] = answer;
    if version != 5 {
        return Err(Asked::Said(NOT_SOCKS.into()));
    }
    if reply != 0 {
        return Err(Asked::Said(format!(
            "it answered {reply} ({}) when asked for {host}:{port}",
            socks_reply(reply)
        )));
    }
    let bound = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(transport.read_u8().await?),
        _ => return Err(Asked::Said(NOT_SOCKS.into())),
    };
    let mut ignored = [0; 255 + 2];
    transport.read_exact(&mut ignored[..bound + 2]).await?;
    Ok(())
}

async fn sign_in(transport: &mut Transport, credentials: &Credentials) -> Result<(), Asked> {
    let mut request = vec![1];
    for part in [&credentials.user, &credentials.password] {
        // At most 255: checked when they were read.
        request.push(part.len() as u8);
        request.extend_from_slice(part.as_bytes());
    }
    transport.write_all(&request).await?;
    transport.flush().await?;
    let mut answer = [0; 2];
    transport.read_exact(&mut answer).await?;
    match answer[1] {
        0 => Ok(()),
        _ => Err(Asked::Said("it does not take these credentials".into())),
    }
}

const NOT_SOCKS: &str =
    "that is not how a SOCKS 5 proxy answers; check its address, and whether it is an http:// one";

/// RFC 1928, section 6.
fn socks_reply(reply: u8) -> &'static str {
    match reply {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "an answer that the protocol does not know",
    }
}

/// RFC 4648 with padding; one header does not need a crate.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }
}
