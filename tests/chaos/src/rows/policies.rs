//! Faults of policy: it is put, replayed and damaged while hosts die and are cut off.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use e2e::{http, program, until};
use lattice_core::id::{ConfigName, HostName};
use lattice_core::subject;
use lattice_core::wire::event::EventKind;
use serde_json::json;

use super::Fault;
use crate::arena::{Arena, BYSTANDER};

/// The policy.
const POLICY: &str = "edge-default";
/// The actor that policy denies its only entrance; nothing else in the arena uses that contract.
const ACTOR: &str = "web";
/// How long it is looked at to see that it does not answer.
const WATCHED: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// F19: a denial is in force on every host that can hear of it, whatever happens meanwhile, and on the others as soon as they
/// can; what is replayed or damaged changes nothing.
pub(super) fn race(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let port = start(arena);
    put(arena, 1, false);
    everybody(arena, 1, &[]);
    until("it answers", &mut || answers(port).then_some(()));

    // While its host dies and the plan moves it.
    let victim = owner(arena);
    arena.kill(victim);
    put(arena, 2, true);
    let dead = arena.workers[victim].name.clone();
    everybody(arena, 2, std::slice::from_ref(&dead));
    silent(fault, port, "after its host was killed");
    // The one that comes back has the old policy on its disk.
    arena.restart(victim);
    silent(fault, port, "while the killed host came back");
    everybody(arena, 2, &[]);
    let old = document(arena);

    // While one is cut off.
    let cut = (victim + 1) % arena.workers.len();
    arena.blame(cut);
    arena.link(cut).cut();
    put(arena, 3, false);
    let away = arena.workers[cut].name.clone();
    everybody(arena, 3, std::slice::from_ref(&away));
    arena.link(cut).heal();
    everybody(arena, 3, &[]);
    until("it answers again", &mut || answers(port).then_some(()));

    // Somebody who may write there brings back what was, and writes what is none.
    for (what, bytes) in [("an old document", old), ("nonsense", b"{\"v\":1".to_vec())] {
        let refused = refusals(arena);
        write(arena, bytes);
        until(&format!("{what} is refused"), &mut || (refusals(arena) > refused).then_some(()));
        fault.expected.check(answers(port), || format!("{what} has changed what is in force"));
        everybody(arena, 3, &[]);
    }
    put(arena, 4, true);
    everybody(arena, 4, &[]);
    silent(fault, port, "under the last policy");
    Ok(())
}

/// Starts the actor; its port.
fn start(arena: &Arena) -> u16 {
    let port = http::free_port();
    arena.ctl("start provider builtin://http-server http").ok();
    arena.ctl(&format!("start actor {} {ACTOR} --max 1 --require role=worker", program("http_hello").display())).ok();
    arena.ctl(&format!("link put {ACTOR} http wasmcloud:httpserver default --port {port}")).ok();
    port
}

/// Puts the next version, which denies the entrance or does not. Hosts of the control plane trust nobody here, so that
/// nobody waits for them.
fn put(arena: &Arena, version: u64, denies: bool) {
    let denied: &[&str] = if denies { &["wasmcloud:httpserver"] } else { &[] };
    let policy = json!({"policy_id": POLICY, "version": version, "allowed_contracts": ["*"], "denied_contracts": denied});
    std::fs::write(arena.folder().join("policy.json"), policy.to_string()).expect("a policy");
    arena.ctl("policy put policy.json --issuer keys/account.nk --no-wait").ok();
}

/// Waits until every worker and the bystander say that they enforce `version`, but for those who cannot.
fn everybody(arena: &Arena, version: u64, but: &[HostName]) {
    let bystander = HostName::new(BYSTANDER).expect("a name");
    let hosts: Vec<HostName> = arena.workers.iter().map(|worker| worker.name.clone()).chain([bystander]).collect();
    for host in hosts.iter().filter(|host| !but.contains(host)) {
        until(&format!("{host} enforces version {version}"), &mut || (enforced(arena, host) == Some(version)).then_some(()));
    }
}

/// The version that a host says it enforces.
fn enforced(arena: &Arena, host: &HostName) -> Option<u64> {
    let policy = ConfigName::new(POLICY).expect("a name");
    arena.observer.look(|heard| {
        let report = heard.hosts.values().find(|report| report.name == *host)?;
        report.policy.as_ref()?.policies.get(&policy).copied()
    })
}

/// The worker that runs the actor.
fn owner(arena: &Arena) -> usize {
    let runs = |name: &HostName| {
        arena.observer.look(|heard| {
            let report = heard.hosts.values().find(|report| report.name == *name);
            report.is_some_and(|report| report.components.keys().any(|id| id.as_str() == ACTOR))
        })
    };
    until("somebody runs it", &mut || arena.workers.iter().position(|worker| runs(&worker.name)))
}

fn answers(port: u16) -> bool {
    http::request(port, "GET", "/", b"").is_ok_and(|answer| answer.status == 200)
}

/// It must not answer, for a while.
fn silent(fault: &mut Fault, port: u16, when: &str) {
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        fault.expected.check(!answers(port), || format!("a denied actor answers {when}"));
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn refusals(arena: &Arena) -> usize {
    arena.observer.look(|heard| heard.events_of(EventKind::PolicyRefused).count())
}

/// Where the policy is kept.
fn key(arena: &Arena) -> String {
    let policy = ConfigName::new(POLICY).expect("a name");
    subject::bucket_key(&subject::policy_bucket(arena.lattice()), &subject::policy_key(&policy))
}

/// The newest document, as it is stored.
fn document(arena: &Arena) -> Vec<u8> {
    let read = async {
        let context = jetstream::new(arena.client().clone());
        let stream = context.get_stream(subject::bucket_stream(&subject::policy_bucket(arena.lattice()))).await.ok()?;
        Some(stream.get_last_raw_message_by_subject(&key(arena)).await.ok()?.payload.to_vec())
    };
    arena.runtime.block_on(read).expect("the policy is stored")
}

fn write(arena: &Arena, bytes: Vec<u8>) {
    let written = async { jetstream::new(arena.client().clone()).publish(key(arena), bytes.into()).await.ok()?.await.ok() };
    arena.runtime.block_on(written).expect("stored");
}
