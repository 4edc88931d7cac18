//! Counters as the text that Prometheus reads (version 0.0.4), from the engine's own table.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, prometheus_text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tunnel_core::metrics::{Kind, Snapshot};

/// The media type of the text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The labels of a series, each with its value.
pub type Labels = Vec<(Cow<'static, str>, String)>;

/// The series that share a name.
#[derive(Debug, Clone)]
pub struct Family {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    kind: Kind,
    series: Vec<(Labels, u64)>,
}

impl Family {
    /// Without a series. The name of a counter ends in `_total`, as it stands in the text.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        kind: Kind,
    ) -> Self {
        Self {
            name: name.into(),
            help: help.into(),
            kind,
            series: Vec::new(),
        }
    }

    /// Adds a series. Labels are bounded in number by whoever makes them.
    pub fn push(&mut self, labels: Labels, value: u64) {
        self.series.push((labels, value));
    }
}

/// The counters of an engine, in the order of its table. Series that share a name are one family, with the help of the first.
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for row in snapshot.rows() {
        let at = families.iter().position(|family| family.name == row.name);
        let at = at.unwrap_or_else(|| {
            families.push(Family::new(row.name, row.help.trim(), row.kind));
            families.len() - 1
        });
        let label = row.label.and_then(|label| label.split_once('='));
        let labels = label.map(|(key, value)| (key.into(), value.trim_matches('"').to_owned()));
        families[at].push(labels.into_iter().collect(), row.value);
    }
    families
}

/// The text of these families.
pub fn text(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::new(Table(families))));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Table(Vec<Family>);

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            // The encoder appends what the kind asks for.
            let name = match family.kind {
                Kind::Counter => family.name.strip_suffix("_total").unwrap_or(&family.name),
                Kind::Gauge => &family.name,
            };
            let mut descriptor = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for (labels, value) in &family.series {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_str()))
                    .collect();
                let of_series = if labels.is_empty() {
                    None
                } else {
                    Some(descriptor.encode_family(&labels)?)
                };
                match (family.kind, of_series) {
                    (Kind::Counter, Some(series)) => ConstCounter::new(*value).encode(series)?,
                    (Kind::Gauge, Some(series)) => ConstGauge::new(*value).encode(series)?,
                    (Kind::Counter, None) => {
                        let none = Vec::<(&str, &str)>::new();
                        ConstCounter::new(*value).encode(descriptor.encode_family(&none)?)?;
                    }
                    (Kind::Gauge, None) => {
                        let none = Vec::<(&str, &str)>::new();
                        ConstGauge::new(*value).encode(descriptor.encode_family(&none)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_in_the_text_with_its_name_label_kind_and_value() {
        let mut snapshot = Snapshot::default();
        snapshot.tunnels = 3;
        snapshot.stream_bytes_out = 1 << 60;
        snapshot.drop_parked = 7;
        let text = text(families(&snapshot)).unwrap();
        for row in snapshot.rows() {
            let label = row
                .label
                .map(|label| format!("{{{label}}}"))
                .unwrap_or_default();
            let line = format!("\n{}{label} {}\n", row.name, row.value);
            assert!(text.contains(&line), "{line:?} is not in {text}");
            let kind = match row.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let declared = format!("# TYPE {} {kind}\n", row.name);
            assert_eq!(text.matches(&declared).count(), 1, "{declared}");
        }
        assert_eq!(
            text.matches("# HELP ").count(),
            text.matches("# TYPE ").count()
        );
    }

    #[test]
    fn a_label_of_any_text_breaks_no_line() {
        let mut family = Family::new("adit_x_total", "a\nb", Kind::Counter);
        family.push(
            vec![
                ("service".into(), "a\"b\\\n".into()),
                ("n".into(), "1".into()),
            ],
            5,
        );
        let text = text(vec![family]).unwrap();
        assert!(
            text.contains("adit_x_total{service=\"a\\\"b\\\\\\n\",n=\"1\"} 5\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
