mod order;

use std::collections::BTreeMap;

use super::*;
use crate::inventory::tests::{host_id, report};
use crate::timing::TimingProfile;
use crate::wire::report::{HostReport, HostState};
use crate::wire::verdict::Verdicts;

/// A detector whose verdicts are all stored at once, and hosts that send heartbeats by themselves.
struct World {
    detector: Detector,
    verdicts: Verdicts,
    /// What was done and when: `4000 A Dead silent`.
    log: Vec<String>,
    now: Millis,
    hosts: BTreeMap<u8, HostReport>,
    /// Hosts that send heartbeats.
    alive: BTreeMap<u8, Millis>,
    /// Whether hosts in `alive` answer when they are asked.
    answers: bool,
}

const SECOND: Millis = 1_000;

impl World {
    fn new(settings: FailoverSettings) -> Self {
        Self {
            detector: Detector::new(settings, 0),
            verdicts: Verdicts::default(),
            log: Vec::new(),
            now: 0,
            hosts: BTreeMap::new(),
            alive: BTreeMap::new(),
            answers: true,
        }
    }

    /// A detector with default settings, and `n` hosts of one region that live.
    fn of(n: u8) -> Self {
        let mut world = Self::new(FailoverSettings::default());
        (0..n).for_each(|host| world.start(host, "local"));
        world.run(10 * SECOND);
        assert!(world.take().is_empty());
        world
    }

    fn start(&mut self, n: u8, region: &str) {
        let incarnation = self.hosts.get(&n).map_or(1, |host| host.incarnation.as_str().parse::<u32>().unwrap() + 1);
        let region = Region::new(region).unwrap();
        let incarnation = Incarnation::new(format!("{incarnation:02}")).unwrap();
        self.hosts.insert(n, HostReport { seq: 0, region, incarnation, ..report(n, &name(n)) });
        self.alive.insert(n, 0);
        self.beat(n);
    }

    fn beat(&mut self, n: u8) {
        let host = self.hosts.get_mut(&n).unwrap();
        host.seq += 1;
        self.detector.handle_heartbeat(host, self.now);
        self.alive.entry(n).and_modify(|at| *at = self.now);
        self.judge();
    }

    fn cut(&mut self, n: u8, cut: Cut) {
        self.alive.remove(&n);
        self.detector.handle_disconnect(&host_id(n), &self.hosts[&n].incarnation, cut, self.now);
        self.judge();
    }

    fn kill(&mut self, n: u8) {
        self.cut(n, Cut::ProcessGone);
    }

    fn silence(&mut self, n: u8) {
        self.alive.remove(&n);
    }

    fn judge(&mut self) {
        while let Some(judgement) = self.detector.poll(self.now) {
            let line = match judgement {
                Judgement::Ask(host) => {
                    let asked = self.hosts.iter().find(|(_, report)| report.id == host).map(|(n, _)| *n);
                    if let Some(n) = asked.filter(|n| self.answers && self.alive.contains_key(n)) {
                        self.beat(n);
                    }
                    format!("ask {}", short(&host))
                }
                Judgement::Store(opinion) => {
                    let verdict = opinion.verdict(0, "test");
                    self.verdicts.hosts.insert(verdict.host.clone(), verdict.clone());
                    self.detector.handle_verdict(&verdict.host, Some(&verdict), self.now);
                    let evidence = serde_json::to_value(verdict.evidence).unwrap();
                    format!("{} {} {}", short(&verdict.host), verdict.standing.as_str(), evidence.as_str().unwrap())
                }
                Judgement::Freeze { region, suspects, of, .. } => format!("freeze {region} {suspects}/{of}"),
                Judgement::Thaw { region } => format!("thaw {region}"),
            };
            self.log.push(format!("{} {line}", self.now));
        }
    }

    /// Lets time pass: heartbeats of those that live, and judgements when the detector wants to be asked.
    fn run(&mut self, ms: Millis) {
        let interval = millis(self.detector.settings().profile.heartbeat());
        let end = self.now + ms;
        self.judge();
        loop {
            let beat = self.alive.values().map(|at| at + interval).min().unwrap_or(Millis::MAX);
            let due = self.detector.poll_timeout(self.now).map_or(Millis::MAX, |left| self.now + left.max(1));
            let next = beat.min(due).min(end);
            self.now = next.max(self.now);
            let now = self.now;
            let beating: Vec<u8> = self.alive.iter().filter(|(_, at)| *at + interval <= now).map(|(n, _)| *n).collect();
            beating.into_iter().for_each(|n| self.beat(n));
            self.judge();
            if self.now >= end {
                return;
            }
        }
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// What was stored since `start`, without the questions, with times from then on.
    fn stored_since(&mut self, start: Millis) -> Vec<String> {
        let log = self.take().into_iter().filter(|line| !line.contains("ask"));
        let since = |line: String| {
            let (at, rest) = line.split_once(' ').map(|(at, rest)| (at.parse::<Millis>().unwrap(), rest.to_owned())).unwrap();
            Some(format!("{} {rest}", at.checked_sub(start)?))
        };
        log.filter_map(since).collect()
    }
}

fn name(n: u8) -> String {
    char::from(b'A' + n).to_string()
}

fn short(host: &HostId) -> String {
    host.as_str().chars().last().unwrap().to_string()
}

#[test]
fn a_host_whose_connection_ends_without_a_word_is_gone_after_the_grace() {
    for (cut, evidence) in [(Cut::ProcessGone, "process-gone"), (Cut::LinkDown, "link-down")] {
        let mut world = World::of(3);
        let start = world.now;
        world.cut(1, cut);
        world.run(30 * SECOND);
        assert_eq!(world.stored_since(start), [format!("100 B Dead {evidence}")]);
    }
}

#[test]
fn a_host_that_is_back_within_the_grace_was_never_gone() {
    type Back = fn(&mut World);
    let backs: [Back; 2] = [|world| world.beat(1), |world| world.start(1, "local")];
    for back in backs {
        let mut world = World::of(3);
        world.kill(1);
        world.run(99);
        world.alive.insert(1, world.now);
        back(&mut world);
        world.run(30 * SECOND);
        assert_eq!(world.take(), Vec::<String>::new());
    }
}

#[test]
fn the_end_of_another_connection_says_nothing() {
    let mut world = World::of(2);
    world.start(1, "local");
    for (host, incarnation) in [(host_id(1), "01"), (host_id(1), "99"), (host_id(9), "01")] {
        assert!(!world.detector.handle_disconnect(&host, &Incarnation::new(incarnation).unwrap(), Cut::ProcessGone, world.now));
    }
    world.run(30 * SECOND);
    assert_eq!(world.take(), Vec::<String>::new());
}

#[test]
fn a_goodbye_is_believed_at_once_and_is_no_flap() {
    let mut world = World::of(2);
    let (start, host) = (world.now, world.hosts[&1].clone());
    world.silence(1);
    world.detector.handle_bye(&host.id, &host.incarnation, world.now);
    world.judge();
    world.detector.handle_disconnect(&host.id, &host.incarnation, Cut::ProcessGone, world.now);
    // One that it had sent before.
    let overtaken = HostReport { seq: host.seq + 1, state: HostState::Draining, ..host };
    assert!(!world.detector.handle_heartbeat(&overtaken, world.now));
    world.run(5 * SECOND);
    world.start(1, "local");
    world.run(30 * SECOND);
    assert_eq!(world.stored_since(start), ["0 B Dead left", "5000 B Returned heard", "8000 B Healthy heard"]);
    assert_eq!(world.verdicts.hosts[&host_id(1)].flaps, 0);
}

#[test]
fn a_silent_host_is_asked_before_it_is_gone() {
    let mut world = World::of(2);
    let start = world.now;
    world.silence(1);
    world.run(30 * SECOND);
    let expected = ["B Suspect silent", "ask B", "ask B", "B Dead silent"].into_iter().zip([3_000, 3_000, 3_500, 4_000]);
    let expected: Vec<String> = expected.map(|(what, at)| format!("{} {what}", start + at)).collect();
    assert_eq!(world.take(), expected);
    assert_eq!(world.verdicts.hosts[&host_id(1)].reason, "heartbeat timeout: 3000ms");
}

#[test]
fn a_suspect_that_answers_is_healthy() {
    let mut world = World::of(2);
    world.silence(1);
    world.run(3_200);
    world.alive.insert(1, world.now);
    let start = world.now;
    world.beat(1);
    world.run(30 * SECOND);
    assert_eq!(world.stored_since(start).last().unwrap(), "0 B Healthy heard");
    assert!(world.verdicts.hosts.values().all(|verdict| verdict.flaps == 0));
}

#[test]
fn patience_follows_the_host_up_to_the_ceiling() {
    /// Silence of a host that was heard every `interval` before it is suspect.
    fn check(profile: TimingProfile, heartbeat_timeout_ms: u64, interval: Millis, expected: Millis) {
        let mut world = World::new(FailoverSettings { profile, heartbeat_timeout_ms, ..FailoverSettings::default() });
        world.start(0, "local");
        world.start(1, "local");
        world.silence(1);
        for _ in 0..200 {
            world.run(interval);
            world.beat(1);
        }
        world.take();
        let start = world.now;
        world.run(200 * SECOND);
        let suspect = world.stored_since(start).into_iter().find(|line| line.contains("Suspect")).unwrap();
        let at: Millis = suspect.split(' ').next().unwrap().parse().unwrap();
        assert!(at.abs_diff(expected) <= expected / 50, "{profile:?} {heartbeat_timeout_ms} {interval}: {suspect}");
    }
    check(TimingProfile::Lan, 30_000, 1_000, 3_000);
    check(TimingProfile::Lan, 30_000, 100, 3_000);
    check(TimingProfile::Lan, 30_000, 2_500, 7_500);
    check(TimingProfile::Lan, 5_000, 2_500, 5_000);
    check(TimingProfile::Lan, 2_000, 1_000, 2_000);
    check(TimingProfile::Wan, 30_000, 5_000, 20_000);
    check(TimingProfile::Test, 30_000, 250, 1_000);
}

#[test]
fn nobody_is_judged_over_a_gap_of_the_observers_own() {
    let mut world = World::of(3);
    world.run(SECOND / 2);
    world.kill(1);
    world.alive.clear();
    // Nothing at all is heard for a minute, however often it is asked.
    world.now += 3 * SECOND;
    for _ in 0..600 {
        world.now += 100;
        world.judge();
    }
    assert_eq!(world.take(), Vec::<String>::new());
    let start = world.now;
    world.alive.insert(0, start);
    world.beat(0);
    assert_eq!(world.detector.gaps(), 1);
    world.run(2_999);
    assert_eq!(world.take(), Vec::<String>::new(), "the end of a connection before the gap is forgotten, a window has not passed");
    world.run(30 * SECOND);
    let expected = ["3000 B Suspect silent", "3000 C Suspect silent", "4000 B Dead silent", "9000 C Dead silent"];
    assert_eq!(world.stored_since(start), expected);
}

#[test]
fn an_explicit_gap_clears_what_was_pending() {
    let mut world = World::of(3);
    world.kill(1);
    world.detector.handle_gap(world.now);
    world.alive.insert(1, world.now);
    world.run(30 * SECOND);
    assert_eq!((world.take(), world.detector.gaps()), (Vec::new(), 1));
}

#[test]
fn a_new_observer_takes_over_what_is_stored_and_waits_for_whom_it_never_heard() {
    let mut before = World::of(4);
    before.silence(1);
    before.run(3_100);
    before.kill(2);
    before.run(SECOND / 5);
    let mut world = World::new(FailoverSettings::default());
    world.verdicts = before.verdicts.clone();
    world.detector.handle_verdicts(&world.verdicts, 0);
    world.detector.handle_expected(&host_id(3), None, 0);
    world.start(0, "local");
    // The suspect and the one of the plan are missed in the end; the one that is gone still is.
    world.run(60 * SECOND);
    assert_eq!(world.stored_since(0), ["30000 D Suspect silent", "31000 B Dead silent", "36000 D Dead silent"]);
    // The suspect is heard instead: by an observer that did not suspect it itself.
    let mut world = World::new(FailoverSettings::default());
    world.detector.handle_verdicts(&before.verdicts, 0);
    world.start(1, "local");
    assert_eq!(world.stored_since(0), ["0 B Healthy heard"]);
}

#[test]
fn one_host_is_gone_at_once_and_more_one_by_one() {
    let mut world = World::new(FailoverSettings::default());
    for n in 0..4 {
        world.start(n, &format!("region-{n}"));
    }
    world.run(10 * SECOND);
    let start = world.now;
    (1..4).for_each(|n| world.kill(n));
    world.run(30 * SECOND);
    let expected = [
        "100 B Dead process-gone",
        "100 C Suspect process-gone",
        "100 D Suspect process-gone",
        "5100 C Dead process-gone",
        "10100 D Dead process-gone",
    ];
    assert_eq!(world.stored_since(start), expected);
}

#[test]
fn many_at_once_freeze_their_site() {
    let mut world = World::of(6);
    world.start(10, "elsewhere");
    let start = world.now;
    (1..5).for_each(|n| world.kill(n));
    world.kill(10);
    world.run(50 * SECOND);
    assert_eq!(world.detector.frozen(world.now).keys().map(Region::as_str).collect::<Vec<_>>(), ["local"]);
    world.alive.insert(4, world.now);
    world.beat(4);
    world.run(60 * SECOND);
    let expected = [
        "100 freeze local 4/6",
        "100 B Suspect process-gone",
        "100 C Suspect process-gone",
        "100 D Suspect process-gone",
        "100 E Suspect process-gone",
        "100 K Dead process-gone",
        "50000 E Healthy heard",
        "60100 thaw local",
        "61100 B Dead process-gone",
        "71100 C Dead process-gone",
        "81100 D Dead process-gone",
    ];
    assert_eq!(world.stored_since(start), expected);
    assert!(world.detector.frozen(world.now).is_empty());
}

#[test]
fn a_third_of_a_site_is_no_cut() {
    let mut world = World::of(9);
    (1..4).for_each(|n| world.kill(n));
    world.run(30 * SECOND);
    assert!(world.take().iter().all(|line| !line.contains("freeze")), "three of nine are a third");
}

#[test]
fn goodbyes_and_the_operators_word_need_no_brakes() {
    let mut world = World::of(6);
    let start = world.now;
    for n in 1..4 {
        world.silence(n);
        let incarnation = world.hosts[&n].incarnation.clone();
        world.detector.handle_bye(&host_id(n), &incarnation, world.now);
    }
    world.detector.set_condemned(BTreeMap::from([(host_id(4), world.hosts[&4].incarnation.clone())]));
    world.run(SECOND);
    let mut stored = world.stored_since(start);
    stored.sort_unstable();
    assert_eq!(stored, ["0 B Dead left", "0 C Dead left", "0 D Dead left", "0 E Dead operator"]);
}

#[test]
fn what_the_operator_takes_for_gone_stays_so_although_it_is_heard() {
    let mut world = World::of(2);
    world.detector.set_condemned(BTreeMap::from([(host_id(1), world.hosts[&1].incarnation.clone())]));
    let start = world.now;
    world.run(60 * SECOND);
    assert_eq!(world.stored_since(start), ["0 B Dead operator"]);
    world.detector.set_condemned(BTreeMap::new());
    let start = world.now;
    world.run(60 * SECOND);
    assert_eq!(world.stored_since(start), ["0 B Returned heard", "3000 B Healthy heard"]);
}

#[test]
fn whoever_comes_back_again_and_again_waits_longer() {
    let mut world = World::of(2);
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.kill(1);
        world.run(6 * SECOND);
        let start = world.now;
        world.start(1, "local");
        world.run(250 * SECOND);
        let healthy = world.stored_since(start).into_iter().find(|line| line.contains("Healthy")).unwrap();
        waits.push(healthy.split(' ').next().unwrap().parse::<Millis>().unwrap() / SECOND);
    }
    assert_eq!(waits, [10, 60, 120, 240]);
    // Whoever was there for long enough begins anew.
    world.run(FLAP_WINDOW_MS);
    world.kill(1);
    world.run(6 * SECOND);
    world.start(1, "local");
    assert_eq!(world.verdicts.hosts[&host_id(1)].flaps, 1);
}

#[test]
fn waits_after_a_return() {
    let check = |profile, flaps, expected| {
        assert_eq!(hold_ms(&FailoverSettings { profile, ..FailoverSettings::default() }, flaps), expected, "{profile:?} {flaps}");
    };
    check(TimingProfile::Lan, 0, 0);
    let minutes = [10_000, 60_000, 120_000, 240_000, 480_000, 960_000, 1_800_000, 1_800_000];
    (1..).zip(minutes).for_each(|(flaps, expected)| check(TimingProfile::Lan, flaps, expected));
    check(TimingProfile::Lan, u32::MAX, 1_800_000);
    check(TimingProfile::Test, 1, 2_000);
    check(TimingProfile::Wan, 2, 180_000);
}

#[test]
fn a_host_that_is_silent_again_while_it_waits_waits_anew() {
    let mut world = World::of(2);
    world.kill(1);
    world.run(SECOND);
    let start = world.now;
    world.start(1, "local");
    world.run(5 * SECOND);
    world.silence(1);
    world.run(3_200);
    world.alive.insert(1, world.now);
    world.beat(1);
    world.run(30 * SECOND);
    let expected = ["0 B Returned heard", "8000 B Suspect silent", "8200 B Returned heard", "18200 B Healthy heard"];
    assert_eq!(world.stored_since(start), expected);
}

#[test]
fn errors_drain_a_host_until_they_are_gone() {
    let mut world = World::of(2);
    let start = world.now;
    for errors in [4, 5, 3, 1, 0, 0] {
        world.hosts.get_mut(&1).unwrap().error_count = errors;
        world.run(SECOND);
    }
    assert_eq!(world.stored_since(start), ["2000 B Degraded errors", "5000 B Healthy heard"]);
}

#[test]
fn of_two_processes_with_one_identity_the_newer_counts() {
    let mut world = World::of(2);
    let old = world.hosts[&1].clone();
    world.start(1, "local");
    for seq in 0..600 {
        world.run(SECOND / 10);
        let clone = HostReport { seq: 1_000 + seq, ..old.clone() };
        assert!(!world.detector.handle_heartbeat(&clone, world.now));
    }
    assert_eq!(world.take(), Vec::<String>::new());
    // The older one does not vouch for the newer.
    world.kill(1);
    world.run(SECOND / 2);
    assert!(!world.detector.handle_heartbeat(&HostReport { seq: 9_000, ..old }, world.now));
    world.run(SECOND);
    assert_eq!(world.take().len(), 1);
}

#[test]
fn the_end_of_a_lease_is_added_to_the_verdict_once() {
    let mut world = World::of(2);
    world.kill(1);
    world.run(SECOND);
    world.take();
    let start = world.now;
    for _ in 0..2 {
        world.detector.handle_lease_ended(&host_id(1), &Incarnation::new("01").unwrap(), world.now);
        world.run(SECOND);
    }
    assert_eq!(world.stored_since(start), ["0 B Dead process-gone"]);
    assert!(world.verdicts.hosts[&host_id(1)].lease_ended);
    // It is said as long as the host has not been given work again.
    world.alive.insert(1, world.now);
    world.beat(1);
    assert!(world.verdicts.hosts[&host_id(1)].lease_ended);
    world.run(20 * SECOND);
    assert!(!world.verdicts.hosts[&host_id(1)].lease_ended);
}

#[test]
fn a_host_that_another_observer_hears_is_not_gone() {
    let mut world = World::of(2);
    world.silence(1);
    world.run(3_100);
    for _ in 0..10 {
        let mut verdict = world.verdicts.hosts[&host_id(1)].clone();
        (verdict.standing, verdict.evidence) = (Standing::Healthy, Evidence::Heard);
        world.detector.handle_verdict(&host_id(1), Some(&verdict), world.now);
        world.run(3_100);
    }
    assert!(world.take().iter().all(|line| !line.contains("Dead")));
}

#[test]
fn a_verdict_that_was_not_stored_is_asked_for_again() {
    let mut detector = Detector::new(FailoverSettings::default(), 0);
    detector.handle_heartbeat(&report(0, "A"), 0);
    detector.handle_bye(&host_id(0), &Incarnation::new("01").unwrap(), 0);
    assert!(matches!(detector.poll(0), Some(Judgement::Store(_))));
    assert_eq!(detector.poll(1), None, "it is asked for once");
    detector.handle_verdict(&host_id(0), None, 2);
    assert!(matches!(detector.poll(2), Some(Judgement::Store(_))));
}

#[test]
fn ten_thousand_hosts_cost_no_more_deadlines_than_one_each() {
    let mut detector = Detector::new(FailoverSettings::default(), 0);
    let letter = |digit: u32| char::from_u32(u32::from('A') + digit).unwrap();
    let id = |n: u32| {
        HostId::new(format!("N{}{}", [n / 676, n / 26 % 26, n % 26].map(letter).iter().collect::<String>(), "A".repeat(52))).unwrap()
    };
    for round in 0..10_u64 {
        for n in 0..2_000 {
            let host = HostReport { id: id(n), seq: round + 1, ..report(0, "A") };
            assert!(detector.handle_heartbeat(&host, round * SECOND));
        }
        assert_eq!(detector.poll(round * SECOND), None);
        assert_eq!(detector.poll_timeout(round * SECOND), Some(3 * SECOND));
    }
}
