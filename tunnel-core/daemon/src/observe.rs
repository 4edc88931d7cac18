//! What the engine tells, as log lines.

use std::{convert::Infallible, time::Duration};

use tunnel_core::{
    event::{Crowded, Event, Events},
    metrics::{Kind, Snapshot},
};

use crate::{log, notify, runtime};

/// Logs events as they come and what the counters have done each minute, and tells systemd the status after each event.
pub async fn report(
    events: &mut Events,
    counters: impl Fn() -> Snapshot,
    status: impl AsyncFn() -> String,
) -> Infallible {
    let mut summary = Summary(counters());
    let mut minute = runtime::every(SUMMARY);
    loop {
        tokio::select! {
            _ = minute.tick() => summary.log(counters()),
            () = log_next(events) => notify::status(status().await),
        }
    }
}

/// Logs the next event; waits for ever once the engine has ended. Cancel safe.
async fn log_next(events: &mut Events) {
    match events.next().await {
        Some(Ok(event)) if is_bad(&event) => tracing::warn!("{event}"),
        Some(Ok(event)) => tracing::info!("{event}"),
        Some(Err(lagged)) => tracing::warn!("{lagged}"),
        None => std::future::pending().await,
    }
}

/// How often counters are summed up in the log, when something moved.
const SUMMARY: Duration = Duration::from_secs(60);

/// Sums up what moved since the last time.
struct Summary(Snapshot);

impl Summary {
    /// Logs one line if any counter has moved, the log's own among them.
    fn log(&mut self, mut now: Snapshot) {
        now.log_lines_lost = log::lost();
        if let Some(line) = summary(&self.0, &now) {
            tracing::info!("last minute: {line}");
        }
        self.0 = now;
    }
}

const fn is_bad(event: &Event) -> bool {
    matches!(
        event,
        Event::TunnelDown { .. }
            | Event::Reconnecting { .. }
            | Event::Fallback { active: true, .. }
            | Event::Refused { .. }
            | Event::Suspect { suspect: true, .. }
            | Event::LanesBlocked { .. }
            | Event::Crowded(Crowded { refuses: true, .. })
            | Event::Panicked { .. }
            | Event::Warning(_)
    )
}

/// `tunnels 2, datagrams{direction="in"} +1200`: gauges as they stand, counters by how much they rose; `None` if
/// nothing moved.
fn summary(before: &Snapshot, now: &Snapshot) -> Option<String> {
    if before == now {
        return None;
    }
    let mut parts = Vec::new();
    for (old, new) in before.rows().zip(now.rows()) {
        let name = new.name.strip_prefix("adit_").unwrap_or(new.name);
        let name = name.strip_suffix("_total").unwrap_or(name);
        let label = new
            .label
            .map(|label| format!("{{{label}}}"))
            .unwrap_or_default();
        match new.kind {
            Kind::Gauge if new.value != 0 || old.value != 0 => {
                parts.push(format!("{name}{label} {}", new.value));
            }
            Kind::Counter if new.value != old.value => {
                let rise = new.value.saturating_sub(old.value);
                parts.push(format!("{name}{label} +{rise}"));
            }
            _ => {}
        }
    }
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_only_what_moved() {
        let mut before = Snapshot::default();
        assert_eq!(summary(&before, &before), None);
        before.streams_opened = 10;
        let mut now = before;
        now.tunnels = 2;
        now.datagrams_in = 1200;
        assert_eq!(
            summary(&before, &now).unwrap(),
            r#"tunnels 2, datagrams{direction="in"} +1200"#
        );
    }

    #[test]
    fn all_counters_stand_in_the_documentation() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut rows = page.lines().filter(|line| line.starts_with("| `adit_"));
        for row in Snapshot::default().rows() {
            let label = row.label.map(|label| format!("{{{label}}}"));
            let (name, label) = (row.name, label.unwrap_or_default());
            let kind = match row.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let expected = format!("| `{name}{label}` | {kind} | {} |", row.help.trim());
            assert_eq!(rows.next(), Some(&*expected));
        }
        assert_eq!(rows.next(), None);
    }
}
