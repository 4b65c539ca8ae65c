//! What time it is when a certificate is judged.
//!
//! A machine without a battery wakes up in 1970, and would find every certificate not yet valid and its explorer
//! unreachable for ever: the time service it needs may be on the far side of the tunnel. So the time of judgement is
//! never before this program was built, nor before what the explorer said last. A clock that is too late is believed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The time by which certificates are judged: the system's clock, but not before the build of this program, and not before
/// the last time an explorer told. Clones share what was told.
#[derive(Clone)]
pub struct TrustClock {
    told: Arc<AtomicU64>,
    system: fn() -> u64,
}

impl TrustClock {
    /// With the clock of the operating system.
    pub fn system() -> Self {
        Self::with(system_unix_ms)
    }

    /// As [`system`](Self::system), and not before what an explorer said in an earlier life of this process.
    pub fn starting_from(unix_ms: u64) -> Self {
        let clock = Self::system();
        clock.note(unix_ms);
        clock
    }

    /// With another clock: milliseconds since 1970.
    pub fn with(system: fn() -> u64) -> Self {
        Self { told: Arc::new(AtomicU64::new(0)), system }
    }

    /// Milliseconds since 1970.
    pub fn now_unix_ms(&self) -> u64 {
        (self.system)().max(BUILT_UNIX_MS).max(self.told_unix_ms())
    }

    /// What an explorer said last; 0 if none has said anything.
    pub fn told_unix_ms(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Takes note of a time that a believed explorer told. Time only moves on.
    pub fn note(&self, unix_ms: u64) {
        self.told.fetch_max(unix_ms, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> rustls::pki_types::UnixTime {
        unix_time(self.now_unix_ms())
    }
}

impl fmt::Debug for TrustClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustClock({})", utc(self.now_unix_ms()))
    }
}

/// A point in time for people: `2027-02-18 09:30:00 UTC`.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; 400 of them are a whole number of days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

pub(super) fn unix_time(unix_ms: u64) -> rustls::pki_types::UnixTime {
    rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_millis(unix_ms))
}

#[allow(clippy::disallowed_methods, reason = "certificates are valid by the wall clock; read here only")]
fn system_unix_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When this was built: see `build.rs`.
const BUILT_UNIX_MS: u64 = match u64::from_str_radix(env!("REACHBACK_BUILT_UNIX_S"), 10) {
    Ok(seconds) => seconds * 1000,
    Err(_) => panic!("build.rs writes a number"),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_never_before_the_build_nor_before_what_was_told() {
        let clock = TrustClock::with(|| 0);
        assert_eq!(clock.now_unix_ms(), BUILT_UNIX_MS);
        // 2020: whoever builds this has a clock.
        const { assert!(BUILT_UNIX_MS > 1_577_836_800_000) };
        clock.clone().note(BUILT_UNIX_MS + 5);
        assert_eq!(clock.now_unix_ms(), BUILT_UNIX_MS + 5);
        clock.note(BUILT_UNIX_MS + 2);
        assert_eq!(clock.now_unix_ms(), BUILT_UNIX_MS + 5);
        let late = TrustClock::with(|| u64::MAX / 2);
        assert_eq!(late.now_unix_ms(), u64::MAX / 2);
        let system = TrustClock::system().now_unix_ms();
        assert!(TrustClock::starting_from(system + 60_000).now_unix_ms() >= system + 60_000);
    }

    #[test]
    fn a_point_in_time_reads_as_people_write_it() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_790_000_010, "2026-09-21 14:13:30 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds * 1000), text);
        }
    }
}
