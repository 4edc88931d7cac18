//! Noise's primitives from aws-lc-rs, and randomness that was given.
//!
//! Of snow only the protocol logic is used. Its own Curve25519 costs more than all else in a handshake.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey},
    digest, hmac,
};
use snow::{
    Builder, Error,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use crate::{
    key::KEY_LEN,
    proto::handshake::{error::HandshakeError, suite::Suite},
};

/// A builder whose only ephemeral key is `ephemeral`.
pub(super) fn builder<'a>(
    suite: Suite,
    ephemeral: [u8; KEY_LEN],
) -> Result<Builder<'a>, HandshakeError> {
    let params: NoiseParams = suite.noise_name().parse()?;
    let resolver = AwsLc {
        ephemeral: Zeroizing::new(ephemeral),
    };
    Ok(Builder::with_resolver(params, Box::new(resolver)))
}

struct AwsLc {
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
}

impl CryptoResolver for AwsLc {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneShot(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256(digest::Context::new(&digest::SHA256)))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(Aead {
                suite: Suite::Aes256Gcm,
                key: None,
            })),
            CipherChoice::ChaChaPoly => Some(Box::new(Aead {
                suite: Suite::ChaCha20Poly1305,
                key: None,
            })),
            #[allow(
                unreachable_patterns,
                reason = "snow has more choices with more features"
            )]
            _ => None,
        }
    }
}

/// Gives the ephemeral key out once. A second draw would make the same key again, so it fails.
struct OneShot(Option<Zeroizing<[u8; KEY_LEN]>>);

impl Random for OneShot {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let bytes = self.0.take().ok_or(Error::Rng)?;
        if dest.len() != bytes.len() {
            return Err(Error::Rng);
        }
        dest.copy_from_slice(bytes.as_slice());
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    key: Option<PrivateKey>,
    private: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
}

impl X25519 {
    fn load(&mut self) -> Result<(), Error> {
        let key = PrivateKey::from_private_key(&agreement::X25519, self.private.as_slice())
            .map_err(|_| Error::Dh)?;
        let public = key.compute_public_key().map_err(|_| Error::Dh)?;
        self.public = public.as_ref().try_into().map_err(|_| Error::Dh)?;
        self.key = Some(key);
        Ok(())
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        // Without a key every agreement fails: there is no way on with a key that was not loaded.
        self.key = None;
        if privkey.len() == KEY_LEN {
            self.private.copy_from_slice(privkey);
            if self.load().is_err() {
                self.key = None;
            }
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(self.private.as_mut_slice())?;
        self.load()
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_slice()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        let peer = pubkey.get(..KEY_LEN).ok_or(Error::Dh)?;
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer);
        agreement::agree(key, peer, Error::Dh, |shared| {
            out.get_mut(..shared.len())
                .ok_or(Error::Dh)?
                .copy_from_slice(shared);
            Ok(())
        })
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }

    fn hmac(&mut self, key: &[u8], data: &[u8], out: &mut [u8]) {
        // snow passes its chaining key, which it keeps in an array of the longest hash.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key[..key.len().min(32)]);
        out[..32].copy_from_slice(hmac::sign(&key, data).as_ref());
    }
}

struct Aead {
    suite: Suite,
    key: Option<LessSafeKey>,
}

impl Aead {
    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[4..].copy_from_slice(&match self.suite {
            Suite::Aes256Gcm => number.to_be_bytes(),
            Suite::ChaCha20Poly1305 => number.to_le_bytes(),
        });
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        match self.suite {
            Suite::Aes256Gcm => "AESGCM",
            Suite::ChaCha20Poly1305 => "ChaChaPoly",
        }
    }

    fn set(&mut self, key: &[u8; 32]) {
        let algorithm = match self.suite {
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        // Both take 32 bytes. Without a key nothing is sealed or opened.
        self.key = UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let sealed = plaintext.len() + TAG_LEN;
        let (body, tag) = out[..sealed].split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let made = self.key.as_ref().and_then(|key| {
            key.seal_in_place_separate_tag(self.nonce(nonce), Aad::from(authtext), body)
                .ok()
        });
        match made {
            Some(made) => tag.copy_from_slice(made.as_ref()),
            // The trait has no error. Zeros are a message that nobody can read.
            None => out[..sealed].fill(0),
        }
        sealed
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.key.as_ref().ok_or(Error::Decrypt)?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let opened = key
            .open_in_place(self.nonce(nonce), Aad::from(authtext), &mut text)
            .map_err(|_| Error::Decrypt)?;
        out.get_mut(..opened.len())
            .ok_or(Error::Decrypt)?
            .copy_from_slice(opened);
        Ok(opened.len())
    }
}

const TAG_LEN: usize = 16;
