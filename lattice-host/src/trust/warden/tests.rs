use super::*;
use lattice_core::id::{Digest, HostId, HostName, Incarnation, Region, Revision};
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
        self.trusting(BTreeSet::from([self.key()]), wall)
    }

    /// The same where these keys sign policies.
    fn trusting(&self, keys: BTreeSet<PublicKey>, wall: fn() -> u64) -> Warden {
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
            keys,
            preset: Preset::Open,
            clock: Arc::new(Clock::reading(wall, found.floor_s)),
            ledger: Arc::new(ledger),
            shield: Shield::open(),
        };
        Warden::restore(post, found)
    }

    fn policy(&self, version: u64, denied: &[&str], scope: Scope) -> BTreeMap<ConfigName, StoredPolicy> {
        let stored = StoredPolicy { document: self.document(version, denied, scope, NOW).into(), revision: Revision(1) };
        BTreeMap::from([(edge(), stored)])
    }

    fn document(&self, version: u64, denied: &[&str], scope: Scope, now: u64) -> Vec<u8> {
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
            issued_at: now,
            not_before: now - DAY,
            expires: now + DAY,
            issuer: self.key(),
            revoked_keys: BTreeSet::new(),
            allow_older: BTreeSet::new(),
        };
        let body = bundle.encode();
        seal(&self.key(), &self.admin.sign(&signed_bytes(Purpose::Policy, &body)).unwrap(), &body)
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
    assert_eq!(Ledger::open(desk.folder.path()).1.floor_s, NOW, "when it was signed has passed");

    // A replay is refused, said once, and changes nothing, neither now nor after a restart.
    for _ in 0..2 {
        warden.handle_read(&desk.policy(3, &[], Scope::All));
    }
    let told = warden.told(true);
    assert_eq!(kinds(&told), [EventKind::PolicyRefused]);
    assert!(told.enforced.refused[&edge()].why.contains("version 3 of edge is older than 4"));
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
    assert!(warden.told(true).enforced.refused[&edge()].why.contains("does not sign policies here"));
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
fn it_looks_again_now_and_then_and_when_a_policy_ends() {
    let desk = Desk::new();
    let mut warden = desk.warden(|| NOW);
    assert_eq!(warden.stays(), RESYNC_INTERVAL);
    warden.handle_read(&desk.policy(1, &[], Scope::All));
    assert_eq!(warden.stays(), RESYNC_INTERVAL, "it ends in a day");
    assert!(desk.warden(|| NOW + DAY - 5).stays() <= Duration::from_secs(5));
}

#[test]
fn a_clock_that_is_years_behind() {
    let desk = Desk::new();
    let mut warden = desk.warden(|| 1_000_000);
    assert_eq!(kinds(&warden.told(false)), [EventKind::ClockUntrusted]);
    let policy = desk.policy(1, &["wasmcloud:keyvalue"], Scope::All);
    warden.handle_read(&policy);
    assert!(!denies(&warden), "nobody has said yet that it is valid");
    assert!(warden.told(true).enforced.refused[&edge()].why.contains("not valid before"));
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

#[test]
fn scopes_are_about_what_this_host_is() {
    let desk = Desk::new();
    let mut warden = desk.warden(|| NOW);
    warden.post.labels.insert("tier".to_owned(), "edge".to_owned());
    let label = |value: &str| Scope::Label { name: "tier".to_owned(), value: value.to_owned() };
    let host = |text: String| Scope::Host(text);
    let eu = Scope::Region(Region::new("eu").unwrap());
    let scopes = [
        (label("edge"), true),
        (label("core"), false),
        (eu, true),
        (host("NEDGE01".to_owned()), true),
        (host(format!("N{}", "A".repeat(55))), true),
        (host("NEDGE02".to_owned()), false),
    ];
    for (version, (scope, meant)) in (1..).zip(scopes) {
        warden.handle_read(&desk.policy(version, &["wasmcloud:keyvalue"], scope.clone()));
        assert_eq!(denies(&warden), meant, "{scope}");
    }
}

#[test]
fn what_cannot_be_written_is_in_force_and_written_with_the_next_read() {
    let desk = Desk::new();
    let policy = desk.policy(1, &["wasmcloud:keyvalue"], Scope::All);
    let mut warden = desk.warden(|| NOW);
    // A folder in its place: this file cannot be written.
    let in_the_way = desk.folder.path().join("policies.json");
    std::fs::create_dir(&in_the_way).unwrap();
    warden.handle_read(&policy);
    assert!(denies(&warden), "a denial waits for no disk");
    std::fs::remove_dir(&in_the_way).unwrap();
    assert!(!denies(&desk.warden(|| NOW)));
    warden.handle_read(&policy);
    assert!(denies(&desk.warden(|| NOW)));
}

#[test]
fn refusals_are_remembered_up_to_a_bound() {
    let (desk, other) = (Desk::new(), Desk::new());
    let mut warden = desk.warden(|| NOW);
    let foreign = other.policy(1, &[], Scope::All).remove(&edge()).unwrap();
    let many: BTreeMap<_, _> = (0..MAX_POLICIES + 3).map(|n| (ConfigName::new(format!("p{n}")).unwrap(), foreign.clone())).collect();
    for _ in 0..2 {
        warden.handle_read(&many);
        assert_eq!(warden.refused.len(), MAX_POLICIES);
    }
    assert_eq!(warden.told(true).news.len(), MAX_POLICIES, "each is said once");
    // Of one that takes the place of another, it is this one that is refused.
    let other = other.policy(2, &[], Scope::All).remove(&edge()).unwrap();
    let many = many.into_keys().map(|name| (name, other.clone())).collect();
    warden.handle_read(&many);
    assert!(warden.refused.len() == MAX_POLICIES && warden.refused.values().all(|refusal| refusal.document == Digest::of(&other.document)));
}

#[test]
fn a_refusal_names_the_document() {
    let (desk, other) = (Desk::new(), Desk::new());
    let mut warden = desk.warden(|| NOW);
    let mut refuses = |found: &BTreeMap<ConfigName, StoredPolicy>| {
        warden.handle_read(found);
        let told = warden.told(true);
        (told.enforced.refused.into_iter().collect::<Vec<_>>(), told.news.len())
    };
    let named = |place: &ConfigName, found: &StoredPolicy| {
        let why = format!("{} does not sign policies here", other.key());
        (place.clone(), Refusal { document: Digest::of(&found.document), why })
    };
    let [first, second] = [1, 2].map(|version| other.policy(version, &[], Scope::All));
    assert_eq!(refuses(&first), (vec![named(&edge(), &first[&edge()])], 1));
    assert_eq!(refuses(&first).1, 0, "the same again is no news");
    assert_eq!(refuses(&second), (vec![named(&edge(), &second[&edge()])], 1), "another document, for the same reason");
    // By its place, whatever it says of itself; what is not there any more is not refused any more.
    let place = ConfigName::new("elsewhere").unwrap();
    assert_eq!(refuses(&BTreeMap::from([(place.clone(), first[&edge()].clone())])), (vec![named(&place, &first[&edge()])], 1));
    assert_eq!(refuses(&desk.policy(1, &[], Scope::All)), (vec![], 1));
}

/// What the warden tells as soon as `fits` holds.
async fn told(events: &mut mpsc::Receiver<Event>, fits: impl Fn(&Enforced) -> bool) {
    let found = async {
        loop {
            if let Event::Policy(told) = events.recv().await.unwrap()
                && fits(&told.enforced)
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
}

/// A server of its own with the default lattice on it.
async fn lattice(folder: &std::path::Path) -> (lattice_nats::server::Server, Lattice) {
    use lattice_nats::server::{Server, ServerConfig, find_server};
    let fetched = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
    let program = find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap();
    let default = LatticeName::new("default").unwrap();
    let server = Server::start(&program, &ServerConfig::new(folder.join("server"), default.clone())).await.unwrap();
    let connection = lattice_nats::connect(&lattice_nats::ConnectOptions::new(server.url(), "test")).await.unwrap();
    let lattice = Lattice::new(connection, default);
    lattice.ensure().await.unwrap();
    lattice.ensure_policies().await.unwrap();
    (server, lattice)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_asked_for_the_time_and_what_has_passed_is_kept() {
    let desk = Desk::new();
    let (_server, lattice) = lattice(desk.folder.path()).await;
    let wall = || crate::clock::now_ms() / 1000;
    let document = desk.document(1, &["wasmcloud:keyvalue"], Scope::All, wall());
    let first = lattice.commit_policy(&edge(), document.into(), Revision(0)).await.unwrap();

    // By a clock of 1970 alone no policy of today would be valid yet.
    let old = Desk { folder: tempfile::tempdir().unwrap(), admin: KeyPair::from_seed(&desk.admin.seed().unwrap()).unwrap() };
    let (events, mut heard) = mpsc::channel(8);
    tokio::spawn(old.warden(|| 1_000_000).run(lattice.clone(), events));
    told(&mut heard, |enforced| enforced.policies.contains_key(&edge()) && enforced.clock == Standing::Behind).await;

    // A host that takes no policy remembers all the same that time has passed.
    let stranger = Desk::new();
    let (events, mut heard) = mpsc::channel(8);
    tokio::spawn(stranger.warden(wall).run(lattice.clone(), events));
    told(&mut heard, |enforced| enforced.refused.contains_key(&edge())).await;
    lattice.commit_policy(&edge(), bytes::Bytes::from("{}"), first).await.unwrap();
    told(&mut heard, |enforced| enforced.refused.get(&edge()).is_some_and(|refusal| !refusal.why.contains("sign policies"))).await;
    assert!(Ledger::open(stranger.folder.path()).1.floor_s + 60 > wall());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_expires_also_where_nobody_can_be_asked() {
    let desk = Desk::new();
    let (server, lattice) = lattice(desk.folder.path()).await;
    let wall = || crate::clock::now_ms() / 1000;
    let document = desk.document(1, &[], Scope::All, wall() - DAY + 8);
    lattice.commit_policy(&edge(), document.into(), Revision(0)).await.unwrap();
    let (events, mut heard) = mpsc::channel(8);
    tokio::spawn(desk.warden(wall).run(lattice, events));
    told(&mut heard, |enforced| enforced.policies.contains_key(&edge()) && enforced.no_starts.is_none()).await;
    server.stop().await.unwrap();
    told(&mut heard, |enforced| enforced.no_starts.is_some()).await;
}

#[test]
fn who_trusts_nobody_any_more_misses_nothing_and_forgets_nothing() {
    let desk = Desk::new();
    desk.warden(|| NOW).handle_read(&desk.policy(4, &["wasmcloud:keyvalue"], Scope::All));
    let mut nobody = desk.trusting(BTreeSet::new(), || NOW);
    for _ in 0..2 {
        assert!(!denies(&nobody) && nobody.post.shield.in_force().may_start().is_ok());
        nobody.handle_read(&desk.policy(4, &["wasmcloud:keyvalue"], Scope::All));
    }
    let mut again = desk.warden(|| NOW);
    assert!(denies(&again));
    again.handle_read(&desk.policy(3, &[], Scope::All));
    assert!(again.told(true).enforced.refused[&edge()].why.contains("version 3 of edge is older than 4"));
}
