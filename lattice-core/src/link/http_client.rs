//! HTTP client links: which hosts an actor may send requests to.
//!
//! **Invariant.** Deny by default: without an allowed host nothing can be reached. What an actor asks for is read once, into
//! a [`Destination`]; the question whether it is allowed and the connection both go by that, so the two cannot disagree.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::values::Values;
use super::{LinkError, MAX_PATTERNS};

/// Name of the value that lists the hosts.
const ALLOW_HOST: &str = "allow-host";
/// Longest host name in bytes (RFC 1035).
const MAX_NAME_BYTES: usize = 253;
/// Longest part of a host name between dots in bytes (RFC 1035).
const MAX_LABEL_BYTES: usize = 63;

/// HTTP client: where requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HttpClientSettings {
    /// Hosts that the actor may send requests to; none: it reaches nothing.
    #[serde(default)]
    pub allowed: Vec<HostPattern>,
}

impl HttpClientSettings {
    pub(super) fn read(values: &Values<'_>) -> Result<Self, LinkError> {
        let forced = values.flag("force")?;
        let Some(text) = values.text(ALLOW_HOST)? else { return Ok(Self::default()) };
        let read = |part: &str| {
            let pattern = HostPattern::new(part).map_err(|error| LinkError::value(ALLOW_HOST, part, error.reason))?;
            if pattern.is_every_host() && !forced { Err(LinkError::EveryHost { pattern: pattern.to_string() }) } else { Ok(pattern) }
        };
        let mut allowed = text.split(',').map(|part| read(part.trim())).collect::<Result<Vec<_>, _>>()?;
        allowed.sort();
        allowed.dedup();
        if allowed.len() > MAX_PATTERNS {
            return Err(LinkError::value(ALLOW_HOST, text, format!("has more than {MAX_PATTERNS} hosts")));
        }
        Ok(Self { allowed })
    }

    /// Whether a request may go to `destination`.
    pub fn covers(&self, destination: &Destination) -> bool {
        self.allowed.iter().any(|pattern| pattern.matches(destination))
    }
}

/// Why a text names no host that requests may go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct InvalidHost {
    /// The text, cut and escaped.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl InvalidHost {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(80).flat_map(char::escape_debug).collect(), reason }
    }
}

/// Hosts that requests may go to: `api.example.com`, `*.example.com` (every name that ends so), `10.0.0.7`, `[::1]`, `*`; each
/// may be followed by a port, or by `:*` for all of them. Without one it is the scheme's own, 80 or 443.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    hosts: Hosts,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hosts {
    Every,
    /// Every name that ends in a dot and this.
    Under(String),
    One(Host),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    Usual,
    Every,
    One(u16),
}

impl HostPattern {
    /// Checks `text` as a pattern.
    ///
    /// # Errors
    /// [`InvalidHost`] with what is wrong.
    pub fn new(text: &str) -> Result<Self, InvalidHost> {
        let fault = |reason| InvalidHost::new(text, reason);
        if text.contains("://") || text.contains('/') {
            return Err(fault("is a URL: only host and port are compared, like api.example.com:8443"));
        }
        let (host, port) = split_port(text).map_err(fault)?;
        let hosts = match (host, host.strip_prefix("*.")) {
            ("*", _) => Hosts::Every,
            (_, Some(suffix)) => match Host::read(suffix).map_err(fault)? {
                Host::Name(suffix) => Hosts::Under(suffix),
                Host::Address(_) => return Err(fault("puts a `*` before an address")),
            },
            (host, None) if host.contains('*') => return Err(fault("has a `*` that is not all before the first dot, as in *.example.com")),
            (host, None) => Hosts::One(Host::read(host).map_err(fault)?),
        };
        let ports = match port {
            None => Ports::Usual,
            Some("*") => Ports::Every,
            Some(port) => Ports::One(read_port(port).map_err(fault)?),
        };
        Ok(Self { hosts, ports })
    }

    /// Whether it names no host at all, but all of them.
    pub fn is_every_host(&self) -> bool {
        self.hosts == Hosts::Every
    }

    /// Whether it allows `destination`.
    pub fn matches(&self, destination: &Destination) -> bool {
        let host = match (&self.hosts, &destination.host) {
            (Hosts::Every, _) => true,
            (Hosts::Under(suffix), Host::Name(name)) => name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')),
            (Hosts::Under(_), Host::Address(_)) => false,
            (Hosts::One(host), asked) => host == asked,
        };
        let port = match self.ports {
            Ports::Usual => destination.port == destination.scheme.usual_port(),
            Ports::Every => true,
            Ports::One(port) => destination.port == port,
        };
        host && port
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Every => f.write_str("*")?,
            Hosts::Under(suffix) => write!(f, "*.{suffix}")?,
            Hosts::One(host) => host.fmt(f)?,
        }
        match self.ports {
            Ports::Usual => Ok(()),
            Ports::Every => f.write_str(":*"),
            Ports::One(port) => write!(f, ":{port}"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHost;
    fn try_from(text: String) -> Result<Self, InvalidHost> {
        Self::new(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The port of a server that names none.
    pub fn usual_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where a request is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// How it travels.
    pub scheme: Scheme,
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

impl Destination {
    /// Reads what stands between `//` and the path of a URL.
    ///
    /// # Errors
    /// [`InvalidHost`] for anything but a host and perhaps a port; a login has no place there.
    pub fn read(scheme: Scheme, authority: &str) -> Result<Self, InvalidHost> {
        let fault = |reason| InvalidHost::new(authority, reason);
        if authority.contains('@') {
            // Not repeated, it may hold a password.
            return Err(InvalidHost::new("…@…", "has a login in it: send it as a header"));
        }
        let (host, port) = split_port(authority).map_err(fault)?;
        let host = Host::read(host).map_err(fault)?;
        let port = port.map_or(Ok(scheme.usual_port()), read_port).map_err(fault)?;
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A server by its name, in lower case, or by its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address; one of version 4 is never written as one of version 6.
    Address(IpAddr),
}

impl Host {
    fn read(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let address = inner.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let is_label = |label: &str| {
            (1..=MAX_LABEL_BYTES).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.is_empty() {
            return Err("names no host");
        }
        if text.len() > MAX_NAME_BYTES || !text.split('.').all(is_label) {
            return Err("is neither a host name nor an address");
        }
        // Resolvers take such names for addresses in older spellings (127.1, 0x7f.1).
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err("ends like an address and is none");
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn is_number(label: &str) -> bool {
    let is_hex = label.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    is_hex || label.bytes().all(|b| b.is_ascii_digit())
}

/// `[::1]:80` and `host:80` in two; without a port there is none.
fn split_port(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    let bracket = text.rfind(']').map_or(0, |position| position.saturating_add(1));
    let (host, rest) = text.split_at_checked(bracket).filter(|(host, _)| !host.is_empty()).unwrap_or((text, ""));
    if !host.starts_with('[') {
        return match text.split_once(':') {
            Some((_, port)) if port.contains(':') => Err("has an IPv6 address without brackets"),
            Some((host, port)) => Ok((host, Some(port))),
            None => Ok((text, None)),
        };
    }
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err("has something between its bracket and its port"),
    }
}

fn read_port(text: &str) -> Result<u16, &'static str> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or("has a port that is not 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_patterns_there_are() {
        let check = |text: &str, expected: Result<&str, &str>| match (HostPattern::new(text), expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!(found.to_string(), expected);
                assert_eq!(HostPattern::new(expected), Ok(found), "reads what it writes");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        for text in [
            "api.example.com",
            "api.example.com:8443",
            "*.internal:8080",
            "localhost:*",
            "10.0.0.7",
            "[::1]:80",
            "*",
            "*:80",
            "a_b",
            "3f2a1bc4",
        ] {
            check(text, Ok(text));
        }
        check("API.Example.COM", Ok("api.example.com"));
        check("[0:0::1]", Ok("[::1]"));
        check("[::ffff:10.0.0.7]:80", Ok("10.0.0.7:80"));
        check("", Err("names no host"));
        check("https://api.example.com", Err("is a URL"));
        check("api.example.com/v1", Err("is a URL"));
        check("::1", Err("without brackets"));
        check("[::1]80", Err("between its bracket"));
        check("[1.2.3.4]", Err("no IPv6 address"));
        check("a:0", Err("not 1 to 65535"));
        check("a:+80", Err("not 1 to 65535"));
        check("a:", Err("not 1 to 65535"));
        check("a*.example.com", Err("before the first dot"));
        check("a.*.com", Err("before the first dot"));
        check("*.10.0.0.1", Err("before an address"));
        check("*.", Err("names no host"));
        check("*.*", Err("neither"));
        check("a..b", Err("neither"));
        check("a b", Err("neither"));
        check("-a", Err("neither"));
        check("a-.example.com", Err("neither"));
        check("example.com.", Err("neither"));
        check("127.1", Err("ends like an address"));
        check("0x7f000001", Err("ends like an address"));
        check(&"a".repeat(64), Err("neither"));
        check(&["abcdefg"; 40].join("."), Err("neither"));
    }

    #[test]
    fn what_is_allowed() {
        let check = |pattern: &str, url: &str, expected: bool| {
            let (scheme, authority) = url.split_once("://").unwrap();
            let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
            let destination = Destination::read(scheme, authority).unwrap();
            let settings = HttpClientSettings { allowed: vec![HostPattern::new(pattern).unwrap()] };
            assert_eq!(settings.covers(&destination), expected, "{pattern} {url}");
            assert!(!HttpClientSettings::default().covers(&destination));
        };
        check("api.example.com", "http://api.example.com", true);
        check("api.example.com", "https://API.example.com:443", true);
        check("api.example.com", "http://api.example.com:443", false);
        check("api.example.com", "http://api.example.com:8080", false);
        check("api.example.com:8080", "http://api.example.com:8080", true);
        check("api.example.com:8080", "http://api.example.com", false);
        check("api.example.com:*", "http://api.example.com:9", true);
        check("api.example.com", "http://example.com", false);
        check("api.example.com", "http://api.example.com.evil.org", false);
        check("*.example.com", "http://a.b.example.com", true);
        check("*.example.com", "http://example.com", false);
        check("*.example.com", "http://notexample.com", false);
        check("*.internal", "http://10.0.0.7", false);
        check("*:*", "http://10.0.0.7:99", true);
        check("*", "http://10.0.0.7:99", false);
        check("10.0.0.7", "http://[::ffff:10.0.0.7]", true);
        check("[::1]:8080", "http://[0::1]:8080", true);
        check("localhost", "http://127.0.0.1", false);
    }

    #[test]
    fn what_an_actor_may_ask_for() {
        let check = |authority: &str, expected: Result<&str, &str>| match (Destination::read(Scheme::Https, authority), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{authority}: {error}"),
            (found, _) => panic!("{authority}: {found:?}"),
        };
        check("a.b", Ok("a.b:443"));
        check("[fd00::1]:1", Ok("[fd00::1]:1"));
        check("user:secret@a.b", Err("`…@…` has a login in it"));
        check("*", Err("neither"));
        check("*.b", Err("neither"));
        check("2130706433", Err("ends like an address"));
        check("a:*", Err("not 1 to 65535"));
        check("", Err("names no host"));
        check("]", Err("neither"));
        check("a]:80", Err("neither"));
    }
}
