//! `/livez`, `/readyz`, `/metrics`, `/version` on an address of their own, when asked for.
//!
//! `/livez` and `/readyz` answer as wasmCloud 1.x hosts do: `{"status":"ok"}`, or 500 and `{"status":"failure"}`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lattice_core::error::{ErrorCode, Problem};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::event_loop::Health;
use crate::metrics::Metrics;

/// Connections at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection lives at most.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after the system refused a connection (no file descriptors): trying at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Binds `address` and serves it in the background.
///
/// # Errors
/// A [`Problem`] that names the address.
pub(crate) async fn start(address: SocketAddr, metrics: Arc<Metrics>, health: Arc<Health>) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(ErrorCode::Failed, format!("--admin {address}")).caused_by(&error).hint("is another process there?")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "admin port");
    tokio::spawn(serve(listener, metrics, health));
    Ok(())
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<Health>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (metrics, health) = (metrics.clone(), health.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &metrics, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off harms nobody.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    let (status, kind, text) = match path {
        _ if !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("method {method} is not allowed\n"))
        }
        "/livez" => verdict((!health.is_alive()).then_some("the event loop is stuck")),
        "/readyz" => verdict(health.unready()),
        "/metrics" => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        "/version" => (StatusCode::OK, JSON, serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }).to_string()),
        _ => (StatusCode::NOT_FOUND, TEXT, "only /livez, /readyz, /metrics and /version are here\n".to_owned()),
    };
    // hyper leaves the body out of the answer to HEAD.
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn verdict(trouble: Option<&'static str>) -> (StatusCode, HeaderValue, String) {
    match trouble {
        None => (StatusCode::OK, JSON, r#"{"status":"ok"}"#.to_owned()),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, JSON, serde_json::json!({ "status": "failure", "reason": why }).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let (metrics, health) = (Metrics::new(), Health::new());
        let check = |method: Method, path: &str, expected: u16| {
            assert_eq!(answer(&method, path, &metrics, &health).status().as_u16(), expected, "{method} {path}");
        };
        check(Method::GET, "/livez", 200);
        check(Method::HEAD, "/livez", 200);
        check(Method::GET, "/readyz", 500);
        check(Method::GET, "/metrics", 200);
        check(Method::GET, "/version", 200);
        check(Method::POST, "/livez", 405);
        check(Method::GET, "/", 404);
    }
}
