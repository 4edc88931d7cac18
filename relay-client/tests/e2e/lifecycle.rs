//! How the programs start, end, and take over from each other.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::{
    players::{converse, reaches, udp_player, udp_server},
    ports,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn both_programs_say_ready_and_nothing_else_and_end_with_success() {
    let site = Site::start();
    let client = site.expose(&[Service::tcp(ports::one(), local_address())]);
    let client = client.terminate();
    assert_eq!(client.stdout, "ready\n");
    client.success();
    let relay = site.stop_relay();
    assert_eq!(relay.stdout, "ready\n");
    relay.success();
}

#[test]
fn a_client_ends_with_success_while_it_has_no_relay() {
    let mut site = Site::start();
    let node = site.node("node-1");
    node.configure(&instance(
        "game-1",
        &[Service::tcp(ports::one(), local_address())],
    ));
    site.relay.kill();
    let client = node.start();
    client.wait_for_line("an attempt", |line| line.contains(&site.listen.to_string()));
    let client = client.terminate();
    assert_eq!(client.stdout, "");
    client.success();
}

#[test]
fn a_second_process_with_one_key_takes_over_and_the_first_ends_with_an_error() {
    let site = Site::start();
    let node = site.node("node-1");
    let port = ports::one();
    let target = local_address();
    node.configure(&instance("game-1", &[Service::both(port, target)]));
    let first = node.start();
    first.wait_until_ready();
    let second = node.start();
    second.wait_until_ready();
    first.wait().failure(3);
    assert!(reaches(site.public(port), target));
    converse(&udp_player(site.public(port)), &udp_server(target), 100);
}

#[test]
fn every_form_of_expose_takes_effect() {
    let site = Site::start();
    let node = site.node("node-1");
    let [plain, named] = [(); 2].map(|()| local_address());
    let [tcp, both, range] = [ports::one(), ports::one(), ports::consecutive(3)];
    let targets = ports::consecutive(3);
    let client = node.start_with(&[
        "--expose",
        &format!("tcp:{tcp}={plain}"),
        "--expose",
        &format!("both:{both}={named},optimize=throughput,name=lobby"),
        "--expose",
        &format!(
            "udp:{range}-{}=127.0.0.1:{targets}-{}",
            range + 2,
            targets + 2
        ),
    ]);
    client.wait_until_ready();
    assert!(reaches(site.public(tcp), plain));
    assert!(reaches(site.public(both), named));
    for i in 0..3 {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, targets + i));
        converse(
            &udp_player(site.public(range + i)),
            &udp_server(target),
            100,
        );
    }
}

#[test]
fn the_short_form_of_expose_keeps_the_port() {
    // Player and server on one machine need two addresses for one port.
    let site = Site::with_public_bind(Ipv4Addr::new(127, 0, 0, 2).into());
    let node = site.node("node-1");
    let port = ports::one();
    let client = node.start_with(&["--expose", &format!("both:{port}")]);
    client.wait_until_ready();
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert!(reaches(site.public(port), target));
}
