//! One actor while a plan is made: what it has, what it may keep, what it lacks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::failing::{Kept, LeftBehind, Moved};
use super::fill::STEPS;
use super::rulings::Asks;
use super::slots::{Slots, Stay};
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
use crate::wire::verdict::Quarantine;

/// What one actor has and lacks.
#[derive(Debug)]
pub(super) struct Holding<'a> {
    pub(super) id: &'a ActorId,
    pub(super) spec: &'a ComponentSpec,
    pub(super) need: Need,
    links: Vec<LinkAssignment>,
    fault: Option<LinkFault>,
    /// It stays where it is, whatever happens there.
    quarantine: Option<&'a Quarantine>,
    /// Who owns what, if its class has owners.
    slots: Option<Slots>,
    /// Instances by host: those that stay and those that were placed.
    pub(super) placed: BTreeMap<HostId, u32>,
    /// Instances on hosts that they have to leave.
    leaving: BTreeMap<HostId, u32>,
    /// Instances that stay where they have to leave until others are ready elsewhere.
    retained: BTreeMap<HostId, u32>,
    /// Instances that hosts had which are gone.
    lost: BTreeMap<HostId, u32>,
    /// Instances on hosts whose policies stop them.
    refused: BTreeMap<HostId, u32>,
    /// Those of both that found no other place; slots are dealt to their host again instead.
    left: BTreeMap<HostId, u32>,
    /// Instances that stay on hosts that are gone, and why.
    stays: Vec<(HostId, u32, Kept)>,
    /// Where instances of hosts that are gone went.
    moved: BTreeMap<(HostId, HostId), u32>,
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
            quarantine: quarantine(id, spec, world),
            slots: Slots::new(id, spec, world),
            placed: BTreeMap::new(),
            leaving: BTreeMap::new(),
            retained: BTreeMap::new(),
            lost: BTreeMap::new(),
            refused: BTreeMap::new(),
            left: BTreeMap::new(),
            stays: Vec::new(),
            moved: BTreeMap::new(),
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
        let asks = Asks::new(self.links.iter().map(|link| link.contract), rules.memory_mb);
        let asks = Some(asks).filter(|_| self.spec.system.is_none());
        Admission { id: self.id, ask, ports: ports(&self.links), providers: names, asks }
    }

    /// Whether it makes room for an actor that matters more. Strict slots could not do so at once.
    pub(super) fn gives_way(&self) -> bool {
        let bound = match self.spec.needs.class {
            Class::Shared | Class::Fenced => false,
            Class::Strict | Class::Autonomous => true,
        };
        !bound && self.spec.system.is_none() && self.quarantine.is_none()
    }

    /// Instances that it shall have: one for each slot where it is divided.
    pub(super) fn max(&self) -> u32 {
        if self.is_divided() { self.spec.needs.slot_count() } else { self.spec.max }
    }

    /// Whether hosts own parts of it.
    fn is_divided(&self) -> bool {
        self.slots.as_ref().is_some_and(Slots::are_divided)
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
        let mut before: BTreeMap<&'a HostId, u32> = world.before.get(self.id).cloned().unwrap_or_default();
        if let Some(slots) = &self.slots {
            before = slots.shares(&before);
        }
        let targets = self.targets(world, &admission);
        for (host, instances) in before {
            let stay = self.stay(world, &admission, targets.as_ref(), (host, instances));
            let kept = match (stay, &mut self.slots) {
                (_, Some(slots)) => slots.settle(self.id, host, stay, world),
                (Stay::Here(stays), None) => stays,
                (Stay::Leaving | Stay::Lost | Stay::Refused | Stay::Dropped, None) => 0,
            };
            if kept > 0 {
                self.placed.insert(host.clone(), kept);
            }
            self.note_leaving(world, host, stay, instances.saturating_sub(kept));
            if world.standings.is_gone(host) && kept > 0 {
                let why = self.why_it_stays(host);
                self.stays.push((host.clone(), kept, why));
            }
        }
        match targets {
            Some(targets) if self.quarantine.is_none() => self.count_missing_on(&targets),
            None if self.quarantine.is_none() => self.count_missing(world),
            Some(_) | None => {}
        }
        for (host, instances) in &self.placed {
            world.enter(&admission, host);
            world.promise(host, &self.need, *instances);
        }
    }

    /// What becomes of its instances on one host.
    fn stay(&self, world: &World<'a>, admission: &Admission<'a>, targets: Option<&Targets>, (host, instances): (&HostId, u32)) -> Stay {
        if self.quarantine.is_some() {
            return Stay::Here(instances);
        }
        let most = if self.is_alone_on_a_host() { instances.min(1) } else { instances };
        let wanted = targets.map_or(most, |targets| targets.keeps(host).min(most));
        if world.standings.is_gone(host) {
            let bound = targets.is_some() || self.spec.needs.class == Class::Autonomous;
            return if bound && wanted > 0 { Stay::Here(wanted) } else { Stay::Lost };
        }
        let moves = world.is_leaving(host) && self.spec.needs.class != Class::Autonomous && self.may_leave(world, host);
        if moves && (targets.is_none() || wanted == 0) {
            return Stay::Leaving;
        }
        if self.is_frozen(world) {
            return if wanted > 0 { Stay::Here(wanted) } else { Stay::Dropped };
        }
        if wanted == 0 || world.suits(admission, host).is_err() || !labels_suit(world, admission, host) {
            return Stay::Dropped;
        }
        let bound = self.spec.needs.class == Class::Autonomous;
        if bound || world.keeps(admission, host).is_ok() { Stay::Here(wanted) } else { Stay::Refused }
    }

    /// Notes instances that a host does not keep, so that they are replaced or stay until they are.
    fn note_leaving(&mut self, world: &World<'a>, host: &HostId, stay: Stay, instances: u32) {
        if instances == 0 {
            return;
        }
        match stay {
            Stay::Lost => drop(self.lost.insert(host.clone(), instances)),
            // Of an actor that needs a lease.
            Stay::Here(_) if self.spec.needs.class == Class::Strict && world.standings.lease_ended(host) => {
                self.lost.insert(host.clone(), instances);
            }
            Stay::Leaving => drop(self.leaving.insert(host.clone(), instances)),
            Stay::Refused => drop(self.refused.insert(host.clone(), instances)),
            Stay::Here(_) | Stay::Dropped => {}
        }
    }

    /// Why its instances stay on a host that is gone.
    fn why_it_stays(&self, host: &HostId) -> Kept {
        if self.quarantine.is_some() {
            Kept::Quarantined
        } else if self.slots.as_ref().is_some_and(|slots| slots.held(host) > 0) {
            Kept::Leased
        } else if self.spec.needs.daemon {
            Kept::Daemon
        } else if self.spec.needs.class == Class::Autonomous {
            Kept::Autonomous
        } else {
            Kept::Named
        }
    }

    /// The hosts that are given, each with its instances; none if the plan chooses.
    fn targets(&self, world: &World<'a>, admission: &Admission<'a>) -> Option<Targets> {
        let named = &self.spec.hosts;
        if self.spec.needs.daemon {
            let silent =
                world.before.get(self.id).into_iter().flat_map(BTreeMap::keys).filter(|host| !world.inventory.hosts.contains_key(**host));
            let live = world.table.nodes().iter().filter(|node| admission.ask.labels_suit(node).is_ok()).map(|node| &node.id);
            let holds = |host: &HostId| world.before.get(self.id).is_some_and(|before| before.contains_key(host));
            let may = |host: &&HostId| {
                let open = world.standings.closed(host).is_none() || holds(host);
                !world.is_leaving(host) && open && (named.is_empty() || named.contains(*host))
            };
            let shares = live.chain(silent.copied()).filter(may).map(|host| (host.clone(), self.spec.max)).collect();
            return Some(Targets { shares, any_share: false });
        }
        if named.is_empty() {
            return None;
        }
        let autonomous = self.spec.needs.class == Class::Autonomous;
        let before = |host: &HostId| world.before.get(self.id).and_then(|before| before.get(host)).copied().unwrap_or(0);
        let is_gone = |host: &&HostId| !autonomous && world.standings.is_gone(host);
        let is_closed = |host: &&HostId| world.standings.closed(host).is_some();
        let may_stay = |host: &&HostId| !world.is_leaving(host) && !is_gone(host) && (!is_closed(host) || before(host) > 0);
        let staying: BTreeSet<HostId> = named.iter().filter(may_stay).cloned().collect();
        let answered = staying.iter().any(|host| world.inventory.hosts.contains_key(host));
        // With nobody to take over it stays: there is nowhere else that it may go.
        let hosts = if staying.is_empty() || (!answered && named.iter().any(|host| is_gone(&host))) { named } else { &staying };
        let mut shares = placement::shares(self.max(), hosts);
        // Nobody gives up anything for a host that cannot take it.
        let all = named.iter().map(before).fold(0_u32, u32::saturating_add);
        let any_share = self.is_divided() || (all <= self.max() && named.iter().any(|host| is_closed(&host)));
        if any_share {
            let others: Vec<HostId> = hosts.iter().filter(|host| !shares.contains_key(*host)).cloned().collect();
            shares.extend(others.into_iter().map(|host| (host, 0)));
        }
        Some(Targets { shares, any_share })
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

    fn count_missing_on(&mut self, targets: &Targets) {
        let kept = self.placed.values().fold(0_u32, |sum, instances| sum.saturating_add(*instances));
        // Of hosts that keep more than their share the others get less.
        let mut left = if targets.any_share { self.max().saturating_sub(kept) } else { u32::MAX };
        for (host, wanted) in &targets.shares {
            let lacking = wanted.saturating_sub(self.placed.get(host).copied().unwrap_or(0)).min(left);
            if lacking > 0 {
                left -= lacking;
                self.missing_on.insert(host.clone(), lacking);
            }
        }
    }

    fn count_missing(&mut self, world: &World<'a>) {
        let kept = self.placed.values().fold(0_u32, |sum, instances| sum.saturating_add(*instances));
        self.missing = self.max().saturating_sub(kept);
        let mut surplus = kept.saturating_sub(self.max());
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

    /// Decides what becomes of instances that have to leave, after others were placed: slots go at once; others stay until as
    /// many as should run are ready elsewhere, or as many as find no other place. What a host had that is gone, or that its
    /// policies have stopped, goes at once, except for what finds no other place.
    pub(super) fn hand_over(&mut self, world: &World<'a>) {
        match self.slots.as_mut().and_then(|slots| slots.deal(&mut self.placed, world, self.id)) {
            Some(dealt) => {
                self.choices.retain_mut(|choice| {
                    choice.instances = dealt.arrived.get(&choice.host).copied().unwrap_or(0);
                    choice.instances > 0
                });
                self.moved = dealt.moved;
            }
            None => {
                let mut lacking = self.lacking();
                for (host, instances) in self.lost.iter().chain(&self.refused) {
                    let stays = (*instances).min(lacking);
                    if stays > 0 {
                        lacking -= stays;
                        self.left.insert(host.clone(), stays);
                    }
                }
                self.pair_moves();
                self.retain_until_replaced(world);
            }
        }
        for (from, to) in self.moved.keys() {
            if let Some(choice) = self.choices.iter_mut().find(|choice| choice.host == *to) {
                choice.reason.push_str(&format!("; {} is gone: {}", world.inventory.name_of(from), world.standings.reason(from)));
            }
        }
        self.tell_refusals(world);
    }

    /// Says with what was placed who refuses it now.
    fn tell_refusals(&mut self, world: &World<'a>) {
        let admission = self.admission(world);
        let Some(choice) = self.choices.first_mut() else { return };
        for from in self.refused.keys() {
            if let Err(why) = world.keeps(&admission, from) {
                choice.reason.push_str(&format!("; {} has stopped it: {why}", world.inventory.name_of(from)));
            }
        }
    }

    /// Which of the instances that were placed stand for which of those that were lost: in order.
    fn pair_moves(&mut self) {
        let mut arrivals = self.choices.iter().map(|choice| (&choice.host, choice.instances));
        let mut arrival = arrivals.next();
        for (from, instances) in &self.lost {
            let mut gone = instances.saturating_sub(self.left.get(from).copied().unwrap_or(0));
            while gone > 0 {
                let Some((to, room)) = &mut arrival else { return };
                let moves = gone.min(*room);
                if moves > 0 {
                    let sum = self.moved.entry((from.clone(), (*to).clone())).or_default();
                    *sum = sum.saturating_add(moves);
                }
                gone -= moves;
                *room -= moves;
                if *room == 0 {
                    arrival = arrivals.next();
                }
            }
        }
    }

    fn retain_until_replaced(&mut self, world: &World<'a>) {
        if self.leaving.is_empty() || self.spec.needs.daemon {
            return;
        }
        let arrived = self.placed.iter().map(|(host, share)| world.ready(self.id, host).min(*share));
        let ready = arrived.fold(0_u32, u32::saturating_add);
        let mut lacking = self.max().saturating_sub(ready);
        for (host, instances) in &self.leaving {
            let stays = (*instances).min(lacking);
            if stays > 0 {
                lacking -= stays;
                self.retained.insert(host.clone(), stays);
            }
        }
    }

    /// Whether something waits for a host to say that it has done its part.
    pub(super) fn is_handing_over(&self) -> bool {
        !self.retained.is_empty() || self.slots.as_ref().is_some_and(Slots::is_waiting)
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
        for (host, stays) in self.retained.iter().chain(&self.left) {
            let share = instances.entry(host.clone()).or_default();
            *share = share.saturating_add(*stays);
        }
        let known = || parent.assignments.values().find_map(|assignment| assignment.components.get(self.id));
        let frozen = self.is_frozen(world);
        let anywhere = if frozen { known() } else { None };
        for (host, instances) in instances.into_iter().filter(|(_, instances)| *instances > 0) {
            let was = parent.assignments.get(&host).and_then(|assignment| assignment.components.get(self.id));
            let ownership = self.slots.as_ref().and_then(|slots| slots.ownership(&host));
            let component = match was.or(anywhere).filter(|_| frozen) {
                Some(was) => ComponentAssignment { instances, ownership, ..was.clone() },
                None => ComponentAssignment { instances, ownership, ..component.clone() },
            };
            let assignment = next.entry(host.clone()).or_insert_with(|| Assignment::empty(host));
            if let Some(system) = self.spec.system {
                World::add_system_providers(system, assignment);
            }
            assignment.components.insert(self.id.clone(), component);
        }
    }

    /// What moved off hosts that are gone.
    pub(super) fn moves(&self, world: &World<'a>) -> impl Iterator<Item = Moved> {
        self.moved.iter().map(|((from, to), instances)| Moved {
            actor: self.id.clone(),
            from: from.clone(),
            to: to.clone(),
            instances: *instances,
            reason: world.standings.reason(from).to_owned(),
        })
    }

    /// What did not move off hosts that are gone, and why not.
    pub(super) fn left_behind(&self, world: &World<'a>) -> Vec<LeftBehind> {
        let left =
            |host: &HostId, instances: u32, why: Vec<String>| LeftBehind { actor: self.id.clone(), host: host.clone(), instances, why };
        let away = |host: &HostId| {
            self.moved.iter().filter(|((from, _), _)| from == host).fold(0_u32, |sum, (_, moved)| sum.saturating_add(*moved))
        };
        let unplaced = self.lost.iter().map(|(host, instances)| (host, instances.saturating_sub(away(host))));
        let unplaced = unplaced.filter(|(host, instances)| *instances > 0 && world.standings.is_gone(host));
        let reasons = || self.rejected.iter().map(|(host, why)| format!("{host}: {why}")).collect();
        let stays = self.stays.iter().map(|(host, instances, why)| left(host, *instances, vec![why.to_string()]));
        unplaced.map(|(host, instances)| left(host, instances, reasons())).chain(stays).collect()
    }

    /// What is wrong with it.
    pub(super) fn trouble(self, world: &World<'a>) -> Option<Trouble> {
        if let Some(fault) = self.fault {
            return Some(Trouble::Links(fault));
        }
        if let Some(quarantine) = self.quarantine {
            return Some(Trouble::Quarantined(quarantine.reason.clone()));
        }
        let missing = self.lacking();
        if missing == 0 || (self.is_alone_on_a_host() && !self.placed.is_empty()) {
            // Of a system actor: fewer hosts than replicas; the others come when there are more.
            return None;
        }
        let lost = self.lost.values().fold(0_u32, |sum, instances| sum.saturating_add(*instances));
        if lost > 0 {
            let hosts = self.lost.keys().map(|host| world.inventory.name_of(host)).collect();
            return Some(Trouble::NoTarget { hosts, missing: missing.min(lost), need: self.need, rejected: self.rejected });
        }
        Some(Trouble::Missing { missing, need: self.need, rejected: self.rejected })
    }
}

/// Hosts that are given, each with its instances.
#[derive(Debug)]
struct Targets {
    shares: BTreeMap<HostId, u32>,
    /// Whether each of the hosts keeps what it has, whatever its share.
    any_share: bool,
}

impl Targets {
    /// How many instances may stay on a host.
    fn keeps(&self, host: &HostId) -> u32 {
        match self.shares.get(host) {
            Some(_) if self.any_share => u32::MAX,
            Some(share) => *share,
            None => 0,
        }
    }
}

/// The quarantine of an actor, if it is still as it was then.
fn quarantine<'a>(id: &ActorId, spec: &ComponentSpec, world: &World<'a>) -> Option<&'a Quarantine> {
    let quarantine = world.verdicts.quarantined.get(id)?;
    let changed_at_ms = world.desired.changed.get(&format!("component.{id}")).map_or(0, |stamp| stamp.at_ms);
    (quarantine.digest == spec.digest && quarantine.changed_at_ms == changed_at_ms).then_some(quarantine)
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
        KindSettings::KeyValue(_) | KindSettings::Messaging(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => None,
    };
    links.iter().filter_map(port).collect()
}
