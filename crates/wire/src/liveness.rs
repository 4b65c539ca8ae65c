//! When a session is late and when it is dead, as a machine without a clock.
//!
//! A dead link sends no notice: whoever waits for an error waits for ever. And a link may be dead in one
//! direction only, or so full that answers crawl. So there are two clocks: *inbound*, no byte at all for two
//! heartbeats (or for as long as an operator grants) is death; *outbound*, a heartbeat of ours unanswered for two heartbeats makes the session late
//! while other bytes still come, and unanswered for six it is dead whatever comes.
//!
//! The owner reports what arrived and asks [`Liveness::poll`] at [`Liveness::next_deadline`]; there are no
//! ticks. All times are durations since the session began. Two rules for the owner: report what has arrived
//! *before* polling, so that a process that was stopped counts what waited in its socket; and poll until
//! `None`.

use std::{collections::VecDeque, fmt, time::Duration};

/// Silence for this many heartbeats is death.
const SILENT_AFTER: u32 = 2;
/// An answer missing for this many heartbeats is late.
const LATE_AFTER: u32 = 2;
/// An answer missing for this many heartbeats is death.
const UNANSWERED_AFTER: u32 = 6;
/// An interval of nothing would be a loop that only sends.
const SHORTEST: Duration = Duration::from_millis(1);
/// A dead session has nothing more to wait for. Finite, so that adding it to a point in time is safe.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the owner has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessAction {
    /// Send a heartbeat with this number.
    SendHeartbeat {
        /// Counts from 1.
        seq: u64,
    },
    /// Answers are missing while bytes arrive: the session has become [`Pulse::Late`].
    Late,
    /// Answers came after all: the session is [`Pulse::Live`] again.
    Recovered,
    /// End the session. Said once; nothing follows.
    Dead(Death),
}

/// Why a session is dead, as the sentence an operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Not a byte for this long.
    Silent(Duration),
    /// Bytes came, but no answer to a heartbeat for this long.
    Unanswered(Duration),
}

/// How a session that is not dead is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Heartbeats are answered in time.
    Live,
    /// Bytes arrive and answers don't.
    Late,
}

/// The two clocks of one end of one session.
#[derive(Clone, Debug)]
pub struct Liveness {
    heartbeat: Duration,
    /// Silence for this long is death.
    silence: Duration,
    last_byte: Duration,
    next_heartbeat: Duration,
    next_seq: u64,
    /// Heartbeats without an answer and when they were sent, oldest first. Bounded by death: one an interval
    /// until the session is late, and one an interval while it is.
    unanswered: VecDeque<(u64, Duration)>,
    /// Since when the session has been late; `None` while it is live.
    late_since: Option<Duration>,
    /// An answer has ended the lateness, and the owner does not know yet.
    recovered: bool,
    died: Option<Duration>,
}

impl Liveness {
    /// A session that begins `now`, with its first heartbeat due at once. Intervals are taken as they are,
    /// from one millisecond on; what a peer may propose is checked in the handshake.
    #[must_use]
    pub fn new(heartbeat: Duration, now: Duration) -> Self {
        let heartbeat = heartbeat.clamp(SHORTEST, NEVER);
        Self {
            heartbeat,
            silence: heartbeat.saturating_mul(SILENT_AFTER),
            last_byte: now,
            next_heartbeat: now,
            next_seq: 1,
            unanswered: VecDeque::new(),
            late_since: None,
            recovered: false,
            died: None,
        }
    }

    /// The same, with more patience for a silent peer; less than two heartbeats is taken for these. A peer that is silent
    /// answers nothing either, so missing answers kill no sooner.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence.clamp(self.heartbeat.saturating_mul(SILENT_AFTER), NEVER);
        self
    }

    /// Something arrived, whatever it was.
    pub fn on_bytes(&mut self, now: Duration) {
        self.last_byte = self.last_byte.max(now);
    }

    /// A heartbeat was answered: the round-trip time, or `None` for a number that is not waited for (answered
    /// before, or never sent). Control keeps its order, so an answer also settles all earlier heartbeats.
    pub fn on_ack(&mut self, seq: u64, now: Duration) -> Option<Duration> {
        self.on_bytes(now);
        let index = self.unanswered.iter().position(|(sent, _)| *sent == seq)?;
        let (_, sent_at) = self.unanswered.drain(..=index).next_back()?;
        if self.late_since.is_some() && self.late_at().is_none_or(|late| now < late) {
            self.recovered = true;
        }
        Some(now.saturating_sub(sent_at))
    }

    /// When [`poll`](Self::poll) has something to say next, unless something arrives before. After polling
    /// until `None` it lies in the future.
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        if let Some(died) = self.died {
            return died.saturating_add(NEVER);
        }
        if self.recovered {
            return self.last_byte;
        }
        let unanswered = match self.late_since {
            None => self.late_at(),
            Some(since) => self.dead_at(since),
        };
        let silent = self.silent_at();
        unanswered.unwrap_or(silent).min(silent).min(self.next_heartbeat)
    }

    /// What to do `now`; to be called until it returns `None`.
    ///
    /// A poll that comes much too late (the process was stopped) does not skip a state: the session is late
    /// for its full time before missing answers kill it. Only silence kills at once.
    pub fn poll(&mut self, now: Duration) -> Option<LivenessAction> {
        if self.died.is_some() {
            return None;
        }
        if now >= self.silent_at() {
            return Some(self.die(now, Death::Silent(now - self.last_byte)));
        }
        if std::mem::take(&mut self.recovered) {
            self.late_since = None;
            return Some(LivenessAction::Recovered);
        }
        match self.late_since {
            None if self.late_at().is_some_and(|late| now >= late) => {
                self.late_since = Some(now);
                return Some(LivenessAction::Late);
            }
            Some(since) if self.dead_at(since).is_some_and(|dead| now >= dead) => {
                let waited = self.oldest().map_or(Duration::ZERO, |sent| now.saturating_sub(sent));
                return Some(self.die(now, Death::Unanswered(waited)));
            }
            _ => {}
        }
        (now >= self.next_heartbeat).then(|| self.beat(now))
    }

    /// How the session is doing, as last reported by [`poll`](Self::poll).
    #[must_use]
    pub fn state(&self) -> Pulse {
        if self.late_since.is_some() { Pulse::Late } else { Pulse::Live }
    }

    fn beat(&mut self, now: Duration) -> LivenessAction {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.next_heartbeat = now.saturating_add(self.heartbeat);
        self.unanswered.push_back((seq, now));
        LivenessAction::SendHeartbeat { seq }
    }

    fn die(&mut self, now: Duration, death: Death) -> LivenessAction {
        self.died = Some(now);
        LivenessAction::Dead(death)
    }

    fn oldest(&self) -> Option<Duration> {
        self.unanswered.front().map(|(_, sent)| *sent)
    }

    fn silent_at(&self) -> Duration {
        self.last_byte.saturating_add(self.silence)
    }

    fn late_at(&self) -> Option<Duration> {
        self.oldest().map(|sent| self.after(sent, LATE_AFTER))
    }

    /// When missing answers kill a session that has been late since then.
    fn dead_at(&self, late_since: Duration) -> Option<Duration> {
        let full_lateness = self.after(late_since, UNANSWERED_AFTER - LATE_AFTER);
        let patience = |sent: Duration| sent.saturating_add(self.silence);
        self.oldest().map(|sent| self.after(sent, UNANSWERED_AFTER).max(full_lateness).max(patience(sent)))
    }

    fn after(&self, start: Duration, heartbeats: u32) -> Duration {
        start.saturating_add(self.heartbeat.saturating_mul(heartbeats))
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "no heartbeat for {}", Readable(*time)),
            Self::Unanswered(time) => write!(f, "heartbeats unanswered for {}", Readable(*time)),
        }
    }
}

impl std::error::Error for Death {}

/// Whole seconds where there are any: nobody cares whether a line was silent for 20.0 or 20.3 s.
struct Readable(Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            seconds => write!(f, "{seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const H: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Everything the machine says at this point in time.
    fn poll_all(machine: &mut Liveness, now: Duration) -> Vec<LivenessAction> {
        let actions: Vec<_> = std::iter::from_fn(|| machine.poll(now)).collect();
        assert!(machine.next_deadline() > now, "the deadline must move forward");
        actions
    }

    /// Follows the deadlines until `end`; `event` is called before each poll. Returns what was said and when.
    fn run(
        machine: &mut Liveness,
        end: Duration,
        mut event: impl FnMut(&mut Liveness, Duration),
    ) -> Vec<(Duration, LivenessAction)> {
        let mut said = Vec::new();
        let mut now = machine.next_deadline();
        while now < end {
            event(machine, now);
            said.extend(poll_all(machine, now).into_iter().map(|action| (now, action)));
            // At most a second, as an owner wakes up for other things too.
            now = machine.next_deadline().min(now + at(1));
        }
        said
    }

    fn without_heartbeats(said: Vec<(Duration, LivenessAction)>) -> Vec<(Duration, LivenessAction)> {
        said.into_iter()
            .filter(|(_, action)| !matches!(action, LivenessAction::SendHeartbeat { .. }))
            .collect()
    }

    #[test]
    fn asks_at_once_and_then_every_interval() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        let mut sent = 0;
        let said = run(&mut machine, at(35), |machine, now| {
            if machine.on_ack(sent + 1, now).is_some() {
                sent += 1;
            }
        });
        let beats: Vec<_> = [(0, 1), (10, 2), (20, 3), (30, 4)]
            .map(|(second, seq)| (at(second), LivenessAction::SendHeartbeat { seq }))
            .into();
        assert_eq!(said, beats);
    }

    #[test]
    fn silence_is_death_after_two_intervals_and_said_once() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        let said = without_heartbeats(run(&mut machine, at(200), |machine, now| {
            // One answer, and from then on nothing.
            if now <= at(3) {
                machine.on_ack(1, now);
                machine.on_bytes(now);
            }
        }));
        assert_eq!(said, [(at(23), LivenessAction::Dead(Death::Silent(at(20))))]);
        assert_eq!(machine.poll(at(1000)), None);
    }

    #[test]
    fn missing_answers_while_bytes_arrive_are_late_and_then_death() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        let said = without_heartbeats(run(&mut machine, at(200), Liveness::on_bytes));
        assert_eq!(
            said,
            [(at(20), LivenessAction::Late), (at(60), LivenessAction::Dead(Death::Unanswered(at(60))))]
        );
    }

    #[test]
    fn an_answer_ends_the_lateness() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        run(&mut machine, at(25), Liveness::on_bytes);
        assert_eq!(machine.state(), Pulse::Late);
        // The answer to the heartbeat of second 20 also settles those of seconds 0 and 10.
        assert_eq!(machine.on_ack(3, at(26)), Some(at(6)));
        assert!(machine.next_deadline() <= at(26), "the owner is woken for the recovery");
        assert_eq!(poll_all(&mut machine, at(26)), [LivenessAction::Recovered]);
        assert_eq!(machine.state(), Pulse::Live);
        assert_eq!(machine.on_ack(1, at(27)), None, "settled before");
    }

    #[test]
    fn answers_that_come_very_late_never_kill() {
        // A line so full that every answer takes 35 s: late, and alive.
        let mut machine = Liveness::new(H, Duration::ZERO);
        let mut answered = 0;
        let said = without_heartbeats(run(&mut machine, at(600), |machine, now| {
            machine.on_bytes(now);
            while now >= at(35 + 10 * answered) {
                answered += 1;
                assert!(machine.on_ack(answered, now).is_some());
            }
        }));
        assert!(!said.is_empty());
        assert!(said.iter().all(|(_, action)| !matches!(action, LivenessAction::Dead(_))), "{said:?}");
    }

    #[test]
    fn a_stopped_process_counts_what_waited_in_its_socket() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        assert_eq!(poll_all(&mut machine, at(0)).len(), 1);
        // Stopped for a minute, then first reads and then polls.
        machine.on_bytes(at(60));
        assert_eq!(
            poll_all(&mut machine, at(60)),
            [LivenessAction::Late, LivenessAction::SendHeartbeat { seq: 2 }],
            "late, not dead, and one heartbeat instead of six"
        );
        assert_eq!(machine.on_ack(2, at(61)), Some(at(1)));
        assert_eq!(poll_all(&mut machine, at(61)), [LivenessAction::Recovered]);
    }

    #[test]
    fn a_stopped_process_is_late_for_its_full_time_before_it_dies() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        poll_all(&mut machine, at(0));
        machine.on_bytes(at(100));
        let said = without_heartbeats(run(&mut machine, at(300), |machine, now| {
            if now >= at(100) {
                machine.on_bytes(now);
            }
            if now < at(100) {
                machine.on_bytes(at(100));
            }
        }));
        let (Some((late, LivenessAction::Late)), Some((dead, LivenessAction::Dead(Death::Unanswered(_))))) =
            (said.first(), said.last())
        else {
            panic!("{said:?}");
        };
        assert_eq!(*dead - *late, at(40));
    }

    #[test]
    fn foreign_and_repeated_answers_change_nothing() {
        let mut machine = Liveness::new(H, Duration::ZERO);
        poll_all(&mut machine, at(0));
        for seq in [0, 2, u64::MAX] {
            assert_eq!(machine.on_ack(seq, at(1)), None);
        }
        assert_eq!(machine.on_ack(1, at(1)), Some(at(1)));
        assert_eq!(machine.on_ack(1, at(2)), None);
    }

    #[test]
    fn odd_intervals_neither_loop_nor_overflow() {
        let mut machine = Liveness::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(poll_all(&mut machine, at(0)), [LivenessAction::SendHeartbeat { seq: 1 }]);
        let mut machine = Liveness::new(Duration::MAX, Duration::ZERO);
        assert_eq!(poll_all(&mut machine, at(0)), [LivenessAction::SendHeartbeat { seq: 1 }]);
        assert!(machine.next_deadline() <= NEVER, "safe to add to a point in time");
    }

    #[test]
    fn deaths_are_sentences() {
        assert_eq!(Death::Silent(Duration::from_millis(20_300)).to_string(), "no heartbeat for 20 s");
        assert_eq!(Death::Silent(Duration::from_millis(250)).to_string(), "no heartbeat for 250 ms");
        assert_eq!(Death::Unanswered(at(60)).to_string(), "heartbeats unanswered for 60 s");
    }

    proptest! {
        #[test]
        fn never_dead_while_answered(
            traffic in any::<bool>(),
            rtts in prop::collection::vec(0_u64..19_900, 1..60),
        ) {
            // Answers keep their order: none overtakes an earlier one. Without other traffic an answer that takes
            // longer than one interval is silence, so then they take half as long.
            let mut machine = Liveness::new(H, Duration::ZERO);
            let mut arrivals: VecDeque<(u64, Duration)> = VecDeque::new();
            let mut now = Duration::ZERO;
            for rtt in rtts {
                loop {
                    while let Some((seq, _)) = arrivals.pop_front_if(|(_, due)| *due <= now) {
                        prop_assert!(machine.on_ack(seq, now).is_some());
                    }
                    if traffic {
                        machine.on_bytes(now);
                    }
                    let actions = poll_all(&mut machine, now);
                    prop_assert_eq!(machine.state(), Pulse::Live);
                    let next = machine.next_deadline();
                    for action in &actions {
                        let LivenessAction::SendHeartbeat { seq } = action else {
                            return Err(TestCaseError::fail(format!("{action:?} at {now:?}")));
                        };
                        let due = now + Duration::from_millis(if traffic { rtt } else { rtt / 2 });
                        let due = arrivals.back().map_or(due, |(_, earlier)| due.max(*earlier));
                        arrivals.push_back((*seq, due));
                    }
                    now = arrivals.front().map_or(next, |(_, due)| next.min(*due));
                    if !actions.is_empty() {
                        break;
                    }
                }
            }
        }

        #[test]
        fn dead_by_six_intervals_without_answers(gaps in prop::collection::vec(1_u64..3_000, 80..200)) {
            // Bytes arrive at every gap, never an answer.
            let mut machine = Liveness::new(H, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut died = None;
            for gap in gaps.iter().cycle().take(100_000) {
                machine.on_bytes(now);
                for action in poll_all(&mut machine, now) {
                    if let LivenessAction::Dead(Death::Unanswered(_)) = action {
                        died = Some(now);
                    }
                }
                if died.is_some() {
                    break;
                }
                now = machine.next_deadline().min(now + Duration::from_millis(*gap));
            }
            prop_assert_eq!(died, Some(at(60)));
        }

        #[test]
        fn memory_and_deadlines_stay_sane_whatever_happens(
            events in prop::collection::vec((0_u64..50_000, any::<bool>(), 0_u64..10), 0..400),
        ) {
            let mut machine = Liveness::new(H, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut last_seq = 0_u64;
            for (step, bytes, age) in events {
                if bytes {
                    machine.on_bytes(now);
                }
                if age < 3 {
                    machine.on_ack(last_seq.saturating_sub(age), now);
                }
                for action in poll_all(&mut machine, now) {
                    if let LivenessAction::SendHeartbeat { seq } = action {
                        last_seq = seq;
                    }
                }
                prop_assert!(machine.unanswered.len() <= 8);
                now += Duration::from_millis(step);
            }
        }

        #[test]
        fn unanswered_heartbeats_are_bounded_however_seldom_it_is_polled(steps in prop::collection::vec(3_000_u64..50_000, 60..100)) {
            let mut machine = Liveness::new(H, Duration::ZERO);
            let mut now = Duration::ZERO;
            for step in steps {
                machine.on_bytes(now);
                poll_all(&mut machine, now);
                prop_assert!(machine.unanswered.len() <= 8);
                now += Duration::from_millis(step);
            }
            prop_assert!(machine.died.is_some());
        }
    }
}
