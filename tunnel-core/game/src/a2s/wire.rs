//! What datagrams begin with.

/// What a datagram of one piece begins with.
pub(super) const SINGLE: [u8; 4] = [0xff; 4];
/// What a piece of a longer one begins with.
pub(super) const PIECE: [u8; 4] = [0xfe, 0xff, 0xff, 0xff];
/// The query for INFO, and what stands behind its type.
pub(super) const INFO: u8 = b'T';
pub(super) const INFO_TEXT: &[u8] = b"Source Engine Query\0";
/// The queries for players, for rules, the deprecated ping and the deprecated way to a challenge.
pub(super) const PLAYER: u8 = b'U';
pub(super) const RULES: u8 = b'V';
pub(super) const PING: u8 = b'i';
pub(super) const GET_CHALLENGE: u8 = b'W';
/// The two steps of a Source client that connects.
pub(super) const CONNECT_CHALLENGE: u8 = b'q';
pub(super) const CONNECT: u8 = b'k';
/// The answers.
pub(super) const CHALLENGE: u8 = b'A';
pub(super) const INFO_ANSWER: u8 = b'I';
pub(super) const GOLDSRC_ANSWER: u8 = b'm';
pub(super) const PLAYER_ANSWER: u8 = b'D';
pub(super) const RULES_ANSWER: u8 = b'E';
/// Bytes of a challenge.
pub(super) const CHALLENGE_LENGTH: usize = 4;
/// What errors call an answer.
pub(super) const ANSWER: &str = "A2S answer";
