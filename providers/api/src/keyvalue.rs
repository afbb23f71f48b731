//! Key-value backends, shaped after `wasi:keyvalue@0.2.0-draft`.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{CallError, ProviderError};

/// Longest key in bytes; every backend takes keys up to this length.
pub const MAX_KEY_BYTES: usize = 256;
/// How many keys one page of [`Bucket::list_keys`] holds at most.
pub const MAX_KEYS_PER_PAGE: usize = 256;

/// A key-value service that hands out buckets.
#[async_trait]
pub trait KeyValue: Send + Sync {
    /// Opens `bucket`, which must exist or be creatable for this backend. Called when a link is bound, not per message.
    ///
    /// # Errors
    /// [`ProviderError::Missing`] if the bucket does not exist and this backend does not make buckets.
    async fn open(&self, bucket: &str) -> Result<std::sync::Arc<dyn Bucket>, ProviderError>;
}

/// One bucket. Keys are UTF-8, 1 to [`MAX_KEY_BYTES`] bytes of `[A-Za-z0-9_=./-]`, no empty part between dots; others are
/// [`CallError::Invalid`] ([`check_key`] says why).
#[async_trait]
pub trait Bucket: Send + Sync {
    /// The value of `key`, `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError>;
    /// Sets `key` to `value`, whatever was there.
    async fn set(&self, key: &str, value: Bytes) -> Result<(), CallError>;
    /// Removes `key`; a key that does not exist is no error.
    async fn delete(&self, key: &str) -> Result<(), CallError>;
    /// Whether `key` has a value.
    async fn exists(&self, key: &str) -> Result<bool, CallError> {
        Ok(self.get(key).await?.is_some())
    }
    /// A page of keys in ascending order, starting after the `cursor` (number of keys already seen) of the last page.
    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyPage, CallError>;
    /// Adds `delta` to the decimal number stored under `key` (0 if there is none) atomically and returns the new value.
    ///
    /// # Errors
    /// [`CallError::Failed`] if the stored value is no decimal 64-bit number or the sum overflows.
    async fn increment(&self, key: &str, delta: u64) -> Result<u64, CallError>;
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// At most [`MAX_KEYS_PER_PAGE`] keys.
    pub keys: Vec<String>,
    /// Where the next page starts; `None` on the last page.
    pub cursor: Option<u64>,
}

/// Checks a key against the rule that all backends share.
///
/// # Errors
/// [`CallError::Invalid`] with the reason.
pub fn check_key(key: &str) -> Result<(), CallError> {
    let reason = if key.is_empty() {
        "is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "is longer than 256 bytes"
    } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'=' | b'.' | b'/' | b'-')) {
        "may only hold letters, digits and _ = . / - (escape others as =XX)"
    } else if key.split('.').any(str::is_empty) {
        "has an empty part between dots"
    } else if key.starts_with("_kv") {
        "starts with the reserved prefix _kv"
    } else {
        return Ok(());
    };
    Err(CallError::Invalid(format!("key `{}` {reason}", key.escape_debug())))
}

/// What a counter becomes: the decimal number in `stored` (0 if there is none) plus `delta`.
///
/// # Errors
/// [`CallError::Failed`] if `stored` holds anything but digits, or the sum does not fit into 64 bits.
pub fn add(key: &str, stored: Option<&Bytes>, delta: u64) -> Result<u64, CallError> {
    let number = match stored {
        None => Some(0),
        Some(value) if value.iter().all(u8::is_ascii_digit) => std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()),
        Some(_) => None,
    };
    let number = number.ok_or_else(|| CallError::Failed(format!("the value of key `{key}` is no decimal 64-bit number")))?;
    number.checked_add(delta).ok_or_else(|| CallError::Failed(format!("the counter `{key}` would overflow")))
}
