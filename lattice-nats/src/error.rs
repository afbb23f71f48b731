//! What can go wrong with the store and with requests, and what users are told.

use std::time::Duration;

use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::Revision;

use crate::api;

/// Why the server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// JetStream refused.
    #[error("{description} (JetStream error {code})")]
    Refused {
        /// Number in nats-server's list of errors.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// No answer in time; whether it was done is not known.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Nothing answers on that subject: the stream does not exist or JetStream is off.
    #[error("no such stream answers, or JetStream is off")]
    NoResponders,
    /// This client may not do that.
    #[error("these credentials do not allow it ({subject})")]
    Denied {
        /// Subject that the server refused.
        subject: String,
    },
    /// There is no connection at the moment.
    #[error("not connected")]
    Disconnected,
    /// The message is larger than the server takes.
    #[error("the message is larger than the server takes ({limit} bytes)")]
    TooLarge {
        /// The server's limit in bytes.
        limit: usize,
    },
    /// The answer makes no sense, or the client failed.
    #[error("{0}")]
    Other(String),
}

impl ApiError {
    /// Whether it may have been done all the same.
    pub(crate) fn is_ambiguous(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Disconnected | Self::Other(_) => true,
            Self::Refused { .. } | Self::NoResponders | Self::Denied { .. } | Self::TooLarge { .. } => false,
        }
    }

    /// Whether the server, or whoever of a cluster leads, is away for now: it has done nothing, and the same call may work
    /// later. A stream that elects a leader answers no more than one that does not exist.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Disconnected | Self::NoResponders => true,
            Self::Refused { code, .. } => *code == api::CLUSTER_NOT_AVAILABLE || *code == api::JETSTREAM_NOT_ENABLED,
            Self::TimedOut(_) | Self::Denied { .. } | Self::TooLarge { .. } | Self::Other(_) => false,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::TimedOut(_) => ErrorCode::TimedOut,
            Self::Disconnected => ErrorCode::NatsRefused,
            Self::NoResponders => ErrorCode::NotFound,
            Self::Denied { .. } => ErrorCode::Denied,
            Self::Refused { .. } | Self::TooLarge { .. } | Self::Other(_) => ErrorCode::Failed,
        }
    }
}

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A thing that must exist does not.
    #[error("{what} `{name}` does not exist")]
    Missing {
        /// `bucket`, `stream`, `consumer`, `artifact`, `artifact store`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A stream of that name exists, but what we promise does not hold on it.
    #[error("stream `{stream}` exists with weaker settings: {setting}")]
    Weaker {
        /// The stream.
        stream: String,
        /// The setting, what it is and what it must be.
        setting: String,
    },
    /// Somebody else's.
    #[error("stream `{stream}` belongs to {owner}")]
    Owned {
        /// The stream.
        stream: String,
        /// The owner, as a phrase: `lattice other`.
        owner: String,
    },
    /// A consumer of that name exists with another purpose.
    #[error("consumer `{consumer}` of stream `{stream}` exists for {found}, not for {wanted}")]
    OtherConsumer {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Subjects that it takes.
        found: String,
        /// Subjects that were asked for.
        wanted: String,
    },
    /// Above a limit.
    #[error("{what} has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// What is stored cannot be what was written.
    #[error("{what} is corrupted: {reason}")]
    Corrupt {
        /// What it is, with its name.
        what: String,
        /// How that shows.
        reason: String,
    },
    /// A key of a bucket breaks the rules for keys.
    #[error("key `{key}` {reason}")]
    Key {
        /// The key, escaped.
        key: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The server did not do it.
    #[error("{doing} failed")]
    Nats {
        /// What was tried, with the name of the thing.
        doing: String,
        /// Why not.
        #[source]
        source: ApiError,
    },
}

impl StoreError {
    pub(crate) fn nats(doing: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        let doing = doing.into();
        move |source| Self::Nats { doing, source }
    }

    /// Whether the server could not be reached or did not answer, so that trying again later may help.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Nats { source: ApiError::TimedOut(_) | ApiError::Disconnected, .. })
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = |code| Self::new(code, error.to_string());
        match &error {
            StoreError::Missing { what: "artifact", .. } => {
                problem(ErrorCode::NotFound).hint("push the component again: `lattice-ctl start actor file://…`")
            }
            StoreError::Missing { .. } => problem(ErrorCode::NotFound).hint("`lattice-ctl up` makes what a lattice needs"),
            StoreError::Weaker { .. } => problem(ErrorCode::Failed)
                .hint("somebody else made this stream: back it up, delete it and let lattice make it, or choose another name"),
            StoreError::Owned { .. } => {
                problem(ErrorCode::Conflict).hint("one lattice per account may own it: use another account, or that lattice")
            }
            StoreError::OtherConsumer { .. } => problem(ErrorCode::Conflict),
            StoreError::TooLarge { .. } | StoreError::Corrupt { .. } => problem(ErrorCode::Failed),
            StoreError::Key { .. } => problem(ErrorCode::Usage),
            StoreError::Nats { source, .. } => problem(source.code()).caused_by(source),
        }
    }
}

/// Why a change was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else changed it since it was read; nothing of this change was stored.
    #[error("somebody else changed it: revision {expected} was expected{}", .found.map(|found| format!(", {found} was found")).unwrap_or_default())]
    Conflict {
        /// Revision that the change was made from.
        expected: Revision,
        /// The newer revision, if the server said it.
        found: Option<Revision>,
    },
    /// More keys than one batch takes.
    #[error("a change of {size} keys, at most {limit} go into one batch")]
    TooMany {
        /// Keys in the change.
        size: usize,
        /// Keys that are allowed.
        limit: usize,
    },
    /// The server answered none of several attempts.
    #[error("whether the change was stored is not known after {attempts} attempts")]
    Unknown {
        /// How often it was tried.
        attempts: u32,
        /// What the last one ended with.
        #[source]
        source: ApiError,
    },
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::new(ErrorCode::Conflict, error.to_string()).hint("look at the new state, then try again"),
            CommitError::TooMany { .. } => Self::new(ErrorCode::Usage, error.to_string()).hint("make the change in several steps"),
            CommitError::Unknown { ref source, .. } => {
                Self::new(ErrorCode::TimedOut, error.to_string()).hint("`lattice-ctl get …` shows whether it was").caused_by(source)
            }
            CommitError::Store(error) => error.into(),
        }
    }
}

/// Why a question to hosts has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there: the host is gone or never was.
    #[error("nobody answers on {subject}")]
    Nobody {
        /// Where it was asked.
        subject: String,
    },
    /// Somebody listens but did not answer in time.
    #[error("no answer on {subject} within {} ms", .after.as_millis())]
    TimedOut {
        /// Where it was asked.
        subject: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The question could not be sent.
    #[error("asking on {subject}: {reason}")]
    Failed {
        /// Where it was asked.
        subject: String,
        /// Why not.
        reason: String,
    },
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match &error {
            AskError::Nobody { subject } | AskError::TimedOut { subject, .. } => {
                Self { message: format!("NATS: subscription timeout: {error}"), ..Self::nats_timeout(subject) }
            }
            AskError::Failed { .. } => Self::new(ErrorCode::Failed, error.to_string()),
        }
    }
}
