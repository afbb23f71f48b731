//! Where readings are that were acknowledged and have no result: what the stream, its consumers and the dead letters say.
//!
//! It only looks; what is a fault and what is not is for [`check`](crate::check) to say.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer;
use futures::{StreamExt as _, TryStreamExt as _};
use lattice_core::subject::EDGE_STREAM;
use lattice_core::wire::event::EventKind;

use crate::arena::Arena;
use crate::load::{Id, Stream};
use crate::observer::Heard;

/// How long looking may take.
const LOOKED_WITHIN: Duration = Duration::from_secs(20);
/// How long the next message may take to come.
const NEXT_WITHIN: Duration = Duration::from_secs(2);

/// What the server has now.
#[derive(Default)]
struct Stored {
    positions: BTreeMap<Id, u64>,
    consumers: Vec<consumer::Info>,
}

/// One line for each fate, with how many of `missing` it met and an example.
pub(crate) fn fates(arena: &Arena, heard: &Heard, missing: &[(Stream, Id)]) -> Vec<String> {
    let look = async { tokio::time::timeout(LOOKED_WITHIN, stored(arena.client().clone())).await };
    let Some(stored) = arena.runtime.block_on(look).ok().flatten() else {
        return vec!["the stream of readings cannot be read".to_owned()];
    };
    let letters: BTreeMap<u64, &str> = heard
        .events_of(EventKind::DeadLetter)
        .filter_map(|event| Some((event.details.get("sequence")?.parse().ok()?, event.details.get("reason")?.as_str())))
        .collect();
    let mut fates: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (stream, id) in missing {
        let (fate, example) = match stored.positions.get(id) {
            None => ("not in the stream".to_owned(), String::new()),
            Some(position) => match letters.get(position) {
                Some(reason) => ("dead letters".to_owned(), format!(" at {position}: {reason}")),
                None => (stored.fate(*stream, *position), format!(" at {position}")),
            },
        };
        let (count, _) = fates.entry(fate).or_insert_with(|| (0, format!("{} {}{example}", id.0, id.1)));
        *count += 1;
    }
    fates.into_iter().map(|(fate, (count, example))| format!("{count} are {fate}, one is {example}")).collect()
}

impl Stored {
    fn fate(&self, stream: Stream, position: u64) -> String {
        let subject = format!("edge.sensor.{}", stream.token());
        let Some(found) = self.consumers.iter().find(|info| info.config.filter_subject == subject) else {
            return "in the stream, and nobody consumes them".to_owned();
        };
        let (done, delivered) = (found.ack_floor.stream_sequence, found.delivered.stream_sequence);
        let state = format!(
            "{} done up to {done}, delivered up to {delivered}, {} unacknowledged, {} pending",
            found.name, found.num_ack_pending, found.num_pending
        );
        if position <= done { format!("done for their consumer ({state})") } else { format!("waiting ({state})") }
    }
}

async fn stored(client: async_nats::Client) -> Option<Stored> {
    let stream = jetstream::new(client).get_stream(EDGE_STREAM).await.ok()?;
    let consumers = stream.consumers().try_collect().await.ok()?;
    let config = consumer::pull::OrderedConfig { filter_subject: "edge.sensor.>".to_owned(), ..consumer::pull::OrderedConfig::default() };
    let mut reader = stream.create_consumer(config).await.ok()?;
    let count = reader.info().await.ok()?.num_pending;
    let mut messages = reader.messages().await.ok()?;
    let mut stored = Stored { consumers, ..Stored::default() };
    for _ in 0..count {
        let Ok(Some(Ok(message))) = tokio::time::timeout(NEXT_WITHIN, messages.next()).await else { break };
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let mut words = text.split(' ').skip(1);
        let id = words.next().zip(words.next().and_then(|number| number.parse().ok()));
        if let (Some((device, number)), Ok(info)) = (id, message.info()) {
            stored.positions.insert((device.to_owned(), number), info.stream_sequence);
        }
    }
    Some(stored)
}
