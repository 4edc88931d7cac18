//! The imports of a crate as a graph, and what must not be in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;

use crate::{parse, sources};

/// Which file of a crate imports which.
#[derive(Debug)]
pub struct Graph {
    /// Each module's path from the crate's root, and its file. Modules inside of a file have that file.
    modules: BTreeMap<Vec<String>, usize>,
    /// What a name in a module stands for, where a `use` has brought it there.
    names: BTreeMap<(Vec<String>, String), Vec<String>>,
    /// The files, as they are named below the workspace's root.
    files: Vec<String>,
    /// The imports of each file.
    edges: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// Reads all files of the crate whose root is `crate_root`, a path below `workspace`.
    pub fn of_crate(workspace: &Path, crate_root: &Path) -> Result<Self> {
        let mut graph = Self {
            modules: BTreeMap::new(),
            names: BTreeMap::new(),
            files: Vec::new(),
            edges: Vec::new(),
        };
        let mut sources = Vec::new();
        for file in sources::read(workspace, crate_root)? {
            graph.modules.insert(file.module.clone(), graph.files.len());
            graph.files.push(file.name);
            graph.edges.push(BTreeSet::new());
            sources.push((file.module, parse::read(&file.tree)));
        }
        for (module, source) in &sources {
            for (inside, name, path) in &source.names {
                let here = [module.as_slice(), inside].concat();
                graph.names.insert((here, name.clone()), path.clone());
            }
        }
        for (file, (module, source)) in sources.iter().enumerate() {
            for (inside, path) in &source.paths {
                let here = [module.as_slice(), inside].concat();
                if let Some(to) = graph.resolve(&here, path, MOST_RENAMED)
                    && to != file
                {
                    graph.edges[file].insert(to);
                }
            }
        }
        Ok(graph)
    }

    /// Every import, as the file that imports and the file that is imported.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &str)> {
        self.edges.iter().enumerate().flat_map(move |(from, all)| {
            all.iter().map(move |&to| (self.file(from), self.file(to)))
        })
    }

    /// Groups of files of which each is reached from each other one, with the imports among them.
    pub fn circles(&self) -> Vec<Vec<(&str, &str)>> {
        let reached: Vec<BTreeSet<usize>> = (0..self.files.len())
            .map(|file| self.reached_from(file))
            .collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for file in 0..self.files.len() {
            if !reached[file].contains(&file) || !seen.insert(file) {
                continue;
            }
            let among: BTreeSet<usize> = reached[file]
                .iter()
                .copied()
                .filter(|&other| reached[other].contains(&file))
                .collect();
            seen.extend(&among);
            let imports = among.iter().flat_map(|&from| {
                let inside = self.edges[from].intersection(&among);
                inside.map(move |&to| (self.file(from), self.file(to)))
            });
            circles.push(imports.collect());
        }
        circles
    }

    /// The imports that point up, or to a room of the same row. `rows` has the names of modules of the crate's root.
    pub fn upward(&self, rows: &[&[&str]]) -> Vec<(&str, &str)> {
        let mut place = BTreeMap::new();
        for (row, rooms) in rows.iter().enumerate() {
            for room in *rooms {
                place.insert(*room, row);
            }
        }
        let mut room_of = vec![None; self.files.len()];
        for (module, &file) in &self.modules {
            if let Some(room) = module.first()
                && let Some(&row) = place.get(room.as_str())
            {
                room_of[file] = Some((room, row));
            }
        }
        let mut found = Vec::new();
        for (from, all) in self.edges.iter().enumerate() {
            for &to in all {
                if let (Some((from_room, from_row)), Some((to_room, to_row))) =
                    (room_of[from], room_of[to])
                    && from_room != to_room
                    && to_row >= from_row
                {
                    found.push((self.file(from), self.file(to)));
                }
            }
        }
        found
    }

    fn file(&self, index: usize) -> &str {
        &self.files[index]
    }

    /// The file that has what a path names, by way of `following` names at most that `use`s have brought to where it leads.
    fn resolve(&self, here: &[String], path: &[String], following: usize) -> Option<usize> {
        let (mut module, mut rest) = self.start(here, path)?;
        while let Some((name, after)) = rest.split_first() {
            let below = [module.as_slice(), std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&below) {
                module = below;
                rest = after;
                continue;
            }
            // Where one's own file has brought the name from is an import of its own.
            if let Some(path) = self.names.get(&(module.clone(), name.clone()))
                && let Some(following) = following.checked_sub(1)
                && module != here
            {
                let path = [path.as_slice(), after].concat();
                return self.resolve(&module, &path, following);
            }
            break;
        }
        // Modules inside of a file are not in the map: their file is that of the nearest module around them.
        loop {
            if let Some(&file) = self.modules.get(&module) {
                return Some(file);
            }
            module.pop()?;
        }
    }

    /// The module where a path begins, and the rest of the path; none for what is of another crate.
    fn start<'p>(
        &self,
        here: &[String],
        path: &'p [String],
    ) -> Option<(Vec<String>, &'p [String])> {
        let (first, mut rest) = path.split_first()?;
        let mut module = here.to_vec();
        match first.as_str() {
            "crate" => module.clear(),
            "self" => {}
            "super" => {
                module.pop()?;
                while let Some(("super", after)) = rest
                    .split_first()
                    .map(|(part, after)| (part.as_str(), after))
                {
                    module.pop()?;
                    rest = after;
                }
            }
            _ => {
                module.push(first.clone());
                self.modules.get(&module)?;
            }
        }
        Some((module, rest))
    }

    /// The files that one reaches by one import or more.
    fn reached_from(&self, start: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<usize> = self.edges[start].iter().copied().collect();
        while let Some(file) = open.pop() {
            if reached.insert(file) {
                open.extend(&self.edges[file]);
            }
        }
        reached
    }
}

/// How many names may stand for one another, one after the other: two that stand for each other are an end, not a loop.
const MOST_RENAMED: usize = 16;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A crate of these files, read.
    fn graph(files: &[(&str, &str)]) -> Graph {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Graph::of_crate(directory.path(), Path::new(files[0].0)).unwrap()
    }

    #[test]
    fn a_child_that_uses_its_parent_makes_a_circle() {
        let graph = graph(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b; use b::Inner; pub struct Outer(Inner);"),
            ("a/b.rs", "use super::Outer; pub struct Inner;"),
        ]);
        assert_eq!(graph.circles(), [[("a.rs", "a/b.rs"), ("a/b.rs", "a.rs")]]);
    }

    #[test]
    fn a_declaration_is_no_import() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod c;"),
            ("a.rs", "mod b; pub struct Outer;"),
            ("a/b.rs", "use super::Outer; use crate::c;"),
            ("c.rs", ""),
        ]);
        assert!(graph.circles().is_empty());
        let imports: Vec<_> = graph.imports().collect();
        assert_eq!(imports, [("a/b.rs", "a.rs"), ("a/b.rs", "c.rs")]);
    }

    #[test]
    fn groups_macros_and_paths_in_code_count_and_tests_do_not() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            (
                "a.rs",
                "use crate::{b::{self, B}}; fn f() { crate::c::g(); assert!(crate::d::g() > 1); }
                 #[cfg(test)] mod tests { use crate::e; }",
            ),
            ("b.rs", "pub struct B;"),
            ("c.rs", ""),
            ("d.rs", ""),
            ("e.rs", ""),
        ]);
        let imports: Vec<_> = graph.imports().collect();
        assert_eq!(
            imports,
            [("a.rs", "b.rs"), ("a.rs", "c.rs"), ("a.rs", "d.rs")]
        );
    }

    #[test]
    fn a_longer_circle_is_shown_with_all_of_its_imports() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b;"),
            ("b.rs", "use crate::c;"),
            ("c.rs", "use crate::a;"),
        ]);
        let circle = [("a.rs", "b.rs"), ("b.rs", "c.rs"), ("c.rs", "a.rs")];
        assert_eq!(graph.circles(), [circle]);
    }

    #[test]
    fn what_a_module_passes_on_is_imported_from_where_it_is() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod c;"),
            (
                "a.rs",
                "mod b; mod d; pub use b::{Inner as Passed}; pub use crate::c::Far;",
            ),
            ("a/b.rs", "pub struct Inner;"),
            ("a/d.rs", "use super::{Far, Passed};"),
            ("c.rs", "pub struct Far;"),
        ]);
        assert!(graph.circles().is_empty(), "{:?}", graph.circles());
        let imports: Vec<_> = graph
            .imports()
            .filter(|(from, _)| *from == "a/d.rs")
            .collect();
        assert_eq!(imports, [("a/d.rs", "a/b.rs"), ("a/d.rs", "c.rs")]);
    }

    #[test]
    fn rooms_may_look_down_only() {
        let graph = graph(&[
            ("lib.rs", "mod low; mod high; mod beside;"),
            ("low.rs", "mod inner;"),
            ("low/inner.rs", "use crate::high;"),
            ("high.rs", "use crate::low; use crate::beside;"),
            ("beside.rs", ""),
        ]);
        let rows: &[&[&str]] = &[&["low"], &["high", "beside"]];
        let expected = [("low/inner.rs", "high.rs"), ("high.rs", "beside.rs")];
        let mut found = graph.upward(rows);
        found.sort_unstable();
        let mut wanted = expected.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    }
}
