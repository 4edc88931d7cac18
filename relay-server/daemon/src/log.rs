//! Logs: on stderr, as text or JSON, chosen by `--log-format` and filtered by `RUST_LOG`.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the logger of this process; once, before anything logs.
pub fn install(format: Format) {
    let (filter, wrong) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (info(), Some(error)),
        },
        _ => (info(), None),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        Format::Text => {
            let colour = is_coloured(io::stderr().is_terminal(), std::env::var_os("NO_COLOR"));
            builder.with_ansi(colour).with_target(false).init();
        }
        Format::Json => builder.json().flatten_event(true).init(),
    }
    if let Some(error) = wrong {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
}

/// Colours are for people who have not asked for none.
fn is_coloured(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none()
}

fn info() -> EnvFilter {
    EnvFilter::default().add_directive(LevelFilter::INFO.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_makes_a_terminal_plain() {
        assert!(is_coloured(true, None));
        assert!(!is_coloured(true, Some("1".into())));
        assert!(!is_coloured(false, None));
    }
}
