//! The data folder of a lattice on this machine: what lies where, and the lock of whoever looks after it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{HostName, LatticeName};

use crate::connection::environment;
use crate::problems;

/// Only the owner may look into data and logs.
const MODE: u32 = 0o700;
/// Lines of a log that are shown when something went wrong.
const TAIL_LINES: usize = 15;
/// Bytes of a log that are read for that.
const TAIL_BYTES: u64 = 16 * 1024;
/// A log is turned over at this size in bytes; one old file is kept.
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// The data folder, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder that the user named, or the lattice's own below the user's data folder.
    ///
    /// # Errors
    /// If nothing says where that is.
    pub(crate) fn new(named: Option<&Path>, lattice: &LatticeName) -> Result<Self, Problem> {
        if let Some(named) = named {
            let root = std::path::absolute(named).map_err(|error| problems::path("data folder", named, &error))?;
            return Ok(Self { root });
        }
        let data = environment("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".local/share")));
        let data = data.ok_or_else(|| problems::usage("no data folder: neither --data-dir nor XDG_DATA_HOME nor HOME says where"))?;
        Ok(Self { root: data.join("lattice").join(lattice.as_str()) })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Data of one host.
    pub(crate) fn host(&self, name: &HostName) -> PathBuf {
        self.root.join("hosts").join(name.as_str())
    }

    /// Names of the hosts that have data here.
    pub(crate) fn known_hosts(&self) -> Vec<HostName> {
        let entries = std::fs::read_dir(self.root.join("hosts")).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<HostName> = entries.filter_map(|entry| HostName::new(entry.file_name().into_string().ok()?).ok()).collect();
        names.sort();
        names
    }

    /// What runs.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("up.json")
    }

    /// Log of the supervisor or of a host.
    pub(crate) fn log(&self, of: &str) -> PathBuf {
        self.root.join("logs").join(format!("{of}.log"))
    }

    /// Credentials of a user of our own server: `operator`, `node` or `control`.
    pub(crate) fn creds(&self, user: &str) -> PathBuf {
        self.root.join("creds").join(format!("{user}.nk"))
    }

    /// Makes the folder and those of logs and hosts, and finds out whether it can be written.
    ///
    /// # Errors
    /// Names the folder and why not.
    pub(crate) fn prepare(&self) -> Result<(), Problem> {
        let failed = |error: std::io::Error| {
            Problem::new(ErrorCode::Failed, format!("data folder {} cannot be used: {error}", self.root.display()))
                .hint("choose another with --data-dir")
        };
        for folder in [self.root.clone(), self.root.join("logs"), self.root.join("hosts")] {
            std::fs::DirBuilder::new().recursive(true).mode(MODE).create(folder).map_err(failed)?;
        }
        let probe = self.root.join(format!(".probe-{}", std::process::id()));
        std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(failed)
    }

    /// Takes the lock of whoever looks after this folder; it is given back when the file is dropped or the process ends.
    ///
    /// # Errors
    /// Names the process that has it.
    pub(crate) fn lock(&self) -> Result<File, Problem> {
        let path = self.root.join("up.lock");
        let failed = |error: std::io::Error| problems::path("lock", &path, &error);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&file).take(32).read_to_string(&mut holder);
                let message = format!("a lattice runs on {} already (process {})", self.root.display(), holder.trim());
                return Err(Problem::new(ErrorCode::Conflict, message)
                    .hint(format!("`lattice-ctl down --data-dir {}`, or another --data-dir", self.root.display())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(file)
    }

    /// Whether somebody looks after this folder.
    pub(crate) fn is_locked(&self) -> bool {
        File::open(self.root.join("up.lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Opens a log to append to, the old one turned over if it is large.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open_log(&self, of: &str) -> Result<File, Problem> {
        self.turn_over(of);
        let path = self.log(of);
        File::options().create(true).append(true).open(&path).map_err(|error| problems::path("log", &path, &error))
    }

    /// Keeps a log from growing without end: copied away and emptied, because its writer keeps it open.
    pub(crate) fn turn_over(&self, of: &str) {
        let path = self.log(of);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT_BYTES) {
            let emptied =
                std::fs::copy(&path, path.with_extension("log.1")).and_then(|_| File::options().write(true).open(&path)?.set_len(0));
            if let Err(error) = emptied {
                tracing::warn!("turning over {}: {error}", path.display());
            }
        }
    }

    /// The end of a log, for people.
    pub(crate) fn log_tail(&self, of: &str) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.log(of))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| crate::output::printable(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_for_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(folder.path()), &LatticeName::new("l").unwrap()).unwrap();
        folder.prepare().unwrap();
        assert!(!folder.is_locked());
        let lock = folder.lock().unwrap();
        assert!(folder.is_locked());
        let refused = folder.lock().unwrap_err();
        assert!(refused.message.contains(&std::process::id().to_string()), "{refused:?}");
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let folder = Folder::new(Some(&file.path().join("below")), &LatticeName::new("l").unwrap()).unwrap();
        let problem = folder.prepare().unwrap_err();
        assert!(problem.message.contains("below") && problem.code == ErrorCode::Failed, "{problem:?}");
    }

    #[test]
    fn the_end_of_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(folder.path()), &LatticeName::new("l").unwrap()).unwrap();
        folder.prepare().unwrap();
        assert!(folder.log_tail("up").is_empty());
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        std::fs::write(folder.log("up"), text).unwrap();
        assert_eq!(folder.log_tail("up").first().unwrap(), "line 25");
    }
}
