//! The node's side of one line: it announces itself on every session, serves what is opened, and remembers how each
//! session ended.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use reachback_client::line::{LineEnd, Standing, Tenant};
use reachback_wire::limits;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    caller::CallerLine,
    control,
    ends::EndLog,
    node::Board,
    serve::{Desk, note_panic},
};

/// Lives on the sessions of one line.
pub(crate) struct Agent {
    desk: Arc<Desk>,
    labels: Arc<BTreeMap<String, String>>,
    board: Arc<Board>,
    slot: u32,
    caller: Arc<CallerLine>,
    ends: EndLog,
    /// Owned here and not by a session: a visit whose session is gone still has its service's socket to close.
    visits: JoinSet<()>,
}

impl Agent {
    pub(crate) fn new(
        desk: Arc<Desk>,
        labels: Arc<BTreeMap<String, String>>,
        board: Arc<Board>,
        slot: u32,
        caller: Arc<CallerLine>,
    ) -> Self {
        Self { desk, labels, board, slot, caller, ends: EndLog::default(), visits: JoinSet::new() }
    }
}

impl Tenant for Agent {
    fn live(&mut self, standing: Standing) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Standing { session, incoming, control, welcome, since } = standing;
            let ends = self.ends.report(&welcome, since);
            let health = self.desk.healths.watch();
            self.caller.stands(session.clone());
            tokio::join!(
                control::run(&session, control, &self.labels, self.desk.catalogue.watch(), health, ends),
                self.desk.take_in(incoming, &mut self.visits),
            );
            self.caller.is_down();
        })
    }

    fn ended(&mut self, end: &LineEnd) {
        self.caller.is_down();
        self.ends.note(end);
        self.board.write(self.slot, |line| line.last_end = Some(end.clone()));
        while let Some(finished) = self.visits.try_join_next() {
            note_panic(finished);
        }
    }

    /// Splices see that their session is gone and reset their service's socket, so that a service can tell a cut
    /// upload from a whole one. Handlers that go on regardless are dropped.
    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let gone = async { while self.visits.join_next().await.is_some() {} };
            if timeout(limits::CLOSE_FLUSH, gone).await.is_err() {
                tracing::debug!("visits that went on after the end were dropped");
            }
        })
    }
}
