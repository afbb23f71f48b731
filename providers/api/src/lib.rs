//! What a capability backend is: one trait per kind, and the errors that an actor may see.
//!
//! A backend crate implements one of the traits and knows nothing of components, links or the control plane. The host's
//! glue (`lattice-host/src/capability/`) checks the link *before* it calls a backend, applies the link's timeout and
//! retries, and turns [`CallError`] into the typed error of the WIT interface.
//!
//! **Invariant:** this crate depends on neither wasmtime nor NATS, and does no I/O.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod error;
pub mod http_client;
pub mod http_server;
pub mod keyvalue;
pub mod messaging;
pub mod store;

pub use error::{CallError, ProviderError};
