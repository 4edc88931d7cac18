//! `[admin]` of `relay.toml`: where operators and programs reach the relay.

use std::path::PathBuf;

use adit_control::{access::Secret, listen::Address};
use adit_daemon::config::{At, Fault, Key, Reader};

/// The admin API.
#[derive(Clone, Debug)]
pub(crate) struct AdminConfig {
    /// A port, or a Unix socket.
    pub(crate) listen: Address,
    /// An admin's token, from its file.
    pub(crate) token: Option<Secret>,
    /// One that reads counters.
    pub(crate) metrics_token: Option<Secret>,
    /// Whether a token may stand in the URL.
    pub(crate) allow_query_token: bool,
    /// The files of the certificate and of its key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// Names by which browsers may come.
    pub(crate) hosts: Vec<String>,
}

impl AdminConfig {
    /// Whether the other can take its place only at a start.
    pub(crate) fn needs_restart(&self, other: &Self) -> bool {
        (&self.listen, self.allow_query_token, &self.tls, &self.hosts)
            != (
                &other.listen,
                other.allow_query_token,
                &other.tls,
                &other.hosts,
            )
    }
}

/// As written.
#[derive(Default)]
pub(super) struct RawAdmin {
    listen: Option<At<Address>>,
    token: Option<Secret>,
    metrics_token: Option<Secret>,
    allow_query_token: bool,
    certificate: Option<At<PathBuf>>,
    key: Option<At<PathBuf>>,
    hosts: Vec<String>,
}

impl RawAdmin {
    /// What it says; `None` after a problem.
    pub(super) fn validate(self, reader: &mut Reader<'_>) -> Option<AdminConfig> {
        let listen = self.listen?;
        let tls = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate.value, key.value)),
            (None, None) => None,
            (Some(alone), None) => {
                reader.problem(
                    alone.span,
                    "tls_certificate_file: its key is missing: add tls_key_file",
                );
                return None;
            }
            (None, Some(alone)) => {
                reader.problem(
                    alone.span,
                    "tls_key_file: its certificate is missing: add tls_certificate_file",
                );
                return None;
            }
        };
        match &listen.value {
            Address::Tcp(address) if tls.is_none() && !address.ip().is_loopback() => {
                let text = "listen: tokens travel in the clear: listen on 127.0.0.1, or set tls_certificate_file and tls_key_file";
                reader.warning(listen.span.clone(), text);
            }
            Address::Unix(_) if tls.is_some() => {
                let text = "listen: a Unix socket has no TLS: tls_certificate_file and tls_key_file have no effect";
                reader.warning(listen.span.clone(), text);
            }
            _ => {}
        }
        Some(AdminConfig {
            listen: listen.value,
            token: self.token,
            metrics_token: self.metrics_token,
            allow_query_token: self.allow_query_token,
            tls,
            hosts: self.hosts,
        })
    }
}

pub(super) const KEYS: &[Key<RawAdmin>] = &[
    Key::required(
        "listen",
        r#"listen = "127.0.0.1:7001""#,
        |admin, value, reader| {
            let address = match value.parse()? {
                Address::Unix(path) => Address::Unix(reader.resolve(&path.to_string_lossy())),
                Address::Tcp(address) if address.port() == 0 => {
                    return Err(Fault::new("operators need a port that stays: 0 is none"));
                }
                other => other,
            };
            admin.listen = Some(value.at(address));
            Ok(())
        },
    ),
    Key::optional("token_file", |admin, value, reader| {
        admin.token = Some(reader.secret(value)?.value.1);
        Ok(())
    }),
    Key::optional("metrics_token_file", |admin, value, reader| {
        admin.metrics_token = Some(reader.secret(value)?.value.1);
        Ok(())
    }),
    Key::optional("allow_query_token", |admin, value, reader| {
        admin.allow_query_token = value.boolean()?;
        if admin.allow_query_token {
            let text =
                "allow_query_token: a token in a URL stands in histories, logs and referrers";
            reader.warning(value.span.clone(), text);
        }
        Ok(())
    }),
    Key::optional("tls_certificate_file", |admin, value, reader| {
        admin.certificate = Some(value.at(reader.resolve(value.text()?)));
        Ok(())
    }),
    Key::optional("tls_key_file", |admin, value, reader| {
        admin.key = Some(value.at(reader.resolve(value.text()?)));
        Ok(())
    }),
    Key::optional("hosts", |admin, value, _| {
        let hosts: Vec<Host> = value.list()?;
        if hosts.len() > HOSTS {
            return Err(Fault::new(format!(
                "{} names are more than {HOSTS}",
                hosts.len()
            )));
        }
        admin.hosts = hosts.into_iter().map(|host| host.0).collect();
        Ok(())
    }),
];

/// A name without a port.
struct Host(String);

impl std::str::FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(is_name) {
            return Err("expected a name without a port, such as relay.example.net");
        }
        Ok(Self(text.to_owned()))
    }
}

/// 64 names: each request of a browser is held against all of them.
const HOSTS: usize = 64;
