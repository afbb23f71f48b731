//! When a host sends its next heartbeat. Each report is one, whatever it was sent for.

use std::time::Duration;

/// Times are those of the host's own clock.
#[derive(Debug, Default)]
pub struct Heartbeats {
    next: Duration,
    asked: Option<Duration>,
}

impl Heartbeats {
    /// Somebody wants one after `delay`; of several the earliest is kept. It does not put off the ordinary one, nor is it
    /// made good by one that comes before.
    pub fn handle_asked(&mut self, delay: Duration, now: Duration) {
        let at = now.saturating_add(delay);
        self.asked = Some(self.asked.map_or(at, |asked| asked.min(at)));
    }

    /// One was sent; `interval`: until the next at the latest.
    pub fn handle_sent(&mut self, interval: Duration, now: Duration) {
        self.next = now.saturating_add(interval);
        self.asked = self.asked.filter(|asked| *asked > now);
    }

    /// When the next is due.
    pub fn poll_timeout(&self) -> Duration {
        self.asked.map_or(self.next, |asked| asked.min(self.next))
    }

    /// Whether one is due.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.poll_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn asked_for_and_ordinary_ones() {
        let mut heartbeats = Heartbeats::default();
        assert!(heartbeats.is_due(ms(0)));
        heartbeats.handle_sent(ms(1_000), ms(0));
        heartbeats.handle_asked(ms(100), ms(500));
        heartbeats.handle_asked(ms(300), ms(510));
        assert_eq!(heartbeats.poll_timeout(), ms(600), "the earliest");
        heartbeats.handle_sent(ms(1_000), ms(550));
        assert_eq!(heartbeats.poll_timeout(), ms(600), "one that comes before is not it");
        assert!(heartbeats.is_due(ms(600)) && !heartbeats.is_due(ms(599)));
        heartbeats.handle_sent(ms(1_000), ms(601));
        assert_eq!(heartbeats.poll_timeout(), ms(1_601));
        heartbeats.handle_asked(ms(5_000), ms(700));
        assert_eq!(heartbeats.poll_timeout(), ms(1_601), "the ordinary one is not put off");
        heartbeats.handle_asked(ms(0), ms(710));
        assert!(heartbeats.is_due(ms(710)));
    }
}
