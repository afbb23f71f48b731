//! What scripts rely on: exit codes, error objects, nothing changed by a dry run, no lost edits, no colours, no seeds.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::process::signal;
use e2e::{HOT, Ran, World, http, program};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn errors_have_codes_and_hints() {
    let world = World::up(2);
    not_found(&world);
    usage(&world);
    unreachable(&world);
    cannot_be_placed(&world);
    the_same_for_people(&world);
    a_dry_run_changes_nothing(&world);
}

#[track_caller]
fn hint(problem: &Value) -> &str {
    problem["hint"].as_str().unwrap_or_default()
}

fn not_found(world: &World) {
    let check = |line: &str, code: &str, start: &str, part: &str| {
        let problem = world.line(&format!("{line} -o json")).problem(4, code, start);
        assert!(hint(&problem).contains(part), "{line}: {problem}");
    };
    let file = program("echo");
    check(&format!("start actor {} echo --host NEDGE3", file.display()), "host-not-found", "host not found: NEDGE3", "did you mean NEDGE0");
    check("stop host nobody", "host-not-found", "host not found: nobody", "NEDGE01");
    check("get hosts NEDGE", "host-not-found", "host not found: NEDGE", "2 hosts fit");
    check("failover run nobody --yes", "host-not-found", "host not found: nobody", "NEDGE01");
    check("failover plan NEDGE3", "host-not-found", "host not found: NEDGE3", "did you mean NEDGE0");
    check("wait host/nobody --for dead", "host-not-found", "host not found: nobody", "");
    check("events --host nobody", "host-not-found", "host not found: nobody", "");
    check("stop actor nobody", "not-found", "actor not found: nobody", "lattice-ctl get actors");
    check("call nobody", "not-found", "actor not found: nobody", "");
    check("scale actor nobody --max 2", "not-found", "actor not found: nobody", "");
    check("get actors nobody", "not-found", "actor not found: nobody", "");
    check("stop provider nobody", "not-found", "provider not found: nobody", "");
    check("link del nobody wasmcloud:keyvalue default", "link-not-found", "link definition not found: nobody", "link query");
    check("config get nothing", "not-found", "config not found: nothing", "");
    check("config del nothing", "not-found", "", "");
    check("kv ls nothing", "not-found", "", "");
    check("stream status", "not-found", "", "stream ensure");
    check("get hosts --lattice elsewhere", "not-found", "lattice", "");

    world.line(&format!("start actor {} echo --host NEDGE02", file.display())).ok();
    check("stop actor echoo", "not-found", "actor not found: echoo", "did you mean echo");
    check("call echo", "link-not-found", "link definition not found: echo", "link put echo");
    // Unique beginnings are enough, ids too.
    let id = world.host_id("NEDGE02");
    assert!(world.line(&format!("get hosts {} -o name", &id[..20])).ok().contains("NEDGE02"));
    world.line("get hosts NEDGE02 -o name").ok();
}

fn usage(world: &World) {
    let check = |line: &str, start: &str| {
        let problem = world.line(&format!("{line} -o json")).problem(2, "usage", start);
        assert!(!problem["message"].as_str().unwrap_or_default().contains("panicked"), "{problem}");
    };
    check("strat actor", "");
    check("get nothing", "");
    check("get hosts --no-such-flag", "unexpected argument '--no-such-flag'");
    check("start actor", "");
    check("start actor x.wasm a.b", "");
    check("start actor x.wasm a --max 0", "");
    check("start actor x.wasm a --max many", "");
    check("start actor x.wasm a --max 4294967296", "");
    check("call echo Dance", "an actor has no operation `Dance`");
    check("config put a", "");
    check("config put failover colour=red", "settings of failover make no sense: `colour` = `red`");
    check("config put failover profile=slow", "settings of failover make no sense: `profile` = `slow`");
    check("events --kind weather", "");
    check("failover", "");
    check("wait host/NEDGE01 --for moved", "");
    check("config put a b=1 b=2", "value `b` is given twice");
    check("up --nats-port 4222 --nats-url nats://127.0.0.1:1", "--nats-url uses a server that is there");
    check("sub edge..x", "subject");
    check("sub edge.x --count 0", "");
    check("sub edge.x --timeout soon", "");
    check("completions csh", "");
    check("get hosts --output xml", "");
    world.line("get hosts -o yaml").ok();
    world.line("get hosts -o wide").ok();
    let lines = world.line("get hosts -o ndjson").ok();
    assert_eq!(lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).count(), 2, "{lines}");
}

fn unreachable(world: &World) {
    let port = http::free_port();
    let refused = world.line(&format!("get hosts -o json --nats-url nats://127.0.0.1:{port}"));
    let problem = refused.problem(5, "nats-refused", &format!("NATS: connection refused: nats://127.0.0.1:{port}"));
    assert!(hint(&problem).contains("lattice-ctl up") && hint(&problem).contains("CLUSTER_URI"), "{problem}");
    // Somebody listens there, but no NATS server, and it never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let start = Instant::now();
    let mute = world.line(&format!("get hosts --nats-url nats://{}", silent.local_addr().expect("an address")));
    assert_eq!(mute.code, 5, "{mute:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    world.line("sub edge.nothing --count 1 --timeout 200ms").fails(5, "NATS: subscription timeout: 0 of 1 messages");
    let timeout = world.line("pub edge.nobody.there x --request --timeout 300ms -o json");
    let timeout = timeout.problem(5, "nats-timeout", "NATS: subscription timeout");
    assert!(!hint(&timeout).is_empty());

    // A build for tests puts faults into its hosts; no lattice is made of those.
    let mut faulty = world.command(&["up", "--detach", "--hosts", "0", "-o", "json"]);
    let faulty = faulty.env("LATTICE_FAULT", "no-fence-header").stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(faulty.status.code(), Some(2), "{faulty:?}");

    // No place where hosts or settings could be kept.
    let mut homeless = world.command(&["up", "--detach", "--hosts", "0", "-o", "json"]);
    let homeless = homeless.env_remove("HOME").stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(homeless.status.code(), Some(2), "{homeless:?}");
}

/// A named file that no host may use yet: the plan says why for each.
fn cannot_be_placed(world: &World) {
    world.line(&format!("start actor {} placed", program("kv_user").display())).ok();
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line("link put free messaging wasmcloud:messaging default --subscription edge.sensor.free").ok();
    world.line("start provider builtin://kv-memory only-here --host NEDGE01").ok();
    world.line("start provider builtin://http-server only-there --host NEDGE02").ok();
    world.line("link put free only-here wasmcloud:keyvalue default").ok();
    world.line(&format!("link put free only-there wasmcloud:httpserver default --port {}", http::free_port())).ok();
    let problem = world.line(&format!("start actor {} free -o json", program("kv_user").display()));
    let problem = problem.problem(7, "insufficient-resources", "actor scale failed: insufficient resources");
    let causes = problem["causes"].to_string();
    for part in ["NEDGE01: provider only-there", "NEDGE02: provider only-here"] {
        assert!(causes.contains(part), "{part} in {causes}");
    }
    assert!(!hint(&problem).is_empty());
    assert!(!world.line("get actors -o name").ok().contains("free"), "nothing is half applied");
}

/// Off a terminal there are no colours and nothing that moves; the message, its causes, the hint.
fn the_same_for_people(world: &World) {
    let ran = world.line("stop actor echoo");
    assert_eq!(ran.err, "error: actor not found: echoo\nhint: did you mean echo? `lattice-ctl get actors` lists all\n");
    assert!(ran.out.is_empty());
    let plain = |ran: Ran| assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}') && !ran.err.contains('\r'), "{ran:?}");
    plain(ran);
    plain(world.line("get inventory"));
    plain(world.line("doctor"));
    plain(world.line("--help"));
    plain(world.line("config put colour red=1"));
    let mut forced = world.command(&["stop", "actor", "nobody"]);
    let forced = forced.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").env("FORCE_COLOR", "1").output().expect("it runs");
    assert!(!forced.stderr.contains(&0x1b), "{forced:?}");
    let version = world.line("version -o json").json();
    assert_eq!(version["lattice-ctl"].as_str().or(version["version"].as_str()), Some(env!("CARGO_PKG_VERSION")), "{version}");
}

fn a_dry_run_changes_nothing(world: &World) {
    let state = || {
        let mut actors = world.line("get actors -o json").json();
        forget_what_moves(&mut actors);
        let rest = ["get links", "config get", "get inventory"].map(|line| {
            let mut found = world.line(&format!("{line} -o json")).json();
            forget_what_moves(&mut found);
            found
        });
        (actors, rest)
    };
    let before = state();
    let file = program("echo");
    for line in [
        format!("start actor {} dry --max 3", file.display()),
        "scale actor echo --max 7".to_owned(),
        "stop actor echo".to_owned(),
        "start provider builtin://kv-nats dry".to_owned(),
        "stop provider messaging --force".to_owned(),
        "link put echo dry wasmcloud:messaging default --subscription edge.sensor.dry --delivery jetstream".to_owned(),
        "config put echo a=b".to_owned(),
        "stop host NEDGE02".to_owned(),
    ] {
        let ran = world.line(&format!("{line} --dry-run -o json")).json();
        assert_eq!((&ran["dry_run"], &ran["changed"]), (&json!(true), &json!(true)), "{line}: {ran}");
    }
    let shown = world.line("scale actor echo --max 7 --dry-run");
    assert!(shown.err.contains("instances 1 → 7") && shown.out.contains("nothing was changed"), "{shown:?}");
    assert_eq!(state(), before);
    world.line("stream status").fails(4, "edge-events");
}

/// Numbers that change by themselves: time, load, counters of reports.
fn forget_what_moves(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_what_moves),
        Value::Object(fields) => {
            for name in ["profile", "uptime_seconds", "seq", "handled", "cpu_used", "memory_peak_mb", "rtt_us", "lease_rev"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(forget_what_moves);
        }
        _ => {}
    }
}

/// Edits at the same time: each is there afterwards, or its writer was told that it is not.
#[test]
fn edits_at_the_same_time() {
    let world = World::up(1);
    const WRITERS: usize = 8;
    let write = |n: usize| {
        let mut command = world.command(&["config", "put", "shared", &format!("key{n}={n}"), "--no-wait"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let codes: Vec<Option<i32>> = writers.into_iter().map(|writer| writer.wait_with_output().expect("it ends").status.code()).collect();
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 3))), "{codes:?}");
    assert!(codes.contains(&Some(0)), "somebody wins: {codes:?}");
    let values = world.line("config get shared -o json").json();
    for (n, code) in codes.iter().enumerate() {
        let value = &values[format!("key{n}")];
        let expected = if *code == Some(0) { json!(n.to_string()) } else { Value::Null };
        assert_eq!(*value, expected, "writer {n} ended with {code:?}: {values}");
    }
    world.line("config put shared last=1").ok();
    world.line("doctor").ok();
    other_code_is_not_taken_for_the_same(&world);
}

fn other_code_is_not_taken_for_the_same(world: &World) {
    world.line(&format!("start actor {} one", program("echo").display())).ok();
    let other = program("sleepy");
    let problem =
        world.line(&format!("start actor {} one -o json", other.display())).problem(1, "failed", "actor start failed: actor `one` runs");
    assert!(hint(&problem).contains("--allow-update"), "{problem}");
    world.line(&format!("start actor {} one --allow-update", other.display())).ok();
    world.line("link put one messaging wasmcloud:messaging default --subscription edge.sensor.one").ok();
    world.line("start provider builtin://messaging-nats messaging").ok();
    assert_eq!(world.call("one", "10").ok().trim(), "slept 10 ms");
    world.line("start provider builtin://kv-nats messaging -o json").problem(
        1,
        "failed",
        "provider start failed: provider `messaging` is a",
    );
    world.line("stop provider messaging -o json").problem(1, "failed", "provider messaging is used by one");
    world.line("stop provider messaging --force").ok();
    assert!(world.actor_state("one").0.starts_with("waiting"), "{:?}", world.actor_state("one"));
}

#[test]
fn output_that_is_not_read_to_its_end() {
    let world = World::up(1);
    for _ in 0..3 {
        let mut help = world.command(&["--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut one = [0];
        let mut out = help.stdout.take().expect("a pipe");
        out.read_exact(&mut one).expect("a byte");
        drop(out);
        let ended = help.wait_with_output().expect("it ends");
        assert!(ended.stderr.is_empty(), "{ended:?}");
    }
    // A reader that leaves while messages still come: it ends, quietly.
    let mut sub = world
        .command(&["sub", "edge.sensor.>"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut out = sub.stdout.take().expect("a pipe");
    let bus = world.bus();
    let reader = std::thread::spawn(move || {
        let mut one = [0];
        out.read_exact(&mut one)
    });
    world.until("it has heard a message", || {
        bus.publish("edge.sensor.ap-east-1", HOT);
        reader.is_finished().then_some(())
    });
    reader.join().expect("no panic").expect("a byte");
    let status = world.until("it ends", || {
        bus.publish("edge.sensor.ap-east-1", HOT);
        sub.try_wait().expect("our child")
    });
    let ended = sub.wait_with_output().expect("it has ended");
    assert!(status.success(), "{status:?}");
    assert!(
        !String::from_utf8_lossy(&ended.stderr).contains("panicked") && !String::from_utf8_lossy(&ended.stderr).contains("roken"),
        "{ended:?}"
    );

    interrupted(&world);
}

/// Ctrl-C ends a command that waits, at once.
fn interrupted(world: &World) {
    let mut sub =
        world.command(&["sub", "edge.never"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut err = std::io::BufReader::new(sub.stderr.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut err, &mut line).expect("a line");
    assert!(line.contains("edge.never"), "{line}");
    signal(i32::try_from(sub.id()).expect("a pid"), Signal::INT);
    world.until("it ends", || sub.try_wait().expect("our child"));
}

/// Seeds are in files of mode 0600 and nowhere else: not on the screen, not in the logs, not in what hosts report.
#[test]
fn seeds_are_never_shown() {
    let world = World::up_with(1, &["--bind", "127.0.0.2"]);
    let mut shown = world.line("keys gen user --name mine").ok();
    shown += &world.line("keys gen account -o json").ok();
    shown += &world.line("keys list").ok();
    shown += &world.line("keys gen user --name mine").fails(1, "exists already").err;
    for line in ["ctx list -o json", "ctx show", "get hosts -o json", "get inventory -o json", "doctor", "version"] {
        let ran = world.line(line);
        shown += &ran.out;
        shown += &ran.err;
    }
    let mut folders = vec![world.folder().to_owned()];
    let mut seeds = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().expect("metadata"));
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            if holds_seed(&text) {
                seeds += 1;
                assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is private", path.display());
                assert_ne!(path.extension().and_then(|extension| extension.to_str()), Some("log"), "{}", path.display());
            }
        }
    }
    assert!(seeds >= 5, "operator, node, host, and the two keys: {seeds}");
    assert!(!holds_seed(&shown), "{shown}");
}

/// Whether a text has a word that looks like an nkey seed: `S`, a kind, 58 characters of base32.
fn holds_seed(text: &str) -> bool {
    let is_seed =
        |word: &str| word.len() == 58 && word.starts_with('S') && word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_seed)
}
