//! What the security core has to be told.

use std::{sync::Arc, time::Duration};

use reachback_wire::{
    NodeId,
    rights::{NamePattern, PatternError, Right, Rights},
};

use super::wall::WallClock;
use crate::{
    limits,
    modes::{NodeIdVerification, TlsFiles},
};

/// What it has to know besides its state directory.
#[derive(Debug, Clone)]
pub struct SecurityConfig {
    /// The explorer's name, which is in its own certificate.
    pub explorer: NodeId,
    /// Certificates that somebody else made, if any.
    pub files: TlsFiles,
    /// What those may do who come with such certificates: the first pattern that fits a name counts.
    pub callers: Vec<(NamePattern, Arc<Rights>)>,
    /// How long certificates of nodes and users are valid.
    pub certificate_life: Duration,
    /// The same for nodes that come and go.
    pub ephemeral_life: Duration,
    /// The date.
    pub clock: WallClock,
}

impl SecurityConfig {
    /// An explorer of this name that makes everything itself.
    #[must_use]
    pub fn new(explorer: NodeId) -> Self {
        Self {
            explorer,
            files: TlsFiles::default(),
            callers: Vec::new(),
            certificate_life: limits::CERTIFICATE,
            ephemeral_life: limits::EPHEMERAL_CERTIFICATE,
            clock: WallClock::system(),
        }
    }

    /// With what a `[[caller]]` table says.
    ///
    /// # Errors
    /// It has more rights than one caller can have.
    pub fn allow(mut self, callers: &[(NamePattern, Vec<Right>)]) -> Result<Self, PatternError> {
        for (pattern, rights) in callers {
            self.callers.push((pattern.clone(), Arc::new(Rights::new(rights.clone())?)));
        }
        Ok(self)
    }

    pub(super) fn verification(&self) -> NodeIdVerification {
        self.files.node_id_verification.unwrap_or(NodeIdVerification::SubjectAltName)
    }
}
