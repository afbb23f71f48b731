//! `keys`: nkeys in files of one folder.

mod generate;
mod list;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lattice_core::error::{ErrorCode, Problem};
use nkeys::{KeyPair, KeyPairType};

use crate::error::Outcome;
use crate::output::Output;
use crate::problems;

/// Ending of a key's file.
const EXTENSION: &str = "nk";
/// A seed has 58 characters; a longer file is something else.
const MAX_SEED_BYTES: u64 = 1024;

/// Where keys are.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Folder of keys
    #[arg(long, visible_alias = "directory", value_name = "DIR", default_value = "keys", env = "WASH_KEYS", hide_env = true)]
    dir: PathBuf,
}

impl Folder {
    /// The file of the key called `name`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{EXTENSION}"))
    }
}

/// Generate and list nkeys
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    #[command(name = "gen", alias = "generate")]
    Generate(generate::Generate),
    #[command(alias = "ls", alias = "get")]
    List(list::List),
}

impl Keys {
    pub(super) fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Generate(verb) => verb.run(output),
            Self::List(verb) => verb.run(output),
        }
    }
}

fn kind_name(kind: &KeyPairType) -> &'static str {
    match kind {
        KeyPairType::Server => "server",
        KeyPairType::Cluster => "cluster",
        KeyPairType::Operator => "operator",
        KeyPairType::Account => "account",
        KeyPairType::User => "user",
        KeyPairType::Module => "module",
        KeyPairType::Service => "service",
        KeyPairType::Curve => "curve",
    }
}

/// Reads the key in a file.
pub(super) fn read(path: &Path) -> Result<KeyPair, Problem> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| problems::path("key file", path, &error);
    let mut seed = String::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_SEED_BYTES).read_to_string(&mut seed).map_err(failed)?;
    KeyPair::from_seed(seed.trim())
        .map_err(|error| Problem::new(ErrorCode::Failed, format!("key file {}: holds no seed: {error}", path.display())))
}
