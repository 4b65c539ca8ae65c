//! The two programs that stay up: the explorer and the node.

use std::path::PathBuf;

use clap::Args;
use reachback_explorer::Mode;
use reachback_link::{Address, Congestion, ListenAddress};
use reachback_node::AllowDial;
use reachback_wire::NodeId;

use super::{CredentialArguments, JoinText, ProxyArguments};
use crate::config::{
    dialled::Dialled, duration::Span, group::SocketGroup, mode::SocketMode, port_spec::PortSpec, size::Size,
};

pub(super) const EXPLORER_HELP: &str = "\
Examples:
  reachback explorer --listen :9002 --advertise hub.example.com
                            a port for everybody, and one line to paste on a
                            node's machine
  reachback explorer --listen 127.0.0.1:9002    for this machine only, no TLS
  reachback explorer                            local Unix socket only
  reachback explorer --listen :9002 --publish 5432=edge-7/db
                            and edge-7's db on port 5432 of this machine

A port that other machines can reach is strict: TLS, and a certificate that each
node gets with its line. More lines: reachback token create. On loopback there is
neither TLS nor authentication; elsewhere only with --insecure-plaintext.";

pub(super) const NODE_HELP: &str = "\
A service is NAME=ADDRESS[,key=value]:
  ssh=22                                 a port on 127.0.0.1
  db=tcp://10.0.0.5:5432                 a host and port this machine can reach
  rpc=/run/hero/rpc.sock,framing=http    a Unix socket, and what it speaks:
                                         http (path=/rpc), lines or raw
  old=7001,probe=off                     left alone until somebody visits it

Examples:
  reachback node --join rb1_... --id edge-7 --service ssh=22
  reachback node --service ssh=22        from then on: its key is kept
  reachback node --forward 50060=mac1/exo
                                         a port here that is mac1's service
  reachback node --allow-dial 10.0.0.0/24:22
                                         the way to the hosts beside this one

A join line is used up by its first use, so that it may stand in a command line;
--join-file and REACHBACK_JOIN keep it out of there.";

/// `reachback explorer`.
#[derive(Debug, Args)]
pub(crate) struct ExplorerArguments {
    /// Where nodes and clients connect: 127.0.0.1:9002, :9002 for every address, port 0 for a free one.
    /// Without it there is only the Unix socket. EXPLORER_TCP_ADDR is another name of the variable.
    #[arg(long, value_name = "ADDRESS", env = "REACHBACK_LISTEN", hide_env_values = true)]
    pub(crate) listen: Option<ListenAddress>,
    /// Where nodes and people reach it from outside, for the lines it hands out: HOST or HOST:PORT. A guess
    /// if absent. Can be given several times, or separated by commas.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        env = "REACHBACK_ADVERTISE",
        hide_env_values = true
    )]
    pub(crate) advertise: Vec<Address>,
    /// What is asked of whoever connects: strict (TLS, certificates), permissive (TLS, tokens), development
    /// or legacy (neither). strict if absent, development for loopback.
    #[arg(long, value_name = "MODE", env = "REACHBACK_MODE", hide_env_values = true)]
    pub(crate) mode: Option<Mode>,
    /// Its certificate authority, enrolments and tokens: /var/lib/reachback/explorer for root, else under
    /// $XDG_STATE_HOME.
    #[arg(long, value_name = "PATH", env = "REACHBACK_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// For labs: a secret that everybody has to know who connects without TLS, or to a permissive port.
    #[arg(long, value_name = "FILE", env = "REACHBACK_SECRET_FILE", hide_env_values = true)]
    pub(crate) secret_file: Option<PathBuf>,
    /// This explorer's name; the host name if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_ID", hide_env_values = true)]
    pub(crate) id: Option<NodeId>,
    /// The local Unix socket: /run/reachback/explorer.sock for root, else under $XDG_RUNTIME_DIR.
    #[arg(long, value_name = "PATH", env = "REACHBACK_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Who may use the Unix socket, in octal: 0600 (only this user) if absent.
    #[arg(long, value_name = "MODE", env = "REACHBACK_SOCKET_MODE", hide_env_values = true)]
    pub(crate) socket_mode: Option<SocketMode>,
    /// The group that the Unix socket belongs to, by name or number; with --socket-mode 0660 its members may use it.
    #[arg(long, value_name = "GROUP", env = "REACHBACK_SOCKET_GROUP", hide_env_values = true)]
    pub(crate) socket_group: Option<SocketGroup>,
    /// A host name under which the HTTP API may be asked, besides localhost and IP addresses. Can be
    /// given several times, or separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "REACHBACK_HOST", hide_env_values = true)]
    pub(crate) host: Vec<String>,
    /// Offer a node's service on a TCP port of this machine; closed while the node is offline. BIND is
    /// 127.0.0.1 if absent. Can be given several times; variable REACHBACK_PUBLISH (comma-separated).
    #[arg(long, value_name = "[BIND:]PORT=TARGET", value_parser = PortSpec::with_port)]
    pub(crate) publish: Vec<PortSpec>,
    /// For labs: listen where other machines can connect without encrypting anything.
    #[arg(
        long,
        env = "REACHBACK_INSECURE_PLAINTEXT",
        hide_env_values = true,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) insecure_plaintext: bool,
    /// How often both ends of a connection show that they live, 10s if absent; a dead peer is noticed within
    /// 2.5 of these.
    #[arg(long, value_name = "TIME", env = "REACHBACK_HEARTBEAT", hide_env_values = true)]
    pub(crate) heartbeat: Option<Span>,
    /// Threads that serve connections, 1 to 8; as many as there are cores if absent.
    #[arg(long, value_name = "N", env = "REACHBACK_THREADS", hide_env_values = true)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) transport: TransportArguments,
    /// A TOML file with id, listen, advertise, mode, state_dir, secret_file, socket, socket_mode, socket_group,
    /// hosts, heartbeat, threads, insecure_plaintext, publish, node, listener and caller tables, tls, web,
    /// rate_limit, compression, limits, transport and compat.hero. At SIGHUP certificates are read again.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// `reachback node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// The line an explorer's admin has made; after the first use the key it brought is kept, and wins.
    /// REACHBACK_JOIN is the same.
    #[arg(long, value_name = "STRING", env = "REACHBACK_JOIN", hide_env_values = true)]
    pub(crate) join: Option<JoinText>,
    /// A file with that line; - is stdin.
    #[arg(long, value_name = "FILE", env = "REACHBACK_JOIN_FILE", hide_env_values = true)]
    pub(crate) join_file: Option<PathBuf>,
    /// The explorers to dial, each kept up independently; HOST:PORT, HOST (port 9002) or unix:///path,
    /// several separated by commas. EXPLORER_ADDRESSES is another name of the variable. If absent those
    /// of the join line, else the local socket.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        env = "REACHBACK_EXPLORER",
        hide_env_values = true
    )]
    pub(crate) explorer: Vec<Dialled>,
    /// Its key and certificate: /var/lib/reachback/node for root, else under $XDG_STATE_HOME. Where nothing
    /// can be written they are kept in memory.
    #[arg(long, value_name = "PATH", env = "REACHBACK_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    /// This node's name; the host name if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_ID", hide_env_values = true)]
    pub(crate) id: Option<NodeId>,
    /// A service to offer; nothing else can be reached. Can be given several times; variable
    /// REACHBACK_SERVICE (separated by blanks).
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub(crate) service: Vec<String>,
    /// A label. Can be given several times; variable REACHBACK_LABEL (comma-separated).
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// A port on this machine that leads to a service of another node, over this node's own line. Can be
    /// given several times; variable REACHBACK_FORWARD (comma-separated).
    #[arg(long, value_name = "[BIND:]PORT=TARGET", value_parser = PortSpec::with_port)]
    pub(crate) forward: Vec<PortSpec>,
    /// Where `reachback expose` and `status` on this machine ask this node, or off:
    /// /run/reachback/node.sock for root, else under $XDG_RUNTIME_DIR.
    #[arg(long, value_name = "PATH", env = "REACHBACK_CONTROL_SOCKET", hide_env_values = true)]
    pub(crate) control_socket: Option<PathBuf>,
    /// Hosts behind this node that others may reach as NODE/HOST:PORT; none if absent. Can be given
    /// several times; variable REACHBACK_ALLOW_DIAL (comma-separated).
    #[arg(long, value_name = "BLOCK:PORT")]
    pub(crate) allow_dial: Vec<AllowDial>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) transport: TransportArguments,
    /// A TOML file with id, explorers, join, join_file, state_dir, secret_file, token_file, ca_file,
    /// insecure_plaintext, labels, proxy, allow_dial, control_socket, tls, limits, transport, reconnect,
    /// compression, service tables (name, address, framing, path, probe, allow, compression) and forward
    /// tables (listen, target).
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Catches `node edge-7`, which people type when they want to look at a node.
    #[arg(hide = true)]
    pub(crate) looked_at: Option<String>,
}

/// What peers may make this process hold.
#[derive(Debug, Args)]
pub(crate) struct MemoryArguments {
    /// What peers may make this process hold in memory, for example 512MiB: above 75 % nothing new begins,
    /// at 100 % the connection that holds most loses streams. A quarter of the memory, or of what the
    /// cgroup allows, if absent.
    #[arg(long, value_name = "SIZE", env = "REACHBACK_MEMORY_BUDGET", hide_env_values = true)]
    pub(crate) memory_budget: Option<Size>,
}

/// How connections that carry sessions behave.
#[derive(Debug, Args)]
pub(crate) struct TransportArguments {
    /// Congestion control of the connections: auto (bbr where the round trip is 3 ms or longer and the
    /// kernel allows it), keep (the kernel's choice), or a name. auto if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_CONGESTION", hide_env_values = true)]
    pub(crate) congestion: Option<Congestion>,
}
