//! What every stream of ours must guarantee, and refusing one that does not.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, StorageType};

use crate::api;
use crate::connect::Connection;
use crate::error::{ApiError, StoreError};

/// Window in which the server remembers message ids: longer than all attempts of one commit together.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Copies of each stream in a cluster: with three, any one server may be lost.
const COPIES: usize = 3;
/// Largest message of a stream in bytes, headers included; the server's own limit, so that neither surprises.
const MAX_MESSAGE_BYTES: i32 = 1024 * 1024;

/// A bucket as a raw stream: stock clients read and write it, no header wipes it, batches are atomic.
pub(crate) fn bucket_config(bucket: &str, history: i64, max_bytes: i64) -> Config {
    Config {
        name: lattice_core::subject::bucket_stream(bucket),
        subjects: vec![lattice_core::subject::bucket_key(bucket, ">")],
        max_messages_per_subject: history,
        max_messages: -1,
        max_bytes,
        max_message_size: MAX_MESSAGE_BYTES,
        max_consumers: -1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: 1,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: false,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    }
}

/// The newest message of each subject, forgotten by itself when nobody renews it. On disk: a server that restarts knows
/// nothing any more of a stream that it had in memory, and those who write to it may not make it again.
pub(crate) fn register_config(name: &str, subject: String, max_subjects: i64, max_bytes: i64) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subject],
        max_messages: max_subjects,
        allow_message_ttl: true,
        // One value and no more: when the newest expires, an older one must not come back to life.
        ..bucket_config(name, 1, max_bytes)
    }
}

/// A log of messages: limits retention, the oldest go first.
pub(crate) fn log_config(name: &str, subjects: &[&str], max_age: Duration, max_bytes: i64) -> Config {
    Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes,
        max_age,
        max_message_size: MAX_MESSAGE_BYTES,
        max_consumers: -1,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: 1,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: false,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// Makes the stream, or checks the one that is there.
///
/// # Errors
/// [`StoreError::Weaker`] if a stream of that name exists on which less holds.
pub(crate) async fn ensure(connection: &Connection, wanted: &Config) -> Result<Info, StoreError> {
    let failed = || StoreError::nats(format!("making stream `{}`", wanted.name));
    if let Some(found) = api::stream_info(connection, &wanted.name).await.map_err(failed())? {
        return check(&found.config, wanted).map(|()| found);
    }
    match create(connection, wanted).await {
        Ok(info) => Ok(info),
        Err(ApiError::Refused { code: api::STREAM_NAME_IN_USE, .. }) => {
            // Somebody was faster; what they made counts.
            let found = api::stream_info(connection, &wanted.name).await.map_err(failed())?;
            let found = found.ok_or_else(|| StoreError::Missing { what: "stream", name: wanted.name.clone() })?;
            check(&found.config, wanted).map(|()| found)
        }
        Err(error) => Err(failed()(error)),
    }
}

/// With as many copies as the server's cluster is for. A cluster that has no room for them keeps one, as a single server does.
async fn create(connection: &Connection, wanted: &Config) -> Result<Info, ApiError> {
    let subject = format!("STREAM.CREATE.{}", wanted.name);
    let copies = copies(connection);
    if copies > wanted.num_replicas {
        match api::call(connection, &subject, &Config { num_replicas: copies, ..wanted.clone() }).await {
            Err(ApiError::Refused { code: api::NO_SUITABLE_PEERS | api::COPIES_NEED_A_CLUSTER, description }) => {
                tracing::warn!("stream {} is kept by one server, not by {copies}: {description}", wanted.name);
            }
            settled => return settled,
        }
    }
    api::call(connection, &subject, wanted).await
}

/// Copies that a new stream should have on the server of this connection.
pub(crate) fn copies(connection: &Connection) -> usize {
    let is_clustered = connection.client().server_info().cluster.is_some_and(|name| !name.is_empty());
    if is_clustered { COPIES } else { 1 }
}

/// Whether everything that `wanted` guarantees holds on `found`. Sizes may differ, promises may not.
pub(crate) fn check(found: &Config, wanted: &Config) -> Result<(), StoreError> {
    let faults = [
        (found.allow_rollup && !wanted.allow_rollup).then(|| "roll-up headers are allowed, anyone may wipe it".to_owned()),
        (!found.deny_purge && wanted.deny_purge).then(|| "purging is allowed".to_owned()),
        (!found.deny_delete && wanted.deny_delete).then(|| "deleting messages is allowed".to_owned()),
        (!found.allow_atomic_publish && wanted.allow_atomic_publish).then(|| "atomic batches are off".to_owned()),
        (!found.allow_direct && wanted.allow_direct).then(|| "direct reads are off".to_owned()),
        (found.storage == StorageType::Memory && wanted.storage == StorageType::File).then(|| "it is kept in memory".to_owned()),
        (!found.allow_message_ttl && wanted.allow_message_ttl).then(|| "messages cannot expire by themselves".to_owned()),
        (found.discard != wanted.discard)
            .then(|| format!("it discards {} messages when full", if wanted.discard == DiscardPolicy::New { "old" } else { "new" })),
        (!keeps(found.max_messages_per_subject, wanted.max_messages_per_subject)).then(|| {
            format!("it keeps {} messages for each key, {} are needed", found.max_messages_per_subject, wanted.max_messages_per_subject)
        }),
        (wanted.allow_message_ttl && found.max_messages_per_subject != wanted.max_messages_per_subject)
            .then(|| "it keeps values that are replaced".to_owned()),
        missing_subject(&found.subjects, &wanted.subjects).map(|subject| format!("it does not capture {subject}")),
        (!same_republish(found.republish.as_ref(), wanted.republish.as_ref()))
            .then(|| "it does not republish changes as needed".to_owned()),
    ];
    match faults.into_iter().flatten().next() {
        Some(setting) => Err(StoreError::Weaker { stream: found.name.clone(), setting }),
        None => Ok(()),
    }
}

/// Whether a limit of `found` keeps at least what `wanted` keeps; zero and below mean no limit.
fn keeps(found: i64, wanted: i64) -> bool {
    found <= 0 || (wanted > 0 && found >= wanted)
}

fn missing_subject<'a>(found: &[String], wanted: &'a [String]) -> Option<&'a String> {
    wanted.iter().find(|subject| !found.contains(subject))
}

fn same_republish(found: Option<&Republish>, wanted: Option<&Republish>) -> bool {
    wanted.is_none() || found == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weaker_settings_are_named() {
        let wanted = bucket_config("b", 4, 1024);
        let check = |change: fn(&mut Config), expected: &str| {
            let mut found = wanted.clone();
            change(&mut found);
            let text = check(&found, &wanted).map_or_else(|error| error.to_string(), |()| String::new());
            assert!(text.contains(expected) && text.is_empty() == expected.is_empty(), "{text:?} ~ {expected:?}");
        };
        check(|_| {}, "");
        check(|c| c.max_bytes = 1 << 40, "");
        check(|c| c.max_messages_per_subject = 64, "");
        check(|c| c.allow_rollup = true, "roll-up");
        check(|c| c.deny_purge = false, "purging");
        check(|c| c.allow_atomic_publish = false, "atomic");
        check(|c| c.max_messages_per_subject = 1, "it keeps 1 messages for each key, 4 are needed");
        check(|c| c.storage = StorageType::Memory, "memory");
        check(|c| c.subjects.clear(), "capture $KV.b.>");
    }
}
