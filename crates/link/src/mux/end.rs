//! Why sessions, substreams and opens end. An end always has a reason that a person can act on.

use std::fmt;

use reachback_wire::{Code, Refusal};

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// What callers decide by. What was under way ends `lost` whatever this says.
    pub code: Code,
    /// The operator's sentence, already safe to print: "no heartbeat for 20 s".
    pub message: String,
}

impl SessionEnd {
    /// An end for this reason. `message` must be ours or sanitised.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SessionEnd {}

/// Why a substream can't be read or written any more. Four ends that look alike to a mux are four here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// The peer's `End` has been handed out already; or our own was sent, and this was a write.
    #[error("this direction is finished")]
    Finished,
    /// The peer reset it and said why.
    #[error("reset: {} ({text})", code.name())]
    Reset {
        /// The peer's code.
        code: Code,
        /// The peer's sentence, sanitised.
        text: String,
    },
    /// The peer let go of it without a word while the session lives.
    #[error("reset by the peer without a reason")]
    Dropped,
    /// The session ended before the substream did: the outcome of what was sent is unknown.
    #[error("the connection was lost: {0}")]
    Lost(SessionEnd),
    /// The peer sent what is no record, or none that may come now. It has been told so with this code, if the window
    /// took it.
    #[error("the peer broke the protocol: {1}")]
    Protocol(Code, String),
    /// We cut it off, because the peer filled the memory it may use and nobody read.
    #[error("more was sent than may wait unread")]
    OverBudget,
}

impl StreamEnd {
    /// The code for whoever is told next.
    pub fn code(&self) -> Code {
        match self {
            Self::Finished | Self::Dropped => Code::Reset,
            Self::Reset { code, .. } => *code,
            // Whoever used the name before the new holder is told so, instead of being left to wonder.
            Self::Lost(end) if end.code == Code::Replaced => Code::Replaced,
            Self::Lost(_) => Code::Lost,
            Self::Protocol(code, _) => *code,
            Self::OverBudget => Code::Saturated,
        }
    }
}

/// Why an open gave no substream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer refused; nothing reached the service.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer within the deadline.
    #[error("no answer to the open within its deadline")]
    Timeout,
    /// As many substreams are open as both sides agreed on, and none became free within the deadline.
    #[error("all {0} substreams of this connection are in use")]
    Saturated(u32),
    /// The session is over; nothing was sent.
    #[error("the connection is closed: {0}")]
    Ended(SessionEnd),
    /// The session ended after the open was sent: the outcome is unknown.
    #[error("the connection was lost: {0}")]
    Lost(SessionEnd),
    /// The peer answered with what is no answer, or let go without one.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
}

impl OpenError {
    /// The code for whoever is told next.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Timeout => Code::Timeout,
            Self::Saturated(_) => Code::Saturated,
            Self::Ended(_) => Code::NodeOffline,
            Self::Lost(_) => Code::Lost,
            Self::Protocol(_) => Code::BadFrame,
        }
    }
}

/// Why an inbound substream was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// The opener went away, or its session did.
    #[error("the opener went away: {0}")]
    Gone(StreamEnd),
    /// No complete `Open` within its deadline.
    #[error("no open header within its deadline")]
    Timeout,
    /// What came is no `Open`, or too much came before the answer. It has been refused.
    #[error("the opener broke the protocol: {0}")]
    Protocol(String),
    /// The work said no; the opener has been told.
    #[error(transparent)]
    Refused(Refusal),
}
