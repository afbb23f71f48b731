//! What a range of worlds is about, and which rules are broken in it: `cargo run -p sim --example survey -- 0 1000 [fault [patient]]`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lattice_core::fault::Fault;
use sim::world::{self, Options};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (from, to) = (number(0, 0), number(1, 500));
    let patient = arguments.get(3).is_some();
    let fault = arguments.get(2).and_then(|name| Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == *name));
    let (next, started) = (AtomicU64::new(from), Instant::now());
    let outcomes = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return;
            }
            let outcome = world::run(seed, Options { fault, patient, ..Options::default() });
            outcomes.lock().unwrap().insert(seed, outcome);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let outcomes = outcomes.into_inner().unwrap();
    let mut rules: BTreeMap<_, Vec<(u64, String)>> = BTreeMap::new();
    let mut settled: Vec<u64> = Vec::new();
    let mut seen = sim::invariants::Seen::default();
    for (seed, outcome) in &outcomes {
        match &outcome.breach {
            Some(breach) => rules.entry(breach.rule).or_default().push((*seed, breach.what.clone())),
            None => settled.push(outcome.settled_after),
        }
        seen.add(&outcome.seen);
    }
    settled.sort_unstable();
    println!("{} worlds in {:.1} s: {seen:?}", outcomes.len(), started.elapsed().as_secs_f64());
    let at = |share: usize| settled.get(settled.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    println!("settled after p50 {} p90 {} p99 {} max {} ms", at(50), at(90), at(99), at(100));
    for (rule, found) in rules {
        println!("{rule:?}: {}", found.len());
        for (seed, what) in found.iter().take(8) {
            println!("  {seed}: {}", what.chars().take(300).collect::<String>());
        }
    }
}
