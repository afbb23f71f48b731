//! A lattice under fault: servers, two hosts of the control plane, workers behind a proxy each, a host that has nothing to do
//! with the fault, four actors, sensors and somebody who listens.
//!
//! **Invariants.** Everything is this row's own and ends with it, also when the row fails. Hosts of the control plane run the
//! scheduler and the failover actor and nothing else; the fenced and the strict actor begin on the first worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Info, PeerInfo};
use e2e::{HostProcess, World, process, program, until};
use lattice_core::id::{HostName, LatticeName};
use lattice_core::subject;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::code;
use crate::disk::Disk;
use crate::load::Load;
use crate::logs;
use crate::observer::Observer;
use crate::proxy::Proxy;
use crate::server::Servers;

/// Region of all hosts: the site of the brakes.
const REGION: &str = "site-1";
/// Hosts of the control plane.
const CONTROL: [&str; 2] = ["CONTROL01", "CONTROL02"];
/// Name of the host that no fault touches.
pub(crate) const BYSTANDER: &str = "BYSTANDER";
/// Bucket of the shared actor, and of the bystander.
pub(crate) const SHARED_BUCKET: &str = "chaos-shared";
/// Bucket of the fenced actor.
pub(crate) const FENCED_BUCKET: &str = "chaos-fenced";
/// Where the strict actor's component finds a bucket that it never uses.
const STRICT_BUCKET: &str = "chaos-strict";
/// Copies of each stream in a cluster.
const COPIES: usize = 3;
/// What is asked, and kept under which name, where something did not hold.
const SAID: [(&str, &str); 3] = [
    ("failover-actor.log", "logs lattice-failover --limit 1000"),
    ("scheduler-actor.log", "logs lattice-scheduler --limit 1000"),
    ("failovers.json", "failover history -o json"),
];
/// How long copies may take to be up to date again.
const IN_STEP_WITHIN: Duration = Duration::from_secs(60);
/// Patience with one list of streams.
const LISTED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Where the first server keeps its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// In a folder.
    Folder,
    /// In a small file system in memory, with so many MiB.
    Memory(u32),
    /// In a file system in a file, with so many MiB; every write is synced.
    Image(u32),
}

/// What a row needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Servers: one, or a cluster of three.
    pub(crate) servers: usize,
    /// Workers.
    pub(crate) workers: usize,
    /// Profile of the failover actor.
    pub(crate) profile: &'static str,
    /// Readings a second.
    pub(crate) rate: u32,
    /// Where the first server keeps its streams.
    pub(crate) store: Store,
    /// Whether the workers and the bystander trust the account `keys/account.nk` of the row's folder to sign policies.
    pub(crate) policies: bool,
}

/// A host that faults may hit.
pub(crate) struct Worker {
    /// Its name.
    pub(crate) name: HostName,
    /// The way to the servers; none in a cluster, where hosts know all servers.
    pub(crate) link: Option<Proxy>,
    process: HostProcess,
}

/// All of it.
pub(crate) struct Arena {
    /// Sensors.
    pub(crate) load: Load,
    /// Who listens.
    pub(crate) observer: Observer,
    /// Hosts that faults may hit.
    pub(crate) workers: Vec<Worker>,
    bystander: HostProcess,
    control: Vec<HostProcess>,
    hogs: Vec<Child>,
    /// Hosts that may be taken for dead, because something was done to them.
    blamed: BTreeSet<HostName>,
    world: World,
    client: async_nats::Client,
    /// The servers.
    pub(crate) servers: Servers,
    disk: Option<Disk>,
    lattice: LatticeName,
    /// Where what processes have logged goes in the end.
    logs: Option<PathBuf>,
    /// What waits runs here.
    pub(crate) runtime: Runtime,
}

impl Arena {
    /// Starts everything and waits until it works. Hosts begin with the compiled code in `cache`, and what they compile goes
    /// there: it takes longer than most faults.
    ///
    /// # Errors
    /// Something that the row needs is not there on this machine.
    pub(crate) fn start(shape: &Shape, cache: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let mut world = World::bare();
        let disk = mount(shape.store, world.folder())?;
        let store = disk.as_ref().map(|disk| disk.folder().join("store"));
        let servers = Servers::start(world.folder(), shape.servers, store.as_deref(), matches!(shape.store, Store::Image(_)));
        world.nats_url = servers.url();
        let client = connect(&runtime, &servers);
        until_jetstream(&runtime, &client);
        let lattice = LatticeName::new("default").expect("a name");
        CONTROL.iter().for_each(|name| code::lay_out(cache, &world.host_dir(name)));
        up(&world);
        world.line(&format!("config put failover profile={}", shape.profile)).ok();
        let observer = Observer::start(runtime.handle(), &client, &lattice);
        let issuer = if shape.policies { account(&world) } else { "off".to_owned() };
        let seats = Seats { world: &world, cache, issuer: &issuer };
        let workers: Vec<Worker> = (1..=shape.workers).map(|number| seats.worker(&runtime, &servers, number)).collect();
        let bystander = seats.host(BYSTANDER, &world.nats_url, &["role=bystander"]);
        for name in workers.iter().map(|worker| worker.name.as_str()).chain([BYSTANDER]) {
            world.until_ready(name);
        }
        actors(&world, shape.workers);
        code::keep(&world.host_dir(CONTROL[0]), &world.folder().join("WORKER1"), cache);
        if shape.servers > 1 {
            assert_copies(&runtime, &client);
        }
        let load = Load::start(runtime.handle(), client.clone(), shape.rate);
        let blamed = BTreeSet::new();
        let (control, hogs) = (Vec::new(), Vec::new());
        Ok(Self { load, observer, workers, bystander, control, hogs, blamed, world, client, servers, disk, lattice, logs: None, runtime })
    }

    /// A folder of this row.
    pub(crate) fn folder(&self) -> &Path {
        self.world.folder()
    }

    /// Copies what processes have logged there in the end, if anywhere.
    pub(crate) fn keep_logs(&mut self, folder: Option<PathBuf>) {
        self.logs = folder;
    }

    /// The lattice.
    pub(crate) fn lattice(&self) -> &LatticeName {
        &self.lattice
    }

    /// `lattice-ctl` with the words of a line.
    pub(crate) fn ctl(&self, line: &str) -> e2e::Ran {
        self.world.line(line)
    }

    /// A client of the servers.
    pub(crate) fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// Lets time pass: the length of a fault, or of a rest.
    #[expect(clippy::unused_self, reason = "a row reads as what happens in the arena")]
    pub(crate) fn pass(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// The worker that owns a slot of `actor` by the newest claim that was heard of; the first one if nobody does.
    pub(crate) fn owner(&self, actor: &str, slot: u32) -> usize {
        let name = self.observer.look(|heard| {
            let newest = heard
                .hosts
                .values()
                .filter_map(|host| {
                    let own = host.components.iter().find(|(id, _)| id.as_str() == actor)?.1.slots.get(&slot)?;
                    Some((own.term, own.epoch, host.name.clone()))
                })
                .max()?;
            Some(newest.2)
        });
        name.and_then(|name| self.workers.iter().position(|worker| worker.name == name)).unwrap_or(0)
    }

    /// The worker that owns most: the strict actor's, where there is one.
    pub(crate) fn busiest(&self) -> usize {
        self.owner("strict", 0)
    }

    /// Hosts that may be taken for dead.
    pub(crate) fn blamed(&self) -> &BTreeSet<HostName> {
        &self.blamed
    }

    /// From now on this worker may be taken for dead.
    pub(crate) fn blame(&mut self, worker: usize) {
        self.blamed.insert(self.workers[worker].name.clone());
    }

    /// From now on hosts that are connected to this server may be taken for dead: with it they are cut off.
    pub(crate) fn blame_clients_of(&mut self, server: usize) {
        let clients = self.servers.get(server).clients();
        let hosts = clients.iter().filter_map(|name| subject::host_of_connection(name)).map(|(host, _)| host);
        let names =
            self.observer.look(|heard| -> Vec<HostName> { hosts.filter_map(|host| Some(heard.hosts.get(&host)?.name.clone())).collect() });
        self.blamed.extend(names);
    }

    /// The link of a worker.
    pub(crate) fn link(&self, worker: usize) -> &Proxy {
        self.workers[worker].link.as_ref().expect("a worker behind a proxy")
    }
}

/// What can be done to processes.
impl Arena {
    /// `kill -9` of a worker.
    pub(crate) fn kill(&mut self, worker: usize) {
        self.blame(worker);
        self.workers[worker].process.kill();
    }

    /// Starts a worker again on what it has on its disk.
    pub(crate) fn restart(&mut self, worker: usize) {
        let folder = self.workers[worker].process.data_dir().to_owned();
        self.workers[worker].process = HostProcess::start(&folder, &[]);
    }

    /// Starts a worker again if it has ended by itself.
    pub(crate) fn restart_if_ended(&mut self, worker: usize) -> bool {
        let ended = !self.workers[worker].process.is_alive();
        if ended {
            self.restart(worker);
        }
        ended
    }

    /// SIGSTOP of a worker for so long.
    pub(crate) fn freeze(&mut self, worker: usize, time: Duration) {
        self.blame(worker);
        let pid = self.workers[worker].process.pid();
        process::signal(pid, Signal::STOP);
        self.pass(time);
        process::signal(pid, Signal::CONT);
    }

    /// A second process with the identity and the settings of a worker, from a copy of its folder.
    pub(crate) fn clone_of(&mut self, worker: usize) -> HostProcess {
        self.blame(worker);
        let from = self.workers[worker].process.data_dir().to_owned();
        let to = from.with_file_name("clone");
        let copied = Command::new("cp").arg("-r").arg(&from).arg(&to).status().expect("cp runs");
        assert!(copied.success(), "the folder can be copied");
        HostProcess::start(&to, &[])
    }

    /// `kill -9` of a host of the control plane.
    pub(crate) fn kill_control(&mut self, number: usize) {
        self.blamed.insert(HostName::new(CONTROL[number]).expect("a name"));
        process::signal(self.world.host_pid(CONTROL[number]), Signal::KILL);
    }

    /// Starts it again.
    pub(crate) fn restart_control(&mut self, number: usize) {
        self.control.push(self.world.restart_host(CONTROL[number], &[]));
    }

    /// SIGSTOP of a host of the control plane for so long.
    pub(crate) fn freeze_control(&mut self, number: usize, time: Duration) {
        self.blamed.insert(HostName::new(CONTROL[number]).expect("a name"));
        let pid = self.world.host_pid(CONTROL[number]);
        process::signal(pid, Signal::STOP);
        self.pass(time);
        process::signal(pid, Signal::CONT);
    }

    /// Keeps every core busy, twice over, until [`Arena::calm`].
    pub(crate) fn hog(&mut self) {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..cores * 2 {
            let spin = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
            self.hogs.push(spin.expect("sh runs"));
        }
    }

    /// Ends what [`Arena::hog`] began.
    pub(crate) fn calm(&mut self) {
        for mut hog in self.hogs.drain(..) {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }

    /// Whether the host that no fault touches still runs.
    pub(crate) fn bystander_lives(&mut self) -> bool {
        self.bystander.is_alive()
    }
}

/// Streams and disks.
impl Arena {
    /// All streams of the account.
    pub(crate) fn streams(&self) -> Vec<Info> {
        streams(&self.runtime, &self.client)
    }

    /// The server that leads a stream.
    pub(crate) fn leader_of(&self, stream: &str) -> usize {
        let name = until(&format!("{stream} has a leader"), &mut || {
            let info = self.streams().into_iter().find(|info| info.config.name == stream)?;
            info.cluster?.leader
        });
        self.servers.named(&name)
    }

    /// Waits until each copy of each stream has been up to date.
    pub(crate) fn until_in_step(&self) {
        let behind = self.behind_for_long();
        assert!(behind.is_empty(), "not up to date in time: {behind:?}");
    }

    /// The same; copies that were not up to date in time.
    pub(crate) fn behind_for_long(&self) -> Vec<String> {
        until_in_step(&self.runtime, &self.client)
    }

    /// Power loss of the first server: what it had synced is there when it runs again, and nothing else.
    ///
    /// # Errors
    /// The file system cannot be copied or mounted.
    pub(crate) fn power_loss(&mut self) -> Result<(), String> {
        let image = self.folder().join("disk.img");
        let copy = self.folder().join("disk.after");
        let server = self.servers.get(0);
        server.pause();
        let copied = Command::new("cp").arg("--sparse=always").arg(&image).arg(&copy).status();
        server.kill();
        copied.map_err(|error| error.to_string()).and_then(|status| status.success().then_some(()).ok_or("cp failed".to_owned()))?;
        // Unmounted first: dropped after the new one is mounted, it would take that one's place away.
        let folder = self.disk.take().map(|disk| disk.folder().to_owned()).ok_or("no disk")?;
        std::fs::rename(&copy, &image).map_err(|error| error.to_string())?;
        self.disk = Some(Disk::of_file(&folder, &image)?);
        self.servers.get(0).run();
        Ok(())
    }

    /// Takes what is left of the first server's file system; the file that does.
    pub(crate) fn fill_disk(&self) -> PathBuf {
        let path = self.disk.as_ref().expect("a disk of its own").folder().join("filler");
        let mut file = File::create(&path).expect("a file");
        // Until nothing fits any more: that error is what is wanted.
        let _ = std::io::copy(&mut std::io::repeat(0), &mut file);
        path
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.calm();
        for number in 0..self.servers.count() {
            self.servers.get(number).resume();
        }
        if let Some(folder) = &self.logs {
            logs::keep(self.world.folder(), folder);
            for (name, line) in SAID {
                let ran = self.ctl(line);
                let _ = std::fs::write(folder.join(name), ran.out + &ran.err);
            }
        }
        // Workers first, so that nobody makes plans for them while the rest goes down.
        self.workers.clear();
        let data = self.world.data_dir();
        let _ = self.world.command(&["down", "--yes", "--data-dir"]).arg(data).stdin(Stdio::null()).output();
    }
}

fn mount(store: Store, folder: &Path) -> Result<Option<Disk>, String> {
    let at = folder.join("disk");
    Ok(match store {
        Store::Folder => None,
        Store::Memory(megabytes) => Some(Disk::in_memory(&at, megabytes)?),
        Store::Image(megabytes) => Some(Disk::in_file(&at, &folder.join("disk.img"), megabytes)?),
    })
}

fn connect(runtime: &Runtime, servers: &Servers) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new()
        .name("lattice-chaos")
        .reconnect_delay_callback(|_attempts| Duration::from_millis(50))
        .ping_interval(Duration::from_secs(2))
        .subscription_capacity(1 << 20);
    let all: Vec<async_nats::ServerAddr> = servers.url().split(',').map(|url| url.parse().expect("an address")).collect();
    runtime.block_on(options.connect(all)).expect("the servers listen")
}

fn context(runtime: &Runtime, client: &async_nats::Client) -> jetstream::Context {
    // It has a task of its own.
    let _guard = runtime.enter();
    jetstream::new(client.clone())
}

/// A cluster needs a moment until it has a leader.
fn until_jetstream(runtime: &Runtime, client: &async_nats::Client) {
    let context = context(runtime, client);
    until("JetStream works", &mut || runtime.block_on(async { context.query_account().await }).ok());
}

fn up(world: &World) {
    let data = world.data_dir();
    let region = format!("region={REGION}");
    let line = ["up", "--detach", "-o", "json", "--hosts", "2", "--name-prefix", "CONTROL", "--no-restart", "--label", &region];
    let more = ["--label", "tier=cloud", "--label", "role=control", "--nats-url", &world.nats_url, "--data-dir"];
    world.ctl(&[line.as_slice(), &more, &[data.to_str().expect("UTF-8")]].concat()).ok();
}

/// Makes an account that signs; its public key.
fn account(world: &World) -> String {
    let made = world.line("keys gen account -o json").json();
    made["public_key"].as_str().expect("a public key").to_owned()
}

/// Where hosts that faults may hit, and the bystander, are started.
struct Seats<'a> {
    world: &'a World,
    cache: &'a Path,
    /// Who signs policies, or `off`.
    issuer: &'a str,
}

impl Seats<'_> {
    fn worker(&self, runtime: &Runtime, servers: &Servers, number: usize) -> Worker {
        let name = format!("WORKER{number}");
        let link = (servers.count() == 1).then(|| Proxy::start(runtime.handle(), servers.addresses()));
        let url = link.as_ref().map_or_else(|| servers.url(), Proxy::url);
        let labels: &[&str] = if number == 1 { &["role=worker", "seat=first"] } else { &["role=worker"] };
        let process = self.host(&name, &url, labels);
        Worker { name: HostName::new(name).expect("a name"), link, process }
    }

    fn host(&self, name: &str, url: &str, labels: &[&str]) -> HostProcess {
        let folder = self.world.folder().join(name);
        code::lay_out(self.cache, &folder);
        let region = format!("region={REGION}");
        let mut flags = vec!["--lattice", "default", "--name", name, "--nats-url", url, "--label", &region];
        flags.extend(["--trust-policies", self.issuer]);
        for label in labels {
            flags.extend(["--label", label]);
        }
        HostProcess::start(&folder, &flags)
    }
}

/// The four actors, all of the same code.
fn actors(world: &World, workers: usize) {
    let code = program("ledger");
    let code = code.display();
    world.line("start provider builtin://kv-nats kv").ok();
    world.line("start provider builtin://messaging-nats messaging").ok();
    let owned = "--require role=worker --prefer seat=first";
    let actors = [
        ("shared", format!("--max {workers} --spread --require role=worker"), SHARED_BUCKET, "edge.sensor.shared"),
        ("fenced", format!("--class fenced --slots 2 {owned}"), FENCED_BUCKET, "edge.sensor.f0,edge.sensor.f1"),
        ("strict", format!("--class strict --slots 1 {owned}"), STRICT_BUCKET, "edge.sensor.strict"),
        ("bystander", "--max 1 --require role=bystander".to_owned(), SHARED_BUCKET, "edge.sensor.by"),
    ];
    for (id, flags, bucket, subscription) in actors {
        world.line(&format!("start actor {code} {id} {flags}")).ok();
        world.line(&format!("link put {id} kv wasmcloud:keyvalue default --bucket {bucket}")).ok();
        let delivery = format!("--subscription {subscription} --delivery jetstream");
        world.line(&format!("link put {id} messaging wasmcloud:messaging default {delivery}")).ok();
    }
}

/// What a lattice makes in a cluster is on each of its servers.
fn assert_copies(runtime: &Runtime, client: &async_nats::Client) {
    for info in streams(runtime, client) {
        assert_eq!(info.config.num_replicas, COPIES, "copies of {}", info.config.name);
    }
    let behind = until_in_step(runtime, client);
    assert!(behind.is_empty(), "not up to date in time: {behind:?}");
}

/// Waits until each copy of each stream has been up to date; what was not in time. While readings come in, a sound copy is a
/// message behind at most moments, so that once is enough and all at the same time is too much to ask.
fn until_in_step(runtime: &Runtime, client: &async_nats::Client) -> Vec<String> {
    let end = Instant::now() + IN_STEP_WITHIN;
    let mut seen = BTreeSet::new();
    loop {
        let names = stream_names(runtime, client);
        // What has no leader is not listed.
        let all: BTreeMap<String, Info> = streams(runtime, client).into_iter().map(|info| (info.config.name.clone(), info)).collect();
        seen.extend(
            all.values().flat_map(copies).filter(|(_, peer)| peer.current).map(|(name, peer)| (name.to_owned(), peer.name.clone())),
        );
        let behind: Vec<String> = names.iter().flat_map(|name| behind(name, all.get(name), &seen)).collect();
        if (!names.is_empty() && behind.is_empty()) || Instant::now() > end {
            return behind;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Copies of a stream besides its leader's.
fn copies(info: &Info) -> impl Iterator<Item = (&str, &PeerInfo)> {
    let peers = info.cluster.iter().flat_map(|cluster| &cluster.replicas);
    peers.map(|peer| (info.config.name.as_str(), peer))
}

/// Copies of the stream `name` that were never up to date, each with what is known of it now.
fn behind(name: &str, info: Option<&Info>, seen: &BTreeSet<(String, String)>) -> Vec<String> {
    let Some(info) = info.filter(|info| info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_some())) else {
        return vec![format!("{name} has no leader")];
    };
    let others = copies(info).count();
    if others + 1 != COPIES {
        return vec![format!("{name} has {} copies", others + 1)];
    }
    let late = copies(info).filter(|(name, peer)| !seen.contains(&((*name).to_owned(), peer.name.clone())));
    late.map(|(name, peer)| {
        let offline = if peer.offline { ", offline" } else { "" };
        format!("{name} on {} ({} behind{offline})", peer.name, peer.lag.unwrap_or(0))
    })
    .collect()
}

fn stream_names(runtime: &Runtime, client: &async_nats::Client) -> Vec<String> {
    use futures::TryStreamExt as _;
    let context = context(runtime, client);
    until("the streams are named", &mut || {
        let names = runtime.block_on(async { tokio::time::timeout(LISTED_WITHIN, context.stream_names().try_collect()).await });
        names.ok()?.ok()
    })
}

fn streams(runtime: &Runtime, client: &async_nats::Client) -> Vec<Info> {
    use futures::TryStreamExt as _;
    let context = context(runtime, client);
    let begun = Instant::now();
    until("the streams are listed", &mut || {
        let listed: Result<Vec<Info>, _> = runtime.block_on(async {
            tokio::time::timeout(LISTED_WITHIN, context.streams().try_collect())
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())
        });
        match listed {
            Ok(all) => Some(all),
            Err(error) if begun.elapsed() > Duration::from_secs(30) => panic!("the streams cannot be listed: {error}"),
            Err(_) => None,
        }
    })
}
