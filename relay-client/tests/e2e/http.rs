//! nginx serves files to curl.

use std::{fs, thread};

use crate::harness::{
    heavy, ports,
    programs::{curl_sha256, nginx, sha256, write_noise},
    requires,
    site::{Service, Site},
};

#[test]
fn a_large_file_arrives_whole() {
    requires!("nginx", "curl", "sha256sum");
    for optimize in ["latency", "throughput", "auto"] {
        downloads(optimize, 256 << 20, 1);
    }
}

#[test]
fn eight_files_at_once_arrive_whole() {
    requires!("nginx", "curl", "sha256sum");
    for optimize in ["latency", "throughput", "auto"] {
        downloads(optimize, 16 << 20, 8);
    }
}

fn downloads(optimize: &'static str, size: usize, at_once: usize) {
    let _turn = heavy();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("world.bin");
    write_noise(&file, size);
    let server = nginx(files.path());
    let site = Site::start();
    let port = ports::one();
    let _client = site.expose(&[Service::tcp(port, server.address).optimized_for(optimize)]);
    let url = format!("http://{}/world.bin", site.public(port));
    let whole = sha256(&file);
    thread::scope(|scope| {
        let players: Vec<_> = (0..at_once)
            .map(|_| scope.spawn(|| curl_sha256(&url)))
            .collect();
        for player in players {
            assert_eq!(player.join().unwrap(), whole, "optimize = {optimize}");
        }
    });
    fs::remove_file(file).unwrap();
}
