use super::*;
use crate::needs::Spread;
use crate::wire::schedule::Source;

fn id(n: usize) -> HostId {
    let letters: String = format!("{n:05}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
    HostId::new(format!("N{letters}{}", "A".repeat(50))).unwrap()
}

fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

fn node(n: usize, name: &str, at: &str, cpu: (u32, u32), memory: (u32, u32), actors: u32) -> Node {
    Node {
        id: id(n),
        name: HostName::new(name).unwrap(),
        region: region(at),
        labels: BTreeMap::from([("region".to_owned(), at.to_owned())]),
        cpu_capacity: cpu.1,
        memory_mb: memory.1,
        cpu_used: cpu.0,
        memory_used_mb: memory.0,
        actors,
        rtt_us: BTreeMap::new(),
        closed: None,
    }
}

/// The seed's three nodes.
fn seed() -> Vec<Node> {
    vec![
        node(0, "edge-ap-east-1", "ap-east-1", (1200, 4000), (800, 2048), 5),
        node(1, "edge-ap-southeast-1", "ap-southeast-1", (500, 2000), (300, 1024), 2),
        node(2, "edge-us-west-1", "us-west-1", (3800, 4000), (1900, 2048), 15),
    ]
}

fn task(text: &str) -> Needs {
    serde_json::from_str::<TaskSpec>(text).unwrap().rules().unwrap()
}

fn best(nodes: Vec<Node>, rules: &Needs) -> Option<String> {
    let need = Need { cpu: rules.cpu, cpu_from: Source::Asked, memory_mb: rules.memory_mb, memory_from: Source::Asked };
    let ask = Ask { need, rules, strategy: rules.strategy.unwrap_or_default() };
    let table = Table::new(nodes);
    let search = Candidates { ask: &ask, admits: |_, _: &Node| Ok(()), held: |_| 0, first: 0 };
    table.best(&search).and_then(|(index, _)| table.get(index)).map(|node| node.name.to_string())
}

#[test]
fn the_seed_s_example() {
    let rules = task(
        r#"{"task_id": "task-sensor-001", "cpu_required": 500, "memory_required_mb": 256,
            "preferred_region": "ap-east-1", "priority": 5, "max_latency_ms": 50}"#,
    );
    assert_eq!(best(seed(), &rules).as_deref(), Some("edge-ap-east-1"));
    // Without a region the seed takes the node with the smallest `cpu % + memory % + actors`: 74, 56, 202.
    let anywhere = task(r#"{"task_id": "t", "cpu_required": 500, "memory_required_mb": 256}"#);
    assert_eq!(best(seed(), &anywhere).as_deref(), Some("edge-ap-southeast-1"));
    assert_eq!(seed().iter().map(|node| node.score() / 100).collect::<Vec<_>>(), [74, 56, 202]);
    // Nobody in the region has room: the seed falls back to the others.
    let full = task(r#"{"task_id": "t", "cpu_required": 500, "preferred_region": "us-west-1"}"#);
    assert_eq!(best(seed(), &full).as_deref(), Some("edge-ap-southeast-1"));
}

#[test]
fn nonsense_in_a_report_leaves_nothing() {
    let asks = task(r#"{"task_id": "t", "cpu_required": 1, "memory_required_mb": 1}"#);
    let nothing = Needs::default();
    for (cpu, memory) in [((0, 0), (0, 0)), ((u32::MAX, 1), (u32::MAX, 1)), ((500, 100), (900, 100)), ((0, 0), (0, u32::MAX))] {
        let broken = || vec![node(0, "broken", "eu", cpu, memory, u32::MAX)];
        assert_eq!(best(broken(), &asks), None, "{cpu:?} {memory:?}");
        assert_eq!(best(broken(), &nothing).as_deref(), Some("broken"));
    }
    let largest = vec![node(0, "large", "eu", (0, u32::MAX), (0, u32::MAX), 0)];
    assert_eq!(best(largest, &asks).as_deref(), Some("large"));
}

#[test]
fn rejections_name_what_is_asked_and_what_is_there() {
    let rules = Needs {
        cpu: 500,
        memory_mb: 256,
        labels: BTreeMap::from([("tier".to_owned(), "edge".to_owned())]),
        region: Some(region("eu")),
        max_latency_ms: Some(50),
        ..Needs::default()
    };
    let need = Need { cpu: 500, cpu_from: Source::Asked, memory_mb: 256, memory_from: Source::Asked };
    let ask = Ask { need, rules: &rules, strategy: Strategy::default() };
    let check = |edit: &dyn Fn(&mut Node), expected: &str| {
        let mut node = node(0, "a", "eu", (0, 1000), (0, 1000), 0);
        node.labels.insert("tier".into(), "edge".into());
        edit(&mut node);
        let why = ask.suits(&node).and_then(|()| ask.has_room(&node)).err();
        assert_eq!(why.map(|why| why.to_string()).unwrap_or_default(), expected);
    };
    check(&|_| {}, "");
    check(&|node| node.cpu_used = 600, "needs 500 thousandths of a core, has 400");
    check(&|node| node.memory_used_mb = 904, "needs 256 MiB, has 96");
    check(&|node| drop(node.labels.remove("tier")), "label tier ≠ edge, it has none");
    check(&|node| drop(node.labels.insert("tier".into(), "cloud".into())), "label tier ≠ edge, it is cloud");
    check(&|node| node.closed = Some(Closed::Cordoned), "it is cordoned");
    check(&|node| node.rtt_us.extend([(region("eu"), 51_000)]), "51 ms to eu, at most 50 ms are allowed");
    check(&|node| node.rtt_us.extend([(region("eu"), 50_000)]), "");
    check(&|node| node.region = region("us"), "round trip to eu is not measured yet, at most 50 ms are allowed");
    assert_eq!(Reject::Region(region("ap-east-1")).to_string(), "region ≠ ap-east-1");
}

#[test]
fn strategies() {
    let nodes = || {
        vec![
            node(0, "c", "eu", (100, 1000), (0, 1000), 0),
            node(1, "a", "eu", (500, 1000), (0, 1000), 0),
            node(2, "b", "us", (900, 1000), (0, 1000), 0),
        ]
    };
    let rules = |strategy| Needs { cpu: 200, strategy: Some(strategy), ..Needs::default() };
    assert_eq!(best(nodes(), &rules(Strategy::Balanced)).as_deref(), Some("c"));
    assert_eq!(best(nodes(), &rules(Strategy::Pack)).as_deref(), Some("a"));
    let preferred = Needs { prefer: BTreeMap::from([("region".to_owned(), "us".to_owned())]), ..Needs::default() };
    assert_eq!(best(nodes(), &preferred).as_deref(), Some("b"));
    let spread = Needs { spread: Some(Spread::Label("rack".into())), ..Needs::default() };
    assert_eq!(best(nodes(), &spread), None, "nobody has that label");

    let need = Need { cpu: 200, cpu_from: Source::Asked, memory_mb: 0, memory_from: Source::Asked };
    let turns = rules(Strategy::RoundRobin);
    let ask = Ask { need, rules: &turns, strategy: Strategy::RoundRobin };
    let table = Table::new(nodes());
    let from = |first| {
        let search = Candidates { ask: &ask, admits: |_, _: &Node| Ok(()), held: |_: Index| 0, first };
        table.best(&search).map(|(index, _)| table.nodes()[index].name.to_string()).unwrap()
    };
    assert_eq!([from(0), from(1), from(2)], ["a", "c", "c"], "by name, b has no room");
}

#[test]
fn of_equal_hosts_the_one_with_the_fewest_instances_then_the_first_by_name() {
    let table = Table::new((0..4).map(|n| node(n, &format!("h{n}"), "eu", (0, 1000), (0, 1000), 0)));
    let rules = Needs::default();
    let need = Need { cpu: 0, cpu_from: Source::Asked, memory_mb: 0, memory_from: Source::Asked };
    let ask = Ask { need, rules: &rules, strategy: Strategy::default() };
    let held = [2, 1, 1, 3];
    let search = Candidates { ask: &ask, admits: |_, _: &Node| Ok(()), held: |index: Index| held[index], first: 0 };
    assert_eq!(table.best(&search), Some((1, false)));
}

#[test]
fn the_order_follows_every_change() {
    let mut table = Table::new((0..50).map(|n| node(n, &format!("h{n:02}"), ["eu", "us"][n % 2], (0, 1000), (0, 1000), 0)));
    let rules = Needs { region: Some(region("eu")), ..Needs::default() };
    let need = Need { cpu: 7, cpu_from: Source::Asked, memory_mb: 3, memory_from: Source::Asked };
    let ask = Ask { need, rules: &rules, strategy: Strategy::default() };
    // Filled to the last place, the best is always the one that a look at all hosts finds.
    let mut placed = 0;
    loop {
        let search = Candidates { ask: &ask, admits: |_, _: &Node| Ok(()), held: |_: Index| 0, first: 0 };
        let able = |(_, node): &(usize, &Node)| ask.has_room(node).is_ok();
        let rank = |(index, node): &(usize, &Node)| (node.region != region("eu"), node.score(), *index);
        let expected = table.nodes().iter().enumerate().filter(able).min_by_key(rank).map(|(index, _)| index);
        let found = table.best(&search).map(|(index, _)| index);
        assert_eq!(found, expected);
        let Some(index) = found else { break };
        table.reserve(index, &need, 1);
        placed += 1;
    }
    assert_eq!(placed, 50 * (1000 / 7));
}

#[test]
fn shares_are_even_and_sum_up() {
    let hosts: BTreeSet<HostId> = (0..3).map(id).collect();
    let check = |max: u32, expected: &[u32]| assert_eq!(shares(max, &hosts).into_values().collect::<Vec<_>>(), expected);
    check(10, &[4, 3, 3]);
    check(3, &[1, 1, 1]);
    check(1, &[1]);
    check(0, &[]);
    check(u32::MAX, &[1_431_655_765; 3]);
    assert!(shares(5, &BTreeSet::new()).is_empty());
}
