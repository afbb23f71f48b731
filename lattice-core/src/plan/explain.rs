//! Why an actor is where it is, and where a task would go.

use std::collections::BTreeMap;

use super::fill::Tenant;
use super::world::World;
use super::{Input, PlanState, fill, settle};
use crate::desired::Desired;
use crate::id::{ActorId, HostId};
use crate::inventory::Inventory;
use crate::needs::{Needs, Strategy};
use crate::placement::{Ask, Candidates, Closed, Index, Node, Reject, Table};
use crate::wire::report::HostReport;
use crate::wire::schedule::{Explanation, HostOpinion, Need, Placed, Source, TaskSpec};
use crate::wire::verdict::Verdicts;

/// Every host as a place for one more instance of `actor`; none if there is no such actor.
pub fn explain(desired: &Desired, inventory: &Inventory, verdicts: &Verdicts, parent: &PlanState, actor: &ActorId) -> Option<Explanation> {
    let (world, holdings) = settle(Input { desired, inventory, verdicts, assumed: None }, parent);
    let holding = holdings.iter().find(|holding| holding.id == actor)?;
    let admission = holding.admission(&world);
    let held: BTreeMap<&HostId, u32> = holding.placed.iter().map(|(host, instances)| (host, *instances)).collect();
    let search = Candidates {
        ask: &admission.ask,
        admits: |_, node: &Node| world.admits(&admission, &node.id),
        held: |index| world.table.get(index).and_then(|node| held.get(&node.id)).copied().unwrap_or(0),
        first: world.turn,
    };
    let near = near_can(&world, &search);
    let mut hosts: Vec<(Option<Reject>, HostOpinion)> = world
        .table
        .nodes()
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let far = near.filter(|region| **region != node.region).map(|region| Reject::Region(region.clone()));
            let rejected = world.table.takes(index, node, &search).err().or(far);
            (rejected.clone(), opinion(node, held.get(&node.id).copied().unwrap_or(0), rejected.as_ref()))
        })
        .collect();
    hosts.sort_by_key(|(rejected, opinion)| (rejected.is_some(), opinion.score, opinion.instances));
    Some(Explanation {
        actor: actor.clone(),
        max: holding.max(),
        missing: holding.lacking(),
        need: holding.need,
        strategy: admission.ask.strategy,
        hosts: hosts.into_iter().map(|(_, opinion)| opinion).collect(),
        history: Vec::new(),
    })
}

/// The preferred region, if a host there can take one more.
fn near_can<'a, A, H>(world: &World<'_>, search: &Candidates<'a, A, H>) -> Option<&'a crate::id::Region>
where
    A: Fn(usize, &Node) -> Result<(), Reject>,
    H: Fn(usize) -> u32,
{
    let region = search.ask.rules.region.as_ref()?;
    let (_, fallback) = world.table.best(search)?;
    (!fallback).then_some(region)
}

fn opinion(node: &Node, instances: u32, rejected: Option<&Reject>) -> HostOpinion {
    HostOpinion {
        host: node.id.clone(),
        name: node.name.clone(),
        region: node.region.clone(),
        instances,
        cpu_free: node.cpu_free(),
        memory_free_mb: node.memory_free_mb(),
        score: node.score(),
        rejected: rejected.map(ToString::to_string),
    }
}

/// The hosts with what the plan promises of them: where a task is placed without making a plan.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The hosts.
    pub table: Table,
    /// CPU and memory that the plan promises, by the host's place in the table.
    promised: BTreeMap<Index, (u32, u32)>,
    /// How hosts are chosen.
    strategy: Strategy,
    /// Who is there and could make room.
    tenants: BTreeMap<HostId, Vec<(ActorId, Tenant)>>,
    /// Where policies let nothing start.
    shut: BTreeMap<HostId, Reject>,
}

impl Site {
    /// The hosts as they are after the plan for this state.
    pub fn new(desired: &Desired, inventory: &Inventory, verdicts: &Verdicts, parent: &PlanState) -> Self {
        let (world, holdings) = settle(Input { desired, inventory, verdicts, assumed: None }, parent);
        let mut tenants: BTreeMap<HostId, Vec<(ActorId, Tenant)>> = BTreeMap::new();
        for holding in holdings.iter().filter(|holding| holding.gives_way()) {
            for (host, instances) in &holding.placed {
                let tenant = Tenant { priority: holding.spec.needs.priority, need: holding.need, instances: *instances };
                tenants.entry(host.clone()).or_default().push((holding.id.clone(), tenant));
            }
        }
        let shut = |id: &HostId| world.shuts_out_all(id).map(|why| (id.clone(), why));
        let shut = inventory.hosts.keys().filter_map(shut).collect();
        Self { strategy: world.settings.strategy, promised: world.promised, table: world.table, tenants, shut }
    }

    /// Takes in what a host says of itself now; whether it is one of these hosts, and of the same region and labels.
    pub fn update(&mut self, report: &HostReport) -> bool {
        let Some(index) = self.table.index_of(&report.id) else { return false };
        let now = Node::new(report);
        let (cpu, memory) = self.promised.get(&index).copied().unwrap_or_default();
        let mut same = false;
        self.table.update(index, |node| {
            same = node.region == now.region && node.labels == now.labels && now.closed.is_none();
            if same {
                (node.cpu_capacity, node.memory_mb, node.rtt_us) = (now.cpu_capacity, now.memory_mb, now.rtt_us);
                (node.cpu_used, node.memory_used_mb) = (now.cpu_used.max(cpu), now.memory_used_mb.max(memory));
            }
        });
        same
    }

    /// The best host for a task among those that are `there`.
    ///
    /// # Errors
    /// Why each host was rejected, by name; or what is wrong with the task.
    pub fn place(&self, task: &TaskSpec, there: impl Fn(&HostId) -> bool) -> Result<Placed, PlaceError> {
        let rules: Needs = task.rules().map_err(PlaceError::Task)?;
        let need = Need { cpu: rules.cpu, cpu_from: Source::Asked, memory_mb: rules.memory_mb, memory_from: Source::Asked };
        let ask = Ask { need, rules: &rules, strategy: self.strategy };
        let there = |host: &HostId| {
            let heard = if there(host) { Ok(()) } else { Err(Reject::Closed(Closed::Silent)) };
            heard.and_then(|()| self.shut.get(host).map_or(Ok(()), |why| Err(why.clone())))
        };
        let admits = |_, node: &Node| there(&node.id);
        let search = Candidates { ask: &ask, admits, held: |_: Index| 0, first: 0 };
        let placed = |node: &Node, fallback, displaces| Placed {
            task_id: task.task_id.clone(),
            node_id: node.name.to_string(),
            host: node.id.clone(),
            score: node.score(),
            fallback,
            displaces,
        };
        if let Some((node, fallback)) = self.table.best(&search).and_then(|(index, far)| Some((self.table.get(index)?, far))) {
            return Ok(placed(node, fallback, BTreeMap::new()));
        }
        let Some((node, victims)) = self.make_way(&ask, |host| there(host).is_ok()) else {
            let why = |(index, node): (usize, &Node)| Some((node.name.to_string(), self.table.takes(index, node, &search).err()?));
            let rejected = self.table.nodes().iter().enumerate().filter_map(why).take(super::MAX_REJECTIONS).collect();
            return Err(PlaceError::NoHost(rejected));
        };
        let fallback = rules.region.as_ref().is_some_and(|region| *region != node.region);
        Ok(placed(node, fallback, victims))
    }

    /// The host on which the least has to make room, and what.
    fn make_way(&self, ask: &Ask<'_>, there: impl Fn(&HostId) -> bool) -> Option<(&Node, BTreeMap<ActorId, u32>)> {
        let able = self.table.nodes().iter().enumerate().filter(|(_, node)| there(&node.id) && ask.suits(node).is_ok());
        let options = able.filter_map(|(index, node)| {
            let tenants = self.tenants.get(&node.id)?;
            let keyed = tenants.iter().map(|(actor, tenant)| (actor, *tenant)).collect();
            let victims = fill::make_way(node, &ask.need, ask.rules.priority, 1, keyed)?;
            let instances = victims.iter().fold(0_u32, |sum, (_, instances)| sum.saturating_add(*instances));
            let elsewhere = ask.rules.region.as_ref().is_some_and(|region| *region != node.region);
            Some(((elsewhere, instances, node.score(), index), (node, victims)))
        });
        let (_, (node, victims)) = options.min_by_key(|(rank, _)| *rank)?;
        Some((node, victims.into_iter().map(|(actor, instances)| (actor.clone(), instances)).collect()))
    }
}

/// Why a task has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The task makes no sense.
    #[error("{0}")]
    Task(String),
    /// No host can take it; why each was rejected, by name.
    #[error("no host can take it")]
    NoHost(Vec<(String, Reject)>),
}
