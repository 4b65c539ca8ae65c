//! Which open may reach what: the node's own decision, made again for every one of them.
//!
//! The explorer has authorised the open already. The node decides on what only it can know (that it is the process that
//! was meant, that the service was declared or the host allowed) and on what its owner has said about callers. So an
//! explorer that lies, lags or is compromised still reaches nothing but what was declared, for whom it was declared.

use std::sync::Arc;

use reachback_wire::{Caller, Code, Open, OpenKind, Refusal, ServiceName, Target};

use crate::{
    catalogue::Declared,
    grants::{Lease, over, who},
    serve::Desk,
    service::{Endpoint, Service},
};

/// What an open may reach.
pub(crate) enum Admitted {
    /// A declared service; for as long as a grant lasts, if it is only for that.
    Service(Arc<Declared>, Option<Lease>),
    /// A host behind the node, whose addresses have still to be looked at.
    Host { host: String, port: u16 },
}

impl Desk {
    /// What is meant: a declared service or a host behind the node, or why there is neither.
    pub(crate) fn admit(&self, open: &Open) -> Result<Admitted, Refusal> {
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        if let Some(expected) = open.expect_instance
            && expected != self.instance
        {
            return refuse(Code::NotHere, format!("node {} has been restarted since; try again", self.id));
        }
        if open.hop > 1 {
            return refuse(
                Code::NotHere,
                format!("the open came over {} explorers, 1 is the most", open.hop),
            );
        }
        let name = match &open.target {
            Some(Target::Service { node, service }) if *node == self.id => service,
            Some(Target::Dial { node, host, port }) if *node == self.id => {
                if self.allow_dial.is_empty() {
                    let text = format!(
                        "node {} opens no way to other hosts; reach one of its services, or start it with --allow-dial \
                         CIDR:PORTS",
                        self.id
                    );
                    return refuse(Code::Denied, text);
                }
                if open.kind != OpenKind::Stream {
                    let text =
                        "calls go to services; a host behind a node takes streams (connect, forward, socks)";
                    return refuse(Code::BadFrame, text.into());
                }
                if open.caller.as_ref().is_some_and(|caller| caller.granted) {
                    return refuse(Code::Denied, "a grant is for a service, not for other hosts".into());
                }
                return Ok(Admitted::Host { host: host.clone(), port: *port });
            }
            Some(other) => return refuse(Code::NotHere, format!("this is node {}, not {other}", self.id)),
            None => return refuse(Code::BadFrame, "the open names no target".into()),
        };
        let Some(declared) = self.catalogue.find(name) else {
            return refuse(Code::ServiceNotFound, self.not_declared(name));
        };
        let here = format!("{}/{name}", self.id);
        match (open.kind, declared.service.endpoint()) {
            (OpenKind::Control, _) => refuse(Code::BadFrame, "control is opened by the dialer, once".into()),
            (OpenKind::Call, Endpoint::Handler(_)) => refuse(
                Code::ServiceNotFound,
                format!("{here} takes streams, not calls; reach it with connect or forward"),
            ),
            (OpenKind::Stream, Endpoint::Calls(_)) => refuse(
                Code::ServiceNotFound,
                format!("{here} takes calls, not streams; reach it with: reachback call {here} METHOD"),
            ),
            (OpenKind::Stream | OpenKind::Call, _) => {
                let lease = self.authorise(&declared.service, open.caller.as_ref())?;
                Ok(Admitted::Service(declared, lease))
            }
        }
    }

    /// Whether this caller may use this service; with a lease if that is so for a while only.
    fn authorise(&self, service: &Service, caller: Option<&Caller>) -> Result<Option<Lease>, Refusal> {
        let name = service.name();
        let listed = service.allow().is_none_or(|callers| {
            caller.is_some_and(|caller| callers.iter().any(|pattern| pattern.matches(caller)))
        });
        let Some(caller) = caller else {
            return match listed {
                true => Ok(None),
                false => Err(self.not_for(name, None)),
            };
        };
        if listed && !caller.granted {
            return Ok(None);
        }
        if self.grants.find(name, caller).is_some() {
            return Ok(Some(Lease::new(self.grants.clone(), name.clone(), caller.clone())));
        }
        Err(if caller.granted { over(name, caller, false) } else { self.not_for(name, Some(caller)) })
    }

    fn not_for(&self, service: &ServiceName, caller: Option<&Caller>) -> Refusal {
        let id = &self.id;
        let text = match caller {
            Some(caller) => {
                let who = who(caller);
                format!(
                    "node {id} does not let {who} use {service}; its owner can, on that machine: reachback grant {service} \
                     --to {who} --for 1h --reason TEXT (or allow={who} in the declaration of the service)"
                )
            }
            None => format!("node {id} lets only some callers use {service}, and the explorer names none"),
        };
        Refusal::new(Code::Denied, text)
    }

    /// What somebody is told who wants what is not there.
    pub(crate) fn not_declared(&self, name: &ServiceName) -> String {
        let listed = self.catalogue.list();
        if listed.is_empty() {
            return format!("node {} declares no services; start it with --service {name}=ADDRESS", self.id);
        }
        let declared: Vec<&str> = listed.keys().map(AsRef::as_ref).collect();
        format!("node {} declares no service \"{name}\"; it has: {}", self.id, declared.join(", "))
    }
}
