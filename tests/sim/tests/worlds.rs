//! Thousands of worlds, each from one seed.
//!
//! `SIM_SEED=7` runs one world and, if it breaks a rule, prints its trace; `SIM_SEEDS=50000` runs more of them.

use sim::hunt::hunt;
use sim::world::{self, Options, Outcome};

/// Worlds of one test run, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 2000;
/// Worlds in which nothing breaks.
const QUIET_SEEDS: u64 = 100;

fn kept() -> impl Iterator<Item = u64> {
    let lines = include_str!("../seeds.txt").lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| line.parse().expect("seeds.txt holds one number a line"))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Fails with the line that runs the world again.
fn fail(seed: u64, outcome: &Outcome, test: &str) -> ! {
    let breach = outcome.breach.as_ref().expect("a rule was broken");
    let (rule, at, what) = (breach.rule, breach.at, &breach.what);
    panic!("{}\n{rule:?} at {at} ms: {what}\nSIM_SEED={seed} cargo test -p sim --test worlds {test}", outcome.trace);
}

#[test]
fn worlds_keep_the_rules() {
    let test = "worlds_keep_the_rules";
    if let Some(seed) = number("SIM_SEED") {
        let outcome = world::run(seed, Options { whole_trace: true, ..Options::default() });
        if outcome.breach.is_some() {
            fail(seed, &outcome, test);
        }
        return;
    }
    let seeds: Vec<u64> = kept().chain(0..number("SIM_SEEDS").unwrap_or(SEEDS)).collect();
    let (found, _) = hunt(&seeds, Options::default());
    if let Some((seed, outcome)) = found {
        fail(seed, &outcome, test);
    }
}

#[test]
fn where_nothing_breaks_nobody_is_taken_for_gone() {
    let test = "where_nothing_breaks_nobody_is_taken_for_gone";
    let quiet = Options { breaks: false, ..Options::default() };
    let only = number("SIM_SEED");
    for seed in only.map_or(0..QUIET_SEEDS, |seed| seed..seed + 1) {
        let outcome = world::run(seed, Options { whole_trace: only.is_some(), ..quiet });
        if outcome.breach.is_some() {
            fail(seed, &outcome, test);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| world::run(seed, Options { whole_trace: true, ..Options::default() }));
        assert!(first.trace == second.trace && first.hash == second.hash, "SIM_SEED={seed}");
    }
    let hashes: std::collections::BTreeSet<u64> = (0..20).map(|seed| world::run(seed, Options::default()).hash).collect();
    assert_eq!(hashes.len(), 20, "each seed has a world of its own");
}
