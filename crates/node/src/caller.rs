//! The node as a caller: its lines, offered to whatever listens on this machine.
//!
//! A service beside a node often needs one beside another. It connects to a local port, and the node carries it over
//! the line that it keeps anyway: no second identity, no second connection, and the explorer's rights for this node.

use reachback_client::{LineState, UplinkLine};
use reachback_link::Session;
use tokio::sync::watch;

/// Where one line writes what callers need.
#[derive(Debug)]
pub(crate) struct CallerLine {
    session: watch::Sender<Option<Session>>,
    state: watch::Sender<LineState>,
}

impl CallerLine {
    pub(crate) fn new() -> Self {
        Self {
            session: watch::Sender::new(None),
            state: watch::Sender::new(LineState::Dialing { attempt: 1 }),
        }
    }

    /// What a caller holds of it.
    pub(crate) fn subscribe(&self) -> UplinkLine {
        UplinkLine { session: self.session.subscribe(), state: self.state.subscribe() }
    }

    pub(crate) fn stands(&self, session: Session) {
        self.session.send_replace(Some(session));
    }

    pub(crate) fn is_down(&self) {
        self.session.send_if_modified(|session| session.take().is_some());
    }

    pub(crate) fn does(&self, state: LineState) {
        self.state.send_replace(state);
    }
}
