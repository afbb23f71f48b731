//! Everything that a host must know before it opens anything: flags over saved settings over defaults, all checked.
//!
//! **Invariant.** A [`Config`] that exists is valid; what is wrong is one [`ConfigError`] that names flag and value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostName, InvalidName, LatticeName, Region};
use lattice_core::policy::force::Preset;
use lattice_core::timing::DRAIN_DEADLINE;
use lattice_core::trust::{PublicKey, TrustedKeys};
use serde::{Deserialize, Serialize};

use crate::args::{Admin, Args};
use crate::profile;

/// Server of a host that was told of none.
const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";
/// Lattice of a host that was told of none.
const DEFAULT_LATTICE: &str = "default";
/// Name of a host on a machine that has none.
const NAMELESS: &str = "host";
/// Region of a host without the label.
const DEFAULT_REGION: &str = "local";
/// The label that names the region.
pub const REGION_LABEL: &str = "region";
/// Actors of other hosts whose code is kept compiled: all of a small lattice, a part of a large one.
const DEFAULT_PREFETCH: u32 = 64;
/// Instances of all actors together, unless said otherwise: address space, not memory.
const DEFAULT_MAX_INSTANCES: u32 = 256;
/// Largest memory of one instance in MiB, unless said otherwise.
const DEFAULT_ACTOR_MEMORY_MB: u32 = 256;
/// Memory of all actors in MiB where the machine does not tell its size.
const FALLBACK_HOST_MEMORY_MB: u32 = 1024;
/// Most labels of one host: each is part of every heartbeat.
const MAX_LABELS: usize = 64;
/// Longest value of a label in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// Settings as they are kept in `host.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// How often this host was started: makes each start's incarnation sort after the ones before, whatever the clock says.
    #[serde(default)]
    pub starts: u64,
    /// Name of the host.
    pub name: Option<HostName>,
    /// Lattice.
    pub lattice: Option<LatticeName>,
    /// Address of NATS.
    pub nats_url: Option<String>,
    /// Credentials for NATS.
    pub creds: Option<PathBuf>,
    /// Certificates to trust.
    pub tls_ca: Option<PathBuf>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Admin port.
    pub admin: Option<SocketAddr>,
    /// Instances at once.
    pub max_instances: Option<u32>,
    /// Memory of one instance in MiB.
    pub actor_memory_mb: Option<u32>,
    /// Memory of all actors in MiB.
    pub host_memory_mb: Option<u32>,
    /// CPU to offer in thousandths of a core.
    #[serde(default)]
    pub cpu_capacity: Option<u32>,
    /// Memory to offer in MiB.
    #[serde(default)]
    pub memory_capacity: Option<u32>,
    /// Actors of other hosts whose code is kept compiled.
    #[serde(default)]
    pub prefetch: Option<u32>,
    /// Patience while draining in seconds.
    pub drain_seconds: Option<u32>,
    /// Who signs actors; none: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_actors: Option<BTreeSet<PublicKey>>,
    /// Who signs policies; none: who signs actors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_policies: Option<BTreeSet<PublicKey>>,
    /// What holds without any policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_default: Option<Preset>,
}

/// What a host is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the host.
    pub name: HostName,
    /// Lattice that it joins.
    pub lattice: LatticeName,
    /// Region, also among the labels.
    pub region: Region,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Address of NATS.
    pub nats_url: String,
    /// Credentials for NATS.
    pub creds: Option<PathBuf>,
    /// Certificates to trust.
    pub tls_ca: Option<PathBuf>,
    /// Admin port.
    pub admin: Option<SocketAddr>,
    /// Instances of all actors at once.
    pub max_instances: u32,
    /// Memory of one instance in MiB.
    pub actor_memory_mb: u32,
    /// Memory of all actors in MiB.
    pub host_memory_mb: u32,
    /// CPU to offer in thousandths of a core, if not all of the machine's.
    pub cpu_capacity: Option<u32>,
    /// Memory to offer in MiB, if not all of the machine's.
    pub memory_capacity: Option<u32>,
    /// Actors of other hosts whose code is kept compiled.
    pub prefetch: u32,
    /// Patience with work that runs when the host stops.
    pub drain: Duration,
    /// Whose signatures count.
    pub trust: TrustedKeys,
    /// What holds without any policy.
    pub policy_default: Preset,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that is none.
    #[error("--{flag}: {source}")]
    Name {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        source: InvalidName,
    },
    /// A label that makes no sense.
    #[error("--label {label}: {reason}")]
    Label {
        /// What was given, escaped.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// Nowhere to keep data.
    #[error("no data directory: neither --data-dir nor XDG_DATA_HOME nor HOME says where")]
    NoDataDir,
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        let problem = Self::new(ErrorCode::Usage, error.to_string());
        match error {
            ConfigError::Label { .. } => problem.hint("a label looks like region=ap-east-1"),
            ConfigError::Name { .. } => problem,
            ConfigError::NoDataDir => problem.hint("give --data-dir DIR"),
        }
    }
}

/// The data directory that `args` mean: given, or the one of the host's name below the user's data folder.
///
/// # Errors
/// [`ConfigError::NoDataDir`], or [`ConfigError::Name`] if the name decides and is none.
pub fn data_dir(args: &Args) -> Result<PathBuf, ConfigError> {
    if let Some(dir) = &args.data_dir {
        return Ok(dir.clone());
    }
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = given("XDG_DATA_HOME").or_else(|| given("HOME").map(|home| home.join(".local/share"))).ok_or(ConfigError::NoDataDir)?;
    let name = args.name.as_deref().map_or_else(machine_name, host_name)?;
    Ok(base.join("lattice/hosts").join(name.as_str()))
}

impl Saved {
    /// These settings with those of the command line over them. Paths become absolute, so that they mean the same wherever
    /// the host is started next.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag whose value makes no sense.
    pub fn overridden(mut self, args: &Args) -> Result<Self, ConfigError> {
        if let Some(name) = &args.name {
            self.name = Some(host_name(name)?);
        }
        if let Some(lattice) = &args.lattice {
            self.lattice = Some(lattice_name(lattice)?);
        }
        for label in &args.labels {
            let (key, value) = parse_label(label)?;
            self.labels.insert(key, value);
        }
        if self.labels.len() > MAX_LABELS {
            return Err(label_error("", format!("more than {MAX_LABELS} labels")));
        }
        match args.admin {
            Some(Admin::On(address)) => self.admin = Some(address),
            Some(Admin::Off) => self.admin = None,
            None => {}
        }
        self.nats_url = args.nats_url.clone().or(self.nats_url);
        self.creds = args.creds.as_deref().map(absolute).or(self.creds);
        self.tls_ca = args.tls_ca.as_deref().map(absolute).or(self.tls_ca);
        self.max_instances = args.max_instances.or(self.max_instances);
        self.actor_memory_mb = args.actor_memory_mb.or(self.actor_memory_mb);
        self.host_memory_mb = args.host_memory_mb.or(self.host_memory_mb);
        self.cpu_capacity = args.cpu_capacity.or(self.cpu_capacity);
        self.memory_capacity = args.memory_capacity.or(self.memory_capacity);
        self.prefetch = args.prefetch.or(self.prefetch);
        self.drain_seconds = args.drain_seconds.or(self.drain_seconds);
        self.trust_actors = args.trust_actors.clone().map(|keys| keys.0).or(self.trust_actors);
        self.trust_policies = args.trust_policies.clone().map(|keys| keys.0).or(self.trust_policies);
        self.policy_default = args.policy_default.or(self.policy_default);
        Ok(self)
    }

    /// These settings with every default filled in that is part of the host's identity.
    ///
    /// # Errors
    /// [`ConfigError`] if an environment variable names a lattice that is none.
    pub fn completed(mut self) -> Result<Self, ConfigError> {
        if self.name.is_none() {
            self.name = Some(machine_name()?);
        }
        if self.lattice.is_none() {
            // The variable of stock tools counts only where nothing else says which lattice.
            let name = std::env::var("WASMCLOUD_LATTICE").ok().filter(|name| !name.is_empty());
            self.lattice = Some(lattice_name(name.as_deref().unwrap_or(DEFAULT_LATTICE))?);
        }
        self.nats_url.get_or_insert_with(|| DEFAULT_NATS_URL.to_owned());
        self.labels.entry(REGION_LABEL.to_owned()).or_insert_with(|| DEFAULT_REGION.to_owned());
        Ok(self)
    }
}

impl Config {
    /// The configuration that `saved` means; it must be completed.
    ///
    /// # Errors
    /// [`ConfigError`] if the region is no region.
    pub fn new(saved: &Saved) -> Result<Self, ConfigError> {
        let saved = saved.clone().completed()?;
        let lattice = saved.lattice.map_or_else(|| lattice_name(DEFAULT_LATTICE), Ok)?;
        let region = saved.labels.get(REGION_LABEL).map_or(DEFAULT_REGION, String::as_str);
        let region = Region::new(region).map_err(|source| ConfigError::Name { flag: "label region", source })?;
        let half_of_machine = || match profile::memory_mb() / 2 {
            0 => FALLBACK_HOST_MEMORY_MB,
            half => half,
        };
        let actors = saved.trust_actors.unwrap_or_default();
        let policies = saved.trust_policies.unwrap_or_else(|| actors.clone());
        Ok(Self {
            trust: TrustedKeys { actors, policies },
            policy_default: saved.policy_default.unwrap_or_default(),
            name: saved.name.map_or_else(machine_name, Ok)?,
            lattice,
            region,
            labels: saved.labels,
            nats_url: saved.nats_url.unwrap_or_else(|| DEFAULT_NATS_URL.to_owned()),
            creds: saved.creds,
            tls_ca: saved.tls_ca,
            admin: saved.admin,
            max_instances: saved.max_instances.unwrap_or(DEFAULT_MAX_INSTANCES),
            actor_memory_mb: saved.actor_memory_mb.unwrap_or(DEFAULT_ACTOR_MEMORY_MB),
            host_memory_mb: saved.host_memory_mb.or(saved.memory_capacity).unwrap_or_else(half_of_machine),
            cpu_capacity: saved.cpu_capacity,
            memory_capacity: saved.memory_capacity,
            prefetch: saved.prefetch.unwrap_or(DEFAULT_PREFETCH),
            drain: saved.drain_seconds.map_or(DRAIN_DEADLINE, |seconds| Duration::from_secs(u64::from(seconds))),
        })
    }
}

fn host_name(text: &str) -> Result<HostName, ConfigError> {
    HostName::new(text).map_err(|source| ConfigError::Name { flag: "name", source })
}

fn lattice_name(text: &str) -> Result<LatticeName, ConfigError> {
    LatticeName::new(text).map_err(|source| ConfigError::Name { flag: "lattice", source })
}

/// The machine's name with whatever a host name may not hold replaced.
fn machine_name() -> Result<HostName, ConfigError> {
    let uname = rustix::system::uname();
    let name: String = uname
        .nodename()
        .to_string_lossy()
        .chars()
        .take(lattice_core::id::MAX_NAME_BYTES)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    host_name(if name.is_empty() { NAMELESS } else { &name })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn parse_label(label: &str) -> Result<(String, String), ConfigError> {
    let Some((key, value)) = label.split_once('=') else { return Err(label_error(label, "has no `=`")) };
    let key_ok = !key.is_empty() && key.len() <= MAX_LABEL_BYTES && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    if !key_ok {
        return Err(label_error(label, "the key may only hold letters, digits and _ - . /"));
    }
    if value.is_empty() || value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control) {
        return Err(label_error(label, format!("the value must have 1 to {MAX_LABEL_BYTES} bytes and no control characters")));
    }
    if key == REGION_LABEL {
        Region::new(value).map_err(|error| label_error(label, error.to_string()))?;
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn label_error(label: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Label { label: label.chars().take(80).flat_map(char::escape_debug).collect(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(text: &str) -> Args {
        Args::try_parse_from(std::iter::once("lattice-host").chain(text.split_whitespace())).unwrap()
    }

    fn config(saved: Saved, text: &str) -> Result<Config, String> {
        let saved = saved.overridden(&args(text)).and_then(Saved::completed).map_err(|error| error.to_string())?;
        Config::new(&saved).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_over_saved_over_defaults() {
        let first = Saved::default()
            .overridden(&args("--name NEDGE01 --label region=eu --label tier=edge --nats-url nats://a:1 --admin 127.0.0.1:0"))
            .unwrap();
        let again = config(first.clone(), "").unwrap();
        assert_eq!((again.name.as_str(), again.region.as_str(), again.nats_url.as_str()), ("NEDGE01", "eu", "nats://a:1"));
        assert!(again.admin.is_some());
        let sized = first.clone().overridden(&args("--cpu-capacity 500 --memory-capacity 96")).unwrap();
        let sized = config(sized, "").unwrap();
        assert_eq!((sized.cpu_capacity, sized.memory_capacity, sized.host_memory_mb), (Some(500), Some(96), 96));
        let changed = config(first, "--nats-host nats://b:2 --label region=us --admin off").unwrap();
        assert_eq!((changed.region.as_str(), changed.nats_url.as_str(), changed.admin), ("us", "nats://b:2", None));
        assert_eq!(changed.labels.get("tier").map(String::as_str), Some("edge"));
        let plain = config(Saved::default(), "").unwrap();
        assert_eq!((plain.lattice.as_str(), plain.region.as_str()), ("default", "local"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str, expected: &str| {
            let found = config(Saved::default(), text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        };
        check("--name a.b", "--name: host name `a.b`");
        check("--lattice a.b", "--lattice: lattice name `a.b`");
        check("--label region", "--label region: has no `=`");
        check("--label region=a.b", "region `a.b`");
        check("--label =x", "the key");
        check("--label x=", "1 to 128 bytes");
    }

    #[test]
    fn whom_to_trust() {
        let key = |pair: nkeys::KeyPair| pair.public_key();
        let (account, other, operator) =
            (key(nkeys::KeyPair::new_account()), key(nkeys::KeyPair::new_account()), key(nkeys::KeyPair::new_operator()));
        let first = Saved::default().overridden(&args(&format!("--trust-actors {account},{other} --policy-default deny"))).unwrap();
        let trusting = config(first.clone(), "").unwrap();
        assert_eq!((trusting.trust.actors.len(), trusting.policy_default), (2, Preset::Deny));
        assert_eq!(trusting.trust.actors, trusting.trust.policies, "who signs actors signs policies unless somebody else does");
        let other = config(first.clone(), &format!("--trust-policies {operator}")).unwrap();
        assert_eq!(other.trust.policies.iter().next().unwrap().as_str(), operator);
        assert!(config(first, "--trust-actors off").unwrap().trust.actors.is_empty());
        let refused = |text: &str| Args::try_parse_from(["lattice-host", "--trust-actors", text]).unwrap_err().to_string();
        assert!(refused("A").contains("no public nkey"));
        assert!(refused(&format!("A{}", "B".repeat(55))).contains("checksum"));
        assert!(refused(",").contains("names no key"));
        let many: Vec<String> = (0..=lattice_core::trust::MAX_KEYS).map(|_| key(nkeys::KeyPair::new_account())).collect();
        assert!(refused(&many.join(",")).contains("names 257 keys, at most 256 are taken"));
    }

    #[test]
    fn settings_survive_the_file() {
        let saved = Saved::default().overridden(&args("--name a --creds x.creds --max-instances 7")).unwrap();
        assert!(saved.creds.as_ref().unwrap().is_absolute());
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Saved>(&text).unwrap(), saved);
    }
}
