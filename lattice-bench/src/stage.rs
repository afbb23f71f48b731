//! The host's runtime in this process, with backends in memory: what an actor costs without network and wake-ups.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lattice_core::contract::Contract;
use lattice_core::id::{ActorId, Digest, LinkName, ProviderId};
use lattice_core::link::LinkSpec;
use lattice_core::wire::assignment::{InstancePolicy, Limits, LinkAssignment};
use lattice_host::runtime::{
    Actor, ActorSettings, Backend, BoundLink, CompileLimits, Loaded, NoGate, NoLogs, Runtime, RuntimeConfig, Shield,
};
use provider_api::keyvalue::Bucket;
use provider_api::messaging::{Inbox, Message, Messaging, Subscription};
use provider_api::{CallError, ProviderError};

use crate::Error;
use crate::bench::Bench;

/// CPU time that a call may take: no row is about this limit.
const CPU_MS: u32 = 60_000;
/// Linear memory of one instance at most, in MiB.
const INSTANCE_MB: u32 = 16;
/// Subject of messages.
pub(crate) const SUBJECT: &str = "edge.sensor.bench";

/// A runtime of its own.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) cache: PathBuf,
}

impl Stage {
    /// Starts a runtime with room for so many instances; its cache is a new folder named after `purpose`.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) fn start(bench: &Bench, purpose: &str, instances: u32) -> Result<Self, Error> {
        Self::guarded(bench, purpose, instances, Shield::open())
    }

    /// The same with policies in force.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) fn guarded(bench: &Bench, purpose: &str, instances: u32, shield: Arc<Shield>) -> Result<Self, Error> {
        let compile = CompileLimits { program: bench.binary("lattice-host")?, ..CompileLimits::default() };
        let config = config(bench.scratch.join(purpose), instances, compile, true)?;
        Ok(Self { cache: config.cache_dir.clone(), runtime: Runtime::guarded(config, Arc::new(NoGate), shield)? })
    }

    /// The same on a cache that may have something already, with other limits on compiling, and without the thread's clock if
    /// it must not be asked: valgrind does not know the kernel's page that it is read from.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) fn with_compiler(cache: PathBuf, instances: u32, compile: CompileLimits, thread_clock: bool) -> Result<Self, Error> {
        let config = config(cache.clone(), instances, compile, thread_clock)?;
        Ok(Self { runtime: Runtime::start(config)?, cache })
    }

    /// Loads a component, compiling it in a child if the cache has it not.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) async fn load(&self, wasm: &Bytes) -> Result<Loaded, Error> {
        Ok(self.runtime.load(&Digest::of(wasm), async { Ok::<_, std::io::Error>(wasm.clone()) }).await?)
    }

    /// An actor with these links.
    ///
    /// # Errors
    /// The runtime's.
    pub(crate) async fn actor(&self, wasm: &Bytes, policy: InstancePolicy, links: Vec<BoundLink>) -> Result<Actor, Error> {
        Ok(Actor::new(&self.runtime, self.load(wasm).await?, settings(policy)?, links)?)
    }
}

fn config(cache_dir: PathBuf, instances: u32, compile: CompileLimits, thread_clock: bool) -> Result<RuntimeConfig, Error> {
    Ok(RuntimeConfig {
        cache_dir,
        max_instances: instances,
        max_actor_memory_mb: INSTANCE_MB,
        host_memory_mb: instances.saturating_mul(INSTANCE_MB),
        node_name: "NBENCH".parse()?,
        compile,
        logs: Arc::new(NoLogs),
        thread_clock,
    })
}

/// Settings with room for one instance, and time for anything.
///
/// # Errors
/// None: the id is a fixed one.
pub(crate) fn settings(policy: InstancePolicy) -> Result<ActorSettings, Error> {
    Ok(ActorSettings {
        id: ActorId::new("bench")?,
        policy,
        limits: Limits { cpu_ms: CPU_MS, deadline_ms: CPU_MS, memory_mb: INSTANCE_MB },
        instances: 1,
        config: BTreeMap::new(),
        env: BTreeMap::new(),
    })
}

/// The links that every guest program needs for its imports: a bucket and a bus.
///
/// # Errors
/// None: their settings are fixed.
pub(crate) fn links(bucket: Arc<dyn Bucket>, bus: Arc<dyn Messaging>) -> Result<Vec<BoundLink>, Error> {
    Ok(vec![
        BoundLink { spec: link(Contract::KeyValue, &[("bucket", "bench")])?, backend: Backend::KeyValue(bucket) },
        BoundLink { spec: link(Contract::Messaging, &[("subscription", SUBJECT)])?, backend: Backend::Messaging(bus) },
    ])
}

/// The same, with a bucket in memory and nobody on the bus.
///
/// # Errors
/// The provider's.
pub(crate) async fn links_in_memory() -> Result<Vec<BoundLink>, Error> {
    links(provider_api::keyvalue::KeyValue::open(&provider_kv_memory::KvMemory::new(), "bench").await?, Arc::new(Nobody::default()))
}

fn link(contract: Contract, values: &[(&str, &str)]) -> Result<LinkAssignment, Error> {
    let (provider, name) = (ProviderId::new("bench")?, LinkName::new("default")?);
    let spec = LinkSpec {
        source: ActorId::new("bench")?,
        target: provider.clone(),
        contract,
        name: name.clone(),
        values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        permissions: [].into(),
        env_mapping: BTreeMap::new(),
        config: Vec::new(),
    };
    Ok(LinkAssignment { name, contract, provider, settings: spec.settings(&spec.merged_values([]))? })
}

/// A message without a reply subject.
pub(crate) fn message(body: impl Into<Bytes>) -> Message {
    Message { subject: SUBJECT.to_owned(), body: body.into(), reply_to: None, headers: Vec::new() }
}

/// A bus that counts what is published and has no subscribers.
#[derive(Default)]
pub(crate) struct Nobody {
    published: AtomicU64,
}

impl Nobody {
    /// Messages until now.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Messaging for Nobody {
    fn max_payload(&self) -> usize {
        1024 * 1024
    }

    async fn publish(&self, _message: Message) -> Result<(), CallError> {
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn request(&self, message: Message, _timeout: Duration) -> Result<Message, CallError> {
        Err(CallError::NoResponder(message.subject))
    }

    async fn subscribe(&self, _subscription: Subscription) -> Result<Box<dyn Inbox>, ProviderError> {
        Err(ProviderError::setting("subscription", "nobody publishes here"))
    }
}
