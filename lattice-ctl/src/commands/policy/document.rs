//! Policies as files, as signed documents, and as the store keeps them.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ConfigName, Digest, LatticeName, Revision};
use lattice_core::policy::accept::Mark;
use lattice_core::policy::report::Wanted;
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, MAX_BUNDLE_BYTES, SecurityPolicy};
use lattice_core::trust::PublicKey;
use lattice_core::trust::clock::date;
use lattice_core::trust::envelope::{Envelope, Purpose};
use lattice_core::wire::json;
use lattice_nats::policies::StoredPolicy;

use super::lineage::Lineage;
use crate::commands::signing::{Nkeys, Signer};
use crate::connection::Session;
use crate::error::Outcome;
use crate::problems;

/// Deepest nesting of a policy file.
const DEPTH: usize = 4;

/// Reads the operator's file.
///
/// # Errors
/// A usage problem that names what makes no sense.
pub(super) fn read_file(path: &Path) -> Result<SecurityPolicy, Problem> {
    let failed = |error: std::io::Error| problems::path("policy file", path, &error);
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file which is too large is seen to be.
    std::fs::File::open(path).map_err(failed)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    json::parse(&bytes, MAX_BUNDLE_BYTES, DEPTH).map_err(|error| {
        problems::usage(format!("policy file {}: {error}", path.display())).hint(
            "it needs policy_id, version and allowed_contracts ([\"*\"] allows all); denied_contracts, max_actor_memory_mb and \
             network_restrictions may be there",
        )
    })
}

/// A document of the store, opened.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// What it says.
    pub(super) bundle: Bundle,
    /// Its mark, as hosts keep it.
    pub(super) mark: Mark,
    /// What keeps it from counting, whoever may sign policies here.
    pub(super) flaw: Option<Flaw>,
    /// The document itself.
    pub(super) stored: StoredPolicy,
}

/// Why a document counts for nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// Nobody signed it like this.
    #[error("its signature is wrong")]
    Signature,
    /// It stands where another policy belongs.
    #[error("it stands in the place of policy {place}")]
    Misplaced {
        /// Whose place that is.
        place: ConfigName,
    },
    /// It was signed for others.
    #[error("it is for lattice `{meant}`")]
    OtherLattice {
        /// For whom.
        meant: LatticeName,
    },
}

impl Opened {
    /// Opens a document of `lattice` that stands in the place of `policy`; none if it cannot be read at all. Whether the key is
    /// one that hosts trust is for them to say.
    pub(super) fn of(stored: &StoredPolicy, policy: &ConfigName, lattice: &LatticeName) -> Option<Self> {
        let envelope = Envelope::read(&stored.document).ok()?;
        let body = envelope.unverified();
        let bundle = Bundle::decode(body).ok()?;
        let signed = envelope.open(Purpose::Policy, &Nkeys).is_some() && bundle.issuer == *envelope.issuer();
        let flaw = if !signed {
            Some(Flaw::Signature)
        } else if bundle.policy.policy_id != *policy {
            Some(Flaw::Misplaced { place: policy.clone() })
        } else if bundle.lattice != *lattice {
            Some(Flaw::OtherLattice { meant: bundle.lattice.clone() })
        } else {
            None
        };
        let mark = Mark { version: bundle.policy.version, digest: Digest::of(body), elsewhere: false };
        Some(Self { bundle, mark, flaw, stored: stored.clone() })
    }

    /// Who must enforce it. What nobody signed does not say whom it is for, so every host is asked about it.
    pub(super) fn wanted(&self) -> Wanted {
        let scope = if self.flaw.is_none() { self.bundle.scope.clone() } else { Scope::All };
        Wanted { scope, ..wanted(&self.bundle, &self.stored.document) }
    }

    /// Digest of the whole document, by which hosts name what they refuse.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.stored.document)
    }

    /// Whether it asks hosts for the same as `other`, whenever both were signed.
    pub(super) fn asks_the_same(&self, other: &Bundle) -> bool {
        let mine = &self.bundle;
        mine.policy == other.policy
            && mine.lattice == other.lattice
            && mine.scope == other.scope
            && mine.revoked_keys == other.revoked_keys
            && mine.allow_older == other.allow_older
    }

    /// What is wrong with it, or about to be.
    pub(super) fn warning(&self, now_s: u64) -> Option<String> {
        /// How long before its end a policy is spoken of.
        const SOON_S: u64 = 30 * 86_400;
        let expires = self.bundle.expires;
        if let Some(flaw) = &self.flaw {
            Some(format!("{flaw}: hosts keep what they had"))
        } else if expires <= now_s {
            Some(format!("expired {}: nothing new starts under it", date(expires)))
        } else if expires.saturating_sub(now_s) < SOON_S {
            Some(format!("expires {}", date(expires)))
        } else {
            None
        }
    }
}

/// What hosts must enforce once `bundle` is stored as `document`.
fn wanted(bundle: &Bundle, document: &[u8]) -> Wanted {
    let Bundle { policy, scope, .. } = bundle;
    Wanted { policy: policy.policy_id.clone(), version: policy.version, scope: scope.clone(), document: Digest::of(document) }
}

/// The documents of a policy that are kept and can be read, the oldest first, and where the newest one stands, readable or not.
///
/// # Errors
/// As the store.
pub(super) async fn kept(session: &Session, policy: &ConfigName) -> Outcome<(Vec<Opened>, Revision)> {
    let (_, revision) = session.lattice.read_policy(policy).await?;
    let stored = session.lattice.policy_history(policy).await?;
    Ok((stored.iter().filter_map(|stored| Opened::of(stored, policy, session.name())).collect(), revision))
}

/// Checks, signs and stores a new version in the place of what stands at `revision`. Returns what hosts must enforce now.
///
/// # Errors
/// A usage problem if hosts would refuse it; a conflict if somebody else was faster.
pub(super) async fn commit(session: &Session, bundle: &Bundle, before: &Lineage, revision: Revision, signer: &Signer) -> Outcome<Wanted> {
    let policy = &bundle.policy.policy_id;
    bundle.check().map_err(|error| problems::usage(format!("policy {policy}: {error}")))?;
    let body = bundle.encode();
    before
        .check(policy, bundle.policy.version, &Digest::of(&body))
        .map_err(|refused| old_version(policy, before, signer.public(), &refused.to_string()))?;
    let document = signer.seal(Purpose::Policy, &body)?;
    if document.len() > MAX_BUNDLE_BYTES {
        return Err(
            problems::usage(format!("policy {policy}: signed it has {} bytes, at most {MAX_BUNDLE_BYTES} fit", document.len())).into()
        );
    }
    let wanted = wanted(bundle, &document);
    session.lattice.commit_policy(policy, Bytes::from(document), revision).await?;
    Ok(wanted)
}

fn old_version(policy: &ConfigName, before: &Lineage, signer: &PublicKey, why: &str) -> Problem {
    let next = before.version().saturating_add(1);
    let mut problem = Problem::new(ErrorCode::Conflict, format!("policy {policy}: {why}"))
        .hint(format!("give version {next} in the file, or --bump; `lattice-ctl policy get {policy}` shows what is in force"));
    problem.causes = before
        .last()
        .filter(|last| last.bundle.issuer != *signer)
        .map(|last| {
            format!(
                "version {} was signed by {}: where hosts that refuse it answer, it does not count",
                last.mark.version, last.bundle.issuer
            )
        })
        .into_iter()
        .collect();
    problem
}

/// No policy of that name.
pub(super) fn missing(policy: &ConfigName) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("policy not found: {policy}")).hint("`lattice-ctl get policies` lists all")
}

/// Something of that name that is no policy.
pub(super) fn unreadable(policy: &ConfigName) -> Problem {
    Problem::new(ErrorCode::Failed, format!("policy {policy} cannot be read: hosts keep what they had"))
        .hint("`lattice-ctl policy put <file> --bump` replaces it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::policy::watch::tests::opened;
    use crate::commands::signing::public;
    use lattice_core::trust::envelope::{seal, signed_bytes};
    use nkeys::KeyPair;

    #[test]
    fn what_counts_names_who_signed_it_and_stands_in_its_place() {
        let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
        let flaw = |issuer: &KeyPair, signer: &KeyPair, policy: &str, lattice: &str| {
            let body = Bundle { issuer: public(issuer).unwrap(), ..opened(1, "*").bundle }.encode();
            let signature = signer.sign(&signed_bytes(Purpose::Policy, &body)).unwrap();
            let document = seal(&public(&account).unwrap(), &signature, &body).into();
            let stored = StoredPolicy { document, revision: Revision(1) };
            Opened::of(&stored, &ConfigName::new(policy).unwrap(), &LatticeName::new(lattice).unwrap()).unwrap().flaw
        };
        let (place, meant) = (ConfigName::new("other").unwrap(), LatticeName::new("default").unwrap());
        assert_eq!(flaw(&account, &account, "edge", "default"), None);
        assert_eq!(flaw(&account, &other, "edge", "default"), Some(Flaw::Signature), "another signature");
        assert_eq!(flaw(&other, &account, "edge", "default"), Some(Flaw::Signature), "another issuer than the line above says");
        assert_eq!(flaw(&account, &account, "other", "default"), Some(Flaw::Misplaced { place }));
        assert_eq!(flaw(&account, &account, "edge", "other"), Some(Flaw::OtherLattice { meant }));
    }
}
