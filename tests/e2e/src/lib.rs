//! What the stories share: a lattice of real processes, and the command line that steers it.
//!
//! Every test has its own server on a port that the server chose, its own data folder and its own home folder; dropping
//! [`World`] ends all of it. Nothing here sleeps for an effect: [`World::until`] asks again until a value is there or the
//! deadline has passed.
//!
//! [`Bus`] is a client of the server, [`http`] one of an actor's port, [`process`] what the kernel says about a process.

mod bus;
pub mod http;
pub mod process;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use bus::{Bus, Heard};
pub use process::HostProcess;

/// How long anything may take before a test gives up; far above what it takes on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a value that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Region of the hosts that [`World::up`] starts.
pub const REGION: &str = "ap-east-1";

/// The article's reading, too hot.
pub const HOT: &str = r#"{"device_id":"sensor-001","temperature":92.5,"humidity":78.3,"timestamp":1718668800,"region":"ap-east-1"}"#;

/// A lattice of real processes.
pub struct World {
    folder: tempfile::TempDir,
    /// Address of the server.
    pub nats_url: String,
    /// What `up --detach -o json` printed.
    pub up: Value,
    /// Whether the test has stopped it already.
    is_down: Cell<bool>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The arguments, for messages.
    pub line: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn of(line: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { line, code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output, if the command did its work.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}\n{}", self.line, self.out, self.err);
        self.out
    }

    /// Standard output as JSON, if the command did its work.
    #[track_caller]
    pub fn json(self) -> Value {
        let line = self.line.clone();
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    /// Checks the exit code and that standard error holds `part`.
    #[track_caller]
    pub fn fails(self, code: i32, part: &str) -> Self {
        assert_eq!(self.code, code, "{}\n{}\n{}", self.line, self.out, self.err);
        assert!(self.err.contains(part), "{}: no `{part}` in\n{}", self.line, self.err);
        self
    }

    /// The error of a command that was run with `-o json`, checked for its exit code, its code and the start of its
    /// message: `{"code", "message", "hint", "causes"}`.
    #[track_caller]
    pub fn problem(self, exit: i32, code: &str, start: &str) -> Value {
        assert_eq!(self.code, exit, "{}\n{}\n{}", self.line, self.out, self.err);
        let object: Value = serde_json::from_str(self.err.trim()).unwrap_or_else(|error| panic!("{}: {error}: {}", self.line, self.err));
        let problem = object["error"].clone();
        assert_eq!(problem["code"], code, "{}: {problem}", self.line);
        assert!(problem["message"].as_str().is_some_and(|message| message.starts_with(start)), "{}: {problem}", self.line);
        assert!(problem["causes"].is_array(), "{}: {problem}", self.line);
        problem
    }
}

/// Path of a binary under test: it is one folder above a test's own executable, and beside a program's.
pub fn bin(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test has a path");
    let folder = exe.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("target/debug/deps") } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: `make build`", path.display());
    path
}

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders down").to_owned()
}

fn guests() -> PathBuf {
    let debug = bin("lattice-ctl");
    debug.ancestors().nth(2).expect("target").join("wasm32-wasip2/actor")
}

/// Path of an actor, `edge_processor`.
pub fn actor(name: &str) -> PathBuf {
    let path = guests().join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not built: `make actors`", path.display());
    path
}

/// Path of a guest program of tests/programs.
pub fn program(name: &str) -> PathBuf {
    let path = guests().join(format!("examples/{name}.wasm"));
    assert!(path.exists(), "{} is not built: `make programs`", path.display());
    path
}

impl World {
    /// A lattice with `hosts` hosts in [`REGION`].
    pub fn up(hosts: u32) -> Self {
        Self::up_with(hosts, &[])
    }

    /// The same with more flags for `up`.
    pub fn up_with(hosts: u32, flags: &[&str]) -> Self {
        Self::bare().up_again(hosts, flags)
    }

    /// Starts what this world has in its data folder.
    pub fn up_again(self, hosts: u32, flags: &[&str]) -> Self {
        let mut world = self;
        let hosts = hosts.to_string();
        let data = world.data_dir();
        let label = format!("region={REGION}");
        let mut arguments = vec!["up", "--detach", "-o", "json", "--hosts", &hosts];
        if !flags.contains(&"--region") {
            arguments.extend(["--label", &label]);
        }
        if !flags.contains(&"--nats-port") {
            arguments.extend(["--nats-port", "0"]);
        }
        arguments.extend(["--data-dir", data.to_str().expect("UTF-8")]);
        arguments.extend(flags);
        // An address in the environment would mean a server that is there already.
        world.nats_url.clear();
        world.up = world.ctl(&arguments).json();
        world.nats_url = world.up["nats_url"].as_str().expect("nats_url").to_owned();
        world.is_down = Cell::new(false);
        world
    }

    /// A folder and a command line, but no lattice yet.
    pub fn bare() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        Self { folder, nats_url: String::new(), up: Value::Null, is_down: Cell::new(true) }
    }

    /// Data folder of the lattice.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Data folder of one of its hosts.
    pub fn host_dir(&self, name: &str) -> PathBuf {
        self.data_dir().join("hosts").join(name)
    }

    /// A folder of this test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `lattice-ctl` with these arguments.
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("lattice-ctl runs");
        Ran::of(format!("lattice-ctl {}", arguments.join(" ")), output)
    }

    /// `lattice-ctl` with the words of a line, split at white space.
    pub fn line(&self, line: &str) -> Ran {
        self.ctl(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// `lattice-ctl`, to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bin("lattice-ctl"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_clear().env("PATH", path_with_server()).env("HOME", self.folder.path());
        if let Some(server) = std::env::var_os("LATTICE_NATS_SERVER") {
            command.env("LATTICE_NATS_SERVER", server);
        }
        if !self.nats_url.is_empty() {
            command.env("LATTICE_NATS_URL", &self.nats_url);
        }
        command
    }

    /// Stops everything, as [`Drop`] would.
    #[track_caller]
    pub fn down(&self) {
        let pids = self.pids();
        let data = self.data_dir();
        self.ctl(&["down", "--data-dir", data.to_str().expect("UTF-8"), "--yes"]).ok();
        self.is_down.set(true);
        for pid in pids {
            assert!(!process::is_alive(pid), "process {pid} is still there after `down`");
        }
    }

    /// Asks again until `look` finds something.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, &mut look)
    }

    /// A client of the server, as a sensor or a stock tool would have one.
    pub fn bus(&self) -> Bus {
        Bus::open(&self.nats_url)
    }
}

/// Hosts and their processes.
impl World {
    /// Process id of a host that runs now, by name.
    pub fn host_pid(&self, name: &str) -> i32 {
        self.until(&format!("{name} runs"), || {
            let state = self.state();
            let host = state["hosts"].as_array()?.iter().find(|host| host["name"] == name)?.clone();
            pid(&host["process"]).filter(|pid| process::is_alive(*pid))
        })
    }

    /// Id of a host by name, as `up` printed it.
    pub fn host_id(&self, name: &str) -> String {
        let hosts = self.up["hosts"].as_array().expect("hosts");
        let host = hosts.iter().find(|host| host["name"] == name).expect("the host is there");
        host["id"].as_str().expect("id").to_owned()
    }

    /// Process id of the server that runs now.
    pub fn server_pid(&self) -> i32 {
        self.until("a server runs", || pid(&self.state()["server"]).filter(|pid| process::is_alive(*pid)))
    }

    /// Process id of the one that looks after the others.
    pub fn supervisor_pid(&self) -> i32 {
        pid(&self.state()["supervisor"]).expect("a supervisor")
    }

    /// What `up` has written down about its processes.
    fn state(&self) -> Value {
        let text = std::fs::read(self.data_dir().join("up.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn pids(&self) -> Vec<i32> {
        let state = self.state();
        let hosts = state["hosts"].as_array().cloned().unwrap_or_default();
        let hosts = hosts.iter().filter_map(|host| pid(&host["process"]));
        hosts.chain(pid(&state["server"])).chain(pid(&state["supervisor"])).collect()
    }

    /// What `get hosts` says about a host.
    pub fn host(&self, name: &str) -> Option<Value> {
        let hosts = self.line("get hosts -o json").json();
        hosts.as_array().and_then(|hosts| hosts.iter().find(|host| host["name"] == name).cloned())
    }

    /// Waits until a host answers and takes work.
    #[track_caller]
    pub fn until_ready(&self, name: &str) {
        self.until(&format!("{name} is ready"), || self.host(name).filter(|host| host["state"] == "Healthy"));
    }

    /// Starts the test's own `lattice-host` on the data folder of a host of `up`.
    pub fn restart_host(&self, name: &str, flags: &[&str]) -> HostProcess {
        HostProcess::start(&self.host_dir(name), flags)
    }
}

/// Actors.
impl World {
    /// State and number of ready instances of an actor.
    pub fn actor_state(&self, id: &str) -> (String, u64) {
        let actors = self.line("get actors -o json").json();
        let actor = actors.as_array().and_then(|actors| actors.iter().find(|actor| actor["id"] == id).cloned());
        let Some(actor) = actor else { return ("absent".to_owned(), 0) };
        let instances = actor["instances"].as_array().map_or(0, |all| all.iter().filter_map(|one| one["count"].as_u64()).sum());
        (actor["state"].as_str().unwrap_or_default().to_owned(), instances)
    }

    /// Ready instances of an actor by host name.
    pub fn instances(&self, id: &str) -> BTreeMap<String, u64> {
        let actors = self.line(&format!("get actors {id} -o json")).json();
        let on = |one: &Value| Some((one["host_name"].as_str()?.to_owned(), one["count"].as_u64()?));
        actors[0]["instances"].as_array().map(|all| all.iter().filter_map(on).collect()).unwrap_or_default()
    }

    /// Waits until an actor is in a state that starts with `state`, and says which.
    #[track_caller]
    pub fn until_actor(&self, id: &str, state: &str) -> String {
        self.until(&format!("{id} is {state}"), || Some(self.actor_state(id).0).filter(|found| found.starts_with(state)))
    }

    /// Starts a guest program as an actor and links it for core messages on `edge.sensor.<id>`.
    #[track_caller]
    pub fn start_program(&self, name: &str, id: &str, flags: &str) {
        let path = program(name);
        self.line("start provider builtin://messaging-nats messaging").ok();
        self.line(&format!("start actor {} {id} {flags}", path.display())).ok();
        self.line(&format!("link put {id} messaging wasmcloud:messaging default --subscription edge.sensor.{id}")).ok();
    }

    /// Starts edge-processor on a host with everything it needs, `delivery` for its readings; the port that it serves.
    #[track_caller]
    pub fn start_edge_processor(&self, hosts: &str, delivery: &str) -> u16 {
        let port = http::free_port();
        for (image, id) in [("kv-nats", "kv"), ("messaging-nats", "messaging"), ("http-server", "http")] {
            self.line(&format!("start provider builtin://{image} {id}")).ok();
        }
        self.line(&format!("start actor file://{} edge-processor --host {hosts} --max 10", actor("edge_processor").display())).ok();
        self.line(&format!("link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --region {REGION}")).ok();
        self.line(&format!("link put edge-processor http wasmcloud:httpserver default --port {port}")).ok();
        let link = "link put edge-processor messaging wasmcloud:messaging cloud-sync";
        self.line(&format!("{link} --subscription edge.sensor.{REGION} --delivery {delivery}")).ok();
        port
    }

    /// Calls an actor with a payload.
    pub fn call(&self, id: &str, payload: &str) -> Ran {
        let subject = format!("edge.sensor.{id}");
        self.ctl(&["call", id, "HandleMessage", "--subject", &subject, "--data", payload])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
            let data = self.data_dir();
            let _ = self.command(&["down", "--yes", "--data-dir"]).arg(data).stdin(Stdio::null()).output();
        } else if !self.is_down.get() {
            self.down();
        }
    }
}

impl World {
    /// The end of every log, for whoever reads why a test failed.
    fn show_logs(&self) {
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<&str> = text.lines().rev().take(40).collect();
                    eprintln!("--- {}\n{}", path.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                }
            }
        }
    }
}

fn pid(process: &Value) -> Option<i32> {
    i32::try_from(process["pid"].as_i64()?).ok()
}

/// Asks again until `look` finds something.
#[track_caller]
pub fn until<T>(what: &str, look: &mut dyn FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The pinned server of the repository is found like one that was installed.
fn path_with_server() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([root().join(".tools")]);
    std::env::join_paths(folders).expect("PATH")
}
