//! scheduler: heartbeats and stored state in, commits of the plan out.
//!
//! Only glue: every decision is in [`lattice_core::scheduler`], which says step by step what to read, commit and publish;
//! this crate does it through the host's interfaces. Messages arrive here, HTTP requests in [`http`]; both find the same
//! replica, since the host keeps one instance and hands it one message after the other.
//!
//! **Invariants.** What a step came to is told to the state machine before the next one; a failure of the host is never
//! taken for a success. After a trap there is a new instance, which knows nothing and reads everything.

mod answer;
mod http;

#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    use super::Glue;
    wit_bindgen::generate!({ path: "../../wit", world: "system", generate_all });
    export!(Glue);
}

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::lattice::actor::store::{self, Change, Error};
use bindings::wasi::keyvalue::store::{self as keyvalue, Bucket};
use bindings::wasi::logging::logging::{Level, log};
use bindings::wasmcloud::messaging::consumer;
use lattice_core::id::{ActorId, LatticeName, Revision};
use lattice_core::plan::KeyChange;
use lattice_core::scheduler::{MAX_HISTORY, Millis, Scheduler, Step};
use lattice_core::subject::{self, Heard, SchedulerVerb, Verb};
use lattice_core::system::{DESIRED, PLAN, POLICIES, VERDICTS};
use lattice_core::wire;
use lattice_core::wire::schedule::PastDecision;

/// Steps for one message; what is left waits for the next, which a host sends within a second.
const MAX_STEPS: usize = 64;
/// Actors whose reasons are kept of one plan: each costs two calls.
const MAX_RECORDED: usize = 200;
/// Name of the node, as the host gives it to every actor.
const NODE_VARIABLE: &str = "WASMCLOUD_NODE_ID";

struct Glue;

impl Guest for Glue {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        with_replica(|replica| replica.handle(&message))
    }
}

/// What lives as long as the instance.
struct Replica {
    scheduler: Scheduler,
    clock: Instant,
    /// When the last message came.
    heard: Millis,
}

fn with_replica<T>(work: impl FnOnce(&mut Replica) -> T) -> T {
    thread_local!(static REPLICA: RefCell<Option<Replica>> = const { RefCell::new(None) });
    REPLICA.with_borrow_mut(|replica| work(replica.get_or_insert_with(Replica::new)))
}

impl Replica {
    fn new() -> Self {
        let node = std::env::var(NODE_VARIABLE).unwrap_or_default();
        Self { scheduler: Scheduler::new(node, 0), clock: Instant::now(), heard: 0 }
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.clock.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn handle(&mut self, message: &BrokerMessage) -> Result<(), String> {
        let now = self.now();
        if now.saturating_sub(std::mem::replace(&mut self.heard, now)) > self.scheduler.fresh_for_ms() {
            // Its own host is heard more often than that: it was cut off, and so were the messages about changes.
            self.scheduler.handle_reconnected();
        }
        let unknown = || format!("nothing is known of messages on {}", message.subject);
        let (lattice, heard) = Heard::of_subject(&message.subject).ok_or_else(unknown)?;
        match heard {
            Heard::Heartbeat => self.scheduler.handle_heartbeat(&message.subject, &message.body, now),
            // Whoever asks for a plan knows of a change that may not have been heard here yet.
            Heard::DesiredChanged | Heard::Question(SchedulerVerb::Plan) => self.scheduler.handle_desired_changed(),
            Heard::VerdictChanged => self.scheduler.handle_verdict_changed(),
            Heard::PolicyChanged => self.scheduler.handle_policy_changed(),
            Heard::Question(_) => {}
        }
        self.work(&lattice);
        match (&message.reply_to, heard) {
            (Some(reply_to), Heard::Question(verb)) => publish(reply_to, self.answer(verb, &message.body)),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Carries out what is to be done now.
    fn work(&mut self, lattice: &LatticeName) {
        for _ in 0..MAX_STEPS {
            let Some(step) = self.scheduler.poll_step(self.now()) else { return };
            if let Err(reason) = self.carry_out(step, lattice) {
                warn(&reason);
                self.scheduler.handle_failure(self.now());
            }
        }
    }

    fn carry_out(&mut self, step: Step, lattice: &LatticeName) -> Result<(), String> {
        match step {
            Step::AskHosts => noted(publish(&subject::request_all(lattice, Verb::Report), Vec::new())),
            Step::Probe(probe) => noted(publish(&subject::probe(lattice), wire::encode(&probe))),
            Step::Look => {
                let last = |bucket| store::info(bucket).map(|info| Revision(info.last_revision)).map_err(|error| failed(bucket, error));
                let if_any = |bucket| match store::info(bucket) {
                    Ok(info) => Ok(Revision(info.last_revision)),
                    Err(Error::NoSuchBucket) => Ok(Revision(0)),
                    Err(error) => Err(failed(bucket, error)),
                };
                self.scheduler.handle_revisions(last(DESIRED)?, last(PLAN)?, if_any(VERDICTS)?, if_any(POLICIES)?);
            }
            Step::ReadVerdicts => self.read_verdicts()?,
            Step::ReadPolicies => self.read_policies()?,
            Step::Read => {
                let list = |bucket| store::list(bucket).map_err(|error| failed(bucket, error));
                let (plan, desired) = (list(PLAN)?, list(DESIRED)?);
                let planned = plan.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice(), Revision(entry.revision)));
                let wanted = desired.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice()));
                let now = self.now();
                let read = self.scheduler.handle_stored(planned, Revision(plan.revision), wanted, Revision(desired.revision), now);
                read.map_err(|error| error.to_string())?;
            }
            Step::Commit(keys) => self.commit(keys)?,
            Step::Record(decisions) => noted(record(decisions)),
        }
        Ok(())
    }

    fn read_verdicts(&mut self) -> Result<(), String> {
        let read = match store::list(VERDICTS) {
            Ok(listing) => {
                let entries = listing.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice()));
                self.scheduler.handle_verdicts(entries, Revision(listing.revision))
            }
            // A lattice in which nobody judges.
            Err(Error::NoSuchBucket) => self.scheduler.handle_verdicts([], Revision(0)),
            Err(error) => return Err(failed(VERDICTS, error)),
        };
        noted(read.map_err(|error| error.to_string()));
        Ok(())
    }

    fn read_policies(&mut self) -> Result<(), String> {
        let read = match store::list(POLICIES) {
            Ok(listing) => {
                let entries = listing.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice()));
                self.scheduler.handle_policies(entries, Revision(listing.revision))
            }
            // A lattice in which no policy was ever put.
            Err(Error::NoSuchBucket) => self.scheduler.handle_policies([], Revision(0)),
            Err(error) => return Err(failed(POLICIES, error)),
        };
        noted(read.map_err(|error| error.to_string()));
        Ok(())
    }

    fn commit(&mut self, keys: Vec<KeyChange>) -> Result<(), String> {
        let change = |key: KeyChange| Change { key: key.key, value: Some(key.value), expected: key.expected.map(|revision| revision.0) };
        let changes: Vec<Change> = keys.into_iter().map(change).collect();
        match store::commit(PLAN, &changes, None) {
            Ok(revision) => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                self.scheduler.handle_committed(Revision(revision), u64::try_from(wall).unwrap_or(u64::MAX));
            }
            Err(Error::Conflict(_)) => self.scheduler.handle_conflict(self.now()),
            Err(error) => return Err(failed(PLAN, error)),
        }
        Ok(())
    }
}

/// Puts each decision before the older ones about its actor.
fn record(decisions: BTreeMap<ActorId, PastDecision>) -> Result<(), String> {
    let bucket = open()?;
    for (actor, decision) in decisions.into_iter().take(MAX_RECORDED) {
        let mut history = vec![decision];
        history.extend(history_of(&bucket, &actor)?.into_iter().take(MAX_HISTORY.saturating_sub(1)));
        let value = serde_json::to_vec(&history).map_err(|error| error.to_string())?;
        bucket.set(actor.as_str(), &value).map_err(|error| format!("reasons of {actor}: {error:?}"))?;
    }
    Ok(())
}

/// What was decided about an actor, newest first; what cannot be read is as good as nothing.
fn history_of(bucket: &Bucket, actor: &ActorId) -> Result<Vec<PastDecision>, String> {
    let stored = bucket.get(actor.as_str()).map_err(|error| format!("reasons of {actor}: {error:?}"))?;
    Ok(stored.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default())
}

fn open() -> Result<Bucket, String> {
    keyvalue::open(subject::SCHEDULER_BUCKET).map_err(|error| format!("bucket {}: {error:?}", subject::SCHEDULER_BUCKET))
}

fn publish(subject: &str, body: Vec<u8>) -> Result<(), String> {
    let message = BrokerMessage { subject: subject.to_owned(), body, reply_to: None };
    consumer::publish(&message).map_err(|reason| format!("publish on {subject}: {reason}"))
}

fn failed(bucket: &str, error: Error) -> String {
    let reason = match &error {
        Error::NoSuchBucket => "no such bucket",
        Error::AccessDenied => "access denied",
        Error::Conflict(text) | Error::UnknownOutcome(text) | Error::TooLarge(text) | Error::Unavailable(text) | Error::Failed(text) => {
            text
        }
    };
    format!("{bucket}: {reason}")
}

/// Something that others do not depend on did not work.
fn noted(outcome: Result<(), String>) {
    if let Err(reason) = outcome {
        warn(&reason);
    }
}

fn warn(reason: &str) {
    log(Level::Warn, "scheduler", reason);
}
