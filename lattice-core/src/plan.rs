//! The plan: from what should be, what is and the plan before, what each host shall run.
//!
//! Actors are planned by priority. What runs stays where it is as long as that is allowed, so that a plan moves as little
//! as possible; then what is missing is placed, and where there is no room actors of lower priority are displaced. What
//! cannot be done is a [`Trouble`] of that one actor, never of the plan.
//!
//! **Invariants.** The same input gives the same bytes. A plan is immutable; it has a generation and a parent, and its
//! head may only be written over the parent's. A host whose work did not change keeps its assignment and is not told.
//! Nothing is moved off a host only because it is silent: only a verdict or the operator takes a host for gone. Nothing new
//! is placed on a host that a verdict does not call healthy, and what finds no other place stays with a host that is gone. A
//! slot has at most one owner, and the terms of its owners never fall.
//!
//! * `links`: links with their values merged and checked
//! * `standing`: how each host stands, by verdicts and the operator
//! * `rulings`: what policies leave of each host
//! * `world`: the hosts while a plan is made
//! * `holding`: what one actor has, may keep and lacks
//! * `slots`: which host owns which part of an actor
//! * `fill`: placing what is missing
//! * `failing`: what moves off hosts that are gone
//! * `settings`: what the operator tells the scheduler
//! * `diff`, `explain`: what changes, and why something is where it is

mod diff;
mod explain;
mod failing;
mod fill;
mod holding;
mod links;
mod rulings;
mod settings;
mod slots;
mod standing;
mod world;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::{CorruptKey, Desired};
use crate::error::{ErrorCode, Problem};
use crate::id::{ActorId, Digest, Generation, HostId, Revision};
use crate::inventory::Inventory;
use crate::placement::Reject;
use crate::subject;
use crate::system::SystemActor;
use crate::wire;
use crate::wire::assignment::Assignment;
use crate::wire::schedule::{Need, Source};
use crate::wire::verdict::Verdicts;
pub use diff::{PlannedChange, changes};
pub use explain::{PlaceError, Site, explain};
pub use failing::{LeftBehind, Moved, plan_without};
use holding::Holding;
pub use links::{LinkFault, dangling_links, resolve_link};
pub use settings::Settings;
use world::World;

/// How many hosts one commit changes at most; the server takes 1,000 messages in a batch, one of them is the head. What
/// is left goes with the next generation.
pub const MAX_CHANGED_HOSTS: usize = 900;

/// The newest plan, in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number.
    pub generation: Generation,
    /// Number of the plan that it replaced.
    pub parent: Generation,
    /// Desired state it was made from.
    pub desired_rev: Revision,
    /// Verdicts it was made from.
    pub verdict_rev: Revision,
    /// Digest of the parent's and of the work that this plan changes, so that it stands for all of it.
    pub digest: Digest,
}

/// The plan as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanState {
    /// The head; none before the first plan.
    pub head: Option<Head>,
    /// Revision of the head's key, 0 if there is none; the next head is written on condition of it.
    pub head_revision: Revision,
    /// Each host's part.
    pub assignments: BTreeMap<HostId, Assignment>,
}

impl PlanState {
    /// Number of the newest plan.
    pub fn generation(&self) -> Generation {
        self.head.as_ref().map_or(Generation(0), |head| head.generation)
    }

    /// Instances that each host holds of `actor`.
    pub fn shares_of(&self, actor: &ActorId) -> BTreeMap<HostId, u32> {
        let share = |(host, assignment): (&HostId, &Assignment)| Some((host.clone(), assignment.components.get(actor)?.instances));
        self.assignments.iter().filter_map(share).collect()
    }

    /// Takes in one key as it stands in the bucket.
    ///
    /// # Errors
    /// [`CorruptKey`] if its value makes no sense, or is another host's.
    pub fn insert(&mut self, key: &str, value: &[u8], revision: Revision) -> Result<(), CorruptKey> {
        if key == subject::PLAN_HEAD_KEY {
            self.head = Some(wire::decode(value).map_err(|error| CorruptKey::new(key, &error.to_string()))?);
            self.head_revision = revision;
            return Ok(());
        }
        let assignment: Assignment = wire::decode(value).map_err(|error| CorruptKey::new(key, &error.to_string()))?;
        if key != subject::assignment_key(&assignment.host) {
            return Err(CorruptKey::new(key, "it is for another host"));
        }
        self.assignments.insert(assignment.host.clone(), assignment);
        Ok(())
    }

    /// The state after `plan` was committed with `head_revision`.
    #[must_use]
    pub fn after(&self, plan: &Plan, head_revision: Revision) -> Self {
        let mut assignments = self.assignments.clone();
        assignments.extend(plan.changed.clone());
        Self { head: Some(plan.head.clone()), head_revision, assignments }
    }
}

/// A plan that is ready to be committed over its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The new head.
    pub head: Head,
    /// Assignments that change, at most [`MAX_CHANGED_HOSTS`].
    pub changed: BTreeMap<HostId, Assignment>,
    /// Whether more hosts change than one commit takes; then plan again after it.
    pub more: bool,
    /// Why actors are where this plan puts them anew.
    pub choices: BTreeMap<ActorId, Vec<Choice>>,
    /// Actors that had to make room.
    pub displaced: Vec<Displaced>,
    /// What moves off hosts that are gone.
    pub moved: Vec<Moved>,
    /// What does not, and why.
    pub left_behind: Vec<LeftBehind>,
    /// Actors that are not as they should be, also those that were not before.
    pub troubles: BTreeMap<ActorId, Trouble>,
    /// Whether something waits for a host to say that it has done its part.
    pub handing_over: bool,
}

impl Plan {
    /// Whether nothing changes, so that there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// The keys of the batch that commits the plan over the head at `head_revision` (0: there is none): every changed
    /// assignment, then the head, which alone is conditional.
    pub fn batch(&self, head_revision: Revision) -> Vec<KeyChange> {
        let assignments = self.changed.iter().map(|(host, assignment)| KeyChange {
            key: subject::assignment_key(host),
            value: wire::encode(assignment),
            expected: None,
        });
        let head = KeyChange { key: subject::PLAN_HEAD_KEY.to_owned(), value: wire::encode(&self.head), expected: Some(head_revision) };
        assignments.chain([head]).collect()
    }

    /// The first trouble that `before`, a plan for the state before an edit, does not have: what the edit would break.
    ///
    /// # Errors
    /// That trouble, for the user.
    pub fn check_against(&self, before: &Self) -> Result<(), Problem> {
        let worse = |(actor, trouble): &(&ActorId, &Trouble)| match (before.troubles.get(*actor), trouble) {
            (None, _) => true,
            (Some(Trouble::Missing { missing: were, .. }), Trouble::Missing { missing, .. })
            | (Some(Trouble::NoTarget { missing: were, .. }), Trouble::NoTarget { missing, .. }) => missing > were,
            (Some(known), trouble) => known != *trouble,
        };
        match self.troubles.iter().find(worse) {
            Some((actor, trouble)) => Err(trouble.problem(actor)),
            None => Ok(()),
        }
    }
}

/// One key of the batch that commits a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Key in the plan's bucket.
    pub key: String,
    /// Its new value.
    pub value: Vec<u8>,
    /// Revision at which it must still be, if that matters; 0: it must not exist.
    pub expected: Option<Revision>,
}

/// Instances that a plan puts on a host, and why there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The host.
    pub host: HostId,
    /// How many more it gets.
    pub instances: u32,
    /// Why: `emptiest that fits, score 12.50`.
    pub reason: String,
}

/// Instances that made room for an actor of higher priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Displaced {
    /// The actor that makes room.
    pub actor: ActorId,
    /// For whom.
    pub by: ActorId,
    /// Where.
    pub host: HostId,
    /// How many.
    pub instances: u32,
}

/// Why an actor is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Its links make no sense together; it stays as it was.
    Links(LinkFault),
    /// Settings of the scheduler make no sense; their defaults stand for them.
    Settings(Vec<String>),
    /// Some of its instances have no place.
    Missing {
        /// How many.
        missing: u32,
        /// What one of them needs.
        need: Need,
        /// Why hosts were rejected, by name; the first [`MAX_REJECTIONS`].
        rejected: Vec<(String, Reject)>,
    },
    /// Instances of hosts that are gone find no other place.
    NoTarget {
        /// Names of those hosts.
        hosts: Vec<String>,
        /// How many.
        missing: u32,
        /// What one of them needs.
        need: Need,
        /// Why hosts were rejected, by name; the first [`MAX_REJECTIONS`].
        rejected: Vec<(String, Reject)>,
    },
    /// It fails wherever it lands, and is moved no more; the reason.
    Quarantined(String),
}

/// How many rejected hosts a trouble names.
pub const MAX_REJECTIONS: usize = 100;

impl Trouble {
    /// The trouble as the user sees it.
    pub fn problem(&self, actor: &ActorId) -> Problem {
        let (missing, need, rejected) = match self {
            Self::Links(fault) => return Problem::from(fault.clone()),
            Self::Settings(faults) => {
                let message = format!("settings of {actor} make no sense: {}", faults.join(", "));
                return Problem::new(ErrorCode::Usage, message).hint("strategy=balanced|pack|round-robin, leave-at-once=1…10000");
            }
            Self::Quarantined(reason) => {
                let message = format!("{actor} is in quarantine and moved no more: {reason}");
                return Problem::new(ErrorCode::Failed, message).hint("any change of the actor ends it: new code, another scale");
            }
            Self::NoTarget { hosts, missing, need, rejected } => {
                let (hosts, asked) = (hosts.join(", "), asked(need));
                let message = format!("failover failed: no healthy target for {missing} of {actor}, lost with {hosts}{asked}");
                return placeless(Problem::new(ErrorCode::NoHealthyTarget, message), actor, rejected);
            }
            Self::Missing { missing, need, rejected } => (missing, need, rejected),
        };
        let port = |(host, reject): &(String, Reject)| {
            let Reject::Port { port, holder } = reject else { return None };
            Some(format!("port {port} of {host} is taken by {holder}; {actor} cannot listen there too"))
        };
        let ports: Vec<String> = rejected.iter().filter_map(port).collect();
        if let Some(first) = ports.first().filter(|_| ports.len() == rejected.len()) {
            return Problem::new(ErrorCode::Failed, first).hint("give the link another --port");
        }
        if let Some(problem) = denied(actor, *missing, rejected) {
            return problem;
        }
        let asked = asked(need);
        let message = format!("actor scale failed: insufficient resources: no host can take {missing} more of {actor}{asked}");
        placeless(Problem::new(ErrorCode::InsufficientResources, message), actor, rejected)
    }
}

/// An actor that policies keep off every host.
fn denied(actor: &ActorId, missing: u32, rejected: &[(String, Reject)]) -> Option<Problem> {
    let by_policy = |why: &Reject| matches!(why, Reject::Policy { .. } | Reject::PolicyMemory { .. });
    let (_, first) = rejected.first().filter(|_| rejected.iter().all(|(_, why)| by_policy(why)))?;
    let code = if matches!(first, Reject::Policy { contract: Some(_), .. }) { ErrorCode::CapabilityDenied } else { ErrorCode::Denied };
    let mut problem = Problem::new(code, format!("{first}; no host may run {missing} more of {actor}"));
    problem.causes = rejected.iter().map(|(host, why)| format!("{host}: {why}")).collect();
    let places = format!("`lattice-ctl schedule explain {actor}` shows each host, `lattice-ctl policy status` what it enforces");
    Some(problem.hint(format!("{places}; a new version of the policy or `lattice-ctl policy rollback` lifts it")))
}

/// With the reason of each host, and what to do.
fn placeless(mut problem: Problem, actor: &ActorId, rejected: &[(String, Reject)]) -> Problem {
    problem.causes = rejected.iter().map(|(host, why)| format!("{host}: {why}")).collect();
    problem.hint(if rejected.is_empty() {
        "no host answers: `lattice-ctl get hosts`".to_owned()
    } else {
        format!("ask for less, make room or start a host; `lattice-ctl schedule explain {actor}` shows each host")
    })
}

/// ` (each needs 500 thousandths of a core, 256 MiB)`, or nothing.
fn asked(need: &Need) -> String {
    let from = |source| if source == Source::Measured { " as measured" } else { "" };
    let cpu = (need.cpu > 0).then(|| format!("{} thousandths of a core{}", need.cpu, from(need.cpu_from)));
    let memory = (need.memory_mb > 0).then(|| format!("{} MiB{}", need.memory_mb, from(need.memory_from)));
    let parts: Vec<String> = cpu.into_iter().chain(memory).collect();
    if parts.is_empty() { String::new() } else { format!(" (each needs {})", parts.join(", ")) }
}

/// What a plan is made from, besides its parent.
#[derive(Debug, Clone, Copy)]
struct Input<'a> {
    desired: &'a Desired,
    inventory: &'a Inventory,
    verdicts: &'a Verdicts,
    /// A host that is taken for gone, whatever is known of it.
    assumed: Option<&'a HostId>,
}

/// Makes the plan that follows `parent`. It never fails: what cannot be done is in [`Plan::troubles`].
pub fn plan(desired: &Desired, desired_rev: Revision, inventory: &Inventory, verdicts: &Verdicts, parent: &PlanState) -> Plan {
    make(Input { desired, inventory, verdicts, assumed: None }, desired_rev, parent)
}

fn make(input: Input<'_>, desired_rev: Revision, parent: &PlanState) -> Plan {
    let (world, holdings) = settle(input, parent);
    let mut next = world.bare_assignments();
    for holding in &holdings {
        holding.write(&world, parent, &mut next);
    }
    let mut plan = number(next, desired_rev, input.verdicts.revision, parent);
    for mut holding in holdings {
        plan.handing_over |= holding.is_handing_over();
        plan.moved.extend(holding.moves(&world));
        plan.left_behind.extend(holding.left_behind(&world));
        plan.displaced.append(&mut holding.displaced);
        if !holding.choices.is_empty() {
            plan.choices.insert(holding.id.clone(), std::mem::take(&mut holding.choices));
        }
        let id = holding.id;
        if let Some(trouble) = holding.trouble(&world) {
            plan.troubles.insert(id.clone(), trouble);
        }
    }
    if let (false, Ok(scheduler)) = (world.settings.faults.is_empty(), SystemActor::Scheduler.id()) {
        plan.troubles.insert(scheduler, Trouble::Settings(world.settings.faults.clone()));
    }
    plan
}

/// Decides for every actor where it is: keeps what may stay, then places what is missing, most important actors first.
fn settle<'a>(input: Input<'a>, parent: &'a PlanState) -> (World<'a>, Vec<Holding<'a>>) {
    let mut world = World::new(input, parent);
    let mut holdings = holding::all(&world);
    world.order = holdings.iter().enumerate().map(|(index, holding)| (holding.id, index)).collect();
    for holding in &holdings {
        holding.claim_ports(&mut world);
    }
    for holding in &mut holdings {
        holding.keep(&mut world);
    }
    world.promise_kept();
    for index in 0..holdings.len() {
        fill::fill(&mut world, &mut holdings, index);
    }
    for holding in &mut holdings {
        holding.hand_over(&world);
    }
    (world, holdings)
}

/// Gives the changed assignments the next generation and leaves the others as they were.
fn number(next: BTreeMap<HostId, Assignment>, desired_rev: Revision, verdict_rev: Revision, parent: &PlanState) -> Plan {
    let generation = parent.generation().next();
    let differs = |host: &HostId, assignment: &Assignment| match parent.assignments.get(host) {
        Some(before) => !before.same_work(assignment),
        None => true,
    };
    let all: Vec<(HostId, Assignment)> = next.into_iter().filter(|(host, assignment)| differs(host, assignment)).collect();
    let more = all.len() > MAX_CHANGED_HOSTS;
    let changed: BTreeMap<HostId, Assignment> = all
        .into_iter()
        .take(MAX_CHANGED_HOSTS)
        .map(|(host, assignment)| (host, Assignment { generation, parent: parent.generation(), desired_rev, ..assignment }))
        .collect();
    let digest = work_digest(parent.head.as_ref().map(|head| &head.digest), &changed);
    let head = Head { generation, parent: parent.generation(), desired_rev, verdict_rev, digest };
    let (choices, troubles) = (BTreeMap::new(), BTreeMap::new());
    let (displaced, moved, left_behind) = (Vec::new(), Vec::new(), Vec::new());
    Plan { head, changed, more, choices, displaced, moved, left_behind, troubles, handing_over: false }
}

fn work_digest(parent: Option<&Digest>, changed: &BTreeMap<HostId, Assignment>) -> Digest {
    let work: BTreeMap<&HostId, _> = changed.iter().map(|(host, a)| (host, (&a.stop, &a.providers, &a.components))).collect();
    Digest::of(&serde_json::to_vec(&(parent, work)).unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests;
