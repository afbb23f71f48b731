//! What is there goes away, and comes back: the server, a host, the road between them. What the stream has acknowledged
//! is worked on, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use e2e::process::{is_alive, signal};
use e2e::{Bus, HostProcess, World, http};
use lattice_core::id::{Generation, HostId};
use lattice_core::timing::ACK_WAIT;
use lattice_core::wire::assignment::Assignment;
use lattice_core::{subject, wire};
use rustix::process::Signal;
use serde_json::Value;

/// Subject of the readings.
const SENSOR: &str = "edge.sensor.ap-east-1";
/// Stream in which the test keeps what comes out, so that nothing is missed while its own connection is down.
const OUT: &str = "test-out";

/// Stores readings of devices `<prefix>-<n>` and returns those that were acknowledged.
fn store_readings(bus: &Bus, prefix: &str, count: usize) -> BTreeSet<String> {
    let ids = (0..count).map(|n| format!("{prefix}-{n}"));
    ids.filter(|id| bus.try_store(SENSOR, format!(r#"{{"device_id":"{id}","temperature":99,"timestamp":1}}"#)).is_ok()).collect()
}

/// The devices whose result was published.
fn results(bus: &Bus) -> BTreeSet<String> {
    let device = |message: &async_nats::Message| {
        let result: Value = serde_json::from_slice(&message.payload).ok()?;
        Some(result["device_id"].as_str()?.to_owned())
    };
    bus.kept(OUT).iter().filter_map(device).collect()
}

#[track_caller]
fn all_have_results(world: &World, bus: &Bus, acknowledged: &BTreeSet<String>) {
    let mut missing = Vec::new();
    world.until("every acknowledged reading has a result", || {
        missing = acknowledged.difference(&results(bus)).cloned().collect();
        missing.is_empty().then_some(())
    });
    until_consumed(world);
    // The last value in the bucket is a witness of its own.
    let keys = world.line("kv ls edge-data").ok();
    let stored: BTreeSet<&str> = keys.lines().filter_map(|key| key.strip_prefix("ap-east-1.")).collect();
    assert!(acknowledged.iter().all(|id| stored.contains(id.as_str())), "{acknowledged:?} in {stored:?}");
}

/// Waits until the consumer has nothing left, neither to hand out nor to be acknowledged.
#[track_caller]
fn until_consumed(world: &World) {
    world.until("nothing is left in the stream", || {
        let consumer = world.line("stream status -o json").json()["consumers"][0].clone();
        (consumer["pending"] == 0 && consumer["unacknowledged"] == 0).then_some(())
    });
}

#[test]
fn the_server_dies_and_comes_back() {
    let world = World::up(2);
    let bus = world.bus();
    bus.keep(OUT, &["edge.result.>"]);
    world.start_edge_processor("NEDGE01,NEDGE02", "jetstream");
    let pids = (world.host_pid("NEDGE01"), world.host_pid("NEDGE02"));

    let mut acknowledged = store_readings(&bus, "before", 100);
    assert_eq!(acknowledged.len(), 100);
    for round in 0..2 {
        let server = world.server_pid();
        let storing = std::thread::scope(|scope| {
            let storing = scope.spawn(|| store_readings(&bus, &format!("during-{round}"), 150));
            std::thread::yield_now();
            signal(server, Signal::KILL);
            world.until("another server runs", || Some(world.server_pid()).filter(|pid| *pid != server));
            storing.join().expect("no panic")
        });
        acknowledged.extend(storing);
    }
    acknowledged.extend(store_readings(&bus, "after", 100));
    assert!(acknowledged.iter().any(|id| id.starts_with("after")));
    all_have_results(&world, &bus, &acknowledged);
    assert_eq!((world.host_pid("NEDGE01"), world.host_pid("NEDGE02")), pids, "hosts connect again, they do not start again");
    for name in ["NEDGE01", "NEDGE02"] {
        // Having lost the connection is an error of the last minute, so it is not healthy yet.
        world.until(&format!("{name} answers"), || world.host(name).filter(|host| host["state"] != "Unhealthy"));
    }
    // What is at most once works as before, too, and so does the control plane.
    let called = world.ctl(&["call", "edge-processor", "--subject", SENSOR, "--data", r#"{"device":"called","temp":1}"#]).ok();
    assert!(called.contains("normal"), "{called}");
    world.line("config put edge-processor temp_threshold=200").ok();
    world.line("doctor").ok();
}

/// What an actor publishes into a connection that is about to break is lost with it. Then its message is not done either:
/// it comes again.
#[test]
fn a_result_goes_down_with_the_connection() {
    let world = World::up(1);
    let bus = world.bus();
    bus.keep(OUT, &["edge.result.>"]);
    let port = world.start_edge_processor("NEDGE01", "core");
    world.line("start provider builtin://kv-memory memory").ok();
    world.line("link put edge-processor memory wasmcloud:keyvalue default --bucket shared").ok();
    world.start_program("forbidden", "asker", "");
    world.line("link put asker memory wasmcloud:keyvalue default --bucket shared").ok();
    world.line("link put asker messaging wasmcloud:messaging default --subscription edge.sensor.asker --delivery jetstream").ok();
    world.line("link put asker messaging wasmcloud:messaging ask --publish edge.ask.> --timeout 1500 --retry-count 0").ok();

    // The server stands still from the first question on, so the result waits in the socket of a server that dies next.
    // Where the actor is by then stands in the host's memory, which the other actor shows over HTTP.
    let asked = bus.hear("edge.ask.first");
    let lines =
        ["request edge.ask.first 1500 x", "publish edge.result.asker \"done\"", "set eu.published {}", "request edge.ask.second 1500 x"];
    bus.store("edge.sensor.asker", lines.join("\n"));
    asked.count(1);
    let server = world.server_pid();
    signal(server, Signal::STOP);
    world.until("it has published", || http::get(port, "/devices/eu/published").ok().filter(|answer| answer.status == 200));
    signal(server, Signal::KILL);
    world.until("another server runs", || Some(world.server_pid()).filter(|pid| *pid != server));
    world.until("the result", || bus.kept(OUT).iter().any(|message| message.payload.as_ref() == b"\"done\"").then_some(()));
    until_consumed(&world);
}

#[test]
fn a_host_dies_under_load() {
    let world = World::up(1);
    let bus = world.bus();
    bus.keep(OUT, &["edge.result.>"]);
    world.start_edge_processor("NEDGE01", "jetstream");
    let (id, pid) = (world.host_id("NEDGE01"), world.host_pid("NEDGE01"));
    let acknowledged = std::thread::scope(|scope| {
        let storing = scope.spawn(|| store_readings(&bus, "load", 600));
        world.until("some results are out", || (results(&bus).len() > 20).then_some(()));
        signal(pid, Signal::KILL);
        storing.join().expect("no panic")
    });
    let killed = Instant::now();
    assert_eq!(acknowledged.len(), 600);
    let new = world.until("it is started again", || Some(world.host_pid("NEDGE01")).filter(|new| *new != pid));
    assert!(is_alive(new));
    world.until_ready("NEDGE01");
    assert_eq!(world.host("NEDGE01").expect("it is listed")["id"], id, "the same identity");
    all_have_results(&world, &bus, &acknowledged);
    // What the dead one had in hand comes again after the server's patience.
    assert!(killed.elapsed() < ACK_WAIT + Duration::from_secs(20), "{:?}", killed.elapsed());
}

/// With a second host there, what the dead one had in hand comes to it, within the server's patience and no later.
#[test]
fn what_a_dead_host_had_in_hand_comes_again() {
    let world = World::up_with(2, &["--no-restart"]);
    let bus = world.bus();
    let logs = |part: &str| world.line("logs sleepy").ok().matches(part).count();
    world.start_program("sleepy", "sleepy", "--host NEDGE01 --max 1");
    world.line("link put sleepy messaging wasmcloud:messaging default --subscription edge.sensor.sleepy --delivery jetstream").ok();
    bus.store("edge.sensor.sleepy", "6000");
    world.until("it is in hand", || {
        let consumer = world.line("stream status -o json").json()["consumers"][0].clone();
        (consumer["unacknowledged"] == 1).then_some(())
    });
    world.line("scale actor sleepy --hosts NEDGE01,NEDGE02 --max 2").ok();
    let pid = world.host_pid("NEDGE01");
    signal(pid, Signal::KILL);
    let killed = Instant::now();
    world.until("the other host has done it", || (logs("slept 6000 ms") == 1).then_some(()));
    let took = killed.elapsed();
    assert!(took < ACK_WAIT + Duration::from_secs(6 + 5), "{took:?}");
    world.until("it is acknowledged", || (world.line("stream status -o json").json()["consumers"][0]["unacknowledged"] == 0).then_some(()));

    // Nobody starts it again, as was asked for; somebody may.
    world.until("it is known to be gone", || world.host("NEDGE01").filter(|host| host["state"] == "Unhealthy"));
    assert!(!is_alive(pid));
    let both = BTreeMap::from([("NEDGE02".to_owned(), 2)]);
    world.until("the other host has its part, too", || (world.instances("sleepy") == both).then_some(()));
    let doctor = world.line("doctor");
    assert!(doctor.out.contains("NEDGE01"), "{doctor:?}");
    assert_eq!(doctor.code, 1, "{doctor:?}");
    let _back = world.restart_host("NEDGE01", &[]);
    world.until_ready("NEDGE01");
    // Both were named, so the plan shares it out again.
    let shared = BTreeMap::from([("NEDGE01".to_owned(), 1), ("NEDGE02".to_owned(), 1)]);
    world.until("it has its part again", || (world.instances("sleepy") == shared).then_some(()));
}

#[test]
fn a_host_starts_before_the_server() {
    let world = World::bare();
    let port = http::free_port();
    let dir = world.folder().join("early");
    let url = format!("nats://127.0.0.1:{port}");
    let mut early = HostProcess::start(&dir, &["--nats-url", &url, "--name", "EARLY", "--label", "region=eu"]);
    world.until("it says that nobody is there", || early.log().contains(&url).then_some(()));
    assert!(early.is_alive());
    let world = World::up_with(1, &["--nats-port", &port.to_string()]);
    assert_eq!(world.nats_url, url);
    world.until_ready("EARLY");
    assert_eq!(world.host("EARLY").expect("it is listed")["labels"]["region"], "eu");
    world.start_program("echo", "echo", "--host EARLY");
    assert_eq!(world.call("echo", "hello").ok().trim(), "hello");
    assert!(early.stop().success());
}

/// A host that restarts while the server is away runs what it was told last.
#[test]
fn a_host_restarts_without_a_server() {
    let world = World::up_with(1, &["--no-restart"]);
    let port = http::free_port();
    world.line("start provider builtin://kv-memory kv").ok();
    for (image, id) in [("messaging-nats", "messaging"), ("http-server", "http")] {
        world.line(&format!("start provider builtin://{image} {id}")).ok();
    }
    world.line(&format!("start actor {} edge-processor", e2e::actor("edge_processor").display())).ok();
    world.line("link put edge-processor kv wasmcloud:keyvalue default").ok();
    world.line(&format!("link put edge-processor http wasmcloud:httpserver default --port {port}")).ok();
    world.line(&format!("link put edge-processor messaging wasmcloud:messaging default --subscription {SENSOR}")).ok();
    assert_eq!(http::get(port, "/healthz").expect("an answer").status, 200);

    signal(world.server_pid(), Signal::KILL);
    let host = world.host_pid("NEDGE01");
    signal(host, Signal::KILL);
    world.until("both are gone", || (!is_alive(host)).then_some(()));
    let mut alone = world.restart_host("NEDGE01", &[]);
    let start = Instant::now();
    world.until("it answers from its own disk", || http::get(port, "/stats").ok().filter(|answer| answer.status == 200));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(alone.is_alive());
    assert!(alone.stop().success());
    world.line("get hosts -o json").problem(5, "nats-refused", "NATS: connection refused");
}

/// The plan's bucket says something older than what the host has: it refuses, names both, and goes on.
#[test]
fn a_stale_assignment_is_refused_by_name() {
    let world = World::up(1);
    let bus = world.bus();
    let events = bus.hear("lat.default.evt.>");
    world.start_program("echo", "echo", "");
    let id = HostId::new(world.host_id("NEDGE01")).expect("an id");
    let lattice = "default".parse().expect("a name");
    let before = world.host("NEDGE01").expect("it is listed")["applied_generation"].as_u64().expect("a number");
    assert!(before > 1);

    // Somebody with the rights of an operator and an old copy of the plan.
    let stale = Assignment { generation: Generation(1), ..Assignment::empty(id.clone()) };
    let key = subject::bucket_key(&subject::plan_bucket(&lattice), &subject::assignment_key(&id));
    bus.store(&key, wire::encode(&stale));
    let refused = events.first("a refusal", |event| event["kind"] == "refused");
    let text = refused.to_string();
    assert!(text.contains("generation 1") && text.contains(&before.to_string()), "{refused}");
    assert_eq!(world.call("echo", "still here").ok().trim(), "still here");
    assert_eq!(world.host("NEDGE01").expect("it is listed")["applied_generation"], before);

    // For another host, garbage, of another version: nothing of it is applied.
    for intruder in [wire::encode(&Assignment::empty(HostId::new(format!("N{}", "A".repeat(55))).expect("an id"))), b"{]".to_vec()] {
        bus.store(&key, intruder);
        assert_eq!(world.call("echo", "still here").ok().trim(), "still here");
    }
}

/// Somebody removes what a link needs: it is named, and giving the link again mends it.
#[test]
fn what_a_link_needs_is_removed() {
    let world = World::up(1);
    let bus = world.bus();
    let results = bus.hear("edge.result.>");
    let port = world.start_edge_processor("NEDGE01", "jetstream");
    let api = |request: &str| bus.request(&format!("$JS.API.{request}"), "", Duration::from_secs(5)).expect("an answer");
    let consumer = world.line("stream status -o json").json()["consumers"][0]["name"].as_str().expect("a name").to_owned();
    api(&format!("CONSUMER.DELETE.edge-events.{consumer}"));
    let trouble = world.until("the link is in trouble", || {
        let report = world.line("get inventory -o json").json()[0]["components"]["edge-processor"].clone();
        report["link_errors"].as_object().filter(|errors| !errors.is_empty()).map(|errors| format!("{errors:?}"))
    });
    assert!(trouble.contains("cloud-sync") && trouble.contains("gone"), "{trouble}");
    let doctor = world.line("doctor");
    assert!(doctor.code == 1 && doctor.out.contains(&consumer) && doctor.out.contains("link put"), "{doctor:?}");
    let again = format!("link put edge-processor messaging wasmcloud:messaging cloud-sync --subscription {SENSOR} --delivery jetstream");
    world.line(&again).ok();
    bus.store(SENSOR, r#"{"device_id":"mended","temperature":1}"#);
    results.of_device("mended");

    api("STREAM.DELETE.KV_edge-data");
    let refused = world.until("the bucket is missed", || http::get(port, "/stats").ok().filter(|answer| answer.status == 503));
    assert!(refused.text().contains("edge-data"), "{}", refused.text());
    world.line("link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --region ap-east-1").ok();
    world.until("it is there again", || http::get(port, "/stats").ok().filter(|answer| answer.status == 200));
    bus.store(SENSOR, r#"{"device_id":"mended-too","temperature":1}"#);
    results.of_device("mended-too");
    world.until("all is well", || (world.line("doctor").code == 0).then_some(()));
}

/// What a host finds on its disk may be damaged: what it can get again it gets again, what it cannot it names.
#[test]
fn a_disk_that_is_damaged() {
    let world = World::up_with(1, &["--no-restart"]);
    world.start_program("echo", "echo", "");
    let id = world.host_id("NEDGE01");
    signal(world.host_pid("NEDGE01"), Signal::TERM);
    let host_dir = world.host_dir("NEDGE01");
    world.until("it has ended", || {
        world.line("get hosts --healthy-only -o json").json().as_array().filter(|hosts| hosts.is_empty()).map(drop)
    });
    let files = |folder: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect()
    };
    let named = |part: &str| files(&host_dir).into_iter().find(|path| path.to_string_lossy().contains(part)).expect(part);

    std::fs::write(named("assignment"), "{").expect("written");
    let mut host = world.restart_host("NEDGE01", &[]);
    world.until_ready("NEDGE01");
    assert_eq!(world.host("NEDGE01").expect("it is listed")["id"], id);
    world.until("it runs what the plan says", || (world.call("echo", "hello").code == 0).then_some(()));
    assert!(host.stop().success());

    let settings = named("host.json");
    let good = std::fs::read(&settings).expect("settings");
    std::fs::write(&settings, "{").expect("written");
    let mut refused = world.restart_host("NEDGE01", &[]);
    assert!(!refused.ended().success());
    assert!(refused.log().contains("host.json"), "{}", refused.log());
    std::fs::write(&settings, good).expect("written");
    let mut back = world.restart_host("NEDGE01", &[]);
    world.until_ready("NEDGE01");
    assert!(back.stop().success());
}

/// Three answered failures and a message is set aside, with a word about it; those behind it are not held up.
#[test]
fn a_poison_message_is_set_aside() {
    let world = World::up(1);
    let bus = world.bus();
    let (events, dead) = (bus.hear("lat.default.evt.>"), bus.hear("edge.dead.fail"));
    world.start_program("fail", "fail", "--max 2");
    world.line("link put fail messaging wasmcloud:messaging default --subscription edge.sensor.fail --delivery jetstream").ok();
    let poison = bus.store("edge.sensor.fail", "poison");
    for n in 0..50 {
        bus.store("edge.sensor.fail", format!("ok {n}"));
    }
    let behind = Instant::now();
    world.until("those behind it are done", || {
        let consumer = world.line("stream status -o json").json()["consumers"][0].clone();
        (consumer["pending"] == 0 && consumer["unacknowledged"].as_u64() <= Some(1)).then_some(())
    });
    assert!(behind.elapsed() < Duration::from_secs(20), "{:?}", behind.elapsed());
    let event = events.first("a dead letter", |event| event["kind"] == "dead-letter");
    assert_eq!(event["details"]["actor"], "fail", "{event}");
    assert!(event.to_string().contains(&poison.to_string()) && event.to_string().contains("told to fail: poison"), "{event}");
    let letter = dead.first("the message itself", |letter| letter["payload"] == "poison");
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("told to fail")), "{letter}");
    assert_eq!(letter["subject"], "edge.sensor.fail");
    until_consumed(&world);
    let report = world.line("get inventory -o json").json()[0]["components"]["fail"].clone();
    assert_eq!(report["failed"], 3, "three answers: {report}");
    assert_eq!(report["handled"].as_u64().map(|handled| handled >= 50), Some(true), "{report}");
}

/// SIGTERM: no new work, what runs is finished, `bye`, exit code 0. Work that takes too long is cut off.
#[test]
fn a_host_drains() {
    let world = World::up_with(1, &["--no-restart"]);
    let bus = world.bus();
    let events = bus.hear("lat.default.evt.>");
    let byes = || events.json().iter().filter(|event| event["kind"] == "bye").count();
    signal(world.host_pid("NEDGE01"), Signal::TERM);
    world.until("a good-bye", || (byes() == 1).then_some(()));
    let mut host = world.restart_host("NEDGE01", &["--drain-seconds", "6"]);
    world.until_ready("NEDGE01");

    // Work that ends when the test says so: the actor asks, and the test answers.
    world.start_program("forbidden", "asker", "--max 4");
    world.line("start provider builtin://kv-memory memory").ok();
    world.line("link put asker memory wasmcloud:keyvalue default").ok();
    world.line("link put asker messaging wasmcloud:messaging ask --publish edge.ask.> --timeout 60000").ok();
    let answered = |name: &str| (bus.hear(&format!("edge.ask.{name}")), bus.hear(&format!("_INBOX.test.{name}")));
    let (quick, slow, late) = (answered("quick"), answered("slow"), answered("late"));
    let work = |name: &str| {
        let (inbox, line) = (format!("_INBOX.test.{name}"), format!("request edge.ask.{name} 60000 x"));
        bus.publish_with_reply("edge.sensor.asker", &inbox, line);
    };
    work("quick");
    work("slow");
    let asked = quick.0.count(1).remove(0);
    slow.0.count(1);

    signal(host.pid(), Signal::TERM);
    let told = Instant::now();
    world.until("it drains", || world.host("NEDGE01").filter(|host| host["state"] == "Degraded"));
    work("late");
    bus.publish(asked.reply.expect("it wants an answer").as_str(), "done");
    let answer = quick.1.count(1).remove(0);
    assert!(String::from_utf8_lossy(&answer.payload).contains("=> done"), "{answer:?}");
    assert!(host.ended().success(), "{}", host.log());
    let took = told.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(12), "{took:?}");
    world.until("the second good-bye", || (byes() == 2).then_some(()));
    assert!(slow.1.all().is_empty() && late.0.all().is_empty());
    // Whoever asks a host that drains is told at once that nobody is there.
    let told: Vec<_> = late.1.all().iter().map(|message| (message.status, message.payload.len())).collect();
    assert_eq!(told, [(Some(async_nats::StatusCode::NO_RESPONDERS), 0)]);
}
