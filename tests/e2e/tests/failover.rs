//! A node dies and the work goes on elsewhere: nothing acknowledged is lost, nobody owns a slot twice, and a line says what
//! happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::process::signal;
use e2e::{Bus, Heard, World, program};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Subject of the readings.
const SENSOR: &str = "edge.sensor.meter";
/// What comes out.
const RESULT: &str = "edge.result.meter";
/// Between two readings: 200 a second.
const INTERVAL: Duration = Duration::from_millis(5);
/// Devices that take turns.
const DEVICES: usize = 20;
/// Readings before something happens.
const WARM_UP: usize = 200;
/// Readings after it.
const COOL_DOWN: usize = 200;

/// Hosts that nobody starts again, with the short times of tests.
fn hosts(count: u32, flags: &[&str]) -> World {
    let world = World::up_with(count, &[&["--no-restart"], flags].concat());
    world.line("config put failover profile=test").ok();
    world.until("the failover actor follows the profile and judges", || {
        let status = world.line("failover status -o json");
        let status: Value = serde_json::from_str(&status.out).ok()?;
        (status["profile"] == "test" && status["ready"] == true).then_some(())
    });
    world
}

/// The program that keeps account, linked to a bucket and to its readings.
fn start_ledger(world: &World, flags: &str) {
    world.line("start provider builtin://kv-nats kv").ok();
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line(&format!("start actor {} ledger {flags}", program("ledger").display())).ok();
    world.line("link put ledger kv wasmcloud:keyvalue default --bucket ledger").ok();
    world.line(&format!("link put ledger messaging wasmcloud:messaging default --subscription {SENSOR} --delivery jetstream")).ok();
    world.line("wait actor/ledger --for running=1 --timeout 30s").ok();
}

/// The one host that runs the ledger.
#[track_caller]
fn home(world: &World) -> String {
    let mut hosts: Vec<String> = world.instances("ledger").into_keys().collect();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    hosts.remove(0)
}

/// Waits until the ledger runs on another host than `lost`, and only there; its name.
#[track_caller]
fn taken_over(world: &World, lost: &str) -> String {
    world.until("another host runs it", || {
        let hosts: Vec<String> = world.instances("ledger").into_keys().collect();
        (hosts.len() == 1 && hosts[0] != lost).then(|| hosts[0].clone())
    })
}

/// Readings at a steady rate until it is told to stop; those that the stream acknowledged, as device and number.
fn send(bus: &Bus, verb: &str, sent: &AtomicUsize, enough: &AtomicBool) -> BTreeSet<(usize, usize)> {
    let mut acknowledged = BTreeSet::new();
    let begun = Instant::now();
    for number in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let device = number % DEVICES;
        if bus.try_store(SENSOR, format!("{verb} d{device} {number}")).is_ok() {
            acknowledged.insert((device, number));
        }
        sent.store(number + 1, Ordering::Relaxed);
        let due = INTERVAL * u32::try_from(number + 1).expect("few");
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    acknowledged
}

/// Sends readings while `act` happens in the middle of them; those that were acknowledged, and what `act` found.
fn under_load<T>(world: &World, verb: &str, act: impl FnOnce() -> T) -> (BTreeSet<(usize, usize)>, T) {
    let (sent, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let until_sent = |count: usize| world.until("readings are sent", || (sent.load(Ordering::Relaxed) >= count).then_some(()));
    let bus = world.bus();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&bus, verb, &sent, &enough));
        // Whatever happens here, the sender ends.
        let stop = StopAtEnd(&enough);
        until_sent(WARM_UP);
        let found = act();
        until_sent(sent.load(Ordering::Relaxed) + COOL_DOWN);
        drop(stop);
        (sending.join().expect("no panic"), found)
    })
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until nothing is left in the stream, neither to hand out nor to be acknowledged.
#[track_caller]
fn until_consumed(world: &World) {
    world.until("nothing is left in the stream", || {
        let consumer = world.line("stream status -o json").json()["consumers"][0].clone();
        (consumer["pending"] == 0 && consumer["unacknowledged"] == 0).then_some(())
    });
}

/// Every acknowledged reading has its key, written by whoever got it.
#[track_caller]
fn nothing_is_lost(world: &World, acknowledged: &BTreeSet<(usize, usize)>) {
    assert!(acknowledged.len() >= WARM_UP + COOL_DOWN, "{}", acknowledged.len());
    until_consumed(world);
    let keys = world.line("kv ls ledger").ok();
    let keys: BTreeSet<&str> = keys.lines().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|(device, number)| !keys.contains(format!("d{device}.{number}").as_str())).collect();
    assert_eq!(lost, Vec::<&(usize, usize)>::new(), "lost of {}", acknowledged.len());
}

/// Every acknowledged reading stands exactly once in its device's list, and was told exactly once to whoever listened.
#[track_caller]
fn each_exactly_once(world: &World, acknowledged: &BTreeSet<(usize, usize)>, heard: &Heard) {
    until_consumed(world);
    let mut applied: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    for device in 0..DEVICES {
        let list = world.line(&format!("kv get ledger d{device}")).ok();
        let numbers = list.split_whitespace().filter_map(|word| word.split_once('@')?.0.parse().ok());
        numbers.for_each(|number| *applied.entry((device, number)).or_default() += 1);
    }
    let lost: Vec<_> = acknowledged.iter().filter(|reading| !applied.contains_key(reading)).collect();
    let doubled: Vec<_> = applied.iter().filter(|(_, times)| **times > 1).collect();
    assert!(lost.is_empty() && doubled.is_empty(), "lost {lost:?}, doubled {doubled:?}");
    let told = world.until("every result is heard", || {
        let told = results(heard);
        acknowledged.iter().all(|reading| told.contains_key(reading)).then_some(told)
    });
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "told twice: {twice:?}");
}

/// How often each reading's result was heard.
fn results(heard: &Heard) -> BTreeMap<(usize, usize), u32> {
    let mut told = BTreeMap::new();
    for message in heard.all() {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let mut words = text.split(' ');
        let device = words.next().and_then(|word| word.strip_prefix('d')?.parse().ok());
        if let (Some(device), Some(number)) = (device, words.next().and_then(|word| word.parse().ok())) {
            *told.entry((device, number)).or_default() += 1;
        }
    }
    told
}

/// Kinds of the events about a host, in their order, of those that were asked for.
fn told(world: &World, host: &str, kinds: &str) -> Vec<String> {
    let events = world.line(&format!("events --host {host} --kind {kinds} -o json")).json();
    let kind = |event: &Value| event["kind"].as_str().map(str::to_owned);
    events.as_array().expect("a list").iter().filter_map(kind).collect()
}

/// Waits for the failover of a host in the history with all of its steps.
#[track_caller]
fn in_history(world: &World, host: &str) -> Value {
    world.until(&format!("the history has the failover of {host}"), || {
        let history = world.line("failover history -o json");
        let history: Value = serde_json::from_str(&history.out).ok()?;
        let found = history.as_array()?.iter().find(|failover| failover["name"] == host)?.clone();
        found["steps"]["first_result_ms"].is_u64().then_some(found)
    })
}

#[test]
fn a_host_is_killed_and_another_one_goes_on() {
    let world = hosts(3, &[]);
    start_ledger(&world, "");
    let lost = home(&world);
    let (acknowledged, taker) = under_load(&world, "set", || {
        signal(world.host_pid(&lost), Signal::KILL);
        taken_over(&world, &lost)
    });
    assert_ne!(world.host_id(&taker), world.host_id(&lost), "another identity, not the same host again");
    nothing_is_lost(&world, &acknowledged);

    world.line(&format!("wait host/{lost} --for dead --timeout 10s")).ok();
    let listed = world.host(&lost).expect("it is listed");
    assert_eq!((&listed["state"], &listed["verdict"]), (&json!("Unhealthy"), &json!("dead")), "{listed}");
    assert!(!world.line("get hosts --healthy-only -o name").ok().contains(&lost));
    world.until("it is told in order", || {
        let kinds = told(&world, &lost, "suspect,dead,moved");
        let at = |kind: &str| kinds.iter().position(|found| found == kind);
        let (dead, moved) = (at("dead")?, at("moved")?);
        assert!(dead < moved && at("suspect").is_none_or(|suspect| suspect < dead), "{kinds:?}");
        Some(())
    });
    let failover = in_history(&world, &lost);
    let step = |name: &str| failover["steps"][name].as_u64().unwrap_or_else(|| panic!("{name}: {failover}"));
    assert_eq!(failover["evidence"], "process-gone", "{failover}");
    assert!(step("decided_ms") <= step("planned_ms") && step("planned_ms") <= step("applied_ms"), "{failover}");
    let moves = failover["plans"].as_array().expect("plans");
    let moved = |plan: &&Value| plan["target_node"] == taker.as_str() && plan["actor_ids"].to_string().contains("ledger");
    assert_eq!(moves.iter().filter(moved).count(), 1, "{failover}");
    let shown = world.line("failover history").ok();
    assert!(shown.contains(&format!("→{taker}")), "{shown}");

    it_returns(&world, &lost, &taker);
}

/// A host that comes back gets no work by that: what has moved stays where it is.
fn it_returns(world: &World, lost: &str, taker: &str) {
    let _back = world.restart_host(lost, &[]);
    world.until("its return is told", || told(world, lost, "returned").first().cloned());
    world.line(&format!("wait host/{lost} --for healthy --timeout 30s")).ok();
    world.until("its recovery is told", || told(world, lost, "healthy").first().cloned());
    assert_eq!(home(world), taker, "no automatic way back");
    let kinds = told(world, lost, "dead,returned,healthy");
    assert_eq!(kinds.iter().filter(|kind| *kind == "dead").count(), 1, "{kinds:?}");
}

#[test]
fn what_owners_do_is_done_once() {
    let world = hosts(3, &[]);
    let bus = world.bus();
    let heard = bus.hear(RESULT);
    start_ledger(&world, "--class fenced");
    let lost = home(&world);
    let (acknowledged, taker) = under_load(&world, "append", || {
        signal(world.host_pid(&lost), Signal::KILL);
        taken_over(&world, &lost)
    });
    assert!(acknowledged.len() >= WARM_UP + COOL_DOWN, "{}", acknowledged.len());
    each_exactly_once(&world, &acknowledged, &heard);
    let actor = world.line("get actors ledger -o json").json()[0].clone();
    let owners: Vec<&str> = actor["owners"].as_array().expect("owners").iter().filter_map(|owner| owner["host_name"].as_str()).collect();
    assert_eq!(owners, [taker.as_str()], "{actor}");
    assert!(world.line("schedule explain ledger").ok().contains(&format!("slot 0 on {taker}")));
}

#[test]
fn a_host_that_stood_still_finds_its_work_taken() {
    let world = hosts(3, &[]);
    let bus = world.bus();
    let heard = bus.hear(RESULT);
    start_ledger(&world, "--class fenced");
    let lost = home(&world);
    let pid = world.host_pid(&lost);
    let (acknowledged, taker) = under_load(&world, "append", || {
        signal(pid, Signal::STOP);
        let taker = taken_over(&world, &lost);
        signal(pid, Signal::CONT);
        // It is heard again and drops what is not its own any more.
        world.until("it has nothing left", || {
            let inventory = world.line(&format!("get inventory {lost} -o json"));
            let inventory: Value = serde_json::from_str(&inventory.out).ok()?;
            inventory[0]["components"]["ledger"].is_null().then_some(())
        });
        taker
    });
    assert_eq!(home(&world), taker, "there is no second owner");
    each_exactly_once(&world, &acknowledged, &heard);
    let kinds = told(&world, &lost, "suspect,dead,moved,returned");
    let order: Vec<&str> = kinds.iter().map(String::as_str).collect();
    assert_eq!(order.first(), Some(&"suspect"), "{kinds:?}");
    let at = |kind: &str| order.iter().position(|found| *found == kind).unwrap_or_else(|| panic!("no {kind}: {kinds:?}"));
    assert!(at("suspect") < at("dead") && at("dead") < at("moved") && at("dead") < at("returned"), "{kinds:?}");
    let failover = in_history(&world, &lost);
    assert_eq!(failover["evidence"], "silent", "{failover}");
    assert!(failover["reason"].as_str().is_some_and(|reason| reason.starts_with("heartbeat timeout: ")), "{failover}");
}

#[test]
fn the_bus_was_away_and_nobody_is_declared_dead() {
    let world = World::up(3);
    world.line("config put failover profile=test").ok();
    start_ledger(&world, "");
    let gaps = |world: &World| {
        let status: Value = serde_json::from_str(&world.line("failover status -o json").out).ok()?;
        (status["profile"] == "test" && status["ready"] == true).then(|| status["gaps"].as_u64())?
    };
    world.until("the failover actor judges", || gaps(&world));
    let (acknowledged, ()) = under_load(&world, "set", || {
        let server = world.server_pid();
        signal(server, Signal::STOP);
        // Longer than any host may be silent.
        let stopped = Instant::now();
        world.until("the server stood still for long enough", || (stopped.elapsed() > Duration::from_secs(3)).then_some(()));
        signal(server, Signal::KILL);
        world.until("another server runs", || Some(world.server_pid()).filter(|pid| *pid != server));
        world.until("the failover actor has noticed and judges again", || gaps(&world).filter(|gaps| *gaps > 0));
    });
    nothing_is_lost(&world, &acknowledged);
    for host in ["NEDGE01", "NEDGE02", "NEDGE03"] {
        assert_eq!(told(&world, host, "dead,moved"), Vec::<String>::new(), "{host}");
    }
    assert_eq!(world.line("failover history -o json").json(), json!([]));
}

#[test]
fn by_hand() {
    let world = hosts(3, &[]);
    start_ledger(&world, "");
    let host = home(&world);
    refusals(&world);
    let planned = world.line(&format!("failover plan {host} -o json")).json();
    let target = planned["plans"].as_array().expect("plans").iter().find(|plan| plan["actor_ids"].to_string().contains("ledger"));
    let target = target.unwrap_or_else(|| panic!("{planned}"))["target_node"].as_str().expect("a name").to_owned();
    assert_eq!(planned["plans"][0]["failed_node"], host.as_str(), "{planned}");
    assert_eq!(home(&world), host, "nothing was changed");
    world.line(&format!("failover {host}")).fails(2, "nobody to ask");

    let (acknowledged, moved) = under_load(&world, "set", || world.line(&format!("failover {host} --yes -o json")).json());
    assert!(moved["took_ms"].as_u64().is_some_and(|ms| ms < 30_000), "{moved}");
    // Load has changed since it was planned, and with it which host is the emptiest.
    assert_ne!(target, host, "{planned}");
    let target = taken_over(&world, &host);
    let took = |moved: &&Value| moved["actor"] == "ledger" && moved["to"] == target.as_str();
    assert_eq!(moved["moves"].as_array().expect("moves").iter().filter(took).count(), 1, "{moved}");
    nothing_is_lost(&world, &acknowledged);
    let listed = world.host(&host).expect("it is listed");
    assert_eq!((&listed["state"], &listed["reason"]), (&json!("Unhealthy"), &json!("failed over by hand")), "{listed}");
    world.line(&format!("wait host/{host} --for dead --timeout 10s")).ok();
    world.line(&format!("node uncordon {host}")).ok();
    world.line(&format!("wait host/{host} --for healthy --timeout 30s")).ok();
    assert_eq!(home(&world), target, "what has moved stays");
}

fn refusals(world: &World) {
    world.line("failover run NEDGE09 --yes -o json").problem(4, "host-not-found", "host not found: NEDGE09");
    world.line("failover plan NEDGE09").fails(4, "host not found: NEDGE09");
    for nonsense in ["colour=red", "profile=slow", "heartbeat_timeout_ms=0", "max_error_count=many", "auto_failover=maybe"] {
        let name = nonsense.split('=').next().expect("a name");
        world.line(&format!("config put failover {nonsense}")).fails(2, name);
    }
}

/// What nobody else can take is named with the reason of each host, and goes on when its host is back.
#[test]
fn there_is_no_healthy_target() {
    let world = World::up_with(2, &["--no-restart", "--region", "ap-east-1,eu-west-1"]);
    world.line("config put failover profile=test").ok();
    start_ledger(&world, "--require region=eu-west-1");
    let host = home(&world);
    assert_eq!(host, "NEDGE02");
    let problem = world.line("failover run NEDGE02 --yes -o json").problem(7, "no-healthy-target", "failover failed: no healthy target");
    assert!(problem["causes"].to_string().contains("NEDGE01: label region ≠ eu-west-1"), "{problem}");
    assert_eq!(home(&world), host, "nothing was changed");

    signal(world.host_pid(&host), Signal::KILL);
    world.line(&format!("wait host/{host} --for dead --timeout 30s")).ok();
    world.until("it is told", || told(&world, &host, "no-target").first().cloned());
    let acknowledged: BTreeSet<_> =
        (0..10).filter(|number| world.bus().try_store(SENSOR, format!("set d0 {number}")).is_ok()).map(|number| (0, number)).collect();
    let _back = world.restart_host(&host, &[]);
    world.line("wait actor/ledger --for running=1 --timeout 30s").ok();
    until_consumed(&world);
    let keys = world.line("kv ls ledger").ok();
    assert!(acknowledged.iter().all(|(device, number)| keys.lines().any(|key| key == format!("d{device}.{number}"))), "{keys}");
}

/// The last host of a lattice has nobody to give its work to.
#[test]
fn the_last_host() {
    let world = hosts(2, &[]);
    start_ledger(&world, "");
    let first = home(&world);
    signal(world.host_pid(&first), Signal::KILL);
    let last = taken_over(&world, &first);
    let problem = world.line(&format!("failover run {last} --yes -o json"));
    let problem = problem.problem(7, "no-healthy-target", "failover failed: no healthy target");
    assert!(problem["causes"].to_string().contains("ledger: "), "{problem}");
    assert_eq!(home(&world), last, "it goes on where it is");
}

#[test]
fn rules_for_owners() {
    let world = World::up(1);
    for (image, id) in [("kv-nats", "kv"), ("kv-memory", "memory"), ("messaging-nats", "messaging")] {
        world.line(&format!("start provider builtin://{image} {id}")).ok();
    }
    let line = format!("start actor {} ledger --class fenced --slots 2", program("ledger").display());
    world.line(&format!("{line} --max 3")).fails(2, "one instance for each of its slots");
    let started = world.line(&line);
    assert!(started.err.contains("ledger is fenced and waits for its bucket"), "{started:?}");
    started.ok();
    world.line("link put ledger memory wasmcloud:keyvalue default --bucket b").fails(2, "goes to kv-memory");
    world.line("link put ledger kv wasmcloud:keyvalue default --bucket ledger").ok();
    world.line("link put ledger kv wasmcloud:keyvalue second --bucket other").fails(2, "has one key-value link, not 2");
    let link = "link put ledger messaging wasmcloud:messaging default --delivery jetstream --subscription";
    world.line(&format!("{link} edge.sensor.a")).fails(2, "has 2 slots and its link default 1 subscriptions");
    world.line(&format!("{link} edge.sensor.a,edge.sensor.*")).fails(2, "overlap");
    world.line(&format!("{link} edge.sensor.a,edge.sensor.b")).ok();
    world.line("wait actor/ledger --for running=2 --timeout 30s").ok();
    let wide = world.line("get actors ledger -o wide").ok();
    assert!(wide.contains("fenced, 2 slots") && wide.contains("0:NEDGE01,1:NEDGE01"), "{wide}");
    world.line("scale ledger --slots 3").fails(2, "has 3 slots and its link default 2 subscriptions");
    world.line("scale ledger --slots 1025").fails(2, "1025");
}
