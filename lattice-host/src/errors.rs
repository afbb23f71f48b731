//! Host-level errors (disk, NATS, provider) of the last minute; their number stands in each report.

use std::collections::VecDeque;
use std::time::Duration;

/// How long an error counts.
const WINDOW: Duration = Duration::from_secs(60);
/// More errors than this are not told apart: the host is in trouble either way.
const MAX_COUNTED: usize = 1000;

/// When errors happened, on the clock of the event loop.
#[derive(Debug, Default)]
pub(crate) struct ErrorWindow(VecDeque<Duration>);

impl ErrorWindow {
    pub(crate) fn note(&mut self, now: Duration) {
        if self.0.len() >= MAX_COUNTED {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Errors in the window that ends `now`.
    pub(crate) fn count(&mut self, now: Duration) -> u32 {
        while self.0.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            self.0.pop_front();
        }
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_forgotten_and_bounded() {
        let at = Duration::from_secs;
        let mut window = ErrorWindow::default();
        window.note(at(0));
        window.note(at(30));
        assert_eq!([window.count(at(59)), window.count(at(60)), window.count(at(90))], [2, 1, 0]);
        (0..5000).for_each(|_| window.note(at(100)));
        assert_eq!(window.count(at(100)), 1000);
    }
}
