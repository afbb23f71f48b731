//! The client against real sockets, with servers that behave and servers that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod certificate;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use provider_api::ProviderError;
use provider_api::http_client::{Body, HttpClient as _, Outlet, Patience, RequestError, Target};
use provider_http_client::{HyperClient, Limits};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use certificate::Certificate;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn outlet(limits: Limits) -> Arc<dyn Outlet> {
    HyperClient::with_limits(limits, None).unwrap().outlet()
}

fn plain(addresses: &[SocketAddr]) -> Target {
    Target { addresses: addresses.to_vec(), tls: None, patience: Patience::default() }
}

fn request(path: &str) -> Request<Body> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    Request::builder().uri(path).header("host", "server.test").body(body).unwrap()
}

async fn send(outlet: &dyn Outlet, target: Target) -> Result<Response<Body>, RequestError> {
    tokio::time::timeout(PATIENCE, outlet.send(request("/path?query"), target)).await.expect("the request hangs")
}

async fn text(response: Response<Body>) -> Result<String, String> {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the body hangs");
    body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()).map_err(|error| error.to_string())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nobody listens.
async fn nobody() -> SocketAddr {
    listen().await.1
}

/// An address that does not answer at all: its queue of connections is full, and nobody takes one.
struct Silent {
    address: SocketAddr,
    _listener: Socket,
    _queue: Vec<std::net::TcpStream>,
}

impl Silent {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok());
        Self { address, _queue: queue.take(64).collect(), _listener: listener }
    }
}

/// Reads a request's head, then says `answer`.
async fn answer<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, answer: &str) -> String {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(seen).unwrap()
}

/// A server that answers every connection with `said` and hangs up; heads that it saw come out of the channel.
async fn server(said: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listen().await;
    let (heads, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = heads.send(answer(&mut stream, said).await);
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_request_goes_to_the_first_address_that_takes_it() {
    let (address, mut seen) = server(OK).await;
    let outlet = outlet(Limits::default());
    let response = send(&*outlet, plain(&[nobody().await, address])).await.unwrap();
    assert_eq!((response.status().as_u16(), text(response).await.unwrap().as_str()), (200, "ok"));
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("GET /path?query HTTP/1.1\r\n") && head.contains("host: server.test\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "nothing comes over this connection again: {head}");
    // Of two that would take it the second hears nothing.
    let (other, mut unheard) = server(OK).await;
    assert_eq!(text(send(&*outlet, plain(&[address, other])).await.unwrap()).await.unwrap(), "ok");
    assert!(seen.recv().await.is_some() && unheard.try_recv().is_err());
    let away = nobody().await;
    assert_eq!(send(&*outlet, plain(&[away])).await.unwrap_err(), RequestError::Refused(away));
    assert!(send(&*outlet, plain(&[])).await.is_err());
    // A name that stands for very many addresses is not tried for ever.
    assert_eq!(send(&*outlet, plain(&[away, away, away, away, address])).await.unwrap_err(), RequestError::Refused(away));
}

#[tokio::test]
async fn a_silent_address_leaves_time_for_the_next() {
    let silent = Silent::new();
    let (address, _seen) = server(OK).await;
    let outlet = outlet(Limits { connect_time: Duration::from_secs(1), ..Limits::default() });
    let response = send(&*outlet, plain(&[silent.address, address])).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "ok");
    assert_eq!(send(&*outlet, plain(&[silent.address])).await.unwrap_err(), RequestError::ConnectTimedOut(1000));
    // What the last address did is what is said, and whoever has less patience is told sooner.
    let away = nobody().await;
    assert_eq!(send(&*outlet, plain(&[silent.address, away])).await.unwrap_err(), RequestError::Refused(away));
    let hasty = Patience { connect: Some(Duration::from_millis(100)), ..Patience::default() };
    let late = send(&*outlet, Target { patience: hasty, ..plain(&[silent.address]) }).await.unwrap_err();
    assert_eq!(late, RequestError::ConnectTimedOut(100));
}

#[tokio::test]
async fn names_and_addresses_are_resolved() {
    let outlet = outlet(Limits { lookups: 1, ..Limits::default() });
    assert_eq!(outlet.resolve("192.0.2.1", 80).await.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
    assert_eq!(outlet.resolve("::1", 80).await.unwrap(), ["[::1]:80".parse().unwrap()]);
    let local = outlet.resolve("localhost", 8080).await.unwrap();
    assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 8080), "{local:?}");
    assert_eq!(local.iter().collect::<BTreeSet<_>>().len(), local.len(), "each once: {local:?}");
    // Where no resolver can be asked nobody knows; where one can there is no such name (RFC 2606).
    let unknown = outlet.resolve("nobody.invalid", 80).await.unwrap_err();
    let known = unknown == RequestError::UnknownHost("nobody.invalid".to_owned());
    assert!(known || unknown.is_outage() && unknown.to_string().contains("`nobody.invalid` cannot be resolved"), "{unknown}");
    // No resolver is needed to see that this is none.
    assert_eq!(outlet.resolve("a..b", 80).await.unwrap_err(), RequestError::UnknownHost("a..b".to_owned()));
    // An address is no name: it waits for no look-up.
    let busy = self::outlet(Limits { lookups: 0, ..Limits::default() });
    let at_once = tokio::time::timeout(PATIENCE, busy.resolve("192.0.2.1", 80)).await.expect("it waits");
    assert_eq!(at_once.unwrap().len(), 1);
    assert!(tokio::time::timeout(Duration::from_millis(100), busy.resolve("localhost", 80)).await.is_err());
}

#[tokio::test]
async fn what_servers_do_wrong() {
    let outlet = outlet(Limits { head_bytes: 8192, headers: 20, body_bytes: 100, ..Limits::default() });
    let check = async |said: &'static str, fits: fn(&RequestError) -> bool| {
        let (address, _seen) = server(said).await;
        let error = send(&*outlet, plain(&[address])).await.unwrap_err();
        assert!(fits(&error), "{:?}: {error:?}", said.chars().take(40).collect::<String>());
    };
    check("", |error| matches!(error, RequestError::Terminated(_))).await;
    check("220 mail ready\r\n\r\n", |error| matches!(error, RequestError::Protocol(_))).await;
    check("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", |error| *error == RequestError::ResponseTooLarge { limit: 100 }).await;
    let large: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(20_000)).into_boxed_str());
    check(large, |error| *error == RequestError::HeadTooLarge { limit: 8192 }).await;
    let many: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(30)).into_boxed_str());
    check(many, |error| matches!(error, RequestError::HeadTooLarge { .. } | RequestError::Protocol(_))).await;
    let (address, _seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort").await;
    let cut = text(send(&*outlet, plain(&[address])).await.unwrap()).await.unwrap_err();
    assert!(cut.starts_with("connection ended"), "{cut}");
    // A body whose length nobody has said.
    let piece = "32\r\n01234567890123456789012345678901234567890123456789\r\n";
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", piece.repeat(3));
    let (address, _seen) = server(Box::leak(chunked.into_boxed_str())).await;
    let long = text(send(&*outlet, plain(&[address])).await.unwrap()).await.unwrap_err();
    assert_eq!(long, "the response has more than 100 bytes");
}

#[tokio::test]
async fn requests_have_a_largest_size() {
    let outlet = outlet(Limits { body_bytes: 100, ..Limits::default() });
    for (size, refused) in [(100, false), (101, true)] {
        let (address, _seen) = server(OK).await;
        let body = Full::new(Bytes::from(vec![b'a'; size])).map_err(|never| match never {}).boxed_unsync();
        let answered = tokio::time::timeout(PATIENCE, outlet.send(request("/").map(|_| body), plain(&[address]))).await.unwrap();
        assert_eq!(answered.err(), refused.then_some(RequestError::RequestTooLarge { limit: 100 }), "{size}");
    }
}

#[tokio::test]
async fn heads_have_the_least_size_that_can_be_worked_with() {
    let (address, _seen) = server(OK).await;
    let outlet = outlet(Limits { head_bytes: 1, ..Limits::default() });
    assert_eq!(text(send(&*outlet, plain(&[address])).await.unwrap()).await.unwrap(), "ok");
}

#[tokio::test]
async fn bodies_must_keep_coming() {
    let idle = |millis| Limits { idle_time: Duration::from_millis(millis), ..Limits::default() };
    for (limits, wanted, ends) in [(idle(100), None, 100), (idle(100), Some(60_000), 100), (idle(60_000), Some(100), 100)] {
        let (listener, address) = listen().await;
        let outlet = outlet(limits);
        let between_bytes = wanted.map(Duration::from_millis);
        let target = Target { patience: Patience { between_bytes, ..Patience::default() }, ..plain(&[address]) };
        let sending = tokio::spawn(async move { send(&*outlet, target).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
        let mut body = sending.await.unwrap().unwrap().into_body();
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("what has come").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ab");
        // Whoever looks again and again does not make it wait any longer.
        let ended = async {
            loop {
                if let Ok(frame) = tokio::time::timeout(Duration::from_millis(10), body.frame()).await {
                    return frame.unwrap().unwrap_err().to_string();
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the body hangs");
        assert_eq!(ended, format!("no answer within {ends} ms"), "{wanted:?}");
    }
}

#[tokio::test]
async fn what_comes_slowly_comes_in_full() {
    let (listener, address) = listen().await;
    let outlet = outlet(Limits { idle_time: Duration::from_secs(1), ..Limits::default() });
    let sending = tokio::spawn(async move { text(send(&*outlet, plain(&[address])).await.unwrap()).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"a").await.unwrap();
    }
    assert_eq!(sending.await.unwrap().unwrap(), "a".repeat(12), "it may take longer than any one wait");
}

#[tokio::test]
async fn waiting_has_an_end() {
    let (listener, address) = listen().await;
    let outlet = outlet(Limits { life: Duration::from_millis(300), ..Limits::default() });
    let hasty = Target { patience: Patience { first_byte: Some(Duration::from_millis(100)), ..Patience::default() }, ..plain(&[address]) };
    assert_eq!(send(&*outlet, hasty).await.unwrap_err(), RequestError::TimedOut(100));
    // A server that never answers, and nobody who asks for a shorter time.
    let over = send(&*outlet, plain(&[address])).await.unwrap_err();
    assert!(matches!(over, RequestError::Terminated(_)), "{over:?}");
    drop(listener);
}

#[tokio::test]
async fn more_requests_than_connections_wait_for_one() {
    let (listener, address) = listen().await;
    let outlet = outlet(Limits { connections: 1, ..Limits::default() });
    let first = tokio::spawn({
        let outlet = outlet.clone();
        async move { send(&*outlet, plain(&[address])).await }
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
    let held = first.await.unwrap().unwrap();
    let second = tokio::spawn(async move { send(&*outlet, plain(&[address])).await });
    let early = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(early.is_err(), "a second connection beside the first");
    // Nobody wants the rest: the connection ends, and the next begins.
    drop(held);
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("the second begins").unwrap();
    answer(&mut stream, OK).await;
    assert_eq!(text(second.await.unwrap().unwrap()).await.unwrap(), "ok");
}

/// A server with this certificate that answers every request.
async fn secure_server(certificate: &Certificate) -> SocketAddr {
    let (listener, address) = listen().await;
    let acceptor = certificate.acceptor();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = async |stream: TcpStream| {
                let mut stream = acceptor.accept(stream).await?;
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
                answer(&mut stream, OK).await;
                stream.shutdown().await
            };
            // Clients that do not trust it hang up.
            let _ = serve(stream).await;
        }
    });
    address
}

#[tokio::test]
async fn servers_prove_who_they_are() {
    let certificate = Certificate::new("server.test");
    let address = secure_server(&certificate).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.pem().as_bytes()).unwrap();
    let limits = Limits { connect_time: Duration::from_secs(3), ..Limits::default() };
    let trusting = HyperClient::with_limits(limits, Some(file.path())).unwrap().outlet();
    let to = |name: &str| Target { tls: Some(name.to_owned()), ..plain(&[address]) };
    assert_eq!(text(send(&*trusting, to("server.test")).await.unwrap()).await.unwrap(), "ok");
    let other = send(&*trusting, to("other.test")).await.unwrap_err();
    assert!(matches!(other, RequestError::Certificate(_)), "{other:?}");
    let stranger = send(&*outlet(Limits::default()), to("server.test")).await.unwrap_err();
    // A machine without any authority cannot even begin.
    assert!(matches!(stranger, RequestError::Certificate(_) | RequestError::Setup(_)), "{stranger:?}");
    let (plain_server, _seen) = server(OK).await;
    let insecure = send(&*trusting, Target { addresses: vec![plain_server], ..to("server.test") }).await.unwrap_err();
    assert_eq!(insecure, RequestError::ConnectTimedOut(3000), "it waits for a head in the clear");
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_said_at_once() {
    let missing = HyperClient::new(Some("/nowhere/ca.pem".as_ref())).unwrap_err();
    assert!(matches!(&missing, ProviderError::Setting { name, .. } if name == "tls-ca"), "{missing}");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let nothing = HyperClient::new(Some(empty.path())).unwrap_err().to_string();
    assert!(nothing.starts_with("setting `tls-ca`") && nothing.contains("holds no certificate"), "{nothing}");
}
