//! Hosts in order of their score, so that the best one is found without looking at all.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ask, Node, Reject};
use crate::id::{HostId, Region};
use crate::needs::{Spread, Strategy};
use crate::wire::schedule::Need;

/// Place of a host in a [`Table`]: hosts are numbered by name, then id.
pub type Index = usize;

/// Hosts with what is used of them.
///
/// A change of one host costs the logarithm of their number, finding the emptiest that fits usually as little.
#[derive(Debug, Clone, Default)]
pub struct Table {
    nodes: Vec<Node>,
    /// Score at which each host stands in the orders below.
    scores: Vec<u32>,
    by_id: BTreeMap<HostId, Index>,
    by_score: BTreeSet<(u32, Index)>,
    by_region: BTreeMap<Region, BTreeSet<(u32, Index)>>,
}

/// What a search knows besides the table.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a, A, H> {
    /// What is to be placed.
    pub ask: &'a Ask<'a>,
    /// What else a host must satisfy: providers, ports, who is there already.
    pub admits: A,
    /// Instances of the same actor that a host holds.
    pub held: H,
    /// For round robin: the host with which the search begins.
    pub first: Index,
}

impl Table {
    /// A table of these hosts.
    pub fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut nodes: Vec<Node> = nodes.into_iter().collect();
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let mut table = Self {
            scores: nodes.iter().map(Node::score).collect(),
            by_id: nodes.iter().enumerate().map(|(index, node)| (node.id.clone(), index)).collect(),
            ..Self::default()
        };
        for (index, (node, score)) in nodes.iter().zip(&table.scores).enumerate() {
            table.by_score.insert((*score, index));
            table.by_region.entry(node.region.clone()).or_default().insert((*score, index));
        }
        table.nodes = nodes;
        table
    }

    /// All hosts by name.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The number of a host.
    pub fn index_of(&self, id: &HostId) -> Option<Index> {
        self.by_id.get(id).copied()
    }

    /// A host.
    pub fn get(&self, index: Index) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// Changes a host; its name, id and region must stay.
    pub fn update(&mut self, index: Index, change: impl FnOnce(&mut Node)) {
        let (Some(node), Some(score)) = (self.nodes.get_mut(index), self.scores.get_mut(index)) else { return };
        change(node);
        let (before, after) = (*score, node.score());
        if before == after {
            return;
        }
        *score = after;
        self.by_score.remove(&(before, index));
        self.by_score.insert((after, index));
        if let Some(region) = self.by_region.get_mut(&node.region) {
            region.remove(&(before, index));
            region.insert((after, index));
        }
    }

    /// Promises room for `instances` of `need`.
    pub fn reserve(&mut self, index: Index, need: &Need, instances: u32) {
        self.update(index, |node| {
            node.cpu_used = node.cpu_used.saturating_add(need.cpu.saturating_mul(instances));
            node.memory_used_mb = node.memory_used_mb.saturating_add(need.memory_mb.saturating_mul(instances));
        });
    }

    /// Gives back room of `instances` of `need`.
    pub fn release(&mut self, index: Index, need: &Need, instances: u32) {
        self.update(index, |node| {
            node.cpu_used = node.cpu_used.saturating_sub(need.cpu.saturating_mul(instances));
            node.memory_used_mb = node.memory_used_mb.saturating_sub(need.memory_mb.saturating_mul(instances));
        });
    }

    /// The best host for one instance, and whether it lies outside of the preferred region; none if no host can take it.
    pub fn best<A, H>(&self, search: &Candidates<'_, A, H>) -> Option<(Index, bool)>
    where
        A: Fn(Index, &Node) -> Result<(), Reject>,
        H: Fn(Index) -> u32,
    {
        let Some(region) = &search.ask.rules.region else {
            return self.best_of(&self.by_score, search).map(|index| (index, false));
        };
        let near = self.by_region.get(region).and_then(|hosts| self.best_of(hosts, search));
        near.map(|index| (index, false)).or_else(|| self.best_of(&self.by_score, search).map(|index| (index, true)))
    }

    fn best_of<A, H>(&self, hosts: &BTreeSet<(u32, Index)>, search: &Candidates<'_, A, H>) -> Option<Index>
    where
        A: Fn(Index, &Node) -> Result<(), Reject>,
        H: Fn(Index) -> u32,
    {
        let rules = search.ask.rules;
        let takes = |index: Index| self.nodes.get(index).is_some_and(|node| self.takes(index, node, search).is_ok());
        if !rules.prefer.is_empty() || rules.spread.is_some() {
            return self.best_in_order(hosts, search);
        }
        match search.ask.strategy {
            Strategy::Balanced => self.emptiest(hosts, search),
            Strategy::Pack => hosts.iter().rev().map(|(_, index)| *index).find(|index| takes(*index)),
            Strategy::RoundRobin => {
                let in_turn = (search.first..self.nodes.len()).chain(0..search.first);
                in_turn.filter(|index| self.scores.get(*index).is_some_and(|score| hosts.contains(&(*score, *index)))).find(|i| takes(*i))
            }
        }
    }

    /// The first in order of score; of several with one score the one with the fewest instances of the actor.
    fn emptiest<A, H>(&self, hosts: &BTreeSet<(u32, Index)>, search: &Candidates<'_, A, H>) -> Option<Index>
    where
        A: Fn(Index, &Node) -> Result<(), Reject>,
        H: Fn(Index) -> u32,
    {
        let mut best: Option<(u32, u32, Index)> = None;
        for (score, index) in hosts {
            if best.is_some_and(|(found, held, _)| found < *score || held == 0) {
                break;
            }
            let Some(node) = self.nodes.get(*index).filter(|node| self.takes(*index, node, search).is_ok()) else { continue };
            debug_assert_eq!(node.score(), *score, "the order is up to date");
            let key = (*score, (search.held)(*index), *index);
            best = Some(best.map_or(key, |found| found.min(key)));
        }
        best.map(|(_, _, index)| index)
    }

    /// Looks at all: preferred labels first, then the domain and the host with the fewest instances, then the score.
    fn best_in_order<A, H>(&self, hosts: &BTreeSet<(u32, Index)>, search: &Candidates<'_, A, H>) -> Option<Index>
    where
        A: Fn(Index, &Node) -> Result<(), Reject>,
        H: Fn(Index) -> u32,
    {
        let rules = search.ask.rules;
        let domains = match &rules.spread {
            Some(Spread::Label(label)) => self.held_by_domain(label, &search.held),
            Some(Spread::Host) | None => BTreeMap::new(),
        };
        let in_domain = |node: &Node| match &rules.spread {
            Some(Spread::Label(label)) => node.labels.get(label).and_then(|value| domains.get(value.as_str())).copied().unwrap_or(0),
            Some(Spread::Host) | None => 0,
        };
        let rank = |score: u32, index: Index, node: &Node| {
            let held = (search.held)(index);
            let missing_preferences = rules.prefer.len().saturating_sub(search.ask.preferred_labels(node));
            let held_first = if rules.spread.is_some() { held } else { 0 };
            let score = if search.ask.strategy == Strategy::Pack { u32::MAX.saturating_sub(score) } else { score };
            (missing_preferences, in_domain(node), held_first, score, held, index)
        };
        let able = hosts.iter().filter_map(|(score, index)| {
            let node = self.nodes.get(*index).filter(|node| self.takes(*index, node, search).is_ok())?;
            Some(rank(*score, *index, node))
        });
        able.min().map(|(.., index)| index)
    }

    /// Instances of the actor for each value of `label`.
    fn held_by_domain(&self, label: &str, held: impl Fn(Index) -> u32) -> BTreeMap<&str, u32> {
        let mut domains: BTreeMap<&str, u32> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(value) = node.labels.get(label) {
                let count = domains.entry(value).or_default();
                *count = count.saturating_add(held(index));
            }
        }
        domains
    }

    /// Whether a host can take one instance.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn takes<A, H>(&self, index: Index, node: &Node, search: &Candidates<'_, A, H>) -> Result<(), Reject>
    where
        A: Fn(Index, &Node) -> Result<(), Reject>,
    {
        search.ask.suits(node)?;
        if let Some(Spread::Label(label)) = &search.ask.rules.spread
            && !node.labels.contains_key(label)
        {
            return Err(Reject::Label { name: label.clone(), wanted: None, has: None });
        }
        (search.admits)(index, node)?;
        search.ask.has_room(node)
    }
}
