//! What a node says of itself on control, and what it is told there.
//!
//! The announcement goes first: the explorer calls a node online only when it knows what the node has. After it come
//! the node's own last ends, and then health, whenever it changes. Heartbeats are not seen here; the link answers them.

use std::collections::BTreeMap;

use reachback_link::{ControlInbox, Session, SessionEnd};
use reachback_wire::{
    ControlMessage, Ends, Health, HealthState, ServiceHealth, ServiceInfo, ServiceName, Services,
    text::sanitize,
};
use tokio::sync::watch;

use crate::{catalogue::Listed, service::Service};

/// What is announced: labels and services, with the last word on each service's health.
pub(crate) fn announcement<'a>(
    labels: &BTreeMap<String, String>,
    services: impl IntoIterator<Item = &'a Service>,
    health: &BTreeMap<ServiceName, HealthState>,
) -> Services {
    let info = |service: &Service| ServiceInfo {
        name: service.name().clone(),
        framing: service.framing().map(|framing| framing.as_str().to_owned()),
        health: health.get(service.name()).cloned().unwrap_or_default(),
    };
    Services {
        labels: labels.clone(),
        services: services.into_iter().map(info).collect(),
        capabilities: None,
    }
}

/// Speaks and listens until the session ends.
pub(crate) async fn run(
    session: &Session,
    inbox: ControlInbox,
    labels: &BTreeMap<String, String>,
    services: watch::Receiver<Listed>,
    health: watch::Receiver<BTreeMap<ServiceName, HealthState>>,
    ends: Option<Ends>,
) {
    let told = tokio::join!(tell(session, labels, services, health, ends), listen(inbox));
    if let (Err(end), ()) = told {
        tracing::debug!(reason = %end, "nothing more is told on this session");
    }
}

async fn tell(
    session: &Session,
    labels: &BTreeMap<String, String>,
    mut services: watch::Receiver<Listed>,
    mut health: watch::Receiver<BTreeMap<ServiceName, HealthState>>,
    ends: Option<Ends>,
) -> Result<(), SessionEnd> {
    let mut told = health.borrow_and_update().clone();
    let listed = services.borrow_and_update().clone();
    session.send_control(announced(labels, &listed, &told)).await?;
    if let Some(ends) = ends {
        session.send_control(ControlMessage::Ends(ends)).await?;
    }
    loop {
        tokio::select! {
            end = session.ended() => return Err(end),
            // The senders live as long as the node; without them there is nothing left to tell.
            Ok(()) = services.changed() => {
                let listed = services.borrow_and_update().clone();
                told = health.borrow_and_update().clone();
                session.send_control(announced(labels, &listed, &told)).await?;
                continue;
            }
            Ok(()) = health.changed() => {}
        }
        let now = health.borrow_and_update().clone();
        let listed = services.borrow().clone();
        let changed = |(name, health): (&ServiceName, &HealthState)| {
            // What has been taken back may still end a visit; nobody knows it any more.
            let news = listed.contains_key(name) && told.get(name) != Some(health);
            news.then(|| ServiceHealth { name: name.clone(), health: health.clone() })
        };
        let services: Vec<ServiceHealth> = now.iter().filter_map(changed).collect();
        if !services.is_empty() {
            session.send_control(ControlMessage::Health(Health { services })).await?;
        }
        told = now;
    }
}

fn announced(
    labels: &BTreeMap<String, String>,
    listed: &Listed,
    health: &BTreeMap<ServiceName, HealthState>,
) -> ControlMessage {
    let services = listed.values().map(|declared| &declared.service);
    ControlMessage::Services(announcement(labels, services, health))
}

async fn listen(mut inbox: ControlInbox) {
    while let Some(message) = inbox.next().await {
        match message {
            ControlMessage::Replaced(replaced) => {
                tracing::error!(
                    reason = %sanitize(&replaced.message, 300),
                    "another process uses this node's id; give one of the two another --id"
                );
            }
            other => tracing::debug!(kind = ?other.kind(), "control message without meaning for a node"),
        }
    }
}
