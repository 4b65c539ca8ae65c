//! Certificates that are renewed over the session that they opened, so that nobody has to notice that they end.
//!
//! The peer asks on control, while its certificate is still good or has only just ended; what it gets is for its next
//! session. The request is judged by the certificate that opened this one, anew, because it may have been revoked since.

use std::{future::pending, sync::Arc};

use futures::future::{BoxFuture, FutureExt};
use reachback_link::{
    PeerAddress,
    tls::{PeerCertificate, TlsPeer},
};
use reachback_wire::{
    Code, Enrolled, Refusal,
    control::{ControlMessage, Renew, Renewed},
};

use crate::security::Security;

/// Renewals on one session, one at a time.
pub(crate) struct Renewals {
    by: Option<(Arc<Security>, Arc<TlsPeer>)>,
    /// Where the session came from, for the audit.
    from: String,
    under_way: Option<BoxFuture<'static, ControlMessage>>,
}

impl Renewals {
    /// On a session that came over TLS; others are told that there is nothing to renew.
    pub(crate) fn new(
        security: Option<&Arc<Security>>,
        tls: Option<Arc<TlsPeer>>,
        from: &PeerAddress,
    ) -> Self {
        Self { by: security.cloned().zip(tls), from: from.to_string(), under_way: None }
    }

    /// Takes a request. One that comes before the last one was answered is passed over: its answer is on the way.
    pub(crate) fn ask(&mut self, Renew { csr }: Renew) {
        if self.under_way.is_some() {
            return;
        }
        let (by, from) = (self.by.clone(), self.from.clone());
        let work = tokio::task::spawn_blocking(move || {
            let Some((security, tls)) = by else { return Err(nothing_to_renew()) };
            match security.judge(&tls) {
                PeerCertificate::Valid(names) | PeerCertificate::Expired(names) => {
                    security.renew(&names, &csr.0, &from)
                }
                PeerCertificate::None => Err(nothing_to_renew()),
                PeerCertificate::Refused(why) => Err(Refusal::new(Code::Unauthenticated, why)),
            }
        });
        let answer = work.map(|made| match made {
            Ok(Ok(Enrolled { chain, ca, .. })) => ControlMessage::Renewed(Renewed { chain, ca }),
            Ok(Err(refusal)) => ControlMessage::NotRenewed(refusal),
            Err(error) => {
                tracing::error!(%error, "renewing a certificate failed");
                let message = "an error in the explorer; see its log";
                ControlMessage::NotRenewed(Refusal::new(Code::Internal, message))
            }
        });
        self.under_way = Some(answer.boxed());
    }

    /// The answer to what was asked, once there is one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> ControlMessage {
        let Some(work) = &mut self.under_way else { return pending().await };
        let answer = work.await;
        self.under_way = None;
        answer
    }
}

fn nothing_to_renew() -> Refusal {
    Refusal::new(
        Code::Unauthenticated,
        "this session was not opened with a certificate; there is nothing to renew",
    )
}
