//! Pauses between attempts that double up to a cap.

use std::time::Duration;

/// How long to wait before the next attempt.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next attempt; the one after it is twice as long.
    pub(crate) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        delay
    }

    /// Waits as long as [`Backoff::delay`] says.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// It worked: the next pause is the first again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let delays: Vec<u64> = (0..4).map(|_| backoff.delay().as_secs()).collect();
        assert_eq!(delays, [1, 2, 3, 3]);
        backoff.reset();
        assert_eq!(backoff.delay(), Duration::from_secs(1));
    }
}
