mod failing;
mod lattice;
mod moving;
pub(crate) mod policies;
mod random;
mod slots;
mod storm;

use super::*;
use std::collections::BTreeSet;

use crate::contract::Contract;
use crate::desired::{ComponentSpec, NodeSpec, ProviderSpec};
use crate::id::{ConfigName, Incarnation, LinkName, ProviderId};
use crate::inventory::tests::{host_id, report};
use crate::link::LinkSpec;
use crate::wire::assignment::ProviderKind;
use crate::wire::verdict::Verdicts;

fn actor(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

fn component(hosts: &[u8], max: u32) -> ComponentSpec {
    ComponentSpec { max, hosts: hosts.iter().map(|n| host_id(*n)).collect(), ..ComponentSpec::new("file://a.wasm", Digest::of(b"a")) }
}

pub(crate) fn link(source: &str, target: &str, contract: Contract, values: &[(&str, &str)]) -> LinkSpec {
    LinkSpec {
        source: actor(source),
        target: ProviderId::new(target).unwrap(),
        contract,
        name: LinkName::new("default").unwrap(),
        values: values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        permissions: BTreeSet::new(),
        env_mapping: BTreeMap::new(),
        config: vec![],
    }
}

fn desired() -> Desired {
    let mut desired = Desired::default();
    desired.components.insert(actor("a"), component(&[0, 1], 10));
    for (id, kind) in [("kv", ProviderKind::KvNats), ("http", ProviderKind::HttpServer), ("messaging", ProviderKind::MessagingNats)] {
        let spec = ProviderSpec { image: format!("builtin://{}", kind.as_str()), kind, hosts: BTreeSet::new(), config: vec![] };
        desired.providers.insert(ProviderId::new(id).unwrap(), spec);
    }
    desired.put_link(link("a", "kv", Contract::KeyValue, &[("bucket", "edge-data")]));
    desired
}

fn inventory(names: &[(u8, &str)]) -> Inventory {
    Inventory::new(names.iter().map(|(n, name)| report(*n, name)), [])
}

fn two() -> Inventory {
    inventory(&[(0, "NEDGE01"), (1, "NEDGE02")])
}

#[test]
fn named_hosts_share_and_providers_run_everywhere() {
    let plan = plan(&desired(), Revision(7), &two(), &Verdicts::default(), &PlanState::default());
    assert_eq!((plan.head.generation, plan.head.parent, plan.head.desired_rev), (Generation(1), Generation(0), Revision(7)));
    for host in [host_id(0), host_id(1)] {
        let assignment = &plan.changed[&host];
        assert_eq!(assignment.components["a"].instances, 5);
        assert_eq!(assignment.components["a"].links.len(), 1);
        assert_eq!(assignment.providers.len(), 3);
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_no_second_commit() {
    let first = plan(&desired(), Revision(7), &two(), &Verdicts::default(), &PlanState::default());
    let again = plan(&desired(), Revision(7), &two(), &Verdicts::default(), &PlanState::default());
    assert_eq!(wire::encode(&first.head), wire::encode(&again.head));
    let state = PlanState::default().after(&first, Revision(1));
    let second = plan(&desired(), Revision(9), &two(), &Verdicts::default(), &state);
    assert!(second.is_empty(), "{:?}", changes(&state, &second.changed));
}

#[test]
fn only_hosts_whose_work_changes_get_the_new_generation() {
    let mut desired = desired();
    desired.components.insert(actor("b"), component(&[1], 1));
    let state = PlanState::default().after(&plan(&desired, Revision(1), &two(), &Verdicts::default(), &PlanState::default()), Revision(1));
    desired.put_config(ConfigName::new("b").unwrap(), BTreeMap::from([("k".into(), "v".into())])).unwrap();
    let next = plan(&desired, Revision(2), &two(), &Verdicts::default(), &state);
    assert_eq!(next.changed.keys().collect::<Vec<_>>(), [&host_id(1)]);
    let lines = changes(&state, &next.changed);
    assert_eq!((lines.len(), lines[0].id.as_str(), lines[0].detail.as_str()), (1, "b", "config"));
    let state = state.after(&next, Revision(2));
    assert_eq!(state.assignments[&host_id(0)].generation, Generation(1));
    assert_eq!(state.assignments[&host_id(1)].generation, Generation(2));
}

#[test]
fn a_silent_host_keeps_its_work() {
    let state =
        PlanState::default().after(&plan(&desired(), Revision(1), &two(), &Verdicts::default(), &PlanState::default()), Revision(1));
    let one = Inventory::new([report(0, "NEDGE01")], state.assignments.values());
    let next = plan(&desired(), Revision(2), &one, &Verdicts::default(), &state);
    assert!(next.is_empty());
}

#[test]
fn without_named_hosts_instances_go_to_the_emptiest_and_stay() {
    let mut desired = desired();
    desired.components.remove("a");
    desired.components.insert(actor("b"), component(&[0], 1));
    let state = PlanState::default().after(&plan(&desired, Revision(1), &two(), &Verdicts::default(), &PlanState::default()), Revision(1));
    desired.components.insert(actor("a"), component(&[], 3));
    let first = plan(&desired, Revision(2), &two(), &Verdicts::default(), &state);
    let state = state.after(&first, Revision(2));
    let home = state.shares_of(&actor("a"));
    assert_eq!(home, BTreeMap::from([(host_id(0), 1), (host_id(1), 2)]), "NEDGE01 has an actor already");
    assert_eq!(first.choices["a"][0].reason, "emptiest that fits, score 200.00");
    desired.components.remove("b");
    let state = state.after(&plan(&desired, Revision(2), &two(), &Verdicts::default(), &state), Revision(2));
    assert_eq!(state.shares_of(&actor("a")), home);
}

#[test]
fn nobody_to_take_it_says_why_for_each_host() {
    let mut desired = desired();
    desired.components.insert(actor("a"), component(&[], 3));
    desired.providers.get_mut("kv").unwrap().hosts = BTreeSet::from([host_id(5)]);
    let plan = plan(&desired, Revision(1), &two(), &Verdicts::default(), &PlanState::default());
    let problem = plan.troubles["a"].problem(&actor("a"));
    assert_eq!(problem.code.exit_code(), 7);
    assert_eq!(problem.message, "actor scale failed: insufficient resources: no host can take 3 more of a");
    assert_eq!(problem.causes, ["NEDGE01: provider kv does not run there", "NEDGE02: provider kv does not run there"]);
}

#[test]
fn a_stop_is_for_one_start_of_the_host() {
    let mut desired = desired();
    desired.nodes.insert(host_id(0), NodeSpec { stop: Some(Incarnation::new("01").unwrap()), ..NodeSpec::default() });
    let stopping = plan(&desired, Revision(1), &two(), &Verdicts::default(), &PlanState::default());
    assert!(stopping.changed[&host_id(0)].stop.is_some());
    let mut restarted = report(0, "NEDGE01");
    restarted.incarnation = Incarnation::new("02").unwrap();
    let inventory = Inventory::new([restarted, report(1, "NEDGE02")], []);
    let state = PlanState::default().after(&stopping, Revision(1));
    let next = plan(&desired, Revision(2), &inventory, &Verdicts::default(), &state);
    assert_eq!(next.changed[&host_id(0)].stop, None);
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_name() {
    let check = |edit: &dyn Fn(&mut Desired), expected: &str| {
        let mut desired = desired();
        edit(&mut desired);
        let plan = plan(&desired, Revision(1), &two(), &Verdicts::default(), &PlanState::default());
        let messages: Vec<String> = plan.troubles.iter().map(|(actor, trouble)| trouble.problem(actor).message).collect();
        assert!(messages.iter().any(|message| message.contains(expected)), "{messages:?}");
    };
    check(
        &|desired| {
            desired.components.insert(actor("b"), component(&[1], 1));
            desired.put_link(link("a", "http", Contract::HttpServer, &[("port", "8080")]));
            desired.put_link(link("b", "http", Contract::HttpServer, &[]));
        },
        "port 8080 of NEDGE02 is taken by a; b cannot",
    );
    check(&|desired| drop(desired.put_link(link("a", "http", Contract::KeyValue, &[]))), "provider `http` is a http-server");
    check(&|desired| drop(desired.put_link(link("a", "kv", Contract::KeyValue, &[("bucket", "LAT_x")]))), "control plane");
    check(
        &|desired| {
            let values = [("subscription", "edge.sensor.eu,edge.sensor.*"), ("delivery", "jetstream")];
            desired.put_link(link("a", "messaging", Contract::Messaging, &values));
        },
        "overlap",
    );
}

#[test]
fn a_large_lattice_is_planned_in_waves() {
    let mut desired = desired();
    let host = |n: usize| {
        let letters: String = format!("{n:03}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
        HostId::new(format!("N{letters}{}", "A".repeat(52))).unwrap()
    };
    desired.components.get_mut("a").unwrap().hosts = (0..1000).map(host).collect();
    let first = plan(&desired, Revision(1), &Inventory::default(), &Verdicts::default(), &PlanState::default());
    assert!(first.more && first.changed.len() == MAX_CHANGED_HOSTS);
    let state = PlanState::default().after(&first, Revision(1));
    let second = plan(&desired, Revision(1), &Inventory::default(), &Verdicts::default(), &state);
    assert!(!second.more && second.changed.len() == 100 && second.head.generation == Generation(2));
}
