//! The server against real sockets, with clients that behave and clients that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use provider_api::ProviderError;
use provider_api::http_server::{Body, HttpHandler, HttpServer as _, Listener};
use provider_http_server::{HyperServer, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Answers with method, path and body; `/wait` after being told to, `/flood` with 64 MiB.
#[derive(Default)]
struct Echo {
    entered: Notify,
    go: Notify,
}

#[async_trait]
impl HttpHandler for Echo {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        match request.uri().path() {
            "/wait" => {
                self.entered.notify_one();
                self.go.notified().await;
            }
            "/flood" => return Response::new(full(vec![0; 64 * 1024 * 1024])),
            _ => {}
        }
        let head = format!("{} {} ", request.method(), request.uri());
        let body = match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => Bytes::from(format!("body: {error}")),
        };
        Response::new(full([head.as_bytes(), &body].concat()))
    }
}

async fn start(limits: Limits) -> (Arc<Echo>, Box<dyn Listener>) {
    let handler = Arc::new(Echo::default());
    let listener = HyperServer::with_limits(limits).listen(any_port(), handler.clone()).await.unwrap();
    (handler, listener)
}

fn hasty() -> Limits {
    Limits { head_time: Duration::from_millis(200), stall_time: Duration::from_millis(300), connections: 2, ..Limits::default() }
}

async fn connect(listener: &dyn Listener) -> TcpStream {
    TcpStream::connect(listener.address()).await.unwrap()
}

/// Writes, then reads until `expected` appears.
async fn talk(stream: &mut TcpStream, text: &str, expected: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(expected) {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("no answer");
}

/// Reads until the server closes; what came before is returned.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut seen)).await.expect("the connection stays open");
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn requests_share_a_connection() {
    let (_, listener) = start(Limits::default()).await;
    let mut stream = connect(&*listener).await;
    talk(&mut stream, "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n", "GET /a?b ").await;
    talk(&mut stream, "POST /c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody", "POST /c body").await;
    talk(&mut stream, "PUT /d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "PUT /d body").await;
    listener.close(PATIENCE).await;
}

#[tokio::test]
async fn two_hosts_share_a_port_two_actors_do_not() {
    let (one, other) = (HyperServer::new(), HyperServer::new());
    let handler = Arc::new(Echo::default());
    let first = one.listen(any_port(), handler.clone()).await.unwrap();
    let second = other.listen(first.address(), handler.clone()).await.unwrap();
    assert_eq!(first.address(), second.address());
    let taken = one.listen(first.address(), handler.clone()).await.err().unwrap();
    assert!(matches!(&taken, ProviderError::Taken { by, .. } if by.contains("another actor")), "{taken}");
    let address = first.address();
    first.close(PATIENCE).await;
    one.listen(address, handler).await.unwrap();
}

#[tokio::test]
async fn a_port_of_another_program_is_taken() {
    let other = std::net::TcpListener::bind(any_port()).unwrap();
    let address = other.local_addr().unwrap();
    let error = HyperServer::new().listen(address, Arc::new(Echo::default())).await.err().unwrap();
    assert_eq!(error.to_string(), format!("address {address} is taken: another program"));
    let foreign = HyperServer::new().listen("192.0.2.1:80".parse().unwrap(), Arc::new(Echo::default())).await.err().unwrap();
    assert!(foreign.to_string().contains("cannot listen on 192.0.2.1:80"), "{foreign}");
}

#[tokio::test]
async fn slow_heads_and_idle_connections_end() {
    let (_, listener) = start(hasty()).await;
    let mut silent = connect(&*listener).await;
    assert_eq!(until_closed(&mut silent).await, "");
    let mut half = connect(&*listener).await;
    half.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
    until_closed(&mut half).await;
    let mut idle = connect(&*listener).await;
    talk(&mut idle, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "GET / ").await;
    until_closed(&mut idle).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_an_error() {
    let (_, listener) = start(hasty()).await;
    let mut stream = connect(&*listener).await;
    talk(&mut stream, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbo", "body: nothing moved for 300 ms").await;
}

#[tokio::test]
async fn a_response_that_nobody_takes_ends_the_connection() {
    let (_, listener) = start(Limits { connections: 1, ..hasty() }).await;
    let mut lazy = connect(&*listener).await;
    lazy.write_all(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The only connection that may be open: the next is served once the lazy one is gone.
    let mut next = connect(&*listener).await;
    let started = Instant::now();
    talk(&mut next, "GET /next HTTP/1.1\r\nhost: x\r\n\r\n", "GET /next").await;
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    drop(lazy);
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let (handler, listener) = start(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = connect(&*listener).await;
    first.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    handler.entered.notified().await;
    let mut second = connect(&*listener).await;
    second.write_all(b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte)).await;
    assert!(early.is_err(), "served beside the first");
    handler.go.notify_one();
    talk(&mut second, "", "GET /second").await;
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let (_, listener) = start(Limits { head_bytes: 8192, ..Limits::default() }).await;
    let check = async |text: &str, expected: &str| {
        let mut stream = connect(&*listener).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.contains(expected), "{:?}: {answer:?}", text.chars().take(40).collect::<String>());
    };
    check("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400 Bad Request").await;
    check(&format!("GET / HTTP/1.1\r\nhost: x\r\nbig: {}\r\n\r\n", "x".repeat(20_000)), "431 ").await;
    check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), "431 ").await;
    check("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "400 Bad Request").await;
}

#[tokio::test]
async fn closing_lets_requests_finish_then_cuts_them_off() {
    let (handler, listener) = start(Limits::default()).await;
    let mut finishing = connect(&*listener).await;
    finishing.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    handler.entered.notified().await;
    let address = listener.address();
    let closing = tokio::spawn(listener.close(PATIENCE));
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    handler.go.notify_one();
    assert!(until_closed(&mut finishing).await.contains("GET /wait"));
    closing.await.unwrap();

    let (handler, listener) = start(Limits::default()).await;
    let mut hanging = connect(&*listener).await;
    hanging.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    handler.entered.notified().await;
    listener.close(Duration::from_millis(50)).await;
    assert_eq!(until_closed(&mut hanging).await, "");
}

#[tokio::test]
async fn dropping_the_listener_ends_everything() {
    let (_, listener) = start(Limits::default()).await;
    let mut open = connect(&*listener).await;
    talk(&mut open, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "GET / ").await;
    drop(listener);
    until_closed(&mut open).await;
}
