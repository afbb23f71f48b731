//! The hosts while a plan is made: what is promised of them, who is there, which ports are taken.

use std::collections::{BTreeMap, BTreeSet};

use super::rulings::{Asks, Rulings};
use super::standing::{Fate, Standings};
use super::{Input, PlanState, Settings};
use crate::desired::Desired;
use crate::id::{ActorId, Generation, HostId, LatticeName, ProviderId};
use crate::inventory::Inventory;
use crate::liveness::FailoverSettings;
use crate::needs::Class;
use crate::placement::{Ask, Closed, Index, Node, Reject, Table};
use crate::system;
use crate::wire::assignment::{Assignment, ProviderAssignment};
use crate::wire::report::ComponentState;
use crate::wire::schedule::Need;
use crate::wire::verdict::Verdicts;

/// What is known and decided of the hosts so far.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) desired: &'a Desired,
    pub(super) inventory: &'a Inventory,
    pub(super) verdicts: &'a Verdicts,
    pub(super) parent: &'a PlanState,
    /// How hosts stand.
    pub(super) standings: Standings,
    /// Hosts that answer.
    pub(super) table: Table,
    /// Instances of each actor by the plan before.
    pub(super) before: BTreeMap<&'a ActorId, BTreeMap<&'a HostId, u32>>,
    /// Place of each actor in the order in which they are planned.
    pub(super) order: BTreeMap<&'a ActorId, usize>,
    pub(super) settings: Settings,
    pub(super) failover: FailoverSettings,
    /// Host from which round robin goes on.
    pub(super) turn: Index,
    /// Who is on a host by this plan, also on hosts that do not answer.
    here: BTreeMap<HostId, BTreeSet<ActorId>>,
    ports: BTreeMap<(HostId, u16), ActorId>,
    /// CPU and memory that is promised to what stays.
    pub(super) promised: BTreeMap<Index, (u32, u32)>,
    /// Slots of strict actors by the hosts that say that they run them.
    running: BTreeMap<&'a ActorId, Vec<(u32, &'a HostId)>>,
    rulings: Rulings<'a>,
}

impl<'a> World<'a> {
    pub(super) fn new(input: Input<'a>, parent: &'a PlanState) -> Self {
        let Input { desired, inventory, verdicts, assumed } = input;
        let mut before: BTreeMap<&ActorId, BTreeMap<&HostId, u32>> = BTreeMap::new();
        for (host, assignment) in &parent.assignments {
            for (actor, component) in &assignment.components {
                before.entry(actor).or_default().insert(host, component.instances);
            }
        }
        let (settings, failover) = (Settings::of(desired), FailoverSettings::of(desired));
        let standings = Standings::new(desired, &failover, inventory, verdicts, assumed);
        let table = Table::new(inventory.hosts.values().map(|report| Node { closed: standings.closed(&report.id), ..Node::new(report) }));
        let (here, ports, promised, order) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let running = strict_slots(desired, inventory);
        Self {
            desired,
            inventory,
            verdicts,
            parent,
            standings,
            table,
            before,
            order,
            settings,
            failover,
            turn: 0,
            here,
            ports,
            promised,
            running,
            rulings: Rulings::new(inventory),
        }
    }

    /// The lattice, as its hosts name it.
    pub(super) fn lattice(&self) -> Option<&'a LatticeName> {
        self.inventory.hosts.values().map(|report| &report.lattice).next()
    }

    /// Whether what a host has moves elsewhere while it goes on.
    pub(super) fn is_leaving(&self, host: &HostId) -> bool {
        matches!(self.standings.fate(host), Fate::Leaves(_))
    }

    /// Whether a host is told to stop, or does by itself.
    pub(super) fn is_stopping(&self, host: &HostId) -> bool {
        self.standings.fate(host) == Fate::Leaves(Closed::Stopping)
    }

    /// Whether a host has done as its assignment says and does not run a slot any more which it shall release.
    pub(super) fn has_released(&self, actor: &ActorId, host: &HostId, slot: u32) -> bool {
        let (Some(report), Some(assignment)) = (self.inventory.hosts.get(host), self.parent.assignments.get(host)) else { return false };
        let runs = report.components.get(actor).is_some_and(|component| component.slots.contains_key(&slot));
        report.applied_generation >= assignment.generation && !runs
    }

    /// Whether a host says that it lost a slot which the plan of this term gave it.
    pub(super) fn has_lost(&self, actor: &ActorId, host: &HostId, slot: u32, term: Generation) -> bool {
        let component = self.inventory.hosts.get(host).and_then(|report| report.components.get(actor));
        component.is_some_and(|component| component.lost.get(&slot) == Some(&term))
    }

    /// Whether a host that the operator takes for gone is heard, so that it does what its assignment says.
    pub(super) fn can_be_told(&self, host: &HostId) -> bool {
        self.standings.fate(host) == Fate::Gone(Closed::FailedOver) && self.inventory.hosts.contains_key(host)
    }

    /// Slots of a strict actor with the hosts that say that they run them.
    pub(super) fn running_slots(&self, actor: &ActorId) -> &[(u32, &'a HostId)] {
        self.running.get(actor).map_or(&[], Vec::as_slice)
    }

    /// Whether an actor may be placed on a host: policies, providers, company, ports. Size is another question.
    pub(super) fn admits(&self, actor: &Admission<'_>, host: &HostId) -> Result<(), Reject> {
        self.rulings.admits(actor.asks, host)?;
        self.suits(actor, host)
    }

    /// Whether a host goes on with an actor that it has, as far as policies say.
    pub(super) fn keeps(&self, actor: &Admission<'_>, host: &HostId) -> Result<(), Reject> {
        let runs = || {
            let report = self.inventory.hosts.get(host).and_then(|report| report.components.get(actor.id));
            report.is_some_and(|component| component.state == ComponentState::Running)
        };
        self.rulings.keeps(actor.asks, host, runs())
    }

    /// Why policies let nothing at all start on a host, if so.
    pub(super) fn shuts_out_all(&self, host: &HostId) -> Option<Reject> {
        self.rulings.admits(Some(Asks::new([], 0)), host).err()
    }

    /// Whether an actor may be on a host: providers, company, ports.
    pub(super) fn suits(&self, actor: &Admission<'_>, host: &HostId) -> Result<(), Reject> {
        for provider in &actor.providers {
            if self.desired.providers.get(*provider).is_some_and(|spec| !spec.hosts.is_empty() && !spec.hosts.contains(host)) {
                return Err(Reject::Provider((*provider).clone()));
            }
        }
        for port in &actor.ports {
            if let Some(holder) = self.ports.get(&(host.clone(), *port)).filter(|holder| *holder != actor.id) {
                return Err(Reject::Port { port: *port, holder: holder.clone() });
            }
        }
        let Some(others) = self.here.get(host) else { return Ok(()) };
        let apart = |other: &&ActorId| {
            let theirs = self.desired.components.get(*other).map(|spec| &spec.needs.anti_affinity);
            actor.ask.rules.anti_affinity.contains(*other) || theirs.is_some_and(|set| set.contains(actor.id))
        };
        match others.iter().filter(|other| *other != actor.id).find(apart) {
            Some(other) => Err(Reject::AntiAffinity(other.clone())),
            None => Ok(()),
        }
    }

    /// Who is on a host so far.
    pub(super) fn actors_on(&self, host: &HostId) -> impl Iterator<Item = &ActorId> {
        self.here.get(host).into_iter().flatten()
    }

    /// Notes that an actor is on a host.
    pub(super) fn enter(&mut self, actor: &Admission<'_>, host: &HostId) {
        for port in &actor.ports {
            self.ports.entry((host.clone(), *port)).or_insert_with(|| actor.id.clone());
        }
        let here = self.here.entry(host.clone()).or_default();
        if here.insert(actor.id.clone())
            && let Some(index) = self.table.index_of(host)
        {
            let actors = u32::try_from(here.len()).unwrap_or(u32::MAX);
            self.table.update(index, |node| node.actors = actors);
        }
    }

    /// Notes that an actor is no longer on a host.
    pub(super) fn leave(&mut self, actor: &ActorId, host: &HostId) {
        self.ports.retain(|(at, _), holder| at != host || holder != actor);
        if let Some(here) = self.here.get_mut(host) {
            here.remove(actor);
            let actors = u32::try_from(here.len()).unwrap_or(u32::MAX);
            if let Some(index) = self.table.index_of(host) {
                self.table.update(index, |node| node.actors = actors);
            }
        }
    }

    /// An actor that listens on a port of a host already keeps it.
    pub(super) fn claim_port(&mut self, host: &HostId, port: u16, actor: &ActorId) {
        self.ports.entry((host.clone(), port)).or_insert_with(|| actor.clone());
    }

    /// Counts what stays on a host.
    pub(super) fn promise(&mut self, host: &HostId, need: &Need, instances: u32) {
        if let Some(index) = self.table.index_of(host) {
            let (cpu, memory) = self.promised.entry(index).or_default();
            *cpu = cpu.saturating_add(need.cpu.saturating_mul(instances));
            *memory = memory.saturating_add(need.memory_mb.saturating_mul(instances));
        }
    }

    /// From now on a host counts as used by what it measured or by what is promised, whichever is more.
    pub(super) fn promise_kept(&mut self) {
        let empty = BTreeSet::new();
        for index in 0..self.table.nodes().len() {
            let (cpu, memory) = self.promised.get(&index).copied().unwrap_or_default();
            let here = self.table.get(index).and_then(|node| self.here.get(&node.id)).unwrap_or(&empty);
            let actors = u32::try_from(here.len()).unwrap_or(u32::MAX);
            self.table.update(index, |node| {
                node.cpu_used = node.cpu_used.max(cpu);
                node.memory_used_mb = node.memory_used_mb.max(memory);
                node.actors = actors;
            });
        }
    }

    /// Instances of `actor` that a host has ready, by its own report.
    pub(super) fn ready(&self, actor: &ActorId, host: &HostId) -> u32 {
        let report = self.inventory.hosts.get(host).and_then(|report| report.components.get(actor));
        report.filter(|component| component.state == ComponentState::Running).map_or(0, |component| component.instances)
    }

    /// Every host with its providers and no actor.
    pub(super) fn bare_assignments(&self) -> BTreeMap<HostId, Assignment> {
        let (desired, parent) = (self.desired, self.parent);
        let hosts: BTreeSet<&HostId> = self
            .inventory
            .hosts
            .keys()
            .chain(parent.assignments.keys())
            .chain(desired.components.values().flat_map(|spec| &spec.hosts))
            .chain(desired.providers.values().flat_map(|spec| &spec.hosts))
            .collect();
        let mut bare: BTreeMap<HostId, Assignment> = hosts.into_iter().map(|host| (host.clone(), self.bare(host))).collect();
        for (id, spec) in &desired.providers {
            let assignment = ProviderAssignment { kind: spec.kind, config: desired.values_of(&spec.config) };
            for (_, host) in bare.iter_mut().filter(|(host, _)| spec.hosts.is_empty() || spec.hosts.contains(*host)) {
                host.providers.insert(id.clone(), assignment.clone());
            }
        }
        bare
    }

    fn bare(&self, host: &HostId) -> Assignment {
        let report = self.inventory.hosts.get(host);
        let known_name = || self.parent.assignments.get(host).and_then(|assignment| assignment.host_name.clone());
        let stop = self.desired.nodes.get(host).and_then(|node| node.stop.clone());
        Assignment {
            host_name: report.map(|report| report.name.clone()).or_else(known_name),
            stop: stop.filter(|incarnation| report.is_none_or(|report| report.incarnation == *incarnation)),
            timing: self.failover.profile,
            ..Assignment::empty(host.clone())
        }
    }

    /// Providers of the system actors on a host.
    pub(super) fn add_system_providers(actor: system::SystemActor, assignment: &mut Assignment) {
        for (id, provider) in system::providers(actor) {
            assignment.providers.entry(id).or_insert(provider);
        }
    }
}

/// What an actor brings along to a host.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    pub(super) id: &'a ActorId,
    pub(super) ask: Ask<'a>,
    /// Ports that it listens on.
    pub(super) ports: Vec<u16>,
    /// Providers that its links name.
    pub(super) providers: Vec<&'a ProviderId>,
    /// What it asks of policies; none if it is beyond them.
    pub(super) asks: Option<Asks>,
}

/// Slots of strict actors with the hosts that say that they run them.
fn strict_slots<'a>(desired: &Desired, inventory: &'a Inventory) -> BTreeMap<&'a ActorId, Vec<(u32, &'a HostId)>> {
    let is_strict = |actor: &ActorId| desired.components.get(actor).is_some_and(|spec| spec.needs.class == Class::Strict);
    let mut running: BTreeMap<&ActorId, Vec<(u32, &HostId)>> = BTreeMap::new();
    for (host, report) in &inventory.hosts {
        for (actor, component) in report.components.iter().filter(|(actor, component)| !component.slots.is_empty() && is_strict(actor)) {
            running.entry(actor).or_default().extend(component.slots.keys().map(|slot| (*slot, host)));
        }
    }
    running
}
