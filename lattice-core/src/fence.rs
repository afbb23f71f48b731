//! Effects of a message that count once or not at all: what an owner of a slot collects while it works on a message, what it
//! stores as one, and what the store's answer means.
//!
//! **Invariants.** Nothing of a message is visible before all of it is stored. At least one part of every commit carries the
//! epoch of the slot, and a commit is atomic: a stale owner stores nothing. Message ids depend on the input alone, so that
//! the same input stored twice is recognised.

use std::collections::BTreeMap;

use crate::ownership::SlotId;
use crate::wire::ownership::Applied;

/// Most parts of one commit; the server takes 1,000 messages in a batch, one of them says what was applied.
pub const MAX_PARTS: usize = 999;
/// Most bytes of one message's effects.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Why an effect was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many keys and messages.
    #[error("more than {MAX_PARTS} writes and messages in one go")]
    Parts,
    /// Too many bytes.
    #[error("more than {MAX_BYTES} bytes of effects in one go")]
    Bytes,
}

/// A key as it will be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// `None` deletes it.
    value: Option<Vec<u8>>,
    /// Revision that the new value was made from, if it was made from one (0: there was none).
    made_from: Option<u64>,
}

/// A message as it will be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Public subject.
    pub subject: String,
    /// Headers by name.
    pub headers: Vec<(String, String)>,
    /// Content.
    pub body: Vec<u8>,
}

/// Effects of the message in hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects {
    writes: BTreeMap<String, Write>,
    publications: Vec<Publication>,
    bytes: usize,
}

/// One part of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A key; `None` deletes it.
    Key {
        /// Key in the bucket.
        key: String,
        /// Its new value.
        value: Option<Vec<u8>>,
        /// On which condition.
        condition: Condition,
    },
    /// A message for the outbox, on condition of the epoch.
    Publish(Publication),
}

/// When a part may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// While the slot's epoch is the owner's.
    Epoch,
    /// While the key has this revision (0: no message was ever stored on it).
    Revision(u64),
}

impl Effects {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.publications.is_empty()
    }

    /// The value that the message has given `key`: `None` if it has not touched it, `Some(None)` if it deleted it.
    pub fn read(&self, key: &str) -> Option<Option<&[u8]>> {
        self.writes.get(key).map(|write| write.value.as_deref())
    }

    /// Keys that the message has written, with whether they have a value.
    pub fn keys(&self) -> impl Iterator<Item = (&str, bool)> {
        self.writes.iter().map(|(key, write)| (key.as_str(), write.value.is_some()))
    }

    /// Sets or deletes a key, whatever it holds. `made_from`: the revision that the value was made from, if it was.
    ///
    /// # Errors
    /// [`TooMuch`]; the effects are as before then.
    pub fn write(&mut self, key: &str, value: Option<Vec<u8>>, made_from: Option<u64>) -> Result<(), TooMuch> {
        let before = self.writes.get(key);
        let (old, made_from) = match before {
            // What the first write of the message was made from still has to hold.
            Some(write) => (key.len().saturating_add(write.value.as_ref().map_or(0, Vec::len)), write.made_from.or(made_from)),
            None => (0, made_from),
        };
        let new = key.len().saturating_add(value.as_ref().map_or(0, Vec::len));
        self.make_room(old, new, usize::from(before.is_none()))?;
        self.writes.insert(key.to_owned(), Write { value, made_from });
        Ok(())
    }

    /// Publishes a message with the commit.
    ///
    /// # Errors
    /// [`TooMuch`]; the effects are as before then.
    pub fn publish(&mut self, publication: Publication) -> Result<(), TooMuch> {
        let headers: usize = publication.headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        self.make_room(0, publication.subject.len().saturating_add(publication.body.len()).saturating_add(headers), 1)?;
        self.publications.push(publication);
        Ok(())
    }

    /// The parts to be stored besides the record of what was applied, which always goes with them and carries the epoch.
    pub fn into_parts(self) -> Vec<Part> {
        let keys = self.writes.into_iter().map(|(key, Write { value, made_from })| {
            let condition = made_from.map_or(Condition::Epoch, Condition::Revision);
            Part::Key { key, value, condition }
        });
        keys.chain(self.publications.into_iter().map(Part::Publish)).collect()
    }

    fn make_room(&mut self, old: usize, new: usize, parts: usize) -> Result<(), TooMuch> {
        if self.writes.len().saturating_add(self.publications.len()).saturating_add(parts) > MAX_PARTS {
            return Err(TooMuch::Parts);
        }
        let bytes = self.bytes.saturating_sub(old).saturating_add(new);
        if bytes > MAX_BYTES {
            return Err(TooMuch::Bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// Whether an input was worked on already by the slot, whoever owned it then.
pub fn is_applied(applied: Option<Applied>, sequence: u64) -> bool {
    applied.is_some_and(|applied| sequence <= applied.sequence)
}

/// Id of the `part`-th message of what an input caused; 0 is the record of what was applied.
pub fn message_id(slot: &SlotId, consumer: &str, sequence: u64, part: usize) -> String {
    format!("{slot}:{consumer}:{sequence}:{part}")
}

/// How the store answered a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// All of it is stored.
    Stored,
    /// A message with one of its ids is stored already (10201).
    Duplicate,
    /// A condition does not hold (10071).
    WrongSequence,
    /// Another commit with the same condition is under way (10164); nothing was stored.
    Busy,
    /// Nobody said what became of it.
    Unknown,
    /// Nothing was stored, for a reason that passes.
    Unavailable,
}

/// What an owner does after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The effects are stored: acknowledge the input.
    Acknowledge,
    /// Commit the same again, under the same ids, after a pause.
    Repeat,
    /// The slot may be somebody else's: stop it and look. The input is not acknowledged.
    Stop,
    /// Give the input back: it comes again later.
    GiveBack,
}

/// Commits of the same effects until the input is given back.
pub const MAX_ATTEMPTS: u32 = 8;

/// What follows from an answer to attempt number `attempt` (from 1).
pub fn next(answer: Answer, attempt: u32) -> Next {
    match answer {
        // Only the same input makes the same ids: it was stored by an earlier attempt or an earlier owner.
        Answer::Stored | Answer::Duplicate => Next::Acknowledge,
        // Or somebody wrote a key of the slot past it: a look at the epoch tells, and costs little.
        Answer::WrongSequence => Next::Stop,
        Answer::Busy | Answer::Unknown | Answer::Unavailable if attempt < MAX_ATTEMPTS => Next::Repeat,
        Answer::Busy | Answer::Unknown | Answer::Unavailable => Next::GiveBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(bytes: usize) -> Publication {
        Publication { subject: "edge.result.eu".into(), headers: Vec::new(), body: vec![0; bytes] }
    }

    #[test]
    fn a_message_reads_what_it_wrote() {
        let mut effects = Effects::default();
        assert_eq!(effects.read("k"), None);
        effects.write("k", Some(b"1".to_vec()), Some(7)).unwrap();
        effects.write("k", Some(b"2".to_vec()), None).unwrap();
        assert_eq!(effects.read("k"), Some(Some(b"2".as_slice())));
        effects.write("gone", None, None).unwrap();
        assert_eq!(effects.read("gone"), Some(None));
        effects.publish(publication(1)).unwrap();
        let parts = effects.into_parts();
        let gone = Part::Key { key: "gone".into(), value: None, condition: Condition::Epoch };
        let key = Part::Key { key: "k".into(), value: Some(b"2".to_vec()), condition: Condition::Revision(7) };
        assert_eq!(parts, [gone, key, Part::Publish(publication(1))]);
    }

    #[test]
    fn effects_are_bounded() {
        let mut effects = Effects::default();
        for number in 0..MAX_PARTS {
            effects.write(&number.to_string(), None, None).unwrap();
        }
        assert_eq!(effects.publish(publication(1)), Err(TooMuch::Parts));
        assert_eq!(effects.write("0", Some(vec![1]), None), Ok(()), "a key that is there takes no room");
        let mut effects = Effects::default();
        effects.write("k", Some(vec![0; MAX_BYTES - 1]), None).unwrap();
        assert_eq!(effects.write("l", Some(vec![0; 1]), None), Err(TooMuch::Bytes));
        effects.write("k", None, None).unwrap();
        effects.publish(publication(MAX_BYTES / 2)).unwrap();
    }

    #[test]
    fn what_answers_mean() {
        let check = |answer, attempt, expected| assert_eq!(next(answer, attempt), expected, "{answer:?} {attempt}");
        check(Answer::Stored, 1, Next::Acknowledge);
        check(Answer::Duplicate, 1, Next::Acknowledge);
        check(Answer::WrongSequence, 1, Next::Stop);
        check(Answer::Unknown, 1, Next::Repeat);
        check(Answer::Busy, MAX_ATTEMPTS, Next::GiveBack);
        assert!(is_applied(Some(Applied { sequence: 5 }), 5) && !is_applied(Some(Applied { sequence: 5 }), 6) && !is_applied(None, 1));
    }

    #[test]
    fn ids_depend_on_the_input_alone() {
        let slot = SlotId { actor: crate::id::ActorId::new("a").unwrap(), slot: 2 };
        assert_eq!(message_id(&slot, "lat-l-a-1", 7, 1), "a-2:lat-l-a-1:7:1");
    }
}
