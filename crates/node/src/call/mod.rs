//! Calls: one JSON-RPC request to a service of this node, its answer, and one deadline over both.
//!
//! A service speaks one of three framings and knows nothing of tunnels; a caller far away has to learn exactly one
//! outcome, the right one. So the request is read whole before the service sees any of it (too large, or broken off, is
//! then still "nothing happened"), it is written once, the answer is passed on while it comes, and every end of the
//! service's connection but a complete answer is an error. The way of a call:
//!
//! ```text
//! mod.rs       dial within the open ─▶ request.rs ─▶ one of the framings ─▶ answer.rs
//! http.rs      one POST on a connection of its own         items.rs     event streams and JSON lines
//! raw.rs       a connection of its own, JSON until it is complete       scan.rs      where a JSON text ends
//! lines.rs     one connection for all calls                envelope.rs  ids found, exchanged, restored
//! function.rs  no connection: a function of this program (crate::rpc)
//! ```

mod answer;
mod envelope;
pub(crate) mod function;
mod http;
mod items;
mod lines;
mod raw;
mod request;
mod scan;

use std::{sync::Arc, time::Duration};

use reachback_link::{Address, Inbound, StreamEnd, Substream, Transport};
use reachback_wire::{Code, EndStatus, Open, Refusal, ServiceName, limits as wire_limits};
use tokio::{
    sync::Semaphore,
    time::{Instant, error::Elapsed, timeout_at},
};

pub(crate) use self::lines::Lines;
use self::{answer::Answer, lines::Connection, request::Request};
use crate::{
    catalogue::Declared,
    grants::Lease,
    limits,
    serve::{Desk, Visited, dial_time},
    service::{Framing, Service},
    stats::{add, count},
};

/// What bodies of all calls of the node may take, in units of [`request::UNIT`].
pub(crate) struct Bodies {
    /// Requests on their way to services.
    requests: Arc<Semaphore>,
    /// Answers of shared connections on their way to callers.
    answers: Arc<Semaphore>,
    /// What services said of their own accord to callers that have not read it yet.
    notices: Arc<Semaphore>,
    /// What one request or one answer may have, in bytes.
    most: usize,
}

impl Bodies {
    /// For calls of which each direction may have `most` bytes, though never more than both ends have agreed on.
    pub(crate) fn new(most: usize) -> Self {
        let room = || Arc::new(Semaphore::new(limits::CALL_BODIES / request::UNIT));
        let most = most.min(wire_limits::CALL_BODY_MAX);
        Self { requests: room(), answers: room(), notices: room(), most }
    }
}

/// Why a call has no answer of the service.
enum Trouble {
    /// The caller gave up, or its session ended: nobody is left to be told.
    Gone(StreamEnd),
    /// What the caller is told.
    Failed(Code, String),
}

impl From<StreamEnd> for Trouble {
    fn from(end: StreamEnd) -> Self {
        Self::Gone(end)
    }
}

/// How a service is reached: what a framing needs to dial it.
#[derive(Clone, Copy)]
struct Reach<'a> {
    desk: &'a Desk,
    declared: &'a Declared,
    address: &'a Address,
}

impl<'a> Reach<'a> {
    async fn dial(self, deadline: Instant) -> Result<Transport, Refusal> {
        let Declared { service, gate, .. } = self.declared;
        self.desk.reach(service.name(), self.address, gate, deadline).await
    }

    fn service(self) -> &'a Service {
        &self.declared.service
    }
}

/// The service's end of a call.
enum Way {
    Http(Transport),
    Raw(Transport),
    Lines(Arc<Connection>),
}

/// Serves one call from its open to its end.
pub(crate) async fn serve(
    desk: &Desk,
    inbound: Inbound,
    open: &Open,
    declared: &Declared,
    address: &Address,
    lease: Option<Lease>,
) -> Result<(), Visited> {
    let time = Time::of(open);
    let reach = Reach { desk, declared, address };
    let connecting = async {
        let until = time.begun + dial_time(open.deadline_ms);
        Ok(match declared.service.framing() {
            Some(Framing::Lines) => Way::Lines(declared.lines.connect(reach, until).await?),
            Some(Framing::Raw) => Way::Raw(reach.dial(until).await?),
            Some(Framing::Http) | None => Way::Http(reach.dial(until).await?),
        })
    };
    let (mut substream, way) = inbound.answer(connecting).await?;
    count(&desk.stats.calls_served);
    let exchanged = within(lease, exchange(reach, way, time.deadline, &mut substream));
    let outcome = time.limit(exchanged).await;
    conclude(desk, declared.service.name(), time, substream, outcome).await
}

/// How long a call may take.
#[derive(Clone, Copy)]
struct Time {
    begun: Instant,
    allowed: Duration,
    deadline: Instant,
}

impl Time {
    /// From now on, as long as its opener says.
    fn of(open: &Open) -> Self {
        let begun = Instant::now();
        let allowed = open.deadline().unwrap_or(wire_limits::OPEN_TIMEOUT).min(limits::CALL_DEADLINE_MAX);
        Self { begun, allowed, deadline: begun + allowed }
    }

    async fn limit<T>(self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.deadline, work).await
    }
}

/// A call that a grant lets in ends with it.
async fn within(
    lease: Option<Lease>,
    work: impl Future<Output = Result<(), Trouble>>,
) -> Result<(), Trouble> {
    let Some(lease) = lease else { return work.await };
    tokio::select! {
        biased;
        outcome = work => outcome,
        over = lease.end() => Err(Trouble::Failed(over.code, over.message)),
    }
}

/// Tells the caller how its call ended, unless it has been told by an answer.
async fn conclude(
    desk: &Desk,
    service: &ServiceName,
    time: Time,
    mut substream: Substream,
    outcome: Result<Result<(), Trouble>, Elapsed>,
) -> Result<(), Visited> {
    let (code, text) = match outcome {
        Ok(Ok(())) => {
            count(&desk.stats.calls_answered);
            return Ok(());
        }
        Ok(Err(Trouble::Gone(end))) => {
            return Err(Visited::Broken(format!("the caller went away: {end}")));
        }
        Ok(Err(Trouble::Failed(code, text))) => (code, text),
        Err(Elapsed { .. }) => {
            let text = format!("service {service} did not answer within {}", spoken(time.allowed));
            (Code::Timeout, text)
        }
    };
    // Behind what was sent there is always room for the reason; a reset finds none while the caller is slow. Whoever has
    // not said everything yet, or takes nothing, is reset all the same.
    let told = substream.is_half_finished() && {
        let until = Instant::now() + limits::LAST_WORD;
        let status = EndStatus { code, message: text.clone() };
        matches!(timeout_at(until, substream.finish(Some(status))).await, Ok(Ok(())))
    };
    if !told {
        substream.reset(code, &text);
    }
    Err(Visited::Broken(text))
}

/// The request in, the answer out. Dropping it closes what belongs to the call alone.
async fn exchange(
    reach: Reach<'_>,
    way: Way,
    deadline: Instant,
    substream: &mut Substream,
) -> Result<(), Trouble> {
    let bodies = &reach.desk.bodies;
    let request = Request::read(substream, &bodies.requests, bodies.most).await?;
    let stats = &reach.desk.stats;
    add(&stats.bytes_to_services, request.body.len() as u64);
    let mut answer = Answer::new(substream, stats, bodies.most);
    match way {
        Way::Http(transport) => http::call(transport, reach.service(), request, &mut answer).await?,
        Way::Raw(transport) => raw::call(transport, reach.service().name(), request, &mut answer).await?,
        Way::Lines(connection) => {
            lines::call(connection, reach, deadline, request, &mut answer).await?;
        }
    }
    Ok(())
}

/// A duration as people say it.
fn spoken(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs_f64().round())
    }
}
