//! The product as its users meet it: the commands of the README by hand, once with durable readings, once without.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use e2e::{Bus, HOT, Heard, REGION, World, actor, http};
use serde_json::{Value, json};

/// The two ways of a sensor link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Core,
    Jetstream,
}

/// What came out of a lattice.
struct Ears {
    results: Heard,
    alerts: Heard,
    dead: Heard,
}

impl Ears {
    fn open(bus: &Bus) -> Self {
        let on = |kind: &str| bus.hear(&format!("edge.{kind}.{REGION}"));
        Self { results: on("result"), alerts: on("alert"), dead: on("dead") }
    }
}

#[test]
fn by_hand_with_durable_readings() {
    by_hand(Way::Jetstream);
}

#[test]
fn by_hand_with_core_messages() {
    by_hand(Way::Core);
}

fn by_hand(way: Way) {
    let world = World::up(2);
    let bus = world.bus();
    let ears = Ears::open(&bus);
    let heartbeats = bus.hear("lat.default.hb.>");
    what_is_there_after_up(&world);
    let port = start_and_link(&world, way);
    a_heartbeat(&world, &heartbeats);
    readings(&world, &bus, &ears, way);
    over_http(port);
    in_the_bucket(&world);
    called(&world, &bus, way);
    a_changed_threshold(&world, &ears);
    looking_around(&world, way);
    tools(&world, &ears);
    stopping(&world, port);
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Scripts may rely on these names; more may stand beside them.
#[track_caller]
fn has(value: &Value, names: &[&str]) {
    let keys = keys(value);
    assert!(names.iter().all(|name| keys.contains(name)), "{names:?} in {value}");
}

fn what_is_there_after_up(world: &World) {
    assert_eq!(keys(&world.up), BTreeSet::from(["lattice", "nats_url", "data_dir", "hosts"]));
    assert_eq!(world.up["lattice"], "default");
    assert_eq!(world.up["data_dir"], world.data_dir().to_str().expect("UTF-8"));
    let hosts = world.up["hosts"].as_array().expect("a list");
    assert!(hosts.iter().all(|host| keys(host) == BTreeSet::from(["id", "name", "pid"])), "{hosts:?}");
    let names: Vec<&str> = hosts.iter().filter_map(|host| host["name"].as_str()).collect();
    assert_eq!(names, ["NEDGE01", "NEDGE02"]);

    let listed = world.line("get hosts -o json").json();
    for (listed, started) in listed.as_array().expect("a list").iter().zip(hosts) {
        has(listed, &["id", "name", "labels", "state", "profile", "applied_generation", "uptime_seconds"]);
        assert_eq!((&listed["id"], &listed["name"]), (&started["id"], &started["name"]));
        assert!(started["id"].as_str().is_some_and(|id| id.len() == 56 && id.starts_with('N')), "{started}");
        assert_eq!(listed["labels"]["region"], REGION);
        assert_eq!(listed["state"], "Healthy");
        assert!(listed["profile"]["cpu_capacity"].as_u64() >= Some(1000), "{listed}");
        assert!(listed["profile"]["memory_mb"].as_u64() > Some(100), "{listed}");
        assert!(listed["profile"]["memory_used_mb"].as_u64() > Some(0), "{listed}");
        assert!(listed["uptime_seconds"].is_u64() && listed["applied_generation"].is_u64(), "{listed}");
    }
    assert_eq!(world.line("get hosts --healthy-only -o name").ok(), "host/NEDGE01\nhost/NEDGE02\n");
    assert_eq!(world.line("get actors -o json").json(), json!([]));
}

/// The lines of the README. In between the actor waits, and says for what.
fn start_and_link(world: &World, way: Way) -> u16 {
    for (image, id) in [("kv-nats", "kv"), ("kv-memory", "kv-memory"), ("messaging-nats", "messaging"), ("http-server", "http")] {
        world.line(&format!("start provider builtin://{image} {id} --host NEDGE01")).ok();
    }
    let file = actor("edge_processor");
    let started = world.line(&format!("start actor file://{} edge-processor --host NEDGE01 --max 10", file.display()));
    assert!(started.out.contains("waiting: no link for wasi:keyvalue/store"), "{started:?}");
    started.ok();
    let (state, instances) = world.actor_state("edge-processor");
    assert_eq!((state.as_str(), instances), ("waiting: no link for wasi:keyvalue/store", 0));
    world.call("edge-processor", "{}").fails(4, "link definition not found");

    let port = http::free_port();
    let kv = "link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --region ap-east-1";
    world.line(&format!("{kv} --timeout 5000 --retry-count 3 --retry-delay 1000")).ok();
    world.line(&format!("link put edge-processor http wasmcloud:httpserver default --port {port}")).ok();
    let messaging = "link put edge-processor messaging wasmcloud:messaging cloud-sync --subscription edge.sensor.ap-east-1";
    world.line(&format!("{messaging} --delivery {}", if way == Way::Core { "core" } else { "jetstream" })).ok();
    world.line("config put edge-processor temp_threshold=85.0 humidity_threshold=90.0 alert_enabled=true").ok();

    let actors = world.line("get actors -o json").json();
    has(&actors[0], &["id", "state", "instances"]);
    assert_eq!((&actors[0]["id"], &actors[0]["state"]), (&json!("edge-processor"), &json!("running")));
    let instances = json!([{ "host_id": world.host_id("NEDGE01"), "host_name": "NEDGE01", "count": 10 }]);
    assert_eq!(actors[0]["instances"], instances);
    port
}

/// A host says of itself what it is, what it uses and what it runs.
fn a_heartbeat(world: &World, heartbeats: &Heard) {
    let report =
        heartbeats.first("a heartbeat of the newest generation", |report| report["components"]["edge-processor"]["instances"] == 10);
    has(
        &report,
        &["v", "id", "name", "region", "labels", "incarnation", "seq", "profile", "applied_generation", "components", "providers"],
    );
    assert_eq!((&report["id"], &report["name"], &report["region"]), (&json!(world.host_id("NEDGE01")), &json!("NEDGE01"), &json!(REGION)));
    has(&report["profile"], &["cpu_capacity", "memory_mb", "cpu_used", "memory_used_mb"]);
    let ours = keys(&report["providers"]).into_iter().filter(|id| !id.starts_with("lattice-")).collect::<BTreeSet<_>>();
    assert_eq!(ours, BTreeSet::from(["http", "kv", "kv-memory", "messaging"]));
    let heard = heartbeats.all().last().map(|message| message.subject.to_string()).unwrap_or_default();
    assert!(heard.starts_with("lat.default.hb.ap-east-1.N"), "{heard}");
}

fn readings(world: &World, bus: &Bus, ears: &Ears, way: Way) {
    world.ctl(&["pub", "edge.sensor.ap-east-1", HOT]).ok();
    let expected = json!({ "device_id": "sensor-001", "alert_level": "critical", "processed_at": 1_718_668_800, "node_id": "NEDGE01" });
    assert_eq!(ears.results.of_device("sensor-001"), expected);
    assert_eq!(ears.alerts.of_device("sensor-001"), expected);
    let heard = &ears.results.count(1)[0];
    let header = |name: &str| heard.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned());
    assert_eq!(header("source-node").as_deref(), Some("NEDGE01"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));

    world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device":"damp/é.1","temp":20,"humidity":95}"#]).ok();
    assert_eq!(ears.alerts.of_device("damp/é.1")["alert_level"], "warning");

    // What nobody can read is answered for, and those behind it are not held up.
    let malformed: [(&[u8], &str); 4] = [
        (b"not json", "expected"),
        (br#"{"device_id":"x","temperature":"hot"}"#, "invalid type"),
        (br#"{"device_id":"x","temperature":1,"region":"eu"}"#, "contradicts"),
        (b"\xff\xfe", "not UTF-8"),
    ];
    for (reading, _) in malformed {
        bus.publish("edge.sensor.ap-east-1", reading);
    }
    world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device_id":"behind","temperature":20.0,"timestamp":7}"#]).ok();
    assert_eq!(ears.results.of_device("behind")["alert_level"], "normal");
    for (_, reason) in malformed {
        ears.dead.first(reason, |letter| letter["reason"].as_str().is_some_and(|text| text.contains(reason)));
    }
    assert_eq!(ears.dead.count(4)[0].subject.as_str(), "edge.dead.ap-east-1");
    if way == Way::Jetstream {
        world.until("every reading is acknowledged", || {
            let status = world.line("stream status -o json").json();
            let consumer = status["consumers"][0].clone();
            (consumer["pending"] == 0 && consumer["unacknowledged"] == 0).then_some(())
        });
    }
    assert!(!ears.alerts.json().iter().any(|alert| alert["alert_level"] == "normal"));
}

fn over_http(port: u16) {
    let device = http::get(port, "/devices/ap-east-1/sensor-001").expect("an answer");
    assert_eq!((device.status, device.header("content-type")), (200, Some("application/json")));
    let device = device.json();
    assert_eq!((&device["temperature"], &device["alert_level"]), (&json!(92.5), &json!("critical")));
    assert_eq!(http::get(port, "/devices/ap-east-1/damp%2F%C3%A9.1").expect("an answer").json()["humidity"], 95.0);
    assert_eq!(http::get(port, "/devices/ap-east-1/nobody").expect("an answer").status, 404);
    assert_eq!(http::get(port, "/healthz").expect("an answer").json(), json!({ "status": "ok" }));
    let stats = http::get(port, "/stats").expect("an answer").json();
    assert_eq!(stats, json!({ "critical": 1, "warning": 1, "normal": 1, "malformed": 4 }));

    let reading = br#"{"device_id":"posted","temperature":99,"region":"ap-east-1"}"#;
    let posted = http::request(port, "POST", "/ingest", reading).expect("an answer");
    assert_eq!((posted.status, &posted.json()["alert_level"]), (200, &json!("critical")));
    let refused = http::request(port, "POST", "/ingest", b"[]").expect("an answer");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("malformed")));
    assert_eq!(http::request(port, "DELETE", "/stats", b"").expect("an answer").status, 405);
}

fn in_the_bucket(world: &World) {
    let value: Value = serde_json::from_str(&world.line("kv get edge-data ap-east-1.sensor-001").ok()).expect("JSON");
    assert_eq!((&value["device_id"], &value["temperature"]), (&json!("sensor-001"), &json!(92.5)));
    let listed = world.line("kv ls edge-data -o name").ok();
    assert!(listed.lines().any(|key| key.ends_with("ap-east-1.sensor-001")), "{listed}");
    assert!(listed.lines().any(|key| key.ends_with("ap-east-1.damp=2F=C3=A9=2E1")), "{listed}");
    world.line("kv get edge-data ap-east-1.nobody").fails(4, "ap-east-1.nobody");
    world.line("kv get no-such-bucket x").fails(4, "no-such-bucket");
}

fn called(world: &World, bus: &Bus, way: Way) {
    let data = r#"{"device":"sensor-001","temp":92.5}"#;
    let line = ["call", "edge-processor", "HandleMessage", "--subject", "edge.sensor.ap-east-1", "--data", data];
    let reply: Value = serde_json::from_str(&world.ctl(&line).ok()).expect("JSON");
    assert_eq!((&reply["device_id"], &reply["alert_level"]), (&json!("sensor-001"), &json!("critical")));

    let asked = bus.request("edge.sensor.ap-east-1", br#"{"device":"asked","temp":1}"#, Duration::from_secs(5)).expect("an answer");
    let answer: Value = serde_json::from_slice(&asked.payload).expect("JSON");
    if way == Way::Core {
        assert_eq!((&answer["device_id"], &answer["alert_level"]), (&json!("asked"), &json!("normal")));
    } else {
        // A captured subject is answered by the stream; the actor behind it never replies.
        assert_eq!(answer["stream"], "edge-events");
    }
}

/// A changed value counts from the next message, without a restart.
fn a_changed_threshold(world: &World, ears: &Ears) {
    world.line("config put edge-processor temp_threshold=95").ok();
    world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device_id":"warm","temperature":92.5}"#]).ok();
    assert_eq!(ears.results.of_device("warm")["alert_level"], "normal");
    assert_eq!(world.line("config get edge-processor temp_threshold").ok().trim(), "95");
    let all = world.line("config get edge-processor -o json").json();
    assert_eq!(all, json!({ "temp_threshold": "95", "humidity_threshold": "90.0", "alert_enabled": "true" }));

    world.line("config put edge-processor alert_enabled=false").ok();
    world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device_id":"silenced","temperature":99}"#]).ok();
    assert_eq!(ears.results.of_device("silenced")["alert_level"], "critical");
    assert!(!ears.alerts.json().iter().any(|alert| alert["device_id"] == "silenced" || alert["device_id"] == "warm"));

    // Without any value the actor has its own.
    world.line("config del edge-processor").ok();
    world.line("config get edge-processor").fails(4, "edge-processor");
    world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device_id":"by-default","temperature":92.5}"#]).ok();
    assert_eq!(ears.alerts.of_device("by-default")["alert_level"], "critical");
}

fn looking_around(world: &World, way: Way) {
    let links = world.line("get links -o json").json();
    assert_eq!(links.as_array().map(Vec::len), Some(3), "{links}");
    let queried = world.line("link query -o json").json();
    assert_eq!(queried.as_array().map(Vec::len), Some(3), "{queried}");
    let kv = links.as_array().and_then(|all| all.iter().find(|link| link["target"] == "kv")).expect("the kv link");
    assert_eq!((&kv["source"], &kv["name"], &kv["values"]["bucket"]), (&json!("edge-processor"), &json!("default"), &json!("edge-data")));
    let inventory = world.line("get inventory").ok();
    for part in ["NEDGE01", "edge-processor", "kv-memory", "messaging", "running"] {
        assert!(inventory.contains(part), "{part} in {inventory}");
    }
    let inventory = world.line("get inventory NEDGE01 -o json").json();
    assert!(inventory.to_string().contains("edge-processor"), "{inventory}");

    let logs = world.line("logs edge-processor").ok();
    assert!(logs.contains("malformed reading on edge.sensor.ap-east-1"), "{logs}");
    let status = world.line("stream status");
    match way {
        Way::Jetstream => {
            let status = world.line("stream status -o json").json();
            assert_eq!((&status["name"], &status["owner"]), (&json!("edge-events"), &json!("default")));
            assert_eq!(status["subjects"], json!(["edge.sensor.>", "edge.cmd.>"]));
        }
        Way::Core => {
            // `up` never makes the public stream.
            status.fails(4, "edge-events");
            world.line("stream ensure").ok();
            world.line("stream ensure").ok();
            assert!(world.line("stream status").ok().contains("edge-events"));
        }
    }
    world.line("doctor").ok();
    let version = world.line("version").ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.line(&format!("completions {shell}")).ok().contains("lattice-ctl"), "{shell}");
    }
    let help = world.line("--help").ok();
    for later in ["migrate", "snapshot"] {
        assert!(!help.contains(&format!("\n  {later} ")), "{later} comes later: {help}");
    }
}

fn tools(world: &World, ears: &Ears) {
    let mut sub = world.command(&["sub", "edge.result.ap-east-1", "--count", "1", "--timeout", "30s"]);
    let sub = sub.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let heard = std::thread::spawn(move || sub.wait_with_output().expect("it ends"));
    // It cannot be seen from outside when it listens; one of these readings reaches it.
    world.until("`sub` has heard one", || {
        world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device_id":"for-sub","temperature":1}"#]).ok();
        heard.is_finished().then_some(())
    });
    let heard = heard.join().expect("no panic");
    assert!(heard.status.success(), "{heard:?}");
    assert!(String::from_utf8_lossy(&heard.stdout).contains("for-sub"), "{heard:?}");
    ears.results.of_device("for-sub");
    world.line("sub edge.nothing.here --count 1 --timeout 200ms").fails(5, "NATS: subscription timeout");

    let generated = world.line("keys gen user -o json").json();
    let listed = world.line("keys list -o json").json();
    assert_eq!(listed[0]["public_key"], generated["public_key"]);
}

fn stopping(world: &World, port: u16) {
    world.line("link del edge-processor wasmcloud:httpserver default").ok();
    world.until("nobody listens any more", || http::get(port, "/healthz").is_err().then_some(()));
    world.line("stop provider kv").fails(1, "edge-processor");
    world.line("stop actor edge-processor").ok();
    assert_eq!(world.line("get actors -o json").json(), json!([]));
    for id in ["cloud-sync", "default"] {
        let contract = if id == "default" { "wasmcloud:keyvalue" } else { "wasmcloud:messaging" };
        world.line(&format!("link del edge-processor {contract} {id}")).ok();
    }
    for id in ["kv", "kv-memory", "messaging", "http"] {
        world.line(&format!("stop provider {id}")).ok();
    }
    // Data outlives links and actors.
    world.line("kv get edge-data ap-east-1.sensor-001").ok();
    stopping_a_host(world);
}

/// `stop host` is a wish for this start of it: nothing starts it again until somebody does.
fn stopping_a_host(world: &World) {
    let (id, pid) = (world.host_id("NEDGE02"), world.host_pid("NEDGE02"));
    world.line("start provider builtin://kv-memory back --host NEDGE02").ok();
    world.line("stop host NEDGE02").ok();
    world.until("the process has ended", || (!e2e::process::is_alive(pid)).then_some(()));
    world.until("it is known to be gone", || world.host("NEDGE02").filter(|host| host["state"] == "Unhealthy"));
    assert_eq!(world.line("get hosts --healthy-only -o name").ok(), "host/NEDGE01\n");

    let admin = http::free_port();
    let mut host = world.restart_host("NEDGE02", &["--admin", &format!("127.0.0.1:{admin}")]);
    world.until_ready("NEDGE02");
    assert_eq!(world.host("NEDGE02").expect("it is listed")["id"], id, "the same identity");
    let running = world.line("get inventory NEDGE02 -o json").json();
    assert!(running.to_string().contains("back"), "it runs what it ran: {running}");
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 404)] {
        assert_eq!(http::get(admin, path).expect("an answer").status, status, "{path}");
    }
    let metrics = http::get(admin, "/metrics").expect("an answer").text();
    assert!(metrics.contains("# TYPE lattice_"), "{metrics}");
    assert!(host.stop().success());
}
