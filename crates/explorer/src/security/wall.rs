//! The date, as far as security depends on it, and as people read it.
//!
//! Certificates and tokens begin and end at dates, so this is the one part of the explorer that asks for them. It asks a
//! clock that tests can set; the real one is never earlier than the program itself, so that a machine that wakes up in
//! 1970 does not make an authority that has ended already.

use std::{fmt, sync::Arc};

use reachback_link::tls::{TrustClock, utc};
use time::OffsetDateTime;

/// A clock that tells milliseconds since 1970.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl WallClock {
    /// The system's, but never earlier than this program was built.
    #[must_use]
    pub fn system() -> Self {
        let clock = TrustClock::system();
        Self(Arc::new(move || clock.now_unix_ms()))
    }

    /// One that tells what `now_unix_ms` returns, in milliseconds since 1970.
    pub fn new(now_unix_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_unix_ms))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", utc(self.now_ms()))
    }
}

/// `2026-11-20T16:14:32.120Z`, for programs.
pub(crate) fn stamp(unix_ms: u64) -> String {
    let date = utc(unix_ms);
    format!("{}T{}.{:03}Z", &date[..10], &date[11..19], unix_ms % 1000)
}

/// The same date as a certificate's; what is after the year 9999 is its last second.
pub(crate) fn date(unix_ms: u64) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_for_programs() {
        let moment = 1_795_191_272_120;
        assert_eq!(stamp(moment), "2026-11-20T16:14:32.120Z");
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(u64::MAX).year(), 9999);
        assert_eq!(date(moment).unix_timestamp(), 1_795_191_272);
    }

    #[test]
    fn the_system_clock_is_a_date_of_this_program() {
        assert!(WallClock::system().now_ms() > 1_700_000_000_000);
    }
}
