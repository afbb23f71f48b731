//! Policy: how long until all hosts enforce a new one, and what asking it costs each call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lattice_core::id::LatticeName;
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::rules::Rule;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, MAX_RULES, SecurityPolicy};
use lattice_core::trust::PublicKey;
use lattice_core::trust::clock::Time;
use lattice_core::wire::assignment::InstancePolicy;
use lattice_host::runtime::Shield;
use provider_api::keyvalue::KeyValue as _;
use serde::Deserialize;
use serde_json::json;

use crate::Error;
use crate::bench::Bench;
use crate::fleet;
use crate::followers::Followers;
use crate::rounds::{Checks, interleave, side};
use crate::rows::{Goal, Line, Outcome, keyvalue};
use crate::stage::{Nobody, Stage, links};
use crate::stats::quantile;

/// The policy.
const POLICY: &str = "bench";
/// An account that signs nothing: nobody verifies the policy of [`calls`].
const ISSUER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Calls in one message to a guest: the message itself is lost in them.
const CALLS: u32 = 5000;
/// Real hosts.
const HOSTS: usize = 3;
/// Hosts in all.
const FLEETS: [usize; 3] = [HOSTS, 100, 1_000];
/// Policies that are put, in each fleet.
const PUTS: usize = 20;
/// The same in a quick run.
const FEW: usize = 4;

/// From the moment at which a policy is written to the moment at which the last host has said that it enforces it, as
/// `lattice-ctl policy put` measures and says it.
pub(crate) async fn in_force(bench: &Bench) -> Result<Outcome, Error> {
    let fleet = Lattice::start(bench).await?;
    let mut outcome = Outcome::default();
    let mut version = 0;
    for hosts in FLEETS {
        let _followers = Followers::start(&fleet.nats_url, &fleet.name, &fleet.issuer, hosts - HOSTS).await?;
        let mut took = Vec::new();
        let mut checks = Checks::default();
        for _ in 0..if bench.quick { FEW } else { PUTS } {
            version += 1;
            let done = fleet.put(version).await?;
            let all = done.state == "enforced" && done.hosts == Some(hosts) && done.policies.get(POLICY) == Some(&version);
            checks.right += u64::from(all);
            checks.wrong += u64::from(!all);
            took.push(done.took_ms.ok_or("`policy put` does not say how long it took")?);
        }
        took.sort_by(f64::total_cmp);
        let line = |q: f64, part: &str| -> Result<Line, Error> {
            let value = quantile(&took, q).ok_or("nothing was measured")?;
            Ok(Line::of(format!("policy put to enforced on all {hosts} hosts, {part}"), "ms", "lattice", value))
        };
        let note = format!("{} puts; {HOSTS} real hosts, {} that only follow policies", took.len(), hosts - HOSTS);
        outcome = outcome.and(Outcome { lines: vec![line(0.5, "p50")?.note(note), line(0.99, "p99")?], checks, ..Outcome::default() });
    }
    Ok(outcome)
}

/// A key-value call from a guest on a host with the largest policy that may be, against the same on a host that has none.
pub(crate) async fn calls(bench: &Bench) -> Result<Outcome, Error> {
    let wasm = bench.program("kv-loop")?;
    let bucket = provider_kv_memory::KvMemory::new().open(POLICY).await?;
    bucket.set(keyvalue::KEY, keyvalue::value().into()).await?;
    let stages = [("policy-none", Shield::open()), ("policy-large", Shield::new(largest()?))];
    let mut actors = Vec::new();
    for (purpose, shield) in stages {
        let stage = Stage::guarded(bench, purpose, 16, shield)?;
        actors.push(stage.actor(&wasm, InstancePolicy::Resident, links(bucket.clone(), Arc::new(Nobody::default()))?).await?);
    }
    let [none, large] = actors.as_slice() else { return Err("two actors were made".into()) };
    let times = if bench.quick { CALLS / 10 } else { CALLS };
    let command: &'static str = format!("get {times} {} {}", keyvalue::KEY, keyvalue::VALUE_BYTES).leak();
    let mut sides = [
        side("10,000 rules", async || keyvalue::guest(large, command, times).await),
        side("no policy", async || keyvalue::guest(none, command, times).await),
    ];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let line = Line::compare("key-value call under policy", "us", &samples, "us", ("10,000 rules", "no policy"))?;
    let more = samples.value("us", "10,000 rules")? - samples.value("us", "no policy")?;
    let more = Line::of("what 10,000 rules add to a call", "us", "lattice", more.max(0.0)).goal(Goal::AtMost(1.0));
    Ok(Outcome::of(&samples, vec![line, more]))
}

/// A policy in force with as many rules as a policy may have, none of which denies what is called.
fn largest() -> Result<InForce, Error> {
    let rule = |number: usize| Rule::new(format!("vendor-{number}:nothing"));
    let mut policy = SecurityPolicy::edge_default()?;
    policy.denied_contracts = (policy.allowed_contracts.len()..MAX_RULES).map(rule).collect::<Result<_, _>>()?;
    let bundle = Bundle {
        policy,
        lattice: LatticeName::new("bench")?,
        scope: Scope::default(),
        issued_at: 0,
        not_before: 0,
        expires: u64::MAX,
        issuer: PublicKey::new(ISSUER)?,
        revoked_keys: BTreeSet::new(),
        allow_older: BTreeSet::new(),
    };
    Ok(InForce::of_bundles([&bundle], Preset::Deny, Time::exact(1)))
}

/// What `keys gen` prints.
#[derive(Deserialize)]
struct Generated {
    public_key: String,
}

/// What `up` prints.
#[derive(Deserialize)]
struct Up {
    nats_url: String,
}

/// What `policy put` prints.
#[derive(Deserialize)]
struct Done {
    state: String,
    policies: BTreeMap<String, u64>,
    hosts: Option<usize>,
    took_ms: Option<f64>,
}

/// Hosts that trust one issuer.
struct Lattice<'a> {
    bench: &'a Bench,
    folder: tempfile::TempDir,
    nats_url: String,
    name: LatticeName,
    issuer: PublicKey,
}

impl<'a> Lattice<'a> {
    async fn start(bench: &'a Bench) -> Result<Self, Error> {
        let folder = tempfile::tempdir_in(&bench.scratch)?;
        let run = async |words: &[&str], dir: &str| -> Result<String, Error> {
            let mut command = fleet::ctl(bench, &folder, None)?;
            command.args(words).arg(folder.path().join(dir));
            fleet::output(command).await
        };
        let key: Generated = serde_json::from_str(&run(&["keys", "gen", "account", "-o", "json", "--dir"], "keys").await?)?;
        let issuer = PublicKey::new(key.public_key)?;
        let hosts = HOSTS.to_string();
        let up = ["up", "--detach", "--nats-port", "0", "--no-scheduler", "--no-failover", "-o", "json"];
        let up = run(&[&up, ["--hosts", &hosts, "--trust-issuer", issuer.as_str(), "--data-dir"].as_slice()].concat(), "data").await?;
        let up: Up = serde_json::from_str(&up)?;
        Ok(Self { bench, folder, nats_url: up.nats_url, name: LatticeName::new("default")?, issuer })
    }

    /// Puts a policy that is another one than the last; what `policy put` says of it.
    async fn put(&self, version: u64) -> Result<Done, Error> {
        let denied: &[&str] = if version.is_multiple_of(2) { &[] } else { &["wasmcloud:keyvalue"] };
        let policy = json!({
            "policy_id": POLICY, "version": version, "allowed_contracts": ["*"], "denied_contracts": denied,
            "max_actor_memory_mb": 64, "network_restrictions": [],
        });
        let (file, issuer) = (self.folder.path().join("policy.json"), self.folder.path().join("keys/account.nk"));
        std::fs::write(&file, policy.to_string())?;
        let mut command = fleet::ctl(self.bench, &self.folder, Some(&self.nats_url))?;
        command.args(["policy", "put", "-o", "json", "--issuer"]).arg(issuer).arg(file);
        Ok(serde_json::from_str(&fleet::output(command).await?)?)
    }
}

impl Drop for Lattice<'_> {
    fn drop(&mut self) {
        fleet::down(self.bench, &self.folder);
    }
}
