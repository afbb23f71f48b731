//! Processes that a test starts by itself, and what the kernel says about any process.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::{bin, until};

/// A `lattice-host` of the test's own. Dropped, it is killed.
pub struct HostProcess {
    child: Child,
    data_dir: PathBuf,
}

impl HostProcess {
    /// `lattice-host --data-dir <data_dir> <flags>`, its log in `<data_dir>.log`.
    pub fn start(data_dir: &Path, flags: &[&str]) -> Self {
        let log = data_dir.with_extension("log");
        let log = File::options().create(true).append(true).open(&log).expect("a log file");
        let log_too = log.try_clone().expect("the same log");
        let child = Self::command(data_dir).args(flags).stdout(log_too).stderr(log).spawn().expect("lattice-host runs");
        Self { child, data_dir: data_dir.to_owned() }
    }

    /// `lattice-host --data-dir <data_dir>`, to be started.
    pub fn command(data_dir: &Path) -> Command {
        let mut command = Command::new(bin("lattice-host"));
        command.arg("--data-dir").arg(data_dir).env_clear().env("HOME", data_dir.parent().expect("a parent")).stdin(Stdio::null());
        command
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// As a power cut would, for this process.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Asks it to stop and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        signal(self.pid(), Signal::TERM);
        self.ended()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let status = until("the host ends", &mut || self.child.try_wait().expect("our child"));
        assert_eq!(status.signal(), None, "the host ends by itself: {}", self.log());
        status
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process of the test's own lattice. One that it stops stands still when this returns.
pub fn signal(pid: i32, signal: Signal) {
    let known = rustix::process::Pid::from_raw(pid).expect("a pid above 0");
    rustix::process::kill_process(known, signal).expect("the process is there");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while signal == Signal::STOP && !stands_still(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} does not stand still");
        std::thread::yield_now();
    }
}

/// Whether every thread of a process is stopped.
fn stands_still(pid: i32) -> bool {
    states(pid).iter().all(|state| state.starts_with('T'))
}

fn states(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| status_line(&thread.path(), "State")).collect()
}

/// Whether a process runs, or any thread of it that may still hold its files; one that has ended and was not waited for
/// does not.
pub fn is_alive(pid: i32) -> bool {
    states(pid).into_iter().any(|state| !state.starts_with('Z') && !state.starts_with('X'))
}

/// Memory that a process has now, in MiB.
pub fn memory_mb(pid: i32) -> u64 {
    megabytes(pid, "VmRSS")
}

/// The most memory that a process has ever had, in MiB.
pub fn peak_memory_mb(pid: i32) -> u64 {
    megabytes(pid, "VmHWM")
}

/// Child processes of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<i32>>()).collect()
}

#[track_caller]
fn megabytes(pid: i32, field: &str) -> u64 {
    let line = status_line(Path::new(&format!("/proc/{pid}")), field).unwrap_or_else(|| panic!("process {pid} is gone"));
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number of kB") / 1024
}

fn status_line(process: &Path, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
