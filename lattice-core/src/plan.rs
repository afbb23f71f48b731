//! The plan: from what should be, what is and the plan before, what each host shall run.
//!
//! **Invariants.** The same input gives the same bytes. A plan is immutable; it has a generation and a parent, and its
//! head may only be written over the parent's. A host whose work did not change keeps its assignment and is not told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::desired::{ComponentSpec, Desired, link_key};
use crate::error::{ErrorCode, Problem};
use crate::id::{ActorId, Digest, Generation, HostId, LinkName, ProviderId, Revision};
use crate::inventory::Inventory;
use crate::link::{Delivery, KindSettings, LinkError, LinkSettings, LinkSpec};
use crate::placement::{self, Candidate};
use crate::wire::assignment::{Assignment, ComponentAssignment, LinkAssignment, ProviderAssignment};
use crate::wire::report::HostState;

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
    /// Digest of all assignments' work.
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
}

impl Plan {
    /// Whether nothing changes, so that there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A link's values make no sense.
    #[error("link {link} of {actor}: {source}")]
    Link {
        /// The actor.
        actor: ActorId,
        /// The link.
        link: LinkName,
        /// What is wrong.
        source: LinkError,
    },
    /// A link names a provider that serves another contract.
    #[error("link {link} of {actor}: provider `{provider}` is a {kind}, it does not serve {contract}")]
    WrongProvider {
        /// The actor.
        actor: ActorId,
        /// The link.
        link: LinkName,
        /// The provider.
        provider: ProviderId,
        /// Its kind.
        kind: &'static str,
        /// The link's contract.
        contract: Contract,
    },
    /// Two actors want one port of one host.
    #[error("port {port} of {host} is taken by {holder}; {second} cannot listen there too")]
    PortTaken {
        /// The port.
        port: u16,
        /// Name of the host.
        host: String,
        /// The actor that has it.
        holder: ActorId,
        /// The actor that wants it.
        second: ActorId,
    },
    /// Two durable subscriptions of one actor overlap, so that it would get messages twice.
    #[error("subscriptions `{first}` and `{second}` of {actor} overlap: it would get messages twice")]
    Overlap {
        /// The actor.
        actor: ActorId,
        /// One subscription.
        first: String,
        /// The other.
        second: String,
    },
    /// No host can take an actor.
    #[error("actor scale failed: insufficient resources: no host can take {actor}")]
    NoHost {
        /// The actor.
        actor: ActorId,
        /// Why each host was rejected, by name.
        rejected: Vec<(String, String)>,
    },
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        match &error {
            PlanError::NoHost { rejected, .. } => {
                let mut problem = Self::new(ErrorCode::InsufficientResources, error.to_string());
                problem.causes = rejected.iter().map(|(host, why)| format!("{host}: {why}")).collect();
                problem.hint(if rejected.is_empty() {
                    "no host answers: `lattice-ctl get hosts`"
                } else {
                    "name a host with --host, or start one"
                })
            }
            PlanError::PortTaken { .. } => Self::new(ErrorCode::Failed, error.to_string()).hint("give the link another --port"),
            PlanError::Overlap { .. } => Self::new(ErrorCode::Usage, error.to_string()).hint("make the subscriptions disjoint"),
            PlanError::Link { source, .. } => Self::new(ErrorCode::Usage, error.to_string()).hint(source.hint()),
            PlanError::WrongProvider { .. } => {
                Self::new(ErrorCode::Usage, error.to_string()).hint("`lattice-ctl get inventory` lists the providers")
            }
        }
    }
}

/// Makes the plan that follows `parent`.
///
/// # Errors
/// [`PlanError`] if desired state cannot be carried out; then nothing changes.
pub fn plan(desired: &Desired, desired_rev: Revision, inventory: &Inventory, parent: &PlanState) -> Result<Plan, PlanError> {
    let hosts: BTreeSet<&HostId> = inventory
        .hosts
        .keys()
        .chain(parent.assignments.keys())
        .chain(desired.components.values().flat_map(|spec| &spec.hosts))
        .chain(desired.providers.values().flat_map(|spec| &spec.hosts))
        .collect();
    let mut next: BTreeMap<HostId, Assignment> =
        hosts.iter().map(|host| ((*host).clone(), bare(host, desired, inventory, parent))).collect();
    for (id, spec) in &desired.providers {
        let assignment = ProviderAssignment { kind: spec.kind, config: desired.values_of(&spec.config) };
        for (_, host) in next.iter_mut().filter(|(host, _)| spec.hosts.is_empty() || spec.hosts.contains(*host)) {
            host.providers.insert(id.clone(), assignment.clone());
        }
    }
    for (id, spec) in &desired.components {
        place(id, spec, desired, inventory, parent, &mut next)?;
    }
    for assignment in next.values() {
        check_ports(assignment, inventory)?;
    }
    Ok(number(next, desired_rev, parent))
}

fn bare(host: &HostId, desired: &Desired, inventory: &Inventory, parent: &PlanState) -> Assignment {
    let report = inventory.hosts.get(host);
    let known_name = || parent.assignments.get(host).and_then(|assignment| assignment.host_name.clone());
    let stop = desired.nodes.get(host).and_then(|node| node.stop.clone());
    Assignment {
        host_name: report.map(|report| report.name.clone()).or_else(known_name),
        stop: stop.filter(|incarnation| report.is_none_or(|report| report.incarnation == *incarnation)),
        ..Assignment::empty(host.clone())
    }
}

fn place(
    id: &ActorId,
    spec: &ComponentSpec,
    desired: &Desired,
    inventory: &Inventory,
    parent: &PlanState,
    next: &mut BTreeMap<HostId, Assignment>,
) -> Result<(), PlanError> {
    let links = resolve_links(id, desired)?;
    let hosts = if spec.hosts.is_empty() { choose(id, &links, inventory, parent, next)? } else { spec.hosts.clone() };
    let component = ComponentAssignment {
        image: spec.image.clone(),
        digest: spec.digest.clone(),
        instances: 0,
        policy: spec.policy,
        limits: spec.limits,
        config: desired.config_of(id, spec),
        links,
    };
    for (host, instances) in placement::shares(spec.max, &hosts) {
        let assignment = next.entry(host.clone()).or_insert_with(|| Assignment::empty(host));
        assignment.components.insert(id.clone(), ComponentAssignment { instances, ..component.clone() });
    }
    Ok(())
}

fn choose(
    id: &ActorId,
    links: &[LinkAssignment],
    inventory: &Inventory,
    parent: &PlanState,
    next: &BTreeMap<HostId, Assignment>,
) -> Result<BTreeSet<HostId>, PlanError> {
    let current: BTreeSet<HostId> = parent.shares_of(id).into_keys().collect();
    let candidates: Vec<(&HostId, String, usize, Option<String>)> = inventory
        .hosts
        .values()
        .map(|report| {
            let assignment = next.get(&report.id);
            let runs = |provider: &ProviderId| assignment.is_some_and(|assignment| assignment.providers.contains_key(provider));
            let missing =
                links.iter().find(|link| !runs(&link.provider)).map(|link| format!("provider {} does not run there", link.provider));
            let leaving = report.state == HostState::Draining || assignment.is_some_and(|assignment| assignment.stop.is_some());
            let refuses = if leaving { Some("it is draining".to_owned()) } else { missing };
            (&report.id, report.name.to_string(), assignment.map_or(0, |assignment| assignment.components.len()), refuses)
        })
        .collect();
    let candidates: Vec<Candidate<'_>> = candidates
        .iter()
        .map(|(host, name, actors, refuses)| Candidate { host, name, actors: *actors, refuses: refuses.as_deref() })
        .collect();
    placement::choose(&current, &candidates).map_err(|rejected| PlanError::NoHost { actor: id.clone(), rejected })
}

/// The links of an actor with their values merged and checked, in the order of their keys.
fn resolve_links(actor: &ActorId, desired: &Desired) -> Result<Vec<LinkAssignment>, PlanError> {
    let links: Vec<LinkAssignment> = desired.links_of(actor).map(|link| resolve_link(link, desired)).collect::<Result<_, _>>()?;
    check_overlap(actor, &links)?;
    Ok(links)
}

/// One link with the values of its named config under its own, checked against the provider that it names.
///
/// # Errors
/// [`PlanError::Link`], [`PlanError::WrongProvider`].
pub fn resolve_link(link: &LinkSpec, desired: &Desired) -> Result<LinkAssignment, PlanError> {
    let values = link.merged_values(desired.values_of(&link.config));
    let settings: LinkSettings =
        link.settings(&values).map_err(|source| PlanError::Link { actor: link.source.clone(), link: link.name.clone(), source })?;
    if let Some(provider) = desired.providers.get(&link.target).filter(|provider| provider.kind.contract() != link.contract) {
        return Err(PlanError::WrongProvider {
            actor: link.source.clone(),
            link: link.name.clone(),
            provider: link.target.clone(),
            kind: provider.kind.as_str(),
            contract: link.contract,
        });
    }
    Ok(LinkAssignment { name: link.name.clone(), contract: link.contract, provider: link.target.clone(), settings })
}

fn check_overlap(actor: &ActorId, links: &[LinkAssignment]) -> Result<(), PlanError> {
    let durable = links.iter().filter_map(|link| match &link.settings.kind {
        KindSettings::Messaging(messaging) if messaging.delivery == Delivery::Jetstream => Some(&messaging.subscriptions),
        KindSettings::Messaging(_)
        | KindSettings::KeyValue(_)
        | KindSettings::HttpServer(_)
        | KindSettings::HttpClient
        | KindSettings::Store(_) => None,
    });
    let patterns: Vec<_> = durable.flatten().collect();
    for (index, first) in patterns.iter().enumerate() {
        if let Some(second) = patterns.iter().skip(index + 1).find(|second| first.overlaps(second)) {
            return Err(PlanError::Overlap { actor: actor.clone(), first: first.to_string(), second: second.to_string() });
        }
    }
    Ok(())
}

fn check_ports(assignment: &Assignment, inventory: &Inventory) -> Result<(), PlanError> {
    let mut holders: BTreeMap<u16, &ActorId> = BTreeMap::new();
    for (actor, component) in &assignment.components {
        for link in &component.links {
            let KindSettings::HttpServer(http) = &link.settings.kind else { continue };
            if let Some(holder) = holders.insert(http.port, actor) {
                return Err(PlanError::PortTaken {
                    port: http.port,
                    host: inventory.name_of(&assignment.host),
                    holder: holder.clone(),
                    second: actor.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Gives the changed assignments the next generation and leaves the others as they were.
fn number(next: BTreeMap<HostId, Assignment>, desired_rev: Revision, parent: &PlanState) -> Plan {
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
    let mut work = parent.assignments.clone();
    work.extend(changed.clone());
    let head = Head { generation, parent: parent.generation(), desired_rev, verdict_rev: Revision(0), digest: work_digest(&work) };
    Plan { head, changed, more }
}

fn work_digest(assignments: &BTreeMap<HostId, Assignment>) -> Digest {
    let work: BTreeMap<&HostId, _> = assignments.iter().map(|(host, a)| (host, (&a.stop, &a.providers, &a.components))).collect();
    Digest::of(&serde_json::to_vec(&work).unwrap_or_default())
}

/// One line of a plan diff, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlannedChange {
    /// Host on which it happens.
    pub host: HostId,
    /// `actor`, `provider` or `host`.
    pub what: &'static str,
    /// Id of the thing.
    pub id: String,
    /// `start`, `stop`, `change`.
    pub action: &'static str,
    /// What exactly: `instances 4 → 10, links`.
    pub detail: String,
}

/// What `plan` changes on each host, compared with `parent`.
pub fn changes(parent: &PlanState, plan: &Plan) -> Vec<PlannedChange> {
    let mut lines = Vec::new();
    for (host, after) in &plan.changed {
        let none = Assignment::empty(host.clone());
        let before = parent.assignments.get(host).unwrap_or(&none);
        let mut line =
            |what, id: String, action, detail: String| lines.push(PlannedChange { host: host.clone(), what, id, action, detail });
        if let (None, Some(_)) = (&before.stop, &after.stop) {
            line("host", host.to_string(), "stop", "drain, say bye, exit".into());
        }
        for (id, action) in keyed_changes(&before.providers, &after.providers) {
            line("provider", id.to_string(), action, after.providers.get(id).map_or("", |p| p.kind.as_str()).to_owned());
        }
        for (id, action) in keyed_changes(&before.components, &after.components) {
            line("actor", id.to_string(), action, describe(before.components.get(id), after.components.get(id)));
        }
    }
    lines
}

fn keyed_changes<'a, K: Ord, V: PartialEq>(before: &'a BTreeMap<K, V>, after: &'a BTreeMap<K, V>) -> Vec<(&'a K, &'static str)> {
    let ids: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let action = |id: &K| match (before.get(id), after.get(id)) {
        (None, Some(_)) => Some("start"),
        (Some(_), None) => Some("stop"),
        (Some(a), Some(b)) if a != b => Some("change"),
        (Some(_) | None, _) => None,
    };
    ids.into_iter().filter_map(|id| Some((id, action(id)?))).collect()
}

fn describe(before: Option<&ComponentAssignment>, after: Option<&ComponentAssignment>) -> String {
    match (before, after) {
        (Some(a), Some(b)) => {
            let parts = [
                (a.instances != b.instances).then(|| format!("instances {} → {}", a.instances, b.instances)),
                (a.digest != b.digest).then(|| "code".to_owned()),
                (a.links != b.links).then(|| "links".to_owned()),
                (a.config != b.config).then(|| "config".to_owned()),
                (a.limits != b.limits || a.policy != b.policy).then(|| "limits".to_owned()),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        (None, Some(b)) => format!("instances {}", b.instances),
        (Some(_) | None, None) => String::new(),
    }
}

/// Links whose provider is not among desired state's: they wait until it is started.
pub fn dangling_links(desired: &Desired) -> Vec<(String, &LinkSpec)> {
    desired.links.values().filter(|link| !desired.providers.contains_key(&link.target)).map(|link| (link_key(link), link)).collect()
}

#[cfg(test)]
mod tests;
