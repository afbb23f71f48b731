//! Arguments that several verbs share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use lattice_core::error::Problem;
use lattice_core::id::HostId;
use lattice_core::inventory::Inventory;

use crate::problems;

/// Which hosts are meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HostsArg {
    /// Hosts: ids, names or unique beginnings of either; several with commas or by repeating the flag
    #[arg(long = "host", visible_alias = "hosts", alias = "host-id", value_name = "HOST", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
}

/// Which hosts an actor shall run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostChoice {
    /// Nothing was said.
    Unsaid,
    /// The plan chooses.
    Any,
    /// These.
    Named(BTreeSet<HostId>),
}

/// What stands for the plan's choice instead of a host.
const ANY_HOST: &str = "any";

impl HostsArg {
    /// The hosts that an actor shall run on; `any` leaves the choice to the plan.
    ///
    /// # Errors
    /// As [`HostsArg::find`].
    pub(crate) fn choice(&self, inventory: &Inventory) -> Result<HostChoice, Problem> {
        match self.hosts.as_slice() {
            [] => Ok(HostChoice::Unsaid),
            [any] if any.trim() == ANY_HOST => Ok(HostChoice::Any),
            _ => self.find(inventory).map(HostChoice::Named),
        }
    }

    /// The hosts that are meant.
    ///
    /// # Errors
    /// `host not found: …` with the nearest names.
    pub(crate) fn find(&self, inventory: &Inventory) -> Result<BTreeSet<HostId>, Problem> {
        self.hosts.iter().map(|text| inventory.find(text.trim())).collect()
    }
}

/// Reads `250ms`, `5s`, `2m`, `1h`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("give a time like 250ms, 5s, 2m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "give a time like 250ms, 5s, 2m or 1h".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// Reads `name=value`; the value may be empty or hold further `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        Some(_) | None => Err("must be name=value".to_owned()),
    }
}

/// Pairs as a map.
///
/// # Errors
/// A usage problem if a name stands there twice.
pub(crate) fn map(what: &str, pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, Problem> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(problems::usage(format!("{what} `{name}` is given twice")));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check =
            |text: &str, expected: Option<u64>| assert_eq!(duration(text).ok().map(|time| time.as_millis() as u64), expected, "{text}");
        check("250ms", Some(250));
        check("5s", Some(5000));
        check("1.5m", Some(90_000));
        check("7", Some(7000));
        for bad in ["", "s", "-1s", "5 s", "5x", "1e400", "99999999999999999999h"] {
            check(bad, None);
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(pair("a=").unwrap(), ("a".into(), String::new()));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert!(map("value", &[("a".into(), "1".into()), ("a".into(), "2".into())]).unwrap_err().message.contains("twice"));
    }
}
