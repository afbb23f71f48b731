//! A slot that runs: one message at a time, whose effects are stored as one before anybody hears of them.
//!
//! **Invariants.** A message that was applied before, by whichever owner, is not worked on again. The effects of a message
//! that failed are dropped. Its reply goes out after its effects are stored, and only then it counts as handled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lattice_core::fence::{self, Effects, Next, TooMuch};
use lattice_core::ownership::SlotId;
use lattice_core::wire::ownership::Applied;
use lattice_nats::fenced::{Cause, FencedBucket};
use provider_api::messaging::{Message, Messaging};
use tokio::sync::mpsc;
use ulid::Ulid;

use super::claims::News;
use super::gate::Gate;
use crate::capability::messaging::may_reply;
use crate::event_loop::Event;
use crate::reason;
use crate::runtime::{Actor, Handled, InvokeError, ReplyRoute};

/// How often a message is worked on anew because keys that it had read were changed by somebody else meanwhile.
const MAX_RUNS: u32 = 8;
/// First pause before a commit is tried again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause before a commit is tried again. All attempts together stay far below the server's duplicate window.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Keys of which one message remembers the revision that it read; above that a write is conditional on the epoch alone.
const MAX_SEEN: usize = 4096;
/// What takes the place of a consumer for messages that come from none, and are not repeated.
const NO_CONSUMER: &str = "call";

/// One start of a slot.
pub(crate) struct Slot {
    id: SlotId,
    epoch: u64,
    bucket: FencedBucket,
    gate: Arc<Gate>,
    events: mpsc::Sender<Event>,
    /// What the message in hand has done; none while there is none.
    hand: Mutex<Option<Hand>>,
    /// Held while a message is worked on: how far the slot has come with each consumer, as far as that is known.
    turn: tokio::sync::Mutex<BTreeMap<String, Option<Applied>>>,
}

/// What the message in hand has done and seen.
#[derive(Debug, Default)]
struct Hand {
    effects: Effects,
    /// Revisions of the keys that it read.
    seen: BTreeMap<String, u64>,
}

/// How the effects of a message fared.
enum Fate {
    Stored,
    /// A key that the message had read is another one now.
    Changed,
    /// The slot may be somebody else's.
    Lost,
    /// Nothing is known of it, or there is no room: later.
    Later(String),
}

impl Slot {
    pub(crate) fn new(id: SlotId, epoch: u64, bucket: FencedBucket, gate: Arc<Gate>, events: mpsc::Sender<Event>) -> Arc<Self> {
        Arc::new(Self { id, epoch, bucket, gate, events, hand: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Works on a message; `input` says which one of which consumer it is, if it is one that may come again.
    ///
    /// # Errors
    /// [`InvokeError`]; nothing of the message was stored then, or it is not known whether all of it was.
    pub(crate) async fn handle(
        &self,
        actor: &Actor,
        message: Message,
        route: ReplyRoute,
        input: Option<(&str, u64)>,
    ) -> Result<Handled, InvokeError> {
        let mut turn = self.turn.lock().await;
        if let Some((consumer, sequence)) = input
            && fence::is_applied(self.applied(&mut turn, consumer).await?, sequence)
        {
            return Ok(Handled::default());
        }
        let answers = Answers::new(&message, route);
        for _ in 0..MAX_RUNS {
            if !self.gate.is_open() {
                return Err(InvokeError::Closed);
            }
            *self.hand() = Some(Hand::default());
            let handled = actor.handle_message(message.clone(), answers.route()).await;
            let hand = self.hand().take().unwrap_or_default();
            let handled = handled?;
            match self.store(hand.effects, input).await {
                Fate::Stored => {
                    if let Some((consumer, sequence)) = input {
                        turn.insert(consumer.to_owned(), Some(Applied { sequence }));
                    }
                    return Ok(answers.send(handled).await);
                }
                Fate::Changed => {}
                Fate::Lost => {
                    let news = News::Fenced { slot: self.id.clone(), epoch: self.epoch };
                    let _ = self.events.send(Event::Owner(news)).await;
                    return Err(InvokeError::Closed);
                }
                Fate::Later(why) => {
                    turn.clear();
                    return Err(InvokeError::NotStored(why));
                }
            }
        }
        Err(InvokeError::NotStored("others change the same keys at the same time".to_owned()))
    }

    /// How far the slot has come with a consumer; asked of the stream's leader once.
    async fn applied(&self, turn: &mut BTreeMap<String, Option<Applied>>, consumer: &str) -> Result<Option<Applied>, InvokeError> {
        if let Some(known) = turn.get(consumer) {
            return Ok(*known);
        }
        let read = self.bucket.read_applied(&self.id, consumer).await;
        let read = read.map_err(|error| InvokeError::NotStored(format!("what was applied is not known: {}", reason::of(&error))))?;
        turn.insert(consumer.to_owned(), read);
        Ok(read)
    }

    async fn store(&self, effects: Effects, input: Option<(&str, u64)>) -> Fate {
        if input.is_none() && effects.is_empty() {
            return Fate::Stored;
        }
        let (consumer, sequence) = input.unwrap_or((NO_CONSUMER, 0));
        let id = match input {
            Some((consumer, sequence)) => fence::message_id(&self.id, consumer, sequence, 0),
            None => fence::message_id(&self.id, &Ulid::new().to_string(), 0, 0),
        };
        // The number of the part is for the commit to add.
        let id = id.rsplit_once(':').map_or(id.as_str(), |(id, _)| id);
        let cause = Cause { slot: &self.id, epoch: self.epoch, consumer, applied: Applied { sequence }, id };
        let commit = match self.bucket.prepare(cause, effects.into_parts()) {
            Ok(commit) => commit,
            Err(error) => return Fate::Later(reason::of(&error)),
        };
        let (mut attempt, mut pause) = (1, FIRST_PAUSE);
        loop {
            if !self.gate.is_open() {
                return Fate::Lost;
            }
            let (answer, error) = self.bucket.attempt(&commit).await;
            match fence::next(answer, attempt) {
                Next::Acknowledge => return Fate::Stored,
                Next::Stop => return if self.is_ours().await { Fate::Changed } else { Fate::Lost },
                Next::GiveBack => return Fate::Later(error.map_or_else(|| "no answer".to_owned(), |error| reason::of(&error))),
                Next::Repeat => {
                    let why = error.map(|error| error.to_string()).unwrap_or_default();
                    tracing::debug!(slot = %self.id, attempt, why, "effects are not stored yet, trying again");
                    tokio::time::sleep(jittered(pause)).await;
                    (attempt, pause) = (attempt.saturating_add(1), pause.saturating_mul(2).min(MAX_PAUSE));
                }
            }
        }
    }

    /// Whether nobody has claimed the slot since. Only tells a key that changed from a slot that was lost: whether the slot
    /// is ours the next commit decides.
    async fn is_ours(&self) -> bool {
        matches!(self.bucket.read_epoch(&self.id).await, Ok(Some((_, sequence))) if sequence == self.epoch)
    }

    /// What the message in hand has made of `key`: none if it has not touched it.
    pub(crate) fn written(&self, key: &str) -> Option<Option<Vec<u8>>> {
        self.hand().as_ref()?.effects.read(key).map(|value| value.map(<[u8]>::to_vec))
    }

    /// Keys that the message in hand has written, with whether they have a value.
    pub(crate) fn written_keys(&self) -> BTreeMap<String, bool> {
        let hand = self.hand();
        hand.iter().flat_map(|hand| hand.effects.keys()).map(|(key, is_there)| (key.to_owned(), is_there)).collect()
    }

    /// Remembers which revision of `key` the message in hand has read.
    pub(crate) fn saw(&self, key: &str, revision: u64) {
        if let Some(hand) = self.hand().as_mut()
            && hand.seen.len() < MAX_SEEN
        {
            // What it read first is what it goes on from.
            hand.seen.entry(key.to_owned()).or_insert(revision);
        }
    }

    /// Writes `key` with the message in hand.
    pub(crate) fn write(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), Refused> {
        self.with_hand(|hand| hand.effects.write(key, value, hand.seen.get(key).copied()))
    }

    /// Publishes with the message in hand.
    pub(crate) fn publish(&self, publication: fence::Publication) -> Result<(), Refused> {
        self.with_hand(|hand| hand.effects.publish(publication))
    }

    fn with_hand(&self, change: impl FnOnce(&mut Hand) -> Result<(), TooMuch>) -> Result<(), Refused> {
        if !self.gate.is_open() {
            return Err(Refused::Closed);
        }
        match self.hand().as_mut() {
            Some(hand) => Ok(change(hand)?),
            None => Err(Refused::NoMessage),
        }
    }

    fn hand(&self) -> MutexGuard<'_, Option<Hand>> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an effect was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this host does not own the slot any more")]
    Closed,
    #[error("an actor with owners writes only while it handles a message")]
    NoMessage,
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// Where the reply to a message goes, once its effects are stored.
struct Answers {
    route: ReplyRoute,
    reply_to: Option<String>,
}

impl Answers {
    fn new(message: &Message, route: ReplyRoute) -> Self {
        Self { reply_to: message.reply_to.clone().filter(|subject| may_reply(subject)), route }
    }

    /// The route for the actor: whatever is published later is captured first.
    fn route(&self) -> ReplyRoute {
        match (&self.route, &self.reply_to) {
            (ReplyRoute::Capture, _) | (ReplyRoute::Publish(_), Some(_)) => ReplyRoute::Capture,
            (ReplyRoute::Publish(_), None) | (ReplyRoute::None, _) => ReplyRoute::None,
        }
    }

    /// Publishes the reply, if it is to be published. Whoever waits for it gets it at most once, as any other.
    async fn send(self, mut handled: Handled) -> Handled {
        if let (ReplyRoute::Publish(backend), Some(subject)) = (self.route, self.reply_to)
            && let Some(reply) = handled.reply.take()
            && let Err(error) = publish(&*backend, Message { subject, ..reply }).await
        {
            tracing::debug!(%error, "a reply was not sent");
        }
        handled
    }
}

async fn publish(backend: &dyn Messaging, reply: Message) -> Result<(), provider_api::CallError> {
    backend.publish(reply).await
}

/// Half of `pause` to all of it: owners that collide do not do so in step.
fn jittered(pause: Duration) -> Duration {
    let part = u32::try_from(Ulid::new().random() % 512).unwrap_or(0);
    pause / 2 + pause.saturating_mul(part) / 1024
}
