//! Components by digest, in an object store that hosts fetch code from.
//!
//! **Invariant.** What [`Lattice::get_artifact`] returns has the digest that was asked for, whoever wrote it.

use std::time::Duration;

use async_nats::jetstream::object_store::{self, GetErrorKind, InfoErrorKind, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use bytes::{Bytes, BytesMut};
use lattice_core::id::Digest;
use lattice_core::subject;
use tokio::io::AsyncReadExt as _;

use crate::api;
use crate::error::{ApiError, StoreError};
use crate::lattice::Lattice;

/// Disk for components, in bytes.
const MAX_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// Largest component that is taken, in bytes. Ours have some 300 KB, one with a JavaScript engine some 12 MB.
pub const MAX_ARTIFACT_BYTES: u64 = 128 * 1024 * 1024;
/// Patience with the next chunk; a component whose chunks are lost would otherwise be waited for without end.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

impl Lattice {
    /// Makes the store of components if there is none, with so many copies.
    pub(crate) async fn ensure_artifacts(&self, copies: usize) -> Result<(), StoreError> {
        let bucket = subject::artifacts_store(self.name());
        if self.find_store().await?.is_some() {
            return Ok(());
        }
        let config = object_store::Config {
            bucket: bucket.clone(),
            max_bytes: MAX_BYTES,
            storage: StorageType::File,
            num_replicas: copies,
            ..object_store::Config::default()
        };
        match self.connection().jetstream().create_object_store(config).await {
            Ok(_) => Ok(()),
            // Somebody was faster: that is as good.
            Err(_) if self.find_store().await?.is_some() => Ok(()),
            Err(error) => Err(failed("making the artifact store")(error.to_string())),
        }
    }

    /// Stores a component and returns its digest. One that is there is not sent again.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Missing`] without the store, [`StoreError::Nats`].
    pub async fn put_artifact(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > MAX_ARTIFACT_BYTES {
            return Err(StoreError::TooLarge { what: "the component".to_owned(), size, limit: MAX_ARTIFACT_BYTES });
        }
        let (digest, bytes) = digest_of(bytes).await?;
        let store = self.store().await?;
        let there = match store.info(digest.hex()).await {
            Ok(info) => !info.deleted && u64::try_from(info.size).ok() == Some(size),
            Err(error) if error.kind() == InfoErrorKind::NotFound => false,
            Err(error) => return Err(failed(format!("looking for artifact {digest}"))(error.to_string())),
        };
        if !there {
            let metadata = ObjectMetadata { name: digest.hex().to_owned(), ..ObjectMetadata::default() };
            store.put(metadata, &mut &bytes[..]).await.map_err(|error| failed(format!("storing artifact {digest}"))(error.to_string()))?;
        }
        Ok(digest)
    }

    /// Fetches a component of at most `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::TooLarge`] before anything is fetched; [`StoreError::Corrupt`] if the bytes
    /// have another digest.
    pub async fn get_artifact(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, StoreError> {
        let store = self.store().await?;
        let reading = || failed(format!("fetching artifact {digest}"));
        let mut object = store.get(digest.hex()).await.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => StoreError::Missing { what: "artifact", name: digest.to_string() },
            GetErrorKind::InvalidName
            | GetErrorKind::ConsumerCreate
            | GetErrorKind::BucketLink
            | GetErrorKind::TimedOut
            | GetErrorKind::Other => reading()(error.to_string()),
        })?;
        let size = u64::try_from(object.info().size).unwrap_or(u64::MAX);
        if size > max_bytes {
            return Err(StoreError::TooLarge { what: format!("artifact {digest}"), size, limit: max_bytes });
        }
        let corrupt = |reason: String| StoreError::Corrupt { what: format!("artifact {digest}"), reason };
        let mut bytes = BytesMut::with_capacity(object.info().size);
        loop {
            let read = tokio::time::timeout(CHUNK_TIMEOUT, object.read_buf(&mut bytes)).await;
            let read = read.map_err(|_elapsed| corrupt("a part of it is not there".to_owned()))?;
            if read.map_err(|error| corrupt(error.to_string()))? == 0 {
                break;
            }
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > size {
                return Err(corrupt(format!("it has more than the {size} bytes that it claims")));
            }
        }
        let (found, bytes) = digest_of(bytes.freeze()).await?;
        if found != *digest {
            return Err(corrupt(format!("its bytes have the digest {found}")));
        }
        Ok(bytes)
    }

    async fn store(&self) -> Result<ObjectStore, StoreError> {
        let missing = || StoreError::Missing { what: "artifact store", name: subject::artifacts_store(self.name()) };
        self.find_store().await?.ok_or_else(missing)
    }

    async fn find_store(&self) -> Result<Option<ObjectStore>, StoreError> {
        let bucket = subject::artifacts_store(self.name());
        let opening = "opening the artifact store";
        let stream = format!("OBJ_{bucket}");
        if api::stream_info(self.connection(), &stream).await.map_err(StoreError::nats(opening))?.is_none() {
            return Ok(None);
        }
        let store = self.connection().jetstream().get_object_store(&bucket).await;
        store.map(Some).map_err(|error| failed(opening)(error.to_string()))
    }
}

/// The digest, worked out away from the tasks that wait for the network.
async fn digest_of(bytes: Bytes) -> Result<(Digest, Bytes), StoreError> {
    let work = tokio::task::spawn_blocking(move || (Digest::of(&bytes), bytes));
    work.await.map_err(|error| failed("computing a digest")(error.to_string()))
}

fn failed(doing: impl Into<String>) -> impl FnOnce(String) -> StoreError {
    let doing = doing.into();
    move |reason| StoreError::Nats { doing, source: ApiError::Other(reason) }
}
