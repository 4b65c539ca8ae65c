//! Who dials: what a process says of itself in every `Hello`, whatever its role.
//!
//! The instance is made once per process start and never stored: with it two processes of one name can be told from
//! one process that dialled twice. Chance comes through [`Random`], so that a simulated run repeats itself.

use std::sync::Arc;

use parking_lot::Mutex;
use reachback_wire::{Credential, Generation, Hello, Instance, NodeId, Nonce, ProtocolRange, Role};

/// What one process shows of itself on every line it keeps.
#[derive(Debug, Clone)]
pub struct Identity {
    role: Role,
    id: NodeId,
    instance: Instance,
    agent: String,
    random: Random,
}

impl Identity {
    /// A new instance of `id` in `role`.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn new(role: Role, id: NodeId, random: Random) -> Result<Self, RandomError> {
        let instance = Instance::from_bytes(random.bytes()?);
        let agent = concat!("reachback/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Self { role, id, instance, agent, random })
    }

    /// The name it goes by.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// This process start.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// What is said on line `slot` at its attempt `seq`, with this to show for it.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn hello(&self, slot: u32, seq: u64, credential: Option<Credential>) -> Result<Hello, RandomError> {
        Ok(Hello {
            role: self.role,
            id: self.id.clone(),
            generation: Generation { instance: self.instance, slot, seq },
            protocol: ProtocolRange::SUPPORTED,
            agent: self.agent.clone(),
            nonce: Nonce(self.random.bytes()?),
            features: Vec::new(),
            credential,
            resume: None,
        })
    }

    /// A seed for delays that are drawn by chance.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn seed(&self) -> Result<u64, RandomError> {
        Ok(u64::from_ne_bytes(self.random.bytes()?))
    }
}

/// Where chance comes from: the operating system, or a seed that makes a run repeatable.
#[derive(Clone, Default)]
pub struct Random(Option<Arc<Mutex<fastrand::Rng>>>);

impl Random {
    /// Unpredictable bytes of the operating system.
    pub fn system() -> Self {
        Self(None)
    }

    /// The same bytes for the same seed: for tests and simulations only, since peers could predict them.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)))))
    }

    fn bytes<const N: usize>(&self) -> Result<[u8; N], RandomError> {
        let mut bytes = [0; N];
        match &self.0 {
            Some(seeded) => seeded.lock().fill(&mut bytes),
            None => getrandom::fill(&mut bytes).map_err(|error| RandomError(error.to_string()))?,
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Random(seeded)" } else { "Random(system)" })
    }
}

/// The operating system has no random bytes to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes ({0}); is /dev/urandom there?")]
pub struct RandomError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_start_is_one_instance_and_its_attempts_grow() {
        let identity = Identity::new(Role::Node, "edge-7".parse().unwrap(), Random::system()).unwrap();
        let again = Identity::new(Role::Node, "edge-7".parse().unwrap(), Random::system()).unwrap();
        assert_ne!(identity.instance(), again.instance());
        let (first, second) = (identity.hello(0, 1, None).unwrap(), identity.hello(0, 2, None).unwrap());
        assert_eq!(second.generation.supersedes(&first.generation), Some(true));
        assert!(first.nonce.0 != second.nonce.0);
    }

    #[test]
    fn a_seed_repeats_a_run() {
        let hello = |seed| {
            let identity = Identity::new(Role::Client, "ann".parse().unwrap(), Random::seeded(seed)).unwrap();
            identity.hello(0, 1, None).unwrap().nonce.0
        };
        assert_eq!(hello(1), hello(1));
        assert_ne!(hello(1), hello(2));
    }
}
