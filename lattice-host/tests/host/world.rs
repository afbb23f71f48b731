//! A server of its own, a lattice on it, and host processes; gone with the test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::contract::Contract;
use lattice_core::desired::{ComponentSpec, Desired, ProviderSpec};
use lattice_core::id::{ActorId, Generation, HostId, LatticeName, LinkName, ProviderId, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::link::{LinkSpec, durables};
use lattice_core::plan::{Plan, plan};
use lattice_core::subject::Verb;
use lattice_core::timing::ACK_WAIT;
use lattice_core::wire;
use lattice_core::wire::assignment::{Assignment, ProviderKind};
use lattice_core::wire::event::Event;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::request::CALL_STATUS_HEADER;
use lattice_core::wire::verdict::Verdicts;
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Lattice, connect};
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

pub(crate) struct World {
    pub(crate) server: Option<Server>,
    pub(crate) url: String,
    pub(crate) lattice: Lattice,
    pub(crate) desired: Desired,
    /// Who is taken for gone.
    pub(crate) verdicts: Verdicts,
    pub(crate) folder: TempDir,
}

impl World {
    /// A server without a lattice.
    pub(crate) async fn bare() -> Self {
        Self::bare_on(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// A server without a lattice on some address; on any but loopback everybody needs credentials.
    async fn bare_on(bind: IpAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ServerConfig { bind, ..server_config(folder.path(), 0) };
        let server = Server::start(&program_of_server(), &config).await.unwrap();
        let url = server.url();
        let creds = (!bind.is_loopback()).then(|| config.data_dir.join("creds/operator.nk"));
        let connection = connect(&ConnectOptions { creds, ..ConnectOptions::new(&url, "test") }).await.unwrap();
        let lattice = Lattice::new(connection, LatticeName::new("default").unwrap());
        Self { server: Some(server), url, lattice, desired: Desired::default(), verdicts: Verdicts::default(), folder }
    }

    /// A server with a lattice that has all builtin providers.
    pub(crate) async fn start() -> Self {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// The same on some address.
    pub(crate) async fn start_on(bind: IpAddr) -> Self {
        let mut world = Self::bare_on(bind).await;
        world.lattice.ensure().await.unwrap();
        world.lattice.ensure_edge_stream().await.unwrap();
        for kind in ProviderKind::ALL {
            let spec = ProviderSpec { image: format!("builtin://{}", kind.as_str()), kind, hosts: BTreeSet::new(), config: Vec::new() };
            world.desired.start_provider(provider(kind), spec).unwrap();
        }
        world
    }

    pub(crate) async fn stop_server(&mut self) -> u16 {
        let server = self.server.take().unwrap();
        let port = server.port();
        server.stop().await.unwrap();
        port
    }

    pub(crate) async fn start_server(&mut self, port: u16) {
        self.server = Some(Server::start(&program_of_server(), &server_config(self.folder.path(), port)).await.unwrap());
    }

    /// File with the credentials that the server made for `user`.
    pub(crate) fn creds(&self, user: &str) -> PathBuf {
        self.folder.path().join("server/creds").join(format!("{user}.nk"))
    }

    /// Starts a host; its identity is that of its name.
    pub(crate) fn host(&self, name: &str) -> HostProcess {
        HostProcess::start(&self.host_dir(name), &["--name", name, "--nats-url", &self.url])
    }

    pub(crate) fn host_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join("hosts").join(name)
    }

    /// Starts a host and waits until it answers.
    pub(crate) async fn joined(&self, name: &str) -> (HostProcess, HostReport) {
        self.joined_with(name, &[]).await
    }

    /// The same with more flags.
    pub(crate) async fn joined_with(&self, name: &str, flags: &[&str]) -> (HostProcess, HostReport) {
        let flags: Vec<&str> = ["--name", name, "--nats-url", &self.url].into_iter().chain(flags.iter().copied()).collect();
        let host = HostProcess::start(&self.host_dir(name), &flags);
        let report = self.report(name, |_| true).await;
        (host, report)
    }

    /// The report of a host as soon as it fits.
    pub(crate) async fn report(&self, name: &str, fits: impl Fn(&HostReport) -> bool) -> HostReport {
        let mut last = None;
        let end = tokio::time::Instant::now() + DEADLINE;
        while tokio::time::Instant::now() < end {
            for report in self.reports().await {
                if report.name.as_str() == name && fits(&report) {
                    return report;
                }
                last = Some(report);
            }
        }
        panic!("{name} does not report what is expected in time; last: {last:#?}");
    }

    pub(crate) async fn reports(&self) -> Vec<HostReport> {
        let answers = self.lattice.ask_all(Verb::Inventory, Bytes::new(), &BTreeSet::new(), Duration::from_millis(200)).await.unwrap();
        answers.iter().map(|answer| wire::decode(answer).unwrap()).collect()
    }

    /// Adds an actor on `host`.
    pub(crate) async fn actor(&mut self, id: &str, program: &str, host: &HostId, max: u32) {
        let digest = self.lattice.put_artifact(self::program(program)).await.unwrap();
        let spec =
            ComponentSpec { max, hosts: BTreeSet::from([host.clone()]), ..ComponentSpec::new(format!("file://{program}.wasm"), digest) };
        self.desired.start_component(actor(id), spec, Some(max), true).unwrap();
    }

    /// Adds a link, and its consumer if it needs one.
    pub(crate) async fn link(&mut self, source: &str, kind: ProviderKind, values: &[(&str, &str)]) {
        let link = LinkSpec {
            source: actor(source),
            target: provider(kind),
            contract: kind.contract(),
            name: LinkName::new("default").unwrap(),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            permissions: BTreeSet::new(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        };
        let settings = link.settings(&link.merged_values([])).unwrap();
        // Owners take one message after the other.
        let pending = if self.desired.components[&actor(source)].needs.class.is_fenced() { 1 } else { 64 };
        for (name, filter) in durables(self.lattice.name(), &link, &settings) {
            self.lattice.create_consumer(&name, &filter, ACK_WAIT, pending).await.unwrap();
        }
        self.desired.put_link(link);
    }

    pub(crate) fn unlink(&mut self, source: &str, contract: Contract) {
        self.desired.delete_links(&actor(source), |link| link.contract == contract).unwrap();
    }

    /// Commits what is desired; returns the generation.
    pub(crate) async fn commit(&self) -> Generation {
        self.commit_with(|_| {}).await
    }

    /// Commits what is desired and what `more` does to the assignments.
    pub(crate) async fn commit_with(&self, more: impl Fn(&mut Assignment)) -> Generation {
        let (mut plan, head) = self.planned().await;
        plan.changed.values_mut().for_each(more);
        self.lattice.commit_plan(&plan, head).await.unwrap();
        plan.head.generation
    }

    /// A plan of what is desired, and the revision over which it may be committed.
    pub(crate) async fn planned(&self) -> (Plan, Revision) {
        let state = self.lattice.read_plan().await.unwrap();
        let inventory = Inventory::new(self.reports().await, state.assignments.values());
        (plan(&self.desired, Revision(1), &inventory, &self.verdicts, &state), state.head_revision)
    }

    /// Commits and waits until `host` has applied it and runs `id`.
    pub(crate) async fn running(&self, host: &str, id: &str) -> HostReport {
        let generation = self.commit().await;
        let report = self.report(host, |report| report.applied_generation >= generation).await;
        let state = &report.components[&actor(id)].state;
        assert_eq!(state.to_string(), "running", "{report:#?}");
        report
    }

    /// A request on the bus; trying again while nobody listens yet.
    pub(crate) async fn request(&self, subject: &str, body: &str) -> String {
        let client = self.lattice.connection().client();
        let answered = eventually(&format!("an answer on {subject}"), async || {
            client.request(subject.to_owned(), Bytes::from(body.to_owned())).await.ok()
        })
        .await;
        String::from_utf8(answered.payload.to_vec()).unwrap()
    }

    /// `lattice-ctl call`: status and body.
    pub(crate) async fn call(&self, id: &str, body: &str) -> (String, String) {
        let subject = lattice_core::subject::call(self.lattice.name(), &actor(id));
        let client = self.lattice.connection().client();
        let answer =
            eventually("the call's answer", async || client.request(subject.clone(), Bytes::from(body.to_owned())).await.ok()).await;
        let status = answer.headers.as_ref().and_then(|headers| headers.get(CALL_STATUS_HEADER)).unwrap().to_string();
        (status, String::from_utf8(answer.payload.to_vec()).unwrap())
    }

    /// Publishes into the public stream.
    pub(crate) async fn store(&self, subject: &str, body: &str) {
        let jetstream = self.lattice.connection().jetstream();
        jetstream.publish(subject.to_owned(), body.to_owned().into()).await.unwrap().await.unwrap();
    }

    /// Waits until the only consumer has nothing left; returns how often a message was handed out again.
    pub(crate) async fn consumed(&self, last: u64) -> u64 {
        eventually("everything is consumed", async || {
            let stream = self.lattice.edge_stream_status().await.unwrap().unwrap();
            let [consumer] = stream.consumers.as_slice() else { panic!("{stream:?}") };
            (consumer.pending == 0 && consumer.unacknowledged == 0 && consumer.done_up_to >= last).then_some(consumer.redelivered)
        })
        .await
    }

    /// Listens for events; from now on none is missed.
    pub(crate) async fn events(&self) -> impl futures::Stream<Item = Event> + Unpin + use<> {
        let events = self.lattice.subscribe_events().await.unwrap();
        self.lattice.connection().settle().await;
        events
    }
}

/// The first event that fits.
pub(crate) async fn event(events: &mut (impl futures::Stream<Item = Event> + Unpin), fits: impl Fn(&Event) -> bool) -> Event {
    let found = async {
        loop {
            let event = events.next().await.unwrap();
            if fits(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap()
}

/// A host process; killed when dropped.
pub(crate) struct HostProcess {
    child: Child,
    log: PathBuf,
}

impl HostProcess {
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let log = dir.join("host.log");
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command(dir).args(args).stderr(stderr).stdout(Stdio::null()).spawn().unwrap();
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the host ends", async || self.child.try_wait().unwrap()).await
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the host\n{}", self.log());
        }
        // Ended already: fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with a data directory and nothing from the environment.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-host"));
    command.args(["--data-dir".as_ref(), dir.as_os_str()]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LATTICE_") || name.starts_with("WASMCLOUD_")) {
        command.env_remove(name);
    }
    command
}

/// Waits until `check` gives a value.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One HTTP request; the response as text, `None` if nobody listens.
pub(crate) async fn http_get(port: u16, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    Some(response)
}

pub(crate) fn actor(id: &str) -> ActorId {
    ActorId::new(id).unwrap()
}

pub(crate) fn provider(kind: ProviderKind) -> ProviderId {
    ProviderId::new(kind.as_str()).unwrap()
}

fn server_config(folder: &Path, port: u16) -> ServerConfig {
    ServerConfig { port, ..ServerConfig::new(folder.join("server"), LatticeName::new("default").unwrap()) }
}

fn program_of_server() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
    find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap()
}

/// The bytes of a guest program.
pub(crate) fn program(name: &str) -> Bytes {
    let target = || {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
    };
    let folder = std::env::var_os("LATTICE_PROGRAMS").map_or_else(|| target().join("wasm32-wasip2/actor/examples"), PathBuf::from);
    let path = folder.join(format!("{}.wasm", name.replace('-', "_")));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(error) => panic!("{}: {error}; build the guest programs first: make programs", path.display()),
    }
}
