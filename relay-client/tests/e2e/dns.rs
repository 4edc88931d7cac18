//! A name server answers over UDP and TCP on one public port.

use std::fs;

use crate::harness::{
    ports,
    programs::{dig_big, nsd},
    requires,
    site::{Service, Site},
};

#[test]
fn one_public_port_serves_udp_and_tcp() {
    requires!("nsd", "dig");
    let server = nsd(2);
    let site = Site::start();
    let port = ports::one();
    let _client = site.expose(&[Service::both(port, server.address)]);
    let over_udp = dig_big(site.public(port), &["+notcp", "+bufsize=4096", "+ignore"]);
    assert_eq!(texts(&over_udp), 2, "{over_udp}");
    let over_tcp = dig_big(site.public(port), &["+tcp"]);
    assert_eq!(texts(&over_tcp), 2, "{over_tcp}");
}

#[test]
fn answers_larger_than_a_packet_arrive_over_udp() {
    requires!("nsd", "dig");
    let server = nsd(14);
    let mut site = Site::start();
    // Each question comes from a port of its own, which nothing has proved to be the asker's.
    let mut settings = fs::read_to_string(site.relay_config()).unwrap();
    settings += "\n[limits]\nunproved_reply_bytes = 4096\n";
    fs::write(site.relay_config(), settings).unwrap();
    site.restart_relay();
    let port = ports::one();
    let _client = site.expose(&[Service::udp(port, server.address)]);
    let answer = dig_big(site.public(port), &["+notcp", "+bufsize=4096", "+ignore"]);
    assert_eq!(texts(&answer), 14, "{answer}");
    assert!(!flags(&answer).contains(" tc"), "{answer}");
    assert!(size(&answer) > 3_000, "{answer}");
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    requires!("nsd", "dig");
    let server = nsd(14);
    let site = Site::start();
    let port = ports::one();
    let _client = site.expose(&[Service::both(port, server.address)]);
    let answer = dig_big(site.public(port), &["+bufsize=512"]);
    assert_eq!(texts(&answer), 14, "{answer}");
    assert!(answer.contains("(TCP)"), "{answer}");
}

fn texts(answer: &str) -> usize {
    let records = answer
        .lines()
        .filter(|line| line.starts_with("big.example."));
    records.filter(|line| line.contains("\tTXT\t")).count()
}

fn flags(answer: &str) -> &str {
    answer
        .lines()
        .find(|line| line.starts_with(";; flags:"))
        .unwrap()
}

fn size(answer: &str) -> usize {
    let line = answer
        .lines()
        .find(|line| line.contains("MSG SIZE"))
        .unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
