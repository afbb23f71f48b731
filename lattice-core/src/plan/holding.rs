//! One actor while a plan is made: what it has, what it may keep, what it lacks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::fill::STEPS;
use super::world::{Admission, World};
use super::{Choice, Displaced, LinkFault, MAX_REJECTIONS, PlanState, Trouble, links};
use crate::desired::ComponentSpec;
use crate::id::{ActorId, HostId};
use crate::link::KindSettings;
use crate::needs::{Class, Spread};
use crate::placement::{self, Ask, Reject};
use crate::system;
use crate::wire::assignment::{Assignment, ComponentAssignment, LinkAssignment};
use crate::wire::schedule::{Need, Source};

/// What one actor has and lacks.
#[derive(Debug)]
pub(super) struct Holding<'a> {
    pub(super) id: &'a ActorId,
    pub(super) spec: &'a ComponentSpec,
    pub(super) need: Need,
    links: Vec<LinkAssignment>,
    fault: Option<LinkFault>,
    /// Instances by host: those that stay and those that were placed.
    pub(super) placed: BTreeMap<HostId, u32>,
    /// Instances on hosts that they have to leave.
    leaving: BTreeMap<HostId, u32>,
    /// Instances that stay where they have to leave until others are ready elsewhere.
    pub(super) retained: BTreeMap<HostId, u32>,
    /// Instances to be placed anywhere.
    pub(super) missing: u32,
    /// Instances to be placed on certain hosts.
    pub(super) missing_on: BTreeMap<HostId, u32>,
    pub(super) rejected: Vec<(String, Reject)>,
    pub(super) choices: Vec<Choice>,
    pub(super) displaced: Vec<Displaced>,
}

/// All actors in the order in which they are planned: lattice's own, then by priority, size and id.
pub(super) fn all<'a>(world: &World<'a>) -> Vec<Holding<'a>> {
    let desired = world.desired;
    let mut holdings: Vec<Holding<'a>> = desired.components.iter().map(|(id, spec)| Holding::new(id, spec, world)).collect();
    holdings.sort_by_key(|holding| {
        let need = &holding.need;
        // Larger ones first, so that the small ones fill what they leave.
        (
            holding.spec.system.is_none(),
            Reverse(holding.spec.needs.priority),
            Reverse(u64::from(need.cpu).max(u64::from(need.memory_mb))),
            holding.id,
        )
    });
    holdings
}

impl<'a> Holding<'a> {
    fn new(id: &'a ActorId, spec: &'a ComponentSpec, world: &World<'a>) -> Self {
        let (mut links, fault) = match links::resolve_links(id, world.desired) {
            Ok(links) => (links, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        if let (Some(system), Some(lattice)) = (spec.system, world.lattice()) {
            links.extend(system::links(system, lattice));
        }
        Self {
            id,
            spec,
            need: need(id, spec, world),
            links,
            fault,
            placed: BTreeMap::new(),
            leaving: BTreeMap::new(),
            retained: BTreeMap::new(),
            missing: 0,
            missing_on: BTreeMap::new(),
            rejected: Vec::new(),
            choices: Vec::new(),
            displaced: Vec::new(),
        }
    }

    pub(super) fn admission(&self, world: &World<'a>) -> Admission<'a> {
        let names = world.desired.links_of(self.id).map(|link| &link.target).collect();
        let rules = &self.spec.needs;
        let ask = Ask { need: self.need, rules, strategy: rules.strategy.unwrap_or(world.settings.strategy) };
        Admission { id: self.id, ask, ports: ports(&self.links), providers: names }
    }

    /// Whether it makes room for an actor that matters more.
    pub(super) fn gives_way(&self) -> bool {
        self.spec.needs.class != Class::Autonomous && self.spec.system.is_none()
    }

    /// Whether a host has one instance at most: replicas of a system actor are there to outlive their hosts.
    pub(super) fn is_alone_on_a_host(&self) -> bool {
        self.spec.system.is_some()
    }

    /// Whether the plan leaves the actor as it is, because its links make no sense or it is not known what they are.
    fn is_frozen(&self, world: &World<'_>) -> bool {
        self.fault.is_some() || (self.spec.system.is_some() && world.lattice().is_none())
    }

    /// Ports on which it listens already are its own, whoever else wants them now.
    pub(super) fn claim_ports(&self, world: &mut World<'a>) {
        let now = ports(&self.links);
        let Some(hosts) = world.before.get(self.id) else { return };
        let hosts: Vec<&HostId> = hosts.keys().copied().collect();
        for host in hosts {
            let before = world.parent.assignments.get(host).and_then(|assignment| assignment.components.get(self.id));
            let before = before.map(|component| ports(&component.links)).unwrap_or_default();
            for port in before.iter().filter(|port| now.contains(port)) {
                world.claim_port(host, *port, self.id);
            }
        }
    }

    /// Keeps what may stay and counts what is missing.
    pub(super) fn keep(&mut self, world: &mut World<'a>) {
        let admission = self.admission(world);
        let before: BTreeMap<&'a HostId, u32> = world.before.get(self.id).cloned().unwrap_or_default();
        let targets = self.targets(world, &admission);
        for (host, instances) in before {
            let most = if self.is_alone_on_a_host() { instances.min(1) } else { instances };
            let wanted = targets.as_ref().map_or(most, |targets| targets.get(host).copied().unwrap_or(0).min(most));
            let moves = world.is_leaving(host) && self.spec.needs.class != Class::Autonomous && self.may_leave(world, host);
            let allowed =
                wanted > 0 && (self.is_frozen(world) || (world.admits(&admission, host).is_ok() && labels_suit(world, &admission, host)));
            if moves && (targets.is_none() || wanted == 0) {
                self.leaving.insert(host.clone(), instances);
            } else if allowed {
                self.placed.insert(host.clone(), wanted);
            }
        }
        match targets {
            Some(targets) => self.count_missing_on(&targets),
            None => self.count_missing(world),
        }
        for (host, instances) in &self.placed {
            world.enter(&admission, host);
            world.promise(host, &self.need, *instances);
        }
    }

    /// The hosts that are given, each with its instances; none if the plan chooses.
    fn targets(&self, world: &World<'a>, admission: &Admission<'a>) -> Option<BTreeMap<HostId, u32>> {
        let named = &self.spec.hosts;
        if self.spec.needs.daemon {
            let silent =
                world.before.get(self.id).into_iter().flat_map(BTreeMap::keys).filter(|host| !world.inventory.hosts.contains_key(**host));
            let live = world.table.nodes().iter().filter(|node| admission.ask.labels_suit(node).is_ok()).map(|node| &node.id);
            let holds = |host: &HostId| world.before.get(self.id).is_some_and(|before| before.contains_key(host));
            let may = |host: &&HostId| {
                let cordoned = world.desired.nodes.get(*host).is_some_and(|node| node.cordoned);
                !world.is_leaving(host) && (!cordoned || holds(host)) && (named.is_empty() || named.contains(*host))
            };
            return Some(live.chain(silent.copied()).filter(may).map(|host| (host.clone(), self.spec.max)).collect());
        }
        if named.is_empty() {
            return None;
        }
        let staying: BTreeSet<HostId> = named.iter().filter(|host| !world.is_leaving(host)).cloned().collect();
        // With all of them leaving it stays: there is nowhere else that it may go.
        Some(placement::shares(self.spec.max, if staying.is_empty() { named } else { &staying }))
    }

    /// Whether it is among those that leave a host now.
    fn may_leave(&self, world: &World<'a>, host: &HostId) -> bool {
        if world.is_stopping(host) {
            return true;
        }
        let Some(assignment) = world.parent.assignments.get(host) else { return true };
        let movable = |id: &&ActorId| world.desired.components.get(*id).is_some_and(|spec| spec.needs.class != Class::Autonomous);
        assignment.components.keys().filter(movable).take(world.settings.leave_at_once).any(|id| id == self.id)
    }

    fn count_missing_on(&mut self, targets: &BTreeMap<HostId, u32>) {
        for (host, wanted) in targets {
            let lacking = wanted.saturating_sub(self.placed.get(host).copied().unwrap_or(0));
            if lacking > 0 {
                self.missing_on.insert(host.clone(), lacking);
            }
        }
    }

    fn count_missing(&mut self, world: &World<'a>) {
        let kept = self.placed.values().fold(0_u32, |sum, instances| sum.saturating_add(*instances));
        self.missing = self.spec.max.saturating_sub(kept);
        let mut surplus = kept.saturating_sub(self.spec.max);
        let grain = surplus.div_ceil(STEPS).max(1);
        while let Some(host) = self.heaviest(world).filter(|_| surplus > 0) {
            let instances = self.placed.entry(host).or_default();
            let taken = grain.min(surplus).min(*instances);
            *instances -= taken;
            surplus -= taken;
            self.placed.retain(|_, instances| *instances > 0);
        }
    }

    /// The host that gives up instances first: of the domain with the most the host with the most, the fuller one of equals.
    fn heaviest(&self, world: &World<'a>) -> Option<HostId> {
        let node = |host: &HostId| world.table.index_of(host).and_then(|index| world.table.get(index));
        let domain_of = |host: &HostId| match &self.spec.needs.spread {
            Some(Spread::Label(label)) => node(host).and_then(|node| node.labels.get(label)),
            Some(Spread::Host) | None => None,
        };
        let mut domains: BTreeMap<Option<&String>, u32> = BTreeMap::new();
        for (host, instances) in &self.placed {
            let count = domains.entry(domain_of(host)).or_default();
            *count = count.saturating_add(*instances);
        }
        let rank = |(host, instances): (&HostId, &u32)| {
            let domain = domains.get(&domain_of(host)).copied().unwrap_or(0);
            (domain, *instances, node(host).map_or(0, placement::Node::score))
        };
        // Of equals the last by id.
        self.placed.iter().max_by_key(|entry| rank(*entry)).map(|(host, _)| host.clone())
    }

    /// Keeps instances where they have to leave until as many as should run are ready elsewhere, or as many as find no
    /// other place.
    pub(super) fn retain_until_replaced(&mut self, world: &World<'a>) {
        if self.leaving.is_empty() || self.spec.needs.daemon {
            return;
        }
        let arrived = self.placed.iter().map(|(host, share)| world.ready(self.id, host).min(*share));
        let ready = arrived.fold(0_u32, u32::saturating_add);
        let mut lacking = self.spec.max.saturating_sub(ready);
        for (host, instances) in &self.leaving {
            let stays = (*instances).min(lacking);
            if stays > 0 {
                lacking -= stays;
                self.retained.insert(host.clone(), stays);
            }
        }
    }

    /// Instances that have no place.
    pub(super) fn lacking(&self) -> u32 {
        self.missing_on.values().fold(self.missing, |sum, instances| sum.saturating_add(*instances))
    }

    pub(super) fn reject(&mut self, host: &str, why: Reject) {
        if self.rejected.len() < MAX_REJECTIONS && !self.rejected.iter().any(|(known, _)| known == host) {
            self.rejected.push((host.to_owned(), why));
        }
    }

    /// Writes the actor into the assignments of its hosts.
    pub(super) fn write(&self, world: &World<'a>, parent: &PlanState, next: &mut BTreeMap<HostId, Assignment>) {
        let component = ComponentAssignment {
            image: self.spec.image.clone(),
            digest: self.spec.digest.clone(),
            instances: 0,
            policy: self.spec.policy,
            limits: self.spec.limits,
            config: world.desired.config_of(self.id, self.spec),
            links: self.links.clone(),
            ownership: None,
        };
        let mut instances = self.placed.clone();
        for (host, stays) in &self.retained {
            let share = instances.entry(host.clone()).or_default();
            *share = share.saturating_add(*stays);
        }
        for (host, instances) in instances.into_iter().filter(|(_, instances)| *instances > 0) {
            let was = parent.assignments.get(&host).and_then(|assignment| assignment.components.get(self.id));
            let component = match was.filter(|_| self.is_frozen(world)) {
                Some(was) => ComponentAssignment { instances, ..was.clone() },
                None => ComponentAssignment { instances, ..component.clone() },
            };
            let assignment = next.entry(host.clone()).or_insert_with(|| Assignment::empty(host));
            if let Some(system) = self.spec.system {
                World::add_system_providers(system, assignment);
            }
            assignment.components.insert(self.id.clone(), component);
        }
    }

    /// What is wrong with it.
    pub(super) fn trouble(self) -> Option<Trouble> {
        if let Some(fault) = self.fault {
            return Some(Trouble::Links(fault));
        }
        let missing = self.lacking();
        if self.is_alone_on_a_host() && !self.placed.is_empty() {
            // Fewer hosts than replicas: the others come when there are more.
            return None;
        }
        (missing > 0).then_some(Trouble::Missing { missing, need: self.need, rejected: self.rejected })
    }
}

fn labels_suit(world: &World<'_>, admission: &Admission<'_>, host: &HostId) -> bool {
    let node = world.table.index_of(host).and_then(|index| world.table.get(index));
    node.is_none_or(|node| admission.ask.labels_suit(node).is_ok())
}

/// What one instance is taken to need: the larger of what was asked for and what any host measured.
fn need(id: &ActorId, spec: &ComponentSpec, world: &World<'_>) -> Need {
    let (mut cpu, mut memory_mb) = (0_u32, 0_u32);
    let hosts = world.before.get(id).into_iter().flat_map(BTreeMap::keys);
    for report in hosts.filter_map(|host| world.inventory.hosts.get(*host)?.components.get(id)) {
        cpu = cpu.max(report.cpu_used.div_ceil(report.instances.max(1)));
        memory_mb = memory_mb.max(report.memory_peak_mb);
    }
    let larger = |asked: u32, measured: u32| if measured > asked { (measured, Source::Measured) } else { (asked, Source::Asked) };
    let ((cpu, cpu_from), (memory_mb, memory_from)) = (larger(spec.needs.cpu, cpu), larger(spec.needs.memory_mb, memory_mb));
    Need { cpu, cpu_from, memory_mb, memory_from }
}

/// Ports that links listen on.
fn ports(links: &[LinkAssignment]) -> Vec<u16> {
    let port = |link: &LinkAssignment| match &link.settings.kind {
        KindSettings::HttpServer(http) => Some(http.port),
        KindSettings::KeyValue(_) | KindSettings::Messaging(_) | KindSettings::HttpClient | KindSettings::Store(_) => None,
    };
    links.iter().filter_map(port).collect()
}
