//! What the parsers of this directory share.

/// A port as a text of digits. `u16::from_str` would also take a leading `+`.
pub(super) fn digits(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// What an error repeats of its input: at most 80 characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
