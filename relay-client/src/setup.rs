//! What a client is told by its options, its environment and its file, put together.

use std::path::PathBuf;

use adit_daemon::{
    config::{Invalid, Loaded, Remark},
    environment,
    exit::Stop,
};
use clap::Args;
use tunnel_core::{instance::Instance, join::JoinString};
use zeroize::Zeroizing;

use crate::{
    claims::Claims,
    config::Config,
    identity::IdentityDir,
    spec::{self, SpecError},
};

/// The options of `run` and `check`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The client's configuration, as `relay-client join` writes it. Without it, client.toml in ADIT_STATE_DIR.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Expose a service beside those of the configuration; may be given several times.
    #[arg(long, value_name = "SPEC", long_help = SPEC_HELP)]
    expose: Vec<String>,
}

const SPEC_HELP: &str = "\
Expose a service beside those of the configuration; may be given several times.
SPEC is PROTO:PUBLIC=HOST:PORT[,optimize=latency|throughput|auto]
[,redundancy=off|duplicate|fec|adaptive][,name=NAME], or PROTO:PORT for the same
port on 127.0.0.1. PROTO is tcp, udp or both.
Ports may be ranges: udp:30000-30009=HOST:30000-30009. IPv6 stands in brackets.
The instance is called NAME, else PROTO-PUBLIC; ids are unique on a relay.";

/// What `--help` says about the environment.
pub(crate) const ENVIRONMENT_HELP: &str = "\
Environment:
  ADIT_STATE_DIR  where the identity is when there is no --config [default: /var/lib/adit]
  ADIT_JOIN       a join string, used when ADIT_STATE_DIR holds no identity yet
  ADIT_EXPOSE     SPECs, separated by spaces or commas, beside those of --expose
  RUST_LOG        which log lines are written, such as debug or tunnel_core=trace [default: info]";

/// The part of the environment that configures a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    join: Option<Zeroizing<String>>,
    expose: Option<String>,
    state_dir: Option<PathBuf>,
}

impl Environment {
    /// That of this process. An empty variable counts as absent.
    pub(crate) fn read() -> Result<Self, Stop> {
        let text = |name| environment::text(name).map_err(|error| Stop::misuse(error.to_string()));
        Ok(Self {
            join: text("ADIT_JOIN")?.map(Zeroizing::new),
            expose: text("ADIT_EXPOSE")?,
            state_dir: environment::path("ADIT_STATE_DIR"),
        })
    }
}

/// Where the configuration comes from, and what is exposed beside it.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The file that is read, now or once the client has joined.
    path: PathBuf,
    exposed: Vec<Exposed>,
}

/// A SPEC and what it stands for.
#[derive(Debug)]
struct Exposed {
    /// `--expose SPEC` or `ADIT_EXPOSE SPEC`, for remarks.
    what: String,
    instance: Result<Instance, SpecError>,
}

impl Setup {
    /// Puts options and environment together, and says where the client gets an identity from, if it has none. No file is
    /// read but to see whether it is there.
    pub(crate) fn new(
        options: &Options,
        environment: Environment,
    ) -> Result<(Self, Option<(IdentityDir, JoinString)>), Stop> {
        let of_options = options.expose.iter().map(|text| ("--expose", text));
        let of_environment = environment.expose.iter().map(|text| ("ADIT_EXPOSE", text));
        let exposed = of_options
            .chain(of_environment)
            .flat_map(|(source, text)| spec::list(text).into_iter().map(move |spec| (source, spec)))
            .map(|(source, spec)| Exposed {
                what: format!("{source} {}", spec.chars().take(80).collect::<String>()),
                instance: spec::parse(spec),
            })
            .collect();
        if let Some(path) = &options.config {
            let path = path.clone();
            return Ok((Self { path, exposed }, None));
        }
        let dir = environment.state_dir;
        let dir = dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let identity = IdentityDir::new(dir.clone());
        let join = match &environment.join {
            // A container that starts again has the identity that it got from the same string.
            _ if identity.is_taken() => None,
            Some(text) => {
                let join = text.parse().map_err(|error| {
                    Stop::Misuse(anyhow::Error::new(error).context("ADIT_JOIN does not hold"))
                })?;
                Some((identity.clone(), join))
            }
            None => {
                let dir = dir.display();
                return Err(Stop::misuse(format!(
                    "there is no identity in {dir}: join a relay first (relay-client join --dir {dir} JOINSTRING), \
                     set ADIT_JOIN to a join string, or name a file with --config"
                )));
            }
        };
        let path = identity.config();
        Ok((Self { path, exposed }, join))
    }

    /// The file and what is exposed beside it, or every problem of both.
    pub(crate) fn load(&self) -> Result<Loaded<Config>, Invalid> {
        let (config, mut problems, mut warnings) = match Config::load(&self.path) {
            Ok(loaded) => (Some(loaded.value), Vec::new(), loaded.warnings),
            Err(invalid) => (None, invalid.problems, invalid.warnings),
        };
        let written = config.as_ref().map_or(&[][..], |config| &config.instances);
        let exposed = self.expose(written, &mut problems, &mut warnings);
        match config {
            Some(mut config) if problems.is_empty() => {
                config.instances.extend(exposed);
                Ok(Loaded {
                    value: config,
                    warnings,
                })
            }
            _ => Err(Invalid { problems, warnings }),
        }
    }

    /// What is exposed beside the file, alone: for a client that has no file yet.
    pub(crate) fn load_exposed(&self) -> Result<Loaded<Vec<Instance>>, Invalid> {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let value = self.expose(&[], &mut problems, &mut warnings);
        if problems.is_empty() {
            Ok(Loaded { value, warnings })
        } else {
            Err(Invalid { problems, warnings })
        }
    }

    fn expose(
        &self,
        written: &[Instance],
        problems: &mut Vec<Remark>,
        warnings: &mut Vec<Remark>,
    ) -> Vec<Instance> {
        let mut claims = Claims::new();
        let file = self.path.display().to_string();
        // The file has been found to hold by itself: nothing of it clashes.
        for instance in written {
            drop(claims.id(instance.id(), file.clone()));
            for service in instance.services() {
                drop(claims.ports(service, file.clone()));
            }
        }
        let mut instances = Vec::new();
        for Exposed { what, instance } in &self.exposed {
            let instance = match instance {
                Ok(instance) => instance,
                Err(error) => {
                    problems.push(Remark::elsewhere(what, error.to_string()));
                    continue;
                }
            };
            if let Err(first) = claims.id(instance.id(), what.clone()) {
                let message = format!(
                    "the id {} is taken by {first}: add ,name=NAME",
                    instance.id()
                );
                problems.push(Remark::elsewhere(what, message));
            }
            for service in instance.services() {
                if let Err(first) = claims.ports(service, what.clone()) {
                    let message = format!("public port {} is taken by {first}", service.public());
                    problems.push(Remark::elsewhere(what, message));
                }
                if let Some(warning) = service.warning() {
                    warnings.push(Remark::elsewhere(what, warning));
                }
            }
            instances.push(instance.clone());
        }
        instances
    }
}

const DEFAULT_STATE_DIR: &str = "/var/lib/adit";

#[cfg(test)]
mod tests {
    use tunnel_core::{
        join::Token,
        key::{Psk, PublicKey},
    };

    use super::*;

    fn options(config: Option<PathBuf>, expose: &[&str]) -> Options {
        Options {
            config,
            expose: expose.iter().map(ToString::to_string).collect(),
        }
    }

    fn join() -> JoinString {
        JoinString {
            relay: "relay.example.net:4433".parse().unwrap(),
            relay_public_key: PublicKey::from([7; 32]),
            token: Token::generate().unwrap(),
        }
    }

    fn environment(dir: &std::path::Path, join: Option<&str>, expose: &str) -> Environment {
        Environment {
            join: join.map(|join| Zeroizing::new(join.into())),
            expose: Some(expose.to_owned()).filter(|text| !text.is_empty()),
            state_dir: Some(dir.to_owned()),
        }
    }

    fn joined(dir: &std::path::Path) {
        let identity = IdentityDir::new(dir.to_owned());
        identity.key().unwrap();
        identity
            .keep(&join(), "node-1", &Psk::from([1; 32]))
            .unwrap();
    }

    fn ids(instances: &[Instance]) -> Vec<&str> {
        instances
            .iter()
            .map(|instance| instance.id().as_str())
            .collect()
    }

    #[test]
    fn adit_join_counts_only_where_there_is_no_identity() {
        let dir = tempfile::tempdir().unwrap();
        let text = join().to_string();
        let fresh = environment(dir.path(), Some(&text), "udp:1");
        let (_, join) = Setup::new(&options(None, &[]), fresh.clone()).unwrap();
        assert_eq!(join.unwrap().1.to_string(), text);
        joined(dir.path());
        let (_, join) = Setup::new(&options(None, &[]), fresh).unwrap();
        assert!(join.is_none());
        // Then not even a wrong one is looked at.
        let stale = environment(dir.path(), Some("adit://"), "udp:1");
        let (setup, _) = Setup::new(&options(None, &[]), stale).unwrap();
        assert_eq!(ids(&setup.load().unwrap().value.instances), ["udp-1"]);
        let empty = tempfile::tempdir().unwrap();
        let wrong = environment(empty.path(), Some("adit://"), "");
        assert!(matches!(
            Setup::new(&options(None, &[]), wrong),
            Err(Stop::Misuse(_))
        ));
    }

    #[test]
    fn without_identity_and_join_string_it_is_said_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let Err(Stop::Misuse(error)) =
            Setup::new(&options(None, &[]), environment(dir.path(), None, ""))
        else {
            panic!("nothing to run with");
        };
        assert!(error.to_string().contains("set ADIT_JOIN"), "{error}");
    }

    #[test]
    fn a_named_file_needs_no_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        joined(dir.path());
        let nowhere = environment(std::path::Path::new("/nonexistent"), Some("x"), "");
        let file = dir.path().join("client.toml");
        let (setup, join) = Setup::new(&options(Some(file), &[]), nowhere).unwrap();
        assert!(setup.load().is_ok());
        assert!(join.is_none());
    }

    #[test]
    fn options_environment_and_file_add_up() {
        let dir = tempfile::tempdir().unwrap();
        joined(dir.path());
        let file = dir.path().join("client.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let service = "[[instance.service]]\nname='a'\nprotocol='udp'\ntarget='h:5'\n";
        std::fs::write(&file, format!("{text}[[instance]]\nid='srv'\n{service}")).unwrap();
        let both = environment(dir.path(), None, " tcp:3\n\ttcp:4 ");
        let (setup, _) = Setup::new(&options(None, &["tcp:1", "tcp:5"]), both).unwrap();
        let config = setup.load().unwrap().value;
        assert_eq!(
            ids(&config.instances),
            ["srv", "tcp-1", "tcp-5", "tcp-3", "tcp-4"]
        );
    }

    #[test]
    fn all_problems_of_all_sources_are_told() {
        let dir = tempfile::tempdir().unwrap();
        joined(dir.path());
        let file = dir.path().join("client.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let service = "[[instance.service]]\nname='a'\nprotocol='udp'\ntarget='h:5'\n";
        std::fs::write(&file, format!("{text}[[instance]]\nid='srv'\n{service}")).unwrap();
        let specs = [
            "udp:5=h:6,name=x",
            "tcp:5,name=srv",
            "tcp:7",
            "tcp:6-8",
            "tcp:7=h:1,name=game",
            "nonsense",
        ];
        let (setup, _) = Setup::new(
            &options(None, &specs),
            environment(dir.path(), None, "tcp:7"),
        )
        .unwrap();
        let invalid = setup.load().unwrap_err();
        let file = file.display();
        let form = "expected PROTO:PUBLIC=HOST:PORT such as udp:7777=127.0.0.1:7777, or PROTO:PORT for the same port on 127.0.0.1";
        assert_eq!(
            invalid.to_string(),
            format!(
                "--expose udp:5=h:6,name=x: public port 5 is taken by {file}\n\
                 --expose tcp:5,name=srv: the id srv is taken by {file}: add ,name=NAME\n\
                 --expose tcp:6-8: public port 6-8 is taken by --expose tcp:7\n\
                 --expose tcp:7=h:1,name=game: public port 7 is taken by --expose tcp:7\n\
                 --expose nonsense: {form}\n\
                 ADIT_EXPOSE tcp:7: the id tcp-7 is taken by --expose tcp:7: add ,name=NAME\n\
                 ADIT_EXPOSE tcp:7: public port 7 is taken by --expose tcp:7"
            )
        );
        assert_eq!(invalid.warnings.len(), 1);
        std::fs::write(dir.path().join("client.toml"), "[client]\nx=1").unwrap();
        let invalid = setup.load().unwrap_err();
        assert!(invalid.problems.len() > 9, "{invalid}");
    }
}
