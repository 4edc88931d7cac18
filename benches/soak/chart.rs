//! The curves, as one picture that needs nothing else.

use std::{fmt::Write as _, time::Duration};

use crate::{
    plan::Blow,
    run::Record,
    sample::{Life, Sample},
};

type Value = fn(&Sample, &Sample) -> f64;

/// Memory, descriptors, threads and CPU of all processes over time, and what was done to them.
pub(crate) fn draw(record: &Record) -> String {
    let panels: [(&str, Value); 4] = [
        ("memory, MiB", |_, now| now.memory as f64 / 1024.0),
        ("descriptors", |_, now| now.descriptors as f64),
        ("threads", |_, now| now.threads as f64),
        ("CPU, % of a core", cpu),
    ];
    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut svg, record.length);
    for (number, (name, value)) in panels.into_iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        panel(&mut svg, record, top, name, value);
    }
    svg += "</svg>\n";
    svg
}

fn legend(svg: &mut String, length: Duration) {
    let title = format!("Adit under load for {:.0} s", length.as_secs_f64());
    text(svg, LEFT, 18.0, "start", "#000", &title);
    let entries = PROCESSES.iter().chain(&BLOWS);
    for (number, (name, color)) in entries.enumerate() {
        let x = LEFT + 150.0 * number as f64;
        text(svg, x, 38.0, "start", color, &format!("\u{25a0} {name}"));
    }
}

fn panel(svg: &mut String, record: &Record, top: f64, name: &str, value: Value) {
    let curves: Vec<_> = record
        .lives
        .iter()
        .map(|life| (life, curve(life, value)))
        .collect();
    let points = curves.iter().flat_map(|(_, curve)| curve);
    let most = nice(points.map(|(_, y)| *y).fold(0.0, f64::max));
    let end = record.length.as_secs_f64().max(1.0);
    let x = |at: f64| LEFT + (WIDTH - LEFT - RIGHT) * at / end;
    let y = |value: f64| top + PANEL * (1.0 - value / most);
    text(svg, LEFT, top - 6.0, "start", "#000", name);
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        line(svg, [LEFT, y(value), WIDTH - RIGHT, y(value)], "#ddd");
        let label = format!("{value:.2}");
        let label = label.trim_end_matches('0').trim_end_matches('.');
        text(svg, LEFT - 6.0, y(value) + 4.0, "end", "#555", label);
    }
    for step in 0..=6 {
        let at = end * f64::from(step) / 6.0;
        text(
            svg,
            x(at),
            top + PANEL + 14.0,
            "middle",
            "#555",
            &format!("{at:.0} s"),
        );
    }
    for one in &record.happened {
        let color = match one.blow {
            Blow::KillRelay => BLOWS[0].1,
            Blow::KillClient => BLOWS[1].1,
            Blow::Dark(_) | Blow::NoUdp(_) => BLOWS[2].1,
            // As many as to hide the rest.
            Blow::Change => continue,
        };
        let at = x(one.at.as_secs_f64());
        line(svg, [at, top, at, top + PANEL], color);
    }
    for (life, curve) in curves {
        let color = PROCESSES.iter().find(|(name, _)| *name == life.of);
        let color = color.map_or("#000", |(_, color)| color);
        let points: Vec<_> = curve
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        // A string takes everything.
        _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
    }
}

fn curve(life: &Life, value: Value) -> Vec<(f64, f64)> {
    let mut before = life.samples.first();
    let points = life.samples.iter().map(|now| {
        let point = (now.at.as_secs_f64(), value(before.unwrap_or(now), now));
        before = Some(now);
        point
    });
    points.collect()
}

fn cpu(before: &Sample, now: &Sample) -> f64 {
    let length = (now.at - before.at).as_secs_f64();
    if length > 0.0 {
        (now.cpu - before.cpu).as_secs_f64() / length * 100.0
    } else {
        0.0
    }
}

/// The next of 1, 2, 4 or 8 times a power of ten.
fn nice(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= most).unwrap_or(most)
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], color: &str) {
    _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" stroke-width=\"0.7\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, color: &str, text: &str) {
    _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>"
    );
}

const PROCESSES: [(&str, &str); 3] = [
    ("relay", "#1f77b4"),
    ("client 1", "#2ca02c"),
    ("client 2", "#9467bd"),
];
const BLOWS: [(&str, &str); 3] = [
    ("relay killed", "#d62728"),
    ("client 1 killed", "#ffb000"),
    ("client 2 dark or without UDP", "#888888"),
];
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 45.0;
