//! What the host says of itself, and the task that sends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::agent::Agent;
use lattice_core::id::{ActorId, Generation};
use lattice_core::subject;
use lattice_core::wire::report::{ComponentReport, HostReport, HostState, ProviderReport};
use lattice_nats::Lattice;
use tokio::sync::watch;

use crate::config::Config;
use crate::executor::Executor;
use crate::profile::Sampler;
use crate::recorder::Origin;
use crate::round_trip::RoundTrips;
use crate::runtime::CpuTime;

/// Shortest time over which an actor's use of the CPU is judged.
const MIN_WINDOW: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

/// Makes reports, each with the next number.
pub(crate) struct Reporter {
    origin: Origin,
    config: Config,
    started: Instant,
    seq: u64,
    /// What was reported as applied last.
    applied: Generation,
    sampler: Sampler,
    work: BTreeMap<ActorId, Window>,
    /// Measured round trips.
    round_trips: watch::Receiver<RoundTrips>,
}

/// CPU time of one actor between two moments.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    before: CpuTime,
    /// Thousandths of a core in the window before.
    used: u32,
}

impl Window {
    /// Goes on to the next window if this one is long enough to say something.
    fn advance(self, now: Instant, total: CpuTime) -> Self {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < MIN_WINDOW {
            return self;
        }
        let thousandths = total.since(self.before).as_nanos().saturating_mul(1000) / elapsed.as_nanos().max(1);
        Self { began: now, before: total, used: u32::try_from(thousandths).unwrap_or(u32::MAX) }
    }
}

impl Reporter {
    pub(crate) fn new(origin: Origin, config: Config, round_trips: watch::Receiver<RoundTrips>) -> Self {
        let sampler = Sampler::new(config.cpu_capacity, config.memory_capacity);
        let (started, applied, work) = (Instant::now(), Generation(0), BTreeMap::new());
        Self { origin, config, started, seq: 0, applied, sampler, work, round_trips }
    }

    /// The host as it is now.
    pub(crate) fn report(&mut self, agent: &Agent, executor: &Executor, error_count: u32) -> HostReport {
        self.seq = self.seq.saturating_add(1);
        // Whoever waits for a generation wants its subscriptions and ports to be there.
        if executor.is_settled() {
            self.applied = agent.applied();
        }
        let now = Instant::now();
        let rtt_us = self.round_trips.borrow().clone();
        HostReport {
            id: self.origin.host.clone(),
            name: self.config.name.clone(),
            lattice: self.config.lattice.clone(),
            region: self.config.region.clone(),
            labels: self.config.labels.clone(),
            incarnation: self.origin.incarnation.clone(),
            seq: self.seq,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: if agent.is_draining() { HostState::Draining } else { HostState::Ready },
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            profile: self.sampler.sample(now),
            applied_generation: self.applied,
            error_count,
            lease_rev: 0,
            rtt_us,
            components: self.components(agent, executor, now),
            providers: agent
                .providers()
                .map(|(id, spec, error)| (id.clone(), ProviderReport { kind: spec.kind, error: error.map(str::to_owned) }))
                .collect(),
            policy: None,
        }
    }

    fn components(&mut self, agent: &Agent, executor: &Executor, now: Instant) -> BTreeMap<ActorId, ComponentReport> {
        let mut reports = BTreeMap::new();
        let mut work = BTreeMap::new();
        for (id, state, digest, instances) in agent.components() {
            let status = executor.status(id).unwrap_or_default();
            let (handled, failed) = status.counts();
            let cpu = status.cpu();
            let first = Window { began: now, before: cpu, used: 0 };
            let window = self.work.get(id).map_or(first, |window| window.advance(now, cpu));
            work.insert(id.clone(), window);
            let report = ComponentReport {
                digest: digest.clone(),
                state: state.clone(),
                instances,
                handled,
                failed,
                cpu_used: window.used,
                memory_peak_mb: u32::try_from(status.memory_peak_bytes().div_ceil(MIB)).unwrap_or(u32::MAX),
                link_errors: status.link_errors(),
                slots: BTreeMap::new(),
                lost: BTreeMap::new(),
                crashes: status.crashes(),
                held: agent.is_forbidden(id),
            };
            reports.insert(id.clone(), report);
        }
        self.work = work;
        reports
    }
}

/// Sends each report while there is a connection; of several that wait only the newest. Ends with the event loop.
pub(crate) async fn send(lattice: Lattice, origin: Origin, mut newest: watch::Receiver<Bytes>) {
    let subject = subject::heartbeat(lattice.name(), &origin.region, &origin.host);
    while newest.changed().await.is_ok() {
        let report = newest.borrow_and_update().clone();
        // A report from before an interruption must not arrive after it.
        if lattice.connection().is_connected()
            && let Err(error) = lattice.connection().client().publish(subject.clone(), report).await
        {
            tracing::debug!(%error, "heartbeat was not sent");
        }
    }
}
