use super::*;
use lattice_core::id::{HostId, HostName, Incarnation, Region, Revision};
use lattice_core::policy::rules::{Point, Rule};
use lattice_core::policy::scope::Scope;
use lattice_core::policy::{Bundle, SecurityPolicy};
use lattice_core::trust::envelope::{Purpose, seal, signed_bytes};
use nkeys::KeyPair;

const NOW: u64 = 1_795_000_000;
const DAY: u64 = 86_400;

struct Desk {
    folder: tempfile::TempDir,
    admin: KeyPair,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), admin: KeyPair::new_account() }
    }

    fn key(&self) -> PublicKey {
        PublicKey::new(self.admin.public_key()).unwrap()
    }

    /// A host whose machine's clock is `wall`.
    fn warden(&self, wall: fn() -> u64) -> Warden {
        let (ledger, found) = Ledger::open(self.folder.path());
        let post = Post {
            origin: Origin {
                host: HostId::new(format!("N{}", "A".repeat(55))).unwrap(),
                name: HostName::new("NEDGE01").unwrap(),
                region: Region::new("eu").unwrap(),
                incarnation: Incarnation::new("01").unwrap(),
            },
            labels: BTreeMap::new(),
            lattice: LatticeName::new("default").unwrap(),
            keys: BTreeSet::from([self.key()]),
            preset: Preset::Open,
            clock: Arc::new(Clock::reading(wall, found.floor_s)),
            ledger: Arc::new(ledger),
            shield: Shield::open(),
        };
        Warden::restore(post, found)
    }

    fn policy(&self, version: u64, denied: &[&str], scope: Scope) -> BTreeMap<ConfigName, StoredPolicy> {
        let bundle = Bundle {
            policy: SecurityPolicy {
                policy_id: edge(),
                version,
                allowed_contracts: vec![Rule::new("*").unwrap()],
                denied_contracts: denied.iter().map(|rule| Rule::new(*rule).unwrap()).collect(),
                max_actor_memory_mb: None,
                network_restrictions: Vec::new(),
            },
            lattice: LatticeName::new("default").unwrap(),
            scope,
            issued_at: NOW,
            not_before: NOW - DAY,
            expires: NOW + DAY,
            issuer: self.key(),
            revoked_keys: BTreeSet::new(),
            allow_older: BTreeSet::new(),
        };
        let body = bundle.encode();
        let document = seal(&self.key(), &self.admin.sign(&signed_bytes(Purpose::Policy, &body)).unwrap(), &body);
        BTreeMap::from([(edge(), StoredPolicy { document: document.into(), revision: Revision(1) })])
    }
}

fn edge() -> ConfigName {
    ConfigName::new("edge").unwrap()
}

fn kinds(told: &Told) -> Vec<EventKind> {
    told.news.iter().map(|(kind, ..)| *kind).collect()
}

fn denies(warden: &Warden) -> bool {
    warden.post.shield.in_force().check(Point::KeyValueStore).is_err()
}

#[test]
fn in_force_kept_and_told() {
    let desk = Desk::new();
    let mut warden = desk.warden(|| NOW);
    assert_eq!(kinds(&warden.told(false)), []);
    warden.handle_read(&desk.policy(4, &["wasmcloud:keyvalue"], Scope::All));
    assert!(denies(&warden));
    let told = warden.told(true);
    assert_eq!((kinds(&told), told.enforced.policies[&edge()]), (vec![EventKind::PolicyApplied], 4));
    warden.handle_read(&desk.policy(4, &["wasmcloud:keyvalue"], Scope::All));
    assert_eq!(kinds(&warden.told(true)), [], "the same again is no news");

    // A replay is refused, said once, and changes nothing, neither now nor after a restart.
    for _ in 0..2 {
        warden.handle_read(&desk.policy(3, &[], Scope::All));
    }
    let told = warden.told(true);
    assert_eq!(kinds(&told), [EventKind::PolicyRefused]);
    assert!(told.enforced.refused["edge"].contains("version 3 of edge is older than 4"));
    let mut again = desk.warden(|| NOW);
    assert!(denies(&again));
    again.handle_read(&desk.policy(3, &[], Scope::All));
    assert!(denies(&again));
    again.handle_read(&desk.policy(5, &[], Scope::All));
    assert!(!denies(&again) && again.told(true).enforced.refused.is_empty());
    // One that is not for this host takes the older one away.
    again.handle_read(&desk.policy(6, &["*"], Scope::Region(Region::new("us").unwrap())));
    assert_eq!(again.told(true).enforced.elsewhere[&edge()], 6);
    assert!(again.post.shield.in_force().policies().is_empty());
}

#[test]
fn nobody_else_signs_policies() {
    let (desk, other) = (Desk::new(), Desk::new());
    let mut warden = desk.warden(|| NOW);
    warden.handle_read(&other.policy(1, &["wasmcloud:keyvalue"], Scope::All));
    assert!(!denies(&warden));
    assert!(warden.told(true).enforced.refused["edge"].contains("does not sign policies here"));
}

#[test]
fn what_was_lost_denies_everything_until_it_was_read_again() {
    for file in ["marks.json", "policies.json"] {
        let desk = Desk::new();
        let policy = desk.policy(1, &[], Scope::All);
        desk.warden(|| NOW).handle_read(&policy);
        let path = desk.folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        // Twice: what is written meanwhile does not hide the loss.
        desk.warden(|| NOW).post.ledger.keep_floor(NOW + 5).unwrap();
        let mut warden = desk.warden(|| NOW + 10);
        assert!(denies(&warden) && warden.post.shield.in_force().may_start().is_err(), "{file}");
        let told = warden.told(false);
        assert_eq!(kinds(&told), [EventKind::TrustLost]);
        assert!(told.enforced.lost.is_some());
        warden.handle_read(&policy);
        assert!(!denies(&warden) && warden.told(true).enforced.lost.is_none());
        assert!(!denies(&desk.warden(|| NOW + 10)), "{file} is whole again");
    }
}

#[test]
fn a_clock_that_is_years_behind() {
    let desk = Desk::new();
    let mut warden = desk.warden(|| 1_000_000);
    assert_eq!(kinds(&warden.told(false)), [EventKind::ClockUntrusted]);
    let policy = desk.policy(1, &["wasmcloud:keyvalue"], Scope::All);
    warden.handle_read(&policy);
    assert!(!denies(&warden), "nobody has said yet that it is valid");
    assert!(warden.told(true).enforced.refused["edge"].contains("not valid before"));
    warden.post.clock.hear_server(NOW);
    warden.handle_read(&policy);
    assert!(denies(&warden), "the server's clock counts");
    assert_eq!(warden.told(true).enforced.clock, Standing::Behind);
}

#[test]
fn a_clock_that_is_years_ahead() {
    let desk = Desk::new();
    desk.warden(|| NOW).handle_read(&desk.policy(1, &["wasmcloud:keyvalue"], Scope::All));
    // Alone with its clock it takes the policy for expired: nothing starts, and what is denied stays so.
    let mut warden = desk.warden(|| NOW + 3650 * DAY);
    assert!(denies(&warden) && warden.post.shield.in_force().may_start().is_err());
    warden.post.clock.hear_server(NOW);
    assert!(warden.enforce());
    assert!(denies(&warden) && warden.post.shield.in_force().may_start().is_ok());
    assert_eq!(kinds(&warden.told(false)), [EventKind::ClockUntrusted]);
    // The time of the wrong clock was not kept.
    let again = desk.warden(|| NOW);
    assert!(again.post.shield.in_force().may_start().is_ok());
}
