//! Actors whose slots have owners: taken over, fenced, stopped when the lease ends.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use lattice_core::desired::ComponentSpec;
use lattice_core::id::{BucketName, ConfigName, HostId};
use lattice_core::needs::{Class, Needs};
use lattice_core::ownership::SlotId;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::assignment::ProviderKind;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::ownership::LeaseRecord;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::verdict::{Evidence, Standing, Verdict};
use lattice_nats::bucket::{Bucket, KeyChange};
use rustix::process::Signal;

use crate::world::{DEADLINE, HostProcess, World, actor, event, eventually, program};

const ID: &str = "ledger";

fn bucket() -> BucketName {
    BucketName::new("state").unwrap()
}

fn slots(report: &HostReport) -> Vec<u32> {
    report.components.get(&actor(ID)).map(|component| component.slots.keys().copied().collect()).unwrap_or_default()
}

impl World {
    /// An actor with owners on any of `hosts`, with a bucket and the subscriptions on each of `regions`.
    async fn owned(&mut self, class: Class, hosts: &[&HostId], regions: &[&str]) {
        let digest = self.lattice.put_artifact(program(ID)).await.unwrap();
        let count = u32::try_from(regions.len()).unwrap();
        let needs = Needs { class, slots: count, ..Needs::default() };
        let hosts: BTreeSet<HostId> = hosts.iter().map(|host| (*host).clone()).collect();
        let spec = ComponentSpec { max: count, hosts, needs, ..ComponentSpec::new("file://ledger.wasm", digest) };
        self.desired.start_component(actor(ID), spec, Some(count), true).unwrap();
        self.lattice.ensure_fenced_bucket(&bucket(), None).await.unwrap();
        self.link(ID, ProviderKind::KvNats, &[("bucket", "state")]).await;
        let subscriptions: Vec<String> = regions.iter().map(|region| format!("edge.sensor.{region}")).collect();
        let values = [
            ("subscription", subscriptions.join(",")),
            ("delivery", "jetstream".to_owned()),
            ("publish", "site.>,edge.result.>".to_owned()),
        ];
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.link(ID, ProviderKind::MessagingNats, &values).await;
    }

    /// Takes a host for gone from the next plan on.
    fn dead(&mut self, report: &HostReport, lease_ended: bool) {
        let verdict = Verdict {
            host: report.id.clone(),
            name: report.name.clone(),
            region: report.region.clone(),
            incarnation: report.incarnation.clone(),
            standing: Standing::Dead,
            evidence: Evidence::Silent,
            reason: "test".to_owned(),
            lease_ended,
            flaps: 0,
            at_ms: 1,
            by: "test".to_owned(),
        };
        self.verdicts.hosts.insert(report.id.clone(), verdict);
        self.verdicts.revision.0 += 1;
    }

    /// The value of a key of the actor's bucket.
    async fn state(&self, key: &str) -> String {
        let bucket = Bucket::named(self.lattice.connection(), bucket().as_str());
        bucket.get_latest(key).await.unwrap().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap()).unwrap_or_default()
    }
}

/// Payloads on `subject`, from now on.
async fn listen(world: &World, subject: &str) -> impl Stream<Item = Bytes> + Unpin + use<> {
    world.lattice.subscribe(subject.to_owned()).await.unwrap().map(|message| message.payload)
}

/// The numbers that were appended, and on which hosts.
fn appended(list: &str) -> (Vec<u32>, BTreeSet<String>) {
    let entries = list.split_whitespace().map(|entry| entry.split_once('@').unwrap());
    let (numbers, hosts): (Vec<&str>, Vec<&str>) = entries.unzip();
    (numbers.iter().map(|number| number.parse().unwrap()).collect(), hosts.into_iter().map(str::to_owned).collect())
}

/// The first `count` results that are heard: number and host.
async fn results(heard: &mut (impl Stream<Item = Bytes> + Unpin), count: usize) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    while all.len() < count {
        let message = tokio::time::timeout(DEADLINE, heard.next()).await.unwrap_or_else(|_| panic!("heard only {all:?}")).unwrap();
        let text = String::from_utf8(message.to_vec()).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        all.push((words[1].parse().unwrap(), words[2].to_owned()));
    }
    all
}

/// Fails if anything more is heard.
async fn nothing_more(world: &World, heard: &mut (impl Stream<Item = Bytes> + Unpin)) {
    world.lattice.connection().settle().await;
    assert_eq!(heard.next().now_or_never(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_s_slot_goes_on_elsewhere_without_loss_or_repetition() {
    let mut world = World::start().await;
    let (mut first, one) = world.joined("NEDGE01").await;
    let (mut second, two) = world.joined("NEDGE02").await;
    world.owned(Class::Fenced, &[&one.id, &two.id], &["eu"]).await;
    world.commit().await;
    let owner = eventually("somebody owns it", async || world.reports().await.into_iter().find(|report| slots(report) == [0])).await;
    // The plan may have chosen either.
    let (dying, survivor) = if owner.id == one.id { (&mut first, "NEDGE02") } else { (&mut second, "NEDGE01") };
    let mut events = world.events().await;
    let mut heard = listen(&world, "edge.result.eu").await;
    for number in 0..40 {
        world.store("edge.sensor.eu", &format!("append d {number}")).await;
        if number == 20 {
            dying.signal(Signal::KILL);
            world.dead(&owner, false);
            world.commit().await;
        }
    }
    event(&mut events, |event| event.kind == EventKind::SlotOwned && event.host_name.as_str() == survivor).await;
    world.consumed(40).await;
    let (numbers, hosts) = appended(&world.state("d").await);
    assert_eq!(numbers, (0..40).collect::<Vec<u32>>());
    assert!(hosts.contains(survivor), "{hosts:?}");
    let results: Vec<u32> = results(&mut heard, 40).await.into_iter().map(|(number, _)| number).collect();
    assert_eq!(results, (0..40).collect::<Vec<u32>>(), "each once and in order");
    nothing_more(&world, &mut heard).await;
    let report = world.report(survivor, |report| slots(report) == [0]).await;
    assert!(report.components[&actor(ID)].slots[&0].epoch > owner.components[&actor(ID)].slots[&0].epoch);
    dying.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_only_asleep_changes_nothing_any_more() {
    let mut world = World::start().await;
    let (first, one) = world.joined("NEDGE01").await;
    world.owned(Class::Fenced, &[&one.id], &["eu"]).await;
    world.running("NEDGE01", ID).await;
    world.report("NEDGE01", |report| slots(report) == [0]).await;
    let (_second, two) = world.joined("NEDGE02").await;
    let spec = world.desired.components.get_mut(&actor(ID)).unwrap();
    spec.hosts.insert(two.id.clone());
    let mut events = world.events().await;
    let mut heard = listen(&world, "edge.result.eu").await;
    // It computes for a second; it falls asleep in the middle of the first.
    for number in 0..3 {
        world.store("edge.sensor.eu", &format!("tick d {number}")).await;
    }
    eventually("it is at work", async || {
        let stream = world.lattice.edge_stream_status().await.unwrap().unwrap();
        (stream.consumers[0].unacknowledged == 1).then_some(())
    })
    .await;
    first.signal(Signal::STOP);
    world.dead(&one, false);
    world.commit().await;
    event(&mut events, |event| event.kind == EventKind::SlotOwned && event.host == two.id).await;
    first.signal(Signal::CONT);
    let lost = event(&mut events, |event| event.kind == EventKind::SlotLost && event.host == one.id).await;
    assert_eq!(lost.details["slot"], "0");
    world.consumed(3).await;
    // Ten of each; the one that fell asleep never came to store anything.
    let expected: Vec<(u32, String)> = (0..3).flat_map(|number| vec![(number, "NEDGE02".to_owned()); 10]).collect();
    assert_eq!(results(&mut heard, 30).await, expected);
    nothing_more(&world, &mut heard).await;
    world.report("NEDGE01", |report| slots(report).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_share_the_work_by_subscription() {
    let mut world = World::start().await;
    let (_first, one) = world.joined("NEDGE01").await;
    let (_second, two) = world.joined("NEDGE02").await;
    world.owned(Class::Fenced, &[&one.id, &two.id], &["eu", "us"]).await;
    world.commit().await;
    eventually("each has one or one has both", async || {
        let owned: Vec<u32> = world.reports().await.iter().flat_map(slots).collect();
        (owned.iter().collect::<BTreeSet<_>>().len() == 2).then_some(())
    })
    .await;
    for number in 0..10 {
        world.store("edge.sensor.eu", &format!("append eu {number}")).await;
        world.store("edge.sensor.us", &format!("append us {number}")).await;
    }
    for region in ["eu", "us"] {
        let list = eventually("all of it", async || Some(world.state(region).await).filter(|list| appended(list).0.len() == 10)).await;
        let (numbers, hosts) = appended(&list);
        assert_eq!((numbers, hosts.len()), ((0..10).collect(), 1), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_after_the_effects_and_a_failure_leaves_none() {
    let mut world = World::start().await;
    let (_host, one) = world.joined("NEDGE01").await;
    world.owned(Class::Fenced, &[&one.id], &["eu"]).await;
    world.running("NEDGE01", ID).await;
    world.report("NEDGE01", |report| slots(report) == [0]).await;
    let mut heard = listen(&world, "edge.result.>").await;
    let called = world.call(ID, "append d 1").await;
    assert_eq!(called.0, "ok", "{called:?}");
    assert_eq!(appended(&world.state("d").await).0, [1]);
    assert_eq!(world.call(ID, "append d").await.0, "error");
    assert_eq!(appended(&world.state("d").await).0, [1]);
    let message = tokio::time::timeout(DEADLINE, heard.next()).await.unwrap().unwrap();
    assert!(message.starts_with(b"d 1 NEDGE01"), "{message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_strict_stops_when_its_lease_is_ended_and_only_a_newer_plan_gives_it_back() {
    let mut world = World::start().await;
    let (_host, one) = world.joined("NEDGE01").await;
    world.owned(Class::Strict, &[&one.id], &["eu"]).await;
    world.running("NEDGE01", ID).await;
    let report = world.report("NEDGE01", |report| slots(report) == [0] && report.lease_rev > 0).await;
    let mut events = world.events().await;

    let stream = subject::lease_stream(world.lattice.name());
    let leases = Bucket::of_stream(world.lattice.connection(), &stream, &subject::lease_prefix(world.lattice.name()));
    eventually("it is ended", async || {
        let (record, revision) = world.lattice.read_lease(&report.region, &report.id).await.unwrap();
        let record = LeaseRecord { revoked: true, ..record? };
        let key = subject::lease_key(&report.region, &report.id);
        let change = KeyChange { key, value: Some(wire::encode(&record).into()), expected: Some(revision) };
        leases.commit(&[change], None).await.ok()
    })
    .await;
    event(&mut events, |event| event.kind == EventKind::LeaseLost).await;
    event(&mut events, |event| event.kind == EventKind::SlotLost && event.message.contains("ended on its behalf")).await;
    // It holds a lease again, for what comes; what it had is not its own any more.
    world.report("NEDGE01", |again| again.lease_rev > report.lease_rev && slots(again).is_empty()).await;
    world.store("edge.sensor.eu", "append d 1").await;
    world.dead(&report, true);
    world.commit().await;
    world.verdicts.hosts.get_mut(&one.id).unwrap().standing = Standing::Healthy;
    world.commit().await;
    world.report("NEDGE01", |again| slots(again) == [0]).await;
    world.consumed(1).await;
    assert_eq!(appended(&world.state("d").await).0, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_strict_stops_without_a_server() {
    let mut world = World::start().await;
    let (host, one) = world.joined("NEDGE01").await;
    let values = BTreeMap::from([("profile".to_owned(), "test".to_owned())]);
    world.desired.put_config(ConfigName::new("failover").unwrap(), values).unwrap();
    world.owned(Class::Strict, &[&one.id], &["eu"]).await;
    world.running("NEDGE01", ID).await;
    let before = world.report("NEDGE01", |report| slots(report) == [0]).await;
    let port = world.stop_server().await;
    eventually("it stops by itself", async || host.log().contains("the host's lease has ended").then_some(())).await;
    assert!(host.log().contains("slot ledger-0 stops here"), "{}", host.log());
    world.start_server(port).await;
    // Nobody has ended the lease, and no newer plan gives the slot away.
    let after = world.report("NEDGE01", |report| slots(report) == [0]).await;
    let epoch = |report: &HostReport| report.components[&actor(ID)].slots[&0].epoch;
    assert!(epoch(&after) > epoch(&before));
    world.store("edge.sensor.eu", "append d 1").await;
    world.consumed(1).await;
    assert_eq!(appended(&world.state("d").await).0, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_identity_the_later_one_owns() {
    let mut world = World::start().await;
    let (_first, one) = world.joined("NEDGE01").await;
    world.owned(Class::Fenced, &[&one.id], &["eu"]).await;
    world.running("NEDGE01", ID).await;
    world.report("NEDGE01", |report| slots(report) == [0]).await;
    let mut events = world.events().await;
    copy(&world.host_dir("NEDGE01"), &world.host_dir("copy"));
    let _copy = HostProcess::start(&world.host_dir("copy"), &[]);
    let owned = event(&mut events, |event| event.kind == EventKind::SlotOwned && event.incarnation > one.incarnation).await;
    assert_eq!(owned.host, one.id);
    for number in 0..20 {
        world.store("edge.sensor.eu", &format!("append d {number}")).await;
    }
    world.consumed(20).await;
    assert_eq!(appended(&world.state("d").await).0, (0..20).collect::<Vec<u32>>());
    let slot = SlotId { actor: actor(ID), slot: 0 };
    let (record, _) = world.lattice.fenced_bucket(&bucket()).read_epoch(&slot).await.unwrap().unwrap();
    assert_eq!(record.incarnation, owned.incarnation, "the first one does not take it back");
}

/// A copy of a host's folder, as of a disk image.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
