//! Failovers as they are kept: in the actor's own bucket, the newest [`MAX_KEPT`] of them.

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::failover::Failover;

use crate::bindings::wasi::keyvalue::store::{self as keyvalue, Bucket};

/// Failovers that are kept; older ones are deleted.
const MAX_KEPT: usize = 1_000;
/// Most that are deleted at once.
const MAX_DELETED: usize = 16;
/// Most that are shown.
const MAX_SHOWN: usize = 100;

/// Keeps a failover, or replaces what was kept of it.
pub(crate) fn keep(key: &str, failover: &Failover) -> Result<(), String> {
    let bucket = open()?;
    bucket.set(key, &wire::encode(failover)).map_err(|error| format!("failover {key}: {error:?}"))?;
    let keys = keys(&bucket)?;
    let surplus = keys.len().saturating_sub(MAX_KEPT).min(MAX_DELETED);
    for old in keys.iter().take(surplus) {
        bucket.delete(old).map_err(|error| format!("failover {old}: {error:?}"))?;
    }
    Ok(())
}

/// The newest failovers, newest first; one that cannot be read is left out.
pub(crate) fn newest() -> Result<Vec<Failover>, Problem> {
    let unreadable = |reason: String| Problem::new(ErrorCode::Failed, reason);
    let bucket = open().map_err(unreadable)?;
    let keys = keys(&bucket).map_err(unreadable)?;
    let read = |key: &String| wire::decode(&bucket.get(key).ok()??).ok();
    Ok(keys.iter().rev().take(MAX_SHOWN).filter_map(read).collect())
}

/// All keys, oldest first: they begin with the time.
fn keys(bucket: &Bucket) -> Result<Vec<String>, String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor).map_err(|error| format!("failovers: {error:?}"))?;
        cursor = page.cursor;
        keys.extend(page.keys);
        if cursor.is_none() || keys.len() > MAX_KEPT * 2 {
            break;
        }
    }
    keys.sort_by_key(|key| key.split('-').next().and_then(|at_ms| at_ms.parse::<u64>().ok()));
    Ok(keys)
}

fn open() -> Result<Bucket, String> {
    keyvalue::open(subject::FAILOVER_BUCKET).map_err(|error| format!("bucket {}: {error:?}", subject::FAILOVER_BUCKET))
}
