//! What belongs to one instance while it lives: the data of its store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lattice_core::id::ActorId;
use provider_api::CallError;
use provider_api::messaging::{Message, Messaging};
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::limits::{Limiter, MemoryAccount};
use super::links::{Link, LinkCallError, Links};
use super::logs::{ActorLog, StdioLog};
use super::meter::Meter;
use super::shield::Shield;
use super::usage::Usage;
use crate::capability::http::{Desk, Outgoing};

/// Handles of host objects (streams, buckets, requests) that one instance may hold.
const MAX_HANDLES: usize = 1000;
/// Bytes of randomness in one call.
const MAX_RANDOM_BYTES: u64 = 64 * 1024;
/// Bytes of one set of HTTP headers, with what they cost in memory.
const MAX_FIELDS_BYTES: usize = 128 * 1024;
/// Environment variable that tells an actor where it runs.
const NODE_ENV: &str = "WASMCLOUD_NODE_ID";

/// What all instances of an actor share, and what does not change while it runs.
pub(crate) struct Identity {
    pub(crate) actor: ActorId,
    /// Name of the node, as actors see it and as it stands in messages.
    pub(crate) node: String,
    pub(crate) log: Arc<ActorLog>,
    pub(crate) memory: Arc<MemoryAccount>,
    /// What policy takes from it.
    pub(crate) shield: Arc<Shield>,
    pub(crate) usage: Arc<Usage>,
}

/// What an instance reads of its surroundings; replaced when they change.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) links: Links,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) env: Arc<BTreeMap<String, String>>,
}

/// Where the reply to the message in hand goes.
#[derive(Clone, Default)]
pub enum ReplyRoute {
    /// Nowhere: the message wants none, or came over a way that knows none.
    #[default]
    None,
    /// To the bus, on the reply subject of the message.
    Publish(Arc<dyn Messaging>),
    /// Back to the caller, in [`super::Handled::reply`].
    Capture,
}

impl std::fmt::Debug for ReplyRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Publish(_) => "publish",
            Self::Capture => "capture",
        })
    }
}

/// The message or request that an instance works on.
pub(crate) struct Task {
    /// When it must be done.
    pub(crate) deadline: Instant,
    /// Subject that a reply must be published on.
    pub(crate) reply_to: Option<String>,
    pub(crate) route: ReplyRoute,
    /// The reply, if it is captured.
    pub(crate) reply: Option<Message>,
    pub(crate) meter: Arc<Meter>,
    /// Whether a backend was out of reach, or policy forbade it, when the actor needed it: then a failure is not the message's.
    pub(crate) met_outage: bool,
    /// The same of requests that are sent while the actor goes on; made by the first of them.
    pub(crate) requests_met_outage: Option<Arc<AtomicBool>>,
}

impl Task {
    /// Whether anything that the actor needed was out of reach or forbidden by policy.
    pub(crate) fn has_met_outage(&self) -> bool {
        self.met_outage || self.requests_met_outage.as_ref().is_some_and(|met| met.load(Ordering::Relaxed))
    }

    /// Calls a store through `link`. One that gives no answer is as much out of reach as one that cannot be reached.
    pub(crate) async fn call<T, F>(&mut self, link: &Link, attempt: impl FnMut() -> F) -> Result<T, LinkCallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let outcome = link.call(self.deadline, attempt).await;
        self.met_outage |= outcome.as_ref().is_err_and(|error| error.is_outage() || error.is_silence());
        outcome
    }

    /// Calls the bus through `link`. Whoever gives no answer there may not like the question.
    pub(crate) async fn send<T, F>(&mut self, link: &Link, attempt: impl FnMut() -> F) -> Result<T, LinkCallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let outcome = link.call(self.deadline, attempt).await;
        self.met_outage |= outcome.as_ref().is_err_and(LinkCallError::is_outage);
        outcome
    }
}

/// Data of a store.
pub(crate) struct State {
    pub(crate) identity: Arc<Identity>,
    pub(crate) around: Surroundings,
    pub(crate) task: Task,
    pub(crate) limiter: Limiter,
    pub(crate) table: ResourceTable,
    /// Made when the guest first asks for anything of WASI: most of what it costs to start an instance, and many never ask.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    outgoing: Outgoing,
}

impl State {
    /// `largest` is the largest single memory in bytes.
    pub(crate) fn new(identity: Arc<Identity>, around: Surroundings, task: Task, largest: usize) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        let limiter = Limiter::new(identity.memory.clone(), largest);
        Self { identity, around, task, limiter, table, wasi: None, http, outgoing: Outgoing::default() }
    }

    /// What a request is sent with: what holds for the message in hand, now.
    pub(crate) fn sending(&mut self) -> WasiHttpCtxView<'_> {
        self.outgoing = Outgoing::through(Desk {
            identity: self.identity.clone(),
            links: self.around.links.clone(),
            deadline: self.task.deadline,
            met_outage: self.task.requests_met_outage.get_or_insert_default().clone(),
        });
        self.http()
    }
}

/// WASI with nothing behind it: no files, no sockets, no names, no arguments, no input; output goes to the log.
fn deny_all(identity: &Identity, env: &BTreeMap<String, String>) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM_BYTES)
        .stdout(StdioLog::stdout(&identity.log))
        .stderr(StdioLog::stderr(&identity.log))
        .env(NODE_ENV, &identity.node);
    for (name, value) in env.iter().filter(|(name, _)| *name != NODE_ENV) {
        wasi.env(name, value);
    }
    wasi.build()
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| deny_all(&self.identity, &self.around.env));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}
