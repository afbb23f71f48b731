//! HTTP/1.1 server on hyper.
//!
//! **Tasks.** One per port that accepts, one per connection; both end when the [`Listener`] is closed or dropped.
//!
//! **Invariants.** One listener per port in this process; a port can be shared with other hosts on the machine
//! (SO_REUSEPORT), with other programs it cannot. Whatever a client does or leaves undone, it holds a connection for a
//! bounded time and memory: heads have a size and a deadline, bodies must keep coming, responses must be taken.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod connection;
mod stall;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use provider_api::ProviderError;
use provider_api::http_server::{HttpHandler, HttpServer, Listener};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connection::Connection;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;
/// Pause after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much a client may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of one listener; more wait in the kernel.
    pub connections: usize,
    /// Bytes of a request's head, and of what is read ahead of a body.
    pub head_bytes: usize,
    /// Time for a request's head, also for the pause between two requests.
    pub head_time: Duration,
    /// Time without a byte, of a request's body that is read, or of a response that is written.
    pub stall_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, head_bytes: 64 * 1024, head_time: Duration::from_secs(15), stall_time: Duration::from_secs(15) }
    }
}

/// Smallest buffer that hyper can work with, in bytes.
const MIN_HEAD_BYTES: usize = 8192;

/// The server backend.
#[derive(Debug, Default)]
pub struct HyperServer {
    limits: Limits,
    taken: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl HyperServer {
    /// A server with the usual limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// A server with other limits; heads have at least 8 KiB.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits: Limits { head_bytes: limits.head_bytes.max(MIN_HEAD_BYTES), ..limits }, taken: Arc::default() }
    }
}

#[async_trait]
impl HttpServer for HyperServer {
    async fn listen(&self, address: SocketAddr, handler: Arc<dyn HttpHandler>) -> Result<Box<dyn Listener>, ProviderError> {
        let claim = Claim::new(&self.taken, address)?;
        let socket = bind(address)?;
        let address =
            socket.local_addr().map_err(|error| ProviderError::backend(format!("address of the listener on {address}"), error))?;
        let port = Port {
            accepting: CancellationToken::new(),
            serving: CancellationToken::new(),
            tasks: TaskTracker::new(),
            claim: claim.of(address),
            address,
        };
        let connection = Connection { handler, limits: self.limits.clone(), closing: port.accepting.clone(), cut: port.serving.clone() };
        port.tasks.spawn(accept(socket, connection, port.tasks.clone()));
        Ok(Box::new(port))
    }
}

/// A bound port; dropping it cuts everything off.
struct Port {
    address: SocketAddr,
    /// Cancelled: no new connections, those that are there finish their request.
    accepting: CancellationToken,
    /// Cancelled: what is still there ends.
    serving: CancellationToken,
    tasks: TaskTracker,
    claim: Claim,
}

#[async_trait]
impl Listener for Port {
    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn close(self: Box<Self>, grace: Duration) {
        self.accepting.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            self.serving.cancel();
            // Ends at once: every task waits for this token.
            self.tasks.wait().await;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.serving.cancel();
        tracing::debug!(address = %self.claim.address, "no longer listening");
    }
}

async fn accept(socket: TcpListener, connection: Connection, tasks: TaskTracker) {
    let free = Arc::new(Semaphore::new(connection.limits.connections));
    let connection = Arc::new(connection);
    loop {
        let next = async {
            let permit = free.clone().acquire_owned().await;
            (socket.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            () = connection.closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    connection.serve(stream, peer).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, ProviderError> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    attempt().map_err(|error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            ProviderError::Taken { what: format!("address {address}"), by: "another program".to_owned() }
        } else {
            ProviderError::backend(format!("cannot listen on {address}"), error)
        }
    })
}

/// The right of one listener to a port within this process, where SO_REUSEPORT would otherwise let two actors share one.
struct Claim {
    taken: Arc<Mutex<BTreeSet<SocketAddr>>>,
    address: SocketAddr,
}

impl Claim {
    fn new(taken: &Arc<Mutex<BTreeSet<SocketAddr>>>, address: SocketAddr) -> Result<Self, ProviderError> {
        let mut all = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = all.iter().find(|other| overlap(**other, address)) {
            return Err(ProviderError::Taken { what: format!("address {address}"), by: format!("another actor on this host, on {other}") });
        }
        // Port 0 is a wish, not an address; what comes of it is claimed by `of`.
        if address.port() != 0 {
            all.insert(address);
        }
        drop(all);
        Ok(Self { taken: taken.clone(), address })
    }

    /// The claim on the address that was bound in the end.
    fn of(mut self, address: SocketAddr) -> Self {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        self.address = address;
        self
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

/// Whether a client of one could reach the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_overlap() {
        let check = |a: &str, b: &str, expected: bool| assert_eq!(overlap(a.parse().unwrap(), b.parse().unwrap()), expected, "{a} {b}");
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "0.0.0.0:80", true);
        check("[::]:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.2:80", false);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
    }
}
