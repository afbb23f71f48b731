//! What the host has seen, in two files of its data directory: `marks.json` (the highest versions of code and of policies,
//! and a time that has passed) and `policies.json` (the policies themselves). One tells of the loss of the other.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lattice_core::claims::marks::Marks as ClaimMarks;
use lattice_core::policy::accept::{Documents, Marks as PolicyMarks, Stored};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::disk;

/// Largest file in bytes: as many policies as a host keeps, each as large as one may be, escaped.
const MAX_BYTES: u64 = 128 * 1024 * 1024;

/// The content of `marks.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    #[serde(default)]
    claims: ClaimMarks,
    #[serde(default)]
    policies: PolicyMarks,
    #[serde(default)]
    floor_s: u64,
}

/// The files. One value for all who write.
#[derive(Debug)]
pub(crate) struct Ledger {
    marks_file: PathBuf,
    policies_file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Seen,
    /// `marks.json` is there and cannot be read: it stays as it is until the policies are known again, so that the next start
    /// knows of the loss, too.
    damaged: bool,
}

/// What was on disk when the host started.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) marks: Stored<PolicyMarks>,
    pub(crate) documents: Stored<Documents>,
    pub(crate) floor_s: u64,
}

impl Ledger {
    /// Reads the files in `folder`. Blocks on the disk.
    pub(crate) fn open(folder: &Path) -> (Self, Found) {
        let (marks_file, policies_file) = (folder.join("marks.json"), folder.join("policies.json"));
        let (seen, marks) = match read::<Seen>(&marks_file) {
            Stored::Absent => (Seen::default(), Stored::Absent),
            Stored::Unreadable(why) => (Seen::default(), Stored::Unreadable(why)),
            Stored::Found(seen) => (seen.clone(), Stored::Found(seen.policies)),
        };
        let damaged = matches!(marks, Stored::Unreadable(_));
        let found = Found { marks, documents: read(&policies_file), floor_s: seen.floor_s };
        (Self { marks_file, policies_file, state: Mutex::new(State { seen, damaged }) }, found)
    }

    /// Lets `judge` look at the versions of code that were seen; writes them if it says that it has raised one. Blocks on the
    /// disk.
    pub(crate) fn judge_code<T>(&self, judge: impl FnOnce(&mut ClaimMarks) -> (T, bool)) -> (T, std::io::Result<()>) {
        let mut state = self.lock();
        let (verdict, raised) = judge(&mut state.seen.claims);
        (verdict, if raised { self.write_marks(&state) } else { Ok(()) })
    }

    /// Keeps what was verified. The policies come first: a mark without its policy would mean that one was lost. Blocks on the
    /// disk.
    pub(crate) fn keep_policies(&self, marks: &PolicyMarks, documents: &Documents, floor_s: u64) -> std::io::Result<()> {
        disk::replace(&self.policies_file, &serde_json::to_vec(documents)?)?;
        let mut state = self.lock();
        state.damaged = false;
        state.seen.policies.clone_from(marks);
        state.seen.floor_s = state.seen.floor_s.max(floor_s);
        self.write_marks(&state)
    }

    /// Keeps a time that has passed. Blocks on the disk.
    pub(crate) fn keep_floor(&self, floor_s: u64) -> std::io::Result<()> {
        let mut state = self.lock();
        if floor_s <= state.seen.floor_s {
            return Ok(());
        }
        state.seen.floor_s = floor_s;
        self.write_marks(&state)
    }

    fn write_marks(&self, state: &State) -> std::io::Result<()> {
        if state.damaged { Ok(()) } else { disk::replace(&self.marks_file, &serde_json::to_vec(&state.seen)?) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    match disk::read(path, MAX_BYTES) {
        Ok(None) => Stored::Absent,
        Ok(Some(content)) => match serde_json::from_slice(&content) {
            Ok(value) => Stored::Found(value),
            Err(error) => Stored::Unreadable(format!("{}: {error}", path.display())),
        },
        Err(error) => Stored::Unreadable(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_unreadable_and_found_are_three() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, found) = Ledger::open(folder.path());
        assert_eq!((found.marks, found.documents, found.floor_s), (Stored::Absent, Stored::Absent, 0));
        ledger.keep_policies(&PolicyMarks::default(), &Documents::default(), 7).unwrap();
        ledger.keep_floor(5).unwrap();
        let (_, found) = Ledger::open(folder.path());
        assert_eq!((found.marks, found.floor_s), (Stored::Found(PolicyMarks::default()), 7));
        for name in ["marks.json", "policies.json"] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        }
        let (_, found) = Ledger::open(folder.path());
        assert!(matches!(found.marks, Stored::Unreadable(why) if why.contains("marks.json")));
        assert!(matches!(found.documents, Stored::Unreadable(why) if why.contains("policies.json")));
        // A loss is not covered up by whatever is written next, only by the policies themselves.
        let (ledger, _) = Ledger::open(folder.path());
        ledger.keep_floor(9).unwrap();
        ledger.judge_code(|_| ((), true)).1.unwrap();
        let (ledger, found) = Ledger::open(folder.path());
        assert!(matches!(found.marks, Stored::Unreadable(_)));
        ledger.keep_policies(&PolicyMarks::default(), &Documents::default(), 9).unwrap();
        let (_, found) = Ledger::open(folder.path());
        assert_eq!(found.marks, Stored::Found(PolicyMarks::default()));
    }
    #[test]
    fn a_time_that_has_passed_never_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(folder.path());
        ledger.keep_floor(9).unwrap();
        ledger.keep_policies(&PolicyMarks::default(), &Documents::default(), 7).unwrap();
        ledger.keep_floor(8).unwrap();
        assert_eq!(Ledger::open(folder.path()).1.floor_s, 9);
    }

    #[test]
    fn no_mark_is_written_without_its_policy() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in its place: this file cannot be written.
        std::fs::create_dir(folder.path().join("policies.json")).unwrap();
        let (ledger, _) = Ledger::open(folder.path());
        ledger.keep_policies(&PolicyMarks::default(), &Documents::default(), 7).unwrap_err();
        assert_eq!(Ledger::open(folder.path()).1.marks, Stored::Absent);
    }

    #[test]
    fn a_file_that_is_far_too_large_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("marks.json")).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let found = Ledger::open(folder.path()).1;
        assert!(matches!(found.marks, Stored::Unreadable(why) if why.contains("more than")));
    }
}
