//! Running actors: from bytes to a called handler, with limits on everything.
//!
//! ```text
//! bytes ──► compiling child ──► Cache ──► Component ──┐
//!                                                     ├─► InstancePre ──► Instance ──► handle-message | HTTP handle
//! links, config ──────────────────────► Linker ───────┘        (per actor)    (per message, or resident)
//! ```
//!
//! [`Runtime`] is one per host, [`Actor`] one per actor on it; both are handles that can be cloned. There is no task of its
//! own here, except one thread that advances the epoch, and threads for guests that compute (`lane`): a message or request
//! is worked on by whoever calls.
//!
//! **Invariants.** A guest can use only the CPU time, wall time and memory that its limits name, and nothing of it survives
//! a per-message call. It can call only what a link of its actor covers at the moment of the call. A failure of one
//! instance touches no other.

mod actor;
pub(crate) mod bindings;
mod cache;
mod compiler;
mod component;
pub(crate) mod engine;
mod error;
mod gate;
mod instance;
mod lane;
mod limits;
mod linker;
pub(crate) mod links;
pub mod logs;
mod meter;
mod serve;
mod shield;
pub(crate) mod state;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use lattice_core::admission::check_preamble;
use lattice_core::claims::sections::Carried;
use lattice_core::contract::Contract;
use lattice_core::id::{Digest, HostName};
use lattice_core::policy::effects::is_system_link;
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

pub use actor::{Actor, ActorSettings, ActorStats, Handled};
pub use cache::CacheError;
pub use compiler::{CompileError, CompileLimit, CompileLimits};
pub use component::Loaded;
pub use error::{InvokeError, LinkFault, LoadError, RuntimeError};
pub use gate::{Gatekeeper, NoGate};
pub use limits::Exhausted;
pub use links::{Backend, BoundLink};
pub use logs::{LogLevel, LogSink, NoLogs};
pub use shield::Shield;
pub use state::ReplyRoute;
pub use usage::CpuTime;

use cache::Cache;
use compiler::Compiler;
use component::CodeImage;
use engine::{Purpose, Ticker};
use lane::Lane;
pub(crate) use lane::Pace;
use limits::MemoryAccount;
use state::State;

const MIB: u64 = 1024 * 1024;

/// How large a runtime is and where it keeps its files.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Folder for compiled code, this host's own.
    pub cache_dir: PathBuf,
    /// Instances that may be alive at once, all actors together.
    pub max_instances: u32,
    /// Largest linear memory of one instance in MiB.
    pub max_actor_memory_mb: u32,
    /// Linear memory of all instances together in MiB.
    pub host_memory_mb: u32,
    /// Name of the node as actors see it.
    pub node_name: HostName,
    /// What compiling may cost.
    pub compile: CompileLimits,
    /// Where log lines of actors go.
    pub logs: Arc<dyn LogSink>,
    /// Whether the thread's clock is asked now and then what guests cost; else the clock on the wall counts alone.
    pub thread_clock: bool,
}

/// How preparing code ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// Its compiled form is in the cache.
    Done,
    /// Something more urgent came first; try again.
    Later,
}

/// The engine of a host and all that actors share.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) config: RuntimeConfig,
    pub(crate) memory: Arc<MemoryAccount>,
    /// One permit per instance that may be alive.
    pub(crate) slots: Arc<Semaphore>,
    cache: Cache,
    compiler: Compiler,
    /// What actors link against, by the contracts that they have links for: made once, there are few combinations.
    linkers: Mutex<BTreeMap<BTreeSet<Contract>, Arc<Linker<State>>>>,
    /// Code that is in memory, so that it is there once however many actors run it.
    loaded: Mutex<BTreeMap<Digest, Weak<CodeImage>>>,
    /// Code that is being loaded, so that many actors of the same code load it once.
    loading: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) ticker: Ticker,
    pub(crate) lane: Arc<Lane>,
    /// Whether code may run.
    gate: Arc<dyn Gatekeeper>,
    /// What actors may do.
    shield: Arc<Shield>,
    /// The shield of lattice's own actors.
    open: Arc<Shield>,
}

impl Shared {
    /// The shield of an actor with these links.
    pub(crate) fn shield_of(&self, links: &[BoundLink]) -> Arc<Shield> {
        let is_system = links.iter().any(|link| is_system_link(&link.spec.settings.kind));
        if is_system { self.open.clone() } else { self.shield.clone() }
    }

    /// The linker of actors that have links of these contracts.
    pub(crate) fn linker(&self, contracts: &BTreeSet<Contract>) -> wasmtime::Result<Arc<Linker<State>>> {
        let mut linkers = self.linkers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linker) = linkers.get(contracts) {
            return Ok(linker.clone());
        }
        let linker = Arc::new(linker::linker(&self.engine, contracts)?);
        linkers.insert(contracts.clone(), linker.clone());
        Ok(linker)
    }
}

impl Runtime {
    /// Reserves the address space for all instances, starts the epoch's clock, opens the cache.
    ///
    /// # Errors
    /// [`RuntimeError`] if the system does not give what `config` asks for.
    pub fn start(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::guarded(config, Arc::new(NoGate), Shield::open())
    }

    /// The same where `gate` decides what may run, and `shield` what may be done.
    ///
    /// # Errors
    /// As for [`Runtime::start`].
    pub fn guarded(config: RuntimeConfig, gate: Arc<dyn Gatekeeper>, shield: Arc<Shield>) -> Result<Self, RuntimeError> {
        let memory_bytes = usize::try_from(u64::from(config.max_actor_memory_mb).saturating_mul(MIB)).unwrap_or(usize::MAX);
        let purpose = Purpose::Run { instances: config.max_instances, memory_bytes };
        let engine = engine::engine(purpose).map_err(|reason| RuntimeError::Engine { instances: config.max_instances, reason })?;
        let cache = Cache::open(&config.cache_dir, &engine)?;
        let ticker = Ticker::start(&engine).map_err(RuntimeError::Thread)?;
        let slots = usize::try_from(config.max_instances).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        let shared = Shared {
            memory: MemoryAccount::of_host(u64::from(config.host_memory_mb).saturating_mul(MIB)),
            slots: Arc::new(Semaphore::new(slots)),
            compiler: Compiler::new(config.compile.clone()),
            linkers: Mutex::default(),
            loaded: Mutex::default(),
            loading: Mutex::default(),
            ticker,
            lane: Arc::default(),
            gate,
            shield,
            open: Shield::open(),
            engine,
            config,
            cache,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads code: from memory, from the cache, or from `fetch` (polled only then) by way of the compiling child.
    ///
    /// # Errors
    /// [`LoadError`]; bad code is remembered as such for a while and not compiled again.
    pub fn load<'a, E>(
        &'a self,
        digest: &'a Digest,
        fetch: impl Future<Output = Result<Bytes, E>> + Send + 'a,
    ) -> BoxFuture<'a, Result<Loaded, LoadError>>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        // Boxed: a fetch is large, and this is no hot path.
        Box::pin(self.find_or_compile(digest, fetch))
    }

    /// Compiles code into the cache ahead of need: while nobody else compiles, and only until somebody has to.
    ///
    /// # Errors
    /// As for [`Runtime::load`].
    pub async fn prepare<E>(&self, digest: &Digest, fetch: impl Future<Output = Result<Bytes, E>> + Send) -> Result<Prepared, LoadError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let loading = self.loading(digest);
        // Whoever has it loads the same in earnest.
        let Ok(_alone) = loading.try_lock() else { return Ok(Prepared::Later) };
        if self.image_in_memory(digest).is_some() || self.cached(digest).await?.is_some() {
            return Ok(Prepared::Done);
        }
        if let Some(error) = self.shared.cache.failure(digest) {
            return Err(LoadError::Compile(error));
        }
        let wasm = fetch.await.map_err(|error| LoadError::Fetch { digest: digest.clone(), source: Box::new(error) })?;
        let carried = self.inspect(digest, &wasm)?;
        let wanted = self.shared.compiler.wanted();
        tokio::pin!(wanted);
        wanted.as_mut().enable();
        let Some(_turn) = self.shared.compiler.spare_turn() else { return Ok(Prepared::Later) };
        tokio::select! {
            biased;
            () = wanted => {
                self.shared.cache.discard(digest);
                Ok(Prepared::Later)
            }
            compiled = self.compile(digest, &wasm, &carried) => compiled.map(|_component| Prepared::Done),
        }
    }

    /// Linear memory of all instances in bytes.
    pub fn memory_in_use(&self) -> u64 {
        self.shared.memory.used()
    }

    /// Instances that are alive.
    pub fn live_instances(&self) -> u32 {
        let free = u32::try_from(self.shared.slots.available_permits()).unwrap_or(u32::MAX);
        self.shared.config.max_instances.saturating_sub(free)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn find_or_compile<E>(&self, digest: &Digest, fetch: impl Future<Output = Result<Bytes, E>> + Send) -> Result<Loaded, LoadError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        if let Some(image) = self.image_in_memory(digest) {
            return self.admit(image).await;
        }
        let loading = self.loading(digest);
        let _alone = loading.lock().await;
        // Whoever was before may have loaded the same.
        if let Some(image) = self.image_in_memory(digest) {
            return self.admit(image).await;
        }
        if let Some((component, carried)) = self.cached(digest).await? {
            return self.admit(self.keep(digest, component, carried)?).await;
        }
        if let Some(error) = self.shared.cache.failure(digest) {
            return Err(LoadError::Compile(error));
        }
        let wasm = fetch.await.map_err(|error| LoadError::Fetch { digest: digest.clone(), source: Box::new(error) })?;
        let carried = self.inspect(digest, &wasm)?;
        let _turn = self.shared.compiler.turn().await;
        let component = self.compile(digest, &wasm, &carried).await?;
        self.admit(self.keep(digest, component, carried)?).await
    }

    /// Everything about the bytes that can be told without compiling them; what they carry beside the code.
    fn inspect(&self, digest: &Digest, wasm: &[u8]) -> Result<Carried, LoadError> {
        check_source(digest, wasm)?;
        let carried = match Carried::read(wasm) {
            Ok(carried) => carried,
            Err(error) if self.shared.gate.asks() => return Err(LoadError::claim(error.into(), None)),
            // The compiler says what is wrong with it.
            Err(_) => Carried { digest: digest.clone(), claim: None, token: None, token_hash: String::new() },
        };
        // Nobody's compiler works for those who are not let in.
        self.shared.gate.check(&carried).map_err(|refused| LoadError::claim(refused, Some(&carried)))?;
        Ok(carried)
    }

    /// Asks whether the code may run now: each time anew, because time, policies and what was seen change.
    async fn admit(&self, image: Arc<CodeImage>) -> Result<Loaded, LoadError> {
        let (shared, asked) = (self.shared.clone(), image.clone());
        let admitted = tokio::task::spawn_blocking(move || shared.gate.admit(&asked.carried)).await;
        let claim = admitted.map_err(|_cancelled| LoadError::Stopping)?;
        let claim = claim.map_err(|refused| LoadError::claim(refused, Some(&image.carried)))?;
        Ok(Loaded::new(image, claim.map(Arc::new)))
    }

    fn loading(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.shared.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(digest).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, loading| loading.strong_count() > 0);
        let new = Arc::default();
        all.insert(digest.clone(), Arc::downgrade(&new));
        new
    }

    fn image_in_memory(&self, digest: &Digest) -> Option<Arc<CodeImage>> {
        self.shared.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()
    }

    async fn cached(&self, digest: &Digest) -> Result<Option<(Component, Carried)>, LoadError> {
        let (shared, digest) = (self.shared.clone(), digest.clone());
        let found = tokio::task::spawn_blocking(move || shared.cache.get(&digest, &shared.engine)).await;
        found.map_err(|_cancelled| LoadError::Stopping)
    }

    async fn compile(&self, digest: &Digest, wasm: &[u8], carried: &Carried) -> Result<Component, LoadError> {
        let started = std::time::Instant::now();
        let compiled = match self.shared.compiler.compile(wasm, &self.shared.cache.scratch(digest)).await {
            Ok(()) => self.take_artifact(digest, carried).await?,
            Err(error) => Err(error),
        };
        match compiled {
            Ok(component) => {
                tracing::info!(%digest, bytes = wasm.len(), ms = started.elapsed().as_millis(), "component compiled");
                Ok(component)
            }
            Err(error) => {
                self.shared.cache.discard(digest);
                let error = Arc::new(error);
                if error.is_lasting() {
                    self.shared.cache.remember_failure(digest, error.clone());
                }
                Err(LoadError::Compile(error))
            }
        }
    }

    async fn take_artifact(&self, digest: &Digest, carried: &Carried) -> Result<Result<Component, CompileError>, LoadError> {
        let (shared, digest, carried) = (self.shared.clone(), digest.clone(), carried.clone());
        let stored = tokio::task::spawn_blocking(move || shared.cache.put(&digest, &carried, &shared.engine)).await;
        stored.map_err(|_cancelled| LoadError::Stopping)
    }

    /// Checks the outside of a component and keeps it at hand.
    fn keep(&self, digest: &Digest, component: Component, carried: Carried) -> Result<Arc<CodeImage>, LoadError> {
        let image = Arc::new(CodeImage::new(digest.clone(), component, carried, &self.shared.engine)?);
        let mut loaded = self.shared.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, image| image.strong_count() > 0);
        loaded.insert(digest.clone(), Arc::downgrade(&image));
        Ok(image)
    }
}

/// Everything about the bytes that can be told without compiling them.
fn check_source(digest: &Digest, wasm: &[u8]) -> Result<(), LoadError> {
    if Engine::detect_precompiled(wasm).is_some() {
        return Err(LoadError::Precompiled);
    }
    check_preamble(wasm)?;
    let found = Digest::of(wasm);
    if found == *digest { Ok(()) } else { Err(LoadError::Digest { expected: digest.clone(), found }) }
}
