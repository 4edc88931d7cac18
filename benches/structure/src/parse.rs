//! What one source file declares and names.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, File, Ident, Item, ItemMod, Macro, UseTree,
    visit::{self, Visit},
};

/// A file's modules and the paths that it names.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The modules that it declares to be in files of their own: the modules around them inside of this file, and the name.
    pub(crate) modules: Vec<Vec<String>>,
    /// The paths that it names, each after the modules around them inside of this file.
    pub(crate) paths: Vec<(Vec<String>, Vec<String>)>,
    /// What its `use`s bring into scope: the modules around them inside of this file, the name, and the path that it stands for.
    pub(crate) names: Vec<(Vec<String>, String, Vec<String>)>,
}

/// Reads a file's syntax tree.
pub(crate) fn read(file: &File) -> Source {
    let mut reader = Reader::default();
    reader.visit_file(file);
    reader.source
}

#[derive(Default)]
struct Reader {
    inside: Vec<String>,
    source: Source,
}

impl Reader {
    fn name(&mut self, path: Vec<String>) {
        self.source.paths.push((self.inside.clone(), path));
    }

    fn use_tree(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(&path.tree, before);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, before);
                }
            }
            UseTree::Name(name) => self.used(before, &name.ident, &name.ident),
            UseTree::Rename(rename) => self.used(before, &rename.ident, &rename.rename),
            UseTree::Glob(_) => self.name(before.clone()),
        }
    }

    /// `use before::name as known_as`.
    fn used(&mut self, before: &[String], name: &Ident, known_as: &Ident) {
        let mut path = before.to_vec();
        let mut known_as = known_as.to_string();
        if name != "self" {
            path.push(name.to_string());
        } else if known_as == "self" {
            known_as = path.last().cloned().unwrap_or_default();
        }
        self.source
            .names
            .push((self.inside.clone(), known_as, path.clone()));
        self.name(path);
    }

    /// Paths in what a macro is given, which is no syntax tree: every run of names between `::`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end_of_path(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_of_path(&mut path);
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end_of_path(&mut path),
            }
        }
        self.end_of_path(&mut path);
    }

    fn end_of_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.name(path.clone());
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.inside.push(module.ident.to_string());
        if module.content.is_some() {
            visit::visit_item_mod(self, module);
        } else {
            self.source.modules.push(self.inside.clone());
        }
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.use_tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.name(
                path.segments
                    .iter()
                    .map(|part| part.ident.to_string())
                    .collect(),
            );
        }
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(in path)` names who may look, not what is looked at.
    }

    fn visit_macro(&mut self, found: &'ast Macro) {
        self.tokens(found.tokens.clone());
        visit::visit_macro(self, found);
    }
}

pub(crate) fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"))
}

pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
