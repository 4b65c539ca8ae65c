//! The node's configuration: flags, variables and `node.toml`, brought together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use reachback_client::Membership;
use reachback_node::{
    AllowDial, Endpoint, Framing, NodeConfig, PROBE_EVERY, Probe, Service, ServiceCompression,
};
use reachback_wire::{NodeId, Secret, ServiceName, who::CallerPattern};
use serde::Deserialize;

use crate::{
    args::NodeArguments,
    config::{
        certificates::TlsTable,
        compression::{self, CompressionTable},
        dialled::Dialled,
        entry::Shown,
        file::{self, Checked},
        joining::{CredentialFiles, Join, shown, way_in},
        list::{List, PortTable},
        memory_budget::{self, LimitsTable},
        origin::{Origin, Origins},
        own_id,
        port_spec::PortSpec,
        proxy::{self, ProxyChoice},
        transport::{self, ReconnectTable, Transport, TransportTable},
    },
    environment::Environment,
    exit::Failure,
    paths,
};

/// `node.toml`, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeFile {
    id: Option<Checked<NodeId>>,
    explorers: Vec<Checked<Dialled>>,
    join: Option<Secret>,
    join_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    token_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    insecure_plaintext: bool,
    tls: TlsTable,
    labels: BTreeMap<String, String>,
    proxy: Option<Checked<ProxyChoice>>,
    allow_dial: Vec<Checked<AllowDial>>,
    control_socket: Option<PathBuf>,
    service: Vec<ServiceTable>,
    forward: Vec<PortTable>,
    limits: LimitsTable,
    transport: TransportTable,
    reconnect: ReconnectTable,
    compression: CompressionTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    name: Checked<ServiceName>,
    address: Checked<Endpoint>,
    framing: Option<Checked<Framing>>,
    path: Option<String>,
    probe: Option<Checked<Probe>>,
    #[serde(default)]
    allow: Vec<Checked<CallerPattern>>,
    compression: Option<Checked<ServiceCompression>>,
}

/// Everything that `reachback node` runs with.
#[derive(Debug)]
pub(crate) struct NodeSetup {
    pub(crate) config: NodeConfig,
    /// What joining has brought or will bring; none for a node that shows something else, or nothing.
    pub(crate) membership: Option<Membership>,
    /// The files of what it shows instead, if it does.
    pub(crate) files: Option<CredentialFiles>,
    /// How long a connection may take to come about; the usual time without it.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) forward: Vec<PortSpec>,
    pub(crate) control: Control,
}

/// The socket through which this machine asks the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// There is none.
    Off,
    /// Where the user wants it: without it the node does not start.
    At(PathBuf),
    /// Where it usually is: a second node of this user does without.
    Usual(PathBuf),
}

const EXPLORER: List = List::with_commas("explorer", "EXPLORER_ADDRESSES");
const SERVICE: List = List { key: "service", variable: "REACHBACK_SERVICE", separators: &[' ', '\n', '\t'] };
const LABEL: List = List::with_commas("label", "REACHBACK_LABEL");
const FORWARD: List = List::with_commas("forward", "REACHBACK_FORWARD");
const ALLOW_DIAL: List = List::with_commas("allow_dial", "REACHBACK_ALLOW_DIAL");

/// Brings the sources together: the command line (which holds the variables that clap knows), further variables,
/// the file, and the local socket if no explorer is named anywhere.
pub(crate) fn resolve(
    arguments: NodeArguments,
    environment: &Environment,
    root: bool,
    origins: &mut Origins,
) -> Result<NodeSetup, Failure> {
    if let Some(name) = arguments.looked_at {
        return Err(Failure::usage(format_args!(
            "\"{name}\": `reachback node` runs the agent of this machine and takes no name; to see how {name} is, type: \
             reachback show {name}"
        )));
    }
    let file: NodeFile = match &arguments.config {
        Some(path) => file::read(path)?,
        None => NodeFile::default(),
    };
    let id = own_id(arguments.id, file.id, "--id edge-7", origins)?;
    let named = explorers(arguments.explorer, environment, file.explorers, origins)?;
    let compressed = file.compression.asks();
    let files = file.tls.for_dialer(origins)?;
    let in_file = Shown {
        token: file.token_file,
        secret: file.secret_file,
        own: files.own,
        ca: file.ca_file.or(files.ca),
        insecure: file.insecure_plaintext,
    };
    let place = state_dir(arguments.state_dir, file.state_dir, environment, root, origins);
    let shown = shown(arguments.credentials, in_file, origins)?;
    let join = Join::of(
        [
            (Origin::Typed, arguments.join.map(|text| Secret::new(text.0)), arguments.join_file),
            (Origin::File, file.join, file.join_file),
        ],
        origins,
    )?;
    let way = way_in(
        &id,
        named,
        shown,
        join,
        place.as_deref(),
        || paths::explorer_socket(environment, root),
        origins,
    )?;
    let mut config = NodeConfig::new(id, way.explorers).map_err(Failure::config)?;
    config.access = way.access;
    config.state_dir = place;
    config.compression = compression::resolve(file.compression, origins)?;
    for service in services(&arguments.service, environment, file.service, compressed, origins)? {
        config = config.with_service(service).map_err(Failure::config)?;
    }
    for (key, value) in labels(&arguments.label, environment, file.labels, origins)? {
        config = config.with_label(&key, &value).map_err(Failure::config)?;
    }
    config.proxy = proxy::resolve(arguments.proxy.proxy, environment, file.proxy, origins)?;
    config.allow_dial = ALLOW_DIAL.pick(
        arguments.allow_dial,
        (environment, str::parse),
        file.allow_dial.into_iter().map(|entry| entry.0).collect(),
        origins,
        ToString::to_string,
    )?;
    config.probe_every = Some(PROBE_EVERY);
    let connections = transport::transport(arguments.transport.congestion, file.transport, origins)?;
    let Transport { congestion, connect_timeout, rules, max_message, max_pending } = connections;
    config.congestion = congestion;
    config.rules = rules;
    config.max_message = max_message.unwrap_or(config.max_message);
    config.max_pending = max_pending.unwrap_or(config.max_pending);
    config.reconnect = transport::reconnect(file.reconnect, origins)?;
    config.budget = memory_budget::resolve(arguments.memory.memory_budget, file.limits, origins)?;
    let forward = FORWARD.ports(arguments.forward, environment, file.forward, origins)?;
    let control = control(arguments.control_socket, file.control_socket, environment, root, origins)?;
    Ok(NodeSetup { config, membership: way.membership, files: way.files, connect_timeout, forward, control })
}

/// None where this user has no place to keep anything: then a key lives as long as the process.
fn state_dir(
    typed: Option<PathBuf>,
    file: Option<PathBuf>,
    environment: &Environment,
    root: bool,
    origins: &mut Origins,
) -> Option<PathBuf> {
    let places = [(Origin::Typed, typed), (Origin::File, file)];
    origins.pick("state_dir", places, |path| path.display().to_string()).or_else(|| {
        let usual = paths::state_directory(environment, root, "node")?;
        origins.note("state_dir", usual.display(), Origin::Default);
        Some(usual)
    })
}

/// The control socket that a node with this file has; none where the file leaves it in its usual place, or is an
/// explorer's.
pub(crate) fn control_socket_in(file: &Path) -> Result<Option<PathBuf>, Failure> {
    #[derive(Deserialize)]
    struct OfInterest {
        control_socket: Option<PathBuf>,
    }
    Ok(file::read::<OfInterest>(file)?.control_socket)
}

fn control(
    typed: Option<PathBuf>,
    file: Option<PathBuf>,
    environment: &Environment,
    root: bool,
    origins: &mut Origins,
) -> Result<Control, Failure> {
    let sources = [(Origin::Typed, typed), (Origin::File, file)];
    match origins.pick("control_socket", sources, |path| path.display().to_string()) {
        Some(off) if off == Path::new("off") => Ok(Control::Off),
        Some(path) if path.is_absolute() => Ok(Control::At(path)),
        Some(path) => Err(Failure::config(format_args!(
            "control socket {}: the path must be absolute; or write off",
            path.display()
        ))),
        None => {
            let path = paths::node_socket(environment, root)?;
            origins.note("control_socket", path.display(), Origin::Default);
            Ok(Control::Usual(path))
        }
    }
}

fn explorers(
    typed: Vec<Dialled>,
    environment: &Environment,
    file: Vec<Checked<Dialled>>,
    origins: &mut Origins,
) -> Result<Vec<Dialled>, Failure> {
    let file = file.into_iter().map(|address| address.0).collect();
    EXPLORER.pick(typed, (environment, str::parse), file, origins, ToString::to_string)
}

fn services(
    typed: &[String],
    environment: &Environment,
    file: Vec<ServiceTable>,
    compressed: bool,
    origins: &mut Origins,
) -> Result<Vec<Service>, Failure> {
    let typed = typed.iter().map(|entry| entry.parse().map_err(Failure::usage)).collect::<Result<_, _>>()?;
    let tables = file.into_iter().map(|table| {
        let mut service = Service::new(table.name.0, table.address.0);
        if let Some(framing) = table.framing {
            service = service.with_framing(framing.0);
        }
        if let Some(probe) = table.probe {
            service = service.with_probe(probe.0);
        }
        if !table.allow.is_empty() {
            service = service.with_allow(table.allow.into_iter().map(|pattern| pattern.0).collect());
        }
        if let Some(compression) = table.compression {
            service = service.with_compression(compression.0);
        }
        match table.path {
            Some(path) => service.with_path(&path).map_err(Failure::config),
            None => Ok(service),
        }
    });
    let tables = tables.collect::<Result<_, _>>()?;
    let services = SERVICE.pick(typed, (environment, str::parse), tables, origins, |service: &Service| {
        format!("{}={}", service.name(), service.endpoint())
    })?;
    let compress = |service: Service| match service.compression() {
        None if compressed => service.with_compression(ServiceCompression::Lz4),
        _ => service,
    };
    Ok(services.into_iter().map(compress).collect())
}

fn labels(
    typed: &[String],
    environment: &Environment,
    file: BTreeMap<String, String>,
    origins: &mut Origins,
) -> Result<Vec<(String, String)>, Failure> {
    let split = |entry: &str| match entry.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("label \"{entry}\": write KEY=VALUE, for example region=eu")),
    };
    let typed = typed.iter().map(|entry| split(entry).map_err(Failure::usage)).collect::<Result<_, _>>()?;
    let file = file.into_iter().collect();
    LABEL.pick(typed, (environment, split), file, origins, |(key, value)| format!("{key}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Command, config::typed::typed};

    fn resolved(
        flags: &[&str],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<NodeConfig, Failure> {
        Ok(setup(flags, variables, file)?.config)
    }

    fn setup(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Result<NodeSetup, Failure> {
        let (command, _file, environment) = typed("node", flags, variables, file);
        let Command::Node(arguments) = command else { panic!() };
        resolve(arguments, &environment, true, &mut Origins::default())
    }

    fn explorers(config: &NodeConfig) -> Vec<String> {
        config.explorers().iter().map(ToString::to_string).collect()
    }

    const FILE: &str = "id = \"edge-7\"\ninsecure_plaintext = true\nexplorers = [\"hub:1\", \"hub:2\"]\nlabels = { region = \"eu\" }\n\
        [[service]]\nname = \"rpc\"\naddress = \"unix:///run/rpc.sock\"\nframing = \"http\"\n\
        [[service]]\nname = \"ssh\"\naddress = \"22\"\n";

    #[test]
    fn the_file_is_read() {
        let config = resolved(&[], &[], Some(FILE)).unwrap();
        assert_eq!(config.id().as_ref(), "edge-7");
        assert_eq!(explorers(&config), ["hub:1", "hub:2"]);
        assert_eq!(config.labels()["region"], "eu");
        let services: Vec<String> = config
            .services()
            .values()
            .map(|s| format!("{}={} {:?}", s.name(), s.endpoint(), s.framing()))
            .collect();
        assert_eq!(services, ["rpc=unix:///run/rpc.sock Some(Http)", "ssh=127.0.0.1:22 None"]);
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let variables = [
            ("EXPLORER_ADDRESSES", "hub:3, hub:4"),
            ("REACHBACK_SERVICE", "a=1,framing=raw b=2"),
            ("REACHBACK_LABEL", "x=1,y=2"),
        ];
        let config = resolved(&[], &variables, Some(FILE)).unwrap();
        assert_eq!(explorers(&config), ["hub:3", "hub:4"]);
        assert_eq!(config.services().len(), 2);
        assert_eq!(config.labels().len(), 2);
        let flags =
            ["--explorer", "hub:5,hub:6", "--explorer", "hub:7", "--service", "c=3", "--label", "z=3"];
        let config = resolved(&flags, &variables, Some(FILE)).unwrap();
        assert_eq!(explorers(&config), ["hub:5", "hub:6", "hub:7"]);
        assert_eq!(config.services().keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["c"]);
        assert_eq!(config.labels().keys().collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn a_service_can_forbid_probes_in_each_place() {
        let table = "[[service]]\nname = \"db\"\naddress = \"5432\"\nprobe = \"off\"\n";
        for (flags, variables, file) in [
            (&["--service", "db=5432,probe=off"][..], &[][..], None),
            (&[], &[("REACHBACK_SERVICE", "db=5432,probe=off")][..], None),
            (&[], &[], Some(table)),
        ] {
            let flags = [&["--id", "edge-7"], flags].concat();
            let config = resolved(&flags, variables, file).unwrap();
            assert_eq!(config.services().values().next().unwrap().probe(), Probe::Off, "{flags:?} {file:?}");
        }
    }

    #[test]
    fn every_key_moves_something() {
        let text = "id = \"a\"\nstate_dir = \"/nowhere/state\"\n\
            [[service]]\nname = \"rpc\"\naddress = \"80\"\nallow = [\"ann\", \"node:edge-*\"]\ncompression = \"off\"\n\
            [[service]]\nname = \"log\"\naddress = \"81\"\n\
            [compression]\nenabled = true\nmin_size = 300\n\
            [transport]\nconnect_timeout_ms = 1500\nio_timeout_ms = 40000\nkeepalive_interval_secs = 33\n\
            max_message_size = 4096\nmax_pending_messages = 9\n\
            [reconnect]\ninitial_delay_ms = 200\nmax_delay_ms = 1000\nmultiplier = 3.0\njitter = 0.2\nmax_attempts = 4\n";
        let read = setup(&[], &[], Some(text)).unwrap();
        assert_eq!(read.connect_timeout, Some(Duration::from_millis(1_500)));
        let config = read.config;
        assert_eq!(config.state_dir, Some("/nowhere/state".into()));
        let service = |name: &str| &config.services()[name];
        assert_eq!(service("rpc").allow().unwrap().len(), 2);
        assert_eq!(service("rpc").compression(), Some(ServiceCompression::Off));
        assert_eq!(service("log").compression(), Some(ServiceCompression::Lz4), "the table's default");
        assert_eq!(config.compression.min_size, 300);
        assert_eq!(config.rules.io_timeout, Some(Duration::from_secs(40)));
        assert_eq!(config.rules.keepalive, Some(Duration::from_secs(33)));
        assert_eq!((config.max_message, config.max_pending), (4_096, 9));
        let rules = config.reconnect;
        assert_eq!(
            (rules.initial_delay, rules.max_delay),
            (Duration::from_millis(200), Duration::from_secs(1))
        );
        assert_eq!((rules.multiplier, rules.jitter, rules.max_attempts), (3.0, 0.2, Some(4)));
        let typed =
            setup(&["--id", "a", "--state-dir", "/flag"], &[("STATE_DIRECTORY", "/var/lib/x")], Some(text));
        assert_eq!(typed.unwrap().config.state_dir, Some("/flag".into()));
        let usual = setup(&["--id", "a"], &[("STATE_DIRECTORY", "/nowhere/x")], None).unwrap();
        assert_eq!(usual.config.state_dir, Some("/nowhere/x".into()));
        assert_eq!(usual.config.services().len(), 0);
    }

    #[test]
    fn there_is_one_way_to_say_who_this_is() {
        let held = tempfile::TempDir::new().unwrap();
        let file = |name: &str, content: &str| {
            let path = held.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let secret = file("secret", "0123456789abcdef");
        let short = file("short", "swordfish");
        let empty = file("empty", "\n");
        let join = join_line();
        let cut = &join[..join.len() - 9];
        let pem = file("ca.pem", "no certificate");
        for (flags, exit, part) in [
            (&["--secret-file", &secret, "--token-file", &secret][..], 78, "three ways"),
            (&["--secret-file", &secret, "--join", &join], 78, "leave it out"),
            (&["--secret-file", &short], 78, "could be guessed"),
            (&["--token-file", &secret, "--explorer", "hub"], 78, "--ca-file"),
            (&["--token-file", "/nowhere/token"], 78, "/nowhere/token"),
            (&["--ca-file", &pem], 78, "ca.pem"),
            (&["--explorer", "tls://hub"], 78, "--join"),
            (&["--explorer", "hub"], 78, "--insecure-plaintext"),
            (&["--explorer", "127.0.0.1,hub"], 78, "hub:9002"),
            (&["--explorer", "hub", "--secret-file", &secret], 78, "--insecure-plaintext"),
            (&["--cert-file", &secret], 78, "--key-file"),
            (&["--cert-file", &secret, "--key-file", &secret], 78, "--ca-file"),
            (&["--join", cut], 78, "cut off"),
            (&["--join", &join, "--join-file", &secret], 78, "two places"),
            (&["--join-file", &empty], 78, "has not joined yet"),
            (&["--join-file", "/nowhere/join"], 78, "has not joined yet"),
        ] {
            let line = [&["--id", "edge-7", "--state-dir", "/proc/nowhere"], flags].concat();
            let failure = setup(&line, &[], None).unwrap_err();
            assert_eq!(failure.exit.number(), exit, "{failure}");
            assert!(failure.to_string().contains(part), "{flags:?}: {part}: {failure}");
            assert!(!failure.to_string().contains("swordfish"), "{failure}");
            assert!(!failure.to_string().contains(&join[12..]), "{failure}");
        }
        let tables = "id = \"a\"\n[tls]\ncert_path = \"/c.pem\"\n";
        assert!(setup(&[], &[], Some(tables)).unwrap_err().to_string().contains("key_path"));
        let joined =
            setup(&["--id", "edge-7", "--state-dir", "/proc/nowhere", "--join", &join], &[], None).unwrap();
        assert!(joined.membership.is_some());
        assert_eq!(explorers(&joined.config), ["hub.example.com:9002"], "the line says where to dial");
        let there = setup(
            &["--id", "edge-7", "--state-dir", "/proc/nowhere", "--join", &join, "--explorer", "hub-2"],
            &[],
            None,
        );
        assert_eq!(explorers(&there.unwrap().config), ["hub-2:9002"], "unless somebody knows better");
        // Whoever may use the local socket is known by the kernel.
        let near = setup(&["--id", "edge-7", "--secret-file", &secret], &[], None).unwrap();
        assert!(near.membership.is_none());
    }

    /// As an explorer makes it.
    fn join_line() -> String {
        let line = reachback_wire::join::JoinString::new(
            vec!["hub.example.com:9002".to_owned()],
            reachback_wire::join::Pin([7; 32]),
            Secret::new("header.claims.signature"),
        );
        line.unwrap().expose().expose().to_owned()
    }

    #[test]
    fn without_an_explorer_the_local_one_is_dialled() {
        let config = resolved(&["--id", "edge-7"], &[], None).unwrap();
        assert_eq!(explorers(&config), ["unix:///run/reachback/explorer.sock"]);
    }

    #[test]
    fn ports_hosts_proxy_and_control_socket() {
        let text = "id = \"a\"\nproxy = \"http://p:1\"\nallow_dial = [\"10.0.0.0/24:22\"]\n\
            control_socket = \"/c.sock\"\n[[forward]]\nlisten = \"127.0.0.1:1\"\ntarget = \"mac1/exo\"\n";
        let read = setup(&[], &[], Some(text)).unwrap();
        assert_eq!(read.control, Control::At("/c.sock".into()));
        assert_eq!(read.forward[0].target.to_string(), "mac1/exo");
        assert!(read.config.proxy.is_some() && read.config.allow_dial.len() == 1);
        let flags = ["--control-socket", "off", "--forward", "1=b/c", "--forward", "2=b/d", "--proxy", "off"];
        let typed = setup(&flags, &[("REACHBACK_FORWARD", "3=b/e")], Some(text)).unwrap();
        assert_eq!((typed.control, typed.forward.len()), (Control::Off, 2));
        assert!(typed.config.proxy.is_none());
        let usual =
            setup(&["--id", "a"], &[("REACHBACK_ALLOW_DIAL", "10.0.0.5:1,10.0.0.6:2")], None).unwrap();
        assert_eq!(usual.control, Control::Usual("/run/reachback/node.sock".into()));
        assert_eq!(usual.config.allow_dial.len(), 2);
        let refused = setup(&["--id", "a", "--control-socket", "x"], &[], None).unwrap_err();
        assert!(refused.to_string().contains("absolute"), "{refused}");
    }

    #[test]
    fn refusals_name_the_place() {
        for (flags, variables, file, exit, part) in [
            (&["edge-7"][..], &[][..], None, 64, "reachback show edge-7"),
            (&["--service", "ssh"], &[], None, 64, "NAME=ADDRESS"),
            (
                &["--service", "rpc=80,framng=http"],
                &[],
                None,
                64,
                "unknown key \"framng\"; did you mean \"framing\"?",
            ),
            (&["--service", "a=1", "--service", "a=2"], &[], None, 78, "declared twice"),
            (&["--label", "eu"], &[], None, 64, "KEY=VALUE"),
            (&[], &[("EXPLORER_ADDRESSES", "ok:1,http://x")], None, 64, "EXPLORER_ADDRESSES"),
            (&[], &[("REACHBACK_SERVICE", "a=1 b")], None, 64, "REACHBACK_SERVICE"),
            (&[], &[], Some("explorers = [\n\"hub\",\n\"http://x\"]\n"), 78, "unknown scheme"),
            (&[], &[], Some("\n[[service]]\nname = \"a.b\"\naddress = \"1\"\n"), 78, "line 3"),
            (&[], &[], Some("[[service]]\nname = \"a\"\nadress = \"1\"\n"), 78, "did you mean \"address\"?"),
            (
                &[],
                &[],
                Some("[[service]]\nname = \"a\"\naddress = \"1\"\nprobe = \"no\"\n"),
                78,
                "not on or off",
            ),
        ] {
            let mut line = flags.to_vec();
            if !line.contains(&"edge-7") {
                line.extend(["--id", "edge-7"]);
            }
            let failure = resolved(&line, variables, file).unwrap_err();
            assert_eq!(failure.exit.number(), exit, "{failure}");
            assert!(failure.to_string().contains(part), "{part}: {failure}");
        }
    }
}
