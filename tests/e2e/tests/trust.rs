//! Signed actors and policies, as an operator lives them: a lattice that `up` has told whom to trust.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::path::PathBuf;
use std::time::Instant;

use e2e::{Ran, World, program};
use serde_json::{Value, json};

const SIGN: &str = "--issuer keys/account.nk --subject keys/module.nk --expires 30d";

/// A lattice that trusts the account in its folder of keys.
fn trusting(hosts: u32, flags: &[&str]) -> World {
    let world = World::bare();
    for kind in ["account", "module"] {
        world.line(&format!("keys gen {kind}")).ok();
    }
    let flags: Vec<&str> = ["--trust-issuer", "keys/account.nk"].into_iter().chain(flags.iter().copied()).collect();
    world.up_again(hosts, &flags)
}

/// A copy of a guest program in the test's folder.
fn copy(world: &World, name: &str, to: &str) -> PathBuf {
    let path = world.folder().join(format!("{to}.wasm"));
    std::fs::copy(program(name), &path).expect("a copy");
    path
}

fn sign(world: &World, file: &str, more: &str) -> Ran {
    world.line(&format!("claim sign {file}.wasm {SIGN} {more}"))
}

/// Writes a policy that allows everything but `denied`.
fn write_policy(world: &World, version: u64, denied: &[&str], memory_mb: Option<u32>) {
    let mut policy = json!({"policy_id": "edge-default", "version": version, "allowed_contracts": ["*"], "denied_contracts": denied});
    if let Some(memory_mb) = memory_mb {
        policy["max_actor_memory_mb"] = memory_mb.into();
    }
    std::fs::write(world.folder().join("policy.json"), policy.to_string()).expect("a policy");
}

/// Puts a policy and waits until all hosts enforce it.
fn put_policy(world: &World, version: u64, denied: &[&str], memory_mb: Option<u32>) -> Value {
    write_policy(world, version, denied, memory_mb);
    world.line("policy put policy.json --issuer keys/account.nk -o json").json()
}

#[test]
fn only_signed_actors_run_and_only_with_what_their_claim_allows() {
    let world = trusting(1, &[]);
    copy(&world, "kv_user", "kv_user");
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line("start provider builtin://kv-memory kv").ok();

    let unsigned = world.line("start actor file://./kv_user.wasm kv -o json").problem(
        6,
        "invalid-claim",
        "actor start failed: invalid claim: it is not signed",
    );
    let hint = unsigned["hint"].as_str().expect("a hint");
    assert!(hint.contains("lattice-ctl claim sign") && hint.contains("kv_user.wasm"), "{unsigned}");
    // Told before anything is sent: who waits for no host hears of it, too.
    world.line("start actor file://./kv_user.wasm kv --no-wait").fails(6, "it is not signed");

    sign(&world, "kv_user", "--name kv --allow wasmcloud:messaging --ver 1.0.0").ok();
    world.line("start actor file://./kv_user.wasm kv --allow-update").ok();
    world.line("link put kv messaging wasmcloud:messaging default --subscription edge.sensor.kv").ok();
    let denied = world.line("link put kv kv wasmcloud:keyvalue default --bucket edge-data -o json");
    let denied = denied.problem(6, "capability-denied", "capability denied: wasmcloud:keyvalue: the claim of kv does not allow it");
    assert!(denied["hint"].as_str().is_some_and(|hint| hint.contains("--allow wasmcloud:keyvalue,wasmcloud:messaging")), "{denied}");
    world.line("link put kv kv wasmcloud:keyvalue default --bucket edge-data --no-wait").fails(6, "the claim of kv does not allow it");

    // The command that the hint names mends it.
    sign(&world, "kv_user", "--allow wasmcloud:keyvalue,wasmcloud:messaging --ver 1.0.1").ok();
    world.line("start actor file://./kv_user.wasm kv --allow-update").ok();
    world.line("link put kv kv wasmcloud:keyvalue default --bucket edge-data").ok();
    world.until_actor("kv", "running");
    assert_eq!(world.call("kv", "set a 1\nget a").ok().trim(), "ok\n1");

    // Another version that may not use what the actor is linked to.
    copy(&world, "kv_user", "narrow");
    sign(&world, "narrow", "--name kv --allow wasmcloud:messaging --ver 1.0.2").ok();
    world.line("start actor file://./narrow.wasm kv --allow-update --no-wait").fails(6, "the claim of kv does not allow it");

    // Going back is refused, and so is code that was changed after it was signed.
    let mut bytes = std::fs::read(world.folder().join("kv_user.wasm")).expect("the actor");
    sign(&world, "kv_user", "--ver 1.0.0").ok();
    world.line("start actor file://./kv_user.wasm kv --allow-update").fails(6, "is older than 1.0.1");
    bytes.extend([0, 2, 1, b'x']);
    std::fs::write(world.folder().join("changed.wasm"), bytes).expect("a file");
    world.line("start actor file://./changed.wasm changed").fails(6, "the code was changed after it was signed");

    // Lattice's own actors are signed, too, with a key that nobody else can read.
    let actors = world.line("get actors --all -o json").json();
    let own = |id: &str| actors.as_array().unwrap().iter().find(|actor| actor["id"] == id).unwrap()["state"].clone();
    assert_eq!((own("lattice-scheduler"), own("lattice-failover")), (json!("running"), json!("running")), "{actors}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(world.data_dir().join("keys/lattice.nk")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The next start needs no flag to trust the same, and changes nothing.
    world.down();
    let world = world.up_again(1, &[]);
    world.until_ready("NEDGE01");
    std::fs::copy(program("echo"), world.folder().join("echo.wasm")).expect("a copy");
    world.line("start actor file://./echo.wasm echo").fails(6, "invalid claim: it is not signed");
}

#[test]
fn a_contract_is_denied_while_its_actor_runs_and_comes_back() {
    let world = trusting(2, &[]);
    copy(&world, "kv_user", "kv_user");
    sign(&world, "kv_user", "--name kv --allow wasmcloud:keyvalue,wasmcloud:messaging").ok();
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line("start provider builtin://kv-nats kv").ok();
    world.line("start actor file://./kv_user.wasm kv --host NEDGE01,NEDGE02").ok();
    world.line("link put kv kv wasmcloud:keyvalue default --bucket edge-data").ok();
    world.line("link put kv messaging wasmcloud:messaging default --subscription edge.sensor.kv").ok();
    world.until_actor("kv", "running");
    assert_eq!(world.call("kv", "set a 1\nget a").ok().trim(), "ok\n1");

    put_policy(&world, 1, &[], None);
    let started = Instant::now();
    put_policy(&world, 2, &["wasmcloud:keyvalue"], None);
    eprintln!("put and enforced on both hosts within {} ms", started.elapsed().as_millis());
    let state = world.until_actor("kv", "failed");
    assert!(state.contains("capability denied: wasmcloud:keyvalue: policy edge-default v2 denies it"), "{state}");
    let events = world.until("the events", || {
        let events = world.line("events --since 10m").ok();
        events.contains("kv stopped: capability denied: wasmcloud:keyvalue").then_some(events)
    });
    assert!(events.contains("policy edge-default v2 is in force after v1"), "{events}");
    let status = world.line("policy status").ok();
    assert!(status.contains("edge-default") && status.contains("NEDGE02"), "{status}");

    world.line("policy rollback edge-default --to 1 --issuer keys/account.nk").ok();
    world.until_actor("kv", "running");
    assert_eq!(world.call("kv", "get a").ok().trim(), "1");
}

#[test]
fn a_fleet_that_denies_by_default_starts_nothing_before_a_policy() {
    let world = trusting(1, &["--policy-default", "deny"]);
    copy(&world, "echo", "echo");
    copy(&world, "memory_bomb", "bomb");
    for (file, name) in [("echo", "echo"), ("bomb", "bomb")] {
        sign(&world, file, &format!("--name {name} --allow wasmcloud:messaging")).ok();
    }
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line("link put echo messaging wasmcloud:messaging default --subscription edge.sensor.echo").ok();
    let refused = world.line("start actor file://./echo.wasm echo");
    assert!(refused.code != 0 && refused.err.contains("no policy has reached this host yet"), "{refused:?}");
    put_policy(&world, 1, &[], Some(16));
    world.line("start actor file://./echo.wasm echo --allow-update").ok();
    world.until_actor("echo", "running");
    assert_eq!(world.call("echo", "hello").ok().trim(), "hello");

    // What an actor may hold is capped by policy, whatever it was given.
    world.line("link put bomb messaging wasmcloud:messaging default --subscription edge.sensor.bomb").ok();
    world.line("start actor file://./bomb.wasm bomb --memory-mb 64").ok();
    let taken = world.call("bomb", "x");
    let megabytes = taken.err.split("memory refused after ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok());
    assert!(megabytes.is_some_and(|megabytes| megabytes < 16), "{taken:?}");
}

/// A command that goes on until it is killed, which it is when dropped.
struct Ongoing(std::process::Child);

impl Drop for Ongoing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_complies_is_watched() {
    use std::io::{BufRead as _, BufReader};
    let world = trusting(2, &[]);
    put_policy(&world, 1, &[], None);
    let mut watch = world.command(&["policy", "status", "--watch", "-o", "json"]);
    let mut watch = Ongoing(watch.stdout(std::process::Stdio::piped()).spawn().expect("lattice-ctl runs"));
    let mut lines = BufReader::new(watch.0.stdout.take().expect("its output")).lines();
    // A line each time that something is different: never the same one twice.
    let mut last = String::new();
    let mut until = |version: u64| {
        let is_there = |rows: &Value| {
            let rows = rows.as_array().expect("rows");
            rows.len() == 2 && rows.iter().all(|row| row["version"] == version && row["is"] == "complies")
        };
        for line in lines.by_ref() {
            let line = line.expect("a line");
            assert_ne!(line, last);
            last = line;
            if is_there(&serde_json::from_str(&last).expect("JSON")) {
                return;
            }
        }
        panic!("the command ends by itself; last: {last}");
    };
    until(1);
    put_policy(&world, 2, &["wasmcloud:keyvalue"], None);
    until(2);
}

#[test]
fn lattice_s_own_actors_run_on_where_everything_is_denied() {
    let world = trusting(1, &["--policy-default", "deny"]);
    copy(&world, "echo", "echo");
    sign(&world, "echo", "--name echo --allow wasmcloud:messaging").ok();
    let own_run = || {
        let actors = world.line("get actors --all -o json").json();
        let states = actors.as_array()?.iter().filter(|actor| actor["id"].as_str().is_some_and(|id| id.starts_with("lattice-")));
        let states: Vec<&str> = states.filter_map(|actor| actor["state"].as_str()).collect();
        (states == ["running", "running"]).then_some(())
    };
    world.until("scheduler and failover run before there is a policy", own_run);
    put_policy(&world, 1, &["*"], Some(1));
    assert!(own_run().is_some(), "{}", world.line("get actors --all").ok());
    // They start under it, too, and they work: what is asked for is planned by them, and told to be denied.
    let pid = world.host_pid("NEDGE01");
    e2e::process::signal(pid, rustix::process::Signal::KILL);
    world.until("the host is back", || (world.host_pid("NEDGE01") != pid).then_some(()));
    world.until("they run again", || world.host("NEDGE01").filter(|host| host["state"] == "Healthy").and_then(|_| own_run()));
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line("link put echo messaging wasmcloud:messaging default --subscription edge.sensor.echo").ok();
    let denied = world.line("start actor file://./echo.wasm echo");
    assert!(denied.code == 6 && denied.err.contains("policy edge-default v1 denies it"), "{denied:?}");
    put_policy(&world, 2, &[], None);
    world.line("start actor file://./echo.wasm echo --allow-update").ok();
    world.until_actor("echo", "running");
}

#[test]
fn trust_is_taken_back() {
    let world = trusting(1, &[]);
    copy(&world, "echo", "echo");
    world.line("start actor file://./echo.wasm echo").fails(6, "invalid claim: it is not signed");
    put_policy(&world, 1, &["wasmcloud:messaging"], None);
    world.down();
    let world = world.up_again(1, &["--trust-issuer", "off"]);
    world.until_ready("NEDGE01");
    // Nobody signs code or policies any more: what is unsigned runs, what was in force is not.
    world.start_program("echo", "echo", "");
    world.until_actor("echo", "running");
    assert_eq!(world.call("echo", "hello").ok().trim(), "hello");
    write_policy(&world, 2, &["wasmcloud:messaging"], None);
    world.line("policy put policy.json --issuer keys/account.nk").fails(6, "refused by NEDGE01");
}
