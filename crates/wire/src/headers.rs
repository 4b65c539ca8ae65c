//! Which headers of an HTTP message belong to a call, and which to the connection it came on.
//!
//! A call passes several connections, and each end of each of them has to strip the same names: what one passes on and
//! the next believes is how requests are smuggled. Names are compared in lower case, as they travel in `Head`.

/// Names that only Reachback may say begin with this.
pub const OWN_PREFIX: &str = "x-reachback-";

/// Whether a header belongs to one connection (RFC 9110, section 7.6.1), and not to a call.
pub fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name)
}

/// Whether a header of a request is not its caller's to say: it belongs to one connection, is said anew on each, or is
/// ours.
pub fn is_of_the_hop(name: &str) -> bool {
    name.starts_with(OWN_PREFIX)
        || matches!(name, "host" | "content-length" | "expect")
        || is_hop_by_hop(name)
}

/// The headers that the value of a `Connection` header takes for its own, in lower case.
pub fn named_by_connection(value: &str) -> impl Iterator<Item = String> + use<'_> {
    value.split(',').map(|name| name.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_between_neighbours_is_not_the_callers() {
        for name in
            ["connection", "te", "transfer-encoding", "upgrade", "host", "content-length", "x-reachback-id"]
        {
            assert!(is_of_the_hop(name), "{name}");
        }
        for name in ["x-hero-claims", "authorization", "content-type", "accept", "x-reachback"] {
            assert!(!is_of_the_hop(name), "{name}");
        }
        assert_eq!(named_by_connection("close, X-Hop").collect::<Vec<_>>(), ["close", "x-hop"]);
    }
}
