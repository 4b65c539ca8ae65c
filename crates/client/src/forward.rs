//! A local port that is a service far away: every visitor gets a stream of its own.
//!
//! A visitor is never left guessing. While the target's node is offline the listener is closed, so that a connection is
//! refused as it would be on the machine itself and `nc -z` tells the truth; the port is the same when it opens again.
//! Where that is not enough warning (the service refuses, the line breaks in this moment) the visitor's connection is
//! reset, which a program sees as an error and not as an empty answer. A forward that was told to wait stays open
//! instead and keeps visitors until the node is back, for that long.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use reachback_link::{
    Accepted, ListenAddress, Listener, LocalAddress, Net, Substream, accept::pause_after, splice,
};
use reachback_wire::Target;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{FORWARD_VISITORS, REBIND_PAUSE, RETRY_PAUSE},
    presence::{Presence, follow},
    reconnecting::NoStream,
    stats::add,
    uplink::Uplink,
};

/// A forward. Dropping it closes the listener and every visitor's connection.
pub struct Forward {
    local: LocalAddress,
    listening: watch::Receiver<bool>,
    stop: CancellationToken,
    tasks: JoinSet<io::Result<()>>,
}

impl Forward {
    /// Binds `on` and passes every visitor to `target` over `uplink`. With `wait` visitors are kept that long while the
    /// target's node is away; without, the listener is closed then.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn start(
        net: Arc<dyn Net>,
        uplink: Uplink,
        on: &ListenAddress,
        target: Target,
        wait: Option<Duration>,
    ) -> io::Result<Self> {
        let listener = net.listen(on).await?;
        let local = listener.local();
        let stop = CancellationToken::new();
        let (tell, listening) = watch::channel(true);
        let on = same_again(on, &local);
        let open = Some((listener, SocketFile::of(&on)));
        let door = Door { net, on, open, tell };
        let mut tasks = JoinSet::new();
        tasks.spawn(run(door, uplink, target, wait, stop.clone()));
        Ok(Self { local, listening, stop, tasks })
    }

    /// Where it listens, with the port that was really bound.
    pub fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Whether it listens now: not while the target's node is offline.
    pub fn listening(&self) -> watch::Receiver<bool> {
        self.listening.clone()
    }

    /// Resolves when the forward has broken, with the reason; never while it works.
    pub async fn failed(&mut self) -> io::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => io::Error::other(error),
            Some(Ok(Ok(()))) | None => std::future::pending().await,
        }
    }

    /// Closes the listener and every visitor's connection.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The listener and what it takes to open it again.
struct Door {
    net: Arc<dyn Net>,
    on: ListenAddress,
    open: Option<(Listener, SocketFile)>,
    tell: watch::Sender<bool>,
}

/// A Unix socket's file, if that is what it is: it goes when the listener does, or nobody could listen there again.
pub(crate) struct SocketFile(Option<PathBuf>);

impl SocketFile {
    /// Where a listener has just been bound.
    pub(crate) fn of(on: &ListenAddress) -> Self {
        match on {
            ListenAddress::Unix(path) => Self(Some(path.clone())),
            ListenAddress::Tcp { .. } => Self(None),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the socket file could not be removed");
        }
    }
}

impl Door {
    /// Opens it, trying again while somebody else has the place.
    async fn open(&mut self) {
        let mut said = false;
        while self.open.is_none() {
            match self.net.listen(&self.on).await {
                Ok(listener) => {
                    self.open = Some((listener, SocketFile::of(&self.on)));
                    self.tell.send_replace(true);
                }
                Err(error) => {
                    if !said {
                        tracing::warn!(address = %self.on, %error, "can't listen there again yet; trying on");
                        said = true;
                    }
                    sleep(REBIND_PAUSE).await;
                }
            }
        }
    }

    fn close(&mut self) {
        if self.open.take().is_none() {
            return;
        }
        self.tell.send_replace(false);
    }

    /// What happens next at the door: it opens, if it should be open and is not, or a visitor comes, if there is room.
    async fn next(&mut self, wanted: bool, room: bool) -> Event {
        if wanted && self.open.is_none() {
            self.open().await;
            return Event::Opened;
        }
        match &mut self.open {
            Some((listener, _)) if room => Event::Visitor(listener.accept().await),
            _ => std::future::pending().await,
        }
    }
}

enum Event {
    Opened,
    Visitor(io::Result<Accepted>),
}

/// Only accepts: whatever takes time happens in the visitor's own task.
async fn run(
    mut door: Door,
    uplink: Uplink,
    target: Target,
    wait: Option<Duration>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut followers = JoinSet::new();
    let mut reachable = follow_all(&uplink, &target, &mut followers);
    let mut visitors = JoinSet::new();
    loop {
        let wanted = *reachable.borrow_and_update() || wait.is_some();
        if !wanted && door.open.is_some() {
            tracing::info!(%target, address = %door.on, "not reachable now; the listener is closed until it is");
            door.close();
        }
        let room = visitors.len() < FORWARD_VISITORS;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Ok(()) = reachable.changed() => {}
            Some(finished) = visitors.join_next() => {
                if let Err(error) = finished {
                    tracing::error!(%error, "a visitor's task failed");
                }
            }
            event = door.next(wanted, room) => match event {
                Event::Opened => tracing::info!(%target, address = %door.on, "listening again"),
                Event::Visitor(Ok(visitor)) => {
                    let patience = wait.map(|wait| (wait, reachable.clone()));
                    visitors.spawn(serve(visitor, uplink.clone(), target.clone(), patience));
                }
                Event::Visitor(Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    if let Some(pause) = pause_after(&error) {
                        sleep(pause).await;
                    }
                }
            },
        }
    }
}

/// Whether the target can be reached, as all explorers together see it.
fn follow_all(uplink: &Uplink, target: &Target, followers: &mut JoinSet<()>) -> watch::Receiver<bool> {
    let (open, opened) = watch::channel(true);
    let open = Arc::new(open);
    let words = Arc::new(watch::Sender::new(vec![Presence::Asking; uplink.lines().len()]));
    for (place, line) in uplink.lines().iter().enumerate() {
        let (words, open) = (words.clone(), open.clone());
        let tell = move |word| {
            words.send_modify(|words| {
                words[place] = word;
                let reachable = |word: &Presence| !matches!(word, Presence::Offline | Presence::NoSession);
                let now = words.iter().any(reachable);
                open.send_if_modified(|open| std::mem::replace(open, now) != now);
            });
        };
        match target.node() {
            Some(node) => {
                followers.spawn(follow(line.session.clone(), node.clone(), tell));
            }
            // The explorer's own services are there while it is.
            None => {
                let mut session = line.session.clone();
                followers.spawn(async move {
                    loop {
                        let there = session.borrow_and_update().is_some();
                        tell(if there { Presence::Online } else { Presence::NoSession });
                        if session.changed().await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    }
    opened
}

/// How long a visitor may wait, and what it waits for.
type Patience = (Duration, watch::Receiver<bool>);

async fn serve(visitor: Accepted, uplink: Uplink, target: Target, patience: Option<Patience>) {
    let peer = visitor.peer;
    let local = match visitor.socket.into_transport() {
        Ok(local) => local,
        Err(error) => {
            tracing::warn!(%peer, %error, "a visitor's socket can't be used");
            return;
        }
    };
    let opened = match patience {
        Some(patience) => open_when_there(&uplink, &target, patience).await,
        None => uplink.open(&target).await,
    };
    match opened {
        Ok(substream) => {
            add(&uplink.stats().visitors_served, 1);
            let spliced = splice(substream, local).await;
            add(&uplink.stats().bytes_to_services, spliced.to_peer);
            add(&uplink.stats().bytes_from_services, spliced.from_peer);
            match spliced.end {
                Ok(()) => {
                    tracing::debug!(%peer, %target, up = spliced.to_peer, down = spliced.from_peer, "stream finished")
                }
                Err(error) => tracing::info!(%peer, %target, %error, "stream broke"),
            }
        }
        Err(error) => {
            add(&uplink.stats().visitors_refused, 1);
            tracing::warn!(%peer, %target, code = error.code().name(), reason = %error, "visitor turned away");
            local.close_with_reset(true);
        }
    }
}

/// Opens when the target is there, or tells why it still is not when the wait is over. Tries again only where nothing
/// was sent, so a visitor's bytes are sent once.
async fn open_when_there(
    uplink: &Uplink,
    target: &Target,
    (wait, mut reachable): Patience,
) -> Result<Substream, NoStream> {
    let deadline = Instant::now() + wait;
    loop {
        // Whether it came or not, what an open says then is the answer.
        drop(timeout_at(deadline, reachable.wait_for(|reachable| *reachable)).await);
        match uplink.open(target).await {
            Err(error) if error.passes() && Instant::now() < deadline => {
                let next = match error.asked_wait() {
                    // Who asks for patience is not tried before.
                    Some(asked) => Instant::now() + asked.max(RETRY_PAUSE),
                    None => deadline.min(Instant::now() + RETRY_PAUSE),
                };
                if next > deadline {
                    return Err(error);
                }
                sleep_until(next).await;
            }
            outcome => return outcome,
        }
    }
}

/// The same place for the next time: the port that the kernel chose, and of a name's addresses the one that was bound.
fn same_again(on: &ListenAddress, local: &LocalAddress) -> ListenAddress {
    match (on, local) {
        (ListenAddress::Tcp { host, .. }, LocalAddress::Tcp(bound)) => {
            ListenAddress::Tcp { host: host.as_ref().map(|_| bound.ip().to_string()), port: bound.port() }
        }
        _ => on.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_is_the_address_that_was_bound() {
        let bound = |text: &str| LocalAddress::Tcp(text.parse().unwrap());
        for (on, local, again) in [
            ("127.0.0.1:0", bound("127.0.0.1:4711"), "127.0.0.1:4711"),
            // A name may have several addresses; the next one in line is another place.
            ("localhost:0", bound("127.0.0.1:4711"), "127.0.0.1:4711"),
            ("localhost:0", bound("[::1]:4711"), "[::1]:4711"),
            (":0", bound("[::]:4711"), ":4711"),
            ("unix:///run/x.sock", LocalAddress::Unix("/run/x.sock".into()), "unix:///run/x.sock"),
        ] {
            assert_eq!(same_again(&on.parse().unwrap(), &local).to_string(), again, "{on}");
        }
    }
}
