//! The one task that owns the agent and everything that is decided on this host.
//!
//! All that happens comes in as an [`Event`]; the loop hands it to the agent, carries out what the agent wants, and never
//! waits for anything else than the next event or the next time that something is due.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::agent::plan_gate::PlanGate;
use lattice_core::agent::{Action, Agent, Obstacle};
use lattice_core::heartbeat::Heartbeats;
use lattice_core::id::{ActorId, Digest, Generation};
use lattice_core::trust::{PublicKey, TrustedKeys};
use lattice_core::wire;
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::report::{ComponentState, HostReport};
use lattice_nats::ConnectionState;
use tokio::sync::{mpsc, oneshot, watch};

use crate::errors::ErrorWindow;
use crate::executor::Executor;
use crate::metrics::Metrics;
use crate::ownership::claims::{Claims, News, Step};
use crate::ownership::lease::Leaseholder;
use crate::reason;
use crate::recorder::Recorder;
use crate::reporter::Reporter;
use crate::runtime::{LoadError, Loaded, Shield};
use crate::sync::Fetched;
use crate::trust::warden::Told;
use plan::Store;

/// An event loop that showed no sign of life for so long is stuck: it shows one with each heartbeat.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// Everything that can happen to a host.
pub(crate) enum Event {
    /// The connection to NATS is there, or gone.
    Connection(ConnectionState),
    /// The store was asked for this host's assignment.
    Fetched(Fetched),
    /// Code was loaded, or not.
    Loaded { actor: ActorId, digest: Digest, outcome: Result<Loaded, LoadError> },
    /// An actor cannot run as it was ordered.
    RunFailed { actor: ActorId, why: String },
    /// An actor that failed again and again takes no messages for a while.
    Resting { actor: ActorId, rest: Duration, why: String },
    /// The assignment of this generation is on disk, or cannot be brought there.
    Kept(Generation),
    /// How the policies stand.
    Policy(Box<Told>),
    /// Somebody wants a heartbeat after this time.
    ReportAfter(Duration),
    /// What a report says has changed.
    Changed,
    /// Somebody asks how the host stands.
    Question(oneshot::Sender<HostReport>),
    /// Something that matters to what this host owns.
    Owner(News),
    /// An error of the host itself.
    Trouble(String),
    /// The system asks the host to end.
    Terminate,
    /// Everything that ran has finished.
    Drained,
}

/// Answers of `/livez` and `/readyz`.
#[derive(Debug)]
pub(crate) struct Health {
    started: Instant,
    /// Milliseconds after `started` at which the loop showed a sign of life last.
    alive_ms: AtomicU64,
    connected: AtomicBool,
    lattice_found: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// Health of a host that starts now.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            alive_ms: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            lattice_found: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    fn show_life(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.alive_ms.store(now, Ordering::Relaxed);
    }

    /// Whether the event loop still turns.
    pub(crate) fn is_alive(&self) -> bool {
        let seen = Duration::from_millis(self.alive_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(seen) < STUCK_AFTER
    }

    /// Why the host is not ready, if it is not.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            Some("draining")
        } else if !self.connected.load(Ordering::Relaxed) {
            Some("no connection to NATS")
        } else if !self.lattice_found.load(Ordering::Relaxed) {
            Some("the lattice's plan was not read yet")
        } else {
            None
        }
    }
}

/// The loop's surroundings: where it sends what it does not do itself.
pub(crate) struct Outlets {
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    /// Newest report, for the heartbeat.
    pub(crate) report: watch::Sender<Bytes>,
    /// Newest assignment, for the disk.
    pub(crate) keep: watch::Sender<Option<Box<Assignment>>>,
}

/// The state of the host.
pub(crate) struct EventLoop {
    agent: Agent,
    claims: Claims,
    lease: Leaseholder,
    executor: Executor,
    reporter: Reporter,
    outlets: Outlets,
    errors: ErrorWindow,
    started: Instant,
    store: Store,
    connection: Option<ConnectionState>,
    /// The newest generation that a restart would come back with.
    kept_generation: Generation,
    last_refusal: Option<String>,
    heartbeats: Heartbeats,
    drained: bool,
    /// The assignment, until it may be followed; none in it: the plan holds nothing for this host.
    gate: PlanGate<Option<Box<Assignment>>>,
    /// What policies leave actors.
    shield: Arc<Shield>,
    /// Accounts whose signatures on code count, for hints.
    issuers: BTreeSet<PublicKey>,
}

impl EventLoop {
    pub(crate) fn new(
        agent: Agent,
        (claims, lease): (Claims, Leaseholder),
        executor: Executor,
        reporter: Reporter,
        outlets: Outlets,
        (shield, trust): (Arc<Shield>, &TrustedKeys),
        kept: Option<Assignment>,
    ) -> Self {
        Self {
            agent,
            claims,
            lease,
            executor,
            reporter,
            outlets,
            errors: ErrorWindow::default(),
            started: Instant::now(),
            store: Store::Unknown,
            connection: None,
            kept_generation: kept.as_ref().map_or(Generation(0), |kept| kept.generation),
            last_refusal: None,
            heartbeats: Heartbeats::default(),
            drained: false,
            // Who takes policies from nobody need not wait for any.
            gate: PlanGate::new(!trust.policies.is_empty(), kept.map(|kept| Some(Box::new(kept))), Duration::ZERO),
            shield,
            issuers: trust.actors.clone(),
        }
    }

    /// Runs until everything is drained. Returns the last report.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> HostReport {
        while !self.drained {
            let due = self.started + self.next_due();
            let event = tokio::select! {
                Some(event) = events.recv() => Some(event),
                () = tokio::time::sleep_until(due.into()) => None,
            };
            // What comes is judged by what is in force now: the warden does not wait for the loop.
            self.agent.handle_force(self.shield.in_force());
            match event {
                Some(event) => self.handle(event),
                None => self.handle_timeout(),
            }
            self.follow_plan();
            self.act();
        }
        // What has finished is nobody's any more.
        self.claims.assign(&BTreeMap::new());
        self.act();
        self.report()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_due(&self) -> Duration {
        let due = self.agent.poll_timeout().into_iter().chain(self.claims.poll_timeout()).chain(self.gate.poll_timeout());
        due.fold(self.heartbeats.poll_timeout(), Duration::min)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connection(state) => self.handle_connection(state),
            Event::Fetched(fetched) => self.handle_fetched(fetched),
            Event::Loaded { actor, digest, outcome } => self.handle_loaded(&actor, &digest, outcome),
            Event::RunFailed { actor, why } => {
                self.agent.handle_run_failed(&actor, reason::cut(&why));
                self.handle_news(News::Ready { actor, ready: false });
            }
            // Said before the actor was stopped: it says so again when it is back.
            Event::Owner(News::Ready { actor, ready: true }) if !self.runs(&actor) => {}
            Event::Owner(news) => self.handle_news(news),
            Event::Resting { actor, rest, why } => self.record_rest(&actor, rest, &why),
            Event::Kept(generation) => {
                self.kept_generation = generation;
                self.send_report();
            }
            Event::Policy(told) => self.handle_policy(*told),
            Event::ReportAfter(delay) => self.heartbeats.handle_asked(delay, self.started.elapsed()),
            Event::Changed => self.send_report(),
            Event::Question(answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.report());
            }
            Event::Trouble(what) => self.trouble(&what),
            Event::Terminate => {
                tracing::info!("stopping: no new work, what runs may finish; a second signal ends at once");
                self.agent.handle_drain();
            }
            Event::Drained => self.drained = true,
        }
    }

    fn handle_timeout(&mut self) {
        let now = self.now();
        self.agent.handle_timeout(now);
        self.claims.handle_timeout(now);
        if self.heartbeats.is_due(now) {
            self.send_report();
        }
    }

    fn handle_connection(&mut self, state: ConnectionState) {
        let former = self.connection.replace(state);
        let connected = state == ConnectionState::Connected;
        self.outlets.health.connected.store(connected, Ordering::Relaxed);
        self.outlets.metrics.connected.set(i64::from(connected));
        match (former, state) {
            (Some(former), now) if former == now => {}
            (_, ConnectionState::Connected) => {
                self.gate.handle_connected(self.now());
                tracing::info!("connected to NATS");
            }
            (former, ConnectionState::Disconnected) => {
                self.gate.handle_disconnected();
                if former.is_some() {
                    self.trouble("connection to NATS lost, reconnecting");
                }
            }
        }
        if connected {
            self.send_report();
        }
    }

    fn runs(&self, actor: &ActorId) -> bool {
        self.agent.components().any(|(id, state, ..)| id == actor && *state == ComponentState::Running)
    }

    fn handle_news(&mut self, news: News) {
        if matches!(news, News::LeaseLost) && self.claims.needs_lease() {
            let message = "the host's lease has ended: what needs one has stopped".to_owned();
            tracing::warn!("{message}");
            self.outlets.recorder.record(EventKind::LeaseLost, message, BTreeMap::new());
        }
        let now = self.now();
        self.claims.handle(news, now);
    }

    fn record_rest(&mut self, actor: &ActorId, rest: Duration, why: &str) {
        let message = format!("actor {actor} fails again and again, it gets messages again in {} s: {}", rest.as_secs(), reason::cut(why));
        tracing::warn!("{message}");
        let details = BTreeMap::from([("actor".to_owned(), actor.to_string()), ("rest-ms".to_owned(), rest.as_millis().to_string())]);
        self.outlets.recorder.record(EventKind::Restarting, message, details);
        self.send_report();
    }

    fn handle_loaded(&mut self, actor: &ActorId, digest: &Digest, outcome: Result<Loaded, LoadError>) {
        let outcome = match outcome {
            Ok(loaded) => Ok(self.executor.keep(actor, loaded)),
            Err(error @ LoadError::Claim { .. }) => {
                let assigned = self.agent.assignment().and_then(|assignment| assignment.components.get(actor));
                let image = assigned.map_or("", |component| component.image.as_str());
                let problem = error.problem_for(actor.as_str(), image, &self.issuers);
                Err((Obstacle::Forbidden(problem.line()), !error.is_lasting()))
            }
            Err(error) => {
                let why = reason::of(&error);
                tracing::warn!(%actor, %digest, why, "code cannot be loaded");
                Err((Obstacle::Failed(why), !error.is_lasting()))
            }
        };
        let now = self.now();
        self.agent.handle_loaded(actor, digest, outcome, now);
    }

    /// Carries out what the agent wants until it wants nothing more.
    fn act(&mut self) {
        let mut report = self.act_on_claims();
        while let Some(action) = self.agent.poll_action() {
            match action {
                Action::Persist(assignment) => {
                    self.outlets.keep.send_replace(Some(assignment));
                }
                Action::StartProvider(id, spec) => {
                    let outcome = self.executor.start_provider(&id, &spec);
                    if let Err(why) = &outcome {
                        self.trouble(&format!("provider {id}: {why}"));
                    }
                    let now = self.now();
                    self.agent.handle_provider(&id, outcome, now);
                }
                Action::StopProvider(id) => self.executor.stop_provider(&id),
                Action::Load(actor, digest) => self.executor.load(&actor, &digest),
                Action::Run(actor, spec) => {
                    if let Err(why) = self.executor.run(&actor, *spec) {
                        self.agent.handle_run_failed(&actor, why);
                    }
                }
                Action::Stop(actor) => {
                    self.executor.stop(&actor);
                    self.handle_news(News::Ready { actor, ready: false });
                }
                Action::Drain => {
                    self.outlets.health.draining.store(true, Ordering::Relaxed);
                    self.executor.drain();
                }
                Action::Report => report = true,
                Action::Record(kind, message, details) => {
                    tracing::info!(kind = kind.token(), "{message}");
                    self.outlets.recorder.record(kind, message, details);
                }
                Action::Audit(actor, what) => tracing::warn!(target: "audit", %actor, "{what}"),
            }
        }
        report |= self.act_on_claims();
        if !self.agent.is_draining() {
            let agent = &self.agent;
            self.executor.retain(|actor| agent.components().any(|(id, ..)| id == actor));
        }
        if report {
            self.send_report();
        }
    }

    /// Starts and stops what is owned; whether a report is due.
    fn act_on_claims(&mut self) -> bool {
        let mut report = false;
        while let Some(step) = self.claims.poll() {
            match step {
                Step::Start { slot, epoch, gate } => self.executor.start_slot(&slot, epoch, gate),
                Step::Stop(slot) => self.executor.stop_slot(&slot),
                Step::Report => report = true,
                Step::Record(kind, message, details) => {
                    tracing::info!(kind = kind.token(), "{message}");
                    self.outlets.recorder.record(kind, message, details);
                }
            }
        }
        report
    }

    fn trouble(&mut self, what: &str) {
        tracing::warn!("{what}");
        let now = self.now();
        self.errors.note(now);
        self.outlets.metrics.errors.inc();
    }

    fn report(&mut self) -> HostReport {
        let now = self.now();
        let errors = self.errors.count(now);
        let mut report = self.reporter.report(&self.agent, &self.executor, errors);
        report.lease_rev = self.lease.sequence();
        report.policy = Some(self.agent.enforced().clone());
        for (actor, component) in &mut report.components {
            component.slots = self.claims.owned(actor).collect();
            component.lost = self.claims.lost(actor).collect();
        }
        // What was said to be applied must be there after a crash, too.
        report.applied_generation = report.applied_generation.min(self.kept_generation);
        report
    }

    fn send_report(&mut self) {
        let report = self.report();
        let metrics = &self.outlets.metrics;
        metrics.memory.set(i64::try_from(self.executor.memory_in_use()).unwrap_or(i64::MAX));
        metrics.generation.set(i64::try_from(report.applied_generation.0).unwrap_or(i64::MAX));
        self.outlets.health.show_life();
        self.outlets.report.send_replace(wire::encode(&report).into());
        let timing = self.agent.assignment().map(|assignment| assignment.timing).unwrap_or_default();
        self.heartbeats.handle_sent(timing.heartbeat(), self.started.elapsed());
    }
}
