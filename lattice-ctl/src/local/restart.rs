//! When something that ended by itself is started again. Time arrives as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Pause before something that ended is started again; doubles each time it does not stay up.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Something that stayed up for this long is well again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// The restarts of one process.
#[derive(Debug, Default)]
pub(super) struct Restart {
    started: Option<Instant>,
    failures: u32,
    due: Option<Instant>,
}

impl Restart {
    /// It was started.
    pub(super) fn handle_start(&mut self, now: Instant) {
        self.started = Some(now);
        self.due = None;
    }

    /// It ended by itself or could not be started; returns the pause until it is started again.
    pub(super) fn handle_end(&mut self, now: Instant) -> Duration {
        let well = self.started.take().is_some_and(|started| now.duration_since(started) >= WELL_AFTER);
        let doublings = if well { 0 } else { self.failures };
        self.failures = doublings.saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        self.due = Some(now + pause);
        pause
    }

    /// When it is to be started, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is to be started now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_start_over_after_a_good_while() {
        let start = Instant::now();
        let mut restart = Restart::default();
        restart.handle_start(start);
        let pauses: Vec<u128> = (0..7).map(|_| restart.handle_end(start).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert!(!restart.is_due(start) && restart.is_due(start + LONGEST_PAUSE));
        restart.handle_start(start);
        assert_eq!(restart.due(), None);
        assert_eq!(restart.handle_end(start + WELL_AFTER), FIRST_PAUSE);
        assert_eq!(restart.handle_end(start + WELL_AFTER), FIRST_PAUSE * 2);
    }
}
