//! The scheduler: from heartbeats and stored state to commits of the plan.
//!
//! A state machine without I/O. Whoever drives it hands over what comes in ([`Scheduler::handle_heartbeat`],
//! [`Scheduler::handle_desired_changed`], [`Scheduler::handle_verdict_changed`], [`Scheduler::handle_policy_changed`]), then
//! carries out each [`Step`] of [`Scheduler::poll_step`] and hands over what came of it, until there is none. Every message may be such an occasion: there is no timer besides heartbeats.
//!
//! **Invariants.** A plan is only made from stored state that was read after the last conflict, and is committed on
//! condition of its parent: replicas may race, one of them wins, the others read again. Hosts count as there while their
//! last heartbeat is younger than three intervals of the lattice's profile; nothing is moved because one is not. A verdict
//! comes before everything else: it is read and planned for without reading anything else first. The cost of a heartbeat does
//! not depend on the number of hosts. Policies are read unverified: they decide about places alone ([`crate::policy::posted`]).

mod hosts;

use std::collections::BTreeMap;

use crate::desired::{CorruptKey, Desired};
use crate::error::{ErrorCode, Problem};
use crate::id::{ActorId, Generation, HostId, HostName, Region, Revision};
use crate::inventory::Inventory;
use crate::liveness::FailoverSettings;
use crate::plan::{self, KeyChange, PlaceError, Plan, PlanState, Site};
use crate::policy::posted::Posted;
use crate::timing::{MISSED_HEARTBEATS, RESYNC_INTERVAL, TimingProfile};
use crate::wire::request::{MAX_PROBE_REGIONS, Probe};
use crate::wire::schedule::{EdgeNode, Explanation, PastDecision, Placed, PlanAnswer, SchedulerStatus, TaskSpec};
use crate::wire::verdict::{Standing, Verdict, Verdicts};
use hosts::Hosts;
pub use hosts::MAX_HOSTS;

/// Milliseconds by a clock that never goes back.
pub type Millis = u64;

/// How long a host counts as there after a heartbeat.
pub fn fresh_for_ms(profile: TimingProfile) -> Millis {
    Millis::try_from(profile.heartbeat().as_millis()).unwrap_or(Millis::MAX).saturating_mul(Millis::from(MISSED_HEARTBEATS))
}

/// Between two looks whether stored state has moved on: a change that was not heard is found within this time.
const LOOK_EVERY_MS: Millis = RESYNC_INTERVAL.as_millis() as Millis / 12;
/// Between two requests that hosts measure their round trips.
const PROBE_EVERY_MS: Millis = 15_000;
/// Conflicts with other replicas after which the next heartbeat is waited for; each of them means that somebody planned.
const MAX_CONFLICTS: u32 = 10;
/// How long hosts that say what they enforce now are gathered before a plan follows from that: after a new policy all of
/// them say so at about the same time.
const GATHER_MS: Millis = 250;
/// From one plan to the next that hosts give reason to, for each host beyond [`FEW_HOSTS`]: what a plan costs grows with them,
/// and so many that come at once, or whose heartbeats got lost because planning took its time, shall not make one plan each.
const PAUSE_PER_HOST_MS: Millis = 2;
/// Longest such pause.
const MAX_PAUSE_MS: Millis = 10_000;
/// With so few nothing is gathered: their heartbeats are too rare to come back by.
const FEW_HOSTS: usize = 50;
/// Pause after a failure of the store.
const RETRY_AFTER_MS: Millis = 1_000;
/// Decisions about one actor that are kept.
pub const MAX_HISTORY: usize = 10;
/// Reasons of one decision that are kept.
const MAX_REASONS: usize = 32;

/// Something to be done, in this order. Each answer goes to the method that the step names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask all hosts for a heartbeat.
    AskHosts,
    /// Tell all hosts to measure their round trips to these regions.
    Probe(Probe),
    /// Read the last revisions of the buckets of desired state, plan, verdicts and policies: [`Scheduler::handle_revisions`].
    Look,
    /// Read the verdicts and plan: [`Scheduler::handle_verdicts`].
    ReadVerdicts,
    /// Read the policies: [`Scheduler::handle_policies`].
    ReadPolicies,
    /// Read the plan, then desired state: [`Scheduler::handle_stored`].
    Read,
    /// Commit these keys of the plan as one batch: [`Scheduler::handle_committed`], [`Scheduler::handle_conflict`].
    Commit(Vec<KeyChange>),
    /// Keep why actors are where they are now; nothing depends on whether that works.
    Record(BTreeMap<ActorId, PastDecision>),
}

/// One replica of the scheduler.
#[derive(Debug)]
pub struct Scheduler {
    node: String,
    started: Millis,
    hosts: Hosts,
    stored: Option<Stored>,
    /// None before they were read.
    verdicts: Option<Verdicts>,
    /// None before they were read.
    policies: Option<Posted>,
    /// Revision of the plan's bucket when it was looked at last.
    plan_seen: Revision,
    /// A plan that is on its way.
    pending: Option<Plan>,
    record: BTreeMap<ActorId, PastDecision>,
    asked: bool,
    probed: Option<Millis>,
    looked: Option<Millis>,
    must_read: bool,
    must_read_verdicts: bool,
    must_read_policies: bool,
    must_plan: bool,
    /// When to plan for what hosts say.
    gathered_at: Option<Millis>,
    /// When it was planned last.
    planned_at: Option<Millis>,
    /// What is to be planned for is a verdict.
    urgent: bool,
    conflicts: u32,
    /// Not before then, after a failure.
    retry_at: Millis,
}

/// What is in the store, as far as is known.
#[derive(Debug)]
struct Stored {
    desired: Desired,
    revision: Revision,
    /// How often hosts report.
    profile: TimingProfile,
    plan: PlanState,
    /// Desired state that the plan follows.
    covered: Revision,
    troubles: BTreeMap<ActorId, Problem>,
    handing_over: bool,
    /// Made when it is first asked for.
    site: Option<Site>,
}

impl Scheduler {
    /// A replica on `node` that knows nothing yet.
    pub fn new(node: impl Into<String>, now: Millis) -> Self {
        Self {
            node: node.into(),
            started: now,
            hosts: Hosts::default(),
            stored: None,
            verdicts: None,
            policies: None,
            plan_seen: Revision(0),
            pending: None,
            record: BTreeMap::new(),
            asked: false,
            probed: None,
            looked: None,
            must_read: true,
            must_read_verdicts: true,
            must_read_policies: true,
            must_plan: false,
            gathered_at: None,
            planned_at: None,
            urgent: false,
            conflicts: 0,
            retry_at: 0,
        }
    }

    /// A heartbeat on `subject`. What makes no sense is counted and changes nothing.
    pub fn handle_heartbeat(&mut self, subject: &str, payload: &[u8], now: Millis) {
        let fresh_for = self.fresh_for_ms();
        let Some(news) = self.hosts.handle_heartbeat(subject, payload, now, fresh_for) else { return };
        let Some(stored) = &mut self.stored else { return };
        if let Some(site) = &mut stored.site
            && (news.enforces_anew || !site.update(&news.report))
        {
            stored.site = None;
        }
        let waits = stored.handing_over || !stored.troubles.is_empty();
        if news.joined || (waits && news.material) {
            self.gather(now);
        }
        if news.enforces_anew {
            self.gather(now.saturating_add(GATHER_MS));
        }
        let ahead = |known: &Posted| news.report.policy.as_ref().is_some_and(|said| known.is_behind(said));
        self.must_read_policies |= news.enforces_anew && self.policies.as_ref().is_some_and(ahead);
    }

    /// Plans at `from`, or when the pause since the last plan is over.
    fn gather(&mut self, from: Millis) {
        let hosts = self.hosts.len().saturating_sub(FEW_HOSTS);
        let pause = Millis::try_from(hosts).unwrap_or(Millis::MAX).saturating_mul(PAUSE_PER_HOST_MS).min(MAX_PAUSE_MS);
        let at = self.planned_at.map_or(from, |planned| from.max(planned.saturating_add(pause)));
        self.gathered_at = Some(self.gathered_at.map_or(at, |known| known.min(at)));
    }

    /// Desired state has changed, by a message that may have been overtaken by others.
    pub fn handle_desired_changed(&mut self) {
        self.looked = None;
    }

    /// A verdict has changed, by a message that may have been overtaken by others.
    pub fn handle_verdict_changed(&mut self) {
        self.must_read_verdicts = true;
    }

    /// A policy has changed, by a message that may have been overtaken by others.
    pub fn handle_policy_changed(&mut self) {
        self.must_read_policies = true;
    }

    /// Reads stored state again before anything else, as after an interruption.
    pub fn handle_reconnected(&mut self) {
        (self.must_read, self.must_read_verdicts, self.must_read_policies) = (true, true, true);
        self.pending = None;
    }

    /// The last revisions of the buckets of desired state, plan, verdicts and policies; 0 for one that does not exist.
    pub fn handle_revisions(&mut self, desired: Revision, plan: Revision, verdicts: Revision, policies: Revision) {
        let known = self.stored.as_ref().is_some_and(|stored| stored.revision >= desired);
        self.must_read |= !known || plan != self.plan_seen;
        self.must_read_verdicts |= self.verdicts.as_ref().is_none_or(|known| known.revision < verdicts);
        self.must_read_policies |= self.policies.as_ref().is_none_or(|known| known.revision < policies);
    }

    /// What was read: the entries of the policies' bucket, with its revision.
    ///
    /// # Errors
    /// The first key that makes no sense. The others count.
    pub fn handle_policies<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        revision: Revision,
    ) -> Result<(), CorruptKey> {
        let (mut policies, mut corrupt) = (Posted::at(revision), None);
        for (key, document) in entries {
            if let Err(error) = policies.insert(key, document) {
                corrupt.get_or_insert(error);
            }
        }
        self.must_read_policies = false;
        self.must_plan |= self.policies.as_ref().is_none_or(|known| !known.says_the_same(&policies));
        self.policies = Some(policies);
        if let Some(stored) = &mut self.stored {
            stored.site = None;
        }
        corrupt.map_or(Ok(()), Err)
    }

    /// What was read: the entries of the verdicts' bucket, with its revision.
    ///
    /// # Errors
    /// The first key that makes no sense. The others count: a host that is gone must not keep its work because of it.
    pub fn handle_verdicts<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        revision: Revision,
    ) -> Result<(), CorruptKey> {
        let (mut verdicts, mut corrupt) = (Verdicts { revision, ..Verdicts::default() }, None);
        for (key, value) in entries {
            if let Err(error) = verdicts.insert(key, value) {
                corrupt.get_or_insert(error);
            }
        }
        self.must_read_verdicts = false;
        let material = self.verdicts.as_ref().is_none_or(|known| differ(known, &verdicts));
        self.must_plan |= material;
        self.urgent |= material;
        self.verdicts = Some(verdicts);
        if let Some(stored) = &mut self.stored {
            stored.site = None;
        }
        corrupt.map_or(Ok(()), Err)
    }

    /// What was read: the entries of the plan (read first) with its bucket's revision, then those of desired state.
    ///
    /// # Errors
    /// The key that makes no sense; the replica goes on with what it knew, and tries again.
    pub fn handle_stored<'a>(
        &mut self,
        plan: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>,
        plan_revision: Revision,
        desired: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        revision: Revision,
        now: Millis,
    ) -> Result<(), CorruptKey> {
        self.retry_at = now.saturating_add(RETRY_AFTER_MS);
        let mut state = PlanState::default();
        for (key, value, revision) in plan {
            state.insert(key, value, revision)?;
        }
        let mut wanted = Desired::default();
        for (key, value) in desired {
            wanted.insert(key, value)?;
        }
        let covered = state.head.as_ref().map_or(Revision(0), |head| head.desired_rev);
        let troubles = self.stored.take().map(|stored| stored.troubles).unwrap_or_default();
        let profile = FailoverSettings::of(&wanted).profile;
        self.stored = Some(Stored { desired: wanted, revision, profile, plan: state, covered, troubles, handing_over: false, site: None });
        self.plan_seen = plan_revision;
        (self.must_read, self.must_plan, self.pending, self.retry_at) = (false, true, None, 0);
        Ok(())
    }

    /// The store could not be reached, or it is not known what became of a commit.
    pub fn handle_failure(&mut self, now: Millis) {
        self.pending = None;
        self.must_read = true;
        self.retry_at = now.saturating_add(RETRY_AFTER_MS);
    }

    /// The commit was stored; `revision` is the bucket's, and the head's, since it is the batch's last key. `wall_ms` is for people.
    pub fn handle_committed(&mut self, revision: Revision, wall_ms: u64) {
        let (Some(plan), Some(stored)) = (self.pending.take(), &mut self.stored) else { return };
        self.record = reasons(&plan, &self.hosts, wall_ms);
        stored.plan = stored.plan.after(&plan, revision);
        self.plan_seen = revision;
        self.conflicts = 0;
        self.must_plan = plan.more;
        stored.settle(&plan);
    }

    /// Somebody else was faster.
    pub fn handle_conflict(&mut self, now: Millis) {
        self.urgent |= self.pending.take().is_some_and(|plan| !plan.moved.is_empty());
        self.must_read = true;
        self.conflicts += 1;
        if self.conflicts >= MAX_CONFLICTS {
            self.conflicts = 0;
            self.retry_at = now.saturating_add(RETRY_AFTER_MS);
        }
    }

    /// What is to be done now; none until something comes in.
    pub fn poll_step(&mut self, now: Millis) -> Option<Step> {
        if !self.asked {
            self.asked = true;
            return Some(Step::AskHosts);
        }
        let waits = now < self.retry_at || self.pending.is_some();
        if !waits && let Some(step) = self.poll_urgent(now) {
            return Some(step);
        }
        if self.probed.is_none_or(|at| now.saturating_sub(at) >= PROBE_EVERY_MS) && !self.hosts.is_empty() {
            self.probed = Some(now);
            let regions: Vec<Region> = self.hosts.regions().take(MAX_PROBE_REGIONS).cloned().collect();
            return Some(Step::Probe(Probe { regions }));
        }
        if !self.record.is_empty() {
            return Some(Step::Record(std::mem::take(&mut self.record)));
        }
        if waits {
            return None;
        }
        if self.must_read {
            return Some(Step::Read);
        }
        if self.must_read_policies {
            return Some(Step::ReadPolicies);
        }
        if self.looked.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY_MS) {
            self.looked = Some(now);
            self.hosts.forget_gone(now, |host| self.stored.as_ref().is_some_and(|stored| stored.plan.assignments.contains_key(host)));
            return Some(Step::Look);
        }
        if self.gathered_at.is_some_and(|at| at <= now) {
            (self.gathered_at, self.must_plan) = (None, true);
        }
        if self.must_plan && self.is_ready(now) { self.plan(now) } else { None }
    }

    /// What is to be done about a verdict: before anything that may take time.
    fn poll_urgent(&mut self, now: Millis) -> Option<Step> {
        if self.must_read_verdicts {
            return Some(Step::ReadVerdicts);
        }
        if !self.urgent {
            return None;
        }
        if self.must_read {
            return Some(Step::Read);
        }
        if !self.is_ready(now) {
            return None;
        }
        self.plan(now)
    }

    /// Plans; a commit if anything changes.
    fn plan(&mut self, now: Millis) -> Option<Step> {
        // Whatever was gathered until now is in it.
        self.gathered_at = self.gathered_at.filter(|at| *at > now);
        let inventory = self.inventory(now);
        let (Some(stored), Some(verdicts)) = (&mut self.stored, &self.verdicts) else { return None };
        (self.must_plan, self.urgent, self.planned_at) = (false, false, Some(now));
        let plan = plan::plan(&stored.desired, stored.revision, &inventory, verdicts, &stored.plan);
        if plan.is_empty() {
            self.conflicts = 0;
            stored.settle(&plan);
            return None;
        }
        let batch = plan.batch(stored.plan.head_revision);
        self.pending = Some(plan);
        Some(Step::Commit(batch))
    }

    /// Whether enough is known to plan: stored state, verdicts, policies, and every host of the plan was heard, is taken for gone, or
    /// had the time to be heard.
    pub fn is_ready(&self, now: Millis) -> bool {
        let (Some(stored), Some(verdicts), Some(_)) = (&self.stored, &self.verdicts, &self.policies) else { return false };
        let fresh_for = fresh_for_ms(stored.profile);
        let is_dead = |host: &HostId| verdicts.hosts.get(host).is_some_and(|verdict| verdict.standing == Standing::Dead);
        let heard = |host: &HostId| self.hosts.is_fresh(host, now, fresh_for) || is_dead(host);
        let mut running = stored.plan.assignments.values().filter(|assignment| assignment.stop.is_none());
        now.saturating_sub(self.started) >= fresh_for || running.all(|assignment| heard(&assignment.host))
    }

    /// How long a host counts as there after a heartbeat, as the lattice is set.
    pub fn fresh_for_ms(&self) -> Millis {
        fresh_for_ms(self.stored.as_ref().map_or_else(TimingProfile::default, |stored| stored.profile))
    }

    fn inventory(&self, now: Millis) -> Inventory {
        let assignments = self.stored.iter().flat_map(|stored| stored.plan.assignments.values());
        let policies = self.policies.clone().unwrap_or_default();
        Inventory::new(self.hosts.fresh(now, self.fresh_for_ms()).cloned(), assignments).under(policies)
    }

    /// Whether the plan follows desired state at `revision` or later; the answer to a `plan` request then.
    pub fn planned(&self, revision: Revision) -> Option<PlanAnswer> {
        let stored = self.stored.as_ref().filter(|stored| stored.covered >= revision)?;
        let generation = stored.plan.generation();
        Some(PlanAnswer { desired_rev: stored.covered, generation, troubles: stored.troubles.clone() })
    }

    /// How this replica stands.
    pub fn status(&self, now: Millis) -> SchedulerStatus {
        let stored = self.stored.as_ref();
        SchedulerStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            desired_rev: stored.map_or(Revision(0), |stored| stored.covered),
            generation: stored.map_or(Generation(0), |stored| stored.plan.generation()),
            hosts: u32::try_from(self.hosts.fresh(now, self.fresh_for_ms()).count()).unwrap_or(u32::MAX),
            ready: self.is_ready(now),
            malformed: self.hosts.malformed(),
            cloned: self.hosts.cloned(now, self.fresh_for_ms()),
        }
    }

    /// The hosts in the seed's words, with what the plan promises of them; silent ones last known.
    pub fn nodes(&mut self, now: Millis) -> Vec<EdgeNode> {
        self.make_site(now);
        let site = self.stored.as_ref().and_then(|stored| stored.site.as_ref());
        let node = |(id, fresh): (&HostId, bool)| {
            let promised = site.and_then(|site| site.table.get(site.table.index_of(id)?)).map(crate::placement::Node::edge_node);
            let node = promised.or_else(|| Some(crate::placement::Node::new(self.hosts.report(id)?).edge_node()))?;
            Some(EdgeNode { is_healthy: node.is_healthy && fresh, ..node })
        };
        self.hosts.all(now, self.fresh_for_ms()).filter_map(node).collect()
    }

    /// The best host for a task.
    ///
    /// # Errors
    /// `insufficient-resources` with every host's reason; `usage` for a task that makes no sense.
    pub fn place(&mut self, task: &TaskSpec, now: Millis) -> Result<Placed, Problem> {
        self.make_site(now);
        let (hosts, fresh_for) = (&self.hosts, self.fresh_for_ms());
        let site = self.stored.as_ref().and_then(|stored| stored.site.as_ref()).ok_or_else(not_ready)?;
        site.place(task, |host| hosts.is_fresh(host, now, fresh_for)).map_err(|error| unplaced(task, error))
    }

    fn make_site(&mut self, now: Millis) {
        let inventory = match &self.stored {
            Some(stored) if stored.site.is_none() => self.inventory(now),
            Some(_) | None => return,
        };
        if let (Some(stored), Some(verdicts)) = (&mut self.stored, &self.verdicts) {
            stored.site = Some(Site::new(&stored.desired, &inventory, verdicts, &stored.plan));
        }
    }

    /// Where an actor is, where it could be, and why.
    ///
    /// # Errors
    /// `not-found` with the nearest name.
    pub fn explain(&self, actor: &ActorId, now: Millis) -> Result<Explanation, Problem> {
        let (Some(stored), Some(verdicts)) = (&self.stored, &self.verdicts) else { return Err(not_ready()) };
        let found = plan::explain(&stored.desired, &self.inventory(now), verdicts, &stored.plan, actor);
        found.ok_or_else(|| {
            let near = crate::error::nearest(actor.as_str(), stored.desired.components.keys().map(ActorId::as_str));
            let problem = Problem::new(ErrorCode::NotFound, format!("actor `{actor}` does not exist"));
            problem.hint(near.map_or_else(|| "lattice-ctl get actors".to_owned(), |near| format!("did you mean {near}?")))
        })
    }

    /// The newest plan and the share of each host.
    pub fn plan_state(&self) -> Option<&PlanState> {
        self.stored.as_ref().map(|stored| &stored.plan)
    }
}

impl Stored {
    /// Notes what a plan says besides its assignments.
    fn settle(&mut self, plan: &Plan) {
        if !plan.more {
            self.covered = self.revision;
        }
        self.troubles = plan.troubles.iter().map(|(actor, trouble)| (actor.clone(), trouble.problem(actor))).collect();
        self.handing_over = plan.handing_over;
        self.site = None;
    }
}

/// Whether verdicts say something new that a plan could follow from. Suspicion alone moves nothing.
fn differ(before: &Verdicts, after: &Verdicts) -> bool {
    let news = |verdict: &&Verdict| {
        let said = |verdict: &Verdict| (verdict.incarnation.clone(), verdict.standing, verdict.lease_ended);
        verdict.standing != Standing::Suspect && before.hosts.get(&verdict.host).map(said) != Some(said(verdict))
    };
    after.hosts.values().any(|verdict| news(&verdict))
        || before.hosts.keys().any(|host| !after.hosts.contains_key(host))
        || before.quarantined != after.quarantined
}

fn not_ready() -> Problem {
    Problem::new(ErrorCode::TimedOut, "the scheduler has not read the lattice's state yet").hint("try again in a moment")
}

fn unplaced(task: &TaskSpec, error: PlaceError) -> Problem {
    let name: String = task.task_id.chars().take(80).flat_map(char::escape_debug).collect();
    match error {
        PlaceError::Task(reason) => Problem::new(ErrorCode::Usage, format!("task `{name}`: {reason}")),
        PlaceError::NoHost(rejected) => {
            let message = format!("actor scale failed: insufficient resources: no host can take task `{name}`");
            let mut problem = Problem::new(ErrorCode::InsufficientResources, message).hint("lattice-ctl get hosts");
            problem.causes = rejected.iter().map(|(host, why)| format!("{host}: {why}")).collect();
            problem
        }
    }
}

/// Why actors are where `plan` puts them, for people.
fn reasons(plan: &Plan, hosts: &Hosts, wall_ms: u64) -> BTreeMap<ActorId, PastDecision> {
    let name = |host: &HostId| hosts.report(host).map_or_else(|| host.to_string(), |report: &_| HostName::to_string(&report.name));
    let mut decisions: BTreeMap<ActorId, PastDecision> = BTreeMap::new();
    let mut note = |actor: &ActorId, reason: String| {
        let empty = || PastDecision { generation: plan.head.generation, at_ms: wall_ms, reasons: Vec::new() };
        let decision = decisions.entry(actor.clone()).or_insert_with(empty);
        if decision.reasons.len() < MAX_REASONS {
            decision.reasons.push(reason);
        }
    };
    for (actor, choices) in &plan.choices {
        for choice in choices {
            note(actor, format!("{}: {} more: {}", name(&choice.host), choice.instances, choice.reason));
        }
    }
    for moved in &plan.moved {
        note(&moved.actor, format!("{}: {} less, it is gone: {}", name(&moved.from), moved.instances, moved.reason));
    }
    for displaced in &plan.displaced {
        note(&displaced.actor, format!("{}: {} less, to make room for {}", name(&displaced.host), displaced.instances, displaced.by));
    }
    for (actor, trouble) in &plan.troubles {
        note(actor, trouble.problem(actor).message);
    }
    decisions
}

#[cfg(test)]
mod tests;
