//! Counts that noise cannot touch, or hardly: allocations and page faults of this thread, CPU time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use crate::Error;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted by thread. The count costs one addition, the same on all sides.
pub(crate) struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature; this one hands everything on")]
// SAFETY: every call goes to the system's allocator with the arguments that came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
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
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get().wrapping_add(1)));
}

/// What this thread has used until a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    /// Calls of the allocator that asked for memory.
    pub(crate) allocations: u64,
    /// Page faults that needed no disk.
    pub(crate) faults: u64,
}

impl Used {
    /// Until now. What it takes to find out does not count.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(crate) fn now() -> Result<Self, Error> {
        let allocations = ALLOCATIONS.with(Cell::get);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let stat = procfs::process::Process::myself()?.task_from_tid(thread)?.stat()?;
        ALLOCATIONS.with(|count| count.set(allocations));
        Ok(Self { allocations, faults: stat.minflt })
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { allocations: self.allocations - earlier.allocations, faults: self.faults - earlier.faults }
    }
}

/// CPU time of this process, all threads together.
pub(crate) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_by_thread() {
        let before = ALLOCATIONS.with(Cell::get);
        let boxed = std::hint::black_box(Box::new(1));
        std::thread::spawn(|| drop(std::hint::black_box(vec![0_u8; 10]))).join().unwrap();
        drop(boxed);
        let counted = ALLOCATIONS.with(Cell::get) - before;
        // The box, and what starting a thread takes on this side.
        assert!((1..20).contains(&counted), "{counted}");
    }
}
