//! What a server says of itself.

use crate::kind::Game;

/// What a game server says of itself, as far as its protocol has it.
///
/// The texts are plain: one line, no control characters and no formatting codes, at most [`TEXT_MAX`] bytes each; empty where
/// the protocol or the server has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Name of the server; of Minecraft's, the message of the day.
    pub name: String,
    /// Players who are there.
    pub players: Option<u32>,
    /// Players who may be.
    pub max: Option<u32>,
    /// Version of the game; of Satisfactory, its net changelist.
    pub version: String,
    /// Map, level or world.
    pub map: String,
    /// Number of the game's protocol, by which its clients see whether they can join.
    pub protocol: Option<i32>,
}

impl Answer {
    /// What a server that is away says: the operator's text, nobody there, and the rest as it was. A2S shows the text
    /// behind the name, so that the server is still found by it; the others show it in the place of the name.
    #[must_use]
    pub fn away(&self, game: Game, text: &str) -> Self {
        let text = plain(text);
        let name = match game {
            Game::A2s if !self.name.is_empty() && !text.is_empty() => {
                let room = TEXT_MAX.saturating_sub(text.len() + 3);
                let name = cut(&self.name, room);
                format!("{name} ({text})")
            }
            // It has no room for a text.
            Game::Satisfactory => self.name.clone(),
            Game::A2s | Game::Minecraft | Game::Bedrock if text.is_empty() => self.name.clone(),
            Game::A2s | Game::Minecraft | Game::Bedrock => text,
        };
        Self {
            name: plain(&name),
            players: self.players.map(|_| 0),
            ..self.clone()
        }
    }
}

/// Longest text of an [`Answer`], in bytes. 256: a line of a server list has room for a quarter of it.
pub const TEXT_MAX: usize = 256;

/// A text of a peer in one line without control characters, cut to [`TEXT_MAX`].
pub(crate) fn plain(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if c.is_control() || (c == ' ' && kept.ends_with(' ')) {
            continue;
        }
        if kept.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        kept.push(c);
    }
    kept.trim().into()
}

/// The same without Minecraft's formatting codes: `§` and the character behind it.
pub(crate) fn plain_minecraft(text: &str) -> String {
    let mut kept = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '§' {
            chars.next();
        } else if kept.len() > 4 * TEXT_MAX {
            break;
        } else {
            kept.push(c);
        }
    }
    plain(&kept)
}

/// The longest beginning of a text that has at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev();
    let end = end
        .into_iter()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_plain_line() {
        assert_eq!(plain("  a\r\n\tb\u{1b}[2J \0c  "), "a b[2J c");
        assert_eq!(plain_minecraft("§aGreen §l§nServer§"), "Green Server");
        assert_eq!(plain(&"ä".repeat(1000)), "ä".repeat(TEXT_MAX / 2));
        let long = plain_minecraft(&"x ".repeat(10_000));
        assert_eq!(plain(&long), long);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 5), "äö");
        assert_eq!(cut("äöü", 0), "");
        assert_eq!(cut("abc", 9), "abc");
    }

    #[test]
    fn who_is_away_shows_the_operators_text_and_nobody_there() {
        let last = Answer {
            name: "My Valheim".into(),
            players: Some(3),
            max: Some(10),
            version: "0.220.5".into(),
            map: "world".into(),
            protocol: Some(17),
        };
        let away = last.away(Game::A2s, "maintenance\nuntil 9");
        assert_eq!(away.name, "My Valheim (maintenance until 9)");
        assert_eq!((away.players, away.max), (Some(0), Some(10)));
        assert_eq!(last.away(Game::Bedrock, "asleep").name, "asleep");
        assert_eq!(last.away(Game::Minecraft, "").name, "My Valheim");
        assert_eq!(last.away(Game::Satisfactory, "asleep").name, "My Valheim");
        let long = last.away(Game::A2s, &"t".repeat(1000));
        assert!(long.name.len() <= TEXT_MAX);
    }
}
