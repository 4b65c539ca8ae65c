//! An explorer from start to end: the table of contents of this crate.
//!
//! Everything is bound before anything is served, so that a start either succeeds as a whole or says what is wrong.
//! Every task belongs to the [`Explorer`]; dropping it ends them, and [`Explorer::shutdown`] ends them in an order
//! that lets everyone be told.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use reachback_link::{ListenAddress, Listener, LocalAddress, Net, SocketError, SocketFile};
use reachback_wire::{Refusal, Target};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use crate::{
    auth::Authenticator,
    config::{ConfigError, ExplorerConfig},
    direct,
    events::Watcher,
    hub::Hub,
    join::{self, JoinLine},
    judge::Judge,
    keys::{Keys, KeysError},
    limits,
    listen::{ListenerRules, accept_loop},
    publish::Published,
    security::{Actor, Security},
    stats::Stats,
    view::{NodeView, NodesView},
    worker,
    workers::Workers,
};

/// A running explorer.
pub struct Explorer {
    hub: Arc<Hub>,
    addresses: Addresses,
    socket: Option<SocketFile>,
    loops: JoinSet<()>,
    failure: watch::Sender<Option<String>>,
}

/// Where a running explorer can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The tunnel's TCP addresses, in the order of the configuration, with real ports.
    pub listen: Vec<LocalAddress>,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// Published ports, in the order of the configuration, with real ports. Each is bound only while its target can
    /// be reached.
    pub published: Vec<(LocalAddress, Target)>,
}

/// Why an explorer did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A TCP address can't be had.
    #[error("{key} {address}: {source}; {}", remedy(source))]
    Listen {
        /// `listen` or `publish`.
        key: &'static str,
        /// Which address.
        address: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The Unix socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Certificates, tokens or what is known of them can't be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl Explorer {
    /// Starts an explorer that asks of peers what the modes of its listeners say. Where one of them has TLS, it makes
    /// or loads its certificates first. The tasks run on the caller's runtime; connections also on those of the
    /// configuration.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do about it.
    pub async fn start(config: ExplorerConfig, net: Arc<dyn Net>) -> Result<Self, StartError> {
        config.check()?;
        let keys = load_keys(&config).await?;
        let judge = Judge::new(&config, keys.as_ref().map(|keys| keys.security.clone()));
        Self::run_with(config, net, Arc::new(judge), keys).await
    }

    /// As [`Explorer::start`], with the caller's own judgement of who may come in.
    ///
    /// # Errors
    /// As [`Explorer::start`].
    pub async fn start_with(
        config: ExplorerConfig,
        net: Arc<dyn Net>,
        authenticator: Arc<dyn Authenticator>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let keys = load_keys(&config).await?;
        Self::run_with(config, net, authenticator, keys).await
    }

    async fn run_with(
        config: ExplorerConfig,
        net: Arc<dyn Net>,
        authenticator: Arc<dyn Authenticator>,
        keys: Option<Keys>,
    ) -> Result<Self, StartError> {
        let hub = Arc::new(Hub::new(&config, net.clone(), authenticator, keys));
        let failed = |key, address: &ListenAddress| {
            let address = address.clone();
            move |source| StartError::Listen { key, address, source }
        };

        let mut addresses = Addresses::default();
        let mut listeners = Vec::new();
        for (wanted, has) in config.all_listeners().into_iter().zip(config.modes()) {
            let listener = net.listen(&wanted.address).await.map_err(failed("listen", &wanted.address))?;
            addresses.listen.push(listener.local());
            let (allow, proxy_from) = (wanted.allow, wanted.proxy_from);
            listeners.push((listener, ListenerRules { mode: has.mode, allow, proxy_from }));
        }
        let mut socket = None;
        if let Some(wanted) = &config.socket {
            let (listener, file) = wanted.place(config.socket_group).bind().await?;
            addresses.socket = Some(wanted.path.clone());
            listeners.push((Listener::unix(listener, wanted.path.clone()), ListenerRules::local()));
            socket = Some(file);
        }
        let mut published = Vec::new();
        for publication in &config.publish {
            let prepared = Published::prepare(&hub, net.as_ref(), publication).await;
            let prepared = prepared.map_err(failed("publish", &publication.listen))?;
            addresses.published.push((prepared.local(), publication.target.clone()));
            published.push(prepared);
        }

        // Set once: nobody else has this hub yet.
        let _ = hub.whereabouts.set(join::whereabouts(&config, &addresses));
        let _ = hub.addresses.set(addresses.clone());
        let mut explorer = Self {
            hub: hub.clone(),
            addresses,
            socket,
            loops: JoinSet::new(),
            failure: watch::Sender::new(None),
        };
        let (workers, inboxes) = Workers::new(1 + config.runtimes.len());
        let workers = Arc::new(workers);
        let runtimes = std::iter::once(Handle::current()).chain(config.runtimes.iter().cloned());
        for (runtime, inbox) in runtimes.zip(inboxes) {
            explorer.run_on(&runtime, "worker", worker::run(hub.clone(), inbox));
        }
        explorer.run("watch over nodes with an address", direct::watch_over(hub.clone()));
        if hub.keys.is_some() {
            explorer.run("forgetting nodes that come and go", forget_ephemeral(hub.clone()));
            let hub = hub.clone();
            explorer.run("care for its certificates", async move {
                if let Some(keys) = &hub.keys {
                    keys.follow(&hub.closing).await;
                }
            });
        }
        for (listener, rules) in listeners {
            let (hub, workers, rules) = (hub.clone(), workers.clone(), Arc::new(rules));
            explorer.run("accept loop", async move {
                accept_loop(listener, rules, workers, &hub.stats.accept_pauses, hub.closing.clone()).await;
            });
        }
        for publication in published {
            explorer.run("published port", publication.run(hub.clone(), net.clone(), workers.clone()));
        }
        Ok(explorer)
    }

    /// Where it can be reached, with the ports the kernel chose.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Every node it knows, as `explorer.nodes` shows them.
    pub fn nodes(&self) -> Vec<NodeView> {
        NodesView::of(&self.hub).nodes
    }

    /// Follows changes of nodes from now on.
    pub fn watch(&self) -> Watcher {
        self.hub.registry.watch()
    }

    /// What knows its certificates, tokens and what was revoked; none where no listener has TLS.
    pub fn security(&self) -> Option<&Arc<Security>> {
        self.hub.security()
    }

    /// A join string that lets in one node, of whatever name, within this time; `None` where no listener has TLS.
    /// Writes to the state directory.
    ///
    /// # Errors
    /// The token can't be made or kept.
    pub async fn first_join(&self, ttl: Duration) -> Result<Option<JoinLine>, Refusal> {
        if self.hub.keys.is_none() {
            return Ok(None);
        }
        let by = Actor::new("whoever started the explorer", "its terminal");
        join::create(&self.hub, join::one_node(ttl), by).await.map(|(line, _)| Some(line))
    }

    /// Reads the files of certificates again and shows what is in them from the next handshake on. Sessions that stand
    /// go on. Nothing to do where no listener has TLS.
    ///
    /// # Errors
    /// The first file that can't be used, and why; what was in use stays in use.
    pub async fn reload(&self) -> Result<(), KeysError> {
        let hub = self.hub.clone();
        let reading = spawn_blocking(move || hub.keys.as_ref().map_or(Ok(()), Keys::reload));
        reading.await.unwrap_or_else(|error| Err(KeysError::Panicked(error.to_string())))
    }

    /// Its counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.hub.stats
    }

    /// Waits until a part of it that should run for ever has ended, and says which. The explorer is of no use then:
    /// shut it down and end the process.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        // The sender lives as long as `self`.
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Ends it: nobody new, then goodbye to everyone, then the end, at the latest after the configured grace.
    pub async fn shutdown(mut self) {
        // 1. Doors first: whoever dials now is refused at once and goes elsewhere, and the next explorer can bind.
        self.hub.closing.cancel();
        drop(self.socket.take());
        // 2. Sessions say why they end, so that nodes dial again without waiting for silence.
        self.hub.stopping.cancel();
        // 3. The loops end by themselves; each worker waits for its connections, but not for ever.
        while self.loops.join_next().await.is_some() {}
    }

    fn run(&mut self, name: &'static str, service: impl Future<Output = ()> + Send + 'static) {
        self.run_on(&Handle::current(), name, service);
    }

    fn run_on(
        &mut self,
        runtime: &Handle,
        name: &'static str,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        let alarm = Alarm { name, hub: self.hub.clone(), failure: self.failure.clone() };
        self.loops.spawn_on(
            async move {
                let _alarm = alarm;
                service.await;
            },
            runtime,
        );
    }
}

/// Sees to it that containers that are gone leave no ghosts, until the explorer closes.
async fn forget_ephemeral(hub: Arc<Hub>) {
    let looking = async {
        loop {
            sleep(limits::EPHEMERAL_LOOK).await;
            hub.registry.forget_ephemeral();
        }
    };
    hub.closing.run_until_cancelled(looking).await;
}

/// What listeners with TLS need, if there are any.
async fn load_keys(config: &ExplorerConfig) -> Result<Option<Keys>, KeysError> {
    let (true, Some(state_dir)) = (config.is_secured(), config.state_dir.clone()) else { return Ok(None) };
    let (rules, web) = (config.security()?, config.web.clone());
    let loading = spawn_blocking(move || Keys::load(&state_dir, rules, web));
    loading.await.unwrap_or_else(|error| Err(KeysError::Panicked(error.to_string()))).map(Some)
}

/// Rings when a loop ends, by return or by panic, before it was told to.
struct Alarm {
    name: &'static str,
    hub: Arc<Hub>,
    failure: watch::Sender<Option<String>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.hub.closing.is_cancelled() {
            let reason =
                format!("the {} of the explorer ended by itself; see the log for the reason", self.name);
            self.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                failure.get_or_insert(reason);
                first
            });
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: stop it or choose another port",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: see `ip address`, or leave the host out"
        }
        _ => "choose another address",
    }
}

#[cfg(test)]
mod tests {
    use reachback_link::RealNet;

    use super::*;

    #[tokio::test]
    async fn a_loop_that_ends_early_is_noticed_and_one_that_was_told_to_is_not() {
        let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
        config.listen.push("127.0.0.1:0".parse().unwrap());
        let mut explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
        explorer.run("test loop", async { panic!("on purpose") });
        assert!(explorer.failed().await.contains("test loop"));

        let failure = explorer.failure.clone();
        failure.send_replace(None);
        explorer.shutdown().await;
        assert_eq!(*failure.borrow(), None);
    }
}
