//! `wasi:keyvalue` store, atomics and batch over the buckets that links give.
//!
//! An actor opens a bucket by the name of a link or by the bucket's own name; it can reach no other. Each operation is
//! checked against policy and the link's permissions, also after the bucket was opened.

use std::sync::Arc;

use bytes::Bytes;
use lattice_core::contract::Contract;
use lattice_core::policy::rules::Point;
use provider_api::CallError;
use provider_api::keyvalue::Bucket;
use wasmtime::component::Resource;

use crate::runtime::bindings::host::wasi::keyvalue::store::{Error, KeyResponse};
use crate::runtime::bindings::host::wasi::keyvalue::{atomics, batch, store};
use crate::runtime::links::{Backend, Link, LinkCallError};
use crate::runtime::state::{Identity, State, Task};

/// Largest value in bytes; the server's default `max_payload`, so that every backend takes it.
const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Keys in one batch.
const MAX_BATCH: usize = 256;
/// Bytes of values that one batch may return together.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A bucket that an instance has opened.
pub struct OpenBucket {
    link: Arc<Link>,
    bucket: Arc<dyn Bucket>,
    identity: Arc<Identity>,
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl store::Host for State {
    async fn open(&mut self, identifier: String) -> Answer<Resource<OpenBucket>> {
        if let Err(error) = permitted(&self.identity, &mut self.task, Point::KeyValueStore) {
            return Ok(Err(error));
        }
        let Some(link) = self.around.links.bucket(&identifier) else {
            self.identity.log.denied(Contract::KeyValue.as_str(), &format!("no link gives bucket `{identifier}`"));
            return Ok(Err(Error::NoSuchStore));
        };
        let Backend::KeyValue(bucket) = &link.backend else {
            return Ok(Err(Error::NoSuchStore));
        };
        let open = OpenBucket { link: link.clone(), bucket: bucket.clone(), identity: self.identity.clone() };
        Ok(Ok(self.table.push(open)?))
    }
}

impl store::HostBucket for State {
    async fn get(&mut self, bucket: Resource<OpenBucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let open = self.table.get(&bucket)?;
        Ok(open.call(Point::KeyValueStore, &mut self.task, "get", || open.bucket.get(&key)).await.map(|value| value.map(Vec::from)))
    }

    async fn set(&mut self, bucket: Resource<OpenBucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let open = self.table.get(&bucket)?;
        Ok(match check_size(&value) {
            Ok(()) => {
                let value = Bytes::from(value);
                open.call(Point::KeyValueStore, &mut self.task, "set", || open.bucket.set(&key, value.clone())).await
            }
            Err(error) => Err(error),
        })
    }

    async fn delete(&mut self, bucket: Resource<OpenBucket>, key: String) -> Answer<()> {
        let open = self.table.get(&bucket)?;
        Ok(open.call(Point::KeyValueStore, &mut self.task, "delete", || open.bucket.delete(&key)).await)
    }

    async fn exists(&mut self, bucket: Resource<OpenBucket>, key: String) -> Answer<bool> {
        let open = self.table.get(&bucket)?;
        Ok(open.call(Point::KeyValueStore, &mut self.task, "exists", || open.bucket.exists(&key)).await)
    }

    async fn list_keys(&mut self, bucket: Resource<OpenBucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        let open = self.table.get(&bucket)?;
        let page = open.call(Point::KeyValueStore, &mut self.task, "list", || open.bucket.list_keys(cursor)).await;
        Ok(page.map(|page| KeyResponse { keys: page.keys, cursor: page.cursor }))
    }

    async fn drop(&mut self, bucket: Resource<OpenBucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<OpenBucket>, key: String, delta: u64) -> Answer<u64> {
        let open = self.table.get(&bucket)?;
        Ok(open.call(Point::KeyValueAtomics, &mut self.task, "increment", || open.bucket.increment(&key, delta)).await)
    }
}

impl batch::Host for State {
    async fn get_many(&mut self, bucket: Resource<OpenBucket>, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let open = self.table.get(&bucket)?;
        Ok(open.get_each(&mut self.task, keys).await)
    }

    async fn set_many(&mut self, bucket: Resource<OpenBucket>, values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let open = self.table.get(&bucket)?;
        Ok(open.set_each(&mut self.task, values).await)
    }

    async fn delete_many(&mut self, bucket: Resource<OpenBucket>, keys: Vec<String>) -> Answer<()> {
        let open = self.table.get(&bucket)?;
        Ok(open.delete_each(&mut self.task, keys).await)
    }
}

impl OpenBucket {
    /// One operation, if policy allows and the link covers it.
    async fn call<T, F>(&self, point: Point, task: &mut Task, operation: &'static str, call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        permitted(&self.identity, task, point)?;
        let link = &self.link;
        if !link.spec.settings.permits(operation) {
            self.identity.log.denied(Contract::KeyValue.as_str(), &format!("link `{}` does not permit `{operation}`", link.spec.name));
            return Err(Error::AccessDenied);
        }
        task.call(link, call).await.map_err(Error::from)
    }

    async fn get_each(&self, task: &mut Task, keys: Vec<String>) -> Result<Vec<Option<(String, Vec<u8>)>>, Error> {
        check_batch(keys.len())?;
        let mut values = Vec::with_capacity(keys.len());
        let mut total = 0_usize;
        for key in keys {
            let value = self.call(Point::KeyValueBatch, task, "get", || self.bucket.get(&key)).await?;
            total = total.saturating_add(value.as_ref().map_or(0, Bytes::len));
            if total > MAX_BATCH_BYTES {
                return Err(Error::Other(format!("the values of one batch have more than {MAX_BATCH_BYTES} bytes")));
            }
            values.push(value.map(|value| (key, Vec::from(value))));
        }
        Ok(values)
    }

    /// Not atomic, as the interface allows: what was set before a failure stays set.
    async fn set_each(&self, task: &mut Task, values: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        check_batch(values.len())?;
        values.iter().try_for_each(|(_, value)| check_size(value))?;
        for (key, value) in values {
            let value = Bytes::from(value);
            self.call(Point::KeyValueBatch, task, "set", || self.bucket.set(&key, value.clone())).await?;
        }
        Ok(())
    }

    async fn delete_each(&self, task: &mut Task, keys: Vec<String>) -> Result<(), Error> {
        check_batch(keys.len())?;
        for key in keys {
            self.call(Point::KeyValueBatch, task, "delete", || self.bucket.delete(&key)).await?;
        }
        Ok(())
    }
}

/// Whether policy lets the actor call here. That it does not is no fault of the message, which waits for another time.
fn permitted(identity: &Identity, task: &mut Task, point: Point) -> Result<(), Error> {
    identity.shield.check(point).map_err(|denied| {
        task.met_outage = true;
        identity.log.denied(point.contract().as_str(), &denied.to_string());
        Error::AccessDenied
    })
}

fn check_size(value: &[u8]) -> Result<(), Error> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::Other(format!("value has {} bytes, at most {MAX_VALUE_BYTES} are allowed", value.len())));
    }
    Ok(())
}

fn check_batch(length: usize) -> Result<(), Error> {
    if length > MAX_BATCH {
        return Err(Error::Other(format!("batch has {length} keys, at most {MAX_BATCH} are allowed")));
    }
    Ok(())
}

impl From<LinkCallError> for Error {
    fn from(error: LinkCallError) -> Self {
        Self::Other(error.to_string())
    }
}
