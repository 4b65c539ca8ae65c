//! Whom a balancer connects for: the PROXY protocol, versions 1 and 2, as HAProxy defines it.
//!
//! A balancer that passes on TCP hides who is at the other end, so that limits per address would punish everybody for
//! one. It can say so in a header in front of the first byte. Since anyone could write one, it is read only from
//! addresses that the operator listed, and there it is demanded: a header that may be missing is one that a stranger
//! can leave out. The parser takes bytes from the network before anything else does, so it allocates nothing, and is
//! fuzzed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// The longest header of version 1, with its line break.
const V1_MAX: usize = 107;

/// What version 2 begins with: bytes that no other protocol does.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part of version 2: signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// What may follow it: addresses and a few notes of the balancer (the specification asks for room for some hundred
/// bytes). The length is a peer's word, and this is what it is worth.
const V2_REST_MAX: usize = 2048 - V2_FIXED;

/// The longest header of any version, in bytes.
pub const HEADER_MAX: usize = V2_FIXED + V2_REST_MAX;

/// What the beginning of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// So far it is one, and at least this many bytes are missing.
    Unfinished(usize),
    /// It is whole.
    Whole {
        /// Whom the balancer connects for. `None`: it speaks for itself, or can't say.
        source: Option<SocketAddr>,
        /// How many bytes it has; what follows belongs to whoever is connected.
        length: usize,
    },
}

/// Bytes that are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It begins with something else.
    #[error("it does not begin with a PROXY protocol header")]
    None,
    /// A header of version 1 that breaks its rules.
    #[error("its PROXY header (version 1) is broken: {0}")]
    V1(&'static str),
    /// A header of version 2 that breaks its rules.
    #[error("its PROXY header (version 2) is broken: {0}")]
    V2(&'static str),
}

/// Reads the header at the beginning of `bytes`. Bytes behind it are not looked at.
///
/// # Errors
/// There is none, or it is broken: nothing that follows can be believed.
pub fn parse(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    match bytes.first() {
        None => Ok(ProxyHeader::Unfinished(1)),
        Some(b'P') => v1(bytes),
        Some(b'\r') => v2(bytes),
        Some(_) => Err(ProxyHeaderError::None),
    }
}

/// `PROXY TCP4 192.0.2.7 198.51.100.1 40000 9002\r\n`, or `PROXY UNKNOWN …\r\n`.
fn v1(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    const BEGIN: &[u8] = b"PROXY ";
    let seen = bytes.len().min(BEGIN.len());
    if bytes[..seen] != BEGIN[..seen] {
        return Err(ProxyHeaderError::None);
    }
    let looked_at = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = looked_at.windows(2).position(|pair| pair == b"\r\n") else {
        if looked_at.len() == V1_MAX {
            return Err(ProxyHeaderError::V1("it has no end within 107 bytes"));
        }
        // The shortest one is `PROXY UNKNOWN\r\n`; one byte is always less than what is missing.
        return Ok(ProxyHeader::Unfinished(1));
    };
    let line = std::str::from_utf8(&looked_at[BEGIN.len()..end])
        .map_err(|_| ProxyHeaderError::V1("it is not text"))?;
    let length = end + 2;
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    let source = match family {
        // Whatever else the line says is to be ignored.
        "UNKNOWN" => None,
        "TCP4" | "TCP6" => {
            let mut word = || words.next().ok_or(ProxyHeaderError::V1("an address or a port is missing"));
            let [from, to] = [word()?, word()?];
            let [from_port, to_port] = [port(word()?)?, port(word()?)?];
            if words.next().is_some() {
                return Err(ProxyHeaderError::V1("something follows the ports"));
            }
            let read =
                |text| if family == "TCP4" { address::<Ipv4Addr>(text) } else { address::<Ipv6Addr>(text) };
            // The destination is ours and not needed, but a header with a wrong one is wrong.
            let _ = (read(to)?, to_port);
            Some(SocketAddr::new(read(from)?, from_port))
        }
        _ => return Err(ProxyHeaderError::V1("the protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    Ok(ProxyHeader::Whole { source, length })
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyHeaderError> {
    let address: A = text.parse().map_err(|_| ProxyHeaderError::V1("an address is none"))?;
    Ok(address.into().to_canonical())
}

/// A number as the specification writes it: digits, no sign, no zero in front.
fn port(text: &str) -> Result<u16, ProxyHeaderError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = if plain { text.parse().ok() } else { None };
    port.ok_or(ProxyHeaderError::V1("a port is no number from 0 to 65535"))
}

fn v2(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let seen = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..seen] != V2_SIGNATURE[..seen] {
        return Err(ProxyHeaderError::None);
    }
    let Some(fixed) = bytes.get(..V2_FIXED) else {
        return Ok(ProxyHeader::Unfinished(V2_FIXED - bytes.len()));
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0x0f);
    if version != 2 {
        return Err(ProxyHeaderError::V2("the version is not 2"));
    }
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest > V2_REST_MAX {
        return Err(ProxyHeaderError::V2("it is longer than 2048 bytes"));
    }
    let length = V2_FIXED + rest;
    let Some(rest) = bytes.get(V2_FIXED..length) else {
        return Ok(ProxyHeader::Unfinished(length - bytes.len()));
    };
    let source = match (command, fixed[13]) {
        // The balancer itself, to see whether we are there.
        (0, _) => None,
        (1, 0x11) => Some(v2_source::<4, 12>(rest)?),
        (1, 0x21) => Some(v2_source::<16, 36>(rest)?),
        // A Unix socket, a datagram or something unspecified: nothing that could be counted by address.
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        (1, _) => return Err(ProxyHeaderError::V2("the protocol is none that there is")),
        _ => return Err(ProxyHeaderError::V2("the command is neither LOCAL nor PROXY")),
    };
    Ok(ProxyHeader::Whole { source, length })
}

/// The source in a block of `BLOCK` bytes: two addresses of `LEN` bytes, then two ports.
fn v2_source<const LEN: usize, const BLOCK: usize>(rest: &[u8]) -> Result<SocketAddr, ProxyHeaderError>
where
    [u8; LEN]: Into<IpAddr>,
{
    let short = ProxyHeaderError::V2("it is too short for its addresses");
    let block = rest.get(..BLOCK).ok_or(short)?;
    let address: [u8; LEN] = block[..LEN].try_into().map_err(|_| short)?;
    let port = u16::from_be_bytes([block[2 * LEN], block[2 * LEN + 1]]);
    Ok(SocketAddr::new(address.into().to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 9002\r\n";

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    fn v2_of_v4() -> Vec<u8> {
        v2(1, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x23, 0x2a])
    }

    fn whole(bytes: &[u8], source: Option<&str>) {
        let source = source.map(|source| source.parse().unwrap());
        let followed = [bytes, b"\r\nGET / HTTP/1.1\r\n"].concat();
        for seen in [bytes, &followed[..]] {
            assert_eq!(parse(seen), Ok(ProxyHeader::Whole { source, length: bytes.len() }), "{bytes:?}");
        }
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(ProxyHeader::Unfinished(missing)) => {
                    assert!((1..=bytes.len() - cut).contains(&missing), "{missing} after {cut}");
                }
                other => panic!("{other:?} after {cut} of {bytes:?}"),
            }
        }
    }

    #[test]
    fn both_versions_say_whom_they_speak_for() {
        whole(V1, Some("192.0.2.7:40000"));
        whole(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 9002\r\n", Some("[2001:db8::7]:0"));
        whole(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Some("192.0.2.7:1"));
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN ffff:: whatever 1 2 3\r\n", None);
        whole(&v2_of_v4(), Some("192.0.2.7:40000"));
        let six =
            [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[0, 5, 0, 6]].concat();
        whole(&v2(1, 0x21, &six), Some("[2001:db8::7]:5"));
        // What balancers add is skipped.
        let notes = [&v2_of_v4()[V2_FIXED..], &[0x04, 0, 1, 0]].concat();
        whole(&v2(1, 0x11, &notes), Some("192.0.2.7:40000"));
        whole(&v2(0, 0x11, &[1, 2, 3]), None);
        whole(&v2(1, 0x31, &[0; 216]), None);
        whole(&v2(1, 0, &[]), None);
        whole(&v2(0, 0, &vec![0; V2_REST_MAX]), None);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 9002 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 9002 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 40000 9002\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 9002\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 9002\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 9002\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 9002\r\n",
            "PROXY TCP4 192.0.2.7 ::1 1 9002\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY unknown\r\n",
            "PROXY \r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Err(ProxyHeaderError::V1(_))), "{line:?}");
        }
        assert!(matches!(
            parse(&[b"PROXY UNKNOWN ", &[b'x'; V1_MAX][..]].concat()),
            Err(ProxyHeaderError::V1(_))
        ));
        assert!(matches!(parse(b"PROXY TCP4 \xff\r\n"), Err(ProxyHeaderError::V1(_))));
        let mut longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX][..]].concat();
        longest.truncate(V1_MAX - 2);
        whole(&[&longest[..], b"\r\n"].concat(), None);

        let mut other = v2_of_v4();
        other[12] = 0x11;
        assert!(matches!(parse(&other), Err(ProxyHeaderError::V2(_))), "version 1 of version 2");
        for (command, family, rest) in
            [(2, 0x11, &[0; 12][..]), (1, 0x11, &[0; 11]), (1, 0x21, &[0; 35]), (1, 0x41, &[0; 36])]
        {
            let refused = parse(&v2(command, family, rest));
            assert!(matches!(refused, Err(ProxyHeaderError::V2(_))), "{command} {family:x}");
        }
        // Refused as soon as it says so, not when it has come.
        let huge = [&V2_SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        assert!(matches!(parse(&huge), Err(ProxyHeaderError::V2(_))));

        for nothing in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"RBK\x01", b"PRO\r\n", b"POST ", b"\r\n\r\n\r\n"]
        {
            assert_eq!(parse(nothing), Err(ProxyHeaderError::None), "{nothing:?}");
        }
    }
}
