//! Rules for actors whose slots have owners, checked before a change is made.
//!
//! The store can refuse the effects of a former owner only if all of them go into one bucket, and two slots can have two
//! owners only if no message belongs to both. So such an actor has one key-value link, to a `kv-nats` provider, and each link
//! with subscriptions has one for each slot, none of which overlap. A link that is not there yet may come later.

use std::collections::BTreeMap;

use lattice_core::desired::Desired;
use lattice_core::error::Problem;
use lattice_core::id::ActorId;
use lattice_core::link::{KindSettings, MessagingSettings};
use lattice_core::needs::{Class, Needs};
use lattice_core::plan;
use lattice_core::wire::assignment::{LinkAssignment, ProviderKind};

use crate::problems;

/// The first rule that `after` breaks and `before` did not break in the same way.
///
/// # Errors
/// A usage problem that names the actor and the link.
pub(crate) fn check(before: &Desired, after: &Desired) -> Result<(), Problem> {
    let known = faults(before);
    match faults(after).into_iter().find(|(actor, fault)| known.get(actor) != Some(fault)) {
        Some((_, fault)) => Err(fault),
        None => Ok(()),
    }
}

/// What an actor with owners still waits for, for people.
pub(crate) fn waits_for(actor: &ActorId, desired: &Desired) -> Option<String> {
    let class = desired.components.get(actor)?.needs.class;
    let has_state = links(actor, desired).iter().any(|link| matches!(link.settings.kind, KindSettings::KeyValue(_)));
    let waits = class.is_fenced() && !has_state;
    waits.then(|| {
        let class = class.as_str();
        format!("{actor} is {class} and waits for its bucket: `lattice-ctl link put {actor} <kv-nats provider> wasmcloud:keyvalue default`")
    })
}

/// Instances of an actor: of one whose slots have owners one for each slot.
///
/// # Errors
/// A usage problem if another number was asked for.
pub(crate) fn instances(asked: Option<u32>, needs: &Needs) -> Result<Option<u32>, Problem> {
    if !needs.class.is_fenced() {
        return Ok(asked);
    }
    let slots = needs.slot_count();
    match asked {
        Some(asked) if asked != slots && asked != 0 => {
            let class = needs.class.as_str();
            Err(problems::usage(format!("--max {asked}: a {class} actor has one instance for each of its slots, which are {slots}"))
                .hint("--slots says how many; slot n takes the n-th subscription of each link"))
        }
        Some(0) => Ok(Some(0)),
        Some(_) | None => Ok(Some(slots)),
    }
}

fn faults(desired: &Desired) -> BTreeMap<ActorId, Problem> {
    let owned = desired.components.iter().filter(|(_, spec)| spec.needs.class.is_fenced());
    owned.filter_map(|(actor, spec)| Some((actor.clone(), fault(actor, &spec.needs, desired)?))).collect()
}

/// The links of an actor that make sense; what is wrong with the others is the plan's to say.
fn links(actor: &ActorId, desired: &Desired) -> Vec<LinkAssignment> {
    desired.links_of(actor).filter_map(|link| plan::resolve_link(link, desired).ok()).collect()
}

fn fault(actor: &ActorId, needs: &Needs, desired: &Desired) -> Option<Problem> {
    let links = links(actor, desired);
    state(actor, needs.class, &links, desired).or_else(|| {
        let messaging = links.iter().filter_map(|link| match &link.settings.kind {
            KindSettings::Messaging(settings) if !settings.subscriptions.is_empty() => Some((link, settings)),
            KindSettings::Messaging(_)
            | KindSettings::KeyValue(_)
            | KindSettings::HttpServer(_)
            | KindSettings::HttpClient(_)
            | KindSettings::Store(_) => None,
        });
        messaging.filter(|_| needs.slot_count() > 1).find_map(|(link, settings)| input(actor, needs, link, settings))
    })
}

/// What is wrong with where the actor keeps its state.
fn state(actor: &ActorId, class: Class, links: &[LinkAssignment], desired: &Desired) -> Option<Problem> {
    let stores: Vec<&LinkAssignment> = links.iter().filter(|link| matches!(link.settings.kind, KindSettings::KeyValue(_))).collect();
    let class = class.as_str();
    if stores.len() > 1 {
        let names: Vec<&str> = stores.iter().map(|link| link.name.as_str()).collect();
        let message = format!("actor {actor} is {class} and has one key-value link, not {}: {}", stores.len(), names.join(", "));
        return Some(problems::usage(message).hint("all of its state is in one bucket; another actor can have the other one"));
    }
    let link = stores.first()?;
    let kind = desired.providers.get(&link.provider)?.kind;
    (kind != ProviderKind::KvNats).then(|| {
        let message = format!(
            "actor {actor} is {class}: its key-value link {} goes to {}, which cannot refuse a former owner",
            link.name,
            kind.as_str()
        );
        problems::usage(message).hint("link it to a kv-nats provider: `lattice-ctl start provider builtin://kv-nats <id>`")
    })
}

/// What is wrong with how the messages of a link are divided among slots.
fn input(actor: &ActorId, needs: &Needs, link: &LinkAssignment, settings: &MessagingSettings) -> Option<Problem> {
    let (slots, count) = (needs.slot_count(), settings.subscriptions.len());
    if u32::try_from(count) != Ok(slots) {
        let message = format!("actor {actor} has {slots} slots and its link {} {count} subscriptions: each slot takes one", link.name);
        return Some(problems::usage(message).hint("to change both, delete the link first: `lattice-ctl link del`"));
    }
    let pairs = settings.subscriptions.iter().enumerate();
    let overlap = pairs.flat_map(|(index, first)| settings.subscriptions.iter().skip(index + 1).map(move |second| (first, second)));
    overlap.into_iter().find(|(first, second)| first.overlaps(second)).map(|(first, second)| {
        let message = format!("actor {actor} has {slots} slots: subscriptions {first} and {second} of its link {} overlap", link.name);
        problems::usage(message).hint("a message belongs to one slot: give subscriptions that have none in common")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::view::tests::{actor, component};
    use lattice_core::contract::Contract;
    use lattice_core::desired::ProviderSpec;
    use lattice_core::id::{LinkName, ProviderId};
    use lattice_core::link::LinkSpec;

    fn link(name: &str, target: &str, contract: Contract, value: (&str, &str)) -> LinkSpec {
        LinkSpec {
            source: actor("a"),
            target: ProviderId::new(target).unwrap(),
            contract,
            name: LinkName::new(name).unwrap(),
            values: [(value.0.to_owned(), value.1.to_owned())].into(),
            permissions: BTreeSet::new(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        }
    }

    fn desired(slots: u32) -> Desired {
        let mut desired = Desired::default();
        let mut spec = component(&[]);
        (spec.needs.class, spec.needs.slots) = (Class::Fenced, slots);
        desired.start_component(actor("a"), spec, None, false).unwrap();
        for (id, kind) in [("kv", ProviderKind::KvNats), ("memory", ProviderKind::KvMemory)] {
            let spec = ProviderSpec { image: String::new(), kind, hosts: BTreeSet::new(), config: vec![] };
            desired.start_provider(ProviderId::new(id).unwrap(), spec).unwrap();
        }
        desired
    }

    fn refused(slots: u32, links: &[LinkSpec]) -> Option<String> {
        let before = desired(slots);
        let mut after = before.clone();
        for link in links {
            after.put_link(link.clone());
        }
        check(&before, &after).err().map(|problem| {
            assert_eq!(problem.code.exit_code(), 2);
            problem.message
        })
    }

    #[test]
    fn all_state_is_in_one_fenced_bucket() {
        let store = |name: &str, target: &str| link(name, target, Contract::KeyValue, ("bucket", name));
        assert_eq!(refused(0, &[store("one", "kv")]), None);
        assert_eq!(refused(0, &[store("one", "later")]), None, "it may become the right one");
        let two = refused(0, &[store("one", "kv"), store("two", "kv")]).unwrap();
        assert!(two.contains("actor a is fenced and has one key-value link, not 2"), "{two}");
        let memory = refused(0, &[store("one", "memory")]).unwrap();
        assert!(memory.contains("link one goes to kv-memory"), "{memory}");
    }

    #[test]
    fn each_slot_has_its_own_messages() {
        let messages = |subjects: &str| link("m", "messaging", Contract::Messaging, ("subscription", subjects));
        assert_eq!(refused(2, &[messages("edge.sensor.a,edge.sensor.b")]), None);
        assert_eq!(refused(0, &[messages("edge.sensor.a,edge.sensor.*")]), None, "one owner takes all");
        let three = refused(2, &[messages("edge.sensor.a,edge.sensor.b,edge.sensor.c")]).unwrap();
        assert!(three.contains("actor a has 2 slots and its link m 3 subscriptions"), "{three}");
        let overlap = refused(2, &[messages("edge.sensor.a,edge.sensor.*")]).unwrap();
        assert!(overlap.contains("subscriptions edge.sensor.a and edge.sensor.* of its link m overlap"), "{overlap}");
        assert_eq!(refused(2, &[link("m", "messaging", Contract::Messaging, ("publish", "edge.x"))]), None, "it only publishes");
    }

    #[test]
    fn what_was_wrong_before_is_no_reason_to_refuse_another_change() {
        let mut before = desired(2);
        before.put_link(link("m", "messaging", Contract::Messaging, ("subscription", "edge.sensor.a")));
        assert!(check(&Desired::default(), &before).is_err());
        assert_eq!(check(&before, &before), Ok(()));
    }

    #[test]
    fn as_many_instances_as_slots() {
        let needs = |class: Class, slots: u32| Needs { class, slots, ..Needs::default() };
        assert_eq!(instances(Some(7), &needs(Class::Shared, 0)), Ok(Some(7)));
        assert_eq!(instances(None, &needs(Class::Fenced, 0)), Ok(Some(1)));
        assert_eq!(instances(Some(4), &needs(Class::Strict, 4)), Ok(Some(4)));
        assert_eq!(instances(Some(0), &needs(Class::Strict, 4)), Ok(Some(0)), "it is stopped");
        assert!(instances(Some(3), &needs(Class::Strict, 4)).unwrap_err().message.contains("--max 3"));
    }

    #[test]
    fn a_link_may_come_later() {
        let mut desired = desired(0);
        assert!(waits_for(&actor("a"), &desired).unwrap().starts_with("a is fenced and waits for its bucket"));
        desired.put_link(link("one", "kv", Contract::KeyValue, ("bucket", "one")));
        assert_eq!(waits_for(&actor("a"), &desired), None);
        assert_eq!(waits_for(&actor("b"), &desired), None);
    }
}
