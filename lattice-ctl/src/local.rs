//! A lattice on this machine: one nats-server and some hosts, looked after by one process.
//!
//! `up` starts the [`supervisor`], in the foreground or as a process of its own; `down` ends it. What runs is written in
//! [`state`] (`up.json` in the data folder), and whoever looks after it holds the lock beside it.

pub(crate) mod context;
pub(crate) mod folder;
pub(crate) mod hosts;
pub(crate) mod notary;
pub(crate) mod process;
mod restart;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod supervisor;
pub(crate) mod system;
pub(crate) mod trusted;
