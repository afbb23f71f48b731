//! The one wasmtime configuration, and the clock that interrupts guests.
//!
//! **Invariant:** host and compiling child build their engines with [`engine`], so that what the child compiles fits the
//! host. They differ in the allocator only, which is no part of the compatibility hash (a test holds that).

use std::hash::{Hash as _, Hasher};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
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
        .concurrency_support(false);
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

/// Advances an engine's epoch every [`EPOCH_TICK`] until it is dropped. A plain thread: a busy executor must not be able
/// to stop the clock that keeps guests from keeping it busy.
#[derive(Debug)]
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the clock of `engine`.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let engine = engine.clone();
        let thread = std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            while stopped.recv_timeout(EPOCH_TICK) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
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
}
