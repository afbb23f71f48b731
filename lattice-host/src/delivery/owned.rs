//! Durable subscriptions of slots: what the owner before held is taken over first.

use std::sync::Arc;

use lattice_nats::{Lattice, streams};
use provider_api::messaging::Subscription;

use super::{Source, Target};
use crate::reason;

/// Gives back what an owner before still holds, so that nobody waits for it; the target then knows which consumer its
/// messages come from. Passes everything through for actors without owners. None once it is to stop.
pub(crate) async fn take_over(lattice: &Lattice, mut source: Source, mut target: Target) -> Option<(Source, Target)> {
    let Subscription::Durable { stream, consumer } = source.subscription.clone() else { return Some((source, target)) };
    if target.slot.is_none() {
        return Some((source, target));
    }
    target.consumer = Some(Arc::from(consumer.as_str()));
    while !source.stop.is_cancelled() {
        match streams::take_over(lattice.connection(), &stream, &consumer).await {
            Ok(held) => {
                tracing::debug!(actor = %target.id, consumer, held, "consumer taken over");
                source.backoff.reset();
                return Some((source, target));
            }
            Err(error) => source.status.fails(reason::of(&error)),
        }
        source.pause().await;
    }
    source.status.closed();
    None
}
