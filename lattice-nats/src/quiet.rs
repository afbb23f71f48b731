//! Saying a thing once instead of a thousand times.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Least time between two log lines about the same recurring trouble.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one caller through per [`INTERVAL`] and counts all of them.
#[derive(Debug)]
pub(crate) struct Quiet {
    started: Instant,
    seen: AtomicU64,
    /// Milliseconds after `started` from which the next caller is let through.
    next_ms: AtomicU64,
}

impl Quiet {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), seen: AtomicU64::new(0), next_ms: AtomicU64::new(0) }
    }

    /// Counts one occurrence; `Some(total)` if it is time to say so.
    pub(crate) fn note(&self) -> Option<u64> {
        let total = self.seen.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let now = millis(self.started.elapsed());
        let due = self.next_ms.load(Ordering::Relaxed);
        let claimed = now >= due
            && self.next_ms.compare_exchange(due, now.saturating_add(millis(INTERVAL)), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        claimed.then_some(total)
    }

    /// Occurrences so far.
    pub(crate) fn total(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_many_occurrences() {
        let quiet = Quiet::new();
        assert_eq!(quiet.note(), Some(1));
        assert_eq!((1..100).filter_map(|_| quiet.note()).count(), 0);
        assert_eq!(quiet.total(), 100);
    }
}
