//! The lines of a process as its listeners see them: whichever session stands is good.
//!
//! A client that stays has one line and a node may have several, to explorers that know different nodes. Forwarded
//! ports and SOCKS need the same of both: a stream to a target over any session that can carry it, and the truth when
//! none can. What one explorer has refused because it does not know or have the node is asked of the next: a refusal
//! promises that nothing reached the service.

use std::sync::Arc;

use reachback_link::{OpenError, Session, Substream};
use reachback_wire::{Code, Open, Target};
use tokio::sync::watch;

use crate::{line::LineState, reconnecting::NoStream, stats::Stats};

/// A cheap handle on the lines of a process. It does not keep them: they end with the client or node it is from.
#[derive(Clone)]
pub struct Uplink {
    lines: Arc<[UplinkLine]>,
    stats: Arc<Stats>,
}

/// One line of them.
#[derive(Clone)]
pub struct UplinkLine {
    /// The session, while there is one.
    pub session: watch::Receiver<Option<Session>>,
    /// What the line is doing.
    pub state: watch::Receiver<LineState>,
}

impl Uplink {
    /// A handle on these lines, asked in this order; visitors are counted in `stats`.
    pub fn new(lines: impl IntoIterator<Item = UplinkLine>, stats: Arc<Stats>) -> Self {
        Self { lines: lines.into_iter().collect(), stats }
    }

    /// Opens a byte stream to a service.
    ///
    /// # Errors
    /// There is no session now, or the stream did not come about. Of what several explorers say the word that may
    /// change counts most: one that knows the node as offline knows more than one that has never heard of it.
    pub async fn open(&self, target: &Target) -> Result<Substream, NoStream> {
        let mut refused: Option<NoStream> = None;
        let mut not_asked = Vec::new();
        for line in &*self.lines {
            let session = line.session.borrow().clone();
            let Some(session) = session else {
                not_asked.push(line.state.borrow().why_not());
                continue;
            };
            match session.open(Open::stream(target.clone())).await {
                Ok(substream) => return Ok(substream),
                Err(error) if may_be_elsewhere(&error) => {
                    let error = NoStream::from(error);
                    if error.passes() || !refused.as_ref().is_some_and(NoStream::passes) {
                        refused = Some(error);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        match refused {
            Some(error) if error.passes() || not_asked.is_empty() => Err(error),
            Some(error) => {
                let others = not_asked.join("; ");
                Err(NoStream::NotConnected(format!("{others}; another one says: {error}")))
            }
            None if self.lines.is_empty() => Err(NoStream::NotConnected("it has no line".into())),
            None => Err(NoStream::NotConnected(not_asked.join("; "))),
        }
    }

    /// The lines, in the order in which they are asked.
    pub fn lines(&self) -> &[UplinkLine] {
        &self.lines
    }

    /// Where visitors are counted.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

impl LineState {
    /// Why there is no session, as the end of a sentence.
    pub(crate) fn why_not(&self) -> String {
        match self {
            Self::Dialing { .. } => "dialing it now".into(),
            Self::Handshaking => "shaking hands with it now".into(),
            Self::Serving { .. } => "the session has just ended".into(),
            Self::BackingOff { reason, .. } => reason.clone(),
            Self::Stopped => "the line has stopped".into(),
        }
    }
}

/// Whether another explorer could have the node.
fn may_be_elsewhere(error: &OpenError) -> bool {
    match error {
        OpenError::Refused(refusal) => {
            matches!(refusal.code, Code::NodeNotFound | Code::NodeOffline | Code::NotHere | Code::Draining)
        }
        OpenError::Ended(_) => true,
        OpenError::Timeout | OpenError::Saturated(_) | OpenError::Lost(_) | OpenError::Protocol(_) => false,
    }
}
