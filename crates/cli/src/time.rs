//! Moments of the wall clock as people read them, in UTC: the machines of one table are rarely in one time zone.

/// `2027-02-18`.
pub(crate) fn day(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / DAY_MS);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2027-02-18 11:02Z`.
pub(crate) fn minute(unix_ms: u64) -> String {
    let seconds = unix_ms % DAY_MS / 1_000;
    format!("{} {:02}:{:02}Z", day(unix_ms), seconds / 3_600, seconds / 60 % 60)
}

const DAY_MS: u64 = 86_400_000;

/// The date so many days after 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01; 400 years are 146,097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // Each as `date -u -d @SECONDS` says it.
        for (seconds, text) in [
            (0, "1970-01-01 00:00Z"),
            (951_782_399, "2000-02-28 23:59Z"),
            (951_782_400, "2000-02-29 00:00Z"),
            (951_868_800, "2000-03-01 00:00Z"),
            (1_803_000_153, "2027-02-19 01:22Z"),
            (4_107_542_399, "2100-02-28 23:59Z"),
            (4_107_542_400, "2100-03-01 00:00Z"),
        ] {
            assert_eq!(minute(seconds * 1_000 + 999), text);
        }
        assert_eq!(day(1_803_000_153_000), "2027-02-19");
    }
}
