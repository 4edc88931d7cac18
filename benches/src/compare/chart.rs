//! Curves as SVG that needs nothing else.

/// Curves over a common pair of axes.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) curves: Vec<Curve>,
}

#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) title: &'static str,
    pub(super) scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero on.
    Linear,
    Log,
    /// Shares from 0 to 1: each further nine takes as much room.
    Nines,
}

impl Chart {
    /// A figure with its legend. `None` where there is nothing to draw.
    pub(super) fn draw(&self) -> Option<String> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Range::of(points().map(|(x, _)| *x), self.x.scale)?;
        let y = Range::of(points().map(|(_, y)| *y), self.y.scale)?;
        let across = |value| LEFT + (WIDTH - LEFT - RIGHT) * x.share(value);
        let up = |value| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - y.share(value));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title)
        );
        for (value, label) in y.ticks() {
            let at = up(value);
            svg += &format!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.0}\"/><text x=\"{:.0}\" y=\"{:.1}\" class=\"end\">{label}</text>\n",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (value, label) in x.ticks() {
            let at = across(value);
            svg += &format!(
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.0}\"/><text x=\"{at:.1}\" y=\"{:.0}\" class=\"middle\">{label}</text>\n",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0
            );
        }
        svg += &format!(
            "<text x=\"{LEFT}\" y=\"12\">{}</text><text x=\"{:.0}\" y=\"{:.0}\" class=\"end\">{}</text>\n",
            escape(self.y.title),
            WIDTH - RIGHT,
            HEIGHT - 4.0,
            escape(self.x.title)
        );
        for curve in &self.curves {
            let path: Vec<_> = curve
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y)))
                .collect();
            let mut drawn = format!(
                "<polyline points=\"{}\"><title>{}</title></polyline>",
                path.join(" "),
                escape(&curve.name)
            );
            if curve.points.len() <= DOTS {
                for (x, y) in &curve.points {
                    let (x, y) = (across(*x), up(*y));
                    drawn += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
                }
            }
            svg += &format!("<g {}>{drawn}</g>\n", style(&curve.name));
        }
        svg += "</svg>";
        let legend: Vec<_> = self
            .curves
            .iter()
            .map(|curve| {
                let name = escape(&curve.name);
                format!("<li {}><i></i>{name}</li>", style(&curve.name))
            })
            .collect();
        Some(format!(
            "<figure><figcaption>{}</figcaption>\n{svg}\n<ul class=\"legend\">{}</ul></figure>\n",
            escape(&self.title),
            legend.concat()
        ))
    }
}

/// What an axis spans, in the units of its scale.
#[derive(Debug, Clone, Copy)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Option<Self> {
        let placed = values
            .filter(|value| scale != Scale::Log || *value > 0.0)
            .map(|value| place(scale, value))
            .filter(|value| value.is_finite());
        let (low, high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low > high {
            return None;
        }
        Some(match scale {
            Scale::Linear => Self {
                scale,
                low: 0.0,
                high: nice(high),
            },
            // A little room at both ends.
            Scale::Log => Self {
                scale,
                low: low - 0.1,
                high: high + 0.1,
            },
            Scale::Nines => Self {
                scale,
                low: 0.0,
                high: high.max(1.0),
            },
        })
    }

    fn share(&self, value: f64) -> f64 {
        let share = (place(self.scale, value) - self.low) / (self.high - self.low);
        // The logarithm of nothing is drawn at the bottom.
        if share.is_finite() {
            share.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => (0..=4)
                .map(|step| self.high * f64::from(step) / 4.0)
                .map(|value| (value, label(value)))
                .collect(),
            Scale::Log => {
                let digits: &[f64] = match self.high - self.low {
                    span if span < 1.0 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
                    span if span < 2.5 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                let powers = self.low.floor() as i32..=self.high.ceil() as i32;
                powers
                    .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
                    .filter(|value| (self.low..=self.high).contains(&value.log10()))
                    .map(|value| (value, label(value)))
                    .collect()
            }
            Scale::Nines => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999_99]
                .into_iter()
                .filter(|share| place(self.scale, *share) <= self.high + 1e-9)
                .map(|share| (share, label(share * 100.0)))
                .collect(),
        }
    }
}

fn place(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.log10(),
        Scale::Nines => -(1.0 - value).log10(),
    }
}

/// The next of a few round numbers times a power of ten.
fn nice(most: f64) -> f64 {
    let most = most.max(1e-9);
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= most).unwrap_or(most)
}

fn label(value: f64) -> String {
    if value >= 1e6 {
        return format!("{}M", label(value / 1e6));
    }
    if value >= 1e4 {
        return format!("{}k", label(value / 1e3));
    }
    let digits = if value >= 99.0 || value == 0.0 { 3 } else { 4 };
    let written = format!("{value:.digits$}");
    written
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

/// A column has one colour everywhere, one for light paper and one for dark.
fn style(name: &str) -> String {
    let known = COLORS.iter().find(|(known, ..)| *known == name);
    let (light, dark) = known.map_or(("#777777", "#999999"), |(_, light, dark)| (*light, *dark));
    let class = match name {
        "direct" => "curve base",
        name if name.starts_with("adit") => "curve",
        _ => "curve peer",
    };
    format!("class=\"{class}\" style=\"--l:{light};--d:{dark}\"")
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const COLORS: [(&str, &str, &str); 15] = [
    ("direct", "#6b7280", "#9ca3af"),
    ("adit-auto", "#1d4ed8", "#60a5fa"),
    ("adit-throughput", "#0e7490", "#22d3ee"),
    ("adit-latency", "#7c3aed", "#a78bfa"),
    ("adit-lanes", "#15803d", "#4ade80"),
    ("adit-off", "#475569", "#94a3b8"),
    ("adit-duplicate", "#be185d", "#f472b6"),
    ("adit-fec", "#a16207", "#facc15"),
    ("adit-adaptive", "#0f766e", "#2dd4bf"),
    ("rathole", "#dc2626", "#f87171"),
    ("rathole-noise", "#ea580c", "#fb923c"),
    ("frp", "#92400e", "#d6a06c"),
    ("frp-quic", "#a21caf", "#e879f9"),
    ("chisel", "#4d7c0f", "#a3e635"),
    ("bore", "#57534e", "#a8a29e"),
];

/// Small enough that letters stay legible on a telephone.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 38.0;
/// Curves of so few points show each.
const DOTS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "a < b".into(),
            x: Axis {
                title: "%",
                scale: Scale::Nines,
            },
            y: Axis {
                title: "ms",
                scale: Scale::Log,
            },
            curves: vec![Curve {
                name: "direct".into(),
                points,
            }],
        }
    }

    #[test]
    fn curves_stay_within_the_picture() {
        let points = vec![(0.5, 0.01), (0.99, 3.0), (0.9999, 5000.0), (0.7, 0.0)];
        let drawn = chart(points).draw().expect("there is something");
        let start = drawn.find("points=\"").expect("there is a curve") + 8;
        let end = start + drawn[start..].find('"').expect("it ends");
        for point in drawn[start..end].split(' ') {
            let (x, y) = point.split_once(',').expect("two numbers");
            let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
        assert!(drawn.contains("a &lt; b") && !drawn.contains("a < b"));
        assert!(!drawn.contains("NaN"));
    }

    #[test]
    fn nothing_is_not_drawn() {
        assert!(chart(Vec::new()).draw().is_none());
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 0.05, 2.5, 99.99, 1000.0, 20_000.0, 2e6].map(label);
        assert_eq!(labels, ["0", "0.05", "2.5", "99.99", "1000", "20k", "2M"]);
    }
}
