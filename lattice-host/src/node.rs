//! Puts the host together, runs it, and takes it apart again.
//!
//! ```text
//!        signals   sync (plan, connection)   warden (policies)   requests   keepers (one per actor)   store
//!                 └────────────┴───────┬───────────┴──────────────┴─────────────────────┘
//!                                      ▼ Event (bounded)
//!                                 EventLoop ── Agent
//!                                      │ orders (newest counts)      ├─► recorder ─► event stream
//!                                      ▼                             ├─► heartbeat
//!                              Executor ─► keepers                   └─► disk
//! ```

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use lattice_core::agent::Agent;
use lattice_core::error::Problem;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::report::HostReport;
use lattice_nats::{ConnectError, ConnectOptions, Connection, Lattice};
use provider_messaging_nats::MessagingNats;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::args::Args;
use crate::config::{self, Config, Saved};
use crate::dead_letter::DeadLetters;
use crate::event_loop::{Event, EventLoop, Health, Outlets};
use crate::executor::Executor;
use crate::identity::{self, DataDir};
use crate::keeper::Surroundings;
use crate::logs::LogRing;
use crate::metrics::Metrics;
use crate::ownership::claims::Claims;
use crate::ownership::lease::Leaseholder;
use crate::prefetch::{self, Shelf};
use crate::providers::Providers;
use crate::reason;
use crate::recorder::{self, Origin, Recorder};
use crate::reporter::{self, Reporter};
use crate::requests;
use crate::round_trip;
use crate::runtime::{CompileLimits, Runtime, RuntimeConfig, Shield};
use crate::store;
use crate::sync;
use crate::trust::admission::Admission;
use crate::trust::clock::Clock;
use crate::trust::ledger::Ledger;
use crate::trust::warden::{Post, Warden};

/// Events that wait for the loop; who has more to tell waits.
const EVENT_QUEUE: usize = 256;
/// Patience with the first attempt to connect, which tells wrong credentials from a server that is away.
const FIRST_CONNECT: Duration = Duration::from_secs(2);
/// How long the last words (events, heartbeat) may take to reach the server.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A host that is ready to run: everything is checked, the data directory is ours.
pub struct Node {
    config: Config,
    data_dir: DataDir,
    origin: Origin,
}

impl Node {
    /// Takes the data directory, settles identity and settings, and saves the settings.
    ///
    /// # Errors
    /// A [`Problem`] that names the flag or file.
    pub fn prepare(args: &Args) -> Result<Self, Problem> {
        let data_dir = DataDir::open(&config::data_dir(args)?)?;
        let saved = data_dir.settings()?;
        let starts = saved.starts.saturating_add(1);
        let saved = Saved { starts, ..saved.overridden(args)?.completed()? };
        let config = Config::new(&saved)?;
        let host = data_dir.identity()?;
        data_dir.save_settings(&saved)?;
        let incarnation = identity::incarnation(starts).map_err(|error| failed("no name for this start", &error))?;
        let origin = Origin { host, name: config.name.clone(), region: config.region.clone(), incarnation };
        Ok(Self { config, data_dir, origin })
    }

    /// Runs until the plan or a signal ends it, everything finished and said.
    ///
    /// # Errors
    /// A [`Problem`] that keeps the host from starting.
    pub async fn run(self) -> Result<(), Problem> {
        let Self { config, data_dir, origin } = self;
        let signals = Signals::new().map_err(|error| failed("signals cannot be handled", &error))?;
        tracing::info!(
            name = %config.name, id = %origin.host, lattice = %config.lattice, region = %config.region, incarnation = %origin.incarnation,
            data_dir = %data_dir.path().display(), "host starts"
        );
        let metrics = Metrics::new();
        let (recorder, recorded) = Recorder::new(origin.clone(), metrics.events_dropped.clone());
        let logs = Arc::new(LogRing::new(recorder.clone()));
        let Trusting { warden, admission, shield } = Trusting::restore(&config, &data_dir, &origin, &recorder);
        let runtime = start_runtime(&config, &data_dir, logs.clone(), admission, shield.clone())?;
        let connection = connect(&config, subject::connection_name(&origin.host, &origin.incarnation)).await?;
        let lattice = Lattice::new(connection.clone(), config.lattice.clone());
        let kept = read_kept(&data_dir.assignment_file(), &config);

        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let (report, reports) = watch::channel(Bytes::new());
        let (keep, to_keep) = watch::channel(None);
        let (health, leaving) = (Arc::new(Health::new()), CancellationToken::new());
        if let Some(address) = config.admin {
            admin::start(address, metrics.clone(), health.clone()).await?;
        }
        let around = Surroundings {
            runtime: runtime.clone(),
            lattice: lattice.clone(),
            host: config.name.clone(),
            dead_letters: DeadLetters {
                lattice: lattice.clone(),
                recorder: recorder.clone(),
                bus: Arc::new(MessagingNats::new(connection.clone())),
            },
            events: events.clone(),
            shield: shield.clone(),
            grace: config.drain,
        };
        let executor = Executor::new(around, Providers::new(connection, config.name.clone()), metrics.clone(), logs.clone());

        let recording = tokio::spawn(recorder::run(lattice.clone(), recorded, leaving.clone()));
        tokio::spawn(reporter::send(lattice.clone(), origin.clone(), reports));
        tokio::spawn(store::keep(data_dir.assignment_file(), config.lattice.clone(), to_keep, events.clone()));
        tokio::spawn(signals.watch(events.clone()));
        let enforced = warden.enforced();
        tokio::spawn(warden.run(lattice.clone(), events.clone()).inspect(log_end("policies")));
        tokio::spawn(sync::run(lattice.clone(), origin.host.clone(), events.clone()).inspect(log_end("plan")));
        tokio::spawn(
            requests::run(lattice.clone(), origin.host.clone(), config.name.clone(), logs, events.clone()).inspect(log_end("requests")),
        );
        let shelf = Shelf { host: origin.host.clone(), labels: config.labels.clone(), limit: config.prefetch };
        tokio::spawn(prefetch::run(lattice.clone(), runtime, shelf).inspect(log_end("changes of actors")));
        let (measured, round_trips) = watch::channel(BTreeMap::new());
        tokio::spawn(round_trip::run(lattice.clone(), origin.clone(), measured).inspect(log_end("round trips")));

        let lease = Leaseholder::start(lattice.clone(), &origin, events.clone());
        let owned = (Claims::new(&origin, lattice.clone(), lease.clone(), events.clone()), lease);

        recorder.record(EventKind::Hello, format!("host {} joins", config.name), BTreeMap::new());
        let agent = Agent::new(origin.host.clone(), origin.incarnation.clone(), shield.in_force(), enforced);
        let outlets = Outlets { recorder: recorder.clone(), metrics, health, report, keep };
        let trust = config.trust.clone();
        let reporter = Reporter::new(origin.clone(), config, round_trips);
        let last = EventLoop::new(agent, owned, executor, reporter, outlets, (shield, &trust), kept).run(inbox).await;

        recorder.record(EventKind::Bye, format!("host {} leaves", origin.name), BTreeMap::new());
        leaving.cancel();
        if lattice.connection().is_connected() {
            // Who does not hear them in time notices the silence.
            let _ = tokio::time::timeout(LAST_WORDS, recording).await;
            let _ = tokio::time::timeout(LAST_WORDS, say_goodbye(&lattice, &origin, &last)).await;
        }
        tracing::info!("host ends");
        Ok(())
    }
}

/// Whom this host believes, and what is in force from its disk.
struct Trusting {
    warden: Warden,
    admission: Admission,
    shield: Arc<Shield>,
}

impl Trusting {
    /// Nothing runs before what was kept is in force.
    fn restore(config: &Config, data_dir: &DataDir, origin: &Origin, recorder: &Recorder) -> Self {
        let (ledger, found) = Ledger::open(data_dir.path());
        let (ledger, clock) = (Arc::new(ledger), Arc::new(Clock::new(found.floor_s)));
        let shield = Shield::open();
        let post = Post {
            origin: origin.clone(),
            labels: config.labels.clone(),
            lattice: config.lattice.clone(),
            keys: config.trust.policies.clone(),
            preset: config.policy_default,
            clock: clock.clone(),
            ledger: ledger.clone(),
            shield: shield.clone(),
        };
        let warden = Warden::restore(post, found);
        let admission = Admission {
            trusted: config.trust.actors.clone(),
            lattice: config.lattice.clone(),
            clock,
            ledger,
            shield: shield.clone(),
            recorder: recorder.clone(),
        };
        Self { warden, admission, shield }
    }
}

fn start_runtime(
    config: &Config,
    data_dir: &DataDir,
    logs: Arc<LogRing>,
    admission: Admission,
    shield: Arc<Shield>,
) -> Result<Runtime, Problem> {
    let runtime = RuntimeConfig {
        cache_dir: data_dir.cache_dir(),
        max_instances: config.max_instances,
        max_actor_memory_mb: config.actor_memory_mb,
        host_memory_mb: config.host_memory_mb,
        node_name: config.name.clone(),
        compile: CompileLimits::default(),
        logs,
        thread_clock: true,
    };
    Runtime::guarded(runtime, Arc::new(admission), shield).map_err(|error| failed("actors cannot be run here", &error))
}

/// Connects; a server that is away is waited for in the background, what can never work is an error.
///
/// By its name in the server's reports others learn that this start of the host has gone.
async fn connect(config: &Config, name: String) -> Result<Connection, Problem> {
    let options = ConnectOptions {
        creds: config.creds.clone(),
        tls_ca: config.tls_ca.clone(),
        timeout: FIRST_CONNECT,
        ..ConnectOptions::new(&config.nats_url, name)
    };
    match lattice_nats::connect(&options).await {
        Ok(connection) => Ok(connection),
        Err(error @ (ConnectError::Refused { .. } | ConnectError::TimedOut { .. })) => {
            tracing::warn!("{error}: trying again until a server is there");
            let options =
                ConnectOptions { retry_on_initial_connect: true, timeout: lattice_nats::connect::DEFAULT_CONNECT_TIMEOUT, ..options };
            Ok(lattice_nats::connect(&options).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The assignment of the last start. One that cannot be read is as good as none.
fn read_kept(path: &Path, config: &Config) -> Option<Assignment> {
    store::read(path, &config.lattice).inspect_err(|error| tracing::warn!("{}", reason::of(error))).unwrap_or_default()
}

async fn say_goodbye(lattice: &Lattice, origin: &Origin, last: &HostReport) {
    let client = lattice.connection().client();
    let subject = subject::heartbeat(lattice.name(), &origin.region, &origin.host);
    if client.publish(subject, wire::encode(last).into()).await.is_ok() {
        // The server notices the closed connection at any rate.
        let _ = client.flush().await;
    }
}

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(lattice_core::error::ErrorCode::Failed, what).caused_by(error)
}

fn log_end<E: std::error::Error>(what: &'static str) -> impl FnOnce(&Result<(), E>) {
    move |outcome| {
        if let Err(error) = outcome {
            tracing::error!(%error, "{what} cannot be followed");
        }
    }
}

/// The signals that end the host.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }

    /// The first one drains the host, the second ends it at once.
    async fn watch(mut self, events: mpsc::Sender<Event>) {
        self.next().await;
        let _ = events.send(Event::Terminate).await;
        let number = self.next().await;
        tracing::warn!("second signal: ending at once");
        // As the shell counts the end by a signal.
        std::process::exit(128_i32.saturating_add(number));
    }
}
