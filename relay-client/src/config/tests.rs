use std::fs;

use tempfile::TempDir;

use tunnel_core::health::{OnUnhealthy, TcpProbe};

use super::*;

/// A directory with a client's key and PSK, and `text` as its configuration.
fn load_in(dir: &TempDir, text: &str) -> Result<Loaded<Config>, Vec<String>> {
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    };
    write("client.key", &SecretKey::from([1; 32]).to_text());
    write("client.psk", &SecretKey::from([2; 32]).to_text());
    write("client.toml", text);
    let prefix = format!("{}/", dir.path().display());
    Config::load(&dir.path().join("client.toml")).map_err(|invalid| {
        let shown = invalid.problems.iter().map(ToString::to_string);
        shown.map(|problem| problem.replace(&prefix, "")).collect()
    })
}

fn load(text: &str) -> Result<Loaded<Config>, Vec<String>> {
    load_in(&tempfile::tempdir().unwrap(), text)
}

/// Four lines that say who the client is.
fn least() -> String {
    let key = PublicKey::from([7; 32]);
    format!(
        "client.relay = 'relay.example.net:4433'\nclient.relay_public_key = '{key}'\n\
         client.private_key_file = 'client.key'\nclient.psk_file = 'client.psk'\n"
    )
}

#[test]
fn every_key_takes_effect() {
    let key = PublicKey::from([7; 32]);
    let config = load(&format!(
        r#"
[client]
relay = "[2001:db8::1]:4433"
relay_public_key = "{key}"
private_key_file = "client.key"
psk_file = "client.psk"
grace = 0

[[instance]]
id = "srv_123"
[[instance.service]]
name = "game"
protocol = "both"
public_port = 7777
target = "127.0.0.1:7777"
optimize = "throughput"
redundancy = "fec"
proxy_protocol = "v2"
proxy_protocol_udp = "every"
[[instance.service]]
name = "beacon"
protocol = "udp"
public_port = "15000-15001"
target = "srv_123:16000-16001"
idle_timeout = 300
flows_per_address = 8
max_flows = 100

[[instance]]
id = "web"
[[instance.service]]
name = "web"
protocol = "tcp"
target = "127.0.0.1:80"
"#
    ))
    .unwrap();
    assert_eq!(config.warnings, []);
    let config = config.value;
    assert_eq!(config.identity.relay.to_string(), "[2001:db8::1]:4433");
    assert_eq!(config.identity.relay_public_key, key);
    assert_eq!(config.identity.secret_key.as_bytes(), &[1; 32]);
    assert_eq!(config.identity.psk, Psk::from([2; 32]));
    assert_eq!(config.grace, Duration::ZERO);
    let [srv, web] = &config.instances[..] else {
        panic!("two instances");
    };
    assert_eq!(srv.id().as_str(), "srv_123");
    let [game, beacon] = srv.services() else {
        panic!("two services");
    };
    assert_eq!(game.protocol(), Protocol::Both);
    assert_eq!(game.public().to_string(), "7777");
    assert_eq!(game.target().to_string(), "127.0.0.1:7777");
    assert_eq!(game.optimize(), Optimize::Throughput);
    assert_eq!(game.redundancy(), Redundancy::Fec);
    assert_eq!(game.proxy_protocol(), ProxyProtocol::V2);
    assert_eq!(game.proxy_datagrams(), ProxyDatagrams::Every);
    assert_eq!(game.flow_limits(), FlowLimits::default());
    assert_eq!(beacon.public().to_string(), "15000-15001");
    assert_eq!(beacon.optimize(), Optimize::Auto);
    assert_eq!(beacon.redundancy(), Redundancy::Adaptive);
    assert_eq!(beacon.proxy_protocol(), ProxyProtocol::Off);
    assert_eq!(beacon.flow_limits().idle.as_secs(), 300);
    assert_eq!(beacon.flow_limits().per_address, 8);
    assert_eq!(beacon.flow_limits().per_service, 100);
    assert_eq!(web.services()[0].public().to_string(), "80");
}

#[test]
fn a_grace_that_is_left_out_is_five_seconds_and_one_of_days_is_refused() {
    let config = load(&least()).unwrap().value;
    assert_eq!(config.grace, Duration::from_secs(5));
    let problems = load(&format!("{}client.grace = 86400\n", least())).unwrap_err();
    assert!(
        problems[0].ends_with("grace: 86400 is outside 0 to 3600"),
        "{problems:?}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = load(
        r#"[client]
relay = "relay.example.net"
relay_publik_key = "x"
private_key_file = "none.key"
[[instance]]
id = "Srv"
[[instance.service]]
name = "a b"
protocol = "icmp"
public_port = 0
target = "h"
optimize = "speed"
idle_timeout = 9
flows_per_address = 0
max_flows = "many"
[[instance]]
id = "two"
services = []
"#,
    )
    .unwrap_err();
    let places: Vec<_> = problems
        .iter()
        .map(|problem| problem.split(": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        places,
        [
            r#"client.toml:1:1: [client] has no "relay_public_key", for example"#,
            r#"client.toml:1:1: [client] has no "psk_file", for example"#,
            "client.toml:2:9: relay",
            r#"client.toml:3:1: unknown key "relay_publik_key""#,
            "client.toml:4:20: private_key_file",
            "client.toml:6:6: id",
            "client.toml:8:8: name",
            "client.toml:9:12: protocol",
            "client.toml:10:15: public_port",
            "client.toml:11:10: target",
            "client.toml:12:12: optimize",
            "client.toml:13:16: idle_timeout",
            "client.toml:14:21: flows_per_address",
            "client.toml:15:13: max_flows",
            r#"client.toml:16:1: [[instance]] has no "service", for example"#,
            r#"client.toml:18:1: unknown key "services""#,
        ]
    );
    assert!(problems[3].contains("did you mean \"relay_public_key\"?"));
    assert!(problems[11].contains("9 is outside 10 to 86400"));
}

#[test]
fn contradictions_are_problems() {
    let service = |name: &str, protocol: &str, public: &str, target: &str| {
        format!(
            "[[instance.service]]\nname='{name}'\nprotocol='{protocol}'\npublic_port='{public}'\ntarget='{target}'\n"
        )
    };
    let text = format!(
        "{}[[instance]]\nid='one'\n{}{}[[instance]]\nid='one'\n{}{}{}",
        least(),
        service("game", "both", "7777", "h:7777"),
        service("game", "udp", "8000-8009", "h:8000-8008"),
        service("a", "tcp", "7777", "h:7777"),
        service("b", "udp", "9000-9009", "h:9000-9009"),
        service("b", "udp", "9009", "h:1"),
    );
    assert_eq!(
        load(&text).unwrap_err(),
        [
            "client.toml:15:13: public ports 8000-8009 and target ports 8000-8008 differ in number",
            "client.toml:18:4: id: the instance in line 5 is called one too",
            "client.toml:22:13: public port 7777 is taken by the service in line 7",
            "client.toml:30:6: name: the service in line 24 is called b too",
            "client.toml:32:13: public port 9009 is taken by the service in line 24",
        ]
    );
}

#[test]
fn a_port_without_public_port_is_placed_at_its_target() {
    let service = "[[instance.service]]\nname='a'\nprotocol='udp'\ntarget='h:5'\n";
    let text = format!(
        "{}[[instance]]\nid='i'\n{service}[[instance]]\nid='j'\n{service}",
        least()
    );
    assert_eq!(
        load(&text).unwrap_err(),
        ["client.toml:16:8: public port 5 is taken by the service in line 7"]
    );
}

#[test]
fn a_remapped_game_is_warned_about() {
    let loaded = load(&format!(
        "{}[[instance]]\nid='i'\n[[instance.service]]\nname='game'\nprotocol='udp'\npublic_port=7778\ntarget='h:7777'\n",
        least()
    ))
    .unwrap();
    let warning = loaded.warnings[0].to_string();
    assert!(
        warning.contains("client.toml:10:13: service game maps public port 7778"),
        "{warning}"
    );
}

#[test]
fn a_client_may_expose_nothing_yet() {
    assert!(load(&least()).unwrap().value.instances.is_empty());
}

#[test]
fn every_limit_takes_effect() {
    let default = ClientLimits::default();
    let other = |before| if before == 60 { 59 } else { before - 1 };
    let lines: String = limits::ROWS
        .iter()
        .map(|row| format!("{} = {}\n", row.name, other((row.shown)(&default))))
        .collect();
    let config = load(&format!("{}[limits]\n{lines}", least()))
        .unwrap()
        .value;
    for row in limits::ROWS {
        let (now, before) = ((row.shown)(&config.limits), (row.shown)(&default));
        assert_eq!(now, other(before), "{}", row.name);
    }
    // By hand where a unit is converted.
    assert_eq!(config.limits.connect_time, Duration::from_secs(9));
    assert_eq!(config.limits.datagram_age, Duration::from_millis(99));
    assert_eq!(config.limits.tunnel_memory, 59 << 20);
    assert_eq!(load(&least()).unwrap().value.limits, default);
}

#[test]
fn limits_out_of_bounds_are_problems_with_their_places() {
    let text = format!(
        "{}[limits]\nflows = 0\nidle_lanes = 257\nlanes = 5\n",
        least()
    );
    let problems = load(&text).unwrap_err();
    assert_eq!(
        problems[0],
        "client.toml:6:9: flows: 0 is outside 1 to 1048576"
    );
    assert_eq!(
        problems[1],
        "client.toml:7:14: idle_lanes: 257 is outside 0 to 256"
    );
    assert!(
        problems[2].starts_with("client.toml:8:1: unknown key \"lanes\""),
        "{problems:?}"
    );
}

#[test]
fn every_limit_stands_in_the_documentation_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("### `[limits]` of the client").unwrap();
    let section = section.split_once("\n### ").unwrap().0;
    let default = ClientLimits::default();
    let rows: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"))
        .map(|(name, rest)| (name, rest.split('`').next().unwrap().replace(',', "")))
        .collect();
    let expected: Vec<_> = limits::ROWS
        .iter()
        .map(|row| (row.name, (row.shown)(&default).to_string()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn an_unknown_redundancy_says_what_is_known() {
    let service = "[[instance]]\nid = 'a'\n[[instance.service]]\nname = 'game'\nprotocol = 'udp'\n\
                   target = '127.0.0.1:7777'\nredundancy = 'always'\n";
    let problems = load(&(least() + service)).unwrap_err();
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(problem.contains("redundancy"), "{problem}");
    assert!(
        problem.contains("off, duplicate, fec or adaptive"),
        "{problem}"
    );
}

#[test]
fn proxy_protocol_says_what_to_write_where_it_does_not_fit() {
    let service = |protocol: &str, options: &str| {
        load(&format!(
            "{}[[instance]]\nid = 'a'\n[[instance.service]]\nname = 'game'\nprotocol = '{protocol}'\n\
             target = '127.0.0.1:7777'\n{options}\n",
            least()
        ))
    };
    for (protocol, options, expected) in [
        (
            "both",
            "proxy_protocol = 'v1'",
            "has no form for UDP: use \"v2\", or proxy_protocol_udp = \"off\"",
        ),
        ("udp", "proxy_protocol = 'v1'", "has no form for UDP"),
        ("udp", "proxy_protocol = 'yes'", "expected off, v1 or v2"),
        (
            "udp",
            "proxy_protocol = 'v2'\nproxy_protocol_udp = 'all'",
            "expected off, first or every",
        ),
        (
            "udp",
            "proxy_protocol_udp = 'first'",
            "with proxy_protocol = \"v2\" alone",
        ),
        (
            "tcp",
            "proxy_protocol = 'v2'\nproxy_protocol_udp = 'first'",
            "where protocol is \"udp\" or \"both\"",
        ),
    ] {
        let problems = service(protocol, options).unwrap_err();
        assert!(
            problems.len() == 1 && problems[0].contains(expected),
            "{options}: {problems:?}"
        );
    }
    for (protocol, options) in [
        ("tcp", "proxy_protocol = 'v1'"),
        ("both", "proxy_protocol = 'v1'\nproxy_protocol_udp = 'off'"),
        ("both", "proxy_protocol = 'v2'"),
        ("udp", "proxy_protocol = 'v2'\nproxy_protocol_udp = 'every'"),
        ("udp", "proxy_protocol_udp = 'off'"),
    ] {
        assert!(service(protocol, options).is_ok(), "{options}");
    }
}

/// A service of both protocols with these lines in its section of health.
fn with_health(lines: &str) -> String {
    format!(
        "{}[[instance]]\nid = 'a'\n[[instance.service]]\nname = 'game'\nprotocol = 'both'\ntarget = '127.0.0.1:1'\n\
         [instance.service.health]\n{lines}",
        least()
    )
}

#[test]
fn every_key_of_health_takes_effect() {
    let seconds = Duration::from_secs;
    let check = |lines: &str| {
        let config = load(&with_health(lines)).unwrap().value;
        config.instances[0].services()[0].health().unwrap().clone()
    };
    let all = check(
        "check = 'tcp'\ninterval = 10\ntimeout = 2\nstart_period = 120\nup = 2\ndown = 5\non_unhealthy = 'refuse'",
    );
    let expected = HealthCheck::new(TcpProbe)
        .with_interval(seconds(10))
        .and_then(|check| check.with_timeout(seconds(2)))
        .and_then(|check| check.with_start_period(seconds(120)))
        .and_then(|check| check.with_thresholds(2, 5))
        .map(|check| check.on_unhealthy(OnUnhealthy::Refuse));
    assert_eq!(Ok(all), expected);
    let least = check("check = 'tcp'");
    assert_eq!(least, HealthCheck::new(TcpProbe));
    assert_eq!(
        (least.interval(), least.timeout()),
        (seconds(30), seconds(5))
    );
    for (lines, name) in [
        ("check = 'http'", "http / 200-399"),
        (
            "check = 'http'\npath = '/health'\nstatus = 204",
            "http /health 204-204",
        ),
        ("check = 'http'\nstatus = '200-299'", "http / 200-299"),
        (
            "check = 'udp'\nsend = 'ping'\nexpect = 'hex:50'",
            "udp 70696e67 50",
        ),
        ("check = 'udp'\nsend = 'hex:fF00'", "udp ff00 "),
        ("check = 'a2s'", "a2s"),
        ("check = 'minecraft'", "minecraft"),
        ("check = 'bedrock'", "bedrock"),
        ("check = 'satisfactory'", "satisfactory"),
    ] {
        assert_eq!(check(lines).probe().name(), name);
    }
}

#[test]
fn bad_checks_of_health_are_refused_at_their_place() {
    // The section begins in line 11.
    for (lines, problem) in [
        ("", "11:1: [instance.service.health] has no \"check\""),
        (
            "check = 'ping'",
            "12:9: check: unknown check \"ping\": expected tcp, http, udp, a2s, minecraft, bedrock or satisfactory",
        ),
        (
            "check = 'tcp'\ninterval = 0",
            "13:12: interval: 0 is outside 1 to 3600",
        ),
        (
            "check = 'tcp'\ntimeout = 61",
            "13:11: timeout: 61 is outside 1 to 60",
        ),
        (
            "check = 'tcp'\ndown = 0",
            "13:8: down: 0 is outside 1 to 100",
        ),
        (
            "check = 'tcp'\non_unhealthy = 'close'",
            "13:16: on_unhealthy: unknown on_unhealthy \"close\": expected keep or refuse",
        ),
        (
            "check = 'tcp'\npath = '/'",
            "health: path is a key of check = \"http\" alone",
        ),
        (
            "check = 'a2s'\nsend = 'x'",
            "health: send is a key of check = \"udp\" alone",
        ),
        (
            "check = 'http'\npath = 'health'",
            "health: \"health\" is no path",
        ),
        (
            "check = 'http'\nstatus = '399-200'",
            "13:10: status: expected a status such as 200",
        ),
        (
            "check = 'http'\nstatus = 99",
            "13:10: status: expected a status such as 200",
        ),
        ("check = 'udp'", "needs what is sent"),
        (
            "check = 'udp'\nsend = ''",
            "what is sent has 1 to 1,200 bytes",
        ),
        (
            "check = 'udp'\nsend = 'hex:f'",
            "13:8: send: expected pairs of hexadecimal digits",
        ),
        (
            "check = 'tcp'\nintervall = 3",
            "13:1: unknown key \"intervall\": did you mean \"interval\"?",
        ),
    ] {
        let problems = load(&with_health(lines)).unwrap_err();
        assert!(
            problems[0].contains(problem),
            "{lines}: {problems:?}, not {problem}"
        );
    }
    let over = with_health("check = 'minecraft'").replace("'both'", "'udp'");
    let problems = load(&over).unwrap_err();
    let problem =
        "health: the check \"minecraft\" does not go over udp, which is all that the service takes";
    assert!(problems[0].contains(problem), "{problems:?}");
}
