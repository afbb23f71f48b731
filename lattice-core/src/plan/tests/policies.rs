//! What policies do to a plan.

use std::time::Instant;

use super::lattice::*;
use super::*;
use crate::needs::{Class, Needs};
use crate::policy::force::Preset;
use crate::policy::posted::Posted;
use crate::policy::report::{Enforced, Refusal};
use crate::policy::rules::Rule;
use crate::policy::scope::{Facts, Scope};
use crate::policy::tests::signed;
use crate::policy::{Bundle, SecurityPolicy};
use crate::subject;
use crate::trust::clock;
use crate::trust::testing::key;
use crate::wire::report::{ComponentState, HostReport};

/// The policy `edge`, which allows everything but `denied`, for the hosts of `scope`.
pub(crate) fn bundle(version: u64, scope: &str, denied: &[&str]) -> Bundle {
    policy("edge", version, scope, denied)
}

/// The host, as it reports when it enforces `bundles`.
pub(crate) fn enforcing(host: HostReport, bundles: &[Bundle]) -> HostReport {
    HostReport { policy: Some(said(&host, bundles)), ..host }
}

/// A policy that allows everything but `denied`, for the hosts of `scope`.
fn policy(id: &str, version: u64, scope: &str, denied: &[&str]) -> Bundle {
    let rules = |texts: &[&str]| texts.iter().map(|text| Rule::new(*text).unwrap()).collect();
    Bundle {
        policy: SecurityPolicy {
            policy_id: ConfigName::new(id).unwrap(),
            version,
            allowed_contracts: rules(&["*"]),
            denied_contracts: rules(denied),
            max_actor_memory_mb: None,
            network_restrictions: Vec::new(),
        },
        lattice: crate::id::LatticeName::new("default").unwrap(),
        scope: scope.parse::<Scope>().unwrap(),
        issued_at: 1,
        not_before: 1,
        expires: 2,
        issuer: key('A', 'B'),
        revoked_keys: BTreeSet::new(),
        allow_older: BTreeSet::new(),
    }
}

/// What is stored, as the plan reads it.
fn posted(bundles: &[Bundle]) -> Posted {
    let mut posted = Posted::default();
    for bundle in bundles {
        posted.insert(&subject::policy_key(&bundle.policy.policy_id), &signed(bundle)).unwrap();
    }
    posted
}

fn enforced() -> Enforced {
    Enforced {
        policies: BTreeMap::new(),
        elsewhere: BTreeMap::new(),
        refused: BTreeMap::new(),
        preset: Preset::Open,
        lost: None,
        no_starts: None,
        clock: clock::Standing::Trusted,
    }
}

/// What a host says that enforces `bundles`.
fn said(host: &HostReport, bundles: &[Bundle]) -> Enforced {
    let facts = Facts { id: &host.id, name: &host.name, region: &host.region, labels: &host.labels };
    let meant = bundles.iter().filter(|bundle| bundle.scope.covers(&facts));
    Enforced { policies: meant.map(|bundle| (bundle.policy.policy_id.clone(), bundle.policy.version)).collect(), ..enforced() }
}

impl Lattice {
    /// A policy is stored; no host has heard of it.
    fn post(&mut self, bundles: &[Bundle]) {
        self.policies = posted(bundles);
    }

    /// All hosts refuse what is stored as `bundle`, and say so.
    fn refuse(&mut self, bundle: &Bundle) {
        let refusal = Refusal::new(&signed(bundle), "A… does not sign policies here");
        (0..4).for_each(|n| self.says(n, |said| said.refused = [(bundle.policy.policy_id.clone(), refusal.clone())].into()));
    }

    /// All hosts enforce these policies and say so.
    fn acknowledge(&mut self, bundles: &[Bundle]) {
        for host in &mut self.hosts {
            host.policy = Some(said(host, bundles));
        }
    }

    fn put(&mut self, bundles: &[Bundle]) {
        self.post(bundles);
        self.acknowledge(bundles);
    }

    fn says(&mut self, n: usize, change: impl FnOnce(&mut Enforced)) {
        change(self.hosts[n].policy.get_or_insert_with(enforced));
    }

    fn why(&self, id: &str) -> Vec<String> {
        let found = explain(&self.desired, &self.inventory(), &self.verdicts, &self.state, &actor(id)).unwrap();
        let mut hosts: Vec<_> = found.hosts.into_iter().map(|host| (host.name, host.rejected.unwrap_or_default())).collect();
        hosts.sort();
        hosts.into_iter().map(|(_, why)| why).collect()
    }
}

/// Two hosts in `eu`, two in `ap`, all of which enforce no policy yet; `a` uses a key-value store.
fn stage(needs: Needs, max: u32) -> Lattice {
    let mut lattice = Lattice::new(four());
    lattice.desired = desired();
    lattice.set("a", with(needs, max));
    lattice.acknowledge(&[]);
    lattice
}

fn running(needs: Needs, max: u32) -> Lattice {
    let mut lattice = stage(needs, max);
    lattice.plan();
    lattice.apply();
    lattice
}

const DENIED: &str = "capability denied: wasmcloud:keyvalue: policy edge v1 denies it (rule `wasi:keyvalue`)";

#[test]
fn an_actor_is_not_placed_where_it_would_be_refused() {
    let mut lattice = stage(Needs::default(), 4);
    let bundles = [policy("edge", 1, "region=eu", &["wasi:keyvalue"])];
    // The hosts have not heard of it yet.
    lattice.post(&bundles);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(2, 2), (3, 2)]));
    assert_eq!(lattice.why("a"), [DENIED, DENIED, "", ""]);
    // What uses no key-value store may go anywhere.
    lattice.set("b", with(Needs::default(), 4));
    lattice.plan();
    assert!(lattice.at("b").contains_key(&0), "{:?}", lattice.at("b"));
}

#[test]
fn where_it_is_stopped_it_moves_once_the_host_says_so() {
    let mut lattice = running(Needs::default(), 4);
    assert_eq!(lattice.at("a").len(), 4);
    let bundles = [policy("edge", 1, "region=eu", &["wasi:keyvalue"])];
    lattice.post(&bundles);
    assert!(lattice.plan().is_empty(), "nobody enforces it yet");
    let report = lattice.hosts[0].clone();
    lattice.says(0, |policy| *policy = said(&report, &bundles));
    let plan = lattice.plan();
    assert_eq!(lattice.at("a").get(&0), None);
    assert_eq!(lattice.at("a").values().sum::<u32>(), 4);
    assert!(plan.choices["a"][0].reason.ends_with(&format!("; NEDGE01 has stopped it: {DENIED}")), "{:?}", plan.choices);
    lattice.acknowledge(&bundles);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(2, 2), (3, 2)]));
    lattice.apply();
    // Taking it back moves nothing: it runs.
    lattice.put(&[policy("edge", 2, "region=eu", &[])]);
    assert!(lattice.plan().is_empty());
}

#[test]
fn what_nobody_admits_waits_where_it_was_and_is_placed_again_when_that_is_over() {
    let mut lattice = running(Needs::default(), 3);
    lattice.put(&[policy("edge", 1, "all", &["wasi:keyvalue"])]);
    let plan = lattice.plan();
    assert!(plan.is_empty(), "there is nowhere else that it could go");
    let problem = plan.troubles["a"].problem(&actor("a"));
    assert_eq!((problem.code, problem.code.exit_code()), (ErrorCode::CapabilityDenied, 6));
    assert_eq!(problem.message, format!("{DENIED}; no host may run 3 more of a"));
    assert_eq!(problem.causes.len(), 4);
    // What did not run before has no place at all, until the policy is taken back.
    lattice.set("a", with(Needs::default(), 5));
    lattice.plan();
    assert_eq!(lattice.at("a").values().sum::<u32>(), 3);
    lattice.put(&[policy("edge", 2, "all", &[])]);
    assert!(lattice.plan().troubles.is_empty());
    assert_eq!(lattice.at("a").values().sum::<u32>(), 5);
}

#[test]
fn a_document_that_hosts_refuse_takes_nothing_away() {
    let forged = [policy("edge", 9, "all", &["*"])];
    let mut lattice = running(Needs::default(), 4);
    lattice.post(&forged);
    assert!(lattice.plan().is_empty());
    lattice.refuse(&forged[0]);
    assert!(lattice.plan().is_empty());
    lattice.set("a", with(Needs::default(), 6));
    let plan = lattice.plan();
    assert!(plan.troubles.is_empty(), "{:?}", plan.troubles);
    // They hold on to an older version, of which the plan knows nothing.
    for n in 0..4 {
        lattice.says(n, |said| said.policies.extend([(ConfigName::new("edge").unwrap(), 8)]));
    }
    lattice.set("a", with(Needs::default(), 8));
    assert!(lattice.plan().troubles.is_empty());
}

#[test]
fn a_document_under_the_number_that_hosts_enforce_is_not_what_they_enforce_if_they_refuse_it() {
    let forged = policy("edge", 1, "region=eu", &["*"]);
    let mut lattice = running(Needs::default(), 4);
    lattice.put(&[policy("edge", 1, "all", &[])]);
    lattice.refuse(&forged);
    lattice.post(&[forged]);
    assert!(lattice.plan().is_empty());
}

#[test]
fn what_follows_a_document_that_hosts_refuse_counts_at_once() {
    let mut lattice = stage(Needs::default(), 4);
    lattice.refuse(&policy("edge", 9, "all", &[]));
    lattice.post(&[policy("edge", 1, "region=eu", &["wasi:keyvalue"])]);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(2, 2), (3, 2)]));
}

#[test]
fn hosts_that_say_nothing_of_policy_are_not_judged_by_it() {
    let mut lattice = running(Needs::default(), 4);
    lattice.hosts.iter_mut().for_each(|host| host.policy = None);
    lattice.post(&[policy("edge", 1, "all", &["*"])]);
    assert!(lattice.plan().troubles.is_empty());
    // Nor is one that is not heard.
    lattice.acknowledge(&[policy("edge", 1, "all", &["*"])]);
    lattice.silence(0);
    lattice.plan();
    assert_eq!(lattice.at("a").get(&0), Some(&1));
}

#[test]
fn system_actors_are_beyond_policy() {
    let mut lattice = running(Needs::default(), 1);
    let id = SystemActor::Scheduler.id().unwrap();
    let spec = ComponentSpec { system: Some(SystemActor::Scheduler), ..component(&[], 2) };
    lattice.desired.components.insert(id.clone(), spec);
    lattice.put(&[policy("edge", 1, "all", &["*"])]);
    (0..4).for_each(|n| lattice.says(n, |policy| policy.no_starts = Some("nothing starts".into())));
    lattice.plan();
    assert_eq!(lattice.at(id.as_str()).values().sum::<u32>(), 2);
}

#[test]
fn a_host_without_policy_may_deny_everything_by_its_own_preset() {
    let mut lattice = stage(Needs::default(), 4);
    for n in [0, 1] {
        lattice.says(n, |policy| policy.preset = Preset::Deny);
    }
    lattice.plan();
    assert_eq!(lattice.at("a").keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert!(lattice.why("a")[0].contains("no policy has reached this host yet"), "{:?}", lattice.why("a"));
    // The first policy that allows it opens those hosts, before they have it.
    lattice.post(&[policy("edge", 1, "all", &[])]);
    lattice.set("a", with(Needs::default(), 8));
    lattice.plan();
    assert_eq!(lattice.at("a").len(), 4);
}

#[test]
fn of_an_expired_policy_it_is_the_hosts_that_know() {
    let bundles = [policy("edge", 1, "all", &[])];
    let mut lattice = running(Needs::default(), 4);
    lattice.put(&bundles);
    lattice.says(0, |policy| policy.no_starts = Some("policy edge v1 expired 1970-01-01".into()));
    assert!(lattice.plan().is_empty(), "what runs goes on");
    lattice.set("a", with(Needs::default(), 8));
    lattice.plan();
    assert_eq!(lattice.at("a")[&0], 1, "nothing new starts there");
    lattice.apply();
    // After a restart it does not run, and would not be started.
    lattice.hosts[0].components.get_mut("a").unwrap().state = ComponentState::Failed("expired".into());
    lattice.plan();
    assert_eq!(lattice.at("a").get(&0), None);
    assert_eq!(lattice.at("a").values().sum::<u32>(), 8);
}

#[test]
fn a_host_that_has_lost_its_policies_keeps_nothing() {
    let mut lattice = running(Needs::default(), 4);
    lattice.put(&[policy("edge", 1, "all", &[])]);
    lattice.says(1, |policy| policy.lost = Some("version 1 of edge cannot be read any more".into()));
    lattice.plan();
    assert_eq!(lattice.at("a").get(&1), None);
    assert_eq!(lattice.why("a")[1], "version 1 of edge cannot be read any more: nothing is allowed there");
}

#[test]
fn a_cap_on_memory_is_held_against_what_was_asked_for() {
    let mut lattice = running(Needs { memory_mb: 100, ..Needs::default() }, 4);
    let mut capped = policy("edge", 1, "region=eu", &[]);
    capped.policy.max_actor_memory_mb = Some(64);
    lattice.put(&[capped]);
    lattice.plan();
    assert_eq!(lattice.at("a"), BTreeMap::from([(2, 2), (3, 2)]));
    assert_eq!(lattice.why("a")[0], "needs 100 MiB, policy edge v1 allows an actor 64 MiB");
}

#[test]
fn slots_leave_a_host_that_refuses_them() {
    let allowed = |class: Class| {
        let mut lattice = stage(Needs { class, slots: 2, ..Needs::default() }, 2);
        lattice.plan();
        lattice.apply();
        (lattice.slots("a")[&0].0, lattice)
    };
    let (owner, mut lattice) = allowed(Class::Fenced);
    let host = format!("host=NEDGE0{}", owner + 1);
    let bundles = [policy("edge", 1, &host, &["wasi:keyvalue"])];
    lattice.put(&bundles);
    lattice.plan();
    assert_ne!(lattice.slots("a")[&0].0, owner, "it is fenced: it moves within one plan");
    let (owner, mut lattice) = allowed(Class::Strict);
    lattice.put(&bundles);
    lattice.plan();
    assert_eq!(lattice.slots("a")[&0].0, -owner - 1, "it is strict: its host has to say that it does not run it");
    lattice.apply();
    lattice.plan();
    assert!(lattice.slots("a")[&0].0 >= 0 && lattice.slots("a")[&0].0 != owner, "{:?}", lattice.slots("a"));
    // With nowhere to go each stays with its host.
    for class in [Class::Fenced, Class::Strict] {
        let (_, mut lattice) = allowed(class);
        let before = lattice.slots("a");
        lattice.put(&[policy("edge", 1, "all", &["wasi:keyvalue"])]);
        lattice.plan();
        assert_eq!(lattice.slots("a"), before, "{class:?}");
        lattice.put(&[policy("edge", 2, "all", &[])]);
        assert!(lattice.plan().is_empty(), "{class:?}");
    }
}

#[test]
fn daemons_and_autonomous_actors_stay_with_their_hosts() {
    for (daemon, class) in [(true, Class::Shared), (true, Class::Fenced), (false, Class::Autonomous)] {
        let mut lattice = running(Needs { daemon, class, ..Needs::default() }, 1);
        let before = (lattice.at("a"), lattice.slots("a"));
        lattice.put(&[policy("edge", 1, "all", &["wasi:keyvalue"])]);
        assert!(lattice.plan().is_empty(), "{class:?}");
        lattice.put(&[policy("edge", 2, "all", &[])]);
        assert!(lattice.plan().is_empty());
        assert_eq!((lattice.at("a"), lattice.slots("a")), before, "{class:?}");
    }
}

#[test]
fn what_policies_come_to_does_not_depend_on_rules_that_decide_nothing() {
    let mut full = policy("edge", 1, "all", &["wasi:http*", "wasmcloud:messaging/handler", "*", "wasi:keyvalue"]);
    full.policy.allowed_contracts = (0..500).map(|n| Rule::new(format!("x:{n}")).unwrap()).collect();
    full.policy.allowed_contracts.push(Rule::new("wasi:*").unwrap());
    let posted = posted(std::slice::from_ref(&full));
    let kept = posted.bundles().next().unwrap();
    assert!(kept.policy.allowed_contracts.len() == 1 && kept.policy.denied_contracts.len() == 3, "{kept:?}");
    let time = clock::Time::exact(0);
    let force = crate::policy::force::InForce::of_bundles([&full], Preset::Open, time);
    assert_eq!(posted.in_force(1, Preset::Open), force);
}

/// What a plan of many actors costs, with and without policies: `--nocapture` shows it, `PLAN_WHOLE=1` for 10,000 actors.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn a_plan_costs_the_same_with_policies() {
    let letters = |n: usize| format!("{n:05}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect::<String>();
    let host = |n: usize| HostReport {
        id: HostId::new(format!("N{}{}", letters(n), "A".repeat(50))).unwrap(),
        name: crate::id::HostName::new(format!("H{n:05}")).unwrap(),
        policy: Some(enforced()),
        ..host(0, ["eu", "ap", "us"][n % 3])
    };
    let (hosts, actors) = if std::env::var_os("PLAN_WHOLE").is_some() { (1_000, 10_000) } else { (100, 1_000) };
    let mut desired = Desired::default();
    for n in 0..actors {
        let needs = Needs { cpu: 5, memory_mb: 5, ..Needs::default() };
        desired.components.insert(actor(&format!("a{n:05}")), with(needs, 2));
    }
    let ten: Vec<Bundle> = (0..10).map(|n| policy(&format!("p{n}"), 1, ["all", "region=eu"][n % 2], &["wasi:http"])).collect();
    let one_denies = [policy("edge", 1, "region=eu", &["*"])];
    let cases: [(&str, &[Bundle]); 3] = [("none", &[]), ("ten that deny http", &ten), ("one that shuts out a third", &one_denies)];
    for (name, bundles) in cases {
        let reports = (0..hosts).map(host).map(|report| HostReport { policy: Some(said(&report, bundles)), ..report });
        let inventory = Inventory::new(reports, []).under(posted(bundles));
        let start = Instant::now();
        let first = plan(&desired, Revision(1), &inventory, &Verdicts::default(), &PlanState::default());
        let placed = start.elapsed();
        assert!(first.troubles.is_empty(), "{name}");
        let state = PlanState::default().after(&first, Revision(1));
        let start = Instant::now();
        plan(&desired, Revision(1), &inventory, &Verdicts::default(), &state);
        println!("{actors} actors on {hosts} hosts, policies {name}: {placed:?}, again {:?}", start.elapsed());
    }
}
