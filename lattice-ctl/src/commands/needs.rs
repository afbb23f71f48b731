//! What an actor asks of its hosts: flags of `start actor` and `scale`.
//!
//! What is not given stays as it is. A rule of several parts (`--require`, `--prefer`, `--anti-affinity`) is replaced as a
//! whole; an empty value takes it back.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};
use lattice_core::error::Problem;
use lattice_core::id::{ActorId, Region};
use lattice_core::needs::{Class, MAX_CPU, MAX_MEMORY_MB, MAX_SLOTS, Needs, Spread, Strategy};
use lattice_core::wire::assignment::Limits;

use crate::args;
use crate::problems;

/// What placement shall look at.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct NeedsArgs {
    /// CPU that one instance needs, in thousandths of a core; what is measured counts if it is more
    #[arg(long, value_name = "MILLIS", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_CPU)))]
    cpu: Option<u32>,

    /// Memory that one instance needs, in MiB; what is measured counts if it is more
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_MEMORY_MB)))]
    memory: Option<u32>,

    /// Region that is preferred; others are taken when no host there can ["" takes it back]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// Label that a host must have, may be repeated ["" takes them back]
    #[arg(long, value_name = "KEY=VALUE", value_parser = rule)]
    require: Vec<Rule>,

    /// Label that a host should have, may be repeated ["" takes them back]
    #[arg(long, value_name = "KEY=VALUE", value_parser = rule)]
    prefer: Vec<Rule>,

    /// Longest round trip to the preferred region in milliseconds, as hosts measure it [0 takes it back]
    #[arg(long, value_name = "MS")]
    max_latency_ms: Option<u32>,

    /// From 0 to 255: a higher one is placed first and may displace lower ones
    #[arg(long, value_name = "N")]
    priority: Option<u8>,

    /// Actors that must not be on the same host ["" takes them back]
    #[arg(long, value_name = "ACTOR", value_delimiter = ',')]
    anti_affinity: Vec<String>,

    /// Have --max instances on every host that fits, later ones included
    #[arg(long, conflicts_with = "no_daemon")]
    daemon: bool,

    /// Have --max instances in the whole lattice again
    #[arg(long)]
    no_daemon: bool,

    /// What instances are to each other: shared, alike; fenced, each slot has one owner and the store refuses anybody else;
    /// strict, the owner stops by itself before another one starts; autonomous, bound to its host
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<Class>,

    /// Into how many slots with one owner each a fenced or strict actor is divided; slot n takes the n-th subscription of
    /// each link that has any [0 or 1: it is one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_SLOTS)))]
    slots: Option<u32>,

    /// Spread instances evenly over hosts, or over the values of a label: --spread=region
    #[arg(long, value_name = "LABEL", num_args = 0..=1, require_equals = true, conflicts_with = "no_spread")]
    spread: Option<Option<String>>,

    /// Do not spread any more
    #[arg(long)]
    no_spread: bool,

    /// Which of several fitting hosts is taken: the emptiest, the fullest, or one after the other
    #[arg(long, value_enum, value_name = "HOW")]
    placement: Option<Placement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Placement {
    /// As the scheduler is set: config `lattice-scheduler`, value `strategy`
    Default,
    /// The emptiest host
    Balanced,
    /// The fullest host that still can
    Pack,
    /// One after the other
    RoundRobin,
}

/// A label, or the empty text that takes all of them back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule(Option<(String, String)>);

fn rule(text: &str) -> Result<Rule, String> {
    if text.is_empty() { Ok(Rule(None)) } else { args::pair(text).map(|pair| Rule(Some(pair))) }
}

fn class(text: &str) -> Result<Class, String> {
    let known = || Class::ALL.map(Class::as_str).join(", ");
    Class::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| format!("there are {}", known()))
}

impl NeedsArgs {
    /// Whether none of them was given.
    pub(crate) fn is_empty(&self) -> bool {
        let texts = self.region.is_none() && self.spread.is_none() && self.class.is_none() && self.placement.is_none();
        let numbers = [self.cpu, self.memory, self.max_latency_ms, self.slots].iter().all(Option::is_none) && self.priority.is_none();
        let rules = self.require.is_empty() && self.prefer.is_empty() && self.anti_affinity.is_empty();
        texts && numbers && rules && !(self.daemon || self.no_daemon || self.no_spread)
    }

    /// What an actor asks for that asked for `before`.
    ///
    /// # Errors
    /// A usage problem for names that break the rules for names, and for labels that are given twice.
    pub(crate) fn apply(&self, before: &Needs) -> Result<Needs, Problem> {
        let region = match self.region.as_deref() {
            None => before.region.clone(),
            Some("") => None,
            Some(region) => Some(Region::new(region).map_err(|error| problems::name(&error))?),
        };
        let spread = match &self.spread {
            _ if self.no_spread => None,
            None => before.spread.clone(),
            Some(label) => Some(Spread::from(label.clone().unwrap_or_default())),
        };
        let max_latency_ms = match self.max_latency_ms {
            None => before.max_latency_ms,
            Some(0) => None,
            Some(limit) => Some(limit),
        };
        let strategy = self.placement.map_or(before.strategy, |placement| match placement {
            Placement::Default => None,
            Placement::Balanced => Some(Strategy::Balanced),
            Placement::Pack => Some(Strategy::Pack),
            Placement::RoundRobin => Some(Strategy::RoundRobin),
        });
        let class = self.class.unwrap_or(before.class);
        Ok(Needs {
            cpu: self.cpu.unwrap_or(before.cpu),
            memory_mb: self.memory.unwrap_or(before.memory_mb),
            region,
            labels: labels("--require", &self.require, &before.labels)?,
            prefer: labels("--prefer", &self.prefer, &before.prefer)?,
            max_latency_ms,
            priority: self.priority.unwrap_or(before.priority),
            anti_affinity: self.kept_away(&before.anti_affinity)?,
            spread,
            strategy,
            daemon: self.daemon || (before.daemon && !self.no_daemon),
            class,
            // One slot is what an actor has that is not divided; without owners there are none.
            slots: self.slots.map_or(if class.is_fenced() { before.slots } else { 0 }, |slots| if slots == 1 { 0 } else { slots }),
        })
    }

    fn kept_away(&self, before: &BTreeSet<ActorId>) -> Result<BTreeSet<ActorId>, Problem> {
        if self.anti_affinity.is_empty() {
            return Ok(before.clone());
        }
        let given = self.anti_affinity.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        given.map(|text| ActorId::new(text).map_err(|error| problems::name(&error))).collect()
    }
}

fn labels(flag: &str, given: &[Rule], before: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Problem> {
    if given.is_empty() {
        return Ok(before.clone());
    }
    let pairs: Vec<(String, String)> = given.iter().filter_map(|rule| rule.0.clone()).collect();
    args::map(&format!("{flag} label"), &pairs)
}

/// Memory that all instances of an actor need together in MiB; one host may get all of them.
pub(crate) fn together(needs: &Needs, max: u32) -> u32 {
    needs.memory_mb.saturating_mul(max).min(MAX_MEMORY_MB)
}

/// Raises the hard limit of memory per host so that it holds `after`, unless the operator has set one that did not even hold
/// `before`.
pub(crate) fn hold(limits: &mut Limits, before: u32, after: u32) {
    if limits.memory_mb >= before {
        limits.memory_mb = limits.memory_mb.max(after);
    }
}

/// What is asked for, in few words: `cpu 250m, memory 64Mi, region eu, spread region`.
pub(crate) fn describe(needs: &Needs) -> String {
    let labels = |labels: &BTreeMap<String, String>| crate::output::pairs(labels);
    let actors = || needs.anti_affinity.iter().map(ActorId::as_str).collect::<Vec<_>>().join(",");
    let parts = [
        (needs.cpu > 0).then(|| format!("cpu {}m", needs.cpu)),
        (needs.memory_mb > 0).then(|| format!("memory {}Mi", needs.memory_mb)),
        needs.region.as_ref().map(|region| format!("region {region}")),
        needs.max_latency_ms.map(|limit| format!("within {limit} ms")),
        (!needs.labels.is_empty()).then(|| format!("requires {}", labels(&needs.labels))),
        (!needs.prefer.is_empty()).then(|| format!("prefers {}", labels(&needs.prefer))),
        (!needs.anti_affinity.is_empty()).then(|| format!("not beside {}", actors())),
        (needs.priority > 0).then(|| format!("priority {}", needs.priority)),
        needs.spread.as_ref().map(|spread| format!("spread {spread}")),
        needs.strategy.map(|strategy| strategy.as_str().to_owned()),
        needs.daemon.then(|| "daemon".to_owned()),
        (needs.class != Class::default()).then(|| needs.class.as_str().to_owned()),
        (needs.slots > 1).then(|| format!("{} slots", needs.slots)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        needs: NeedsArgs,
    }

    fn parse(arguments: &[&str]) -> Result<NeedsArgs, clap::Error> {
        Line::try_parse_from([&["x"], arguments].concat()).map(|line| line.needs)
    }

    fn apply(arguments: &[&str], before: &Needs) -> Needs {
        parse(arguments).unwrap().apply(before).unwrap()
    }

    fn everything() -> Needs {
        let line = "--cpu 250 --memory 64 --region eu --require tier=edge --require disk=ssd --prefer rack=1 --max-latency-ms 20 \
                    --priority 7 --anti-affinity a,b --class autonomous --spread=region --placement round-robin";
        apply(&line.split_whitespace().collect::<Vec<_>>(), &Needs::default())
    }

    #[test]
    fn every_flag_has_its_field() {
        let needs = everything();
        assert_eq!(
            describe(&needs),
            "cpu 250m, memory 64Mi, region eu, within 20 ms, requires disk=ssd,tier=edge, prefers rack=1, not beside a,b, priority 7, \
             spread region, round-robin, autonomous"
        );
        assert_eq!(describe(&apply(&["--daemon", "--placement", "pack"], &Needs::default())), "pack, daemon");
        assert_eq!(apply(&["--spread"], &Needs::default()).spread, Some(Spread::Host));
        assert_eq!(describe(&Needs::default()), "");
    }

    #[test]
    fn slots_go_with_owners() {
        let fenced = apply(&["--class", "fenced", "--slots", "4"], &Needs::default());
        assert_eq!((fenced.class, fenced.slots, describe(&fenced).as_str()), (Class::Fenced, 4, "fenced, 4 slots"));
        assert_eq!(apply(&["--class", "strict"], &fenced).slots, 4, "other owners of the same slots");
        assert_eq!(apply(&["--class", "shared"], &fenced), Needs::default());
        assert_eq!(apply(&["--slots", "1"], &fenced), Needs { class: Class::Fenced, ..Needs::default() });
        assert!(!parse(&["--slots", "1"]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_given_stays() {
        assert!(parse(&[]).unwrap().is_empty());
        assert_eq!(apply(&[], &everything()), everything());
        assert_eq!(apply(&["--cpu", "1"], &everything()), Needs { cpu: 1, ..everything() });
        for flag in ["--daemon", "--no-daemon", "--no-spread", "--spread", "--priority=0", "--require=", "--anti-affinity="] {
            assert!(!parse(&[flag]).unwrap().is_empty(), "{flag}");
        }
    }

    #[test]
    fn everything_can_be_taken_back() {
        let back = [
            "--cpu=0",
            "--memory=0",
            "--region=",
            "--require=",
            "--prefer=",
            "--max-latency-ms=0",
            "--priority=0",
            "--anti-affinity=",
            "--class=shared",
            "--no-spread",
            "--placement=default",
            "--no-daemon",
        ];
        assert_eq!(apply(&back, &Needs { daemon: true, ..everything() }), Needs::default());
        assert_eq!(apply(&["--region", "", "--anti-affinity", ""], &everything()).region, None);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |arguments: &[&str], part: &str| {
            let error = parse(arguments).map(|needs| needs.apply(&Needs::default()));
            let text = match error {
                Err(error) => error.to_string(),
                Ok(applied) => applied.unwrap_err().message,
            };
            assert!(text.contains(part), "{arguments:?}: {text}");
        };
        check(&["--class", "solid"], "there are shared, fenced, strict, autonomous");
        check(&["--slots", "1025"], "1025");
        check(&["--priority", "256"], "256");
        check(&["--cpu", "1000001"], "1000001");
        check(&["--memory", "5000"], "5000");
        check(&["--require", "tier"], "must be name=value");
        check(&["--require", "a=1", "--require", "a=2"], "--require label `a` is given twice");
        check(&["--region", "a.b"], "region `a.b`");
        check(&["--anti-affinity", "a.b"], "actor id `a.b`");
        check(&["--daemon", "--no-daemon"], "cannot be used with");
        check(&["--spread", "--no-spread"], "cannot be used with");
        check(&["--placement", "random"], "random");
    }

    #[test]
    fn the_limit_holds_what_is_asked_for() {
        let raised = |limit: u32, before: u32, after: u32| {
            let mut limits = Limits { memory_mb: limit, ..Limits::default() };
            hold(&mut limits, before, after);
            limits.memory_mb
        };
        assert_eq!(raised(64, 0, 300), 300);
        assert_eq!(raised(64, 0, 10), 64);
        assert_eq!(raised(300, 300, 600), 600);
        assert_eq!(raised(64, 300, 600), 64, "the operator has set it lower");
        assert_eq!(together(&Needs { memory_mb: 100, ..Needs::default() }, 3), 300);
        assert_eq!(together(&Needs { memory_mb: 100, ..Needs::default() }, u32::MAX), MAX_MEMORY_MB);
    }
}
