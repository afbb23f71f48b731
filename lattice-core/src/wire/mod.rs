//! What crosses the bus and lies on disk: versioned JSON.
//!
//! **Invariants.** Each document carries `"v": 1`; another version is refused by name. Unknown fields are ignored, so that
//! a newer program may add some. Sizes and depth are limited before parsing.

pub mod assignment;
pub mod event;
pub mod failover;
pub mod json;
pub mod ownership;
pub mod report;
pub mod request;
pub mod schedule;
pub mod verdict;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of all documents of this crate.
pub const VERSION: u32 = 1;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not acceptable as JSON, or not of the expected shape.
    #[error(transparent)]
    Json(#[from] json::JsonError),
    /// Written by a program of another generation.
    #[error("document has version {found}, this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    v: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

/// The bytes of a document.
///
/// All documents of this crate are maps with string keys, which always encode; an impossible failure gives an empty
/// document, which no reader accepts.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(&Outgoing { v: VERSION, body }).unwrap_or_default()
}

/// Reads a document.
///
/// # Errors
/// [`DecodeError`] for too large, too deep, malformed or foreign-version documents.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let version: VersionOnly = json::parse(bytes, json::MAX_CONTROL_BYTES, json::MAX_DEPTH)?;
    if version.v != VERSION {
        return Err(DecodeError::Version { found: version.v });
    }
    Ok(json::parse(bytes, json::MAX_CONTROL_BYTES, json::MAX_DEPTH)?)
}
