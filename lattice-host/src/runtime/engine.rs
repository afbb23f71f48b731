//! The one wasmtime configuration, and the clock that interrupts guests.
//!
//! **Invariant:** host and compiling child build their engines with [`engine`], so that what the child compiles fits the
//! host. They differ in the allocator only, which is no part of the compatibility hash (a test holds that).

use std::hash::{Hash as _, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Between two ticks of the epoch: how long a guest runs at most before it gives way to other tasks.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Stack of wasm code in bytes; deeper recursion traps.
const MAX_WASM_STACK: usize = 512 * KIB;
/// Whole stack of a call in bytes: what wasm leaves is for host functions.
const ASYNC_STACK: usize = 2 * MIB;

/// Bytes at the start of a used memory that are cleared in place for the next instance instead of being given back: the
/// pages that a typical handler dirties, at a few hundredths of a microsecond each instead of a page fault.
const MEMORY_KEEP_RESIDENT: usize = 256 * KIB;
/// The same for tables.
const TABLE_KEEP_RESIDENT: usize = 64 * KIB;
/// Slots given back to the kernel in one system call.
const DECOMMIT_BATCH: usize = 16;
/// Slots that stay prepared for an actor that is not running now; each may hold `MEMORY_KEEP_RESIDENT` bytes.
const MAX_WARM_SLOTS: u32 = 64;

/// Caps per component, far above what compilers produce and far below what would hurt.
const CORE_INSTANCES_PER_COMPONENT: u32 = 20;
pub(crate) const MEMORIES_PER_COMPONENT: u32 = 4;
pub(crate) const TABLES_PER_COMPONENT: u32 = 16;
/// Bytes of wasmtime's own records for one component instance.
const COMPONENT_INSTANCE_BYTES: usize = MIB;
/// Longest table in elements.
pub(crate) const TABLE_ELEMENTS: usize = 20_000;

/// Memories and tables per instance that the pool holds on average: toolchains make one memory and two tables.
const MEMORIES_PER_INSTANCE: u32 = 2;
const TABLES_PER_INSTANCE: u32 = 4;
/// A call that is torn down still holds its stack while the next one begins.
const STACKS_PER_INSTANCE: u32 = 2;

/// What an engine is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Running actors: memory comes from a pool that is reserved now.
    Run {
        /// Instances that may be alive at once.
        instances: u32,
        /// Largest linear memory in bytes.
        memory_bytes: usize,
    },
    /// Compiling only, in the child.
    Compile,
}

/// Builds an engine. The pool of [`Purpose::Run`] is address space, not memory.
///
/// # Errors
/// What wasmtime says: no such address space, a kernel without what is needed.
pub(crate) fn engine(purpose: Purpose) -> wasmtime::Result<Engine> {
    let mut config = code_config();
    match purpose {
        Purpose::Run { instances, memory_bytes } => {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances, memory_bytes)));
        }
        Purpose::Compile => {
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        }
    }
    Engine::new(&config)
}

/// Everything that shapes compiled code. Proposals that no toolchain of ours needs are off: most advisories of recent
/// years were about one of them.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_custom_page_sizes(false)
        .wasm_gc(false)
        .wasm_wide_arithmetic(false)
        .wasm_stack_switching(false)
        .concurrency_support(false)
        // For debuggers and profilers only; without them code is a sixth smaller on disk and in memory, and sooner loaded.
        .generate_address_map(false)
        .native_unwind_info(false);
    config
}

fn pool(instances: u32, memory_bytes: usize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances.saturating_mul(MEMORIES_PER_INSTANCE))
        .total_tables(instances.saturating_mul(TABLES_PER_INSTANCE))
        .total_stacks(instances.saturating_mul(STACKS_PER_INSTANCE))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_component_instance_size(COMPONENT_INSTANCE_BYTES)
        .max_memory_size(memory_bytes)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(MAX_WARM_SLOTS)
        .decommit_batch_size(DECOMMIT_BATCH)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .pagemap_scan(if swap_is_off() { Enabled::Auto } else { Enabled::No });
    pool
}

/// Whether no page can be swapped out. A scan of the page map does not see dirty pages that were, and the next instance
/// in the slot would find another's data in them.
fn swap_is_off() -> bool {
    // The first line is the heading. Unreadable counts as on: the slower way is always right.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

/// Hash of all that decides whether compiled code fits an engine, stable within one build of this program.
pub(crate) fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = StableHasher::default();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // The same wasmtime with other defaults of ours must not share files.
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a: the standard hasher may change its result with the toolchain. Guards against mistakes, not against forgery
/// (the cache's key does that).
struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Advances an engine's epoch every [`EPOCH_TICK`] while guests run, until it is dropped. A plain thread: a busy executor
/// must not be able to stop the clock that keeps guests from keeping it busy.
#[derive(Debug)]
pub(crate) struct Ticker {
    clock: Arc<Clock>,
    thread: Option<JoinHandle<()>>,
}

/// Ticks without a guest after which the clock stops: a second, so that a host with little to do does not start and stop
/// it for each message, and one with nothing to do does not wake up a hundred times a second.
const TICKS_UNTIL_ASLEEP: u32 = 100;

#[derive(Debug, Default)]
struct Clock {
    /// Calls of guests under way.
    running: AtomicUsize,
    /// Calls that have begun, ever.
    begun: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Starts the clock of `engine`.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let clock = Arc::new(Clock::default());
        let (engine, shared) = (engine.clone(), clock.clone());
        let thread = std::thread::Builder::new().name("epoch".to_owned()).spawn(move || shared.tick(&engine))?;
        Ok(Self { clock, thread: Some(thread) })
    }

    /// Says that a guest may run from now on, until what is returned is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        let clock = &*self.clock;
        clock.running.fetch_add(1, Ordering::SeqCst);
        clock.begun.fetch_add(1, Ordering::Relaxed);
        // Both sides write their own flag before they look at the other's, so that one of them sees the other.
        if clock.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(clock)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

/// While it is there, the clock goes.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Clock);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clock {
    fn tick(&self, engine: &Engine) {
        let (mut quiet, mut begun) = (0, 0);
        while !self.stopped.load(Ordering::SeqCst) {
            std::thread::park_timeout(EPOCH_TICK);
            engine.increment_epoch();
            let before = std::mem::replace(&mut begun, self.begun.load(Ordering::Relaxed));
            let is_quiet = before == begun && self.running.load(Ordering::SeqCst) == 0;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet >= TICKS_UNTIL_ASLEEP {
                self.sleep();
                quiet = 0;
            }
        }
    }

    /// Waits until a guest runs, or the end.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.stopped.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It can only have ended by itself if it panicked, and then there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_and_host_produce_the_same_code() {
        let host = engine(Purpose::Run { instances: 4, memory_bytes: 64 * MIB }).unwrap();
        let larger = engine(Purpose::Run { instances: 8, memory_bytes: 128 * MIB }).unwrap();
        let child = engine(Purpose::Compile).unwrap();
        assert_eq!(compatibility(&host), compatibility(&child));
        assert_eq!(compatibility(&host), compatibility(&larger));
    }

    #[test]
    fn the_clock_stops_with_its_owner() {
        let engine = engine(Purpose::Compile).unwrap();
        let weak = engine.weak();
        let ticker = Ticker::start(&engine).unwrap();
        drop(engine);
        assert!(weak.upgrade().is_some(), "the thread holds the engine");
        drop(ticker);
        assert!(weak.upgrade().is_none(), "the thread has ended");
    }

    #[test]
    fn the_clock_sleeps_while_nothing_runs() {
        let engine = engine(Purpose::Compile).unwrap();
        let ticker = Ticker::start(&engine).unwrap();
        let until = |asleep: bool| {
            let end = std::time::Instant::now() + Duration::from_secs(30);
            while ticker.clock.asleep.load(Ordering::SeqCst) != asleep {
                assert!(std::time::Instant::now() < end, "asleep: {}", !asleep);
                std::thread::yield_now();
            }
        };
        until(true);
        let guest = ticker.running();
        until(false);
        let another = ticker.running();
        drop(guest);
        std::thread::sleep(EPOCH_TICK * (TICKS_UNTIL_ASLEEP + 20));
        assert!(!ticker.clock.asleep.load(Ordering::SeqCst), "one still runs");
        drop(another);
        until(true);
    }
}
