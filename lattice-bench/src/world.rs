//! A lattice of real processes to measure: a nats-server, one host, and the programs that it is compared with.
//!
//! **Invariants.** Everything is this benchmark's own (server, port, data folder), a child of this process, and ends with
//! the [`World`], also when a row fails. Host and peers run on one processor, server and load generator on the other
//! ([`Place`]), unless a row asks for anything else.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lattice_core::id::LatticeName;
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Connection, Lattice};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::Error;
use crate::bench::Bench;
use crate::process::{Moved, Place, Process, at};

/// Name of the lattice, and region of its host.
const NAME: &str = "bench";
/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a program may take to end that was asked to.
const GRACE: Duration = Duration::from_secs(15);
/// Between two looks at something that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A server, a host, and a folder for both.
pub(crate) struct World<'a> {
    bench: &'a Bench,
    /// Ends before the server does.
    host: Option<Peer>,
    server: Server,
    connection: Connection,
    lattice: Lattice,
    place: Place,
    folder: tempfile::TempDir,
    /// Where the load generator runs.
    _moved: Moved,
}

impl<'a> World<'a> {
    /// Starts a server and one host at `place`.
    ///
    /// # Errors
    /// A program is missing, or did not start.
    pub(crate) async fn start(bench: &'a Bench, place: Place) -> Result<Self, Error> {
        let folder = tempfile::tempdir_in(&bench.scratch)?;
        let name = LatticeName::new(NAME)?;
        let program = find_server(None)?;
        let config = ServerConfig::new(folder.path().join("server"), name.clone());
        // The server is started by this thread and stays with it.
        let moved = Moved::to(if place == Place::Anywhere { Place::Anywhere } else { Place::Load })?;
        let server = Server::start(&program, &config).await?;
        let connection = lattice_nats::connect(&ConnectOptions::new(server.url(), "lattice-bench")).await?;
        let lattice = Lattice::new(connection.clone(), name);
        lattice.ensure().await?;
        lattice.ensure_edge_stream().await?;
        let mut world = Self { bench, host: None, server, connection, lattice, place, folder, _moved: moved };
        world.start_host()?;
        world.until_healthy().await?;
        for (image, id) in [("kv-nats", "kv"), ("messaging-nats", "messaging"), ("http-server", "http")] {
            world.ctl(&format!("start provider builtin://{image} {id}")).await?;
        }
        Ok(world)
    }

    /// Address of the server.
    pub(crate) fn nats_url(&self) -> String {
        self.server.url()
    }

    /// The load generator's connection.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The lattice.
    pub(crate) fn lattice(&self) -> &Lattice {
        &self.lattice
    }

    /// The host's process.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn host(&self) -> Result<Process, Error> {
        self.host.as_ref().ok_or("the host was stopped")?.process()
    }

    /// `lattice-ctl` with the words of a line; what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub(crate) async fn ctl(&self, line: &str) -> Result<String, Error> {
        let mut command = self.command("lattice-ctl")?;
        command.args(line.split_whitespace()).env("LATTICE_NATS_URL", self.nats_url()).env("LATTICE_LATTICE", NAME);
        // Without a scheduler, so that only what is measured runs on the host.
        command.env("LATTICE_LOCAL_PLAN", "true");
        let output = command.output().await?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("lattice-ctl {line}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    /// Starts the guest program `program` as the actor `id` and links it for messages on `ask.<id>`, which no stream
    /// captures: a stream would answer requests, too.
    ///
    /// # Errors
    /// As [`World::ctl`].
    pub(crate) async fn start_program(&self, program: &str, id: &str, flags: &str) -> Result<(), Error> {
        self.ctl(&format!("start actor {} {id} {flags}", self.bench.program_path(program).display())).await?;
        self.ctl(&format!("link put {id} messaging wasmcloud:messaging default --subscription ask.{id}")).await.map(drop)
    }

    /// Starts the host on what it has on its disk; nothing is waited for.
    ///
    /// # Errors
    /// The program is missing.
    pub(crate) fn start_host(&mut self) -> Result<(), Error> {
        let mut command = self.command("lattice-host")?;
        command.args(["--lattice", NAME, "--name", "NBENCH", "--label", "region=bench", "--nats-url", &self.nats_url(), "--data-dir"]);
        command.arg(self.folder.path().join("host")).stdout(Stdio::null());
        command.stderr(std::fs::File::create(self.folder.path().join("host.log"))?).kill_on_drop(true);
        self.host = Some(Peer { child: at(self.place, || command.spawn())??, port: 0 });
        Ok(())
    }

    /// Asks the host to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop_host(&mut self) -> Result<(), Error> {
        match self.host.take() {
            Some(host) => host.stop().await,
            None => Ok(()),
        }
    }

    /// Waits until the host takes work.
    async fn until_healthy(&self) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let hosts: Value = serde_json::from_str(&self.ctl("get hosts -o json").await?)?;
            if hosts.pointer("/0/state").and_then(Value::as_str) == Some("Healthy") {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("host.log")).unwrap_or_default();
        Err(format!("the host takes no work:\n{log}").into())
    }

    /// Ends everything in good order.
    ///
    /// # Errors
    /// Something did not end by itself.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.stop_host().await?;
        self.server.stop().await?;
        Ok(())
    }

    fn command(&self, program: &str) -> Result<Command, Error> {
        let mut command = Command::new(self.bench.binary(program)?);
        command.env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        Ok(command)
    }
}

/// A process of this benchmark: a native program or a host. Dropped, it is killed.
pub(crate) struct Peer {
    child: Child,
    /// Port that it serves, 0 if none.
    pub(crate) port: u16,
}

impl Peer {
    /// Starts `lattice-bench native <arguments>` at `place` and waits until it is ready.
    ///
    /// # Errors
    /// It did not become ready.
    pub(crate) async fn native(place: Place, arguments: &[&str]) -> Result<Self, Error> {
        let mut peer = Self::native_unready(place, arguments)?;
        let out = peer.child.stdout.take().ok_or("a peer without standard output")?;
        let said = tokio::time::timeout(PATIENCE, BufReader::new(out).lines().next_line()).await??;
        let port = said.as_deref().and_then(|line| line.strip_prefix("ready "));
        peer.port = port.ok_or_else(|| format!("native {} did not become ready", arguments.join(" ")))?.parse()?;
        Ok(peer)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// The system's, if it cannot be started.
    pub(crate) fn native_unready(place: Place, arguments: &[&str]) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("native").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        Ok(Self { child: at(place, || command.spawn())??, port: 0 })
    }

    /// `wasmtime serve` with a component, if there is a wasmtime on PATH.
    ///
    /// # Errors
    /// It is there and does not serve.
    pub(crate) async fn wasmtime_serve(place: Place, component: &Path) -> Result<Option<Self>, Error> {
        let port = free_port()?;
        let mut command = Command::new("wasmtime");
        command.args(["serve", "-Scli", "--addr", &format!("127.0.0.1:{port}")]).arg(component);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = match at(place, || command.spawn())? {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        until_served(port).await?;
        Ok(Some(Self { child, port }))
    }

    /// The process.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn process(&self) -> Result<Process, Error> {
        Ok(Process { pid: self.child.id().ok_or("the peer has ended")? })
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process()?.pid)?).ok_or("a process without an id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        tokio::time::timeout(GRACE, self.child.wait()).await??;
        Ok(())
    }
}

/// A port that nobody listens on now.
///
/// # Errors
/// The system's, if there is none.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Waits until somebody takes connections on a port of this machine.
///
/// # Errors
/// Nobody does for too long.
pub(crate) async fn until_served(port: u16) -> Result<(), Error> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(format!("nobody serves port {port}").into())
}
