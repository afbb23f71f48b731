//! What links need besides desired state: buckets of kv-nats links, and durable consumers of `jetstream` links.
//!
//! Operators make them, because hosts may not. They are there before a link is committed, so that no host ever sees a link
//! without them, and a consumer starts at the stream position at which the link was given. What is no longer needed is
//! removed after the hosts were told.

use std::collections::{BTreeMap, BTreeSet};

use lattice_core::desired::{Desired, link_key};
use lattice_core::id::{BucketName, LatticeName};
use lattice_core::link::{self, KindSettings};
use lattice_core::plan;
use lattice_core::subject::SubjectPattern;
use lattice_core::timing::ACK_WAIT;
use lattice_core::wire::assignment::ProviderKind;

use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;

/// Messages of one consumer that may be under way at once, over all hosts: far more than hosts pull ahead, few enough
/// that redelivery after a crash stays short.
const MAX_ACK_PENDING: u32 = 1024;
/// The same for a consumer of an actor whose slots have owners: what is applied is counted by one position of the stream.
const MAX_ACK_PENDING_OWNED: u32 = 1;

/// What some links need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Needs {
    /// Durable consumers by name.
    consumers: BTreeMap<String, ConsumerNeed>,
    /// Buckets by name.
    buckets: BTreeMap<String, BucketNeed>,
}

/// What a durable consumer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ConsumerNeed {
    /// What it takes.
    filter: SubjectPattern,
    /// Messages that may be under way at once.
    max_ack_pending: u32,
}

/// What a bucket has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct BucketNeed {
    /// Region that it is for.
    region: Option<String>,
    /// Whether an actor whose slots have owners writes there.
    fenced: bool,
}

impl Needs {
    /// What the links of `desired` need, those in `except` left out. A link that makes no sense needs nothing: the plan
    /// refuses it if it matters.
    fn of(lattice: &LatticeName, desired: &Desired, except: &BTreeSet<String>) -> Self {
        let mut needs = Self::default();
        for spec in desired.links.values().filter(|spec| !except.contains(&link_key(spec))) {
            let Ok(resolved) = plan::resolve_link(spec, desired) else { continue };
            let owned = desired.components.get(&spec.source).is_some_and(|actor| actor.needs.class.is_fenced());
            let max_ack_pending = if owned { MAX_ACK_PENDING_OWNED } else { MAX_ACK_PENDING };
            let durables = link::durables(lattice, spec, &resolved.settings);
            needs.consumers.extend(durables.into_iter().map(|(name, filter)| (name, ConsumerNeed { filter, max_ack_pending })));
            let provider = desired.providers.get(&spec.target).map(|provider| provider.kind);
            if let (KindSettings::KeyValue(settings), Some(ProviderKind::KvNats)) = (&resolved.settings.kind, provider) {
                let bucket = needs.buckets.entry(settings.bucket.clone()).or_default();
                bucket.region.clone_from(&settings.region);
                bucket.fenced |= owned;
            }
        }
        needs
    }

    /// What is in `self` and not in `other`, or there in another way.
    fn without(mut self, other: &Self) -> Self {
        self.consumers.retain(|name, need| other.consumers.get(name) != Some(need));
        self.buckets.retain(|name, need| other.buckets.get(name) != Some(need));
        self
    }
}

/// Names of the durable consumers that the links of `desired` need.
pub(crate) fn consumers(lattice: &LatticeName, desired: &Desired) -> BTreeSet<String> {
    Needs::of(lattice, desired, &BTreeSet::new()).consumers.into_keys().collect()
}

/// What was made for a change, and what it leaves behind.
#[derive(Debug, Default)]
pub(super) struct Provisions {
    made: Vec<String>,
    unneeded: Vec<String>,
}

impl Provisions {
    /// Makes what `after` needs and `before` did not; for the links in `renew` also what should have been there.
    pub(super) async fn make(session: &Session, before: &Desired, after: &Desired, renew: &BTreeSet<String>) -> Outcome<Self> {
        let nothing = BTreeSet::new();
        let needed = Needs::of(session.name(), after, &nothing);
        let mut unneeded: Vec<String> = Needs::of(session.name(), before, &nothing).consumers.into_keys().collect();
        unneeded.retain(|name| !needed.consumers.contains_key(name));
        let missing = needed.without(&Needs::of(session.name(), before, renew));
        let mut provisions = Self { made: Vec::new(), unneeded };
        if let Err(error) = provisions.provide(session, &missing).await {
            for consumer in &provisions.made {
                // The error at hand matters more; a consumer that stays is found by `doctor`.
                let _ = session.lattice.delete_consumer(consumer).await;
            }
            return Err(error);
        }
        Ok(provisions)
    }

    async fn provide(&mut self, session: &Session, missing: &Needs) -> Outcome {
        let lattice = &session.lattice;
        for (bucket, need) in &missing.buckets {
            let name = BucketName::new(bucket.as_str()).map_err(|error| problems::name(&error))?;
            if need.fenced {
                lattice.ensure_fenced_bucket(&name, need.region.as_deref()).await?;
            } else {
                lattice.ensure_bucket(&name, need.region.as_deref()).await?;
            }
        }
        if missing.consumers.is_empty() {
            return Ok(());
        }
        lattice.ensure_edge_stream().await?;
        let status = lattice.edge_stream_status().await?;
        let there: BTreeSet<String> = status.into_iter().flat_map(|stream| stream.consumers).map(|consumer| consumer.name).collect();
        for (name, ConsumerNeed { filter, max_ack_pending }) in &missing.consumers {
            lattice.create_consumer(name, filter, ACK_WAIT, *max_ack_pending).await?;
            if !there.contains(name) {
                self.made.push(name.clone());
            }
        }
        Ok(())
    }

    /// Takes back what was made for a change that did not happen.
    pub(super) async fn undo(self, session: &Session, output: &Output) {
        remove(self.made, session, output).await;
    }

    /// Removes what the change left without a use.
    pub(super) async fn remove_unneeded(self, session: &Session, output: &Output) {
        remove(self.unneeded, session, output).await;
    }
}

async fn remove(consumers: Vec<String>, session: &Session, output: &Output) {
    for consumer in consumers {
        if let Err(error) = session.lattice.delete_consumer(&consumer).await {
            output.note(&format!("note: consumer {consumer} is no longer needed and could not be removed: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::contract::Contract;
    use lattice_core::desired::ProviderSpec;
    use lattice_core::id::{ActorId, LinkName, ProviderId};
    use lattice_core::link::LinkSpec;
    use lattice_core::needs::Class;

    fn link(contract: Contract, values: &[(&str, &str)]) -> LinkSpec {
        LinkSpec {
            source: ActorId::new("a").unwrap(),
            target: ProviderId::new("p").unwrap(),
            contract,
            name: LinkName::new("default").unwrap(),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            permissions: BTreeSet::new(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        }
    }

    fn lattice() -> LatticeName {
        LatticeName::new("default").unwrap()
    }

    #[test]
    fn a_bucket_is_needed_once_its_provider_is_kv_nats() {
        let mut desired = Desired::default();
        desired.put_link(link(Contract::KeyValue, &[("bucket", "b")]));
        assert_eq!(Needs::of(&lattice(), &desired, &BTreeSet::new()), Needs::default());
        let spec = ProviderSpec { image: String::new(), kind: ProviderKind::KvNats, hosts: BTreeSet::new(), config: vec![] };
        desired.start_provider(ProviderId::new("p").unwrap(), spec).unwrap();
        assert!(Needs::of(&lattice(), &desired, &BTreeSet::new()).buckets.contains_key("b"));
    }

    #[test]
    fn consumers_come_and_go_with_subscriptions() {
        let of = |subscription: &str| {
            let mut desired = Desired::default();
            let key = desired.put_link(link(Contract::Messaging, &[("subscription", subscription), ("delivery", "jetstream")]));
            (Needs::of(&lattice(), &desired, &BTreeSet::new()), Needs::of(&lattice(), &desired, &BTreeSet::from([key])))
        };
        let (both, renewed) = of("edge.sensor.a,edge.sensor.b");
        let (one, _) = of("edge.sensor.a");
        assert_eq!((both.consumers.len(), renewed.consumers.len()), (2, 0));
        let missing = both.clone().without(&one);
        assert_eq!(missing.consumers.values().map(|need| need.filter.as_str()).collect::<Vec<_>>(), ["edge.sensor.b"]);
        assert!(one.without(&both).consumers.is_empty());
    }

    #[test]
    fn owners_need_a_fence_and_one_message_at_a_time() {
        let of = |class: Class| {
            let mut desired = Desired::default();
            let spec = ProviderSpec { image: String::new(), kind: ProviderKind::KvNats, hosts: BTreeSet::new(), config: vec![] };
            desired.start_provider(ProviderId::new("p").unwrap(), spec).unwrap();
            let mut spec = crate::view::tests::component(&[]);
            spec.needs.class = class;
            desired.start_component(ActorId::new("a").unwrap(), spec, None, false).unwrap();
            desired.put_link(link(Contract::KeyValue, &[("bucket", "b")]));
            let messages = link(Contract::Messaging, &[("subscription", "edge.sensor.a"), ("delivery", "jetstream")]);
            desired.put_link(LinkSpec { target: ProviderId::new("m").unwrap(), ..messages });
            Needs::of(&lattice(), &desired, &BTreeSet::new())
        };
        let (shared, fenced) = (of(Class::Shared), of(Class::Fenced));
        assert!(fenced.buckets["b"].fenced && !shared.buckets["b"].fenced);
        let pending = |needs: &Needs| needs.consumers.values().next().map(|need| need.max_ack_pending);
        assert_eq!((pending(&fenced), pending(&shared)), (Some(1), Some(1024)));
        let missing = fenced.clone().without(&shared);
        assert_eq!((missing.buckets.len(), missing.consumers.len()), (1, 1), "the class has changed");
        assert_eq!(fenced.clone().without(&fenced), Needs::default());
    }
}
