//! A runtime with a bucket, a bus and a log that a test can look into.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lattice_core::contract::Contract;
use lattice_core::id::{ActorId, Digest, LinkName, ProviderId};
use lattice_core::link::LinkSpec;
use lattice_core::wire::assignment::{InstancePolicy, Limits, LinkAssignment};
use lattice_host::runtime::{
    Actor, ActorSettings, Backend, BoundLink, CompileLimits, Gatekeeper, InvokeError, LoadError, Loaded, LogLevel, LogSink, ReplyRoute,
    Runtime, RuntimeConfig, Shield,
};
use provider_api::keyvalue::{Bucket, KeyPage};
use provider_api::messaging::{Inbox, Message, Messaging, Subscription};
use provider_api::{CallError, ProviderError};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Longest time that anything in a test may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const REPLY_SUBJECT: &str = "_INBOX.test.1";

/// The bytes of a guest program.
pub(crate) fn program(name: &str) -> Bytes {
    let target = || {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
    };
    let folder = std::env::var_os("LATTICE_PROGRAMS").map_or_else(|| target().join("wasm32-wasip2/actor/examples"), PathBuf::from);
    let path = folder.join(format!("{}.wasm", name.replace('-', "_")));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(error) => panic!("{}: {error}; build the guest programs first: make programs", path.display()),
    }
}

/// A bucket in memory that can be told to hang or to fail.
#[derive(Default)]
pub(crate) struct TestBucket {
    pub values: Mutex<BTreeMap<String, Bytes>>,
    pub hangs: AtomicBool,
    pub entered: Notify,
    /// So many calls fail as unavailable.
    pub unavailable: AtomicU32,
    pub calls: AtomicU32,
}

impl TestBucket {
    async fn enter(&self) -> Result<(), CallError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.entered.notify_one();
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.unavailable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(CallError::Unavailable("told to be".to_owned())),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Bucket for TestBucket {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        self.enter().await?;
        Ok(self.values.lock().unwrap().get(key).cloned())
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError> {
        self.enter().await?;
        self.values.lock().unwrap().insert(key.to_owned(), value);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), CallError> {
        self.enter().await?;
        self.values.lock().unwrap().remove(key);
        Ok(())
    }

    async fn list_keys(&self, _cursor: Option<u64>) -> Result<KeyPage, CallError> {
        self.enter().await?;
        Ok(KeyPage { keys: self.values.lock().unwrap().keys().cloned().collect(), cursor: None })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        self.enter().await?;
        let mut values = self.values.lock().unwrap();
        let old: u64 = values.get(key).map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
        values.insert(key.to_owned(), (old + delta).to_string().into());
        Ok(old + delta)
    }
}

/// A bus that keeps what was published; requests are answered with their own body, on subjects with `silent` never.
#[derive(Default)]
pub(crate) struct TestBus {
    pub published: Mutex<Vec<Message>>,
}

#[async_trait]
impl Messaging for TestBus {
    fn max_payload(&self) -> usize {
        1024 * 1024
    }

    async fn publish(&self, message: Message) -> Result<(), CallError> {
        self.published.lock().unwrap().push(message);
        Ok(())
    }

    async fn request(&self, message: Message, timeout: Duration) -> Result<Message, CallError> {
        if message.subject.contains("silent") {
            tokio::time::sleep(timeout).await;
            return Err(CallError::TimedOut(u64::try_from(timeout.as_millis()).unwrap()));
        }
        Ok(message)
    }

    async fn subscribe(&self, _subscription: Subscription) -> Result<Box<dyn Inbox>, ProviderError> {
        Err(ProviderError::setting("subscription", "not in this test"))
    }
}

/// A sink that keeps everything.
#[derive(Default)]
pub(crate) struct TestLog {
    pub lines: Mutex<Vec<String>>,
    pub dropped: Mutex<u64>,
    pub denials: Mutex<Vec<String>>,
}

impl LogSink for TestLog {
    fn log(&self, _actor: &ActorId, level: LogLevel, context: &str, message: &str) {
        self.lines.lock().unwrap().push(format!("{} {context} {message}", level.as_str()));
    }

    fn dropped(&self, _actor: &ActorId, lines: u64) {
        *self.dropped.lock().unwrap() += lines;
    }

    fn denied(&self, _actor: &ActorId, contract: &str, what: &str) {
        self.denials.lock().unwrap().push(format!("{contract}: {what}"));
    }
}

pub(crate) struct World {
    pub runtime: Runtime,
    pub bucket: Arc<TestBucket>,
    pub bus: Arc<TestBus>,
    pub log: Arc<TestLog>,
    pub dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_config| {})
    }

    /// A runtime with other settings than usual.
    pub(crate) fn with(adjust: impl FnOnce(&mut RuntimeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(TestLog::default());
        let mut config = config(dir.path().join("cache"));
        config.logs = log.clone();
        adjust(&mut config);
        Self { runtime: Runtime::start(config).unwrap(), bucket: Arc::default(), bus: Arc::default(), log, dir }
    }

    /// A runtime with a gate and policies.
    pub(crate) fn guarded(gate: Arc<dyn Gatekeeper>, shield: Arc<Shield>) -> Self {
        let mut world = Self::new();
        let mut config = config(world.dir.path().join("cache"));
        config.logs = world.log.clone();
        world.runtime = Runtime::guarded(config, gate, shield).unwrap();
        world
    }

    pub(crate) async fn load(&self, wasm: Bytes) -> Result<Loaded, LoadError> {
        self.runtime.load(&Digest::of(&wasm), async { Ok::<_, std::io::Error>(wasm) }).await
    }

    /// The program with both links, and settings adjusted.
    pub(crate) async fn actor(&self, name: &str, adjust: impl FnOnce(&mut ActorSettings)) -> Actor {
        let mut settings = settings(name);
        adjust(&mut settings);
        let loaded = self.load(program(name)).await.unwrap();
        Actor::new(&self.runtime, loaded, settings, self.links()).unwrap()
    }

    pub(crate) fn links(&self) -> Vec<BoundLink> {
        vec![self.keyvalue(&[], &[]), self.messaging(&[("subscription", "edge.sensor.eu")])]
    }

    pub(crate) fn keyvalue(&self, values: &[(&str, &str)], permissions: &[&str]) -> BoundLink {
        let mut all = vec![("bucket", "edge-data")];
        all.extend_from_slice(values);
        BoundLink { spec: link(Contract::KeyValue, "default", &all, permissions), backend: Backend::KeyValue(self.bucket.clone()) }
    }

    pub(crate) fn messaging(&self, values: &[(&str, &str)]) -> BoundLink {
        BoundLink { spec: link(Contract::Messaging, "default", values, &[]), backend: Backend::Messaging(self.bus.clone()) }
    }

    pub(crate) fn published(&self) -> Vec<Message> {
        self.bus.published.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }
}

pub(crate) fn config(cache_dir: PathBuf) -> RuntimeConfig {
    RuntimeConfig {
        cache_dir,
        max_instances: 16,
        max_actor_memory_mb: 256,
        host_memory_mb: 512,
        node_name: "NEDGE01".parse().unwrap(),
        compile: CompileLimits { program: env!("CARGO_BIN_EXE_lattice-host").into(), ..CompileLimits::default() },
        logs: Arc::new(lattice_host::runtime::NoLogs),
        thread_clock: true,
    }
}

pub(crate) fn settings(name: &str) -> ActorSettings {
    ActorSettings {
        id: ActorId::new(name).unwrap(),
        policy: InstancePolicy::PerMessage,
        limits: Limits::default(),
        instances: 4,
        config: BTreeMap::new(),
        env: BTreeMap::new(),
    }
}

pub(crate) fn link(contract: Contract, name: &str, values: &[(&str, &str)], permissions: &[&str]) -> LinkAssignment {
    let provider = ProviderId::new("p").unwrap();
    let name = LinkName::new(name).unwrap();
    let spec = LinkSpec {
        source: ActorId::new("a").unwrap(),
        target: provider.clone(),
        contract,
        name: name.clone(),
        values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        permissions: permissions.iter().map(|permission| (*permission).to_owned()).collect(),
        env_mapping: BTreeMap::new(),
        config: Vec::new(),
    };
    let settings = spec.settings(&spec.merged_values([])).unwrap();
    LinkAssignment { name, contract, provider, settings }
}

pub(crate) fn message(body: &str) -> Message {
    Message {
        subject: "edge.sensor.eu".to_owned(),
        body: body.to_owned().into(),
        reply_to: Some(REPLY_SUBJECT.to_owned()),
        headers: Vec::new(),
    }
}

/// Calls the actor and returns what it answers.
pub(crate) async fn call(actor: &Actor, body: &str) -> Result<String, InvokeError> {
    let call = actor.handle_message(message(body), ReplyRoute::Capture);
    let handled = tokio::time::timeout(PATIENCE, call).await.expect("the call hangs")?;
    Ok(handled.reply.map_or_else(|| "(no reply)".to_owned(), |reply| String::from_utf8_lossy(&reply.body).into_owned()))
}
