//! Several lattices, several machines: they share a machine or a server and nothing else.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use e2e::process::{is_alive, signal};
use e2e::{Bus, HostProcess, World, program};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn two_lattices_side_by_side() {
    let (one, two) = (World::up(1), World::up(1));
    assert_ne!(one.nats_url, two.nats_url);
    for world in [&one, &two] {
        world.start_program("echo", "echo", "");
    }
    two.line("stop actor echo").ok();
    assert_eq!(one.call("echo", "hello").ok().trim(), "hello");
    two.call("echo", "hello").fails(4, "actor not found: echo");

    let pid = one.host_pid("NEDGE01");
    two.down();
    assert!(is_alive(pid) && is_alive(one.server_pid()));
    assert_eq!(one.call("echo", "hello").ok().trim(), "hello");
    let data = two.data_dir();
    two.ctl(&["down", "--data-dir", data.to_str().expect("UTF-8"), "--yes"]).fails(4, "no lattice runs on");

    what_is_taken(&one, &two);
}

/// A port, a folder that is in use, a folder that cannot be used: named, with an exit code, and nothing stays behind.
fn what_is_taken(running: &World, other: &World) {
    let port = running.nats_url.rsplit_once(':').expect("a port").1;
    let data = other.folder().join("third");
    let data = data.to_str().expect("UTF-8");
    let up = |flags: &[&str]| other.ctl(&[["up", "--detach", "-o", "json", "--data-dir"].as_slice(), flags].concat());
    let taken = up(&[data, "--nats-port", port]).problem(3, "conflict", &format!("port {port} is in use"));
    assert!(taken["hint"].as_str().is_some_and(|hint| hint.contains("--nats-port")), "{taken}");
    let busy = running.data_dir();
    let busy = up(&[busy.to_str().expect("UTF-8"), "--nats-port", "0"]);
    assert!(busy.err.contains(&running.data_dir().display().to_string()), "{busy:?}");
    assert_eq!(busy.code, 3, "{busy:?}");

    // Root may write anywhere, so a folder that nobody can write is one below a file, or one of the kernel's.
    // Without a server program, or without a key that was named, nothing begins either.
    let mut without = other.command(&["up", "--detach", "--nats-port", "0", "--data-dir", data]);
    let without = without.env("LATTICE_NATS_SERVER", "/no/such/nats-server").output().expect("it runs");
    assert!(!without.status.success() && String::from_utf8_lossy(&without.stderr).contains("/no/such/nats-server"), "{without:?}");
    running.line("get hosts --creds /no/such/key.nk").fails(2, "/no/such/key.nk");
    let file = other.folder().join("file");
    std::fs::write(&file, "x").expect("a file");
    for unusable in [file.join("below").display().to_string(), "/proc/1/lattice".to_owned()] {
        let refused = up(&[&unusable, "--nats-port", "0"]).problem(1, "failed", "data folder");
        assert!(refused["message"].as_str().is_some_and(|message| message.contains(&unusable)), "{refused}");
        assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--data-dir")), "{refused}");
    }
    let host = HostProcess::command(&file.join("host")).args(["--nats-url", &running.nats_url]).output().expect("it runs");
    assert!(!host.status.success() && String::from_utf8_lossy(&host.stderr).contains("file/host"), "{host:?}");
    let mut second = HostProcess::start(&running.host_dir("NEDGE01"), &[]);
    assert!(!second.ended().success(), "one process for one identity");
    assert_eq!(running.call("echo", "hello").ok().trim(), "hello");
    assert_eq!(running.line("get hosts -o json").json().as_array().map(Vec::len), Some(1));
}

#[test]
fn two_lattices_on_one_server() {
    let world = World::up(1);
    let data = world.folder().join("other");
    let data = data.to_str().expect("UTF-8");
    let labels = ["--label", "region=eu", "--name-prefix", "OTHER"];
    let up =
        [["up", "--detach", "-o", "json", "--lattice", "other", "--nats-url", &world.nats_url, "--data-dir", data].as_slice(), &labels]
            .concat();
    let other = world.ctl(&up).json();
    assert_eq!((&other["lattice"], &other["hosts"][0]["name"]), (&json!("other"), &json!("OTHER01")));

    world.start_program("echo", "echo", "");
    let names = |lattice: &str| world.line(&format!("get hosts -o name --lattice {lattice}")).ok();
    assert_eq!((names("default"), names("other")), ("host/NEDGE01\n".to_owned(), "host/OTHER01\n".to_owned()));
    assert_eq!(world.line("get actors -o json --lattice other").json(), json!([]));
    world.line("call echo --lattice other").fails(4, "actor not found: echo");
    world.line("start provider builtin://messaging-nats messaging --lattice other --host NEDGE01").fails(4, "host not found: NEDGE01");

    // The public stream has one owner in an account.
    world.line("stream ensure").ok();
    let start = format!("start actor {} echo --lattice other", program("echo").display());
    world.line(&start).ok();
    world.line("start provider builtin://messaging-nats messaging --lattice other").ok();
    let durable = "link put echo messaging wasmcloud:messaging default --subscription edge.sensor.x --delivery jetstream --lattice other";
    let owned = world.line(durable);
    assert!(owned.err.contains("edge-events") && owned.err.contains("default"), "{owned:?}");
    assert_ne!(owned.code, 0);
    assert_eq!(world.line("get links -o json --lattice other").json(), json!([]), "nothing is half applied");
    world.line("get hosts --lattice nobody").fails(4, "nobody");

    contexts(&world);
    world.ctl(&["down", "--data-dir", data, "--yes"]).ok();
    assert_eq!(world.call("echo", "hello").ok().trim(), "hello");
    world.until_ready("NEDGE01");
}

/// `up` has made a context for each; the first is current, `ctx use` and `--context` choose.
fn contexts(world: &World) {
    let listed = world.line("ctx list -o json").json();
    let lattices: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|one| one["lattice"].as_str()).collect();
    assert_eq!(lattices, ["default", "other"], "{listed}");
    let hosts = |flags: &[&str]| {
        let mut command = world.command(&[["get", "hosts", "-o", "name"].as_slice(), flags].concat());
        let output = command.env_remove("LATTICE_NATS_URL").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let name = listed[1]["name"].as_str().expect("a name");
    assert_eq!(hosts(&[]), "host/NEDGE01\n");
    assert_eq!(hosts(&["--context", name]), "host/OTHER01\n");
    world.line(&format!("ctx use {name}")).ok();
    assert_eq!(hosts(&[]), "host/OTHER01\n");
    assert_eq!(world.line("ctx show -o json").json()["lattice"], "other");
    world.line("ctx use nobody").fails(4, "nobody");
    let first = listed[0]["name"].as_str().expect("a name");
    world.line(&format!("ctx use {first}")).ok();
}

/// The README's three commands for a second machine, with this one in its place.
#[test]
fn a_second_machine_joins_with_credentials() {
    let world = World::up_with(1, &["--bind", "0.0.0.0"]);
    let anonymous =
        world.command(&["get", "hosts", "-o", "json", "--nats-url", &world.nats_url]).env("HOME", "/nowhere").output().expect("it runs");
    assert_eq!(anonymous.status.code(), Some(6), "{anonymous:?}");
    // The context that `up` made has the operator's key.
    world.until_ready("NEDGE01");

    let node = world.data_dir().join("creds/node.nk");
    let there = world.folder().join("machine");
    std::fs::create_dir(&there).expect("a folder");
    let creds = there.join("node.nk");
    std::fs::copy(&node, &creds).expect("copied");
    let flags = ["--nats-url", &world.nats_url, "--name", "NEDGE02", "--label", "region=ap-east-1", "--label", "tier=edge"];
    let mut stranger = HostProcess::start(&there.join("stranger"), &flags);
    assert_eq!(stranger.ended().code(), Some(6), "{}", stranger.log());
    assert!(world.host("NEDGE02").is_none());

    let with_creds = [flags.as_slice(), &["--creds", creds.to_str().expect("UTF-8")]].concat();
    let mut joined = HostProcess::start(&there.join("host"), &with_creds);
    world.until_ready("NEDGE02");
    assert_eq!(world.host("NEDGE02").expect("it is listed")["labels"], json!({ "region": "ap-east-1", "tier": "edge" }));
    let port = world.start_edge_processor("NEDGE02", "jetstream");
    world.ctl(&["pub", "edge.sensor.ap-east-1", e2e::HOT]).ok();
    let value = world.until("it works there", || {
        let answer = e2e::http::get(port, "/devices/ap-east-1/sensor-001").ok()?;
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(value["node_id"], "NEDGE02");

    what_a_node_may_not(&world, creds.to_str().expect("UTF-8"));
    // Its data folder remembers all of it.
    assert!(joined.stop().success());
    let mut back = HostProcess::start(&there.join("host"), &[]);
    world.until_ready("NEDGE02");
    assert!(back.stop().success());
}

/// A host's key reads and works; it does not write what shall be.
fn what_a_node_may_not(world: &World, creds: &str) {
    let bus = Bus::open_with_key(&world.nats_url, std::path::Path::new(creds));
    for subject in [
        "$KV.LAT_default_DESIRED.component.x",
        "$KV.LAT_default_PLAN.head",
        "$JS.API.STREAM.DELETE.KV_edge-data",
        "$JS.API.STREAM.PURGE.edge-events",
    ] {
        assert!(bus.try_store(subject, "{}").is_err(), "{subject}");
        assert!(bus.request(subject, "", Duration::from_millis(500)).is_err(), "{subject}");
    }
    let edit = world.line(&format!("config put edge-processor a=b --creds {creds}"));
    assert!([5, 6].contains(&edit.code), "{edit:?}");
    assert_eq!(world.line("config get -o json").json(), json!({}));
    world.line("kv ls edge-data").ok();
}

/// What ends by itself is started again, unless that was not wanted.
#[test]
fn what_ends_is_started_again() {
    let (with, without) = (World::up(1), World::up_with(1, &["--no-restart"]));
    let (before, gone) = (with.host_pid("NEDGE01"), without.host_pid("NEDGE01"));
    for pid in [before, gone] {
        signal(pid, Signal::KILL);
    }
    let again = with.until("it is started again", || Some(with.host_pid("NEDGE01")).filter(|pid| *pid != before));
    with.until_ready("NEDGE01");
    without.until("it is known to be gone", || without.host("NEDGE01").filter(|host| host["state"] == "Unhealthy"));
    assert!(is_alive(again) && !is_alive(gone));
    let listed = without.line("get hosts --healthy-only -o json").json();
    assert_eq!(listed, json!([]));

    // Whoever looks after them is killed: `down` still ends all of them.
    let pids = [with.supervisor_pid(), with.host_pid("NEDGE01"), with.server_pid()];
    signal(pids[0], Signal::KILL);
    with.until("the supervisor is gone", || (!is_alive(pids[0])).then_some(()));
    with.down();
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
}

/// Without `--detach` it stays until Ctrl-C, and takes everything with it.
#[test]
fn up_in_the_foreground() {
    let world = World::bare();
    let data = world.data_dir();
    let mut up = world.command(&["up", "--nats-port", "0", "--data-dir", data.to_str().expect("UTF-8"), "-o", "json"]);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut out = BufReader::new(up.stdout.take().expect("a pipe"));
    let (mut text, mut running) = (String::new(), None);
    while running.is_none() {
        assert!(out.read_line(&mut text).expect("a line") > 0, "it has ended: {text}");
        running = serde_json::from_str::<Value>(&text).ok();
    }
    let running = running.expect("what runs");
    let host = i32::try_from(running["hosts"][0]["pid"].as_i64().expect("a pid")).expect("a pid");
    let url = running["nats_url"].as_str().expect("an address");
    assert_eq!(world.line(&format!("get hosts -o name --nats-url {url}")).ok(), "host/NEDGE01\n");
    signal(i32::try_from(up.id()).expect("a pid"), Signal::INT);
    let ended = world.until("it ends", || up.try_wait().expect("our child"));
    assert!(ended.success(), "{ended:?}");
    assert!(!is_alive(host));
    world.line(&format!("get hosts --nats-url {url}")).fails(5, "NATS: connection refused");
}

/// The same folder gives the same lattice: hosts, actors, data.
#[test]
fn down_and_up_again() {
    let world = World::up(1);
    world.start_program("kv_user", "kv-user", "");
    world.line("start provider builtin://kv-nats kv").ok();
    world.line("link put kv-user kv wasmcloud:keyvalue default --bucket kept").ok();
    world.call("kv-user", "set a before").ok();
    let (id, url) = (world.host_id("NEDGE01"), world.nats_url.clone());
    world.down();
    world.line("get hosts -o json").problem(5, "nats-refused", "NATS: connection refused");

    let port = url.rsplit_once(':').expect("a port").1;
    let world = world.up_again(1, &["--nats-port", port]);
    assert_eq!(world.host_id("NEDGE01"), id);
    world.until_actor("kv-user", "running");
    assert_eq!(world.call("kv-user", "get a").ok().trim(), "before");
}
