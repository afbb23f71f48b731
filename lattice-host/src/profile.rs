//! How large this machine is and how much of it the host uses, from `/proc`.
//!
//! Blocks for some microseconds on pseudo files. What the kernel does not say is 0, and the plan treats it so.

use std::time::{Duration, Instant};

use lattice_core::wire::report::Profile;
use procfs::process::Process;
use procfs::{Current as _, Meminfo};

const MIB: u64 = 1024 * 1024;
/// Between two readings of the proportional set size: the kernel walks the page tables for it.
const PSS_INTERVAL: Duration = Duration::from_secs(15);

/// Memory that this host may use in MiB: the machine's, or less if its control group says so.
pub fn memory_mb() -> u32 {
    let machine = Meminfo::current().map_or(0, |info| info.mem_total);
    let bytes = cgroup_limit().map_or(machine, |limit| if machine == 0 { limit } else { limit.min(machine) });
    mib(bytes)
}

/// CPU in thousandths of a core, affinity and control group considered.
fn cpu_capacity() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000)
}

/// The memory limit of our control group (version 2) in bytes.
fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    limit.trim().parse().ok()
}

/// Measures this process from time to time.
#[derive(Debug)]
pub(crate) struct Sampler {
    size: Profile,
    process: Option<Process>,
    cpu: Option<(Instant, u64)>,
    cpu_used: u32,
    pss: Option<(Instant, u32)>,
}

impl Sampler {
    /// `cpu` and `memory` are what the host offers, if that is not what the machine has.
    pub(crate) fn new(cpu: Option<u32>, memory: Option<u32>) -> Self {
        let (cpu_capacity, memory_mb) = (cpu.unwrap_or_else(cpu_capacity), memory.unwrap_or_else(memory_mb));
        let size = Profile { cpu_capacity, memory_mb, cpu_used: 0, memory_used_mb: 0 };
        Self { size, process: Process::myself().ok(), cpu: None, cpu_used: 0, pss: None }
    }

    /// Size and use now; the CPU is that since the last call, if that was not just now.
    pub(crate) fn sample(&mut self, now: Instant) -> Profile {
        self.sample_cpu(now);
        Profile { cpu_used: self.cpu_used, memory_used_mb: self.memory_used_mb(now), ..self.size }
    }

    fn sample_cpu(&mut self, now: Instant) {
        let Some(ticks) = self.process.as_ref().and_then(|process| process.stat().ok()).map(|stat| stat.utime.saturating_add(stat.stime))
        else {
            return;
        };
        let Some((then, before)) = self.cpu else {
            self.cpu = Some((now, ticks));
            return;
        };
        let elapsed = u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX);
        // Below half a second the kernel's ticks of 10 ms are too coarse to divide by.
        if elapsed >= 500 {
            let used_ms = ticks.saturating_sub(before).saturating_mul(1000) / procfs::ticks_per_second().max(1);
            self.cpu_used = u32::try_from(used_ms.saturating_mul(1000) / elapsed).unwrap_or(u32::MAX);
            self.cpu = Some((now, ticks));
        }
    }

    fn memory_used_mb(&mut self, now: Instant) -> u32 {
        if let Some((_, pss)) = self.pss.filter(|(at, _)| now.saturating_duration_since(*at) < PSS_INTERVAL) {
            return pss;
        }
        let Some(process) = &self.process else { return 0 };
        let pss = process.smaps_rollup().ok().and_then(|rollup| {
            let total = rollup
                .memory_map_rollup
                .iter()
                .filter_map(|map| map.extension.map.get("Pss"))
                .fold(0_u64, |sum, pss| sum.saturating_add(*pss));
            (total > 0).then_some(total)
        });
        let rss = || process.statm().ok().map(|statm| statm.resident.saturating_mul(procfs::page_size()));
        let used = mib(pss.or_else(rss).unwrap_or(0));
        self.pss = Some((now, used));
        used
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_size_and_this_process_uses_some() {
        let mut sampler = Sampler::new(None, None);
        let start = Instant::now();
        let first = sampler.sample(start);
        assert!(first.cpu_capacity >= 1000 && first.memory_mb > 0 && first.memory_used_mb > 0, "{first:?}");
        let mut sum = 0_u64;
        while start.elapsed() < Duration::from_millis(60) {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0);
        let small = Sampler::new(Some(250), Some(64)).sample(start);
        assert_eq!((small.cpu_capacity, small.memory_mb), (250, 64));
        // As if a second had passed: some ten milliseconds of it were work.
        let later = sampler.sample(start + Duration::from_secs(1));
        assert!((10..=4000).contains(&later.cpu_used), "{later:?}");
    }
}
