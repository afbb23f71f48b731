//! JSON from outside, with limits that are checked before the parser runs.

use serde::de::DeserializeOwned;

/// Deepest nesting of arrays and objects that anything on the wire needs.
pub const MAX_DEPTH: usize = 32;
/// Largest control message in bytes; the server's `max_payload` is 1 MiB.
pub const MAX_CONTROL_BYTES: usize = 1024 * 1024;

/// Why bytes are no acceptable JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// More bytes than allowed.
    #[error("{size} bytes of JSON, at most {limit} are allowed")]
    TooLarge {
        /// Bytes offered.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Nested deeper than allowed.
    #[error("JSON nested deeper than {limit} levels")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// Not JSON, or not of the expected shape.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

/// Parses `bytes`, at most `max_bytes` of them, nested at most `max_depth` deep, nothing after the value.
///
/// # Errors
/// [`JsonError`]; nothing is allocated before size and depth are known to be fine.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], max_bytes: usize, max_depth: usize) -> Result<T, JsonError> {
    if bytes.len() > max_bytes {
        return Err(JsonError::TooLarge { size: bytes.len(), limit: max_bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::NotUtf8(error.valid_up_to()))?;
    if depth(text) > max_depth {
        return Err(JsonError::TooDeep { limit: max_depth });
    }
    Ok(serde_json::from_str(text)?)
}

/// The deepest nesting of brackets outside strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn limits() {
        let parse = |text: &str| parse::<Value>(text.as_bytes(), 64, 3);
        assert!(parse(r#"{"a":[[1]]}"#).is_ok());
        assert!(matches!(parse("[[[[1]]]]"), Err(JsonError::TooDeep { limit: 3 })));
        assert!(parse(r#""[[[[\"[[[[""#).is_ok(), "brackets in strings do not count");
        assert!(matches!(parse(&"1".repeat(65)), Err(JsonError::TooLarge { size: 65, limit: 64 })));
        assert!(matches!(parse("1 2"), Err(JsonError::Malformed(_))));
        assert!(matches!(super::parse::<Value>(b"\"\xff\"", 64, 3), Err(JsonError::NotUtf8(1))));
    }
}
