//! Servers and players that nobody here wrote.

use std::{
    fs,
    io::{BufWriter, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    eventually, ports,
    process::{Process, command, run, spawn},
};

/// A server on loopback; dropping it ends it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    _dir: Option<TempDir>,
}

/// An iperf3 server, for one test at a time.
pub(crate) fn iperf3_server() -> Server {
    let address = local_address();
    let mut server = command("iperf3");
    server.args(["--server", "--forceflush", "--bind"]);
    server.arg(address.ip().to_string());
    server.args(["--port", &address.port().to_string()]);
    Server::start("iperf3 server", server, address, "Server listening")
}

/// What an iperf3 player measured.
pub(crate) fn iperf3(server: SocketAddr, args: &[&str]) -> Value {
    let mut player = command("iperf3");
    player.args(["--client", &server.ip().to_string()]);
    player.args(["--port", &server.port().to_string(), "--json"]);
    player.args(args);
    let text = run("iperf3 player", &mut player).success();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report.get("error").is_none(), "{text}");
    report
}

/// nginx over files; `dir` holds them.
pub(crate) fn nginx(dir: &Path) -> Server {
    let address = local_address();
    let own = tempfile::tempdir().unwrap();
    let place = own.path().display();
    let config = own.path().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr notice;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {place}/1; proxy_temp_path {place}/2;\n\
         fastcgi_temp_path {place}/3; uwsgi_temp_path {place}/4; scgi_temp_path {place}/5;\n\
         server {{ listen {address}; root {}; }} }}\n",
        dir.display()
    );
    fs::write(&config, text).unwrap();
    let mut server = command("nginx");
    server.args(["-e", "stderr", "-p"]).arg(own.path());
    server.arg("-c").arg(&config);
    // Said after the ports are bound.
    Server::start("nginx", server, address, "getrlimit").with_dir(own)
}

/// nginx at this address with what else its configuration is to hold.
pub(crate) fn nginx_with(address: SocketAddr, sections: &str) -> Server {
    let own = tempfile::tempdir().unwrap();
    let place = own.path().display();
    let config = own.path().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr notice;\n\
         events {{ worker_connections 256; }}\n{sections}\n"
    );
    fs::write(&config, text).unwrap();
    let mut server = command("nginx");
    server.args(["-e", "stderr", "-p"]).arg(own.path());
    server.arg("-c").arg(&config);
    Server::start("nginx", server, address, "getrlimit").with_dir(own)
}

/// HAProxy at this address, which hands connections on to `server`; `options` say how it introduces them.
pub(crate) fn haproxy(address: SocketAddr, server: SocketAddr, options: &str) -> Server {
    let own = tempfile::tempdir().unwrap();
    let config = own.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n mode tcp\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
         listen front\n bind {address}\n server relay {server} {options}\n"
    );
    fs::write(&config, text).unwrap();
    let mut server = command("haproxy");
    server.args(["-db", "-f"]).arg(&config);
    let process = Process::start("haproxy", &mut server);
    // It says nothing when it listens.
    eventually("haproxy", || TcpStream::connect(address).ok());
    Server {
        address,
        process,
        _dir: Some(own),
    }
}

/// The SHA-256 of what curl gets, in hexadecimal.
pub(crate) fn curl_sha256(url: &str) -> String {
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "600",
        url,
    ]);
    let mut curl = spawn(curl.stdout(Stdio::piped())).unwrap();
    let mut sha256sum = command("sha256sum");
    sha256sum.stdin(curl.stdout.take().unwrap());
    let sum = Process::start_with_input("sha256sum", &mut sha256sum).wait();
    assert!(curl.wait().unwrap().success(), "curl {url}");
    first_word(&sum.success())
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> String {
    first_word(&run("sha256sum", command("sha256sum").arg(path)).success())
}

/// Fills a file with bytes that never repeat at a distance.
pub(crate) fn write_noise(path: &Path, length: usize) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..length.div_ceil(8) {
        // xorshift64: any order that is not a short cycle would do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// NSD with the zone `example.`, where `big.example.` has `records` texts of 240 bytes.
pub(crate) fn nsd(records: usize) -> Server {
    let address = local_address();
    let own = tempfile::tempdir().unwrap();
    let place = own.path().display();
    let mut zone = "$ORIGIN example.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\n\
                    ns A 127.0.0.1\n"
        .to_owned();
    for i in 0..records {
        zone += &format!("big TXT \"{i:03}{}\"\n", "x".repeat(237));
    }
    fs::write(own.path().join("zone"), zone).unwrap();
    let config = own.path().join("nsd.conf");
    let text = format!(
        "server:\n ip-address: {}\n port: {}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{place}\"\n\
         pidfile: \"\"\n database: \"\"\n xfrdfile: \"{place}/xfrd\"\n zonelistfile: \"{place}/list\"\n\
         ipv4-edns-size: 4096\n\
         remote-control:\n control-enable: no\n\
         zone:\n name: example.\n zonefile: zone\n",
        address.ip(),
        address.port()
    );
    fs::write(&config, text).unwrap();
    let mut server = command("nsd");
    server.arg("-d").arg("-c").arg(&config);
    Server::start("nsd", server, address, "nsd started").with_dir(own)
}

/// What dig prints for the texts of `big.example.`
pub(crate) fn dig_big(server: SocketAddr, options: &[&str]) -> String {
    let mut dig = command("dig");
    dig.arg(format!("@{}", server.ip()));
    dig.args(["-p", &server.port().to_string(), "+tries=1", "+time=30"]);
    dig.args(options);
    dig.args(["big.example.", "TXT"]);
    run("dig", &mut dig).success()
}

/// A socat that serves every connection with a program's input and output, or with what else socat can open.
pub(crate) fn socat_server(what: &str) -> Server {
    let address = local_address();
    let mut server = command("socat");
    // After one direction has ended, the other has this long.
    server.args(["-d", "-d", "-t", "90"]);
    server.arg(format!(
        "TCP-LISTEN:{},bind={},reuseaddr,fork",
        address.port(),
        address.ip()
    ));
    server.arg(what);
    Server::start("socat server", server, address, "listening on")
}

/// A socat player: what came back after all of `input` was sent and writing was shut down.
pub(crate) fn socat(server: SocketAddr, input: &Path) -> String {
    let mut player = command("socat");
    // After the end of the input it waits this long for the rest of the answer.
    player.args(["-t", "90", "-"]).arg(format!("TCP:{server}"));
    player.stdin(fs::File::open(input).unwrap());
    Process::start_with_input("socat player", &mut player)
        .wait()
        .success()
}

impl Server {
    fn start(
        name: &str,
        mut command: std::process::Command,
        address: SocketAddr,
        ready: &str,
    ) -> Self {
        let process = Process::start(name, &mut command);
        process.wait_for_line(ready, |line| line.contains(ready));
        Self {
            address,
            process,
            _dir: None,
        }
    }

    fn with_dir(mut self, dir: TempDir) -> Self {
        self._dir = Some(dir);
        self
    }
}

/// An address for a server, free for TCP and UDP.
pub(crate) fn local_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, ports::one()).into()
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}
