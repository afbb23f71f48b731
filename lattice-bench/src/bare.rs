//! wasmtime as any program can embed it: no limits, no links, no accounting. Floor and peer of the host's runtime.
//!
//! It runs the same components; what they import and do not use is a trap.

use bytes::Bytes;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower, ResourceType, TypedFunc};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use crate::Error;

/// The export that takes messages.
const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
/// The interface that [`Bare::with_buckets`] serves.
const KEYVALUE: &str = "wasi:keyvalue/store@0.2.0-draft";

/// A message, as the interface has it.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct BrokerMessage<'a> {
    subject: &'a str,
    body: &'a [u8],
    #[component(name = "reply-to")]
    reply_to: Option<&'a str>,
}

/// An error of the key-value interface.
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum KeyValueError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

type Handler = TypedFunc<(BrokerMessage<'static>,), (Result<(), String>,)>;

/// A component that is ready to be instantiated.
pub(crate) struct Bare {
    engine: Engine,
    pre: InstancePre<()>,
    handler: ComponentExportIndex,
}

/// A live instance.
pub(crate) struct BareInstance {
    store: Store<()>,
    handler: Handler,
}

impl Bare {
    /// With the pool's settings as wasmtime has them, and room for `instances`.
    ///
    /// # Errors
    /// It does not compile or link.
    pub(crate) fn new(wasm: &Bytes, instances: u32) -> Result<Self, Error> {
        Self::linked(wasm, instances, |_linker| Ok(()))
    }

    /// The same, with a key-value store that does nothing: every bucket opens, every value is `value`.
    ///
    /// # Errors
    /// As [`Bare::new`].
    pub(crate) fn with_buckets(wasm: &Bytes, value: Vec<u8>) -> Result<Self, Error> {
        type Answer<T> = wasmtime::Result<(Result<T, KeyValueError>,)>;
        type Bucket = wasmtime::component::Resource<Open>;
        struct Open;
        Self::linked(wasm, 1, |linker| {
            let mut store = linker.instance(KEYVALUE)?;
            store.resource("bucket", ResourceType::host::<Open>(), |_store, _bucket| Ok(()))?;
            store.func_wrap("open", |_store, (_name,): (String,)| -> Answer<Bucket> { Ok((Ok(Bucket::new_own(1)),)) })?;
            store.func_wrap("[method]bucket.get", move |_store, (_bucket, _key): (Bucket, String)| -> Answer<Option<Vec<u8>>> {
                Ok((Ok(Some(value.clone())),))
            })?;
            store.func_wrap("[method]bucket.set", |_store, (_bucket, _key, _value): (Bucket, String, Vec<u8>)| -> Answer<()> {
                Ok((Ok(()),))
            })
        })
    }

    fn linked(wasm: &Bytes, instances: u32, link: impl FnOnce(&mut Linker<()>) -> wasmtime::Result<()>) -> Result<Self, Error> {
        let mut pool = PoolingAllocationConfig::new();
        if instances > 1 {
            // A component of ours has a handful of core instances and tables, and one memory.
            pool.total_component_instances(instances)
                .total_core_instances(instances.saturating_mul(8))
                .total_memories(instances)
                .total_tables(instances.saturating_mul(8));
        }
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let component = Component::new(&engine, wasm)?;
        let interface = component.get_export_index(None, HANDLER).ok_or("no message handler")?;
        let handler = component.get_export_index(Some(&interface), "handle-message").ok_or("no function `handle-message`")?;
        let mut linker = Linker::new(&engine);
        link(&mut linker)?;
        linker.define_unknown_imports_as_traps(&component)?;
        Ok(Self { pre: linker.instantiate_pre(&component)?, engine, handler })
    }

    /// A new instance.
    ///
    /// # Errors
    /// wasmtime's.
    pub(crate) fn instance(&self) -> Result<BareInstance, Error> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.pre.instantiate(&mut store)?;
        let handler = instance.get_typed_func(&mut store, self.handler)?;
        Ok(BareInstance { store, handler })
    }
}

impl BareInstance {
    /// Hands it a message.
    ///
    /// # Errors
    /// A trap, or the handler's own error.
    pub(crate) fn call(&mut self, subject: &'static str, body: &'static [u8]) -> Result<(), Error> {
        let (outcome,) = self.handler.call(&mut self.store, (BrokerMessage { subject, body, reply_to: None },))?;
        Ok(outcome?)
    }
}
