//! Errors as they stand in reports and events: the whole chain in one line of bounded length.

use lattice_core::error;

/// Longest reason in characters: reports with many of them must fit into one message.
const MAX_CHARS: usize = 500;

/// Why something failed.
pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> String {
    cut(&error::chain(error).join(": "))
}

/// `text`, cut where it is too long.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut() {
        assert_eq!(cut("é"), "é");
        assert_eq!(cut(&"é".repeat(MAX_CHARS)), "é".repeat(MAX_CHARS));
        assert_eq!(cut(&"é".repeat(MAX_CHARS + 1)).chars().count(), MAX_CHARS + 1);
        assert_eq!(of(&std::io::Error::other("no")), "no");
    }
}
