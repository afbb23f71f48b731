//! The data directory and who the host is.
//!
//! `lock` (held while the process lives, holds its pid) · `host.nk` (seed of the server nkey, made once, mode 0600) ·
//! `host.json` (settings) · `assignment.json` (what it was told to run last) · `cache/` (compiled code).
//!
//! **Invariant.** One process at a time has a data directory; an identity never runs twice on one machine.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostId, Incarnation, InvalidName};
use lattice_core::wire::{self, DecodeError};
use rustix::fs::{FlockOperation, flock};

use crate::config::Saved;
use crate::disk;

/// Largest settings file in bytes.
const MAX_SETTINGS_BYTES: u64 = 1024 * 1024;
/// Largest seed file in bytes; a seed has 58.
const MAX_SEED_BYTES: u64 = 1024;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be made, read or written.
    #[error("data directory: {}", .path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("data directory {} is in use by process {pid}", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// The seed file holds something else.
    #[error("{} holds no server nkey seed (SN…)", .path.display())]
    Seed {
        /// The file.
        path: PathBuf,
    },
    /// The settings file cannot be understood.
    #[error("settings in {}", .path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DecodeError,
    },
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        let (code, hint) = match &error {
            IdentityError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                (ErrorCode::Denied, "this user must be able to write there; --data-dir names another place")
            }
            IdentityError::Io { .. } => (ErrorCode::Failed, "is the disk full or read-only? --data-dir names another place"),
            IdentityError::InUse { .. } => (ErrorCode::Conflict, "stop that process, or give this host a --name or --data-dir of its own"),
            IdentityError::Seed { .. } => {
                (ErrorCode::Failed, "restore it from a backup; without the file the host comes back as a new one")
            }
            IdentityError::Settings { .. } => (ErrorCode::Failed, "remove the file and give the settings as flags"),
        };
        let problem = Self::new(code, error.to_string()).hint(hint);
        match std::error::Error::source(&error) {
            Some(source) => problem.caused_by(source),
            None => problem,
        }
    }
}

/// A data directory that is ours as long as this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is not there and takes its lock.
    ///
    /// # Errors
    /// [`IdentityError::InUse`] names the process that has it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        let file = path.join("lock");
        let mut lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file).map_err(failed(&file))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // Without the number the message is less helpful, no more.
            let _ = lock.take(32).read_to_string(&mut pid);
            let pid = pid.trim();
            return Err(IdentityError::InUse { path, pid: if pid.is_empty() { "unknown".into() } else { pid.escape_debug().to_string() } });
        }
        let noted = lock.rewind().and_then(|()| lock.set_len(0)).and_then(|()| writeln!(lock, "{}", std::process::id()));
        noted.map_err(failed(&file))?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last assignment.
    pub fn assignment_file(&self) -> PathBuf {
        self.path.join("assignment.json")
    }

    /// Compiled code.
    pub fn cache_dir(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The host's identity, made if there is none.
    ///
    /// # Errors
    /// [`IdentityError::Seed`] if the file holds no seed: a new identity never replaces a damaged one by itself.
    pub fn identity(&self) -> Result<HostId, IdentityError> {
        let path = self.path.join("host.nk");
        let io = |source| IdentityError::Io { path: path.clone(), source };
        let invalid = || IdentityError::Seed { path: path.clone() };
        let key = match disk::read(&path, MAX_SEED_BYTES).map_err(io)? {
            Some(content) => {
                let text = std::str::from_utf8(&content).map_err(|_| invalid())?;
                nkeys::KeyPair::from_seed(text.trim()).map_err(|_| invalid())?
            }
            None => {
                let key = nkeys::KeyPair::new_server();
                let seed = key.seed().map_err(|_| invalid())?;
                disk::replace(&path, format!("{seed}\n").as_bytes()).map_err(io)?;
                key
            }
        };
        HostId::new(key.public_key()).map_err(|_| invalid())
    }

    /// The settings of earlier starts; the defaults if there was none.
    ///
    /// # Errors
    /// [`IdentityError::Settings`].
    pub fn settings(&self) -> Result<Saved, IdentityError> {
        let path = self.settings_file();
        let content = disk::read(&path, MAX_SETTINGS_BYTES).map_err(|source| IdentityError::Io { path: path.clone(), source })?;
        match content {
            Some(content) => wire::decode(&content).map_err(|source| IdentityError::Settings { path, source }),
            None => Ok(Saved::default()),
        }
    }

    /// Keeps the settings for the next start.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn save_settings(&self, saved: &Saved) -> Result<(), IdentityError> {
        let path = self.settings_file();
        disk::replace(&path, &wire::encode(saved)).map_err(|source| IdentityError::Io { path, source })
    }

    fn settings_file(&self) -> PathBuf {
        self.path.join("host.json")
    }
}

/// Name of the start number `starts`: sorts after all earlier ones, and is unlike that of a host which was restored from a
/// backup and counts the same numbers again.
///
/// # Errors
/// None: digits, a dash and a ULID are a name.
pub fn incarnation(starts: u64) -> Result<Incarnation, InvalidName> {
    Incarnation::new(format!("{starts:010}-{}", ulid::Ulid::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts/a");
        let first = DataDir::open(&path).unwrap();
        let id = first.identity().unwrap();
        assert_eq!(std::fs::metadata(path.join("host.nk")).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = DataDir::open(&path).unwrap_err();
        assert!(refused.to_string().contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(first);
        let second = DataDir::open(&path).unwrap();
        assert_eq!(second.identity().unwrap(), id);
        std::fs::write(path.join("host.nk"), "rubbish").unwrap();
        assert!(matches!(second.identity(), Err(IdentityError::Seed { .. })));
    }

    #[test]
    fn settings_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        assert_eq!(dir.settings().unwrap(), Saved::default());
        let saved = Saved { starts: 3, nats_url: Some("nats://a".into()), ..Saved::default() };
        dir.save_settings(&saved).unwrap();
        assert_eq!(dir.settings().unwrap(), saved);
        std::fs::write(folder.path().join("host.json"), r#"{"v":9}"#).unwrap();
        assert!(dir.settings().unwrap_err().to_string().contains("settings in"));
    }

    #[test]
    fn later_starts_sort_later() {
        assert!(incarnation(9).unwrap() < incarnation(10).unwrap());
        assert_ne!(incarnation(1).unwrap(), incarnation(1).unwrap());
    }
}
