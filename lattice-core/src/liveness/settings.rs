//! What the operator tells failure detection: the config `failover`.

use std::time::Duration;

use crate::desired::Desired;
use crate::id::ConfigName;
use crate::system::SystemActor;
use crate::timing::{CONFIRMATIONS, TimingProfile};

/// Short name of the config; the actor's own name works too, and wins.
pub const CONFIG: &str = "failover";
/// Ceiling of silence in milliseconds, unless the operator says otherwise.
const HEARTBEAT_TIMEOUT_MS: u64 = 30_000;
/// Least ceiling that he may say: below it a busy machine is enough to be taken for gone.
const MIN_HEARTBEAT_TIMEOUT_MS: u64 = 500;
/// Most: a day.
const MAX_HEARTBEAT_TIMEOUT_MS: u64 = 86_400_000;
/// Errors of its own within a minute from which on a host is drained, unless the operator says otherwise.
const MAX_ERROR_COUNT: u32 = 5;

/// Settings of failure detection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverSettings {
    /// Hard ceiling of silence before a host is suspect, in milliseconds: `heartbeat_timeout_ms`.
    pub heartbeat_timeout_ms: u64,
    /// Errors of its own within a minute from which on a host is drained: `max_error_count`.
    pub max_error_count: u32,
    /// How patient detection is: `profile`.
    pub profile: TimingProfile,
    /// Whether the work of a dead host moves by itself: `auto_failover`.
    pub auto_failover: bool,
    /// Values that make no sense; the defaults stand for them.
    pub faults: Vec<String>,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            heartbeat_timeout_ms: HEARTBEAT_TIMEOUT_MS,
            max_error_count: MAX_ERROR_COUNT,
            profile: TimingProfile::default(),
            auto_failover: true,
            faults: Vec::new(),
        }
    }
}

impl FailoverSettings {
    /// The settings in desired state; names in either spelling, `max_error_count` or `max-error-count`.
    pub fn of(desired: &Desired) -> Self {
        let mut settings = Self::default();
        let named = |name: &str| ConfigName::new(name).ok().and_then(|name| desired.configs.get(&name));
        for config in [CONFIG, SystemActor::Failover.as_str()].into_iter().filter_map(named) {
            for (name, value) in &config.values {
                if settings.set(name, value).is_none() {
                    let shown = |text: &str| -> String { text.chars().take(80).flat_map(char::escape_debug).collect() };
                    settings.faults.push(format!("`{}` = `{}`", shown(name), shown(value)));
                }
            }
        }
        settings
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name.replace('_', "-").as_str() {
            "heartbeat-timeout-ms" => {
                let range = MIN_HEARTBEAT_TIMEOUT_MS..=MAX_HEARTBEAT_TIMEOUT_MS;
                self.heartbeat_timeout_ms = value.parse().ok().filter(|ms| range.contains(ms))?;
            }
            "max-error-count" => self.max_error_count = value.parse().ok().filter(|count| *count > 0)?,
            "profile" => self.profile = TimingProfile::ALL.into_iter().find(|profile| profile.as_str() == value)?,
            "auto-failover" => self.auto_failover = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// From the first silence of a host, longer than usual, to its verdict in milliseconds: what a failover takes at most
    /// before anything was measured.
    pub fn expected_downtime_ms(&self) -> u64 {
        let silence = millis(self.profile.suspicion_floor()).min(self.heartbeat_timeout_ms);
        silence.saturating_add(millis(self.profile.confirm()).saturating_mul(CONFIRMATIONS.into()))
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(config: &str, values: &[(&str, &str)]) -> FailoverSettings {
        let mut desired = Desired::default();
        let values: BTreeMap<String, String> = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        desired.put_config(ConfigName::new(config).unwrap(), values).unwrap();
        FailoverSettings::of(&desired)
    }

    #[test]
    fn they_come_from_the_config_failover_in_either_spelling() {
        assert_eq!(FailoverSettings::of(&Desired::default()), FailoverSettings::default());
        let expected = FailoverSettings {
            heartbeat_timeout_ms: 4_000,
            max_error_count: 2,
            profile: TimingProfile::Wan,
            auto_failover: false,
            faults: Vec::new(),
        };
        let underscores = [("heartbeat_timeout_ms", "4000"), ("max_error_count", "2"), ("profile", "wan"), ("auto_failover", "false")];
        let dashes = [("heartbeat-timeout-ms", "4000"), ("max-error-count", "2"), ("profile", "wan"), ("auto-failover", "false")];
        assert_eq!(settings("failover", &underscores), expected);
        assert_eq!(settings("lattice-failover", &dashes), expected);
    }

    #[test]
    fn what_makes_no_sense_is_named_and_has_no_effect() {
        let bad = [
            ("heartbeat_timeout_ms", "0"),
            ("heartbeat_timeout_ms", "-1"),
            ("heartbeat_timeout_ms", "99999999999999999999"),
            ("max_error_count", "0"),
            ("profile", "moon"),
            ("auto_failover", "maybe"),
            ("colour", "red"),
        ];
        for bad in bad {
            let found = settings("failover", &[bad]);
            assert_eq!(found.faults, [format!("`{}` = `{}`", bad.0, bad.1)]);
            assert_eq!(FailoverSettings { faults: Vec::new(), ..found }, FailoverSettings::default());
        }
    }

    #[test]
    fn expected_downtime() {
        let check = |profile, heartbeat_timeout_ms, expected| {
            let settings = FailoverSettings { profile, heartbeat_timeout_ms, ..FailoverSettings::default() };
            assert_eq!(settings.expected_downtime_ms(), expected, "{profile:?}");
        };
        check(TimingProfile::Lan, 30_000, 4_000);
        check(TimingProfile::Wan, 30_000, 24_000);
        check(TimingProfile::Test, 30_000, 1_400);
        check(TimingProfile::Lan, 1_000, 2_000);
    }
}
