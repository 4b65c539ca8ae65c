//! A client that stays: it keeps one session with its explorer and dials again whenever that ends.
//!
//! While there is no session an open fails at once with the reason instead of waiting: whoever asks can decide to
//! wait, and a visitor of a forwarded port learns the truth right away.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use reachback_link::{Address, Net, OpenError, Session, Substream};
use reachback_wire::{Code, Open, Target};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{ClientOptions, listen, refuse_all},
    limits::GOODBYE,
    line::{Line, LineEnd, LineState, Standing, Tenant},
    stats::Stats,
    uplink::{Uplink, UplinkLine},
};

/// A client with its own dial loop. Dropping it ends the session and every substream of it.
pub struct Reconnecting {
    session: watch::Receiver<Option<Session>>,
    states: watch::Receiver<LineState>,
    stats: Arc<Stats>,
    redial: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum NoStream {
    /// There is no session with the explorer at the moment; nothing was sent.
    #[error("not connected to the explorer: {0}")]
    NotConnected(String),
    /// The session stands and the stream did not come about.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Reconnecting {
    /// Starts dialing `to` and returns at once; [`Reconnecting::states`] tells what comes of it.
    pub fn start(net: Arc<dyn Net>, to: Address, options: ClientOptions) -> Self {
        let (publish_session, session) = watch::channel(None);
        let (publish, states) = watch::channel(LineState::Dialing { attempt: 1 });
        let (redial, redialled) = watch::channel(0);
        let stop = CancellationToken::new();
        let line = Line {
            net,
            to,
            slot: 0,
            identity: options.identity,
            access: options.access,
            stats: options.link_stats,
            budget: options.budget,
            congestion: options.congestion,
            compression: options.compression,
            rules: options.rules,
            reconnect: options.reconnect,
            publish: Arc::new(move |state| drop(publish.send_replace(state))),
            redial: redialled,
            stop: stop.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = line.run(&mut Holder { session: publish_session }).await {
                tracing::error!(%error, "the client's line ended");
            }
        });
        Self { session, states, stats: options.stats, redial, stop, tasks }
    }

    /// Opens a byte stream to a service.
    ///
    /// # Errors
    /// There is no session now, or the stream did not come about.
    pub async fn open(&self, target: Target) -> Result<Substream, NoStream> {
        let Some(session) = self.session() else {
            return Err(NoStream::NotConnected(self.states.borrow().why_not()));
        };
        Ok(session.open(Open::stream(target)).await?)
    }

    /// The session, while there is one.
    pub fn session(&self) -> Option<Session> {
        self.session.borrow().clone()
    }

    /// What the line is doing. Its last value is [`LineState::Stopped`].
    pub fn states(&self) -> watch::Receiver<LineState> {
        self.states.clone()
    }

    /// A handle on the line for whatever listens here. It does not keep the client alive.
    pub fn uplink(&self) -> Uplink {
        let line = UplinkLine { session: self.session.clone(), state: self.states.clone() };
        Uplink::new([line], self.stats.clone())
    }

    /// Ends a wait between attempts; does nothing while a session stands.
    pub fn dial_now(&self) {
        self.redial.send_modify(|requests| *requests += 1);
    }

    /// The counters given at the start.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Says goodbye and waits until the line has ended, at most two and a half seconds.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE * 2, gone).await.is_err() {
            tracing::debug!("the explorer did not take the goodbye in time");
        }
    }
}

impl NoStream {
    /// The same as a code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotConnected(_) => Code::PeerUnreachable,
            Self::Open(error) => error.code(),
        }
    }

    /// Whether waiting can help a visitor of whom nothing was sent along with the open.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::NotConnected(_) | Self::Open(OpenError::Ended(_) | OpenError::Lost(_)) => true,
            Self::Open(OpenError::Refused(refusal)) => {
                matches!(refusal.code, Code::NodeOffline | Code::NotHere | Code::Draining | Code::Saturated)
            }
            Self::Open(_) => false,
        }
    }

    /// How long whoever refused asks to be left alone.
    pub(crate) fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Open(OpenError::Refused(refusal)) => refusal.wait(),
            Self::NotConnected(_) | Self::Open(_) => None,
        }
    }
}

/// Holds up the session for others to use.
struct Holder {
    session: watch::Sender<Option<Session>>,
}

impl Tenant for Holder {
    fn live(&mut self, standing: Standing) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.session.send_replace(Some(standing.session));
            tokio::join!(refuse_all(standing.incoming), listen(standing.control));
            self.session.send_replace(None);
        })
    }

    fn ended(&mut self, _: &LineEnd) {
        self.session.send_replace(None);
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        self.session.send_replace(None);
        Box::pin(async {})
    }
}
