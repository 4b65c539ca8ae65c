//! What a node is told before it starts, checked: a value of this type can't be wrong any more.
//!
//! The shape of files, flags and variables is the command line's business; whoever embeds a node writes this directly.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use reachback_client::{Access, DEFAULT_BUDGET, Random};
use reachback_link::{Address, Compression, Congestion, MemoryBudget, Proxy, ReconnectRules, SessionRules};
use reachback_wire::{
    GrantInfo, HealthState, NodeId, ServiceName,
    id::{NODE_ID_MAX, SERVICE_NAME_MAX},
    limits::{CALL_BODY_MAX, SERVICE_OPENS_WAITING},
    text::sanitize,
};

use crate::{
    allow::AllowDial,
    control::announcement,
    limits::{GRANTS_MAX, HEALTH_REASON_MAX, LABEL_MAX},
    service::Service,
    stats::Stats,
};

/// A checked configuration. Parts that have to be right are set through methods that refuse.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    id: NodeId,
    explorers: Vec<Address>,
    services: BTreeMap<ServiceName, Service>,
    labels: BTreeMap<String, String>,
    /// What the node shows to explorers, and whom it believes; at first nothing and nobody, in plaintext.
    pub access: Access,
    /// Where the node keeps what must survive a restart: its grants. Without it they don't.
    pub state_dir: Option<PathBuf>,
    /// Hosts behind the node that others may reach through it as `NODE/HOST:PORT`; none at first.
    pub allow_dial: Vec<AllowDial>,
    /// The proxy through which explorers are dialled, where that is the only way out. Services are never dialled
    /// through it.
    pub proxy: Option<Proxy>,
    /// How often services with an address are probed: a connection that is closed at once, which a service sees.
    /// [`PROBE_EVERY`](crate::PROBE_EVERY) is a good value, at least 50 ms are kept between two. Without it, or
    /// with [`Probe::Off`](crate::Probe::Off), a service's health is what its last visitor's connection said.
    pub probe_every: Option<Duration>,
    /// Counters of what the node itself calls, through its [`uplink`](crate::Node::uplink).
    pub caller_stats: Arc<reachback_client::Stats>,
    /// Counters of what the node serves.
    pub stats: Arc<Stats>,
    /// Counters of the sessions.
    pub link_stats: Arc<reachback_link::Stats>,
    /// The memory that all sessions of the process share.
    pub budget: Arc<MemoryBudget>,
    /// Which congestion control its sessions should have.
    pub congestion: Congestion,
    /// Whether records may be compressed, for services that ask for it.
    pub compression: Compression,
    /// How its sessions watch over their connections.
    pub rules: SessionRules,
    /// When it dials again, and whether it ever gives up.
    pub reconnect: ReconnectRules,
    /// What a request or an answer of a call may have, in bytes; more than [`CALL_BODY_MAX`] is taken for that.
    pub max_message: usize,
    /// How many opens of one service may wait for their turn behind those in flight.
    pub max_pending: usize,
    /// Where instance, nonces and delays come from.
    pub random: Random,
}

/// What is wrong with a configuration, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to dial.
    #[error(
        "no explorer is given; a node needs at least one address to dial, for example hub.example.com:9002"
    )]
    NoExplorer,
    /// Two lines to one explorer would be turned away as the same node twice.
    #[error("explorer {0} is given twice; give each explorer once")]
    ExplorerTwice(Address),
    /// A name means one thing.
    #[error("service \"{0}\" is declared twice; give the second one another name")]
    ServiceTwice(ServiceName),
    /// Labels are used in targets (`label=value/SERVICE`), so they must be writable there.
    #[error("label \"{entry}\": {reason}")]
    Label {
        /// As it was given.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The announcement would not fit into the frame it goes out in.
    #[error("services and labels are too many to announce, declare fewer: {0}")]
    TooMuch(String),
}

impl NodeConfig {
    /// A node called `id` that dials `explorers`, each on a line of its own, and serves nothing yet.
    ///
    /// # Errors
    /// No explorer, or one twice.
    pub fn new(id: NodeId, explorers: Vec<Address>) -> Result<Self, ConfigError> {
        if explorers.is_empty() {
            return Err(ConfigError::NoExplorer);
        }
        for (i, explorer) in explorers.iter().enumerate() {
            if explorers[..i].contains(explorer) {
                return Err(ConfigError::ExplorerTwice(explorer.clone()));
            }
        }
        Ok(Self {
            id,
            explorers,
            services: BTreeMap::new(),
            labels: BTreeMap::new(),
            access: Access::plain(),
            state_dir: None,
            allow_dial: Vec::new(),
            proxy: None,
            probe_every: None,
            caller_stats: Arc::default(),
            stats: Arc::default(),
            link_stats: Arc::default(),
            budget: Arc::new(MemoryBudget::new(DEFAULT_BUDGET)),
            congestion: Congestion::default(),
            compression: Compression::default(),
            rules: SessionRules::default(),
            reconnect: ReconnectRules::default(),
            max_message: CALL_BODY_MAX,
            max_pending: SERVICE_OPENS_WAITING,
            random: Random::system(),
        })
    }

    /// Adds a service.
    ///
    /// # Errors
    /// The name is taken, or the announcement gets too long.
    pub fn with_service(mut self, service: Service) -> Result<Self, ConfigError> {
        let name = service.name().clone();
        if self.services.insert(name.clone(), service).is_some() {
            return Err(ConfigError::ServiceTwice(name));
        }
        self.fits()
    }

    /// Adds a label, `region` and `eu` for example; a later value of the same key replaces the earlier.
    ///
    /// # Errors
    /// Key or value has what a target can't hold, or the announcement gets too long.
    pub fn with_label(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        if let Some(reason) = label_fault(key).or_else(|| label_fault(value)) {
            return Err(ConfigError::Label { entry: sanitize(&format!("{key}={value}"), 160), reason });
        }
        self.labels.insert(key.to_owned(), value.to_owned());
        self.fits()
    }

    /// The node's name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where it dials, one line each.
    pub fn explorers(&self) -> &[Address] {
        &self.explorers
    }

    /// What it serves.
    pub fn services(&self) -> &BTreeMap<ServiceName, Service> {
        &self.services
    }

    /// What it says of itself.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn fits(self) -> Result<Self, ConfigError> {
        fits(&self.labels, self.services.values())?;
        Ok(self)
    }
}

/// Whether all of it can be announced, as long as it can get: with every service failing for a reason that fills its
/// place, and with as many grants as there may be.
pub(crate) fn fits<'a>(
    labels: &BTreeMap<String, String>,
    services: impl IntoIterator<Item = &'a Service> + Clone,
) -> Result<(), ConfigError> {
    let reason = "\u{10ffff}".repeat(HEALTH_REASON_MAX);
    let failing =
        |service: &Service| (service.name().clone(), HealthState::Failing { reason: reason.clone() });
    let worst = services.clone().into_iter().map(failing).collect();
    let name = |length| "x".repeat(length);
    let grants = match (name(SERVICE_NAME_MAX).parse(), format!("node:{}", name(NODE_ID_MAX)).parse()) {
        (Ok(service), Ok(to)) => vec![GrantInfo { service, to, left_ms: u64::MAX }; GRANTS_MAX],
        // Names of these lengths are names.
        _ => Vec::new(),
    };
    announcement(labels, services, &worst, grants)
        .check()
        .map_err(|error| ConfigError::TooMuch(error.to_string()))
}

fn label_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("key and value can't be empty; write KEY=VALUE");
    }
    if text.len() > LABEL_MAX {
        return Some("key and value have at most 63 characters");
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (!text.chars().all(fine)).then_some("key and value consist of letters, digits, '.', '_' and '-'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig::new("edge-7".parse().unwrap(), vec!["hub".parse().unwrap()]).unwrap()
    }

    #[test]
    fn a_node_needs_somewhere_to_dial_once_each() {
        let id: NodeId = "edge-7".parse().unwrap();
        assert_eq!(NodeConfig::new(id.clone(), vec![]).unwrap_err(), ConfigError::NoExplorer);
        let twice = NodeConfig::new(id, vec!["hub".parse().unwrap(), "hub:9002".parse().unwrap()]);
        assert!(matches!(twice, Err(ConfigError::ExplorerTwice(_))));
    }

    #[test]
    fn names_are_unique_and_labels_fit_into_targets() {
        let ssh = || Service::parse("ssh=22").unwrap();
        let twice = config().with_service(ssh()).unwrap().with_service(ssh());
        assert!(matches!(twice, Err(ConfigError::ServiceTwice(_))));
        assert_eq!(config().with_label("region", "eu-1").unwrap().labels()["region"], "eu-1");
        for (key, value) in [("", "x"), ("x", ""), ("a/b", "x"), ("a", "b,c"), ("a=b", "c"), ("a", "\n")] {
            assert!(
                matches!(config().with_label(key, value), Err(ConfigError::Label { .. })),
                "{key:?}={value:?}"
            );
        }
    }

    #[test]
    fn an_announcement_that_fits_no_frame_is_refused_at_once() {
        let mut config = config();
        let refused = (0..100_000).find_map(|n| {
            match config.clone().with_service(Service::parse(&format!("s{n}=22")).unwrap()) {
                Ok(more) => {
                    config = more;
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(refused, Some(ConfigError::TooMuch(_))), "{refused:?}");
    }
}
