//! What the kernel lists of its routing rules, routes and packet filter, as far as players' own addresses need it.

use std::{io, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::{self, SocketAddrNetlink},
    recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// Whether packets with this mark are looked up in a table of routes which takes all of them for this machine's.
pub(super) fn leads_home(mark: u32, is_v4: bool) -> io::Result<bool> {
    let family = if is_v4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let mut tables = Vec::new();
    // NETLINK_ROUTE is the number 0.
    let route = None;
    dump(route, GET_RULE, family, |message| {
        let says = |kind| attribute(message, HEAD, kind).and_then(number);
        if says(RULE_MARK) == Some(mark) {
            tables.extend(says(TABLE));
        }
    })?;
    let mut leads_home = false;
    dump(route, GET_ROUTE, family, |message| {
        let table = attribute(message, HEAD, TABLE).and_then(number);
        let (prefix, kind) = (message.get(1), message.get(7));
        leads_home |= table.is_some_and(|table| tables.contains(&table))
            && (prefix, kind) == (Some(&0), Some(&LOCAL));
    })?;
    Ok(leads_home)
}

/// Whether some rule of nftables (iptables are some, too) holds this mark.
pub(super) fn is_marked(mark: u32) -> io::Result<bool> {
    let mut is_marked = false;
    let filter = Some(netlink::NETFILTER);
    dump(filter, GET_FILTER_RULE, AddressFamily::UNSPEC, |message| {
        is_marked |= message.windows(4).any(|word| word == mark.to_ne_bytes());
    })?;
    Ok(is_marked)
}

/// Calls `each` with the body of each message of an answer.
fn dump(
    protocol: Option<rustix::net::Protocol>,
    kind: u16,
    family: AddressFamily,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut question = Vec::new();
    question.extend((MESSAGE_HEAD as u32 + HEAD as u32).to_ne_bytes());
    question.extend(kind.to_ne_bytes());
    question.extend((REQUEST | DUMP).to_ne_bytes());
    question.extend([0; 8]);
    question.push(family.as_raw() as u8);
    question.resize(MESSAGE_HEAD + HEAD, 0);
    send(&socket, &question, SendFlags::empty())?;
    let mut buffer = vec![0; PART_MAX];
    for _ in 0..PARTS_MAX {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, behind)) = message(rest) {
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(refusal(body)),
                _ => each(body),
            }
            rest = behind;
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// What the kernel says where it does not answer: a negative number of an error.
fn refusal(body: &[u8]) -> io::Error {
    let error = body.get(..4).and_then(number).map(u32::cast_signed);
    error.map_or_else(
        || io::ErrorKind::InvalidData.into(),
        |error| io::Error::from_raw_os_error(error.saturating_neg()),
    )
}

/// The first message of some, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes.get(..4)?)? as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(MESSAGE_HEAD..length)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, behind))
}

/// The value of an attribute, behind the message's own head.
fn attribute(message: &[u8], head: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(head..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

// Numbers of linux/netlink.h, rtnetlink.h, fib_rules.h and netfilter/nf_tables.h.
const GET_ROUTE: u16 = 26;
const GET_RULE: u16 = 34;
const GET_FILTER_RULE: u16 = (10 << 8) | 7;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const TABLE: u16 = 15;
const RULE_MARK: u16 = 10;
const LOCAL: u8 = 2;
const MESSAGE_HEAD: usize = 16;
/// The head of a rule and of a route; that of the filter's messages is shorter, and what follows it is not looked at here.
const HEAD: usize = 12;
/// The kernel sends parts of 32 KiB at most.
const PART_MAX: usize = 64 * 1024;
/// 4,096 parts: a million routes.
const PARTS_MAX: usize = 4096;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_and_messages_are_cut_where_they_say_and_never_behind_the_end() {
        let mut bytes = vec![0; HEAD];
        for (kind, value) in [(1_u16, &b"odd"[..]), (RULE_MARK, &0xad17_u32.to_ne_bytes())] {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let mark = attribute(&bytes, HEAD, RULE_MARK).and_then(number);
        assert_eq!(mark, Some(0xad17));
        assert_eq!(attribute(&bytes, HEAD, TABLE), None);
        for end in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..end], HEAD, RULE_MARK), None, "{end}");
        }
        let denied = refusal(&(-1_i32).to_ne_bytes());
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(refusal(&[0]).kind(), io::ErrorKind::InvalidData);
        // A length of nothing goes on for ever nowhere.
        assert_eq!(attribute(&[0; 64], HEAD, 5), None);
        assert!(message(&[0; 16]).is_none());
        assert!(message(&[255; 40]).is_none());
    }

    #[test]
    fn the_kernels_own_tables_are_read() {
        // Mark 0 is what a rule has that has none.
        assert!(!leads_home(0x7fff_fff7, true).unwrap());
        assert!(!leads_home(0x7fff_fff7, false).unwrap());
        let mut rules = 0;
        dump(None, GET_RULE, AddressFamily::INET, |message| {
            rules += usize::from(attribute(message, HEAD, TABLE).is_some())
        })
        .unwrap();
        assert!(rules >= 3, "local, main and default");
    }
}
