//! Starting, stopping and guarding a nats-server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use async_nats::Request;
use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::desired::Change;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::fence::{Answer, Part, Publication};
use lattice_core::id::{ActorId, BucketName, Generation, Incarnation, Region, Revision};
use lattice_core::ownership::SlotId;
use lattice_core::subject::{self, SubjectPattern};
use lattice_core::wire::ownership::{Applied, EpochRecord, LeaseRecord};
use lattice_nats::bucket::{Bucket, KeyChange};
use lattice_nats::error::ApiError;
use lattice_nats::fenced::Cause;
use lattice_nats::server::{Durability, Server, ServerConfig, ServerError};
use lattice_nats::{AskError, CommitError, ConnectError, ConnectOptions, Connection, Lattice, StoreError, connect, streams};
use support::{DEADLINE, World, eventually, name, program};

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // The name needs quoting in the server's configuration.
    let config = ServerConfig { durability: Durability::Fsync, ..ServerConfig::new(folder.path().join("a \"b\" \\ ü"), name("default")) };
    let server = Server::start(&program(), &config).await.unwrap();
    let port = server.port();
    let lattice = Lattice::new(connect(&ConnectOptions::new(server.url(), "test")).await.unwrap(), name("default"));
    lattice.ensure().await.unwrap();
    let revision = lattice.commit_desired(&[Change { key: "app.a".to_owned(), value: Some(b"{}".to_vec()) }], Revision(0)).await.unwrap();
    assert!(server.stop().await.unwrap().success());

    let server = Server::start(&program(), &ServerConfig { port, ..config }).await.unwrap();
    assert_eq!(server.port(), port);
    eventually("the client is back", async || lattice.connection().is_connected().then_some(())).await;
    assert_eq!(lattice.read_desired().await.unwrap().1, revision);
}

#[tokio::test]
async fn a_second_server_on_a_port_is_refused_by_its_number() {
    let world = World::start().await;
    let other = tempfile::tempdir().unwrap();
    let config = ServerConfig { port: world.server.port(), ..ServerConfig::new(other.path(), name("default")) };
    let error = Server::start(&program(), &config).await.unwrap_err();
    assert!(matches!(&error, ServerError::PortTaken { address } if address.port() == world.server.port()), "{error}");
    let problem = Problem::from(error);
    assert_eq!(problem.code, ErrorCode::Conflict);
    assert!(problem.message.contains(&world.server.port().to_string()), "{problem}");
    // The log of the failed attempt is not taken for that of the next one.
    Server::start(&program(), &ServerConfig { port: 0, ..config }).await.unwrap();
}

#[tokio::test]
async fn one_server_per_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(folder.path(), name("default"));
    let server = Server::start(&program(), &config).await.unwrap();
    let second = Server::start(&program(), &config).await.unwrap_err();
    assert!(matches!(second, ServerError::Running { .. }), "{second}");

    // Left alone by whoever started it, it still holds the folder; once it is gone, the folder is free.
    let url = server.url();
    let pid = server.detach();
    connect(&ConnectOptions::new(&url, "test")).await.expect("it goes on");
    assert!(matches!(Server::start(&program(), &config).await.unwrap_err(), ServerError::Running { .. }));
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the folder is free", async || Server::start(&program(), &config).await.ok()).await;
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let world = World::start().await;
    let url = world.server.url();
    drop(world);
    eventually("nobody listens", async || {
        let error = connect(&ConnectOptions::new(&url, "test")).await.err()?;
        assert!(matches!(&error, ConnectError::Refused { url: named, .. } if *named == url), "{error}");
        assert_eq!(Problem::from(error).code, ErrorCode::NatsRefused);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Server::start(&program(), &ServerConfig::new(file.join("data"), name("default"))).await.unwrap_err();
    assert!(matches!(&error, ServerError::Folder { .. }) && error.to_string().contains("file/data"), "{error}");
}

#[tokio::test]
async fn the_account_sees_who_disconnects() {
    let world = World::start().await;
    let watching = world.connect().await;
    let mut disconnects = watching.client().subscribe("$SYS.ACCOUNT.LAT.DISCONNECT").await.unwrap();
    watching.settle().await;
    let leaving = connect(&ConnectOptions::new(world.server.url(), "leaving-host")).await.unwrap();
    drop(leaving);
    let event = tokio::time::timeout(DEADLINE, disconnects.next()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&event.payload).into_owned();
    assert!(text.contains("leaving-host"), "{text}");
}

#[tokio::test]
async fn credentials_come_from_files_that_make_sense() {
    let world = World::start().await;
    let check = async |contents: Option<&str>, expected: &str| {
        let path = world.folder.path().join("creds-under-test");
        let _ = std::fs::remove_file(&path);
        if let Some(contents) = contents {
            std::fs::write(&path, contents).unwrap();
        }
        let error = connect(&ConnectOptions { creds: Some(path), ..ConnectOptions::new(world.server.url(), "test") }).await.unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(text.contains("creds-under-test") && text.contains(expected), "{text}");
    };
    check(None, "No such file").await;
    check(Some(""), "neither a .creds file nor").await;
    check(Some("-----BEGIN NATS USER JWT-----\nnonsense"), "no user JWT").await;
    let account_seed = nkeys::KeyPair::new_account().seed().unwrap();
    check(Some(&account_seed), "of a user (SU…)").await;

    let stranger = world.folder.path().join("stranger.nk");
    std::fs::write(&stranger, nkeys::KeyPair::new_user().seed().unwrap()).unwrap();
    let denied = connect(&ConnectOptions { creds: Some(stranger), ..ConnectOptions::new(world.server.url(), "test") }).await.unwrap_err();
    assert!(matches!(denied, ConnectError::Denied { anonymous: false, .. }), "{denied}");
}

/// A server that others can reach: what a captured host could do, and what it could not.
struct Open {
    world: World,
    operator: Lattice,
    node: Lattice,
}

impl Open {
    async fn start() -> Self {
        let world = World::start_with(|config| config.bind = IpAddr::V4(Ipv4Addr::UNSPECIFIED)).await;
        let operator = Lattice::new(world.connect_as("operator").await, name("default"));
        operator.ensure().await.unwrap();
        operator.ensure_edge_stream().await.unwrap();
        let node = Lattice::new(world.connect_as("node").await, name("default"));
        Self { world, operator, node }
    }
}

#[tokio::test]
async fn nobody_gets_in_without_credentials_from_outside() {
    let open = Open::start().await;
    assert!(open.world.server.url().starts_with("nats://127.0.0.1:"));
    let error = connect(&ConnectOptions::new(open.world.server.url(), "test")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Denied { anonymous: true, .. }), "{error}");
    let problem = Problem::from(error);
    assert!(problem.code == ErrorCode::Denied && problem.hint.unwrap().contains("--creds"));
    for user in ["operator", "node", "control"] {
        let mode = std::fs::metadata(open.world.creds(user)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_host_may_do_its_work() {
    let Open { operator, node, world: _world } = Open::start().await;
    let bucket = BucketName::new("edge-data").unwrap();
    operator.ensure_bucket(&bucket, Some("local")).await.unwrap();
    let digest = operator.put_artifact(Bytes::from_static(b"component")).await.unwrap();
    operator.create_consumer("c", &SubjectPattern::new("edge.sensor.*").unwrap(), Duration::from_secs(4), 8).await.unwrap();

    assert!(node.exists().await.unwrap());
    node.read_desired().await.unwrap();
    node.read_plan().await.unwrap();
    node.read_assignment(&support::host('A')).await.unwrap();
    assert_eq!(node.get_artifact(&digest, 1000).await.unwrap(), "component");
    let opened = Bucket::open(node.connection(), &bucket).await.unwrap();
    opened.put("k", "v".into()).await.unwrap();
    assert_eq!(opened.keys("").await.unwrap(), ["k"]);
    operator.ensure_fenced_bucket(&bucket, None).await.unwrap();
    let slot = SlotId { actor: ActorId::new("a").unwrap(), slot: 0 };
    let incarnation = Incarnation::new("01").unwrap();
    let record = EpochRecord { owner: support::host('A'), incarnation: incarnation.clone(), term: Generation(1) };
    let fenced = node.fenced_bucket(&bucket);
    let epoch = fenced.claim(&slot, &record, 0).await.unwrap();
    let cause = Cause { slot: &slot, epoch, consumer: "c", applied: Applied { sequence: 1 }, id: "a-0:c:1" };
    let result = Publication { subject: "edge.result.eu".to_owned(), headers: Vec::new(), body: b"1".to_vec() };
    let commit = fenced.prepare(cause, vec![Part::Publish(result)]).unwrap();
    assert_eq!(fenced.attempt(&commit).await.0, Answer::Stored);
    let lease = LeaseRecord { host: support::host('A'), incarnation, number: 1, revoked: false };
    node.write_lease(&Region::new("eu").unwrap(), &lease, Revision(0)).await.unwrap();
    node.read_verdicts().await.unwrap();
    let several = streams::take_over(node.connection(), subject::EDGE_STREAM, "c").await.unwrap_err();
    assert!(several.to_string().contains("several messages at once"), "{several}");

    let mut heard = operator.subscribe(subject::heartbeats(operator.name())).await.unwrap();
    node.connection().client().publish("lat.default.hb.local.me", "beat".into()).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, heard.next()).await.unwrap().unwrap().payload, "beat");

    let mut requests = node.subscribe(subject::requests_for(node.name(), &support::host('A'))[0].clone()).await.unwrap();
    let answering = async {
        let question = requests.next().await.unwrap();
        node.connection().client().publish(question.reply.unwrap(), "here".into()).await.unwrap();
    };
    let host = support::host('A');
    let (answer, ()) = tokio::join!(operator.ask(&host, subject::Verb::Ping, Bytes::new(), DEADLINE), answering);
    assert_eq!(answer.unwrap(), "here");
}

#[tokio::test]
async fn a_host_may_not_change_what_others_do() {
    let Open { operator, node, world: _world } = Open::start().await;
    let change = [Change { key: "app.a".to_owned(), value: Some(b"{}".to_vec()) }];
    let error = node.commit_desired(&change, Revision(0)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Store(StoreError::Nats { source: ApiError::Denied { .. }, .. })), "{error:?}");
    assert_eq!(Problem::from(error).code, ErrorCode::Denied);

    operator.create_consumer("c", &SubjectPattern::new("edge.sensor.*").unwrap(), Duration::from_secs(4), 8).await.unwrap();
    for subject in [
        "$JS.API.STREAM.DELETE.KV_LAT_default_DESIRED",
        "$JS.API.STREAM.PURGE.edge-events",
        "$JS.API.STREAM.UPDATE.edge-events",
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.STREAM.MSG.DELETE.edge-events",
        "$JS.API.CONSUMER.DELETE.edge-events.c",
        "$JS.API.CONSUMER.CREATE.edge-events.c.edge.sensor.*",
        "$JS.API.CONSUMER.DURABLE.CREATE.edge-events.c",
        "$KV.LAT_default_DESIRED.app.a",
        "$KV.LAT_default_PLAN.head",
        "$KV.LAT_default_VERDICT.host.x",
        "$KV.LAT_default_POLICY.edge",
        "lat.default.failover.status",
        "lat.default.changed.verdict.host.x",
        "$O.LAT_default_ARTIFACTS.M.x",
        "lat.default.planned.me",
        "lat.default.probe",
        "lat.default.req.all.report",
        "lat.default.sched.place",
        "lat.default.changed.desired.app.a",
        "lat.other.hb.local.me",
        "cloud.cmd.NEDGE01",
        "_INBOX.somebody.1",
    ] {
        assert_denied(node.connection(), subject).await;
    }
    assert_eq!(operator.read_desired().await.unwrap().1, Revision(0));
    assert_eq!(operator.edge_stream_status().await.unwrap().unwrap().consumers.len(), 1);
}

#[tokio::test]
async fn the_host_of_system_actors_may_write_plan_and_verdicts_and_nothing_else_of_the_operators() {
    let Open { operator, node, world } = Open::start().await;
    let control = Lattice::new(world.connect_as("control").await, name("default"));
    let key = KeyChange { key: "head".to_owned(), value: Some("{}".into()), expected: Some(Revision(0)) };
    let plan = |connection| Bucket::named(connection, &subject::plan_bucket(operator.name()));
    let denied = plan(node.connection()).commit(std::slice::from_ref(&key), None).await.unwrap_err();
    assert!(matches!(&denied, CommitError::Store(StoreError::Nats { source: ApiError::Denied { .. }, .. })), "{denied:?}");
    plan(control.connection()).commit(std::slice::from_ref(&key), None).await.unwrap();
    let verdicts = Bucket::named(control.connection(), &subject::verdict_bucket(operator.name()));
    verdicts.commit(&[key], None).await.unwrap();
    for subject in ["lat.default.req.X.report", "lat.default.evt.eu.X.dead"] {
        control.connection().client().publish(subject, "{}".into()).await.unwrap();
    }
    for subject in ["$KV.LAT_default_DESIRED.app.a", "$JS.API.STREAM.DELETE.KV_LAT_default_PLAN", "lat.default.planned.me", "cloud.cmd.X"] {
        assert_denied(control.connection(), subject).await;
    }

    let mut probes = node.subscribe(subject::probe(node.name())).await.unwrap();
    control.connection().client().publish(subject::probe(control.name()), "{}".into()).await.unwrap();
    assert!(tokio::time::timeout(DEADLINE, probes.next()).await.unwrap().is_some());

    // Requests to the scheduler reach its host and no other; any host may measure round trips to any other.
    let verb = subject::scheduler(node.name(), "place");
    let _deaf = node.subscribe(verb.clone()).await.unwrap();
    let failover = subject::failover_request(node.name(), subject::FailoverVerb::Status);
    let _deaf = node.subscribe(failover.clone()).await.unwrap();
    let nobody = operator.request(failover.clone(), Bytes::new(), DEADLINE).await.unwrap_err();
    assert!(matches!(nobody, AskError::Nobody { .. }), "{nobody:?}");
    let nobody = operator.request(verb.clone(), Bytes::new(), DEADLINE).await.unwrap_err();
    assert!(matches!(nobody, AskError::Nobody { .. }), "{nobody:?}");
    let status = subject::scheduler(node.name(), "status");
    for (who, asker, subject) in [
        (&control, &operator, failover),
        (&control, &operator, verb),
        (&control, &node, status),
        (&node, &node, "lat.default.rtt.eu".to_owned()),
    ] {
        let mut requests = who.subscribe(subject.clone()).await.unwrap();
        let answering = async {
            let question = requests.next().await.unwrap();
            who.connection().client().publish(question.reply.unwrap(), "here".into()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(asker.request(subject.clone(), Bytes::new(), DEADLINE), answering);
        assert_eq!(answer.unwrap(), "here", "{subject}");
    }
}

/// Sends to `subject` and waits for the server's refusal.
async fn assert_denied(connection: &Connection, subject: &str) {
    let request = Request::new().payload("{}".into()).timeout(Some(Duration::from_millis(100)));
    let answer = connection.client().send_request(subject.to_owned(), request).await;
    let kind = answer.map_err(|error| error.kind()).map(|message| message.payload);
    assert_eq!(kind, Err(async_nats::client::RequestErrorKind::TimedOut), "{subject}: a refusal is silence");
}
