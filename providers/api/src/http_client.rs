//! HTTP clients that send requests for an actor.
//!
//! Resolving and sending are two calls, and a request is sent to addresses, never to a name: whoever asks looks at the
//! addresses in between, and nobody can change what the name stands for after that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response};

pub use crate::http_server::{Body, BodyError};

/// A client backend.
pub trait HttpClient: Send + Sync {
    /// A way out for one link, with limits of its own. Cheap: nothing is connected to.
    fn outlet(&self) -> Arc<dyn Outlet>;
}

/// The way out of one link.
#[async_trait]
pub trait Outlet: Send + Sync {
    /// All addresses that `host` stands for, a name or an address without brackets.
    ///
    /// # Errors
    /// [`RequestError::UnknownHost`] if there is none, [`RequestError::Unresolved`] if that cannot be told now.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, RequestError>;

    /// Sends `request` to the first of the target's addresses that takes a connection, and returns when the head of the
    /// response is here. Redirects are responses like any other. The URI is the path alone, the `host` header is the caller's.
    /// Dropping the future or the response's body ends the connection.
    ///
    /// # Errors
    /// [`RequestError`]; errors of the response's body are boxed ones.
    async fn send(&self, request: Request<Body>, target: Target) -> Result<Response<Body>, RequestError>;
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Addresses that may be connected to.
    pub addresses: Vec<SocketAddr>,
    /// Over TLS, with a server that proves to have this name or address.
    pub tls: Option<String>,
    /// How long to wait at most.
    pub patience: Patience,
}

/// How long the sender of a request wants to wait; the backend's own limits count where they are shorter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    /// For a connection.
    pub connect: Option<Duration>,
    /// For the head of the response.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response's body.
    pub between_bytes: Option<Duration>,
}

/// Why there is no response, or no more of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The name stands for no address.
    #[error("there is no host `{0}`")]
    UnknownHost(String),
    /// What the name stands for cannot be told now.
    #[error("`{host}` cannot be resolved: {reason}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Nothing listens there.
    #[error("connection to {0} refused")]
    Refused(SocketAddr),
    /// The network knows no way there.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// No connection in time.
    #[error("no connection within {0} ms")]
    ConnectTimedOut(u128),
    /// The server does not prove to be who it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// No secure connection for another reason.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server took the request and does not answer, or stopped in the middle of the response.
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// The server hung up.
    #[error("connection ended: {0}")]
    Terminated(String),
    /// The head of the response is too large.
    #[error("the head of the response has more than {limit} bytes")]
    HeadTooLarge {
        /// Largest size in bytes.
        limit: usize,
    },
    /// The body of the request is too large.
    #[error("the request has more than {limit} bytes")]
    RequestTooLarge {
        /// Largest size in bytes.
        limit: u64,
    },
    /// The body of the response is too large.
    #[error("the response has more than {limit} bytes")]
    ResponseTooLarge {
        /// Largest size in bytes.
        limit: u64,
    },
    /// What came is no HTTP.
    #[error("no HTTP response: {0}")]
    Protocol(String),
    /// This machine is not set up for it.
    #[error("{0}")]
    Setup(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl RequestError {
    /// Whether the server could not be reached, so that it knows nothing of the request and another attempt may fare better.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unresolved { .. } | Self::Refused(_) | Self::Unreachable { .. } | Self::ConnectTimedOut(_) => true,
            Self::UnknownHost(_)
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::TimedOut(_)
            | Self::Terminated(_)
            | Self::HeadTooLarge { .. }
            | Self::RequestTooLarge { .. }
            | Self::ResponseTooLarge { .. }
            | Self::Protocol(_)
            | Self::Setup(_)
            | Self::Failed(_) => false,
        }
    }
}
