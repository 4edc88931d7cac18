use std::{
    net::{SocketAddr, UdpSocket},
    thread,
};

use super::*;
use crate::load::Load;

#[test]
fn sizes_stay_within_their_bounds_and_small_ones_are_more() {
    let game = Game {
        players: 10,
        rate: 30.0,
        sizes: (60, 1200),
        cold: false,
    };
    let sizes: Vec<_> = (0..1000).map(|number| game.size(3, number)).collect();
    assert!(sizes.iter().all(|size| (60..=1200).contains(size)));
    let small = sizes.iter().filter(|size| **size < 270).count();
    assert!((400..600).contains(&small), "{small}");
    assert_eq!(sizes[7], game.size(3, 7));
}

#[test]
fn every_player_sends_once_a_period() {
    let game = Game {
        players: 100,
        rate: 30.0,
        sizes: (60, 60),
        cold: false,
    };
    let phases = game.phases();
    assert!(phases.windows(2).all(|two| two[0].0 <= two[1].0));
    let mut players: Vec<_> = phases.iter().map(|(_, player)| *player).collect();
    players.sort_unstable();
    assert_eq!(players, (0..100).collect::<Vec<_>>());
    assert!(phases.iter().all(|(phase, _)| (0.0..=1.0).contains(phase)));
}

#[test]
fn what_is_lost_doubled_cut_short_or_changed_is_counted() -> Result<()> {
    let game = Game {
        players: 3,
        rate: 200.0,
        sizes: (60, 1200),
        cold: false,
    };
    let job = Job {
        to: bad_server()?,
        also: Vec::new(),
        seconds: 0.3,
        spread: false,
        load: Load::Game(game.clone()),
    };
    let seen = play(&job, &game)?;
    // 60 periods of three players; of ten packets one is lost, one doubled, one cut short and one changed.
    let tenth = 18;
    assert_eq!(seen.sent, 10 * tenth);
    assert_eq!(seen.received, 7 * tenth);
    assert_eq!(seen.doubled, tenth);
    assert_eq!(seen.wrong, 2 * tenth);
    let latencies = seen.latencies.expect("there are some");
    assert_eq!(latencies.count, seen.received);
    Ok(())
}

/// Answers most packets as it should.
fn bad_server() -> Result<SocketAddr> {
    let server = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let address = server.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, player)) = server.recv_from(&mut buffer) {
            let packet = &mut buffer[..length];
            let number = u32::from_be_bytes([packet[12], packet[13], packet[14], packet[15]]);
            let opens = number == u32::MAX;
            let sent = match number % 10 {
                3 if !opens => continue,
                7 if !opens => server.send_to(&packet[..length - 1], player),
                8 if !opens => {
                    packet[20] = !packet[20];
                    server.send_to(packet, player)
                }
                5 if !opens => server
                    .send_to(packet, player)
                    .and_then(|_| server.send_to(packet, player)),
                _ => server.send_to(packet, player),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(address)
}
