//! The NATS server: the core bus, streams, durable consumers, and the word about connections that end.

use std::collections::BTreeMap;
use std::rc::Rc;

use lattice_core::subject;

use crate::clock::Millis;
use crate::env::{Call, Env, HostEvent, HostIx, Inbox, Reply, Request, WorldEvent};
use crate::scene;
use crate::store::{Consumer, Put, Refusal, Stream};

/// Server's patience with an unacknowledged durable message.
pub const ACK_WAIT: Millis = lattice_core::timing::ACK_WAIT.as_millis() as Millis;
/// Messages by which a lagging replica is behind at most.
const MAX_BEHIND: u64 = 12;

/// The server.
#[derive(Debug, Default)]
pub struct Server {
    /// Whether it runs.
    pub up: bool,
    /// Streams by name.
    pub streams: BTreeMap<String, Stream>,
    /// Durable consumers by name.
    pub consumers: BTreeMap<String, Consumer>,
    /// Who waits for a message of a consumer: by consumer, in the order in which they asked.
    waiting: BTreeMap<String, Vec<(HostIx, u32)>>,
}

impl Server {
    /// A server with everything that `up` and the first links make.
    pub fn furnished() -> Self {
        let lattice = scene::lattice();
        let cut = |(from, to): (String, String)| (from.trim_end_matches('>').to_owned(), to.trim_end_matches('>').to_owned());
        let mut server = Self { up: true, ..Self::default() };
        let planned = (subject::bucket_key(&subject::plan_bucket(&lattice), "host."), format!("lat.{lattice}.planned."));
        let republished = [
            (subject::desired_bucket(&lattice), cut(subject::desired_republish(&lattice))),
            (subject::plan_bucket(&lattice), planned),
            (subject::verdict_bucket(&lattice), cut(subject::verdict_republish(&lattice))),
            (subject::policy_bucket(&lattice), cut(subject::policy_republish(&lattice))),
        ];
        for (bucket, republish) in republished {
            server.streams.insert(subject::bucket_stream(&bucket), Stream::on_disk(vec![republish]));
        }
        server.streams.insert(subject::lease_stream(&lattice), Stream::in_memory());
        server.streams.insert(subject::EDGE_STREAM.to_owned(), Stream::default());
        for (name, _, slots) in scene::OWNED {
            let republish = cut(subject::outbox_republish(&lattice, &scene::bucket(name)));
            server.streams.insert(scene::bucket_stream(name), Stream::on_disk(vec![republish]));
            for (slot, consumer) in scene::consumers(name, slots).into_iter().enumerate() {
                let filter = scene::input_subject(name, slot as u32);
                server.consumers.insert(consumer, Consumer::new(subject::EDGE_STREAM, &filter, 1));
            }
        }
        server
    }

    /// A request arrives.
    pub fn handle(&mut self, host: HostIx, conn: u32, request: Request, env: &mut Env) {
        let link = &env.links[host];
        if !self.up || link.conn != conn || !link.server_sees {
            return;
        }
        match request {
            Request::Publish(subject, body) => route(&subject, &body, env),
            Request::Call(number, call) => {
                let reply = self.answer(host, call, env);
                env.send_down(host, Rc::new(HostEvent::Reply(number, reply)));
            }
            Request::Pull(consumer) => {
                let waiting = self.waiting.entry(consumer.clone()).or_default();
                if !waiting.contains(&(host, conn)) {
                    waiting.push((host, conn));
                }
                self.deliver(&consumer, env);
            }
            Request::Acknowledge(consumer, sequence) => {
                if let Some(found) = self.consumers.get_mut(&consumer) {
                    found.acknowledge(sequence);
                }
                self.deliver(&consumer, env);
            }
            Request::GiveBack(consumer, sequence) => {
                if let Some(found) = self.consumers.get_mut(&consumer) {
                    found.give_back(sequence);
                }
                self.deliver(&consumer, env);
            }
        }
    }

    /// Messages of a consumer go to whoever waits for them.
    pub fn deliver(&mut self, name: &str, env: &mut Env) {
        if !self.up {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(name) else { return };
        waiting.retain(|(host, conn)| env.links[*host].conn == *conn && env.links[*host].server_sees);
        while !waiting.is_empty() {
            let Some(consumer) = self.consumers.get_mut(name) else { return };
            let Some(stream) = self.streams.get(&consumer.stream) else { return };
            let Some((sequence, _)) = consumer.take(stream, env.now, ACK_WAIT) else { break };
            let (host, _) = waiting.remove(0);
            let body = stream.at(sequence).and_then(|message| message.body.clone()).unwrap_or_else(|| Rc::from([].as_slice()));
            env.send_down(host, Rc::new(HostEvent::Deliver(name.to_owned(), sequence, body)));
            env.later(ACK_WAIT, WorldEvent::Redeliver(name.to_owned()));
        }
    }

    fn answer(&mut self, host: HostIx, call: Call, env: &mut Env) -> Reply {
        match call {
            Call::Store { stream, batch, again } => {
                // What a batch holds is on the bus before it is decided about: nobody may listen there.
                for put in &batch {
                    route(&Rc::from(put.subject.as_str()), &put.body.clone().unwrap_or_else(|| Rc::from([].as_slice())), env);
                }
                if batch.len() > 1 && env.dice.chance(env.chances.busy) {
                    return Reply::Refused(Refusal::Busy);
                }
                match self.store(Some(host), &stream, &batch, None, env) {
                    Ok(sequence) => Reply::Stored(sequence),
                    Err(refusal) => {
                        let won = again.then(|| self.streams.get(&stream)?.stored_as(batch.last()?.id.as_ref()?)).flatten();
                        won.map_or(Reply::Refused(refusal), Reply::Stored)
                    }
                }
            }
            Call::Get { stream, subject, leader } => {
                let Some(stream) = self.streams.get(&stream) else { return Reply::Refused(Refusal::NoStream) };
                let behind = if !leader && env.dice.chance(env.chances.stale) { env.dice.within(1, MAX_BEHIND) } else { 0 };
                let found = if behind > 0 { stream.get_stale(&subject, behind, env.now) } else { stream.get(&subject, env.now) };
                Reply::Found(found.and_then(|message| Some((message.body.clone()?, message.sequence))))
            }
            Call::GetMany(stream, subjects) => {
                let Some(stream) = self.streams.get(&stream) else { return Reply::Refused(Refusal::NoStream) };
                let found = subjects.iter().filter_map(|subject| stream.get(subject, env.now));
                let entries = found.filter_map(|m| Some((m.subject.clone(), m.body.clone()?, m.sequence)));
                Reply::Listed(entries.collect(), stream.last_sequence())
            }
            Call::List(stream) => {
                let Some(stream) = self.streams.get(&stream) else { return Reply::Refused(Refusal::NoStream) };
                let entries = stream.all(env.now).filter_map(|m| Some((m.subject.clone(), m.body.clone()?, m.sequence)));
                Reply::Listed(entries.collect(), stream.last_sequence())
            }
            Call::Info(streams) => {
                Reply::Last(streams.iter().map(|name| self.streams.get(name).map_or(0, Stream::last_sequence)).collect())
            }
            Call::Pending(consumer) => {
                Reply::Out(self.consumers.get(&consumer).map(|consumer| consumer.out.keys().copied().collect()).unwrap_or_default())
            }
        }
    }

    /// Stores a batch, lets the watchers see it, and publishes what is published again. `host`: who stores it, if a host does.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is stored then.
    pub fn store(
        &mut self,
        host: Option<HostIx>,
        name: &str,
        batch: &[Put],
        expected_last: Option<u64>,
        env: &mut Env,
    ) -> Result<u64, Refusal> {
        let stream = self.streams.get_mut(name).ok_or(Refusal::NoStream)?;
        let before = stream.last_sequence();
        let outcome = stream.store(batch, expected_last, env.now);
        env.note(format_args!("{} {name} {} {outcome:?}", Who(host), batch.first().map_or("", |put| put.subject.as_str())));
        let last = outcome?;
        if stream.last_sequence() == before {
            return Ok(last);
        }
        let writer = host.map(|host| (host, env.links[host].name.clone()));
        env.watch.handle_stored(writer.as_ref(), name, batch, last);
        let again: Vec<(Rc<str>, Rc<[u8]>)> = batch
            .iter()
            .filter_map(|put| {
                Some((Rc::from(stream.republished(&put.subject)?), put.body.clone().unwrap_or_else(|| Rc::from([].as_slice()))))
            })
            .collect();
        for (subject, body) in again {
            route(&subject, &body, env);
        }
        Ok(last)
    }

    /// A connection of a host ends; others hear why.
    pub fn close(&mut self, host: HostIx, reason: &str, env: &mut Env) {
        env.links[host].server_sees = false;
        let name = env.links[host].name.clone();
        self.announce(&name, reason, env);
    }

    /// The server says that a connection of that name has ended.
    pub fn announce(&self, name: &str, reason: &str, env: &mut Env) {
        if self.up {
            env.note(format_args!("server: {name} {reason}"));
            let notice = serde_json::json!({ "client": { "name": name }, "reason": reason });
            route(&Rc::from(subject::DISCONNECTS), &Rc::from(notice.to_string().as_bytes()), env);
        }
    }

    /// The server goes down: connections end, and what was only in memory is gone.
    pub fn stop(&mut self, env: &mut Env) {
        self.up = false;
        self.waiting.clear();
        for stream in self.streams.values_mut() {
            stream.handle_restart();
        }
        for link in &mut env.links {
            link.server_sees = false;
        }
    }
}

struct Who(Option<HostIx>);

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(host) => write!(f, "h{host}"),
            None => f.write_str("op"),
        }
    }
}

/// Sends a message of the core bus to everybody who listens.
fn route(subject: &Rc<str>, body: &Rc<[u8]>, env: &mut Env) {
    env.watch.handle_published(subject, body);
    let mut to: Vec<(HostIx, Inbox)> = Vec::new();
    for (host, link) in env.links.iter().enumerate().filter(|(_, link)| link.server_sees) {
        for (pattern, inbox) in &link.subscriptions {
            if pattern.matches(subject) {
                to.push((host, inbox.clone()));
            }
        }
    }
    for (host, inbox) in to {
        env.send_down(host, Rc::new(HostEvent::Message(inbox, subject.clone(), body.clone())));
    }
}
