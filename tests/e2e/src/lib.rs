//! What the stories share: a lattice of real processes, and the command line that steers it.
//!
//! Every test has its own server on a port that the server chose, its own data folder and its own home folder; dropping
//! [`World`] ends all of it. Nothing here sleeps for an effect: [`World::until`] asks again until a value is there or the
//! deadline has passed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up; far above what it takes on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a value that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Region of the hosts that [`World::up`] starts.
pub const REGION: &str = "ap-east-1";

/// A lattice of real processes.
pub struct World {
    folder: tempfile::TempDir,
    /// Address of the server.
    pub nats_url: String,
    /// What `up --detach -o json` printed.
    pub up: Value,
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
}

/// Folder of the binaries under test: two above the test's own executable.
pub fn bin(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test has a path");
    let path = exe.parent().and_then(Path::parent).expect("target/debug/deps").join(name);
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
        let folder = tempfile::tempdir().expect("a folder for the test");
        let mut world = Self { folder, nats_url: String::new(), up: Value::Null };
        let hosts = hosts.to_string();
        let data = world.data_dir();
        let label = format!("region={REGION}");
        let mut arguments = vec!["up", "--detach", "-o", "json", "--nats-port", "0", "--hosts", &hosts, "--label", &label];
        arguments.extend(["--data-dir", data.to_str().expect("UTF-8")]);
        arguments.extend(flags);
        world.up = world.ctl(&arguments).json();
        world.nats_url = world.up["nats_url"].as_str().expect("nats_url").to_owned();
        world
    }

    /// Data folder of the lattice.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
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

    /// Process id of a host by name, as `up` printed it.
    pub fn host_pid(&self, name: &str) -> i32 {
        let hosts = self.up["hosts"].as_array().expect("hosts");
        let host = hosts.iter().find(|host| host["name"] == name).expect("the host is there");
        i32::try_from(host["pid"].as_i64().expect("pid")).expect("a pid")
    }

    /// Asks again until `look` finds something.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, &mut look)
    }

    /// State and number of ready instances of an actor.
    pub fn actor_state(&self, id: &str) -> (String, u64) {
        let actors = self.line("get actors -o json").json();
        let actor = actors.as_array().and_then(|actors| actors.iter().find(|actor| actor["id"] == id).cloned());
        let Some(actor) = actor else { return ("absent".to_owned(), 0) };
        let instances = actor["instances"].as_array().map_or(0, |all| all.iter().filter_map(|one| one["count"].as_u64()).sum());
        (actor["state"].as_str().unwrap_or_default().to_owned(), instances)
    }

    /// Starts a guest program as an actor on one host and links it for core messages on `edge.sensor.<id>`.
    pub fn start_program(&self, name: &str, id: &str, flags: &str) {
        let path = program(name);
        self.line("start provider builtin://messaging-nats messaging").ok();
        self.line(&format!("start actor {} {id} {flags}", path.display())).ok();
        self.line(&format!("link put {id} messaging wasmcloud:messaging default --subscription edge.sensor.{id}")).ok();
    }

    /// Calls an actor with a payload.
    pub fn call(&self, id: &str, payload: &str) -> Ran {
        let subject = format!("edge.sensor.{id}");
        self.ctl(&["call", id, "HandleMessage", "--subject", &subject, "--data", payload])
    }

    /// A client of the server, as a sensor or a stock tool would have one.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(&self.nats_url).await.expect("the server takes clients without credentials")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let data = self.data_dir();
        let Some(data) = data.to_str() else { return };
        let ended = self.ctl(&["down", "--data-dir", data, "--yes"]);
        if ended.code != 0 && !std::thread::panicking() {
            panic!("{}: {} {}", ended.line, ended.out, ended.err);
        }
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

impl World {
    fn show_logs(&self) {
        let mut folders = vec![self.data_dir()];
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

/// Sends a signal to a process of the test's own lattice.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid above 0");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}
