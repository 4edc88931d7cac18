//! Targets by name, in a world where the name's addresses are the test's to choose.

use std::net::SocketAddr;

use crate::harness::{
    eventually,
    players::{converse, reaches, try_converse, udp_player, udp_server},
    requires,
    world::World,
};

#[test]
fn a_name_with_two_addresses_reaches_the_one_that_listens() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n::1 srv_1\n") else {
        return;
    };
    for listens in ["127.0.0.5", "::1"] {
        let target = SocketAddr::new(listens.parse().unwrap(), world.target_port);
        assert!(reaches(world.public, target), "{target}");
    }
}

#[test]
fn a_name_is_looked_up_for_each_stream() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n") else {
        return;
    };
    assert!(reaches(world.public, world.target([127, 0, 0, 5])));
    world.is_now("127.0.0.6 srv_1\n");
    eventually("a look-up", || {
        reaches(world.public, world.target([127, 0, 0, 6])).then_some(())
    });
}

#[test]
fn a_live_flow_follows_a_name_that_moves() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n") else {
        return;
    };
    let player = udp_player(world.public);
    let old = udp_server(world.target([127, 0, 0, 5]));
    converse(&player, &old, 100);
    // As when a container is made anew: the old one is gone, the new one has another address.
    drop(old);
    let new = udp_server(world.target([127, 0, 0, 6]));
    world.is_now("127.0.0.6 srv_1\n");
    eventually("the player at the new server", || {
        try_converse(&player, &new, 100)
    });
}
