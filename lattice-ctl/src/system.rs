//! Lattice's own actors, as the command line asks them: any replica answers.

use std::time::Duration;

use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::system::SystemActor;
use lattice_core::wire::json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bus::{self, Answer};
use crate::connection::Session;
use crate::problems;

/// How long a replica may take to answer a question that needs no commit: it may be at work for others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Nobody listens.
    Nobody(SystemActor),
    /// Somebody may listen, but nobody answered in time.
    Late(SystemActor, Duration),
    /// The actor says why it cannot answer.
    Refused(Problem),
}

impl From<Unanswered> for Problem {
    fn from(why: Unanswered) -> Self {
        match why {
            Unanswered::Nobody(actor) => missing(actor, &format!("no {} answers", noun(actor))),
            Unanswered::Late(actor, patience) => missing(actor, &format!("no {} answers within {} s", noun(actor), patience.as_secs_f32())),
            Unanswered::Refused(problem) => problem,
        }
    }
}

/// What the actor is called in a sentence.
pub(crate) fn noun(actor: SystemActor) -> &'static str {
    match actor {
        SystemActor::Scheduler => "scheduler",
        SystemActor::Failover => "failover actor",
    }
}

/// No replica that could do it.
pub(crate) fn missing(actor: SystemActor, message: &str) -> Problem {
    Problem::new(ErrorCode::TimedOut, message).hint(match actor {
        SystemActor::Scheduler => "`lattice-ctl get actors --all` shows how it stands; --local-plan makes a change without it",
        SystemActor::Failover => "`lattice-ctl get actors --all` shows how it stands; `lattice-ctl up` starts one",
    })
}

/// Whether desired state holds the actor.
pub(crate) fn is_wanted(actor: SystemActor, desired: &Desired) -> bool {
    desired.components.values().any(|spec| spec.system == Some(actor))
}

/// Asks any replica of `actor` on `subject`.
///
/// # Errors
/// [`Unanswered`].
pub(crate) async fn ask<T: DeserializeOwned>(
    session: &Session,
    actor: SystemActor,
    subject: &str,
    body: Vec<u8>,
    patience: Duration,
) -> Result<T, Unanswered> {
    let answer = bus::ask(session.connection(), subject, &[], body.into(), patience).await.map_err(Unanswered::Refused)?;
    match answer {
        Answer::Message(message) => read(actor, &message.payload),
        Answer::Nobody => Err(Unanswered::Nobody(actor)),
        Answer::Late => Err(Unanswered::Late(actor, patience)),
    }
}

/// What stands in an answer that is none.
#[derive(Deserialize)]
struct Failure {
    error: Problem,
}

fn read<T: DeserializeOwned>(actor: SystemActor, payload: &[u8]) -> Result<T, Unanswered> {
    let foreign = |error: &(dyn std::error::Error + 'static)| {
        Unanswered::Refused(problems::failed(&format!("reading the answer of the {}", noun(actor)), error))
    };
    let value: Value = json::parse(payload, json::MAX_CONTROL_BYTES, json::MAX_DEPTH).map_err(|error| foreign(&error))?;
    if value.get("error").is_some() {
        let failure: Failure = serde_json::from_value(value).map_err(|error| foreign(&error))?;
        return Err(Unanswered::Refused(failure.error));
    }
    serde_json::from_value(value).map_err(|error| foreign(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::{Generation, Revision};
    use lattice_core::wire;
    use lattice_core::wire::schedule::PlanAnswer;
    use std::collections::BTreeMap;

    fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Unanswered> {
        super::read(SystemActor::Scheduler, payload)
    }

    #[test]
    fn answers_and_refusals() {
        let answer = PlanAnswer { desired_rev: Revision(7), generation: Generation(3), troubles: BTreeMap::new() };
        assert_eq!(read::<PlanAnswer>(&wire::encode(&answer)), Ok(answer.clone()));
        assert_eq!(read::<PlanAnswer>(&serde_json::to_vec(&answer).unwrap()), Ok(answer), "with a version or without");
        let problem = Problem::new(ErrorCode::Conflict, "lost too often").hint("again");
        let refused = serde_json::json!({ "error": problem });
        assert_eq!(read::<PlanAnswer>(&serde_json::to_vec(&refused).unwrap()), Err(Unanswered::Refused(problem)));
        for nonsense in ["", "[]", "{}", r#"{"error":1}"#] {
            let Err(Unanswered::Refused(problem)) = read::<PlanAnswer>(nonsense.as_bytes()) else { panic!("{nonsense}") };
            assert_eq!(problem.message, "reading the answer of the scheduler failed", "{nonsense}");
        }
    }

    #[test]
    fn silence_is_exit_5_and_says_what_to_do() {
        for (actor, hint) in [(SystemActor::Scheduler, "--local-plan"), (SystemActor::Failover, "lattice-ctl up")] {
            for why in [Unanswered::Nobody(actor), Unanswered::Late(actor, PATIENCE)] {
                let problem = Problem::from(why);
                assert!(problem.message.starts_with(&format!("no {} answers", noun(actor))), "{problem:?}");
                assert_eq!(problem.code.exit_code(), 5);
                assert!(problem.hint.is_some_and(|text| text.contains(hint)));
            }
        }
    }
}
