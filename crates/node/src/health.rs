//! What the node knows about its services: what the last visitor's connection said, and, where it is told to, what a
//! connection of its own says now and then.
//!
//! A probe finds the service that died at night before its first caller does. It is a visitor all the same: it shows up
//! in the service's log, and a service that serves one connection in its life has had it. So probing is a setting, and
//! a probe connects and closes, nothing more. A service can be left out (`probe=off`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::stream::{self, StreamExt};
use reachback_client::{Identity, RandomError};
use reachback_link::Net;
use reachback_wire::{HealthState, ServiceName, text::sanitize};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    catalogue::Declared,
    dial::reach,
    limits::{HEALTH_REASON_MAX, PROBE_EVERY_MIN, PROBE_LIMIT, PROBES_AT_ONCE},
    serve::Desk,
    service::{Endpoint, Probe},
};

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

    /// As it is now.
    pub(crate) fn of(&self, service: &ServiceName) -> HealthState {
        self.0.borrow().get(service).cloned().unwrap_or_default()
    }

    pub(crate) fn reached(&self, service: &ServiceName) {
        self.note(service, HealthState::Ok);
    }

    pub(crate) fn failed(&self, service: &ServiceName, reason: &str) {
        self.note(service, HealthState::Failing { reason: sanitize(reason, HEALTH_REASON_MAX) });
    }

    /// Forgets a service: another one of the same name starts anew.
    pub(crate) fn forget(&self, service: &ServiceName) {
        self.0.send_if_modified(|all| all.remove(service).is_some());
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

/// Probes every service with an address that does not forbid it at once, then again about `every`, and new ones as soon as they are declared.
/// Never returns while all is well.
///
/// # Errors
/// The operating system gives no random bytes.
pub(crate) async fn probe(
    desk: Arc<Desk>,
    identity: Arc<Identity>,
    every: Duration,
) -> Result<(), RandomError> {
    let mut services = desk.catalogue.watch();
    loop {
        let listed = services.borrow_and_update().clone();
        stream::iter(listed.values())
            .filter(|declared| std::future::ready(declared.service.probe() == Probe::On))
            .for_each_concurrent(PROBES_AT_ONCE, |declared| probe_one(&desk, declared))
            .await;
        // A fleet that was started at once must not knock at a shared service at once for ever.
        let pause = every.max(PROBE_EVERY_MIN).mul_f64(0.9 + (identity.seed()? % 1000) as f64 / 5000.0);
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = services.changed() => {}
        }
    }
}

async fn probe_one(desk: &Desk, declared: &Declared) {
    let name = declared.service.name();
    let Endpoint::Address(address) = declared.service.endpoint() else { return };
    let net: &dyn Net = desk.net.as_ref();
    let outcome = reach(net, &format!("service {name}"), address, Instant::now() + PROBE_LIMIT).await;
    // It may have been taken back, or replaced, meanwhile: what was found out is about the one that was probed.
    if !desk.catalogue.find(name).is_some_and(|now| std::ptr::eq(&*now, declared)) {
        return;
    }
    match outcome {
        Ok(_) => desk.healths.reached(name),
        Err(refusal) => desk.healths.failed(name, &refusal.message),
    }
}
