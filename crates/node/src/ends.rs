//! The node's own memory of how its lines ended, for the explorer to show beside its own view.
//!
//! Only the node can say "no route to host"; the explorer just sees silence. The node has no clock it could trust to
//! agree with anyone's, so ends are kept on the monotonic clock and told in the explorer's own time.

use std::{collections::VecDeque, time::Duration};

use reachback_client::line::LineEnd;
use reachback_wire::{EndReport, Ends, Welcome, limits};
use tokio::time::Instant;

/// The last ten ends of one line, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EndLog(VecDeque<LineEnd>);

impl EndLog {
    /// An attempt that fails as the one before it says nothing new; it would only push out the end that matters.
    pub(crate) fn note(&mut self, end: &LineEnd) {
        let repeats = |last: &LineEnd| {
            end.session.is_none()
                && last.session.is_none()
                && (&last.code, &last.message) == (&end.code, &end.message)
        };
        if self.0.back().is_some_and(repeats) {
            return;
        }
        if self.0.len() == limits::ENDS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(end.clone());
    }

    /// All of them, dated by the clock of the explorer that sent `welcome` at `since`; none if there are none.
    pub(crate) fn report(&self, welcome: &Welcome, since: Instant) -> Option<Ends> {
        if self.0.is_empty() {
            return None;
        }
        let ends = self.0.iter().map(|end| {
            let ago = since.saturating_duration_since(end.at);
            EndReport {
                at_unix_ms: welcome.time_unix_ms.saturating_sub(millis(ago)),
                session: end.session,
                code: end.code,
                message: end.message.clone(),
            }
        });
        Some(Ends { ends: ends.collect() })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reachback_wire::{Code, SessionId, SessionLimits};

    fn end(at: Instant, session: Option<u64>, message: &str) -> LineEnd {
        LineEnd { at, session: session.map(SessionId), code: Code::Lost, message: message.into() }
    }

    fn welcome() -> Welcome {
        Welcome {
            explorer: "hub-1".parse().unwrap(),
            session: SessionId(1),
            heartbeat_ms: 10_000,
            time_unix_ms: 1_000_000,
            limits: SessionLimits { max_substreams: 1 },
            features: vec![],
            siblings: vec![],
            reconnect_window_ms: 0,
            resume: None,
        }
    }

    #[test]
    fn a_long_outage_does_not_push_out_what_began_it() {
        let mut log = EndLog::default();
        let began = Instant::now();
        log.note(&end(began, Some(4), "no heartbeat for 20 s"));
        for minute in 1..100 {
            log.note(&end(began + Duration::from_secs(60 * minute), None, "no route to host"));
        }
        let told = log.report(&welcome(), began + Duration::from_secs(100)).unwrap().ends;
        let told: Vec<_> =
            told.iter().map(|end| (end.at_unix_ms, end.session, end.message.as_str())).collect();
        assert_eq!(
            told,
            [(900_000, Some(SessionId(4)), "no heartbeat for 20 s"), (960_000, None, "no route to host")],
            "dated by the explorer's clock"
        );
    }

    #[test]
    fn ten_are_kept_and_none_is_no_message() {
        let mut log = EndLog::default();
        let now = Instant::now();
        assert_eq!(log.report(&welcome(), now), None);
        for session in 0..25 {
            log.note(&end(now, Some(session), "cut"));
        }
        let told = log.report(&welcome(), now).unwrap().ends;
        assert_eq!(told.len(), limits::ENDS_KEPT);
        assert_eq!(told.last().unwrap().session, Some(SessionId(24)));
    }
}
