//! The command line of `lattice-host`. The doc comments are the help text.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use lattice_core::policy::force::Preset;
use lattice_core::trust::{MAX_KEYS, PublicKey};

/// One node of a lattice: runs the actors and providers that the plan gives it.
///
/// What is given once is kept in the data directory: `lattice-host --data-dir DIR` alone comes back with the same identity
/// and settings.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "lattice-host", version)]
pub struct Args {
    /// Address of the NATS server; several with commas between.
    #[arg(long, alias = "nats-host", env = "LATTICE_NATS_URL", value_name = "URL")]
    pub nats_url: Option<String>,
    /// Credentials for NATS: a .creds file, or a file with the nkey seed of a user.
    #[arg(long, alias = "nats-nseed", env = "LATTICE_CREDS", value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's; demands TLS.
    #[arg(long, env = "LATTICE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Name of the lattice [default: default, or WASMCLOUD_LATTICE].
    #[arg(long, env = "LATTICE_LATTICE", value_name = "NAME")]
    pub lattice: Option<String>,
    /// Name of this host [default: the machine's name].
    #[arg(long, env = "LATTICE_HOST_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Label of this host, may be repeated: region=ap-east-1, tier=edge. The region is `local` unless it is given.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Where identity, settings, compiled code and the last assignment are kept [default: lattice/hosts/NAME in the user's
    /// data folder].
    #[arg(long, env = "LATTICE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Serve /livez, /readyz, /metrics and /version there: an address, or `off`.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_admin)]
    pub admin: Option<Admin>,
    /// Instances of all actors that may be alive at once [default: 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_instances: Option<u32>,
    /// Largest memory of one instance of an actor, in MiB [default: 256].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub actor_memory_mb: Option<u32>,
    /// Memory of all actors together, in MiB [default: what the host offers if that was given, else half of the machine's].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub host_memory_mb: Option<u32>,
    /// CPU that this host offers, in thousandths of a core [default: all that the machine has].
    #[arg(long, env = "LATTICE_CPU_CAPACITY", value_name = "THOUSANDTHS", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu_capacity: Option<u32>,
    /// Memory that this host offers, in MiB [default: all that the machine has].
    #[arg(long, env = "LATTICE_MEMORY_CAPACITY", value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory_capacity: Option<u32>,
    /// Actors of other hosts whose code is kept compiled here, so that a take-over need not wait for it; 0 keeps none
    /// [default: 64].
    #[arg(long, env = "LATTICE_PREFETCH", value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub prefetch: Option<u32>,
    /// Public keys (A…) of accounts whose signed actors run here, with commas between; `off` runs unsigned ones, too
    /// [default: off].
    #[arg(long, env = "LATTICE_TRUST_ACTORS", value_name = "KEYS", value_parser = parse_keys)]
    pub trust_actors: Option<Keys>,
    /// Public keys (A… or O…) of who signs policies for this host, with commas between; `off` trusts nobody [default: those of
    /// --trust-actors].
    #[arg(long, env = "LATTICE_TRUST_POLICIES", value_name = "KEYS", value_parser = parse_keys)]
    pub trust_policies: Option<Keys>,
    /// What holds until a first policy is here: everything that links give, or nothing [default: open].
    #[arg(long, env = "LATTICE_POLICY_DEFAULT", value_name = "open|deny", value_parser = parse_preset)]
    pub policy_default: Option<Preset>,
    /// How long work may finish when the host stops, in seconds [default: 10].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub drain_seconds: Option<u32>,
    /// What is logged: error, warn, info, debug, trace, or a filter like `info,lattice_host=debug`.
    #[arg(long, env = "LATTICE_LOG", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Public keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys(pub BTreeSet<PublicKey>);

fn parse_keys(text: &str) -> Result<Keys, String> {
    if text == "off" {
        return Ok(Keys::default());
    }
    let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty()).map(|key| {
        let key = PublicKey::new(key).map_err(|error| error.to_string())?;
        // A letter that is wrong would trust nobody, and nobody would know.
        nkeys::KeyPair::from_public_key(key.as_str()).map_err(|_| format!("key {key}: its checksum is wrong, so a letter must be"))?;
        Ok::<_, String>(key)
    });
    let keys: BTreeSet<PublicKey> = keys.collect::<Result<_, _>>()?;
    match keys.len() {
        0 => Err("names no key; `off` trusts nobody".to_owned()),
        count if count > MAX_KEYS => Err(format!("names {count} keys, at most {MAX_KEYS} are taken")),
        _ => Ok(Keys(keys)),
    }
}

fn parse_preset(text: &str) -> Result<Preset, String> {
    match text {
        "open" => Ok(Preset::Open),
        "deny" => Ok(Preset::Deny),
        _ => Err("is neither `open` nor `deny`".to_owned()),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Value of `--admin`: `off` takes back what an earlier start was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// No admin port.
    Off,
    /// Listen here; port 0 lets the system choose one, which the log names.
    On(SocketAddr),
}

fn parse_admin(text: &str) -> Result<Admin, String> {
    match text {
        "off" => Ok(Admin::Off),
        _ => text.parse().map(Admin::On).map_err(|_| "is no address and port, like 127.0.0.1:9090".to_owned()),
    }
}
