//! Ciphers, and what carries a handshake.

/// The cipher of a handshake and of everything after it. Curve25519 and SHA-256 are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM: the fastest where the CPU has AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305: the fastest where it has not, and constant in time there.
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite; a relay speaks them all.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The suite's number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The suite with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// What a client should pick on this CPU.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_aes = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }

    pub(super) const fn noise_name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "Noise_IKpsk2_25519_AESGCM_SHA256",
            Self::ChaCha20Poly1305 => "Noise_IKpsk2_25519_ChaChaPoly_SHA256",
        }
    }
}

/// What carries the handshake. It enters the prologue, so that a message recorded on one is void on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// CRYPTO frames of a QUIC connection; the payloads carry its transport parameters.
    Quic,
    /// A TCP connection; the payloads are padded to 256 bytes.
    Lane,
}

impl TransportKind {
    pub(super) const fn letter(self) -> u8 {
        match self {
            Self::Quic => b'q',
            Self::Lane => b'l',
        }
    }
}
