//! Placing in a large lattice: the same source as a guest and natively.
//!
//! Everything comes out of a seed, so both sides make the same choices and their sums can be compared.

use std::collections::VecDeque;

use lattice_core::id::{HostId, HostName, Region};
use lattice_core::needs::{Needs, Strategy};
use lattice_core::placement::{Ask, Candidates, Index, Node, Reject, Table};
use lattice_core::wire::schedule::{Need, Source};

/// CPU of a host in thousandths of a core, and its memory in MiB.
const SIZE: (u32, u32) = (4000, 4096);
/// Instances that are there at once; each further one replaces the oldest.
const STANDING: usize = 5000;

/// A lattice that is being filled.
pub struct Placing {
    table: Table,
    dice: u64,
    standing: VecDeque<(Index, Need)>,
}

/// How a host is looked for.
#[derive(Clone, Copy)]
pub enum Search {
    /// By the order that the table keeps.
    Ordered,
    /// All hosts listed, those that fit filtered, the rest sorted: what a scheduler does that keeps no order.
    Sorted,
}

impl Placing {
    /// A lattice of `hosts` hosts that are used in part.
    ///
    /// # Errors
    /// A name that is none.
    pub fn new(hosts: usize) -> Result<Self, String> {
        let mut dice = 7;
        let nodes: Result<Vec<Node>, String> = (0..hosts).map(|number| node(number, &mut dice)).collect();
        Ok(Self { table: Table::new(nodes?), dice, standing: VecDeque::new() })
    }

    /// Places `count` instances; returns a sum over the hosts that were chosen.
    pub fn place(&mut self, count: usize, search: Search) -> u64 {
        let rules = Needs::default();
        (0..count).fold(0_u64, |sum, _| {
            let need = Need {
                cpu: 50 + below(&mut self.dice, 400),
                cpu_from: Source::Asked,
                memory_mb: 16 + below(&mut self.dice, 400),
                memory_from: Source::Asked,
            };
            let ask = Ask { need, rules: &rules, strategy: Strategy::Balanced };
            let chosen = match search {
                Search::Ordered => self.ordered(&ask),
                Search::Sorted => self.sorted(&ask),
            };
            let Some(index) = chosen else { return sum.rotate_left(7) };
            self.table.reserve(index, &need, 1);
            self.standing.push_back((index, need));
            if self.standing.len() > STANDING
                && let Some((oldest, need)) = self.standing.pop_front()
            {
                self.table.release(oldest, &need, 1);
            }
            sum.rotate_left(7) ^ u64::try_from(index).unwrap_or(u64::MAX)
        })
    }

    fn ordered(&self, ask: &Ask<'_>) -> Option<Index> {
        let admits = |_: Index, _: &Node| Ok::<(), Reject>(());
        self.table.best(&Candidates { ask, admits, held: |_: Index| 0, first: 0 }).map(|(index, _)| index)
    }

    fn sorted(&self, ask: &Ask<'_>) -> Option<Index> {
        let mut able: Vec<(u32, Index)> = self
            .table
            .nodes()
            .iter()
            .enumerate()
            .filter(|(_, node)| ask.suits(node).is_ok() && ask.has_room(node).is_ok())
            .map(|(index, node)| (node.score(), index))
            .collect();
        able.sort_unstable();
        able.first().map(|(_, index)| *index)
    }
}

fn node(number: usize, dice: &mut u64) -> Result<Node, String> {
    let letters: String = format!("{number:05}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
    let region = ["eu", "ap", "us"].get(number % 3).copied().unwrap_or("eu");
    Ok(Node {
        id: HostId::new(format!("N{letters}{}", "A".repeat(50))).map_err(|error| error.to_string())?,
        name: HostName::new(format!("NEDGE{number:05}")).map_err(|error| error.to_string())?,
        region: Region::new(region).map_err(|error| error.to_string())?,
        labels: std::iter::once(("region".to_owned(), region.to_owned())).collect(),
        cpu_capacity: SIZE.0,
        memory_mb: SIZE.1,
        cpu_used: below(dice, SIZE.0),
        memory_used_mb: below(dice, SIZE.1),
        actors: below(dice, 20),
        rtt_us: std::collections::BTreeMap::new(),
        closed: None,
    })
}

fn below(dice: &mut u64, limit: u32) -> u32 {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    u32::try_from(*dice >> 33).unwrap_or(0) % limit.max(1)
}
