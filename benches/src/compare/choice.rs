//! What a run measures of all that there is.

use anyhow::{Result, ensure};

use super::{
    arguments::Arguments,
    column::{AUTO, Column, DIRECT},
    console::warn,
    lines,
    path::{self, EmulatedPath},
    peers::{Peer, WIREGUARD},
    scenario::Scenario,
    table,
};

impl Arguments {
    pub(super) fn choose_columns(&self, mut found: Vec<Column>) -> Result<Vec<Column>> {
        for wanted in &self.columns {
            let known = found.iter().any(|column| column.name == wanted);
            let why = (wanted == WIREGUARD).then(Peer::no_wireguard).flatten();
            ensure!(
                known,
                "no column called {wanted}{}; there are: {}",
                why.map_or_else(String::new, |why| format!(": {why}")),
                table::names(&found)
            );
        }
        let peers = self.columns.is_empty() && !self.quick;
        if peers && let Some(why) = Peer::no_wireguard() {
            warn(&format!("the column {WIREGUARD} is skipped: {why}"));
        }
        if !self.columns.is_empty() {
            found.retain(|column| self.columns.iter().any(|wanted| wanted == column.name));
        } else if self.quick {
            found.retain(|column| !column.is_peer());
        }
        Ok(found)
    }

    /// On lines, what is asked of Adit's default and what it is compared with, unless others are named.
    pub(super) fn columns_on(&self, path: &EmulatedPath, columns: &[Column]) -> Vec<Column> {
        let mut columns = columns.to_vec();
        if path.line.is_some() && self.columns.is_empty() {
            columns.retain(|column| [DIRECT, AUTO].contains(&column.name));
        }
        columns
    }

    /// Those on which a chosen scenario runs, with no others.
    pub(super) fn paths(&self) -> Vec<EmulatedPath> {
        if self.loopback || (self.quick && self.only.is_empty()) {
            return Vec::new();
        }
        let mut paths = path::all(self.pace().seconds);
        paths.extend(lines::all(self));
        for path in &mut paths {
            path.scenarios = self.choose(std::mem::take(&mut path.scenarios));
        }
        paths.retain(|path| !path.scenarios.is_empty());
        paths
    }

    pub(super) fn choose(&self, mut scenarios: Vec<Scenario>) -> Vec<Scenario> {
        let named = |scenario: &Scenario| self.only.contains(&scenario.name);
        let meant = |scenario: &Scenario| {
            let part = |part: &String| {
                part.starts_with(scenario.family) && scenario.name.contains(part.as_str())
            };
            self.only.is_empty() && scenario.family.is_empty() || self.only.iter().any(part)
        };
        scenarios.retain(|one| meant(one) && (self.all || !one.extra || named(one)));
        if self.quick {
            scenarios.iter_mut().for_each(Scenario::shrink);
        }
        scenarios
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_a_family_at_least() {
        let names = |only: &str| -> Vec<String> {
            let paths = Arguments::of(&["--only", only]).paths();
            let names = paths.into_iter().flat_map(|path| path.scenarios);
            names.map(|scenario| scenario.name).collect()
        };
        // 17 lines, both ways, both kernels.
        assert_eq!(names("lines").len(), 68);
        assert_eq!(names("lines-dsl").len(), 4);
        assert_eq!(names("lines-dsl-up-bbr"), ["lines-dsl-up-bbr"]);
        for family in ["lines-game", "lines-share", "lines-loss"] {
            let chosen = names(family);
            assert!(!chosen.is_empty());
            assert!(chosen.iter().all(|name| name.starts_with(family)));
        }
        assert!(names("bbr").iter().all(|name| name.starts_with("path-")));
        assert!(
            Arguments::of(&[])
                .paths()
                .iter()
                .all(|path| path.line.is_none())
        );
    }
}
