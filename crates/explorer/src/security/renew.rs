//! The next certificate for a name and a key that have one.
//!
//! It is asked for at half of the old one's life, over a session that is up. A machine that was in storage comes with one that
//! has ended, and may do this one thing with it, because its key is on record; unless it was revoked, which no time heals.

use std::{sync::Arc, time::Duration};

use reachback_link::tls::CertificateNames;
use reachback_wire::{Code, Enrolled, Refusal, rights::Rights};

use super::{
    Security,
    audit::Entry,
    certify::Requested,
    enrol::room_for_one,
    millis,
    names::Subject,
    refusals::{come_back, revoked_identity, unknown_key},
    store::{Change, Enrolment, Kind},
};
use crate::{clock::spoken, limits};

impl Security {
    /// A new certificate for a name and key that have one already. It may have expired, if it is not for too long; `names`
    /// is what it says, its key proved. Blocks.
    ///
    /// # Errors
    /// The refusal for the dialer.
    pub fn renew(&self, names: &CertificateNames, csr: &[u8], from: &str) -> Result<Enrolled, Refusal> {
        let subject = Subject::of(names)?;
        let spoken =
            subject.as_ref().map_or("a certificate of another authority".to_owned(), ToString::to_string);
        let entry = Entry::new("renew", &spoken).from(from);
        let outcome = self.renew_subject(names, subject, csr);
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    fn renew_subject(
        &self,
        names: &CertificateNames,
        subject: Option<Subject>,
        csr: &[u8],
    ) -> Result<Enrolled, Refusal> {
        let (kind, subject) = match subject {
            Some(subject @ Subject::Node(_)) => (Kind::Node, subject),
            Some(subject @ Subject::User(_)) => (Kind::User, subject),
            Some(Subject::Explorer(_)) | None => {
                return Err(Refusal::new(
                    Code::Denied,
                    "this certificate is not one that this explorer renews; renew it where it was made",
                ));
            }
        };
        let name = subject.name().clone();
        let requested = Requested::read(csr)?;
        if requested.key != names.spki {
            return Err(Refusal::new(
                Code::IdTaken,
                format!(
                    "a certificate is renewed for the key it is for; to give {name} another key, release it and join again"
                ),
            ));
        }
        let keys = self.keys();
        let now_ms = self.config.clock.now_ms();
        let expired_for = now_ms.saturating_sub(names.not_after_unix_ms);
        if expired_for > millis(limits::RENEW_EXPIRED) {
            return Err(Refusal::new(
                Code::Expired,
                format!(
                    "the certificate of {name} ended {} ago, and only one that ended within {} is renewed; {}",
                    spoken(Duration::from_millis(expired_for)),
                    spoken(limits::RENEW_EXPIRED),
                    come_back(kind, &name)
                ),
            ));
        }
        self.store.commit(|state| {
            revoked_identity(state, kind, &name, &names.spki)?;
            let known = state.enrolment(kind, &name, &names.spki);
            let (rights, flags, token) = match known {
                Some(row) => {
                    not_too_often(row, now_ms)?;
                    (row.rights.clone(), (row.admin, row.ephemeral), row.token.clone())
                }
                // From after the backup that was restored: its certificate still proves that it was let in.
                None if kind == Kind::Node
                    && expired_for == 0
                    && self.is_ours_alone()
                    && !state.nodes.contains_key(&name) =>
                {
                    room_for_one(state)?;
                    (Arc::new(Rights::default()), (false, false), String::new())
                }
                None => return Err(unknown_key(state, kind, &name)),
            };
            let life = if flags.1 { self.config.ephemeral_life } else { self.config.certificate_life };
            let issued = keys.issue(&subject, &requested.info, now_ms, life)?;
            let enrolment = issued.enrolment(kind, &name, rights, flags, &token, now_ms);
            Ok((vec![Change::Enrol(enrolment)], issued.answer(&keys, &name)))
        })
    }
}

/// A node that renews in a loop writes to the disk in a loop.
fn not_too_often(row: &Enrolment, now_ms: u64) -> Result<(), Refusal> {
    let life = row.not_after_ms.saturating_sub(row.issued_ms);
    let pause = millis(limits::RENEW_PAUSE).min(life / 10);
    let since = now_ms.saturating_sub(row.issued_ms);
    if since >= pause {
        return Ok(());
    }
    Err(Refusal::new(Code::RateLimited, format!("the certificate of {} was renewed just now", row.name))
        .retry_after(Duration::from_millis(pause - since)))
}
