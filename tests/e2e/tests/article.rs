//! Every shell line of the article, `wash` replaced by `lattice-ctl` (and `nats` by our own `pub`, `sub`, `stream`): each works,
//! or fails with an exit code and a hint that says what to do instead.
//!
//! What is left out: `rustup` and `cargo` lines, and lines that the article itself marks as wrong.

use std::process::Stdio;

use e2e::{Ran, World, actor, http};
use serde_json::Value;

const MODULE: &str = "MBCFOPNG6DDWUTJYEQVP5A7PV7Y4MFSH5I2I2R4";
const KV: &str = "VAG3QITQQ2ODAOWB5MTQ0JD6BX7T7NZ2FMX4NOOB";
const HTTP: &str = "VAG3QITQQ2ODAOWB5MTQ0JD6BX7T7NZ2FMX4NOOC";
const NATS: &str = "VAG3QITQQ2ODAOWB5MTQ0JD6BX7T7NZ2FMX4NOOD";

/// Checks that a line fails with `exit`, that the error begins with `start`, and that its hint holds `hint`.
#[track_caller]
fn hints(world: &World, line: &str, exit: i32, start: &str, hint: &str) {
    let ran = world.line(&format!("{line} -o json"));
    let error: Value = serde_json::from_str(ran.err.trim()).unwrap_or_else(|error| panic!("{ran:?}: {error}"));
    let text = |field: &str| error["error"][field].as_str().unwrap_or_default().to_owned();
    assert_eq!(ran.code, exit, "{ran:?}");
    assert!(text("message").starts_with(start), "{line}: {error}");
    assert!(!text("hint").is_empty() && text("hint").contains(hint), "{line}: {error}");
}

#[test]
fn every_shell_line() {
    let world = World::up(2);
    pattern_1_development(&world);
    pattern_2_links(&world);
    pattern_3_messaging(&world);
    pattern_5_recovery(&world);
    pitfalls(&world);
    persistent_messaging(&world);
    several_regions(&world);
}

fn pattern_1_development(world: &World) {
    let folder = world.folder().join("target/wasm32-unknown-unknown/release");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(actor("edge_processor"), folder.join("edge_processor_actor.wasm")).expect("a copy");
    world.line("keys gen account").ok();
    world.line("keys gen module").ok();
    let sign = "claim sign target/wasm32-unknown-unknown/release/edge_processor_actor.wasm --name edge-processor";
    let signed = world.line(&format!("{sign} --issuer ./keys/account.nk --subject ./keys/module.nk")).ok();
    assert!(signed.contains("Signature  holds"), "{signed}");
    // The article starts the actor by its name only; nothing says yet where its code is.
    let start = "start actor edge-processor --hosts NEDGE01 --link-name edge-processor";
    hints(world, start, 5, "actor start failed: image pull", "file://");
    let with_file = format!("start actor {} {MODULE} --hosts NEDGE01 --link-name edge-processor", actor("edge_processor").display());
    world.line(&with_file).ok();
    assert!(world.actor_state(MODULE).0.starts_with("waiting: no link for"));
    world.line(&format!("start actor {MODULE} --hosts NEDGE01 --link-name edge-processor")).ok();
}

fn pattern_2_links(world: &World) {
    let kvredis = "start provider wasmcloud.azurecr.io/kvredis:0.27.0 --hosts NEDGE01 --link-name default";
    hints(world, kvredis, 5, "provider start failed: image pull", "builtin://kv-nats");
    world.line("start provider wasmcloud.azurecr.io/httpserver:0.20.0 --hosts NEDGE01 --link-name default").ok();
    world.line("start provider wasmcloud.azurecr.io/nats:0.18.0 --hosts NEDGE01 --link-name cloud-sync").ok();

    // The article's provider ids are those that wash printed for them; links may come before the providers that they name.
    let early = world.line(&format!("link put {MODULE} {KV} wasmcloud:keyvalue default --bucket edge-data --region ap-east-1"));
    assert!(early.err.contains("is not started yet"), "{early:?}");
    early.ok();
    world.line(&format!("link put {MODULE} {HTTP} wasmcloud:httpserver default --port 8080")).ok();
    assert!(world.actor_state(MODULE).0.starts_with("waiting:"));
    // From here on the port is one that is free on this machine.
    let port = http::free_port();
    world.line(&format!("link put {MODULE} {HTTP} wasmcloud:httpserver default --port {port}")).ok();
    world.line(&format!("start provider builtin://kv-nats {KV}")).ok();
    world.line(&format!("start provider wasmcloud.azurecr.io/httpserver:0.20.0 {HTTP}")).ok();
    world.line(&format!("start provider wasmcloud.azurecr.io/nats:0.18.0 {NATS}")).ok();
    world.line(&format!("link put {MODULE} {NATS} wasmcloud:messaging cloud-sync --subscription edge.sensor.*")).ok();
    world.until_actor(MODULE, "running");
    world.until("it answers over HTTP", || http::get(port, "/healthz").ok().filter(|answer| answer.status == 200));
}

fn pattern_3_messaging(world: &World) {
    let server = format!("--nats-url {}", world.nats_url);
    let sub = format!("sub edge.sensor.> --count 1 --timeout 30s {server}");
    let mut sub = world.command(&sub.split(' ').collect::<Vec<_>>());
    let sub = sub.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it runs");
    let heard = std::thread::spawn(move || sub.wait_with_output().expect("it ends"));
    world.until("it has heard a reading", || {
        world.ctl(&["pub", "edge.sensor.ap-east-1", r#"{"device":"sensor-001","temp":92.5}"#]).ok();
        heard.is_finished().then_some(())
    });
    let heard = heard.join().expect("no panic");
    assert!(String::from_utf8_lossy(&heard.stdout).contains("sensor-001"), "{heard:?}");

    let command =
        r#"{"command_id":"cmd-001","command_type":"config_update","target_node":"edge-ap-east-1","config_version":42,"payload":[]}"#;
    world.ctl(&["pub", "cloud.cmd.edge-ap-east-1", command, "--nats-url", &world.nats_url]).ok();

    let data = r#"{"device":"sensor-001","temp":92.5}"#;
    let reply = world.ctl(&["call", MODULE, "HandleMessage", "--subject", "edge.sensor.ap-east-1", "--data", data]).ok();
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    assert_eq!(reply["alert_level"], "critical");
}

fn pattern_5_recovery(world: &World) {
    assert!(world.line("get hosts").ok().contains("NEDGE01"));
    let claims = world.line("get claims").ok();
    assert!(claims.contains(MODULE), "{claims}");
    world.line(&format!("scale actor {MODULE} --hosts NEDGE01,NEDGE02 --max 3")).ok();
    world.until("three instances run", || (world.actor_state(MODULE) == ("running".to_owned(), 3)).then_some(()));
    hints(world, &format!("stop actor {MODULE} --host-id NEDGE03"), 4, "host not found: NEDGE03", "NEDGE0");
    world.line(&format!("stop actor {MODULE} --host-id NEDGE02")).ok();
}

fn pitfalls(world: &World) {
    world.line(&format!("link put {MODULE} {HTTP} wasmcloud:httpserver --port {}", http::free_port())).ok();
    let everything = world.line(&format!("link put {MODULE} {NATS} wasmcloud:messaging cloud-sync --subscription edge.>"));
    everything.fails(2, "segment subjects by region and function, like edge.sensor.ap-east-1");
    world.line(&format!("link put {MODULE} {KV} wasmcloud:keyvalue default --timeout 5000 --retry-count 3 --retry-delay 1000")).ok();
    world.line(&format!("start actor {MODULE} --hosts NEDGE01,NEDGE02 --spread")).ok();
    let healthy = world.line("get hosts --healthy-only -o name").ok();
    let healthy = healthy.lines().next().and_then(|line| line.strip_prefix("host/")).expect("a healthy host").to_owned();
    world.line(&format!("scale actor {MODULE} --hosts {healthy}")).ok();
}

/// `nats stream add edge-events …` and `nats consumer add edge-events …`.
fn persistent_messaging(world: &World) {
    world.line("stream ensure").ok();
    let status = world.line("stream status -o json").json();
    assert_eq!(status["subjects"], serde_json::json!(["edge.sensor.>", "edge.cmd.>"]));
    assert_eq!((&status["max_messages"], &status["max_age_seconds"]), (&1_000_000.into(), &(72 * 3600).into()));
    world.line(&format!("link put {MODULE} {NATS} wasmcloud:messaging cloud-sync --subscription edge.sensor.* --delivery jetstream")).ok();
    let consumers = world.line("stream status -o json").json()["consumers"].clone();
    assert_eq!(consumers[0]["filter"], "edge.sensor.*", "{consumers}");
}

/// `up` against a server that is there already; the article's is not reachable from here.
fn several_regions(world: &World) {
    let labels = "--label region=ap-east-1 --label tier=edge";
    let away = format!("up --detach --nats-nseed ./keys/nats-edge.nk --nats-host nats://cloud-nats:4222 {labels}");
    let data = world.folder().join("edge");
    let no_key: Ran = world.line(&format!("{away} --data-dir {}", data.display()));
    assert_ne!(no_key.code, 0, "{no_key:?}");
    assert!(no_key.err.contains("nats-edge.nk"), "{no_key:?}");

    let keys = world.folder().join("keys");
    std::fs::create_dir_all(&keys).expect("a folder");
    std::fs::copy(world.data_dir().join("creds/node.nk"), keys.join("nats-edge.nk")).expect("a key");
    let refused = world.line(&format!("{away} --data-dir {}", data.display()));
    refused.fails(5, "NATS: connection refused: nats://cloud-nats:4222");

    let here = format!("up --detach -o json --nats-nseed ./keys/nats-edge.nk --nats-host {} {labels}", world.nats_url);
    let joined = world.line(&format!("{here} --data-dir {}", data.display())).json();
    let name = joined["hosts"][0]["name"].as_str().expect("a name").to_owned();
    world.until_ready(&name);
    world.ctl(&["down", "--data-dir", data.to_str().expect("UTF-8"), "--yes"]).ok();
    world.until_ready("NEDGE01");
}
