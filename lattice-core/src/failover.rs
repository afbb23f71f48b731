//! The failover actor: from what is heard and stored to verdicts, ended leases and the record of every failover.
//!
//! A state machine without I/O, like [`crate::scheduler`]. Whoever drives it hands over what comes in
//! ([`Failover::handle_message`]), then carries out each [`Step`] of [`Failover::poll_step`] and hands over what came of it,
//! until there is none. Every message is such an occasion, and where time alone makes something due a message is asked for
//! ([`Step::Wake`]).
//!
//! **Invariants.** There is no leader. A verdict is written on condition of the one that was read: of replicas that race
//! one wins, and that one alone says so and keeps the record. After a conflict the key is read before anything is judged
//! again. Time passes for judgements only when a heartbeat of the replica's own host has come through the same queue as
//! everybody else's: whatever waited there was heard before. A lease is ended by a conditional write, never by a read.
//!
//! * `hear`: what comes in as messages
//! * `stored`: what is in the store, as far as is known
//! * `ticks`: how time passes
//! * `leases`: ending the leases of hosts that are gone
//! * `course`: the course of one failover, step by step
//! * `history`: failovers of this replica's time, and what they took
//! * `poison`: actors that fail wherever they land
//! * `status`: answers

mod course;
mod hear;
mod history;
mod leases;
mod poison;
mod status;
mod stored;
mod ticks;

use std::collections::{BTreeMap, VecDeque};

use crate::desired::NodeSpec;
use crate::fault::Faults;
use crate::id::{HostId, LatticeName, Region, Revision};
pub use crate::liveness::FailoverSettings;
use crate::liveness::{Detector, Judgement, Opinion, millis};
use crate::plan::KeyChange;
use crate::scheduler::Millis;
use crate::timing::RESYNC_INTERVAL;
use crate::wire::event::Event;
use crate::wire::report::HostReport;
use crate::wire::verdict::{Evidence, Quarantine, Standing, Verdict, actor_key, host_key};
use crate::wire::{self, failover::Failover as Record};
use history::History;
use leases::Leases;
use poison::Poison;
use stored::{Freeze, Stored};
use ticks::Ticks;

/// Between two looks whether stored state has moved on: a change that was not heard is found within this time.
const LOOK_EVERY_MS: Millis = RESYNC_INTERVAL.as_millis() as Millis / 12;
/// Pause after a failure of the store.
const RETRY_AFTER_MS: Millis = 1_000;
/// Conflicts in a row after which the next second is waited for; each of them means that somebody judged.
const MAX_CONFLICTS: u32 = 10;
/// Most messages that wait to be published; more are left out.
const MAX_OUTBOX: usize = 1_024;
/// Most assignments that are read one by one; if more have changed the whole plan is read.
const MAX_SINGLE_READS: usize = 32;

/// Something to be done, in this order. Each answer goes to the method that the step names; [`Failover::handle_failure`]
/// if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask all hosts for a heartbeat.
    AskHosts,
    /// Ask one host for a heartbeat.
    Ask(HostId),
    /// Ask the replica's own host for a heartbeat at a time to come.
    Wake {
        /// The host.
        host: HostId,
        /// In so many milliseconds.
        after_ms: u64,
    },
    /// Read the last revisions of the buckets of desired state, plan and verdicts: [`Failover::handle_revisions`].
    Look,
    /// Read desired state: [`Failover::handle_desired`].
    ReadDesired,
    /// Read the whole plan: [`Failover::handle_plan`].
    ReadPlan,
    /// Read these keys of the plan: [`Failover::handle_plan_keys`].
    ReadPlanKeys(Vec<String>),
    /// Read all verdicts: [`Failover::handle_verdicts`].
    ReadVerdicts,
    /// Read one key of the verdicts: [`Failover::handle_verdict`].
    ReadVerdict(String),
    /// Write one key of the verdicts on condition of its revision: [`Failover::handle_committed`],
    /// [`Failover::handle_conflict`].
    Commit(KeyChange),
    /// Read the lease of a host: [`Failover::handle_lease`].
    ReadLease {
        /// The host.
        host: HostId,
        /// Key of its lease.
        key: String,
    },
    /// Write the lease of a host on condition of its revision, so that it has ended: [`Failover::handle_revoked`],
    /// [`Failover::handle_renewed`].
    RevokeLease {
        /// The host.
        host: HostId,
        /// Key of its lease.
        key: String,
        /// Revision at which it must still be; 0: there is none.
        expected: Revision,
        /// The lease, revoked.
        value: Vec<u8>,
    },
    /// Publish an event; nothing depends on whether that works.
    Publish(Box<Event>),
    /// Keep a failover under this key of the replica's own bucket; nothing depends on whether that works.
    Record {
        /// Its key.
        key: String,
        /// The failover.
        failover: Box<Record>,
    },
}

/// One replica of the failover actor.
#[derive(Debug)]
pub struct Failover {
    node: String,
    lattice: Option<LatticeName>,
    detector: Detector,
    /// Newest reports.
    reports: BTreeMap<HostId, HostReport>,
    stored: Stored,
    leases: Leases,
    history: History,
    poison: Poison,
    ticks: Ticks,
    pending: Option<Pending>,
    outbox: VecDeque<Step>,
    asked: bool,
    looked: Option<Millis>,
    conflicts: u32,
    /// Not before then, after a failure.
    retry_at: Millis,
    /// Wall clock when it was told last, and when that was.
    wall: (u64, Millis),
    malformed: u64,
}

/// A write that is on its way.
#[derive(Debug)]
enum Pending {
    Verdict { key: String, verdict: Box<Verdict> },
    Freeze { key: String, freeze: Freeze },
    Quarantine { key: String, quarantine: Box<Quarantine> },
}

impl Failover {
    /// A replica on `node` that knows nothing yet.
    pub fn new(node: impl Into<String>, now: Millis) -> Self {
        Self {
            node: node.into(),
            lattice: None,
            detector: Detector::new(FailoverSettings::default(), now),
            reports: BTreeMap::new(),
            stored: Stored::default(),
            leases: Leases::default(),
            history: History::default(),
            poison: Poison::default(),
            ticks: Ticks::new(now),
            pending: None,
            outbox: VecDeque::new(),
            asked: false,
            looked: None,
            conflicts: 0,
            retry_at: 0,
            wall: (0, now),
            malformed: 0,
        }
    }

    /// With a seeded bug.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { detector: self.detector.with_faults(faults), ..self }
    }

    /// Reads stored state again before anything else, as after an interruption.
    pub fn handle_reconnected(&mut self) {
        self.stored.forget();
        self.leases.handle_gap();
        self.pending = None;
    }

    /// The last revisions of the buckets of desired state, plan and verdicts.
    pub fn handle_revisions(&mut self, desired: Revision, plan: Revision, verdicts: Revision) {
        self.stored.compare(desired, plan, verdicts);
    }

    /// Desired state as it was read. Here and below a key that makes no sense is counted and as good as none.
    pub fn handle_desired<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8])>, revision: Revision) {
        self.stored.read_desired(entries, revision);
        self.detector.set_settings(FailoverSettings::of(&self.stored.desired));
        let condemned = |(host, node): (&HostId, &NodeSpec)| Some((host.clone(), node.failed_over.clone()?));
        self.detector.set_condemned(self.stored.desired.nodes.iter().filter_map(condemned).collect());
        self.poison.handle_desired(&self.stored.desired);
    }

    /// The whole plan as it was read, with the revision of each key and of its bucket.
    pub fn handle_plan<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>, revision: Revision, now: Millis) {
        self.stored.read_plan(entries, revision);
        self.note_plan(now);
    }

    /// Keys of the plan as they were read; those that have no value are left out.
    pub fn handle_plan_keys<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>, now: Millis) {
        self.stored.read_plan_keys(entries);
        self.note_plan(now);
    }

    /// What follows from a plan that was read.
    fn note_plan(&mut self, now: Millis) {
        let working = self.stored.plan.assignments.values().filter(|share| share.stop.is_none() && !share.components.is_empty());
        for share in working {
            self.detector.handle_expected(&share.host, share.host_name.as_ref(), now);
        }
        self.leases.handle_plan(&self.stored.plan);
        let estimate = self.estimate();
        for moved in self.history.handle_plan(&self.stored, &self.reports, estimate, now) {
            for actor in &moved.plan.actor_ids {
                self.poison.handle_landed(actor, &moved.host, &self.stored.desired, now);
            }
            if moved.mine {
                self.publish_moved(&moved, now);
            }
        }
    }

    /// All verdicts as they were read, with the revision of each key and of their bucket.
    pub fn handle_verdicts<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>,
        revision: Revision,
        now: Millis,
    ) {
        self.stored.read_verdicts(entries, revision);
        self.detector.handle_verdicts(&self.stored.verdicts, now);
        let hosts: Vec<HostId> = self.stored.verdicts.hosts.keys().cloned().collect();
        for host in hosts {
            self.compare_orders(&host);
            self.note_verdict(&host, now);
        }
        let frozen: Vec<Region> = self.stored.freezes.values().filter(|freeze| freeze.frozen).map(|freeze| freeze.region.clone()).collect();
        for region in frozen {
            self.detector.handle_frozen(&region, now);
        }
        self.history.prime();
    }

    /// One key of the verdicts as it was read: its value and revision, none if it has no value.
    pub fn handle_verdict(&mut self, key: &str, entry: Option<(&[u8], Revision)>, now: Millis) {
        self.stored.read_verdict(key, entry);
        self.note_key(key, now);
    }

    /// Another replica that judges by an order of the operator which is not known here, or no longer there, has newer desired
    /// state or older: without a look the two would write over each other.
    fn compare_orders(&mut self, host: &HostId) {
        let Some(verdict) = self.stored.verdicts.hosts.get(host) else { return };
        let ordered = verdict.standing == Standing::Dead && verdict.evidence == Evidence::Operator;
        let known = self.stored.desired.nodes.get(host).and_then(|node| node.failed_over.as_ref()) == Some(&verdict.incarnation);
        self.stored.desired_stale |= ordered != known;
    }

    /// What follows from a key of the verdicts that is known now.
    fn note_key(&mut self, key: &str, now: Millis) {
        match key.split_once('.') {
            Some(("host", id)) => {
                let Ok(host) = HostId::new(id) else { return };
                self.compare_orders(&host);
                self.detector.handle_verdict(&host, self.stored.verdicts.hosts.get(&host), now);
                self.note_verdict(&host, now);
            }
            Some(("site", region)) => {
                let Ok(region) = Region::new(region) else { return };
                match self.stored.freezes.get(&region) {
                    Some(freeze) if freeze.frozen => self.detector.handle_frozen(&region, now),
                    Some(_) | None => {}
                }
            }
            Some(_) | None => {}
        }
    }

    /// What follows for leases and the history from the verdict about a host.
    fn note_verdict(&mut self, host: &HostId, now: Millis) {
        let Some(verdict) = self.stored.verdicts.hosts.get(host) else { return };
        self.leases.handle_verdict(verdict);
        if self.history.handle_verdict(verdict, self.detector.host(host), &self.stored, &self.reports, now) {
            self.poison.handle_death(verdict, now);
        }
    }

    /// The write was stored with this revision.
    pub fn handle_committed(&mut self, revision: Revision, now: Millis) {
        self.conflicts = 0;
        match self.pending.take() {
            Some(Pending::Verdict { key, verdict }) => {
                self.stored.put_verdict(&verdict, revision);
                self.history.handle_won(&verdict.host);
                self.note_key(&key, now);
                self.publish_verdict(&verdict, now);
            }
            Some(Pending::Freeze { freeze, .. }) => {
                self.stored.put_freeze(&freeze, revision);
                self.publish_freeze(&freeze, now);
            }
            Some(Pending::Quarantine { quarantine, .. }) => {
                self.stored.put_quarantine(&quarantine, revision);
                self.publish_quarantine(&quarantine, now);
            }
            None => {}
        }
    }

    /// Somebody else was faster: the key is read before anything is judged again.
    pub fn handle_conflict(&mut self, now: Millis) {
        let key = match self.pending.take() {
            Some(Pending::Verdict { key, .. } | Pending::Freeze { key, .. } | Pending::Quarantine { key, .. }) => key,
            None => return,
        };
        self.stored.stale_keys.insert(key);
        self.conflicts += 1;
        if self.conflicts >= MAX_CONFLICTS {
            self.conflicts = 0;
            self.retry_at = now.saturating_add(RETRY_AFTER_MS);
        }
    }

    /// The store could not be reached, or it is not known what became of a write. Whoever cannot write may not hear either:
    /// everybody gets a whole window to be heard.
    pub fn handle_failure(&mut self, now: Millis) {
        self.pending = None;
        self.stored.verdicts_stale = true;
        self.leases.handle_failure();
        self.detector.restart(now);
        self.retry_at = now.saturating_add(RETRY_AFTER_MS);
    }

    /// The lease of a host as it was read, with its revision; none if there is none.
    pub fn handle_lease(&mut self, host: &HostId, record: Option<(&[u8], Revision)>, now: Millis) {
        if let Some(incarnation) = self.leases.handle_lease(host, record, now) {
            self.detector.handle_lease_ended(host, &incarnation, now);
        }
    }

    /// The lease of a host has ended: the write on condition of its revision was stored.
    pub fn handle_revoked(&mut self, host: &HostId, now: Millis) {
        if let Some(incarnation) = self.leases.handle_revoked(host) {
            self.detector.handle_lease_ended(host, &incarnation, now);
        }
    }

    /// The lease of a host has changed in the meantime: it lives.
    pub fn handle_renewed(&mut self, host: &HostId) {
        self.leases.handle_renewed(host);
    }

    /// What is to be done now; none until something comes in.
    pub fn poll_step(&mut self, now: Millis) -> Option<Step> {
        if !self.asked {
            self.asked = true;
            return Some(Step::AskHosts);
        }
        if self.pending.is_some() {
            return None;
        }
        if now >= self.retry_at {
            let step = self.poll_read(now).or_else(|| self.poll_judgement(now)).or_else(|| self.poll_lease(now));
            if step.is_some() {
                return step;
            }
        }
        if let Some(step) = self.outbox.pop_front() {
            return Some(step);
        }
        if let Some(step) = self.poll_tick(now) {
            return Some(step);
        }
        if now < self.retry_at {
            return None;
        }
        if let Some(step) = self.poll_history(now) {
            return Some(step);
        }
        if self.looked.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY_MS) {
            self.looked = Some(now);
            return Some(Step::Look);
        }
        None
    }

    /// What is to be noted about the course of failovers.
    fn poll_history(&mut self, now: Millis) -> Option<Step> {
        if let Some(step) = self.stored.next_plan_keys(false, now) {
            return Some(step);
        }
        let live = || {
            let heard = self.detector.hosts().filter(|view| view.is_heard);
            heard.filter_map(|view| self.reports.get(view.host).cloned()).collect()
        };
        if let Some(record) = self.history.poll_left(&self.stored, live, now) {
            self.publish_left(&record, now);
        }
        if let Some(record) = self.history.poll_record(now) {
            let key = format!("{}-{}", record.at_ms, record.host);
            return Some(Step::Record { key, failover: Box::new(record) });
        }
        self.outbox.pop_front()
    }

    /// What has to be read before anything is judged.
    fn poll_read(&mut self, now: Millis) -> Option<Step> {
        if self.stored.verdicts_stale {
            return Some(Step::ReadVerdicts);
        }
        if self.stored.desired_stale {
            return Some(Step::ReadDesired);
        }
        if self.stored.plan_stale {
            return Some(Step::ReadPlan);
        }
        if let Some(key) = self.stored.stale_keys.pop_first() {
            return Some(Step::ReadVerdict(key));
        }
        // What a host had is to be known before it is taken for gone, and who got it as soon as it has.
        let urgent = self.history.is_running() || self.detector.has_suspects(now);
        if urgent { self.stored.next_plan_keys(true, now) } else { None }
    }

    /// What is to be stored of hosts and actors.
    fn poll_judgement(&mut self, now: Millis) -> Option<Step> {
        self.poll_hosts(now).or_else(|| self.poll_quarantine(now))
    }

    /// The next judgement, by the time up to which everything was heard.
    fn poll_hosts(&mut self, now: Millis) -> Option<Step> {
        let heard_until = self.ticks.heard_until(now)?;
        while let Some(judgement) = self.detector.poll(heard_until) {
            let step = match judgement {
                Judgement::Ask(host) => Some(Step::Ask(host)),
                Judgement::Store(opinion) => Some(self.commit_verdict(&opinion, now)),
                Judgement::Freeze { region, host, suspects, of } => {
                    let reason = format!("{suspects} of {of} hosts of {region} are silent: nothing moves there for a while");
                    self.commit_freeze(&region, Some(host), true, reason, now)
                }
                Judgement::Thaw { region } => {
                    let reason = format!("moves of {region} go on, slowly");
                    self.commit_freeze(&region, None, false, reason, now)
                }
            };
            if step.is_some() {
                return step;
            }
        }
        None
    }

    fn poll_quarantine(&mut self, now: Millis) -> Option<Step> {
        let quarantine = self.poison.poll(&self.stored, now)?;
        let quarantine = Quarantine { at_ms: self.wall_ms(now), ..quarantine };
        let key = actor_key(&quarantine.actor);
        let value = wire::encode(&quarantine);
        self.pending = Some(Pending::Quarantine { key: key.clone(), quarantine: Box::new(quarantine) });
        Some(self.conditional(key, value))
    }

    fn commit_verdict(&mut self, opinion: &Opinion, now: Millis) -> Step {
        let verdict = opinion.verdict(self.wall_ms(now), &self.node);
        let (key, value) = (host_key(&opinion.host), wire::encode(&verdict));
        self.pending = Some(Pending::Verdict { key: key.clone(), verdict: Box::new(verdict) });
        self.conditional(key, value)
    }

    fn commit_freeze(&mut self, region: &Region, host: Option<HostId>, frozen: bool, reason: String, now: Millis) -> Option<Step> {
        let known = self.stored.freezes.get(region);
        if known.is_some_and(|known| known.frozen) == frozen {
            return None;
        }
        let host = host.or_else(|| known.and_then(|known| known.host.clone()));
        let freeze = Freeze { region: region.clone(), host, frozen, reason, at_ms: self.wall_ms(now), by: self.node.clone() };
        let (key, value) = (freeze.key(), wire::encode(&freeze));
        self.pending = Some(Pending::Freeze { key: key.clone(), freeze });
        Some(self.conditional(key, value))
    }

    fn conditional(&self, key: String, value: Vec<u8>) -> Step {
        let expected = Some(self.stored.revision_of(&key));
        Step::Commit(KeyChange { key, value, expected })
    }

    fn poll_lease(&mut self, now: Millis) -> Option<Step> {
        self.leases.poll(self.detector.settings().profile, now)
    }

    /// A heartbeat of the own host for the time when something is due, unless an ordinary one comes as early.
    fn poll_tick(&mut self, now: Millis) -> Option<Step> {
        let profile = self.detector.settings().profile;
        let left = self.poll_timeout(now).filter(|left| *left <= millis(profile.heartbeat()))?;
        let (host, after_ms) = self.ticks.poll(left, millis(profile.confirm()), now)?;
        Some(Step::Wake { host, after_ms })
    }

    /// Milliseconds until something is due if nothing is heard before.
    fn poll_timeout(&mut self, now: Millis) -> Option<Millis> {
        if self.retry_at > now {
            return Some(self.retry_at - now);
        }
        let lease = self.leases.poll_timeout(self.detector.settings().profile, now);
        self.detector.poll_timeout(now).into_iter().chain(lease).min()
    }

    /// Milliseconds since 1970, for people.
    fn wall_ms(&self, now: Millis) -> u64 {
        self.wall.0.saturating_add(now.saturating_sub(self.wall.1))
    }

    fn publish(&mut self, event: Event) {
        if self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back(Step::Publish(Box::new(event)));
        }
    }
}

#[cfg(test)]
mod tests;
