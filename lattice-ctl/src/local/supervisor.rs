//! Looks after the server and the hosts of one data folder: starts them, starts again what ends by itself, ends them in
//! order.
//!
//! **Invariants.** One supervisor for a folder, held by a lock. Whatever it started it ends, also when starting fails half
//! way: hosts first, so that they can say good-bye over the server. A host that ends with success was told to and stays
//! down. All decisions are taken in one loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::HostName;
use lattice_core::subject;
use lattice_core::system::SystemActor;
use lattice_core::timing::DRAIN_DEADLINE;
use lattice_core::wire;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::verdict::{Standing, Verdict};
use lattice_nats::server::{Durability, Server, ServerConfig};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context;
use super::folder::Folder;
use super::hosts::{self, Access};
use super::notary::Notary;
use super::process::Process;
use super::restart::Restart;
use super::settings::{ServerSettings, Settings};
use super::state::{HostState, State};
use super::system::{self, Wanted};
use crate::change::{ChangeArgs, Edited, Intent, Writer};
use crate::connection::{Session, Target};
use crate::error::{CommandError, Outcome};
use crate::output::{Output, time_of_day};
use crate::problems;
use crate::view::View;

/// How long hosts may take until they are heard; reserving memory takes a moment on a small machine.
const HOSTS_DEADLINE: Duration = Duration::from_secs(60);
/// How long hosts that have been here before are waited for until they may get work.
const WELCOME_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks at that.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long hosts may take to end: what they give their work, and some for themselves.
const HOSTS_GRACE: Duration = DRAIN_DEADLINE.saturating_add(Duration::from_secs(5));
/// Between two looks at the size of logs.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Starts everything, says so through `ready`, looks after it until it is told to stop, and ends it.
///
/// # Errors
/// What kept it from starting; then nothing runs any more.
pub(crate) async fn supervise(settings: Settings, output: &Output, ready: impl FnOnce(&State) -> Outcome) -> Outcome {
    let folder = Folder::new(Some(&settings.data_dir), &settings.lattice)?;
    folder.prepare()?;
    let mut stop = StopSignals::install()?;
    let lock = folder.lock()?;
    let mut supervisor = Supervisor::start_server(settings, folder, lock).await?;
    let started = tokio::select! {
        started = supervisor.start_hosts(output) => started,
        () = stop.received() => Err(Problem::new(ErrorCode::Failed, "stopped while starting").into()),
    };
    let ended = match started.and_then(|()| ready(&supervisor.state)) {
        Ok(()) => {
            supervisor.watch(&mut stop, output).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    supervisor.end(output).await;
    ended
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn install() -> Result<Self, Problem> {
        let failed = |error: std::io::Error| problems::failed("listening for signals", &error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

struct Supervisor {
    settings: Settings,
    folder: Folder,
    server: Option<Server>,
    server_restart: Restart,
    /// One for each host of the state, in its order.
    host_restarts: Vec<Restart>,
    /// How host processes end, with their place in that order.
    ends: JoinSet<(usize, std::io::Result<ExitStatus>)>,
    state: State,
    /// Whether only hosts with the label of ours may run lattice's own actors.
    guarded: bool,
    /// Signs lattice's own actors where hosts want that.
    notary: Option<Notary>,
    /// Given back when everything has ended.
    _lock: File,
}

impl Supervisor {
    async fn start_server(mut settings: Settings, folder: Folder, lock: File) -> Outcome<Self> {
        let supervisor = Process::own().ok_or_else(|| Problem::new(ErrorCode::Failed, "/proc does not know this process"))?;
        let mut state = State {
            lattice: settings.lattice.clone(),
            nats_url: String::new(),
            supervisor,
            server: None,
            fsync: None,
            creds: None,
            tls_ca: None,
            hosts: Vec::new(),
        };
        settings.trust = std::mem::take(&mut settings.trust).settled(&folder)?;
        let notary = Notary::open(&folder, &settings.trust)?;
        let mut server = None;
        if let Some(started) = launch(&settings).await? {
            state.nats_url = started.url();
            state.server = Process::of(started.pid());
            if let ServerSettings::Own { bind, port, fsync, .. } = &mut settings.server {
                // Started again, it must be where the hosts look for it.
                *port = started.port();
                state.fsync = Some(*fsync);
                state.creds = (!bind.is_loopback()).then(|| folder.creds("operator"));
            }
            server = Some(started);
        }
        if let ServerSettings::Existing { url, creds, tls_ca } = &settings.server {
            state.nats_url.clone_from(url);
            state.creds.clone_from(creds);
            state.tls_ca.clone_from(tls_ca);
        }
        let (server_restart, host_restarts, ends) = (Restart::default(), Vec::new(), JoinSet::new());
        Ok(Self { settings, folder, server, server_restart, host_restarts, ends, state, guarded: false, notary, _lock: lock })
    }

    /// Makes the lattice on the server, starts the hosts, and gives them their part of the plan.
    async fn start_hosts(&mut self, output: &Output) -> Outcome {
        self.state.write(&self.folder)?;
        let session = Session::connect(&self.target()).await?;
        session.lattice.ensure().await?;
        let view = View::read(&session).await?;
        let taken: BTreeSet<HostName> = view
            .inventory
            .hosts
            .values()
            .map(|report| report.name.clone())
            .chain(view.inventory.absent.values().flatten().cloned())
            .collect();
        self.guarded = self.needs_control(&view);
        let names = hosts::names(&self.settings.name_prefix, self.settings.hosts, &self.folder.known_hosts(), &taken)?;
        // Subscribed before they start, so that the first word of each is heard.
        let heartbeats = session.lattice.subscribe(subject::heartbeats(session.name())).await?;
        let reports = heartbeats.filter_map(|message| std::future::ready(wire::decode(&message.payload).ok())).boxed();
        for name in names {
            self.state.hosts.push(HostState { name, id: None, process: None });
            self.host_restarts.push(Restart::default());
            self.start_host(self.state.hosts.len() - 1)?;
        }
        self.hear_hosts(reports).await?;
        self.plan(&session, &view, output).await?;
        if let Err(problem) = context::add(&self.folder, &self.state) {
            say(output, &format!("note: no context was made: {problem}"));
        }
        self.state.write(&self.folder)?;
        Ok(())
    }

    /// Waits until every host has been heard.
    async fn hear_hosts(&mut self, mut reports: BoxStream<'static, HostReport>) -> Outcome {
        let deadline = Instant::now() + HOSTS_DEADLINE;
        loop {
            let silent: Vec<HostName> = self.state.hosts.iter().filter(|host| host.id.is_none()).map(|host| host.name.clone()).collect();
            let Some(first) = silent.first() else { return Ok(()) };
            tokio::select! {
                Some(report) = reports.next() => {
                    if let Some(host) = self.state.hosts.iter_mut().find(|host| host.name == report.name) {
                        host.id = Some(report.id);
                    }
                }
                Some(Ok((index, status))) = self.ends.join_next(), if !self.ends.is_empty() => {
                    let name = self.state.hosts.get(index).map_or_else(String::new, |host| host.name.to_string());
                    return Err(self.with_log(&name, format!("host {name} ended at once ({})", ended_how(&status))).into());
                }
                () = tokio::time::sleep_until(deadline) => {
                    let names: Vec<&str> = silent.iter().map(HostName::as_str).collect();
                    let message = format!("{} not heard within {} s", names.join(", "), HOSTS_DEADLINE.as_secs());
                    return Err(Problem { code: ErrorCode::TimedOut, ..self.with_log(first.as_str(), message) }.into());
                }
            }
        }
    }

    /// Plans for the hosts that are here now, lattice's own actors among what they run. Only the first plan of a lattice must
    /// succeed: later ones can be made by any change, and a node's credentials do not allow them.
    async fn plan(&self, session: &Session, view: &View, output: &Output) -> Outcome {
        let first = view.plan.head.is_none();
        let joined = matches!(self.settings.server, ServerSettings::Existing { .. }) && crate::scheduler::is_wanted(&view.desired);
        if joined && system::scheduler_answers(session).await {
            // It has heard the new hosts, too.
            return Ok(());
        }
        let none = BTreeMap::new();
        let components = if joined || self.state.hosts.is_empty() { &none } else { &self.settings.system };
        match self.commit_plan(session, components, output).await {
            Err(CommandError::Problem(problem)) if !first => {
                say(output, &format!("note: the plan could not be brought up to date: {problem}"));
                Ok(())
            }
            other => other,
        }
    }

    async fn commit_plan(&self, session: &Session, components: &BTreeMap<SystemActor, PathBuf>, output: &Output) -> Outcome {
        let signed = self.signed(components)?;
        let wanted = Wanted::prepare_all(session, &signed, self.state.hosts.len(), self.guarded).await?;
        // The scheduler is not there yet.
        let how = ChangeArgs { local_plan: true, ..ChangeArgs::default() };
        let writer = Writer { session, output, how: &how, wait: None };
        let intent = Intent { kind: "lattice", name: session.name().to_string(), done: "planned" };
        let edit = |_: &View, desired: &mut Desired| {
            wanted.iter().try_for_each(|wanted| wanted.put(desired))?;
            Ok(Edited { may_displace: true, ..Edited::default() })
        };
        writer.apply(intent, &edit).await?;
        for wanted in &wanted {
            wanted.until_ready(session).await?;
        }
        if wanted.iter().any(Wanted::judges) {
            self.until_welcome(session).await?;
        }
        Ok(())
    }

    /// The components as the hosts want them: signed, or as they were built.
    fn signed(&self, components: &BTreeMap<SystemActor, PathBuf>) -> Result<BTreeMap<SystemActor, PathBuf>, Problem> {
        let Some(notary) = &self.notary else { return Ok(components.clone()) };
        components.iter().map(|(actor, path)| Ok((*actor, notary.sign(*actor, path)?))).collect()
    }

    /// Waits until none of our hosts is kept from work because of an earlier start, which takes a few heartbeats. One that
    /// came and went too often is not waited for: it gets work later.
    async fn until_welcome(&self, session: &Session) -> Outcome {
        let deadline = Instant::now() + WELCOME_WITHIN;
        loop {
            let verdicts = session.lattice.read_verdicts().await?;
            let ours = self.state.hosts.iter().filter_map(|host| verdicts.hosts.get(host.id.as_ref()?));
            let kept = |verdict: &&Verdict| matches!(verdict.standing, Standing::Suspect | Standing::Dead | Standing::Returned);
            if ours.filter(kept).count() == 0 || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether hosts need more rights for lattice's own actors than others have, and ours have them: on our own server where it
    /// demands credentials, and on another one where we make the lattice.
    fn needs_control(&self, view: &View) -> bool {
        let own = matches!(self.settings.server, ServerSettings::Own { .. });
        self.state.creds.is_some() && (own || view.plan.head.is_none())
    }

    fn start_host(&mut self, index: usize) -> Result<(), Problem> {
        let own_creds = matches!(self.settings.server, ServerSettings::Own { .. });
        let creds = self.state.creds.clone().map(|creds| if own_creds { self.folder.creds("control") } else { creds });
        let notary = self.notary.as_ref().map(|notary| notary.public().clone());
        let access = Access { url: self.state.nats_url.clone(), creds, tls_ca: self.state.tls_ca.clone(), control: self.guarded, notary };
        let Some(host) = self.state.hosts.get_mut(index) else { return Ok(()) };
        let mut child = hosts::spawn(&host.name, index, &self.settings, &access, &self.folder)?;
        host.process = child.id().and_then(Process::of);
        self.ends.spawn(async move { (index, child.wait().await) });
        if let Some(restart) = self.host_restarts.get_mut(index) {
            restart.handle_start(Instant::now());
        }
        Ok(())
    }

    /// The loop: until it is told to stop.
    async fn watch(&mut self, stop: &mut StopSignals, output: &Output) {
        let mut look_at_logs = tokio::time::interval(LOG_INTERVAL);
        loop {
            let restarts = self.host_restarts.iter().chain([&self.server_restart]);
            let due = restarts.filter_map(Restart::due).min();
            tokio::select! {
                () = stop.received() => return,
                status = server_end(&mut self.server) => self.handle_server_end(&status, output),
                Some(Ok((index, status))) = self.ends.join_next(), if !self.ends.is_empty() => self.handle_host_end(index, &status, output),
                () = sleep_until(due) => self.restart_what_is_due(output).await,
                _ = look_at_logs.tick() => {
                    for host in &self.state.hosts {
                        self.folder.turn_over(host.name.as_str());
                    }
                }
            }
        }
    }

    fn handle_server_end(&mut self, status: &std::io::Result<ExitStatus>, output: &Output) {
        self.server = None;
        self.state.server = None;
        let pause = self.settings.restart.then(|| self.server_restart.handle_end(Instant::now()));
        say_ended(output, "nats-server", status, pause);
        self.save(output);
    }

    fn handle_host_end(&mut self, index: usize, status: &std::io::Result<ExitStatus>, output: &Output) {
        let (Some(host), Some(restart)) = (self.state.hosts.get_mut(index), self.host_restarts.get_mut(index)) else { return };
        host.process = None;
        let on_purpose = status.as_ref().is_ok_and(ExitStatus::success);
        let pause = (self.settings.restart && !on_purpose).then(|| restart.handle_end(Instant::now()));
        say_ended(output, host.name.as_str(), status, pause);
        self.save(output);
    }

    async fn restart_what_is_due(&mut self, output: &Output) {
        let now = Instant::now();
        if self.server_restart.is_due(now) {
            match launch(&self.settings).await {
                Ok(server) => {
                    self.state.server = server.as_ref().and_then(|server| Process::of(server.pid()));
                    self.server = server;
                    self.server_restart.handle_start(Instant::now());
                }
                Err(problem) => {
                    let pause = self.server_restart.handle_end(Instant::now());
                    say(output, &format!("nats-server cannot be started, trying again in {} s: {problem}", pause.as_secs_f32()));
                }
            }
        }
        for index in 0..self.state.hosts.len() {
            if self.host_restarts.get(index).is_some_and(|restart| restart.is_due(now))
                && let Err(problem) = self.start_host(index)
            {
                let pause = self.host_restarts.get_mut(index).map(|restart| restart.handle_end(Instant::now())).unwrap_or_default();
                say(output, &format!("a host cannot be started, trying again in {} s: {problem}", pause.as_secs_f32()));
            }
        }
        self.save(output);
    }

    /// Ends the hosts, then the server.
    async fn end(mut self, output: &Output) {
        for process in self.state.hosts.iter().filter_map(|host| host.process) {
            let _ = process.signal(Signal::TERM);
        }
        let drained = async { while self.ends.join_next().await.is_some() {} };
        if tokio::time::timeout(HOSTS_GRACE, drained).await.is_err() {
            for host in &self.state.hosts {
                if let Some(process) = host.process.filter(|process| process.is_alive()) {
                    say(output, &format!("{} does not end, killing it", host.name));
                    let _ = process.signal(Signal::KILL);
                }
            }
            while self.ends.join_next().await.is_some() {}
        }
        if let Some(server) = self.server.take()
            && let Err(error) = server.stop().await
        {
            say(output, &format!("nats-server does not end: {error}"));
        }
        if let Err(problem) = context::remove(&self.folder) {
            say(output, &format!("note: {problem}"));
        }
        State::remove(&self.folder);
    }

    fn target(&self) -> Target {
        let State { nats_url, creds, tls_ca, lattice, .. } = &self.state;
        Target { url: nats_url.clone(), creds: creds.clone(), tls_ca: tls_ca.clone(), lattice: lattice.clone() }
    }

    /// A problem with the end of a log under it.
    fn with_log(&self, of: &str, message: String) -> Problem {
        let mut problem = Problem::new(ErrorCode::Failed, message).hint(format!("its log is {}", self.folder.log(of).display()));
        problem.causes = self.folder.log_tail(of);
        problem
    }

    fn save(&self, output: &Output) {
        if let Err(problem) = self.state.write(&self.folder) {
            say(output, &format!("note: {problem}"));
        }
    }
}

/// Starts our own server; nothing to do with somebody else's.
async fn launch(settings: &Settings) -> Result<Option<Server>, Problem> {
    let ServerSettings::Own { program, bind, port, fsync, node_subjects } = &settings.server else { return Ok(None) };
    let mut config = ServerConfig::new(&settings.data_dir, settings.lattice.clone());
    config.bind = *bind;
    config.port = *port;
    config.durability = if *fsync { Durability::Fsync } else { Durability::Crash };
    config.users.node_subjects.clone_from(node_subjects);
    Ok(Some(Server::start(program, &config).await?))
}

/// The end of the server; without one it never comes.
async fn server_end(server: &mut Option<Server>) -> std::io::Result<ExitStatus> {
    match server {
        Some(server) => server.wait().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Says something with the time before it: standard error is the log of a supervisor in the background.
fn say(output: &Output, text: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    output.note(&format!("{} {text}", time_of_day(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))));
}

fn say_ended(output: &Output, what: &str, status: &std::io::Result<ExitStatus>, pause: Option<Duration>) {
    let next = pause.map(|pause| format!(", starting it again in {} s", pause.as_secs_f32())).unwrap_or_default();
    say(output, &format!("{what} ended ({}){next}", ended_how(status)));
}

fn ended_how(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}
