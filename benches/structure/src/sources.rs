//! The files of a crate, as its modules declare them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::parse;

/// A file of a crate.
pub(crate) struct SourceFile {
    /// Its module's path from the crate's root.
    pub(crate) module: Vec<String>,
    /// Its name below the workspace's root.
    pub(crate) name: String,
    /// Its syntax.
    pub(crate) tree: syn::File,
}

/// Reads all files of the crate whose root is `crate_root`, a path below `workspace`; each before those that it declares.
pub(crate) fn read(workspace: &Path, crate_root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    read_from(workspace, crate_root, Vec::new(), &mut files)?;
    Ok(files)
}

fn read_from(
    workspace: &Path,
    file: &Path,
    module: Vec<String>,
    files: &mut Vec<SourceFile>,
) -> Result<()> {
    let whole = workspace.join(file);
    let text =
        fs::read_to_string(&whole).with_context(|| format!("cannot read {}", whole.display()))?;
    let tree =
        syn::parse_file(&text).with_context(|| format!("cannot parse {}", whole.display()))?;
    let declared = parse::read(&tree).modules;
    files.push(SourceFile {
        module: module.clone(),
        name: file.display().to_string(),
        tree,
    });
    let directory = directory_of(file, module.is_empty());
    for inside in declared {
        let below: PathBuf = directory.join(inside.iter().collect::<PathBuf>());
        let candidates = [below.with_extension("rs"), below.join("mod.rs")];
        let found = candidates.iter().find(|file| workspace.join(file).exists());
        ensure!(
            found.is_some(),
            "{} declares {}, which has no file",
            file.display(),
            inside.join("::")
        );
        if let Some(found) = found {
            let module = [module.as_slice(), &inside].concat();
            read_from(workspace, found, module, files)?;
        }
    }
    Ok(())
}

/// Where a file's modules are.
fn directory_of(file: &Path, is_root: bool) -> PathBuf {
    if is_root || file.ends_with("mod.rs") {
        file.parent().unwrap_or(Path::new("")).to_owned()
    } else {
        file.with_extension("")
    }
}
