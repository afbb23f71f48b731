//! HTTP links: a port of this host leads to the actor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lattice_core::id::LinkName;
use provider_api::http_server::{Body, HttpHandler, HttpServer};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::delivery::Target;
use crate::metrics::Operation;
use crate::reason;
use crate::status::InletStatus;

/// First and longest pause before a port that could not be bound is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Where to listen.
pub(crate) struct Port {
    pub(crate) server: Arc<dyn HttpServer>,
    pub(crate) address: SocketAddr,
    pub(crate) link: LinkName,
    pub(crate) status: InletStatus,
    pub(crate) stop: CancellationToken,
    /// How long requests may finish when it is closed.
    pub(crate) grace: Duration,
}

/// Listens until it is told to stop. A port that is taken is tried again, the reason stands with the link.
pub(crate) async fn run(port: Port, target: Target) {
    let handler: Arc<dyn HttpHandler> = Arc::new(Handler { link: port.link.clone(), target });
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match port.server.listen(port.address, handler.clone()).await {
            Ok(listener) => {
                port.status.works();
                tracing::info!(address = %listener.address(), link = %port.link, "listening");
                port.stop.cancelled().await;
                // From here on the link is gone, which requests that are under way notice by themselves.
                port.status.closed();
                listener.close(port.grace).await;
                return;
            }
            Err(error) => port.status.fails(reason::of(&error)),
        }
        tokio::select! {
            () = backoff.pause() => {}
            () = port.stop.cancelled() => {
                port.status.closed();
                return;
            }
        }
    }
}

struct Handler {
    link: LinkName,
    target: Target,
}

#[async_trait]
impl HttpHandler for Handler {
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body> {
        let started = Instant::now();
        let response = self.target.current().actor.handle_http(request, &self.link).await;
        self.target.metrics.count(Operation::Http, !response.status().is_server_error(), started.elapsed());
        response
    }
}
