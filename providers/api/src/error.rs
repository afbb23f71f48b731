//! Errors of backends: one for configuration and start, one for a call on behalf of an actor.

/// Why a provider could not be configured, started or bound to a link. Shown to the operator.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A setting that the backend needs is missing or makes no sense.
    #[error("setting `{name}`: {reason}")]
    Setting {
        /// Name of the setting as it stands in the link or in the provider's config.
        name: String,
        /// What is wrong with it, as a lower-case fragment.
        reason: String,
    },
    /// Something that must exist (bucket, stream, consumer) does not.
    #[error("{what} `{name}` does not exist")]
    Missing {
        /// The kind of thing: `bucket`, `stream`, `consumer`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Somebody else holds what the link asks for, a port for example.
    #[error("{what} is taken: {by}")]
    Taken {
        /// What was asked for.
        what: String,
        /// Who or what holds it.
        by: String,
    },
    /// The backend cannot be reached or answered with an error.
    #[error("{what}")]
    Backend {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ProviderError {
    /// A [`ProviderError::Backend`] from any error.
    pub fn backend(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Backend { what: what.into(), source: source.into() }
    }

    /// A [`ProviderError::Setting`].
    pub fn setting(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), reason: reason.into() }
    }
}

/// Why one call on behalf of an actor failed. The host turns it into the typed error of the WIT interface.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The key, bucket or subject is not acceptable to this backend (length, characters).
    #[error("{0}")]
    Invalid(String),
    /// The value or message is larger than the backend takes.
    #[error("{what} has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// `value`, `message`, `request body`.
        what: &'static str,
        /// Size that was offered, in bytes.
        size: u64,
        /// Largest size that is taken, in bytes.
        limit: u64,
    },
    /// Nobody listens on the subject of a request.
    #[error("no subscriber on `{0}`")]
    NoResponder(String),
    /// The backend did not answer in time; whether the call had an effect is not known.
    #[error("no answer within {0} ms")]
    TimedOut(u64),
    /// The backend cannot be reached now; trying again may help.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The backend refused or failed; trying again will not help.
    #[error("{0}")]
    Failed(String),
}

impl CallError {
    /// Whether the same call may be tried again without a second effect and with hope of success.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Invalid(_) | Self::TooLarge { .. } | Self::NoResponder(_) | Self::TimedOut(_) | Self::Failed(_) => false,
        }
    }
}
