//! Whether a slot may still act.
//!
//! **Invariants.** A gate that was closed stays closed. That of a slot which needs the host's lease counts as closed from
//! the lease's deadline on, whether or not anybody has got round to closing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

/// Time since the machine started, sleep included.
pub(crate) fn boot_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Until when the host's lease holds.
#[derive(Debug, Default)]
pub(crate) struct Deadline(AtomicU64);

impl Deadline {
    /// `None`: the lease is not held.
    pub(crate) fn set(&self, until: Option<Duration>) {
        let nanos = until.map_or(0, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        self.0.store(nanos, Ordering::SeqCst);
    }

    fn is_ahead(&self) -> bool {
        boot_time() < Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// One for each start of a slot.
#[derive(Debug)]
pub(crate) struct Gate {
    closed: CancellationToken,
    lease: Option<Arc<Deadline>>,
}

impl Gate {
    /// An open one; with `lease` only as long as that holds.
    pub(crate) fn new(lease: Option<Arc<Deadline>>) -> Arc<Self> {
        Arc::new(Self { closed: CancellationToken::new(), lease })
    }

    /// Lets nothing more through, and cuts off what runs behind it.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && self.lease.as_ref().is_none_or(|lease| lease.is_ahead())
    }

    /// Cancelled when the gate is closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_until_closed_and_as_long_as_the_lease() {
        let gate = Gate::new(None);
        assert!(gate.is_open());
        gate.close();
        assert!(!gate.is_open());

        let deadline = Arc::new(Deadline::default());
        let gate = Gate::new(Some(deadline.clone()));
        assert!(!gate.is_open(), "no lease yet");
        deadline.set(Some(boot_time() + Duration::from_secs(60)));
        assert!(gate.is_open());
        deadline.set(Some(boot_time()));
        assert!(!gate.is_open(), "nobody has closed it, and it is closed");
        deadline.set(None);
        assert!(!gate.is_open());
    }
}
