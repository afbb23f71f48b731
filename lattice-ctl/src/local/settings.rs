//! What a lattice on this machine is made of, complete before anything is started.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use lattice_core::id::{LatticeName, Region};
use lattice_core::subject::SubjectPattern;
use lattice_core::system::SystemActor;
use serde::{Deserialize, Serialize};

use super::notary::Trust;

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
    /// What they take turns with.
    pub(crate) turns: Turns,
    /// Components of lattice's own actors; those that are not here are left out.
    pub(crate) system: BTreeMap<SystemActor, PathBuf>,
    /// Whether what ends by itself is started again.
    pub(crate) restart: bool,
    /// Whom the hosts trust.
    pub(crate) trust: Trust,
}

/// Values of which the first host gets the first, the second the second, and so on, from the beginning again after the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Turns {
    /// Regions.
    pub(crate) regions: Vec<Region>,
    /// CPU to offer in thousandths of a core.
    pub(crate) cpu_capacity: Vec<u32>,
    /// Memory to offer in MiB.
    pub(crate) memory_capacity: Vec<u32>,
}

impl Turns {
    /// Flags of the program of the host with this number, counted from 0.
    pub(crate) fn flags(&self, host: usize) -> Vec<String> {
        fn turn<T: ToString>(values: &[T], host: usize) -> Option<String> {
            values.get(host.checked_rem(values.len())?).map(T::to_string)
        }
        let flags = [
            ("--label", turn(&self.regions, host).map(|region| format!("region={region}"))),
            ("--cpu-capacity", turn(&self.cpu_capacity, host)),
            ("--memory-capacity", turn(&self.memory_capacity, host)),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten().collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_turns() {
        let region = |text: &str| Region::new(text).unwrap();
        let turns = Turns { regions: vec![region("a"), region("b")], cpu_capacity: vec![1000], memory_capacity: vec![] };
        let check = |host: usize, expected: &str| assert_eq!(turns.flags(host).join(" "), expected);
        check(0, "--label region=a --cpu-capacity 1000");
        check(1, "--label region=b --cpu-capacity 1000");
        check(2, "--label region=a --cpu-capacity 1000");
        assert!(Turns::default().flags(7).is_empty());
    }
}
