//! A node's line to the registry: what it says on control, and what the registry wants of it.
//!
//! A node is online with the first heartbeat it answers after it has said what it has; until then an older session,
//! if there is one, goes on serving. An older session of the same process retires: it ends when its last stream has.

use futures::future::{BoxFuture, FutureExt, pending};
use reachback_link::{ControlInbox, Pulse, Session, SessionEnd};
use reachback_wire::{Code, control::ControlMessage, control::Replaced};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{entry::Order, limits, registry::Presence, renewal::Renewals};

/// One connection's line; of a client's it only empties the control inbox.
pub(crate) struct Line {
    /// A node's place.
    presence: Option<Presence>,
    control: ControlInbox,
    pulse: watch::Receiver<Pulse>,
    session: Session,
    renewals: Renewals,
    /// The heartbeat that makes the node online when it is answered.
    confirming: Option<BoxFuture<'static, bool>>,
    /// Until when a retiring session may finish its streams, and when to look next whether it has.
    retiring: Option<Retiring>,
}

#[derive(Clone, Copy)]
struct Retiring {
    until: Instant,
    look: Instant,
}

impl Line {
    pub(crate) fn new(
        presence: Option<Presence>,
        control: ControlInbox,
        session: Session,
        renewals: Renewals,
    ) -> Self {
        let pulse = session.pulse();
        Self { presence, control, pulse, session, renewals, confirming: None, retiring: None }
    }

    /// Follows both sides until the session ends.
    pub(crate) async fn run(&mut self) {
        let Some(presence) = &mut self.presence else {
            // Clients ask for new certificates; what else they say is read and passed over.
            loop {
                tokio::select! {
                    message = self.control.next() => match message {
                        Some(ControlMessage::Renew(renew)) => self.renewals.ask(renew),
                        Some(_) => {}
                        None => return,
                    },
                    answer = self.renewals.answer() => renewed(&self.session, answer).await,
                }
            }
        };
        loop {
            let confirmed = async {
                match &mut self.confirming {
                    Some(answered) => answered.await,
                    None => pending().await,
                }
            };
            let look = async {
                match self.retiring {
                    Some(retiring) => sleep_until(retiring.look).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                message = self.control.next() => match message {
                    Some(ControlMessage::Renew(renew)) => self.renewals.ask(renew),
                    Some(message) => {
                        if heard(presence, message) {
                            self.confirming = Some(ask(&self.session));
                        }
                    }
                    None => return,
                },
                answer = self.renewals.answer() => renewed(&self.session, answer).await,
                answered = confirmed => {
                    // Unanswered, it is asked again: whether a silent peer is dead is the driver's to say.
                    self.confirming = if answered { None } else { Some(ask(&self.session)) };
                    if answered && let Err(message) = confirm(presence, &self.session) {
                        self.session.close(Code::Replaced, &message);
                    }
                }
                Ok(()) = self.pulse.changed() => {
                    let late = *self.pulse.borrow_and_update() == Pulse::Late;
                    presence.late(late);
                }
                Ok(()) = presence.orders().changed() => {
                    let order = presence.orders().borrow_and_update().clone();
                    match order {
                        Order::Serve => {}
                        Order::Retire => {
                            let (look, until) = (limits::RETIRING_LOOK, limits::RETIRING_MAX);
                            self.retiring =
                                Some(Retiring { until: Instant::now() + until, look: Instant::now() + look });
                        }
                        Order::Leave { code, message } => leave(&self.session, code, &message).await,
                    }
                }
                () = look => {
                    let empty = self.session.substreams() == 0;
                    let mut due = false;
                    if let Some(retiring) = &mut self.retiring {
                        due = Instant::now() >= retiring.until;
                        retiring.look = Instant::now() + limits::RETIRING_LOOK;
                    }
                    if empty || due {
                        self.session.close(Code::Replaced, "a newer session of this node has taken over");
                    }
                }
            }
        }
    }

    /// Gives the place up, with the reason.
    pub(crate) fn ended(self, end: &SessionEnd) {
        if let Some(presence) = self.presence {
            presence.ended(end);
        }
    }
}

/// A heartbeat, answered within the time for an open or not.
fn ask(session: &Session) -> BoxFuture<'static, bool> {
    let session = session.clone();
    async move { session.answers(limits::OPEN_TIMEOUT).await }.boxed()
}

/// What the node says. `true`: it has said what it has, for the first time.
fn heard(presence: &Presence, message: ControlMessage) -> bool {
    match message {
        ControlMessage::Services(services) => return presence.declare(services),
        ControlMessage::Health(health) => presence.health(health),
        ControlMessage::Ends(ends) => presence.reported(ends.ends),
        // Heartbeats are the driver's, and so is the end that `Bye` announces; the rest is not a node's to say.
        ControlMessage::Heartbeat(_)
        | ControlMessage::HeartbeatAck(_)
        | ControlMessage::Bye(_)
        | ControlMessage::Renew(_)
        | ControlMessage::Renewed(_)
        | ControlMessage::NotRenewed(_)
        | ControlMessage::Replaced(_) => {}
    }
    false
}

/// Sends the answer to a renewal.
async fn renewed(session: &Session, answer: ControlMessage) {
    if let ControlMessage::NotRenewed(refusal) = &answer {
        tracing::info!(%refusal, "a certificate is not renewed");
    }
    if let Err(end) = session.send_control(answer).await {
        tracing::debug!(%end, "a session was gone before it had its new certificate");
    }
}

fn confirm(presence: &Presence, session: &Session) -> Result<(), String> {
    let promotion = presence.confirm(session.clone())?;
    let (node, session) = (presence.node(), presence.session());
    match promotion.retired {
        0 => tracing::info!(%node, %session, "online"),
        older => tracing::info!(%node, %session, older, "online; the older session finishes its streams"),
    }
    Ok(())
}

/// Says why before the session goes, so that both ends can say it loudly.
async fn leave(session: &Session, code: Code, message: &str) {
    let notice = ControlMessage::Replaced(Replaced { message: message.to_owned() });
    if code == Code::Replaced
        && let Err(end) = session.send_control(notice).await
    {
        tracing::debug!(%end, "a replaced session was gone before it was told");
    }
    session.close(code, message);
}
