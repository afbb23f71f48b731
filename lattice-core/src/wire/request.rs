//! Requests that only read, and calls to actors.
//!
//! `ping` and `inventory` have no body and are answered with a [`super::report::HostReport`]; `logs` takes [`LogQuery`] and
//! is answered with [`LogPage`]; `report` takes [`ReportQuery`], none for now, and is answered by a heartbeat. A [`Probe`] asks all hosts to measure
//! round trips, which they do by requests without a body that are answered with [`Echo`]. A call carries the payload as it is and its parameters in headers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::id::{ActorId, HostId, HostName, Region};

/// Header of a call: subject that the actor shall see; without it, the call's own.
pub const CALL_SUBJECT_HEADER: &str = "lattice-subject";
/// Header of a call's answer: `ok`, or `error` with a [`CallFailure`] as body.
pub const CALL_STATUS_HEADER: &str = "lattice-status";
/// Header of a call's answer: name of the host that worked on it.
pub const CALL_HOST_HEADER: &str = "lattice-host";
/// Value of [`CALL_STATUS_HEADER`] for success; the body is what the actor replied, empty if it did not.
pub const CALL_OK: &str = "ok";
/// Value of [`CALL_STATUS_HEADER`] for failure.
pub const CALL_ERROR: &str = "error";
/// Names of the one operation that can be called.
pub const CALL_OPERATIONS: [&str; 3] = ["HandleMessage", "handle-message", "wasmcloud:messaging/handler.handle-message"];

/// Most regions in one [`Probe`]; a host measures no more.
pub const MAX_PROBE_REGIONS: usize = 64;

/// Which regions every host shall measure its round trip to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The regions, at most [`MAX_PROBE_REGIONS`]; what is above is left out.
    pub regions: Vec<Region>,
}

/// Answer to a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The host that answers: whoever asked may have got an answer from itself.
    pub host: HostId,
}

/// Body of a failed call's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFailure {
    /// What went wrong.
    pub error: Problem,
}

/// Longest delay of a heartbeat that is asked for; a host sends one of its own accord before.
pub const MAX_REPORT_DELAY: Duration = Duration::from_secs(60);

/// When a heartbeat is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportQuery {
    /// In so many milliseconds, at most [`MAX_REPORT_DELAY`]; a host that is asked several times keeps the earliest.
    #[serde(default)]
    pub after_ms: u64,
}

impl ReportQuery {
    /// The delay of a request with this body; an empty or unreadable one asks for a heartbeat at once.
    pub fn delay(body: &[u8]) -> Duration {
        let query: Self = super::decode(body).unwrap_or_default();
        Duration::from_millis(query.after_ms).min(MAX_REPORT_DELAY)
    }
}

/// Which log lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// Only of this actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<ActorId>,
    /// Only lines after this number.
    #[serde(default)]
    pub after: u64,
    /// At most so many, the newest.
    #[serde(default)]
    pub limit: u32,
}

/// Log lines of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Host that kept them.
    pub host: HostName,
    /// Number to ask after next time.
    pub next: u64,
    /// Lines that were dropped because an actor wrote more than its quota.
    #[serde(default)]
    pub dropped: u64,
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
}

/// One line that an actor logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Number on that host, ascending.
    pub number: u64,
    /// Milliseconds since 1970 by the host's clock.
    pub at_ms: u64,
    /// Who logged it.
    pub actor: ActorId,
    /// `trace`, `debug`, `info`, `warn`, `error`, `critical`.
    pub level: String,
    /// Free text, control characters escaped.
    pub message: String,
}
