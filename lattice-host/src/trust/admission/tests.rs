use super::*;
use lattice_core::claims::{Claim, Permit};
use lattice_core::id::{ConfigName, Digest};
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::trust::clock::Time;
use lattice_core::trust::envelope::{Purpose, seal, signed_bytes};
use lattice_core::wire::event::Event;
use nkeys::KeyPair;
use tokio::sync::mpsc;

/// Far from the clock of whatever machine this runs on.
const NOW: u64 = 4_000_000_000;
const HOUR: u64 = 3600;

struct Desk {
    folder: tempfile::TempDir,
    issuer: KeyPair,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), issuer: KeyPair::new_account() }
    }

    fn key(&self) -> PublicKey {
        PublicKey::new(self.issuer.public_key()).unwrap()
    }

    /// A host's admission with what is on its disk, after a time that has passed there.
    fn admission(&self, floor_s: u64) -> (Admission, mpsc::Receiver<Event>) {
        let (recorder, events) = crate::recorder::tests::recorder();
        let admission = Admission {
            trusted: BTreeSet::from([self.key()]),
            lattice: LatticeName::new("default").unwrap(),
            clock: Arc::new(Clock::reading(|| NOW, floor_s)),
            ledger: Arc::new(Ledger::open(self.folder.path()).0),
            shield: Shield::open(),
            recorder,
        };
        (admission, events)
    }

    /// What a component carries; another one for each version.
    fn carried(&self, version: &str) -> Carried {
        let digest = Digest::of(version.as_bytes());
        let claim = Claim {
            name: "edge".to_owned(),
            version: version.parse().unwrap(),
            revision: 0,
            digest: digest.clone(),
            allow: BTreeSet::new(),
            issued_at: NOW - 10,
            not_before: NOW - HOUR,
            expires: NOW + HOUR,
            issuer: self.key(),
            subject: PublicKey::new(KeyPair::new_module().public_key()).unwrap(),
            lattice: None,
        };
        let body = claim.encode();
        let sealed = seal(&self.key(), &self.issuer.sign(&signed_bytes(Purpose::Claim, &body)).unwrap(), &body);
        Carried { digest, claim: Some(String::from_utf8(sealed).unwrap()), token: None, token_hash: String::new() }
    }

    /// A policy that revokes keys and lets older code in.
    fn force(&self, revoked: BTreeSet<PublicKey>, allow_older: BTreeSet<Permit>) -> InForce {
        let bundle = Bundle {
            policy: SecurityPolicy {
                policy_id: ConfigName::new("edge").unwrap(),
                version: 1,
                allowed_contracts: Vec::new(),
                denied_contracts: Vec::new(),
                max_actor_memory_mb: None,
                network_restrictions: Vec::new(),
            },
            lattice: LatticeName::new("default").unwrap(),
            scope: Scope::All,
            issued_at: NOW,
            not_before: NOW - HOUR,
            expires: NOW + HOUR,
            issuer: self.key(),
            revoked_keys: revoked,
            allow_older,
        };
        InForce::of_bundles([&bundle], Preset::Open, Time::exact(NOW))
    }
}

fn unsigned() -> Carried {
    Carried { digest: Digest::of(b"x"), claim: None, token: None, token_hash: String::new() }
}

#[test]
fn what_is_not_let_in_is_not_compiled_either_and_compiling_remembers_nothing() {
    let desk = Desk::new();
    let (admission, _events) = desk.admission(NOW - HOUR);
    assert!(admission.asks());
    for verdict in [admission.check(&unsigned()), admission.admit(&unsigned()).map(drop)] {
        assert_eq!(verdict, Err(Refused::Unsigned { token_only: false }));
    }
    admission.check(&desk.carried("2.0.0")).unwrap();
    assert_eq!(admission.admit(&desk.carried("1.0.0")).unwrap().unwrap().name, "edge", "2.0.0 was compiled and never ran");
    admission.admit(&desk.carried("2.0.0")).unwrap();
    for verdict in [admission.check(&desk.carried("1.0.0")), admission.admit(&desk.carried("1.0.0")).map(drop)] {
        assert!(matches!(verdict, Err(Refused::Older { .. })), "{verdict:?}");
    }
    let (again, _events) = desk.admission(NOW - HOUR);
    assert!(matches!(again.admit(&desk.carried("1.0.0")), Err(Refused::Older { .. })), "what ran is on disk");
}

#[test]
fn where_nobody_is_trusted_nothing_is_asked() {
    let (mut admission, _events) = Desk::new().admission(NOW - HOUR);
    admission.trusted.clear();
    assert!(!admission.asks());
    assert_eq!((admission.check(&unsigned()), admission.admit(&unsigned())), (Ok(()), Ok(None)));
}

#[test]
fn judged_by_the_time_that_counts_which_a_signature_proves() {
    let desk = Desk::new();
    let (admission, _events) = desk.admission(NOW - HOUR);
    admission.admit(&desk.carried("1.0.0")).unwrap();
    assert_eq!(admission.clock.advance(None), NOW - 10, "when it was signed has passed");
    // As far as this host knows it is later than its clock shows.
    let (late, _events) = desk.admission(NOW + HOUR);
    assert!(matches!(late.admit(&desk.carried("1.0.0")), Err(Refused::Expired { .. })));
    assert!(matches!(late.check(&desk.carried("1.0.0")), Err(Refused::Expired { .. })));
}

#[test]
fn a_key_that_was_revoked_lets_nothing_in_any_more() {
    let desk = Desk::new();
    let (admission, _events) = desk.admission(NOW - HOUR);
    admission.admit(&desk.carried("1.0.0")).unwrap();
    admission.shield.raise(desk.force(BTreeSet::from([desk.key()]), BTreeSet::new()));
    assert!(matches!(admission.check(&desk.carried("1.0.0")), Err(Refused::Revoked { .. })));
    assert!(matches!(admission.admit(&desk.carried("1.0.0")), Err(Refused::Revoked { .. })));
}

#[test]
fn older_code_that_a_policy_lets_in_is_recorded() {
    let desk = Desk::new();
    let (admission, mut events) = desk.admission(NOW - HOUR);
    let (old, new) = (desk.carried("1.0.0"), desk.carried("2.0.0"));
    admission.admit(&new).unwrap();
    assert!(matches!(admission.admit(&old), Err(Refused::Older { .. })));
    let permit = Permit { name: "edge".to_owned(), digest: old.digest.clone() };
    admission.shield.raise(desk.force(BTreeSet::new(), BTreeSet::from([permit])));
    admission.admit(&old).unwrap();
    assert_eq!(events.try_recv().unwrap().kind, EventKind::ClaimForced);
    admission.admit(&new).unwrap();
    assert!(events.try_recv().is_err(), "what is the newest needs nobody's leave");
}
