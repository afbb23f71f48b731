//! What is published about a reading that nobody could work with.

use serde::{Deserialize, Serialize};

use super::Malformed;

/// How much of the payload a dead letter carries, in bytes. As JSON it grows sixfold at worst and must stay well below
/// the server's message limit of 1 MiB.
pub const MAX_DEAD_PAYLOAD_BYTES: usize = 64 * 1024;

/// How the payload stands in the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it came.
    Utf8,
    /// It was no text.
    Base64,
}

/// The body of a message on `edge.dead.<region>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What is wrong with it.
    pub reason: String,
    /// The subject that it came on.
    pub subject: String,
    /// Its first [`MAX_DEAD_PAYLOAD_BYTES`].
    pub payload: String,
    /// How `payload` is to be read.
    pub encoding: Encoding,
    /// Size of the whole payload in bytes; more than `payload` holds if it was cut.
    pub size: usize,
}

impl DeadLetter {
    pub(super) fn new(malformed: &Malformed, subject: &str, body: &[u8]) -> Self {
        Self::because(malformed.reason(), subject, body)
    }

    /// The letter about a message with `body` that came on `subject` and was given up for `reason`.
    pub fn because(reason: String, subject: &str, body: &[u8]) -> Self {
        let (payload, encoding) = match std::str::from_utf8(body) {
            Ok(text) => (cut(text).to_owned(), Encoding::Utf8),
            Err(_) => (base64(body.get(..MAX_DEAD_PAYLOAD_BYTES).unwrap_or(body)), Encoding::Base64),
        };
        Self { reason, subject: subject.to_owned(), payload, encoding, size: body.len() }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_DEAD_PAYLOAD_BYTES)).unwrap_or(text)
}

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0_u32, |group, at| group << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit)) & 0x3f;
            match ALPHABET.get(value as usize) {
                Some(&letter) if digit <= chunk.len() => text.push(char::from(letter)),
                Some(_) | None => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(base64(bytes), expected);
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foob", "Zm9vYg==");
        check(b"fooba", "Zm9vYmE=");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xfb, 0xff, 0xbf], "+/+/");
    }

    #[test]
    fn everything_in_it_is_bounded() {
        let text = "é".repeat(MAX_DEAD_PAYLOAD_BYTES);
        let letter = DeadLetter::new(&Malformed::EmptyDeviceId, "edge.sensor.eu", text.as_bytes());
        assert_eq!(letter.payload.len(), MAX_DEAD_PAYLOAD_BYTES);
        assert_eq!(letter.size, 2 * MAX_DEAD_PAYLOAD_BYTES);

        let letter = DeadLetter::new(&Malformed::EmptyDeviceId, "edge.sensor.eu", &vec![0xff; 2 * MAX_DEAD_PAYLOAD_BYTES]);
        assert_eq!(letter.encoding, Encoding::Base64);
        assert!(letter.payload.len() <= MAX_DEAD_PAYLOAD_BYTES.div_ceil(3) * 4);

        let error = serde_json::from_str::<f64>(&format!("\"{}\"", "x".repeat(10_000))).unwrap_err();
        let letter = DeadLetter::new(&Malformed::Json(error.into()), "edge.sensor.eu", b"");
        assert_eq!(letter.reason.chars().count(), crate::sensor::MAX_REASON_CHARS + 1);
    }
}
