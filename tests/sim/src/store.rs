//! A model of JetStream as far as the control plane and fenced actors use it.
//!
//! A stream is one sequence of messages. Writes are conditional on the last sequence of a subject or of the stream, batches
//! are stored whole or not at all, message ids are remembered for a while, messages may have a time to live, and a reader
//! may be answered by a replica that lags behind.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::clock::Millis;

/// How long message ids are remembered.
pub const DEDUPE_WINDOW: Millis = 120_000;

/// A stored message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Position in the stream.
    pub sequence: u64,
    /// Subject; for a bucket its full one, `$KV.<bucket>.<key>`.
    pub subject: Rc<str>,
    /// Content; none for a deleted key.
    pub body: Option<Rc<[u8]>>,
    expires: Option<Millis>,
}

/// A message to be stored.
#[derive(Debug, Clone, Default)]
pub struct Put {
    /// Subject.
    pub subject: String,
    /// Content; none deletes the key.
    pub body: Option<Rc<[u8]>>,
    /// Last sequence that a subject must have (0: none), and which subject.
    pub expected: Option<(String, u64)>,
    /// Id by which the same message is recognised.
    pub id: Option<String>,
    /// Time to live in milliseconds.
    pub ttl: Option<Millis>,
}

/// Why nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A condition does not hold (10071).
    WrongSequence,
    /// A message of the batch is stored already (10201).
    Duplicate,
    /// Another batch with the same condition is under way (10164).
    Busy,
    /// There is no such stream.
    NoStream,
}

/// One stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// Kept in memory only: a restart of the server empties it.
    memory: bool,
    /// Subjects whose messages the server publishes again after the commit: what stands before the rest, and what then.
    republish: Vec<(String, String)>,
    messages: Vec<Message>,
    /// Index of the last message of each subject.
    last: BTreeMap<Rc<str>, usize>,
    ids: BTreeMap<String, (u64, Millis)>,
    sequence: u64,
}

impl Stream {
    /// An empty stream that outlives the server, with what is published again.
    pub fn on_disk(republish: Vec<(String, String)>) -> Self {
        Self { republish, ..Self::default() }
    }

    /// An empty stream that does not outlive the server.
    pub fn in_memory() -> Self {
        Self { memory: true, ..Self::default() }
    }

    /// Last sequence of the stream.
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }

    /// Stores all of `batch` or nothing; the last sequence. A single message that is stored already is answered with where.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is stored then.
    pub fn store(&mut self, batch: &[Put], expected_last: Option<u64>, now: Millis) -> Result<u64, Refusal> {
        let known = |put: &Put| {
            let (sequence, at) = put.id.as_ref().and_then(|id| self.ids.get(id))?;
            (now.saturating_sub(*at) < DEDUPE_WINDOW).then_some(*sequence)
        };
        if let Some(sequence) = batch.iter().find_map(known) {
            return if batch.len() == 1 { Ok(sequence) } else { Err(Refusal::Duplicate) };
        }
        let holds = |put: &Put| put.expected.as_ref().is_none_or(|(subject, sequence)| self.sequence_of(subject, now) == *sequence);
        if expected_last.is_some_and(|expected| expected != self.sequence) || !batch.iter().all(holds) {
            return Err(Refusal::WrongSequence);
        }
        for put in batch {
            self.sequence += 1;
            let subject: Rc<str> = Rc::from(put.subject.as_str());
            self.last.insert(subject.clone(), self.messages.len());
            let expires = put.ttl.map(|ttl| now + ttl);
            self.messages.push(Message { sequence: self.sequence, subject, body: put.body.clone(), expires });
            if let Some(id) = &put.id {
                self.ids.insert(id.clone(), (self.sequence, now));
            }
        }
        Ok(self.sequence)
    }

    fn sequence_of(&self, subject: &str, now: Millis) -> u64 {
        self.last_on(subject, now).map_or(0, |message| message.sequence)
    }

    fn last_on(&self, subject: &str, now: Millis) -> Option<&Message> {
        let message = self.messages.get(*self.last.get(subject)?)?;
        message.expires.is_none_or(|at| now < at).then_some(message)
    }

    /// The last message on a subject, as the leader has it.
    pub fn get(&self, subject: &str, now: Millis) -> Option<&Message> {
        self.last_on(subject, now).filter(|message| message.body.is_some())
    }

    /// The last message on a subject, as a replica has it that is `behind` messages late.
    pub fn get_stale(&self, subject: &str, behind: u64, now: Millis) -> Option<&Message> {
        let seen = self.sequence.saturating_sub(behind);
        let mut older = self.messages.iter().rev().filter(|message| message.sequence <= seen && &*message.subject == subject);
        older.next().filter(|message| message.body.is_some() && message.expires.is_none_or(|at| now < at))
    }

    /// The last message of every subject that has one.
    pub fn all(&self, now: Millis) -> impl Iterator<Item = &Message> {
        self.last
            .values()
            .filter_map(|index| self.messages.get(*index))
            .filter(move |message| message.body.is_some() && message.expires.is_none_or(|at| now < at))
    }

    /// The first message after `sequence` whose subject `fits`.
    pub fn next_after(&self, sequence: u64, fits: impl Fn(&str) -> bool) -> Option<&Message> {
        let from = self.messages.partition_point(|message| message.sequence <= sequence);
        self.messages.get(from..)?.iter().find(|message| fits(&message.subject))
    }

    /// Where the message with an id is stored.
    pub fn stored_as(&self, id: &str) -> Option<u64> {
        self.ids.get(id).map(|(sequence, _)| *sequence)
    }

    /// The message at `sequence`.
    pub fn at(&self, sequence: u64) -> Option<&Message> {
        let index = self.messages.partition_point(|message| message.sequence < sequence);
        self.messages.get(index).filter(|message| message.sequence == sequence)
    }

    /// The server was restarted.
    pub fn handle_restart(&mut self) {
        if self.memory {
            self.messages.clear();
            self.last.clear();
            self.ids.clear();
            self.sequence = 0;
        }
    }

    /// Where a stored message is published again, if anywhere.
    pub fn republished(&self, subject: &str) -> Option<String> {
        self.republish.iter().find_map(|(from, to)| Some(format!("{to}{}", subject.strip_prefix(from.as_str())?)))
    }
}

/// A durable consumer: which messages of a stream were given out and which are done.
#[derive(Debug)]
pub struct Consumer {
    /// Stream that it reads.
    pub stream: String,
    /// Subject that it wants.
    pub filter: String,
    /// How many may be out at once.
    pub max_pending: usize,
    next_after: u64,
    /// Messages that are out: when each comes again, and how often it was given out.
    pub out: BTreeMap<u64, (Millis, u32)>,
    again: BTreeMap<u64, u32>,
}

impl Consumer {
    /// One that starts at the beginning.
    pub fn new(stream: &str, filter: &str, max_pending: usize) -> Self {
        let (out, again) = (BTreeMap::new(), BTreeMap::new());
        Self { stream: stream.to_owned(), filter: filter.to_owned(), max_pending, next_after: 0, out, again }
    }

    /// The next message to give out, if there is one and as many may be out.
    pub fn take(&mut self, stream: &Stream, now: Millis, ack_wait: Millis) -> Option<(u64, u32)> {
        let late: Vec<u64> = self.out.iter().filter(|(_, (due, _))| *due <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            self.give_back(sequence);
        }
        if self.out.len() >= self.max_pending {
            return None;
        }
        let (sequence, times) = match self.again.pop_first() {
            Some((sequence, times)) => (sequence, times + 1),
            None => {
                let message = stream.next_after(self.next_after, |subject| subject == self.filter)?;
                self.next_after = message.sequence;
                (message.sequence, 1)
            }
        };
        self.out.insert(sequence, (now + ack_wait, times));
        Some((sequence, times))
    }

    /// A message is done.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.out.remove(&sequence);
        self.again.remove(&sequence);
    }

    /// A message shall come again.
    pub fn give_back(&mut self, sequence: u64) {
        if let Some((_, times)) = self.out.remove(&sequence) {
            self.again.insert(sequence, times);
        }
    }

    /// Whether everything that was stored so far is done.
    pub fn is_done(&self, stream: &Stream) -> bool {
        self.out.is_empty() && self.again.is_empty() && stream.next_after(self.next_after, |subject| subject == self.filter).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(subject: &str, expected: Option<u64>, id: Option<&str>) -> Put {
        Put {
            subject: subject.into(),
            body: Some(Rc::from(b"x".as_slice())),
            expected: expected.map(|sequence| (subject.to_owned(), sequence)),
            id: id.map(str::to_owned),
            ttl: None,
        }
    }

    #[test]
    fn a_batch_is_stored_whole_or_not_at_all() {
        let mut stream = Stream::default();
        assert_eq!(stream.store(&[put("a", Some(0), None), put("b", Some(0), None)], None, 0), Ok(2));
        assert_eq!(stream.store(&[put("c", Some(0), None), put("b", Some(1), None)], None, 0), Err(Refusal::WrongSequence));
        assert!(stream.get("c", 0).is_none() && stream.last_sequence() == 2);
        assert_eq!(stream.store(&[put("a", None, None)], Some(1), 0), Err(Refusal::WrongSequence));
    }

    #[test]
    fn ids_are_remembered_for_a_while() {
        let mut stream = Stream::default();
        assert_eq!(stream.store(&[put("a", None, Some("1")), put("b", None, None)], None, 0), Ok(2));
        assert_eq!(stream.store(&[put("a", None, Some("1"))], None, 1), Ok(1));
        assert_eq!(stream.store(&[put("a", None, Some("1")), put("b", None, None)], None, 1), Err(Refusal::Duplicate));
        assert_eq!(stream.store(&[put("a", None, Some("1"))], None, DEDUPE_WINDOW), Ok(3));
    }

    #[test]
    fn what_has_a_time_to_live_goes() {
        let mut stream = Stream::in_memory();
        stream.store(&[Put { ttl: Some(10), ..put("a", None, None) }], None, 0).unwrap();
        assert!(stream.get("a", 9).is_some() && stream.get("a", 10).is_none());
        assert_eq!(stream.store(&[put("a", Some(0), None)], None, 10), Ok(2));
        stream.handle_restart();
        assert_eq!((stream.last_sequence(), stream.get("a", 10).is_none()), (0, true));
    }

    #[test]
    fn a_replica_may_lag() {
        let mut stream = Stream::default();
        for _ in 0..3 {
            stream.store(&[put("a", None, None)], None, 0).unwrap();
        }
        assert_eq!(stream.get_stale("a", 1, 0).unwrap().sequence, 2);
        assert!(stream.get_stale("a", 3, 0).is_none());
    }

    #[test]
    fn an_unacknowledged_message_comes_again() {
        let mut stream = Stream::default();
        stream.store(&[put("a", None, None), put("b", None, None), put("a", None, None)], None, 0).unwrap();
        let mut consumer = Consumer::new("s", "a", 1);
        assert_eq!(consumer.take(&stream, 0, 4), Some((1, 1)));
        assert_eq!(consumer.take(&stream, 3, 4), None);
        assert_eq!(consumer.take(&stream, 4, 4), Some((1, 2)));
        consumer.acknowledge(1);
        assert_eq!(consumer.take(&stream, 4, 4), Some((3, 1)));
        consumer.give_back(3);
        assert!(!consumer.is_done(&stream));
        assert_eq!(consumer.take(&stream, 4, 4), Some((3, 2)));
        consumer.acknowledge(3);
        assert!(consumer.is_done(&stream));
    }
}
