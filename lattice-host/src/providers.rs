//! The providers that run on this host, and what links get from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use lattice_core::error::Problem;
use lattice_core::id::{HostName, ProviderId};
use lattice_core::policy::force::InForce;
use lattice_core::policy::rules::Point;
use lattice_core::wire::assignment::{ProviderAssignment, ProviderKind};
use lattice_nats::{ConnectOptions, Connection};
use provider_api::ProviderError;
use provider_api::http_client::HttpClient;
use provider_api::http_server::HttpServer;
use provider_api::keyvalue::KeyValue;
use provider_api::store::Store;
use provider_http_client::HyperClient;
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
    HttpClient(Arc<dyn HttpClient>),
    Store(Arc<dyn Store>),
}

impl Instance {
    /// Whether both are one start of one provider.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::KeyValue(a), Self::KeyValue(b)) => Arc::ptr_eq(a, b),
            (Self::Messaging(a), Self::Messaging(b)) => Arc::ptr_eq(a, b),
            (Self::HttpServer(a), Self::HttpServer(b)) => Arc::ptr_eq(a, b),
            (Self::HttpClient(a), Self::HttpClient(b)) => Arc::ptr_eq(a, b),
            (Self::Store(a), Self::Store(b)) => Arc::ptr_eq(a, b),
            (Self::KeyValue(_) | Self::Messaging(_) | Self::HttpServer(_) | Self::HttpClient(_) | Self::Store(_), _) => false,
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
            ProviderKind::HttpClient => &[TLS_CA],
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
            ProviderKind::HttpClient => Instance::HttpClient(Arc::new(HyperClient::new(spec.config.get(TLS_CA).map(Path::new))?)),
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
/// Setting: certificates to trust of those servers; of an HTTP client: besides the authorities of this machine.
const TLS_CA: &str = "tls-ca";
/// Port of a server that names none.
const NATS_PORT: u16 = 4222;

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

    /// The backend for `cluster_uri`; without one, that of the host's own connection. Returns before a server answers. Where
    /// policy restricts the network to internal addresses, names are resolved here and those very addresses are connected to.
    ///
    /// # Errors
    /// If the address or one of the files makes no sense, or if policy forbids the address.
    pub(crate) async fn backend(&self, cluster_uri: Option<&str>, force: &InForce) -> Result<Arc<MessagingNats>, Problem> {
        let Some(uri) = cluster_uri else { return Ok(self.own.clone()) };
        let resolved = if force.internal_only().is_some() { Some(internal_addresses(uri, force).await?) } else { None };
        let uri = resolved.as_deref().unwrap_or(uri);
        let mut others = self.others.lock().await;
        others.retain(|_, backend| backend.strong_count() > 0);
        if let Some(backend) = others.get(uri).and_then(Weak::upgrade) {
            return Ok(backend);
        }
        let options = ConnectOptions {
            creds: self.creds.clone(),
            tls_ca: self.tls_ca.clone(),
            retry_on_initial_connect: true,
            // Servers that a server tells of would not have been looked at.
            only_named_servers: resolved.is_some(),
            ..ConnectOptions::new(uri, &self.name)
        };
        let backend = Arc::new(MessagingNats::new(lattice_nats::connect(&options).await?));
        others.insert(uri.to_owned(), Arc::downgrade(&backend));
        Ok(backend)
    }
}

/// `uri` with the addresses that its names stand for, all of which `force` must allow.
async fn internal_addresses(uri: &str, force: &InForce) -> Result<String, Problem> {
    let mut addresses = Vec::new();
    for server in uri.split(',').map(str::trim) {
        let (scheme, rest) = server.split_once("://").unwrap_or(("nats", server));
        let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
        let place = place.trim_end_matches('/');
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let target = if has_port { place.to_owned() } else { format!("{place}:{NATS_PORT}") };
        let unresolved = |error: std::io::Error| Problem::nats_refused(server).caused_by(&error);
        for address in tokio::net::lookup_host(&target).await.map_err(unresolved)? {
            force.may_connect(address.ip()).map_err(|denied| denied.problem(Point::MessagingConsumer))?;
            let login = login.map(|login| format!("{login}@")).unwrap_or_default();
            addresses.push(format!("{scheme}://{login}{address}"));
        }
    }
    Ok(addresses.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::policy::force::Preset;
    use lattice_core::policy::scope::Scope;
    use lattice_core::policy::{Bundle, SecurityPolicy};
    use lattice_core::trust::PublicKey;
    use lattice_core::trust::clock::Time;

    fn internal_only() -> InForce {
        let policy = SecurityPolicy::edge_default().unwrap();
        let issuer = PublicKey::new(format!("A{}", "A".repeat(55))).unwrap();
        let lattice = lattice_core::id::LatticeName::new("default").unwrap();
        let bundle = Bundle {
            policy,
            lattice,
            scope: Scope::All,
            issued_at: 0,
            not_before: 0,
            expires: 9,
            issuer,
            revoked_keys: Default::default(),
            allow_older: Default::default(),
        };
        InForce::of_bundles([&bundle], Preset::Open, Time::exact(1))
    }

    #[tokio::test]
    async fn only_internal_addresses() {
        let force = internal_only();
        let check = async |uri: &str, expected: Result<&str, &str>| match (internal_addresses(uri, &force).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(problem), Err(part)) => assert!(problem.message.contains(part), "{uri}: {problem}"),
            (found, _) => panic!("{uri}: {found:?}"),
        };
        check("nats://127.0.0.1:4222", Ok("nats://127.0.0.1:4222")).await;
        check("10.0.0.7", Ok("nats://10.0.0.7:4222")).await;
        check("tls://user:secret@192.168.1.1:7/", Ok("tls://user:secret@192.168.1.1:7")).await;
        check("nats://[::1]:4222", Ok("nats://[::1]:4222")).await;
        check("nats://8.8.8.8:4222", Err("8.8.8.8")).await;
        check("nats://10.0.0.1:4222,nats://169.254.169.254", Err("169.254.169.254")).await;
        let pool = internal_addresses("nats://1.1.1.1", &force).await.unwrap_err();
        assert!(pool.message.starts_with("capability denied: wasmcloud:messaging"), "{pool}");
    }

    /// A server that tells everybody of another one and hangs up; its port, and who comes.
    async fn talkative(other: u16) -> (u16, tokio::sync::mpsc::Receiver<()>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (come, coming) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let told = format!(
                    r#"INFO {{"server_id":"a","server_name":"a","version":"2.11.0","go":"go","host":"127.0.0.1","port":{port},"headers":true,"max_payload":1048576,"proto":1,"client_id":1,"connect_urls":["127.0.0.1:{other}"]}}"#
                );
                // Whoever hangs up first comes again.
                let _ = stream.write_all(format!("{told}\r\n").as_bytes()).await;
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"PONG\r\n").await;
                if come.send(()).await.is_err() {
                    return;
                }
            }
        });
        (port, coming)
    }

    #[tokio::test]
    async fn only_the_addresses_that_were_looked_at_are_connected_to() {
        let open = InForce::of_bundles([], Preset::Open, Time::exact(1));
        for (force, is_followed) in [(open, true), (internal_only(), false)] {
            let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (port, mut coming) = talkative(elsewhere.local_addr().unwrap().port()).await;
            let own = ConnectOptions { retry_on_initial_connect: true, ..ConnectOptions::new("nats://127.0.0.1:1", "test") };
            let own = lattice_nats::connect(&own).await.unwrap();
            let pool = MessagingPool::new(own, &HostName::new("a").unwrap(), &BTreeMap::new());
            let backend = pool.backend(Some(&format!("nats://localhost:{port}")), &force).await.unwrap();
            assert_eq!(backend.connection().url().contains("localhost"), is_followed, "the name may stand for something else next time");
            // Clients try servers in any order: where they may, somebody comes sooner or later; where not, this often is enough.
            let rounds = async {
                let mut left = if is_followed { u32::MAX } else { 8 };
                while left > 0 {
                    coming.recv().await.unwrap();
                    left -= 1;
                }
            };
            let followed = async {
                tokio::select! {
                    came = elsewhere.accept() => came.is_ok(),
                    () = rounds => false,
                }
            };
            let followed = tokio::time::timeout(std::time::Duration::from_secs(20), followed).await.unwrap();
            assert_eq!(followed, is_followed, "a server that a server tells of");
        }
    }
}
