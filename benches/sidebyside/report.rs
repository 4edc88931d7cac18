//! The table and the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Map, json};

use crate::{
    column::Kind,
    measure::{Figures, Row},
};

/// All figures of all rounds.
#[derive(Debug)]
pub(crate) struct Report {
    columns: Vec<&'static str>,
    /// In the order in which they were first measured; one list of figures for each column.
    rows: Vec<(Row, Vec<Vec<f64>>)>,
}

impl Report {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self {
            columns: kinds.iter().map(Kind::name).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, column: usize, figures: Figures) {
        for (row, figure) in figures {
            let place = self.rows.iter().position(|(known, _)| *known == row);
            let place = place.unwrap_or_else(|| {
                self.rows.push((row, vec![Vec::new(); self.columns.len()]));
                self.rows.len() - 1
            });
            self.rows[place].1[column].push(figure);
        }
    }

    /// A table in Markdown: medians, lowest and highest, and the ratio to the direct path.
    pub(crate) fn print(&self) {
        println!("medians (lowest to highest) × of direct\n");
        let mut lines = vec![self.head()];
        lines.extend(self.rows.iter().map(|row| self.line(row)));
        let widths: Vec<usize> = (0..=self.columns.len())
            .map(|place| {
                lines
                    .iter()
                    .map(|line| line[place].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        lines.insert(1, widths.iter().map(|&width| "-".repeat(width)).collect());
        for line in lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:<width$}"))
                .collect();
            println!("| {} |", cells.join(" | "));
        }
    }

    /// Writes every figure of every round as JSON, and says where.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let mut rows = Map::new();
        for (row, columns) in &self.rows {
            let mut figures = Map::new();
            for (name, values) in self.columns.iter().zip(columns) {
                figures.insert(
                    (*name).to_owned(),
                    json!({ "median": spread(values).map(|(_, median, _)| median), "rounds": values }),
                );
            }
            rows.insert(row.key.to_owned(), figures.into());
        }
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({ "kernel": kernel.trim(), "cores": cores, "figures": rows });
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = target.parent().unwrap_or(target).join("sidebyside.json");
        fs::write(&path, serde_json::to_string_pretty(&all)?)?;
        Ok(path)
    }

    fn head(&self) -> Vec<String> {
        let columns = self.columns.iter().map(|&name| name.to_owned());
        std::iter::once(String::new()).chain(columns).collect()
    }

    fn line(&self, (row, columns): &(Row, Vec<Vec<f64>>)) -> Vec<String> {
        let direct = self.columns.iter().position(|&name| name == "direct");
        let direct = direct
            .and_then(|place| spread(&columns[place]))
            .map(|(_, median, _)| median);
        let cells = columns.iter().zip(&self.columns).map(|(values, &name)| {
            let Some((low, median, high)) = spread(values) else {
                return "–".to_owned();
            };
            let digits = row.decimals;
            let ratio = match direct {
                Some(direct) if direct > 0.0 && name != "direct" => {
                    format!(" ×{:.2}", median / direct)
                }
                _ => String::new(),
            };
            format!("{median:.digits$} ({low:.digits$}–{high:.digits$}){ratio}")
        });
        std::iter::once(row.title.trim_end().to_owned())
            .chain(cells)
            .collect()
    }
}

/// Lowest, median and highest.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = *sorted.get(sorted.len() / 2)?;
    Some((*sorted.first()?, median, *sorted.last()?))
}
