//! `up.json`: what runs in a data folder, for `down`, `doctor` and people.

use std::path::PathBuf;

use lattice_core::error::Problem;
use lattice_core::id::{HostId, HostName, LatticeName};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::process::Process;
use crate::problems;

/// Largest state file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Name of the lattice.
    pub(crate) lattice: LatticeName,
    /// Address of the server.
    pub(crate) nats_url: String,
    /// The process that looks after the others.
    pub(crate) supervisor: Process,
    /// Our own server, while it runs.
    #[serde(default)]
    pub(crate) server: Option<Process>,
    /// Whether a power cut is survived; none with somebody else's server.
    #[serde(default)]
    pub(crate) fsync: Option<bool>,
    /// Credentials of the operator, where the server wants some.
    #[serde(default)]
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust.
    #[serde(default)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The hosts.
    pub(crate) hosts: Vec<HostState>,
}

/// A host of this folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostState {
    /// Its name.
    pub(crate) name: HostName,
    /// Its identity, once it has said it.
    pub(crate) id: Option<HostId>,
    /// Its process, while it runs.
    pub(crate) process: Option<Process>,
}

impl State {
    /// Reads what runs; `None` if nothing was started here, or it was ended.
    ///
    /// # Errors
    /// If the file cannot be read or understood.
    pub(crate) fn read(folder: &Folder) -> Result<Option<Self>, Problem> {
        use std::io::Read as _;
        let path = folder.state();
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problems::path("state file", &path, &error)),
        };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| problems::path("state file", &path, &error))?;
        serde_json::from_str(&text).map(Some).map_err(|error| problems::failed(&format!("reading {}", path.display()), &error))
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, folder: &Folder) -> Result<(), Problem> {
        let path = folder.state();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).map_err(|error| problems::failed("writing the state file", &error))?;
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(|error| problems::path("state file", &path, &error))
    }

    /// Removes the file: nothing runs any more.
    pub(crate) fn remove(folder: &Folder) {
        // One that is gone is as good.
        let _ = std::fs::remove_file(folder.state());
    }

    /// Hosts and server, in the order in which they are to end.
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.hosts.iter().filter_map(|host| host.process).chain(self.server).collect()
    }
}
