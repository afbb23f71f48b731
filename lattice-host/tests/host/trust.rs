//! Signed actors and policies in force: what one host does about them, with and without a network.

mod network;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream;
use bytes::Bytes;
use lattice_core::claims::sections::{self, CLAIM_SECTION, Carried};
use lattice_core::claims::{Claim, Permit};
use lattice_core::contract::Contract;
use lattice_core::id::{ActorId, ConfigName, HostId, LatticeName, Revision};
use lattice_core::policy::rules::Rule;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::subject;
use lattice_core::timing::MAX_ANSWERED_FAILURES;
use lattice_core::trust::PublicKey;
use lattice_core::trust::envelope::{Purpose, seal, signed_bytes};
use lattice_core::wire::assignment::ProviderKind;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::report::{ComponentState, HostReport};
use lattice_nats::{ConnectOptions, Lattice, connect};
use nkeys::KeyPair;
use rustix::process::Signal;

use crate::world::{HostProcess, World, actor, event, eventually, free_port, program};

/// Who signs.
struct Issuer {
    pair: KeyPair,
    key: PublicKey,
}

impl Issuer {
    fn new() -> Self {
        let pair = KeyPair::new_account();
        let key = PublicKey::new(pair.public_key()).unwrap();
        Self { pair, key }
    }

    fn seal(&self, purpose: Purpose, body: &[u8]) -> Vec<u8> {
        seal(&self.key, &self.pair.sign(&signed_bytes(purpose, body)).unwrap(), body)
    }

    /// A program with a claim, which `edit` may change before it is signed.
    fn sign(&self, name: &str, edit: impl FnOnce(&mut Claim)) -> Bytes {
        let mut wasm = program(name).to_vec();
        let mut claim = Claim {
            name: name.to_owned(),
            version: "1.0.0".parse().unwrap(),
            revision: 0,
            digest: Carried::read(&wasm).unwrap().digest,
            allow: ["wasmcloud:keyvalue", "wasmcloud:messaging"].map(str::to_owned).into(),
            issued_at: now_s(),
            not_before: now_s() - 3600,
            expires: now_s() + 3600,
            issuer: self.key.clone(),
            subject: PublicKey::new(KeyPair::new_module().public_key()).unwrap(),
            lattice: None,
        };
        edit(&mut claim);
        sections::append(&mut wasm, CLAIM_SECTION, &self.seal(Purpose::Claim, &claim.encode()));
        wasm.into()
    }

    /// Puts a policy of the name `edge`.
    async fn put(&self, world: &World, version: u64, denied: &[&str], edit: impl FnOnce(&mut Bundle)) {
        self.put_as(world, &edge(), version, denied, edit).await;
    }

    async fn put_as(&self, world: &World, policy: &ConfigName, version: u64, denied: &[&str], edit: impl FnOnce(&mut Bundle)) {
        let mut bundle = Bundle {
            policy: SecurityPolicy {
                policy_id: policy.clone(),
                version,
                allowed_contracts: vec![Rule::new("*").unwrap()],
                denied_contracts: denied.iter().map(|rule| Rule::new(*rule).unwrap()).collect(),
                max_actor_memory_mb: None,
                network_restrictions: Vec::new(),
            },
            lattice: LatticeName::new("default").unwrap(),
            scope: Scope::All,
            issued_at: now_s(),
            not_before: now_s() - 3600,
            expires: now_s() + 3600,
            issuer: self.key.clone(),
            revoked_keys: BTreeSet::new(),
            allow_older: BTreeSet::new(),
        };
        edit(&mut bundle);
        let (_, revision): (_, Revision) = world.lattice.read_policy(policy).await.unwrap();
        world.lattice.commit_policy(policy, self.seal(Purpose::Policy, &bundle.encode()).into(), revision).await.unwrap();
    }

    /// The same with so much more to read that a plan is there before it.
    async fn put_much(&self, world: &World, denied: &[&str]) {
        self.put(world, 1, denied, |_| {}).await;
        for number in 0..12 {
            let policy = ConfigName::new(format!("large-{number}")).unwrap();
            let rule = |n: u32| Rule::new(format!("nobody:has-such-a-contract-{n}/whatever-it-is-called")).unwrap();
            self.put_as(world, &policy, 1, &[], |bundle| bundle.policy.denied_contracts = (0..9_000).map(rule).collect()).await;
        }
    }
}

fn edge() -> ConfigName {
    ConfigName::new("edge").unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl World {
    /// Wants `wasm` as an actor on `host`, linked to messaging.
    async fn wants(&mut self, id: &str, wasm: Bytes, host: &HostId) {
        let digest = self.lattice.put_artifact(wasm).await.unwrap();
        let spec = lattice_core::desired::ComponentSpec {
            hosts: BTreeSet::from([host.clone()]),
            ..lattice_core::desired::ComponentSpec::new("file:///code/a.wasm", digest)
        };
        self.desired.start_component(actor(id), spec, Some(1), true).unwrap();
        self.link(id, ProviderKind::MessagingNats, &[("subscription", &format!("site.{id}"))]).await;
    }

    /// The report of NEDGE01 as soon as `id` is in a state that starts with `state`.
    async fn until_state(&self, id: &str, state: &str) -> HostReport {
        let id: ActorId = actor(id);
        self.report("NEDGE01", |report| report.components.get(&id).is_some_and(|found| found.state.to_string().starts_with(state))).await
    }

    /// The report of NEDGE01 as soon as it enforces this version.
    async fn enforced(&self, version: u64) -> HostReport {
        let is = |report: &HostReport| report.policy.as_ref().is_some_and(|policy| policy.policies.get(&edge()) == Some(&version));
        self.report("NEDGE01", is).await
    }

    async fn trusting(&self, issuer: &Issuer) -> (HostProcess, HostReport) {
        self.joined_with("NEDGE01", &["--trust-actors", issuer.key.as_str()]).await
    }
}

async fn stopped(mut host: HostProcess) {
    host.signal(Signal::TERM);
    assert_eq!(host.ended().await.code(), Some(0), "{}", host.log());
}

/// Starts the host again with an empty log.
fn restarted(world: &World, flags: &[&str]) -> HostProcess {
    let dir = world.host_dir("NEDGE01");
    std::fs::remove_file(dir.join("host.log")).unwrap();
    HostProcess::start(&dir, flags)
}

/// Waits until the host's log holds `text`.
async fn logged(host: &HostProcess, text: &str) {
    eventually(text, async || host.log().contains(text).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_trusted_issuer_signed_runs() {
    let mut world = World::start().await;
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let mut events = world.events().await;
    let (_host, report) = world.trusting(&issuer).await;
    let mut tampered = issuer.sign("echo", |_| {}).to_vec();
    sections::append(&mut tampered, "more", b"code");
    let mut twice = issuer.sign("echo", |_| {}).to_vec();
    sections::append(&mut twice, CLAIM_SECTION, b"{}");
    let other = LatticeName::new("other").unwrap();
    let refused = [
        ("unsigned", program("echo"), "it is not signed"),
        ("foreign", stranger.sign("echo", |_| {}), "is not trusted here"),
        ("tampered", tampered.into(), "the code was changed after it was signed"),
        ("twice", twice.into(), "more than one section"),
        ("forged", issuer.sign("echo", |claim| claim.issuer = stranger.key.clone()), "wrong signature"),
        ("expired", issuer.sign("echo", |claim| (claim.not_before, claim.expires) = (now_s() - 100, now_s() - 1)), "expired"),
        ("early", issuer.sign("echo", |claim| claim.not_before = now_s() + 1000), "not valid before"),
        ("other", issuer.sign("echo", |claim| claim.lattice = Some(other)), "is signed for lattice `other`"),
    ];
    let whys = refused.iter().map(|(id, _, why)| (*id, *why)).collect::<Vec<_>>();
    for (id, wasm, _) in refused {
        world.wants(id, wasm, &report.id).await;
    }
    world.wants("good", issuer.sign("echo", |_| {}), &report.id).await;
    let report = world.running("NEDGE01", "good").await;
    assert_eq!(world.request("site.good", "hello").await, "hello");
    let refused = event(&mut events, |event| event.kind == EventKind::ClaimRefused && event.details["actor"] == "unsigned").await;
    assert!(refused.message.contains("invalid claim: it is not signed"), "{refused:?}");
    for (id, why) in whys {
        let component = &report.components[&actor(id)];
        assert!(component.held, "{id}: nothing that the actor did");
        let state = component.state.to_string();
        assert!(state.starts_with("failed: actor start failed: invalid claim: ") && state.contains(why), "{id}: {state}");
        assert!(state.contains("lattice-ctl claim sign /code/a.wasm"), "{id}: {state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_code_is_refused_unless_a_policy_lets_it_in() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let mut events = world.events().await;
    let (host, report) = world.trusting(&issuer).await;
    let old = issuer.sign("echo", |_| {});
    let permit = Permit { name: "echo".to_owned(), digest: Carried::read(&old).unwrap().digest };
    let newer = issuer.sign("kv-loop", |claim| {
        "echo".clone_into(&mut claim.name);
        claim.version = "2.0.0".parse().unwrap();
    });
    world.wants("new", newer, &report.id).await;
    world.commit().await;
    world.until_state("new", "waiting: no link for wasi:keyvalue").await;
    // What was seen outlives the host.
    stopped(host).await;
    let _host = HostProcess::start(&world.host_dir("NEDGE01"), &[]);
    world.wants("old", old, &report.id).await;
    world.report("NEDGE01", |again| again.incarnation != report.incarnation).await;
    world.commit().await;
    let state = world.until_state("old", "failed").await.components[&actor("old")].state.to_string();
    assert!(state.contains("echo 1.0.0 rev 0 is older than 2.0.0 rev 0, which was seen here"), "{state}");
    issuer.put(&world, 1, &[], |bundle| bundle.allow_older = BTreeSet::from([permit])).await;
    world.until_state("old", "running").await;
    let forced = event(&mut events, |event| event.kind == EventKind::ClaimForced).await;
    assert!(forced.message.contains("2.0.0 rev 0 was seen here: a policy lets it in"), "{forced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_the_claim_does_not_allow_is_not_made() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (_host, report) = world.trusting(&issuer).await;
    world.wants("kv", issuer.sign("kv-user", |claim| claim.allow = BTreeSet::from(["wasmcloud:messaging".to_owned()])), &report.id).await;
    world.link("kv", ProviderKind::KvMemory, &[("bucket", "a")]).await;
    world.commit().await;
    let component = world.until_state("kv", "failed").await.components.remove(&actor("kv")).unwrap();
    assert!(component.held, "nothing that the actor did");
    let state = component.state.to_string();
    assert!(state.starts_with("failed: capability denied: wasmcloud:keyvalue: the claim of kv does not allow it"), "{state}");
    assert!(state.contains("--allow wasmcloud:keyvalue,wasmcloud:messaging"), "{state}");

    // Nor is it for an actor that runs: that one takes no messages any more, until the link is gone.
    let other = issuer.sign("echo", |claim| claim.allow = BTreeSet::from(["wasmcloud:messaging".to_owned()]));
    world.wants("echo", other, &report.id).await;
    world.running("NEDGE01", "echo").await;
    assert_eq!(world.request("site.echo", "hello").await, "hello");
    world.link("echo", ProviderKind::KvMemory, &[("bucket", "a")]).await;
    world.commit().await;
    world.until_state("echo", "failed: capability denied: wasmcloud:keyvalue").await;
    let client = world.lattice.connection().client();
    eventually("nobody answers", async || client.request("site.echo", "hello".into()).await.err()).await;
    world.unlink("echo", Contract::KeyValue);
    world.running("NEDGE01", "echo").await;
    assert_eq!(world.request("site.echo", "hello").await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_what_it_signed() {
    let mut world = World::start().await;
    let (issuer, admin) = (Issuer::new(), Issuer::new());
    let flags = ["--trust-actors", issuer.key.as_str(), "--trust-policies", admin.key.as_str()];
    let (_host, report) = world.joined_with("NEDGE01", &flags).await;
    world.wants("good", issuer.sign("echo", |_| {}), &report.id).await;
    world.running("NEDGE01", "good").await;
    admin.put(&world, 1, &[], |bundle| bundle.revoked_keys = BTreeSet::from([issuer.key.clone()])).await;
    let state = world.until_state("good", "failed").await.components[&actor("good")].state.to_string();
    assert!(state.contains("was revoked"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_contract_stops_the_actor_until_a_policy_allows_it_again() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let mut events = world.events().await;
    let (host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    world.wants("kv", program("kv-user"), &report.id).await;
    world.link("kv", ProviderKind::KvMemory, &[("bucket", "a")]).await;
    world.wants("echo", program("echo"), &report.id).await;
    world.running("NEDGE01", "kv").await;
    issuer.put(&world, 1, &[], |_| {}).await;
    world.enforced(1).await;
    assert_eq!(world.request("site.kv", "set a 1").await, "ok");

    issuer.put(&world, 2, &["wasmcloud:keyvalue"], |_| {}).await;
    let report = world.until_state("kv", "failed").await;
    let state = report.components[&actor("kv")].state.to_string();
    assert!(state.starts_with("failed: capability denied: wasmcloud:keyvalue: policy edge v2 denies it"), "{state}");
    assert_eq!(report.components[&actor("echo")].state, ComponentState::Running, "who needs it not runs on");
    world.enforced(2).await;
    let told = event(&mut events, |event| event.kind == EventKind::PolicyStopped).await;
    assert!(told.message.contains("kv stopped: capability denied: wasmcloud:keyvalue: policy edge v2 denies it"), "{told:?}");
    assert_eq!(told.details["policies"], "edge v2");

    assert!(host.log().contains("audit: not allowed to run: failed: capability denied: wasmcloud:keyvalue"), "{}", host.log());

    // An older one, and another one under the same number, change nothing.
    issuer.put(&world, 1, &[], |_| {}).await;
    let refused = event(&mut events, |event| event.kind == EventKind::PolicyRefused).await;
    assert!(refused.message.contains("is older than 2"), "{refused:?}");
    issuer.put(&world, 2, &[], |_| {}).await;
    let refused = event(&mut events, |event| event.kind == EventKind::PolicyRefused).await;
    assert!(refused.message.contains("other content"), "{refused:?}");
    world.until_state("kv", "failed").await;

    issuer.put(&world, 3, &[], |_| {}).await;
    world.until_state("kv", "running").await;
    assert_eq!(world.request("site.kv", "set a 2").await, "ok");
    event(&mut events, |event| event.kind == EventKind::PolicyResumed && event.message.contains("kv")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_keeps_from_an_actor_waits_and_is_nobody_s_fault() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (_host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    // Two ways in, so that it runs on when one of them is shut.
    world.actor("doors", "two-doors", &report.id, 1).await;
    world.link("doors", ProviderKind::HttpServer, &[("port", &free_port().to_string())]).await;
    world.link("doors", ProviderKind::MessagingNats, &[("subscription", "edge.sensor.eu"), ("delivery", "jetstream")]).await;
    world.running("NEDGE01", "doors").await;
    issuer.put(&world, 1, &["wasmcloud:messaging/handler"], |_| {}).await;
    world.enforced(1).await;
    world.store("edge.sensor.eu", "reading").await;
    let often = u64::from(MAX_ANSWERED_FAILURES) + 1;
    let report = world.report("NEDGE01", |report| report.components[&actor("doors")].failed >= often).await;
    let doors = &report.components[&actor("doors")];
    assert_eq!((&doors.state, doors.crashes, doors.handled), (&ComponentState::Running, 0, 0), "{doors:?}");
    issuer.put(&world, 2, &[], |_| {}).await;
    world.consumed(1).await;
    // A dead letter would be done with as well, and handled by nobody.
    world.report("NEDGE01", |report| report.components[&actor("doors")].handled == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_host_complies_before_it_starts_anything() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    world.wants("kv", program("kv-user"), &report.id).await;
    world.link("kv", ProviderKind::KvMemory, &[("bucket", "a")]).await;
    world.running("NEDGE01", "kv").await;
    stopped(host).await;
    issuer.put_much(&world, &["wasmcloud:keyvalue"]).await;
    let mut events = world.events().await;
    let _host = HostProcess::start(&world.host_dir("NEDGE01"), &[]);
    let first = event(&mut events, |event| matches!(event.kind, EventKind::ActorRunning | EventKind::ActorFailed)).await;
    assert_eq!(first.kind, EventKind::ActorFailed, "{first:?}");
    assert!(first.message.contains("capability denied: wasmcloud:keyvalue"), "{first:?}");
    world.enforced(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_cut_off_complies_before_it_follows_the_plan() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    // Its code is in memory already, so that nothing but the policies is waited for.
    for id in ["known", "kv"] {
        world.wants(id, program("kv-user"), &report.id).await;
        world.link(id, ProviderKind::KvMemory, &[("bucket", "a")]).await;
        if id == "known" {
            world.running("NEDGE01", id).await;
        }
    }
    let (plan, head) = world.planned().await;

    // Where the host cannot hear it, on another port, the plan is committed and the policy is put.
    let port = world.stop_server().await;
    world.start_server(0).await;
    let elsewhere = connect(&ConnectOptions::new(world.server.as_ref().unwrap().url(), "test")).await.unwrap();
    let here = std::mem::replace(&mut world.lattice, Lattice::new(elsewhere, LatticeName::new("default").unwrap()));
    issuer.put_much(&world, &["wasmcloud:keyvalue"]).await;
    world.lattice.commit_plan(&plan, head).await.unwrap();
    world.lattice = here;
    world.stop_server().await;
    world.start_server(port).await;

    logged(&host, "actor kv failed: capability denied: wasmcloud:keyvalue").await;
    assert!(!host.log().contains("actor kv runs"), "{}", host.log());
    world.enforced(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_the_policies_of_last_time_hold() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    world.wants("kv", program("kv-user"), &report.id).await;
    world.link("kv", ProviderKind::KvMemory, &[("bucket", "a")]).await;
    world.wants("echo", program("echo"), &report.id).await;
    issuer.put(&world, 1, &["wasmcloud:keyvalue"], |_| {}).await;
    world.enforced(1).await;
    let generation = world.commit().await;
    world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    stopped(host).await;
    let port = world.stop_server().await;

    let host = restarted(&world, &[]);
    logged(&host, "actor echo runs").await;
    logged(&host, "actor kv failed: capability denied: wasmcloud:keyvalue: policy edge v1 denies it").await;
    stopped(host).await;

    // Half a file is no file that is not there: nothing starts until the bus is back.
    for (file, why) in [("policies.json", "the policies cannot be read"), ("marks.json", "the versions that were seen cannot be read")] {
        let path = world.host_dir("NEDGE01").join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let host = restarted(&world, &[]);
        logged(&host, &format!("until the policies were read again: {why}")).await;
        logged(&host, "actor echo failed: ").await;
        assert!(!host.log().contains("actor echo runs"), "{}", host.log());
        stopped(host).await;
        std::fs::write(&path, &whole).unwrap();
    }
    // A file that is gone is missed by the other one.
    std::fs::remove_file(world.host_dir("NEDGE01").join("policies.json")).unwrap();
    let host = restarted(&world, &[]);
    logged(&host, "version 1 of edge was in force here and cannot be read").await;
    world.start_server(port).await;
    world.until_state("echo", "running").await;
    let report = world.until_state("kv", "failed").await;
    assert_eq!(report.policy.unwrap().lost, None);
}

/// The policies are there and cannot be read any more: their stream makes room for no other reader.
async fn shut_policies(world: &World) {
    let bucket = subject::policy_bucket(world.lattice.name());
    let (jetstream, name) = (world.lattice.connection().jetstream(), subject::bucket_stream(&bucket));
    jetstream.delete_stream(&name).await.unwrap();
    let config = stream::Config { name, subjects: vec![subject::bucket_key(&bucket, ">")], max_consumers: 1, ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    stream.create_consumer(pull::Config { durable_name: Some("only".to_owned()), ..Default::default() }).await.unwrap();
    assert!(world.lattice.read_policies().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_policies_cannot_be_read_the_plan_is_followed_by_those_of_last_time() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    issuer.put(&world, 1, &["wasmcloud:keyvalue"], |_| {}).await;
    world.enforced(1).await;
    stopped(host).await;
    shut_policies(&world).await;
    world.wants("echo", program("echo"), &report.id).await;
    world.commit().await;
    let host = restarted(&world, &[]);
    assert_eq!(world.until_state("echo", "running").await.policy.unwrap().policies[&edge()], 1);
    stopped(host).await;

    // Nor is it forgotten when the connection goes while it waits.
    std::fs::remove_file(world.host_dir("NEDGE01").join("assignment.json")).unwrap();
    let host = restarted(&world, &[]);
    logged(&host, "plan read").await;
    let port = world.stop_server().await;
    logged(&host, "actor echo runs").await;
    world.start_server(port).await;
    world.until_state("echo", "running").await;
    stopped(host).await;

    let path = world.host_dir("NEDGE01").join("policies.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let mut events = world.events().await;
    let _host = restarted(&world, &[]);
    let lost = event(&mut events, |event| event.kind == EventKind::TrustLost).await;
    assert!(lost.message.contains("the policies cannot be read"), "{lost:?}");
    let state = world.until_state("echo", "failed").await.components[&actor("echo")].state.to_string();
    assert!(state.contains("nothing is allowed until the host has its policies again"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_cached_code_is_judged_as_well() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined("NEDGE01").await;
    world.wants("unsigned", program("echo"), &report.id).await;
    world.wants("good", issuer.sign("echo", |_| {}), &report.id).await;
    let short = now_s() + 8;
    world.wants("short", issuer.sign("echo", |claim| (claim.name, claim.expires) = ("short".to_owned(), short)), &report.id).await;
    let generation = world.commit().await;
    world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    world.until_state("short", "running").await;
    stopped(host).await;
    world.stop_server().await;
    eventually("the claim has expired", async || (now_s() > short).then_some(())).await;
    let host = restarted(&world, &["--trust-actors", issuer.key.as_str()]);
    logged(&host, "actor unsigned failed: actor start failed: invalid claim: it is not signed").await;
    logged(&host, "actor short failed: actor start failed: invalid claim: expired").await;
    logged(&host, "actor good runs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_expires_lets_nothing_new_start() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (_host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    world.wants("echo", program("echo"), &report.id).await;
    world.running("NEDGE01", "echo").await;
    let end = now_s() + 6;
    issuer.put(&world, 1, &[], |bundle| bundle.expires = end).await;
    world.enforced(1).await;
    world.report("NEDGE01", |report| report.policy.as_ref().is_some_and(|policy| policy.no_starts.is_some())).await;
    assert_eq!(world.request("site.echo", "hello").await, "hello", "what runs runs on");
    world.wants("late", program("echo"), &report.id).await;
    world.commit().await;
    let state = world.until_state("late", "failed").await.components[&actor("late")].state.to_string();
    assert!(state.contains("policy edge v1 expired"), "{state}");
    issuer.put(&world, 2, &[], |_| {}).await;
    world.until_state("late", "running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_allowed_by_default_nothing_starts_before_a_policy() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (host, report) = world.joined("NEDGE01").await;
    world.wants("echo", program("echo"), &report.id).await;
    world.running("NEDGE01", "echo").await;
    stopped(host).await;
    // What it was given to run is on its disk.
    let _host = restarted(&world, &["--trust-policies", issuer.key.as_str(), "--policy-default", "deny"]);
    let state = world.until_state("echo", "failed").await.components[&actor("echo")].state.to_string();
    assert!(state.contains("no policy has reached this host yet"), "{state}");
    issuer.put(&world, 1, &[], |_| {}).await;
    world.until_state("echo", "running").await;
}
