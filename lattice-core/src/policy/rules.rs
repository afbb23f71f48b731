//! Rules of a policy, and what they are about.

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::id::conversions;

/// Longest rule in bytes; the longest interface name has some 40.
pub const MAX_RULE_BYTES: usize = 128;
/// Most `*` in one rule: each of them costs a walk along the text.
const MAX_WILDCARDS: usize = 8;

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule `{text}` {reason}")]
pub struct InvalidRule {
    /// The text, escaped and cut.
    pub text: String,
    /// What it breaks.
    pub reason: &'static str,
}

/// One rule: a contract in either spelling, an interface of one, or a pattern in which `*` stands for any text and `?` for
/// one character. Never a regular expression.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule(String);

impl Rule {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`InvalidRule`] for empty and overlong texts, too many wildcards, and characters that are in no name.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidRule> {
        let text = text.into();
        let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.:/@*?".contains(&b);
        let reason = if text.is_empty() {
            "is empty"
        } else if text.len() > MAX_RULE_BYTES {
            "is longer than 128 bytes"
        } else if !text.bytes().all(known) {
            "may only hold letters, digits, `_-.:/@` and the wildcards `*` and `?`"
        } else if text.bytes().filter(|b| *b == b'*').count() > MAX_WILDCARDS {
            "holds more than 8 `*`"
        } else {
            return Ok(Self(text));
        };
        Err(InvalidRule { text: text.chars().take(80).flat_map(char::escape_debug).collect(), reason })
    }

    /// The rule as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the rule is about `point`: its contract in either spelling, or its interface. Versions make no difference.
    pub fn fits(&self, point: Point) -> bool {
        let pattern = self.0.split_once('@').map_or(self.0.as_str(), |(path, _version)| path);
        point.names().iter().any(|name| matches(pattern, name))
    }
}

conversions!(Rule, InvalidRule);

/// Whether `text` fits `pattern`. Looks at each character of the text at most once for each `*` of the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on if what follows the last `*` does not fit: the pattern after it, and the text one character later.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                again = Some((rest, text));
                pattern = rest;
                continue;
            }
            (Some((wanted, after)), Some((found, rest))) if wanted == found || *wanted == b'?' => {
                (pattern, text) = (after, rest);
                continue;
            }
            (Some(_) | None, _) => {}
        }
        let Some((rest, from)) = again else { return false };
        let Some((_, later)) = from.split_first() else { return false };
        again = Some((rest, later));
        (pattern, text) = (rest, later);
    }
}

/// Where an actor meets the world: the interfaces of contracts, each a place at which a call is allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// `wasi:keyvalue/store`.
    KeyValueStore,
    /// `wasi:keyvalue/atomics`.
    KeyValueAtomics,
    /// `wasi:keyvalue/batch`.
    KeyValueBatch,
    /// `wasmcloud:messaging/consumer`: publishing and asking.
    MessagingConsumer,
    /// `wasmcloud:messaging/handler`: getting messages.
    MessagingHandler,
    /// `wasi:http/incoming-handler`.
    HttpIncoming,
    /// `wasi:http/outgoing-handler`.
    HttpOutgoing,
}

impl Point {
    /// All points.
    pub const ALL: [Self; 7] = [
        Self::KeyValueStore,
        Self::KeyValueAtomics,
        Self::KeyValueBatch,
        Self::MessagingConsumer,
        Self::MessagingHandler,
        Self::HttpIncoming,
        Self::HttpOutgoing,
    ];

    /// Its contract.
    pub fn contract(self) -> Contract {
        match self {
            Self::KeyValueStore | Self::KeyValueAtomics | Self::KeyValueBatch => Contract::KeyValue,
            Self::MessagingConsumer | Self::MessagingHandler => Contract::Messaging,
            Self::HttpIncoming => Contract::HttpServer,
            Self::HttpOutgoing => Contract::HttpClient,
        }
    }

    /// Whether the actor is called here, rather than calls.
    pub fn is_entrance(self) -> bool {
        matches!(self, Self::MessagingHandler | Self::HttpIncoming)
    }

    /// The point of an interface, `wasi:keyvalue/store@0.2.0-draft`; none for what no policy is about.
    pub fn of_interface(name: &str) -> Option<Self> {
        let path = name.split_once('@').map_or(name, |(path, _version)| path);
        Self::ALL.into_iter().find(|point| point.interface() == path)
    }

    /// The points of a contract; none for the control plane's own.
    pub fn of_contract(contract: Contract) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |point| point.contract() == contract)
    }

    /// The interface.
    pub fn interface(self) -> &'static str {
        match self {
            Self::KeyValueStore => "wasi:keyvalue/store",
            Self::KeyValueAtomics => "wasi:keyvalue/atomics",
            Self::KeyValueBatch => "wasi:keyvalue/batch",
            Self::MessagingConsumer => "wasmcloud:messaging/consumer",
            Self::MessagingHandler => "wasmcloud:messaging/handler",
            Self::HttpIncoming => "wasi:http/incoming-handler",
            Self::HttpOutgoing => "wasi:http/outgoing-handler",
        }
    }

    /// Everything that a rule may call it by.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::KeyValueStore => &["wasmcloud:keyvalue", "wasi:keyvalue", "wasi:keyvalue/store"],
            Self::KeyValueAtomics => &["wasmcloud:keyvalue", "wasi:keyvalue", "wasi:keyvalue/atomics"],
            Self::KeyValueBatch => &["wasmcloud:keyvalue", "wasi:keyvalue", "wasi:keyvalue/batch"],
            Self::MessagingConsumer => &["wasmcloud:messaging", "wasmcloud:messaging/consumer"],
            Self::MessagingHandler => &["wasmcloud:messaging", "wasmcloud:messaging/handler"],
            // `wasi:http` alone is the server, as in links.
            Self::HttpIncoming => &["wasmcloud:httpserver", "wasi:http", "wasi:http/incoming-handler"],
            Self::HttpOutgoing => &["wasmcloud:httpclient", "wasi:http/outgoing-handler"],
        }
    }

    /// Its place in a table.
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let check = |pattern: &str, text: &str, expected: bool| assert_eq!(matches(pattern, text), expected, "{pattern} ~ {text}");
        check("*", "", true);
        check("a*", "abc", true);
        check("*c", "abc", true);
        check("a*c", "abcbc", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("abc", "abcd", false);
        check("abcd", "abc", false);
        check("**", "x", true);
        check("", "", true);
        check("", "x", false);
        check("*?", "", false);
    }

    #[test]
    fn a_pattern_that_would_be_a_bomb_is_none() {
        let text = "a".repeat(100_000);
        assert!(!matches("a*a*a*a*a*a*a*a*b", &text));
        assert!(matches("a*a*a*a*a*a*a*a*", &text));
        // What looks like a regular expression is refused, or means itself.
        for bad in ["(a+)+$", "[a-z]", "a|b", "^a", "", " ", "é", "a b", "a*a*a*a*a*a*a*a*a*", &"a".repeat(129)] {
            assert!(Rule::new(bad).is_err(), "{bad}");
        }
        assert!(!Rule::new("wasmcloud.keyvalue").unwrap().fits(Point::KeyValueStore), "a dot is a dot");
    }

    #[test]
    fn either_spelling_and_any_version() {
        let check = |rule: &str, expected: &[Point]| {
            let rule = Rule::new(rule).unwrap();
            let found: Vec<Point> = Point::ALL.into_iter().filter(|point| rule.fits(*point)).collect();
            assert_eq!(found, expected, "{rule}");
        };
        let all_of = |contract| Point::of_contract(contract).collect::<Vec<_>>();
        check("wasmcloud:keyvalue", &all_of(Contract::KeyValue));
        check("wasi:keyvalue", &all_of(Contract::KeyValue));
        check("wasi:keyvalue/*", &all_of(Contract::KeyValue));
        check("wasi:keyvalue/atomics@0.2.0-draft", &[Point::KeyValueAtomics]);
        check("wasmcloud:messaging", &all_of(Contract::Messaging));
        check("wasmcloud:messaging/handler", &[Point::MessagingHandler]);
        check("wasmcloud:http*", &[Point::HttpIncoming, Point::HttpOutgoing]);
        check("wasi:http/*", &[Point::HttpIncoming, Point::HttpOutgoing]);
        check("wasi:http", &[Point::HttpIncoming]);
        check("wasi:*", &[all_of(Contract::KeyValue), vec![Point::HttpIncoming, Point::HttpOutgoing]].concat());
        check("*", &Point::ALL);
        check("wasmcloud:keyvalu", &[]);
        check("WASMCLOUD:KEYVALUE", &[]);
    }

    #[test]
    fn points_and_contracts_name_the_same() {
        for point in Point::ALL {
            assert_eq!(Point::of_interface(point.interface()), Some(point));
            assert_eq!(Point::ALL.get(point.index()), Some(&point));
            let known = Contract::parse(point.interface()).unwrap();
            assert_eq!(known, point.contract());
            assert_eq!(known.exports().contains(&point.interface().split_once('/').unwrap().1), point.is_entrance());
        }
        for contract in Contract::ALL {
            let interfaces = contract.imports().len() + contract.exports().len();
            let expected = if contract == Contract::Store { 0 } else { interfaces };
            assert_eq!(Point::of_contract(contract).count(), expected, "{contract}");
        }
        assert_eq!(Point::of_interface("wasi:http/types@0.2.0"), None);
    }

    proptest::proptest! {
        #[test]
        fn globs_do_what_a_slow_reader_would(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), None) => slow(rest, text),
                    (Some((b'*', rest)), Some((_, later))) => slow(rest, text) || slow(pattern, later),
                    (Some((wanted, rest)), Some((found, later))) => (wanted == found || *wanted == b'?') && slow(rest, later),
                    _ => false,
                }
            }
            proptest::prop_assert_eq!(matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
