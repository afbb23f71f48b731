//! What the kernel says about a process, and which processors it may use.

use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Its own pages and its share of those that others use, too.
    pub(crate) pss_kib: u64,
    /// Pages that it alone has and has written to.
    pub(crate) private_dirty_kib: u64,
}

/// A process by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
}

impl Process {
    /// CPU time of all threads that it has now. A thread that ended took its time with it, so the processes measured here
    /// are ones whose threads stay.
    ///
    /// # Errors
    /// The process is gone, or the kernel keeps no such statistics.
    pub(crate) fn cpu(self) -> std::io::Result<Duration> {
        let mut nanos = 0_u64;
        for task in std::fs::read_dir(self.file("task"))? {
            // A thread may end while they are listed.
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos = nanos.saturating_add(text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0));
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Times that its threads began to wait for something.
    ///
    /// # Errors
    /// As [`Process::cpu`].
    pub(crate) fn waits(self) -> std::io::Result<u64> {
        let mut waits = 0_u64;
        for task in std::fs::read_dir(self.file("task"))? {
            let Ok(text) = std::fs::read_to_string(task?.path().join("status")) else { continue };
            waits = waits.saturating_add(field(&text, "voluntary_ctxt_switches:").unwrap_or(0));
        }
        Ok(waits)
    }

    /// Memory that it has now.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn memory(self) -> std::io::Result<Memory> {
        let text = std::fs::read_to_string(self.file("smaps_rollup"))?;
        let named = |name| field(&text, name).ok_or_else(|| std::io::Error::other(format!("smaps_rollup has no {name}")));
        Ok(Memory { pss_kib: named("Pss:")?, private_dirty_kib: named("Private_Dirty:")? })
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// On which processors somebody runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Load generator and server: the first processor.
    Load,
    /// Whoever is measured: the second processor.
    Measured,
    /// Wherever the kernel likes.
    Anywhere,
}

/// This thread at a place. Dropped, the thread may use the processors of before.
pub(crate) struct Moved(CpuSet);

impl Moved {
    /// Moves this thread; threads and processes that it starts from now on are there, too. On a machine with one processor
    /// the place makes no difference.
    ///
    /// # Errors
    /// The system's, if the thread cannot be moved.
    pub(crate) fn to(place: Place) -> std::io::Result<Self> {
        let before = Self(sched_getaffinity(None)?);
        let processors: Vec<usize> = ALL.with(|all| (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect());
        let mut set = CpuSet::new();
        match (place, processors.as_slice()) {
            (Place::Load, [first, _, ..]) => set.set(*first),
            (Place::Measured, [_, second, ..]) => set.set(*second),
            (Place::Load | Place::Measured | Place::Anywhere, all) => all.iter().for_each(|cpu| set.set(*cpu)),
        }
        sched_setaffinity(None, &set)?;
        Ok(before)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // Was allowed before, so it is now, unless somebody took processors away; then there is nothing to be done.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Does `work` at `place`.
///
/// # Errors
/// As [`Moved::to`].
pub(crate) fn at<T>(place: Place, work: impl FnOnce() -> T) -> std::io::Result<T> {
    let _moved = Moved::to(place)?;
    Ok(work())
}

thread_local! {
    /// The processors that this program was given at its start, before anybody moved the thread.
    static ALL: CpuSet = sched_getaffinity(None).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        Process { pid: std::process::id() }
    }

    #[test]
    fn a_process_can_be_asked() {
        let (cpu, waits) = (own().cpu().unwrap(), own().waits().unwrap());
        let mut sum = 0_u64;
        while own().cpu().unwrap() < cpu + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(own().waits().unwrap() >= waits);
        let memory = own().memory().unwrap();
        assert!(memory.pss_kib > 0 && memory.private_dirty_kib > 0);
    }

    #[test]
    fn a_thread_comes_back_to_its_processors() {
        let before = sched_getaffinity(None).unwrap();
        let inside = at(Place::Measured, || sched_getaffinity(None).unwrap()).unwrap();
        assert!(inside.count() == 1 || before.count() == 1);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
