//! What only lattice's own actors can do, and what hosts tell the scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use lattice_core::id::{BucketName, HostId, LatticeName, LinkName, ProviderId, Region};
use lattice_core::link::{KindSettings, LinkSettings, StoreBucket, StoreSettings};
use lattice_core::subject::{self, Verb};
use lattice_core::system::{self, SystemActor};
use lattice_core::wire;
use lattice_core::wire::assignment::{Assignment, InstancePolicy, LinkAssignment, ProviderKind};
use lattice_core::wire::report::HostReport;
use lattice_core::wire::request::Probe;
use lattice_nats::{ConnectOptions, connect};

use crate::world::{DEADLINE, World, actor, eventually};

const ID: &str = "lattice-scheduler";

/// Gives the actor the links of the scheduler, a second writable bucket, and one that does not exist.
fn with_system_links(lattice: &LatticeName, assignment: &mut Assignment) {
    let Some(component) = assignment.components.get_mut(&actor(ID)) else { return };
    assignment.providers.extend(system::providers(SystemActor::Scheduler));
    component.policy = InstancePolicy::Resident;
    component.links = system::links(SystemActor::Scheduler, lattice);
    let bucket = |bucket: &str| StoreBucket { bucket: bucket.to_owned(), subjects: None, write: true };
    let buckets = BTreeMap::from([("scratch".to_owned(), bucket("scratch-of-test")), ("nowhere".to_owned(), bucket("nowhere"))]);
    component.links.push(LinkAssignment {
        name: LinkName::new("more").unwrap(),
        contract: ProviderKind::Store.contract(),
        provider: ProviderId::new("lattice-store").unwrap(),
        settings: LinkSettings {
            timeout_ms: 5000,
            retry_count: 1,
            retry_delay_ms: 100,
            permissions: Default::default(),
            env: BTreeMap::new(),
            kind: KindSettings::Store(StoreSettings { buckets }),
        },
    });
}

struct System {
    world: World,
    _host: crate::world::HostProcess,
}

impl System {
    async fn start() -> Self {
        Self::start_with(with_system_links).await
    }

    /// With other links.
    async fn start_with(links: fn(&LatticeName, &mut Assignment)) -> Self {
        let mut world = World::start().await;
        for bucket in [subject::scheduler_bucket(world.lattice.name()), "scratch-of-test".to_owned()] {
            world.lattice.ensure_bucket(&BucketName::new(bucket).unwrap(), None).await.unwrap();
        }
        let (host, report) = world.joined("NEDGE01").await;
        world.actor(ID, "system-user", &report.id, 1).await;
        let lattice = world.lattice.name().clone();
        let generation = world.commit_with(|assignment| links(&lattice, assignment)).await;
        let report = world.report("NEDGE01", |report| report.applied_generation >= generation).await;
        assert_eq!(report.components[&actor(ID)].state.to_string(), "running", "{report:#?}");
        assert!(report.components[&actor(ID)].link_errors.is_empty(), "{report:#?}");
        Self { world, _host: host }
    }

    /// Runs one line in the actor.
    async fn run(&self, line: &str) -> String {
        self.world.request("lat.default.sched.test", line).await
    }

    async fn check(&self, line: &str, expected: &str) {
        assert_eq!(self.run(line).await, expected, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_a_system_actor() {
    let system = System::start().await;
    let check = async |line: &str, expected: &str| system.check(line, expected).await;

    check("get scratch a", "(none)").await;
    check("create scratch a 1", "1").await;
    check("create scratch a 2", "error: conflict: somebody else changed it: revision 0 was expected, 1 was found").await;
    check("get scratch a", "1 1").await;
    check("update scratch a 1 2", "2").await;
    check("update scratch a 1 3", "error: conflict: somebody else changed it: revision 1 was expected, 2 was found").await;

    // All or nothing, each key with its own condition.
    check("commit scratch - b=1@0 c=1 a=3@1", "error: conflict: somebody else changed it: revision 1 was expected, 2 was found").await;
    check("list scratch", "2: a=2@2").await;
    check("commit scratch - b=1@0 c=1 a=3@2", "5").await;
    check("list scratch", "5: a=3@5 b=1@3 c=1@4").await;
    check("info scratch", "5 3").await;

    // At a revision of the whole bucket; deletions; a key that was deleted may be created again.
    let stale = system.run("commit scratch 4 d=1").await;
    assert!(stale.starts_with("error: conflict: ") && stale.contains('4') && stale.contains('5'), "{stale}");
    check("commit scratch 5 d=1 b", "7").await;
    check("list scratch", "7: a=3@5 c=1@4 d=1@6").await;
    check("get scratch b", "(none)").await;
    check("create scratch b 2", "8").await;

    check("create desired component.x 1", "error: access denied").await;
    check("commit desired - component.x", "error: access denied").await;
    assert_eq!(system.run("list desired").await, "0: ");
    assert!(system.run("get plan head").await.contains(r#""generation":1"#));
    check("get LAT_default_PLAN head", "error: no such bucket").await;
    check("list nowhere", "error: no such bucket").await;
    check("get nowhere a", "error: no such bucket").await;
    check("create nowhere a 1", "error: no such bucket").await;
    check("info nowhere", "error: no such bucket").await;

    check("commit scratch -", "error: failed: a commit without keys").await;
    assert!(system.run("create scratch a.>.b 1").await.starts_with("error: failed: key"));
    check("commit-large scratch 1001 1", "error: too large: a commit of 1001 keys, at most 1000 are allowed").await;
    assert!(system.run("commit-large scratch 20 900000").await.starts_with("error: too large: a commit of 180"));
    assert!(system.run("commit-large scratch 1 1048577").await.starts_with("error: too large: value of `large.0`"));
    check("commit-large scratch 200 10000", "208").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_revision() {
    let system = System::start().await;
    let client = system.world.lattice.connection().clone();
    let other = lattice_nats::bucket::Bucket::named(&client, "scratch-of-test");
    for expected in 0..10 {
        let line = format!("update scratch a {expected} actor{expected}");
        let change = lattice_nats::bucket::KeyChange {
            key: "a".to_owned(),
            value: Some(format!("other{expected}").into()),
            expected: Some(lattice_core::id::Revision(expected)),
        };
        let changes = [change];
        let (actors, others) = tokio::join!(system.run(&line), other.commit(&changes, None));
        let won = u8::from(!actors.starts_with("error: conflict")) + u8::from(others.is_ok());
        assert_eq!(won, 1, "{actors} {others:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_subjects_are_for_system_links_only() {
    let mut system = System::start().await;
    eventually("heartbeats are heard", async || (system.run("heard").await != "0").then_some(())).await;
    system.check("publish lat.default.probe {}", "ok").await;
    system.check("publish lat.default.req.all.report x", "ok").await;
    for denied in ["lat.default.hb.local.N", "lat.default.req.all.ping", "lat.other.probe", "$KV.LAT_default_PLAN.head", "edge.result.eu"] {
        assert!(system.run(&format!("publish {denied} x")).await.contains("capability denied"), "{denied}");
    }

    // The widest link that an operator can give hears none of it.
    let host = system.world.reports().await[0].id.clone();
    system.world.actor("plain", "log-flood", &host, 1).await;
    system.world.link("plain", ProviderKind::MessagingNats, &[("subscription", ">"), ("force", "true")]).await;
    let lattice = system.world.lattice.name().clone();
    let generation = system.world.commit_with(|assignment| with_system_links(&lattice, assignment)).await;
    system.world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    let mut beats = system.world.lattice.subscribe(subject::heartbeats(&lattice)).await.unwrap();
    for _ in 0..3 {
        tokio::time::timeout(DEADLINE, beats.next()).await.unwrap().unwrap();
    }
    let report = system.world.report("NEDGE01", |_| true).await;
    let plain = &report.components[&actor("plain")];
    assert_eq!((plain.handled, plain.failed), (0, 0), "{plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failover_actor_hears_who_disconnects_and_reads_leases() {
    let system = System::start_with(|lattice, assignment| {
        let Some(component) = assignment.components.get_mut(&actor(ID)) else { return };
        assignment.providers.extend(system::providers(SystemActor::Failover));
        component.policy = InstancePolicy::Resident;
        component.links = system::links(SystemActor::Failover, lattice);
        component.links.retain(|link| link.contract != ProviderKind::KvNats.contract() && link.name.as_str() != "lattice-requests");
        for link in &mut component.links {
            if let KindSettings::Messaging(settings) = &mut link.settings.kind {
                settings.subscriptions.retain(|pattern| pattern.as_str() == subject::DISCONNECTS);
            }
        }
        let lines = system::links(SystemActor::Scheduler, lattice).into_iter().find(|link| link.name.as_str() == "lattice-requests");
        component.links.extend(lines);
    })
    .await;
    let host = system.world.reports().await[0].clone();
    let key = subject::lease_key(&host.region, &host.id);
    let leases = eventually("the host's lease", async || Some(system.run("list leases").await).filter(|list| list.contains(&key))).await;
    assert!(leases.contains(host.incarnation.as_str()), "{leases}");
    assert!(system.run(&format!("get leases {key}")).await.contains(host.id.as_str()));
    let before: u32 = system.run("heard").await.parse().unwrap();
    drop(connect(&ConnectOptions::new(&system.world.url, "leaving")).await.unwrap());
    eventually("the disconnect is heard", async || (system.run("heard").await.parse::<u32>().unwrap() > before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_without_the_link_waits() {
    let mut world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    world.actor("curious", "system-user", &report.id, 1).await;
    world.link("curious", ProviderKind::MessagingNats, &[("subscription", "site.sensor.eu")]).await;
    world.link("curious", ProviderKind::KvMemory, &[]).await;
    let generation = world.commit().await;
    let report = world.report("NEDGE01", |report| report.applied_generation >= generation).await;
    assert_eq!(report.components[&actor("curious")].state.to_string(), "waiting: no link for lattice:actor/store");
}

fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_measure_round_trips_to_others_when_asked() {
    let world = World::start().await;
    let (_a, first) = world.joined_with("NEDGE01", &["--label", "region=eu"]).await;
    let (_b, _) = world.joined_with("NEDGE02", &["--label", "region=us"]).await;
    assert!(first.rtt_us.is_empty());
    let probe = |regions: &[&str]| wire::encode(&Probe { regions: regions.iter().map(|name| region(name)).collect() });
    let send = async |regions: &[&str]| {
        let subject = subject::probe(world.lattice.name());
        world.lattice.connection().client().publish(subject, probe(regions).into()).await.unwrap();
    };
    let measured = async |name: &str, fits: &dyn Fn(&BTreeMap<Region, u32>) -> bool| {
        world.report(name, |report: &HostReport| fits(&report.rtt_us)).await.rtt_us
    };
    // Two subscriptions of a host are there a moment after its first word.
    send(&["eu", "us", "nowhere"]).await;
    let first = measured("NEDGE01", &|trips| trips.contains_key(&region("us"))).await;
    assert_eq!(first.keys().map(Region::as_str).collect::<Vec<_>>(), ["us"], "nobody else is in eu, nobody is nowhere");
    let second = measured("NEDGE02", &|trips| trips.contains_key(&region("eu"))).await;
    assert!(second[&region("eu")] > 0 && second.len() == 1, "{second:?}");

    // With a second host in the region there is somebody to ask; a region that is not asked for is forgotten.
    let (_c, _) = world.joined_with("NEDGE03", &["--label", "region=eu"]).await;
    send(&["eu", "other"]).await;
    let trips = measured("NEDGE03", &|trips| trips.contains_key(&region("eu"))).await;
    assert_eq!(trips.len(), 1, "{trips:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_follows_when_it_is_asked_for() {
    let world = World::start().await;
    let (_host, report) = world.joined("NEDGE01").await;
    let mut beats = world.lattice.subscribe(subject::heartbeats(world.lattice.name())).await.unwrap();
    let ask = subject::request_all(world.lattice.name(), Verb::Report);
    // By itself one comes each second; asked for, ten come far sooner.
    eventually("heartbeats come at once", async || {
        let started = tokio::time::Instant::now();
        for _ in 0..10 {
            world.lattice.connection().client().publish(ask.clone(), "".into()).await.unwrap();
            let beat = tokio::time::timeout(DEADLINE, beats.next()).await.unwrap().unwrap();
            let beat: HostReport = wire::decode(&beat.payload).unwrap();
            assert_eq!(beat.id, report.id);
        }
        (started.elapsed() < Duration::from_secs(4)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_actor_uses_is_measured() {
    let mut world = World::start().await;
    let (_host, report) = world.joined_with("NEDGE01", &["--cpu-capacity", "1500", "--memory-capacity", "96"]).await;
    assert_eq!((report.profile.cpu_capacity, report.profile.memory_mb), (1500, 96));
    let host: HostId = report.id.clone();
    world.actor("busy", "spin", &host, 1).await;
    world.actor("idle", "echo", &host, 1).await;
    for id in ["busy", "idle"] {
        world.link(id, ProviderKind::MessagingNats, &[("subscription", &format!("site.{id}"))]).await;
    }
    world.running("NEDGE01", "busy").await;
    assert_eq!(world.request("site.idle", "x").await, "x");
    let loaded = eventually("work shows", async || {
        // Spins until its CPU budget of a second is used up.
        world.lattice.connection().client().publish("site.busy", "x".into()).await.unwrap();
        let report = world.report("NEDGE01", |report| report.components[&actor("busy")].failed > 0).await;
        (report.components[&actor("busy")].cpu_used >= 100).then_some(report)
    })
    .await;
    let (busy, idle) = (&loaded.components[&actor("busy")], &loaded.components[&actor("idle")]);
    assert!(busy.cpu_used <= 1100, "one thread at most: {busy:?}");
    assert!(idle.cpu_used < 50, "{idle:?}");
    assert!((1..=4).contains(&idle.memory_peak_mb), "{idle:?}");
}
