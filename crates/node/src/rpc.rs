//! Services that are functions of the embedding program and answer calls.
//!
//! A program that embeds a node should not have to open a socket to itself only to be called. So a function takes the
//! place of the service: it gets one request, understood as far as JSON-RPC goes, and what it returns is the answer. The
//! rest is as with any service: one deadline, exactly one outcome, a batch answered as a batch, the caller's id untouched.
//!
//! **Giving up is dropping.** When the caller takes its call back, its session ends or the deadline passes, the
//! function's future is dropped where it stands. What must be finished once begun belongs into a task of the program's
//! own. A panic is a reset for the caller and costs nobody else anything.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures::future::BoxFuture;
use reachback_wire::{Caller, ServiceName, text::sanitize};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tokio::{sync::mpsc, time::Instant};

use crate::limits::METHOD_SHOWN;

/// A service inside this program that answers calls. Closures of the shape
/// `Fn(Invocation) -> Future<Output = Result<impl Serialize, RpcError>>` are such.
pub trait CallHandler: Send + Sync + 'static {
    /// Carries out one request. For a notification the outcome is dropped.
    ///
    /// # Errors
    /// What the caller gets as the error of its call.
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>>;
}

impl<F, Fut, T> CallHandler for F
where
    F: Fn(Invocation) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, RpcError>> + Send + 'static,
    T: Serialize,
{
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let answering = self(invocation);
        Box::pin(async move { written(&answering.await?, "result") })
    }
}

/// One request to a service.
#[derive(Debug)]
pub struct Invocation {
    pub(crate) method: String,
    /// As the caller wrote them; none if it gave none.
    pub(crate) params: Option<Box<RawValue>>,
    /// Without an id in the request.
    pub(crate) notification: bool,
    pub(crate) context: Arc<Context>,
    /// Where items go, if the caller wants them.
    pub(crate) items: Option<mpsc::Sender<Vec<u8>>>,
}

/// What the requests of one call have in common.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) service: ServiceName,
    pub(crate) caller: Option<Caller>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) deadline: Instant,
}

/// The error of a call, as JSON-RPC has it. It reaches the caller unchanged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("error {code}: {message}")]
pub struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl Invocation {
    /// Which of the node's services is called.
    pub fn service(&self) -> &ServiceName {
        &self.context.service
    }

    /// Who calls, as the explorer says.
    pub fn caller(&self) -> Option<&Caller> {
        self.context.caller.as_ref()
    }

    /// What is asked for.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The parameters as a type of the program's own; parameters that were not given read as `null`. Nothing is built of
    /// them before, so a `T` that knows what it wants is also the bound on the memory they take.
    ///
    /// # Errors
    /// They don't fit: [`RpcError::INVALID_PARAMS`] with what is wrong, to be passed on with `?`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        let text = self.params.as_ref().map_or("null", |params| params.get());
        serde_json::from_str(text)
            .map_err(|error| RpcError::new(RpcError::INVALID_PARAMS, format!("params: {error}")))
    }

    /// A header that the caller gave, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.context.headers.iter();
        headers.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// All headers that the caller gave.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.context.headers
    }

    /// When nobody waits for the answer any more. The future is dropped then; whoever passes work on passes this on, too.
    pub fn deadline(&self) -> Instant {
        self.context.deadline
    }

    /// Whether there will be no answer, whatever is returned.
    pub fn is_notification(&self) -> bool {
        self.notification
    }

    /// Whether the caller asked for items. It can't get any in a batch.
    pub fn wants_items(&self) -> bool {
        self.items.is_some()
    }

    /// Sends something on the way to the answer, of any shape but that of an answer (an object with an `id`, and `result`
    /// or `error`). Waits while the caller is behind. Passed over, like every message of a service that a caller did not
    /// ask for, unless [`Self::wants_items`].
    ///
    /// # Errors
    /// It can't be written as JSON, or the call is over.
    pub async fn item(&self, item: &(impl Serialize + ?Sized)) -> Result<(), RpcError> {
        let Some(items) = &self.items else { return Ok(()) };
        let text: Box<str> = written(item, "item")?.into();
        let sent = items.send(String::from(text).into_bytes()).await;
        sent.map_err(|_| RpcError::new(RpcError::INTERNAL, "the call is over"))
    }
}

impl RpcError {
    /// JSON-RPC's number for a method that is not there.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// JSON-RPC's number for parameters that the method can't take.
    pub const INVALID_PARAMS: i64 = -32602;
    /// JSON-RPC's number for a failure of the service itself.
    pub const INTERNAL: i64 = -32603;

    /// An error with a number of the program's own (JSON-RPC keeps -32768 to -32000 to itself) and a sentence.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The answer to a method that the service does not have; `known` says which it has.
    pub fn method_not_found(invocation: &Invocation, known: &[&str]) -> Self {
        let method = sanitize(invocation.method(), METHOD_SHOWN);
        let message = format!(
            "service {} has no method \"{method}\"; it has: {}",
            invocation.service(),
            known.join(", ")
        );
        Self::new(Self::METHOD_NOT_FOUND, message)
    }

    /// The same error with something for programs to read.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Its number.
    pub fn code(&self) -> i64 {
        self.code
    }

    /// Its sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it has for programs.
    pub fn data(&self) -> Option<&Value> {
        self.data.as_ref()
    }
}

impl fmt::Debug for dyn CallHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallHandler")
    }
}

fn written(value: &(impl Serialize + ?Sized), what: &str) -> Result<Box<RawValue>, RpcError> {
    serde_json::value::to_raw_value(value)
        .map_err(|error| RpcError::new(RpcError::INTERNAL, format!("the {what} can't be written: {error}")))
}
