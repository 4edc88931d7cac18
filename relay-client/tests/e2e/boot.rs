//! Machines that lack something, or do not have it yet: at boot nothing is there.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    namespace::{ip, isolated},
    players::{converse, reaches, udp_player, udp_server},
    ports,
    process::{Process, command, run},
    programs::local_address,
    refusal::refusing,
    requires,
    site::{Service, Site, instance, prefixed},
};

#[test]
fn a_relay_for_both_families_serves_ipv4_where_there_is_no_ipv6() {
    requires!("perl");
    let without = refusing(
        libc::SYS_socket,
        Some(libc::AF_INET6 as u32),
        libc::EAFNOSUPPORT,
    );
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let node = site.node("node-1");
    node.configure(&instance("game-1", &[Service::both(port, target)]));
    site.relay.kill();
    let config = fs::read_to_string(site.relay_config()).unwrap();
    let public_bind = r#"public_bind = "127.0.0.1""#;
    assert!(config.contains(public_bind));
    let config = config.replace(public_bind, r#"public_bind = "::""#);
    let number = site.listen.port();
    let listens = [
        (site.listen.to_string(), site.listen.to_string()),
        (site.listen.to_string(), format!("[::]:{number}")),
    ];
    for (listen, instead) in listens {
        fs::write(
            site.relay_config(),
            config.replace(
                &format!("listen = \"{listen}"),
                &format!("listen = \"{instead}"),
            ),
        )
        .unwrap();
        site.relay = Process::start("relay", &mut site.relay_command(&without));
        site.relay.wait_until_ready();
        site.relay
            .wait_for_line("the warning", |line| line.contains("has no IPv6"));
        let client = node.start();
        client.wait_until_ready();
        let public = (Ipv4Addr::LOCALHOST, port).into();
        assert!(reaches(public, target));
        converse(&udp_player(public), &udp_server(target), 100);
        client.terminate().success();
        site.relay.kill();
        let warnings = site.relay.log().matches("has no IPv6").count();
        assert_eq!(warnings, 1, "{instead}");
    }
    // An address of IPv6 cannot be had there at all.
    let config = config.replace(r#"public_bind = "::""#, r#"public_bind = "::1""#);
    fs::write(site.relay_config(), &config).unwrap();
    let refused = run("relay", &mut site.relay_command(&without)).failure(1);
    assert!(refused.contains("public_bind in"), "{refused}");
    let config = config
        .replace(r#"public_bind = "::1""#, public_bind)
        .replace(
            &format!("\"{}\"", site.listen),
            &format!("\"[{}]:{number}\"", Ipv6Addr::LOCALHOST),
        );
    fs::write(site.relay_config(), config).unwrap();
    let refused = run("relay", &mut site.relay_command(&without)).failure(1);
    assert!(refused.contains("listen in"), "{refused}");
}

#[test]
fn a_relay_whose_addresses_come_up_after_it_serves_then() {
    isolated(|| {
        let mut site = Site::start();
        let (port, target) = (ports::one(), local_address());
        let node = site.node("node-1");
        node.configure(&instance("game-1", &[Service::both(port, target)]));
        site.relay.kill();
        let here = site.listen.to_string();
        let config = fs::read_to_string(site.relay_config()).unwrap();
        let listen = format!("listen = \"{here}\"");
        assert!(config.contains(&listen));
        let public_bind = r#"public_bind = "127.0.0.1""#;
        for (from, to, late) in [
            (
                &*listen,
                listen.replace("127.0.0.1", "192.0.2.1"),
                "192.0.2.1",
            ),
            (
                public_bind,
                public_bind.replace("127.0.0.1", "192.0.2.2"),
                "192.0.2.2",
            ),
        ] {
            fs::write(site.relay_config(), config.replace(from, &to)).unwrap();
            let key = from.split(' ').next().unwrap();
            let waits = |relay: &Process| {
                relay.wait_for_line("the wait", |line| {
                    line.contains(&format!("{key} in")) && line.contains("waiting")
                })
            };
            // Asked to end meanwhile, it does.
            let relay = Process::start("relay", &mut site.relay_command(&[]));
            waits(&relay);
            relay.terminate().success();
            site.start_relay();
            waits(&site.relay);
            thread::sleep(Duration::from_secs(5));
            assert_eq!(site.relay.stdout(), "", "it is not ready");
            ip(&["address", "add", &format!("{late}/32"), "dev", "lo"]);
            let came = Instant::now();
            site.relay.wait_until_ready();
            let took = came.elapsed();
            assert!(took < Duration::from_secs(5), "{took:?}");
            if key == "public_bind" {
                let client = node.start();
                client.wait_until_ready();
                let public = (late.parse::<Ipv4Addr>().unwrap(), port).into();
                assert!(reaches(public, target));
                client.terminate().success();
            }
            site.relay.kill();
        }
        // Both are up now: players come in there.
        let config = config
            .replace(&listen, &listen.replace("127.0.0.1", "0.0.0.0"))
            .replace(public_bind, &public_bind.replace("127.0.0.1", "192.0.2.2"));
        fs::write(site.relay_config(), config).unwrap();
        site.start_relay();
        site.relay.wait_until_ready();
        let client = node.start();
        client.wait_until_ready();
        assert!(reaches(([192, 0, 2, 2], port).into(), target));
    });
}

#[test]
fn a_file_system_that_cannot_sync_directories_is_good_enough() {
    requires!("cc");
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let beyond = no_sync_of_directories(&site);
    // The state directories of both are shared folders, the relay's from its first start on.
    let dir = site.path("relay");
    let (config, key) = (dir.join("relay.toml"), dir.join("relay.key"));
    let before = fs::read_to_string(&config).unwrap();
    site.relay.kill();
    for path in [&config, &key, &dir.join("state.db")] {
        fs::remove_file(path).unwrap();
    }
    let mut init = prefixed(&beyond, "relay-server");
    init.args(["init", "--dir", dir.to_str().unwrap()]);
    let made = run("relay-server init", &mut init);
    assert!(made.stderr.contains("cannot make files last"), "{made}");
    made.success();
    fs::write(&config, before).unwrap();
    site.relay = Process::start("relay", &mut site.relay_command(&beyond));
    site.relay.wait_until_ready();
    let join_string = site.invite("node-1", &[]);
    let expose = format!("tcp:{port}={target}");
    let start = || {
        let mut client = prefixed(&beyond, "relay-client");
        client.arg("run").env("ADIT_STATE_DIR", site.path("node"));
        client
            .env("ADIT_JOIN", &join_string)
            .env("ADIT_EXPOSE", &expose);
        let client = Process::start("container", &mut client);
        client.wait_until_ready();
        assert!(reaches(site.public(port), target));
        client.terminate()
    };
    let first = start();
    assert_eq!(
        first.stderr.matches("cannot make files last").count(),
        1,
        "{first}"
    );
    // The second start has all that the first one wrote.
    assert!(!start().stderr.contains("joined"));
}

/// What to put before a command so that fsync(2) of a directory answers EINVAL, as where another system shares a folder.
fn no_sync_of_directories(site: &Site) -> Vec<String> {
    let (source, library) = (site.path("no_sync.c"), site.path("no_sync.so"));
    let text = r"
        #include <errno.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int fsync(int fd) {
            struct stat about;
            if (fstat(fd, &about) == 0 && S_ISDIR(about.st_mode)) { errno = EINVAL; return -1; }
            return syscall(SYS_fsync, fd);
        }
    ";
    fs::write(&source, text).unwrap();
    let mut cc = command("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .args([&library, &source]);
    run("cc", &mut cc).success();
    vec!["env".into(), format!("LD_PRELOAD={}", library.display())]
}
