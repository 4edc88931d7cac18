//! iperf3 fills streams and flows.

use std::thread;

use serde_json::Value;

use crate::harness::{
    heavy, ports,
    programs::{iperf3, iperf3_server},
    requires,
    site::{Service, Site},
};

#[test]
fn one_stream_carries_bulk_to_the_server_and_back() {
    requires!("iperf3");
    for optimize in ["latency", "throughput", "auto"] {
        let forward = through_tunnel(Service::tcp, optimize, &["--bytes", "256M"]);
        assert_carried(&forward, 256 << 20);
        let back = through_tunnel(Service::tcp, optimize, &["--bytes", "256M", "--reverse"]);
        assert_carried(&back, 256 << 20);
    }
}

#[test]
fn eight_streams_share_the_tunnel() {
    requires!("iperf3");
    for optimize in ["latency", "throughput", "auto"] {
        let args = ["--parallel", "8", "--bytes", "256M"];
        let report = through_tunnel(Service::tcp, optimize, &args);
        assert_carried(&report, 256 << 20);
        let streams = report["end"]["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 8);
        for stream in streams {
            assert!(
                stream["receiver"]["bytes"].as_u64().unwrap() > 0,
                "{stream}"
            );
        }
    }
}

/// Two programs: iperf3's own `--bidir` takes the order in which its connections arrive for their direction, which no
/// relay keeps.
#[test]
fn both_directions_of_a_tunnel_carry_bulk_at_once() {
    requires!("iperf3");
    let _turn = heavy();
    let servers = [iperf3_server(), iperf3_server()];
    let site = Site::start();
    let ports = [ports::one(), ports::one()];
    let services =
        [0, 1].map(|i| Service::tcp(ports[i], servers[i].address).named(["there", "back"][i]));
    let _client = site.expose(&services);
    let args: [&[&str]; 2] = [&["--time", "2"], &["--time", "2", "--reverse"]];
    let reports = thread::scope(|scope| {
        [0, 1]
            .map(|i| {
                scope.spawn({
                    let public = site.public(ports[i]);
                    move || iperf3(public, args[i])
                })
            })
            .map(|player| player.join().unwrap())
    });
    for report in reports {
        assert!(report["end"]["sum_received"]["bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn datagrams_that_fill_a_packet_arrive() {
    requires!("iperf3");
    assert_arrived(&udp("1400", &[]));
    assert_arrived(&udp("1400", &["--reverse"]));
}

#[test]
fn datagrams_that_need_fragments_arrive() {
    requires!("iperf3");
    assert_arrived(&udp("8000", &[]));
    assert_arrived(&udp("8000", &["--reverse"]));
}

#[test]
fn eight_players_with_datagrams_share_the_tunnel() {
    requires!("iperf3");
    // Each of them sends 2 Mbit/s: together 10,000 packets a second.
    assert_arrived(&udp("200", &["--parallel", "8", "--bandwidth", "2M"]));
}

fn udp(length: &str, args: &[&str]) -> Value {
    let common = [
        "--udp",
        "--bandwidth",
        "20M",
        "--time",
        "2",
        "--length",
        length,
    ];
    // iperf3 agrees on its test over TCP, on the same port.
    through_tunnel(Service::both, "auto", &[&common, args].concat())
}

fn through_tunnel(
    service: fn(u16, std::net::SocketAddr) -> Service,
    optimize: &'static str,
    args: &[&str],
) -> Value {
    let _turn = heavy();
    let server = iperf3_server();
    let site = Site::start();
    let port = ports::one();
    let _client = site.expose(&[service(port, server.address).optimized_for(optimize)]);
    iperf3(site.public(port), args)
}

/// iperf3 stops the clock when the sender is done, so what is still on its way is not counted: up to a full window in
/// the tunnel and full socket buffers at four sockets.
fn assert_carried(report: &Value, sent: u64) {
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
    assert!(received > sent / 2, "{received} of {sent} bytes arrived");
}

/// What a tenth stands for is a busy machine whose scheduler keeps readers waiting until datagrams are too old; what a
/// fault of the tunnel loses is far more.
fn assert_arrived(report: &Value) {
    let sum = &report["end"]["sum"];
    let packets = sum["packets"].as_u64().unwrap();
    let lost = sum["lost_packets"].as_u64().unwrap();
    assert!(packets > 100, "{sum}");
    assert!(lost * 10 <= packets, "{lost} of {packets} lost");
}
