//! The lines' tables, for a terminal, in Markdown or for the page.

pub use super::verdict::Table;
use super::{bulk, game, loss, measured::sections, share};
use crate::compare::data::{Family, LineFacts, Report};

/// All that was measured on one line so far, in its family.
pub fn one(report: &Report, line: &LineFacts, markdown: bool) -> String {
    table(report, line).write(markdown)
}

/// All lines of a report, and how many of their bounds hold; empty where there are none.
pub fn all(report: &Report, markdown: bool) -> String {
    let tables = tables(report);
    let mut text: String = tables.iter().map(|table| table.write(markdown)).collect();
    if let Some(summary) = summary(&tables) {
        text += &format!("\n{summary}\n");
    }
    text
}

/// A table for each line and family, in the order of the report.
pub fn tables(report: &Report) -> Vec<Table> {
    let mut lines: Vec<&LineFacts> = Vec::new();
    let all = report
        .sections
        .iter()
        .filter_map(|section| section.line.as_ref());
    for line in all {
        let known = |one: &&LineFacts| one.name == line.name && one.family == line.family;
        if !lines.iter().any(known) {
            lines.push(line);
        }
    }
    lines.into_iter().map(|line| table(report, line)).collect()
}

fn table(report: &Report, line: &LineFacts) -> Table {
    let mut table = match line.family {
        Family::Bulk => bulk::table(report, line),
        Family::Game => game::table(report, line),
        Family::Share => share::table(report, line),
        Family::Loss => loss::table(report, line),
    };
    for (section, _) in sections(report, line) {
        for cell in section.scenarios.iter().flat_map(|one| &one.cells) {
            for error in cell.distinct_errors() {
                table.note(format!("{}: {error}", cell.column));
            }
        }
    }
    table
}

/// How many rows hold every bound, and which do not; `None` where none was judged.
pub fn summary(tables: &[Table]) -> Option<String> {
    let judged: Vec<_> = tables.iter().flat_map(|table| &table.judged).collect();
    let short: Vec<&str> = judged
        .iter()
        .filter(|(_, holds)| !holds)
        .map(|(name, _)| name.as_str())
        .collect();
    let (all, met) = (judged.len(), judged.len() - short.len());
    if all == 0 {
        return None;
    }
    let mut text = format!("Of {all} rows on lines {met} hold every bound.");
    if !short.is_empty() {
        text += &format!(" Short: {}.", short.join("; "));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::lines::verdict::Verdict;

    #[test]
    fn summary_names_what_falls_short() {
        let line = LineFacts {
            name: "dsl".to_owned(),
            words: "a line".to_owned(),
            ..LineFacts::default()
        };
        let mut table = Table::new(&line, &["way"]);
        assert_eq!(summary(&[table.clone()]), None);
        let row = || vec!["up".to_owned()];
        table.row("up-bbr", "direct", row(), &Verdict::Yardstick);
        table.row("up-bbr", "adit-auto", row(), &Verdict::Met);
        let short = Verdict::Short(vec!["slow".to_owned(), "late".to_owned()]);
        table.row("down-bbr", "adit-auto", row(), &short);
        let summary = summary(&[table.clone()]);
        let words = "Of 2 rows on lines 1 hold every bound. Short: lines-dsl-down-bbr adit-auto.";
        assert_eq!(summary.as_deref(), Some(words));
        let text = table.write(true);
        assert!(text.contains("| up  | short: slow, late |"), "{text}");
        assert!(text.contains("**a line** (`lines-dsl`)"), "{text}");
    }
}
