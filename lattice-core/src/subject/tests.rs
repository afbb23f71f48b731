use super::*;

fn pattern(text: &str) -> SubjectPattern {
    SubjectPattern::new(text).unwrap()
}

#[test]
fn hostile_subjects_are_refused() {
    for bad in ["", "a..b", ".a", "a.", "a b", "a\tb", "a.>.b", "a.b*", "a.>b", "a\u{0}b", &"a".repeat(513)] {
        assert!(SubjectPattern::new(bad).is_err(), "{bad:?}");
        assert!(check_subject(bad).is_err(), "{bad:?}");
    }
    assert!(check_subject("edge.*").is_err());
    assert!(check_subject("edge.sensor.ap-east-1").is_ok());
    assert!(is_reserved("$SYS.x") && is_reserved("$JS.API.STREAM.DELETE.x") && is_reserved("lat.default.hb") && is_reserved("_INBOX.x"));
    assert!(!is_reserved("latitude.x") && !is_reserved("edge.sensor.x"));
}

#[test]
fn matching() {
    let check = |p: &str, s: &str, expected: bool| assert_eq!(pattern(p).matches(s), expected, "{p} ~ {s}");
    check("edge.sensor.*", "edge.sensor.eu", true);
    check("edge.sensor.*", "edge.sensor.eu.1", false);
    check("edge.sensor.*", "edge.sensor", false);
    check("edge.>", "edge.a.b", true);
    check("edge.>", "edge", false);
    check(">", "a", true);
}

#[test]
fn covering_and_overlapping() {
    let check = |a: &str, b: &str, covers: bool, overlaps: bool| {
        assert_eq!(pattern(a).covers(&pattern(b)), covers, "{a} covers {b}");
        assert_eq!(pattern(a).overlaps(&pattern(b)), overlaps, "{a} overlaps {b}");
        assert_eq!(pattern(b).overlaps(&pattern(a)), overlaps, "{b} overlaps {a}");
    };
    check("edge.sensor.>", "edge.sensor.*", true, true);
    check("edge.sensor.*", "edge.sensor.>", false, true);
    check("edge.*.eu", "edge.sensor.*", false, true);
    check("edge.sensor.a", "edge.sensor.b", false, false);
    check("edge.sensor.>", "edge.sensor", false, false);
    check("edge.sensor.>", "edge.sensor.>", true, true);
}

#[test]
fn keys_escape_any_text_and_stay_apart() {
    let check = |part: &str, expected: &str| assert_eq!(escape_key_part(part), expected);
    check("sensor-001", "sensor-001");
    check("a.b", "a=2Eb");
    check("=", "=3D");
    check("", "=");
    check("é", "=C3=A9");
    check("a>*\n", "a=3E=2A=0A");
}

#[test]
fn what_the_scheduler_hears() {
    let check = |subject: &str, expected: Option<Heard>| {
        let found = Heard::of_subject(subject);
        assert!(found.as_ref().is_none_or(|(lattice, _)| lattice.as_str() == "default"));
        assert_eq!(found.map(|(_, heard)| heard), expected, "{subject}");
    };
    let lattice = LatticeName::new("default").unwrap();
    check("lat.default.hb.eu.N", Some(Heard::Heartbeat));
    check("lat.default.changed.desired.component.a", Some(Heard::DesiredChanged));
    check("lat.default.changed.verdict.host.N", Some(Heard::VerdictChanged));
    check("lat.default.changed.policy.policy.edge", Some(Heard::PolicyChanged));
    for verb in SchedulerVerb::ALL {
        check(&scheduler_request(&lattice, verb), Some(Heard::Question(verb)));
    }
    for other in
        ["lat.default.changed.other.x", "lat.default.sched.place.x", "lat.default.call.a", "lat.default", "edge.default.hb.eu.N", ""]
    {
        check(other, None);
    }
}

#[test]
fn regions() {
    assert_eq!(region_of("edge.sensor.ap-east-1"), Some("ap-east-1"));
    assert_eq!(region_of("edge.sensor.eu.floor1"), Some("eu"));
    assert_eq!(region_of("edge.sensor"), None);
    assert_eq!(region_of("other.sensor.eu"), None);
}
