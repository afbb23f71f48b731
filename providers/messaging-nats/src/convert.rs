//! Messages of an actor to messages of NATS and back, checked on the way out.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use lattice_core::subject::check_subject;
use provider_api::messaging::Message;
use provider_api::{CallError, ProviderError};

/// Longest name of a stream or consumer in bytes; nats-server's limit.
const MAX_NAME_BYTES: usize = 255;

/// A message that the server will take.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    /// None if there are none: a message without headers is smaller and older clients can read it.
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// Checks subject, reply subject, headers and size.
    pub(crate) fn check(message: Message, max_payload: usize) -> Result<Self, CallError> {
        let invalid = |error: lattice_core::subject::InvalidSubject| CallError::Invalid(error.to_string());
        check_subject(&message.subject).map_err(invalid)?;
        if let Some(reply) = &message.reply_to {
            check_subject(reply).map_err(invalid)?;
        }
        let size = message.body.len().saturating_add(headers_size(&message.headers));
        if size > max_payload {
            return Err(CallError::TooLarge { what: "message", size: wide(size), limit: wide(max_payload) });
        }
        let headers = if message.headers.is_empty() { None } else { Some(header_map(&message.headers)?) };
        Ok(Self { subject: message.subject, reply: message.reply_to, headers, payload: message.body })
    }
}

/// Bytes that headers take on the wire; they count as part of the message.
fn headers_size(headers: &[(String, String)]) -> usize {
    const FRAME: usize = "NATS/1.0\r\n\r\n".len();
    const SEPARATORS: usize = ": \r\n".len();
    match headers {
        [] => 0,
        headers => headers
            .iter()
            .fold(FRAME, |sum, (name, value)| sum.saturating_add(name.len()).saturating_add(value.len()).saturating_add(SEPARATORS)),
    }
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, CallError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let shown = || name.chars().take(80).flat_map(char::escape_debug).collect::<String>();
        let valid_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        let parsed: HeaderName = match name.parse() {
            Ok(parsed) if valid_name => parsed,
            Ok(_) | Err(_) => {
                return Err(CallError::Invalid(format!("header name `{}` holds more than visible ASCII without `:`", shown())));
            }
        };
        let value: HeaderValue =
            value.parse().map_err(|_| CallError::Invalid(format!("the value of header `{}` holds a line break", shown())))?;
        map.append(parsed, value);
    }
    Ok(map)
}

/// A message from the bus as an actor sees it; headers in the order of their names.
pub(crate) fn incoming(message: async_nats::Message) -> Message {
    let mut headers: Vec<(String, String)> = message
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
        .collect();
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    Message {
        subject: message.subject.into_string(),
        body: message.payload,
        reply_to: message.reply.map(async_nats::Subject::into_string),
        headers,
    }
}

/// Checks the name of a stream or consumer, which becomes a token of a subject.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), ProviderError> {
    let valid = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if valid { Ok(()) } else { Err(ProviderError::setting(what, format!("`{}` is no name of a {what}", name.escape_debug()))) }
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Message { subject: "a.b".to_owned(), body: Bytes::from_static(b"12345"), reply_to: None, headers }
    }

    #[test]
    fn the_size_counts_headers_as_the_server_does() {
        let check = |headers: &[(&str, &str)], size: usize| {
            assert!(Outgoing::check(message(headers), size).is_ok(), "{headers:?} fit into {size}");
            let refused = Outgoing::check(message(headers), size - 1).unwrap_err();
            assert!(matches!(refused, CallError::TooLarge { what: "message", .. }), "{refused:?}");
        };
        check(&[], 5);
        check(&[("a", "b")], 5 + "NATS/1.0\r\na: b\r\n\r\n".len());
        check(&[("a", "b"), ("a", "")], 5 + "NATS/1.0\r\na: b\r\na: \r\n\r\n".len());
    }

    #[test]
    fn nothing_can_be_smuggled_in() {
        for (name, value) in [("a", "b\r\nc: d"), ("a", "b\nc"), ("a\r\nb", "c"), ("a b", "c"), ("a:b", "c"), ("", "c"), ("é", "c")] {
            let refused = Outgoing::check(message(&[(name, value)]), 1000);
            assert!(matches!(refused, Err(CallError::Invalid(_))), "{name:?}: {value:?}");
        }
        for subject in ["", "a b", "a\r\nPUB x", "a.*", ">", "a..b"] {
            let hostile = Message { subject: subject.to_owned(), ..message(&[]) };
            assert!(matches!(Outgoing::check(hostile, 1000), Err(CallError::Invalid(_))), "{subject:?}");
            let hostile = Message { reply_to: Some(subject.to_owned()), ..message(&[]) };
            assert!(matches!(Outgoing::check(hostile, 1000), Err(CallError::Invalid(_))), "{subject:?}");
        }
        for name in ["", "a.b", "*", "a b", &"a".repeat(256)] {
            assert!(check_name("stream", name).is_err(), "{name:?}");
        }
    }
}
