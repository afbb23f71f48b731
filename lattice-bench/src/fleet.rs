//! Several hosts to measure failovers on: a lattice of `lattice-ctl up` whose two hosts run the control plane and nothing
//! else, and workers that this program starts and ends one by one.
//!
//! **Invariants.** Everything is this benchmark's own and ends with the [`Fleet`], also when a row fails. A worker that failed
//! is replaced by a new one with another identity: one that came back would have to wait until it is trusted again.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use lattice_core::id::LatticeName;
use lattice_core::wire::failover::Failover;
use lattice_core::wire::report::HostReport;
use lattice_core::{subject, wire};
use lattice_nats::{ConnectOptions, Connection};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::Error;
use crate::bench::Bench;
use crate::flow::TOKEN;
use crate::rows::placement::report;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the record of a failover may take to be complete.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
/// The actor that handles the flow.
const ACTOR: &str = "flow";

/// Hosts.
pub(crate) struct Fleet<'a> {
    bench: &'a Bench,
    folder: tempfile::TempDir,
    nats_url: String,
    connection: Connection,
    lattice: LatticeName,
    workers: Vec<Worker>,
    started: usize,
    records: async_nats::Subscriber,
}

struct Worker {
    name: String,
    child: Child,
}

impl<'a> Fleet<'a> {
    /// Starts the control plane and `workers` workers, and the actor of the flow on one of them; its code is on all of them.
    ///
    /// # Errors
    /// A program is missing, or something did not start.
    pub(crate) async fn start(bench: &'a Bench, workers: usize) -> Result<Self, Error> {
        let folder = tempfile::tempdir_in(&bench.scratch)?;
        let mut up = ctl(bench, &folder, None)?;
        up.args(["up", "--detach", "-o", "json", "--nats-port", "0", "--hosts", "2", "--name-prefix", "CONTROL", "--no-restart"]);
        up.args(["--label", "tier=cloud", "--label", "role=control", "--data-dir"]).arg(folder.path().join("data"));
        let up: Value = serde_json::from_str(&output(up).await?)?;
        let nats_url = up.get("nats_url").and_then(Value::as_str).ok_or("`up` named no address")?.to_owned();
        let connection = lattice_nats::connect(&ConnectOptions::new(&nats_url, "lattice-bench")).await?;
        let lattice = LatticeName::new("default")?;
        // The keys of a bucket are subjects: whoever listens sees every version of every record.
        let records = subject::bucket_key(&subject::failover_bucket(&lattice), ">");
        let records = connection.client().subscribe(records).await?;
        let mut fleet = Self { bench, folder, nats_url, connection, lattice, workers: Vec::new(), started: 0, records };
        for _ in 0..workers {
            fleet.add_worker().await?;
        }
        fleet.start_actors().await?;
        Ok(fleet)
    }

    async fn start_actors(&self) -> Result<(), Error> {
        let code = self.bench.program_path("ledger");
        let code = code.display();
        self.ctl("start provider builtin://kv-nats kv").await?;
        self.ctl("start provider builtin://messaging-nats messaging").await?;
        // On every worker, so that the code is there when work comes.
        for (id, flags, subscription) in [
            ("warm", "--max 1 --daemon", "ask.warm".to_owned()),
            (ACTOR, "--max 4 --placement pack", format!("edge.sensor.{TOKEN} --delivery jetstream")),
        ] {
            self.ctl(&format!("start actor {code} {id} {flags} --require role=worker")).await?;
            self.ctl(&format!("link put {id} kv wasmcloud:keyvalue default --bucket flow")).await?;
            self.ctl(&format!("link put {id} messaging wasmcloud:messaging default --subscription {subscription}")).await?;
        }
        Ok(())
    }

    /// The load generator's connection.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// `lattice-ctl` with the words of a line; what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub(crate) async fn ctl(&self, line: &str) -> Result<String, Error> {
        let mut command = ctl(self.bench, &self.folder, Some(&self.nats_url))?;
        command.args(line.split_whitespace());
        output(command).await
    }

    /// Starts one more worker and waits until it takes work.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn add_worker(&mut self) -> Result<(), Error> {
        self.started += 1;
        let name = format!("WORKER{:02}", self.started);
        let mut command = Command::new(self.bench.binary("lattice-host")?);
        command.env_clear().env("HOME", self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.args(["--lattice", self.lattice.as_str(), "--name", &name, "--label", "role=worker", "--nats-url", &self.nats_url]);
        command.arg("--data-dir").arg(self.folder.path().join(&name));
        command.stderr(std::fs::File::create(self.folder.path().join(format!("{name}.log")))?);
        self.workers.push(Worker { name: name.clone(), child: command.spawn()? });
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let hosts: Value = serde_json::from_str(&self.ctl("get hosts -o json").await?)?;
            let is_it = |host: &&Value| host.get("name").and_then(Value::as_str) == Some(&name);
            let state = hosts.as_array().and_then(|hosts| hosts.iter().find(is_it)).and_then(|host| host.get("state"));
            if state.and_then(Value::as_str) == Some("Healthy") {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(format!("{name} takes no work").into())
    }

    /// Sends a signal to a worker. Returns the milliseconds since 1970 just before.
    ///
    /// # Errors
    /// There is no such worker.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> Result<u64, Error> {
        let worker = self.workers.iter().find(|worker| worker.name == name).ok_or_else(|| format!("no worker {name}"))?;
        let pid = Pid::from_raw(i32::try_from(worker.child.id().ok_or("it has ended")?)?).ok_or("a process without an id")?;
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        rustix::process::kill_process(pid, signal)?;
        Ok(now)
    }

    /// Ends a worker for good.
    ///
    /// # Errors
    /// There is no such worker.
    pub(crate) async fn remove(&mut self, name: &str) -> Result<(), Error> {
        let position = self.workers.iter().position(|worker| worker.name == name).ok_or_else(|| format!("no worker {name}"))?;
        let mut worker = self.workers.remove(position);
        worker.child.kill().await?;
        Ok(())
    }

    /// The complete record of the failover of a worker, or what there is of it after a while.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn record(&mut self, name: &str) -> Result<Failover, Error> {
        let end = tokio::time::Instant::now() + RECORDED_WITHIN;
        let mut found = None;
        while let Ok(Some(message)) = tokio::time::timeout_at(end, self.records.next()).await {
            let Ok(record) = wire::decode::<Failover>(&message.payload) else { continue };
            if record.name.as_str() != name {
                continue;
            }
            let complete = record.steps.applied_ms.is_some() && record.steps.first_result_ms.is_some();
            found = Some(record);
            if complete {
                break;
            }
        }
        found.ok_or_else(|| format!("no failover of {name} was recorded").into())
    }

    /// Names of hosts that were taken for dead since anybody looked.
    pub(crate) async fn taken_for_dead(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(LOOK_AGAIN, self.records.next()).await {
            names.extend(wire::decode::<Failover>(&message.payload).ok().map(|record| record.name.to_string()));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Heartbeats of `count` hosts that do not exist, until the answer is dropped.
    ///
    /// # Errors
    /// None: their names are of the form that names have.
    pub(crate) fn simulate(&self, count: usize) -> Result<Simulated, Error> {
        let client = self.connection.client().clone();
        let reports = (0..count).map(|number| Ok(HostReport { lattice: self.lattice.clone(), ..report(number)? }));
        let mut reports = reports.collect::<Result<Vec<HostReport>, Error>>()?;
        let interval = lattice_core::timing::HEARTBEAT_INTERVAL.checked_div(u32::try_from(count)?).unwrap_or(LOOK_AGAIN);
        Ok(Simulated(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            loop {
                for report in &mut reports {
                    ticks.tick().await;
                    report.seq += 1;
                    let heard = subject::heartbeat(&report.lattice, &report.region, &report.id);
                    // A connection that is closed ends the row elsewhere.
                    let _ = client.publish(heard, wire::encode(report).into()).await;
                }
            }
        })))
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        self.workers.clear();
        down(self.bench, &self.folder);
    }
}

/// Hosts that are heard and do not exist.
pub(crate) struct Simulated(tokio::task::JoinHandle<()>);

impl Drop for Simulated {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends what `up` has started in `folder`.
pub(crate) fn down(bench: &Bench, folder: &tempfile::TempDir) {
    if let Ok(ctl) = bench.binary("lattice-ctl") {
        let mut down = std::process::Command::new(ctl);
        down.env_clear().env("HOME", folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = down.args(["down", "--yes", "--data-dir"]).arg(folder.path().join("data")).status();
    }
}

/// `lattice-ctl` with a home of its own.
///
/// # Errors
/// It is not built.
pub(crate) fn ctl(bench: &Bench, folder: &tempfile::TempDir, nats_url: Option<&str>) -> Result<Command, Error> {
    let mut command = Command::new(bench.binary("lattice-ctl")?);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    for name in ["LATTICE_NATS_SERVER", "LATTICE_ACTORS"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(url) = nats_url {
        command.env("LATTICE_NATS_URL", url);
    }
    Ok(command)
}

/// What a command prints.
///
/// # Errors
/// What it says when it fails.
pub(crate) async fn output(mut command: Command) -> Result<String, Error> {
    let output = command.output().await?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let line: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    Err(format!("lattice-ctl {}: {}", line.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into())
}
