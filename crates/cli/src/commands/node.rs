//! `reachback node`: runs the agent and tells how each of its lines is.

use std::pin::pin;

use reachback_client::Membership;
use reachback_node::{ControlSocket, LineStatus, Node, NodeConfig};
use tokio::sync::watch;

use crate::{
    args::NodeArguments,
    commands::{
        forward,
        line::{AT_SIGHUP, Change, Told, short},
    },
    config::{
        self,
        joining::CredentialFiles,
        node::{Control, NodeSetup},
        origin::Origins,
        transport,
    },
    environment::Environment,
    exit::{Exit, Failure},
    open_files,
    output::Output,
    paths,
    signals::{Asked, Signals},
    time,
};

/// Runs until SIGINT or SIGTERM, reads what it shows again and dials at once at SIGHUP; says goodbye to every explorer.
pub(crate) async fn run(
    arguments: NodeArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let mut origins = Origins::default();
    let NodeSetup { config, membership, files, connect_timeout, forward, control } =
        config::node::resolve(arguments, environment, paths::is_root(), &mut origins)?;
    let kept = membership.as_ref().and_then(Membership::warning);
    for warning in origins.warnings().iter().cloned().chain(kept) {
        output.warning(warning);
    }
    let words = Words::of(&config, membership);
    if config.services().is_empty() {
        output.warning("this node offers no service, so nothing can reach it; add one: --service ssh=22");
    }
    let access = config.access.clone();
    let mut node = Node::start(config, transport::net(connect_timeout))
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    if let Some(socket) = control_socket(control, output).await? {
        node.serve_control(socket);
    }
    open_files::raise();
    let mut forwards = Vec::new();
    let opened = forward::open(&node.uplink(), forward, None, &mut forwards).await;
    let doors = match opened {
        Ok(opened) => forward::doors(&forwards, opened, &node.uplink(), output),
        Err(failure) => {
            signals.orderly(node.shutdown()).await?;
            return Err(failure);
        }
    };
    let mut states = node.states();
    let mut telling = pin!(tell(&mut states, &words, output));
    let mut doors = pin!(doors);
    let result = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End(_) => break Ok(()),
                Asked::Hangup => {
                    output.status(AT_SIGHUP);
                    match files.as_ref().map(CredentialFiles::read_again) {
                        None | Some(Ok(None)) => {}
                        Some(Ok(Some(new))) => {
                            access.replace(&new);
                            output.status("SIGHUP: what this node shows was read again; the next dial shows it");
                        }
                        Some(Err(failure)) => output.warning(format_args!(
                            "SIGHUP: {failure}; what this node showed before stays in use"
                        )),
                    }
                    node.dial_now();
                }
            },
            reason = node.failed() => break Err(Failure::new(Exit::Failed, reason)),
            error = forward::broken(&mut forwards) => {
                break Err(Failure::new(Exit::Failed, format_args!("a forwarded port broke: {error}")));
            }
            () = &mut doors => break Err(Failure::new(Exit::Failed, "the forwarded ports ended")),
            () = &mut telling => break Err(Failure::new(Exit::Failed, "the node ended by itself")),
        }
    };
    let end = async {
        for forward in forwards {
            forward.shutdown().await;
        }
        node.shutdown().await;
    };
    signals.orderly(end).await?;
    result
}

/// Where nobody asked for a socket, one that can't be made is no reason not to serve.
async fn control_socket(control: Control, output: Output) -> Result<Option<ControlSocket>, Failure> {
    match control {
        Control::Off => Ok(None),
        Control::At(path) => ControlSocket::bind(&path).await.map(Some).map_err(Failure::config),
        Control::Usual(path) => match ControlSocket::bind(&path).await {
            Ok(socket) => Ok(Some(socket)),
            Err(error) => {
                output.warning(format_args!("{error}; `reachback expose` can't reach this node"));
                Ok(None)
            }
        },
    }
}

/// What the status lines repeat.
struct Words {
    id: String,
    services: String,
    membership: Option<Membership>,
}

impl Words {
    fn of(config: &NodeConfig, membership: Option<Membership>) -> Self {
        let names: Vec<&str> = config.services().keys().map(AsRef::as_ref).collect();
        let services = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Self { id: config.id().to_string(), services, membership }
    }

    fn line(&self, explorer: &str, change: Change) -> String {
        let id = &self.id;
        match change {
            Change::Online { explorer: name, rtt } => {
                let rtt = rtt.map(|rtt| format!("  rtt {}", short(rtt))).unwrap_or_default();
                // It may have been renewed since the last time.
                let until = self.membership.as_ref().and_then(Membership::not_after_unix_ms);
                let until =
                    until.map(|end| format!("  certificate until {}", time::day(end))).unwrap_or_default();
                format!("{id} online at {name} ({explorer}){rtt}  services {}{until}", self.services)
            }
            Change::Late => format!("{id} late at {explorer}: bytes arrive, heartbeats are not answered"),
            Change::Offline { reason, wait } => {
                format!("{id} offline at {explorer}: {reason}; next attempt in {}", short(wait))
            }
        }
    }
}

/// One line per change that matters, for each explorer. Returns when there is nothing more to tell.
async fn tell(states: &mut watch::Receiver<Vec<LineStatus>>, words: &Words, output: Output) {
    let mut told: Vec<Told> = states.borrow().iter().map(|_| Told::default()).collect();
    loop {
        let lines = states.borrow_and_update().clone();
        for (line, told) in lines.iter().zip(&mut told) {
            if let Some(change) = told.change(&line.state) {
                output.status(words.line(&line.explorer.to_string(), change));
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}
