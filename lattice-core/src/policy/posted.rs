//! The policies of a lattice as they stand in the store: what a plan judges by.
//!
//! Nobody has verified them here, because a plan cannot: it is made where no keys are known. They decide where something is
//! placed and never whether it runs; hosts verify, and are believed about what they enforce. Of each policy only the rules
//! that decide anything are kept, so that a plan costs the same however many rules there are.
//!
//! **Invariant.** What is in force by the rules that are kept is what would be in force by all of them.

use std::collections::BTreeMap;

use super::accept::MAX_POLICIES;
use super::force::{InForce, Preset};
use super::report::Enforced;
use super::rules::{Point, Rule};
use super::scope::Facts;
use super::{Bundle, SecurityPolicy};
use crate::desired::CorruptKey;
use crate::id::{ConfigName, Digest, Revision};
use crate::subject;
use crate::trust::clock::Time;
use crate::trust::envelope::Envelope;

/// Which of the policies, by their place: there are at most 64.
pub type Set = u64;

/// The newest document of each policy, unverified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Posted {
    documents: BTreeMap<ConfigName, Document>,
    /// Revision of the bucket when it was read.
    pub revision: Revision,
}

/// What is kept of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Document {
    bundle: Bundle,
    /// Digest of the whole of it: whether it is the one that a host refuses.
    digest: Digest,
}

impl Posted {
    /// None yet, of a bucket at this revision.
    pub fn at(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Takes in one key as it stands in the bucket. Keys that are none of a policy mean nothing.
    ///
    /// # Errors
    /// [`CorruptKey`] if its document cannot be read; it is as if there were none, and hosts keep what they had.
    pub fn insert(&mut self, key: &str, document: &[u8]) -> Result<(), CorruptKey> {
        let Some(policy) = subject::policy_of_key(key) else { return Ok(()) };
        let corrupt = |reason: &str| CorruptKey::new(key, reason);
        let envelope = Envelope::read(document).map_err(|error| corrupt(&error.to_string()))?;
        let bundle = Bundle::decode(envelope.unverified()).map_err(|error| corrupt(&error.to_string()))?;
        if bundle.policy.policy_id != policy {
            return Err(corrupt("it is another policy"));
        }
        if self.documents.len() < MAX_POLICIES || self.documents.contains_key(&policy) {
            self.documents.insert(policy, Document { bundle: essence(bundle), digest: Digest::of(document) });
        }
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The policies in the order of their names. Rules that decide nothing are left out.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.documents.values().map(|document| &document.bundle)
    }

    /// Whether another reading found the same documents.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.documents == other.documents
    }

    /// Whether a host enforces something newer than this.
    pub fn is_behind(&self, said: &Enforced) -> bool {
        let known = |policy: &ConfigName| self.documents.get(policy).map_or(0, |document| document.bundle.policy.version);
        said.policies.iter().any(|(policy, version)| known(policy) < *version)
    }

    /// Those of which `fits` says so.
    fn set(&self, fits: impl Fn(&ConfigName, &Document) -> bool) -> Set {
        let fitting = self.documents.iter().enumerate().filter(|(_, (policy, document))| fits(policy, document));
        fitting.fold(0, |set, (place, _)| set | (1 << place))
    }

    /// The policies that are meant for a host.
    pub fn meant_for(&self, host: &Facts<'_>) -> Set {
        self.set(|_, document| document.bundle.scope.covers(host))
    }

    /// Those that a host has refused, by its own word: these very documents.
    pub fn refused_by(&self, said: &Enforced) -> Set {
        self.set(|policy, document| said.refused.get(policy).is_some_and(|refusal| refusal.document == document.digest))
    }

    /// Whether a host enforces exactly the policies of `set`, each in the version that is stored, and refuses none of them: under
    /// the number that it enforces somebody else may have put something else.
    pub fn is_enforced(&self, set: Set, said: &Enforced) -> bool {
        if set & self.refused_by(said) != 0 {
            return false;
        }
        let meant = self.members(set).map(|bundle| (&bundle.policy.policy_id, bundle.policy.version));
        meant.eq(said.policies.iter().map(|(policy, version)| (policy, *version)))
    }

    /// What the policies of `set` come to. When one of them expires is for hosts to say, whose clocks are looked after.
    pub fn in_force(&self, set: Set, preset: Preset) -> InForce {
        InForce::of_bundles(self.members(set), preset, Time::exact(0))
    }

    fn members(&self, set: Set) -> impl Iterator<Item = &Bundle> {
        self.bundles().enumerate().filter(move |(place, _)| set & (1 << place) != 0).map(|(_, bundle)| bundle)
    }
}

/// The bundle with the rules that decide: for each point the first that denies it and the first that allows it.
fn essence(bundle: Bundle) -> Bundle {
    let SecurityPolicy { allowed_contracts, denied_contracts, .. } = &bundle.policy;
    let (allowed_contracts, denied_contracts) = (deciding(allowed_contracts), deciding(denied_contracts));
    let policy = SecurityPolicy { allowed_contracts, denied_contracts, ..bundle.policy };
    Bundle { policy, revoked_keys: Default::default(), allow_older: Default::default(), ..bundle }
}

fn deciding(rules: &[Rule]) -> Vec<Rule> {
    let mut places: Vec<usize> = Point::ALL.into_iter().filter_map(|point| rules.iter().position(|rule| rule.fits(point))).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().filter_map(|place| rules.get(place).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::report::Refusal;
    use crate::policy::tests::{id, signed, signed_by, with};
    use crate::trust::testing::key;

    #[test]
    fn each_document_in_its_place() {
        let mut posted = Posted::default();
        let document = signed(&with(1, |_| ()));
        posted.insert(&subject::policy_key(&id("edge")), &document).unwrap();
        assert!(posted.insert(&subject::policy_key(&id("other")), &document).unwrap_err().to_string().contains("another policy"));
        posted.insert("no.policy", &document).unwrap();
        assert_eq!(posted.bundles().count(), 1);
    }

    #[test]
    fn no_more_than_a_host_keeps() {
        let mut posted = Posted::default();
        for n in 0..=MAX_POLICIES {
            let policy = id(&format!("p{n}"));
            posted.insert(&subject::policy_key(&policy), &signed(&with(1, |b| b.policy.policy_id = policy.clone()))).unwrap();
        }
        assert_eq!(posted.bundles().count(), MAX_POLICIES);
        // What is known is followed.
        let first = with(2, |b| b.policy.policy_id = id("p0"));
        posted.insert(&subject::policy_key(&id("p0")), &signed(&first)).unwrap();
        assert_eq!(posted.bundles().next().unwrap().policy.version, 2);
    }

    #[test]
    fn the_same_words_under_another_signature_are_another_document() {
        let posted = |document: &[u8]| {
            let mut posted = Posted::default();
            posted.insert(&subject::policy_key(&id("edge")), document).unwrap();
            posted
        };
        let bundle = with(1, |_| ());
        let (sound, forged) = (signed(&bundle), signed_by(&bundle, &key('A', 'C')));
        assert!(posted(&sound).bundles().eq(posted(&forged).bundles()));
        assert!(posted(&sound).says_the_same(&posted(&sound)) && !posted(&sound).says_the_same(&posted(&forged)));
        let said = |refused: &[u8], version: u64| {
            let policies = if version > 0 { format!(r#""edge":{version}"#) } else { String::new() };
            let refused = serde_json::to_string(&Refusal::new(refused, "no")).unwrap();
            serde_json::from_str::<Enforced>(&format!(r#"{{"policies":{{{policies}}},"refusals":{{"edge":{refused}}}}}"#)).unwrap()
        };
        assert_eq!([posted(&sound).refused_by(&said(&forged, 0)), posted(&forged).refused_by(&said(&forged, 0))], [0, 1]);
        assert!(posted(&sound).is_enforced(1, &said(&forged, 1)) && !posted(&forged).is_enforced(1, &said(&forged, 1)));
        assert!(posted(&forged).is_enforced(0, &said(&forged, 0)), "it is not meant here");
    }
}
