//! Any order of anything.

use proptest::prelude::*;

use super::*;

/// Something that an observer may come across, in any order.
#[derive(Debug, Clone)]
enum Input {
    Beat(u8, u32, u64),
    Cut(u8, u32, bool),
    Bye(u8, u32),
    Gap,
    Stored(u8, u32, Standing, bool),
    Pass(Millis),
}

fn input() -> impl Strategy<Value = Input> {
    let (host, start) = (0_u8..5, 1_u32..4);
    let standing = prop::sample::select(vec![Standing::Healthy, Standing::Degraded, Standing::Suspect, Standing::Dead, Standing::Returned]);
    prop_oneof![
        4 => (host.clone(), start.clone(), 0_u64..40).prop_map(|(host, start, seq)| Input::Beat(host, start, seq)),
        2 => (host.clone(), start.clone(), any::<bool>()).prop_map(|(host, start, gone)| Input::Cut(host, start, gone)),
        1 => (host.clone(), start.clone()).prop_map(|(host, start)| Input::Bye(host, start)),
        1 => Just(Input::Gap),
        1 => (host, start, standing, any::<bool>()).prop_map(|(host, start, standing, ended)| Input::Stored(host, start, standing, ended)),
        4 => (0_u64..4_000).prop_map(Input::Pass),
    ]
}

proptest! {
    /// Whoever was heard last, of the start that is judged, is not taken for gone before it was silent for long enough.
    #[test]
    fn no_order_of_inputs_makes_a_heard_host_dead(inputs in prop::collection::vec(input(), 1..200)) {
        let mut detector = Detector::new(FailoverSettings::default(), 0);
        let (mut now, mut heard) = (0, BTreeMap::<(HostId, Incarnation), Millis>::new());
        let start = |n: u32| Incarnation::new(format!("{n:02}")).unwrap();
        for input in inputs {
            match input {
                Input::Beat(n, incarnation, seq) => {
                    let host = HostReport { incarnation: start(incarnation), seq, ..report(n, &name(n)) };
                    if detector.handle_heartbeat(&host, now) {
                        heard.insert((host.id, host.incarnation), now);
                    }
                }
                Input::Cut(n, incarnation, gone) => {
                    let cut = if gone { Cut::ProcessGone } else { Cut::LinkDown };
                    if detector.handle_disconnect(&host_id(n), &start(incarnation), cut, now) {
                        heard.remove(&(host_id(n), start(incarnation)));
                    }
                }
                Input::Bye(n, incarnation) => {
                    detector.handle_bye(&host_id(n), &start(incarnation), now);
                    heard.remove(&(host_id(n), start(incarnation)));
                }
                Input::Gap => detector.handle_gap(now),
                Input::Stored(n, incarnation, standing, lease_ended) => {
                    let opinion = Opinion {
                        host: host_id(n),
                        name: HostName::new(name(n)).unwrap(),
                        region: Region::new("local").unwrap(),
                        incarnation: start(incarnation),
                        standing,
                        evidence: Evidence::Silent,
                        reason: String::new(),
                        lease_ended,
                        flaps: incarnation,
                        noticed: 0,
                        silent_ms: 0,
                    };
                    if standing == Standing::Dead {
                        // That it is gone is somebody else's word then.
                        heard.remove(&(host_id(n), start(incarnation)));
                    }
                    detector.handle_verdict(&host_id(n), Some(&opinion.verdict(0, "other")), now);
                }
                Input::Pass(ms) => now += ms,
            }
            for _ in 0..100 {
                let Some(judgement) = detector.poll(now) else { break };
                if let Judgement::Store(opinion) = judgement {
                    let last = heard.get(&(opinion.host.clone(), opinion.incarnation.clone()));
                    let silent = last.is_none_or(|at| now - at >= 3_000);
                    prop_assert!(opinion.standing != Standing::Dead || silent, "{opinion:?} heard at {last:?}, now {now}");
                    detector.handle_verdict(&opinion.host, Some(&opinion.verdict(0, "test")), now);
                }
            }
            prop_assert_eq!(detector.poll(now), None, "it comes to rest");
        }
    }
}
