//! What a node says of itself on control, and what it is told there.
//!
//! The announcement goes first: the explorer calls a node online only when it knows what the node has. After it come
//! the node's own last ends, and then health, whenever it changes. Heartbeats are not seen here; the link answers them.

use std::collections::BTreeMap;

use reachback_client::renewal::Answer;
use reachback_link::{ControlInbox, Session, SessionEnd};
use reachback_wire::{
    ControlMessage, Ends, GrantInfo, Health, HealthState, ServiceHealth, ServiceInfo, ServiceName, Services,
    lz4, text::sanitize,
};
use tokio::sync::{mpsc, watch};

use crate::{
    catalogue::Listed,
    grants::{self, Granted},
    service::{Service, ServiceCompression},
};

/// What is announced: labels and services, with the last word on each service's health.
pub(crate) fn announcement<'a>(
    labels: &BTreeMap<String, String>,
    services: impl IntoIterator<Item = &'a Service>,
    health: &BTreeMap<ServiceName, HealthState>,
    grants: Vec<GrantInfo>,
) -> Services {
    let info = |service: &Service| ServiceInfo {
        name: service.name().clone(),
        framing: service.framing().map(|framing| framing.as_str().to_owned()),
        compression: (service.compression() == Some(ServiceCompression::Lz4)).then(|| lz4::NAME.to_owned()),
        health: health.get(service.name()).cloned().unwrap_or_default(),
    };
    Services {
        labels: labels.clone(),
        services: services.into_iter().map(info).collect(),
        grants,
        capabilities: None,
    }
}

/// What a node tells, and its changes.
pub(crate) struct News<'a> {
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) services: watch::Receiver<Listed>,
    pub(crate) grants: watch::Receiver<Granted>,
    pub(crate) health: watch::Receiver<BTreeMap<ServiceName, HealthState>>,
}

/// Speaks and listens until the session ends. Answers about certificates are passed on.
pub(crate) async fn run(
    session: &Session,
    inbox: ControlInbox,
    news: News<'_>,
    ends: Option<Ends>,
    answers: mpsc::Sender<Answer>,
) {
    let told = tokio::join!(tell(session, news, ends), listen(inbox, answers));
    if let (Err(end), ()) = told {
        tracing::debug!(reason = %end, "nothing more is told on this session");
    }
}

async fn tell(session: &Session, mut news: News<'_>, ends: Option<Ends>) -> Result<(), SessionEnd> {
    let mut told = news.announce(session).await?;
    if let Some(ends) = ends {
        session.send_control(ControlMessage::Ends(ends)).await?;
    }
    loop {
        let News { services, grants, health, .. } = &mut news;
        tokio::select! {
            end = session.ended() => return Err(end),
            // The senders live as long as the node; without them there is nothing left to tell.
            Ok(()) = services.changed() => {
                told = news.announce(session).await?;
                continue;
            }
            Ok(()) = grants.changed() => {
                told = news.announce(session).await?;
                continue;
            }
            Ok(()) = health.changed() => {}
        }
        let now = news.health.borrow_and_update().clone();
        let listed = news.services.borrow().clone();
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

impl News<'_> {
    /// Says all of it, and returns what was said of health.
    async fn announce(
        &mut self,
        session: &Session,
    ) -> Result<BTreeMap<ServiceName, HealthState>, SessionEnd> {
        let health = self.health.borrow_and_update().clone();
        let listed = self.services.borrow_and_update().clone();
        let grants = grants::announced(&self.grants.borrow_and_update());
        let services = listed.values().map(|declared| &declared.service);
        let all = announcement(self.labels, services, &health, grants);
        session.send_control(ControlMessage::Services(all)).await?;
        Ok(health)
    }
}

async fn listen(mut inbox: ControlInbox, answers: mpsc::Sender<Answer>) {
    while let Some(message) = inbox.next().await {
        match message {
            ControlMessage::Replaced(replaced) => {
                tracing::error!(
                    reason = %sanitize(&replaced.message, 300),
                    "another process uses this node's id; give one of the two another --id"
                );
            }
            // Whoever asked once waits for one answer; more of them have no meaning.
            ControlMessage::Renewed(renewed) => drop(answers.try_send(Ok(renewed))),
            ControlMessage::NotRenewed(refusal) => drop(answers.try_send(Err(refusal))),
            other => tracing::debug!(kind = ?other.kind(), "control message without meaning for a node"),
        }
    }
}
