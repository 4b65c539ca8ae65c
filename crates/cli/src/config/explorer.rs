//! The explorer's configuration: flags, variables and `explorer.toml`, brought together.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reachback_explorer::{DirectNode, ExplorerConfig, Framing, HeroCompat, Mode, Publication, SocketConfig};
use reachback_link::{Address, Cidr, ListenAddress};
use reachback_wire::NodeId;
use serde::Deserialize;

use crate::{
    args::ExplorerArguments,
    config::{
        certificates::{TlsTable, WebTable},
        compression::{self, CompressionTable},
        duration::Span,
        file::{self, Checked},
        group::SocketGroup,
        list::{List, PortTable},
        listeners::{self, CallerTable, ListenerTable},
        memory_budget::{self, LimitsTable},
        mode::SocketMode,
        origin::{Origin, Origins},
        own_id,
        port_spec::PortSpec,
        rates::{self, RateTable},
        secret,
        transport::{self, ReconnectTable, Transport, TransportTable},
    },
    environment::Environment,
    exit::Failure,
    limits, paths, runtimes,
};

/// `explorer.toml`, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExplorerFile {
    id: Option<Checked<NodeId>>,
    listen: Option<Checked<ListenAddress>>,
    advertise: Vec<Checked<Address>>,
    mode: Option<Checked<Mode>>,
    state_dir: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    socket: Option<PathBuf>,
    socket_mode: Option<Checked<SocketMode>>,
    heartbeat: Option<Checked<Span>>,
    insecure_plaintext: bool,
    socket_group: Option<Checked<SocketGroup>>,
    hosts: Vec<String>,
    publish: Vec<PortTable>,
    node: Vec<NodeTable>,
    listener: Vec<ListenerTable>,
    caller: Vec<CallerTable>,
    tls: Option<TlsTable>,
    web: Option<WebTable>,
    rate_limit: Option<RateTable>,
    compression: CompressionTable,
    reconnect: Option<ReconnectTable>,
    compat: CompatTable,
    threads: Option<usize>,
    limits: LimitsTable,
    transport: TransportTable,
}

/// A node that this explorer dials itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    id: Checked<NodeId>,
    address: Checked<Address>,
    framing: Option<CallFraming>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CompatTable {
    hero: Option<HeroTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeroTable {
    heartbeat_methods: Vec<String>,
    node_fields: Vec<String>,
    forward: bool,
    framing: Option<CallFraming>,
    heartbeat_sockets: Vec<PathBuf>,
    heartbeat_networks: Vec<Checked<Cidr>>,
}

/// `http`, `lines` or `raw`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallFraming {
    Http,
    Lines,
    Raw,
}

impl From<CallFraming> for Framing {
    fn from(framing: CallFraming) -> Self {
        match framing {
            CallFraming::Http => Self::Http,
            CallFraming::Lines => Self::Lines,
            CallFraming::Raw => Self::Raw,
        }
    }
}

/// Everything that `reachback explorer` runs with.
#[derive(Debug)]
pub(crate) struct ExplorerSetup {
    pub(crate) config: ExplorerConfig,
    /// Threads in all, at least 1.
    pub(crate) threads: usize,
    /// How long a connection to a node with an address may take; the usual time without it.
    pub(crate) connect_timeout: Option<Duration>,
}

const PUBLISH: List = List::with_commas("publish", "REACHBACK_PUBLISH");

/// Brings the sources together: the command line (which holds the variables that clap knows), further variables,
/// the file, and what holds without any of them.
pub(crate) fn resolve(
    arguments: ExplorerArguments,
    environment: &Environment,
    root: bool,
    origins: &mut Origins,
) -> Result<ExplorerSetup, Failure> {
    const ADDRESS: &str = "EXPLORER_TCP_ADDR";
    let file: ExplorerFile = match &arguments.config {
        Some(path) => file::read(path)?,
        None => ExplorerFile::default(),
    };
    let id = own_id(arguments.id, file.id, "--id hub-1", origins)?;
    let mut config = ExplorerConfig::new(id);
    let listen = [
        (Origin::Typed, arguments.listen),
        (Origin::Variable(ADDRESS), environment.parse(ADDRESS)?),
        (Origin::File, file.listen.map(|listen| listen.0)),
    ];
    config.listen.extend(origins.pick("listen", listen, ToString::to_string));
    if config.listen.is_empty() {
        origins.note("listen", "nowhere", Origin::Default);
    }
    config.listeners = listeners::listeners(file.listener, origins);
    let advertise = file.advertise.into_iter().map(|address| address.0).collect();
    config.advertise = origins.pick_list(
        "advertise",
        [(Origin::Typed, arguments.advertise), (Origin::File, advertise)],
        ToString::to_string,
    );
    let modes = [(Origin::Typed, arguments.mode), (Origin::File, file.mode.map(|mode| mode.0))];
    config.mode = origins.pick("mode", modes, ToString::to_string);
    config.tls = file.tls.map(|table| table.for_explorer(origins));
    config.web = file.web.map(|table| table.files(origins));
    config.callers = listeners::callers(file.caller, origins);
    let shared = [(Origin::Typed, arguments.secret_file), (Origin::File, file.secret_file)];
    let shared = origins.pick("secret_file", shared, |path| path.display().to_string());
    config.secret = shared.map(|path| secret::shared(&path)).transpose()?.map(Arc::new);
    config.socket = Some(socket(
        arguments.socket,
        arguments.socket_mode,
        file.socket,
        file.socket_mode,
        origins,
        || paths::explorer_socket(environment, root),
    )?);
    let groups =
        [(Origin::Typed, arguments.socket_group), (Origin::File, file.socket_group.map(|group| group.0))];
    config.socket_group = origins.pick("socket_group", groups, ToString::to_string).map(|group| group.number);
    let hosts = [(Origin::Typed, arguments.host), (Origin::File, file.hosts)];
    config.hosts = origins.pick_list("host", hosts, Clone::clone);
    let heartbeat =
        [(Origin::Typed, arguments.heartbeat), (Origin::File, file.heartbeat.map(|heartbeat| heartbeat.0))];
    match origins.pick("heartbeat", heartbeat, ToString::to_string) {
        Some(Span(heartbeat)) => config.heartbeat = heartbeat,
        None => origins.note("heartbeat", Span(config.heartbeat), Origin::Default),
    }
    let plaintext = [
        (Origin::Typed, arguments.insecure_plaintext.then_some(true)),
        (Origin::File, file.insecure_plaintext.then_some(true)),
        (Origin::Default, Some(false)),
    ];
    config.insecure_plaintext =
        origins.pick("insecure_plaintext", plaintext, ToString::to_string).unwrap_or_default();
    let publish = PUBLISH.ports(arguments.publish, environment, file.publish, origins)?;
    config.publish =
        publish.into_iter().map(|PortSpec { listen, target }| Publication { listen, target }).collect();
    for NodeTable { id: Checked(node), address: Checked(address), framing } in file.node {
        origins.note("node", format_args!("{node} at {address}"), Origin::File);
        let framing = framing.map(Framing::from).unwrap_or_default();
        config.direct.push(DirectNode { node, address, framing });
    }
    config.hero = file.compat.hero.map(|hero| compat(hero, origins));
    config.rate_limit = rates::resolve(file.rate_limit, origins)?;
    config.compression = compression::resolve(file.compression, origins)?;
    if file.reconnect.is_some() {
        origins.warn("[reconnect] has no effect on an explorer: nodes and clients dial, it does not");
    }
    let connections = transport::transport(arguments.transport.congestion, file.transport, origins)?;
    let Transport { congestion, connect_timeout, rules, max_message, max_pending } = connections;
    config.congestion = congestion;
    config.rules = rules;
    config.max_message = max_message.unwrap_or(config.max_message);
    config.max_pending = max_pending.unwrap_or(config.max_pending);
    config.budget = memory_budget::resolve(arguments.memory.memory_budget, file.limits, origins)?;
    let threads = threads(arguments.threads, file.threads, origins)?;
    let places = [(Origin::Typed, arguments.state_dir), (Origin::File, file.state_dir)];
    config.state_dir = origins.pick("state_dir", places, |path| path.display().to_string());
    // An explorer without TLS keeps nothing.
    if config.state_dir.is_none() && config.is_secured() {
        config.state_dir = paths::state_directory(environment, root, "explorer");
        if let Some(usual) = &config.state_dir {
            origins.note("state_dir", usual.display(), Origin::Default);
        }
    }
    config.check().map_err(Failure::config)?;
    Ok(ExplorerSetup { config, threads, connect_timeout })
}

fn threads(typed: Option<usize>, file: Option<usize>, origins: &mut Origins) -> Result<usize, Failure> {
    let sources = [(Origin::Typed, typed), (Origin::File, file)];
    match origins.pick("threads", sources, ToString::to_string) {
        Some(threads) if (1..=limits::THREADS_MAX).contains(&threads) => Ok(threads),
        Some(threads) => Err(Failure::config(format_args!(
            "threads {threads}: an explorer has 1 to {} of them; without the key it has one per core",
            limits::THREADS_MAX
        ))),
        None => {
            let threads = runtimes::usual_threads();
            origins.note("threads", threads, Origin::Default);
            Ok(threads)
        }
    }
}

fn compat(hero: HeroTable, origins: &mut Origins) -> HeroCompat {
    for (key, names) in [
        ("compat.hero.heartbeat_methods", &hero.heartbeat_methods),
        ("compat.hero.node_fields", &hero.node_fields),
    ] {
        origins.note(key, names.join(", "), Origin::File);
    }
    origins.note("compat.hero.forward", hero.forward, Origin::File);
    let heartbeat_networks: Vec<Cidr> = hero.heartbeat_networks.into_iter().map(|block| block.0).collect();
    let sockets: Vec<_> = hero.heartbeat_sockets.iter().map(|path| path.display().to_string()).collect();
    let networks: Vec<_> = heartbeat_networks.iter().map(ToString::to_string).collect();
    origins.note("compat.hero.heartbeat_sockets", sockets.join(", "), Origin::File);
    origins.note("compat.hero.heartbeat_networks", networks.join(", "), Origin::File);
    HeroCompat {
        heartbeat_methods: hero.heartbeat_methods,
        node_fields: hero.node_fields,
        forward: hero.forward,
        framing: hero.framing.map(Framing::from).unwrap_or_default(),
        heartbeat_sockets: hero.heartbeat_sockets,
        heartbeat_networks,
    }
}

fn socket(
    typed: Option<PathBuf>,
    typed_mode: Option<SocketMode>,
    file: Option<PathBuf>,
    file_mode: Option<Checked<SocketMode>>,
    origins: &mut Origins,
    usual: impl FnOnce() -> Result<PathBuf, Failure>,
) -> Result<SocketConfig, Failure> {
    let paths = [(Origin::Typed, typed), (Origin::File, file)];
    let path = match origins.pick("socket", paths, |path| path.display().to_string()) {
        Some(path) => path,
        None => {
            let path = usual()?;
            origins.note("socket", path.display(), Origin::Default);
            path
        }
    };
    let mut socket = SocketConfig::new(path);
    let modes = [(Origin::Typed, typed_mode), (Origin::File, file_mode.map(|mode| mode.0))];
    match origins.pick("socket_mode", modes, ToString::to_string) {
        Some(SocketMode(mode)) => socket.mode = mode,
        None => origins.note("socket_mode", SocketMode(socket.mode), Origin::Default),
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use reachback_explorer::{NodeIdVerification, RatePer};
    use reachback_link::Congestion;

    use super::*;
    use crate::{args::Command, config::typed::typed};

    fn resolved(
        flags: &[&str],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<ExplorerConfig, Failure> {
        let (command, _file, environment) = typed("explorer", flags, variables, file);
        let Command::Explorer(arguments) = command else { panic!() };
        resolve(arguments, &environment, true, &mut Origins::default()).map(|setup| setup.config)
    }

    const FILE: &str = "id = \"hub-1\"\nlisten = \"127.0.0.1:1\"\nsocket = \"/file.sock\"\nsocket_mode = \"0660\"\n\
        heartbeat = \"2s\"\n[[publish]]\nlisten = \"tcp://127.0.0.1:5432\"\ntarget = \"edge-7/db\"\n";

    #[test]
    fn the_file_is_read() {
        let config = resolved(&[], &[], Some(FILE)).unwrap();
        assert_eq!(config.id.as_ref(), "hub-1");
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:1");
        assert_eq!(config.socket, Some(SocketConfig { path: "/file.sock".into(), mode: 0o660 }));
        assert_eq!(config.heartbeat, Duration::from_secs(2));
        assert_eq!(config.publish[0].target.to_string(), "edge-7/db");
        assert!(!config.insecure_plaintext);
    }

    #[test]
    fn threads_and_memory_have_bounds_and_a_default() {
        let setup = |flags: &[&str], file| {
            let (command, _file, environment) = typed("explorer", flags, &[], file);
            let Command::Explorer(arguments) = command else { panic!() };
            resolve(arguments, &environment, true, &mut Origins::default())
        };
        let file = "id = \"a\"\nthreads = 3\n[limits]\nmemory_budget = \"32MiB\"\n[transport]\n\
            congestion = \"keep\"\n";
        let from_file = setup(&[], Some(file)).unwrap();
        assert_eq!(from_file.config.congestion, Congestion::Keep);
        assert_eq!((from_file.threads, from_file.config.budget.limit()), (3, 32 << 20));
        let typed = setup(&["--threads", "1", "--memory-budget", "1GiB"], Some(file)).unwrap();
        assert_eq!((typed.threads, typed.config.budget.limit()), (1, 1 << 30));
        let usual = setup(&["--id", "a"], None).unwrap();
        assert_eq!(usual.config.congestion, Congestion::Auto);
        assert!((1..=limits::THREADS_MAX).contains(&usual.threads));
        assert_eq!(usual.config.budget.limit(), crate::memory::usual_budget().0);
        for (flag, value, hint) in [
            ("--threads", "0", "1 to 8"),
            ("--threads", "9", "1 to 8"),
            ("--memory-budget", "15MiB", "16MiB"),
        ] {
            let refusal = setup(&["--id", "a", flag, value], None).unwrap_err();
            assert!(refusal.to_string().contains(hint), "{refusal}");
        }
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let variables = [("EXPLORER_TCP_ADDR", "127.0.0.1:2"), ("REACHBACK_PUBLISH", "6=a/b, 7=c/d")];
        let config = resolved(&[], &variables, Some(FILE)).unwrap();
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:2");
        assert_eq!(config.publish.len(), 2);
        let flags =
            ["--listen", "127.0.0.1:3", "--publish", "8=e/f", "--id", "hub-2", "--socket", "/flag.sock"];
        let config = resolved(&flags, &variables, Some(FILE)).unwrap();
        assert_eq!(config.listen.len(), 1);
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:3");
        assert_eq!(config.publish[0].listen.to_string(), "127.0.0.1:8");
        assert_eq!(config.id.as_ref(), "hub-2");
        assert_eq!(config.socket.unwrap().path, PathBuf::from("/flag.sock"));
    }

    #[test]
    fn nodes_with_an_address_and_the_hero_stack() {
        let text = "id = \"hub-1\"\nhosts = [\"hub.example.com\"]\nsocket_group = \"0\"\n\
            [[node]]\nid = \"old-1\"\naddress = \"unix:///run/old.sock\"\nframing = \"raw\"\n\
            [compat.hero]\nheartbeat_methods = [\"heartbeat\"]\nnode_fields = [\"node_id\"]\nforward = true\n\
            heartbeat_sockets = [\"/run/hero\"]\nheartbeat_networks = [\"10.0.0.0/24\", \"10.1.0.7\"]\n";
        let config = resolved(&[], &[], Some(text)).unwrap();
        assert_eq!(config.hosts, ["hub.example.com"]);
        assert_eq!(config.socket_group, Some(0));
        assert_eq!(config.direct[0].address.to_string(), "unix:///run/old.sock");
        assert_eq!(config.direct[0].framing, Framing::Raw);
        let hero = config.hero.unwrap();
        assert!(hero.forward && hero.node_fields == ["node_id"] && hero.heartbeat_methods == ["heartbeat"]);
        assert_eq!(hero.heartbeat_sockets, [PathBuf::from("/run/hero")]);
        let networks: Vec<_> = hero.heartbeat_networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/24", "10.1.0.7/32"]);
        let flags = ["--host", "a.example,b.example", "--socket-group", "7"];
        let config = resolved(&flags, &[], Some(text)).unwrap();
        assert_eq!((config.hosts.len(), config.socket_group), (2, Some(7)));
        let refused = resolved(&[], &[], Some("[compat.hero]\nforward = true\n")).unwrap_err().to_string();
        assert!(refused.contains("node_fields"), "{refused}");
        let wrong = "id = \"hub-1\"\n[compat.hero]\nheartbeat_networks = [\"10.0.0.7/24\"]\n";
        let refused = resolved(&[], &[], Some(wrong)).unwrap_err().to_string();
        assert!(refused.contains("line 3") && refused.contains("10.0.0.0/24"), "{refused}");
    }

    /// Each key that says who may come in, how much and over what, and what it moves.
    #[test]
    fn every_key_moves_something() {
        let held = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(held.path(), "0123456789abcdef\n").unwrap();
        let text = format!(
            "id = \"hub-1\"\nlisten = \":9002\"\nmode = \"permissive\"\nstate_dir = \"/state\"\n\
             advertise = [\"hub.example.com\", \"192.0.2.1:1\"]\nsecret_file = \"{}\"\n\
             [tls]\ncert_path = \"/c.pem\"\nkey_path = \"/k.pem\"\nca_cert_path = \"/ca.pem\"\n\
             require_client_auth = true\nnode_id_verification = \"CommonName\"\n\
             [web]\ncert_path = \"/w.pem\"\nkey_path = \"/wk.pem\"\n\
             [[listener]]\naddress = \"127.0.0.1:9003\"\nmode = \"legacy\"\nallow = [\"10.0.0.0/8\"]\n\
             proxy_from = [\"10.0.0.7/32\"]\n\
             [[caller]]\nname = \"ci-*\"\nallow = [\"edge-*/rpc:vm.*\", \"dial:edge-*\"]\n\
             [rate_limit]\nbucket_size = 7\nrefill_rate = 3.5\nper = \"service\"\n\
             [compression]\nenabled = true\nmethod = \"Lz4\"\nmin_size = 512\n\
             [transport]\nconnect_timeout_ms = 1500\nio_timeout_ms = 40000\nkeepalive = true\n\
             keepalive_interval_secs = 33\nmax_message_size = \"1MiB\"\nmax_pending_messages = 9\n",
            held.path().display()
        );
        let (command, _file, environment) = typed("explorer", &[], &[], Some(&text));
        let Command::Explorer(arguments) = command else { panic!() };
        let setup = resolve(arguments, &environment, true, &mut Origins::default()).unwrap();
        assert_eq!(setup.connect_timeout, Some(Duration::from_millis(1_500)));
        let config = setup.config;
        assert_eq!((config.mode, config.state_dir), (Some(Mode::Permissive), Some("/state".into())));
        let advertised: Vec<String> = config.advertise.iter().map(ToString::to_string).collect();
        assert_eq!(advertised, ["hub.example.com:9002", "192.0.2.1:1"]);
        assert_eq!(config.secret.unwrap().expose(), "0123456789abcdef");
        let tls = config.tls.unwrap();
        assert_eq!(tls.cert_path, Some("/c.pem".into()));
        assert_eq!((tls.key_path, tls.ca_cert_path), (Some("/k.pem".into()), Some("/ca.pem".into())));
        assert_eq!(tls.require_client_auth, Some(true));
        assert_eq!(tls.node_id_verification, Some(NodeIdVerification::CommonName));
        let web = config.web.unwrap();
        assert_eq!((web.cert_path, web.key_path), ("/w.pem".into(), "/wk.pem".into()));
        let listener = &config.listeners[0];
        assert_eq!(
            (listener.address.to_string(), listener.mode),
            ("127.0.0.1:9003".into(), Some(Mode::Legacy))
        );
        assert_eq!(
            (listener.allow[0].to_string(), listener.proxy_from[0].to_string()),
            ("10.0.0.0/8".into(), "10.0.0.7/32".into())
        );
        let (name, rights) = &config.callers[0];
        assert!(name.matches("ci-3") && !name.matches("edge-3"));
        assert_eq!(rights[0].to_string(), "edge-*/rpc:vm.*");
        let limit = config.rate_limit.unwrap();
        assert_eq!((limit.bucket_size, limit.refill_rate, limit.per), (7, 3.5, RatePer::Service));
        assert_eq!((config.compression.enabled, config.compression.min_size), (true, 512));
        assert_eq!(config.rules.io_timeout, Some(Duration::from_secs(40)));
        assert_eq!(config.rules.keepalive, Some(Duration::from_secs(33)));
        assert_eq!((config.max_message, config.max_pending), (1 << 20, 9));
    }

    #[test]
    fn tables_have_defaults_presets_and_switches() {
        let read = |tables: &str| {
            let text = format!("id = \"a\"\n{tables}");
            let (command, _file, environment) = typed("explorer", &[], &[], Some(&text));
            let Command::Explorer(arguments) = command else { panic!() };
            let mut origins = Origins::default();
            resolve(arguments, &environment, true, &mut origins)
                .map(|setup| (setup.config, origins.warnings().to_vec()))
        };
        let rate = |tables: &str| {
            read(tables).unwrap().0.rate_limit.map(|limit| (limit.bucket_size, limit.refill_rate))
        };
        assert_eq!(rate(""), None, "nobody asked for a limit");
        assert_eq!(rate("[rate_limit]\nenabled = true\n"), Some((100, 50.0)));
        assert_eq!(rate("[rate_limit]\nenabled = false\nbucket_size = 3\n"), None);
        assert_eq!(rate("[rate_limit]\npreset = \"aggressive\"\n"), Some((50, 25.0)));
        assert_eq!(rate("[rate_limit]\npreset = \"permissive\"\nrefill_rate = 7\n"), Some((200, 7.0)));
        assert!(!read("[compression]\nenabled = false\n").unwrap().0.compression.enabled);
        assert!(read("").unwrap().0.compression.enabled, "services ask for it");
        assert_eq!(read("[transport]\nkeepalive = false\n").unwrap().0.rules.keepalive, None);
        assert_eq!(read("[transport]\nmax_message_size = 4096\n").unwrap().0.max_message, 4_096);

        // What this design makes meaningless is taken with one warning each, which says why.
        let (_, warnings) =
            read("[transport]\npool_size = 2\nrecv_buffer_size = 1000\n[reconnect]\n").unwrap();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (key, why) in
            [("pool_size", "one connection"), ("recv_buffer_size", "window"), ("[reconnect]", "dial")]
        {
            let warned =
                warnings.iter().filter(|warning| warning.contains(key) && warning.contains(why)).count();
            assert_eq!(warned, 1, "{key}: {warnings:?}");
        }
        assert!(read("").unwrap().1.is_empty());

        for (tables, part) in [
            ("[rate_limit]\npreset = \"agressive\"\n", "aggressive"),
            ("[rate_limit]\nbucket_size = 0\n", "bucket_size"),
            ("[rate_limit]\nper = \"node\"\n", "per \"service\""),
            ("[compression]\nmethod = \"Zstd\"\n", "Lz4"),
            ("[compression]\nmin_size = 3\n", "256"),
            ("[transport]\nconnect_timeout_ms = 0\n", "5000"),
            ("[transport]\nmax_message_size = \"16\"\n", "64KiB"),
            ("[transport]\nio_timeout_ms = 1\n", "io_timeout_ms"),
            ("[tls]\ncert = \"/c\"\n", "cert_path"),
            ("[tls]\ninsecure_skip_verify = true\n", "unknown key"),
            ("[tls]\nnode_id_verification = \"SAN\"\n", "SubjectAltName"),
            ("[[listener]]\naddress = \"127.0.0.1:1\"\nmode = \"strickt\"\n", "strict?"),
            ("[[caller]]\nname = \"x\"\nallow = [\"edge\"]\n", "line 4"),
            ("mode = \"none\"\n", "line 2"),
        ] {
            let refusal = read(tables).unwrap_err();
            assert!(refusal.exit.number() == 78 && refusal.to_string().contains(part), "{tables}: {refusal}");
        }
    }

    #[test]
    fn what_tls_needs_has_its_usual_place_and_nothing_else_makes_one() {
        let strict = resolved(&["--id", "a", "--listen", ":1"], &[("STATE_DIRECTORY", "/var/lib/x")], None);
        assert_eq!(strict.unwrap().state_dir, Some("/var/lib/x".into()));
        let flags = ["--id", "a", "--listen", ":1", "--state-dir", "/flag", "--advertise", "hub,hub-2:1"];
        let typed = resolved(&flags, &[("STATE_DIRECTORY", "/var/lib/x")], None).unwrap();
        assert_eq!((typed.state_dir, typed.advertise.len()), (Some("/flag".into()), 2));
        let plain = resolved(&["--id", "a", "--listen", "127.0.0.1:1"], &[], None).unwrap();
        assert_eq!((plain.state_dir, plain.mode), (None, None));
        let mode =
            resolved(&["--id", "a", "--listen", "127.0.0.1:1", "--mode", "strict"], &[], None).unwrap();
        assert_eq!(mode.state_dir, Some("/var/lib/reachback/explorer".into()));
    }

    #[test]
    fn without_anything_there_is_only_the_socket() {
        let config = resolved(&["--id", "hub-1"], &[], None).unwrap();
        assert!(config.listen.is_empty());
        assert_eq!(config.socket, Some(SocketConfig::new("/run/reachback/explorer.sock")));
    }

    #[test]
    fn refusals_name_the_place() {
        let refusal = |flags: &[&str], variables: &[(&str, &str)], file| {
            let failure = resolved(flags, variables, file).unwrap_err();
            (failure.exit.number(), failure.to_string())
        };
        let plain = ["--id", "hub-1", "--listen", ":9002", "--mode", "development"];
        let (exit, text) = refusal(&plain, &[], None);
        assert!(exit == 78 && text.contains("--insecure-plaintext"), "{exit} {text}");
        let (exit, text) = refusal(&["--id", "hub-1"], &[("EXPLORER_TCP_ADDR", "tls://x")], None);
        assert!(exit == 64 && text.contains("EXPLORER_TCP_ADDR"), "{exit} {text}");
        let (exit, text) = refusal(&["--id", "hub-1"], &[("REACHBACK_PUBLISH", "edge-7/db")], None);
        assert!(exit == 64 && text.contains("REACHBACK_PUBLISH"), "{exit} {text}");
        let (exit, text) = refusal(&[], &[], Some("id = \"hub-1\"\n\nlisten = \"ftp://x\"\n"));
        assert!(exit == 78 && text.contains("line 3") && text.contains("unknown scheme"), "{exit} {text}");
        let (exit, text) = refusal(&[], &[], Some("lisen = \"x\"\n"));
        assert!(exit == 78 && text.contains("did you mean \"listen\"?"), "{exit} {text}");
    }
}
