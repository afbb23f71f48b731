//! Wall-clock time that decisions about validity rest on.
//!
//! A gateway without a battery wakes up in 1970, a wrong server or an attacker can say anything. So a host remembers a time
//! that certainly has passed (the *floor*: when its program was built, when documents were signed that it has verified, what
//! the server's clock said, and how long it has run since), and says of its clock whether it can be relied on.
//!
//! **Invariants.** The floor never falls and never follows the host's own clock, so that a clock that was years ahead for an
//! hour poisons nothing. Below the floor nothing becomes valid that was not, and what has expired at the floor stays so.

use serde::{Deserialize, Serialize};

/// How far the host's clock may be from the server's, in seconds, before it is called wrong: an hour covers a badly kept
/// clock, and no validity is meant to the hour.
pub const MAX_SKEW_S: u64 = 3600;

/// What clocks say. All in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// The host's own clock.
    pub wall_s: u64,
    /// When the host's program was built.
    pub built_s: u64,
    /// The floor that the host has on disk.
    pub floor_s: u64,
    /// The server's clock: what it last wrote on a message, and the time that has passed since by the monotonic clock.
    pub server_s: Option<u64>,
}

/// How the host's own clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nothing speaks against it.
    Trusted,
    /// It shows a time that has passed already.
    Behind,
    /// It is far from the server's clock.
    Apart,
}

/// The time that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970.
    pub now_s: u64,
    /// Whether `now_s` is the time, or only a time that certainly has passed.
    pub exact: bool,
    /// How the host's own clock stands.
    pub clock: Standing,
}

impl Time {
    /// A time that can be relied on.
    pub fn exact(now_s: u64) -> Self {
        Self { now_s, exact: true, clock: Standing::Trusted }
    }

    /// The time by all that is known: the server's if it has said one, else the host's own clock, else the floor.
    pub fn of(reading: &Reading) -> Self {
        let floor = reading.floor();
        let server = reading.server_s.filter(|server| *server >= floor);
        let clock = match server {
            _ if reading.wall_s < floor => Standing::Behind,
            Some(server) if reading.wall_s.abs_diff(server) > MAX_SKEW_S => Standing::Apart,
            Some(_) | None => Standing::Trusted,
        };
        match (clock, server) {
            (Standing::Trusted, _) => Self { now_s: reading.wall_s, exact: true, clock },
            (Standing::Behind | Standing::Apart, Some(server)) => Self { now_s: server, exact: true, clock },
            (Standing::Behind | Standing::Apart, None) => Self { now_s: floor, exact: false, clock },
        }
    }

    /// Whether a document whose validity begins at `not_before_s` may not be used yet.
    pub fn is_before(self, not_before_s: u64) -> bool {
        self.now_s < not_before_s
    }

    /// Whether a document that ends at `expires_s` has ended, as far as that is certain.
    pub fn is_past(self, expires_s: u64) -> bool {
        self.now_s >= expires_s
    }
}

impl Reading {
    /// A time that certainly has passed.
    pub fn floor(&self) -> u64 {
        self.built_s.max(self.floor_s)
    }

    /// The floor to remember, `passed_s` seconds of running after the last one: whatever was signed at `signed_s` and has
    /// been verified, and what the server said, have passed.
    #[must_use]
    pub fn next_floor(&self, passed_s: u64, signed_s: Option<u64>) -> u64 {
        let run = self.floor().saturating_add(passed_s);
        // A signature dated into the future or a server far from our own clock is no proof that time has passed.
        let proven = |at: &u64| at.abs_diff(self.wall_s) <= MAX_SKEW_S || *at < self.wall_s;
        [self.server_s, signed_s].into_iter().flatten().filter(proven).fold(run, u64::max)
    }
}

/// `2026-11-22 17:10:00 UTC`.
pub fn date(at_s: u64) -> String {
    /// Days of 400 years.
    const ERA_DAYS: u64 = 146_097;
    let (days, second) = (at_s / 86_400, at_s % 86_400);
    // Years that begin in March, counted from the year 0 (the usual way to have the leap day last).
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted / ERA_DAYS, shifted % ERA_DAYS);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era.saturating_mul(400).saturating_add(year_of_era).saturating_add(u64::from(month <= 2));
    format!("{year:04}-{month:02}-{day_of_month:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// Seconds since 1970 of a time as servers write it, `2026-11-22T17:10:00.123456789Z`; fractions are cut off.
pub fn parse_utc(text: &str) -> Option<u64> {
    const ERA_DAYS: u64 = 146_097;
    let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut numbers = day.splitn(3, '-').chain(time.split('.').next()?.splitn(3, ':')).map(|part| {
        let plain = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u64>().ok().filter(|_| plain)
    });
    let mut next = |least: u64, most: u64| numbers.next().flatten().filter(|number| (least..=most).contains(number));
    let (year, month, day) = (next(1970, 9999)?, next(1, 12)?, next(1, 31)?);
    let (hour, minute, second) = (next(0, 23)?, next(0, 59)?, next(0, 60)?);
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_era = year % 400;
    let days = year / 400 * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 86_400;
    const NOW: u64 = 1_795_000_000;

    fn reading(wall_s: u64, server_s: Option<u64>) -> Reading {
        Reading { wall_s, built_s: NOW - YEAR, floor_s: NOW - 1000, server_s }
    }

    #[test]
    fn the_best_known_time_counts() {
        let check = |wall, server, expected: (u64, bool, Standing)| {
            let time = Time::of(&reading(wall, server));
            assert_eq!((time.now_s, time.exact, time.clock), expected, "{wall} {server:?}");
        };
        check(NOW, None, (NOW, true, Standing::Trusted));
        check(NOW, Some(NOW + 5), (NOW, true, Standing::Trusted));
        // Years behind: with a server its time, without one the floor.
        check(NOW - 10 * YEAR, Some(NOW), (NOW, true, Standing::Behind));
        check(0, None, (NOW - 1000, false, Standing::Behind));
        // Years ahead: only somebody else can tell.
        check(NOW + 10 * YEAR, Some(NOW), (NOW, true, Standing::Apart));
        check(NOW + 10 * YEAR, None, (NOW + 10 * YEAR, true, Standing::Trusted));
        // A server that says what cannot be is not believed.
        check(NOW, Some(NOW - 2 * YEAR), (NOW, true, Standing::Trusted));
        check(0, Some(1), (NOW - 1000, false, Standing::Behind));
    }

    #[test]
    fn the_program_is_never_older_than_now() {
        let new_program = Reading { wall_s: NOW - 1, built_s: NOW, floor_s: 0, server_s: None };
        assert_eq!(Time::of(&new_program), Time { now_s: NOW, exact: false, clock: Standing::Behind });
    }

    #[test]
    fn the_floor_rises_with_proof_only() {
        let ahead = reading(NOW + 10 * YEAR, None);
        assert_eq!(ahead.next_floor(60, None), NOW - 940, "a clock that is ahead does not move it");
        assert_eq!(reading(NOW, Some(NOW)).next_floor(0, None), NOW);
        assert_eq!(reading(NOW, None).next_floor(0, Some(NOW - 5)), NOW - 5);
        assert_eq!(reading(NOW, None).next_floor(0, Some(NOW + YEAR)), NOW - 1000, "nobody has signed tomorrow");
        assert_eq!(reading(NOW, None).next_floor(0, Some(5)), NOW - 1000, "it never falls");
        assert_eq!(Reading { floor_s: u64::MAX, ..reading(NOW, None) }.next_floor(1, None), u64::MAX);
    }

    #[test]
    fn bounds_of_validity() {
        let time = Time::exact(100);
        assert!(time.is_before(101) && !time.is_before(100));
        assert!(time.is_past(100) && !time.is_past(101));
    }

    #[test]
    fn times_of_servers() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_utc(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T00:00:00.5Z", Some(951_782_400));
        check("2026-11-22T17:10:00.123456789Z", Some(1_795_367_400));
        check("2100-02-28T23:59:59Z", Some(4_107_542_399));
        for bad in
            ["", "Z", "2026-11-22", "2026-11-22T17:10:00", "2026-13-22T17:10:00Z", "2026-11-22T17:10Z", "20260-1-1T0:0:0Z", "-1-1-1T0:0:0Z"]
        {
            check(bad, None);
        }
        for at in [1, 86_399, 86_400, 1_000_000_000, 1_709_164_800, 1_709_251_199, 4_000_000_000] {
            assert_eq!(parse_utc(&date(at).replace(" UTC", "Z").replace(' ', "T")), Some(at));
        }
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_795_367_400), "2026-11-22 17:10:00 UTC");
        assert_eq!(date(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert!(!date(u64::MAX).is_empty());
    }
}
