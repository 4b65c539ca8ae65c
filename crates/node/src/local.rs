//! What the control socket answers: how the node is, and changes to what it serves, for as long as it runs.
//!
//! A service that is exposed here is declared exactly as one that was given at the start: the same grammar, the same
//! limits, announced to every explorer at once. It is gone after a restart, so that a configuration file stays the
//! truth about a machine.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reachback_client::{Access, LineState};
use reachback_link::Pulse;
use reachback_wire::{CallerPattern, Code, HealthState, NodeId, ServiceName, text::sanitize};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{config::fits, grants::Grant, node::LineStatus, serve::Desk, service::Service};

/// The node as its control socket sees it.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) desk: Arc<Desk>,
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) lines: watch::Receiver<Vec<LineStatus>>,
    pub(crate) access: Access,
}

const METHODS: &str = "node.status, node.expose, node.unexpose, node.grant, node.revoke_grant, node.grants";

/// The errors of JSON-RPC itself; ours have the numbers of their codes.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;

#[derive(Deserialize)]
struct Request {
    jsonrpc: Option<String>,
    id: Option<Value>,
    method: String,
    #[serde(default)]
    params: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expose {
    service: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unexpose {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GiveGrant {
    service: String,
    to: String,
    for_ms: u64,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TakeGrant {
    service: String,
    to: String,
}

struct Problem {
    number: i32,
    message: String,
    code: Option<Code>,
}

/// The answer to `node.status`. Programs depend on these names.
#[derive(Serialize)]
struct Status<'a> {
    node: &'a NodeId,
    version: &'static str,
    labels: &'a BTreeMap<String, String>,
    lines: Vec<LineView>,
    services: Vec<ServiceView>,
    grants: Vec<GrantView>,
    /// Until when the node's certificate is good, if it has one that it got by joining.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_until_unix_ms: Option<u64>,
}

#[derive(Serialize)]
struct GrantView {
    service: ServiceName,
    to: CallerPattern,
    reason: String,
    left_ms: u64,
    until_unix_ms: u64,
}

#[derive(Serialize)]
struct LineView {
    /// The address that is dialled.
    explorer: String,
    state: &'static str,
    /// Who answers there.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// Why there is no session.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct ServiceView {
    name: ServiceName,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    framing: Option<&'static str>,
    health: HealthState,
}

impl Local {
    /// The answer to one line; none to a notification.
    pub(crate) fn answer(&self, line: &[u8]) -> Option<Vec<u8>> {
        let request: Request = match serde_json::from_slice::<Value>(line) {
            Err(error) => {
                return Some(encode(
                    &Value::Null,
                    Err(Problem::new(PARSE_ERROR, format!("no JSON: {error}"))),
                ));
            }
            Ok(value) => match serde_json::from_value(value) {
                Ok(request) => request,
                Err(error) => {
                    let text = format!("no JSON-RPC request: {error}");
                    return Some(encode(&Value::Null, Err(Problem::new(INVALID_REQUEST, text))));
                }
            },
        };
        let outcome = match request.jsonrpc.as_deref() {
            Some("2.0") => self.call(&request.method, request.params),
            _ => Err(Problem::new(INVALID_REQUEST, "write \"jsonrpc\": \"2.0\"")),
        };
        Some(encode(&request.id?, outcome))
    }

    /// The answer to a line that is longer than any request.
    pub(crate) fn too_long(&self) -> Vec<u8> {
        encode(&Value::Null, Err(Problem::new(INVALID_REQUEST, "the line is too long for a request")))
    }

    fn call(&self, method: &str, params: Value) -> Result<Value, Problem> {
        match method {
            "node.status" => serde_json::to_value(self.status())
                .map_err(|error| Problem::ours(Code::Internal, error.to_string())),
            "node.expose" => {
                let Expose { service } = read(params, "{\"service\": \"NAME=ADDRESS\"}")?;
                self.expose(&service)
            }
            "node.unexpose" => {
                let Unexpose { name } = read(params, "{\"name\": \"NAME\"}")?;
                self.unexpose(&name)
            }
            "node.grant" => {
                let form =
                    "{\"service\": \"NAME\", \"to\": \"WHO\", \"for_ms\": 3600000, \"reason\": \"TEXT\"}";
                self.grant(read(params, form)?)
            }
            "node.revoke_grant" => {
                self.revoke_grant(&read(params, "{\"service\": \"NAME\", \"to\": \"WHO\"}")?)
            }
            "node.grants" => Ok(json!({ "grants": self.grants() })),
            _ => {
                let text = format!("no method {}; there are {METHODS}", sanitize(method, 64));
                Err(Problem::new(METHOD_NOT_FOUND, text))
            }
        }
    }

    fn status(&self) -> Status<'_> {
        let listed = self.desk.catalogue.list();
        Status {
            node: &self.desk.id,
            version: env!("CARGO_PKG_VERSION"),
            labels: &self.labels,
            lines: self.lines.borrow().iter().map(LineView::of).collect(),
            services: listed.values().map(|declared| self.service(&declared.service)).collect(),
            grants: self.grants(),
            certificate_until_unix_ms: self
                .access
                .membership()
                .and_then(|membership| membership.not_after_unix_ms()),
        }
    }

    fn service(&self, service: &Service) -> ServiceView {
        ServiceView {
            name: service.name().clone(),
            address: service.endpoint().to_string(),
            framing: service.framing().map(|framing| framing.as_str()),
            health: self.desk.healths.of(service.name()),
        }
    }

    fn expose(&self, entry: &str) -> Result<Value, Problem> {
        let service: Service =
            entry.parse().map_err(|error| Problem::new(INVALID_PARAMS, format!("{error}")))?;
        let (name, address) = (service.name().clone(), service.endpoint().to_string());
        self.desk.catalogue.change(|services| {
            if let Some(declared) = services.get(&name) {
                let there = declared.service.endpoint();
                return Err(Problem::ours(
                    Code::Denied,
                    format!("service \"{name}\" is declared already, at {there}; unexpose it first, or choose another name"),
                ));
            }
            self.desk.healths.forget(&name);
            services.insert(name.clone(), self.desk.catalogue.declare(service));
            let all = services.values().map(|declared| &declared.service);
            fits(&self.labels, all).map_err(|error| Problem::ours(Code::TooLarge, error.to_string()))
        })?;
        tracing::info!(service = %name, %address, "exposed through the control socket");
        Ok(json!({ "name": name, "address": address }))
    }

    fn unexpose(&self, name: &str) -> Result<Value, Problem> {
        let name: ServiceName =
            name.parse().map_err(|error| Problem::new(INVALID_PARAMS, format!("{error}")))?;
        self.desk.catalogue.change(|services| {
            if services.remove(&name).is_some() {
                return Ok(());
            }
            let declared: Vec<&str> = services.keys().map(AsRef::as_ref).collect();
            let has = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
            Err(Problem::ours(
                Code::ServiceNotFound,
                format!("node {} declares no service \"{name}\"; it has: {has}", self.desk.id),
            ))
        })?;
        self.desk.healths.forget(&name);
        tracing::info!(service = %name, "taken back through the control socket");
        Ok(json!({ "name": name }))
    }
}

impl Local {
    fn grant(&self, GiveGrant { service, to, for_ms, reason }: GiveGrant) -> Result<Value, Problem> {
        let (service, to) = names(&service, &to)?;
        if self.desk.catalogue.find(&service).is_none() {
            return Err(Problem::ours(Code::ServiceNotFound, self.desk.not_declared(&service)));
        }
        let length = Duration::from_millis(for_ms);
        let now = self.access.clock().now_unix_ms();
        let given = self.desk.grants.give(service.clone(), to.clone(), length, reason, now);
        let grant = given.map_err(|error| Problem::new(INVALID_PARAMS, error.to_string()))?;
        tracing::info!(%service, %to, ?length, reason = %sanitize(&grant.reason, 200), "granted through the control socket");
        Ok(json!({ "service": service, "to": to, "until_unix_ms": grant.until_unix_ms }))
    }

    fn revoke_grant(&self, TakeGrant { service, to }: &TakeGrant) -> Result<Value, Problem> {
        let (service, to) = names(service, to)?;
        if !self.desk.grants.take_back(&service, &to) {
            let text = format!("nothing is granted to {to} on {service}; reachback status shows what is");
            return Err(Problem::ours(Code::Denied, text));
        }
        tracing::info!(%service, %to, "a grant was taken back through the control socket");
        Ok(json!({ "service": service, "to": to }))
    }

    fn grants(&self) -> Vec<GrantView> {
        let granted = self.desk.grants.list();
        let view = |((service, to), grant): (&(ServiceName, CallerPattern), &Arc<Grant>)| GrantView {
            service: service.clone(),
            to: to.clone(),
            reason: sanitize(&grant.reason, 200),
            left_ms: grant.left_ms(),
            until_unix_ms: grant.until_unix_ms,
        };
        granted.iter().map(view).collect()
    }
}

impl LineView {
    fn of(line: &LineStatus) -> Self {
        let mut view =
            Self { explorer: line.explorer.to_string(), state: "", name: None, rtt_ms: None, reason: None };
        match &line.state {
            LineState::Dialing { .. } => view.state = "dialing",
            LineState::Handshaking => view.state = "handshaking",
            LineState::Serving { explorer, pulse, rtt, .. } => {
                view.state = match pulse {
                    Pulse::Opening => "opening",
                    Pulse::Live => "online",
                    Pulse::Late => "late",
                };
                view.name = Some(explorer.clone());
                view.rtt_ms = rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3);
            }
            LineState::BackingOff { reason, .. } => {
                view.state = "waiting";
                view.reason = Some(sanitize(reason, 400));
            }
            LineState::Stopped => view.state = "stopped",
        }
        view
    }
}

impl Problem {
    fn new(number: i32, message: impl Into<String>) -> Self {
        Self { number, message: message.into(), code: None }
    }

    fn ours(code: Code, message: String) -> Self {
        Self { number: code.row().jsonrpc, message, code: Some(code) }
    }
}

fn names(service: &str, to: &str) -> Result<(ServiceName, CallerPattern), Problem> {
    let service = service.parse().map_err(|error| Problem::new(INVALID_PARAMS, format!("{error}")))?;
    let to = to.parse().map_err(|error| Problem::new(INVALID_PARAMS, format!("{error}")))?;
    Ok((service, to))
}

fn read<T: for<'de> Deserialize<'de>>(params: Value, form: &str) -> Result<T, Problem> {
    serde_json::from_value(params)
        .map_err(|error| Problem::new(INVALID_PARAMS, format!("params: {error}; write {form}")))
}

fn encode(id: &Value, outcome: Result<Value, Problem>) -> Vec<u8> {
    let answer = match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(Problem { number, message, code }) => {
            let mut error = json!({ "code": number, "message": message });
            if let Some(code) = code {
                error["data"] = json!({ "code": code });
            }
            json!({ "jsonrpc": "2.0", "id": id, "error": error })
        }
    };
    answer.to_string().into_bytes()
}
