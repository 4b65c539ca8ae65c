//! `explorer.watch`: the present first, then every change, until the follower leaves.
//!
//! A follower that is slower than the changes gets the present state of whatever changed meanwhile, not a history: for
//! that there is `explorer.events`.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reachback_wire::{Code, NodeId, Refusal};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Asking,
    rpc::{Problem, Request, bytes},
    table::WATCH,
    types::{Forgotten, WatchParams},
};
use crate::{
    access::sees,
    auth::Principal,
    events::{Change, Watcher},
    hub::Hub,
    limits,
    view::{NodeView, NodesView},
};

struct Following {
    hub: Arc<Hub>,
    /// Who follows, and sees only what concerns it.
    who: Principal,
    only: Option<NodeId>,
    changes: Watcher,
    /// Who was shown, and is shown as forgotten when it is.
    shown: BTreeSet<NodeId>,
    waiting: VecDeque<Bytes>,
    _place: OwnedSemaphorePermit,
}

/// The stream of one follower.
pub(super) fn items(
    hub: &Arc<Hub>,
    request: &Request<'_>,
    asking: &Asking,
) -> Result<BoxStream<'static, Bytes>, Problem> {
    let WatchParams { node } = request.params()?;
    let place = hub.watchers.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{} others follow already; poll explorer.nodes instead", limits::WATCHERS);
        Refusal::new(Code::Saturated, message).retry_after(limits::SATURATED_RETRY)
    })?;
    let mut following = Following {
        hub: hub.clone(),
        who: asking.who.clone(),
        only: node,
        // Before the state is read, so that no change falls between the two.
        changes: hub.registry.watch(),
        shown: BTreeSet::new(),
        waiting: VecDeque::new(),
        _place: place,
    };
    following.show_all();
    Ok(stream::unfold(following, |mut following| async move {
        let item = following.next().await?;
        Some((item, following))
    })
    .boxed())
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(item) = self.waiting.pop_front() {
                return Some(item);
            }
            let change = tokio::select! {
                change = self.changes.next() => change?,
                () = self.hub.closing.cancelled() => return None,
            };
            match change {
                Change::Node(node) if self.follows(&node) => self.show(&node),
                Change::Node(_) => {}
                Change::Many => {
                    self.show_all();
                    let gone = |node: &&NodeId| NodeView::find(&self.hub, node).is_none();
                    let gone: Vec<_> = self.shown.iter().filter(gone).cloned().collect();
                    gone.iter().for_each(|node| self.show(node));
                }
            }
        }
    }

    fn follows(&self, node: &NodeId) -> bool {
        self.only.as_ref().is_none_or(|only| only == node) && sees(&self.who, WATCH, node)
    }

    fn show_all(&mut self) {
        let mut view = NodesView::of(&self.hub);
        view.nodes.retain(|node| self.follows(&node.node));
        self.shown.extend(view.nodes.iter().map(|node| node.node.clone()));
        self.waiting.push_back(bytes(&view).into());
    }

    fn show(&mut self, node: &NodeId) {
        match NodeView::find(&self.hub, node) {
            Some(view) => {
                self.shown.insert(node.clone());
                self.waiting.push_back(bytes(&view).into());
            }
            None if self.shown.remove(node) => {
                self.waiting.push_back(bytes(&Forgotten { node, state: "forgotten" }).into());
            }
            None => {}
        }
    }
}
