//! Joining, working, changing, leaving, coming back.

use lattice_core::contract::Contract;
use lattice_core::id::{BucketName, Generation};
use lattice_core::inventory::Inventory;
use lattice_core::plan::{Head, Plan, plan};
use lattice_core::wire::assignment::{Assignment, ProviderKind};
use lattice_core::wire::event::EventKind;
use lattice_core::wire::report::HostState;
use lattice_core::wire::verdict::Verdicts;
use rustix::process::Signal;

use crate::world::{HostProcess, World, actor, command, event, eventually, free_port, http_get};

#[tokio::test(flavor = "multi_thread")]
async fn from_joining_to_a_reply() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    assert_eq!((report.state, report.region.as_str()), (HostState::Ready, "local"));
    world.actor("echo", "echo", &report.id, 4).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", "site.sensor.eu")]).await;
    world.running("NEDGE01", "echo").await;
    assert_eq!(world.request("site.sensor.eu", "hello").await, "hello");
    assert_eq!(world.call("echo", "called").await, ("ok".to_owned(), "called".to_owned()));
    let report = world.report("NEDGE01", |report| report.components[&actor("echo")].handled == 2).await;
    assert_eq!((report.components[&actor("echo")].instances, report.error_count), (4, 0));
    assert!(report.profile.memory_mb > 0 && report.profile.memory_used_mb > 0);

    world.unlink("echo", Contract::Messaging);
    let generation = world.commit().await;
    let report = world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    assert_eq!(report.components[&actor("echo")].state.to_string(), "waiting: no link for wasmcloud:messaging/consumer");
    eventually("nobody listens any more", async || world.lattice.connection().client().request("site.sensor.eu", "x".into()).await.err())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_identity_and_assignment() {
    let mut world = World::start().await;
    let mut events = world.events().await;
    let (mut host, first) = world.joined("NEDGE01").await;
    world.actor("echo", "echo", &first.id, 1).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", "site.sensor.eu")]).await;
    world.running("NEDGE01", "echo").await;

    let dir = world.host_dir("NEDGE01");
    let second = command(&dir).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("in use by process {}", host.pid())), "{said}");

    host.signal(Signal::TERM);
    assert_eq!(host.ended().await.code(), Some(0), "{}", host.log());
    event(&mut events, |event| event.kind == EventKind::Bye && event.host == first.id).await;

    let _host = HostProcess::start(&dir, &[]);
    let again = world.report("NEDGE01", |report| report.incarnation != first.incarnation).await;
    assert_eq!(again.id, first.id);
    assert!(again.incarnation > first.incarnation);
    assert_eq!(world.request("site.sensor.eu", "hello").await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_assignment_is_refused_by_name() {
    let mut world = World::start().await;
    let mut events = world.events().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("echo", "echo", &report.id, 1).await;
    world.link("echo", ProviderKind::MessagingNats, &[("subscription", "site.sensor.eu")]).await;
    world.running("NEDGE01", "echo").await;
    world.actor("other", "echo", &report.id, 1).await;
    world.commit().await;
    world.report("NEDGE01", |report| report.applied_generation == Generation(2)).await;

    let state = world.lattice.read_plan().await.unwrap();
    let head = state.head.clone().unwrap();
    let stale = Assignment { generation: Generation(1), ..Assignment::empty(report.id.clone()) };
    let nothing = plan(&world.desired, head.desired_rev, &Inventory::default(), &Verdicts::default(), &state);
    let plan = Plan { head: Head { generation: Generation(3), ..head }, changed: [(report.id.clone(), stale)].into(), ..nothing };
    world.lattice.commit_plan(&plan, state.head_revision).await.unwrap();
    let refused = event(&mut events, |event| event.kind == EventKind::Refused).await;
    assert_eq!(refused.message, "assignment of generation 1 is stale: generation 2 is in force");
    let after = world.report("NEDGE01", |_| true).await;
    assert_eq!(after.applied_generation, Generation(2));
    assert_eq!(after.components.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_host_finishes_what_it_has() {
    let mut world = World::start().await;
    let (mut host, report) = world.joined("NEDGE01").await;
    world.actor("sleepy", "sleepy", &report.id, 2).await;
    world.link("sleepy", ProviderKind::MessagingNats, &[("subscription", "site.sensor.eu")]).await;
    world.running("NEDGE01", "sleepy").await;
    assert_eq!(world.request("site.sensor.eu", "1").await, "slept 1 ms");

    let client = world.lattice.connection().client().clone();
    let slow = tokio::spawn(async move { client.request("site.sensor.eu", "2000".into()).await });
    world.report("NEDGE01", |report| report.components[&actor("sleepy")].handled == 1).await;
    eventually("the call runs", async || {
        let (status, _) = world.call("sleepy", "1").await;
        (status == "ok").then_some(())
    })
    .await;
    host.signal(Signal::TERM);
    assert_eq!(slow.await.unwrap().unwrap().payload, "slept 2000 ms");
    assert_eq!(host.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut world = World::start().await;
    let (mut host, report) = world.joined("NEDGE01").await;
    world.actor("sleepy", "sleepy", &report.id, 1).await;
    world.link("sleepy", ProviderKind::MessagingNats, &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")]).await;
    world.running("NEDGE01", "sleepy").await;
    world.store("edge.sensor.eu", "20000").await;
    eventually("the message is held", async || {
        let stream = world.lattice.edge_stream_status().await.unwrap().unwrap();
        (stream.consumers[0].unacknowledged == 1).then_some(())
    })
    .await;
    host.signal(Signal::TERM);
    world.report("NEDGE01", |report| report.state == HostState::Draining).await;
    host.signal(Signal::TERM);
    assert_eq!(host.ended().await.code(), Some(128 + Signal::TERM.as_raw()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_a_node_suffice() {
    let mut world = World::start_on(std::net::Ipv4Addr::UNSPECIFIED.into()).await;
    let dir = world.host_dir("NEDGE01");
    let refused = command(&dir).args(["--name", "NEDGE01", "--nats-url", &world.url]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(6), "{said}");
    assert!(said.contains("refuses a client without credentials"), "{said}");

    let mut events = world.events().await;
    let creds = world.creds("node");
    let mut host = HostProcess::start(&dir, &["--creds", creds.to_str().unwrap()]);
    let report = world.report("NEDGE01", |_| true).await;
    world.actor("user", "kv-user", &report.id, 2).await;
    world.link("user", ProviderKind::KvNats, &[("bucket", "edge-data")]).await;
    world.lattice.ensure_bucket(&BucketName::new("edge-data").unwrap(), None).await.unwrap();
    world.link("user", ProviderKind::MessagingNats, &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")]).await;
    let report = world.running("NEDGE01", "user").await;
    assert!(report.components[&actor("user")].link_errors.is_empty(), "{report:#?}");
    world.store("edge.sensor.eu", "set a 1\nincrement n 2\npublish edge.result.eu done").await;
    world.store("edge.sensor.eu", "nonsense").await;
    event(&mut events, |event| event.kind == EventKind::DeadLetter).await;
    world.consumed(2).await;
    assert_eq!(world.call("user", "get a").await, ("ok".to_owned(), "1".to_owned()));
    host.signal(Signal::TERM);
    event(&mut events, |event| event.kind == EventKind::Bye).await;
    assert_eq!(host.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_told_to_stop_does_so_once() {
    let mut world = World::start().await;
    let (mut host, report) = world.joined("NEDGE01").await;
    let stop = lattice_core::desired::NodeSpec { stop: Some(report.incarnation.clone()), ..Default::default() };
    world.desired.nodes.insert(report.id.clone(), stop);
    world.commit().await;
    assert_eq!(host.ended().await.code(), Some(0));
    let _again = world.host("NEDGE01");
    let again = world.report("NEDGE01", |again| again.incarnation != report.incarnation).await;
    assert_eq!(again.state, HostState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_starts_from_its_disk() {
    let mut world = World::start().await;
    let (mut host, report) = world.joined("NEDGE01").await;
    let port = free_port();
    world.actor("web", "http-hello", &report.id, 2).await;
    world.link("web", ProviderKind::HttpServer, &[("port", &port.to_string())]).await;
    world.running("NEDGE01", "web").await;
    let ask = async || http_get(port, "/hello").await.filter(|response| response.contains("GET /hello"));
    eventually("HTTP", ask).await;
    host.signal(Signal::KILL);
    host.ended().await;
    let nats_port = world.stop_server().await;
    assert!(http_get(port, "/hello").await.is_none());

    let host = HostProcess::start(&world.host_dir("NEDGE01"), &["--admin", "127.0.0.1:0"]);
    eventually("HTTP without a server", ask).await;
    let admin = host.log().lines().find_map(|line| line.split("admin port address=127.0.0.1:").nth(1)?.trim().parse::<u16>().ok()).unwrap();
    assert!(http_get(admin, "/livez").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(http_get(admin, "/readyz").await.unwrap().contains("no connection to NATS"));

    world.start_server(nats_port).await;
    world.report("NEDGE01", |report| report.applied_generation == Generation(1)).await;
    assert!(http_get(admin, "/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(http_get(admin, "/metrics").await.unwrap().contains("lattice_nats_connected 1"));
    assert_eq!(host.log().matches("connection refused").count(), 1, "said once: {}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_lattice() {
    let world = World::bare().await;
    let host = world.host("NEDGE01");
    eventually("it says so", async || host.log().contains("nobody has made this lattice yet").then_some(())).await;
    world.lattice.ensure().await.unwrap();
    eventually("it goes on", async || host.log().contains("plan read").then_some(())).await;
    assert_eq!(host.log().matches("nobody has made this lattice yet").count(), 1);
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let check = |args: &[&str], code: i32, expected: &str| {
        let output = command(&folder.path().join("data")).args(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("lattice-host: ") && last.contains(expected), "{args:?}: {said}");
    };
    check(&["--name", "a.b"], 2, "--name: host name `a.b`");
    check(&["--label", "region"], 2, "--label region: has no `=`");
    check(&["--creds", "/does/not/exist"], 2, "credentials file /does/not/exist");
    check(&["--nats-url", "http://a"], 2, "NATS address");
    check(&["--log-level", "=="], 2, "--log-level");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let output = command(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("data directory") && said.contains("file"), "{said}");
}
