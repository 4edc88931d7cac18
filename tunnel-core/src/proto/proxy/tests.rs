use super::*;

fn ends_of(player: &str, public: &str) -> Ends {
    Ends {
        player: player.parse().unwrap(),
        public: public.parse().unwrap(),
    }
}

/// The signature of version 2, by its specification.
const SIGNATURE: [u8; 12] = *b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&SIGNATURE, &[command, family][..], &length, body].concat()
}

#[test]
fn version_1_is_a_line_that_names_both_ends() {
    for (player, public, line) in [
        (
            "198.51.100.7:50000",
            "203.0.113.1:25565",
            "PROXY TCP4 198.51.100.7 203.0.113.1 50000 25565\r\n",
        ),
        (
            "[2001:db8::7]:50000",
            "[2001:db8::1]:25565",
            "PROXY TCP6 2001:db8::7 2001:db8::1 50000 25565\r\n",
        ),
        // A socket for both families reports IPv4 so.
        (
            "[::ffff:198.51.100.7]:50000",
            "203.0.113.1:25565",
            "PROXY TCP4 198.51.100.7 203.0.113.1 50000 25565\r\n",
        ),
        (
            "[2001:db8::7]:50000",
            "203.0.113.1:25565",
            "PROXY TCP6 2001:db8::7 ::ffff:cb00:7101 50000 25565\r\n",
        ),
        (
            "198.51.100.7:1",
            "[2001:db8::1]:2",
            "PROXY TCP6 ::ffff:c633:6407 2001:db8::1 1 2\r\n",
        ),
    ] {
        let header = encode_v1(ends_of(player, public));
        assert_eq!(String::from_utf8(header).unwrap(), line);
    }
    let longest = "[fe80:1111:2222:3333:4444:5555:6666:7777]:65535";
    assert!(encode_v1(ends_of(longest, longest)).len() <= MAX_V1);
}

#[test]
fn version_2_has_28_bytes_of_ipv4_and_52_of_ipv6_and_mixes_nothing() {
    let v4 = ends_of("198.51.100.7:50000", "203.0.113.1:25565");
    let addresses = [198, 51, 100, 7, 203, 0, 113, 1, 0xc3, 0x50, 0x63, 0xdd];
    assert_eq!(encode_v2_stream(v4).unwrap(), v2(0x21, 0x11, &addresses));
    assert_eq!(encode_v2_datagram(v4).unwrap(), v2(0x21, 0x12, &addresses));
    assert_eq!(encode_v2_datagram(v4).unwrap().len(), 28);

    let mixed = ends_of("[2001:db8::7]:50000", "203.0.113.1:25565");
    let player: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let public: Ipv6Addr = "::ffff:203.0.113.1".parse().unwrap();
    let ports = [0xc3, 0x50, 0x63, 0xdd];
    let addresses = [&player.octets()[..], &public.octets(), &ports].concat();
    assert_eq!(encode_v2_stream(mixed).unwrap(), v2(0x21, 0x21, &addresses));
    assert_eq!(
        encode_v2_datagram(mixed).unwrap(),
        v2(0x21, 0x22, &addresses)
    );
    assert_eq!(encode_v2_datagram(mixed).unwrap().len(), 52);
}

#[test]
fn what_is_written_is_read_and_what_follows_it_is_left() {
    for (player, public) in [
        ("198.51.100.7:50000", "203.0.113.1:25565"),
        ("[2001:db8::7]:50000", "[2001:db8::1]:25565"),
        ("[2001:db8::7]:50000", "203.0.113.1:25565"),
        ("198.51.100.7:50000", "[2001:db8::1]:25565"),
    ] {
        let ends = ends_of(player, public);
        for header in [encode_v1(ends), encode_v2_stream(ends).unwrap()] {
            for end in 0..header.len() {
                assert_eq!(decode(&header[..end]), Ok(Decoded::Incomplete), "{end}");
            }
            let length = header.len();
            let whole = Ok(Decoded::Header {
                length,
                ends: Some(ends),
            });
            assert_eq!(decode(&header), whole);
            assert_eq!(decode(&[&header[..], b"\x10\0PROXY \r\n"].concat()), whole);
        }
    }
}

#[test]
fn a_proxy_may_speak_for_itself() {
    for header in [
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &[1; 12]),
        v2(0x21, 0x00, &[]),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
    ] {
        let length = header.len();
        assert_eq!(decode(&header), Ok(Decoded::Header { length, ends: None }));
    }
}

#[test]
fn extensions_are_passed_over_up_to_a_bound() {
    let addresses = [198, 51, 100, 7, 203, 0, 113, 1, 0, 1, 0, 2];
    let with = |extension: usize| v2(0x21, 0x11, &[&addresses[..], &vec![4; extension]].concat());
    let longest = with(MAX_V2 - 28);
    let ends = Some(ends_of("198.51.100.7:1", "203.0.113.1:2"));
    let length = MAX_V2;
    assert_eq!(decode(&longest), Ok(Decoded::Header { length, ends }));
    let longer = with(MAX_V2 - 27);
    assert_eq!(decode(&longer[..15]), Ok(Decoded::Incomplete));
    assert_eq!(decode(&longer[..16]), Err(ProxyError::TooLong));
}

#[test]
fn what_is_no_header_of_a_tcp_connection_is_refused_as_soon_as_it_shows() {
    let v4 = [198, 51, 100, 7, 203, 0, 113, 1, 0, 1, 0, 2];
    for (bytes, error) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), ProxyError::Missing),
        (b"PROXIED".to_vec(), ProxyError::Missing),
        (b"\x0d\x0a\x0d\x0b".to_vec(), ProxyError::Missing),
        (
            b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            ProxyError::Malformed,
        ),
        (
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n".to_vec(),
            ProxyError::Malformed,
        ),
        (
            b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n".to_vec(),
            ProxyError::Malformed,
        ),
        (
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            ProxyError::Malformed,
        ),
        (b"PROXY TCP4 1.1.1.1\r\n".to_vec(), ProxyError::Malformed),
        (
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r2\r\n".to_vec(),
            ProxyError::Malformed,
        ),
        (b"PROXY\r\n".to_vec(), ProxyError::Malformed),
        (b"PROXY \xff\xfe\r\n".to_vec(), ProxyError::Malformed),
        (
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 96]].concat(),
            ProxyError::TooLong,
        ),
        // Version 3, a command and a family that nobody knows, and too few bytes for two addresses.
        (v2(0x31, 0x11, &v4), ProxyError::Malformed),
        (v2(0x22, 0x11, &v4), ProxyError::Malformed),
        (v2(0x21, 0x41, &v4), ProxyError::Malformed),
        (v2(0x21, 0x11, &v4[..11]), ProxyError::Malformed),
        // Datagrams, sockets of Unix, and an address without a transport.
        (v2(0x21, 0x12, &v4), ProxyError::OtherTransport),
        (v2(0x21, 0x31, &[1; 216]), ProxyError::OtherTransport),
        (v2(0x21, 0x10, &v4), ProxyError::OtherTransport),
        (v2(0x21, 0x01, &[]), ProxyError::OtherTransport),
    ] {
        assert_eq!(decode(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
    for player in ["0.0.0.0", "255.255.255.255", "239.0.0.1"] {
        let line = format!("PROXY TCP4 {player} 203.0.113.1 1 2\r\n");
        let error = ProxyError::NoSuchPlayer(player.parse().unwrap());
        assert_eq!(decode(line.as_bytes()), Err(error));
    }
    for player in ["::", "ff02::1", "::ffff:0.0.0.0"] {
        let line = format!("PROXY TCP6 {player} 2001:db8::1 1 2\r\n");
        let ip = player.parse::<IpAddr>().unwrap().to_canonical();
        assert_eq!(decode(line.as_bytes()), Err(ProxyError::NoSuchPlayer(ip)));
    }
}
