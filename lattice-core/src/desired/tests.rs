use super::*;
use crate::id::LinkName;
use crate::needs::Class;

fn stamp() -> Stamp {
    Stamp { by: "me".into(), at_ms: 1 }
}

fn host(n: u8) -> HostId {
    HostId::new(format!("N{}", char::from(b'A' + n).to_string().repeat(55))).unwrap()
}

fn actor(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

fn component(hosts: &[u8]) -> ComponentSpec {
    ComponentSpec { hosts: hosts.iter().map(|n| host(*n)).collect(), ..ComponentSpec::new("file://a.wasm", Digest::of(b"a")) }
}

fn provider(hosts: &[u8]) -> ProviderSpec {
    ProviderSpec {
        image: "builtin://kv-nats".into(),
        kind: ProviderKind::KvNats,
        hosts: hosts.iter().map(|n| host(*n)).collect(),
        config: vec![],
    }
}

fn link(source: &str, name: &str) -> LinkSpec {
    LinkSpec {
        source: actor(source),
        target: ProviderId::new("kv").unwrap(),
        contract: Contract::KeyValue,
        name: LinkName::new(name).unwrap(),
        values: BTreeMap::new(),
        permissions: BTreeSet::new(),
        env_mapping: BTreeMap::new(),
        config: vec![],
    }
}

fn full() -> Desired {
    let mut desired = Desired::default();
    desired.start_component(actor("a"), component(&[0]), Some(10), false).unwrap();
    desired.start_provider(ProviderId::new("kv").unwrap(), provider(&[])).unwrap();
    desired.put_link(link("a", "default"));
    desired.put_config(ConfigName::new("a").unwrap(), BTreeMap::from([("k".into(), "v".into())])).unwrap();
    desired.nodes.insert(host(0), NodeSpec { stop: Some(Incarnation::new("x").unwrap()), ..NodeSpec::default() });
    desired
}

#[test]
fn what_is_written_is_read() {
    let desired = full();
    let changes = Desired::default().diff(&desired, &stamp());
    let mut read = Desired::default();
    for change in &changes {
        read.insert(&change.key, change.value.as_ref().unwrap()).unwrap();
    }
    assert_eq!(read.changed.len(), 5);
    read.changed.clear();
    assert_eq!(read, desired);
}

#[test]
fn a_diff_holds_only_what_changed() {
    let before = full();
    let mut after = before.clone();
    after.components.remove("a");
    after.put_link(link("a", "second"));
    let changes = before.diff(&after, &Stamp { by: "you".into(), at_ms: 2 });
    let keys: Vec<(&str, bool)> = changes.iter().map(|change| (change.key.as_str(), change.value.is_some())).collect();
    assert_eq!(keys, [("component.a", false), (link_key(&link("a", "second")).as_str(), true)]);
}

#[test]
fn corrupt_keys_are_named() {
    let check = |key: &str, value: &[u8], expected: &str| {
        let error = Desired::default().insert(key, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("component.a", b"{", "`component.a`");
    check("component.a b", b"{}", "actor id");
    check("component.a", br#"{"v":2}"#, "version 2");
    let stray = wire::encode(&Stamped { spec: link("a", "default"), changed: stamp() });
    check("link.a.0000", &stray, "another identity");
    assert!(Desired::default().insert("app.later", b"anything").is_ok(), "kinds of later versions are left alone");
}

#[test]
fn starting_twice_adds_hosts_and_is_idempotent() {
    let mut desired = full();
    desired.start_component(actor("a"), component(&[1]), None, false).unwrap();
    let spec = &desired.components["a"];
    assert_eq!((spec.max, spec.hosts.len()), (10, 2));
    let once = desired.clone();
    desired.start_component(actor("a"), component(&[1]), None, false).unwrap();
    assert_eq!(desired, once);
    let other = ComponentSpec { digest: Digest::of(b"b"), ..component(&[1]) };
    assert!(matches!(desired.start_component(actor("a"), other.clone(), None, false), Err(EditError::OtherCode { .. })));
    desired.start_component(actor("a"), other, None, true).unwrap();
    assert_eq!(desired.components["a"].digest, Digest::of(b"b"));
    assert!(desired.start_component(actor("b"), component(&[]), Some(u32::MAX), false).is_err());
}

#[test]
fn stopping_on_one_host_takes_its_share_along() {
    let mut desired = full();
    desired.start_component(actor("a"), component(&[1]), None, false).unwrap();
    let shares = BTreeMap::from([(host(0), 5), (host(1), 5)]);
    desired.stop_component(&actor("a"), &BTreeSet::from([host(1)]), &shares).unwrap();
    assert_eq!((desired.components["a"].max, desired.components["a"].hosts.len()), (5, 1));
    desired.stop_component(&actor("a"), &BTreeSet::from([host(0)]), &BTreeMap::from([(host(0), 5)])).unwrap();
    assert!(desired.components.is_empty());
    assert!(matches!(desired.stop_component(&actor("a"), &BTreeSet::new(), &shares), Err(EditError::Missing { .. })));
}

#[test]
fn providers_in_use_stay_unless_forced() {
    let mut desired = full();
    let (kv, all, known) = (ProviderId::new("kv").unwrap(), BTreeSet::new(), BTreeSet::from([host(0), host(1)]));
    assert!(matches!(desired.stop_provider(&kv, &all, &known, false), Err(EditError::InUse { .. })));
    desired.stop_provider(&kv, &BTreeSet::from([host(1)]), &known, false).unwrap();
    assert_eq!(desired.providers["kv"].hosts, BTreeSet::from([host(0)]));
    desired.stop_provider(&kv, &all, &known, true).unwrap();
    assert!(desired.providers.is_empty());
}

#[test]
fn config_layers() {
    let mut desired = full();
    desired.put_config(ConfigName::new("base").unwrap(), BTreeMap::from([("k".into(), "low".into()), ("b".into(), "1".into())])).unwrap();
    let spec = ComponentSpec { config: vec![ConfigName::new("base").unwrap()], ..component(&[]) };
    let values = desired.config_of(&actor("a"), &spec);
    assert_eq!(values, BTreeMap::from([("k".into(), "v".into()), ("b".into(), "1".into())]));
    assert!(desired.put_config(ConfigName::new("a").unwrap(), BTreeMap::from([(String::new(), "v".into())])).is_err());
    assert!(desired.delete_config(&ConfigName::new("a").unwrap(), &["nope".into()]).is_err());
    desired.delete_config(&ConfigName::new("a").unwrap(), &["k".into()]).unwrap();
    assert!(desired.configs["a"].values.is_empty());
}

#[test]
fn either_direction() {
    let desired = full();
    assert_eq!(orient("kv", "a", Contract::Messaging, &desired), ("a", "kv"));
    assert_eq!(orient("a", "kv", Contract::Messaging, &desired), ("a", "kv"));
    assert_eq!(orient("x", "y", Contract::HttpServer, &desired), ("x", "y"));
    assert_eq!(orient("http", "a", Contract::HttpServer, &desired), ("a", "http"));
    assert_eq!(orient("kv", "a", Contract::KeyValue, &desired), ("kv", "a"), "an imported interface has one direction");
}

#[test]
fn an_actor_with_owners_has_as_many_instances_as_slots() {
    let owned = |class: Class, slots: u32| Needs { class, slots, ..Needs::default() };
    let started = |needs: Needs, max: Option<u32>| {
        let mut desired = Desired::default();
        let started = desired.start_component(actor("a"), ComponentSpec { needs, ..component(&[0, 1]) }, max, false);
        started.map(|()| desired).map_err(|error| error.to_string())
    };
    let max = |desired: &Desired| desired.components["a"].max;
    for (class, slots, expected) in
        [(Class::Fenced, 0, 1), (Class::Fenced, 3, 3), (Class::Strict, 2, 2), (Class::Autonomous, 3, 3), (Class::Autonomous, 0, 2)]
    {
        assert_eq!(max(&started(owned(class, slots), None).unwrap()), expected, "{class:?}");
    }
    let contradiction = "a: 4 instances and 3 slots with one owner each contradict each other";
    assert_eq!(started(owned(Class::Fenced, 3), Some(4)).unwrap_err(), contradiction);
    let mut desired = started(owned(Class::Fenced, 3), Some(3)).unwrap();
    assert_eq!(desired.scale_component(&actor("a"), 4, None, None).unwrap_err().to_string(), contradiction);
    desired.scale_component(&actor("a"), 3, None, Some(owned(Class::Strict, 5))).unwrap();
    assert_eq!(max(&desired), 5, "it follows the slots");
    desired.stop_component(&actor("a"), &[host(0)].into(), &BTreeMap::from([(host(0), 3), (host(1), 2)])).unwrap();
    assert_eq!((max(&desired), desired.components["a"].hosts.len()), (5, 1));
    desired.scale_component(&actor("a"), 7, None, Some(Needs::default())).unwrap();
    assert_eq!(max(&desired), 7);
    desired.scale_component(&actor("a"), 0, None, None).unwrap();
    assert!(desired.components.is_empty());
}
