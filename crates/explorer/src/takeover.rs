//! Who keeps a node's name when a second session asks for it.
//!
//! Three things look alike from here: a node that dials again before we noticed that its old line died, a node whose
//! process was replaced, and two machines that were given one id. The generation tells the first from the others
//! without any clock; a ping tells the second from the third. The rules are two pure functions; the only thing that
//! takes time is the ping between them, and the registry judges again after it.

use std::sync::Arc;

use reachback_wire::{Code, Generation, Refusal, SessionId};

use crate::{
    entry::Newcomer,
    limits,
    registry::{Objection, Presence, Registry},
};

/// A line of the node that exists already.
#[derive(Debug, Clone)]
pub(crate) struct Incumbent {
    pub(crate) session: SessionId,
    pub(crate) generation: Generation,
    /// It has been online: opens go to it. One that is still being set up can't be asked whether it is alive.
    pub(crate) serves: bool,
}

/// What to do with a newcomer, before anyone was asked anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The name is free, or held by an earlier attempt of the same line, which then retires.
    Admit,
    /// Another process holds the name: ask that session whether it is still there.
    Challenge(SessionId),
    /// The newcomer is told why not.
    Refuse(Refusal),
}

/// What the challenge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The incumbent no longer answers: the newcomer takes the name.
    Ghost,
    /// Two live processes use one id: newest wins.
    Clone,
    /// Two live processes keep taking the id from each other: the incumbent stays.
    Stays(Refusal),
}

/// Finds a place for a newcomer, asking an incumbent whether it is alive where that decides. What two processes with
/// one id do to each other is said loudly: only people can end it.
///
/// # Errors
/// The refusal the newcomer is sent.
pub(crate) async fn claim(registry: &Arc<Registry>, newcomer: Newcomer) -> Result<Presence, Refusal> {
    let Newcomer { node, peer, .. } = &newcomer;
    let mut answer = None;
    for _ in 0..limits::TAKEOVER_ROUNDS {
        match registry.claim(&newcomer, answer) {
            Ok((presence, settlement)) => {
                match settlement {
                    Some(Settlement::Ghost) => {
                        tracing::info!(%node, %peer, "the old session no longer answers: another process takes its name");
                    }
                    Some(Settlement::Clone) => {
                        tracing::warn!(%node, %peer, "TWO running processes use this node id: the newest one takes it");
                    }
                    Some(Settlement::Stays(_)) | None => {}
                }
                return Ok(presence);
            }
            Err(Objection::Stays(refusal)) => {
                tracing::warn!(%node, %peer, "TWO running processes keep taking this node id: the newcomer must wait");
                return Err(refusal);
            }
            Err(Objection::Refused(refusal)) => return Err(refusal),
            Err(Objection::Challenge { incumbent, session }) => {
                answer = Some((incumbent, session.answers(limits::GHOST_PING).await));
            }
        }
    }
    Err(Refusal::new(
        Code::Replaced,
        "the sessions of this node id keep changing while you ask for it; another process uses it too",
    )
    .retry_after(limits::TAKEOVER_PENALTY))
}

/// Judges a newcomer by the lines its node has now.
pub(crate) fn decide(newcomer: &Generation, incumbents: &[Incumbent]) -> Verdict {
    for incumbent in incumbents {
        if newcomer.supersedes(&incumbent.generation) == Some(false) {
            return Verdict::Refuse(Refusal::new(
                Code::Replaced,
                format!(
                    "a later attempt of this line (seq {}, this one is {}) is here already as session {}; use that one",
                    incumbent.generation.seq, newcomer.seq, incumbent.session
                ),
            ));
        }
    }
    for incumbent in incumbents {
        let same_process = incumbent.generation.instance == newcomer.instance;
        if same_process && incumbent.generation.slot != newcomer.slot {
            return Verdict::Refuse(Refusal::new(
                Code::AlreadyHere,
                format!(
                    "this process already has a line to this explorer (slot {}, session {}), one is enough; \
                     dial another explorer or keep the line you have",
                    incumbent.generation.slot, incumbent.session
                ),
            ));
        }
    }
    let stranger =
        |incumbent: &&Incumbent| incumbent.serves && incumbent.generation.instance != newcomer.instance;
    match incumbents.iter().filter(stranger).max_by_key(|incumbent| incumbent.session) {
        Some(incumbent) => Verdict::Challenge(incumbent.session),
        None => Verdict::Admit,
    }
}

/// Judges between a challenged incumbent and its newcomer; `changes` counts how often a live process lost this name
/// to another one within [`limits::TAKEOVER_WINDOW`].
pub(crate) fn settle(incumbent: SessionId, answered: bool, changes: usize) -> Settlement {
    if !answered {
        return Settlement::Ghost;
    }
    if changes < limits::TAKEOVERS_PER_WINDOW {
        return Settlement::Clone;
    }
    Settlement::Stays(
        Refusal::new(
            Code::Replaced,
            format!(
                "two running processes use this node id and took it from each other {changes} times within a minute; \
                 session {incumbent} keeps it. Give one of them another id (reachback node --id …) or stop it"
            ),
        )
        .retry_after(limits::TAKEOVER_PENALTY),
    )
}

#[cfg(test)]
mod tests {
    use reachback_wire::Instance;

    use super::*;

    fn generation(instance: u8, slot: u32, seq: u64) -> Generation {
        Generation { instance: Instance([instance; 16]), slot, seq }
    }

    fn line(session: u64, serves: bool, generation: Generation) -> Incumbent {
        Incumbent { session: SessionId(session), generation, serves }
    }

    enum Expected {
        Admit,
        Challenge(u64),
        Refuse(Code, &'static str),
    }
    use Expected::{Admit, Challenge, Refuse};

    #[test]
    fn takeover_table() {
        let table = [
            ("nobody is here", generation(1, 0, 1), vec![], Admit),
            (
                "same line, later attempt",
                generation(1, 0, 2),
                vec![line(1, true, generation(1, 0, 1))],
                Admit,
            ),
            (
                "same line, earlier attempt",
                generation(1, 0, 1),
                vec![line(1, true, generation(1, 0, 2))],
                Refuse(Code::Replaced, "seq 2, this one is 1"),
            ),
            (
                "same line, the same attempt twice",
                generation(1, 0, 2),
                vec![line(1, true, generation(1, 0, 2))],
                Refuse(Code::Replaced, "session 1"),
            ),
            (
                "an earlier attempt arrives while a later one is being set up",
                generation(1, 0, 2),
                vec![line(1, true, generation(1, 0, 1)), line(2, false, generation(1, 0, 3))],
                Refuse(Code::Replaced, "seq 3"),
            ),
            (
                "same process, another slot",
                generation(1, 1, 9),
                vec![line(1, true, generation(1, 0, 1))],
                Refuse(Code::AlreadyHere, "slot 0, session 1"),
            ),
            ("another process", generation(2, 0, 1), vec![line(1, true, generation(1, 0, 9))], Challenge(1)),
            (
                "another process, the newest of several lines is asked",
                generation(2, 0, 1),
                vec![line(4, true, generation(1, 0, 9)), line(3, true, generation(1, 0, 8))],
                Challenge(4),
            ),
            (
                "another process that is still being set up can't be asked: newest wins later",
                generation(2, 0, 1),
                vec![line(1, false, generation(1, 0, 1))],
                Admit,
            ),
        ];
        for (case, newcomer, incumbents, expected) in table {
            match (decide(&newcomer, &incumbents), expected) {
                (Verdict::Admit, Admit) => {}
                (Verdict::Challenge(session), Challenge(id)) => assert_eq!(session, SessionId(id), "{case}"),
                (Verdict::Refuse(refusal), Refuse(code, part)) => {
                    assert_eq!(refusal.code, code, "{case}");
                    assert!(refusal.message.contains(part), "{case}: {refusal}");
                }
                (verdict, _) => panic!("{case}: {verdict:?}"),
            }
        }
    }

    #[test]
    fn ghosts_always_give_way_and_live_clones_only_so_often() {
        let id = SessionId(7);
        for changes in 0..10 {
            assert_eq!(settle(id, false, changes), Settlement::Ghost);
        }
        for changes in 0..limits::TAKEOVERS_PER_WINDOW {
            assert_eq!(settle(id, true, changes), Settlement::Clone);
        }
        let Settlement::Stays(refusal) = settle(id, true, limits::TAKEOVERS_PER_WINDOW) else {
            panic!("the incumbent must stay");
        };
        assert_eq!(refusal.code, Code::Replaced);
        assert!(refusal.retry_after_ms.unwrap() >= 60_000);
        assert!(refusal.message.contains("another id"), "{refusal}");
    }
}
