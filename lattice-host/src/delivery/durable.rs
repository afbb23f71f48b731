//! At least once: `jetstream` links.
//!
//! A message is *held* from the moment it is here until it is settled; each second the server is told so. It is
//! acknowledged after success. An answered failure (error, trap, limit) is counted per position in the stream; the message
//! comes again after a pause, and after [`MAX_ANSWERED_FAILURES`] it becomes a dead letter: first the record is confirmed,
//! only then the message is terminated. Failures that are ours (no instance, actor stopping, a backend out of reach) never
//! count, however often they come.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lattice_core::timing::{IN_PROGRESS_INTERVAL, MAX_ANSWERED_FAILURES, RETRY_BACKOFF};
use provider_api::CallError;
use provider_api::messaging::{Delivery, Inbox, Message, Receipt};

use super::failures::{Failure, Failures};
use super::work::Work;
use super::{Source, Target};
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::metrics::Operation;
use crate::runtime::{InvokeError, ReplyRoute};
use crate::supervision::rested;

/// Messages that are handled and wait for the server's confirmation; more wait to be pulled.
const MAX_SETTLING: usize = 256;
/// Longest pause before a message comes again that failed through no fault of its own.
const MAX_RETRY: Duration = Duration::from_secs(10);

/// Hands messages to `target` until the source is stopped, then finishes what runs and gives back the rest.
pub(crate) async fn run(mut source: Source, target: Target, dead_letters: DeadLetters) {
    let mut failures = Failures::default();
    while let Some(inbox) = source.open().await {
        let inlet = Inlet {
            inbox,
            source: &source,
            target: &target,
            dead_letters: &dead_letters,
            failures: &mut failures,
            working: Work::default(),
            settling: FuturesUnordered::new(),
        };
        inlet.run().await;
        if !source.stop.is_cancelled() {
            source.status.fails("the durable consumer is gone".to_owned());
            source.pause().await;
        }
    }
}

/// A message that is here and not settled.
struct Held {
    message: Message,
    receipt: Box<dyn Receipt>,
}

/// A message that the actor has seen, or must not see.
struct Worked {
    held: Held,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
    /// Done.
    Done,
    /// It shall come again: the failure is the actor's answer.
    Failed(Failure),
    /// It shall come again: the failure is ours.
    NotTried(String),
    /// It is not for actors.
    Refused,
}

/// How the settling of a message went, for the count of its failures.
enum Settled {
    Gone(u64),
    Again(u64, Option<Failure>),
}

struct Inlet<'a> {
    inbox: Box<dyn Inbox>,
    source: &'a Source,
    target: &'a Target,
    dead_letters: &'a DeadLetters,
    failures: &'a mut Failures,
    working: Work<Worked>,
    /// Waits for the server only, so that it needs no task.
    settling: FuturesUnordered<BoxFuture<'a, Settled>>,
}

impl Inlet<'_> {
    async fn run(mut self) {
        let (mut open, mut draining) = (true, false);
        while open || !self.working.is_empty() || !self.settling.is_empty() {
            let current = self.target.current();
            let rest = self.target.rests_until();
            let room = if rest.is_none() { current.instances.saturating_sub(self.working.len()) } else { 0 };
            let free = if self.settling.len() < MAX_SETTLING { current.actor.free().min(room) } else { 0 };
            tokio::select! {
                () = self.source.stop.cancelled(), if !draining => {
                    draining = true;
                    self.inbox.drain().await;
                    self.source.status.closed();
                }
                Some(worked) = self.working.next() => if let Some(worked) = worked {
                    self.settle(worked);
                },
                Some(settled) = self.settling.next() => self.note(settled),
                delivery = self.inbox.next(free), if open => match delivery {
                    Some(delivery) => self.take(delivery, draining),
                    None => open = false,
                },
                () = rested(rest), if rest.is_some() => {}
                // Other links of the actor took its instances: look again when one is free.
                () = current.actor.ready(), if open && !draining && free == 0 && room > 0 && self.settling.len() < MAX_SETTLING => {}
            }
        }
    }

    fn take(&mut self, delivery: Delivery, draining: bool) {
        let Delivery { message, receipt: Some(receipt) } = delivery else { return };
        let held = Held { message, receipt };
        let known = self.failures.of(held.receipt.sequence()).cloned();
        let verdict = match known {
            _ if draining => Some(Verdict::NotTried("the host is stopping".to_owned())),
            _ if !self.source.may_see(&held.message.subject) => Some(Verdict::Refused),
            Some(failure) if failure.count >= MAX_ANSWERED_FAILURES => Some(Verdict::Failed(failure)),
            Some(_) | None => None,
        };
        match verdict {
            Some(verdict) => self.settle(Worked { held, verdict }),
            None => {
                let target = self.target.clone();
                let earlier = self.failures.of(held.receipt.sequence()).map_or(0, |failure| failure.count);
                self.working.start(work(held, target, earlier), true, self.target.pace());
            }
        }
    }

    fn settle(&mut self, worked: Worked) {
        let Worked { held, verdict } = worked;
        let (letters, target, subscription) = (self.dead_letters.clone(), self.target.clone(), self.source.subscription.clone());
        let settling = async move {
            match verdict {
                Verdict::Failed(failure) if failure.count >= MAX_ANSWERED_FAILURES => {
                    let letter = DeadLetter::new(&target.id, &subscription, &held.message, &*held.receipt, &failure.reason);
                    bury(&held, failure, &letters, letter, &target).await
                }
                verdict @ (Verdict::Done | Verdict::Failed(_) | Verdict::NotTried(_) | Verdict::Refused) => {
                    settle(&held, verdict, &target).await
                }
            }
        };
        self.settling.push(Box::pin(settling));
    }

    fn note(&mut self, settled: Settled) {
        match settled {
            Settled::Gone(sequence) => self.failures.forget(sequence),
            Settled::Again(sequence, Some(failure)) => self.failures.remember(sequence, failure),
            Settled::Again(_, None) => {}
        }
    }
}

/// Lets the actor work on a message while the server is told that it is not lost.
async fn work(held: Held, target: Target, earlier: u32) -> Worked {
    let work = target.handle(Operation::HandleMessage, held.message.clone(), ReplyRoute::None, Some(held.receipt.sequence()));
    let verdict = match held_meanwhile(&*held.receipt, work).await {
        Ok(_) => Verdict::Done,
        Err(error) if is_answer(&error) => Verdict::Failed(Failure { count: earlier.saturating_add(1), reason: error.to_string() }),
        Err(error) => Verdict::NotTried(error.to_string()),
    };
    Worked { held, verdict }
}

/// Whether the actor had its say. What else goes wrong would go wrong with any message.
fn is_answer(error: &InvokeError) -> bool {
    match error {
        InvokeError::Trap(_)
        | InvokeError::CpuLimit(_)
        | InvokeError::Deadline(_)
        | InvokeError::OutOfMemory(_)
        | InvokeError::Guest(_) => true,
        InvokeError::Outage(_)
        | InvokeError::Instantiate(_)
        | InvokeError::NoHandler(_)
        | InvokeError::Closed
        | InvokeError::NotStored(_)
        | InvokeError::Denied { .. } => false,
    }
}

/// Does `work`; each second the server hears that the message is held.
async fn held_meanwhile<T>(receipt: &dyn Receipt, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + IN_PROGRESS_INTERVAL, IN_PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => if let Err(error) = receipt.in_progress().await {
                tracing::debug!(sequence = receipt.sequence(), %error, "server was not told that work goes on");
            },
        }
    }
}

async fn settle(held: &Held, verdict: Verdict, target: &Target) -> Settled {
    let (receipt, subject) = (&held.receipt, &held.message.subject);
    let sequence = receipt.sequence();
    let (settled, sent) = match verdict {
        Verdict::Done => (Settled::Gone(sequence), receipt.ack().await),
        Verdict::Refused => (Settled::Gone(sequence), receipt.terminate("subject belongs to the control plane").await),
        Verdict::Failed(failure) => {
            tracing::debug!(actor = %target.id, subject, sequence, failures = failure.count, reason = failure.reason, "message failed, it comes again");
            let pause = RETRY_BACKOFF.saturating_mul(doublings(u64::from(failure.count)));
            (Settled::Again(sequence, Some(failure)), receipt.retry_after(pause).await)
        }
        Verdict::NotTried(reason) => {
            tracing::debug!(actor = %target.id, subject, sequence, reason, "message was not tried, it comes again");
            let pause = RETRY_BACKOFF.saturating_mul(doublings(receipt.delivered())).min(MAX_RETRY);
            (Settled::Again(sequence, None), receipt.retry_after(pause).await)
        }
    };
    log_unsettled(sequence, sent);
    settled
}

/// Records a dead letter and only then terminates the message. A record that is not confirmed is tried again later.
async fn bury(held: &Held, failure: Failure, letters: &DeadLetters, letter: DeadLetter, target: &Target) -> Settled {
    let receipt = &*held.receipt;
    let sequence = receipt.sequence();
    if let Err(error) = held_meanwhile(receipt, letters.publish(&letter)).await {
        tracing::warn!(actor = %target.id, sequence, %error, "dead letter is not recorded yet, the message is kept");
        let pause = RETRY_BACKOFF.saturating_mul(doublings(receipt.delivered())).min(MAX_RETRY);
        log_unsettled(sequence, receipt.retry_after(pause).await);
        return Settled::Again(sequence, Some(failure));
    }
    tracing::warn!(actor = %target.id, subject = held.message.subject, sequence, failures = failure.count, reason = failure.reason, "message became a dead letter");
    target.metrics.dead_letters.inc();
    match receipt.terminate(&failure.reason).await {
        Ok(()) => Settled::Gone(sequence),
        // It comes again and becomes a dead letter again: twice recorded is better than never.
        Err(error) => {
            log_unsettled(sequence, Err(error));
            Settled::Again(sequence, Some(failure))
        }
    }
}

/// An answer that did not reach the server: the message comes again after the server's patience.
fn log_unsettled(sequence: u64, sent: Result<(), CallError>) {
    if let Err(error) = sent {
        tracing::debug!(sequence, %error, "server did not confirm the answer, the message comes again");
    }
}

/// 2^(n-1), n from 1.
fn doublings(n: u64) -> u32 {
    let shift = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX);
    1_u32.checked_shl(shift).unwrap_or(u32::MAX)
}
