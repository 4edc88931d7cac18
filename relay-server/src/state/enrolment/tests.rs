//! The rules as a table of states and events. Each row runs on rows in memory and on a state file, which end up equal.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::state::{
    InviteError, Store,
    store::{RedeemError, StoreError},
};

/// What happens. Keys are numbers; join strings are numbered in the order of their invitation, from 0 on.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A name is invited, for an hour and once.
    Invite(&'static str),
    /// A name is invited, for ever and again and again.
    InviteReusable(&'static str),
    /// A key redeems a join string.
    Redeem(usize, u8),
    /// A key connects with its lasting secret.
    Connect(u8),
    Revoke(&'static str),
    /// The clock is set to this number of hours after the beginning.
    Clock(i64),
    /// A name comes into the configuration file.
    Write(&'static str),
    /// A join string has ended so long ago that it is not remembered.
    Forget(usize),
}
use Event::{Clock, Connect, Forget, Invite, InviteReusable, Redeem, Revoke, Write as Written};

/// What is true, what has happened, and what the last event comes to.
const TABLE: &[(&str, &[Event], &str)] = &[
    // Valid.
    (
        "a join string enrols a key",
        &[Invite("a"), Redeem(0, 1)],
        "enrolled as a",
    ),
    (
        "a reusable one does at any time",
        &[InviteReusable("a"), Clock(90_000), Redeem(0, 1)],
        "enrolled as a",
    ),
    // Spent.
    (
        "a join string enrols one key",
        &[Invite("a"), Redeem(0, 1), Redeem(0, 2)],
        "used",
    ),
    (
        "who is too late learns that it was used, not that it has expired",
        &[Invite("a"), Redeem(0, 1), Clock(2), Redeem(0, 2)],
        "used",
    ),
    (
        "a reusable one enrols the next key",
        &[InviteReusable("a"), Redeem(0, 1), Connect(1), Redeem(0, 2)],
        "enrolled as a",
    ),
    (
        "and the first one again after the second",
        &[
            InviteReusable("a"),
            Redeem(0, 1),
            Redeem(0, 2),
            Redeem(0, 1),
        ],
        "enrolled as a",
    ),
    // The same key again.
    (
        "an answer that was lost is given again",
        &[Invite("a"), Redeem(0, 1), Redeem(0, 1)],
        "again a",
    ),
    (
        "also after the join string's time",
        &[Invite("a"), Redeem(0, 1), Clock(48), Redeem(0, 1)],
        "again a",
    ),
    (
        "until the client has connected",
        &[Invite("a"), Redeem(0, 1), Connect(1), Redeem(0, 1)],
        "used",
    ),
    (
        "a reusable one answers the same key always",
        &[InviteReusable("a"), Redeem(0, 1), Connect(1), Redeem(0, 1)],
        "again a",
    ),
    (
        "a key that lost its name to another of the same reusable join string has to enrol anew",
        &[
            InviteReusable("a"),
            Redeem(0, 1),
            Redeem(0, 2),
            Connect(2),
            Redeem(0, 2),
        ],
        "again a",
    ),
    (
        "whoever was replaced by a reusable join string has used up the first one",
        &[
            Invite("a"),
            Redeem(0, 1),
            InviteReusable("a"),
            Redeem(1, 2),
            Redeem(0, 1),
        ],
        "used",
    ),
    // Expired.
    (
        "a join string lasts for its time",
        &[Invite("a"), Clock(1), Redeem(0, 1)],
        "expired",
    ),
    (
        "one that is not remembered ended long ago",
        &[Invite("a"), Forget(0), Redeem(0, 1)],
        "expired",
    ),
    (
        "a clock that was ahead has ended it early, and not for good",
        &[Invite("a"), Clock(48), Redeem(0, 1), Clock(0), Redeem(0, 1)],
        "enrolled as a",
    ),
    (
        "a clock that jumps back gives it more time",
        &[Invite("a"), Clock(-24), Redeem(0, 1)],
        "enrolled as a",
    ),
    // Superseded.
    (
        "a later invitation ends the earlier one",
        &[Invite("a"), Invite("a")],
        "invited, 1 ended",
    ),
    (
        "what was superseded is invalid",
        &[Invite("a"), Invite("a"), Redeem(0, 1)],
        "expired",
    ),
    (
        "what superseded it is valid",
        &[Invite("a"), Invite("a"), Redeem(1, 1)],
        "enrolled as a",
    ),
    (
        "no clock that jumps back revives what was superseded",
        &[Invite("a"), Invite("a"), Clock(-24), Redeem(0, 1)],
        "expired",
    ),
    (
        "a clock that is ahead supersedes what it takes for expired",
        &[Invite("a"), Clock(48), Invite("a"), Clock(0), Redeem(0, 1)],
        "expired",
    ),
    (
        "which is not counted as open",
        &[Invite("a"), Clock(48), Invite("a")],
        "invited",
    ),
    (
        "a reusable join string ends as any other",
        &[
            InviteReusable("a"),
            Redeem(0, 1),
            InviteReusable("a"),
            Redeem(0, 2),
        ],
        "expired",
    ),
    (
        "which takes nothing from the key that it has enrolled",
        &[
            InviteReusable("a"),
            Redeem(0, 1),
            InviteReusable("a"),
            Redeem(0, 1),
        ],
        "again a",
    ),
    (
        "another name's invitation stays",
        &[Invite("a"), Invite("b"), Redeem(0, 1)],
        "enrolled as a",
    ),
    // Revoked.
    (
        "an open invitation is revoked",
        &[Invite("a"), Revoke("a")],
        "only an invitation",
    ),
    (
        "and invalid then",
        &[Invite("a"), Revoke("a"), Redeem(0, 1)],
        "expired",
    ),
    (
        "whatever the clock says",
        &[Invite("a"), Revoke("a"), Clock(-24), Redeem(0, 1)],
        "expired",
    ),
    (
        "whatever it said at the revocation",
        &[Invite("a"), Clock(48), Revoke("a"), Clock(0), Redeem(0, 1)],
        "expired",
    ),
    (
        "a client is revoked",
        &[Invite("a"), Redeem(0, 1), Revoke("a")],
        "a client",
    ),
    (
        "once",
        &[Invite("a"), Redeem(0, 1), Revoke("a"), Revoke("a")],
        "already",
    ),
    (
        "nobody is",
        &[Invite("a"), Redeem(0, 1), Revoke("b")],
        "unknown",
    ),
    (
        "a client that is revoked is told so",
        &[Invite("a"), Redeem(0, 1), Revoke("a"), Redeem(0, 1)],
        "revoked",
    ),
    (
        "its reusable join string ends with it",
        &[InviteReusable("a"), Redeem(0, 1), Revoke("a"), Redeem(0, 1)],
        "expired",
    ),
    (
        "a name that was revoked is invited anew",
        &[
            Invite("a"),
            Redeem(0, 1),
            Revoke("a"),
            Invite("a"),
            Redeem(1, 1),
        ],
        "enrolled as a",
    ),
    // The name or the key is taken.
    (
        "an enrolled name is not invited again",
        &[Invite("a"), Redeem(0, 1), Invite("a")],
        "enrolled already",
    ),
    (
        "but for a reusable join string",
        &[Invite("a"), Redeem(0, 1), InviteReusable("a")],
        "invited",
    ),
    (
        "which gives the name to another key",
        &[Invite("a"), Redeem(0, 1), InviteReusable("a"), Redeem(1, 2)],
        "enrolled as a",
    ),
    (
        "a key has one name",
        &[Invite("a"), Invite("b"), Redeem(0, 1), Redeem(1, 1)],
        "unavailable: this client's key is enrolled as a already",
    ),
    (
        "and the next one once the first is revoked",
        &[
            Invite("a"),
            Invite("b"),
            Redeem(0, 1),
            Revoke("a"),
            Redeem(1, 1),
        ],
        "enrolled as b",
    ),
    (
        "a name of the configuration file is not enrolled",
        &[Invite("a"), Written("a"), Redeem(0, 1)],
        "unavailable: client a or its key stands in the relay's configuration file",
    ),
    (
        "also not again",
        &[Invite("a"), Redeem(0, 1), Written("a"), Redeem(0, 1)],
        "unavailable: client a or its key stands in the relay's configuration file",
    ),
];

#[test]
fn the_rules_hold_in_memory_and_in_a_state_file() {
    for (what, events, outcome) in TABLE {
        let mut memory = World::new(Memory::default());
        let mut file = World::new(StateFile::new());
        let mut last = [String::new(), String::new()];
        for event in *events {
            last = [memory.happens(*event), file.happens(*event)];
            assert_eq!(last[0], last[1], "{what}: {event:?}");
            assert_eq!(
                format!("{:?}", memory.keeper.rows()),
                format!("{:?}", file.keeper.rows()),
                "{what}: {event:?}"
            );
        }
        assert_eq!(last[0], *outcome, "{what}: {events:?}");
    }
}

const START: UnixTime = UnixTime(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

fn key(number: u8) -> PublicKey {
    PublicKey::from([number; 32])
}

/// Who keeps the rows.
trait Keeper {
    fn invite(&mut self, invitation: &Invitation, now: UnixTime) -> Result<usize, InviteError>;
    fn redeem(
        &mut self,
        token: TokenId,
        key: PublicKey,
        psk: Psk,
        now: UnixTime,
        written: &[ClientName],
    ) -> Result<ClientRow, RedeemError>;
    fn connect(&mut self, key: PublicKey);
    fn revoke(&mut self, name: &ClientName, now: UnixTime) -> Revoked;
    fn forget(&mut self, token: TokenId);
    /// Clients by name, and tokens by their beginning.
    fn rows(&self) -> (Vec<ClientRow>, Vec<TokenRow>);
}

/// A keeper, and what is around it.
struct World<K> {
    keeper: K,
    now: UnixTime,
    tokens: Vec<TokenId>,
    written: Vec<ClientName>,
    /// The number of the last secret: who gets another has enrolled before.
    secrets: u8,
}

impl<K: Keeper> World<K> {
    fn new(keeper: K) -> Self {
        Self {
            keeper,
            now: START,
            tokens: Vec::new(),
            written: Vec::new(),
            secrets: 0,
        }
    }

    fn happens(&mut self, event: Event) -> String {
        match event {
            Invite(client) => self.invite(client, Some(self.now.after(HOUR)), false),
            InviteReusable(client) => self.invite(client, None, true),
            Redeem(token, number) => self.redeem(self.tokens[token], key(number)),
            Connect(number) => {
                self.keeper.connect(key(number));
                "connected".into()
            }
            Revoke(client) => match self.keeper.revoke(&name(client), self.now) {
                Revoked::Client => "a client",
                Revoked::Invitation => "only an invitation",
                Revoked::Already => "already",
                Revoked::Unknown => "unknown",
            }
            .into(),
            Clock(hours) => {
                self.now = UnixTime(START.0 + hours * 3600);
                "set".into()
            }
            Written(client) => {
                self.written.push(name(client));
                "written".into()
            }
            Forget(token) => {
                self.keeper.forget(self.tokens[token]);
                "forgotten".into()
            }
        }
    }

    fn invite(&mut self, client: &str, expires: Option<UnixTime>, reusable: bool) -> String {
        let id = TokenId::from([self.tokens.len() as u8; 16]);
        let invitation = Invitation {
            name: name(client),
            token: Token {
                id,
                secret: Psk::from([0; 32]),
            },
            ports: None,
            expires,
            reusable,
        };
        self.tokens.push(id);
        match self.keeper.invite(&invitation, self.now) {
            Ok(0) => "invited".into(),
            Ok(ended) => format!("invited, {ended} ended"),
            Err(InviteError::Enrolled(AlreadyEnrolled(_))) => "enrolled already".into(),
            Err(InviteError::Store(error)) => panic!("{error}"),
        }
    }

    fn redeem(&mut self, token: TokenId, key: PublicKey) -> String {
        self.secrets += 1;
        let psk = Psk::from([self.secrets; 32]);
        let now = self.now;
        match (self.keeper).redeem(token, key, psk.clone(), now, &self.written) {
            Ok(client) if client.psk == psk => format!("enrolled as {}", client.name),
            Ok(client) => format!("again {}", client.name),
            Err(RedeemError::Denied(denial)) => match denial {
                Denial::Revoked => "revoked".into(),
                Denial::TokenExpired => "expired".into(),
                Denial::TokenUsed => "used".into(),
                Denial::Unavailable(reason) => format!("unavailable: {reason}"),
                other => panic!("{other}"),
            },
            Err(RedeemError::Store(error)) => panic!("{error}"),
        }
    }
}

/// Rows in memory.
#[derive(Default)]
struct Memory {
    clients: Vec<ClientRow>,
    tokens: Vec<TokenRow>,
}

impl Memory {
    fn client(&self, is: impl Fn(&ClientRow) -> bool) -> Option<ClientRow> {
        self.clients.iter().find(|client| is(client)).cloned()
    }

    fn tokens_of(&self, name: &ClientName) -> Vec<TokenRow> {
        let tokens = self.tokens.iter().filter(|token| token.client == *name);
        tokens.cloned().collect()
    }

    fn write<T>(&mut self, decision: Decision<T>) -> T {
        for write in decision.writes {
            match write {
                Write::Add(token) => self.tokens.push(token),
                Write::End { token, at } => {
                    let row = self.tokens.iter_mut().find(|row| row.token.id == token);
                    let row = row.unwrap();
                    (row.created, row.expires) = (at, Some(at));
                }
                Write::Enrol { client, token } => {
                    let row = self.tokens.iter_mut().find(|row| row.token.id == token);
                    row.unwrap().redeemed_by = Some(client.public_key);
                    self.clients.retain(|other| {
                        other.name != client.name && other.public_key != client.public_key
                    });
                    self.clients.push(client);
                }
                Write::Revoke { name, at } => {
                    let row = self.clients.iter_mut().find(|row| row.name == name);
                    row.unwrap().revoked = Some(at);
                }
            }
        }
        decision.outcome
    }
}

impl Keeper for Memory {
    fn invite(&mut self, invitation: &Invitation, now: UnixTime) -> Result<usize, InviteError> {
        let named = self.client(|client| client.name == invitation.name);
        let tokens = self.tokens_of(&invitation.name);
        let decision = invite(invitation, named.as_ref(), &tokens, now)?;
        Ok(self.write(decision))
    }

    fn redeem(
        &mut self,
        token: TokenId,
        key: PublicKey,
        psk: Psk,
        now: UnixTime,
        written: &[ClientName],
    ) -> Result<ClientRow, RedeemError> {
        let token = self.tokens.iter().find(|row| row.token.id == token);
        let name = token.map(|token| &token.client);
        let decision = Claim {
            token,
            named: self.client(|client| Some(&client.name) == name).as_ref(),
            keyed: self.client(|client| client.public_key == key).as_ref(),
            key: &key,
            is_written: name.is_some_and(|name| written.contains(name)),
            now,
        }
        .redeem(psk)?;
        Ok(self.write(decision))
    }

    fn connect(&mut self, key: PublicKey) {
        for client in &mut self.clients {
            client.seen |= client.public_key == key;
        }
    }

    fn revoke(&mut self, name: &ClientName, now: UnixTime) -> Revoked {
        let named = self.client(|client| client.name == *name);
        let tokens = self.tokens_of(name);
        self.write(revoke(name, named.as_ref(), &tokens, now))
    }

    fn forget(&mut self, token: TokenId) {
        self.tokens.retain(|row| row.token.id != token);
    }

    fn rows(&self) -> (Vec<ClientRow>, Vec<TokenRow>) {
        let (mut clients, mut tokens) = (self.clients.clone(), self.tokens.clone());
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        tokens.sort_by_key(|row| (row.created, row.token.id));
        (clients, tokens)
    }
}

/// Rows in SQLite.
struct StateFile {
    store: Store,
    dir: TempDir,
}

impl StateFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        Self { store, dir }
    }
}

impl Keeper for StateFile {
    fn invite(&mut self, invitation: &Invitation, now: UnixTime) -> Result<usize, InviteError> {
        self.store.invite(invitation, now)
    }

    fn redeem(
        &mut self,
        token: TokenId,
        key: PublicKey,
        psk: Psk,
        now: UnixTime,
        written: &[ClientName],
    ) -> Result<ClientRow, RedeemError> {
        let is_written = |name: &ClientName, _: &PublicKey| written.contains(name);
        self.store.redeem(token, &key, psk, now, is_written)
    }

    fn connect(&mut self, key: PublicKey) {
        self.store.mark_seen(&key).unwrap();
    }

    fn revoke(&mut self, name: &ClientName, now: UnixTime) -> Revoked {
        self.store.revoke(name, now).unwrap()
    }

    fn forget(&mut self, token: TokenId) {
        let file = rusqlite::Connection::open(self.dir.path().join("state.db")).unwrap();
        let forget = "DELETE FROM tokens WHERE id = ?1";
        file.execute(forget, [token.as_bytes()]).unwrap();
    }

    fn rows(&self) -> (Vec<ClientRow>, Vec<TokenRow>) {
        let rows: Result<_, StoreError> = (|| Ok((self.store.clients()?, self.store.tokens()?)))();
        rows.unwrap()
    }
}
