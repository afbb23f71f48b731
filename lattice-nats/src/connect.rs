//! One connection to NATS: options, credentials, and a state that others can watch.
//!
//! The client library reconnects for ever by itself; what it buffers meanwhile is bounded here, and users of a
//! [`Connection`] look at [`Connection::state`] before they hand it something that must not arrive late.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Event, ServerAddr, ServerError};
use lattice_core::error::{ErrorCode, Problem};
use tokio::sync::{broadcast, watch};

use crate::quiet::Quiet;

/// Between two pings of the client; two missed ones end the connection. The library's minute is far above our time-outs.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to reconnect: a server that is back must be used within a second.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// First pause; doubles with each attempt.
const FIRST_RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// Messages that wait in one subscription, above which new ones are dropped and counted: with 1 KiB each, 8 MiB.
const SUBSCRIPTION_CAPACITY: usize = 8 * 1024;
/// Commands that wait for the connection task, the ones kept during an interruption included.
const COMMAND_CAPACITY: usize = 1024;
/// Patience with one JetStream API request or publish acknowledgement.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(5);
/// Publish acknowledgements under way at once; more wait.
const MAX_ACKS_INFLIGHT: usize = 1024;
/// Patience with the round trip of [`Connection::settle`].
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest credentials file in bytes; a JWT with a seed has about 1 KiB.
const MAX_CREDS_BYTES: u64 = 64 * 1024;
/// Refused operations that are remembered for whoever waits for an answer to one of them.
const REFUSALS_KEPT: usize = 64;
/// Most servers in one comma-separated address.
const MAX_SERVERS: usize = 32;
/// Default patience with one server while connecting.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Address, or several with commas between: `nats://127.0.0.1:4222`.
    pub url: String,
    /// A NATS `.creds` file (JWT and seed), or a file that holds only an nkey seed of a user.
    pub creds: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// How the connection is called in the server's reports.
    pub name: String,
    /// Return at once and keep trying in the background if no server answers.
    pub retry_on_initial_connect: bool,
    /// Patience with one server.
    pub timeout: Duration,
    /// Connect to the servers in `url` and to none that those tell of.
    pub only_named_servers: bool,
}

impl ConnectOptions {
    /// Options for `url` without credentials, under the name `name`.
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            creds: None,
            tls_ca: None,
            name: name.into(),
            retry_on_initial_connect: false,
            timeout: DEFAULT_CONNECT_TIMEOUT,
            only_named_servers: false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address makes no sense.
    #[error("NATS address `{url}`: {reason}")]
    Address { url: String, reason: String },
    /// The credentials file cannot be read.
    #[error("credentials file {}", .path.display())]
    CredsFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The credentials file holds something else.
    #[error("credentials file {}: {reason}", .path.display())]
    Creds { path: PathBuf, reason: String },
    /// The certificates to trust cannot be read.
    #[error("certificates to trust in {}", .path.display())]
    Trust {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Nobody listens there.
    #[error("NATS: connection refused: {url}")]
    Refused {
        url: String,
        #[source]
        source: async_nats::ConnectError,
    },
    /// The server does not accept the credentials, or wants some.
    #[error("NATS at {url} refuses {}", if *.anonymous { "a client without credentials" } else { "these credentials" })]
    Denied {
        url: String,
        anonymous: bool,
        #[source]
        source: async_nats::ConnectError,
    },
    /// TLS could not be set up.
    #[error("NATS at {url}: TLS")]
    Tls {
        url: String,
        #[source]
        source: async_nats::ConnectError,
    },
    /// The server did not answer in time.
    #[error("NATS at {url} did not answer within {} ms", .timeout.as_millis())]
    TimedOut { url: String, timeout: Duration },
}

impl From<ConnectError> for Problem {
    fn from(error: ConnectError) -> Self {
        let problem = match &error {
            ConnectError::Refused { url, .. } => Self::nats_refused(url),
            ConnectError::TimedOut { url, .. } => Self { message: error.to_string(), ..Self::nats_refused(url) },
            ConnectError::Denied { .. } => {
                Self::new(ErrorCode::Denied, error.to_string()).hint("give credentials with --creds or LATTICE_CREDS")
            }
            ConnectError::Address { .. } => {
                Self::new(ErrorCode::Usage, error.to_string()).hint("an address looks like nats://127.0.0.1:4222")
            }
            ConnectError::CredsFile { .. } | ConnectError::Creds { .. } | ConnectError::Trust { .. } => {
                Self::new(ErrorCode::Usage, error.to_string())
            }
            ConnectError::Tls { .. } => {
                Self::new(ErrorCode::NatsRefused, error.to_string()).hint("is the server's certificate signed by --tls-ca?")
            }
        };
        match std::error::Error::source(&error) {
            Some(source) => problem.caused_by(source),
            None => problem,
        }
    }
}

/// Whether the connection is usable at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Connected.
    Connected,
    /// Not connected; the client keeps trying.
    Disconnected,
}

/// A connection that reconnects by itself. Clones share it; it closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    state: watch::Receiver<ConnectionState>,
    watcher: Arc<Watcher>,
    url: Arc<str>,
}

/// What the client tells us about the connection.
#[derive(Debug)]
struct Watcher {
    state: watch::Sender<ConnectionState>,
    /// The server's words about operations that it refused; it answers the operation itself with silence.
    refusals: broadcast::Sender<Arc<str>>,
    refused: Quiet,
    dropped: Quiet,
}

impl Connection {
    /// The client, for core publish and subscribe.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// JetStream with our time-outs and limits.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// The state, and a way to wait for it to change.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// Whether the connection is up now. Looks at the client itself, so that it is never behind it.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// How many connections there have been: two equal answers mean that everything between went over one connection, in
    /// order.
    pub fn epoch(&self) -> u64 {
        self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Messages that were dropped because a subscription of this connection was not read fast enough (at least).
    pub fn dropped(&self) -> u64 {
        self.watcher.dropped.total()
    }

    /// Waits until this connection breaks: what was asked over it is not answered any more. For ever if there is none now,
    /// because what is asked then is sent when there is one.
    pub(crate) async fn broken(&self) {
        let (epoch, mut state) = (self.epoch(), self.state.clone());
        if !self.is_connected() {
            return std::future::pending().await;
        }
        while self.is_connected() && self.epoch() == epoch {
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the server says that this client may not publish on `subject`; without that, for ever.
    pub(crate) async fn denied(&self, subject: &str) {
        let mut refusals = self.watcher.refusals.subscribe();
        loop {
            match refusals.recv().await {
                Ok(words) if words.contains("Publish") && words.contains(&format!("\"{subject}\"")) => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// Returns when the server has worked through everything that was sent so far, subscriptions included. Gives up
    /// quietly after a moment, and at once without a connection: what is under way then happens later.
    pub async fn settle(&self) {
        if self.is_connected() {
            // The server answers in order; any answer will do, also that nobody listens.
            let request = async_nats::Request::new().timeout(Some(SETTLE_TIMEOUT));
            let _ = self.client.send_request("$JS.API.INFO", request).await;
        }
    }

    /// The address as it was given, passwords left out.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Connects.
///
/// # Errors
/// [`ConnectError`] names the address that was tried, or the file that cannot be used. With `retry_on_initial_connect`
/// only the address and the files can be wrong.
pub async fn connect(options: &ConnectOptions) -> Result<Connection, ConnectError> {
    // Several TLS libraries may be linked in; an explicit choice keeps the client from having to guess. Set already: fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let addresses = parse_addresses(&options.url)?;
    let shown = shown_url(&options.url);
    let (sender, state) = watch::channel(ConnectionState::Disconnected);
    let watcher =
        Arc::new(Watcher { state: sender, refusals: broadcast::Sender::new(REFUSALS_KEPT), refused: Quiet::new(), dropped: Quiet::new() });
    let native = native_options(options, Arc::clone(&watcher))?;

    let patience = options.timeout.saturating_mul(u32::try_from(addresses.len()).unwrap_or(u32::MAX));
    let client = tokio::time::timeout(patience, native.connect(addresses))
        .await
        .map_err(|_elapsed| ConnectError::TimedOut { url: shown.clone(), timeout: patience })?
        .map_err(|error| connect_error(error, &shown, options))?;
    if !options.retry_on_initial_connect {
        watcher.state.send_replace(ConnectionState::Connected);
    }
    let jetstream =
        jetstream::context::ContextBuilder::new().timeout(API_TIMEOUT).max_ack_inflight(MAX_ACKS_INFLIGHT).build(client.clone());
    Ok(Connection { client, jetstream, state, watcher, url: shown.into() })
}

fn native_options(options: &ConnectOptions, watcher: Arc<Watcher>) -> Result<async_nats::ConnectOptions, ConnectError> {
    let native = async_nats::ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.timeout)
        .request_timeout(Some(API_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(COMMAND_CAPACITY)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            watcher.on_event(&event);
            std::future::ready(())
        });
    let native = if options.only_named_servers { native.ignore_discovered_servers() } else { native };
    let native = if options.retry_on_initial_connect { native.retry_on_initial_connect() } else { native };
    let native = match &options.tls_ca {
        Some(path) => {
            std::fs::File::open(path).map_err(|source| ConnectError::Trust { path: path.clone(), source })?;
            native.add_root_certificates(path.clone()).require_tls(true)
        }
        None => native,
    };
    match &options.creds {
        Some(path) => with_credentials(native, path),
        None => Ok(native),
    }
}

impl Watcher {
    fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.state.send_replace(ConnectionState::Connected);
            }
            Event::Disconnected | Event::Closed => {
                self.state.send_replace(ConnectionState::Disconnected);
            }
            Event::SlowConsumer(subscription) => {
                if let Some(total) = self.dropped.note() {
                    tracing::warn!(subscription, total, "a subscription is not read fast enough, messages were dropped");
                }
            }
            Event::ServerError(ServerError::Other(words)) => {
                // Nobody may be waiting; then it is only logged.
                let _ = self.refusals.send(words.as_str().into());
                if let Some(total) = self.refused.note() {
                    tracing::warn!(total, "the NATS server refused an operation: {words}");
                }
            }
            Event::ServerError(error @ (ServerError::AuthorizationViolation | ServerError::SlowConsumer(_))) => {
                tracing::warn!("the NATS server closed the connection: {error}");
            }
            Event::LameDuckMode | Event::Draining | Event::ClientError(_) => tracing::debug!("NATS client: {event}"),
        }
    }
}

/// Nothing before the first attempt, then doubling pauses with jitter, so that a fleet does not come back in step.
fn reconnect_delay(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let factor = 2_u32.checked_pow(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
    let ceiling = FIRST_RECONNECT_DELAY.saturating_mul(factor).min(MAX_RECONNECT_DELAY);
    let jitter_percent = u32::try_from(RandomState::new().hash_one(attempt) % 50).unwrap_or(0);
    ceiling * (100 - jitter_percent) / 100
}

fn parse_addresses(url: &str) -> Result<Vec<ServerAddr>, ConnectError> {
    let invalid = |reason: String| ConnectError::Address { url: shown_url(url), reason };
    let addresses: Vec<ServerAddr> = url
        .split(',')
        .map(|part| part.trim().parse::<ServerAddr>().map_err(|error| invalid(error.to_string())))
        .collect::<Result<_, _>>()?;
    match addresses.iter().find(|address| address.host().is_empty()) {
        Some(_) => Err(invalid("names no host".to_owned())),
        None if addresses.len() > MAX_SERVERS => Err(invalid(format!("names more than {MAX_SERVERS} servers"))),
        None => Ok(addresses),
    }
}

/// The address without user names and passwords, cut and escaped.
fn shown_url(url: &str) -> String {
    let shown: Vec<String> = url
        .split(',')
        .take(MAX_SERVERS)
        .map(|part| match part.trim().rsplit_once('@') {
            Some((before, host)) => {
                format!("{}{host}", before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://")))
            }
            None => part.trim().to_owned(),
        })
        .collect();
    shown.join(",").chars().take(200).flat_map(char::escape_debug).collect()
}

fn with_credentials(native: async_nats::ConnectOptions, path: &Path) -> Result<async_nats::ConnectOptions, ConnectError> {
    let text = read_credentials(path)?;
    let invalid = |reason: &str| ConnectError::Creds { path: path.to_owned(), reason: reason.to_owned() };
    if text.contains("-----BEGIN") {
        return native.credentials(&text).map_err(|_| invalid("holds no user JWT and seed"));
    }
    let seed = text.trim();
    if !seed.starts_with("SU") || nkeys::KeyPair::from_seed(seed).is_err() {
        return Err(invalid("is neither a .creds file nor the nkey seed of a user (SU…)"));
    }
    Ok(native.nkey(seed.to_owned()))
}

fn read_credentials(path: &Path) -> Result<String, ConnectError> {
    use std::os::unix::fs::PermissionsExt as _;
    let unreadable = |source| ConnectError::CredsFile { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!("credentials file {} has mode {mode:03o}, others can read it: chmod 600", path.display());
    }
    let mut text = String::new();
    file.take(MAX_CREDS_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn connect_error(source: async_nats::ConnectError, url: &str, options: &ConnectOptions) -> ConnectError {
    use async_nats::ConnectErrorKind as Kind;
    let url = url.to_owned();
    match source.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => ConnectError::Denied { url, anonymous: options.creds.is_none(), source },
        Kind::TimedOut => ConnectError::TimedOut { url, timeout: options.timeout },
        Kind::Tls => ConnectError::Tls { url, source },
        Kind::ServerParse => ConnectError::Address { url, reason: source.to_string() },
        Kind::Dns | Kind::Io | Kind::MaxReconnects => ConnectError::Refused { url, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |url: &str, count: Option<usize>| assert_eq!(parse_addresses(url).ok().map(|list| list.len()), count, "{url:?}");
        check("nats://127.0.0.1:4222", Some(1));
        check("127.0.0.1:4222, tls://hub.example", Some(2));
        for bad in ["", "http://a", "nats://", "a,,b", "nats://a:99999"] {
            check(bad, None);
        }
        check(&vec!["a"; MAX_SERVERS + 1].join(","), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown_url("nats://user:secret@hub:4222,b"), "nats://hub:4222,b");
        assert_eq!(shown_url("user:p@ss@hub"), "hub");
    }

    #[test]
    fn reconnecting_is_immediate_first_and_never_rare() {
        assert_eq!(reconnect_delay(0), Duration::ZERO);
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        assert!(reconnect_delay(2) >= FIRST_RECONNECT_DELAY / 2 && reconnect_delay(2) <= FIRST_RECONNECT_DELAY);
        for attempt in [10, 1_000, usize::MAX] {
            assert!(reconnect_delay(attempt) <= MAX_RECONNECT_DELAY && reconnect_delay(attempt) >= MAX_RECONNECT_DELAY / 2);
        }
    }
}
