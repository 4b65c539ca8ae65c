//! Which ephemeral nodes are there right now.
//!
//! The id of a container may be taken by the next one, but not while the first still runs. Nothing of it is on disk: after a
//! restart of the explorer nobody is there, and whoever comes first has the id.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use reachback_wire::NodeId;

/// How many sessions each has.
#[derive(Clone, Default)]
pub(super) struct Presence(Arc<Mutex<BTreeMap<NodeId, usize>>>);

/// Somebody is connected as long as this lives.
pub struct Attendance(Option<(Presence, NodeId)>);

impl Presence {
    /// A session of this node begins.
    pub(super) fn attend(&self, id: &NodeId) -> Attendance {
        *self.0.lock().entry(id.clone()).or_default() += 1;
        Attendance(Some((self.clone(), id.clone())))
    }

    /// A session of somebody whose presence changes nothing.
    pub(super) fn nobody() -> Attendance {
        Attendance(None)
    }

    pub(super) fn is_there(&self, id: &NodeId) -> bool {
        self.0.lock().contains_key(id)
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let Some((Presence(sessions), id)) = &self.0 else { return };
        let mut sessions = sessions.lock();
        match sessions.get_mut(id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(sessions.remove(id)),
        }
    }
}

impl fmt::Debug for Attendance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attendance({:?})", self.0.as_ref().map(|(_, id)| id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_until_its_last_session_is_gone() {
        let (presence, id) = (Presence::default(), "edge-7".parse().unwrap());
        let (first, second) = (presence.attend(&id), presence.attend(&id));
        let _ = Presence::nobody();
        drop(first);
        assert!(presence.is_there(&id));
        drop(second);
        assert!(!presence.is_there(&id));
    }
}
