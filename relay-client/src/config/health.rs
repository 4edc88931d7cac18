//! `[instance.service.health]`: one row per key.

use std::{ops::RangeInclusive, time::Duration};

use adit_daemon::config::{Fault, Key, Value};
use adit_game::Game;
use tunnel_core::health::{CheckError, HealthCheck, HttpProbe, OnUnhealthy, TcpProbe, UdpProbe};

use crate::probe::GameProbe;

/// A check whose every value is valid by itself.
#[derive(Default)]
pub(super) struct WrittenCheck {
    check: Option<Word>,
    interval: Option<u64>,
    timeout: Option<u64>,
    start_period: Option<u64>,
    up: Option<u32>,
    down: Option<u32>,
    on_unhealthy: OnUnhealthy,
    path: Option<String>,
    status: Option<RangeInclusive<u16>>,
    send: Option<Vec<u8>>,
    expect: Option<Vec<u8>>,
}

/// How the target is asked.
#[derive(Clone, Copy)]
enum Word {
    Tcp,
    Http,
    Udp,
    Game(Game),
}

impl WrittenCheck {
    /// The check, or what is wrong with it; `None` where a value of it cannot be read.
    pub(super) fn build(&self) -> Result<Option<HealthCheck>, Fault> {
        let Some(word) = self.check else {
            return Ok(None);
        };
        self.refuse_strays(word)?;
        let check = match word {
            Word::Tcp => HealthCheck::new(TcpProbe),
            Word::Http => {
                let path = self.path.as_deref().unwrap_or("/");
                let status = self.status.clone().unwrap_or(200..=399);
                HealthCheck::new(HttpProbe::new(path, status).map_err(Fault::new)?)
            }
            Word::Udp => {
                let send = self.send.as_ref().ok_or_else(|| {
                    Fault::new(
                        "check = \"udp\" needs what is sent: send = \"ping\", or \"hex:ff00\"",
                    )
                })?;
                let expect = self.expect.as_deref().unwrap_or_default();
                HealthCheck::new(UdpProbe::new(send, expect).map_err(Fault::new)?)
            }
            Word::Game(game) => HealthCheck::new(GameProbe::new(game)),
        };
        self.with_times(check).map(Some).map_err(Fault::new)
    }

    fn with_times(&self, mut check: HealthCheck) -> Result<HealthCheck, CheckError> {
        let seconds = |seconds: u64| Duration::from_secs(seconds);
        if let Some(interval) = self.interval {
            check = check.with_interval(seconds(interval))?;
        }
        if let Some(timeout) = self.timeout {
            check = check.with_timeout(seconds(timeout))?;
        }
        if let Some(period) = self.start_period {
            check = check.with_start_period(seconds(period))?;
        }
        let thresholds = (self.up.unwrap_or(1), self.down.unwrap_or(3));
        Ok(check
            .with_thresholds(thresholds.0, thresholds.1)?
            .on_unhealthy(self.on_unhealthy))
    }

    /// A key of another kind of check would be of no effect.
    fn refuse_strays(&self, word: Word) -> Result<(), Fault> {
        let is_http = matches!(word, Word::Http);
        let is_udp = matches!(word, Word::Udp);
        let strays = [
            ("path", "http", self.path.is_some() && !is_http),
            ("status", "http", self.status.is_some() && !is_http),
            ("send", "udp", self.send.is_some() && !is_udp),
            ("expect", "udp", self.expect.is_some() && !is_udp),
        ];
        match strays.into_iter().find(|(_, _, is_stray)| *is_stray) {
            Some((key, check, _)) => Err(Fault::new(format!(
                "{key} is a key of check = \"{check}\" alone"
            ))),
            None => Ok(()),
        }
    }
}

pub(super) const KEYS: &[Key<WrittenCheck>] = &[
    Key::required("check", r#"check = "tcp""#, |check, value, _| {
        check.check = Some(word(value.text()?)?);
        Ok(())
    }),
    Key::optional("interval", |check, value, _| {
        check.interval = Some(value.number(HealthCheck::INTERVAL_SECONDS)?);
        Ok(())
    }),
    Key::optional("timeout", |check, value, _| {
        check.timeout = Some(value.number(HealthCheck::TIMEOUT_SECONDS)?);
        Ok(())
    }),
    Key::optional("start_period", |check, value, _| {
        check.start_period = Some(value.number(HealthCheck::START_PERIOD_SECONDS)?);
        Ok(())
    }),
    Key::optional("up", |check, value, _| {
        check.up = Some(value.number(HealthCheck::THRESHOLD)?);
        Ok(())
    }),
    Key::optional("down", |check, value, _| {
        check.down = Some(value.number(HealthCheck::THRESHOLD)?);
        Ok(())
    }),
    Key::optional("on_unhealthy", |check, value, _| {
        check.on_unhealthy = value.parse()?;
        Ok(())
    }),
    Key::optional("path", |check, value, _| {
        check.path = Some(value.text()?.to_owned());
        Ok(())
    }),
    Key::optional("status", |check, value, _| {
        check.status = Some(status(&value.number_or_text()?)?);
        Ok(())
    }),
    Key::optional("send", |check, value, _| {
        check.send = Some(bytes(value)?);
        Ok(())
    }),
    Key::optional("expect", |check, value, _| {
        check.expect = Some(bytes(value)?);
        Ok(())
    }),
];

fn word(text: &str) -> Result<Word, Fault> {
    match text {
        "tcp" => Ok(Word::Tcp),
        "http" => Ok(Word::Http),
        "udp" => Ok(Word::Udp),
        _ => text.parse().map(Word::Game).map_err(|_| {
            let shown: String = text.chars().take(80).collect();
            Fault::new(format!(
                "unknown check {shown:?}: expected tcp, http, udp, a2s, minecraft, bedrock or satisfactory"
            ))
        }),
    }
}

/// `200`, or `200-399`.
fn status(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let wrong = || Fault::new("expected a status such as 200, or a range such as \"200-399\"");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|it| (100..=599).contains(it))
    };
    let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
    if first <= last {
        Ok(first..=last)
    } else {
        Err(wrong())
    }
}

/// A text as it is, or bytes as hexadecimal digits behind `hex:`.
fn bytes(value: &Value<'_>) -> Result<Vec<u8>, Fault> {
    let text = value.text()?;
    let Some(hex) = text.strip_prefix("hex:") else {
        return Ok(text.as_bytes().to_vec());
    };
    let digits: Option<Vec<u32>> = hex.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits =
        digits.ok_or_else(|| Fault::new("expected pairs of hexadecimal digits behind hex:"))?;
    let byte = |pair: &[u32]| pair.iter().fold(0, |byte, digit| byte << 4 | digit) as u8;
    Ok(digits.chunks(2).map(byte).collect())
}
