//! Which policies a host takes, and what it keeps of them.
//!
//! A host keeps, for each policy, the highest version that it has verified (its *mark*) and the signed document itself. Both
//! go to disk after the check. A document may be offered as often as one likes: by the store, again after a restart, by
//! somebody who replays an old one.
//!
//! **Invariants.** Marks never fall. What is refused changes nothing: the policy before it stays. A newer version that is not
//! for this host any more takes the older one away; a document that is lost does not: a host that knows that it held a policy
//! and cannot read it runs nothing ([`Holding::lost`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::scope::Facts;
use super::{Bundle, MAX_BUNDLE_BYTES, MAX_FIRST_VERSION, MAX_JUMP, Senseless};
use crate::id::{ConfigName, Digest, LatticeName};
use crate::trust::clock::date;
use crate::trust::envelope::{Envelope, EnvelopeError, Purpose};
use crate::trust::{Place, PublicKey, Verify};

/// Policies that one host keeps.
pub const MAX_POLICIES: usize = 64;

/// The highest version that was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Version.
    pub version: u64,
    /// Digest of the document without the line that says who signed it.
    pub digest: Digest,
    /// Whether that version is not for this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

/// Marks by policy, as they stand on disk, apart from the documents: one file that is lost tells of the other.
pub type Marks = BTreeMap<ConfigName, Mark>;
/// Signed documents by policy, as they stand on disk.
pub type Documents = BTreeMap<ConfigName, String>;

/// What was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<T> {
    /// Nothing was ever there.
    Absent,
    /// Something that cannot be read.
    Unreadable(String),
    /// This.
    Found(T),
}

/// What a document is held against.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// Keys that may sign policies.
    pub keys: &'a BTreeSet<PublicKey>,
    /// The host that asks.
    pub host: Facts<'a>,
    /// Lattice and time.
    pub place: Place<'a>,
}

/// A policy that is in force, with the document that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) bundle: Bundle,
    document: String,
}

/// The policies of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    marks: Marks,
    held: BTreeMap<ConfigName, Held>,
    /// Why it is not known which policies there were.
    lost: Option<String>,
}

/// What became of a document that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force now.
    Taken {
        /// The policy.
        policy: ConfigName,
        /// The version before it.
        from: Option<u64>,
        /// Its version.
        to: u64,
    },
    /// It is not for this host; an older version that was is not in force any more.
    Elsewhere {
        /// The policy.
        policy: ConfigName,
        /// The version that was in force.
        from: Option<u64>,
        /// Its version.
        to: u64,
    },
    /// It was known.
    Same,
}

impl Outcome {
    /// Whether what is in force may be different now, and must be written.
    pub fn changed(&self) -> bool {
        !matches!(self, Self::Same)
    }
}

/// Why a document is refused. The policy before it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too large.
    #[error("it has {size} bytes, at most {MAX_BUNDLE_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// No signed document.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Signed by a key that signs no policies here.
    #[error("{key} does not sign policies here")]
    UnknownKey {
        /// The key.
        key: PublicKey,
    },
    /// Signed by a key that a policy in force has revoked.
    #[error("{key} was revoked")]
    RevokedKey {
        /// The key.
        key: PublicKey,
    },
    /// The signature does not hold.
    #[error("wrong signature: it is not by {key}, or the policy was changed or cut afterwards")]
    Signature {
        /// Who is said to have signed.
        key: PublicKey,
    },
    /// Signed, and makes no sense.
    #[error("it makes no sense: {0}")]
    Senseless(#[from] Senseless),
    /// For another lattice.
    #[error("it is for lattice `{meant}`, not for `{here}`")]
    OtherLattice {
        /// Lattice in the document.
        meant: LatticeName,
        /// This one.
        here: LatticeName,
    },
    /// A replay.
    #[error("version {offered} of {policy} is older than {held}, which was seen here")]
    Older {
        /// The policy.
        policy: ConfigName,
        /// Its version.
        offered: u64,
        /// The highest version seen.
        held: u64,
    },
    /// Two documents under one version.
    #[error("version {version} of {policy} was seen with other content: {held} before, {offered} now")]
    Equivocal {
        /// The policy.
        policy: ConfigName,
        /// The version.
        version: u64,
        /// Digest of what was seen.
        held: Digest,
        /// Digest of this.
        offered: Digest,
    },
    /// A version so high that nothing could follow it.
    #[error("version {offered} of {policy} is too far above {held}")]
    Jump {
        /// The policy.
        policy: ConfigName,
        /// Its version.
        offered: u64,
        /// The highest version seen; 0 if none was.
        held: u64,
    },
    /// Too early.
    #[error("version {version} of {policy} is not valid before {}", date(*.not_before))]
    NotYetValid {
        /// The policy.
        policy: ConfigName,
        /// Its version.
        version: u64,
        /// Start of its validity.
        not_before: u64,
    },
    /// Too late.
    #[error("version {version} of {policy} expired {}", date(*.expires))]
    Expired {
        /// The policy.
        policy: ConfigName,
        /// Its version.
        version: u64,
        /// End of its validity.
        expires: u64,
    },
    /// More policies than a host keeps.
    #[error("this host holds {MAX_POLICIES} policies already")]
    TooMany,
}

impl Holding {
    /// What a host holds after a restart, from what is on its disk: documents are verified again, and must be the ones that
    /// the marks are about. Expiry does not matter here: what has expired is still in force ([`super::force`]).
    pub fn restore(marks: Stored<Marks>, documents: Stored<Documents>, judge: &Judge<'_>, crypto: &impl Verify) -> Self {
        let mut lost = None;
        let mut holding = Self::default();
        match marks {
            Stored::Absent => {}
            Stored::Unreadable(why) => lost = Some(format!("the versions that were seen cannot be read: {why}")),
            Stored::Found(marks) => holding.marks = marks,
        }
        match documents {
            Stored::Absent => {}
            Stored::Unreadable(why) => lost = Some(format!("the policies cannot be read: {why}")),
            Stored::Found(documents) => {
                for (policy, document) in documents.into_iter().take(MAX_POLICIES) {
                    // What does not hold is missed below.
                    let _ = holding.take_back(&policy, document, judge, crypto);
                }
            }
        }
        holding.lost = lost.or_else(|| holding.missing());
        holding
    }

    fn take_back(&mut self, policy: &ConfigName, document: String, judge: &Judge<'_>, crypto: &impl Verify) -> Result<(), Refused> {
        let (bundle, digest) = open(document.as_bytes(), judge, &BTreeSet::new(), crypto)?;
        let mark = Mark { version: bundle.policy.version, digest, elsewhere: false };
        let known = self.marks.entry(policy.clone()).or_insert_with(|| mark.clone());
        if bundle.policy.policy_id == *policy && *known == mark && bundle.scope.covers(&judge.host) {
            self.held.insert(policy.clone(), Held { bundle, document });
        }
        Ok(())
    }

    fn missing(&self) -> Option<String> {
        let missing = |(policy, mark): &(&ConfigName, &Mark)| !mark.elsewhere && !self.held.contains_key(*policy);
        let (policy, mark) = self.marks.iter().find(missing)?;
        Some(format!("version {} of {policy} was in force here and cannot be read or verified any more", mark.version))
    }

    /// Looks at a signed document, and takes it if it is newer and everything about it is right. The caller writes
    /// [`Holding::marks`] and [`Holding::documents`] to disk if something changed.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn offer(&mut self, document: &[u8], judge: &Judge<'_>, crypto: &impl Verify) -> Result<Outcome, Refused> {
        // Not refused because its key was revoked since: it stays in force until another one comes.
        if self.held.values().any(|held| held.document.as_bytes() == document) {
            return Ok(Outcome::Same);
        }
        let (bundle, digest) = open(document, judge, &self.revoked_keys(), crypto)?;
        let (policy, version) = (bundle.policy.policy_id.clone(), bundle.policy.version);
        let known = self.marks.get(&policy);
        let is_known = known.is_some_and(|mark| mark.version == version);
        check_version(&policy, version, &digest, known)?;
        if is_known && (self.held.contains_key(&policy) || known.is_some_and(|mark| mark.elsewhere)) {
            return Ok(Outcome::Same);
        }
        if known.is_none() && self.marks.len() >= MAX_POLICIES {
            return Err(Refused::TooMany);
        }
        // One that was held and lost is taken back whatever the time.
        if !is_known {
            check_time(&bundle, judge.place)?;
        }
        let elsewhere = !bundle.scope.covers(&judge.host);
        let from = self.held.remove(&policy).map(|held| held.bundle.policy.version);
        self.marks.insert(policy.clone(), Mark { version, digest, elsewhere });
        if elsewhere {
            return Ok(Outcome::Elsewhere { policy, from, to: version });
        }
        // A verified document is JSON, and so are the words before it.
        let document = String::from_utf8_lossy(document).into_owned();
        self.held.insert(policy.clone(), Held { bundle, document });
        Ok(Outcome::Taken { policy, from, to: version })
    }

    /// Says that all policies of the store have been offered: from now on the host knows again which there are.
    pub fn complete(&mut self) {
        self.lost = self.missing();
    }

    /// Why the host does not know what it should enforce; then it enforces that nothing may be used.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The marks to write.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The documents to write.
    pub fn documents(&self) -> Documents {
        self.held.iter().map(|(policy, held)| (policy.clone(), held.document.clone())).collect()
    }

    /// The policies in force, in the order of their names.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.held.values().map(|held| &held.bundle)
    }

    /// Keys that a policy in force has revoked.
    pub fn revoked_keys(&self) -> BTreeSet<PublicKey> {
        self.bundles().flat_map(|bundle| bundle.revoked_keys.iter().cloned()).collect()
    }

    /// Older code that a policy in force lets in.
    pub fn permits(&self) -> BTreeSet<crate::claims::Permit> {
        self.bundles().flat_map(|bundle| bundle.allow_older.iter().cloned()).collect()
    }
}

/// What the document says and its digest, once it is known who signed it and that it is meant for this lattice.
fn open(document: &[u8], judge: &Judge<'_>, revoked: &BTreeSet<PublicKey>, crypto: &impl Verify) -> Result<(Bundle, Digest), Refused> {
    if document.len() > MAX_BUNDLE_BYTES {
        return Err(Refused::TooLarge { size: document.len() });
    }
    let envelope = Envelope::read(document)?;
    let key = envelope.issuer().clone();
    if !judge.keys.contains(&key) || !Purpose::Policy.signers().contains(&key.kind()) {
        return Err(Refused::UnknownKey { key });
    }
    if revoked.contains(&key) {
        return Err(Refused::RevokedKey { key });
    }
    let body = envelope.open(Purpose::Policy, crypto).ok_or_else(|| Refused::Signature { key: key.clone() })?;
    let bundle = Bundle::decode(body)?;
    if bundle.issuer != key {
        return Err(Refused::Signature { key: bundle.issuer });
    }
    if bundle.lattice != *judge.place.lattice {
        return Err(Refused::OtherLattice { meant: bundle.lattice, here: judge.place.lattice.clone() });
    }
    Ok((bundle, Digest::of(body)))
}

/// Whether `version` may follow what is known of the policy.
///
/// # Errors
/// [`Refused::Older`], [`Refused::Equivocal`], [`Refused::Jump`].
pub fn check_version(policy: &ConfigName, version: u64, digest: &Digest, known: Option<&Mark>) -> Result<(), Refused> {
    let held = known.map_or(0, |mark| mark.version);
    let highest = if known.is_some() { held.saturating_add(MAX_JUMP) } else { MAX_FIRST_VERSION };
    let policy = || policy.clone();
    match known {
        Some(mark) if version == held && *digest != mark.digest => {
            Err(Refused::Equivocal { policy: policy(), version, held: mark.digest.clone(), offered: digest.clone() })
        }
        _ if version < held => Err(Refused::Older { policy: policy(), offered: version, held }),
        _ if version > highest.min(MAX_FIRST_VERSION) => Err(Refused::Jump { policy: policy(), offered: version, held }),
        _ => Ok(()),
    }
}

fn check_time(bundle: &Bundle, place: Place<'_>) -> Result<(), Refused> {
    let (policy, version) = (bundle.policy.policy_id.clone(), bundle.policy.version);
    if place.time.is_before(bundle.not_before) {
        return Err(Refused::NotYetValid { policy, version, not_before: bundle.not_before });
    }
    if place.time.is_past(bundle.expires) {
        return Err(Refused::Expired { policy, version, expires: bundle.expires });
    }
    Ok(())
}
