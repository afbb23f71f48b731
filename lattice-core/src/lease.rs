//! A host's lease: the proof that it lives, and the reason why it stops by itself.
//!
//! A state machine without I/O. Times are durations since any fixed moment by a clock that counts while the machine sleeps
//! (`CLOCK_BOOTTIME`); the shell asks [`Lease::poll`] what to do and tells what came of it.
//!
//! **Invariants.** The deadline counts from when a renewal was *sent* that was stored later: nobody who saw it stored can
//! think that it was older. A renewal is written over the one before or not at all. A host whose lease was ended on its
//! behalf knows it before it holds one again ([`Lease::is_void`]).

use std::time::Duration;

use crate::fault::Faults;
use crate::id::{HostId, Incarnation};
use crate::timing::TimingProfile;
use crate::wire::ownership::LeaseRecord;

/// Something to be done for the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the record if the last sequence on its subject is `expected` (0: there is none), with the time to live
    /// [`crate::timing::LEASE_TTL`]. Answer with [`Lease::handle_renewed`], [`Lease::handle_refused`] or
    /// [`Lease::handle_failed`].
    Renew {
        /// What must be there.
        expected: u64,
        /// The new record.
        record: LeaseRecord,
    },
    /// Read the record and its sequence from the stream's leader: [`Lease::handle_read`] or [`Lease::handle_failed`].
    Read,
}

/// The lease of one start of a host.
#[derive(Debug)]
pub struct Lease {
    host: HostId,
    incarnation: Incarnation,
    timing: TimingProfile,
    faults: Faults,
    number: u64,
    /// Sequence of the record that the next renewal is written over; none if it must be read first.
    over: Option<u64>,
    /// When the renewal was sent that is under way, or when the read began.
    under_way: Option<Duration>,
    next: Duration,
    /// Until when it holds, and its sequence.
    held: Option<(Duration, u64)>,
    void: bool,
    cloned: bool,
}

impl Lease {
    /// No lease yet; the first one is asked for at once.
    pub fn new(host: HostId, incarnation: Incarnation, timing: TimingProfile) -> Self {
        let (number, over, under_way, next, held) = (0, None, None, Duration::ZERO, None);
        Self { host, incarnation, timing, faults: Faults::default(), number, over, under_way, next, held, void: false, cloned: false }
    }

    /// With a seeded bug.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Other times from now on.
    pub fn set_timing(&mut self, timing: TimingProfile) {
        self.timing = timing;
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.under_way.is_some() || now < self.next {
            return None;
        }
        self.under_way = Some(now);
        let Some(expected) = self.over else { return Some(Action::Read) };
        self.number = self.number.saturating_add(1);
        let (host, incarnation) = (self.host.clone(), self.incarnation.clone());
        Some(Action::Renew { expected, record: LeaseRecord { host, incarnation, number: self.number, revoked: false } })
    }

    /// When [`Lease::poll`] wants to be called next; none while an answer is awaited.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.is_none().then_some(self.next)
    }

    /// The renewal is stored as `sequence`.
    pub fn handle_renewed(&mut self, sequence: u64) {
        let Some(sent) = self.under_way.take() else { return };
        self.over = Some(sequence);
        self.held = Some((sent.saturating_add(self.timing.lease_deadline()), sequence));
        self.next = sent.saturating_add(self.timing.lease_renewal());
        self.cloned = false;
    }

    /// Somebody else has written the record: the lease is not ours from this moment on, whatever it turns out to be.
    pub fn handle_refused(&mut self) {
        self.under_way = None;
        self.over = None;
        self.held = None;
        self.next = Duration::ZERO;
    }

    /// What is there, with its sequence.
    pub fn handle_read(&mut self, found: Option<(&LeaseRecord, u64)>, now: Duration) {
        self.under_way = None;
        let Some((record, sequence)) = found else {
            self.over = Some(0);
            return;
        };
        if record.incarnation > self.incarnation {
            // A later start of this host, or another machine with its identity: that one is right.
            self.cloned = true;
            self.next = now.saturating_add(self.timing.lease_takeover());
            return;
        }
        self.void |= record.revoked && record.incarnation == self.incarnation;
        self.over = Some(sequence);
    }

    /// Nothing was done, or it is not known what.
    pub fn handle_failed(&mut self, now: Duration) {
        self.under_way = None;
        // What was sent may have been stored: only a look tells over what the next one is written.
        self.over = None;
        self.next = now.saturating_add(self.timing.lease_renewal() / 4);
    }

    /// Whether what needs the lease may go on.
    pub fn is_held(&self, now: Duration) -> bool {
        self.held.is_some_and(|(deadline, _)| now < deadline || self.faults.lease_never_ends())
    }

    /// When it ends unless it is renewed.
    pub fn deadline(&self) -> Option<Duration> {
        self.held.map(|(deadline, _)| deadline)
    }

    /// Sequence of the last renewal that was stored; 0 if the lease was lost since or never held.
    pub fn sequence(&self) -> u64 {
        self.held.map_or(0, |(_, sequence)| sequence)
    }

    /// Whether it was ended on the host's behalf since this start: what this start had by then belongs to others.
    pub fn is_void(&self) -> bool {
        self.void && !self.faults.resumes_after_revocation()
    }

    /// Whether a later start of this host holds it.
    pub fn is_cloned(&self) -> bool {
        self.cloned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::host_id;

    const TIMING: TimingProfile = TimingProfile::Lan;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn lease(incarnation: &str) -> Lease {
        Lease::new(host_id(0), Incarnation::new(incarnation).unwrap(), TIMING)
    }

    fn record(incarnation: &str, revoked: bool) -> LeaseRecord {
        LeaseRecord { host: host_id(0), incarnation: Incarnation::new(incarnation).unwrap(), number: 7, revoked }
    }

    /// A lease that was read as `found` and stored as 10 at time 0.
    fn held() -> Lease {
        let mut lease = lease("02");
        assert_eq!(lease.poll(at(0)), Some(Action::Read));
        lease.handle_read(None, at(0));
        assert!(matches!(lease.poll(at(0)), Some(Action::Renew { expected: 0, .. })));
        assert_eq!(lease.poll(at(0)), None, "one at a time");
        lease.handle_renewed(10);
        lease
    }

    #[test]
    fn it_counts_from_when_it_was_sent() {
        let mut lease = held();
        assert!(lease.is_held(at(12_999)) && !lease.is_held(at(13_000)));
        assert_eq!(lease.poll(at(1_999)), None);
        assert!(matches!(lease.poll(at(2_000)), Some(Action::Renew { expected: 10, .. })));
        // The answer takes long: that makes it no younger.
        lease.handle_renewed(11);
        assert_eq!((lease.deadline(), lease.sequence()), (Some(at(15_000)), 11));
    }

    #[test]
    fn who_writes_over_it_ends_it_at_once() {
        let mut lease = held();
        lease.poll(at(2_000)).unwrap();
        lease.handle_refused();
        assert!(!lease.is_held(at(2_000)));
        assert_eq!(lease.poll(at(2_000)), Some(Action::Read));
        lease.handle_read(Some((&record("02", true), 12)), at(2_000));
        assert!(lease.is_void());
        assert!(matches!(lease.poll(at(2_000)), Some(Action::Renew { expected: 12, .. })), "it may hold one again, for what comes");
        lease.handle_renewed(13);
        assert!(lease.is_held(at(3_000)) && lease.is_void());
    }

    #[test]
    fn a_failure_keeps_it_until_its_deadline() {
        let mut lease = held();
        lease.poll(at(2_000)).unwrap();
        lease.handle_failed(at(5_000));
        assert!(lease.is_held(at(12_000)) && !lease.is_held(at(13_000)));
        assert_eq!(lease.poll(at(5_400)), None);
        assert_eq!(lease.poll(at(5_500)), Some(Action::Read), "it may have been stored");
        lease.handle_read(Some((&record("02", false), 11)), at(5_501));
        assert!(matches!(lease.poll(at(5_501)), Some(Action::Renew { expected: 11, .. })));
    }

    #[test]
    fn of_two_starts_the_later_one_is_right() {
        let mut old = held();
        old.poll(at(2_000)).unwrap();
        old.handle_refused();
        old.poll(at(2_000)).unwrap();
        old.handle_read(Some((&record("03", false), 12)), at(2_000));
        assert!(old.is_cloned() && !old.is_held(at(2_001)));
        assert_eq!(old.poll(at(10_000)), None, "it does not fight");
        let mut new = lease("03");
        new.poll(at(0)).unwrap();
        new.handle_read(Some((&record("02", true), 11)), at(0));
        assert!(!new.is_void(), "what was ended was another start's");
        assert!(matches!(new.poll(at(0)), Some(Action::Renew { expected: 11, .. })));
    }
}
