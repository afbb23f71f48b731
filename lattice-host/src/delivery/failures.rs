//! How often the actor answered each durable message with a failure.

use std::collections::BTreeMap;

/// Messages whose failures are remembered; above that the oldest of the stream are forgotten and start anew.
const MAX_REMEMBERED: usize = 1024;

/// What is known of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Answered failures so far.
    pub(super) count: u32,
    /// The last reason.
    pub(super) reason: String,
}

/// Failures by position in the stream.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<u64, Failure>);

impl Failures {
    pub(super) fn of(&self, sequence: u64) -> Option<&Failure> {
        self.0.get(&sequence)
    }

    pub(super) fn remember(&mut self, sequence: u64, failure: Failure) {
        self.0.insert(sequence, failure);
        while self.0.len() > MAX_REMEMBERED {
            self.0.pop_first();
        }
    }

    pub(super) fn forget(&mut self, sequence: u64) {
        self.0.remove(&sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut failures = Failures::default();
        for sequence in 0..2000 {
            failures.remember(sequence, Failure { count: 1, reason: "x".into() });
        }
        assert_eq!((failures.of(975), failures.of(976).map(|failure| failure.count)), (None, Some(1)));
        failures.forget(1999);
        assert_eq!(failures.of(1999), None);
    }
}
