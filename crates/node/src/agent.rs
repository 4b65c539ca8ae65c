//! The node's side of one line: it announces itself on every session, serves what is opened, and remembers how each
//! session ended.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use reachback_client::{
    Access, keep_renewed,
    line::{LineEnd, Standing, Tenant},
};
use reachback_wire::limits;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    caller::CallerLine,
    control::{self, News},
    ends::EndLog,
    node::Board,
    serve::{Desk, note_panic},
};

/// Lives on the sessions of one line.
pub(crate) struct Agent {
    desk: Arc<Desk>,
    labels: Arc<BTreeMap<String, String>>,
    access: Access,
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
        access: Access,
        board: Arc<Board>,
        slot: u32,
        caller: Arc<CallerLine>,
    ) -> Self {
        Self { desk, labels, access, board, slot, caller, ends: EndLog::default(), visits: JoinSet::new() }
    }
}

impl Tenant for Agent {
    fn live(&mut self, standing: Standing) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Standing { session, incoming, control, welcome, since } = standing;
            let ends = self.ends.report(&welcome, since);
            let Desk { catalogue, grants, healths, .. } = &*self.desk;
            grants.correct(welcome.time_unix_ms);
            let news = News {
                labels: &self.labels,
                services: catalogue.watch(),
                grants: grants.watch(),
                health: healths.watch(),
            };
            self.caller.stands(session.clone());
            let (answers, answered) = mpsc::channel(1);
            let renewing = async {
                if let Some(membership) = self.access.membership() {
                    keep_renewed(&membership, &session, &welcome, since, answered).await;
                }
            };
            let over = session.ended();
            tokio::join!(
                control::run(&session, control, news, ends, answers),
                self.desk.take_in(incoming, &mut self.visits),
                async {
                    tokio::select! {
                        () = renewing => {}
                        _ = over => {}
                    }
                },
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
