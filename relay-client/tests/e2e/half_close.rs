//! Either end may finish sending first, and still hears the other out.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
};

use crate::harness::{
    players::connect,
    ports,
    programs::{sha256, socat, socat_server, write_noise},
    requires,
    site::{Service, Site},
};

#[test]
fn a_player_who_finishes_sending_gets_the_whole_answer() {
    requires!("socat", "sha256sum");
    let dir = tempfile::tempdir().unwrap();
    let upload = dir.path().join("upload");
    write_noise(&upload, 8 << 20);
    // It answers only when it has seen the end of its input.
    let server = socat_server("EXEC:sha256sum");
    for optimize in ["latency", "throughput", "auto"] {
        let site = Site::start();
        let port = ports::one();
        let _client = site.expose(&[Service::tcp(port, server.address).optimized_for(optimize)]);
        let answer = socat(site.public(port), &upload);
        assert_eq!(answer.split(' ').next(), Some(sha256(&upload).as_str()));
    }
}

#[test]
fn a_server_that_finishes_sending_still_receives() {
    requires!("socat", "sha256sum");
    let dir = tempfile::tempdir().unwrap();
    let upload = dir.path().join("upload");
    write_noise(&upload, 8 << 20);
    let greeting = dir.path().join("greeting");
    fs::write(&greeting, "welcome\n").unwrap();
    let got = dir.path().join("got");
    // It sends the greeting, ends its output, and still reads to the end.
    let (greeting, to) = (greeting.display(), got.display());
    let server = socat_server(&format!("OPEN:{greeting},rdonly!!CREATE:{to}"));
    for (i, optimize) in ["latency", "throughput", "auto"].into_iter().enumerate() {
        let site = Site::start();
        let port = ports::one();
        let _client = site.expose(&[Service::tcp(port, server.address).optimized_for(optimize)]);
        let mut player = connect(site.public(port));
        let mut greeting = String::new();
        player.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "welcome\n");
        player.write_all(&fs::read(&upload).unwrap()).unwrap();
        player.shutdown(Shutdown::Write).unwrap();
        let ended = |line: &str| line.contains("exiting with status 0");
        server.process.wait_for_lines("its end", i + 1, ended);
        assert_eq!(sha256(&got), sha256(&upload));
    }
}
