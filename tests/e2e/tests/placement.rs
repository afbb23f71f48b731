//! Nobody names a host: four hosts in two regions, and the scheduler component decides.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use e2e::process::{is_alive, signal};
use e2e::{Heard, World, http, program};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Memory that each host offers, in MiB: room for what the stories place, and no more.
const MEMORY_MB: &str = "256";

/// NEDGE01 and NEDGE03 are in ap-east-1, NEDGE02 and NEDGE04 in eu-west-1.
fn four_hosts(flags: &[&str]) -> World {
    let regions = ["--region", "ap-east-1,eu-west-1", "--memory-capacity", MEMORY_MB, "--cpu-capacity", "2000"];
    let world = World::up_with(4, &[regions.as_slice(), flags].concat());
    world.line("start provider builtin://messaging-nats messaging").ok();
    world
}

/// An actor that answers, started where the scheduler likes.
#[track_caller]
fn start(world: &World, id: &str, flags: &str) {
    world.line(&format!("start actor {} {id} {flags}", program("echo").display())).ok();
    world.line(&format!("link put {id} messaging wasmcloud:messaging default --subscription edge.sensor.{id}")).ok();
}

#[track_caller]
fn running(world: &World, id: &str, instances: u32) {
    world.line(&format!("wait actor/{id} --for running={instances} --timeout 30s")).ok();
}

/// Instances by region.
fn by_region(world: &World, id: &str) -> BTreeMap<String, u64> {
    let hosts = world.line("get hosts -o json").json();
    let mut regions = BTreeMap::new();
    for (name, count) in world.instances(id) {
        let host = hosts.as_array().into_iter().flatten().find(|host| host["name"] == name.as_str()).expect("the host is listed");
        *regions.entry(host["labels"]["region"].as_str().expect("a region").to_owned()).or_default() += count;
    }
    regions
}

fn revision(planned: &Value) -> u64 {
    planned["desired_revision"].as_u64().expect("a revision")
}

#[test]
fn four_hosts_in_two_regions() {
    let world = four_hosts(&[]);
    lattices_own_actors(&world);
    spread_over_regions(&world);
    scaled_to_twelve(&world);
    insufficient_resources(&world);
    a_higher_priority(&world);
    near_or_far(&world);
    cordoned(&world);
    drained(&world);
    a_task_of_the_seed(&world);
}

fn lattices_own_actors(world: &World) {
    assert_eq!(world.line("get actors -o json").json(), json!([]), "lattice's own are not shown");
    let all = world.line("get actors --all -o json").json();
    for (actor, (id, system)) in [("lattice-failover", "failover"), ("lattice-scheduler", "scheduler")].into_iter().enumerate() {
        let actor = &all[actor];
        assert_eq!((&actor["id"], &actor["system"], &actor["max"]), (&json!(id), &json!(system), &json!(2)));
    }
    let status = world.line("schedule status -o json").json();
    assert_eq!((&status["ready"], &status["hosts"]), (&json!(true), &json!(4)), "{status}");
    over_http(world);
}

/// What the scheduler is asked over the bus it can be asked over HTTP, once an operator gives it a port.
fn over_http(world: &World) {
    let port = http::free_port();
    world.line("start provider builtin://http-server http").ok();
    world.line(&format!("link put lattice-scheduler http wasmcloud:httpserver default --port {port}")).ok();
    // The new link has started the replicas again; either of them may answer, and has to hear the hosts first.
    let answer = |method: &str, path: &str, body: &[u8], complete: &dyn Fn(&Value) -> bool| {
        world.until(&format!("{method} {path} is answered"), || {
            let answer = http::request(port, method, path, body).ok().filter(|answer| answer.status == 200)?;
            Some(answer.json()).filter(complete)
        })
    };
    let nodes = answer("GET", "/nodes", b"", &|nodes| nodes.as_array().is_some_and(|nodes| nodes.len() == 4));
    let names: BTreeSet<&str> = nodes.as_array().into_iter().flatten().filter_map(|node| node["node_id"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["NEDGE01", "NEDGE02", "NEDGE03", "NEDGE04"]), "{nodes}");
    assert_eq!((&nodes[0]["memory_mb"], &nodes[0]["cpu_capacity"], &nodes[0]["is_healthy"]), (&json!(256), &json!(2000), &json!(true)));
    answer("GET", "/plan", b"", &|plan| plan["head"]["generation"].as_u64() >= Some(1));
    let task = br#"{"task_id":"t","preferred_region":"eu-west-1"}"#;
    answer("POST", "/place", task, &|placed| placed["fallback"] == false);
    assert_eq!(http::request(port, "POST", "/place", b"[]").expect("an answer").status, 400);
    world.line("link del lattice-scheduler wasmcloud:httpserver default").ok();
}

fn spread_over_regions(world: &World) {
    start(world, "edge", "--max 4 --memory 16 --cpu 10 --spread=region");
    running(world, "edge", 4);
    assert_eq!(by_region(world, "edge"), BTreeMap::from([("ap-east-1".to_owned(), 2), ("eu-west-1".to_owned(), 2)]));
    assert_eq!(world.call("edge", "hello").ok().trim(), "hello");
    let listed = world.line("get actors edge -o wide").ok();
    assert!(listed.contains("cpu 10m, memory 16Mi, spread region"), "{listed}");
}

/// The plan is shown with its reasons; what was shown is what is done, or nothing.
fn scaled_to_twelve(world: &World) {
    let line = "scale edge --max 12 --spread=region";
    let planned = world.line(&format!("{line} --dry-run -o json")).json();
    assert_eq!((&planned["dry_run"], &planned["changed"]), (&json!(true), &json!(true)), "{planned}");
    let reasons: Vec<&str> = planned["changes"].as_array().into_iter().flatten().filter_map(|change| change["reason"].as_str()).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| reason.contains("fewest instances by region")), "{planned}");
    assert_eq!(world.instances("edge").values().sum::<u64>(), 4, "nothing was changed");
    let shown = world.line(&format!("{line} --dry-run"));
    assert!(shown.err.contains("instances 1 → 3") && shown.err.contains("fewest instances by region"), "{shown:?}");

    let at = revision(&planned);
    assert!(shown.out.contains(&format!("--if-revision {at}")), "{shown:?}");
    world.line(&format!("{line} --if-revision {at}")).ok();
    running(world, "edge", 12);
    assert_eq!(by_region(world, "edge"), BTreeMap::from([("ap-east-1".to_owned(), 6), ("eu-west-1".to_owned(), 6)]));
    let stale = world.line(&format!("scale edge --max 5 --if-revision {at} -o json")).problem(3, "conflict", "somebody else changed it");
    assert!(stale["message"].as_str().is_some_and(|text| text.contains(&format!("revision {at} was expected"))), "{stale}");
    running(world, "edge", 12);
}

fn insufficient_resources(world: &World) {
    let line = "scale edge --max 200 -o json";
    let problem = world.line(line).problem(7, "insufficient-resources", "actor scale failed: insufficient resources");
    let causes = problem["causes"].as_array().expect("causes");
    for host in ["NEDGE01", "NEDGE02", "NEDGE03", "NEDGE04"] {
        let named = |cause: &&Value| cause.as_str().is_some_and(|cause| cause.starts_with(&format!("{host}: needs 16 MiB, has ")));
        assert_eq!(causes.iter().filter(named).count(), 1, "{host}: {problem}");
    }
    world.line("scale edge --max 4294967295").fails(2, "4294967295 instances");
    world.line("scale edge --region ap-east-1 --require region=eu-west-1").fails(2, "contradict");
    world.line("scale edge --require disk=ssd").fails(7, "NEDGE01: label disk ≠ ssd, it has none");
    world.line("scale edge --class solid").fails(2, "there are shared, fenced, strict, autonomous");
    world.line("scale edge --slots 2").fails(2, "contradict");
    world.line("scale edge --class fenced --max 12").fails(2, "one instance for each of its slots");
    running(world, "edge", 12);
    let explained = world.line("schedule explain edge -o json").json();
    assert_eq!((&explained["max"], &explained["missing"], &explained["need"]["memory_mb"]), (&json!(12), &json!(0), &json!(16)));
}

/// Lower ones make room, and the plan says so before it happens.
fn a_higher_priority(world: &World) {
    start(world, "low", "--max 4 --memory 140 --spread");
    running(world, "low", 4);
    let line = format!("start actor {} high --max 1 --memory 140 --priority 9", program("echo").display());
    let planned = world.line(&format!("{line} --dry-run -o json")).json();
    assert_eq!((&planned["displaced"][0]["actor"], &planned["displaced"][0]["by"]), (&json!("low"), &json!("high")), "{planned}");
    let equal = line.replace("--priority 9", "--priority 0");
    world.line(&equal).fails(7, "actor scale failed: insufficient resources");
    let shown = world.line(&line);
    assert!(shown.err.contains("low makes room for high on NEDGE"), "{shown:?}");
    assert!(shown.err.contains("low then has no place for 1 of its instances"), "{shown:?}");
    // All hosts are alike but for what they measure; where the plan went in the end is what was said last.
    let last = shown.err.lines().rfind(|line| line.starts_with('+') && line.contains(" high ")).map(str::to_owned);
    let host = last.as_ref().and_then(|line| line.split_whitespace().nth(1)).expect("a host").to_owned();
    shown.ok();
    world.line("link put high messaging wasmcloud:messaging default --subscription edge.sensor.high").ok();
    running(world, "high", 1);
    running(world, "low", 3);
    assert_eq!(world.instances("high").keys().collect::<Vec<_>>(), [&host], "{last:?}");
    let history = world.line("schedule explain low").ok();
    assert!(history.contains(&format!("{host}: 1 less, to make room for high")), "{history}");
    // When there is room again it comes back by itself.
    world.line("stop actor high").ok();
    running(world, "low", 4);
    world.line("stop actor low").ok();
    world.line("wait actor/low --for stopped").ok();
}

fn near_or_far(world: &World) {
    start(world, "near", "--max 2 --memory 8 --region eu-west-1");
    running(world, "near", 2);
    assert_eq!(by_region(world, "near").keys().collect::<Vec<_>>(), ["eu-west-1"]);
    let explained = world.line("schedule explain near").ok();
    assert!(explained.contains("region ≠ eu-west-1") && explained.contains("in eu-west-1"), "{explained}");
    world.line("stop actor near").ok();
    let apart = format!("start actor {} apart --max 2 --memory 8 --anti-affinity edge", program("echo").display());
    world.line(&apart).fails(7, "NEDGE01: edge runs there, they keep apart");
}

fn cordoned(world: &World) {
    world.line("node cordon NEDGE02").ok();
    let host = world.host("NEDGE02").expect("it is listed");
    assert_eq!((&host["cordoned"], &host["state"]), (&json!(true), &json!("Healthy")));
    assert!(world.line("get hosts").ok().contains("Healthy (cordoned)"));
    let before = world.instances("edge")["NEDGE02"];
    world.line("scale edge --max 18 --no-spread").ok();
    running(world, "edge", 18);
    assert_eq!(world.instances("edge")["NEDGE02"], before, "nothing new, and what is there stays");
    assert!(world.line("schedule explain edge").ok().contains("cordoned"));
    world.line("node uncordon NEDGE02").ok();
    assert_eq!(world.host("NEDGE02").expect("it is listed")["cordoned"], false);
}

fn drained(world: &World) {
    world.line("node drain NEDGE05 -o json").problem(4, "host-not-found", "host not found: NEDGE05");
    world.line(&format!("start actor {} pinned --host NEDGE03", program("echo").display())).ok();
    let stuck =
        world.line("node drain NEDGE03 -o json").problem(7, "insufficient-resources", "NEDGE03 cannot be drained: 1 actor cannot move");
    assert!(stuck["causes"].to_string().contains("pinned on NEDGE03: it was given NEDGE03 with --hosts"), "{stuck}");
    world.line("stop actor pinned").ok();
    world.line("node drain NEDGE03").ok();
    running(world, "edge", 18);
    assert!(!world.instances("edge").contains_key("NEDGE03"));
    world.line("wait host/NEDGE03 --for drained --timeout 10s").ok();
    assert_eq!(world.host("NEDGE03").expect("it is listed")["draining"], true);
    world.line("node uncordon NEDGE03").ok();
    world.line("node drain NEDGE03 --stop").ok();
    world.line("wait host/NEDGE03 --for gone --timeout 20s").ok();
    running(world, "edge", 18);
    let late = world.line("wait actor/edge --for running=19 --timeout 1s -o json").problem(5, "timed-out", "actor/edge: 18 of 19");
    assert!(late["hint"].as_str().is_some_and(|hint| hint.contains("schedule explain edge")), "{late}");
}

/// The seed's task, from a file and from standard input.
fn a_task_of_the_seed(world: &World) {
    let task = r#"{"task_id":"task-sensor-001","cpu_required":200,"memory_required_mb":16,"preferred_region":"eu-west-1","priority":1,"max_latency_ms":0}"#;
    let file = world.folder().join("task.json");
    std::fs::write(&file, task).expect("written");
    let placed = world.line(&format!("schedule plan {} -o json", file.display())).json();
    assert_eq!((&placed["task_id"], &placed["fallback"]), (&json!("task-sensor-001"), &json!(false)), "{placed}");
    assert!(["NEDGE02", "NEDGE04"].contains(&placed["node_id"].as_str().expect("a node")), "{placed}");
    std::fs::write(&file, format!("[{task},{}]", task.replace("200", "100000"))).expect("written");
    let refused = world.line(&format!("schedule plan {} -o json", file.display()));
    let refused = refused.problem(7, "insufficient-resources", "actor scale failed: insufficient resources");
    assert!(refused["causes"].to_string().contains("needs 100000 thousandths of a core"), "{refused}");
    world.line("schedule plan /no/such/task.json").fails(4, "/no/such/task.json");
    world.line("schedule explain nobody").fails(4, "actor not found: nobody");
}

/// Everything that is ever written as the head of the plan, also what lost its race.
fn heads(heard: &Heard) -> Vec<(u64, u64)> {
    let numbers = |head: &Value| Some((head["generation"].as_u64()?, head["parent"].as_u64()?));
    heard.json().iter().filter_map(numbers).collect()
}

/// One replica dies in the middle of changes: nothing is lost, nothing is doubled, and the other goes on.
#[test]
fn a_replica_is_killed_while_it_plans() {
    let world = four_hosts(&["--no-restart"]);
    let bus = world.bus();
    let written = bus.hear("$KV.LAT_default_PLAN.head");
    let replicas: Vec<String> = world.instances("lattice-scheduler").into_keys().collect();
    assert_eq!(replicas.len(), 2, "{replicas:?}");
    let others: Vec<String> = (1..=4).map(|n| format!("NEDGE0{n}")).filter(|name| !replicas.contains(name)).collect();
    // What they are told is of no interest here; they are not on the host that dies.
    start(&world, "edge", &format!("--max 2 --hosts {}", others.join(",")));
    running(&world, "edge", 2);

    let pid = world.host_pid(&replicas[0]);
    let change = |max: u32| {
        let mut scale = world.command(&["scale", "edge", "--max", &max.to_string()]);
        scale.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    };
    let changes: Vec<_> = [3, 4, 5].into_iter().map(change).collect();
    signal(pid, Signal::KILL);
    let more: Vec<_> = [6, 7].into_iter().map(change).collect();
    for changing in changes.into_iter().chain(more) {
        let ended = changing.wait_with_output().expect("it ends");
        assert!(matches!(ended.status.code(), Some(0 | 3)), "{ended:?}");
    }
    assert!(!is_alive(pid));
    world.line("scale edge --max 9").ok();
    running(&world, "edge", 9);
    // The failover actors may have given the dead one's place to another host by now.
    world.until("a living replica answers that can plan", || {
        let status = world.line("schedule status -o json").json();
        assert_ne!(status["node"], replicas[0].as_str(), "{status}");
        (status["ready"] == true).then_some(())
    });

    let heads = heads(&written);
    let last = heads.iter().map(|(generation, _)| *generation).max().expect("some");
    let first = heads.iter().map(|(generation, _)| *generation).min().expect("some");
    assert!(heads.iter().all(|(generation, parent)| *parent == generation - 1), "{heads:?}");
    let generations: BTreeSet<u64> = heads.iter().map(|(generation, _)| *generation).collect();
    assert_eq!(generations, (first..=last).collect(), "no generation is missing");
    let kept = bus.kept("KV_LAT_default_PLAN");
    let kept: Vec<u64> = kept
        .iter()
        .filter(|message| message.subject.ends_with(".head"))
        .filter_map(|message| serde_json::from_slice::<Value>(&message.payload).ok()?["generation"].as_u64())
        .collect();
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1) && kept.last() == Some(&last), "one after the other: {kept:?}");

    let _back = world.restart_host(&replicas[0], &[]);
    world.until_ready(&replicas[0]);
    world.line("wait actor/lattice-scheduler --for running=2 --timeout 30s").ok();
    world.line("scale edge --max 3").ok();
    running(&world, "edge", 3);
}

/// Hosts have no placement code of their own: without the component nothing is planned, and nothing is half done.
#[test]
fn without_a_scheduler() {
    let world = World::up(2);
    world.line("start provider builtin://messaging-nats messaging").ok();
    start(&world, "edge", "--max 2");
    running(&world, "edge", 2);
    world.line("stop actor lattice-scheduler").ok();
    world.line("wait actor/lattice-scheduler --for stopped --timeout 30s").ok();
    let at = revision(&world.line("scale edge --max 4 --dry-run -o json").json());
    let refused = world.line("scale edge --max 4 -o json").problem(5, "timed-out", "no scheduler");
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--local-plan")), "{refused}");
    world.line("schedule explain edge").fails(5, "no scheduler answers");
    assert_eq!(revision(&world.line("scale edge --max 4 --dry-run -o json").json()), at, "nothing was written");
    running(&world, "edge", 2);
    world.line("scale edge --max 4 --local-plan").ok();
    running(&world, "edge", 4);
    let mut by_variable = world.command(&["scale", "edge", "--max", "1"]);
    let by_variable = by_variable.env("LATTICE_LOCAL_PLAN", "1").stdin(Stdio::null()).output().expect("it runs");
    assert!(by_variable.status.success(), "{by_variable:?}");
    running(&world, "edge", 1);
}

/// A lattice that was made without one.
#[test]
fn a_lattice_that_has_none() {
    let world = World::up_with(1, &["--no-scheduler"]);
    world.line("start provider builtin://messaging-nats messaging").fails(5, "no scheduler");
    world.line("start provider builtin://messaging-nats messaging --local-plan").ok();
    assert_eq!(world.line("get actors --all -o json").json(), json!([]));
    let silent = world.line("failover status -o json").problem(5, "timed-out", "no failover actor answers");
    assert!(silent["hint"].as_str().is_some_and(|hint| hint.contains("lattice-ctl up")), "{silent}");
    world.line("failover history").fails(4, "no history of failovers");
}
