//! HTTP/1.1 client on hyper, in the clear or over TLS 1.3.
//!
//! **Tasks.** One per connection, which lives for one request: it ends when the response's body is read or dropped.
//!
//! **Invariants.** A request goes to the addresses that it was given and to no other: nothing is resolved here but by
//! [`Outlet::resolve`], and no redirect is followed. Whatever a server does or leaves undone, it holds a connection for a
//! bounded time and memory: heads and bodies have a size, bodies must keep coming, connections have a longest life.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod body;
mod fault;
mod resolve;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use provider_api::ProviderError;
use provider_api::http_client::{Body, HttpClient, Outlet, RequestError, Target};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use body::ResponseBody;
use tls::Tls;

/// Addresses of one name that are tried; a server that cannot be reached on these is not reached.
const MAX_ATTEMPTS: usize = 4;

/// How much one link may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that are open at once; more requests wait.
    pub connections: usize,
    /// Names that are looked up at once: each look-up holds a thread of the process.
    pub lookups: usize,
    /// Bytes of a response's head, and of what is read ahead of a body.
    pub head_bytes: usize,
    /// Headers of a response.
    pub headers: usize,
    /// Bytes of a body, of requests and of responses.
    pub body_bytes: u64,
    /// Time for a connection, TLS included.
    pub connect_time: Duration,
    /// Time without a byte of a response's body that is read.
    pub idle_time: Duration,
    /// Time for one request from connecting to the last byte of the response, whoever is slow.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            lookups: 4,
            head_bytes: 64 * 1024,
            headers: 100,
            body_bytes: 8 * 1024 * 1024,
            connect_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(15),
            life: Duration::from_secs(600),
        }
    }
}

/// Smallest buffer that hyper can work with, in bytes.
const MIN_HEAD_BYTES: usize = 8192;

/// The client backend.
#[derive(Debug)]
pub struct HyperClient {
    limits: Limits,
    tls: Arc<Tls>,
}

impl HyperClient {
    /// A client that trusts the certificate authorities of this machine, and those in the PEM file `also`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] if the file cannot be read or holds no certificate.
    pub fn new(also: Option<&Path>) -> Result<Self, ProviderError> {
        Self::with_limits(Limits::default(), also)
    }

    /// The same with other limits; heads have at least 8 KiB.
    ///
    /// # Errors
    /// As for [`HyperClient::new`].
    pub fn with_limits(limits: Limits, also: Option<&Path>) -> Result<Self, ProviderError> {
        let limits = Limits { head_bytes: limits.head_bytes.max(MIN_HEAD_BYTES), ..limits };
        Ok(Self { limits, tls: Arc::new(Tls::new(also)?) })
    }
}

impl HttpClient for HyperClient {
    fn outlet(&self) -> Arc<dyn Outlet> {
        let permits = |number: usize| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)));
        Arc::new(HyperOutlet {
            connections: permits(self.limits.connections),
            lookups: permits(self.limits.lookups),
            limits: self.limits.clone(),
            tls: self.tls.clone(),
        })
    }
}

/// The way out of one link.
struct HyperOutlet {
    limits: Limits,
    tls: Arc<Tls>,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

#[async_trait]
impl Outlet for HyperOutlet {
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, RequestError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let (permit, name) = (permit(&self.lookups).await?, host.to_owned());
        let lookup = resolve::apart(permit, move || resolve::addresses(&name, port));
        lookup.await.map_err(|error| RequestError::Unresolved { host: host.to_owned(), reason: error.to_string() })?
    }

    async fn send(&self, request: Request<Body>, target: Target) -> Result<Response<Body>, RequestError> {
        let permit = permit(&self.connections).await?;
        let patience = self.limits.connect_time.min(target.patience.connect.unwrap_or(Duration::MAX));
        let end = Instant::now() + patience;
        let late = |_elapsed| RequestError::ConnectTimedOut(patience.as_millis());
        let stream = connect(&target.addresses, end, patience).await?;
        match &target.tls {
            None => self.exchange(TokioIo::new(stream), request, &target, permit).await,
            Some(name) => {
                let secured = tokio::time::timeout_at(end, self.tls.secure(name, stream)).await.map_err(late)??;
                self.exchange(TokioIo::new(secured), request, &target, permit).await
            }
        }
    }
}

impl HyperOutlet {
    /// One request over a connection of its own.
    async fn exchange<T>(
        &self,
        io: T,
        request: Request<Body>,
        target: &Target,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, RequestError>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let limits = &self.limits;
        let fault = |error: hyper::Error| fault::of(&error, limits);
        let handshake = http1::Builder::new().max_buf_size(limits.head_bytes).max_headers(limits.headers).handshake(io);
        let (mut sender, connection) = handshake.await.map_err(fault)?;
        let life = limits.life;
        // It must go on while nobody reads the response, or the request's body could not be written.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _permit = permit;
            match timeout(life, connection).await {
                Ok(Ok(())) => {}
                // Whoever waits for the response, or reads it, is told.
                Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
                Err(_elapsed) => tracing::debug!("connection ended: its time is over"),
            }
        }));
        let most = usize::try_from(limits.body_bytes).unwrap_or(usize::MAX);
        let mut request = request.map(|body| Limited::new(body, most).boxed_unsync());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let sending = sender.send_request(request);
        let response = match target.patience.first_byte {
            None => sending.await,
            Some(first_byte) => timeout(first_byte, sending).await.map_err(|_elapsed| RequestError::TimedOut(first_byte.as_millis()))?,
        };
        let response = response.map_err(fault)?;
        if response.body().size_hint().lower() > limits.body_bytes {
            return Err(RequestError::ResponseTooLarge { limit: limits.body_bytes });
        }
        let idle = limits.idle_time.min(target.patience.between_bytes.unwrap_or(Duration::MAX));
        Ok(response.map(|body| ResponseBody::new(body, limits, idle, connection).boxed_unsync()))
    }
}

async fn permit(free: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, RequestError> {
    // Never closed.
    free.clone().acquire_owned().await.map_err(|error| RequestError::Failed(error.to_string()))
}

/// What the next of `addresses` may take of the time that is left, so that a silent one leaves enough for the others.
fn share(left: Duration, addresses: usize) -> Duration {
    left.checked_div(u32::try_from(addresses).unwrap_or(u32::MAX)).unwrap_or_default()
}

/// Tries the addresses one after the other; each has its share of the time that is left.
async fn connect(addresses: &[SocketAddr], end: Instant, patience: Duration) -> Result<TcpStream, RequestError> {
    let mut last = RequestError::Failed("no address to connect to".to_owned());
    let mut left = addresses.len().min(MAX_ATTEMPTS);
    for address in addresses.iter().take(MAX_ATTEMPTS) {
        let share = share(end.saturating_duration_since(Instant::now()), left);
        left = left.saturating_sub(1);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small requests must not wait for each other; a system that cannot do it is merely slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => RequestError::Refused(*address),
            Ok(Err(error)) => RequestError::Unreachable { address: *address, reason: error.to_string() },
            Err(_elapsed) => RequestError::ConnectTimedOut(patience.as_millis()),
        };
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_of_the_time() {
        let second = Duration::from_secs(1);
        assert_eq!([4, 2, 1].map(|addresses| share(second, addresses).as_millis()), [250, 500, 1000]);
        assert_eq!(share(second, 0), Duration::ZERO);
    }
}
