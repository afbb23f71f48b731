//! The catalogue of what can go wrong for a user: stable codes, exit codes, and the sentence each starts with.
//!
//! Crates have their own error enums; where one of them reaches a user it becomes a [`Problem`], which the command line
//! prints once and hosts send over the wire.

use serde::{Deserialize, Serialize};

/// Stable code of a problem; scripts match on it. See DESIGN section 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Anything without a code of its own.
    Failed,
    /// The command line or a value in it makes no sense.
    Usage,
    /// Somebody else changed it meanwhile.
    Conflict,
    /// The named thing does not exist.
    NotFound,
    /// Not allowed.
    Denied,
    /// Nobody answered in time.
    TimedOut,
    /// The actor's code is no component that can run here.
    InvalidComponent,
    /// The actor's signature is missing, wrong or expired.
    InvalidClaim,
    /// No link between an actor and what it wants to use or be called through.
    LinkNotFound,
    /// Code or provider could not be fetched.
    ImagePull,
    /// No NATS server answers at the address.
    NatsRefused,
    /// Nobody subscribes to the subject.
    NatsTimeout,
    /// A link, claim or policy does not cover the call.
    CapabilityDenied,
    /// No such host, or it does not answer.
    HostNotFound,
    /// No host can take the actor.
    InsufficientResources,
    /// A host was silent for longer than the threshold.
    HeartbeatTimeout,
    /// Nobody can take over.
    NoHealthyTarget,
}

impl ErrorCode {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Conflict => "conflict",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::TimedOut => "timed-out",
            Self::InvalidComponent => "invalid-component",
            Self::InvalidClaim => "invalid-claim",
            Self::LinkNotFound => "link-not-found",
            Self::ImagePull => "image-pull",
            Self::NatsRefused => "nats-refused",
            Self::NatsTimeout => "nats-timeout",
            Self::CapabilityDenied => "capability-denied",
            Self::HostNotFound => "host-not-found",
            Self::InsufficientResources => "insufficient-resources",
            Self::HeartbeatTimeout => "heartbeat-timeout",
            Self::NoHealthyTarget => "no-healthy-target",
        }
    }

    /// Exit code of the command line: 1 failed, 2 usage, 3 conflict, 4 not found, 5 unreachable or timed out, 6 denied,
    /// 7 cannot be placed.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::InvalidComponent => 1,
            Self::Usage => 2,
            Self::Conflict => 3,
            Self::NotFound | Self::LinkNotFound | Self::HostNotFound => 4,
            Self::TimedOut | Self::ImagePull | Self::NatsRefused | Self::NatsTimeout | Self::HeartbeatTimeout => 5,
            Self::Denied | Self::InvalidClaim | Self::CapabilityDenied => 6,
            Self::InsufficientResources | Self::NoHealthyTarget => 7,
        }
    }
}

/// Between message and hint where a problem is one line.
const HINT_MARK: &str = " -- ";

/// A problem as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub code: ErrorCode,
    /// One sentence fragment that names the thing; catalogue entries start with their fixed text.
    pub message: String,
    /// What to do about it: a command or a place to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Why, from the nearest cause to the root.
    #[serde(default)]
    pub causes: Vec<String>,
}

impl Problem {
    /// A problem without hint or causes.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, causes: Vec::new() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the chain of `error` and its sources as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.causes.extend(chain(error));
        self
    }

    /// Message and hint as one line, for reports that hold one text.
    pub fn line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}{HINT_MARK}{hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// A problem from what [`Problem::line`] gave.
    pub fn from_line(code: ErrorCode, line: &str) -> Self {
        match line.split_once(HINT_MARK) {
            Some((message, hint)) => Self::new(code, message).hint(hint),
            None => Self::new(code, line),
        }
    }

    /// `host not found: <name>`.
    pub fn host_not_found(name: &str) -> Self {
        Self::new(ErrorCode::HostNotFound, format!("host not found: {name}")).hint("lattice-ctl get hosts")
    }

    /// `link definition not found`, with the command that makes one.
    pub fn link_not_found(actor: &str, contract: &str) -> Self {
        Self::new(ErrorCode::LinkNotFound, format!("link definition not found: {actor} has no link for {contract}"))
            .hint(format!("lattice-ctl link put {actor} <provider> {contract} default"))
    }

    /// `capability denied: <contract>`, with what was tried.
    pub fn capability_denied(contract: &str, what: &str) -> Self {
        Self::new(ErrorCode::CapabilityDenied, format!("capability denied: {contract}: {what}"))
    }

    /// `actor start failed: image pull`.
    pub fn actor_image(image: &str, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::ImagePull, format!("actor start failed: image pull: {image}: {why}"))
            .hint("check the path or registry address, the network and the digest")
    }

    /// `provider start failed: image pull`.
    pub fn provider_image(image: &str, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::ImagePull, format!("provider start failed: image pull: {image}: {why}"))
    }

    /// `NATS: connection refused`.
    pub fn nats_refused(address: &str) -> Self {
        Self::new(ErrorCode::NatsRefused, format!("NATS: connection refused: {address}"))
            .hint("is the server up (`lattice-ctl up`), is the address right (--nats-url, LATTICE_NATS_URL, a link's CLUSTER_URI)?")
    }

    /// `NATS: subscription timeout`.
    pub fn nats_timeout(subject: &str) -> Self {
        Self::new(ErrorCode::NatsTimeout, format!("NATS: subscription timeout: nobody answered on {subject}"))
            .hint("is anything subscribed there? `lattice-ctl get links`, `lattice-ctl get actors`")
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// The messages of an error and its sources, the nearest first, each one that repeats its source's text left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut messages = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if messages.last() != Some(&text) {
            messages.push(text);
        }
        next = error.source();
    }
    messages
}

/// The closest of `candidates` to `wrong`, for "did you mean": at most a third of the letters differ.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&wrong.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be changed, added, removed or swapped with their neighbour (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let substitute = at(&last, j) + usize::from(from != to);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            let swap = if swapped { at(&before, j - 1) + 1 } else { usize::MAX };
            row.push(substitute.min(at(&last, j + 1) + 1).min(at(&row, j) + 1).min(swap));
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_alike_everywhere() {
        for code in [ErrorCode::HostNotFound, ErrorCode::NatsRefused, ErrorCode::InvalidClaim, ErrorCode::TimedOut] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn one_line_and_back() {
        let hinted = Problem::new(ErrorCode::InvalidClaim, "no claim").hint("sign it: x --name y");
        for problem in [hinted, Problem::new(ErrorCode::Denied, "no -- hint".replace(" -- ", ", "))] {
            assert_eq!(Problem::from_line(problem.code, &problem.line()), problem);
        }
    }

    #[test]
    fn did_you_mean() {
        assert_eq!(nearest("NEDGE3", ["NEDGE01", "NEDGE03", "other"]), Some("NEDGE03"));
        assert_eq!(nearest("edge-procesor", ["edge-processor"]), Some("edge-processor"));
        assert_eq!(nearest("xyz", ["edge-processor"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("ehco", "echo"), 1);
    }
}
