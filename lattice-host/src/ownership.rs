//! What this host owns: leases, claims, and the effects of those who own something.
//!
//! * [`claims`]: the shell around `lattice_core::ownership`, driven by the event loop.
//! * [`lease`]: the host's lease, renewed by a task and enforced by a plain thread.
//! * [`gate`]: whether a slot may still act; closed from any thread, at once.
//! * [`slot`]: a slot that runs: what it does during a message is collected and stored as one, before the message is
//!   acknowledged or answered.
//! * [`backends`]: what the links of such a slot lead to.
//!
//! **Invariants.** Actors without owners pass through none of this. Nothing of a message of a slot is visible before all of
//! it is stored; a slot whose gate is closed stores and sends nothing more.

pub(crate) mod backends;
pub(crate) mod claims;
pub(crate) mod gate;
pub(crate) mod lease;
pub(crate) mod slot;
