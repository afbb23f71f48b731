//! What must never happen, watched from where nobody can be wrong about it: the server's own order of things and the true
//! time.
//!
//! The first breach ends the run; everything after it could be its consequence.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::id::{Generation, HostId, Revision};
use lattice_core::needs::Class;
use lattice_core::ownership::SlotId;
use lattice_core::plan::Head;
use lattice_core::subject;
use lattice_core::timing::LEASE_TTL;
use lattice_core::wire;
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::ownership::{Applied, EpochRecord, LeaseRecord};
use lattice_core::wire::verdict::{Evidence, Standing, Verdict};

use crate::clock::Millis;
use crate::env::HostIx;
use crate::scene;
use crate::store::Put;

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The generation of the assignment that a host follows never falls, also not over a restart.
    GenerationFell,
    /// Each plan's parent is the plan before it, and its generation one more.
    PlanChain,
    /// The epoch of a slot never goes to an older plan.
    TermFell,
    /// A slot starts under an epoch that is its own stored claim.
    OwnClaim,
    /// What a host had when its lease was ended on its behalf it does not start again.
    Resumed,
    /// Only the owner of a slot stores effects of it.
    StaleWrite,
    /// An owner whose commit was refused stops the slot.
    DeafOwner,
    /// Effects are stored together with the record of what was applied, which never goes back.
    Applied,
    /// No two hosts run a slot of a strict actor at once, nor does one act for it while another runs it.
    TwoOwners,
    /// Every reading that was accepted is listed once, in order, and its result is published once.
    Once,
    /// Whoever is heard is not taken for gone, nor is anybody suspected before an observer that was cut off has observed for a
    /// whole window.
    FalseVerdict,
    /// Hosts are taken for gone one after the other.
    Budget,
    /// A lease is stored with a time to live.
    LeaseTtl,
    /// The version of a policy that a host knows never falls, also not over a restart.
    PolicyFell,
    /// A host runs nothing that the policies in force there stop.
    PolicyIgnored,
    /// A host that can be reached enforces the newest version in time.
    PolicyLate,
    /// A host that comes back reads the policies before it follows a plan.
    StartedEarly,
    /// Some time after the last fault everything that is wanted runs, where it is wanted, and nothing is left to do.
    Settled,
    /// Nothing panics.
    Panics,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// When.
    pub at: Millis,
    /// What happened.
    pub what: String,
}

/// Verdicts for which the budget does not count within this time are too many: replicas that do not know of each other's
/// yet each have their own.
const BUDGET_WINDOW: Millis = 4_000;
/// Hosts that may be taken for gone within [`BUDGET_WINDOW`]: one for each of two replicas, and the one that is free.
const BUDGET: usize = 3;

/// The watchers.
#[derive(Debug, Default)]
pub struct Watch {
    breach: Option<Breach>,
    now: Millis,
    head: Generation,
    followed: BTreeMap<HostId, Generation>,
    epochs: BTreeMap<SlotId, EpochRecord>,
    /// Who made the claim that is stored at a position.
    claims: BTreeMap<(SlotId, u64), String>,
    applied: BTreeMap<SlotId, u64>,
    accepted: BTreeMap<(SlotId, u32), u64>,
    listed: BTreeMap<(SlotId, u32), u64>,
    published: BTreeMap<(SlotId, u32), u64>,
    running: BTreeMap<SlotId, BTreeSet<HostIx>>,
    asleep: BTreeSet<HostIx>,
    standing: BTreeMap<HostId, Verdict>,
    /// On which revision each of them was written.
    written_on: BTreeMap<HostId, Option<u64>>,
    deaths: Vec<Millis>,
    policies: BTreeMap<HostId, u64>,
    /// Starts of hosts whose leases were ended on their behalf, by the names of their connections, and the plan of that time.
    ended: BTreeMap<String, Generation>,
    /// The host whose lease was ended on its behalf just now.
    revoked: Option<HostId>,
    /// Counts that show what a run was about.
    pub seen: Seen,
}

/// What a run was about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Plans.
    pub plans: u64,
    /// Epochs that were raised.
    pub epochs: u64,
    /// Claims that were refused.
    pub refused_claims: u64,
    /// Commits that were refused because the epoch was somebody else's.
    pub fenced: u64,
    /// Commits of effects.
    pub commits: u64,
    /// Readings accepted.
    pub accepted: u64,
    /// Hosts taken for gone.
    pub deaths: u64,
    /// Verdicts that say that a lease has ended.
    pub leases_ended: u64,
    /// Slots started.
    pub starts: u64,
    /// Versions of a policy that a host began to enforce.
    pub policies: u64,
}

impl Seen {
    /// Counts what another run was about, too.
    pub fn add(&mut self, other: &Self) {
        self.plans += other.plans;
        self.epochs += other.epochs;
        self.refused_claims += other.refused_claims;
        self.fenced += other.fenced;
        self.commits += other.commits;
        self.accepted += other.accepted;
        self.deaths += other.deaths;
        self.leases_ended += other.leases_ended;
        self.starts += other.starts;
        self.policies += other.policies;
    }
}

impl Watch {
    /// The first breach.
    pub fn breach(&self) -> Option<&Breach> {
        self.breach.as_ref()
    }

    /// Notes a breach; only the first counts.
    pub fn fail(&mut self, rule: Rule, what: String) {
        if self.breach.is_none() {
            self.breach = Some(Breach { rule, at: self.now, what });
        }
    }

    /// Time has come to `now`.
    pub fn handle_time(&mut self, now: Millis) {
        self.now = now;
    }

    /// A host follows an assignment.
    pub fn handle_followed(&mut self, host: &HostId, generation: Generation) {
        let before = self.followed.insert(host.clone(), generation).unwrap_or_default();
        if generation < before {
            self.fail(Rule::GenerationFell, format!("host {host} follows generation {generation} after {before}"));
        }
    }

    /// A host knows this version of the policy.
    pub fn handle_policy(&mut self, host: &HostId, version: u64) {
        let before = self.policies.insert(host.clone(), version).unwrap_or_default();
        self.seen.policies += u64::from(version > before);
        if version < before {
            self.fail(Rule::PolicyFell, format!("host {host} enforces version {version} after {before}"));
        }
    }

    /// A batch was stored, by the host on a connection of this name if by a host.
    pub fn handle_stored(&mut self, writer: Option<&(HostIx, String)>, stream: &str, batch: &[Put], last: u64) {
        let lattice = scene::lattice();
        if stream == subject::bucket_stream(&subject::plan_bucket(&lattice)) {
            self.handle_plan(batch);
        } else if stream == subject::bucket_stream(&subject::verdict_bucket(&lattice)) {
            batch.iter().for_each(|put| self.handle_verdict(put));
        } else if stream == subject::lease_stream(&lattice) {
            for record in batch.iter().filter_map(revocation) {
                self.ended.insert(subject::connection_name(&record.host, &record.incarnation), self.head);
                self.revoked = Some(record.host);
            }
            if batch.iter().any(|put| put.ttl != Some(LEASE_TTL.as_millis() as Millis) && revocation(put).is_none()) {
                self.fail(Rule::LeaseTtl, "a lease was stored for ever".to_owned());
            }
        } else if let Some((name, ..)) = scene::OWNED.iter().find(|(name, ..)| stream == scene::bucket_stream(name)) {
            self.handle_effects(writer, name, batch, last);
        }
    }

    fn handle_plan(&mut self, batch: &[Put]) {
        let body = |put: &Put| put.body.clone();
        let Some(last) = batch.last().and_then(body) else { return self.fail(Rule::PlanChain, "an empty plan".into()) };
        let Ok(head) = wire::decode::<Head>(&last) else { return self.fail(Rule::PlanChain, "the head comes last".into()) };
        if head.parent != self.head || head.generation != self.head.next() {
            let (parent, generation, before) = (head.parent, head.generation, self.head);
            self.fail(Rule::PlanChain, format!("plan {generation} over {parent} was stored over {before}"));
        }
        let others = batch.iter().rev().skip(1).filter_map(body);
        for assignment in others.filter_map(|body| wire::decode::<Assignment>(&body).ok()) {
            if assignment.generation != head.generation {
                self.fail(Rule::PlanChain, format!("{} changes in plan {} as {}", assignment.host, head.generation, assignment.generation));
            }
        }
        self.head = head.generation;
        self.seen.plans += 1;
    }

    fn handle_verdict(&mut self, put: &Put) {
        let Some(verdict) = put.body.as_ref().and_then(|body| wire::decode::<Verdict>(body).ok()) else { return };
        let dead = |verdict: &Verdict| verdict.standing == Standing::Dead;
        let before = self.standing.insert(verdict.host.clone(), verdict.clone());
        self.written_on.insert(verdict.host.clone(), put.expected.as_ref().map(|(_, revision)| *revision));
        let was = before.as_ref().is_some_and(|before| dead(before) && before.incarnation == verdict.incarnation);
        if dead(&verdict) && !was {
            self.seen.deaths += 1;
            if !matches!(verdict.evidence, Evidence::Left | Evidence::Operator) {
                self.deaths.retain(|at| self.now.saturating_sub(*at) < BUDGET_WINDOW);
                self.deaths.push(self.now);
                if self.deaths.len() > BUDGET {
                    self.fail(Rule::Budget, format!("{} hosts were taken for gone within {BUDGET_WINDOW} ms", self.deaths.len()));
                }
            }
        }
        if verdict.lease_ended && !before.is_some_and(|before| before.lease_ended) {
            self.seen.leases_ended += 1;
        }
    }

    /// A claim, or a commit of effects.
    fn handle_effects(&mut self, writer: Option<&(HostIx, String)>, name: &str, batch: &[Put], last: u64) {
        let own = |kind: &str| format!("lat.{}.act.{kind}.{name}.", scene::lattice());
        if let [put] = batch
            && let Some(rest) = put.subject.strip_prefix(&own("epoch"))
        {
            let slot = SlotId { actor: scene::actor(name), slot: number_at(rest, 1) };
            self.claims.insert((slot.clone(), last), writer.map_or_else(String::new, |(_, name)| name.clone()));
            return self.handle_epoch(slot, put.body.as_deref().unwrap_or_default());
        }
        self.seen.commits += 1;
        if !batch.iter().any(|put| put.subject.starts_with(&own("applied"))) {
            self.fail(Rule::Applied, format!("effects of {name} are stored without what was applied"));
        }
        batch.iter().for_each(|put| self.handle_effect(writer, name, put));
    }

    fn handle_effect(&mut self, writer: Option<&(HostIx, String)>, name: &str, put: &Put) {
        let body = put.body.as_deref().unwrap_or_default();
        let own = |kind: &str| format!("lat.{}.act.{kind}.{name}.", scene::lattice());
        let (slot_at, id) = (number_at, |slot: u32| SlotId { actor: scene::actor(name), slot });
        let key = put.subject.strip_prefix(&format!("$KV.{name}."));
        let slot = match (put.subject.strip_prefix(&own("applied")), key, put.subject.strip_prefix(&own("out"))) {
            (Some(rest), ..) => id(slot_at(rest, 1)),
            (_, Some(key), _) => id(slot_at(key, 1)),
            (_, _, Some(rest)) => id(slot_at(rest, 2)),
            (None, None, None) => return,
        };
        let owner = self.epochs.get(&slot).map(|record| subject::connection_name(&record.owner, &record.incarnation));
        if owner.as_ref() != writer.map(|(_, name)| name) {
            let writer = writer.map_or("nobody", |(_, name)| name);
            self.fail(Rule::StaleWrite, format!("{writer} stores effects of {slot}, whose owner is {}", owner.unwrap_or_default()));
        }
        if put.subject.starts_with(&own("applied")) {
            let sequence = wire::decode::<Applied>(body).map_or(0, |applied| applied.sequence);
            let before = self.applied.insert(slot.clone(), sequence).unwrap_or_default();
            if sequence <= before {
                self.fail(Rule::Applied, format!("{slot} has applied {sequence} after {before}"));
            }
        }
        if let Some(key) = key {
            let list: Vec<u64> = serde_json::from_slice(body).unwrap_or_default();
            let sensor = (slot.clone(), slot_at(key, 2));
            let known = self.listed.get(&sensor).copied().unwrap_or_default();
            let length = list.len() as u64;
            if !list.iter().copied().eq(1..=length) || length != known + 1 {
                self.fail(Rule::Once, format!("readings of {slot} sensor {} are {list:?} after {known}", sensor.1));
            }
            self.listed.insert(sensor, length);
        }
    }

    fn handle_epoch(&mut self, slot: SlotId, body: &[u8]) {
        let Ok(record) = wire::decode::<EpochRecord>(body) else { return };
        if let Some(before) = self.epochs.get(&slot)
            && record.term < before.term
        {
            let what = format!("{slot} goes from {} of plan {} to {} of plan {}", before.owner, before.term, record.owner, record.term);
            self.fail(Rule::TermFell, what);
        }
        self.epochs.insert(slot, record);
        self.seen.epochs += 1;
    }

    /// A reading was stored.
    pub fn handle_accepted(&mut self, slot: &SlotId, sensor: u32, number: u64) {
        self.accepted.insert((slot.clone(), sensor), number);
        self.seen.accepted += 1;
    }

    /// A message is on the core bus, as a subscriber next to the server sees it.
    pub fn handle_published(&mut self, subject: &str, body: &[u8]) {
        let Some(rest) = subject.strip_prefix("edge.result.") else { return };
        let Some((name, slot)) = rest.split_once('.') else { return };
        let slot = SlotId { actor: scene::actor(name), slot: slot.parse().unwrap_or(u32::MAX) };
        let Ok([sensor, number]) = serde_json::from_slice::<[u64; 2]>(body) else { return };
        let key = (slot, sensor as u32);
        let before = self.published.insert(key.clone(), number).unwrap_or_default();
        if number != before + 1 {
            self.fail(Rule::Once, format!("subscribers see result {number} of {} sensor {sensor} after {before}", key.0));
        }
    }

    /// A slot starts on a host, which has a connection of this name, under an epoch.
    pub fn handle_slot_started(&mut self, host: HostIx, name: &str, slot: &SlotId, epoch: u64) {
        self.seen.starts += 1;
        if self.claims.get(&(slot.clone(), epoch)).is_none_or(|claimer| claimer != name) {
            self.fail(Rule::OwnClaim, format!("{slot} starts on h{host} under epoch {epoch}, which is no claim of its own"));
        }
        let strict = scene::OWNED.iter().any(|(actor, class, _)| *class == Class::Strict && slot.actor.as_str() == *actor);
        let term = self.epochs.get(slot).map(|record| record.term);
        if strict && self.ended.get(name).is_some_and(|head| term.is_some_and(|term| term <= *head)) {
            self.fail(Rule::Resumed, format!("{slot} starts on h{host}, whose lease was ended since it was given there"));
        }
        let all = self.running.entry(slot.clone()).or_default();
        all.insert(host);
        self.check_alone(slot);
    }

    /// A slot stops on a host.
    pub fn handle_slot_stopped(&mut self, host: HostIx, slot: &SlotId) {
        if let Some(all) = self.running.get_mut(slot) {
            all.remove(&host);
        }
    }

    /// A host acts for a strict slot in a way that no store can refuse.
    pub fn handle_act(&mut self, host: HostIx, slot: &SlotId) {
        if !self.running.get(slot).is_some_and(|all| all.contains(&host)) {
            self.fail(Rule::TwoOwners, format!("h{host} acts for {slot}, which does not run there"));
        }
        self.check_alone(slot);
    }

    fn check_alone(&mut self, slot: &SlotId) {
        if scene::OWNED.iter().any(|(name, class, _)| *name == slot.actor.as_str() && *class != Class::Strict) {
            return;
        }
        let awake: Vec<HostIx> =
            self.running.get(slot).into_iter().flatten().filter(|host| !self.asleep.contains(*host)).copied().collect();
        if awake.len() > 1 {
            self.fail(Rule::TwoOwners, format!("{slot} runs on {awake:?} at once"));
        }
    }

    /// A host's process is gone.
    pub fn handle_gone(&mut self, host: HostIx) {
        self.asleep.remove(&host);
        for all in self.running.values_mut() {
            all.remove(&host);
        }
    }

    /// A host's process is paused: it does nothing at all.
    pub fn handle_paused(&mut self, host: HostIx) {
        self.asleep.insert(host);
    }

    /// A host's process goes on, and has looked at its lease.
    pub fn handle_resumed(&mut self, host: HostIx) {
        self.asleep.remove(&host);
        let slots: Vec<SlotId> = self.running.iter().filter(|(_, all)| all.contains(&host)).map(|(slot, _)| slot.clone()).collect();
        slots.iter().for_each(|slot| self.check_alone(slot));
    }

    /// Readings that are not listed or whose results are not published yet.
    pub fn unfinished(&self) -> Option<String> {
        self.accepted.iter().find_map(|(sensor, number)| {
            let at = |all: &BTreeMap<(SlotId, u32), u64>| all.get(sensor).copied().unwrap_or_default();
            let (listed, published) = (at(&self.listed), at(&self.published));
            let missing = listed != *number || published != *number;
            missing.then(|| format!("{} sensor {}: {number} accepted, {listed} listed, {published} published", sensor.0, sensor.1))
        })
    }

    /// A host that runs a slot of a strict actor.
    pub fn strict_owner(&self) -> Option<HostIx> {
        let strict = |slot: &SlotId| scene::OWNED.iter().any(|(name, class, _)| *class == Class::Strict && slot.actor.as_str() == *name);
        self.running.iter().filter(|(slot, _)| strict(slot)).find_map(|(_, hosts)| hosts.first().copied())
    }

    /// The host whose lease was ended on its behalf since this was asked last.
    pub fn take_revoked(&mut self) -> Option<HostId> {
        self.revoked.take()
    }

    /// The verdict in force about a host.
    pub fn standing(&self, host: &HostId) -> Option<&Verdict> {
        self.standing.get(host)
    }

    /// Whether a verdict about a host that is to be written on `revision` comes too late: somebody else's was.
    pub fn is_overtaken(&self, host: &HostId, revision: Option<Revision>) -> bool {
        let written_on = self.written_on.get(host).copied().flatten();
        written_on.is_some() && written_on == revision.map(|revision| revision.0)
    }
}

/// The number that stands at a place of a subject or key.
fn number_at(text: &str, at: usize) -> u32 {
    text.split('.').nth(at).and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}

/// The lease that a message ends on its host's behalf, if it does.
fn revocation(put: &Put) -> Option<LeaseRecord> {
    let record: LeaseRecord = wire::decode(put.body.as_ref()?).ok()?;
    record.revoked.then_some(record)
}
