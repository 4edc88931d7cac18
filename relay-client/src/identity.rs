//! A client's identity on disk: its key, the lasting pre-shared key, and the configuration that names both.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use adit_daemon::{
    exit::Stop,
    file::{self, Access, Existing},
};
use anyhow::Context;
use tunnel_core::{
    join::JoinString,
    key::{Psk, SecretKey},
};
use zeroize::Zeroizing;

/// Where an identity is, or will be.
#[derive(Clone, Debug)]
pub(crate) struct IdentityDir {
    dir: PathBuf,
}

impl IdentityDir {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The configuration: it is written last, so an identity is there as a whole or not at all.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// Whether an identity is here.
    pub(crate) fn is_taken(&self) -> bool {
        self.config().symlink_metadata().is_ok()
    }

    /// The key to join with. It is on disk before the network is used: a join that was interrupted goes on with the
    /// same key, which its token still knows.
    pub(crate) fn key(&self) -> Result<SecretKey, Stop> {
        if self.is_taken() {
            return Err(Stop::failure(format!(
                "{} is there already and stays as it is: choose another --dir, or move it away first",
                self.config().display()
            )));
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make {}", self.dir.display()))?;
        let path = self.dir.join("client.key");
        let key = SecretKey::generate()?;
        match file::write(&path, &line(&key.to_text()), Access::Owner, Existing::Keep) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(file::read_key(&path)?)
            }
            Err(error) => Err(cannot_write(&path, error)),
        }
    }

    /// Keeps what joining gave.
    pub(crate) fn keep(&self, join: &JoinString, name: &str, psk: &Psk) -> Result<(), Stop> {
        let path = self.dir.join("client.psk");
        // One of a join that was interrupted before the configuration was written is of no use to anybody.
        let psk = line(&psk.to_text());
        file::write(&path, &psk, Access::Owner, Existing::Replace)
            .map_err(|error| cannot_write(&path, error))?;
        let path = self.config();
        file::write(&path, &template(join, name), Access::All, Existing::Keep)
            .map_err(|error| cannot_write(&path, error))
    }
}

fn line(text: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{text}\n"))
}

fn cannot_write(path: &Path, error: io::Error) -> Stop {
    let error = anyhow::Error::new(error);
    Stop::Failure(error.context(format!("cannot write {}", path.display())))
}

fn template(join: &JoinString, name: &str) -> String {
    // The relay chose the name: nothing of it may end the comment.
    let name: String = name.chars().filter(|c| c.is_ascii_graphic()).collect();
    format!(
        "\
# This node is {name} at the relay.
[client]
relay = \"{relay}\"
relay_public_key = \"{key}\"
private_key_file = \"client.key\"
psk_file = \"client.psk\"

# What players reach through the relay:
# [[instance]]
# id = \"srv_123\"
# [[instance.service]]
# name = \"game\"
# protocol = \"both\"            # tcp, udp or both
# public_port = 7777           # the target's when left out
# target = \"127.0.0.1:7777\"
# optimize = \"auto\"            # latency, throughput or auto
# redundancy = \"adaptive\"      # off, duplicate, fec or adaptive
",
        relay = join.relay,
        key = join.relay_public_key,
    )
}

#[cfg(test)]
mod tests {
    use tunnel_core::{join::Token, key::PublicKey};

    use super::*;
    use crate::config::Config;

    fn join() -> JoinString {
        JoinString {
            relay: "[2001:db8::1]:4433".parse().unwrap(),
            relay_public_key: PublicKey::from([7; 32]),
            token: Token::generate().unwrap(),
        }
    }

    #[test]
    fn what_is_kept_is_a_configuration_that_holds() {
        let dir = tempfile::tempdir().unwrap();
        let kept = IdentityDir::new(dir.path().join("new"));
        let key = kept.key().unwrap();
        assert!(!kept.is_taken());
        let psk = Psk::generate().unwrap();
        kept.keep(&join(), "node-1\n[client]", &psk).unwrap();
        assert!(kept.is_taken());
        let loaded = Config::load(&kept.config()).unwrap();
        assert_eq!(loaded.warnings, [], "secret files are secret");
        let identity = loaded.value.identity;
        assert_eq!(identity.relay, join().relay);
        assert_eq!(identity.relay_public_key, join().relay_public_key);
        assert_eq!(identity.secret_key.as_bytes(), key.as_bytes());
        assert_eq!(identity.psk, psk);
        // The example in the comment is valid too.
        let text = fs::read_to_string(kept.config()).unwrap();
        fs::write(
            kept.config(),
            text.replace("\n# ", "\n").replace("What players", "# What"),
        )
        .unwrap();
        assert_eq!(
            Config::load(&kept.config()).unwrap().value.instances.len(),
            1
        );
    }

    #[test]
    fn an_identity_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let kept = IdentityDir::new(dir.path().to_owned());
        let key = kept.key().unwrap();
        kept.keep(&join(), "node-1", &Psk::from([1; 32])).unwrap();
        assert!(kept.key().is_err());
        assert!(kept.keep(&join(), "node-1", &Psk::from([1; 32])).is_err());
        let on_disk: SecretKey = file::read_key(&dir.path().join("client.key")).unwrap();
        assert_eq!(on_disk.as_bytes(), key.as_bytes());
    }

    #[test]
    fn an_interrupted_join_goes_on_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let kept = IdentityDir::new(dir.path().to_owned());
        let key = kept.key().unwrap();
        assert_eq!(kept.key().unwrap().as_bytes(), key.as_bytes());
        fs::write(dir.path().join("client.psk"), "half").unwrap();
        kept.keep(&join(), "node-1", &Psk::from([1; 32])).unwrap();
        assert!(Config::load(&kept.config()).is_ok());
        fs::write(dir.path().join("client.key"), "damaged").unwrap();
        fs::remove_file(kept.config()).unwrap();
        assert!(kept.key().is_err());
    }
}
