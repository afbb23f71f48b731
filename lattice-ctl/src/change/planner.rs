//! Who commits the plan: the scheduler, or this program if it is told to.
//!
//! **Invariant.** It is known before anything is written whether somebody will plan: without a scheduler that answers a
//! change is refused, not left half done.

use std::collections::BTreeMap;
use std::time::Duration;

use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, Revision};
use lattice_core::plan::PlanState;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire;
use lattice_core::wire::schedule::{PlanAnswer, PlanRequest, SchedulerStatus};
use tokio::time::Instant;

use super::ChangeArgs;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;
use crate::scheduler::{self, Unanswered};

/// How long a scheduler that has just started may take until it knows enough to plan.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at something that is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long one request to plan is waited for; then the head is looked at, and another replica may get the next one.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Who commits the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planner {
    /// The scheduler, which has just answered.
    Scheduler,
    /// This program.
    Own,
}

/// A plan that covers the change.
pub(super) struct Planned {
    /// The newest plan.
    pub(super) plan: PlanState,
    /// Actors that could not be placed as they should.
    pub(super) troubles: BTreeMap<ActorId, Problem>,
}

impl Planner {
    /// Finds out who will plan for `desired`.
    ///
    /// # Errors
    /// `no scheduler answers`, exit code 5.
    pub(super) async fn choose(session: &Session, how: &ChangeArgs, desired: &Desired) -> Outcome<Self> {
        if how.local_plan {
            return Ok(Self::Own);
        }
        if !scheduler::is_wanted(desired) {
            return Err(without_scheduler(session).into());
        }
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let status: SchedulerStatus = scheduler::ask(session, SchedulerVerb::Status, Vec::new(), left).await?;
            if status.ready {
                return Ok(Self::Scheduler);
            }
            if Instant::now() + LOOK_AGAIN >= deadline {
                let message = format!("no scheduler answers that knows enough to plan: the one on {} has just started", status.node);
                return Err(scheduler::missing(&message).into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// A lattice whose desired state has no scheduler: it was made without one, or somebody has stopped it.
fn without_scheduler(session: &Session) -> Problem {
    Problem::new(ErrorCode::TimedOut, format!("no scheduler is to run in lattice `{}`", session.name()))
        .hint("`lattice-ctl up` starts one; --local-plan makes the change without it")
}

/// Has the scheduler plan for desired state at `revision`, and reads the plan.
///
/// # Errors
/// What the scheduler says; if nobody has planned after `limit`, that desired state is committed and the plan is not.
pub(super) async fn scheduled(session: &Session, revision: Revision, limit: Duration, output: &Output) -> Outcome<Planned> {
    let deadline = Instant::now() + limit;
    let request = wire::encode(&PlanRequest { desired_rev: revision });
    let mut live = output.live();
    live.show("waiting for the scheduler".to_owned());
    let mut last;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match scheduler::ask::<PlanAnswer>(session, SchedulerVerb::Plan, request.clone(), left.min(ANSWERED_WITHIN)).await {
            Ok(answer) if answer.desired_rev >= revision => {
                return Ok(Planned { plan: session.lattice.read_plan().await?, troubles: answer.troubles });
            }
            Ok(answer) => last = format!("it has planned for revision {}", answer.desired_rev),
            Err(Unanswered::Refused(problem)) if !may_pass(&problem) => return Err(half_done(revision, problem).into()),
            Err(why) => last = Problem::from(why).message,
        }
        // A replica may have planned and died before it could say so.
        if session.lattice.read_head().await?.is_some_and(|head| head.desired_rev >= revision) {
            return Ok(Planned { plan: session.lattice.read_plan().await?, troubles: BTreeMap::new() });
        }
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Err(half_done(revision, Problem::new(ErrorCode::TimedOut, last)).into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether asking again may help: it lost a race, or what it needs did not answer.
fn may_pass(problem: &Problem) -> bool {
    matches!(problem.code, ErrorCode::Conflict | ErrorCode::TimedOut | ErrorCode::NatsTimeout | ErrorCode::NatsRefused)
}

/// Desired state is committed, the plan is not.
pub(super) fn half_done(revision: Revision, why: Problem) -> Problem {
    let message = format!("desired state is committed (revision {revision}), the plan is not yet: {}", why.message);
    let hint = "it is made as soon as a scheduler can (`lattice-ctl schedule status`); the same command again goes on where it stopped";
    Problem { message, ..why }.hint(hint)
}

/// An actor of the change that the scheduler could not place, although it looked as if it could.
pub(super) fn trouble(actor: &ActorId, problem: Problem) -> Problem {
    problem.hint(format!("the change is committed and goes on when a host can take it: `lattice-ctl schedule explain {actor}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_done_says_so() {
        let problem = half_done(Revision(9), Problem::new(ErrorCode::TimedOut, "no scheduler answers within 3 s"));
        assert_eq!(problem.message, "desired state is committed (revision 9), the plan is not yet: no scheduler answers within 3 s");
        assert_eq!(problem.code.exit_code(), 5);
        assert!(problem.hint.is_some());
    }

    #[test]
    fn what_may_pass_is_asked_again() {
        let check = |code: ErrorCode, expected: bool| assert_eq!(may_pass(&Problem::new(code, "")), expected, "{code:?}");
        check(ErrorCode::Conflict, true);
        check(ErrorCode::TimedOut, true);
        check(ErrorCode::Usage, false);
        check(ErrorCode::Failed, false);
    }
}
