//! Hosts behind a node: which of them it dials for others, if any.
//!
//! `NODE/HOST:PORT` makes a node the way into its network, so it is off until blocks and ports are named. The caller
//! chooses the host, and a name's owner chooses its addresses: a name is therefore looked up once, every address it has
//! must be allowed, and what was looked at is what is dialled. Addresses that are dangerous to hand out by the block
//! (this machine itself, the cloud's metadata service beside it, everything link-local or multicast) are covered by no
//! block: they have to be named one by one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use reachback_link::Cidr;
use reachback_wire::text::sanitize;

/// A block of addresses and the ports on them that may be dialled: `10.0.0.0/24:50051`, `10.0.0.5:8000-8100`,
/// `[fd00::/8]:22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowDial {
    block: Cidr,
    first_port: u16,
    last_port: u16,
}

/// An entry that allows nothing, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allow-dial \"{entry}\": {reason}")]
pub struct AllowDialError {
    entry: String,
    reason: String,
}

impl AllowDial {
    fn allows(&self, address: IpAddr, port: u16) -> bool {
        let named = match special(address) {
            Some(_) => self.block.is_exactly(address),
            None => self.block.contains(address),
        };
        named && self.allows_port(port)
    }

    fn allows_port(&self, port: u16) -> bool {
        (self.first_port..=self.last_port).contains(&port)
    }
}

/// Why an address is not dialled, as the end of a sentence; nothing if one of the rules allows it.
pub(crate) fn objection(rules: &[AllowDial], address: IpAddr, port: u16) -> Option<String> {
    if rules.iter().any(|rule| rule.allows(address, port)) {
        return None;
    }
    Some(match special(address) {
        Some(kind) => format!("{address} is {kind}, which has to be allowed by itself"),
        None => format!("{address} port {port} is not allowed"),
    })
}

/// Whether some address may be dialled on this port: if not, no name need be looked up.
pub(crate) fn allows_port(rules: &[AllowDial], port: u16) -> bool {
    rules.iter().any(|rule| rule.allows_port(port))
}

impl FromStr for AllowDial {
    type Err = AllowDialError;

    fn from_str(entry: &str) -> Result<Self, AllowDialError> {
        let refuse =
            |reason: &str| Err(AllowDialError { entry: sanitize(entry, 80), reason: reason.to_owned() });
        let text = entry.trim();
        let form = "write CIDR:PORT or CIDR:FIRST-LAST, for example 10.0.0.0/24:50051 or [fd00::/8]:22";
        let (block, ports) = match text.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once("]:") {
                Some(parts) => parts,
                None => return refuse(form),
            },
            None => match text.rsplit_once(':') {
                Some((block, _)) if block.contains(':') => return refuse("an IPv6 block stands in brackets"),
                Some(parts) => parts,
                None => return refuse(form),
            },
        };
        let block: Cidr = match block.parse() {
            Ok(block) => block,
            Err(error) => return refuse(&error.to_string()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (Ok(first_port), Ok(last_port)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return refuse("ports are numbers from 1 to 65535, as in 22 or 8000-8100");
        };
        if first_port == 0 || first_port > last_port {
            return refuse("ports go from 1 to 65535, the lower one first");
        }
        if SPECIAL.iter().any(|(_, range)| range.parse().is_ok_and(|range| is_wider_part(block, range))) {
            return refuse("addresses of this kind have to be named one by one, as in 127.0.0.1:8080");
        }
        Ok(Self { block, first_port, last_port })
    }
}

impl fmt::Display for AllowDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = self.block;
        match block.network() {
            IpAddr::V4(_) => write!(f, "{block}")?,
            IpAddr::V6(_) => write!(f, "[{block}]")?,
        }
        match (self.first_port, self.last_port) {
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

/// Addresses that no block covers, and what they are.
const SPECIAL: [(&str, &str); 15] = [
    ("this machine", "127.0.0.0/8"),
    ("this machine", "::1/128"),
    ("no host's address", "0.0.0.0/8"),
    ("no host's address", "::/128"),
    ("link-local", "169.254.0.0/16"),
    ("link-local", "fe80::/10"),
    ("multicast", "224.0.0.0/4"),
    ("multicast", "ff00::/8"),
    ("a metadata service", "fd00:ec2::254/128"),
    ("a metadata service", "100.100.100.200/32"),
    ("a metadata service", "168.63.129.16/32"),
    ("a metadata service", "192.0.0.192/32"),
    ("a metadata service", "fd20:ce::254/128"),
    ("an IPv4 address in a translator's clothes", "64:ff9b:1::/48"),
    ("an IPv4 address in a tunnel's clothes", "2002::/16"),
];

/// What a dangerous address is.
fn special(address: IpAddr) -> Option<&'static str> {
    let address = match address.to_canonical() {
        IpAddr::V6(v6) => unwrapped(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some("broadcast");
    }
    let ranges = SPECIAL.iter().filter_map(|(kind, range)| Some((kind, range.parse::<Cidr>().ok()?)));
    ranges.into_iter().find(|(_, range)| range.contains(address)).map(|(kind, _)| *kind)
}

/// The IPv4 address that a NAT64 gateway would dial for this one (RFC 6052, the well-known prefix).
fn unwrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    (bits >> 32 == 0x0064_ff9b << 64).then(|| Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32))
}

/// Whether the block lies in `range` and is more than one address.
fn is_wider_part(block: Cidr, range: Cidr) -> bool {
    let single = block.is_exactly(block.network());
    !single && range.contains(block.network()) && block.prefix() >= range.prefix()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> AllowDial {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn allowed(rules: &[&str], address: &str, port: u16) -> bool {
        let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        objection(&rules, address.parse().unwrap(), port).is_none()
    }

    #[test]
    fn every_special_range_is_one() {
        for (kind, range) in SPECIAL {
            let block: Cidr = range.parse().unwrap();
            assert_eq!(special(block.network()), Some(kind), "{range}");
        }
    }

    #[test]
    fn a_block_and_its_ports_and_nothing_else() {
        let rules = ["10.0.0.0/24:50051", "10.0.1.5:8000-8100", "[fd00::/8]:22"];
        for (address, port, expected) in [
            ("10.0.0.7", 50051, true),
            ("::ffff:10.0.0.7", 50051, true),
            ("10.0.0.7", 50052, false),
            ("10.0.1.7", 50051, false),
            ("10.0.1.5", 8000, true),
            ("10.0.1.5", 8100, true),
            ("10.0.1.5", 8101, false),
            ("fd12::1", 22, true),
            ("fe12::1", 22, false),
        ] {
            assert_eq!(allowed(&rules, address, port), expected, "{address} {port}");
        }
        assert!(!allowed(&[], "10.0.0.7", 22));
    }

    #[test]
    fn dangerous_addresses_are_covered_by_no_block() {
        let everything = ["0.0.0.0/0:1-65535", "[::/0]:1-65535"];
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd20:ce::254",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::1",
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "fe80::1",
            "febf::1",
            "224.0.0.1",
            "239.255.255.255",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!allowed(&everything, address, 80), "{address}");
            let objection = objection(&[rule("0.0.0.0/0:80")], address.parse().unwrap(), 80).unwrap();
            assert!(objection.contains("by itself"), "{objection}");
        }
        for address in ["8.8.8.8", "2001:db8::1", "64:ff9b::808:808", "170.254.0.1"] {
            assert!(allowed(&everything, address, 80), "{address}");
        }
        assert!(allowed(&["127.0.0.1:80"], "127.0.0.1", 80));
        assert!(!allowed(&["127.0.0.1:80"], "127.0.0.2", 80));
        assert!(allowed(&["169.254.169.254/32:80"], "169.254.169.254", 80));
        assert!(allowed(&["[fe80::1]:80"], "fe80::1", 80));
    }

    #[test]
    fn rules_are_shown_as_they_are_written_and_nonsense_is_refused() {
        for text in ["10.0.0.0/24:50051", "10.0.0.5/32:8000-8100", "[fd00::/8]:22"] {
            assert_eq!(rule(text).to_string(), text);
        }
        for (text, part) in [
            ("", "write CIDR:PORT"),
            ("10.0.0.0/24", "write CIDR:PORT"),
            ("fd00::/8:22", "brackets"),
            ("[fd00::/8]", "write CIDR:PORT"),
            ("10.0.0.7/24:22", "10.0.0.0/24"),
            ("hub:22", "ADDRESS/BITS"),
            ("10.0.0.0/8:0", "from 1"),
            ("10.0.0.0/8:9-8", "lower one first"),
            ("10.0.0.0/8:x", "numbers"),
            ("10.0.0.0/8:70000", "numbers"),
            ("127.0.0.0/8:80", "one by one"),
            ("169.254.169.0/24:80", "one by one"),
            ("[fe80::/10]:80", "one by one"),
        ] {
            let refusal = text.parse::<AllowDial>().expect_err(text).to_string();
            assert!(refusal.contains(part) && refusal.contains(text), "{text}: {refusal}");
        }
    }
}
