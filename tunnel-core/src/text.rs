//! Text as people's tools leave it.

/// `text` without what tools put around it: white space, line ends of any system, a byte-order mark, characters that
/// nobody sees, and then one pair of quotes, which env files and chat programs keep.
///
/// ```
/// assert_eq!(tunnel_core::text::bare("\u{feff}\"adit://…\"\r\n"), "adit://…");
/// ```
pub fn bare(text: &str) -> &str {
    let text = trimmed(text);
    let within = |(open, close)| text.strip_prefix(open)?.strip_suffix(close);
    QUOTES.into_iter().find_map(within).map_or(text, trimmed)
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || UNSEEN.contains(&c))
}

/// The byte-order mark, and what web pages put where a line may break.
const UNSEEN: [char; 4] = ['\u{feff}', '\u{200b}', '\u{200c}', '\u{2060}'];
/// Straight ones, and those that a word processor makes of them.
const QUOTES: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('“', '”'), ('„', '“'), ('‘', '’')];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_put_around_a_text_is_taken_away() {
        for text in [
            "a b",
            "\u{feff}a b",
            "a b\r\n",
            "\u{feff}  \"a b\"\r\n",
            "'a b'",
            "\" a b\r\n\"",
            "“a b”",
            "„a b“",
            "\u{200b}‘a b’\u{2060}\n",
        ] {
            assert_eq!(bare(text), "a b", "{text:?}");
        }
    }

    #[test]
    fn what_belongs_to_it_stays() {
        for text in ["", "\"", "\"a", "a'", "'a\"", "a\"b"] {
            assert_eq!(bare(text), text);
        }
        // One pair: who quotes twice means it.
        assert_eq!(bare("\"'a'\""), "'a'");
        assert_eq!(bare("\"\""), "");
    }
}
