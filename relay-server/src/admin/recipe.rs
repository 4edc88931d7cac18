//! What others need to use an instance: a client's configuration, and lines for a zone file. Pure.

use std::{fmt::Write, net::IpAddr};

use adit_control::model::{InstanceView, ProtocolName};
use tunnel_core::instance::Host;

/// The host of targets, as `client.toml` has it: an address of IPv6 in brackets.
pub(super) fn host(text: &str) -> Result<String, String> {
    if let Ok(IpAddr::V6(v6)) = text.parse() {
        return Ok(format!("[{v6}]"));
    }
    let host: Host = text.parse().map_err(|error| format!("{error}"))?;
    Ok(host.to_string())
}

/// The name of a record in a zone.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err("expected a name of letters, digits and hyphens, such as play.example.net");
    }
    Ok(name.to_owned())
}

/// An instance of `client.toml`, with targets on this host.
pub(super) fn client_config(instance: &InstanceView, host: &str) -> String {
    let mut toml = format!("[[instance]]\nid = \"{}\"\n", instance.server_id);
    for service in &instance.services {
        let protocol = match service.protocol {
            ProtocolName::Tcp => "tcp",
            ProtocolName::Udp => "udp",
            ProtocolName::Both => "both",
        };
        let public = &service.public_port;
        let quoted = if public.contains('-') {
            format!("\"{public}\"")
        } else {
            public.clone()
        };
        // Writing to a text never fails.
        _ = write!(
            toml,
            "\n[[instance.service]]\nname = \"{}\"\nprotocol = \"{protocol}\"\npublic_port = {quoted}\ntarget = \"{host}:{public}\"\n",
            service.name
        );
    }
    toml
}

/// Lines of a zone file for an instance of this relay under `name`, and the addresses by which players join.
pub(super) fn dns(instance: &InstanceView, relay: &Host, name: &str) -> String {
    let relay = relay.to_string();
    let (mut lines, target) = match relay.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => (format!("{name} 300 IN A {v4}\n"), name.to_owned()),
        Ok(IpAddr::V6(v6)) => (format!("{name} 300 IN AAAA {v6}\n"), name.to_owned()),
        Err(_) => {
            let target = format!("{}.", relay.trim_end_matches('.'));
            (format!("{name} 300 IN CNAME {target}\n"), target)
        }
    };
    let mut joins = String::new();
    for service in &instance.services {
        let first = service.public_port.split('-').next().unwrap_or_default();
        let labels: &[&str] = match service.protocol {
            ProtocolName::Tcp => &["_minecraft._tcp"],
            ProtocolName::Udp => &[],
            ProtocolName::Both => &["_minecraft._tcp"],
        };
        for label in labels.iter().filter(|_| service.name == "game") {
            // SRV must not point to an alias (RFC 2782).
            _ = writeln!(lines, "{label}.{name} 300 IN SRV 0 5 {first} {target}");
        }
        _ = writeln!(joins, "; join {} at {name}:{first}", service.name);
    }
    lines + &joins
}

#[cfg(test)]
mod tests {
    use adit_control::model::{InstanceState, ServiceView, Source, TunnelState};

    use super::*;

    fn instance() -> InstanceView {
        let service = |name: &str, protocol, public_port: &str| ServiceView {
            name: name.into(),
            protocol,
            public_port: public_port.into(),
        };
        InstanceView {
            server_id: "srv_1".into(),
            client: "node-1".into(),
            source: Source::Api,
            state: InstanceState::Active,
            text: None,
            services: vec![
                service("game", ProtocolName::Both, "30000"),
                service("voice", ProtocolName::Udp, "30010-30019"),
            ],
            status: TunnelState::Active,
        }
    }

    #[test]
    fn a_clients_part_names_targets_with_the_same_ports() {
        let expected = r#"[[instance]]
id = "srv_1"

[[instance.service]]
name = "game"
protocol = "both"
public_port = 30000
target = "[2001:db8::1]:30000"

[[instance.service]]
name = "voice"
protocol = "udp"
public_port = "30010-30019"
target = "[2001:db8::1]:30010-30019"
"#;
        let host = host("2001:db8::1").unwrap();
        assert_eq!(client_config(&instance(), &host), expected);
        assert_eq!(super::host("10.0.0.2"), Ok("10.0.0.2".into()));
        assert_eq!(super::host("srv_1"), Ok("srv_1".into()));
        for bad in ["", "a b", "a\"b", "a\nb", "10.0.0.2:80"] {
            assert!(super::host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_name_the_relay_and_its_ports() {
        let of = |relay: &str| dns(&instance(), &relay.parse().unwrap(), "play.example.net");
        let joins =
            "; join game at play.example.net:30000\n; join voice at play.example.net:30010\n";
        assert_eq!(
            of("192.0.2.1"),
            format!(
                "play.example.net 300 IN A 192.0.2.1\n_minecraft._tcp.play.example.net 300 IN SRV 0 5 30000 play.example.net\n{joins}"
            )
        );
        assert_eq!(
            of("relay.example.net"),
            format!(
                "play.example.net 300 IN CNAME relay.example.net.\n_minecraft._tcp.play.example.net 300 IN SRV 0 5 30000 relay.example.net.\n{joins}"
            )
        );
        assert!(of("[2001:db8::1]").contains(" IN AAAA 2001:db8::1\n"));
        assert_eq!(name("Play.Example.NET."), Ok("play.example.net".into()));
        for bad in ["", ".", "a..b", "-a", "a_b", "a b", "a\n300 IN A 1.2.3.4"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
