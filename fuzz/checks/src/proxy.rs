//! What a front end says before a player's first byte: any bytes.

use tunnel_core::proto::proxy::{self, Decoded, Ends, MAX_V1, MAX_V2};

/// However the bytes are cut, a header is found where it ends and nowhere else, and what it says can be written again.
pub fn check(input: &[u8]) {
    let longer = [input, b"x"].concat();
    match proxy::decode(input) {
        Ok(Decoded::Incomplete) => assert!(input.len() < MAX_V2),
        Err(error) => assert_eq!(
            proxy::decode(&longer),
            Err(error),
            "more bytes mend nothing"
        ),
        Ok(Decoded::Header { length, ends }) => {
            assert!(length <= input.len() && length <= MAX_V2);
            let whole = Ok(Decoded::Header { length, ends });
            assert_eq!(proxy::decode(&input[..length]), whole);
            assert_eq!(proxy::decode(&longer), whole);
            for end in 0..length {
                let cut = proxy::decode(&input[..end]);
                assert_eq!(cut, Ok(Decoded::Incomplete), "{end} of {length} bytes");
            }
            if let Some(ends) = ends {
                check_written(ends);
            }
        }
    }
}

fn check_written(ends: Ends) {
    let is_v4 = ends.player.is_ipv4() && ends.public.is_ipv4();
    let v1 = proxy::encode_v1(ends);
    assert!(v1.len() <= MAX_V1);
    let v2 = proxy::encode_v2_stream(ends).unwrap();
    assert_eq!(v2.len(), if is_v4 { 28 } else { 52 });
    assert_eq!(proxy::encode_v2_datagram(ends).unwrap().len(), v2.len());
    for header in [v1, v2] {
        let whole = Decoded::Header {
            length: header.len(),
            ends: Some(ends),
        };
        assert_eq!(proxy::decode(&header), Ok(whole));
    }
}
