//! Requests through the actor's HTTP handler.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use lattice_core::contract::Contract;
use lattice_core::id::LinkName;
use lattice_host::runtime::{Actor, ActorSettings, Backend, BoundLink};
use provider_api::http_server::Body;

use crate::world::{PATIENCE, World, link, program, settings};

fn name() -> LinkName {
    LinkName::new("default").unwrap()
}

fn links(permissions: &[&str]) -> Vec<BoundLink> {
    vec![BoundLink { spec: link(Contract::HttpServer, "default", &[], permissions), backend: Backend::HttpServer }]
}

async fn hello(world: &World, adjust: impl FnOnce(&mut ActorSettings)) -> Actor {
    let loaded = world.load(program("http-hello")).await.unwrap();
    let mut settings = settings("http-hello");
    adjust(&mut settings);
    Actor::new(&world.runtime, loaded, settings, links(&[])).unwrap()
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Request::builder().method(method).uri(path).header("host", "localhost").body(body).unwrap()
}

async fn ask(actor: &Actor, request: Request<Body>) -> (StatusCode, Result<Bytes, String>) {
    let response = tokio::time::timeout(PATIENCE, actor.handle_http(request, &name())).await.expect("the request hangs");
    let status = response.status();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the body hangs");
    (status, body.map(|body| body.to_bytes()).map_err(|error| error.to_string()))
}

async fn check(actor: &Actor, path: &str, status: u16, part: &str) {
    let (found, body) = ask(actor, request("GET", path, "")).await;
    let body = String::from_utf8_lossy(&body.unwrap()).into_owned();
    assert_eq!(found.as_u16(), status, "{path}: {body}");
    assert!(body.contains(part), "{path}: {body}");
}

#[tokio::test]
async fn requests_and_bodies_pass_through() {
    let world = World::new();
    let actor = hello(&world, |_| {}).await;
    let (status, body) = ask(&actor, request("POST", "/a?b=c", "body")).await;
    assert_eq!((status, body.unwrap()), (StatusCode::OK, Bytes::from_static(b"POST /a?b=c\nbody")));
    let large = vec![b'x'; 3 * 1024 * 1024];
    let (_, body) = ask(&actor, request("PUT", "/", large.clone())).await;
    assert_eq!(body.unwrap().len(), large.len() + "PUT /\n".len());
    let (_, body) = ask(&actor, request("GET", "/huge/5000000", "")).await;
    assert_eq!(body.unwrap().len(), 5_000_000);
    check(&actor, "/status/404", 404, "GET").await;
    // A response may be there a moment before its actor has returned.
    let counted = async {
        while actor.stats().handled < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("all are counted");
    assert_eq!(actor.stats().handled, 4);
}

#[tokio::test]
async fn failures_become_statuses() {
    let world = World::new();
    let actor = hello(&world, |settings| {
        settings.limits.cpu_ms = 200;
        settings.limits.deadline_ms = 4000;
    })
    .await;
    check(&actor, "/trap", 500, "actor trapped").await;
    check(&actor, "/spin", 504, "CPU limit").await;
    check(&actor, "/slow/9000", 504, "deadline").await;
    check(&actor, "/silent", 500, "without a response").await;
    let (status, body) = ask(&actor, request("GET", "/cut", "")).await;
    assert!(status == StatusCode::OK && body.is_err(), "a body that ends early is an error: {body:?}");
    check(&actor, "/after", 200, "GET /after").await;
    assert_eq!(world.runtime.live_instances(), 0);
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let world = World::new();
    let actor = hello(&world, |_| {}).await;
    let (status, _) = ask(&actor, request("POST", "/", vec![0; 8 * 1024 * 1024 + 1])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let no_host = Request::builder().uri("/").body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()).unwrap();
    assert_eq!(ask(&actor, no_host).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_link_says_what_is_permitted() {
    let world = World::new();
    let actor = hello(&world, |_| {}).await;
    actor.reconfigure(settings("http-hello"), links(&["GET"])).unwrap();
    check(&actor, "/", 200, "GET /").await;
    let (status, body) = ask(&actor, request("DELETE", "/", "")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(String::from_utf8_lossy(&body.unwrap()).contains("capability denied: wasmcloud:httpserver"));
    actor.reconfigure(settings("http-hello"), Vec::new()).unwrap();
    check(&actor, "/", 503, "link definition not found").await;
}

#[tokio::test]
async fn a_busy_actor_turns_requests_away_in_time() {
    let world = World::new();
    let actor = hello(&world, |settings| settings.instances = 1).await;
    let slow = ask(&actor, request("GET", "/slow/8000", ""));
    let turned_away = async {
        while actor.stats().running == 0 {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        (ask(&actor, request("GET", "/", "")).await.0, started.elapsed())
    };
    let (slow, (status, waited)) = tokio::join!(slow, turned_away);
    assert_eq!((slow.0, status), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
    assert!(waited < Duration::from_secs(7), "{waited:?}");
}

#[tokio::test]
async fn an_actor_without_a_handler_says_so() {
    let world = World::new();
    let actor = world.actor("echo", |_| {}).await;
    let (status, body) = ask(&actor, request("GET", "/", "")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(String::from_utf8_lossy(&body.unwrap()).contains("no handler"));
    let http = hello(&world, |_| {}).await;
    let failed = crate::world::call(&http, "x").await.unwrap_err();
    assert!(failed.problem("http-hello").message.contains("link definition not found"), "{failed}");
}
