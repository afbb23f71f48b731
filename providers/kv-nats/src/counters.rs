//! Counting: a number in a bucket that many add to at the same time.
//!
//! The server takes a write on condition of the revision that it replaces, so of several writers one wins and the others
//! must look again. Within this process nobody has to lose: whoever counts a key waits for a *turn*, and the one who has it
//! writes for all who wait, each of whom gets the sum that its own share made. The revision that a turn leaves is
//! remembered for the next, which then needs no look before it writes; if somebody else wrote meanwhile, the server says so.
//!
//! **Invariants.** What was added is in the bucket when [`Counters::add`] returns, exactly once. A caller that gives up
//! before its turn has added nothing; one that gives up later never keeps others from what is theirs. What the server did
//! not confirm is reported as an error and never tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lattice_core::id::Revision;
use lattice_nats::bucket::Bucket;
use lattice_nats::{CommitError, Connection};
use provider_api::CallError;
use provider_api::keyvalue::add;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::call_error;

/// Attempts to count up against other processes that count the same key. In each round somebody wins, so that even so many
/// writers in step get through.
const ATTEMPTS: u32 = 64;
/// First pause after a lost attempt; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause between two attempts: far below a link's time-out.
const MAX_PAUSE: Duration = Duration::from_millis(16);
/// Keys whose turns are kept at hand; beyond it those that nobody waits for are forgotten.
const MAX_KEYS: usize = 256;
/// How long a revision is believed to be the last: a bucket that was removed and made again counts its own from 1.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// The counters of one bucket.
pub(crate) struct Counters {
    bucket: Bucket,
    connection: Connection,
    keys: Mutex<BTreeMap<String, Arc<Key>>>,
}

/// One key that is counted.
#[derive(Default)]
struct Key {
    waiting: Mutex<Vec<Share>>,
    /// The turn, and what the last one left.
    turn: Arc<tokio::sync::Mutex<Option<Known>>>,
}

/// What somebody wants to add.
struct Share {
    delta: u64,
    sum: oneshot::Sender<Result<u64, CallError>>,
}

/// A value that we wrote.
struct Known {
    value: Bytes,
    revision: Revision,
    /// Number of the connection that it was written over.
    epoch: u64,
    since: Instant,
}

impl Counters {
    pub(crate) fn new(bucket: Bucket, connection: Connection) -> Self {
        Self { bucket, connection, keys: Mutex::default() }
    }

    /// Adds `delta` to the number under `key` and returns the sum.
    pub(crate) async fn add(&self, key: &str, delta: u64) -> Result<u64, CallError> {
        let counted = self.key(key);
        let (sum, mut added) = oneshot::channel();
        counted.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Share { delta, sum });
        let known = tokio::select! {
            biased;
            added = &mut added => return added.unwrap_or_else(|_gone| Err(lost(key))),
            known = counted.turn.clone().lock_owned() => known,
        };
        if let Ok(added) = added.try_recv() {
            return added;
        }
        let shares = std::mem::take(&mut *counted.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let turn = Turn { bucket: self.bucket.clone(), connection: self.connection.clone(), key: key.to_owned(), known };
        if shares.len() > 1 {
            // Others' shares are under way with ours: this caller may give up, they must not notice.
            tokio::spawn(turn.take(shares));
        } else {
            turn.take(shares).await;
        }
        added.await.unwrap_or_else(|_gone| Err(lost(key)))
    }

    fn key(&self, key: &str) -> Arc<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = keys.get(key) {
            return known.clone();
        }
        if keys.len() >= MAX_KEYS {
            keys.retain(|_, key| Arc::strong_count(key) > 1);
        }
        keys.entry(key.to_owned()).or_default().clone()
    }
}

fn lost(key: &str) -> CallError {
    CallError::Failed(format!("whether `{key}` was counted is not known"))
}

/// The right to write one key.
struct Turn {
    bucket: Bucket,
    connection: Connection,
    key: String,
    known: OwnedMutexGuard<Option<Known>>,
}

impl Turn {
    /// Adds all shares and tells each what its sum is.
    async fn take(mut self, mut shares: Vec<Share>) {
        shares.retain(|share| !share.sum.is_closed());
        if shares.is_empty() {
            return;
        }
        match self.write(&shares).await {
            Ok(sums) => shares.into_iter().zip(sums).for_each(|(share, sum)| drop(share.sum.send(sum))),
            Err(error) => shares.into_iter().for_each(|share| drop(share.sum.send(Err(error.clone())))),
        }
    }

    /// One write for all, tried again while others are faster.
    async fn write(&mut self, shares: &[Share]) -> Result<Vec<Result<u64, CallError>>, CallError> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ATTEMPTS {
            // Taken, not looked at: after an error nothing is known.
            let known = self.known.take().filter(|known| known.epoch == self.connection.epoch() && known.since.elapsed() < BELIEVED_FOR);
            let remembered = known.is_some();
            let (mut value, revision) = match known {
                Some(known) => (Some(known.value), known.revision),
                None => {
                    let (entry, revision) = self.bucket.entry_or_gap(&self.key).await.map_err(call_error)?;
                    (entry.map(|entry| entry.value), revision)
                }
            };
            let mut sums = Vec::with_capacity(shares.len());
            let mut is_changed = false;
            for share in shares {
                let sum = add(&self.key, value.as_ref(), share.delta);
                if let Ok(sum) = &sum {
                    value = Some(Bytes::from(sum.to_string()));
                    is_changed = true;
                }
                sums.push(sum);
            }
            let Some(value) = value.filter(|_| is_changed) else { return Ok(sums) };
            let epoch = self.connection.epoch();
            match self.bucket.update(&self.key, value.clone(), revision).await {
                Ok(revision) => {
                    *self.known = Some(Known { value, revision, epoch, since: Instant::now() });
                    return Ok(sums);
                }
                Err(CommitError::Conflict { .. }) if remembered => {}
                Err(CommitError::Conflict { .. }) => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(MAX_PAUSE);
                }
                Err(CommitError::Store(error)) => return Err(call_error(error)),
                Err(error @ (CommitError::TooMany { .. } | CommitError::Unknown { .. })) => {
                    return Err(CallError::Failed(error.to_string()));
                }
            }
        }
        Err(CallError::Unavailable(format!("too many others count `{}` at the same time", self.key)))
    }
}
