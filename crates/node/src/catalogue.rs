//! What the node serves right now: declared at the start, and changed at run time through the control socket.
//!
//! A visit keeps what it found here until it ends, so a service that is taken back serves its visitors to the end and
//! nobody new. Every line watches the list and announces it anew when it changes.

use std::{collections::BTreeMap, sync::Arc};

use reachback_wire::ServiceName;
use tokio::sync::watch;

use crate::{call::Lines, gate::Gate, service::Service};

/// One declared service and what its visits share.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) service: Service,
    pub(crate) gate: Gate,
    /// The connection that its calls share, if they do.
    pub(crate) lines: Lines,
}

/// A list as it was at one moment.
pub(crate) type Listed = Arc<BTreeMap<ServiceName, Arc<Declared>>>;

/// The list of declared services.
#[derive(Debug)]
pub(crate) struct Catalogue {
    listed: watch::Sender<Listed>,
    /// How many opens may wait for each of them.
    most_waiting: usize,
}

impl Catalogue {
    pub(crate) fn new(services: impl IntoIterator<Item = Service>, most_waiting: usize) -> Self {
        let catalogue = Self { listed: watch::Sender::default(), most_waiting };
        let declared =
            services.into_iter().map(|service| (service.name().clone(), catalogue.declare(service)));
        let declared = Arc::new(declared.collect());
        catalogue.listed.send_replace(declared);
        catalogue
    }

    /// What visits of a service will share, once it is listed.
    pub(crate) fn declare(&self, service: Service) -> Arc<Declared> {
        let lines = Lines::new(service.name().clone());
        Arc::new(Declared { service, gate: Gate::new(self.most_waiting), lines })
    }

    pub(crate) fn find(&self, name: &ServiceName) -> Option<Arc<Declared>> {
        self.listed.borrow().get(name).cloned()
    }

    /// The list as it is now.
    pub(crate) fn list(&self) -> Listed {
        self.listed.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Listed> {
        self.listed.subscribe()
    }

    /// Replaces the list by what `change` makes of it, unless it refuses.
    pub(crate) fn change<E>(
        &self,
        change: impl FnOnce(&mut BTreeMap<ServiceName, Arc<Declared>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        self.listed.send_if_modified(|listed| {
            let mut next = BTreeMap::clone(listed);
            outcome = change(&mut next);
            if outcome.is_ok() {
                *listed = Arc::new(next);
            }
            outcome.is_ok()
        });
        outcome
    }
}
