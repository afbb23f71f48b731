//! The one path by which anything is changed.
//!
//! Read desired state, edit it in memory, plan, show what the plan changes; then commit desired state on condition that
//! nobody changed it meanwhile, have the scheduler commit the plan that follows, and wait until every host that is there has
//! applied its part. Whatever is wrong with a change shows in the plan, so before anything is written; so does a scheduler
//! that does not answer. With `--local-plan` the plan is committed here, on condition of its parent.
//!
//! **Conflicts.** The edit is a pure function: it is applied again to the newer state, a few times; not with
//! `--if-revision`, which means one state only. A plan that lost its race is made again from what is there then.

mod planner;
mod provisions;
mod report;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use clap::builder::FalseyValueParser;
use lattice_core::desired::{Change, Desired, Stamp};
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, Generation, HostId, Incarnation, ProviderId, Revision};
use lattice_core::inventory::Inventory;
use lattice_core::plan::{self, Choice, Displaced, Plan, PlanState, PlannedChange, Trouble};
use lattice_nats::CommitError;

use crate::args;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::Output;
use crate::ownership;
use crate::view::View;
use planner::{Planned, Planner};
use provisions::Provisions;
pub(crate) use provisions::consumers;
pub(crate) use report::Applied;
use wait::{Awaited, Watch};

/// How often a change is applied again because somebody else was faster.
const ATTEMPTS: u32 = 5;
/// Longest pause after the first conflict; grows with each.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// How often a plan is made again because somebody else was faster; each time the other one has made progress.
const PLAN_ATTEMPTS: u32 = 10;
/// How long hosts are waited for unless `--timeout` says otherwise; loading code over a slow link takes a while.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// How long a host may take to find out that a link which was in trouble is mended; it looks at least every ten seconds.
const MENDED_WITHIN: Duration = Duration::from_secs(15);

/// How a change is made.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Change")]
pub(crate) struct ChangeArgs {
    /// Show what would change on which host, and stop there
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Return when the change is committed, without waiting for the hosts
    #[arg(long, alias = "skip-wait")]
    pub(crate) no_wait: bool,

    /// Refuse if desired state is not at this revision any more, as --dry-run has shown it
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,

    /// Commit the plan without the scheduler [env: LATTICE_LOCAL_PLAN]
    #[arg(long, env = "LATTICE_LOCAL_PLAN", hide_env = true, value_parser = FalseyValueParser::new())]
    pub(crate) local_plan: bool,
}

/// How long a change waits.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Change")]
pub(crate) struct WaitArg {
    /// How long to wait for the hosts: 250ms, 5s, 2m [default: 60s]
    #[arg(long = "timeout", alias = "wait-timeout", value_name = "TIME", value_parser = args::duration)]
    pub(crate) wait: Option<Duration>,
}

/// What an edit touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edited {
    /// Actors whose state is looked at afterwards.
    pub(crate) actors: BTreeSet<ActorId>,
    /// Providers whose state is looked at afterwards.
    pub(crate) providers: BTreeSet<ProviderId>,
    /// Keys of links whose buckets and consumers are made if they are missing, even if the link is not new.
    pub(crate) links: BTreeSet<String>,
    /// Whether it is made even if actors then lack places that they have now.
    pub(crate) may_displace: bool,
    /// Hosts that are taken for gone: nobody waits for them.
    pub(crate) gone: BTreeSet<HostId>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

/// What a change is called.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    /// What kind of thing: `actor`.
    pub(crate) kind: &'static str,
    /// Which one.
    pub(crate) name: String,
    /// What will have happened to it: `started`.
    pub(crate) done: &'static str,
}

/// A change that is about to be made.
pub(crate) struct Writer<'a> {
    /// The lattice.
    pub(crate) session: &'a Session,
    /// Where messages go.
    pub(crate) output: &'a Output,
    /// How it is made.
    pub(crate) how: &'a ChangeArgs,
    /// How long to wait for hosts.
    pub(crate) wait: Option<Duration>,
}

/// A pure edit of desired state.
pub(crate) type Edit<'a> = dyn Fn(&View, &mut Desired) -> Result<Edited, Problem> + 'a;

/// An edit that was tried in memory and found good.
struct Draft {
    view: View,
    next: Desired,
    edited: Edited,
    keys: Vec<Change>,
    changes: Vec<PlannedChange>,
    /// Why actors are where the plan puts them anew.
    choices: BTreeMap<ActorId, Vec<Choice>>,
    /// Who makes room for others.
    displaced: Vec<Displaced>,
    /// Actors that the plan cannot place as they should be.
    troubles: BTreeMap<ActorId, Trouble>,
}

impl Writer<'_> {
    /// Makes the change and prints what came of it.
    ///
    /// # Errors
    /// What the edit or the plan refuses; a conflict with somebody else; hosts that do not apply it in time; an actor or
    /// provider that fails.
    pub(crate) async fn run(&self, intent: Intent, edit: &Edit<'_>) -> Outcome {
        let applied = self.apply(intent, edit).await?;
        self.output.print(&applied)
    }

    /// Makes the change.
    ///
    /// # Errors
    /// As [`Writer::run`].
    pub(crate) async fn apply(&self, intent: Intent, edit: &Edit<'_>) -> Outcome<Applied> {
        let draft = self.draft(View::read(self.session).await?, edit)?;
        if self.how.dry_run {
            self.announce(&draft);
            return Ok(Applied::planned(intent, &draft));
        }
        let planner = Planner::choose(self.session, self.how, &draft.view.desired).await?;
        // Subscribed before anything is written, so that no answer is missed.
        let watch = if self.how.no_wait { None } else { Some(Watch::start(self.session).await?) };
        let (mut draft, revision, provisions) = self.commit(draft, edit).await?;
        self.announce(&draft);
        let Planned { plan, mut troubles } = match planner {
            Planner::Scheduler => planner::scheduled(self.session, revision, self.limit(), self.output).await?,
            Planner::Own => self.commit_plan(&draft, revision).await?,
        };
        if draft.correct(&plan) {
            self.output.note("note: the plan came out otherwise, for hosts have reported or somebody has changed something meanwhile:");
            self.announce_changes(&draft);
        }
        let ended = self.settle(watch, &draft, &plan).await;
        provisions.remove_unneeded(self.session, self.output).await;
        if let Some((actor, problem)) = draft.edited.actors.iter().find_map(|actor| troubles.remove_entry(actor)) {
            return Err(planner::trouble(&actor, problem).into());
        }
        let waited = ended?;
        Ok(Applied::committed(intent, &draft, revision, &plan, waited))
    }

    fn limit(&self) -> Duration {
        self.wait.unwrap_or(DEFAULT_WAIT)
    }

    /// Tries the edit in memory, on the state that was asked for.
    fn draft(&self, view: View, edit: &Edit<'_>) -> Result<Draft, Problem> {
        check_revision(self.how.if_revision, view.revision)?;
        Draft::make(view, edit)
    }

    fn announce(&self, draft: &Draft) {
        self.announce_changes(draft);
        for note in &draft.edited.notes {
            self.output.note(&format!("note: {note}"));
        }
    }

    fn announce_changes(&self, draft: &Draft) {
        if !draft.changes.is_empty() {
            self.output.note(&report::diff(draft));
        }
        for line in report::rooms(draft) {
            self.output.note(&format!("note: {line}"));
        }
    }

    /// Commits desired state; what links need outside of it is there before.
    async fn commit(&self, mut draft: Draft, edit: &Edit<'_>) -> Outcome<(Draft, Revision, Provisions)> {
        let mut attempt = 1;
        loop {
            let provisions = Provisions::make(self.session, &draft.view.desired, &draft.next, &draft.edited.links).await?;
            match self.session.lattice.commit_desired(&draft.keys, draft.view.revision).await {
                Ok(revision) => return Ok((draft, revision, provisions)),
                // Whether it was stored is not known: what it needs stays.
                Err(error @ CommitError::Unknown { .. }) => return Err(error.into()),
                Err(error) => {
                    provisions.undo(self.session, self.output).await;
                    let again = matches!(error, CommitError::Conflict { .. }) && attempt < ATTEMPTS;
                    if !again {
                        return Err(error.into());
                    }
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                    draft = self.draft(draft.view.renewed(self.session).await?, edit)?;
                }
            }
        }
    }

    /// Commits the plan that follows from the committed desired state, or finds that somebody else already has.
    async fn commit_plan(&self, draft: &Draft, revision: Revision) -> Outcome<Planned> {
        let lattice = &self.session.lattice;
        let (mut desired, mut revision, mut inventory) = (draft.next.clone(), revision, draft.view.inventory.clone());
        let (mut parent, mut verdicts) = (draft.view.plan.clone(), draft.view.verdicts.clone());
        let mut lost = 0;
        loop {
            let plan: Plan = plan::plan(&desired, revision, &inventory, &verdicts, &parent);
            if plan.is_empty() {
                return Ok(Planned { plan: parent, troubles: BTreeMap::new() });
            }
            match lattice.commit_plan(&plan, parent.head_revision).await {
                Ok(head_revision) => {
                    parent = parent.after(&plan, head_revision);
                    if !plan.more {
                        return Ok(Planned { plan: parent, troubles: BTreeMap::new() });
                    }
                }
                Err(CommitError::Conflict { .. }) if lost < PLAN_ATTEMPTS => {
                    lost += 1;
                    let view = draft.view.renewed(self.session).await?;
                    (desired, revision, inventory, parent) = (view.desired, view.revision, view.inventory, view.plan);
                    verdicts = view.verdicts;
                }
                Err(error) => return Err(planner::half_done(revision, error.into()).into()),
            }
        }
    }

    /// Waits for the hosts whose part changed, then looks at what the change was about.
    async fn settle(&self, watch: Option<Watch>, draft: &Draft, plan: &PlanState) -> Outcome<wait::Waited> {
        let mut awaited = awaited(&draft.view.inventory, draft.view.plan.generation(), plan);
        awaited.retain(|host, _| !draft.edited.gone.contains(host));
        let Some(mut watch) = watch else {
            return Ok(wait::Waited { absent: absent(draft, plan), ..wait::Waited::default() });
        };
        let limit = self.limit();
        // A link that was given again as it was is no news for any host: what it says of the link may be from before.
        let given_again = awaited.is_empty() && !draft.edited.links.is_empty();
        let left = watch.until_applied(awaited, limit, &draft.view.inventory, self.output).await?;
        let mut waited = wait::Waited { absent: absent(draft, plan), left, ..wait::Waited::default() };
        waited.inspect(self.session, draft, plan, if given_again { limit.min(MENDED_WITHIN) } else { Duration::ZERO }).await?;
        Ok(waited)
    }
}

impl Draft {
    fn make(view: View, edit: &Edit<'_>) -> Result<Self, Problem> {
        let mut next = view.desired.clone();
        let edited = edit(&view, &mut next)?;
        ownership::check(&view.desired, &next)?;
        let mut before = plan::plan(&view.desired, view.revision, &view.inventory, &view.verdicts, &view.plan);
        let plan = plan::plan(&next, view.revision, &view.inventory, &view.verdicts, &view.plan);
        if !edited.may_displace {
            // Those that make room for a higher priority may end without a place: the report says so.
            for Displaced { actor, .. } in &plan.displaced {
                before.troubles.extend(plan.troubles.get(actor).map(|trouble| (actor.clone(), trouble.clone())));
            }
            plan.check_against(&before)?;
        }
        let changes = by_name(plan::changes(&view.plan, &plan.changed), &view.inventory);
        let keys = view.desired.diff(&next, &stamp());
        let Plan { choices, displaced, troubles, .. } = plan;
        Ok(Self { view, next, edited, keys, changes, choices, displaced, troubles })
    }

    /// Takes over what the committed plan does with the things that this change moves, if something that was shown is not so:
    /// the scheduler has heard of the hosts what was not known here yet. Returns whether it is another plan.
    fn correct(&mut self, plan: &PlanState) -> bool {
        let key = |change: &PlannedChange| (change.what, change.id.clone());
        let about: BTreeSet<_> = self.changes.iter().map(key).collect();
        let mut actual = plan::changes(&self.view.plan, &plan.assignments);
        actual.retain(|change| about.contains(&key(change)));
        let happens = |what: &str, id: &str, host: &HostId| {
            actual.iter().any(|change| change.what == what && change.id == id && change.host == *host)
        };
        if self.changes.iter().all(|change| happens(change.what, &change.id, &change.host)) {
            return false;
        }
        self.displaced.retain(|displaced| happens("actor", displaced.by.as_str(), &displaced.host));
        self.changes = by_name(actual, &self.view.inventory);
        true
    }
}

/// Changes in the order of the hosts' names.
fn by_name(mut changes: Vec<PlannedChange>, inventory: &Inventory) -> Vec<PlannedChange> {
    changes.sort_by_key(|change| inventory.name_of(&change.host));
    changes
}

/// What each live host has to show before the change counts as applied: those whose assignment is newer than `before`.
fn awaited(inventory: &Inventory, before: Generation, plan: &PlanState) -> BTreeMap<HostId, Awaited> {
    let changed = plan.assignments.values().filter(|assignment| assignment.generation > before);
    let live = changed.filter_map(|assignment| Some((assignment, inventory.hosts.get(&assignment.host)?)));
    live.map(|(assignment, report)| {
        let stops = |incarnation: &&Incarnation| **incarnation == report.incarnation;
        let what = match assignment.stop.as_ref().filter(stops) {
            Some(incarnation) => Awaited::Gone(incarnation.clone()),
            None => Awaited::Generation(assignment.generation),
        };
        (assignment.host.clone(), what)
    })
    .collect()
}

/// Names of the hosts whose part changed and that do not answer.
fn absent(draft: &Draft, plan: &PlanState) -> Vec<String> {
    let (inventory, before) = (&draft.view.inventory, draft.view.plan.generation());
    let changed = plan.assignments.values().filter(|assignment| assignment.generation > before);
    changed
        .filter(|assignment| !inventory.hosts.contains_key(&assignment.host))
        .map(|assignment| inventory.name_of(&assignment.host))
        .collect()
}

/// Refuses a change that is meant for another state than the one that is there.
fn check_revision(wanted: Option<u64>, found: Revision) -> Result<(), Problem> {
    match wanted.map(Revision).filter(|wanted| *wanted != found) {
        None => Ok(()),
        Some(wanted) => {
            let message = format!("somebody else changed it: revision {wanted} was expected, {found} was found");
            Err(Problem::new(ErrorCode::Conflict, message)
                .hint("nothing was changed; look at the new state with --dry-run, then try again"))
        }
    }
}

/// Who changes something, and when.
fn stamp() -> Stamp {
    let user = ["USER", "LOGNAME"].into_iter().find_map(crate::connection::environment).unwrap_or_else(|| "unknown".to_owned());
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp { by: format!("{user}@{machine}"), at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) }
}

/// Pause before attempt `attempt + 1`: different for everybody, so that those who met do not meet again.
fn pause(attempt: u32) -> Duration {
    let chance = RandomState::new().hash_one(attempt);
    let limit = u64::try_from(CONFLICT_PAUSE.as_millis()).unwrap_or(u64::MAX).saturating_mul(u64::from(attempt));
    Duration::from_millis(chance % limit.max(1))
}

/// A wait that took too long, naming who is missing.
fn late(limit: Duration, missing: &[String]) -> Problem {
    let message = format!("the change is committed, but {} did not apply it within {} s", missing.join(", "), limit.as_secs_f32());
    Problem::new(ErrorCode::TimedOut, message)
        .hint("`lattice-ctl get hosts` shows how far each host is; --timeout waits longer, --no-wait does not wait")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{actor, component, host, view};
    use lattice_core::desired::NodeSpec;

    #[test]
    fn only_live_hosts_whose_part_changed_are_waited_for() {
        let view = view(2, Desired::default());
        let mut next = view.desired.clone();
        next.start_component(actor("a"), component(&[0, 5]), Some(2), false).unwrap();
        let plan = plan::plan(&next, Revision(2), &view.inventory, &view.verdicts, &view.plan);
        let after = view.plan.after(&plan, Revision(2));
        let awaited = awaited(&view.inventory, view.plan.generation(), &after);
        assert_eq!(awaited, BTreeMap::from([(host(0), Awaited::Generation(Generation(2)))]));
    }

    #[test]
    fn a_host_that_is_stopped_is_waited_for_until_it_is_gone() {
        let view = view(2, Desired::default());
        let incarnation = view.inventory.hosts[&host(1)].incarnation.clone();
        let mut next = view.desired.clone();
        next.nodes.insert(host(1), NodeSpec { stop: Some(incarnation.clone()), ..NodeSpec::default() });
        let plan = plan::plan(&next, Revision(2), &view.inventory, &view.verdicts, &view.plan);
        let after = view.plan.after(&plan, Revision(2));
        let awaited = awaited(&view.inventory, view.plan.generation(), &after);
        assert_eq!(awaited, BTreeMap::from([(host(1), Awaited::Gone(incarnation))]));
    }

    #[test]
    fn what_the_plan_really_does_is_said() {
        let view = view(2, Desired::default());
        let edit = |_: &View, desired: &mut Desired| {
            desired.start_component(actor("a"), component(&[]), Some(1), false).unwrap();
            Ok(Edited::default())
        };
        let mut draft = Draft::make(view, &edit).unwrap();
        let [shown] = draft.changes.as_slice() else { panic!("{:?}", draft.changes) };
        let shown = shown.host.clone();
        let commit = |draft: &Draft, closed: &[HostId]| {
            let mut inventory = draft.view.inventory.clone();
            inventory.hosts.retain(|host, _| !closed.contains(host));
            let plan = plan::plan(&draft.next, Revision(2), &inventory, &draft.view.verdicts, &draft.view.plan);
            draft.view.plan.after(&plan, Revision(2))
        };
        assert!(!draft.correct(&commit(&draft, &[])), "as it was shown");
        assert!(draft.correct(&commit(&draft, std::slice::from_ref(&shown))), "elsewhere");
        let [elsewhere] = draft.changes.as_slice() else { panic!("{:?}", draft.changes) };
        assert_ne!(elsewhere.host, shown);
    }

    #[test]
    fn a_change_for_another_state_is_refused() {
        assert_eq!(check_revision(None, Revision(7)), Ok(()));
        assert_eq!(check_revision(Some(7), Revision(7)), Ok(()));
        let refused = check_revision(Some(5), Revision(7)).unwrap_err();
        assert_eq!(refused.message, "somebody else changed it: revision 5 was expected, 7 was found");
        assert_eq!(refused.code.exit_code(), 3);
    }

    #[test]
    fn flags_and_variables() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            change: ChangeArgs,
        }
        let parse = |line: &str| <Line as clap::Parser>::try_parse_from(line.split_whitespace()).map(|line| line.change);
        assert!(parse("x --local-plan").unwrap().local_plan);
        assert_eq!(parse("x --if-revision 12").unwrap().if_revision, Some(12));
        assert!(parse("x --if-revision none").is_err());
    }

    #[test]
    fn pauses_grow_and_stay_small() {
        for attempt in 1..=ATTEMPTS {
            assert!(pause(attempt) < CONFLICT_PAUSE * attempt);
        }
    }
}
