//! The stream of events, read back: what happened lately, and what happens from then on.
//!
//! **Bounds.** A page reads at most `SCAN` positions of the stream and keeps the newest that were asked for. Going on from
//! the position that a page ends with misses nothing and repeats nothing.

use std::collections::{BTreeSet, VecDeque};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use lattice_core::id::{HostId, LatticeName};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::event::{Event, EventKind};

use crate::api;
use crate::connect::API_TIMEOUT;
use crate::error::{ApiError, StoreError};
use crate::lattice::Lattice;

/// Positions of the stream that one page looks at: a busy day of a small lattice, read in less than a second.
const SCAN: u64 = 20_000;

/// Which events are meant; an empty set means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Hosts that they are about.
    pub hosts: BTreeSet<HostId>,
    /// Kinds.
    pub kinds: BTreeSet<EventKind>,
}

/// A page of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventPage {
    /// Events, the oldest first.
    pub events: Vec<Event>,
    /// Whether older ones that fit were left out.
    pub more: bool,
    /// Position after which later events come.
    pub position: u64,
}

impl EventQuery {
    fn subjects(&self, lattice: &LatticeName) -> Vec<String> {
        let one_of = |tokens: Vec<&'static str>| if tokens.is_empty() { vec!["*"] } else { tokens };
        let kinds = one_of(self.kinds.iter().map(|kind| kind.token()).collect());
        let hosts: Vec<&str> = if self.hosts.is_empty() { vec!["*"] } else { self.hosts.iter().map(HostId::as_str).collect() };
        let of_host = |host: &&str| kinds.iter().map(|kind| format!("lat.{lattice}.evt.*.{host}.{kind}")).collect::<Vec<_>>();
        hosts.iter().flat_map(of_host).collect()
    }
}

impl Lattice {
    /// The newest `limit` events that fit and are not older than `since_ms` (milliseconds since 1970, by the clocks of those
    /// who said so). What cannot be read is left out.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such lattice, [`StoreError::Nats`].
    pub async fn recent_events(&self, query: &EventQuery, since_ms: u64, limit: usize) -> Result<EventPage, StoreError> {
        let stream = subject::events_stream(self.name());
        let doing = || StoreError::nats(format!("reading stream `{stream}`"));
        let info = api::stream_info(self.connection(), &stream).await.map_err(doing())?;
        let info = info.ok_or_else(|| StoreError::Missing { what: "stream", name: stream.clone() })?;
        let position = info.state.last_sequence;
        let consumer = self.events_after(query, position.saturating_sub(SCAN)).await?;
        let mut page = EventPage { position, more: position > SCAN.saturating_add(info.state.first_sequence), ..EventPage::default() };
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(|error| doing()(ApiError::Other(error.to_string())))?;
        let mut newest: VecDeque<Event> = VecDeque::new();
        while left > 0 {
            let next = tokio::time::timeout(API_TIMEOUT, messages.next()).await;
            let next = next.map_err(|_elapsed| doing()(ApiError::TimedOut(API_TIMEOUT)))?;
            let Some(message) = next else { break };
            let message = message.map_err(|error| doing()(ApiError::Other(error.to_string())))?;
            let Ok((sequence, pending)) = message.info().map(|info| (info.stream_sequence, info.pending)) else { break };
            left = pending;
            page.position = page.position.max(sequence);
            let Some(event) = read(&message).filter(|event| event.at_ms >= since_ms) else { continue };
            newest.push_back(event);
            if newest.len() > limit {
                newest.pop_front();
                page.more = true;
            }
        }
        page.events = newest.into();
        Ok(page)
    }

    /// Events that fit and come after `position`, with their own positions. The server may go away meanwhile; if it is away
    /// for too long the stream ends with an error.
    ///
    /// # Errors
    /// [`StoreError::Nats`].
    pub async fn follow_events(
        &self,
        query: &EventQuery,
        position: u64,
    ) -> Result<impl Stream<Item = Result<(u64, Event), StoreError>> + Send + Unpin + use<>, StoreError> {
        let failed = |error: String| StoreError::nats("following events")(ApiError::Other(error));
        let consumer = self.events_after(query, position).await?;
        let messages = consumer.messages().await.map_err(|error| failed(error.to_string()))?;
        let events = messages.map_err(move |error| failed(error.to_string())).try_filter_map(|message| async move {
            let sequence = message.info().map(|info| info.stream_sequence).unwrap_or_default();
            Ok(read(&message).map(|event| (sequence, event)))
        });
        Ok(events.boxed())
    }

    async fn events_after(&self, query: &EventQuery, position: u64) -> Result<Consumer<OrderedConfig>, StoreError> {
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: position.saturating_add(1) },
            filter_subjects: query.subjects(self.name()),
            ..OrderedConfig::default()
        };
        let stream = subject::events_stream(self.name());
        let created = self.connection().jetstream().create_consumer_on_stream(config, &stream).await;
        created.map_err(|error| StoreError::nats(format!("reading stream `{stream}`"))(ApiError::Other(error.to_string())))
    }
}

fn read(message: &Message) -> Option<Event> {
    wire::decode(&message.payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_sent() {
        let lattice = LatticeName::new("l").unwrap();
        assert_eq!(EventQuery::default().subjects(&lattice), ["lat.l.evt.*.*.*"]);
        let host = HostId::new(format!("N{}", "A".repeat(55))).unwrap();
        let query = EventQuery { hosts: BTreeSet::from([host.clone()]), kinds: BTreeSet::from([EventKind::Dead, EventKind::NoTarget]) };
        assert_eq!(query.subjects(&lattice), [format!("lat.l.evt.*.{host}.dead"), format!("lat.l.evt.*.{host}.no-target")]);
    }
}
