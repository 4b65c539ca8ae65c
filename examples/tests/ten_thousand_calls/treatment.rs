//! What a service does with a call, and what its caller has to learn from that.

use std::time::Duration;

use reachback_wire::Code;
use serde_json::{Value, json};

/// The three framings, and with them what a service can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Http,
    Lines,
    Raw,
}

/// How a call is treated. It travels as the call's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Answered as soon as it is read.
    Now,
    /// Answered after calls that came later.
    Turned,
    /// Answered in a handful of writes that cut JSON, escapes and characters wherever they like.
    Pieces,
    /// Answered byte by byte.
    Dribble,
    /// Answered with an error of the service's own.
    Error,
    /// Answered with something that is no JSON-RPC; with `lines` the right line follows it.
    Garbage,
    /// Answered under an id that nobody asked with.
    WrongId,
    /// Answered when the caller has stopped waiting.
    Late,
    /// Read, and never answered; the connection stays.
    Never,
    /// Read, and the connection closed.
    Closed,
    /// Read, half answered, and the connection closed.
    Cut,
}

/// What a caller ends up with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Result(Value),
    /// The service's own error: number, message, data.
    Error(i64, String, Option<Value>),
    Failed(Code),
}

/// The limit of calls that run into it: long enough for a busy machine to bring them to the service.
pub(crate) const SHORT: Duration = Duration::from_secs(2);
/// The limit of all others.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// When a late answer comes: when its caller must have its outcome long since.
pub(crate) const LATE: Duration = Duration::from_secs(4);

impl Framing {
    pub(crate) const ALL: [Self; 3] = [Self::Http, Self::Lines, Self::Raw];

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Lines => "lines",
            Self::Raw => "raw",
        }
    }
}

impl How {
    pub(crate) const ALL: [Self; 11] = [
        Self::Now,
        Self::Turned,
        Self::Pieces,
        Self::Dribble,
        Self::Error,
        Self::Garbage,
        Self::WrongId,
        Self::Late,
        Self::Never,
        Self::Closed,
        Self::Cut,
    ];

    /// The mix: mostly answers in every order and form, two in a hundred that run into their limit. Single bytes are rarer,
    /// because each is a record of its own, and closings rarer still, because with `lines` they take along everything
    /// else on the connection; after the first half there are none, so that there too some calls live to see their limit.
    pub(crate) fn of(call: usize) -> Self {
        match (call % 2000, call % 200) {
            (499 | 1499, _) if call < 5000 => Self::Closed,
            (999 | 1999, _) if call < 5000 => Self::Cut,
            (4 | 1004, _) => Self::Dribble,
            (_, 0) => Self::Never,
            (_, 1 | 2) => Self::Late,
            (_, 3) => Self::WrongId,
            (_, 5..=8) => Self::Garbage,
            (_, 9..=18) => Self::Error,
            (_, 19..=58) => Self::Turned,
            (_, 59..=98) => Self::Pieces,
            _ => Self::Now,
        }
    }

    pub(crate) fn method(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn from_method(method: &str) -> Self {
        Self::ALL.into_iter().find(|how| how.method() == method).expect("a method of this test")
    }

    pub(crate) fn limit(self) -> Duration {
        match self {
            Self::Late | Self::Never | Self::WrongId => SHORT,
            _ => LONG,
        }
    }

    /// The one right outcome of a call, as long as its connection lives.
    pub(crate) fn outcome(self, framing: Framing, params: &Value) -> Outcome {
        let shares = framing == Framing::Lines;
        match self {
            Self::Now | Self::Turned | Self::Pieces | Self::Dribble => Outcome::Result(result(params)),
            Self::Garbage if shares => Outcome::Result(result(params)),
            Self::Error => Outcome::Error(-7, error_message(params), Some(params.clone())),
            // The connection belongs to the call, so what comes on it is taken for its answer, and is none.
            Self::Garbage => Outcome::Failed(Code::BadFrame),
            Self::WrongId if !shares => Outcome::Failed(Code::BadFrame),
            Self::WrongId | Self::Late | Self::Never => Outcome::Failed(Code::Timeout),
            Self::Closed | Self::Cut if shares => Outcome::Failed(Code::Lost),
            Self::Closed | Self::Cut => Outcome::Failed(Code::Reset),
        }
    }
}

/// Parameters that no two calls share, with everything in them that a reader of JSON can stumble over.
pub(crate) fn params(call: usize) -> Value {
    let filling = "ü\"\\\n{[]}💡 ".repeat(call % 23);
    json!({"call": call, "text": format!("{call}:{filling}"), "id": call + 1})
}

pub(crate) fn result(params: &Value) -> Value {
    json!({"done": params, "error": null})
}

pub(crate) fn error_message(params: &Value) -> String {
    format!("call {} is refused", params["call"])
}

/// What the service writes as its answer, whole and under this id.
pub(crate) fn answer(how: How, id: &Value, params: &Value) -> String {
    if how == How::Error {
        let error = json!({"code": -7, "message": error_message(params), "data": params});
        return json!({"jsonrpc": "2.0", "error": error, "id": id}).to_string();
    }
    json!({"jsonrpc": "2.0", "id": id, "result": result(params)}).to_string()
}
