//! Processes that may be gone: a number alone is not enough, because the kernel gives it to somebody else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Between two looks at whether a process is gone.
const POLL: Duration = Duration::from_millis(20);

/// One process: its number and when it started, which together are nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// Clock ticks from the machine's start to its own.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let (_, started) = read_stat(&folder)?;
        // The first thread of a process that was killed may be a zombie while others still run and hold its files, its ports
        // and its lock. When all are zombies, or gone, it has ended; only its parent has not looked yet.
        let threads = std::fs::read_dir(folder.join("task")).ok()?.filter_map(Result::ok);
        let mut states = threads.filter_map(|thread| read_stat(&thread.path())).map(|(state, _)| state);
        states.any(|state| state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; to one that is gone nothing is sent, and to nobody else either.
    pub(crate) fn signal(self, signal: Signal) -> std::io::Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        // The handle stays with the process that it was opened for; only then is it certain whose number this is.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it is gone; whether that came within `patience`.
    pub(crate) async fn ended_within(self, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while self.is_alive() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Asks it to end, waits, then kills it; whether it is gone.
    pub(crate) async fn end(self, patience: Duration) -> bool {
        let _ = self.signal(Signal::TERM);
        if self.ended_within(patience).await {
            return true;
        }
        let _ = self.signal(Signal::KILL);
        self.ended_within(patience).await
    }
}

/// State and start time of a process or a thread.
fn read_stat(folder: &Path) -> Option<(char, u64)> {
    parse_stat(&std::fs::read_to_string(folder.join("stat")).ok()?)
}

/// State and start time in `/proc/<pid>/stat`. The name in it may hold anything, also spaces and brackets.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    /// Position of the start time after the name, the state being 0.
    const START_TIME: usize = 19;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.clone().next()?.chars().next()?;
    let started = fields.nth(START_TIME)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let fields: Vec<String> = (4..=22).map(|n| n.to_string()).collect();
        let stat = format!("12 (a) b) c) S {} 23 24", fields.join(" "));
        assert_eq!(parse_stat(&stat), Some(('S', 22)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn a_number_that_went_to_somebody_else_is_not_signalled() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        let earlier = Process { started: own.started.wrapping_sub(1), ..own };
        assert!(!earlier.is_alive());
        earlier.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while process.is_alive() {
            assert!(std::time::Instant::now() < deadline, "nobody has waited for it, and it has ended");
        }
        assert!(Path::new(&format!("/proc/{}", process.pid)).exists());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn ending_waits_until_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.end(Duration::from_secs(10)).await);
        assert!(!process.is_alive());
        child.wait().unwrap();
    }
}
