//! `relay-server init`: a new relay's key and configuration.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use adit_daemon::{
    exit::Stop,
    file::{self, Access, Existing},
    print,
};
use anyhow::Context;
use clap::Args;
use tunnel_core::{
    instance::{HostPort, PortSet},
    key::SecretKey,
};
use zeroize::Zeroizing;

use crate::config;

/// Make a new relay: write its key and configuration, print its public key.
///
/// Nothing that is there already is overwritten.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  relay-server init --dir /etc/adit --advertise relay.example.net:4433")]
pub(crate) struct Arguments {
    /// Where relay.toml and relay.key go; made if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where clients connect to: QUIC on UDP, lanes on TCP.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = config::DEFAULT_LISTEN, value_parser = listen)]
    listen: SocketAddr,
    /// The address that players connect to.
    #[arg(long, value_name = "ADDR", default_value_t = config::DEFAULT_PUBLIC_BIND)]
    public_bind: IpAddr,
    /// What clients may be given at all, such as 7777,30000-30999.
    #[arg(long, value_name = "RANGES", default_value_t = config::default_ports())]
    ports: PortSet,
    /// The host and port that join strings name.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<HostPort>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Stop> {
    let dir = &arguments.dir;
    let config_path = dir.join("relay.toml");
    let key_path = dir.join("relay.key");
    // Both are looked at first, so that a refusal leaves nothing behind.
    for path in [&config_path, &key_path] {
        if path.symlink_metadata().is_ok() {
            return Err(taken(path));
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let key = SecretKey::generate()?;
    let line = Zeroizing::new(format!("{}\n", *key.to_text()));
    create(&key_path, &line, Access::Owner)?;
    if let Err(stop) = create(&config_path, &template(arguments), Access::All) {
        // Without its configuration the key is of no use, and would be in the way next time.
        drop(fs::remove_file(&key_path));
        return Err(stop);
    }
    print::line(key.public_key())?;
    print::note(next_steps(&config_path, arguments.advertise.is_some()));
    Ok(())
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(format!("expected {}", config::ADDRESS_AND_PORT)),
    }
}

fn create(path: &Path, content: &str, access: Access) -> Result<(), Stop> {
    file::write(path, content, access, Existing::Keep).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return taken(path);
        }
        let error = anyhow::Error::new(error);
        Stop::Failure(error.context(format!("cannot write {}", path.display())))
    })
}

fn taken(path: &Path) -> Stop {
    Stop::failure(format!(
        "{} is there already and stays as it is: choose another --dir, or move it away first",
        path.display()
    ))
}

fn template(arguments: &Arguments) -> String {
    let advertise = match &arguments.advertise {
        Some(advertise) => format!("advertise = \"{advertise}\""),
        None => "# advertise = \"relay.example.net:4433\"".into(),
    };
    format!(
        "\
[relay]
listen = \"{listen}\"  # QUIC on UDP, lanes on TCP, the same number
public_bind = \"{public_bind}\"  # the address that players connect to
ports = \"{ports}\"  # what clients may be given at all
private_key_file = \"relay.key\"
state_file = \"{state_file}\"  # enrolled clients (SQLite)
{advertise}  # the host and port in join strings

# Clients enrol by `relay-server invite`. They may also be written down by hand:
# [[client]]
# name = \"node-1\"
# public_key = \"…\"
# psk_file = \"node-1.psk\"
# ports = [\"7777\", \"30000-30999\"]  # all of the relay's when left out
",
        listen = arguments.listen,
        public_bind = arguments.public_bind,
        ports = arguments.ports,
        state_file = config::DEFAULT_STATE_FILE,
    )
}

fn next_steps(config: &Path, advertised: bool) -> String {
    let config = config.display();
    let advertise = if advertised {
        ""
    } else {
        " --advertise HOST:PORT"
    };
    format!(
        "\
Wrote {config}; the line above is the relay's public key. Next:
  relay-server run --config {config}
  relay-server invite --config {config}{advertise} node-1"
    )
}
