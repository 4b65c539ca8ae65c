//! What the node knows about its services, from the connections it makes anyway.
//!
//! A probe of its own would show up in the service's log every few seconds and still be older than the last visitor.
//! So a service is `unknown` until someone wants it, and from then on what its last connection said.

use std::collections::BTreeMap;

use reachback_wire::{HealthState, ServiceName, text::sanitize};
use tokio::sync::watch;

use crate::limits::HEALTH_REASON_MAX;

/// The last word on each service, for every line to announce.
#[derive(Debug)]
pub(crate) struct Healths(watch::Sender<BTreeMap<ServiceName, HealthState>>);

impl Healths {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<ServiceName, HealthState>> {
        self.0.subscribe()
    }

    pub(crate) fn reached(&self, service: &ServiceName) {
        self.note(service, HealthState::Ok);
    }

    pub(crate) fn failed(&self, service: &ServiceName, reason: &str) {
        self.note(service, HealthState::Failing { reason: sanitize(reason, HEALTH_REASON_MAX) });
    }

    /// Wakes the lines only when something changed.
    fn note(&self, service: &ServiceName, health: HealthState) {
        self.0.send_if_modified(|all| {
            if all.get(service) == Some(&health) {
                return false;
            }
            all.insert(service.clone(), health);
            true
        });
    }
}
