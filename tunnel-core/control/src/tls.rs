//! TLS from files, which can be read again while connections are open.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// A certificate and its key, as their files had them when they were last read.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads both files: PEM, the certificate's with its chain, its own first.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let config = read(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            config: ArcSwap::from_pointee(config),
        }))
    }

    /// Reads both files again; may block. What was read before stays if they are not valid, and for connections that are open.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.certificate, &self.key)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has not what is wanted.
    #[error("{} has no {wanted} in PEM: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// Why it is none.
        source: pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("{} and {} cannot be used: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let wrong = |path: &Path, wanted, source| TlsError::Pem {
        path: path.to_owned(),
        wanted,
        source,
    };
    let text = bounded(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| match chain.is_empty() {
            true => Err(pem::Error::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(|error| wrong(certificate, "certificate", error))?;
    let text = bounded(key)?;
    let private =
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(key, "private key", error))?;
    let unusable = |source| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
    let file = File::open(path).map_err(failed)?;
    file.take(FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE {
        let text = format!("larger than {FILE} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, text)));
    }
    Ok(bytes)
}

/// 1 MiB: a chain has a few certificates of some KiB each.
const FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_do_not_go_together_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
        let write = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
            fs::write(&certificate, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        };
        let make = || rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        assert!(matches!(
            Tls::load(&certificate, &key),
            Err(TlsError::Read { .. })
        ));
        let first = make();
        write(&first);
        let tls = Tls::load(&certificate, &key).unwrap();
        let before = tls.config.load_full();
        fs::write(&key, make().signing_key.serialize_pem()).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Pair { .. })));
        fs::write(&key, "nothing").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("tls.key has no private key"), "{error}");
        fs::write(&certificate, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Read { .. })));
        assert!(Arc::ptr_eq(&before, &tls.config.load_full()));
        write(&make());
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &tls.config.load_full()));
    }
}
