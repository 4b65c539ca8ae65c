//! A running node: its lines, its shutdown, and what it tells the program around it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use reachback_client::{
    Access, Identity, LineError, LineState, RandomError, StateDir, StateError, Uplink,
    line::{Line, LineEnd},
};
use reachback_link::{Address, Net, Proxied};
use reachback_wire::{NodeId, Role};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent, caller::CallerLine, config::NodeConfig, control_socket::ControlSocket, grants::Grants,
    health, limits::SHUTDOWN, local::Local, serve::Desk,
};

/// One line as others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct LineStatus {
    /// The explorer it dials.
    pub explorer: Address,
    /// What it is doing.
    pub state: LineState,
    /// How its last session or attempt ended: still there when the line is up again at once.
    pub last_end: Option<LineEnd>,
}

/// Where the lines write what others see.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Vec<LineStatus>>);

impl Board {
    fn new(explorers: &[Address]) -> Self {
        let begin = |explorer: &Address| LineStatus {
            explorer: explorer.clone(),
            state: LineState::Dialing { attempt: 1 },
            last_end: None,
        };
        Self(watch::Sender::new(explorers.iter().map(begin).collect()))
    }

    /// Changes what stands about line `slot`.
    pub(crate) fn write(&self, slot: u32, change: impl FnOnce(&mut LineStatus)) {
        self.0.send_modify(|lines| {
            if let Some(line) = lines.get_mut(slot as usize) {
                change(line);
            }
        });
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it keeps can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// It can't even say who it is.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// A node at work. Dropping it ends all its sessions without a goodbye; [`Node::shutdown`] says one.
pub struct Node {
    id: NodeId,
    states: watch::Receiver<Vec<LineStatus>>,
    redial: watch::Sender<u64>,
    stop: CancellationToken,
    uplink: Uplink,
    desk: Arc<Desk>,
    labels: Arc<BTreeMap<String, String>>,
    access: Access,
    /// The lines, and what runs beside them as long as they do.
    tasks: JoinSet<Result<(), LineError>>,
}

impl Node {
    /// Starts one line per explorer and returns at once; [`Node::states`] tells what comes of them. The lines are
    /// independent: an explorer that is down delays no other. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What is kept in the state directory can't be used, or the operating system gives no random bytes.
    pub fn start(config: NodeConfig, net: Arc<dyn Net>) -> Result<Self, StartError> {
        let identity = Arc::new(Identity::new(Role::Node, config.id().clone(), config.random.clone())?);
        let clock = config.access.clock();
        let state = config.state_dir.as_ref().map(StateDir::at);
        let grants = Arc::new(Grants::load(state, clock.now_unix_ms())?);
        let desk = Arc::new(Desk::new(&config, identity.instance(), net.clone(), grants.clone()));
        let net = match config.proxy.clone() {
            Some(proxy) => Arc::new(Proxied::new(net, proxy)),
            None => net,
        };
        let labels = Arc::new(config.labels().clone());
        let board = Arc::new(Board::new(config.explorers()));
        let states = board.0.subscribe();
        let (redial, redialled) = watch::channel(0);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut uplink = Vec::new();
        for (slot, explorer) in (0..).zip(config.explorers()) {
            let caller = Arc::new(CallerLine::new());
            uplink.push(caller.subscribe());
            let line = Line {
                net: net.clone(),
                to: explorer.clone(),
                slot,
                identity: identity.clone(),
                access: config.access.clone(),
                stats: config.link_stats.clone(),
                budget: config.budget.clone(),
                congestion: config.congestion.clone(),
                compression: config.compression,
                rules: config.rules,
                reconnect: config.reconnect,
                publish: {
                    let (board, caller) = (board.clone(), caller.clone());
                    Arc::new(move |state: LineState| {
                        caller.does(state.clone());
                        board.write(slot, |line| line.state = state);
                    })
                },
                redial: redialled.clone(),
                stop: stop.clone(),
            };
            let access = config.access.clone();
            let mut agent = Agent::new(desk.clone(), labels.clone(), access, board.clone(), slot, caller);
            tasks.spawn(async move { line.run(&mut agent).await });
        }
        if let Some(every) = config.probe_every {
            let (desk, stop) = (desk.clone(), stop.clone());
            tasks.spawn(async move {
                let probing = stop.run_until_cancelled(health::probe(desk, identity, every)).await;
                Ok(probing.unwrap_or(Ok(()))?)
            });
        }
        tasks.spawn({
            let stop = stop.clone();
            async move {
                grants.run(stop).await;
                Ok(())
            }
        });
        let uplink = Uplink::new(uplink, config.caller_stats.clone());
        Ok(Self {
            id: config.id().clone(),
            states,
            redial,
            stop,
            uplink,
            desk,
            labels,
            access: config.access,
            tasks,
        })
    }

    /// The name it goes by.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// What each line is doing, in the order of the configured explorers.
    pub fn states(&self) -> watch::Receiver<Vec<LineStatus>> {
        self.states.clone()
    }

    /// The node as a caller: its lines, for [`Forward`](reachback_client::Forward) and
    /// [`Socks`](reachback_client::Socks). It carries nothing any more once the node has been shut down.
    pub fn uplink(&self) -> Uplink {
        self.uplink.clone()
    }

    /// Answers on a control socket until the node is shut down. Whoever can connect to it can change what the node
    /// serves.
    pub fn serve_control(&mut self, socket: ControlSocket) {
        let local = Local {
            desk: self.desk.clone(),
            labels: self.labels.clone(),
            lines: self.states.clone(),
            access: self.access.clone(),
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            socket.serve(local, stop).await;
            Ok(())
        });
    }

    /// Ends the wait of every line that is waiting for its next attempt; does nothing to the others.
    pub fn dial_now(&self) {
        self.redial.send_modify(|requests| *requests += 1);
    }

    /// Resolves when a line, or what runs beside it, has ended though nobody asked it to, with the reason: whoever runs the node should end
    /// then, loudly, instead of going on without it. Never resolves while all is well. Cancel-safe.
    pub async fn failed(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) => return format!("a task of node {} failed: {error}", self.id),
                Some(Ok(Err(error))) => return format!("a task of node {} ended: {error}", self.id),
                Some(Ok(Ok(()))) if self.stop.is_cancelled() => {}
                Some(Ok(Ok(()))) => {
                    return format!("a task of node {} ended without being asked to", self.id);
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Says goodbye to every explorer and waits until all lines have ended, at most four seconds. Streams that are
    /// still open end as `lost` for their visitors.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let gone = async {
            while let Some(finished) = self.tasks.join_next().await {
                if let Err(error) = finished {
                    tracing::error!(%error, "a line failed while shutting down");
                }
            }
        };
        if timeout(SHUTDOWN, gone).await.is_err() {
            tracing::warn!("a line did not end in time and was cut off");
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("states", &*self.states.borrow())
            .finish_non_exhaustive()
    }
}
