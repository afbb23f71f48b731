//! Links: what does not work is shown and mended, what is taken away is gone, nobody gets more than was given.

use std::collections::BTreeMap;

use lattice_core::error::ErrorCode;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::assignment::ProviderKind;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::request::{CALL_ERROR, CallFailure, LogPage, LogQuery};

use crate::world::{DEADLINE, World, actor, eventually, free_port, http_get};

fn errors(report: &HostReport, id: &str) -> BTreeMap<String, String> {
    report.components[&actor(id)].link_errors.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_shown_and_taken_when_free() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    world.actor("web", "http-hello", &report.id, 1).await;
    world.link("web", ProviderKind::HttpServer, &[("port", &port.to_string())]).await;
    let report = world.running("NEDGE01", "web").await;
    let why = errors(&report, "web")["wasmcloud:httpserver default"].clone();
    assert_eq!(why, format!("address 127.0.0.1:{port} is taken: another program"));
    drop(holder);
    world.report("NEDGE01", |report| errors(report, "web").is_empty()).await;
    assert!(http_get(port, "/x").await.unwrap().contains("GET /x"));

    // Another port, and nothing listens on the old one.
    let other = free_port();
    world.link("web", ProviderKind::HttpServer, &[("port", &other.to_string())]).await;
    world.running("NEDGE01", "web").await;
    assert!(http_get(other, "/y").await.unwrap().contains("GET /y"));
    assert!(http_get(port, "/x").await.is_none());

    let (status, body) = world.call("web", "x").await;
    let failure: CallFailure = wire::decode(body.as_bytes()).unwrap();
    assert_eq!((status.as_str(), failure.error.code), (CALL_ERROR, ErrorCode::LinkNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_or_bucket_that_is_missing_is_shown_and_used_when_there() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("user", "kv-user", &report.id, 2).await;
    world.link("user", ProviderKind::MessagingNats, &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")]).await;
    world.link("user", ProviderKind::KvNats, &[("bucket", "later")]).await;
    let [consumer] = world.lattice.edge_stream_status().await.unwrap().unwrap().consumers.try_into().unwrap();
    world.lattice.delete_consumer(&consumer.name).await.unwrap();

    let report = world.running("NEDGE01", "user").await;
    let shown = errors(&report, "user");
    assert!(shown["wasmcloud:messaging default edge.sensor.eu"].contains("does not exist"), "{shown:?}");
    assert!(shown["wasmcloud:keyvalue default"].contains("`later`"), "{shown:?}");
    let (status, _) = world.call("user", "get a").await;
    assert_eq!(status, CALL_ERROR);

    world.lattice.ensure_bucket(&lattice_core::id::BucketName::new("later").unwrap(), None).await.unwrap();
    world.link("user", ProviderKind::MessagingNats, &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")]).await;
    world.report("NEDGE01", |report| errors(report, "user").is_empty()).await;
    world.store("edge.sensor.eu", "set a 1").await;
    world.consumed(1).await;
    assert_eq!(world.call("user", "get a").await.1, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_of_the_control_plane_reach_no_actor() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("echo", "echo", &report.id, 1).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", ">"), ("force", "true")]).await;
    world.running("NEDGE01", "echo").await;
    let client = world.lattice.connection().client();
    for subject in ["lat.default.planned.x", "cloud.cmd.x", "$SYS.x"] {
        client.publish(subject, "no".into()).await.unwrap();
    }
    assert_eq!(world.request("site.ask", "yes").await, "yes");
    let report = world.report("NEDGE01", |report| report.components[&actor("echo")].handled > 0).await;
    assert_eq!(report.components[&actor("echo")].handled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_and_settings_change_under_a_running_port() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("x", "kv-user", &report.id, 2).await;
    world.link("x", ProviderKind::MessagingNats, &[("subscription", "site.x")]).await;
    world.link("x", ProviderKind::KvMemory, &[]).await;
    world.running("NEDGE01", "x").await;
    assert_eq!(world.request("site.x", "config greeting").await, "(none)");
    let values = BTreeMap::from([("greeting".to_owned(), "hello".to_owned())]);
    world.desired.put_config(lattice_core::id::ConfigName::new("x").unwrap(), values).unwrap();
    world.running("NEDGE01", "x").await;
    assert_eq!(world.request("site.x", "config greeting").await, "hello");
    assert_eq!(world.request("site.x", "set a 1").await, "ok");

    world.actor("x", "echo", &report.id, 2).await;
    world.running("NEDGE01", "x").await;
    assert_eq!(world.request("site.x", "config greeting").await, "config greeting");
    let report = world.report("NEDGE01", |report| report.components[&actor("x")].handled == 4).await;
    assert_eq!(report.components[&actor("x")].failed, 0, "counts survive the change");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_cannot_run_says_why_and_harms_nobody() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("echo", "echo", &report.id, 1).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", "site.x")]).await;
    world.actor("wrong", "unknown-import", &report.id, 1).await;
    let report = world.running("NEDGE01", "echo").await;
    let state = report.components[&actor("wrong")].state.to_string();
    assert!(state.starts_with("failed: ") && state.contains("which no provider serves"), "{state}");
    assert_eq!(world.request("site.x", "hello").await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_actors_say_can_be_read() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("echo", "echo", &report.id, 1).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", "site.x")]).await;
    world.running("NEDGE01", "echo").await;
    let client = world.lattice.connection().client();
    client.publish("site.x", "said".into()).await.unwrap();
    let query: bytes::Bytes = wire::encode(&LogQuery { actor: Some(actor("echo")), after: 0, limit: 10 }).into();
    let page: LogPage = eventually("the line", async || {
        let answer = world.lattice.ask(&report.id, subject::Verb::Logs, query.clone(), DEADLINE).await.unwrap();
        wire::decode::<LogPage>(&answer).ok().filter(|page| !page.lines.is_empty())
    })
    .await;
    assert_eq!(page.lines[0].message, "answer: said");
    assert_eq!((page.host.as_str(), page.next), ("NEDGE01", page.lines[0].number));
}
