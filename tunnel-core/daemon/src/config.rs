//! Configuration files: TOML, read against a table of keys, with every problem at once and the place of each.
//!
//! A program describes each section as a list of [`Key`]s, one row per key. [`load`] reads a file against them; what
//! comes out is either the program's validated type or all that is wrong, each with line and column.

use std::{
    collections::HashSet,
    fmt, io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use crate::file;

/// One key of a section: its name and what reads its value.
pub struct Key<T> {
    name: &'static str,
    /// A value as an example, for a key that must be there.
    required: Option<&'static str>,
    set: fn(&mut T, &Value<'_>, &mut Reader<'_>) -> Result<(), Fault>,
}

impl<T> Key<T> {
    /// A key that may be left out.
    pub const fn optional(
        name: &'static str,
        set: fn(&mut T, &Value<'_>, &mut Reader<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self {
            name,
            required: None,
            set,
        }
    }

    /// A key that must be there; `example` is a line that would do.
    pub const fn required(
        name: &'static str,
        example: &'static str,
        set: fn(&mut T, &Value<'_>, &mut Reader<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self {
            name,
            required: Some(example),
            set,
        }
    }
}

/// Where something stands in the file, in bytes.
pub type Span = Range<usize>;

/// A value and where it stands, for remarks that compare it with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub span: Span,
}

/// A remark about a configuration: `relay.toml:12:5: unknown key "prots": did you mean "ports"?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The file, or what else the remark is about.
    file: PathBuf,
    /// Line and column, both from 1, the column in characters; none for the file as a whole.
    place: Option<(usize, usize)>,
    message: String,
    /// What the line begins with.
    prefix: &'static str,
}

impl Remark {
    /// A remark about something outside the file, such as an option: `--expose tcp: ...`
    pub fn elsewhere(what: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            file: what.into(),
            place: None,
            message: message.into(),
            prefix: "",
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A configuration that is valid.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// What the file says.
    pub value: T,
    /// What is valid, but may not be what is wanted.
    pub warnings: Vec<Remark>,
}

/// A configuration that does not hold: everything that is wrong, in the order of the file.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// At least one.
    pub problems: Vec<Remark>,
    /// As in [`Loaded`].
    pub warnings: Vec<Remark>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.problems[..self.problems.len().min(SHOWN)];
        for (i, problem) in shown.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.problems.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Invalid {}

/// Reads a file: its top level goes to `read` as a section.
///
/// `made_by` is the command that makes such a file, for who has none.
pub fn load<T>(
    path: &Path,
    made_by: &str,
    read: impl FnOnce(&mut Reader<'_>, &Section<'_>) -> Option<T>,
) -> Result<Loaded<T>, Invalid> {
    let text = file::read(path, FILE_LIMIT).map_err(|error| {
        let what_next = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("; {made_by} makes one, --config FILE names another")
            }
            io::ErrorKind::PermissionDenied => {
                "; start the program as the user whom the file belongs to, or let that user read it"
                    .into()
            }
            _ => "; --config FILE names another".into(),
        };
        Invalid {
            problems: vec![Remark {
                // As of any failure: there is no line to show.
                prefix: "error: ",
                ..Remark::elsewhere(path, format!("cannot be read: {error}{what_next}"))
            }],
            warnings: Vec::new(),
        }
    })?;
    parse(path, &text, Keys::Files, read)
}

/// Where the keys come from that a configuration names.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'t> {
    /// From the files that it names.
    Files,
    /// Each is this text, and no file is opened: a fuzzer makes up names, and some files never end.
    Are(&'t str),
}

/// As [`load`], of a text that stands for the file `path`.
pub fn parse<T>(
    path: &Path,
    text: &str,
    keys: Keys<'_>,
    read: impl FnOnce(&mut Reader<'_>, &Section<'_>) -> Option<T>,
) -> Result<Loaded<T>, Invalid> {
    let mut reader = Reader {
        path,
        text,
        keys,
        line_starts: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(i, _)| i + 1))
            .collect(),
        damaged_lines: HashSet::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let line = reader.line(&span);
        reader.problem(span, error.message());
        reader.damaged_lines.insert(line);
    }
    let section = Section {
        title: String::new(),
        table: root.get_ref(),
        span: 0..0,
    };
    let value = read(&mut reader, &section);
    reader.finish(value)
}

/// What players have when a program is stopped, in seconds: an hour is the end of a long match.
pub const GRACE_SECONDS: RangeInclusive<u64> = 0..=3600;
/// The same unless said otherwise. systemd kills after 90 s by default; 5 s are for what is on its way.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Reads sections and collects what is wrong with them.
#[derive(Debug)]
pub struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
    keys: Keys<'t>,
    /// Where each line starts, the first at 0.
    line_starts: Vec<usize>,
    /// Lines that are no TOML: what else they seem to say is not remarked.
    damaged_lines: HashSet<usize>,
    problems: Vec<(Span, String)>,
    warnings: Vec<(Span, String)>,
}

impl Reader<'_> {
    /// Reads a section against its keys and notes every problem. Returns whether there was none.
    pub fn fill<T>(&mut self, section: &Section<'_>, keys: &[Key<T>], into: &mut T) -> bool {
        let before = self.problems.len();
        self.read_keys(section, keys, into);
        // A key may be missing only because its line cannot be read.
        if self.damaged_lines.is_empty() {
            self.miss_keys(section, keys);
        }
        self.problems.len() == before
    }

    fn read_keys<T>(&mut self, section: &Section<'_>, keys: &[Key<T>], into: &mut T) {
        for (name, value) in section.table {
            let value_span = value.span();
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
                let message = unknown(name.get_ref(), keys.iter().map(|key| key.name));
                self.problem(name.span(), message);
                continue;
            };
            let value = Value {
                name: key.name,
                value: value.get_ref(),
                span: value_span.clone(),
            };
            if let Err(fault) = (key.set)(into, &value, self) {
                let span = fault.span.unwrap_or(value_span);
                self.problem(span, format!("{}: {}", key.name, fault.message));
            }
        }
    }

    fn miss_keys<T>(&mut self, section: &Section<'_>, keys: &[Key<T>]) {
        for key in keys {
            if let Some(example) = key.required
                && !section.table.contains_key(key.name)
            {
                let message = format!(
                    "{} has no \"{}\", for example: {example}",
                    section.title(),
                    key.name
                );
                self.problem(section.span.clone(), message);
            }
        }
    }

    /// Notes a problem: the file does not hold.
    pub fn problem(&mut self, span: Span, message: impl Into<String>) {
        self.problems.push((span, message.into()));
    }

    /// Notes a warning: the file is valid, but may not say what is wanted.
    pub fn warning(&mut self, span: Span, message: impl Into<String>) {
        self.warnings.push((span, message.into()));
    }

    /// The line of a place, from 1.
    pub fn line(&self, span: &Span) -> usize {
        self.place(span).0
    }

    /// A path as written in the file: relative ones start at its directory.
    pub fn resolve(&self, path: &str) -> PathBuf {
        file::relative_to(file::directory_of(self.path), path)
    }

    /// The key in the file that a value names. A mode that lets others read it is warned about.
    pub fn secret<T>(&mut self, value: &Value<'_>) -> Result<At<(PathBuf, T)>, Fault>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let path = self.resolve(value.text()?);
        let key = match self.keys {
            Keys::Files => file::read_key(&path).map_err(|e| Fault::new(format!("{e:#}")))?,
            Keys::Are(text) => return Ok(value.at((path, text.parse().map_err(Fault::new)?))),
        };
        if let Some(remark) = file::readable_by_others(&path) {
            self.warning(value.span.clone(), format!("{}: {remark}", value.name));
        }
        Ok(value.at((path, key)))
    }

    fn place(&self, span: &Span) -> (usize, usize) {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line = self.line_starts.partition_point(|first| *first <= start);
        let first = self.line_starts[line - 1];
        (line, self.text[first..start].chars().count() + 1)
    }

    fn remarks(&self, mut noted: Vec<(Span, String)>) -> Vec<Remark> {
        noted.sort_by_key(|(span, _)| span.start);
        let remark = |(span, message)| Remark {
            file: self.path.to_owned(),
            place: Some(self.place(&span)),
            message,
            prefix: "",
        };
        noted.into_iter().map(remark).collect()
    }

    fn finish<T>(mut self, value: Option<T>) -> Result<Loaded<T>, Invalid> {
        let mut problems = std::mem::take(&mut self.problems);
        let warnings = std::mem::take(&mut self.warnings);
        let warnings = self.remarks(warnings);
        match value {
            Some(value) if problems.is_empty() => Ok(Loaded { value, warnings }),
            _ => {
                // What was noted first of a damaged line is its syntax error; what follows from it is noise.
                let mut told = HashSet::new();
                problems.retain(|(span, _)| {
                    let line = self.line(span);
                    told.insert(line) || !self.damaged_lines.contains(&line)
                });
                let problems = self.remarks(problems);
                Err(Invalid { problems, warnings })
            }
        }
    }
}

/// A table of the file.
#[derive(Debug)]
pub struct Section<'a> {
    /// As in the file, `[relay]` or `[[client]]`; empty for the top level.
    title: String,
    table: &'a DeTable<'a>,
    /// Where it starts.
    pub span: Span,
}

impl Section<'_> {
    fn title(&self) -> &str {
        if self.title.is_empty() {
            "the file"
        } else {
            &self.title
        }
    }
}

/// What is wrong with a value; it stands where the value does unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    span: Option<Span>,
    message: String,
}

impl Fault {
    /// A fault of the whole value.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            span: None,
            message: message.to_string(),
        }
    }

    fn at(span: Span, message: impl fmt::Display) -> Self {
        Self {
            span: Some(span),
            message: message.to_string(),
        }
    }
}

/// A value of the file, not yet of any type.
#[derive(Debug)]
pub struct Value<'a> {
    name: &'static str,
    value: &'a DeValue<'a>,
    /// Where it stands.
    pub span: Span,
}

impl<'a> Value<'a> {
    /// A string.
    pub fn text(&self) -> Result<&'a str, Fault> {
        match self.value {
            DeValue::String(text) => Ok(text),
            other => Err(wrong_type("a string in quotes", other)),
        }
    }

    /// A string, read as `T`.
    pub fn parse<T>(&self) -> Result<T, Fault>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.text()?.parse().map_err(Fault::new)
    }

    /// A string, read as `T`; a fault says what was expected.
    pub fn parse_expecting<T: FromStr>(&self, expected: &str) -> Result<T, Fault> {
        let wrong = |_| Fault::new(format!("expected {expected}"));
        self.text()?.parse().map_err(wrong)
    }

    /// A whole number within bounds.
    pub fn number<T>(&self, bounds: RangeInclusive<T>) -> Result<T, Fault>
    where
        T: TryFrom<u64> + PartialOrd + fmt::Display,
    {
        let DeValue::Integer(integer) = self.value else {
            return Err(wrong_type("a whole number", self.value));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| {
                let (low, high) = bounds.into_inner();
                let written = shown(&integer.to_string());
                Fault::new(format!("{written} is outside {low} to {high}"))
            })
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Result<bool, Fault> {
        match self.value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(wrong_type("true or false", other)),
        }
    }

    /// A whole number or a string, such as a port or a range of them, as text.
    pub fn number_or_text(&self) -> Result<String, Fault> {
        plain(self.value).ok_or_else(|| wrong_type("a number or a string in quotes", self.value))
    }

    /// A list, or one string with commas, each element read as `T`.
    pub fn list<T, C>(&self) -> Result<C, Fault>
    where
        T: FromStr,
        T::Err: fmt::Display,
        C: FromIterator<T>,
    {
        let expected = "a string in quotes, or a list of them";
        match self.value {
            DeValue::Array(array) => array
                .iter()
                .map(|element| {
                    let here = |fault: Fault| Fault::at(element.span(), fault.message);
                    plain(element.get_ref())
                        .ok_or_else(|| here(wrong_type(expected, element.get_ref())))?
                        .parse()
                        .map_err(|error| here(Fault::new(error)))
                })
                .collect(),
            other => plain(other)
                .ok_or_else(|| wrong_type(expected, other))?
                .split(',')
                .map(|part| part.trim().parse().map_err(Fault::new))
                .collect(),
        }
    }

    /// A table, `[name]`.
    pub fn section(&self, title: &str) -> Result<Section<'a>, Fault> {
        match self.value {
            DeValue::Table(table) => Ok(Section {
                title: title.to_owned(),
                table,
                span: self.span.clone(),
            }),
            other => Err(wrong_type(&format!("a table, {title}"), other)),
        }
    }

    /// Tables, each `[[name]]`.
    pub fn sections(&self, title: &str) -> Result<Vec<Section<'a>>, Fault> {
        let expected = format!("tables, each {title}");
        let DeValue::Array(array) = self.value else {
            return Err(wrong_type(&expected, self.value));
        };
        array
            .iter()
            .map(|element| match element.get_ref() {
                DeValue::Table(table) => Ok(Section {
                    title: title.to_owned(),
                    table,
                    span: element.span(),
                }),
                other => Err(Fault::at(
                    element.span(),
                    wrong_type(&expected, other).message,
                )),
            })
            .collect()
    }

    /// Something with this value's place.
    pub fn at<T>(&self, value: T) -> At<T> {
        At {
            value,
            span: self.span.clone(),
        }
    }
}

/// `unknown key "prots": did you mean "ports"?`, or what there is to choose from.
pub fn unknown(name: &str, known: impl Iterator<Item = &'static str> + Clone) -> String {
    let shown: String = name.chars().take(80).collect();
    match suggestion(name, known.clone()) {
        Some(close) => format!("unknown key {shown:?}: did you mean {close:?}?"),
        None => {
            let known: Vec<_> = known.collect();
            format!("unknown key {shown:?}: known here are {}", known.join(", "))
        }
    }
}

/// The known word that is closest to `name`, if any is close.
pub fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // No known word is longer than this; the distance costs the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    known
        .map(|word| (strsim::damerau_levenshtein(name, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

/// 1 MiB: a file with 10,000 services has less; what is larger is some other file.
const FILE_LIMIT: u64 = 1 << 20;
/// More than 100 problems have one cause.
const SHOWN: usize = 100;

fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        _ => None,
    }
}

/// As much of what was written as a terminal should show. A damaged line may hold anything in a number's place.
fn shown(written: &str) -> String {
    let start = written.chars().take(80);
    start.flat_map(char::escape_debug).collect()
}

fn wrong_type(expected: &str, found: &DeValue<'_>) -> Fault {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::new(format!("expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests;
