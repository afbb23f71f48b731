//! Starting a nats-server, for `lattice-ctl up` and for tests.
//!
//! **Invariants.** Configuration is complete before the process starts. One server per data folder: the running one holds
//! a lock for as long as it lives, whoever started it. The server is in a process group of its own, so that Ctrl-C in a
//! terminal reaches our programs first and they can still say good-bye over it.

mod config;
mod find;
mod keys;

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lattice_core::error::{ErrorCode, Problem};
use tokio::process::{Child, Command};

pub use config::{
    DEFAULT_MAX_FILE_BYTES, DEFAULT_MAX_MEMORY_BYTES, Durability, LATTICE_ACCOUNT, MAX_PAYLOAD_BYTES, ServerConfig, UserPolicy,
};
pub use find::find_server;

/// How long a server may take until it listens; recovering a large store takes a while.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at whether it listens.
const START_POLL: Duration = Duration::from_millis(10);
/// How long a server may take to stop before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How much of the server's log is read to find out why it did not start, in bytes.
const LOG_TAIL_BYTES: u64 = 64 * 1024;
/// Largest ports file that is read, in bytes.
const MAX_PORTS_BYTES: u64 = 64 * 1024;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No program to start.
    #[error("no nats-server found: looked at {}", .tried.join(", "))]
    NotFound { tried: Vec<String> },
    /// The program found cannot be used.
    #[error("{} is no usable nats-server: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    /// A folder or file of the server cannot be made or read.
    #[error("{}", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A key file holds something else.
    #[error("key file {}: {reason}", .path.display())]
    Key { path: PathBuf, reason: String },
    /// A server runs on this data folder already.
    #[error("a nats-server runs on {} already", .data_dir.display())]
    Running { data_dir: PathBuf },
    /// Another program has the port.
    #[error("port {} is in use on {}", .address.port(), .address.ip())]
    PortTaken { address: SocketAddr },
    /// The program cannot be executed.
    #[error("cannot start {}", .path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The server ended instead of listening.
    #[error("nats-server ended at once ({status}): {reason}; its log is {}", .log.display())]
    Ended { status: String, reason: String, log: PathBuf },
    /// The server did not listen in time.
    #[error("nats-server did not listen within {} s; its log is {}", .after.as_secs(), .log.display())]
    TimedOut { after: Duration, log: PathBuf },
}

impl From<ServerError> for Problem {
    fn from(error: ServerError) -> Self {
        let problem = match &error {
            ServerError::NotFound { .. } => {
                Self::new(ErrorCode::NotFound, error.to_string()).hint("`make tools` fetches one; or give its path in LATTICE_NATS_SERVER")
            }
            ServerError::PortTaken { .. } => Self::new(ErrorCode::Conflict, error.to_string())
                .hint("another `up`, or another server: choose a port with --nats-port, or 0 for a free one"),
            ServerError::Running { .. } => {
                Self::new(ErrorCode::Conflict, error.to_string()).hint("`lattice-ctl down`, or another --data-dir")
            }
            ServerError::TimedOut { .. } => Self::new(ErrorCode::TimedOut, error.to_string()),
            ServerError::Unusable { .. }
            | ServerError::Folder { .. }
            | ServerError::Key { .. }
            | ServerError::Spawn { .. }
            | ServerError::Ended { .. } => Self::new(ErrorCode::Failed, error.to_string()),
        };
        match std::error::Error::source(&error) {
            Some(source) => problem.caused_by(source),
            None => problem,
        }
    }
}

/// A nats-server that this process started. Dropped, it is killed; [`Server::detach`] leaves it running.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    pid: u32,
    address: SocketAddr,
}

impl Server {
    /// Starts `program` as `config` says and waits until it listens.
    ///
    /// # Errors
    /// [`ServerError`]; the process is gone then.
    pub async fn start(program: &Path, config: &ServerConfig) -> Result<Self, ServerError> {
        let files = Files::prepare(&config.data_dir)?;
        let users = keys::Users::load_or_create(&config.data_dir)?;
        let text = config::render(config, &files, &users)?;
        write_private(&files.config, text.as_bytes())?;

        let log_start = file_len(&files.log);
        let mut child = spawn(program, &files)?;
        let pid = child.id().unwrap_or(0);
        let deadline = tokio::time::Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = child.try_wait().map_err(|source| ServerError::Spawn { path: program.to_owned(), source })? {
                return Err(why_it_ended(status, &files.log, log_start));
            }
            if let Some(port) = listening_port(&files.run_dir, pid) {
                return Ok(Self { child: Some(child), pid, address: SocketAddr::new(config.bind, port) });
            }
            if tokio::time::Instant::now() >= deadline {
                let _ = child.kill().await;
                return Err(ServerError::TimedOut { after: START_DEADLINE, log: files.log });
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Address for clients on this machine: the bound one, or loopback if every address is bound.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        format!("nats://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process ends, however that comes.
    ///
    /// # Errors
    /// The operating system's, if it cannot be waited for.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => Err(std::io::Error::other("the server was left running")),
        }
    }

    /// Ends the process: asks, waits, then kills.
    ///
    /// # Errors
    /// The operating system's, if it can be neither signalled nor waited for.
    pub async fn stop(mut self) -> std::io::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        match tokio::time::timeout(STOP_GRACE, self.wait()).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                self.signal(rustix::process::Signal::KILL)?;
                self.wait().await
            }
        }
    }

    /// Leaves the process running and returns its id.
    pub fn detach(mut self) -> u32 {
        self.child = None;
        self.pid
    }

    fn signal(&self, signal: rustix::process::Signal) -> std::io::Result<()> {
        // `Child::id` is empty once the process was waited for: a number that may be somebody else's is never signalled.
        let Some(pid) = self.child.as_ref().and_then(Child::id) else {
            return Ok(());
        };
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| std::io::Error::other("process id out of range"))?;
        rustix::process::kill_process(pid, signal).map_err(std::io::Error::from)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}

/// The files of one server below the data folder.
#[derive(Debug)]
struct Files {
    config: PathBuf,
    log: PathBuf,
    pid: PathBuf,
    /// Where the server writes which ports it listens on; emptied before each start.
    run_dir: PathBuf,
    store: PathBuf,
    /// Held by the server process itself, as its standard input, so that the lock lives exactly as long as it does.
    lock: File,
}

impl Files {
    fn prepare(data_dir: &Path) -> Result<Self, ServerError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Folder { path, source }
        };
        make_private_folder(data_dir)?;
        let data_dir = data_dir.canonicalize().map_err(at(data_dir))?;
        let root = data_dir.join("nats");
        let (run_dir, store) = (root.join("run"), root.join("jetstream"));
        make_private_folder(&root)?;
        make_private_folder(&store)?;

        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ServerError::Running { data_dir: data_dir.clone() },
            TryLockError::Error(source) => ServerError::Folder { path: lock_path, source },
        })?;
        if run_dir.exists() {
            std::fs::remove_dir_all(&run_dir).map_err(at(&run_dir))?;
        }
        make_private_folder(&run_dir)?;
        Ok(Self { config: root.join("server.conf"), log: root.join("server.log"), pid: root.join("server.pid"), run_dir, store, lock })
    }
}

fn spawn(program: &Path, files: &Files) -> Result<Child, ServerError> {
    let folder = |source| ServerError::Folder { path: files.log.clone(), source };
    let log = File::options().create(true).append(true).open(&files.log).map_err(folder)?;
    let log_too = log.try_clone().map_err(folder)?;
    let lock = files.lock.try_clone().map_err(folder)?;
    Command::new(program)
        .arg("-c")
        .arg(&files.config)
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(log_too))
        .process_group(0)
        .spawn()
        .map_err(|source| ServerError::Spawn { path: program.to_owned(), source })
}

/// The port in the file that the server writes once it listens.
fn listening_port(run_dir: &Path, pid: u32) -> Option<u16> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let files = std::fs::read_dir(run_dir).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let suffix = format!("_{pid}.ports");
    let path = files.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&suffix)))?;
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_PORTS_BYTES).read_to_string(&mut text).ok()?;
    let ports: Ports = serde_json::from_str(&text).ok()?;
    ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
}

fn why_it_ended(status: ExitStatus, log: &Path, log_start: u64) -> ServerError {
    let text = read_from(log, log_start).unwrap_or_default();
    if let Some(address) = text.lines().find_map(address_in_use) {
        return ServerError::PortTaken { address };
    }
    let fatal = text.lines().rev().find(|line| line.contains("[FTL]") || line.starts_with("nats-server:"));
    let reason = fatal.or_else(|| text.lines().next_back()).unwrap_or("no reason in its log");
    let reason = reason.rsplit_once("[FTL] ").map_or(reason, |(_, reason)| reason).chars().take(500).collect();
    ServerError::Ended { status: status.to_string(), reason, log: log.to_owned() }
}

/// The address in `… "listen tcp 127.0.0.1:4222: bind: address already in use"`.
fn address_in_use(line: &str) -> Option<SocketAddr> {
    let before = line.split_once(": bind: address already in use")?.0;
    let address = before.rsplit_once("listen tcp ")?.1;
    match address.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?))),
        None => address.parse().ok(),
    }
}

fn read_from(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn make_private_folder(path: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ServerError::Folder { path: path.to_owned(), source })
}

/// Writes `path` whole or not at all, readable by its owner only.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), ServerError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let at = |source| ServerError::Folder { path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(at)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at)?;
    std::fs::rename(&draft, path).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_found_in_the_log() {
        let check =
            |line: &str, expected: Option<&str>| assert_eq!(address_in_use(line), expected.map(|text| text.parse().unwrap()), "{line}");
        check(
            r#"[1] [FTL] Error listening on port: 127.0.0.1:4222, "listen tcp 127.0.0.1:4222: bind: address already in use""#,
            Some("127.0.0.1:4222"),
        );
        check(r#""listen tcp [::1]:4222: bind: address already in use""#, Some("[::1]:4222"));
        check(r#""listen tcp :4222: bind: address already in use""#, Some("0.0.0.0:4222"));
        check("[INF] Server is ready", None);
    }
}
