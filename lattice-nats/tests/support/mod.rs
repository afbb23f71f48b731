//! A nats-server of its own for each test, on a port that it chose; gone with the test.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lattice_core::id::{HostId, LatticeName};
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Connection, Lattice, connect};
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server and its folder.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(folder.path().join("data"), name("default"));
        change(&mut config);
        let server = Server::start(&program(), &config).await.unwrap();
        Self { server, folder }
    }

    pub(crate) fn creds(&self, user: &str) -> PathBuf {
        self.folder.path().join("data/creds").join(format!("{user}.nk"))
    }

    pub(crate) async fn connect(&self) -> Connection {
        connect(&ConnectOptions::new(self.server.url(), "test")).await.unwrap()
    }

    pub(crate) async fn connect_as(&self, user: &str) -> Connection {
        connect(&ConnectOptions { creds: Some(self.creds(user)), ..ConnectOptions::new(self.server.url(), user) }).await.unwrap()
    }

    /// The lattice `default`, not yet made.
    pub(crate) async fn lattice(&self) -> Lattice {
        Lattice::new(self.connect().await, name("default"))
    }

    /// The lattice `default` with all that it needs.
    pub(crate) async fn ready(&self) -> Lattice {
        let lattice = self.lattice().await;
        lattice.ensure().await.unwrap();
        lattice
    }
}

/// The server program: the one that is named, found, or fetched into the repository's `.tools`.
pub(crate) fn program() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
    find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap()
}

pub(crate) fn name(text: &str) -> LatticeName {
    LatticeName::new(text).unwrap()
}

/// Some host; another for each letter.
pub(crate) fn host(letter: char) -> HostId {
    HostId::new(format!("N{}", letter.to_string().repeat(55))).unwrap()
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
