//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use provider_api::http_server::{BodyError, HttpHandler};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::stall::{KeepsComing, StallGuard};

/// What all connections of a port share.
pub(crate) struct Connection {
    pub(crate) handler: Arc<dyn HttpHandler>,
    pub(crate) limits: Limits,
    /// Finish the request, then end.
    pub(crate) closing: CancellationToken,
    /// End.
    pub(crate) cut: CancellationToken,
}

impl Connection {
    pub(crate) async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        // Small answers must not wait for each other; a system that cannot do it is merely slower.
        let _ = stream.set_nodelay(true);
        let io = StallGuard::new(TokioIo::new(stream), self.limits.stall_time);
        let service = service_fn(|request: Request<Incoming>| async move {
            let request = request
                .map(|body| KeepsComing::new(body.map_err(|error| Box::new(error) as BodyError), self.limits.stall_time).boxed_unsync());
            Ok::<_, Infallible>(self.handler.handle(request).await)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.head_time)
                .max_buf_size(self.limits.head_bytes)
                .keep_alive(true)
                .serve_connection(io, service)
        );
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection => served,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        // The client's doing in nearly every case: it hung up, was too slow, or does not speak HTTP.
        if let Err(error) = served {
            tracing::debug!(%peer, error = %chain(&error), "connection ended");
        }
    }
}

/// The error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
