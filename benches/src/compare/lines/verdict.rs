//! What is judged of lines, row by row.

use crate::compare::{data::LineFacts, layout::layout};

/// Whether a row is within every bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Others are compared with it.
    Yardstick,
    Met,
    /// What falls short of its bound, in words.
    Short(Vec<String>),
    /// It cannot be said, and why.
    Open(&'static str),
}

impl Verdict {
    pub(super) const UNEQUAL: Self = Self::Open("the machine was not equal to the line");

    pub(super) fn of(short: Vec<String>) -> Self {
        if short.is_empty() {
            Self::Met
        } else {
            Self::Short(short)
        }
    }

    /// `None` where nothing was judged.
    pub(super) fn holds(&self) -> Option<bool> {
        match self {
            Self::Met => Some(true),
            Self::Short(_) => Some(false),
            Self::Yardstick | Self::Open(_) => None,
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Yardstick => String::new(),
            Self::Met => "met".to_owned(),
            Self::Short(short) => format!("short: {}", short.join(", ")),
            Self::Open(why) => format!("open: {why}"),
        }
    }
}

/// What was measured on one line in one family.
#[derive(Debug, Clone)]
pub struct Table {
    /// As on the command line.
    pub name: String,
    /// What the line is like.
    pub words: String,
    /// A head and its rows, each as long.
    pub rows: Vec<Vec<String>>,
    /// Behind the table.
    pub notes: Vec<String>,
    /// Rows that were judged: their names, and whether they are within every bound.
    pub(super) judged: Vec<(String, bool)>,
}

impl Table {
    pub(super) fn new(line: &LineFacts, head: &[&str]) -> Self {
        let head = head.iter().copied().chain(["verdict"]);
        Self {
            name: format!("{}-{}", line.family.prefix(), line.name),
            words: line.words.clone(),
            rows: vec![head.map(str::to_owned).collect()],
            notes: Vec::new(),
            judged: Vec::new(),
        }
    }

    /// `part` names it behind the line's name.
    pub(super) fn row(
        &mut self,
        part: &str,
        column: &str,
        mut cells: Vec<String>,
        verdict: &Verdict,
    ) {
        cells.push(verdict.words());
        self.rows.push(cells);
        if let Some(holds) = verdict.holds() {
            let name = format!("{}-{part} {column}", self.name);
            self.judged.push((name, holds));
        }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn write(&self, markdown: bool) -> String {
        let Self { name, words, .. } = self;
        let mut text = if markdown {
            format!("\n**{words}** (`{name}`)\n\n")
        } else {
            format!("\n{name}: {words}\n")
        };
        text += &layout(&self.rows, markdown);
        if markdown && !self.notes.is_empty() {
            text += "\n";
        }
        for note in &self.notes {
            text += &format!("{note}\n");
        }
        text
    }
}
