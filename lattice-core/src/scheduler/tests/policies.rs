//! What policies, and what hosts say of them, make a scheduler do.

use super::*;
use crate::plan::tests::policies::enforcing;

/// A replica at rest in a lattice whose hosts enforce no policy yet; `a` uses a key-value store.
fn under_policies() -> (Store, Scheduler) {
    let (mut store, mut replica) = (Store::default(), Scheduler::new("n", 0));
    store.edit(add("a", 2));
    store.edit(|desired| {
        let kv = crate::id::ProviderId::new("kv").unwrap();
        let kind = wire::assignment::ProviderKind::KvNats;
        let spec = crate::desired::ProviderSpec { image: "builtin://kv-nats".into(), kind, hosts: [].into(), config: vec![] };
        desired.start_provider(kv, spec).unwrap();
        desired.put_link(plan::tests::link("a", "kv", crate::contract::Contract::KeyValue, &[("bucket", "edge-data")]));
    });
    for n in [0, 1] {
        beat(&mut replica, &enforcing(HostReport { seq: 1, ..host(n) }, &[]), 0);
    }
    store.run(&mut replica, 0);
    store.run(&mut replica, GATHER_MS);
    assert_eq!(shares(&replica).len(), 2);
    (store, replica)
}

#[test]
fn a_policy_that_a_host_enforces_moves_what_it_stopped_and_its_end_brings_nothing_back_that_runs() {
    let (mut store, mut replica) = under_policies();
    store.put(1, "host=NEDGE01", &["wasi:keyvalue"]);
    replica.handle_policy_changed();
    store.run(&mut replica, 1_000);
    assert_eq!((shares(&replica).len(), store.heads.len()), (2, 1), "NEDGE01 has not said that it enforces it");
    let opinions = replica.explain(&actor("a"), 1_000).unwrap().hosts;
    let why = "capability denied: wasmcloud:keyvalue: policy edge v1 denies it (rule `wasi:keyvalue`)";
    assert_eq!(opinions[1].rejected.as_deref(), Some(why));
    beat(&mut replica, &enforcing(HostReport { seq: 2, ..host(0) }, &[bundle(1, "all", &[])]), 1_100);
    store.run(&mut replica, 1_100 + GATHER_MS - 1);
    assert_eq!(shares(&replica).len(), 2, "others may say so, too, in a moment");
    store.run(&mut replica, 1_100 + GATHER_MS);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(1), 2)]));
    assert!(store.records.last().unwrap()["a"].reasons[0].ends_with(&format!("; NEDGE01 has stopped it: {why}")), "{:?}", store.records);
    store.put(2, "host=NEDGE01", &[]);
    replica.handle_policy_changed();
    store.run(&mut replica, 2_000);
    assert_eq!(store.heads.len(), 2);
}

#[test]
fn what_waits_for_a_policy_is_placed_when_there_is_another_one() {
    let (mut store, mut replica) = under_policies();
    store.put(1, "all", &["wasi:keyvalue"]);
    replica.handle_policy_changed();
    let revision = store.edit(|desired| desired.components.get_mut("a").unwrap().max = 4);
    replica.handle_desired_changed();
    store.run(&mut replica, 1_000);
    let trouble = &replica.planned(revision).unwrap().troubles["a"];
    assert_eq!(trouble.code, ErrorCode::CapabilityDenied);
    store.put(2, "all", &[]);
    replica.handle_policy_changed();
    store.run(&mut replica, 1_010);
    assert_eq!(shares(&replica).values().sum::<u32>(), 4);
    assert!(replica.planned(revision).unwrap().troubles.is_empty());
}

#[test]
fn a_policy_that_was_not_heard_of_is_found() {
    let (mut store, mut replica) = under_policies();
    store.edit(|desired| desired.components.get_mut("a").unwrap().max = 4);
    store.put(1, "host=NEDGE01", &["wasi:keyvalue"]);
    // By a host that has heard of it.
    beat(&mut replica, &enforcing(HostReport { seq: 2, ..host(0) }, &[bundle(1, "all", &[])]), 500);
    store.run(&mut replica, 500 + GATHER_MS);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(1), 2)]));
    // By a look at the store.
    store.put(2, "all", &["wasi:keyvalue"]);
    store.run(&mut replica, LOOK_EVERY_MS - 1);
    assert_eq!(replica.explain(&actor("a"), 600).unwrap().hosts[0].rejected, None);
    for n in [0, 1] {
        beat(&mut replica, &enforcing(HostReport { seq: 3, ..host(n) }, &[bundle(1, "all", &[])]), 2 * LOOK_EVERY_MS);
    }
    store.run(&mut replica, 2 * LOOK_EVERY_MS);
    let opinions = replica.explain(&actor("a"), 2 * LOOK_EVERY_MS).unwrap().hosts;
    assert!(opinions.iter().all(|host| host.rejected.as_ref().is_some_and(|why| why.contains("edge v2"))), "{opinions:?}");
}

#[test]
fn a_policy_that_makes_no_sense_keeps_no_other_from_its_effect() {
    let (mut store, mut replica) = under_policies();
    store.policies.insert("policy.broken".into(), b"{".to_vec());
    store.put(1, "host=NEDGE01", &["wasi:keyvalue"]);
    let entries: Vec<_> = store.policies.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
    let error = replica.handle_policies(entries, Revision(9)).unwrap_err();
    assert_eq!(error.key, "policy.broken");
    store.edit(|desired| desired.components.get_mut("a").unwrap().max = 4);
    replica.handle_desired_changed();
    store.run(&mut replica, 1_000);
    assert_eq!(shares(&replica), BTreeMap::from([(host_id(0), 1), (host_id(1), 3)]));
}

#[test]
fn tasks_go_nowhere_that_nothing_may_start() {
    let (mut store, mut replica) = under_policies();
    let mut lost = enforcing(HostReport { seq: 2, ..host(0) }, &[]);
    lost.policy.as_mut().unwrap().no_starts = Some("policy edge v1 expired 2026-01-01".into());
    beat(&mut replica, &lost, 10);
    store.run(&mut replica, 10);
    let task = serde_json::from_str::<TaskSpec>(r#"{"task_id": "t"}"#).unwrap();
    assert_eq!(replica.place(&task, 10).unwrap().node_id, "NEDGE02");
}
