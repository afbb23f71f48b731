//! Many random lattices whose hosts fail, come back, drain and are cut off: what never happens, whatever happens.

use super::random::Dice;
use super::*;
use crate::inventory::tests::{carry_out, verdict};
use crate::needs::{Class, Needs, Spread};
use crate::wire::report::{HostReport, HostState, Profile};
use crate::wire::verdict::{Standing, Verdict};

const STANDINGS: [Standing; 5] = [Standing::Healthy, Standing::Degraded, Standing::Suspect, Standing::Dead, Standing::Returned];

type Slot = (ActorId, u32);

/// A lattice, and what its hosts do in truth.
struct Storm {
    seed: u64,
    dice: Dice,
    desired: Desired,
    verdicts: Verdicts,
    hosts: Vec<HostReport>,
    /// Hosts that are cut off: they go on with what they were told last.
    silent: BTreeSet<HostId>,
    /// Strict slots that each host runs.
    runs: BTreeMap<HostId, BTreeSet<Slot>>,
    state: PlanState,
    terms: BTreeMap<Slot, (HostId, Generation)>,
    commits: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = u8::try_from(2 + dice.below(4)).unwrap();
        let host = |n| HostReport {
            profile: Profile { cpu_capacity: 1000 + dice.below(3) * 1000, memory_mb: 1000, cpu_used: 0, memory_used_mb: 0 },
            ..report(n, &format!("NEDGE{n:02}"))
        };
        let hosts: Vec<HostReport> = (0..count).map(host).collect();
        let mut storm = Self {
            seed,
            dice,
            desired: Desired::default(),
            verdicts: Verdicts::default(),
            hosts,
            silent: BTreeSet::new(),
            runs: BTreeMap::new(),
            state: PlanState::default(),
            terms: BTreeMap::new(),
            commits: 0,
        };
        for n in 0..1 + storm.dice.below(5) {
            let spec = storm.spec();
            storm.desired.components.insert(actor(&format!("a{n}")), spec);
        }
        storm
    }

    fn spec(&mut self) -> ComponentSpec {
        let dice = &mut self.dice;
        let class = Class::ALL[dice.below(4) as usize];
        let mut needs = Needs { class, cpu: dice.below(700), priority: u8::try_from(dice.below(3)).unwrap(), ..Needs::default() };
        if class != Class::Shared {
            needs.slots = dice.below(5);
        }
        if dice.chance(40) {
            needs.spread = Some(Spread::Host);
        } else if dice.chance(10) && !class.is_fenced() {
            needs.daemon = true;
        }
        let hosts = u8::try_from(self.hosts.len()).unwrap();
        let named: Vec<u8> = if dice.chance(20) { (0..hosts).filter(|_| dice.chance(50)).collect() } else { Vec::new() };
        let max = if needs.is_divided() { needs.slot_count() } else { 1 + dice.below(5) };
        ComponentSpec { needs, ..component(&named, max) }
    }

    /// Something happens; whether the operator did it.
    fn happen(&mut self) -> bool {
        let at = self.dice.below(u32::try_from(self.hosts.len()).unwrap()) as usize;
        let id = self.hosts[at].id.clone();
        match self.dice.below(9) {
            0..=2 => self.judge(at),
            3 => drop(self.silent.insert(id)),
            4 => drop(self.silent.remove(&id)),
            5 => {
                let number: u64 = self.hosts[at].incarnation.as_str().parse().unwrap();
                self.hosts[at].incarnation = Incarnation::new(format!("{:04}", number + 1)).unwrap();
                self.hosts[at].components.clear();
                self.runs.remove(&id);
            }
            6 => {
                let (draining, cordoned) = (self.dice.chance(40), self.dice.chance(20));
                self.desired.edit_node(&id, |node| (node.draining, node.cordoned) = (draining, cordoned));
                return true;
            }
            7 if self.dice.chance(50) => {
                let start = self.hosts[at].incarnation.clone();
                self.desired.edit_node(&id, |node| node.failed_over = Some(start));
                return true;
            }
            7 => self.apply(),
            _ => {
                let spec = self.spec();
                let id = actor(&format!("a{}", self.dice.below(5)));
                if spec.needs.class != Class::Strict {
                    // The operator does not ask for more from now on.
                    self.runs.values_mut().for_each(|runs| runs.retain(|(actor, _)| *actor != id));
                }
                self.desired.components.insert(id, spec);
                return true;
            }
        }
        false
    }

    fn judge(&mut self, at: usize) {
        let standing = STANDINGS[self.dice.below(5) as usize];
        let lease_ended = standing == Standing::Dead && self.dice.chance(50);
        let host = &self.hosts[at];
        if lease_ended {
            // That is what it means: the host has stopped them.
            self.runs.remove(&host.id);
            self.hosts[at].components.clear();
        }
        let host = &self.hosts[at];
        let verdict = Verdict { host: host.id.clone(), incarnation: host.incarnation.clone(), lease_ended, ..verdict(0, standing) };
        self.verdicts.hosts.insert(host.id.clone(), verdict);
        self.verdicts.revision = Revision(self.verdicts.revision.0 + 1);
    }

    /// The hosts that are not cut off do as they are told.
    fn apply(&mut self) {
        for host in self.hosts.iter_mut().filter(|host| !self.silent.contains(&host.id)) {
            let Some(assignment) = self.state.assignments.get(&host.id) else { continue };
            carry_out(host, assignment);
            let strict = |actor: &&ActorId| self.desired.components.get(*actor).is_some_and(|spec| spec.needs.class == Class::Strict);
            let slots = host.components.keys().filter(strict).flat_map(|id| {
                let slots = &host.components[id].slots;
                slots.keys().map(|slot| (id.clone(), *slot))
            });
            self.runs.insert(host.id.clone(), slots.collect());
        }
    }

    fn plan(&mut self, edited: bool) -> bool {
        let heard = self.hosts.iter().filter(|host| !self.silent.contains(&host.id)).cloned();
        let inventory = Inventory::new(heard, self.state.assignments.values());
        let plan = plan(&self.desired, Revision(1), &inventory, &self.verdicts, &self.state);
        let again = super::super::plan(&self.desired, Revision(1), &inventory, &self.verdicts, &self.state);
        assert_eq!(serde_json::to_vec(&plan.changed).unwrap(), serde_json::to_vec(&again.changed).unwrap(), "seed {}", self.seed);
        let before = self.state.clone();
        if !plan.is_empty() {
            self.commits += 1;
            self.state = self.state.after(&plan, Revision(self.commits));
        }
        self.check_slots(&plan);
        self.check_hosts(&before, &plan, edited);
        !plan.is_empty()
    }

    fn divided(&self, id: &ActorId) -> Option<&ComponentSpec> {
        self.desired.components.get(id).filter(|spec| spec.needs.is_divided())
    }

    fn check_slots(&mut self, plan: &Plan) {
        let seed = self.seed;
        let mut owners: BTreeMap<Slot, HostId> = BTreeMap::new();
        let mut owned: BTreeMap<Slot, (HostId, Generation)> = BTreeMap::new();
        for (host, assignment) in &self.state.assignments {
            for (id, component) in assignment.components.iter().filter(|(id, _)| self.divided(id).is_some()) {
                let ownership = component.ownership.as_ref().unwrap_or_else(|| panic!("seed {seed}: {id} owns nothing"));
                assert_eq!(component.instances as usize, ownership.slots.len(), "seed {seed}: one instance for each slot");
                for (slot, given) in &ownership.slots {
                    let slot = (id.clone(), *slot);
                    let other = owners.insert(slot.clone(), host.clone());
                    assert_eq!(other, None, "seed {seed}: {slot:?} is owned twice");
                    let running = self.runs.iter().find(|(other, runs)| *other != host && runs.contains(&slot)).map(|(other, _)| other);
                    let strict = ownership.class == Class::Strict;
                    let known = self.terms.get(&slot).is_some_and(|(owner, term)| owner == host && *term == given.term);
                    assert!(!strict || known || running.is_none(), "seed {seed}: {slot:?} still runs on {running:?}");
                    owned.insert(slot, (host.clone(), given.term));
                }
            }
        }
        for (slot, (owner, term)) in owned {
            let newer = self.terms.get(&slot).is_none_or(|(before, was)| *was < term || (*was == term && *before == owner));
            assert!(newer, "seed {seed}: the term of {slot:?} fell or is another host's");
            self.terms.insert(slot, (owner, term));
        }
        for (id, spec) in self.desired.components.iter().filter(|(_, spec)| spec.needs.is_divided()) {
            let all = (0..spec.needs.slot_count()).all(|slot| owners.contains_key(&(id.clone(), slot)));
            assert!(all || plan.troubles.contains_key(id) || plan.handing_over, "seed {seed}: a slot of {id} is lost");
        }
    }

    fn check_hosts(&self, before: &PlanState, plan: &Plan, edited: bool) {
        let seed = self.seed;
        for host in &self.hosts {
            let Some(verdict) = self.verdicts.hosts.get(&host.id) else { continue };
            let later = !self.silent.contains(&host.id) && host.incarnation > verdict.incarnation;
            let closed =
                verdict.standing != Standing::Healthy && (!later || matches!(verdict.standing, Standing::Dead | Standing::Returned));
            let none = Assignment::empty(host.id.clone());
            let was = before.assignments.get(&host.id).unwrap_or(&none);
            let is = self.state.assignments.get(&host.id).unwrap_or(&none);
            let total = |id: &ActorId| before.shares_of(id).values().sum::<u32>();
            for (id, component) in is.components.iter().filter(|_| closed) {
                let had = was.components.get(id).map_or(0, |component| component.instances);
                assert!(component.instances <= had, "seed {seed}: {id} is new on {} {:?}", host.name, verdict.standing);
            }
            let stays = verdict.standing == Standing::Suspect && !later && !edited && plan.displaced.is_empty();
            let wanted = self.desired.nodes.get(&host.id).is_some_and(|node| node.draining || node.failed_over.is_some());
            for (id, component) in was.components.iter().filter(|_| stays && !wanted) {
                let Some(spec) = self.desired.components.get(id) else { continue };
                let named = !spec.hosts.is_empty();
                let has = is.components.get(id).map_or(0, |component| component.instances);
                let surplus = named || total(id) > spec.max;
                let owned = component.ownership.iter().flat_map(|ownership| ownership.slots.values());
                let on_its_way = owned.filter(|slot| slot.release).count();
                assert!(
                    has as usize + on_its_way >= component.instances as usize || surplus,
                    "seed {seed}: {id} moved off {}, which is only suspect",
                    host.name
                );
            }
        }
    }

    /// Everything heals: the plan comes to rest with every slot owned, or says why not.
    fn calm(&mut self) {
        self.silent.clear();
        self.desired.nodes.clear();
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            host.state = HostState::Ready;
            let verdict = Verdict { host: host.id.clone(), incarnation: host.incarnation.clone(), ..verdict(0, Standing::Healthy) };
            self.verdicts.hosts.insert(host.id.clone(), verdict);
        }
        for round in 0.. {
            self.apply();
            if !self.plan(true) && round > 0 {
                break;
            }
            assert!(round < 12, "seed {}: it does not come to rest", self.seed);
        }
        let released =
            self.state.assignments.values().flat_map(|assignment| &assignment.components).any(|(_, component)| {
                component.ownership.as_ref().is_some_and(|ownership| ownership.slots.values().any(|slot| slot.release))
            });
        assert!(!released, "seed {}: a slot waits for ever", self.seed);
    }
}

#[test]
fn whatever_happens_a_slot_has_one_owner_and_nothing_new_goes_where_it_should_not() {
    for seed in 0..1_000 {
        let mut storm = Storm::new(seed);
        storm.plan(true);
        storm.apply();
        for _ in 0..25 {
            let edited = storm.happen();
            storm.plan(edited);
            if storm.dice.chance(50) {
                storm.apply();
            }
        }
        storm.calm();
    }
}
