//! The pings of clients before 1.7.

use crate::answer::Answer;

/// Which version a ping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Legacy {
    /// 1.3 and before: a byte alone.
    Beta,
    /// 1.4 to 1.6.
    Late,
}

impl Legacy {
    /// The ping that a connection begins with, if any.
    ///
    /// `FE 01 00` is a handshake of 254 bytes instead. A client that has only sent `FE` is taken for one of 1.3, as servers do:
    /// it would wait for an answer for ever.
    pub(super) const fn of(input: &[u8]) -> Option<Self> {
        match input {
            [PING] => Some(Self::Beta),
            [PING, 1] | [PING, 1, PLUGIN, ..] => Some(Self::Late),
            _ => None,
        }
    }

    /// What a server says to it.
    pub(super) fn answer(self, answer: &Answer) -> Vec<u8> {
        let (players, max) = (answer.players.unwrap_or(0), answer.max.unwrap_or(0));
        let text = match self {
            Self::Beta => format!("{}§{players}§{max}", answer.name),
            Self::Late => {
                let (protocol, version) = (answer.protocol.unwrap_or(0), &answer.version);
                format!(
                    "§1\0{protocol}\0{version}\0{}\0{players}\0{max}",
                    answer.name
                )
            }
        };
        kick(&text)
    }
}

/// The packet of the old protocol that ends a connection with a text.
fn kick(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().take(TEXT_MAX.into()).collect();
    let count = u16::try_from(units.len()).unwrap_or(TEXT_MAX);
    let mut out = vec![KICK];
    out.extend_from_slice(&count.to_be_bytes());
    out.extend(units.into_iter().flat_map(u16::to_be_bytes));
    out
}

const PING: u8 = 0xfe;
/// What 1.6 sends behind its ping: a plugin's message.
const PLUGIN: u8 = 0xfa;
const KICK: u8 = 0xff;
/// Longest text of that packet, in UTF-16 units.
const TEXT_MAX: u16 = 1024;
