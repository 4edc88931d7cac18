//! A relay with an API, and who asks it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use adit_control::{
    access::{Role, Secret},
    client::{Client, ClientError},
    listen::Address,
    problem::Problem,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tunnel_core::{
    client::{self, ClientIdentity},
    join::JoinString,
    key::SecretKey,
};

use crate::program::{Ran, Running, free_port};

pub(crate) struct Relay {
    pub(crate) dir: TempDir,
    pub(crate) api: Address,
    admin: Secret,
    running: Option<Running>,
}

impl Relay {
    /// A relay that runs, with further lines in its `[admin]` section.
    pub(crate) fn start(more: &str) -> Self {
        let mut relay = Self::prepare(more);
        relay.run();
        relay
    }

    /// One that does not run yet. Its admin's token is that of `token_file`.
    pub(crate) fn prepare(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let path = dir.path().to_str().unwrap();
        relay_server(&[
            "init",
            "--dir",
            path,
            "--listen",
            &address,
            "--public-bind",
            "127.0.0.1",
            "--advertise",
            &address,
        ])
        .succeeds();
        let api: Address = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let admin = Secret::generate().unwrap();
        let relay = Self {
            dir,
            api,
            admin,
            running: None,
        };
        relay.secret("admin.token", &relay.admin.to_text());
        let config = fs::read_to_string(relay.path("relay.toml")).unwrap();
        let config = config.replace("[relay]\n", "[relay]\ngrace = 0\n");
        let section = format!(
            "[admin]\nlisten = \"{}\"\ntoken_file = \"admin.token\"\n{more}\n",
            relay.api
        );
        fs::write(relay.path("relay.toml"), format!("{config}{section}")).unwrap();
        relay
    }

    pub(crate) fn run(&mut self) -> &mut Running {
        let running = Running::start(&mut self.command(&["run"]));
        self.running.insert(running.ready())
    }

    /// Takes over one that was started in another way.
    pub(crate) fn adopt(&mut self, running: Running) {
        self.running = Some(running);
    }

    pub(crate) fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// Ends it, in peace.
    pub(crate) fn ends(mut self) -> Ran {
        let running = self.running.take().unwrap();
        running.signal("-TERM");
        let ran = running.ends();
        assert_eq!(ran.status, 0, "{ran:?}");
        ran
    }

    /// Ends it as a power cut does.
    pub(crate) fn killed(&mut self) {
        drop(self.running.take());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay-server"));
        command
            .args(words)
            .args(["--config", self.path("relay.toml").to_str().unwrap()])
            .env_remove("RUST_LOG");
        command
    }

    /// A token made by the command line.
    pub(crate) fn token(&self, name: &str, role: Role) -> Secret {
        let role = role.to_string();
        let ran: Ran = self
            .command(&["tokens", "create", name, "--role", &role])
            .output()
            .unwrap()
            .into();
        ran.succeeds().stdout.parse().unwrap()
    }

    /// A client with the admin's token.
    pub(crate) fn admin(&self) -> Client {
        self.client(&self.admin)
    }

    pub(crate) fn client(&self, token: &Secret) -> Client {
        Client::new(self.api.clone()).token(token)
    }

    /// A client with a new token of a role, once the relay takes it.
    pub(crate) async fn client_of(&self, name: &str, role: Role) -> Client {
        let client = self.client(&self.token(name, role));
        // The relay looks at its state file each quarter of a second.
        while let Err(error) = client.get::<Value>("/api/whoami").await {
            match problem(error).status {
                401 | 429 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                403 => break,
                other => panic!("{other}"),
            }
        }
        client
    }

    pub(crate) fn bearer(&self) -> String {
        format!("authorization: Bearer {}\r\n", *self.admin.to_text())
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        connect(&self.api).await
    }

    pub(crate) async fn sends(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> String {
        sends(&self.api, method, path, headers, body).await
    }

    /// A node that has enrolled by this join string, with its tunnel up.
    pub(crate) async fn node(&self, join: &str) -> client::Client {
        let join: JoinString = join.parse().unwrap();
        let secret_key = SecretKey::generate().unwrap();
        let enrolled = client::enrol(&join, &secret_key).await.unwrap();
        let identity = ClientIdentity::new(
            join.relay.clone(),
            join.relay_public_key,
            secret_key,
            enrolled.psk,
        );
        client::Client::builder(identity).start().unwrap()
    }
}

async fn connect(api: &Address) -> TcpStream {
    let Address::Tcp(address) = api else {
        panic!("{api}");
    };
    TcpStream::connect(address).await.unwrap()
}

/// Sends what a program of ours would not, and reads the whole answer.
pub(crate) async fn sends(
    api: &Address,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> String {
    let mut stream = connect(api).await;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It may be refused before it has come as a whole.
    drop(stream.write_all(body).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

pub(crate) fn relay_server(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-server"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
        .into()
}

/// The problem of an answer.
#[track_caller]
pub(crate) fn problem(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => problem,
        other => panic!("{other}"),
    }
}

/// The problem of an outcome that must not be a success.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> Problem {
    problem(outcome.unwrap_err())
}
