//! Requests that an actor sends: what links and policy let out, what comes back, and what servers may do to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use lattice_core::contract::Contract;
use lattice_core::link::KindSettings;
use lattice_host::runtime::{Actor, Backend, BoundLink, InvokeError, NoGate, Shield};
use provider_api::http_client::{Body, BodyError, HttpClient as _, Outlet, RequestError, Target};
use provider_api::http_server::{HttpHandler, HttpServer as _, Listener};
use provider_http_client::{HyperClient, Limits};
use provider_http_server::HyperServer;
use tokio::sync::Notify;

use crate::trust::{internal_only, policy};
use crate::world::{PATIENCE, World, call, link, program, settings};

/// Largest body in these tests in bytes.
const BODY_BYTES: u64 = 1000;
/// An address that is nobody's (RFC 5737), so that nothing answers there if all else fails.
const NOBODYS: &str = "192.0.2.1";

/// Answers with method, path, `host` header and body; and in other ways under some paths.
#[derive(Default)]
struct Server {
    seen: Mutex<Vec<String>>,
    entered: Notify,
    /// Lets the second half of a response go.
    rest: Arc<Notify>,
}

#[async_trait]
impl HttpHandler for Server {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().to_string();
        self.seen.lock().unwrap().push(path.clone());
        self.entered.notify_one();
        match path.as_str() {
            "/never" => std::future::pending().await,
            "/redirect" => Response::builder().status(302).header("location", "/elsewhere").body(full("moved")).unwrap(),
            "/large" => Response::new(full(vec![b'x'; 2000])),
            "/flood" => Response::new(endless(true)),
            "/stalls" => Response::new(endless(false)),
            "/halves" => {
                let rest = self.rest.clone();
                let second = async move {
                    rest.notified().await;
                    Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"second")))
                };
                let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"first, ")))]);
                Response::new(StreamBody::new(first.chain(futures::stream::once(second))).boxed_unsync())
            }
            "/heads" => Response::builder().header("x-large", "x".repeat(20_000)).body(full("")).unwrap(),
            _ => {
                let (head, body) = request.into_parts();
                let host = head.headers["host"].to_str().unwrap().to_owned();
                let body = body.collect().await.unwrap().to_bytes();
                Response::new(full(format!("{} {path} {host} {}", head.method, String::from_utf8_lossy(&body))))
            }
        }
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of unknown length that never ends: it goes on and on, or says nothing after its first piece.
fn endless(goes_on: bool) -> Body {
    let piece = || Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[b'x'; 100])));
    let first = futures::stream::once(async move { piece() });
    let rest =
        futures::stream::repeat_with(piece).then(move |piece| async move { if goes_on { piece } else { std::future::pending().await } });
    StreamBody::new(first.chain(rest)).boxed_unsync()
}

/// A way out that knows some names, and keeps what is asked of it.
struct Known {
    outlet: Arc<dyn Outlet>,
    /// Names with their addresses; one that has none does not exist.
    names: Vec<(&'static str, Vec<&'static str>)>,
    resolved: AtomicUsize,
    sent: Mutex<Vec<Target>>,
    /// The head of a response has come.
    answered: Notify,
}

#[async_trait]
impl Outlet for Known {
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, RequestError> {
        self.resolved.fetch_add(1, Ordering::SeqCst);
        match self.names.iter().find(|(name, _)| *name == host) {
            Some((_, addresses)) if addresses.is_empty() => Err(RequestError::UnknownHost(host.to_owned())),
            Some((_, addresses)) => Ok(addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect()),
            None => self.outlet.resolve(host, port).await,
        }
    }

    async fn send(&self, request: Request<Body>, target: Target) -> Result<Response<Body>, RequestError> {
        self.sent.lock().unwrap().push(target.clone());
        let response = self.outlet.send(request, target).await;
        self.answered.notify_one();
        response
    }
}

/// An actor, a server, and the policies between them.
struct Stage {
    world: World,
    shield: Arc<Shield>,
    outlet: Arc<Known>,
    server: Arc<Server>,
    port: u16,
    _listener: Box<dyn Listener>,
}

impl Stage {
    async fn new() -> Self {
        let shield = Shield::open();
        let server = Arc::new(Server::default());
        let listener = HyperServer::new().listen(SocketAddr::from(([127, 0, 0, 1], 0)), server.clone()).await.unwrap();
        let limits = Limits { body_bytes: BODY_BYTES, head_bytes: 8192, idle_time: Duration::from_secs(1), ..Limits::default() };
        let outlet = Known {
            outlet: HyperClient::with_limits(limits, None).unwrap().outlet(),
            names: vec![
                ("inside.test", vec!["127.0.0.1"]),
                ("outside.test", vec![NOBODYS]),
                ("both.test", vec!["127.0.0.1", NOBODYS]),
                ("metadata.test", vec!["169.254.169.254"]),
                ("nowhere.test", vec![]),
            ],
            resolved: AtomicUsize::new(0),
            sent: Mutex::default(),
            answered: Notify::new(),
        };
        let world = World::guarded(Arc::new(NoGate), shield.clone());
        Self { world, shield, outlet: Arc::new(outlet), server, port: listener.address().port(), _listener: listener }
    }

    fn link(&self, hosts: &str, values: &[(&str, &str)], permissions: &[&str]) -> BoundLink {
        let hosts = (!hosts.is_empty()).then_some(("allow-host", hosts));
        let values: Vec<_> = hosts.into_iter().chain(values.iter().copied()).collect();
        BoundLink { spec: link(Contract::HttpClient, "out", &values, permissions), backend: Backend::HttpClient(self.outlet.clone()) }
    }

    fn links(&self, out: Vec<BoundLink>) -> Vec<BoundLink> {
        [vec![self.world.messaging(&[])], out].concat()
    }

    async fn actor(&self, out: Vec<BoundLink>) -> Actor {
        let loaded = self.world.load(program("http-user")).await.unwrap();
        Actor::new(&self.world.runtime, loaded, settings("http-user"), self.links(out)).unwrap()
    }

    /// An actor that may reach these hosts.
    async fn reaching(&self, hosts: &str) -> Actor {
        self.actor(vec![self.link(hosts, &[], &[])]).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn denials(&self) -> String {
        self.world.log.denials.lock().unwrap().join("\n")
    }

    /// Addresses to which requests were sent.
    fn sent_to(&self) -> Vec<SocketAddr> {
        self.outlet.sent.lock().unwrap().iter().flat_map(|target| target.addresses.clone()).collect()
    }

    fn requests(&self) -> usize {
        self.server.seen.lock().unwrap().len()
    }
}

/// What the actor's handler says went wrong.
async fn refused(actor: &Actor, body: &str) -> String {
    call(actor, body).await.unwrap_err().to_string()
}

#[tokio::test]
async fn requests_go_out_and_responses_come_back() {
    let stage = Stage::new().await;
    let (actor, port) = (stage.reaching("127.0.0.1:*,inside.test:*").await, stage.port);
    let check = async |line: String, expected: String| assert_eq!(call(&actor, &line).await.unwrap(), expected, "{line}");
    check(format!("GET {}", stage.url("/a?b=c")), format!("200 GET /a?b=c 127.0.0.1:{port} ")).await;
    check(format!("POST {} some text", stage.url("/p")), format!("200 POST /p 127.0.0.1:{port} some text")).await;
    check(format!("GET http://INSIDE.test:{port}/"), format!("200 GET / INSIDE.test:{port} ")).await;
    let both = format!("GET {0}\nGET {0}", stage.url("/"));
    check(both, format!("200 GET / 127.0.0.1:{port} \n200 GET / 127.0.0.1:{port} ")).await;
    assert_eq!(stage.denials(), "");
}

#[tokio::test]
async fn only_allowed_hosts_are_reached() {
    let stage = Stage::new().await;
    let (url, port) = (stage.url("/"), stage.port);
    let other = port.wrapping_add(1);
    for hosts in ["", "api.example.com", "127.0.0.1", "localhost:*", "*.test:*"] {
        let actor = stage.reaching(hosts).await;
        let failed = refused(&actor, &format!("GET {url}")).await;
        assert!(failed.contains("HttpRequestDenied"), "{hosts}: {failed}");
    }
    assert!(
        stage.denials().contains(&format!("wasmcloud:httpclient: no link lets this actor reach 127.0.0.1:{port}")),
        "{}",
        stage.denials()
    );
    let actor = stage.reaching(&format!("127.0.0.1:{port}")).await;
    call(&actor, &format!("GET {url}")).await.unwrap();
    assert!(refused(&actor, &format!("GET http://127.0.0.1:{other}/")).await.contains("HttpRequestDenied"));
    assert!(refused(&actor, &format!("GET http://user:secret@127.0.0.1:{port}/")).await.contains("HttpRequestUriInvalid"));
    assert!(refused(&actor, &format!("CONNECT {url}")).await.contains("HttpRequestMethodInvalid"));
    // Nothing was asked of the network but for the one that was allowed.
    assert_eq!((stage.outlet.resolved.load(Ordering::SeqCst), stage.requests()), (1, 1));
}

#[tokio::test]
async fn a_link_may_permit_some_methods_only() {
    let stage = Stage::new().await;
    let actor = stage.actor(vec![stage.link("127.0.0.1:*", &[], &["GET"])]).await;
    call(&actor, &format!("GET {}", stage.url("/"))).await.unwrap();
    assert!(refused(&actor, &format!("POST {} x", stage.url("/"))).await.contains("HttpRequestDenied"));
    assert!(stage.denials().contains("link `out` does not permit POST"), "{}", stage.denials());
}

#[tokio::test]
async fn without_a_link_there_is_no_instance_and_without_the_link_no_next_call() {
    let stage = Stage::new().await;
    let loaded = stage.world.load(program("http-user")).await.unwrap();
    let unlinked = Actor::new(&stage.world.runtime, loaded, settings("http-user"), stage.links(Vec::new())).err().unwrap();
    assert!(unlinked.to_string().contains("no link for wasi:http/outgoing-handler"), "{unlinked}");
    let get = format!("GET {}", stage.url("/"));
    let actor = stage.reaching("127.0.0.1:*").await;
    call(&actor, &get).await.unwrap();
    assert!(actor.reconfigure(settings("http-user"), stage.links(Vec::new())).is_err());
    assert!(refused(&actor, &get).await.contains("no link for wasi:http/outgoing-handler"));
    assert_eq!(stage.requests(), 1);
}

#[tokio::test]
async fn a_link_that_is_removed_ends_what_goes_on_through_it() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    let waits = {
        let (actor, get) = (actor.clone(), format!("GET {}", stage.url("/never")));
        tokio::spawn(async move { call(&actor, &get).await })
    };
    tokio::time::timeout(PATIENCE, stage.server.entered.notified()).await.expect("the request arrives");
    assert!(actor.reconfigure(settings("http-user"), stage.links(Vec::new())).is_err(), "no more link for it");
    let failed = waits.await.unwrap().unwrap_err();
    assert!(matches!(&failed, InvokeError::Outage(text) if text.contains("HttpRequestDenied")), "no fault of the message: {failed:?}");
    assert!(stage.denials().contains("link `out` was removed or changed"), "{}", stage.denials());
}

#[tokio::test]
async fn a_link_that_is_removed_in_the_middle_of_a_response_is_no_fault_of_the_message() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    let waits = {
        let (actor, get) = (actor.clone(), format!("GET {}", stage.url("/stalls")));
        tokio::spawn(async move { call(&actor, &get).await })
    };
    tokio::time::timeout(PATIENCE, stage.outlet.answered.notified()).await.expect("the response begins");
    assert!(actor.reconfigure(settings("http-user"), stage.links(Vec::new())).is_err(), "no more link for it");
    let failed = waits.await.unwrap().unwrap_err();
    assert!(matches!(&failed, InvokeError::Outage(text) if text.contains("200, then")), "{failed:?}");
    assert!(stage.denials().contains("before the response had come in full"), "{}", stage.denials());
}

#[tokio::test]
async fn a_denied_contract_fails_the_next_call() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    let get = format!("GET {}", stage.url("/"));
    call(&actor, &get).await.unwrap();
    for rule in ["wasmcloud:httpclient", "wasi:http/outgoing-handler"] {
        stage.shield.raise(policy(&["*"], &[rule], None));
        let failed = call(&actor, &get).await.unwrap_err();
        assert!(matches!(&failed, InvokeError::Outage(text) if text.contains("HttpRequestDenied")), "no fault of the message: {failed}");
        stage.shield.raise(policy(&["*"], &[], None));
        call(&actor, &get).await.unwrap();
    }
    assert!(
        stage.denials().contains("wasmcloud:httpclient: policy edge v3 denies it (rule `wasmcloud:httpclient`)"),
        "{}",
        stage.denials()
    );
}

#[tokio::test]
async fn a_response_that_has_begun_outlives_a_denial() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    let get = format!("GET {}", stage.url("/halves"));
    let waits = {
        let (actor, get) = (actor.clone(), get.clone());
        tokio::spawn(async move { call(&actor, &get).await })
    };
    tokio::time::timeout(PATIENCE, stage.outlet.answered.notified()).await.expect("the response begins");
    stage.shield.raise(policy(&["*"], &["wasmcloud:httpclient"], None));
    stage.server.rest.notify_one();
    assert_eq!(waits.await.unwrap().unwrap(), "200 first, second");
    assert!(matches!(call(&actor, &get).await.unwrap_err(), InvokeError::Outage(_)), "the next request is denied");
}

#[tokio::test]
async fn internal_only_judges_every_address_that_a_name_stands_for() {
    let stage = Stage::new().await;
    let actor = stage.actor(vec![stage.link("*:*", &[("force", "true")], &[])]).await;
    stage.shield.raise(internal_only());
    let port = stage.port;
    for host in ["127.0.0.1", "inside.test", "[::ffff:127.0.0.1]"] {
        call(&actor, &format!("GET http://{host}:{port}/")).await.unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    let sent = stage.sent_to();
    assert!(sent.iter().all(|address| *address == SocketAddr::from(([127, 0, 0, 1], port))), "{sent:?}");
    let outside = [
        (NOBODYS, NOBODYS),
        ("[::ffff:192.0.2.1]", NOBODYS),
        ("outside.test", NOBODYS),
        ("both.test", NOBODYS),
        ("metadata.test", "169.254.169.254"),
        ("[2001:db8::1]", "2001:db8::1"),
    ];
    for (host, address) in outside {
        let failed = call(&actor, &format!("GET http://{host}:{port}/")).await.unwrap_err();
        assert!(matches!(&failed, InvokeError::Outage(text) if text.contains("HttpRequestDenied")), "{host}: {failed}");
        let denials = stage.denials();
        let why = format!("policy edge v3 restricts the network to internal addresses, and {address} is none");
        assert!(denials.lines().last().unwrap().contains(&why), "{host}: {denials}");
    }
    assert_eq!((stage.sent_to().len(), stage.requests()), (3, 3), "nothing was connected to");
    // Without the restriction the same actor may try.
    stage.shield.raise(policy(&["*"], &[], None));
    call(&actor, &format!("GET http://both.test:{port}/")).await.unwrap();
}

#[tokio::test]
async fn what_policy_forbids_waits_and_what_no_link_allows_fails() {
    let stage = Stage::new().await;
    let actor = stage.reaching("metadata.test:*").await;
    let get = format!("GET http://metadata.test:{}/", stage.port);
    stage.shield.raise(internal_only());
    let kept = call(&actor, &get).await.unwrap_err();
    assert!(matches!(&kept, InvokeError::Outage(text) if text.contains("HttpRequestDenied")), "{kept:?}");
    // The policy stands, and the operator takes the link's word back.
    let links = stage.links(vec![stage.link("inside.test:*", &[], &[])]);
    actor.reconfigure(settings("http-user"), links).unwrap();
    let failed = call(&actor, &get).await.unwrap_err();
    assert!(matches!(&failed, InvokeError::Guest(text) if text.contains("HttpRequestDenied")), "{failed:?}");
    assert!(stage.sent_to().is_empty(), "nothing was connected to");
}

#[tokio::test]
async fn servers_that_do_not_answer_cost_the_links_timeout() {
    let stage = Stage::new().await;
    let actor = stage.actor(vec![stage.link("127.0.0.1:*", &[("timeout-ms", "200")], &[])]).await;
    let started = Instant::now();
    let failed = refused(&actor, &format!("GET {}", stage.url("/never"))).await;
    assert!(failed.contains("HttpResponseTimeout"), "{failed}");
    assert!(started.elapsed() >= Duration::from_millis(200) && started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    // Silence in the middle of a body.
    let actor = stage.reaching("127.0.0.1:*").await;
    let failed = refused(&actor, &format!("GET {}", stage.url("/stalls"))).await;
    assert!(failed.contains("200, then") && failed.contains("connection read timeout"), "{failed}");
}

#[tokio::test]
async fn connecting_may_take_half_of_the_links_time() {
    let stage = Stage::new().await;
    let actor = stage.actor(vec![stage.link("127.0.0.1:*", &[("timeout-ms", "600")], &[])]).await;
    for method in ["GET", "GET:100:200:250", "GET:5000:200:250"] {
        call(&actor, &format!("{method} {}", stage.url("/"))).await.unwrap();
    }
    let millis = |wait: Option<Duration>| wait.map(|wait| wait.as_millis());
    let sent = stage.outlet.sent.lock().unwrap();
    let patience = sent.iter().map(|target| &target.patience);
    let patience: Vec<_> = patience.map(|p| (millis(p.connect), millis(p.first_byte), millis(p.between_bytes))).collect();
    let wanted = |connect| (Some(connect), Some(200), Some(250));
    assert_eq!(patience, [(Some(300), None, None), wanted(100), wanted(300)], "an actor may wait for less");
}

#[tokio::test]
async fn a_request_ends_with_the_message_whatever_the_link_allows() {
    let stage = Stage::new().await;
    let loaded = stage.world.load(program("http-user")).await.unwrap();
    let mut settings = settings("http-user");
    settings.limits.deadline_ms = 300;
    let links = stage.links(vec![stage.link("127.0.0.1:*", &[("timeout-ms", "600000")], &[])]);
    let actor = Actor::new(&stage.world.runtime, loaded, settings, links).unwrap();
    let get = format!("GET {}", stage.url("/never"));
    let ended = tokio::time::timeout(PATIENCE, call(&actor, &get)).await.expect("it ends long before the link's time is over");
    let failed = ended.unwrap_err();
    assert!(failed.to_string().contains("HttpResponseTimeout") || matches!(failed, InvokeError::Deadline(_)), "{failed}");
}

#[tokio::test]
async fn responses_have_a_largest_size() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    let failed = refused(&actor, &format!("GET {}", stage.url("/large"))).await;
    assert!(failed.contains("HttpResponseBodySize") && !failed.contains("200, then"), "before its body: {failed}");
    let failed = refused(&actor, &format!("GET {}", stage.url("/flood"))).await;
    assert!(failed.contains("200, then") && failed.contains("response body size exceeds limit: 1000 bytes"), "{failed}");
    let failed = refused(&actor, &format!("GET {}", stage.url("/heads"))).await;
    assert!(failed.contains("HttpResponseHeaderSectionSize"), "{failed}");
    let failed = refused(&actor, &format!("POST {} {}", stage.url("/"), "x".repeat(2000))).await;
    assert!(failed.contains("HttpRequestBodySize"), "{failed}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    assert_eq!(call(&actor, &format!("GET {}", stage.url("/redirect"))).await.unwrap(), "302 moved");
    assert_eq!(*stage.server.seen.lock().unwrap(), ["/redirect"]);
}

#[tokio::test]
async fn a_server_that_is_away_is_no_fault_of_the_message() {
    let stage = Stage::new().await;
    let actor = stage.reaching("127.0.0.1:*").await;
    // Bound and given back: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failed = call(&actor, &format!("GET http://{free}/")).await.unwrap_err();
    assert!(matches!(&failed, InvokeError::Outage(text) if text.contains("ConnectionRefused")), "{failed}");
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_an_answer() {
    let stage = Stage::new().await;
    let actor = stage.reaching("nowhere.test").await;
    let failed = call(&actor, "GET http://nowhere.test/").await.unwrap_err();
    assert!(matches!(&failed, InvokeError::Guest(text) if text.contains("NXDOMAIN")), "{failed:?}");
}

#[test]
fn a_link_without_hosts_is_a_link_that_allows_none() {
    let KindSettings::HttpClient(found) = link(Contract::HttpClient, "out", &[], &[]).settings.kind else { panic!("of its kind") };
    assert!(found.allowed.is_empty());
}
