//! What happened, as the services saw it and as the callers did, and whether the two fit together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use reachback_wire::Code;
use tokio::time::Instant;

use crate::treatment::{Framing, How, Outcome, params};

/// What an explorer adds to a deadline before it speaks in the place of a node.
const STATED_SLACK: Duration = Duration::from_millis(250);
/// Deadlines travel in whole milliseconds, rounded down, over three hops.
const ROUNDING: Duration = Duration::from_millis(20);

/// A service's memory of its calls.
#[derive(Clone, Default)]
pub(crate) struct Sightings(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    calls: BTreeMap<usize, Sighting>,
    order: u64,
    /// Seen and not answered yet, of those that are answered in turns.
    turning: BTreeSet<u64>,
    overtaken: usize,
}

#[derive(Default)]
struct Sighting {
    times: usize,
    order: u64,
    /// Every byte of its answer was written, under the right id, on a connection that was still whole.
    answered: bool,
}

/// One call as its caller saw it.
pub(crate) struct Record {
    pub(crate) call: usize,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// Everything that came: there has to be one.
    pub(crate) outcomes: Vec<Outcome>,
}

/// What a checked history amounts to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// How often each outcome came: `result`, `error` or the name of a code.
    pub(crate) outcomes: BTreeMap<String, usize>,
    /// Answers that were given before one to an earlier call.
    pub(crate) overtaken: usize,
    /// Lost with a connection that another call had closed.
    pub(crate) taken_along: usize,
    pub(crate) took: Duration,
}

impl Sightings {
    pub(crate) fn saw(&self, call: usize) {
        let mut seen = self.0.lock();
        seen.order += 1;
        let order = seen.order;
        if How::of(call) == How::Turned {
            seen.turning.insert(order);
        }
        let sighting = seen.calls.entry(call).or_default();
        sighting.times += 1;
        sighting.order = order;
    }

    /// The whole answer to it was written.
    pub(crate) fn answered(&self, call: usize) {
        let mut seen = self.0.lock();
        let order = seen.calls[&call].order;
        seen.turning.remove(&order);
        let overtakes = seen.turning.first().is_some_and(|earlier| *earlier < order);
        seen.overtaken += usize::from(overtakes);
        seen.calls.get_mut(&call).expect("it was seen").answered = true;
    }
}

/// Holds every call against what its service did with it.
///
/// `late_by` is how long this machine made a timer wait during the test: what is promised is promised by a machine that
/// runs its programs.
pub(crate) fn check(
    framing: Framing,
    calls: usize,
    records: &[Record],
    sightings: &Sightings,
    late_by: Duration,
) -> Summary {
    let seen = sightings.0.lock();
    let mut summary = Summary { overtaken: seen.overtaken, ..Summary::default() };
    let mut recorded: Vec<usize> = records.iter().map(|record| record.call).collect();
    recorded.sort_unstable();
    assert!(recorded == (0..calls).collect::<Vec<_>>(), "each call has come to an end, and to one");
    assert!(seen.calls.keys().all(|call| *call < calls), "a service was asked what nobody asked");

    for Record { call, begun, ended, outcomes } in records {
        let how = How::of(*call);
        let (times, answered) =
            seen.calls.get(call).map_or((0, false), |sighting| (sighting.times, sighting.answered));
        let story = || format!("{framing:?} call {call} ({how:?}, seen {times}, answered {answered})");
        assert!(times <= 1, "{}: carried out {times} times", story());
        let [outcome] = &outcomes[..] else { panic!("{}: outcomes {outcomes:?}", story()) };

        let expected = how.outcome(framing, &params(*call));
        // What shares a connection shares its end, unless it was answered before.
        let shared_end = framing == Framing::Lines && !answered && *outcome == Outcome::Failed(Code::Lost);
        if *outcome != expected {
            assert!(shared_end, "{}: {outcome:?} instead of {expected:?}", story());
            summary.taken_along += 1;
        } else if !matches!(expected, Outcome::Failed(Code::Timeout)) {
            assert_eq!(times, 1, "{}: {outcome:?}", story());
        }

        let took = *ended - *begun;
        let limit = how.limit();
        let allowed = limit + STATED_SLACK + late_by;
        assert!(took <= allowed, "{}: took {took:?} of {allowed:?}", story());
        if *outcome == Outcome::Failed(Code::Timeout) {
            assert!(took >= limit - ROUNDING, "{}: given up after {took:?}", story());
        }
        let name = match outcome {
            Outcome::Result(_) => "result".to_owned(),
            Outcome::Error(..) => "error".to_owned(),
            Outcome::Failed(code) => code.to_string(),
        };
        *summary.outcomes.entry(name).or_default() += 1;
    }
    summary
}
