//! Every interval and deadline of the control plane in one place, so that their order can be tested.

use std::time::Duration;

/// Between two heartbeats of a host; one more follows each change at once.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A host that was silent for this many intervals is shown as unhealthy.
pub const MISSED_HEARTBEATS: u32 = 3;
/// Between two full comparisons of what a host runs with its assignment in the store: watches may miss a message.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// How long a restarted host waits for the plan's head before it starts from the assignment on its disk.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        assert!(IN_PROGRESS_INTERVAL * 3 < ACK_WAIT, "three signs of work fit into the server's patience");
        assert!(HEARTBEAT_INTERVAL * MISSED_HEARTBEATS < OFFLINE_START_AFTER);
        assert!(RETRY_BACKOFF < ACK_WAIT);
        assert!(LOAD_BACKOFF < MAX_LOAD_BACKOFF);
    }
}
