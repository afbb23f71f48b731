//! Policies from the file to hosts that enforce them: the program, a real server, real signatures. The hosts here do what a
//! host does with a policy and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lattice_core::id::{ConfigName, HostId, HostName, LatticeName, Region};
use lattice_core::policy::accept::{Holding, Judge};
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::report::{Enforced, Refusal};
use lattice_core::policy::scope::Facts;
use lattice_core::subject::{self, Verb};
use lattice_core::trust::clock::{Standing, Time};
use lattice_core::trust::envelope::{Purpose, seal, signed_bytes};
use lattice_core::trust::{Place, PublicKey, Verify};
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Lattice, connect};
use serde_json::json;
use support::{Answer, Desk};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long hosts are waited for that say something at once.
const DEADLINE: Duration = Duration::from_secs(20);

struct Nkeys;

impl Verify for Nkeys {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        nkeys::KeyPair::from_public_key(key.as_str()).is_ok_and(|pair| pair.verify(message, signature).is_ok())
    }
}

/// A host that knows policies.
struct Host {
    lattice: Lattice,
    id: HostId,
    name: HostName,
    region: Region,
    keys: BTreeSet<PublicKey>,
    holding: Holding,
    refused: BTreeMap<ConfigName, Refusal>,
    /// Whether it reads what it hears of.
    reads: watch::Receiver<bool>,
    seq: u64,
}

impl Host {
    /// Reads what is in the store, as after a hint or a start.
    async fn read(&mut self) {
        let labels = BTreeMap::new();
        let facts = Facts { id: &self.id, name: &self.name, region: &self.region, labels: &labels };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let place = Place { lattice: self.lattice.name(), time: Time::exact(now) };
        let judge = Judge { keys: &self.keys, host: facts, place };
        for (policy, stored) in self.lattice.read_policies().await.unwrap() {
            match self.holding.offer(&stored.document, &judge, &Nkeys) {
                Ok(_) => drop(self.refused.remove(&policy)),
                Err(why) => drop(self.refused.insert(policy, Refusal::new(&stored.document, &why.to_string()))),
            }
        }
    }

    /// Reads, unless it is too slow for that, and says how it stands.
    async fn acknowledge(&mut self) {
        if *self.reads.borrow_and_update() {
            self.read().await;
        }
        let heartbeat = subject::heartbeat(self.lattice.name(), &self.region, &self.id);
        let report = self.report();
        self.lattice.connection().client().publish(heartbeat, report.into()).await.unwrap();
    }

    fn report(&mut self) -> Vec<u8> {
        self.seq += 1;
        let force = InForce::new(&self.holding, Preset::Open, Time::exact(0));
        let enforced = Enforced::new(&self.holding, &force, Preset::Open, Standing::Trusted, &self.refused);
        let profile = json!({"cpu_capacity": 1, "memory_mb": 1, "cpu_used": 0, "memory_used_mb": 0});
        let report = json!({
            "v": 1, "id": self.id, "name": self.name, "lattice": self.lattice.name(), "region": self.region, "incarnation": "01", "seq": self.seq,
            "version": "0", "state": "ready", "uptime_seconds": 1, "profile": profile, "applied_generation": 0, "policy": enforced,
        });
        serde_json::to_vec(&report).unwrap()
    }

    async fn run(mut self) {
        let lattice = self.lattice.clone();
        let mut asked = lattice.subscribe(subject::request_all(lattice.name(), Verb::Ping)).await.unwrap();
        let mut looked_at = lattice.subscribe(subject::request_all(lattice.name(), Verb::Inventory)).await.unwrap();
        let mut changed = lattice.subscribe(subject::policy_changes(lattice.name())).await.unwrap();
        let client = lattice.connection().client().clone();
        let mut reads = self.reads.clone();
        self.read().await;
        loop {
            tokio::select! {
                Some(question) = asked.next() => {
                    let answer = self.report();
                    client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
                }
                Some(question) = looked_at.next() => {
                    let answer = self.report();
                    client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
                }
                Some(_) = changed.next() => self.acknowledge().await,
                Ok(()) = reads.changed() => self.acknowledge().await,
            }
        }
    }
}

struct World {
    desk: Desk,
    runtime: Runtime,
    server: Server,
    lattice: Lattice,
    /// Whether hosts read what they hear of.
    read: watch::Sender<bool>,
    _folder: TempDir,
}

impl World {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (server, lattice) = runtime.block_on(async {
            let default = LatticeName::new("default").unwrap();
            let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
            let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
            let program = find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap();
            let server = Server::start(&program, &ServerConfig::new(folder.path().join("data"), default.clone())).await.unwrap();
            let connection = connect(&ConnectOptions::new(server.url(), "test")).await.unwrap();
            let lattice = Lattice::new(connection, default);
            lattice.ensure().await.unwrap();
            lattice.ensure_policies().await.unwrap();
            (server, lattice)
        });
        Self { desk: Desk::new(), runtime, server, lattice, read: watch::Sender::new(true), _folder: folder }
    }

    /// Starts a host that trusts `key`, in `region`.
    fn host(&self, letter: char, region: &str, key: &str) {
        let host = Host {
            lattice: self.lattice.clone(),
            id: HostId::new(format!("N{}", letter.to_string().repeat(55))).unwrap(),
            name: HostName::new(format!("NEDGE{letter}")).unwrap(),
            region: Region::new(region).unwrap(),
            keys: BTreeSet::from([PublicKey::new(self.desk.public(key)).unwrap()]),
            holding: Holding::default(),
            refused: BTreeMap::new(),
            reads: self.read.subscribe(),
            seq: 0,
        };
        let ready = Arc::new(tokio::sync::Notify::new());
        let told = ready.clone();
        self.runtime.spawn(async move {
            // The subscriptions are there once the host answers.
            told.notify_one();
            host.run().await;
        });
        self.runtime.block_on(ready.notified());
    }

    fn policy(&self, words: &[&str]) -> Answer {
        let url = self.server.url().to_owned();
        self.desk.run(&[&["policy"], words, &["--nats-url", &url]].concat())
    }

    fn file(&self, version: u64, denied: &[&str]) {
        let policy = json!({
            "policy_id": "edge-default", "version": version, "allowed_contracts": ["*"], "denied_contracts": denied,
            "max_actor_memory_mb": 64, "network_restrictions": ["internal-only"],
        });
        self.desk.write("policy.json", policy.to_string());
    }

    /// Puts something into the place of the policy, as somebody who may write the store.
    fn store(&self, document: &[u8]) {
        self.runtime.block_on(async {
            let (_, revision) = self.lattice.read_policy(&policy_id()).await.unwrap();
            self.lattice.commit_policy(&policy_id(), document.to_vec().into(), revision).await.unwrap();
        });
    }

    /// Changes the document that stands there.
    fn forge(&self, change: impl Fn(&str) -> String) {
        let (stored, _) = self.runtime.block_on(self.lattice.read_policy(&policy_id())).unwrap();
        let document = String::from_utf8(stored.unwrap().document.to_vec()).unwrap();
        let forged = change(&document);
        assert_ne!(document, forged);
        self.store(forged.as_bytes());
    }

    /// A document that allows everything, by the holder of `key`.
    fn signed(&self, key: &str, version: u64) -> Vec<u8> {
        let issuer = self.desk.public(key);
        let seed = String::from_utf8(self.desk.read(&format!("keys/{key}.nk"))).unwrap();
        let body = json!({
            "policy": {"policy_id": policy_id(), "version": version, "allowed_contracts": ["*"]},
            "lattice": "default", "scope": "all", "issued_at": 1, "not_before": 1, "expires": 300_000_000, "issuer": issuer,
        });
        let body = body.to_string().into_bytes();
        let signature = nkeys::KeyPair::from_seed(seed.trim()).unwrap().sign(&signed_bytes(Purpose::Policy, &body)).unwrap();
        seal(&PublicKey::new(issuer).unwrap(), &signature, &body)
    }

    fn history(&self) -> Vec<serde_json::Value> {
        self.policy(&["history", "edge-default", "-o", "json"]).ok().json().as_array().unwrap().clone()
    }

    /// Waits until every host says this of what stands in the store.
    fn until_status(&self, words: &str) {
        for _ in 0..200 {
            let rows = self.policy(&["status"]).ok().out;
            if rows.lines().skip(1).count() > 0 && rows.lines().skip(1).all(|row| row.contains(words)) {
                return;
            }
        }
        panic!("hosts do not say `{words}`: {}", self.policy(&["status"]).out);
    }

    /// Waits until so many hosts answer.
    fn hosts(&self, count: usize) {
        for _ in 0..200 {
            let rows = self.policy(&["status", "-o", "json"]).ok().json();
            let policies: BTreeSet<&str> = rows.as_array().unwrap().iter().map(|row| row["host"].as_str().unwrap()).collect();
            if policies.len() >= count {
                return;
            }
        }
        panic!("{count} hosts do not answer");
    }
}

fn policy_id() -> ConfigName {
    ConfigName::new("edge-default").unwrap()
}

#[test]
fn put_enforced_rolled_back() {
    let world = World::start();
    world.policy(&["get", "edge-default"]).fails(4, "policy not found: edge-default");
    world.policy(&["history", "edge-default"]).fails(4, "policy not found");
    world.policy(&["rollback", "edge-default"]).fails(4, "policy not found");
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--issuer", "keys/account.nk", "--no-wait"]).ok();
    world.host('A', "eu", "account");
    world.host('B', "us", "account");
    world.hosts(2);
    assert!(world.policy(&["sync"]).ok().out.starts_with("policy edge-default v1: all 2 hosts comply ("));

    world.file(2, &["wasmcloud:keyvalue"]);
    let planned = world.policy(&["put", "policy.json", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!((&planned["state"], &planned["from"]), (&json!("planned"), &json!(1)));
    let put = world.policy(&["put", "policy.json", "-o", "json"]).ok().json();
    println!("put until two hosts comply: {} ms", put["took_ms"]);
    assert_eq!((&put["state"], &put["hosts"], &put["policies"]["edge-default"]), (&json!("enforced"), &json!(2), &json!(2)));
    assert!(world.policy(&["put", "policy.json"]).ok().err.contains("is version 2 already"));
    let status = world.policy(&["status", "-o", "json"]).ok().json();
    assert!(status.as_array().unwrap().iter().all(|row| row["is"] == "complies" && row["version"] == 2), "{status}");

    world.file(2, &["wasmcloud:messaging"]);
    world.policy(&["put", "policy.json"]).fails(3, "version 2 of edge-default was seen with other content").fails(3, "give version 3");
    world.file(1, &["wasmcloud:messaging"]);
    world.policy(&["put", "policy.json"]).fails(3, "is older than 2");
    world.policy(&["put", "policy.json", "--bump", "--scope", "region=us"]).ok();
    let rows = world.policy(&["status"]).ok().out;
    assert!(rows.contains("NEDGEA  not meant") && rows.contains("NEDGEB  enforced"), "{rows}");

    world.policy(&["rollback", "edge-default", "--to", "1"]).ok();
    let history = world.policy(&["history", "edge-default", "-o", "json"]).ok().json();
    let versions: Vec<u64> = history.as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    let now = world.policy(&["get", "edge-default", "-o", "json"]).ok().json();
    assert_eq!((&now["policy"]["version"], &now["policy"]["denied_contracts"], &now["scope"]), (&json!(4), &json!([]), &json!("all")));
    assert!(world.policy(&["get"]).ok().out.contains("edge-default  4"));
}

#[test]
fn hosts_that_do_not_comply_are_named() {
    let world = World::start();
    world.desk.run(&["keys", "gen", "account", "--name", "other"]).ok();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    world.host('A', "eu", "account");
    world.host('B', "eu", "other");
    world.hosts(2);
    let refused = world.policy(&["put", "policy.json", "--timeout", "5s"]).fails(6, "refused by NEDGEB");
    assert!(refused.err.contains("does not sign policies here"), "{}", refused.err);
    let url = world.server.url().to_owned();
    let examined = world.desk.run(&["doctor", "--nats-url", &url]).out;
    assert!(examined.contains("NEDGEB refuses it: ") && !examined.contains("NEDGEA refuses"), "{examined}");
    // A host that hears of nothing.
    let silent = json!({
        "v": 1, "id": format!("N{}", "C".repeat(55)), "name": "NEDGEC", "lattice": "default", "region": "eu", "incarnation": "01", "seq": 1,
        "version": "0", "state": "ready", "uptime_seconds": 1, "applied_generation": 0,
        "profile": {"cpu_capacity": 1, "memory_mb": 1, "cpu_used": 0, "memory_used_mb": 0},
    });
    let client = world.lattice.connection().client().clone();
    world.runtime.block_on(async {
        let mut asked = world.lattice.subscribe(subject::request_all(world.lattice.name(), Verb::Ping)).await.unwrap();
        tokio::spawn(async move {
            while let Some(question) = asked.next().await {
                client.publish(question.reply.unwrap(), silent.to_string().into()).await.unwrap();
            }
        });
    });
    world.policy(&["sync", "--timeout", "300ms"]).fails(5, "not in force everywhere within 300 ms: NEDGEC");
}

#[test]
fn the_plan_of_a_command_knows_the_policies() {
    let world = World::start();
    let url = world.server.url().to_owned();
    let run = |words: &[&str]| world.desk.run(&[words, &["--local-plan", "--no-wait", "--nats-url", &url]].concat());
    let hosts_of = |answer: Answer| {
        let text = format!("{}{}", answer.ok().out, "");
        ["NEDGEA", "NEDGEB"].into_iter().filter(|name| text.contains(name)).collect::<Vec<_>>()
    };
    world.desk.write("a.wasm", support::component("a"));
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    world.host('A', "eu", "account");
    world.host('B', "us", "account");
    world.hosts(2);
    run(&["start", "provider", "builtin://kv-nats", "kv"]).ok();
    run(&["link", "put", "a", "kv", "wasmcloud:keyvalue", "default", "--bucket", "edge-data"]).ok();

    world.file(2, &["wasi:keyvalue"]);
    world.policy(&["put", "policy.json", "--scope", "region=eu"]).ok();
    let start = ["start", "actor", "a.wasm", "a", "--max", "2"];
    let planned = run(&[&start[..], &["--dry-run", "-o", "json"]].concat());
    assert_eq!(hosts_of(planned), ["NEDGEB"]);

    world.file(3, &["wasi:keyvalue"]);
    world.policy(&["put", "policy.json"]).ok();
    let denied = "capability denied: wasmcloud:keyvalue: policy edge-default v3 denies it (rule `wasi:keyvalue`)";
    let refused = run(&start).fails(6, denied);
    assert!(refused.err.contains("NEDGEA: ") && refused.err.contains("policy rollback"), "{}", refused.err);
    run(&[&start[..], &["--dry-run"]].concat()).fails(6, denied);

    world.policy(&["rollback", "edge-default", "--to", "1"]).ok();
    run(&start).ok();
    let more = run(&["scale", "a", "--max", "4", "--dry-run", "-o", "json"]);
    assert_eq!(hosts_of(more), ["NEDGEA", "NEDGEB"]);
}

#[test]
fn files_that_make_no_sense() {
    let world = World::start();
    let check = |text: &str, words: &str| {
        world.desk.write("policy.json", text);
        world.policy(&["put", "policy.json", "--no-wait"]).fails(2, words);
    };
    check("", "policy file policy.json");
    check("{", "policy file policy.json");
    check(r#"{"policy_id":"a","version":1}"#, "missing field `allowed_contracts`");
    check(r#"{"policy_id":"a.b","version":1,"allowed_contracts":[]}"#, "may only hold letters");
    check(r#"{"policy_id":"a","version":0,"allowed_contracts":[]}"#, "versions begin with 1");
    check(r#"{"policy_id":"a","version":1,"allowed_contracts":["(x+)+"]}"#, "may only hold letters");
    check(r#"{"policy_id":"a","version":1,"allowed_contracts":[],"network_restrictions":["fast"]}"#, "`fast` is not known");
    check(r#"{"policy_id":"a","version":1,"allowed_contracts":[],"extra":1}"#, "unknown field `extra`");
    let many = format!(r#"{{"policy_id":"a","version":1,"allowed_contracts":[{}"a"]}}"#, r#""a","#.repeat(10_000));
    check(&many, "10001 rules, at most 10000");
    check(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "nested deeper");
    // No more is read than shows that it is too much.
    check(&" ".repeat(800_000), "786433 bytes of JSON, at most 786432");
    // Small enough by itself, and not with what a signature adds.
    let rule = format!(r#""{}","#, "x".repeat(100));
    let rules = rule.repeat((lattice_core::policy::MAX_BUNDLE_BYTES - 100) / rule.len());
    check(&format!(r#"{{"policy_id":"a","version":1,"allowed_contracts":[{rules}"a"]}}"#), "signed it has");
    world.desk.write("policy.json", r#"{"policy_id":"a","version":9223372036854775808,"allowed_contracts":[]}"#);
    world.policy(&["put", "policy.json", "--no-wait"]).fails(3, "is too far above 0");
    world.desk.run(&["keys", "gen", "user"]).ok();
    world.file(1, &["wasmcloud:keyvalu"]);
    world.policy(&["put", "policy.json", "--issuer", "keys/user.nk"]).fails(2, "needed is: account or operator");
    world.policy(&["put", "policy.json", "--scope", "everywhere"]).fails(2, "scope `everywhere`");
    world.policy(&["put", "policy.json", "--allow-older", "edge"]).fails(2, "<name>=<digest>");
    let nameless = format!(" =sha256:{}", "a".repeat(64));
    world.policy(&["put", "policy.json", "--allow-older", &nameless]).fails(2, "the name is empty");
    assert!(world.policy(&["put", "policy.json", "--no-wait"]).ok().err.contains("rule `wasmcloud:keyvalu` fits no contract"));
}

#[test]
fn what_nobody_signed_is_never_signed_again_nor_taken_for_said() {
    let world = World::start();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    // Somebody who may write there, and has no key, raises the version.
    world.forge(|text| text.replace("\"version\":1", "\"version\":2").replace("\"issued_at\":", "\"issued_at\":9"));
    world.policy(&["rollback", "edge-default", "--to", "2", "--no-wait"]).fails(4, "no version 2 is kept (kept: 1)");
    assert!(world.policy(&["get"]).ok().out.contains("its signature is wrong"));
    let synced = world.policy(&["sync", "--timeout", "1s"]).ok();
    assert!(
        synced.out.starts_with("no policies") && synced.err.contains("policy edge-default v2: its signature is wrong"),
        "{}",
        synced.err
    );
    world.file(2, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    assert_eq!(world.history().last().unwrap()["version"], 2);
    world.store(b"{");
    world.policy(&["get", "edge-default"]).fails(1, "policy edge-default cannot be read");
    world.policy(&["put", "policy.json", "--bump", "--no-wait"]).ok();
    assert!(world.policy(&["get", "edge-default"]).ok().out.contains("edge-default version 2"));
}

#[test]
fn what_hosts_refuse_shuts_nobody_out_and_is_not_signed_again() {
    let world = World::start();
    world.desk.run(&["keys", "gen", "account", "--name", "stranger"]).ok();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    world.host('A', "eu", "account");
    world.host('B', "us", "account");
    world.hosts(2);
    world.file(2, &["wasmcloud:keyvalue"]);
    world.policy(&["put", "policy.json"]).ok();

    // Nobody signed this one.
    let huge = u64::MAX - 1;
    world.forge(|text| text.replace("\"version\":2", &format!("\"version\":{huge}")));
    world.until_status("refused, enforces version 2: wrong signature");
    assert!(world.policy(&["get", "edge-default"]).ok().out.contains("refused by NEDGEA, NEDGEB: wrong signature"));
    // What is no policy at all is refused as well.
    world.store(b"{");
    world.until_status("refused, enforces version 2: it has no line that says who signed it");
    assert!(world.policy(&["sync"]).ok().err.contains("policy edge-default cannot be read"));
    // The same again brings back what hosts enforce, without another signature.
    assert!(world.policy(&["put", "policy.json", "--bump"]).ok().err.contains("it stands there again"));
    world.until_status("enforced");
    world.forge(|text| text.replace("\"version\":2", &format!("\"version\":{huge}")));
    world.until_status("refused, enforces version 2");
    world.file(3, &["wasmcloud:messaging"]);
    let put = world.policy(&["put", "policy.json", "-o", "json"]).ok().json();
    assert_eq!((&put["state"], &put["hosts"], &put["policies"]["edge-default"]), (&json!("enforced"), &json!(2), &json!(3)));

    // A stranger signed these with a key of his own, and something old stands before the newest.
    let stranger = world.signed("stranger", 4);
    world.store(&stranger);
    world.store(&world.signed("stranger", huge));
    world.until_status("does not sign policies here");
    let note = world.history().last().unwrap()["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("refused by NEDGEA, NEDGEB: A"), "{note}");
    let planned = world.policy(&["put", "policy.json", "--bump", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!((&planned["state"], planned.get("from")), (&json!("unchanged"), Some(&json!(3))), "{planned}");
    world.policy(&["rollback", "edge-default", "--to", &huge.to_string()]).fails(4, &format!("no version {huge} is kept"));
    world.policy(&["rollback", "edge-default"]).ok();
    let now = world.policy(&["get", "edge-default", "-o", "json"]).ok().json();
    let denied = json!(["wasmcloud:keyvalue"]);
    assert_eq!((&now["policy"]["version"], &now["policy"]["denied_contracts"], &now["refused"]), (&json!(4), &denied, &json!(null)));
    // By its number the stranger's version 4 could be meant: it is the one that the operator signed.
    world.file(5, &[]);
    world.policy(&["put", "policy.json"]).ok();
    world.policy(&["rollback", "edge-default"]).ok();
    let now = world.policy(&["get", "edge-default", "-o", "json"]).ok().json();
    assert_eq!((&now["policy"]["version"], &now["policy"]["denied_contracts"]), (&json!(6), &denied));
    let notes: Vec<String> = world.history().iter().map(|version| format!("{} {}", version["version"], version["note"])).collect();
    assert!(
        notes.contains(&format!("{huge} \"its signature is wrong\"")) && notes.contains(&format!("{huge} \"no host knows it\"")),
        "{notes:?}"
    );

    // What was pushed out of the store is known to hosts.
    (0..16).for_each(|n| world.store(&world.signed("stranger", 100 + n)));
    world.until_status("does not sign policies here");
    world.policy(&["rollback", "edge-default"]).fails(4, "version 6, which hosts know, is not kept");
    world.policy(&["put", "policy.json"]).fails(3, "version 5 of edge-default is not above 6, which hosts know");
    world.policy(&["put", "policy.json", "--bump"]).ok();
    world.until_status("enforced");
    assert_eq!(world.history().last().unwrap()["version"], 7);
}

#[test]
fn what_hosts_refused_before_is_not_what_is_put_however_slowly_they_read() {
    let world = World::start();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    world.host('A', "eu", "account");
    world.host('B', "us", "account");
    world.hosts(2);
    world.forge(|text| text.replace("\"version\":1", "\"version\":7"));
    world.until_status("refused, enforces version 1: wrong signature");

    world.read.send_replace(false);
    world.file(2, &["wasmcloud:keyvalue"]);
    let late =
        world.policy(&["put", "policy.json", "--timeout", "300ms"]).fails(5, "not in force everywhere within 300 ms: NEDGEA, NEDGEB");
    assert!(late.err.contains("policy edge-default v2: behind: enforces version 1"), "{}", late.err);
    assert!(!world.policy(&["status"]).ok().out.contains("refused"));
    let now = world.policy(&["get", "edge-default", "-o", "json"]).ok().json();
    assert_eq!((&now["policy"]["version"], &now["refused"]), (&json!(2), &json!(null)));
    // It counts before anybody has read it.
    let planned = world.policy(&["put", "policy.json", "--bump", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!((&planned["state"], &planned["from"]), (&json!("unchanged"), &json!(2)));

    // One put waits while both hosts say again what they refused before.
    world.file(3, &["wasmcloud:messaging"]);
    let heartbeats = subject::heartbeats(world.lattice.name());
    let mut heartbeats = world.runtime.block_on(world.lattice.subscribe(heartbeats)).unwrap();
    std::thread::scope(|scope| {
        let put = scope.spawn(|| world.policy(&["put", "policy.json", "-o", "json"]));
        for _ in 0..2 {
            let said = world.runtime.block_on(async { tokio::time::timeout(DEADLINE, heartbeats.next()).await }).unwrap();
            let said = said.unwrap().payload;
            assert!(String::from_utf8_lossy(&said).contains("wrong signature"));
        }
        world.read.send_replace(true);
        let put = put.join().unwrap().ok().json();
        assert_eq!((&put["state"], &put["hosts"], &put["policies"]["edge-default"]), (&json!("enforced"), &json!(2), &json!(3)));
    });
}

#[test]
fn what_ends_soon_is_signed_anew() {
    let world = World::start();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--expires", "10d", "--no-wait"]).ok();
    world.policy(&["put", "policy.json", "--bump", "--no-wait"]).ok();
    world.policy(&["put", "policy.json", "--bump", "--no-wait"]).ok();
    let versions: Vec<serde_json::Value> = world.history().iter().map(|version| version["version"].clone()).collect();
    assert_eq!(versions, [1, 2]);
}

#[test]
fn where_no_host_answers_a_stranger_s_words_are_not_signed_either() {
    let world = World::start();
    world.desk.run(&["keys", "gen", "account", "--name", "stranger"]).ok();
    world.file(1, &[]);
    world.policy(&["put", "policy.json", "--no-wait"]).ok();
    world.store(&world.signed("stranger", 2));
    world
        .policy(&["rollback", "edge-default", "--no-wait"])
        .fails(6, &format!("version 2 was signed by {}", world.desk.public("stranger")));
    world.store(&world.signed("stranger", 3));
    world.policy(&["rollback", "edge-default", "--no-wait"]).fails(6, "version 3 was signed by").fails(6, "policy put <file> --bump");
    world.policy(&["put", "policy.json", "--no-wait"]).fails(3, "is older than 3").fails(3, "where hosts that refuse it answer");
}
