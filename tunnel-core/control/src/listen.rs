//! Where requests come in: a TCP port or a Unix socket.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use crate::{access::Peer, tls::Tls};

/// An address to listen on or to connect to: `127.0.0.1:7001`, or `unix:/run/adit/admin.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A port of an address.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AddressError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an address and a port, such as 127.0.0.1:7001, or unix:PATH")]
pub struct AddressError;

/// A socket that takes connections. Dropped, it takes its file away.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    pub(crate) tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, unix::SocketFile),
}

/// A connection, before TLS.
#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Listener {
    /// Listens. A Unix socket has the mode 0660, takes the place of one that nobody listens on, and of nothing else. TLS is for
    /// TCP: a Unix socket stays on this machine. Needs a tokio runtime with I/O.
    pub fn bind(address: &Address, tls: Option<Arc<Tls>>) -> Result<Self, ListenError> {
        match address {
            Address::Tcp(socket) => {
                let listener =
                    bind_tcp(*socket).map_err(|source| ListenError::failed(address, source))?;
                Ok(Self {
                    socket: Socket::Tcp(listener),
                    tls,
                })
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let (listener, file) = unix::bind(path)?;
                Ok(Self {
                    socket: Socket::Unix(listener, file),
                    tls: None,
                })
            }
            #[cfg(not(unix))]
            Address::Unix(path) => Err(ListenError::NoUnix(path.clone())),
        }
    }

    /// Where it listens, with the port that the system has chosen if 0 was asked for.
    pub fn address(&self) -> io::Result<Address> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            #[cfg(unix)]
            Socket::Unix(_, file) => Ok(Address::Unix(file.path().to_owned())),
        }
    }

    /// The next connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(Connection, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, mut peer) = listener.accept().await?;
                peer.set_ip(peer.ip().to_canonical());
                // Without it an event would wait for the acknowledgement of that before it.
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream), Peer::Tcp(peer)))
            }
            #[cfg(unix)]
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream), Peer::Local))
            }
        }
    }
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody else has the address.
    #[error(
        "{0} is in use: another program listens there (ss -ltnp shows which), or this one runs already"
    )]
    InUse(Address),
    /// It is not this machine's.
    #[error("{0} is not an address of this machine (ip addr shows those that are)")]
    NotHere(Address),
    /// A file that is no socket stands at the path.
    #[error("{} is there and is no socket: it stays, choose another path", .0.display())]
    NoSocket(PathBuf),
    /// This system has no Unix sockets.
    #[error("unix:{}: Unix sockets are not supported on this system, use 127.0.0.1 and a port", .0.display())]
    NoUnix(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {address}: {source}")]
    Failed {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    fn failed(address: &Address, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address.clone()),
            io::ErrorKind::AddrNotAvailable => Self::NotHere(address.clone()),
            _ => Self::Failed {
                address: address.clone(),
                source,
            },
        }
    }

    /// Whether the address may still come up, as at boot.
    pub const fn is_not_there_yet(&self) -> bool {
        matches!(self, Self::NotHere(_))
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(unix)]
mod unix {
    use std::{
        fs,
        os::unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
        path::{Path, PathBuf},
    };

    use super::{Address, ListenError, UnixListener, io};

    /// The socket's file; dropped, it is removed, unless another one has taken its place.
    #[derive(Debug)]
    pub(super) struct SocketFile {
        path: PathBuf,
        id: (u64, u64),
    }

    impl SocketFile {
        pub(super) fn path(&self) -> &Path {
            &self.path
        }
    }

    impl Drop for SocketFile {
        fn drop(&mut self) {
            if id(&self.path).is_some_and(|id| id == self.id)
                && let Err(error) = fs::remove_file(&self.path)
            {
                tracing::warn!(%error, path = %self.path.display(), "the socket stays behind");
            }
        }
    }

    pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
        let address = Address::Unix(path.to_owned());
        let failed = |source| ListenError::failed(&address, source);
        check_free(path, &address)?;
        // Made beside its place and moved there: nobody finds it with another mode, and a dead one is replaced in one step.
        let beside = beside(path);
        let made = StdListener::bind(&beside).map_err(failed)?;
        let moved = fs::set_permissions(&beside, fs::Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = moved {
            drop(fs::remove_file(&beside));
            return Err(failed(error));
        }
        let file = SocketFile {
            path: path.to_owned(),
            id: id(path).unwrap_or_default(),
        };
        made.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(made).map_err(failed)?;
        Ok((listener, file))
    }

    /// Whether the path is free, or has a socket on which nobody listens any more.
    fn check_free(path: &Path, address: &Address) -> Result<(), ListenError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ListenError::failed(address, error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NoSocket(path.to_owned()));
            }
            Ok(_) => {}
        }
        // Its queue may be full: then somebody listens as well. No answer is waited for.
        match StdStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ListenError::failed(address, error))
            }
            _ => Err(ListenError::InUse(address.clone())),
        }
    }

    fn beside(path: &Path) -> PathBuf {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        path.with_file_name(name)
    }

    fn id(path: &Path) -> Option<(u64, u64)> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// The owner and its group: whoever may write to it may ask, and is asked for a token all the same.
    const MODE: u32 = 0o660;

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_socket_replaces_a_dead_one_and_nothing_else() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("admin.sock");
            let (_live, file) = bind(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            assert!(matches!(bind(&path), Err(ListenError::InUse(_))));
            drop(file);
            assert!(!path.exists());
            // Dead: its file is there, and nobody listens.
            drop(StdListener::bind(&path).unwrap());
            let (_listener, file) = bind(&path).unwrap();
            // Another one has taken its place: that one stays.
            fs::remove_file(&path).unwrap();
            let _other = StdListener::bind(&path).unwrap();
            drop(file);
            assert!(path.exists());
            let plain = dir.path().join("plain");
            fs::write(&plain, "precious").unwrap();
            assert!(matches!(bind(&plain), Err(ListenError::NoSocket(_))));
            assert_eq!(fs::read_to_string(&plain).unwrap(), "precious");
            let nowhere = bind(&dir.path().join("no/where")).unwrap_err();
            assert!(matches!(nowhere, ListenError::Failed { .. }), "{nowhere}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_path() {
        for text in ["127.0.0.1:7001", "[::1]:7001", "unix:/run/adit.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for bad in ["", "unix:", "7001", "localhost:7001", "127.0.0.1"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_named() {
        let first = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let taken = first.address().unwrap();
        let error = Listener::bind(&taken, None).unwrap_err();
        assert!(
            matches!(&error, ListenError::InUse(address) if *address == taken),
            "{error}"
        );
        let error = Listener::bind(&"192.0.2.1:7001".parse().unwrap(), None).unwrap_err();
        assert!(error.is_not_there_yet(), "{error}");
    }
}
