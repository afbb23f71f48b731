//! What actors can do, one file per WIT interface: each checks the call against the link, then asks the backend.
//!
//! **Invariants.** Denied by default: no link, no call. A denial is written to the audit log. A backend never sees a call
//! that its link does not cover, and an actor never waits longer than its link's timeout.

pub mod config;
pub mod http;
pub mod keyvalue;
pub mod logging;
pub mod messaging;
pub mod store;
