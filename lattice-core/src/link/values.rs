//! Reading the values of a link: text by name in, checked numbers, flags, words and patterns out.

use std::collections::BTreeMap;

use super::{LinkError, MAX_PATTERNS, MAX_VALUE_BYTES};
use crate::contract::Contract;
use crate::subject::SubjectPattern;

/// One spelling for value names: lower case, `-` between words; the short forms of the seed's flags are accepted.
pub(super) fn normal(name: &str) -> String {
    let name = name.trim().to_ascii_lowercase().replace('_', "-");
    match name.as_str() {
        "timeout" => "timeout-ms".to_owned(),
        "retry-delay" => "retry-delay-ms".to_owned(),
        "subscriptions" => "subscription".to_owned(),
        "allow-hosts" | "allowed-host" | "allowed-hosts" => "allow-host".to_owned(),
        "cluster-uris" => "cluster-uri".to_owned(),
        _ => name,
    }
}

/// The values of one link in one spelling.
pub(super) struct Values<'a> {
    pub(super) values: &'a BTreeMap<String, String>,
}

impl Values<'_> {
    /// How calls over the link are tried again. Requests are not: only the actor knows which may be sent twice.
    const RETRIES: [&'static str; 2] = ["retry-count", "retry-delay-ms"];

    pub(super) fn check_known(&self, contract: Contract) -> Result<(), LinkError> {
        let own: &[&str] = match contract {
            Contract::KeyValue => &["bucket", "region"],
            Contract::Messaging => &["subscription", "delivery", "publish", "cluster-uri", "force"],
            Contract::HttpServer => &["port", "address"],
            Contract::HttpClient => &["allow-host", "force"],
            Contract::Store => &[],
        };
        let retries = if contract == Contract::HttpClient { &[] } else { &Self::RETRIES[..] };
        let known: Vec<&str> = own.iter().chain(&["timeout-ms"]).chain(retries).copied().collect();
        match self.values.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, value)) if Self::RETRIES.contains(&name.as_str()) => {
                Err(LinkError::value(name, value, "requests are not tried again: only the actor knows which may be sent twice"))
            }
            Some((name, _)) => Err(LinkError::Unknown { name: name.chars().take(80).collect(), contract, known: known.join(", ") }),
            None => Ok(()),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, LinkError> {
        match self.values.get(name) {
            Some(value) if value.len() > MAX_VALUE_BYTES => Err(LinkError::value(name, value, "is longer than 1024 bytes")),
            Some(value) if value.chars().any(char::is_control) => Err(LinkError::value(name, value, "holds a control character")),
            Some(value) if value.is_empty() => Err(LinkError::value(name, value, "is empty")),
            found => Ok(found.map(String::as_str)),
        }
    }

    pub(super) fn number(&self, name: &str, default: u32, max: u32) -> Result<u32, LinkError> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        match text.parse::<u32>() {
            Ok(number) if number <= max => Ok(number),
            Ok(_) | Err(_) => Err(LinkError::value(name, text, format!("must be a whole number from 0 to {max}"))),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, LinkError> {
        Ok(self.choice(name, &[("true", true), ("false", false)])?.unwrap_or(false))
    }

    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, LinkError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| Some(*value));
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        found.ok_or_else(|| LinkError::value(name, text, format!("must be one of {}", words.join(", "))))
    }

    pub(super) fn patterns(&self, name: &str) -> Result<Vec<SubjectPattern>, LinkError> {
        let Some(text) = self.text(name)? else { return Ok(Vec::new()) };
        let patterns: Result<Vec<_>, _> = text.split(',').map(|part| SubjectPattern::new(part.trim())).collect();
        let patterns = patterns.map_err(|error| LinkError::value(name, text, error.to_string()))?;
        if patterns.len() > MAX_PATTERNS {
            return Err(LinkError::value(name, text, "has more than 32 patterns"));
        }
        Ok(patterns)
    }
}
