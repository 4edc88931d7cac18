//! What the kernel knows of a TCP connection.

use std::{io, os::fd::BorrowedFd, time::Duration};

/// A connection's state, as the kernel has it at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpState {
    /// Segments sent and not acknowledged.
    pub(crate) unacked: u32,
    /// How often in a row the oldest of them was repeated, each time after a longer wait, and still was not acknowledged.
    pub(crate) repeats: u8,
    /// Questions in a row whether a closed window has opened, without an answer.
    pub(crate) probes: u8,
    /// How long no acknowledgement has come, whatever of.
    pub(crate) silent: Duration,
}

impl TcpState {
    /// Asks the kernel.
    #[expect(unsafe_code, reason = "no crate wraps TCP_INFO safely")]
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        use std::{ffi::c_void, mem::offset_of, os::fd::AsRawFd};

        let mut info = [0; size_of::<libc::tcp_info>()];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes no more than `length`
        // bytes to `info`, which has as many.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast::<c_void>(),
                &raw mut length,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let known = &info[..info.len().min(length as usize)];
        // An older kernel tells less.
        let field = |offset: usize| match known.get(offset..offset + 4) {
            Some(&[a, b, c, d]) => Ok(u32::from_ne_bytes([a, b, c, d])),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        let byte = |offset: usize| known.get(offset).copied().unwrap_or_default();
        Ok(Self {
            unacked: field(offset_of!(libc::tcp_info, tcpi_unacked))?,
            repeats: byte(offset_of!(libc::tcp_info, tcpi_retransmits)),
            probes: byte(offset_of!(libc::tcp_info, tcpi_probes)),
            silent: Duration::from_millis(
                field(offset_of!(libc::tcp_info, tcpi_last_ack_recv))?.into(),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn the_kernel_tells_what_has_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(&[7; 100_000]).unwrap();
        far.read_exact(&mut [0; 100_000]).unwrap();
        // Its acknowledgement comes before the answer.
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0]).unwrap();
        let after = TcpState::of(near.as_fd()).unwrap();
        assert_eq!((after.unacked, after.repeats, after.probes), (0, 0, 0));
        assert!(after.silent < Duration::from_secs(10), "{after:?}");
    }
}
