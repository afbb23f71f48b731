//! Every interval and deadline of the control plane in one place, so that their order can be tested.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Between two heartbeats of a host; one more follows each change at once.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A host that was silent for this many intervals is shown as unhealthy.
pub const MISSED_HEARTBEATS: u32 = 3;
/// Between two full comparisons of what a host runs with its assignment in the store: watches may miss a message.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// How long a restarted host waits for the plan's head before it starts from the assignment on its disk, and how long after it
/// has connected it waits for the policies before it follows any plan.
pub const OFFLINE_START_AFTER: Duration = Duration::from_secs(5);
/// Server's patience with an unacknowledged durable message.
pub const ACK_WAIT: Duration = Duration::from_secs(4);
/// Between two signs of work in progress on a durable message, also while it waits inside the host.
pub const IN_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// After the n-th answered failure of a durable message it comes again after this times 2^(n-1).
pub const RETRY_BACKOFF: Duration = Duration::from_millis(250);
/// Answered failures of a durable message until it is dead-lettered.
pub const MAX_ANSWERED_FAILURES: u32 = 3;
/// How long a draining host lets work finish before it cuts it off.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time between two attempts to load a failed actor again.
pub const MAX_LOAD_BACKOFF: Duration = Duration::from_secs(60);
/// First pause after a failed load; doubles up to [`MAX_LOAD_BACKOFF`].
pub const LOAD_BACKOFF: Duration = Duration::from_secs(1);

/// After a connection was closed without a word its host may come back for so long before it is taken for gone.
pub const DISCONNECT_GRACE: Duration = Duration::from_millis(100);
/// The server forgets a lease that nobody renewed for so long. Only to clean up: nothing decides by it.
pub const LEASE_TTL: Duration = Duration::from_secs(60);
/// Window in which a host's own errors are counted.
pub const ERROR_WINDOW: Duration = Duration::from_secs(60);

/// How patient failure detection is. The operator chooses one for the lattice; hosts and failover actors follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimingProfile {
    /// Hosts on a local network or in one data centre.
    #[default]
    Lan,
    /// Hosts on metered or lossy links.
    Wan,
    /// Short times for tests, with a server that is not replicated.
    Test,
}

impl TimingProfile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Wan, Self::Test];

    /// The word in config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Test => "test",
        }
    }

    /// Whether it is the one that need not be written down.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn pick(self, lan_ms: u64, wan_ms: u64, test_ms: u64) -> Duration {
        Duration::from_millis(match self {
            Self::Lan => lan_ms,
            Self::Wan => wan_ms,
            Self::Test => test_ms,
        })
    }

    /// Between two heartbeats of a host; one more follows each change at once.
    pub fn heartbeat(self) -> Duration {
        self.pick(1_000, 5_000, 250)
    }

    /// Shortest silence that makes a host suspect.
    pub fn suspicion_floor(self) -> Duration {
        self.pick(3_000, 20_000, 1_000)
    }

    /// Between the attempts to hear from a suspect; after [`CONFIRMATIONS`] of them it is taken for gone.
    pub fn confirm(self) -> Duration {
        self.pick(500, 2_000, 200)
    }

    /// Between two renewals of a host's lease.
    pub fn lease_renewal(self) -> Duration {
        self.pick(2_000, 5_000, 500)
    }

    /// After this time since it *sent* its last successful renewal a host stops what needs its lease.
    pub fn lease_deadline(self) -> Duration {
        self.pick(13_000, 30_000, 2_500)
    }

    /// After this time since it *saw* the last renewal an observer takes the lease for ended.
    pub fn lease_takeover(self) -> Duration {
        self.pick(20_000, 45_000, 4_000)
    }

    /// How long a returned host has to be heard before it gets work, the first time.
    pub fn return_hold(self) -> Duration {
        self.pick(10_000, 30_000, 2_000)
    }
}

/// Attempts to hear from a suspect before it is taken for gone.
pub const CONFIRMATIONS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_each_profile() {
        for profile in TimingProfile::ALL {
            assert!(profile.heartbeat() * 3 <= profile.suspicion_floor(), "three heartbeats may get lost: {profile:?}");
            assert!(profile.lease_renewal() * 3 < profile.lease_deadline(), "renewals may fail twice: {profile:?}");
            // Clocks whose rates differ by half still keep the order.
            assert!(profile.lease_deadline() * 3 <= profile.lease_takeover() * 2, "the owner stops before anybody takes over: {profile:?}");
            assert!(profile.lease_takeover() < LEASE_TTL, "the record outlives what is decided by it: {profile:?}");
            assert!(DISCONNECT_GRACE < profile.heartbeat());
        }
    }

    #[test]
    fn order() {
        assert!(IN_PROGRESS_INTERVAL * 3 < ACK_WAIT, "three signs of work fit into the server's patience");
        assert!(HEARTBEAT_INTERVAL * MISSED_HEARTBEATS < OFFLINE_START_AFTER);
        assert!(RETRY_BACKOFF < ACK_WAIT);
        assert!(LOAD_BACKOFF < MAX_LOAD_BACKOFF);
    }
}
