//! The wall clock, read in this one place.
//!
//! Everything inside measures with tokio's clock, which tests can pause and which a changed system time can't move.
//! People and nodes want dates: they are computed here, at the edge, from how long ago something was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970 in UTC; 0 on a machine whose clock stands before that.
#[allow(clippy::disallowed_methods, reason = "the one function of this crate that reads the wall clock")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    millis(since)
}

/// When `then` was, in milliseconds since 1970.
pub(crate) fn unix_ms_of(then: Instant) -> u64 {
    unix_ms().saturating_sub(millis(then.elapsed()))
}

/// A duration as people say it: `850 ms`, `20 s`, `11 min`, `3 h`, `2 d`.
pub(crate) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken_in_the_unit_people_use() {
        for (seconds, text) in
            [(0, "0 ms"), (20, "20 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(spoken(Duration::from_secs(seconds)), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_long_ago_has_an_earlier_date() {
        let then = Instant::now();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let ago = unix_ms() - unix_ms_of(then);
        assert!((3_600_000..3_601_000).contains(&ago), "{ago}");
    }
}
