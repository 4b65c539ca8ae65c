//! A port and where it leads: `[BIND:]PORT=TARGET`, as `--publish` and `forward` take it.

use reachback_link::ListenAddress;
use reachback_wire::Target;

/// What a short form binds to: opening a service to other machines has to be typed.
const BIND: &str = "127.0.0.1";

/// A listener and the service its visitors reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortSpec {
    /// Where visitors connect.
    pub(crate) listen: ListenAddress,
    /// What they reach.
    pub(crate) target: Target,
}

impl PortSpec {
    /// `[BIND:]PORT=TARGET`: the port has to be named, because visitors have to know it.
    pub(crate) fn with_port(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((port, target)) => Self::parts(port, target),
            None => {
                Err(format!("\"{text}\" names no port; write [BIND:]PORT=TARGET, for example 5432=edge-7/db"))
            }
        }
    }

    /// `[[BIND:]PORT=]TARGET`: without a port a free one is taken.
    pub(crate) fn with_free_port(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((port, target)) => Self::parts(port, target),
            None => Self::parts("0", text),
        }
    }

    fn parts(port: &str, target: &str) -> Result<Self, String> {
        if let Some(target) = target.strip_suffix("/udp") {
            return Err(format!(
                "\"{target}/udp\": UDP is not in this version; only TCP ports can lead to a service"
            ));
        }
        let target = target.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { listen: listen_address(port)?, target })
    }
}

/// `[BIND:]PORT`.
pub(crate) fn listen_address(port: &str) -> Result<ListenAddress, String> {
    let listen = match port.parse::<u16>() {
        Ok(port) => ListenAddress::Tcp { host: Some(BIND.to_owned()), port },
        // A word alone would read as a host with the explorer's default port.
        Err(_) if !port.contains([':', '/']) => {
            return Err(format!("\"{port}\" is no port; write a number from 0 to 65535, or BIND:PORT"));
        }
        Err(_) => port.parse().map_err(|error| format!("{error}"))?,
    };
    match listen {
        ListenAddress::Tcp { .. } => Ok(listen),
        ListenAddress::Unix(_) => Err(format!("\"{port}\" is no TCP port; write [BIND:]PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_targets() {
        for (text, listen, target) in [
            ("5432=edge-7/db", "127.0.0.1:5432", "edge-7/db"),
            ("0.0.0.0:80=edge-7/web", "0.0.0.0:80", "edge-7/web"),
            ("[::1]:80=edge-7/web", "[::1]:80", "edge-7/web"),
            (":80=edge-7/web", ":80", "edge-7/web"),
            ("0=@explorer/api", "127.0.0.1:0", "@explorer/api"),
        ] {
            let spec = PortSpec::with_port(text).unwrap();
            assert_eq!(
                (spec.listen.to_string().as_str(), spec.target.to_string().as_str()),
                (listen, target)
            );
            assert_eq!(PortSpec::with_free_port(text), Ok(spec));
        }
        let free = PortSpec::with_free_port("edge-7/db").unwrap();
        assert_eq!(free.listen.to_string(), "127.0.0.1:0");
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, part) in [
            ("edge-7/db", "names no port"),
            ("99999=edge-7/db", "0 to 65535"),
            ("localhost=edge-7/db", "BIND:PORT"),
            ("53=edge-7/dns/udp", "UDP is not in this version"),
            ("/run/x.sock=edge-7/db", "no TCP port"),
            ("80=edge-7", "edge-7"),
        ] {
            let refusal = PortSpec::with_port(text).unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}
