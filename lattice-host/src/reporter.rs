//! What the host says of itself, and the task that sends it.

use std::collections::BTreeMap;
use std::time::Instant;

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

/// Makes reports, each with the next number.
pub(crate) struct Reporter {
    origin: Origin,
    config: Config,
    started: Instant,
    seq: u64,
    /// What was reported as applied last.
    applied: Generation,
    sampler: Sampler,
}

impl Reporter {
    pub(crate) fn new(origin: Origin, config: Config) -> Self {
        Self { origin, config, started: Instant::now(), seq: 0, applied: Generation(0), sampler: Sampler::new() }
    }

    /// The host as it is now.
    pub(crate) fn report(&mut self, agent: &Agent, executor: &Executor, error_count: u32) -> HostReport {
        self.seq = self.seq.saturating_add(1);
        // Whoever waits for a generation wants its subscriptions and ports to be there.
        if executor.is_settled() {
            self.applied = agent.applied();
        }
        let now = Instant::now();
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
            rtt_us: BTreeMap::new(),
            components: components(agent, executor),
            providers: agent
                .providers()
                .map(|(id, spec, error)| (id.clone(), ProviderReport { kind: spec.kind, error: error.map(str::to_owned) }))
                .collect(),
        }
    }
}

fn components(agent: &Agent, executor: &Executor) -> BTreeMap<ActorId, ComponentReport> {
    let mut reports = BTreeMap::new();
    for (id, state, digest, instances) in agent.components() {
        let status = executor.status(id).unwrap_or_default();
        let (handled, failed) = status.counts();
        let report = ComponentReport {
            digest: digest.clone(),
            state: state.clone(),
            instances,
            handled,
            failed,
            cpu_used: 0,
            memory_peak_mb: 0,
            link_errors: status.link_errors(),
        };
        reports.insert(id.clone(), report);
    }
    reports
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
