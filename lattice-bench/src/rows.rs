//! The rows of the table, one file per family.
//!
//! # How to write a row
//!
//! 1. Make `rows/<family>.rs` with `pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error>`, and add it to
//!    [`FAMILIES`] with a name (what `--only` takes) and a line on what it compares.
//! 2. Set up everything outside of the rounds: servers, hosts, actors. [`Bench`] says where programs and guests are and has
//!    a scratch folder; processes that a row starts must end when the row ends, on errors, too.
//! 3. Each side of the comparison is a [`rounds::Side`](crate::rounds::Side), mostly made by
//!    [`side("lattice", async || …)`](crate::rounds::side). Its round does a fixed amount of work that takes 20 to 200 ms,
//!    checks every answer and returns a [`Reading`](crate::rounds::Reading): numbers by name ("p50", "cpu", "rate") and
//!    [`Checks`] of what was right, lost, doubled or wrong.
//! 4. `let samples = interleave(bench.rounds, &mut [a, b, floor]).await?;`
//! 5. Make a [`Line`] per number that is to be shown: [`Line::compare`] for a ratio within the same rounds, [`Line::of`] for
//!    a number alone. Give it a [`Goal`] if `reference/performance.md` or the issue has one.
//! 6. Return [`Outcome::of`]`(&samples, lines)`; several samples are put together with [`Outcome::and`].
//!
//! A row that cannot be measured here (a program is not installed, a kernel is too old) returns [`Outcome::skipped`] with
//! the reason. An error, or a check that is not good, fails the run; a goal that is missed is only shown.

mod activation;
pub(crate) mod code;
mod compute;
mod detector;
mod failover;
mod http;
mod idle;
mod keyvalue;
mod neighbours;
mod pipeline;
pub(crate) mod placement;
mod policy;
mod requests;
pub(crate) mod residents;

use futures::future::LocalBoxFuture;
use serde::Serialize;

use crate::Error;
use crate::bench::Bench;
use crate::rounds::{Checks, Disturbance, Samples};
use crate::stats::Estimate;

/// Some rows that are measured together.
pub(crate) struct Family {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What is compared with what.
    pub(crate) about: &'static str,
    /// Measures.
    pub(crate) run: for<'a> fn(&'a Bench) -> LocalBoxFuture<'a, Result<Outcome, Error>>,
}

/// All rows, in the order of the table.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "fresh",
        about: "a fresh instance for one message against what it must cost, and against wasmtime's default pool",
        run: |bench| Box::pin(activation::fresh(bench)),
    },
    Family {
        name: "warm",
        about: "a message to a resident instance against a typed call of wasmtime",
        run: |bench| Box::pin(activation::warm(bench)),
    },
    Family {
        name: "code",
        about: "code from the authenticated cache to the first reply against reading and hashing its file",
        run: |bench| Box::pin(code::run(bench)),
    },
    Family {
        name: "compute",
        about: "five kernels in a guest against the same source natively",
        run: |bench| Box::pin(compute::run(bench)),
    },
    Family {
        name: "kv-memory",
        about: "key-value in memory from a guest against direct calls and a host call that does nothing",
        run: |bench| Box::pin(keyvalue::memory(bench)),
    },
    Family {
        name: "kv-nats",
        about: "key-value over NATS from a guest against async-nats alone",
        run: |bench| Box::pin(keyvalue::nats(bench)),
    },
    Family {
        name: "residents",
        about: "memory of 1, 100 and 1,000 live instances against wasmtime alone",
        run: |bench| Box::pin(residents::run(bench)),
    },
    Family {
        name: "requests",
        about: "request and reply through NATS against a native responder",
        run: |bench| Box::pin(requests::run(bench)),
    },
    Family {
        name: "pipeline",
        about: "readings, core and jetstream, against a native program that does the same",
        run: |bench| Box::pin(pipeline::run(bench)),
    },
    Family { name: "http", about: "HTTP against a native hyper handler and `wasmtime serve`", run: |bench| Box::pin(http::run(bench)) },
    Family {
        name: "idle",
        about: "memory and CPU time of a host that waits, against a native responder",
        run: |bench| Box::pin(idle::memory(bench)),
    },
    Family {
        name: "ready",
        about: "start of the host to actors that answer, against a native responder",
        run: |bench| Box::pin(idle::ready(bench)),
    },
    Family {
        name: "neighbours",
        about: "good actors beside spinning ones against the same alone",
        run: |bench| Box::pin(neighbours::run(bench)),
    },
    Family {
        name: "placement",
        about: "the best of 10,000 hosts in a component, natively, and by sorting all of them",
        run: |bench| Box::pin(placement::best(bench)),
    },
    Family { name: "plans", about: "a whole plan, and the one after a host was lost", run: |bench| Box::pin(placement::plans(bench)) },
    Family {
        name: "heartbeats",
        about: "a heartbeat to a scheduler that knows 100, 1,000 and 10,000 hosts",
        run: |bench| Box::pin(placement::heartbeats(bench)),
    },
    Family {
        name: "detector",
        about: "a heartbeat to a failover actor's detector that knows 100 and 10,000 hosts",
        run: |bench| Box::pin(detector::heartbeats(bench)),
    },
    Family {
        name: "killed",
        about: "kill -9 of a host at 1,000 messages a second to the first good result elsewhere, step by step",
        run: |bench| Box::pin(failover::killed(bench)),
    },
    Family {
        name: "silent",
        about: "the same with a host that is stopped and says nothing",
        run: |bench| Box::pin(failover::silent(bench)),
    },
    Family { name: "quiet", about: "verdicts while every core is busy and nobody fails", run: |bench| Box::pin(failover::quiet(bench)) },
    Family {
        name: "crowd",
        about: "kill, silence and no verdict at all beside 100 and 1,000 simulated hosts",
        run: |bench| Box::pin(failover::crowds(bench)),
    },
    Family {
        name: "policy",
        about: "a policy from `put` to the last of 3, 100 and 1,000 hosts that enforces it",
        run: |bench| Box::pin(policy::in_force(bench)),
    },
    Family {
        name: "policy-calls",
        about: "a call from a guest under 10,000 rules against the same without a policy",
        run: |bench| Box::pin(policy::calls(bench)),
    },
];

/// What a number should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    /// The ratio, at its upper end, is at most this.
    RatioAtMost(f64),
    /// The ratio, at its lower end, is at least this.
    RatioAtLeast(f64),
    /// Our number is at most this, in the line's unit.
    AtMost(f64),
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// What was measured.
    pub(crate) what: String,
    /// Unit of the absolute numbers.
    pub(crate) unit: &'static str,
    /// Which side is ours.
    pub(crate) ours_is: &'static str,
    /// Its number.
    pub(crate) ours: f64,
    /// Which side it is compared with.
    pub(crate) other_is: Option<&'static str>,
    /// Its number.
    pub(crate) other: Option<f64>,
    /// Ours by the other's.
    pub(crate) ratio: Option<Estimate>,
    /// What it should be.
    pub(crate) goal: Option<Goal>,
    /// Whether it is.
    pub(crate) met: Option<bool>,
    /// What a reader must know beside it.
    pub(crate) note: String,
}

impl Line {
    /// The ratio of one number of two sides.
    ///
    /// # Errors
    /// A side did not give the number.
    pub(crate) fn compare(
        what: impl Into<String>,
        unit: &'static str,
        samples: &Samples,
        metric: &str,
        (ours, other): (&'static str, &'static str),
    ) -> Result<Self, Error> {
        Ok(Self {
            other_is: Some(other),
            other: Some(samples.value(metric, other)?),
            ratio: Some(samples.ratio(metric, ours, other)?),
            ..Self::of(what, unit, ours, samples.value(metric, ours)?)
        })
    }

    /// A number alone.
    pub(crate) fn of(what: impl Into<String>, unit: &'static str, ours_is: &'static str, ours: f64) -> Self {
        let what = what.into();
        Self { what, unit, ours_is, ours, other_is: None, other: None, ratio: None, goal: None, met: None, note: String::new() }
    }

    /// Sets the goal and tells whether it is met, by the pessimistic end of the interval.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.met = match goal {
            Goal::RatioAtMost(limit) => self.ratio.map(|ratio| ratio.high <= limit),
            Goal::RatioAtLeast(limit) => self.ratio.map(|ratio| ratio.low >= limit),
            Goal::AtMost(limit) => Some(self.ours <= limit),
        };
        self
    }

    /// Adds a remark.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// What a family found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    /// The lines.
    pub(crate) lines: Vec<Line>,
    /// What was checked.
    pub(crate) checks: Checks,
    /// How undisturbed it was.
    pub(crate) disturbance: Disturbance,
    /// Why there is nothing, or not all.
    pub(crate) skipped: Option<String>,
}

impl Outcome {
    /// Lines out of samples.
    pub(crate) fn of(samples: &Samples, lines: Vec<Line>) -> Self {
        Self { lines, checks: samples.checks(), disturbance: samples.disturbance, skipped: None }
    }

    /// Nothing, and why.
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.lines.extend(other.lines);
        self.checks.add(&other.checks);
        self.disturbance.add(&other.disturbance);
        self.skipped = self.skipped.or(other.skipped);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_the_pessimistic_end() {
        let ratio = Some(Estimate { median: 2.0, low: 1.5, high: 2.5 });
        let check = |goal: Goal, met: bool| {
            let line = Line { ratio, ..Line::of("x", "us", "lattice", 10.0) };
            assert_eq!(line.goal(goal).met, Some(met), "{goal:?}");
        };
        check(Goal::RatioAtMost(2.5), true);
        check(Goal::RatioAtMost(2.4), false);
        check(Goal::RatioAtLeast(1.5), true);
        check(Goal::RatioAtLeast(1.6), false);
        check(Goal::AtMost(10.0), true);
        assert_eq!(Line::of("x", "us", "lattice", 1.0).goal(Goal::RatioAtMost(1.0)).met, None, "no ratio, no verdict");
    }

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }
}
