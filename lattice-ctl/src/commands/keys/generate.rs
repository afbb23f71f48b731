//! `keys gen`.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lattice_core::error::{ErrorCode, Problem};
use nkeys::KeyPair;
use serde::Serialize;

use super::{Folder, kind_name};
use crate::error::Outcome;
use crate::output::{Document, Output};
use crate::problems;

/// Only the owner may read a seed.
const FILE_MODE: u32 = 0o600;
/// Only the owner may look into a folder of seeds that we make.
const FOLDER_MODE: u32 = 0o700;

/// Generate a key pair and keep its seed in a file
///
/// The public key is printed; the seed stays in the file, readable by you only.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl keys gen account
  lattice-ctl keys gen user --name NEDGE02 --dir ./keys")]
pub(crate) struct Generate {
    /// What the key is for
    #[arg(value_enum)]
    kind: Kind,

    #[command(flatten)]
    folder: Folder,

    /// Name of the file without its ending [default: the kind]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Print the seed, too
    #[arg(long)]
    show_seed: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Signs actors
    Account,
    /// Identity of an actor
    #[value(alias = "component")]
    Module,
    /// Signs accounts
    Operator,
    /// Identity of a host
    #[value(alias = "host")]
    Server,
    /// Logs in to NATS
    User,
}

#[derive(Debug, Serialize)]
struct Generated {
    kind: &'static str,
    public_key: String,
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
}

impl Generate {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let pair = match self.kind {
            Kind::Account => KeyPair::new_account(),
            Kind::Module => KeyPair::new_module(),
            Kind::Operator => KeyPair::new_operator(),
            Kind::Server => KeyPair::new_server(),
            Kind::User => KeyPair::new_user(),
        };
        let kind = kind_name(&pair.key_pair_type());
        let name = self.name.as_deref().unwrap_or(kind);
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(problems::usage(format!("--name `{}` is no name of a file", name.escape_debug())).into());
        }
        let seed = pair.seed().map_err(|error| problems::failed("making a key", &error))?;
        let path = self.folder.file(name);
        write(&self.folder.dir, &path, &seed)?;
        output.print(&Generated { kind, public_key: pair.public_key(), path, seed: self.show_seed.then_some(seed) })
    }
}

/// Writes a seed to a new file; one that exists is never overwritten.
fn write(folder: &Path, path: &Path, seed: &str) -> Result<(), Problem> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|error| problems::path("folder", folder, &error))?;
    let created = std::fs::File::options().write(true).create_new(true).mode(FILE_MODE).open(path);
    let mut file = created.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return Problem::new(ErrorCode::Failed, format!("key file {} exists already", path.display()))
                .hint("give another --name, or remove it if nothing needs it any more");
        }
        problems::path("key file", path, &error)
    })?;
    writeln!(file, "{seed}").and_then(|()| file.sync_all()).map_err(|error| problems::path("key file", path, &error))
}

impl Document for Generated {
    fn text(&self, _wide: bool) -> String {
        let seed = self.seed.as_ref().map(|seed| format!("\n{seed}")).unwrap_or_default();
        format!("{} key {} in {}{seed}", self.kind, self.public_key, self.path.display())
    }

    fn names(&self) -> Vec<String> {
        vec![self.public_key.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn seeds_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let path = folder.join("account.nk");
        write(&folder, &path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&folder, &path, "two").unwrap_err().code, ErrorCode::Failed);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }
}
