//! A link is the permission and the binding: what it does not give, an actor cannot reach; what it gives ends in time.

use std::time::{Duration, Instant};

use e2e::{Bus, World, http, program};
use serde_json::json;

/// What the actor `forbidden` answers: each line that it tried, with what came out.
fn tried(world: &World, id: &str, lines: &[&str]) -> Vec<(String, String)> {
    let answer = world.call(id, &lines.join("\n")).ok();
    let pair = |line: &str| line.split_once(" => ").map(|(line, shown)| (line.to_owned(), shown.to_owned()));
    answer.trim_matches(['\n', '"']).lines().filter_map(pair).collect()
}

#[track_caller]
fn is_refused(tried: &[(String, String)], line: &str, why: &str) {
    let shown = tried.iter().find(|(tried, _)| tried == line).map(|(_, shown)| shown.as_str());
    assert!(shown.is_some_and(|shown| shown.starts_with("error: ") && shown.contains(why)), "{line}: no `{why}` in {shown:?}");
}

#[track_caller]
fn is_allowed(tried: &[(String, String)], line: &str, expected: &str) {
    let shown = tried.iter().find(|(tried, _)| tried == line).map(|(_, shown)| shown.as_str());
    assert_eq!(shown, Some(expected), "{line}");
}

#[test]
fn what_no_link_gives_is_refused() {
    let world = World::up(1);
    let bus = world.bus();
    let events = bus.hear("lat.default.evt.>");
    let leaks: Vec<_> =
        ["lat.>", "cloud.>", "edge.sensor.elsewhere", "edge.result.elsewhere", "_INBOX.somebody"].map(|subject| bus.hear(subject)).into();
    world.start_program("forbidden", "forbidden", "");
    world.line("start provider builtin://kv-nats kv").ok();
    world.line("link put forbidden kv wasmcloud:keyvalue default --bucket mine --permissions get,exists").ok();

    everything_it_tries_by_itself(&world);
    only_what_the_link_permits(&world);
    a_reply_goes_only_where_it_was_asked_for(&bus);
    only_requests_that_are_permitted(&world);

    // The bus keeps the order of one publisher: when this has come, whatever was published before has come, too.
    let seen = bus.hear("edge.result.forbidden");
    assert!(tried(&world, "forbidden", &["publish edge.result.forbidden last"]).iter().all(|(_, shown)| shown == "ok"));
    seen.count(1);
    for leak in &leaks {
        // All that it tries to publish is one letter.
        assert!(!leak.all().iter().any(|message| message.payload.as_ref() == b"x"), "{:?}", leak.all());
    }
    let audited = |contract: &str| {
        let text = format!("capability denied: {contract}: forbidden: ");
        events
            .json()
            .iter()
            .any(|event| event["kind"] == "denied" && event["message"].as_str().is_some_and(|message| message.starts_with(&text)))
    };
    // Only so many a second are written down.
    world.until("an audit of denied calls", || {
        tried(&world, "forbidden", &["open nothing", "publish edge.nowhere x"]);
        (audited("wasmcloud:keyvalue") && audited("wasmcloud:messaging")).then_some(())
    });
}

/// The program's own list: the control plane, the server, other regions, other buckets, operations beyond the link's.
fn everything_it_tries_by_itself(world: &World) {
    let answers = tried(world, "forbidden", &[]);
    assert!(answers.len() > 15, "{answers:?}");
    for (line, shown) in &answers {
        assert!(shown.starts_with("error: "), "{line}: {shown}");
    }
    is_refused(&answers, "publish lat.default.req.all.ping x", "capability denied: wasmcloud:messaging");
    is_refused(&answers, "publish $JS.API.STREAM.DELETE.edge-events x", "capability denied: wasmcloud:messaging");
    is_refused(&answers, "open somebody-else", "no such store");
    is_refused(&answers, "open LAT_default_DESIRED", "no such store");
    is_refused(&answers, "set key value", "access denied");
    is_refused(&answers, "list", "access denied");
}

fn only_what_the_link_permits(world: &World) {
    let kinds = ["publish edge.result.forbidden x", "publish edge.alert.forbidden x", "publish edge.dead.forbidden x"];
    let allowed = tried(world, "forbidden", &[kinds.as_slice(), &["open mine", "get key", "exists key"]].concat());
    for line in kinds {
        is_allowed(&allowed, line, "ok");
    }
    is_allowed(&allowed, "open mine", "ok");
    is_allowed(&allowed, "get key", "(none)");
    is_allowed(&allowed, "exists key", "false");

    // A change of the link is a change of what is permitted, from the next message on.
    world.line("link put forbidden kv wasmcloud:keyvalue default --bucket mine --permissions read,increment").ok();
    let allowed = tried(world, "forbidden", &["list", "increment n 2", "set key value", "delete key"]);
    is_allowed(&allowed, "increment n 2", "2");
    is_refused(&allowed, "set key value", "access denied");
    is_refused(&allowed, "delete key", "access denied");
    world.line("link put forbidden kv wasmcloud:keyvalue default --bucket other").ok();
    let allowed = tried(world, "forbidden", &["open mine", "set key value", "get key", "get n"]);
    is_refused(&allowed, "open mine", "no such store");
    is_allowed(&allowed, "get key", "value");
    is_allowed(&allowed, "get n", "(none)");
}

fn a_reply_goes_only_where_it_was_asked_for(bus: &Bus) {
    let (mine, other) = (bus.hear("_INBOX.mine.1"), bus.hear("_INBOX.mine.2"));
    let lines = "publish _INBOX.mine.2 stolen\npublish _INBOX.mine.1 first";
    bus.publish_with_reply("edge.sensor.forbidden", "_INBOX.mine.1", lines);
    let heard = mine.count(2);
    assert_eq!(heard[0].payload.as_ref(), b"first");
    let answer = String::from_utf8_lossy(&heard[1].payload).into_owned();
    assert!(answer.contains("publish _INBOX.mine.2 stolen => error: capability denied"), "{answer}");
    // The next message has another inbox in hand; the former one is nobody's business any more.
    let later = bus.request("edge.sensor.forbidden", "publish _INBOX.mine.1 late", Duration::from_secs(10)).expect("an answer");
    assert!(String::from_utf8_lossy(&later.payload).contains("capability denied"), "{later:?}");
    assert!(other.all().is_empty());
    assert_eq!(mine.all().len(), 2);
}

fn only_requests_that_are_permitted(world: &World) {
    let put = "link put forbidden messaging wasmcloud:messaging ask --publish edge.ask.x";
    world.line(&format!("{put} --permissions publish")).ok();
    let refused = tried(world, "forbidden", &["publish edge.ask.x y", "request edge.ask.x 500 y"]);
    is_allowed(&refused, "publish edge.ask.x y", "ok");
    is_refused(&refused, "request edge.ask.x 500 y", "capability denied");
    world.line(put).ok();
    let start = Instant::now();
    is_refused(&tried(world, "forbidden", &["request edge.ask.x 9000 y"]), "request edge.ask.x 9000 y", "no subscriber");
    assert!(start.elapsed() < Duration::from_secs(5), "nobody there is known at once: {:?}", start.elapsed());
    world.line("link del forbidden wasmcloud:messaging ask").ok();
}

#[test]
fn subscriptions_that_take_everything() {
    let world = World::up(1);
    let bus = world.bus();
    world.line("start provider builtin://messaging-nats messaging").ok();
    world.line(&format!("start actor {} echo", program("echo").display())).ok();
    let put = "link put echo messaging wasmcloud:messaging default --subscription";
    for pattern in [">", "edge.>", "*.sensor", "*"] {
        let refused = world.line(&format!("{put} {pattern}"));
        refused.fails(2, "takes everything: segment subjects by region and function, like edge.sensor.ap-east-1");
    }
    for pattern in ["lat.>", "lat.default.hb.>", "$SYS.>", "$JS.API.>", "$KV.>", "cloud.cmd.>", "_INBOX.>"] {
        world.line(&format!("{put} {pattern} --force")).fails(2, "is never allowed");
        world.line(&format!("{put} edge.sensor.x --publish {pattern}")).fails(2, "is never allowed");
    }
    world.line(&format!("{put} edge.sensor.x --publish >")).fails(2, "is never allowed");
    for pattern in ["edge..x", "edge.sens or", ".edge", "edge.>.x", "edge.a*"] {
        world.ctl(&["link", "put", "echo", "messaging", "wasmcloud:messaging", "default", "--subscription", pattern]).fails(2, "");
    }
    assert_eq!(world.line("get links -o json").json(), json!([]), "nothing is half applied");

    // Forced, it gets everything but what belongs to others: the heartbeats of this very second, for instance.
    world.line(&format!("{put} > --force")).ok();
    for subject in ["lat.default.something", "cloud.cmd.NEDGE01", "_INBOX.mine.1", "$KV.mine.key"] {
        bus.publish(subject, format!("from {subject}"));
    }
    bus.publish("site.hall.7", "from site.hall.7");
    let logs =
        world.until("the message that it may have", || Some(world.line("logs echo").ok()).filter(|logs| logs.contains("from site.hall.7")));
    for reserved in ["from lat", "from cloud", "from _INBOX", "from $KV", "applied_generation"] {
        assert!(!logs.contains(reserved), "{reserved}: {logs}");
    }
    let handled = per_host(&world, "echo", "handled");
    assert_eq!(handled.iter().sum::<u64>(), 1, "{handled:?}");
}

/// A number of an actor's report, for each host that runs it.
fn per_host(world: &World, id: &str, what: &str) -> Vec<u64> {
    let inventory = world.line("get inventory -o json").json();
    let hosts = inventory.as_array().expect("a list of hosts");
    hosts.iter().filter_map(|host| host["components"][id][what].as_u64()).collect()
}

#[test]
fn broadcast_reaches_every_host_and_core_one() {
    let world = World::up(2);
    let bus = world.bus();
    world.start_program("echo", "one", "--host NEDGE01,NEDGE02 --max 4");
    world.start_program("echo", "all", "--host NEDGE01,NEDGE02 --max 4");
    world.line("link put all messaging wasmcloud:messaging default --subscription edge.sensor.all --delivery broadcast").ok();
    const MESSAGES: u64 = 40;
    for n in 0..MESSAGES {
        bus.publish("edge.sensor.one", n.to_string());
        bus.publish("edge.sensor.all", n.to_string());
    }
    let all = world.until("every host has every broadcast message", || {
        Some(per_host(&world, "all", "handled")).filter(|handled| handled.iter().sum::<u64>() >= 2 * MESSAGES)
    });
    assert_eq!(all, [MESSAGES, MESSAGES]);
    let one = world.until("one host has each core message", || {
        Some(per_host(&world, "one", "handled")).filter(|handled| handled.iter().sum::<u64>() >= MESSAGES)
    });
    assert_eq!(one.iter().sum::<u64>(), MESSAGES, "{one:?}");
    assert!(one.iter().all(|handled| *handled > 0), "the queue group spreads them: {one:?}");

    two_hosts_share_a_port(&world);
}

fn two_hosts_share_a_port(world: &World) {
    let port = world.start_edge_processor("NEDGE01,NEDGE02", "core");
    let mut seen = std::collections::BTreeSet::new();
    world.until("both hosts have answered on one port", || {
        let posted = http::request(port, "POST", "/ingest", br#"{"device":"d","temp":1,"region":"ap-east-1"}"#).expect("an answer");
        seen.insert(posted.json()["node_id"].as_str().expect("a node").to_owned());
        (seen.len() == 2).then_some(())
    });
    // One of them goes; the port stays.
    world.line("stop actor edge-processor --host NEDGE01").ok();
    for _ in 0..20 {
        assert_eq!(http::get(port, "/healthz").expect("an answer").status, 200);
    }
}

#[test]
fn a_port_has_one_actor() {
    let world = World::up(1);
    let port = http::free_port();
    world.line("start provider builtin://http-server http").ok();
    for id in ["first", "second"] {
        world.line(&format!("start actor {} {id}", program("http_hello").display())).ok();
    }
    world.line(&format!("link put first http wasmcloud:httpserver default --port {port}")).ok();
    let taken = format!("port {port} of NEDGE01 is taken by first");
    world.line(&format!("link put second http wasmcloud:httpserver default --port {port}")).fails(1, &taken);
    assert_eq!(world.line("link query second -o json").json(), json!([]), "nothing is half applied");
    let hello = http::request(port, "PUT", "/a?b=c", b"body").expect("an answer");
    assert_eq!((hello.status, hello.text().as_str()), (200, "PUT /a?b=c\nbody"));

    // Somebody outside of the lattice has the port: the link says so by name, the actor keeps its other links.
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = stranger.local_addr().expect("an address").port();
    let refused = world.line(&format!("link put second http wasmcloud:httpserver default --port {port}"));
    assert!(refused.err.contains(&port.to_string()), "{refused:?}");
    refused.fails(1, "second on NEDGE01");
    drop(stranger);
    world.until("the host has gone on trying", || http::get(port, "/").ok().filter(|answer| answer.text() == "GET /\n"));
    world.line("doctor").ok();
    http_answers_in_time(port);
}

/// A handler that hangs, traps, says nothing or stops half-way is an answer, and the next request is served.
fn http_answers_in_time(port: u16) {
    let status = |path: &str| http::get(port, path).map(|answer| answer.status);
    assert!(matches!(status("/trap"), Ok(500..=599)), "{:?}", status("/trap"));
    assert!(matches!(status("/silent"), Ok(500..=599)), "{:?}", status("/silent"));
    assert!(matches!(status("/spin"), Ok(500..=599)), "{:?}", status("/spin"));
    assert!(status("/cut").is_err(), "a body that was cut off is no whole answer");
    assert_eq!(status("/status/418").expect("an answer"), 418);
    assert_eq!(http::get(port, "/huge/3000000").expect("an answer").body.len(), 3_000_000);
}

#[test]
fn calls_end_in_time() {
    let world = World::up(1);
    let bus = world.bus();
    world.start_program("forbidden", "caller", "");
    world.line("start provider builtin://kv-memory memory").ok();
    world.line("link put caller memory wasmcloud:keyvalue default").ok();
    world.line("link put caller messaging wasmcloud:messaging ask --publish edge.ask.> --timeout 300 --retry-count 0").ok();
    // Somebody listens and never answers.
    let asked = bus.hear("edge.ask.x");
    let start = Instant::now();
    let answer = tried(&world, "caller", &["request edge.ask.x 20000 hello"]);
    is_refused(&answer, "request edge.ask.x 20000 hello", "no answer within 300 ms");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(asked.count(1).len(), 1);

    a_link_that_goes_during_a_call(&world, &bus);
    a_store_that_hangs(&world);
}

fn a_link_that_goes_during_a_call(world: &World, bus: &Bus) {
    world.line("link put caller messaging wasmcloud:messaging ask --publish edge.ask.> --timeout 25000").ok();
    let asked = bus.hear("edge.ask.slow");
    let mut call = world.command(&["call", "caller", "--subject", "edge.sensor.caller", "--data", "request edge.ask.slow 25000 hello"]);
    let call = call.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    asked.count(1);
    let start = Instant::now();
    world.line("link del caller wasmcloud:messaging ask").ok();
    let ended = call.wait_with_output().expect("it ends");
    assert!(start.elapsed() < Duration::from_secs(10), "the call ends with the link, not with its timeout: {:?}", start.elapsed());
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(text.contains("link definition not found: link `ask` was removed or changed"), "{text}");
    is_refused(&tried(world, "caller", &["request edge.ask.slow 25000 again"]), "request edge.ask.slow 25000 again", "capability denied");

    // Without what it imports nothing is instantiated any more.
    is_allowed(&tried(world, "caller", &["set a b"]), "set a b", "ok");
    world.line("link del caller wasmcloud:keyvalue default").ok();
    assert_eq!(world.actor_state("caller").0, "waiting: no link for wasi:keyvalue/store");
    world.call("caller", "get a").fails(4, "link definition not found");
}

/// The server stands still: a call through the bucket's link ends by the link's timeout, as an answer of the actor.
fn a_store_that_hangs(world: &World) {
    let port = world.start_edge_processor("NEDGE01", "core");
    world.line("link put edge-processor kv wasmcloud:keyvalue default --bucket edge-data --timeout 500 --retry-count 0").ok();
    assert_eq!(http::get(port, "/stats").expect("an answer").status, 200);
    let server = world.server_pid();
    e2e::process::signal(server, rustix::process::Signal::STOP);
    let start = Instant::now();
    let answer = http::get(port, "/stats");
    let took = start.elapsed();
    e2e::process::signal(server, rustix::process::Signal::CONT);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("unavailable")));
    assert!(answer.text().contains("no answer within 500 ms"), "{}", answer.text());
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.until("it works again", || http::get(port, "/stats").ok().filter(|answer| answer.status == 200));
}

#[test]
fn link_values_are_checked_by_name() {
    let world = World::up(1);
    for (image, id) in [("kv-nats", "kv"), ("messaging-nats", "messaging"), ("http-server", "http")] {
        world.line(&format!("start provider builtin://{image} {id}")).ok();
    }
    let check = |values: &str, part: &str| {
        world.line(&format!("link put a {values}")).fails(2, part);
    };
    check("kv wasmcloud:keyvalue default --value buckt=x", "has no value `buckt`");
    check("kv wasmcloud:keyvalue default --bucket LAT_default_PLAN", "control plane");
    check("kv wasmcloud:keyvalue default --bucket a.b", "`bucket`");
    check("kv wasmcloud:keyvalue default --timeout soon", "whole number");
    check("kv wasmcloud:keyvalue default --timeout -1", "");
    check("kv wasmcloud:keyvalue default --retry-count 4294967296", "whole number");
    check("kv wasmcloud:keyvalue default --permissions fly", "`fly`");
    check("kv wasmcloud:keyvalue a.b", "link name");
    check("kv wasmcloud:blobstore default", "unknown contract");
    check("http wasmcloud:keyvalue default", "does not serve");
    check("http wasmcloud:httpserver default --port 70000", "0 to 65535");
    check("http wasmcloud:httpserver default --port 0", "1 to 65535");
    check("http wasmcloud:httpserver default --address nowhere", "no IP address");
    check("messaging wasmcloud:messaging default --delivery sometimes", "core, broadcast, jetstream");
    check("messaging wasmcloud:messaging default --subscription edge.result.eu --delivery jetstream", "cannot be durable");
    check("messaging wasmcloud:messaging default --subscription edge.sensor.eu --bucket x", "has no value `bucket`");

    // Two durable subscriptions of one actor that overlap would bring some readings twice.
    world.line(&format!("start actor {} a", program("echo").display())).ok();
    let put = "link put a messaging wasmcloud:messaging";
    world.line(&format!("{put} one --subscription edge.sensor.* --delivery jetstream")).ok();
    world.line(&format!("{put} two --subscription edge.sensor.eu --delivery jetstream")).fails(2, "overlap");
    let links = world.line("get links -o json").json();
    assert_eq!(links.as_array().map(Vec::len), Some(1), "{links}");
    let consumers = world.line("stream status -o json").json()["consumers"].clone();
    assert_eq!(consumers.as_array().map(Vec::len), Some(1), "nothing is left of the refused one: {consumers}");
}

#[test]
fn links_may_come_before_what_they_name() {
    let world = World::up(1);
    let early = world.line("link put kv-user kv wasmcloud:keyvalue default --bucket b --env WHERE=here");
    assert!(early.err.contains("actor kv-user is not started yet") && early.err.contains("provider kv is not started yet"), "{early:?}");
    early.ok();
    world.start_program("kv_user", "kv-user", "--host NEDGE01");
    let (state, _) = world.actor_state("kv-user");
    assert!(state.starts_with("waiting:") && state.contains("kv"), "{state}");
    let doctor = world.line("doctor");
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.out.contains("kv-user → kv"), "{doctor:?}");
    world.line("start provider builtin://kv-memory kv").ok();
    world.until_actor("kv-user", "running");
    let answer = world.call("kv-user", "set a b\nget a\nset-many c x y\nget-many x y z").ok();
    assert!(answer.contains("b") && answer.contains("x=c y=c (none)"), "{answer}");
    world.line("doctor").ok();

    let queried = |line: &str| world.line(&format!("link query {line} -o json")).json().as_array().map(Vec::len);
    assert_eq!((queried("kv-user"), queried("kv")), (Some(2), Some(1)));
    let link = world.line("link query kv -o json").json()[0].clone();
    assert_eq!((&link["source"], &link["env_mapping"]), (&json!("kv-user"), &json!({ "WHERE": "here" })));
    what_an_actor_is_told(&world);
    world.line("link del kv-user wasmcloud:keyvalue nothing").fails(4, "nothing");
}

/// A link may name a server of its own. One that is away is trouble of that link, by address, and mends by itself.
#[test]
fn a_server_that_only_a_link_knows() {
    let (world, other) = (World::up(1), World::up(1));
    let away = format!("nats://127.0.0.1:{}", http::free_port());
    world.start_program("forbidden", "bridge", "");
    world.line("start provider builtin://kv-memory memory").ok();
    world.line("link put bridge memory wasmcloud:keyvalue default").ok();
    let put = "link put bridge messaging wasmcloud:messaging cloud --publish cloud-side.> --retry-count 0";
    let refused = world.line(&format!("{put} --cluster-uri {away}"));
    assert!(refused.err.contains("cloud"), "{refused:?}");
    refused.fails(1, &format!("NATS: connection refused: {away}"));
    is_refused(&tried(&world, "bridge", &["publish cloud-side.x y"]), "publish cloud-side.x y", "unavailable");
    assert!(world.line("doctor").out.contains(&away));

    let (heard, here) = (other.bus(), world.bus());
    let (there, not_here) = (heard.hear("cloud-side.x"), here.hear("cloud-side.x"));
    world.line(&format!("{put} --cluster-uri {}", other.nats_url)).ok();
    is_allowed(&tried(&world, "bridge", &["publish cloud-side.x y"]), "publish cloud-side.x y", "ok");
    assert_eq!(there.count(1)[0].payload.as_ref(), b"y");
    assert!(not_here.all().is_empty());
    other.down();
    world.until("the link is in trouble", || (world.line("doctor").code == 1).then_some(()));
    // The actor's other links are not, and what is changed meanwhile is changed.
    let changed = world.line("config put bridge colour=red").ok();
    assert!(changed.contains("bridge is running; link ") && changed.contains("connection refused"), "{changed}");
    assert_eq!(world.call("bridge", "config colour").ok().trim(), "config colour => red");
}

/// The node's name, what its links say, its config; nothing else of the machine.
fn what_an_actor_is_told(world: &World) {
    world.line("config put shared colour=red size=s").ok();
    world.line("config put told size=l").ok();
    world.start_program("print_env", "told", "--config shared");
    world.line("link put told messaging wasmcloud:messaging default --subscription edge.sensor.told --env WHERE=here").ok();
    let told = world.call("told", "").ok();
    let told: Vec<&str> = told.trim().lines().filter(|line| !line.starts_with("arg ")).collect();
    assert_eq!(told, ["config colour=red", "config size=l", "env WASMCLOUD_NODE_ID=NEDGE01", "env WHERE=here"]);
}
