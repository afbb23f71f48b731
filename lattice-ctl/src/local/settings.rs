//! What a lattice on this machine is made of, complete before anything is started.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use lattice_core::id::LatticeName;
use lattice_core::subject::SubjectPattern;
use serde::{Deserialize, Serialize};

/// What to start and where. Goes from `up` to the supervisor's process as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Name of the lattice.
    pub(crate) lattice: LatticeName,
    /// Data folder, absolute.
    pub(crate) data_dir: PathBuf,
    /// The server.
    pub(crate) server: ServerSettings,
    /// Program of the hosts.
    pub(crate) host_program: PathBuf,
    /// How many hosts.
    pub(crate) hosts: u32,
    /// Beginning of their names.
    pub(crate) name_prefix: String,
    /// Labels of all of them.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether what ends by itself is started again.
    pub(crate) restart: bool,
}

/// The server that the lattice uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ServerSettings {
    /// One of its own.
    Own {
        /// Program.
        program: PathBuf,
        /// Address to listen on.
        bind: IpAddr,
        /// Port; 0 lets the server choose.
        port: u16,
        /// Whether a power cut is survived, not only a crash.
        fsync: bool,
        /// Subjects besides `edge.>` that hosts may use, where they have to log in.
        node_subjects: Vec<SubjectPattern>,
    },
    /// One that is there already.
    Existing {
        /// Address.
        url: String,
        /// Credentials.
        creds: Option<PathBuf>,
        /// Certificates to trust.
        tls_ca: Option<PathBuf>,
    },
}
