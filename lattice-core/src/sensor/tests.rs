use proptest::prelude::*;

use super::*;

const PLACE: Place<'_> = Place { node_id: "NEDGE01", now: 1_800_000_000 };
const SEED: &str = r#"{"device_id":"sensor-001","temperature":92.5,"humidity":78.3,"timestamp":1718668800,"region":"ap-east-1"}"#;
const SHORT: &str = r#"{"device":"sensor-001","temp":92.5}"#;

fn from_subject(subject: &str, body: &[u8]) -> Effects {
    process(Arrival { subject: Some(subject), body }, &ActorConfig::default(), PLACE)
}

fn over_http(body: &str) -> Effects {
    process(Arrival { subject: None, body: body.as_bytes() }, &ActorConfig::default(), PLACE)
}

fn subjects(effects: &Effects) -> Vec<&str> {
    effects.publish.iter().map(|publication| publication.subject.as_str()).collect()
}

/// What is wrong with `body` on `edge.sensor.eu`, after checking that a malformed reading does what it must.
fn refusal(body: &[u8]) -> String {
    let effects = from_subject("edge.sensor.eu", body);
    assert!(effects.store.is_none());
    assert_eq!(effects.count, Counter::Malformed);
    assert_eq!(subjects(&effects), ["edge.dead.eu"]);
    let letter: DeadLetter = serde_json::from_slice(&effects.publish[0].body).unwrap();
    assert_eq!((letter.subject.as_str(), letter.size), ("edge.sensor.eu", body.len()));
    assert!(letter.reason.chars().count() <= MAX_REASON_CHARS + 1);
    letter.reason
}

#[test]
fn the_article_s_reading_is_critical() {
    let effects = from_subject("edge.sensor.ap-east-1", SEED.as_bytes());
    let result = r#"{"device_id":"sensor-001","alert_level":"critical","processed_at":1718668800,"node_id":"NEDGE01"}"#;
    assert_eq!(subjects(&effects), ["edge.result.ap-east-1", "edge.alert.ap-east-1"]);
    assert!(effects.publish.iter().all(|publication| publication.body == result.as_bytes()));
    assert_eq!(effects.answer(), result.as_bytes());
    assert_eq!(effects.count.key(), "_stats-critical");
    let (key, value) = effects.store.unwrap();
    assert_eq!(key, "ap-east-1.sensor-001");
    assert_eq!(
        String::from_utf8(value).unwrap(),
        r#"{"device_id":"sensor-001","temperature":92.5,"humidity":78.3,"timestamp":1718668800,"region":"ap-east-1","alert_level":"critical","processed_at":1718668800,"node_id":"NEDGE01"}"#
    );
}

#[test]
fn the_short_form_takes_region_and_time_from_outside() {
    let effects = from_subject("edge.sensor.ap-east-1", SHORT.as_bytes());
    let result = effects.outcome.as_ref().unwrap();
    assert_eq!((result.processed_at, result.alert_level), (PLACE.now, AlertLevel::Critical));
    let last: LastValue = serde_json::from_slice(&effects.store.unwrap().1).unwrap();
    assert_eq!((last.region.as_str(), last.humidity, last.timestamp), ("ap-east-1", None, None));
}

#[test]
fn levels() {
    let check = |temperature: f64, humidity: Option<f64>, expected: AlertLevel| {
        let data = SensorData { device_id: "a".into(), temperature, humidity, timestamp: None, region: None };
        assert_eq!(decide(&data, &ActorConfig::default()), expected, "{temperature} {humidity:?}");
    };
    check(85.0, Some(90.0), AlertLevel::Normal);
    check(85.1, Some(90.0), AlertLevel::Critical);
    check(85.0, Some(90.1), AlertLevel::Warning);
    check(85.1, Some(90.1), AlertLevel::Critical);
    check(-40.0, None, AlertLevel::Normal);
}

#[test]
fn alerts_can_be_switched_off() {
    let config = ActorConfig { alert_enabled: false, ..ActorConfig::default() };
    let effects = process(Arrival { subject: Some("edge.sensor.eu"), body: SHORT.as_bytes() }, &config, PLACE);
    assert_eq!(subjects(&effects), ["edge.result.eu"]);
}

#[test]
fn a_normal_reading_is_no_alert() {
    let effects = from_subject("edge.sensor.eu", br#" {"device":"a","temp":20,"battery":{"volts":[3.3]},"humidity":null} "#);
    assert_eq!(subjects(&effects), ["edge.result.eu"]);
    assert_eq!(effects.count, Counter::Level(AlertLevel::Normal));
}

#[test]
fn malformed_readings_are_refused_with_a_reason() {
    let check = |body: &str, part: &str| {
        let reason = refusal(body.as_bytes());
        assert!(reason.contains(part), "{body}: {reason}");
    };
    check("", "EOF");
    check("null", "invalid type: null");
    check("[\"a\",1.0,null,null,null]", "not a JSON object");
    check(r#"{"temp":1}"#, "missing field `device_id`");
    check(r#"{"device":"a"}"#, "missing field `temperature`");
    check(r#"{"device":"a","temp":"hot"}"#, "invalid type: string \"hot\", expected f64");
    check(r#"{"device":"a","temp":null}"#, "invalid type: null");
    check(r#"{"device":"a","temp":NaN}"#, "expected value");
    check(r#"{"device":"a","temp":1e309}"#, "number out of range");
    check(r#"{"device":"a","temp":1,"temp":2}"#, "duplicate field `temperature`");
    check(r#"{"device":"a","device_id":"b","temp":1}"#, "duplicate field `device_id`");
    check(r#"{"device":"a","temp":1}{}"#, "trailing characters");
    check(r#"{"device":"a","temp":1,"timestamp":-1}"#, "invalid value: integer `-1`");
    check(r#"{"device":"","temp":1}"#, "device_id is empty");
    check(&format!(r#"{{"device":"{}","temp":1}}"#, "a".repeat(129)), "device_id has 129 bytes, at most 128");
    check(&format!(r#"{{"device":"{}","temp":1}}"#, ".".repeat(100)), "make a key of 303 bytes");
    check(r#"{"device":"a","temp":1,"region":"us"}"#, "region `us` contradicts the subject's region `eu`");
    check(r#"{"device":"a","temp":1,"region":""}"#, "contradicts");
    check(&"[".repeat(100_000), "not a JSON object");
    check(&format!(r#"{{"x":{}1{},"device":"a","temp":1}}"#, "[".repeat(32), "]".repeat(32)), "nested deeper than 32 levels");
    check(&format!(r#"{{"device":"a","temp":1}}{}"#, " ".repeat(MAX_READING_BYTES)), "at most 262144 are allowed");
    check(&format!(r#"{{"device":"a","temp":"{}"}}"#, "x".repeat(100_000)), "invalid type: string");
}

#[test]
fn a_payload_that_is_no_text_travels_as_base64() {
    let body = b"{\"device\":\"a\",\"temp\":1,\"note\":\"\xff\"}";
    assert!(refusal(body).contains("not UTF-8 at byte 31"));
    let effects = from_subject("edge.sensor.eu", body);
    let letter: DeadLetter = serde_json::from_slice(&effects.publish[0].body).unwrap();
    assert_eq!((letter.encoding, letter.payload.as_str()), (Encoding::Base64, "eyJkZXZpY2UiOiJhIiwidGVtcCI6MSwibm90ZSI6Iv8ifQ=="));
}

#[test]
fn regions_come_from_the_subject_or_the_reading() {
    let check = |subject: Option<&str>, region: Option<&str>, expected: Result<&str, &str>| {
        let body = serde_json::to_vec(&serde_json::json!({"device": "a", "temp": 1, "region": region})).unwrap();
        let effects = process(Arrival { subject, body: &body }, &ActorConfig::default(), PLACE);
        let found = effects.store.map(|(key, _)| key).ok_or_else(|| effects.outcome.unwrap_err().to_string());
        match expected {
            Ok(key) => assert_eq!(found.unwrap(), key),
            Err(part) => assert!(found.unwrap_err().contains(part), "{subject:?} {region:?}"),
        }
    };
    check(Some("edge.sensor.eu"), None, Ok("eu.a"));
    check(Some("edge.sensor.eu.floor1"), Some("eu"), Ok("eu.a"));
    check(Some("factory.raw"), Some("eu"), Ok("eu.a"));
    check(None, Some("eu"), Ok("eu.a"));
    check(Some("factory.raw"), None, Err("region is missing"));
    check(None, None, Err("region is missing"));
    check(None, Some("a.>"), Err("may only hold letters"));
    check(Some("edge.sensor.é"), None, Err("may only hold letters"));
    check(None, Some("_kv"), Err("region `_kv` is reserved"));
}

#[test]
fn without_a_region_there_is_no_dead_letter() {
    assert!(over_http("nonsense").publish.is_empty());
    assert!(over_http(r#"{"device":"","temp":1,"region":"eu"}"#).publish.is_empty(), "whoever sent it is told at once");
    assert!(from_subject("factory.raw", b"nonsense").publish.is_empty());
}

#[test]
fn whoever_waits_for_an_answer_is_told_what_is_wrong() {
    let effects = over_http(r#"{"device":"","temp":1,"region":"eu"}"#);
    assert_eq!(effects.answer(), br#"{"error":{"code":"malformed","message":"device_id is empty"}}"#);
    assert!(!effects.outcome.unwrap_err().is_too_large());
    assert!(over_http(&" ".repeat(MAX_READING_BYTES + 1)).outcome.unwrap_err().is_too_large());
}

#[test]
fn config_values() {
    let none: [(&str, &str); 0] = [];
    assert_eq!(ActorConfig::from_pairs(none).unwrap(), ActorConfig { temp_threshold: 85.0, humidity_threshold: 90.0, alert_enabled: true });
    let config =
        ActorConfig::from_pairs([("temp_threshold", "-3"), ("humidity_threshold", " 1e2 "), ("alert_enabled", "false"), ("other", "x")]);
    assert_eq!(config.unwrap(), ActorConfig { temp_threshold: -3.0, humidity_threshold: 100.0, alert_enabled: false });

    let check = |key: &str, value: &str, expected: &str| {
        assert_eq!(ActorConfig::from_pairs([(key, value)]).unwrap_err().to_string(), expected);
    };
    check("temp_threshold", "hot", "config value temp_threshold=`hot` is no finite number");
    check("temp_threshold", "", "config value temp_threshold=`` is no finite number");
    check("humidity_threshold", "NaN", "config value humidity_threshold=`NaN` is no finite number");
    check("humidity_threshold", "1e999", "config value humidity_threshold=`1e999` is no finite number");
    check("alert_enabled", "yes", "config value alert_enabled=`yes` is neither `true` nor `false`");
    check("alert_enabled", "\u{1b}[31m", "config value alert_enabled=`\\u{1b}[31m` is neither `true` nor `false`");
}

#[test]
fn counters_are_decimal_numbers() {
    let mut stats = Stats::default();
    for (counter, stored) in Counter::ALL.into_iter().zip(["4", "3", "2", "18446744073709551615"]) {
        stats.set(counter, stored.as_bytes()).unwrap();
    }
    assert_eq!(stats, Stats { critical: 4, warning: 3, normal: 2, malformed: u64::MAX });
    let error = stats.set(Counter::Malformed, b"x").unwrap_err();
    assert_eq!(error.to_string(), "key _stats-malformed holds no decimal number");
}

proptest! {
    #[test]
    fn any_bytes_are_handled(subject in "[a-z.é>*]{0,20}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        let effects = from_subject(&subject, &body);
        prop_assert!(effects.publish.len() <= 2);
        prop_assert!(!effects.answer().is_empty());
    }

    #[test]
    fn any_json_is_handled(body in r#"\{("(device|temp|region|humidity)":("[a-z]{0,3}"|-?[0-9]{1,4}(e[0-9]{1,3})?|null|\[\]),?){0,5}\}?"#) {
        let effects = from_subject("edge.sensor.eu", body.as_bytes());
        prop_assert_eq!(effects.store.is_some(), effects.outcome.is_ok());
    }

    #[test]
    fn any_device_has_one_key_of_its_own(a in ".{1,30}", b in ".{1,30}") {
        let region = Region::new("eu").unwrap();
        if let (Ok(key_a), Ok(key_b)) = (device_key(&region, &a), device_key(&region, &b)) {
            prop_assert_eq!(a == b, key_a == key_b);
            prop_assert!(key_a.len() <= 256);
            prop_assert!(key_a.split('.').count() == 2 && key_a.split('.').all(|part| !part.is_empty()));
            prop_assert!(key_a.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_=.-".contains(&byte)));
            prop_assert!(Counter::ALL.iter().all(|counter| counter.key() != key_a));
        }
    }

    #[test]
    fn a_good_reading_keeps_what_it_says(
        id in "[^\u{0}]{1,20}",
        temperature in (-100_000..100_000_i32).prop_map(|hundredths| f64::from(hundredths) / 100.0),
        humidity in prop::option::of((0..10_000_u16).prop_map(|hundredths| f64::from(hundredths) / 100.0)),
        timestamp in prop::option::of(any::<u64>()),
    ) {
        let data = SensorData { device_id: id, temperature, humidity, timestamp, region: Some("eu".to_owned()) };
        let effects = from_subject("edge.sensor.eu", &to_json(&data));
        let last: LastValue = serde_json::from_slice(&effects.store.unwrap().1).unwrap();
        prop_assert_eq!((&last.device_id, last.temperature, last.humidity, last.timestamp), (&data.device_id, temperature, humidity, timestamp));
        let result = effects.outcome.unwrap();
        prop_assert_eq!(result.alert_level, decide(&data, &ActorConfig::default()));
        prop_assert_eq!(result.processed_at, timestamp.unwrap_or(PLACE.now));
    }
}
