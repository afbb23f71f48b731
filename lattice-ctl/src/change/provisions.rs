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

/// What some links need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Needs {
    /// Durable consumers by name, with what they take.
    consumers: BTreeMap<String, SubjectPattern>,
    /// Buckets by name, with the region that they are for.
    buckets: BTreeMap<String, Option<String>>,
}

impl Needs {
    /// What the links of `desired` need, those in `except` left out. A link that makes no sense needs nothing: the plan
    /// refuses it if it matters.
    fn of(lattice: &LatticeName, desired: &Desired, except: &BTreeSet<String>) -> Self {
        let mut needs = Self::default();
        for spec in desired.links.values().filter(|spec| !except.contains(&link_key(spec))) {
            let Ok(resolved) = plan::resolve_link(spec, desired) else { continue };
            needs.consumers.extend(link::durables(lattice, spec, &resolved.settings));
            let provider = desired.providers.get(&spec.target).map(|provider| provider.kind);
            if let (KindSettings::KeyValue(settings), Some(ProviderKind::KvNats)) = (&resolved.settings.kind, provider) {
                needs.buckets.insert(settings.bucket.clone(), settings.region.clone());
            }
        }
        needs
    }

    /// What is in `self` and not in `other`.
    fn without(mut self, other: &Self) -> Self {
        self.consumers.retain(|name, _| !other.consumers.contains_key(name));
        self.buckets.retain(|name, _| !other.buckets.contains_key(name));
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
        let unneeded = Needs::of(session.name(), before, &nothing).without(&needed).consumers.into_keys().collect();
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
        for (bucket, region) in &missing.buckets {
            let name = BucketName::new(bucket.as_str()).map_err(|error| problems::name(&error))?;
            lattice.ensure_bucket(&name, region.as_deref()).await?;
        }
        if missing.consumers.is_empty() {
            return Ok(());
        }
        lattice.ensure_edge_stream().await?;
        let status = lattice.edge_stream_status().await?;
        let there: BTreeSet<String> = status.into_iter().flat_map(|stream| stream.consumers).map(|consumer| consumer.name).collect();
        for (name, filter) in &missing.consumers {
            lattice.create_consumer(name, filter, ACK_WAIT, MAX_ACK_PENDING).await?;
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
        assert_eq!(both.clone().without(&one).consumers.values().map(SubjectPattern::as_str).collect::<Vec<_>>(), ["edge.sensor.b"]);
        assert!(one.without(&both).consumers.is_empty());
    }
}
