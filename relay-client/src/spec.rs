//! `--expose SPEC`: an instance with one service, in a word.
//!
//! `PROTO:PUBLIC=HOST:PORT[,optimize=latency|throughput|auto][,redundancy=off|duplicate|fec|adaptive][,proxy_protocol=off|v1|v2]
//! [,source=default|loopback|transparent][,name=NAME]`, or `PROTO:PORT` for the same port on 127.0.0.1. Ports may be ranges.

use adit_daemon::config::suggestion;
use tunnel_core::instance::{Instance, PortRange, Protocol, ProxyDatagrams, Service, ServiceError};

/// The SPECs of a text that lists them: parted by white space, or by commas; quotes around them are passed over. There
/// is one at least.
pub(crate) fn list(text: &str) -> Vec<&str> {
    let mut list = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word.trim_matches(AROUND);
        while !rest.is_empty() {
            let mut commas = rest.match_indices(',').map(|(at, _)| at);
            let end = commas.find(|at| begins_spec(&rest[at + 1..]));
            let (spec, behind) = rest.split_at(end.unwrap_or(rest.len()));
            list.push(spec.trim_matches(AROUND));
            rest = behind.trim_start_matches(AROUND);
        }
    }
    if list.is_empty() {
        list.push(text);
    }
    list
}

/// What lists have around their elements.
const AROUND: [char; 3] = [',', '"', '\''];

/// Whether the text behind a comma is the next SPEC and no option of this one.
fn begins_spec(text: &str) -> bool {
    let text = text.trim_start_matches(AROUND);
    let protocol = text.split_once(':').map_or("", |(protocol, _)| protocol);
    text.is_empty() || protocol.parse::<Protocol>().is_ok()
}

/// Reads a SPEC.
pub(crate) fn parse(text: &str) -> Result<Instance, SpecError> {
    let (protocol, rest) = text.split_once(':').ok_or(SpecError::Form)?;
    let mut parts = rest.split(',');
    let mapping = parts.next().unwrap_or_default();
    let (public, target) = match mapping.split_once('=') {
        Some((public, target)) => (public, target.to_owned()),
        // The short form would take the host for the public port.
        None if mapping.contains(':') => return Err(SpecError::Form),
        None => (mapping, format!("127.0.0.1:{mapping}")),
    };
    let options = Options::parse(parts)?;
    Ok(instance(protocol, public, &target, &options)?)
}

fn instance(
    protocol: &str,
    public: &str,
    target: &str,
    options: &Options<'_>,
) -> Result<Instance, ServiceError> {
    let protocol: Protocol = protocol.parse()?;
    let public: PortRange = public.parse()?;
    let name = match options.name {
        Some(name) => name.to_owned(),
        None => format!("{protocol}-{public}"),
    };
    let mut service = Service::new(&*name, protocol, target)?.public_ports(public)?;
    if let Some(optimize) = options.optimize {
        service = service.with_optimize(optimize.parse()?);
    }
    if let Some(redundancy) = options.redundancy {
        service = service.with_redundancy(redundancy.parse()?);
    }
    if let Some(proxy) = options.proxy {
        service = service.with_proxy_protocol(proxy.parse()?, ProxyDatagrams::default())?;
    }
    if let Some(source) = options.source {
        service = service.with_source(source.parse()?)?;
    }
    Instance::new(&*name, [service])
}

/// Why a SPEC does not hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SpecError {
    /// Not of the form at all.
    #[error(
        "expected PROTO:PUBLIC=HOST:PORT such as udp:7777=127.0.0.1:7777, or PROTO:PORT for the same port on 127.0.0.1"
    )]
    Form,
    /// A part of it does not hold.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Something after a comma that is no option.
    #[error("unknown option {found:?}: {hint}")]
    UnknownOption {
        /// What was written, cut off.
        found: String,
        /// What to do.
        hint: String,
    },
    /// An option twice.
    #[error("{0} is said twice")]
    Twice(&'static str),
}

#[derive(Default)]
struct Options<'a> {
    optimize: Option<&'a str>,
    redundancy: Option<&'a str>,
    proxy: Option<&'a str>,
    source: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(parts: impl Iterator<Item = &'a str>) -> Result<Self, SpecError> {
        let mut options = Self::default();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (slot, name) = match key {
                "optimize" => (&mut options.optimize, "optimize"),
                "redundancy" => (&mut options.redundancy, "redundancy"),
                "proxy_protocol" => (&mut options.proxy, "proxy_protocol"),
                "source" => (&mut options.source, "source"),
                "name" => (&mut options.name, "name"),
                _ => return Err(unknown(key)),
            };
            if slot.replace(value).is_some() {
                return Err(SpecError::Twice(name));
            }
        }
        Ok(options)
    }
}

/// What may stand behind the commas.
const OPTIONS: [&str; 5] = ["optimize", "redundancy", "proxy_protocol", "source", "name"];

fn unknown(key: &str) -> SpecError {
    let hint = match suggestion(key, OPTIONS.into_iter()) {
        Some(close) => format!("did you mean {close}=…?"),
        None => "options are optimize=latency|throughput|auto, \
                 redundancy=off|duplicate|fec|adaptive, proxy_protocol=off|v1|v2, \
                 source=default|loopback|transparent and name=NAME"
            .into(),
    };
    SpecError::UnknownOption {
        found: key.chars().take(80).collect(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use tunnel_core::instance::{FlowLimits, ProxyProtocol, Redundancy};

    use super::*;

    /// Id, protocol, public port, target and optimize.
    fn shown(text: &str) -> String {
        let instance = parse(text).unwrap();
        let [service] = instance.services() else {
            panic!("a SPEC is one service");
        };
        assert_eq!(service.name().as_str(), instance.id().as_str());
        assert_eq!(service.flow_limits(), FlowLimits::default());
        format!(
            "{} {} {} {} {}",
            instance.id(),
            service.protocol(),
            service.public(),
            service.target(),
            service.optimize()
        )
    }

    #[test]
    fn the_full_form_says_everything() {
        assert_eq!(
            shown("both:7777=127.0.0.1:7778"),
            "both-7777 both 7777 127.0.0.1:7778 auto"
        );
        assert_eq!(
            shown("tcp:80=web:8080,optimize=throughput,name=files"),
            "files tcp 80 web:8080 throughput"
        );
        assert_eq!(
            shown("udp:1=h:1,name=a-b_1,optimize=latency"),
            "a-b_1 udp 1 h:1 latency"
        );
        assert_eq!(shown("tcp:1=h:1,optimize=auto"), "tcp-1 tcp 1 h:1 auto");
        let instance = parse("udp:1=h:1,redundancy=fec,name=a").unwrap();
        assert_eq!(instance.services()[0].redundancy(), Redundancy::Fec);
        let instance = parse("both:1=h:1,proxy_protocol=v2,name=a").unwrap();
        let [service] = instance.services() else {
            panic!("one service");
        };
        assert_eq!(service.proxy_protocol(), ProxyProtocol::V2);
        assert_eq!(service.proxy_datagrams(), ProxyDatagrams::First);
    }

    #[test]
    fn the_short_form_is_the_same_port_on_this_machine() {
        assert_eq!(shown("udp:7777"), "udp-7777 udp 7777 127.0.0.1:7777 auto");
        assert_eq!(
            shown("tcp:7777,name=game,optimize=latency"),
            "game tcp 7777 127.0.0.1:7777 latency"
        );
        assert_eq!(
            shown("both:30000-30009"),
            "both-30000-30009 both 30000-30009 127.0.0.1:30000-30009 auto"
        );
    }

    #[test]
    fn ranges_map_onto_equal_ranges() {
        assert_eq!(
            shown("udp:30000-30009=srv_1:40000-40009"),
            "udp-30000-30009 udp 30000-30009 srv_1:40000-40009 auto"
        );
        for bad in [
            "udp:30000-30009=h:30000-30008",
            "udp:30000=h:1-2",
            "udp:1-2=h:1",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(
                matches!(error, SpecError::Service(ServiceError::Lengths { .. })),
                "{bad}: {error}"
            );
        }
        assert!(matches!(
            parse("udp:1-2000").unwrap_err(),
            SpecError::Service(ServiceError::RangeTooLong(_))
        ));
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for target in [
            "srv_123:7777",
            "_x.example.net:7777",
            "192.0.2.1:7777",
            "[2001:db8::1]:7777",
            "[::1]:7777",
        ] {
            assert_eq!(
                shown(&format!("udp:7777={target}")),
                format!("udp-7777 udp 7777 {target} auto")
            );
        }
    }

    #[test]
    fn a_remapped_game_is_warned_about() {
        let instance = parse("udp:7778=h:7777,name=game").unwrap();
        assert!(instance.services()[0].warning().is_some());
    }

    #[test]
    fn lists_are_read_as_people_write_them() {
        for (text, specs) in [
            ("udp:1", &["udp:1"][..]),
            (" udp:1\r\n\ttcp:2 ", &["udp:1", "tcp:2"]),
            ("udp:1,tcp:2", &["udp:1", "tcp:2"]),
            ("udp:1, tcp:2,", &["udp:1", "tcp:2"]),
            ("udp:1=h:1,name=a,tcp:2", &["udp:1=h:1,name=a", "tcp:2"]),
            ("\"udp:1\" 'tcp:2'", &["udp:1", "tcp:2"]),
            ("\"udp:1\",\"both:2,name=b\"", &["udp:1", "both:2,name=b"]),
            ("udp:1,nmae=a", &["udp:1,nmae=a"]),
            ("", &[""]),
            (",", &[","]),
        ] {
            assert_eq!(list(text), specs, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        for bad in [
            "",
            "7777",
            "udp",
            "udp=7777",
            "tcp:h:1",
            "tcp:1:2",
            "tcp:[::1]:80",
        ] {
            assert_eq!(parse(bad), Err(SpecError::Form), "{bad:?}");
        }
        for bad in [
            "sctp:1",
            ":1",
            "TCP:1",
            "tcp:",
            "tcp:0",
            "tcp:65536",
            "tcp:+1",
            "tcp:2-1",
            "tcp:1-",
            "tcp: ",
            "tcp:1=",
            "tcp:1=h",
            "tcp:1=h:",
            "tcp:1=h:0",
            "tcp:1=:1",
            "tcp:=h:1",
            "tcp:1=h:1=2",
            "tcp:1=::1:80",
            "tcp:1=2001:db8::1",
            "tcp:1=a b:1",
            "tcp:1=1.2.3:4",
            "tcp:1=h:1,name=",
            "tcp:1=h:1,name=Game",
            "tcp:1=h:1,name",
            "tcp:1=h:1,optimize",
            "tcp:1=h:1,optimize=fast",
            "udp:1=h:1,redundancy=on",
            "tcp:1=h:1,proxy_protocol=v3",
            "udp:1=h:1,proxy_protocol=v1",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(matches!(error, SpecError::Service(_)), "{bad:?}: {error}");
        }
        let long = format!("tcp:1=h:1,name={}", "a".repeat(100_000));
        assert!(parse(&long).unwrap_err().to_string().len() < 300);
        let long = format!("tcp:1=h:1,{}", "a".repeat(100_000));
        assert!(parse(&long).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn options_are_known_and_said_once() {
        assert_eq!(
            parse("tcp:1,optimise=latency").unwrap_err().to_string(),
            r#"unknown option "optimise": did you mean optimize=…?"#
        );
        assert!(
            parse("tcp:1,verbose")
                .unwrap_err()
                .to_string()
                .contains("options are optimize=")
        );
        assert!(matches!(
            parse("tcp:1,"),
            Err(SpecError::UnknownOption { .. })
        ));
        assert_eq!(parse("tcp:1,name=a,name=b"), Err(SpecError::Twice("name")));
        assert_eq!(
            parse("tcp:1,optimize=auto,optimize=auto"),
            Err(SpecError::Twice("optimize"))
        );
    }
}
