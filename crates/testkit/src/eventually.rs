//! Waiting for a condition instead of for a time: a test that sleeps is either slow or wrong on a busy machine. The
//! deadline only says when to give up, so it can be generous.

use std::{fmt::Debug, thread, time::Duration, time::Instant};

/// Pause between two attempts: short beside anything a test waits for, long beside an attempt.
const PAUSE: Duration = Duration::from_millis(10);

/// One look at a condition: `Option` (there or not) or `Result` (there, or what was seen instead).
pub trait Attempt {
    /// What is being waited for.
    type Output;

    /// The thing itself, or what to tell about the last attempt if there is no further one.
    fn settle(self) -> Result<Self::Output, String>;
}

impl<T> Attempt for Option<T> {
    type Output = T;

    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "not there".into())
    }
}

impl<T, E: Debug> Attempt for Result<T, E> {
    type Output = T;

    fn settle(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Tries until `attempt` gives something, and returns it. Blocks the thread.
///
/// # Panics
/// When `deadline` has passed, with `what` and what the last attempt saw.
#[track_caller]
pub fn eventually<A: Attempt>(deadline: Duration, what: &str, mut attempt: impl FnMut() -> A) -> A::Output {
    let start = now();
    loop {
        match attempt().settle() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() >= deadline => {
                panic!("{what}: not within {deadline:?}; last seen: {seen}")
            }
            Err(_) => pause(),
        }
    }
}

/// The wall of real time: what is waited for here happens in other processes.
#[allow(
    clippy::disallowed_methods,
    reason = "blocking tests of other processes; there is no runtime to pause"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the one place where a blocking test waits between two looks")]
pub(crate) fn pause() {
    thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_an_attempt_found() {
        let mut attempts = 0;
        let found = eventually(Duration::from_secs(60), "the third attempt", || {
            attempts += 1;
            (attempts == 3).then_some("here")
        });
        assert_eq!((found, attempts), ("here", 3));
    }

    #[test]
    #[should_panic(expected = "the answer: not within 0ns; last seen: 41")]
    fn it_tells_the_last_value() {
        eventually(Duration::ZERO, "the answer", || Err::<(), _>(41));
    }
}
