//! What to do next after an explorer has said no, as a table.
//!
//! ```text
//! nothing kept ── join ──▶ enrolled ── its certificate is shown ──▶ a session ── at half of its life ──▶ renewed
//!                  ▲           │ expired, by our clock or the explorer's word
//!                  │           ▼
//!                  └──────── renew                  (only where a join string is at hand)
//! ```
//!
//! Two rules keep a machine from doing harm by trying: a token is not used up again before what it brought last has been
//! taken once, and who was revoked comes back by another join string only.

use reachback_wire::Code;

/// What is to be done on the next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Show the certificate.
    Session,
    /// Show it, and ask for another one.
    Renew,
    /// Exchange the join string for one.
    Join,
}

/// What the last answers suggest to do next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Plan {
    /// What the certificate and the clock say.
    #[default]
    AsUsual,
    /// The explorer says that it has expired.
    Renew,
    /// The explorer does not take it, and a join string may help.
    Join,
    /// Renewing early did not work: the certificate is good for a while yet.
    Session,
}

/// What there is besides a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinString {
    None,
    /// The one that the certificate came from.
    Used,
    /// Another one: the word of an operator.
    New,
}

/// What an explorer has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing that says anything about the certificate.
    None,
    /// No, and why.
    Denied(Code),
    /// It is not of the authority that is known here.
    OtherAuthority,
}

/// An attempt that has failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed {
    pub(crate) step: Step,
    pub(crate) plan: Plan,
    pub(crate) answer: Answer,
    pub(crate) join: JoinString,
    /// The certificate has never opened a session.
    pub(crate) unproven: bool,
    /// By our clock.
    pub(crate) expired: bool,
}

impl Plan {
    /// What to do with a certificate that is there; `due` if it is to be renewed.
    pub(crate) fn step(self, due: bool) -> Step {
        match self {
            Self::Join => Step::Join,
            Self::Renew => Step::Renew,
            Self::Session => Step::Session,
            Self::AsUsual if due => Step::Renew,
            Self::AsUsual => Step::Session,
        }
    }
}

impl Failed {
    /// What to do next, and whether it is worth trying at once.
    pub(crate) fn next(self) -> (Plan, bool) {
        use Answer::{Denied, OtherAuthority};
        let may_join = self.join != JoinString::None && !self.unproven;
        let plan = match (self.step, self.answer) {
            // What is kept may be good again by now.
            (Step::Join, _) => Plan::AsUsual,
            (_, OtherAuthority) if self.join == JoinString::New => Plan::Join,
            (_, Denied(Code::Unauthenticated)) if may_join => Plan::Join,
            (_, Denied(Code::Revoked)) if may_join && self.join == JoinString::New => Plan::Join,
            (Step::Renew, Denied(Code::Expired)) if may_join => Plan::Join,
            (Step::Session, Denied(Code::Expired)) => Plan::Renew,
            // Renewing early can wait; being away can't.
            (Step::Renew, _) if !self.expired && self.plan != Plan::Renew => return (Plan::Session, true),
            _ => self.plan,
        };
        (plan, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_next_step() {
        use Answer::{Denied, None as Nothing, OtherAuthority};
        let cases = [
            // Nothing but time helps.
            (Step::Session, Nothing, JoinString::New, Plan::AsUsual, false),
            (Step::Session, Denied(Code::IdTaken), JoinString::New, Plan::AsUsual, false),
            (Step::Session, Denied(Code::Saturated), JoinString::New, Plan::AsUsual, false),
            (Step::Join, Denied(Code::Revoked), JoinString::New, Plan::AsUsual, false),
            (Step::Join, OtherAuthority, JoinString::New, Plan::AsUsual, false),
            // It has expired, by the explorer's word; and too long ago even to be renewed.
            (Step::Session, Denied(Code::Expired), JoinString::None, Plan::Renew, false),
            (Step::Session, Denied(Code::Expired), JoinString::New, Plan::Renew, false),
            (Step::Renew, Denied(Code::Expired), JoinString::Used, Plan::Join, false),
            // A forgotten name.
            (Step::Session, Denied(Code::Unauthenticated), JoinString::Used, Plan::Join, false),
            (Step::Session, Denied(Code::Unauthenticated), JoinString::None, Plan::AsUsual, false),
            // Revoked: the same token never brings it back.
            (Step::Session, Denied(Code::Revoked), JoinString::Used, Plan::AsUsual, false),
            (Step::Session, Denied(Code::Revoked), JoinString::New, Plan::Join, false),
            // Set up anew, or somebody in between.
            (Step::Session, OtherAuthority, JoinString::Used, Plan::AsUsual, false),
            (Step::Session, OtherAuthority, JoinString::New, Plan::Join, false),
            // A client that renewed early: it has time.
            (Step::Renew, Denied(Code::Saturated), JoinString::None, Plan::Session, true),
            (Step::Renew, Nothing, JoinString::None, Plan::Session, true),
        ];
        for (step, answer, join, plan, at_once) in cases {
            let failed = Failed { step, plan: Plan::AsUsual, answer, join, unproven: false, expired: false };
            assert_eq!(failed.next(), (plan, at_once), "{failed:?}");
        }
    }

    #[test]
    fn what_has_just_been_got_is_not_got_again() {
        for code in [Code::Unauthenticated, Code::Revoked, Code::Expired] {
            for step in [Step::Session, Step::Renew] {
                let answer = Answer::Denied(code);
                let failed = Failed {
                    step,
                    plan: Plan::AsUsual,
                    answer,
                    join: JoinString::New,
                    unproven: true,
                    expired: true,
                };
                assert_ne!(failed.next().0, Plan::Join, "{failed:?}");
            }
        }
    }

    #[test]
    fn what_has_expired_has_no_session_to_fall_back_to() {
        let failed = Failed {
            step: Step::Renew,
            plan: Plan::AsUsual,
            answer: Answer::Denied(Code::Saturated),
            join: JoinString::None,
            unproven: false,
            expired: true,
        };
        assert_eq!(failed.next(), (Plan::AsUsual, false));
        // The explorer's word that it has expired is worth as much as our clock.
        assert_eq!(Failed { expired: false, plan: Plan::Renew, ..failed }.next(), (Plan::Renew, false));
    }
}
