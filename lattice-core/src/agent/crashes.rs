//! An actor that fails through its own fault, again and again: when it is left alone for a while.
//!
//! Traps and exceeded limits count, answers that are errors do not. A few in a row may be a few bad messages; after
//! [`TOLERATED`] of them each further one makes the actor rest, twice as long each time. One success ends it all.

use std::time::Duration;

/// Failures in a row after which an actor rests.
pub const TOLERATED: u32 = 5;
/// First rest; doubles up to [`LONGEST_REST`].
pub const FIRST_REST: Duration = Duration::from_secs(1);
/// Longest rest.
pub const LONGEST_REST: Duration = Duration::from_secs(60);
/// Failures with so long between them are not in a row.
pub const WINDOW: Duration = Duration::from_secs(600);

/// The failures in a row of one actor on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crashes {
    in_a_row: u32,
    last: Duration,
    rests: u32,
    rests_until: Option<Duration>,
}

impl Crashes {
    /// It failed. How long it rests, if it does from now on.
    pub fn handle_failure(&mut self, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.last) > WINDOW {
            *self = Self::default();
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = now;
        // What was under way when the rest began fails as well, and says nothing new.
        if self.in_a_row < TOLERATED || self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        let rest = FIRST_REST.saturating_mul(1_u32.checked_shl(self.rests).unwrap_or(u32::MAX)).min(LONGEST_REST);
        self.rests = self.rests.saturating_add(1);
        self.rests_until = Some(now.saturating_add(rest));
        Some(rest)
    }

    /// It did what it was asked.
    pub fn handle_success(&mut self) {
        *self = Self::default();
    }

    /// Failures in a row that still count.
    pub fn count(&self, now: Duration) -> u32 {
        if now.saturating_sub(self.last) > WINDOW { 0 } else { self.in_a_row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    /// Fails at each moment (seconds after the start); the rests.
    fn rests(crashes: &mut Crashes, at: &[u64]) -> Vec<Option<u64>> {
        at.iter().map(|at| crashes.handle_failure(START + Duration::from_secs(*at)).map(|rest| rest.as_secs())).collect()
    }

    #[test]
    fn rests_double_from_the_fifth_failure_on() {
        let mut crashes = Crashes::default();
        assert_eq!(rests(&mut crashes, &[0, 0, 0, 0]), [None; 4]);
        assert_eq!(rests(&mut crashes, &[1, 2, 4, 8, 16, 32, 64, 128]), [1, 2, 4, 8, 16, 32, 60, 60].map(Some));
        assert_eq!(crashes.count(START + Duration::from_secs(128)), 12);
    }

    #[test]
    fn what_was_under_way_makes_no_rest_longer() {
        let mut crashes = Crashes::default();
        rests(&mut crashes, &[0, 0, 0, 0]);
        assert_eq!(rests(&mut crashes, &[1, 1, 1]), [Some(1), None, None]);
        assert_eq!(rests(&mut crashes, &[2]), [Some(2)]);
    }

    #[test]
    fn a_success_and_a_long_time_end_the_row() {
        let mut crashes = Crashes::default();
        rests(&mut crashes, &[0, 0, 0, 0, 0]);
        crashes.handle_success();
        assert_eq!(crashes.count(START), 0);
        assert_eq!(rests(&mut crashes, &[2, 2, 2, 2]), [None; 4]);
        assert_eq!(crashes.count(START + WINDOW + Duration::from_secs(3)), 0);
        assert_eq!(rests(&mut crashes, &[700]), [None]);
    }
}
