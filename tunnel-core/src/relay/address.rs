//! Checks the addresses that a relay is told to use: they may not be up yet, and the system may lack IPv6.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

/// The address to bind sockets to for `wanted`: `0.0.0.0` for `::` where the system has no IPv6. An error if nothing can be bound.
pub(super) fn local(wanted: IpAddr) -> io::Result<IpAddr> {
    match UdpSocket::bind((wanted, 0)) {
        Ok(_) => Ok(wanted),
        Err(error)
            if wanted == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_FAMILY) =>
        {
            Ok(Ipv4Addr::UNSPECIFIED.into())
        }
        Err(error) => Err(error),
    }
}

/// EAFNOSUPPORT: the system does not know addresses of this kind.
const NO_FAMILY: i32 = if cfg!(windows) {
    10_047
} else if cfg!(target_os = "linux") {
    97
} else {
    47
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_stays_and_what_it_has_not_is_an_error() {
        for here in ["0.0.0.0", "127.0.0.1"] {
            let here: IpAddr = here.parse().unwrap();
            assert_eq!(local(here).unwrap(), here);
        }
        // TEST-NET-3.
        let elsewhere = local("203.0.113.77".parse().unwrap()).unwrap_err();
        assert_eq!(elsewhere.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
