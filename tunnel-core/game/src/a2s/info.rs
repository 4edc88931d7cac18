//! The answer to an INFO query.

use crate::{
    a2s::wire::{ANSWER, GOLDSRC_ANSWER, INFO_ANSWER, SINGLE},
    answer::{Answer, TEXT_MAX, cut, plain},
    cursor::Cursor,
    error::ReadError,
};

/// All that an INFO answer of the Source form says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Version of the query protocol; 17 since long.
    pub protocol: u8,
    /// Name of the server.
    pub name: String,
    /// The map.
    pub map: String,
    /// Name of the game's folder.
    pub folder: String,
    /// Name of the game.
    pub game: String,
    /// Steam's number of the game, its low 16 bits.
    pub app_id: u16,
    /// Players who are there.
    pub players: u8,
    /// Players who may be.
    pub max: u8,
    /// Bots among the players.
    pub bots: u8,
    /// `d` of a dedicated server, `l` of a player's, `p` of a proxy.
    pub kind: u8,
    /// `l` of Linux, `w` of Windows, `m` or `o` of a Mac.
    pub os: u8,
    /// Whether a password is asked for.
    pub has_password: bool,
    /// Whether cheaters are kept off by Valve.
    pub is_secured: bool,
    /// Mode, witnesses and duration of The Ship, which alone has them.
    pub the_ship: Option<[u8; 3]>,
    /// Version of the game.
    pub version: String,
    /// Port of the game.
    pub port: Option<u16>,
    /// The server's number at Steam.
    pub steam_id: Option<u64>,
    /// Port and name of the spectators' server.
    pub spectators: Option<(u16, String)>,
    /// Words about the server, parted by commas.
    pub keywords: Option<String>,
    /// Steam's number of the game, whole.
    pub game_id: Option<u64>,
}

impl Info {
    /// The datagram, [`INFO_MAX`] bytes at most: texts that are too long are cut, keywords first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(INFO_MAX);
        out.extend_from_slice(&SINGLE);
        out.push(INFO_ANSWER);
        out.push(self.protocol);
        for text in [&self.name, &self.map, &self.folder, &self.game] {
            put_cstr(&mut out, text, TEXT_MAX);
        }
        out.extend_from_slice(&self.app_id.to_le_bytes());
        out.extend_from_slice(&[self.players, self.max, self.bots, self.kind, self.os]);
        out.extend_from_slice(&[self.has_password.into(), self.is_secured.into()]);
        if self.app_id == THE_SHIP {
            out.extend_from_slice(&self.the_ship.unwrap_or_default());
        }
        put_cstr(&mut out, &self.version, TEXT_MAX);
        self.put_extra(&mut out);
        out
    }

    /// What is said only where it is known.
    fn put_extra(&self, out: &mut Vec<u8>) {
        let flags = [
            (self.port.is_some(), HAS_PORT),
            (self.steam_id.is_some(), HAS_STEAM_ID),
            (self.spectators.is_some(), HAS_SPECTATORS),
            (self.keywords.is_some(), HAS_KEYWORDS),
            (self.game_id.is_some(), HAS_GAME_ID),
        ];
        let flags = flags.into_iter().filter(|(is_there, _)| *is_there);
        out.push(flags.fold(0, |all, (_, flag)| all | flag));
        if let Some(port) = self.port {
            out.extend_from_slice(&port.to_le_bytes());
        }
        if let Some(steam_id) = self.steam_id {
            out.extend_from_slice(&steam_id.to_le_bytes());
        }
        if let Some((port, name)) = &self.spectators {
            out.extend_from_slice(&port.to_le_bytes());
            put_cstr(out, name, SPECTATORS_MAX);
        }
        let game_id = self.game_id.map(u64::to_le_bytes);
        if let Some(keywords) = &self.keywords {
            let room = INFO_MAX.saturating_sub(out.len() + 1 + 8);
            put_cstr(out, keywords, room);
        }
        out.extend_from_slice(game_id.as_ref().map_or(&[][..], |bytes| bytes));
    }

    /// Reads what stands behind the type.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, ReadError> {
        let mut info = Self {
            protocol: cursor.u8()?,
            name: cursor.cstr()?,
            map: cursor.cstr()?,
            folder: cursor.cstr()?,
            game: cursor.cstr()?,
            app_id: cursor.u16_le()?,
            players: cursor.u8()?,
            max: cursor.u8()?,
            bots: cursor.u8()?,
            kind: cursor.u8()?,
            os: cursor.u8()?,
            has_password: cursor.u8()? != 0,
            is_secured: cursor.u8()? != 0,
            ..Self::default()
        };
        if info.app_id == THE_SHIP {
            info.the_ship = Some(cursor.array()?);
        }
        info.version = cursor.cstr()?;
        // Servers that have nothing more to say may end here.
        let flags = if cursor.remaining() == 0 {
            0
        } else {
            cursor.u8()?
        };
        if flags & HAS_PORT != 0 {
            info.port = Some(cursor.u16_le()?);
        }
        if flags & HAS_STEAM_ID != 0 {
            info.steam_id = Some(cursor.u64_le()?);
        }
        if flags & HAS_SPECTATORS != 0 {
            info.spectators = Some((cursor.u16_le()?, cursor.cstr()?));
        }
        if flags & HAS_KEYWORDS != 0 {
            info.keywords = Some(cursor.cstr()?);
        }
        if flags & HAS_GAME_ID != 0 {
            info.game_id = Some(cursor.u64_le()?);
        }
        Ok(info)
    }

    /// Reads a whole datagram.
    pub fn decode(datagram: &[u8]) -> Result<Self, ReadError> {
        let mut cursor = Cursor::new(datagram, ANSWER);
        cursor.expect(&SINGLE)?;
        cursor.expect(&[INFO_ANSWER])?;
        Self::read(&mut cursor)
    }

    /// The counts of the game Rust, which has more players than a byte counts: `mp…` and `cp…` among its keywords.
    fn counts_of_rust(&self) -> Option<(u32, u32)> {
        if self.folder != "rust" {
            return None;
        }
        let mut words = self.keywords.as_deref()?.split(',');
        let number = |word: &str, head| word.strip_prefix(head)?.parse::<u32>().ok();
        let max = words.clone().find_map(|word| number(word, "mp"))?;
        let players = words.find_map(|word| number(word, "cp"))?;
        Some((players, max))
    }
}

impl From<&Info> for Answer {
    fn from(info: &Info) -> Self {
        let counts = (info.players.into(), info.max.into());
        let (players, max) = info.counts_of_rust().unwrap_or(counts);
        Self {
            name: plain(&info.name),
            players: Some(players),
            max: Some(max),
            version: plain(&info.version),
            map: plain(&info.map),
            protocol: Some(info.protocol.into()),
        }
    }
}

/// For want of the server's own: a dedicated server on Linux.
impl From<&Answer> for Info {
    fn from(answer: &Answer) -> Self {
        let count = |count: Option<u32>| u8::try_from(count.unwrap_or(0)).unwrap_or(u8::MAX);
        let protocol = answer.protocol.and_then(|number| u8::try_from(number).ok());
        Self {
            protocol: protocol.unwrap_or(PROTOCOL),
            name: answer.name.clone(),
            map: answer.map.clone(),
            players: count(answer.players),
            max: count(answer.max),
            kind: b'd',
            os: b'l',
            version: answer.version.clone(),
            ..Self::default()
        }
    }
}

/// Reads a whole answer of either form.
pub(super) fn read_answer(packet: &[u8]) -> Result<Answer, ReadError> {
    let mut cursor = Cursor::new(packet, ANSWER);
    cursor.expect(&SINGLE)?;
    match cursor.u8()? {
        INFO_ANSWER => Info::read(&mut cursor).map(|info| Answer::from(&info)),
        GOLDSRC_ANSWER => read_goldsrc(&mut cursor),
        _ => Err(ReadError::Unexpected(ANSWER)),
    }
}

/// The form of GoldSrc before 2008. What says something about the mod is passed over.
fn read_goldsrc(cursor: &mut Cursor<'_>) -> Result<Answer, ReadError> {
    let _address = cursor.cstr()?;
    let (name, map) = (cursor.cstr()?, cursor.cstr()?);
    let (_folder, _game) = (cursor.cstr()?, cursor.cstr()?);
    let (players, max, protocol) = (cursor.u8()?, cursor.u8()?, cursor.u8()?);
    Ok(Answer {
        name: plain(&name),
        players: Some(players.into()),
        max: Some(max.into()),
        version: String::new(),
        map: plain(&map),
        protocol: Some(protocol.into()),
    })
}

fn put_cstr(out: &mut Vec<u8>, text: &str, max: usize) {
    // A NUL would end the text, and what follows would be read as the next field.
    let text = text.split('\0').next().unwrap_or_default();
    out.extend_from_slice(cut(text, max).as_bytes());
    out.push(0);
}

/// What servers send since long.
const PROTOCOL: u8 = 17;
/// The game with three fields of its own.
const THE_SHIP: u16 = 2400;
/// Longest answer that is sent, in bytes: one packet on every path, as servers keep it.
pub const INFO_MAX: usize = 1400;
/// Longest name of the spectators' server, in bytes: with it and five texts of [`TEXT_MAX`], 10 bytes are left for keywords.
const SPECTATORS_MAX: usize = 64;

const HAS_PORT: u8 = 0x80;
const HAS_STEAM_ID: u8 = 0x10;
const HAS_SPECTATORS: u8 = 0x40;
const HAS_KEYWORDS: u8 = 0x20;
const HAS_GAME_ID: u8 = 0x01;
