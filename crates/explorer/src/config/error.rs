//! Why a configuration is refused: what was written, which rule that breaks, and what to write instead.

use std::{path::PathBuf, time::Duration};

use reachback_link::{Address, ListenAddress, RulesError};
use reachback_wire::{NodeId, Target, text::sanitize};

use crate::{limits, modes::Mode, rate::RateError};

/// A configuration that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A listener without encryption that strangers could reach.
    #[error(
        "listen {0}: other machines can reach it, and its mode has no TLS: anyone on the way could read and change \
         what passes, and anyone could connect. Leave the mode out, listen on 127.0.0.1, or, on a network you trust, add \
         --insecure-plaintext"
    )]
    Plaintext(ListenAddress),
    /// TLS without anything to make or load certificates from.
    #[error(
        "listen {address}: mode {mode} needs TLS, and there is nothing to make or load certificates from. Give the \
         explorer a directory for its own (--state-dir DIR); to try things out, listen on 127.0.0.1, or, on a network you \
         trust, add --insecure-plaintext"
    )]
    TlsRequired {
        /// The listener.
        address: ListenAddress,
        /// Its mode.
        mode: Mode,
    },
    /// `strict` without certificates of nodes.
    #[error(
        "listen {0}: mode strict needs certificates of nodes, and require_client_auth in [tls] is false. Set it to true or \
         leave it out, or set mode = \"permissive\""
    )]
    MtlsRequired(ListenAddress),
    /// `strict` without a look at whose certificate it is.
    #[error(
        "listen {0}: mode strict needs certificates that name their node, and node_id_verification in [tls] is \"None\". \
         Write \"SubjectAltName\" or \"CommonName\", or set mode = \"permissive\""
    )]
    NodeIdVerificationRequired(ListenAddress),
    /// A certificate without a key, or a key without a certificate.
    #[error("[tls]: a certificate and its key belong together, and {missing} is missing")]
    HalfAPair {
        /// The key that is not there.
        missing: &'static str,
    },
    /// Certificates, but no place for what else authentication needs.
    #[error(
        "listen {0}: enrolments, tokens and revocations are kept in a directory, and there is none; give it one: \
         --state-dir DIR"
    )]
    StateDirRequired(ListenAddress),
    /// Authentication that would be ignored.
    #[error("{what} is configured, and no listener would ask for it: {remedy}, or take it out")]
    Unused {
        /// The key or table.
        what: &'static str,
        /// What would make it count.
        remedy: &'static str,
    },
    /// A Unix path where a TCP address belongs.
    #[error("{key} {address}: a Unix socket can't be used here; {remedy}")]
    UnixPath {
        /// The key of the configuration.
        key: &'static str,
        /// What was given.
        address: ListenAddress,
        /// What to write instead.
        remedy: &'static str,
    },
    /// A publication of something that is no service of a node.
    #[error("publish {listen}={target}: only a service of a node can be published, as in 5432=edge-7/db")]
    PublishTarget {
        /// Where it was to listen.
        listen: ListenAddress,
        /// What it was to lead to.
        target: Target,
    },
    /// A publication of a node that is dialled from here.
    #[error(
        "publish {listen}={target}: this explorer dials that node itself, and publishes only what is reached through a \
         tunnel; let visitors connect to {address}, or run reachback node beside it"
    )]
    PublishDirect {
        /// Where it was to listen.
        listen: ListenAddress,
        /// What it was to lead to.
        target: Target,
        /// Where that is.
        address: Address,
    },
    /// Nothing could ever connect.
    #[error(
        "this explorer has neither a TCP address nor a Unix socket, so nothing could reach it; give it --listen or --socket"
    )]
    Unreachable,
    /// A socket path that is not absolute.
    #[error("socket {0:?}: the path must be absolute")]
    RelativeSocket(PathBuf),
    /// Permission bits that are none.
    #[error(
        "socket mode {0:o}: permission bits go from 0600 to 0777, and the owner must be able to read and write"
    )]
    SocketMode(u32),
    /// A host name that can't be one.
    #[error("host \"{}\": write a name as browsers send it, without scheme and port, as in hub.example.com", sanitize(.0, 80))]
    Host(String),
    /// Two direct nodes of one name.
    #[error("node {0} has two addresses; a node has one")]
    DirectTwice(NodeId),
    /// Requests are to be forwarded, and nothing says to whom.
    #[error("compat.hero: forward needs node_fields, the members that name a node, as in [\"node_id\"]")]
    ForwardWithoutFields,
    /// A directory that is no place, or every place.
    #[error(
        "compat.hero.heartbeat_sockets {0:?}: write the absolute path of a directory of its own, without .., as in /run/hero"
    )]
    HeartbeatSockets(PathBuf),
    /// A heartbeat that would make liveness meaningless.
    #[error("heartbeat {given:?}: it must lie between {min:?} and {max:?}", min = limits::HEARTBEAT_MIN, max = limits::HEARTBEAT_MAX)]
    Heartbeat {
        /// What was given.
        given: Duration,
    },
    /// A silence that an idle line would reach.
    #[error(
        "transport.io_timeout_ms {given:?}: an idle line is silent for a heartbeat, {heartbeat:?}, at a time; give it two of \
         them, or shorten the heartbeat"
    )]
    IoTimeout {
        /// What was given.
        given: Duration,
        /// The heartbeat.
        heartbeat: Duration,
    },
    /// More than both ends of a call have agreed on, or nothing.
    #[error("transport.max_message_size {0}: a message has 1 to {most} bytes; what is larger goes over a stream", most = limits::CALL_BODY_MAX)]
    MaxMessage(usize),
    /// A queue of nothing, or without end.
    #[error("transport.max_pending_messages {0}: 1 to {most} opens of a service may wait", most = limits::OPENS_WAITING_MAX)]
    MaxPending(usize),
    /// A value of `[transport]`.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A value of `[rate_limit]`.
    #[error(transparent)]
    Rate(#[from] RateError),
}
