//! HTTP servers that hand requests to an actor.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

use crate::ProviderError;

/// Any error of a body stream.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Body of a request or response, streamed.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A server backend.
#[async_trait]
pub trait HttpServer: Send + Sync {
    /// Binds `address` (with SO_REUSEPORT, so that two hosts on one machine may share a port) and hands every request to
    /// `handler` until the returned listener is dropped or closed.
    ///
    /// # Errors
    /// [`ProviderError::Taken`] if another program, or another actor on this host, has the address.
    async fn listen(&self, address: SocketAddr, handler: Arc<dyn HttpHandler>) -> Result<Box<dyn Listener>, ProviderError>;
}

/// Takes one request. Never fails: what goes wrong becomes a status.
#[async_trait]
pub trait HttpHandler: Send + Sync {
    /// Answers `request`.
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body>;
}

/// A bound port.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Address that is bound, with the port that was chosen if 0 was asked for.
    fn address(&self) -> SocketAddr;
    /// Stops accepting, waits for the requests under way up to `grace`, then closes the port.
    async fn close(self: Box<Self>, grace: std::time::Duration);
}
