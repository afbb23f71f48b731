//! The operator: edits of desired state as `lattice-ctl` makes them.

use lattice_core::desired::{Desired, Stamp};
use lattice_core::id::Digest;
use lattice_core::needs::{Needs, Spread};
use lattice_core::subject;
use lattice_core::wire::verdict::Verdicts;

use crate::env::{Env, HostIx};
use crate::host::Host;
use crate::scene;
use crate::server::Server;
use crate::store::Put;

/// Most instances of a shared actor.
const MAX_INSTANCES: u64 = 6;

/// What the operator did to a host, which the world has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing that concerns a host's process.
    Edited,
    /// The host is told to stop; it is started again later.
    Stopped(HostIx),
}

/// Reads desired state, edits it and stores the difference.
pub fn edit(server: &mut Server, env: &mut Env, edit: impl FnOnce(&mut Desired)) {
    if !server.up {
        return;
    }
    let bucket = subject::desired_bucket(&scene::lattice());
    let stream = subject::bucket_stream(&bucket);
    let before = read(server, env);
    let mut after = before.clone();
    edit(&mut after);
    let changes = before.diff(&after, &Stamp { by: "operator".into(), at_ms: env.now });
    let expected = server.streams.get(&stream).map(crate::store::Stream::last_sequence);
    let put = |change: lattice_core::desired::Change| Put {
        subject: subject::bucket_key(&bucket, &change.key),
        body: change.value.map(std::rc::Rc::from),
        ..Put::default()
    };
    let batch: Vec<Put> = changes.into_iter().map(put).collect();
    if !batch.is_empty() {
        server.store(None, &stream, &batch, expected, env).expect("nobody else edits");
    }
}

/// Desired state as it is stored.
pub fn read(server: &Server, env: &Env) -> Desired {
    let bucket = subject::desired_bucket(&scene::lattice());
    let prefix = subject::bucket_key(&bucket, "");
    let mut desired = Desired::default();
    for message in server.streams.get(&subject::bucket_stream(&bucket)).into_iter().flat_map(|stream| stream.all(env.now)) {
        let key = message.subject.strip_prefix(&prefix).unwrap_or_default();
        desired.insert(key, message.body.as_deref().unwrap_or_default()).expect("what is stored makes sense");
    }
    desired
}

/// One random edit.
pub fn act(server: &mut Server, hosts: &[Host], env: &mut Env) -> Done {
    let name = *env.dice.pick(&scene::SHARED);
    let host = &hosts[env.dice.index(hosts.len())];
    let max = env.dice.within(1, MAX_INSTANCES) as u32;
    let layout = env.dice.below(1000);
    let needs = Needs {
        spread: (layout < 300).then_some(Spread::Host),
        daemon: layout >= 900,
        priority: env.dice.below(3) as u8,
        ..Needs::default()
    };
    let what = env.dice.below(100);
    match what {
        0..40 => edit(server, env, |desired| scene::start_shared(desired, name, max, needs)),
        40..50 => edit(server, env, |desired| drop(desired.components.remove(&scene::actor(name)))),
        50..60 => {
            let others = |desired: &Desired| desired.nodes.values().filter(|node| node.draining).count();
            // Somebody must be left to take the work.
            edit(server, env, |desired| {
                if others(desired) == 0 {
                    desired.edit_node(&host.id, |node| node.draining = true);
                }
            });
        }
        60..75 => edit(server, env, |desired| hosts.iter().for_each(|host| desired.edit_node(&host.id, |node| node.draining = false))),
        75..80 => edit(server, env, |desired| desired.edit_node(&host.id, |node| node.cordoned = !node.cordoned)),
        80..88 => {
            let incarnation = host.incarnation();
            edit(server, env, |desired| desired.edit_node(&host.id, |node| node.failed_over = Some(incarnation)));
        }
        88..92 => {
            let incarnation = host.incarnation();
            edit(server, env, |desired| desired.edit_node(&host.id, |node| node.stop = Some(incarnation)));
            return Done::Stopped(host.ix);
        }
        _ => {
            // Restarted with other code: `update`.
            let digest = Digest::of(&env.now.to_le_bytes());
            edit(server, env, |desired| {
                if let Some(spec) = desired.components.get_mut(&scene::actor(name)) {
                    spec.digest = digest;
                }
            });
        }
    }
    Done::Edited
}

/// Takes back what keeps hosts from working.
pub fn make_up(server: &mut Server, hosts: &[Host], env: &mut Env) {
    edit(server, env, |desired| {
        for host in hosts {
            desired.edit_node(&host.id, |node| *node = lattice_core::desired::NodeSpec::default());
        }
    });
}

/// Gives actors in quarantine other code: they are moved no more before, also if policies forbid them where they are.
pub fn mend(server: &mut Server, env: &mut Env) {
    let bucket = subject::verdict_bucket(&scene::lattice());
    let prefix = subject::bucket_key(&bucket, "");
    let mut verdicts = Verdicts::default();
    for message in server.streams.get(&subject::bucket_stream(&bucket)).into_iter().flat_map(|stream| stream.all(env.now)) {
        let key = message.subject.strip_prefix(&prefix).unwrap_or_default();
        verdicts.insert(key, message.body.as_deref().unwrap_or_default()).expect("what is stored makes sense");
    }
    let digest = Digest::of(&env.now.to_le_bytes());
    edit(server, env, |desired| {
        for (actor, quarantine) in verdicts.quarantined {
            if let Some(spec) = desired.components.get_mut(&actor).filter(|spec| spec.digest == quarantine.digest) {
                spec.digest = digest.clone();
            }
        }
    });
}
