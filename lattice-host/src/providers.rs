//! The providers that run on this host, and what links get from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use lattice_core::error::Problem;
use lattice_core::id::{HostName, ProviderId};
use lattice_core::wire::assignment::{ProviderAssignment, ProviderKind};
use lattice_nats::{ConnectOptions, Connection};
use provider_api::ProviderError;
use provider_api::http_server::HttpServer;
use provider_api::keyvalue::KeyValue;
use provider_api::store::Store;
use provider_http_server::HyperServer;
use provider_kv_memory::KvMemory;
use provider_kv_nats::KvNats;
use provider_messaging_nats::MessagingNats;
use tokio::sync::Mutex;

use crate::system_store::NatsStore;

/// A provider that runs. Clones are the same provider.
#[derive(Clone)]
pub(crate) enum Instance {
    KeyValue(Arc<dyn KeyValue>),
    Messaging(Arc<MessagingPool>),
    HttpServer(Arc<dyn HttpServer>),
    Store(Arc<dyn Store>),
}

impl Instance {
    /// Whether both are one start of one provider.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::KeyValue(a), Self::KeyValue(b)) => Arc::ptr_eq(a, b),
            (Self::Messaging(a), Self::Messaging(b)) => Arc::ptr_eq(a, b),
            (Self::HttpServer(a), Self::HttpServer(b)) => Arc::ptr_eq(a, b),
            (Self::Store(a), Self::Store(b)) => Arc::ptr_eq(a, b),
            (Self::KeyValue(_) | Self::Messaging(_) | Self::HttpServer(_) | Self::Store(_), _) => false,
        }
    }
}

/// All providers of this host.
pub(crate) struct Providers {
    connection: Connection,
    host: HostName,
    /// One for all: it knows which of this host's actors has which port.
    http: Arc<dyn HttpServer>,
    running: BTreeMap<ProviderId, Instance>,
}

impl Providers {
    pub(crate) fn new(connection: Connection, host: HostName) -> Self {
        Self { connection, host, http: Arc::new(HyperServer::new()), running: BTreeMap::new() }
    }

    /// Starts a provider, in the place of an earlier start of the same.
    ///
    /// # Errors
    /// Why its settings make no sense.
    pub(crate) fn start(&mut self, id: &ProviderId, spec: &ProviderAssignment) -> Result<(), ProviderError> {
        self.running.remove(id);
        let known: &[&str] = match spec.kind {
            ProviderKind::MessagingNats => &[CREDS, TLS_CA],
            ProviderKind::KvMemory | ProviderKind::KvNats | ProviderKind::HttpServer | ProviderKind::Store => &[],
        };
        if let Some(unknown) = spec.config.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(ProviderError::setting(unknown, format!("a {} provider has no such setting", spec.kind.as_str())));
        }
        let instance = match spec.kind {
            ProviderKind::KvMemory => Instance::KeyValue(Arc::new(KvMemory::new())),
            ProviderKind::KvNats => Instance::KeyValue(Arc::new(KvNats::new(self.connection.clone()))),
            ProviderKind::MessagingNats => {
                Instance::Messaging(Arc::new(MessagingPool::new(self.connection.clone(), &self.host, &spec.config)))
            }
            ProviderKind::HttpServer => Instance::HttpServer(self.http.clone()),
            ProviderKind::Store => Instance::Store(Arc::new(NatsStore::new(self.connection.clone()))),
        };
        self.running.insert(id.clone(), instance);
        Ok(())
    }

    /// Stops a provider; links that still use it keep it alive until they are gone.
    pub(crate) fn stop(&mut self, id: &ProviderId) {
        self.running.remove(id);
    }

    /// The provider of that id, if it runs.
    pub(crate) fn get(&self, id: &ProviderId) -> Option<&Instance> {
        self.running.get(id)
    }
}

/// Setting: credentials file for the servers that links name by CLUSTER_URI. The host's own are never sent there.
const CREDS: &str = "creds";
/// Setting: certificates to trust of those servers.
const TLS_CA: &str = "tls-ca";

/// One messaging backend for each server that links name, shared by all links that name it.
pub(crate) struct MessagingPool {
    own: Arc<MessagingNats>,
    name: String,
    creds: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    others: Mutex<BTreeMap<String, Weak<MessagingNats>>>,
}

impl MessagingPool {
    fn new(connection: Connection, host: &HostName, config: &BTreeMap<String, String>) -> Self {
        let file = |name: &str| config.get(name).map(PathBuf::from);
        Self {
            own: Arc::new(MessagingNats::new(connection)),
            name: format!("lattice-host {host}"),
            creds: file(CREDS),
            tls_ca: file(TLS_CA),
            others: Mutex::default(),
        }
    }

    /// The backend for `cluster_uri`; without one, that of the host's own connection. Returns before a server answers.
    ///
    /// # Errors
    /// If the address or one of the files makes no sense.
    pub(crate) async fn backend(&self, cluster_uri: Option<&str>) -> Result<Arc<MessagingNats>, Problem> {
        let Some(uri) = cluster_uri else { return Ok(self.own.clone()) };
        let mut others = self.others.lock().await;
        others.retain(|_, backend| backend.strong_count() > 0);
        if let Some(backend) = others.get(uri).and_then(Weak::upgrade) {
            return Ok(backend);
        }
        let options = ConnectOptions {
            creds: self.creds.clone(),
            tls_ca: self.tls_ca.clone(),
            retry_on_initial_connect: true,
            ..ConnectOptions::new(uri, &self.name)
        };
        let backend = Arc::new(MessagingNats::new(lattice_nats::connect(&options).await?));
        others.insert(uri.to_owned(), Arc::downgrade(&backend));
        Ok(backend)
    }
}
