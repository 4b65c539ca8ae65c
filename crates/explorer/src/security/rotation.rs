//! Exchanging the keys that everything rests on, while everybody stays.
//!
//! A rotation has a beginning and an end, with weeks between them: machines that are off must find the old authority when
//! they come back, and learn the new one as they renew. It ends when nobody is left behind, or when the operator accepts who is.

use reachback_wire::{Code, Refusal, join::Pin};

use super::{Actor, Keys, Security, SecurityError, audit::Entry, ca::Authority, tokens::TokenKeys};
use crate::limits;

impl Security {
    /// Begins to replace the authority and the key of tokens: the new ones sign from now on, the old ones are still believed.
    /// Blocks.
    ///
    /// # Errors
    /// A rotation is under way already, or the keys can't be written; then nothing has changed.
    pub fn begin_rotation(&self, by: &Actor) -> Result<(), Refusal> {
        let entry = Entry::new("rotation begun", "authority and token key").actor(by);
        let outcome = self.rotate(|keys, now_ms| {
            if keys.authority.is_rotating() {
                return Err(Refusal::new(
                    Code::Denied,
                    "a rotation is under way already; finish it first: reachback ca rotate finish",
                ));
            }
            let next = || Ok((keys.authority.begin_rotation(now_ms)?, keys.tokens.begin_rotation()?));
            next().map_err(not_rotated)
        });
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    /// Ends it: the old authority and the old key of tokens are believed no more. Blocks.
    ///
    /// # Errors
    /// No rotation is under way; nodes or users still have certificates of the old authority and `force` does not accept that
    /// they have to join again; or the keys can't be written.
    pub fn finish_rotation(&self, force: bool, by: &Actor) -> Result<(), Refusal> {
        let entry = Entry::new("rotation finished", "authority and token key").actor(by);
        let outcome = self.rotate(|keys, now_ms| {
            if !keys.authority.is_rotating() {
                return Err(Refusal::new(
                    Code::Denied,
                    "no rotation is under way; begin one: reachback ca rotate begin",
                ));
            }
            if !force {
                self.nobody_left_behind(keys.authority_pin, now_ms)?;
            }
            // The authority last: as long as it has an old one, an interrupted end can be repeated.
            let next = || {
                let tokens = keys.tokens.finish_rotation()?;
                Ok((keys.authority.finish_rotation()?, tokens))
            };
            next().map_err(not_rotated)
        });
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    /// Whether older authorities are still believed.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.keys().authority.is_rotating()
    }

    fn rotate(
        &self,
        next: impl FnOnce(&Keys, u64) -> Result<(Authority, TokenKeys), Refusal>,
    ) -> Result<(), Refusal> {
        let _changing = self.changing.lock();
        let now_ms = self.config.clock.now_ms();
        let (authority, tokens) = next(&self.keys(), now_ms)?;
        self.exchange(|_| Ok((authority, tokens))).map_err(not_rotated)
    }

    fn nobody_left_behind(&self, current: Pin, now_ms: u64) -> Result<(), Refusal> {
        let current = current.to_string();
        let behind: Vec<String> = self.store.read(|state| {
            let all = state.nodes.values().chain(state.users.values());
            all.filter(|row| row.authority != current && row.not_after_ms > now_ms)
                .map(|row| row.name.to_string())
                .collect()
        });
        if behind.is_empty() {
            return Ok(());
        }
        let named =
            behind.iter().take(limits::NAMES_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = behind.len().saturating_sub(limits::NAMES_LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Refusal::new(
            Code::Denied,
            format!(
                "{named}{more} still have certificates of the old authority and would have to join again; they get new ones at \
                 half of their life, so wait, or accept it with --force"
            ),
        ))
    }
}

fn not_rotated(error: SecurityError) -> Refusal {
    Refusal::new(Code::Internal, format!("the keys are not exchanged: {error}"))
}
