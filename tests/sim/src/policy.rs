//! Policies of the world: who signs them, what they say, and what the operator and others put into the store.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use lattice_core::id::{ConfigName, Digest};
use lattice_core::policy::rules::Rule;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::subject;
use lattice_core::trust::envelope::{Purpose, seal, signed_bytes};
use lattice_core::trust::{PublicKey, Verify};

use crate::clock::Millis;
use crate::dice::Dice;
use crate::env::{Env, HostIx};
use crate::host::Host;
use crate::invariants;
use crate::scene;
use crate::server::Server;
use crate::store::Put;

/// Seconds since 1970 when the world begins: policies do not expire in it.
pub const NOW_S: u64 = 1_700_000_000;
/// How long policies are valid.
const VALID_S: u64 = 86_400;
/// What policies of the world deny, one of these at a time.
const DENIED: [&str; 3] = ["wasmcloud:messaging", "wasi:keyvalue", "wasmcloud:messaging/handler"];
/// Between two things that happen to policies.
const PAUSE: (Millis, Millis) = (2_000, 12_000);

/// Checks what [`sign`] made: a hash instead of a curve.
#[derive(Debug, Clone, Copy)]
pub struct Seals;

impl Verify for Seals {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        sign(key, message) == signature
    }
}

fn sign(key: &PublicKey, message: &[u8]) -> Vec<u8> {
    // 64 of the characters of the digest stand for the 64 bytes of a signature.
    let digest = Digest::of(&[key.as_str().as_bytes(), message].concat()).to_string();
    digest.bytes().rev().cycle().take(64).collect()
}

fn key(letter: &str) -> PublicKey {
    PublicKey::new(format!("A{}", letter.repeat(55))).unwrap()
}

/// The key that hosts trust.
pub fn trusted() -> PublicKey {
    key("B")
}

/// The only policy of the world.
pub fn name() -> ConfigName {
    ConfigName::new("edge").unwrap()
}

/// Stream of the policies' bucket.
pub fn stream() -> String {
    subject::bucket_stream(&subject::policy_bucket(&scene::lattice()))
}

/// What there is of policies, as the operator knows it.
#[derive(Debug)]
pub struct Desk {
    /// Chance of its own, so that policies do not change what else happens.
    dice: Dice,
    version: u64,
    /// Documents that were put, the oldest first.
    documents: Vec<Vec<u8>>,
    /// Whether the store holds the newest of them, and not an old or a forged one.
    newest_is_stored: bool,
}

impl Desk {
    /// No policy yet.
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed ^ 0x70_6f6c_6963_79), version: 0, documents: Vec::new(), newest_is_stored: false }
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When the next thing happens.
    pub fn pause(&mut self) -> Millis {
        self.dice.within(PAUSE.0, PAUSE.1)
    }

    /// Something happens: a new version, a version that takes everything back, a replay, a forgery.
    pub fn act(&mut self, server: &mut Server, hosts: usize, env: &mut Env) {
        if !server.up {
            return;
        }
        match self.dice.below(100) {
            0..50 => {
                let scope = match self.dice.below(4) {
                    0 => Scope::All,
                    1 => Scope::Region(scene::region(self.dice.below(2))),
                    _ => Scope::Host(scene::host_name(self.dice.index(hosts)).to_string()),
                };
                let denied = *self.dice.pick(&DENIED);
                self.put(scope, &[denied], server, env);
            }
            50..75 => self.put(Scope::All, &[], server, env),
            75..90 => {
                let Some(old) = self.documents.len().checked_sub(2).map(|most| self.dice.below(most as u64 + 1) as usize) else { return };
                let document = self.documents[old].clone();
                env.note(format_args!("an old policy comes again"));
                self.newest_is_stored = false;
                store(document, server, env);
            }
            _ => {
                env.note(format_args!("a forged policy"));
                self.newest_is_stored = false;
                let bundle = bundle(self.version + 1, Scope::All, &["*"], &key("C"));
                store(sealed(&bundle), server, env);
            }
        }
    }

    /// The last version: it takes back all that was denied, but for one host at most.
    pub fn make_up(&mut self, server: &mut Server, hosts: usize, env: &mut Env) {
        if self.version == 0 {
            return;
        }
        let denied = *self.dice.pick(&DENIED);
        let (scope, denied) = if self.dice.chance(500) {
            (Scope::Host(scene::host_name(self.dice.index(hosts)).to_string()), vec![denied])
        } else {
            (Scope::All, Vec::new())
        };
        self.put(scope, &denied, server, env);
    }

    fn put(&mut self, scope: Scope, denied: &[&str], server: &mut Server, env: &mut Env) {
        self.version += 1;
        env.note(format_args!("policy v{} denies {denied:?} to {scope}", self.version));
        let document = sealed(&bundle(self.version, scope, denied, &trusted()));
        self.documents.push(document.clone());
        self.newest_is_stored = true;
        store(document, server, env);
    }
}

fn bundle(version: u64, scope: Scope, denied: &[&str], issuer: &PublicKey) -> Bundle {
    let rules = |texts: &[&str]| texts.iter().map(|text| Rule::new(*text).unwrap()).collect();
    Bundle {
        policy: SecurityPolicy {
            policy_id: name(),
            version,
            allowed_contracts: rules(&["*"]),
            denied_contracts: rules(denied),
            max_actor_memory_mb: None,
            network_restrictions: Vec::new(),
        },
        lattice: scene::lattice(),
        scope,
        issued_at: NOW_S,
        not_before: NOW_S,
        expires: NOW_S + VALID_S,
        issuer: issuer.clone(),
        revoked_keys: BTreeSet::new(),
        allow_older: BTreeSet::new(),
    }
}

fn sealed(bundle: &Bundle) -> Vec<u8> {
    let body = bundle.encode();
    // Whoever forges one cannot sign as somebody who is trusted.
    seal(&bundle.issuer, &sign(&bundle.issuer, &signed_bytes(Purpose::Policy, &body)), &body)
}

fn store(document: Vec<u8>, server: &mut Server, env: &mut Env) {
    let bucket = subject::policy_bucket(&scene::lattice());
    let put =
        Put { subject: subject::bucket_key(&bucket, &subject::policy_key(&name())), body: Some(Rc::from(document)), ..Put::default() };
    server.store(None, &stream(), std::slice::from_ref(&put), None, env).expect("nothing forbids it");
}

/// A host over whose connection nothing can have got lost enforces a new version within this time: a read is tried again after
/// its time-out.
const KNOWN_WITHIN: Millis = 6_000;

/// Since when hosts could know a policy that they do not enforce.
#[derive(Debug, Default)]
pub struct Laggards(BTreeMap<HostIx, Laggard>);

#[derive(Debug, Default)]
struct Laggard {
    conn: u32,
    /// Something may have got lost over this connection: what was missed is found by a later look.
    spoiled: bool,
    since: Option<Millis>,
}

impl Laggards {
    /// A host that can be reached, in a world that loses nothing, knows the newest policy in time.
    pub fn check(&mut self, hosts: &[Host], desk: &Desk, server_up: bool, env: &mut Env) {
        let kind = server_up && env.chances.loss == 0 && env.chances.slow == 0;
        for host in hosts {
            let link = &env.links[host.ix];
            let sound = kind && link.host_sees && link.server_sees && !link.up_cut && !link.down_cut && !host.paused && host.is_up();
            let (has, version) = (host.policy_version(), desk.version());
            let late = self.handle(host.ix, link.conn, sound, desk.newest_is_stored && has < version, env.now);
            if late > KNOWN_WITHIN {
                let what = format!("h{} could have known policy v{version} for {late} ms and enforces v{has}", host.ix);
                env.watch.fail(invariants::Rule::PolicyLate, what);
            }
        }
    }

    /// How long a host has lagged behind without a break. `conn`: its connection; `sound`: nothing gets lost there now.
    fn handle(&mut self, host: HostIx, conn: u32, sound: bool, lags: bool, now: Millis) -> Millis {
        let known = self.0.entry(host).or_default();
        if known.conn != conn {
            *known = Laggard { conn, ..Laggard::default() };
        }
        known.spoiled |= !sound;
        if known.spoiled || !lags {
            known.since = None;
            return 0;
        }
        now - *known.since.get_or_insert(now)
    }
}
