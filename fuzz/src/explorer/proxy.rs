//! PROXY headers: what was read does not depend on what is behind it or on how it arrived, and nothing is waited for
//! that never comes.

use std::net::SocketAddr;

use reachback_explorer::proxy_protocol::{HEADER_MAX, ProxyHeader, parse};
use reachback_wire::{Code, text::sanitize};

use super::{Verdict, situation};

/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (_, _, bytes) = situation(input);
    let whole = parse(bytes);
    // As it arrives: what is known early stays true, and nothing is asked for that is not needed.
    let mut seen = 0;
    let arrived = loop {
        match parse(&bytes[..seen]) {
            Ok(ProxyHeader::Unfinished(missing)) => {
                assert!(missing > 0 && seen + missing <= HEADER_MAX, "asks for {missing} bytes after {seen}");
                if seen + missing > bytes.len() {
                    break Ok(ProxyHeader::Unfinished(missing));
                }
                seen += missing;
            }
            known => break known,
        }
    };
    match arrived {
        // With fewer bytes than are missing, one that is none may show all the same.
        Ok(ProxyHeader::Unfinished(_)) => {
            assert!(!matches!(whole, Ok(ProxyHeader::Whole { .. })), "waits for more than it needs");
        }
        arrived => assert_eq!(arrived, whole, "more bytes changed the answer"),
    }
    match whole {
        Ok(ProxyHeader::Unfinished(missing)) => {
            assert!(missing > 0 && bytes.len() + missing <= HEADER_MAX, "{missing} after {}", bytes.len());
            Verdict::Incomplete
        }
        Ok(ProxyHeader::Whole { source, length }) => {
            assert!(length <= bytes.len() && length <= HEADER_MAX, "{length} of {}", bytes.len());
            assert_eq!(parse(&bytes[..length]), whole, "it depends on what is behind it");
            for less in 0..length {
                assert!(
                    matches!(parse(&bytes[..less]), Ok(ProxyHeader::Unfinished(_))),
                    "whole after {less} already"
                );
            }
            if let Some(source) = source {
                say_again(source);
            }
            Verdict::Fine
        }
        Err(error) => {
            let told = error.to_string();
            assert_eq!(sanitize(&told, usize::MAX), told, "an error forges what it is printed on");
            Verdict::Refused(Code::BadFrame)
        }
    }
}

/// The same source in the words of version 1.
fn say_again(source: SocketAddr) {
    assert_eq!(source.ip().to_canonical(), source.ip(), "one address in two forms");
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!("PROXY {family} {ip} {ip} {port} 1\r\n", ip = source.ip(), port = source.port());
    assert_eq!(parse(line.as_bytes()), Ok(ProxyHeader::Whole { source: Some(source), length: line.len() }));
}
