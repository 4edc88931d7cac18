//! `relay-client check`: whether a configuration is valid, and what it would expose.

use adit_daemon::{
    exit::{self, Stop},
    limits, print,
};
use clap::Args;
use tunnel_core::{
    client,
    health::OnUnhealthy,
    instance::{Instance, ProxyProtocol, Service, Source},
};

use crate::config;
use crate::setup::{ENVIRONMENT_HELP, Environment, Options, Setup};

/// Check a configuration: report every problem with its line and column, or say what would be exposed.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  relay-client check --config /var/lib/adit/client.toml", after_long_help = format!("\
Example:
  relay-client check --config /var/lib/adit/client.toml

{ENVIRONMENT_HELP}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Stop> {
    let (setup, join) = Setup::new(&arguments.options, Environment::read()?)?;
    let (heads, instances) = match join {
        Some((_, join)) => {
            let instances = exit::checked(setup.load_exposed())?;
            let heads = vec![
                ("would join", join.relay.to_string()),
                ("relay's key", join.relay_public_key.to_string()),
            ];
            (heads, instances)
        }
        None => {
            let config = exit::checked(setup.load())?;
            let limits = limits::summary(&config.limits, config::limits::ROWS);
            let identity = config.identity;
            let heads = vec![
                ("relay", identity.relay.to_string()),
                ("relay's key", identity.relay_public_key.to_string()),
                ("public key", identity.secret_key.public_key().to_string()),
                ("limits", limits),
            ];
            (heads, config.instances)
        }
    };
    for problem in client::source_problems(&instances) {
        print::note(format_args!("warning: {problem}"));
    }
    let said = summary(&heads, &instances);
    print::bytes(said.as_bytes())?;
    Ok(())
}

/// How its traffic travels, and what its target learns of players if that is anything.
fn options(service: &Service) -> String {
    let mut said = service.optimize().to_string();
    let proxy = service.proxy_protocol();
    if proxy != ProxyProtocol::Off {
        said.push_str(&format!(", PROXY {proxy}"));
        if service.protocol().udp() {
            let datagrams = service.proxy_datagrams();
            said.push_str(&format!(" (UDP: {datagrams})"));
        }
    }
    if let Some(check) = service.health() {
        let (probe, interval) = (check.probe().name(), check.interval().as_secs());
        said.push_str(&format!(", health: {probe} every {interval} s"));
        if check.action() == OnUnhealthy::Refuse {
            said.push_str(", refuses players while unhealthy");
        }
    }
    if service.source() != Source::Default {
        said.push_str(&format!(", source {}", service.source()));
    }
    said
}

fn summary(heads: &[(&str, String)], instances: &[Instance]) -> String {
    let mut said = String::from("ok\n");
    for (head, value) in heads {
        said.push_str(&format!("{head:<12} {value}\n"));
    }
    let mut rows = Vec::new();
    for instance in instances {
        for service in instance.services() {
            rows.push(vec![
                format!("{}/{}", instance.id(), service.name()),
                service.protocol().to_string(),
                service.public().to_string(),
                format!("-> {}", service.target()),
                options(service),
            ]);
        }
    }
    if rows.is_empty() {
        said.push_str("nothing is exposed yet: add an [[instance]], or --expose\n");
    }
    said.push_str(&print::table(&rows));
    said
}
