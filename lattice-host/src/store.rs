//! The last assignment on disk, with which a host starts when nobody tells it anything newer.
//!
//! **Invariant.** A host says that it has applied a generation only once that generation is kept here, or cannot be.

use std::path::{Path, PathBuf};

use lattice_core::id::LatticeName;
use lattice_core::wire::assignment::Assignment;
use lattice_core::wire::{self, DecodeError};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::disk;
use crate::event_loop::Event;

/// Largest assignment in bytes: what one message of the bus takes.
const MAX_BYTES: u64 = wire::json::MAX_CONTROL_BYTES as u64;

/// Why the kept assignment is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read.
    #[error("last assignment in {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It cannot be understood.
    #[error("last assignment in {}", .path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DecodeError,
    },
}

#[derive(Serialize, Deserialize)]
struct Kept<A> {
    /// An assignment of another lattice is none of ours, whatever its generation.
    lattice: LatticeName,
    assignment: A,
}

/// The assignment that `lattice` gave last; `None` if there is none. Blocks on the disk.
///
/// # Errors
/// [`KeptError`]; then the host waits for the store.
pub fn read(path: &Path, lattice: &LatticeName) -> Result<Option<Assignment>, KeptError> {
    let content = disk::read(path, MAX_BYTES).map_err(|source| KeptError::Io { path: path.to_owned(), source })?;
    let Some(content) = content else { return Ok(None) };
    let kept: Kept<Assignment> = wire::decode(&content).map_err(|source| KeptError::Decode { path: path.to_owned(), source })?;
    Ok((kept.lattice == *lattice).then_some(kept.assignment))
}

/// Keeps `assignment`. Blocks on the disk.
///
/// # Errors
/// The system's; the one before is still there then.
pub fn write(path: &Path, lattice: &LatticeName, assignment: &Assignment) -> std::io::Result<()> {
    disk::replace(path, &wire::encode(&Kept { lattice: lattice.clone(), assignment }))
}

/// Keeps whatever assignment is the newest, off the event loop, and says so. Ends when the sender is dropped.
pub(crate) async fn keep(
    path: PathBuf,
    lattice: LatticeName,
    mut newest: watch::Receiver<Option<Box<Assignment>>>,
    events: mpsc::Sender<Event>,
) {
    while newest.changed().await.is_ok() {
        let Some(assignment) = newest.borrow_and_update().clone() else { continue };
        let (path, lattice, generation) = (path.clone(), lattice.clone(), assignment.generation);
        let written = tokio::task::spawn_blocking(move || write(&path, &lattice, &assignment)).await;
        if let Ok(Err(error)) = written {
            let _ = events.send(Event::Trouble(format!("last assignment cannot be kept: {error}"))).await;
        }
        let _ = events.send(Event::Kept(generation)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::{Generation, HostId};

    #[test]
    fn kept_for_its_lattice_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("assignment.json");
        let (ours, other) = (LatticeName::new("a").unwrap(), LatticeName::new("b").unwrap());
        assert_eq!(read(&path, &ours).unwrap(), None);
        let host = HostId::new(format!("N{}", "A".repeat(55))).unwrap();
        let assignment = Assignment { generation: Generation(7), ..Assignment::empty(host) };
        write(&path, &ours, &assignment).unwrap();
        assert_eq!(read(&path, &ours).unwrap(), Some(assignment));
        assert_eq!(read(&path, &other).unwrap(), None);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(read(&path, &ours), Err(KeptError::Decode { .. })));
    }
}
