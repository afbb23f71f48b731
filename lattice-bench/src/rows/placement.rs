//! Placing: the best of many hosts, whole plans, and what a heartbeat costs the scheduler.

use std::time::Instant;

use lattice_core::desired::{ComponentSpec, Desired, Stamp};
use lattice_core::id::{ActorId, Digest, Generation, HostId, HostName, Incarnation, LatticeName, Region, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::needs::Needs;
use lattice_core::plan::{self, PlanState};
use lattice_core::scheduler::Scheduler;
use lattice_core::wire::assignment::InstancePolicy;
use lattice_core::wire::report::{HostReport, HostState, Profile};
use lattice_core::wire::verdict::Verdicts;
use lattice_core::{subject, wire};
use lattice_host::runtime::{Actor, ReplyRoute};

use crate::Error;
use crate::bench::Bench;
use crate::rounds::{Checks, Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stage::{Stage, links_in_memory, message};
use crate::stats::to_f64;

#[path = "../../../tests/programs/src/placing.rs"]
#[expect(unreachable_pub, reason = "the same file is a public module of the guests' library")]
mod placing;

use placing::{Placing, Search};

/// Hosts among which the best is looked for.
const HOSTS: usize = 10_000;
/// Placements in one round.
const PLACEMENTS: usize = 5_000;
/// Placements in one round that looks at all hosts each time.
const SORTED: usize = 50;
/// Hosts and actors of a whole plan.
const PLANNED: (usize, usize) = (1_000, 10_000);
/// Heartbeats in one round.
const HEARTBEATS: usize = 2_000;

/// One instance after the other, each on the best of all hosts.
pub(crate) async fn best(bench: &Bench) -> Result<Outcome, Error> {
    let stage = Stage::start(bench, "placement", 16)?;
    let actor = stage.actor(&bench.program("placing")?, InstancePolicy::Resident, links_in_memory().await?).await?;
    let count = bench.work(PLACEMENTS);
    // The same choices on both sides, and by both ways of looking: what one of them says the others must find, too.
    let (mut native, mut oracle) = (Placing::new(HOSTS)?, Placing::new(HOSTS)?);
    let mut plain = Placing::new(HOSTS)?;
    call(&actor, 0, 0).await?;
    let few = bench.work(SORTED);
    let mut ordered_twin = Placing::new(HOSTS)?;
    let mut sides = [
        side("component", async || {
            let expected = oracle.place(count, Search::Ordered);
            let start = Instant::now();
            let right = call(&actor, count, expected).await.is_ok();
            Ok(per(start, count, right))
        }),
        side("native", async || {
            let start = Instant::now();
            std::hint::black_box(native.place(count, Search::Ordered));
            Ok(per(start, count, true))
        }),
        side("list, filter, sort", async || {
            let expected = ordered_twin.place(few, Search::Ordered);
            let start = Instant::now();
            let found = plain.place(few, Search::Sorted);
            Ok(per(start, few, found == expected))
        }),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let what = "best of 10,000 hosts, reserved";
    let lines = vec![
        Line::compare(what, "us", &samples, "us", ("component", "native"))?.goal(Goal::RatioAtMost(2.0)),
        Line::of(what, "us", "component", samples.value("us", "component")?).goal(Goal::AtMost(5.0)),
        Line::compare(what, "us", &samples, "us", ("component", "list, filter, sort"))?.goal(Goal::RatioAtMost(0.02)),
        Line::of("placements in a batch", "per second", "component", 1e6 / samples.value("us", "component")?),
    ];
    Ok(Outcome::of(&samples, lines))
}

/// Whole plans.
pub(crate) async fn plans(bench: &Bench) -> Result<Outcome, Error> {
    let (hosts, actors) = (bench.work(PLANNED.0), bench.work(PLANNED.1));
    let inventory = Inventory::new((0..hosts).map(report).collect::<Result<Vec<_>, _>>()?, []);
    let mut desired = Desired::default();
    for number in 0..actors {
        let needs =
            Needs { cpu: 20 + u32::try_from(number % 17)? * 10, memory_mb: 8 + u32::try_from(number % 13)? * 8, ..Needs::default() };
        let spec = ComponentSpec { needs, ..ComponentSpec::new("file://a.wasm", Digest::of(b"a")) };
        desired.components.insert(ActorId::new(format!("actor-{number}"))?, spec);
    }
    let first = whole(&desired, &inventory)?;
    let mut lost = desired.clone();
    let gone = inventory.hosts.keys().next().ok_or("no hosts")?;
    let incarnation = inventory.hosts.get(gone).map(|report| report.incarnation.clone());
    lost.edit_node(gone, |node| node.stop = incarnation);
    let moving = first.assignments.get(gone).map_or(0, |assignment| assignment.components.len());
    let placed = |state: &PlanState| state.assignments.values().map(|assignment| assignment.components.len()).sum::<usize>();
    let mut sides = [
        side("from nothing", async || {
            let start = Instant::now();
            let state = whole(&desired, &inventory)?;
            Ok(once(start, placed(&state) == actors))
        }),
        side("one host lost", async || {
            let start = Instant::now();
            let plan = plan::plan(&lost, Revision(2), &inventory, &Verdicts::default(), &first);
            let elapsed = once(start, true);
            let after = first.after(&plan, Revision(9));
            let arrived = placed(&after) >= actors && plan.troubles.is_empty();
            // Only those that were there have moved, and nobody else.
            let few = plan.changed.len() <= moving.saturating_add(1);
            Ok(if arrived && few { elapsed } else { Reading::checked(Checks { wrong: 1, ..Checks::default() }).with("ms", 0.0) })
        }),
    ];
    let samples = interleave(bench.rounds.min(5), &mut sides).await?;
    drop(sides);
    let size = format!("{actors} actors on {hosts} hosts, in waves of 900 hosts");
    let lines = vec![
        Line::of("whole plan", "ms", "native", samples.value("ms", "from nothing")?).note(size),
        Line::compare("plan after one host is lost", "ms", &samples, "ms", ("one host lost", "from nothing"))?
            .note(format!("{moving} actors move")),
    ];
    Ok(Outcome::of(&samples, lines))
}

/// What a heartbeat costs a scheduler that knows few or many hosts.
pub(crate) async fn heartbeats(bench: &Bench) -> Result<Outcome, Error> {
    let count = bench.work(HEARTBEATS);
    let mut small = Crowd::new(100)?;
    let mut middle = Crowd::new(1_000)?;
    let mut large = Crowd::new(10_000)?;
    let mut sides = [
        side("100 hosts", async || small.round(count)),
        side("1,000 hosts", async || middle.round(count)),
        side("10,000 hosts", async || large.round(count)),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let compare = |many| Line::compare("heartbeat to the scheduler", "us", &samples, "us", (many, "100 hosts"));
    // Caches and the depth of trees are allowed for; a cost by number would be ten and a hundred times as much.
    let lines = vec![compare("1,000 hosts")?.goal(Goal::RatioAtMost(2.0)), compare("10,000 hosts")?.goal(Goal::RatioAtMost(3.0))];
    Ok(Outcome::of(&samples, lines))
}

/// A scheduler, its hosts, and their heartbeats.
struct Crowd {
    scheduler: Scheduler,
    beats: Vec<(String, HostReport)>,
    next: usize,
    now: u64,
}

impl Crowd {
    fn new(hosts: usize) -> Result<Self, Error> {
        let mut scheduler = Scheduler::new("bench", 0);
        let stamp = Stamp { by: "bench".to_owned(), at_ms: 0 };
        let mut desired = Desired::default();
        desired.components.insert(ActorId::new("a")?, ComponentSpec::new("file://a.wasm", Digest::of(b"a")));
        let keys = Desired::default().diff(&desired, &stamp);
        let stored = keys.iter().filter_map(|change| Some((change.key.as_str(), change.value.as_deref()?)));
        scheduler.handle_stored([], Revision(0), stored, Revision(1), 0)?;
        let mut beats = Vec::with_capacity(hosts);
        for number in 0..hosts {
            let report = report(number)?;
            beats.push((subject::heartbeat(&report.lattice, &report.region, &report.id), report));
        }
        let mut crowd = Self { scheduler, beats, next: 0, now: 1 };
        crowd.round(hosts)?;
        // So that the table of hosts, which heartbeats keep up to date, is there.
        crowd.scheduler.nodes(crowd.now);
        Ok(crowd)
    }

    /// So many heartbeats, of all hosts in turn.
    fn round(&mut self, count: usize) -> Result<Reading, Error> {
        let mut payloads = Vec::with_capacity(count);
        for _ in 0..count {
            let hosts = self.beats.len();
            let (subject, report) = self.beats.get_mut(self.next).ok_or("no hosts")?;
            report.seq += 1;
            report.profile.cpu_used = (report.profile.cpu_used + 37) % 4000;
            payloads.push((subject.clone(), wire::encode(report)));
            self.next = (self.next + 1) % hosts;
        }
        let start = Instant::now();
        for (subject, payload) in &payloads {
            self.scheduler.handle_heartbeat(subject, payload, self.now);
        }
        let reading = per(start, count, true);
        let all = self.scheduler.status(self.now).malformed == 0;
        Ok(if all { reading } else { Reading::checked(Checks { wrong: 1, ..Checks::default() }).with("us", 0.0) })
    }
}

/// What the simulated host with this number says of itself.
///
/// # Errors
/// None: the names are of the form that names have.
pub(crate) fn report(number: usize) -> Result<HostReport, Error> {
    let letters: String = format!("{number:05}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
    Ok(HostReport {
        id: HostId::new(format!("N{letters}{}", "A".repeat(50)))?,
        name: HostName::new(format!("NEDGE{number:05}"))?,
        lattice: LatticeName::new("bench")?,
        region: Region::new(["eu", "ap", "us"].get(number % 3).copied().unwrap_or("eu"))?,
        labels: [("tier".to_owned(), "edge".to_owned())].into(),
        incarnation: Incarnation::new("01")?,
        seq: 1,
        version: String::new(),
        state: HostState::Ready,
        uptime_seconds: 1,
        profile: Profile { cpu_capacity: 4000, memory_mb: 4096, cpu_used: 0, memory_used_mb: 0 },
        applied_generation: Generation(0),
        error_count: 0,
        lease_rev: 0,
        rtt_us: std::collections::BTreeMap::new(),
        components: std::collections::BTreeMap::new(),
        providers: std::collections::BTreeMap::new(),
        policy: None,
    })
}

/// A plan from nothing, with all its waves.
fn whole(desired: &Desired, inventory: &Inventory) -> Result<PlanState, Error> {
    let mut state = PlanState::default();
    for wave in 1..=100 {
        let plan = plan::plan(desired, Revision(1), inventory, &Verdicts::default(), &state);
        state = state.after(&plan, Revision(wave));
        if !plan.more {
            return Ok(state);
        }
    }
    Err("a plan has no end".into())
}

async fn call(actor: &Actor, count: usize, expected: u64) -> Result<(), Error> {
    actor.handle_message(message(format!("{HOSTS} {count} {expected}")), ReplyRoute::None).await?;
    Ok(())
}

fn per(start: Instant, count: usize, right: bool) -> Reading {
    let us = start.elapsed().as_secs_f64() * 1e6 / to_f64(count.max(1));
    let done = u64::try_from(count).unwrap_or(u64::MAX);
    let checks = if right { Checks { right: done, ..Checks::default() } } else { Checks { wrong: done, ..Checks::default() } };
    Reading::checked(checks).with("us", us)
}

fn once(start: Instant, right: bool) -> Reading {
    let checks = Checks { right: u64::from(right), wrong: u64::from(!right), ..Checks::default() };
    Reading::checked(checks).with("ms", start.elapsed().as_secs_f64() * 1e3)
}
