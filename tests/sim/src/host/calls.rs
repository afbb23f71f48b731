//! Requests of a host that are answered, or not in time, and what each answer is for.

use std::time::Duration;

use lattice_core::id::ActorId;
use lattice_core::ownership::SlotId;
use lattice_core::wire;
use lattice_core::wire::ownership::{EpochRecord, LeaseRecord};
use lattice_core::wire::verdict::Verdict;

use super::Host;
use crate::env::{Call, Env, Event, HostEvent, Reply, Request};

/// A host's patience with an answer, by its own clock.
const PATIENCE: Duration = Duration::from_secs(3);
/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    after: After,
    call: Call,
    attempt: u32,
    attempts: u32,
}

/// What an answer is for.
#[derive(Debug, Clone)]
pub(super) enum After {
    Assignment,
    Policies,
    LeaseRead,
    LeaseRenewed,
    OwnVerdict,
    SlotRead(SlotId),
    SlotClaimed(SlotId, u64),
    Slot(SlotId, u32),
    Replica(ActorId, u32),
}

impl Host {
    /// Sends a request; `attempts` times the same if nothing is heard.
    pub(super) fn call(&mut self, after: After, call: Call, attempts: u32, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        process.next_call += 1;
        let number = process.next_call;
        process.calls.insert(number, Pending { after, call: call.clone(), attempt: 1, attempts });
        self.send_call(number, 1, call, env);
    }

    fn send_call(&mut self, number: u64, attempt: u32, call: Call, env: &mut Env) {
        let sent = env.send_up(self.ix, Request::Call(number, call));
        let event = if sent { HostEvent::Unheard(number, attempt) } else { HostEvent::Reply(number, Reply::Unsent) };
        let when = if sent { self.clock.when(self.clock.now(env.now).saturating_add(PATIENCE)) } else { env.now + 1 };
        env.at(when, Event::Host(self.ix, self.boot, event));
    }

    pub(super) fn handle_unheard(&mut self, number: u64, attempt: u32, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        let Some(pending) = process.calls.get_mut(&number).filter(|pending| pending.attempt == attempt) else { return };
        if pending.attempt >= pending.attempts {
            return self.handle_reply(number, Reply::Unheard, env);
        }
        pending.attempt += 1;
        if let Call::Store { again, .. } = &mut pending.call {
            *again = true;
        }
        let (attempt, call) = (pending.attempt, pending.call.clone());
        self.send_call(number, attempt, call, env);
    }

    pub(super) fn handle_reply(&mut self, number: u64, reply: Reply, env: &mut Env) {
        let now = self.clock.now(env.now);
        let Some(process) = &mut self.process else { return };
        let Some(Pending { after, .. }) = process.calls.remove(&number) else { return };
        match after {
            After::Assignment => self.handle_assignment_read(reply, env),
            After::Policies => self.handle_policies_read(reply, env),
            After::LeaseRead => match reply {
                Reply::Found(found) => {
                    let record = found.and_then(|(body, sequence)| Some((wire::decode::<LeaseRecord>(&body).ok()?, sequence)));
                    process.lease.handle_read(record.as_ref().map(|(record, sequence)| (record, *sequence)), now);
                }
                _ => process.lease.handle_failed(now),
            },
            After::LeaseRenewed => match reply {
                Reply::Stored(sequence) => process.lease.handle_renewed(sequence),
                Reply::Refused(_) => {
                    process.lease.handle_refused();
                    self.watch_lease(env);
                }
                _ => process.lease.handle_failed(now),
            },
            After::OwnVerdict => self.handle_own_verdict(reply),
            After::SlotRead(slot) => match reply {
                Reply::Found(found) => {
                    let record = found.and_then(|(body, sequence)| Some((wire::decode::<EpochRecord>(&body).ok()?, sequence)));
                    process.owner.handle_read(&slot, record.as_ref().map(|(record, sequence)| (record, *sequence)));
                }
                _ => process.owner.handle_failed(&slot, now),
            },
            After::SlotClaimed(slot, expected) => match reply {
                Reply::Stored(sequence) => process.owner.handle_claimed(&slot, expected, sequence),
                Reply::Refused(_) => {
                    env.watch.seen.refused_claims += 1;
                    process.owner.handle_refused(&slot, expected);
                }
                _ => process.owner.handle_failed(&slot, now),
            },
            After::Slot(slot, turn) => self.handle_slot_reply(&slot, turn, reply, env),
            After::Replica(actor, start) => self.handle_replica_reply(&actor, start, reply, env),
        }
    }

    /// What others were told of this start while its lease had lapsed.
    fn handle_own_verdict(&mut self, reply: Reply) {
        let Some(process) = &mut self.process else { return };
        let Reply::Found(found) = reply else {
            // Asked again with the next renewal.
            process.leased = false;
            return;
        };
        let verdict = found.and_then(|(body, _)| wire::decode::<Verdict>(&body).ok());
        let ended = verdict.is_some_and(|verdict| verdict.lease_ended && verdict.incarnation == process.incarnation);
        if process.leased {
            let void = process.lease.is_void() || ended;
            process.owner.handle_lease_held(void);
        }
    }
}
