//! A block of IP addresses, as in `10.0.0.0/24`.
//!
//! What may be reached and what goes around a proxy are both said in blocks, so the grammar and the comparison are here
//! once. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.5`) is the IPv4 address: a rule must not be passed by changing
//! the spelling.

use std::{fmt, net::IpAddr, str::FromStr};

use reachback_wire::text::sanitize;

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Text that is no block of addresses, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{entry}\": {reason}")]
pub struct CidrError {
    entry: String,
    reason: String,
}

impl Cidr {
    /// Whether the address lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                masked_v4(address.to_bits(), self.prefix) == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                masked_v6(address.to_bits(), self.prefix) == network.to_bits()
            }
            _ => false,
        }
    }

    /// The first address of the block.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many leading bits count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the block is this one address and no other.
    pub fn is_exactly(&self, address: IpAddr) -> bool {
        self.prefix == width(self.network) && self.contains(address)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// `ADDRESS/BITS`, or an address alone, which is a block of one.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refuse = |reason: String| Err(CidrError { entry: sanitize(text, 64), reason });
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return refuse("write ADDRESS/BITS, for example 10.0.0.0/24".into());
        };
        let width = width(address);
        let prefix = match bits.map(str::parse::<u8>) {
            None => width,
            Some(Ok(prefix)) if prefix <= width => prefix,
            Some(_) => return refuse(format!("after the slash stands a number from 0 to {width}")),
        };
        if bits.is_some() && address != address.to_canonical() {
            return refuse("write the IPv4 block itself, without ::ffff:".into());
        }
        let (address, prefix) = match address.to_canonical() {
            canonical if canonical == address => (address, prefix),
            canonical => (canonical, 32),
        };
        let network = match address {
            IpAddr::V4(v4) => IpAddr::V4(masked_v4(v4.to_bits(), prefix).into()),
            IpAddr::V6(v6) => IpAddr::V6(masked_v6(v6.to_bits(), prefix).into()),
        };
        if network != address {
            return refuse(format!(
                "the block of that size is {network}/{prefix}; the one address is {address}"
            ));
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked_v4(bits: u32, prefix: u8) -> u32 {
    bits & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn masked_v6(bits: u128, prefix: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Cidr {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn blocks_hold_what_they_say() {
        for (text, inside, outside) in [
            ("10.0.0.0/24", "10.0.0.255", "10.0.1.0"),
            ("10.0.0.0/24", "::ffff:10.0.0.7", "::10.0.0.7"),
            ("10.0.0.5", "10.0.0.5", "10.0.0.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
            ("::/0", "fe80::1", "::ffff:127.0.0.1"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::ffff:10.0.0.5", "10.0.0.5", "10.0.0.6"),
        ] {
            let cidr = block(text);
            assert!(cidr.contains(inside.parse().unwrap()), "{inside} is in {text}");
            assert!(!cidr.contains(outside.parse().unwrap()), "{outside} is not in {text}");
            assert_eq!(block(&cidr.to_string()), cidr, "what is shown can be typed");
        }
        assert!(block("10.0.0.5").is_exactly("10.0.0.5".parse().unwrap()));
        assert!(!block("10.0.0.0/24").is_exactly("10.0.0.0".parse().unwrap()));
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, part) in [
            ("", "ADDRESS/BITS"),
            ("hub", "ADDRESS/BITS"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.7/24", "10.0.0.0/24"),
            ("::ffff:10.0.0.0/120", "IPv4 block itself"),
        ] {
            let refusal = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(refusal.contains(part) && refusal.contains(text), "{text}: {refusal}");
        }
    }
}
