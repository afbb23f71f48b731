//! Faults of servers and of their disks. No host is to blame for any of them: nobody may be taken for dead, but who is connected
//! to a server that stands still. Nobody hears that host before it has given up its connection, after three pings without an
//! answer, and work that nobody can see must not wait for so long.

use std::path::Path;
use std::time::Duration;

use lattice_core::subject;

use super::Fault;
use crate::arena::{Arena, FENCED_BUCKET};
use crate::dice::Dice;
use crate::logs::files;

/// How long a killed server stays down: until others are elected.
const DOWN: Duration = Duration::from_secs(8);
/// How long each of three servers is down that are killed in turn.
const BLINK: Duration = Duration::from_secs(2);
/// How long a leader is paused: long enough that another one is elected and the old one knows nothing of it.
const PAUSED: Duration = Duration::from_secs(15);
/// Between two power cuts.
const BETWEEN: Duration = Duration::from_secs(6);
/// How long the disk is full.
const FULL: Duration = Duration::from_secs(6);
/// Bytes that are changed in each file.
const FLIPS: usize = 16;

/// F6.
pub(super) fn leaders_killed(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    let leader = arena.leader_of(&subject::bucket_stream(FENCED_BUCKET));
    arena.servers.get(leader).bounce(DOWN);
    arena.until_in_step();
    for number in 0..arena.servers.count() {
        arena.servers.get(number).bounce(BLINK);
        arena.pass(BLINK);
    }
    arena.until_in_step();
    Ok(())
}

/// F7.
pub(super) fn leader_paused(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let leader = arena.leader_of(&subject::bucket_stream(FENCED_BUCKET));
    arena.blame_clients_of(leader);
    fault.expected.notes.push(format!("{} hosts on the paused server", arena.blamed().len()));
    arena.servers.get(leader).pause();
    arena.pass(PAUSED);
    arena.servers.get(leader).resume();
    let behind = arena.behind_for_long();
    fault.expected.check(behind.is_empty(), || format!("not up to date in time: {}", behind.join(", ")));
    Ok(())
}

/// F8.
pub(super) fn power_loss(arena: &mut Arena, _: &mut Fault) -> Result<(), String> {
    arena.power_loss()?;
    arena.pass(BETWEEN);
    arena.power_loss()
}

/// F9: whoever does not lead is stopped, damaged, started; then it may have to lead.
pub(super) fn files_damaged(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let leader = arena.leader_of(&subject::bucket_stream(FENCED_BUCKET));
    let victim = (leader + 1) % arena.servers.count();
    arena.servers.get(victim).kill();
    let store = arena.servers.get(victim).store.clone();
    let damaged = damage(&store, &mut fault.dice);
    fault.expected.check(damaged > 0, || "there was nothing to damage".to_owned());
    fault.expected.notes.push(format!("{damaged} files"));
    arena.servers.get(victim).run();
    // Whether a server can mend its own files is its affair; what was acknowledged must be there all the same.
    let behind = arena.behind_for_long();
    if !behind.is_empty() {
        fault.expected.notes.push(format!("{} copies were not mended: {}", behind.len(), behind.join(", ")));
    }
    let leader = arena.leader_of(&subject::bucket_stream(FENCED_BUCKET));
    arena.servers.get(leader).bounce(DOWN);
    let still = arena.behind_for_long();
    if !still.is_empty() {
        fault.expected.notes.push(format!("{} copies were not mended in the end: {}", still.len(), still.join(", ")));
    }
    Ok(())
}

/// Changes some bytes in the middle of every file with messages; how many files.
fn damage(folder: &Path, dice: &mut Dice) -> usize {
    let mut damaged = 0;
    for path in files(folder) {
        let is_messages = path.extension().is_some_and(|extension| extension == "blk");
        // The servers' own log of what they agreed on is not ours to judge.
        if !is_messages || path.components().any(|part| part.as_os_str() == "$SYS") {
            continue;
        }
        let Ok(mut bytes) = std::fs::read(&path) else { continue };
        if bytes.len() < FLIPS * 8 {
            continue;
        }
        for _ in 0..FLIPS {
            let position = dice.below(bytes.len());
            bytes[position] ^= 1 << dice.below(8);
        }
        damaged += usize::from(std::fs::write(&path, bytes).is_ok());
    }
    damaged
}

/// F11: a server that could not write takes nothing until it is started again.
pub(super) fn disk_full(arena: &mut Arena, fault: &mut Fault) -> Result<(), String> {
    let filler = arena.fill_disk();
    arena.pass(FULL);
    let before = acknowledged(arena);
    std::fs::remove_file(&filler).map_err(|error| error.to_string())?;
    arena.servers.get(0).bounce(Duration::from_millis(200));
    arena.pass(FULL);
    let after = acknowledged(arena);
    fault.expected.check(after > before, || "nothing is taken after the disk was freed".to_owned());
    Ok(())
}

fn acknowledged(arena: &Arena) -> usize {
    arena.load.acknowledged().values().map(std::collections::BTreeSet::len).sum()
}
