//! What there is in the world: names, actors, sensors.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::admission::ComponentShape;
use lattice_core::contract::Contract;
use lattice_core::desired::{ComponentSpec, Desired, ProviderSpec};
use lattice_core::id::{ActorId, BucketName, Digest, HostId, HostName, LatticeName, LinkName, ProviderId, Region};
use lattice_core::link::{LinkSpec, durables};
use lattice_core::needs::{Class, Needs, Spread};
use lattice_core::subject;
use lattice_core::system::SystemActor;
use lattice_core::wire::assignment::ProviderKind;

use crate::env::HostIx;

/// Actors of classes with owners: name, class, slots. The bucket of each is named like it.
pub const OWNED: [(&str, Class, u32); 2] = [("ledger", Class::Fenced, 2), ("valve", Class::Strict, 2)];
/// Shared actors that the operator starts, scales and stops.
pub const SHARED: [&str; 3] = ["alpha", "beta", "gamma"];
/// Those of them that have a messaging link, so that policies are about them.
pub const LINKED: [&str; 2] = ["alpha", "beta"];
/// Sensors of each slot.
pub const SENSORS_PER_SLOT: u32 = 2;
/// Provider of the messaging links of actors.
const MESSAGING: &str = "nats";
/// Provider of their buckets.
const KEYVALUE: &str = "kv";

/// The lattice.
pub fn lattice() -> LatticeName {
    LatticeName::new("sim").unwrap()
}

/// An actor's id.
pub fn actor(name: &str) -> ActorId {
    ActorId::new(name).unwrap()
}

/// A host's identity.
pub fn host_id(host: HostIx) -> HostId {
    let letter = char::from(b'A' + u8::try_from(host).unwrap());
    HostId::new(format!("N{}", letter.to_string().repeat(55))).unwrap()
}

/// A host's name.
pub fn host_name(host: HostIx) -> HostName {
    HostName::new(format!("EDGE{host}")).unwrap()
}

/// The regions.
pub fn region(number: u64) -> Region {
    Region::new(if number == 0 { "east" } else { "west" }).unwrap()
}

/// The bucket of an actor with owners.
pub fn bucket(actor: &str) -> BucketName {
    BucketName::new(actor).unwrap()
}

/// Stream of the bucket of an actor with owners.
pub fn bucket_stream(actor: &str) -> String {
    subject::bucket_stream(actor)
}

/// What the sensors of a slot publish on.
pub fn input_subject(actor: &str, slot: u32) -> String {
    format!("edge.sensor.{actor}.{slot}")
}

/// What a slot publishes on: outside of what the public stream captures.
pub fn output_subject(actor: &str, slot: u32) -> String {
    format!("edge.result.{actor}.{slot}")
}

/// Key in an actor's bucket under which the readings of a sensor are listed.
pub fn list_key(slot: u32, sensor: u32) -> String {
    format!("list.{slot}.{sensor}")
}

fn messaging_link(name: &str, slots: u32) -> LinkSpec {
    let subscriptions: Vec<String> = (0..slots).map(|slot| input_subject(name, slot)).collect();
    let values =
        [("subscription", subscriptions.join(",")), ("delivery", "jetstream".to_owned()), ("publish", format!("edge.result.{name}.>"))];
    link(name, MESSAGING, Contract::Messaging, values)
}

fn link(source: &str, target: &str, contract: Contract, values: impl IntoIterator<Item = (&'static str, String)>) -> LinkSpec {
    LinkSpec {
        source: actor(source),
        target: ProviderId::new(target).unwrap(),
        contract,
        name: LinkName::new("default").unwrap(),
        values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        permissions: BTreeSet::new(),
        env_mapping: BTreeMap::new(),
        config: Vec::new(),
    }
}

/// The durable consumer of each slot of an actor with owners.
pub fn consumers(name: &str, slots: u32) -> Vec<String> {
    let link = messaging_link(name, slots);
    let settings = link.settings(&link.merged_values([])).expect("the link makes sense");
    let found = durables(&lattice(), &link, &settings);
    (0..slots)
        .map(|slot| {
            let wanted = input_subject(name, slot);
            found.iter().find(|(_, filter)| filter.as_str() == wanted).map(|(durable, _)| durable.clone()).expect("each slot has one")
        })
        .collect()
}

/// The outside of an actor's code.
pub fn shape(actor: &ActorId) -> ComponentShape {
    let mut imports = BTreeSet::new();
    if OWNED.iter().any(|(name, ..)| *name == actor.as_str()) {
        imports.insert("wasi:keyvalue/store@0.2.0-draft".to_owned());
    }
    if SystemActor::ALL.iter().any(|system| system.as_str() == actor.as_str()) {
        imports.insert("lattice:actor/store@0.1.0".to_owned());
    }
    ComponentShape { imports, exports: BTreeSet::from(["wasmcloud:messaging/handler@0.2.0".to_owned()]) }
}

/// A system actor as `up` starts it: two replicas on different hosts.
pub fn start_system(desired: &mut Desired, system: SystemActor) {
    let mut spec = ComponentSpec::new(format!("builtin://{}", system.component()), Digest::of(system.as_str().as_bytes()));
    spec.system = Some(system);
    spec.policy = lattice_core::wire::assignment::InstancePolicy::Resident;
    spec.needs = Needs { spread: Some(Spread::Host), priority: 200, ..Needs::default() };
    desired.start_component(system.id().unwrap(), spec, Some(2), true).unwrap();
}

/// An actor with owners, its links and providers.
pub fn start_owned(desired: &mut Desired, name: &str, class: Class, slots: u32) {
    for (id, kind) in [(MESSAGING, ProviderKind::MessagingNats), (KEYVALUE, ProviderKind::KvNats)] {
        let spec = ProviderSpec { image: format!("builtin://{}", kind.as_str()), kind, hosts: BTreeSet::new(), config: Vec::new() };
        desired.start_provider(ProviderId::new(id).unwrap(), spec).unwrap();
    }
    let mut spec = ComponentSpec::new(format!("file://{name}.wasm"), Digest::of(name.as_bytes()));
    spec.needs = Needs { class, slots, priority: 50, ..Needs::default() };
    desired.start_component(actor(name), spec, Some(slots), true).unwrap();
    desired.put_link(messaging_link(name, slots));
    desired.put_link(link(name, KEYVALUE, Contract::KeyValue, [("bucket", name.to_owned())]));
}

/// A shared actor.
pub fn start_shared(desired: &mut Desired, name: &str, max: u32, needs: Needs) {
    let mut spec = ComponentSpec::new(format!("file://{name}.wasm"), Digest::of(name.as_bytes()));
    spec.needs = needs;
    desired.start_component(actor(name), spec, Some(max), true).unwrap();
    if LINKED.contains(&name) {
        desired.put_link(link(name, MESSAGING, Contract::Messaging, [("subscription", format!("edge.told.{name}"))]));
    }
}
