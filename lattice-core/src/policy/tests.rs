//! Policies on one host: what it takes, what is in force, what that does.

mod accepting;
mod acting;

use std::collections::{BTreeMap, BTreeSet};

use super::accept::{Documents, Holding, Judge, Marks, Outcome, Refused, Stored};
use super::scope::Facts;
use super::*;
use crate::id::{HostId, HostName, Region};
use crate::trust::Place;
use crate::trust::clock::Time;
use crate::trust::envelope::{Purpose, seal, signed_bytes};
use crate::trust::testing::{Hashes, key, sign};

pub(crate) const NOW: u64 = 1_795_000_000;
const DAY: u64 = 86_400;

pub(crate) fn id(text: &str) -> ConfigName {
    ConfigName::new(text).unwrap()
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::new(*text).unwrap()).collect()
}

/// A policy that allows everything, for all hosts, for a day.
fn bundle(version: u64) -> Bundle {
    Bundle {
        policy: SecurityPolicy {
            policy_id: id("edge"),
            version,
            allowed_contracts: rules(&["*"]),
            denied_contracts: Vec::new(),
            max_actor_memory_mb: None,
            network_restrictions: Vec::new(),
        },
        lattice: LatticeName::new("default").unwrap(),
        scope: Scope::All,
        issued_at: NOW - DAY,
        not_before: NOW - DAY,
        expires: NOW + DAY,
        issuer: key('A', 'B'),
        revoked_keys: BTreeSet::new(),
        allow_older: BTreeSet::new(),
    }
}

pub(crate) fn with(version: u64, change: impl FnOnce(&mut Bundle)) -> Bundle {
    let mut bundle = bundle(version);
    change(&mut bundle);
    bundle
}

pub(crate) fn signed_by(bundle: &Bundle, signer: &PublicKey) -> Vec<u8> {
    let body = bundle.encode();
    seal(&bundle.issuer, &sign(signer, &signed_bytes(Purpose::Policy, &body)), &body)
}

pub(crate) fn signed(bundle: &Bundle) -> Vec<u8> {
    signed_by(bundle, &bundle.issuer)
}

/// A host, what it is told, and what it holds.
struct Host {
    holding: Holding,
    keys: BTreeSet<PublicKey>,
    lattice: LatticeName,
    id: HostId,
    name: HostName,
    region: Region,
    labels: BTreeMap<String, String>,
    time: Time,
}

impl Host {
    fn new() -> Self {
        Self {
            holding: Holding::default(),
            keys: BTreeSet::from([key('A', 'B'), key('O', 'B')]),
            lattice: LatticeName::new("default").unwrap(),
            id: HostId::new(format!("N{}", "B".repeat(55))).unwrap(),
            name: HostName::new("NEDGE01").unwrap(),
            region: Region::new("eu").unwrap(),
            labels: BTreeMap::from([("tier".to_owned(), "edge".to_owned())]),
            time: Time::exact(NOW),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts { id: &self.id, name: &self.name, region: &self.region, labels: &self.labels }
    }

    fn judge(&self) -> Judge<'_> {
        Judge { keys: &self.keys, host: self.facts(), place: Place { lattice: &self.lattice, time: self.time } }
    }

    fn offer(&mut self, document: &[u8]) -> Result<Outcome, Refused> {
        let mut holding = self.holding.clone();
        let outcome = holding.offer(document, &self.judge(), &Hashes);
        if outcome.is_err() {
            assert_eq!(holding, self.holding, "what is refused changes nothing");
        }
        self.holding = holding;
        outcome
    }

    fn takes(&mut self, bundle: &Bundle) -> Outcome {
        self.offer(&signed(bundle)).unwrap()
    }

    fn why(&mut self, document: &[u8]) -> String {
        self.offer(document).unwrap_err().to_string()
    }

    /// Version of the policy `edge` that is in force.
    fn version(&self) -> Option<u64> {
        self.holding.bundles().find(|bundle| bundle.policy.policy_id == id("edge")).map(|bundle| bundle.policy.version)
    }

    /// The same host after a restart with `change` done to its disk.
    fn restarted(&self, change: impl FnOnce(&mut Stored<Marks>, &mut Stored<Documents>)) -> Self {
        let mut marks = Stored::Found(serde_json::from_slice(&serde_json::to_vec(self.holding.marks()).unwrap()).unwrap());
        let mut documents = Stored::Found(self.holding.documents());
        change(&mut marks, &mut documents);
        let mut host = Self { keys: self.keys.clone(), lattice: self.lattice.clone(), time: self.time, ..Self::new() };
        host.holding = Holding::restore(marks, documents, &host.judge(), &Hashes);
        host
    }
}
