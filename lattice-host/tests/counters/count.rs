//! Counters of the thread that runs the test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted by thread.
pub(crate) struct Counting;

/// The one that a test program has.
pub(crate) const COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature; this one hands everything on")]
// SAFETY: every call goes to the system's allocator with the arguments that came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count() {
    // While the thread's own variables are taken down nothing is counted.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// Does something whose allocations do not count.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let done = work();
    ALLOCATIONS.set(before);
    done
}

/// What this thread has used until now, or what a part of it used on average.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Requests to the allocator.
    pub(crate) allocations: f64,
    /// Page faults that needed no disk.
    pub(crate) faults: f64,
    /// Times that the thread gave up its processor to wait.
    pub(crate) switches: f64,
}

impl Counts {
    pub(crate) fn now() -> Self {
        aside(|| {
            let number = |text: Option<&str>| text.unwrap().parse::<u32>().map(f64::from).unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // After the name, which may hold anything: state, ppid, pgrp, session, tty, tpgid, flags, then minor faults.
            let faults = number(stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7));
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let switches = number(status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim));
            let allocations = f64::from(u32::try_from(ALLOCATIONS.get()).unwrap());
            Self { allocations, faults, switches }
        })
    }

    pub(crate) fn per(&self, before: &Self, parts: u32) -> Self {
        let each = |now: f64, before: f64| (now - before) / f64::from(parts);
        Self {
            allocations: each(self.allocations, before.allocations),
            faults: each(self.faults, before.faults),
            switches: each(self.switches, before.switches),
        }
    }
}
