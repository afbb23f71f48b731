//! The rows of the matrix: each is a fault and its end; load before, during and after it, settling and checking are the same
//! for all.
//!
//! F10, F14 and F21 join with leaf nodes and migration; F12, the clocks, is the simulator's.

mod control;
mod hosts;
mod links;
mod policies;
mod servers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::arena::{Arena, Shape, Store};
use crate::check::{self, Finding, Findings, Limits, Property};
use crate::dice::Dice;

/// Load before the fault: everybody has worked by then.
const STEADY: Duration = Duration::from_secs(3);
/// Load after the end of the fault, while everything comes back.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// A fault.
pub(crate) struct Row {
    /// `F1`.
    pub(crate) name: &'static str,
    /// What happens.
    pub(crate) about: &'static str,
    shape: Shape,
    limits: Limits,
    fault: fn(&mut Arena, &mut Fault) -> Result<(), String>,
}

/// What a fault may use and what it finds by itself.
pub(crate) struct Fault {
    /// Chance, by the seed of the run.
    pub(crate) dice: Dice,
    /// How long rows that go on for a while do so.
    pub(crate) length: Duration,
    /// What the row asks for besides the properties that are always checked.
    pub(crate) expected: Finding,
}

/// What one run of a row gave.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    /// Findings by property.
    pub(crate) findings: Findings,
    /// Why there are none.
    pub(crate) skipped: Option<String>,
    /// What kept it from coming to its end.
    pub(crate) broken: Option<String>,
    /// Seconds that it took.
    pub(crate) seconds: f64,
}

impl Run {
    /// Whether nothing was violated.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_none() && self.findings.values().all(|finding| finding.violated == 0)
    }
}

/// One server, three workers behind proxies, short times.
const SINGLE: Shape = Shape { servers: 1, workers: 3, profile: "test", rate: 50, store: Store::Folder, policies: false };
/// Three servers: an election takes longer than the short times allow for.
const CLUSTER: Shape = Shape { servers: 3, workers: 3, profile: "lan", rate: 50, store: Store::Folder, policies: false };
/// A host or a link fails: detection and move within seconds, a lease ends within four more; the others notice nothing.
const HOST_LIMITS: Limits = limits(8_000, 14_000, Some(2_500));
/// The servers fail for a while: results pause with them.
const SERVER_LIMITS: Limits = limits(45_000, 60_000, None);

const fn limits(pause_ms: u64, strict_pause_ms: u64, bystander_ms: Option<u64>) -> Limits {
    let bystander_pause = match bystander_ms {
        Some(ms) => Some(Duration::from_millis(ms)),
        None => None,
    };
    Limits { pause: Duration::from_millis(pause_ms), strict_pause: Duration::from_millis(strict_pause_ms), bystander_pause }
}

/// All rows, in order.
pub(crate) const ROWS: &[Row] = &[
    Row { name: "F1", about: "kill -9 of a host under load", shape: SINGLE, limits: HOST_LIMITS, fault: hosts::killed },
    Row {
        name: "F2",
        about: "SIGSTOP of a host for 1, 3, 6 and 10 s, then SIGCONT",
        shape: SINGLE,
        limits: limits(10_000, 16_000, Some(2_500)),
        fault: hosts::frozen,
    },
    Row {
        name: "F3",
        about: "host cut off both ways for 4 and 12 s",
        shape: SINGLE,
        limits: limits(10_000, 16_000, Some(2_500)),
        fault: links::partition,
    },
    Row {
        name: "F4",
        about: "link cut in one direction, then in the other",
        shape: SINGLE,
        limits: limits(15_000, 20_000, Some(2_500)),
        fault: links::one_way,
    },
    Row {
        name: "F5",
        about: "link that breaks and comes back every 2 s",
        shape: SINGLE,
        limits: limits(12_000, 20_000, Some(2_500)),
        fault: links::flapping,
    },
    Row {
        name: "F6",
        about: "cluster: kill -9 of a stream's leader, then of each server in turn",
        shape: CLUSTER,
        limits: SERVER_LIMITS,
        fault: servers::leaders_killed,
    },
    Row { name: "F7", about: "cluster: leader paused for 15 s", shape: CLUSTER, limits: SERVER_LIMITS, fault: servers::leader_paused },
    Row {
        name: "F8",
        about: "power loss of the server, twice",
        shape: Shape { store: Store::Image(192), ..SINGLE },
        limits: SERVER_LIMITS,
        fault: servers::power_loss,
    },
    Row { name: "F9", about: "cluster: one server's files damaged", shape: CLUSTER, limits: SERVER_LIMITS, fault: servers::files_damaged },
    Row {
        name: "F11",
        about: "disk of the server full, then freed",
        shape: Shape { store: Store::Memory(64), ..SINGLE },
        limits: SERVER_LIMITS,
        fault: servers::disk_full,
    },
    Row {
        name: "F13",
        about: "kill -9 and pause of the control plane's hosts while a worker dies",
        shape: SINGLE,
        limits: limits(20_000, 30_000, Some(2_500)),
        fault: control::control_plane,
    },
    Row {
        name: "F15",
        about: "slow link: 200 ms ± 100, 64 kbit/s",
        shape: Shape { profile: "lan", rate: 10, ..SINGLE },
        limits: limits(8_000, 14_000, Some(2_500)),
        fault: links::slow,
    },
    Row { name: "F16", about: "every core busy twice over", shape: SINGLE, limits: HOST_LIMITS, fault: hosts::hogged },
    Row {
        name: "F17",
        about: "4 of 6 workers vanish at once",
        shape: Shape { workers: 6, ..SINGLE },
        limits: limits(25_000, 30_000, Some(2_500)),
        fault: links::most_vanish,
    },
    Row { name: "F18", about: "hostile actors beside good ones", shape: SINGLE, limits: HOST_LIMITS, fault: hosts::hostile },
    Row {
        name: "F19",
        about: "policy denied during a failover and a partition, replayed, damaged",
        shape: Shape { policies: true, ..SINGLE },
        limits: limits(15_000, 20_000, Some(2_500)),
        fault: policies::race,
    },
    Row { name: "F20", about: "the same identity twice", shape: SINGLE, limits: limits(15_000, 20_000, Some(2_500)), fault: hosts::twins },
    Row {
        name: "F22",
        about: "provider whose connection breaks, hangs and sends nonsense",
        shape: SINGLE,
        limits: HOST_LIMITS,
        fault: links::bad_provider,
    },
    Row { name: "F23", about: "everything at random", shape: SINGLE, limits: limits(40_000, 50_000, None), fault: control::general },
];

impl Row {
    /// Runs it once, with the compiled code in `cache`. If something does not hold, `logs` gets what processes have logged.
    pub(crate) fn run(&'static self, seed: u64, length: Duration, cache: &Path, logs: Option<PathBuf>) -> Run {
        let begun = Instant::now();
        // On a thread of its own: whatever fails inside ends this row and no other.
        let cache = cache.to_owned();
        let outcome = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || self.run_once(seed, length, &cache, logs));
        let outcome = outcome.map_err(|error| error.to_string()).map(std::thread::JoinHandle::join);
        let mut run = match outcome {
            Ok(Ok(run)) => run,
            Ok(Err(panic)) => Run::broken(message(panic.as_ref())),
            Err(error) => Run::broken(error),
        };
        run.seconds = begun.elapsed().as_secs_f64();
        run
    }

    fn run_once(&self, seed: u64, length: Duration, cache: &Path, logs: Option<PathBuf>) -> Run {
        let mut arena = match Arena::start(&self.shape, cache) {
            Ok(arena) => arena,
            Err(why) => return Run { skipped: Some(why), ..Run::broken(String::new()) }.whole(),
        };
        // Kept also when this row does not come to its end.
        arena.keep_logs(logs);
        let mut fault = Fault { dice: Dice::new(seed), length, expected: Finding::default() };
        arena.pass(STEADY.saturating_sub(arena.load.begun().elapsed()));
        let begun = Instant::now();
        if let Err(why) = (self.fault)(&mut arena, &mut fault) {
            return Run { skipped: Some(why), ..Run::broken(String::new()) }.whole();
        }
        arena.pass(AFTERWARDS);
        let load_ended = Instant::now();
        arena.load.stop();
        let mut findings = check::check(&mut arena, &self.limits, begun, load_ended);
        if fault.expected.checked > 0 {
            findings.insert(Property::Expected, fault.expected);
        }
        let run = Run { findings, skipped: None, broken: None, seconds: 0.0 };
        if run.is_good() {
            arena.keep_logs(None);
        }
        run
    }
}

impl Run {
    fn broken(why: String) -> Self {
        Self { findings: Findings::new(), skipped: None, broken: Some(why), seconds: 0.0 }
    }

    fn whole(mut self) -> Self {
        self.broken = None;
        self
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it panicked".to_owned())
}
