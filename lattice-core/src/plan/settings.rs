//! What the operator tells the scheduler: the config that is named like it.

use crate::desired::Desired;
use crate::id::ConfigName;
use crate::needs::Strategy;
use crate::system::SystemActor;

/// Actors that leave one draining host at the same time, unless the operator says otherwise.
const LEAVE_AT_ONCE: usize = 20;
/// Most that he may say.
const MAX_LEAVE_AT_ONCE: usize = 10_000;

/// Settings of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How hosts are chosen for actors that do not say it: `strategy`.
    pub strategy: Strategy,
    /// How many actors leave one draining host at the same time, the others follow when those have arrived elsewhere:
    /// `leave-at-once`.
    pub leave_at_once: usize,
    /// Values that make no sense; the defaults stand for them.
    pub faults: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { strategy: Strategy::default(), leave_at_once: LEAVE_AT_ONCE, faults: Vec::new() }
    }
}

impl Settings {
    /// The settings in desired state; names in either spelling, `leave_at_once` or `leave-at-once`.
    pub fn of(desired: &Desired) -> Self {
        let mut settings = Self::default();
        let config = ConfigName::new(SystemActor::Scheduler.as_str()).ok().and_then(|name| desired.configs.get(&name));
        for (name, value) in config.iter().flat_map(|config| &config.values) {
            let understood = match name.replace('_', "-").as_str() {
                "strategy" => {
                    Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == value).map(|strategy| settings.strategy = strategy)
                }
                "leave-at-once" => {
                    let number = value.parse().ok().filter(|number| (1..=MAX_LEAVE_AT_ONCE).contains(number));
                    number.map(|number| settings.leave_at_once = number)
                }
                _ => None,
            };
            if understood.is_none() {
                let shown = |text: &str| -> String { text.chars().take(80).flat_map(char::escape_debug).collect() };
                settings.faults.push(format!("`{}` = `{}`", shown(name), shown(value)));
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(values: &[(&str, &str)]) -> Settings {
        let mut desired = Desired::default();
        let values: BTreeMap<String, String> = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        desired.put_config(ConfigName::new("lattice-scheduler").unwrap(), values).unwrap();
        Settings::of(&desired)
    }

    #[test]
    fn they_come_from_the_config_that_is_named_like_the_scheduler() {
        assert_eq!(Settings::of(&Desired::default()), Settings::default());
        let found = settings(&[("strategy", "pack"), ("leave_at_once", "3")]);
        assert_eq!((found.strategy, found.leave_at_once, found.faults.len()), (Strategy::Pack, 3, 0));
    }

    #[test]
    fn what_makes_no_sense_is_named_and_has_no_effect() {
        for bad in [("strategy", "fastest"), ("leave-at-once", "0"), ("leave-at-once", "-1"), ("leave-at-once", "99999"), ("colour", "red")]
        {
            let found = settings(&[bad]);
            assert_eq!(found.faults, [format!("`{}` = `{}`", bad.0, bad.1)]);
            assert_eq!(Settings { faults: Vec::new(), ..found }, Settings::default());
        }
    }
}
