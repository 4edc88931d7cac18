//! What the kernel knows of a TCP connection, and how fast it may send.

use std::{io, os::fd::BorrowedFd, time::Duration};

/// A connection's state, as the kernel has it at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpState {
    /// Average round trip.
    pub(crate) rtt: Duration,
    /// The lowest of the last minutes.
    pub(crate) lowest: Duration,
    /// Segments that have arrived; wraps.
    pub(crate) delivered: u32,
    /// Bytes of a segment.
    pub(crate) segment: u32,
    /// Bytes that have not been sent for the first time.
    pub(crate) unsent: u32,
    /// Segments sent and not acknowledged.
    pub(crate) unacked: u32,
    /// How often in a row the oldest of them was repeated, each time after a longer wait, and still was not acknowledged.
    pub(crate) repeats: u8,
    /// Questions in a row whether a closed window has opened, without an answer.
    pub(crate) probes: u8,
    /// How long no acknowledgement has come, whatever of.
    pub(crate) silent: Duration,
    /// Bytes per second that it may send; the largest number for no limit.
    #[cfg(test)]
    pub(crate) most: u64,
}

impl TcpState {
    /// Asks the kernel. `Unsupported` before Linux 4.18.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        sys::tcp_state(socket)
    }
}

/// Lets a connection send so many bytes per second at most; `None` for as many as it likes.
pub(crate) fn pace(socket: BorrowedFd<'_>, rate: Option<u64>) -> io::Result<()> {
    // The kernel takes 0 for no limit.
    sys::set_max_pacing_rate(socket, rate.map_or(u64::MAX, |rate| rate.max(1)))
}

#[expect(
    unsafe_code,
    reason = "no crate wraps TCP_INFO and SO_MAX_PACING_RATE safely"
)]
mod sys {
    use std::{
        ffi::c_ulong,
        io,
        mem::offset_of,
        os::fd::{AsRawFd, BorrowedFd},
        time::Duration,
    };

    use super::TcpState;

    pub(super) fn tcp_state(socket: BorrowedFd<'_>) -> io::Result<TcpState> {
        let mut info = [0; size_of::<libc::tcp_info>()];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes no more than `length`
        // bytes to `info`, which has as many.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let known = &info[..info.len().min(length as usize)];
        // An older kernel tells less: before 4.18 not what was delivered.
        let field = |offset: usize| match known.get(offset..offset + 4) {
            Some(&[a, b, c, d]) => Ok(u32::from_ne_bytes([a, b, c, d])),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        let rtt = field(offset_of!(libc::tcp_info, tcpi_rtt))?;
        let byte = |offset: usize| known.get(offset).copied().unwrap_or_default();
        // The largest number says that there has been none.
        let lowest = field(offset_of!(libc::tcp_info, tcpi_min_rtt))?.min(rtt);
        Ok(TcpState {
            rtt: Duration::from_micros(rtt.into()),
            lowest: Duration::from_micros(lowest.into()),
            delivered: field(offset_of!(libc::tcp_info, tcpi_delivered))?,
            segment: field(offset_of!(libc::tcp_info, tcpi_snd_mss))?,
            unsent: field(offset_of!(libc::tcp_info, tcpi_notsent_bytes))?,
            unacked: field(offset_of!(libc::tcp_info, tcpi_unacked))?,
            repeats: byte(offset_of!(libc::tcp_info, tcpi_retransmits)),
            probes: byte(offset_of!(libc::tcp_info, tcpi_probes)),
            silent: Duration::from_millis(
                field(offset_of!(libc::tcp_info, tcpi_last_ack_recv))?.into(),
            ),
            #[cfg(test)]
            most: {
                let half = |n| field(offset_of!(libc::tcp_info, tcpi_max_pacing_rate) + n);
                let halves = [half(0)?.to_ne_bytes(), half(4)?.to_ne_bytes()];
                let mut whole = [0; 8];
                whole[..4].copy_from_slice(&halves[0]);
                whole[4..].copy_from_slice(&halves[1]);
                u64::from_ne_bytes(whole)
            },
        })
    }

    pub(super) fn set_max_pacing_rate(socket: BorrowedFd<'_>, rate: u64) -> io::Result<()> {
        let rate = c_ulong::try_from(rate).unwrap_or(c_ulong::MAX);
        // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads a `c_ulong` from `rate`.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                (&raw const rate).cast(),
                size_of::<c_ulong>() as libc::socklen_t,
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
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
        let before = TcpState::of(near.as_fd()).unwrap();
        near.write_all(&[7; 100_000]).unwrap();
        far.read_exact(&mut [0; 100_000]).unwrap();
        // Its acknowledgement comes before the answer.
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0]).unwrap();
        let after = TcpState::of(near.as_fd()).unwrap();
        let arrived = u64::from(after.delivered - before.delivered) * u64::from(after.segment);
        assert!(arrived >= 100_000, "{before:?} {after:?}");
        assert_eq!((after.unsent, after.unacked), (0, 0));
        assert!(
            !after.rtt.is_zero() && after.lowest <= after.rtt,
            "{after:?}"
        );
    }

    #[test]
    fn a_pace_holds_and_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let most = || TcpState::of(near.as_fd()).unwrap().most;
        pace(near.as_fd(), Some(1_000_000)).unwrap();
        assert_eq!(most(), 1_000_000);
        pace(near.as_fd(), Some(0)).unwrap();
        assert_eq!(most(), 1, "nothing is not everything");
        pace(near.as_fd(), None).unwrap();
        assert_eq!(most(), u64::MAX);
    }
}
