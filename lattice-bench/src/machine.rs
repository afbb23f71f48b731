//! The machine that was measured on, and how busy others kept it meanwhile.

use procfs::{Current as _, CurrentSI as _};
use serde::Serialize;

use crate::Error;
use crate::stats::to_f64;

/// What a reader needs to know to judge absolute numbers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    swap: bool,
    memory_mb: u64,
    wasmtime: &'static str,
    profile: &'static str,
}

impl Machine {
    /// Reads `/proc`; what it does not say is empty.
    pub(crate) fn read() -> Self {
        let cpus = procfs::CpuInfo::current().ok();
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        Self {
            cpu: cpus.as_ref().and_then(|cpus| cpus.model_name(0)).unwrap_or_default().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            swap: swaps.lines().count() > 1,
            memory_mb: procfs::Meminfo::current().map_or(0, |memory| memory.mem_total / (1024 * 1024)),
            wasmtime: wasmtime_version().unwrap_or_default(),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, swap, memory_mb, wasmtime, profile } = self;
        let swap = if *swap { "on" } else { "off" };
        write!(f, "{cpu}, {cores} cores, {memory_mb} MiB, Linux {kernel}, swap {swap}; wasmtime {wasmtime}, profile {profile}")
    }
}

/// The version that this program was built with: the crate itself does not tell.
fn wasmtime_version() -> Option<&'static str> {
    let (_, entry) = include_str!("../../Cargo.lock").split_once("name = \"wasmtime\"\nversion = \"")?;
    entry.split('"').next()
}

/// CPU time of the machine and of this program at one moment, in the kernel's ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTimes {
    /// All that the cores had to give.
    total: u64,
    /// What somebody used, and what the hypervisor took away.
    busy: u64,
    /// What this program and its children used.
    ours: u64,
}

impl CpuTimes {
    /// Reads `/proc`, some hundred files of it.
    ///
    /// # Errors
    /// There is no such `/proc`.
    pub(crate) fn now() -> Result<Self, Error> {
        let all = procfs::KernelStats::current()?.total;
        let stolen = all.steal.unwrap_or(0);
        let busy = all.user + all.nice + all.system + all.irq.unwrap_or(0) + all.softirq.unwrap_or(0) + stolen;
        Ok(Self { total: busy + all.idle + all.iowait.unwrap_or(0), busy, ours: tree_ticks()? })
    }

    /// Share of the machine's CPU that others took between `earlier` and this moment: 0 for nothing, 1 for all cores.
    pub(crate) fn others_since(&self, earlier: &Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        let busy = self.busy.saturating_sub(earlier.busy);
        let others = busy.saturating_sub(self.ours.saturating_sub(earlier.ours));
        if total == 0 { 0.0 } else { ticks(others) / ticks(total) }
    }
}

fn ticks(count: u64) -> f64 {
    to_f64(usize::try_from(count).unwrap_or(usize::MAX))
}

/// CPU time of this process, its children, theirs, and those that have ended and were waited for.
fn tree_ticks() -> Result<u64, Error> {
    let me = procfs::process::Process::myself()?.stat()?;
    let waited_for = u64::try_from(me.cutime.saturating_add(me.cstime)).unwrap_or(0);
    let mut sum = me.utime.saturating_add(me.stime).saturating_add(waited_for);
    // A process that ends while this looks is simply not there any more.
    let all: Vec<_> = procfs::process::all_processes()?.filter_map(|process| process.ok()?.stat().ok()).collect();
    let mut generation = vec![me.pid];
    while !generation.is_empty() {
        let children: Vec<_> = all.iter().filter(|stat| generation.contains(&stat.ppid)).collect();
        sum = children.iter().fold(sum, |sum, stat| sum.saturating_add(stat.utime).saturating_add(stat.stime));
        generation = children.iter().map(|stat| stat.pid).collect();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_not_that_of_others() {
        let before = CpuTimes { total: 100, busy: 50, ours: 40 };
        let after = CpuTimes { total: 200, busy: 130, ours: 110 };
        assert!((after.others_since(&before) - 0.1).abs() < 1e-9);
        assert!(before.others_since(&before).abs() < 1e-9, "no time, no others");
    }

    #[test]
    fn the_machine_has_a_kernel_and_a_clock() {
        assert!(!Machine::read().kernel.is_empty());
        let now = CpuTimes::now().unwrap();
        assert!(now.total >= now.busy && now.busy > 0, "{now:?}");
    }
}
