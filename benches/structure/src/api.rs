//! What a crate offers to whoever depends on it, a line for each thing: types with their derives, fields, variants, functions
//! and implementations, by the path under which they are found.
//!
//! It is read from the source, so that it needs no particular toolchain. What a macro makes is listed as what the macro is
//! given; and nothing is known of what stands in no signature, such as whether a type is `Send`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, bail};
use syn::{
    Attribute, Fields, ImplItem, Item, ItemImpl, TraitItem, Type, UseTree, Visibility,
    ext::IdentExt, punctuated::Punctuated,
};

use crate::{
    parse::{attributes, is_for_tests},
    sources,
    text::text,
};

/// The lines of a crate whose root is `crate_root`, a path below `workspace`, in the order of the paths.
pub fn listing(workspace: &Path, crate_root: &Path) -> Result<Vec<String>> {
    let mut modules = BTreeMap::new();
    for file in sources::read(workspace, crate_root)? {
        let is_hidden = is_hidden(&file.tree.attrs);
        enter(&mut modules, file.module, file.tree.items, is_hidden);
    }
    let mut offer = Offer {
        modules: &modules,
        types: BTreeMap::new(),
        lines: BTreeSet::new(),
    };
    offer.walk(&[], "")?;
    offer.implementations();
    let mut lines = Vec::from_iter(offer.lines);
    lines.sort_by_cached_key(|line| path_of(line).to_owned());
    Ok(lines)
}

type Modules = BTreeMap<Vec<String>, Module>;

struct Module {
    items: Vec<Item>,
    is_hidden: bool,
}

/// Enters a module, and those that are written out inside of it.
fn enter(modules: &mut Modules, path: Vec<String>, mut items: Vec<Item>, is_hidden: bool) {
    items.retain(|item| !attributes(item).iter().any(is_for_tests));
    for item in &mut items {
        if let Item::Mod(inner) = item
            && let Some((_, items)) = inner.content.take()
        {
            let below = [path.as_slice(), &[inner.ident.to_string()]].concat();
            enter(modules, below, items, false);
        }
    }
    modules.insert(path, Module { items, is_hidden });
}

/// What is found so far.
struct Offer<'a> {
    modules: &'a Modules,
    /// The types and traits that are offered, by the module that defines them and their name, and where they are found.
    types: BTreeMap<(Vec<String>, String), String>,
    lines: BTreeSet<String>,
}

/// Where a path leads.
enum Found {
    Module(Vec<String>),
    /// Something of this name in this module.
    Item(Vec<String>, String),
}

impl Offer<'_> {
    /// Lists what a module offers, which is found at `shown`.
    fn walk(&mut self, module: &[String], shown: &str) -> Result<()> {
        let modules = self.modules;
        let known = modules.get(module).with_context(|| format!("{module:?}"))?;
        for item in &known.items {
            if is_hidden(attributes(item)) {
                continue;
            }
            match item {
                Item::Mod(inner) if is_public(&inner.vis) => {
                    let name = inner.ident.to_string();
                    let below = [module, std::slice::from_ref(&name)].concat();
                    if !modules.get(&below).is_some_and(|it| it.is_hidden) {
                        self.walk(&below, &join(shown, &name))?;
                    }
                }
                Item::Use(it) if is_public(&it.vis) => {
                    for (path, name) in leaves(&it.tree) {
                        self.pass_on(module, &path, &join(shown, &name))?;
                    }
                }
                Item::Macro(it) if it.ident.is_none() => self.made(shown, &it.mac),
                _ => {
                    if let Some(name) = public_name(item) {
                        self.item(module, &name, &join(shown, &name))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Lists what a `pub use` brings to `shown`.
    fn pass_on(&mut self, here: &[String], path: &[String], shown: &str) -> Result<()> {
        match self.find(here, path, MOST_RENAMED) {
            Some(Found::Module(module)) => self.walk(&module, shown),
            Some(Found::Item(module, name)) => self.item(&module, &name, shown),
            None => {
                self.line(format!("use {} as {shown}", path.join("::")));
                Ok(())
            }
        }
    }

    /// Lists everything of this name in a module.
    fn item(&mut self, module: &[String], name: &str, shown: &str) -> Result<()> {
        let modules = self.modules;
        let mut is_found = false;
        for item in &modules.get(module).context("no such module")?.items {
            if public_name(item).as_deref() == Some(name) {
                is_found = true;
                self.define(module, item, name, shown);
            }
        }
        if !is_found {
            let made = modules[module].items.iter().find_map(|item| match item {
                Item::Macro(it) if is_made_by(it, name) => Some(&it.mac),
                _ => None,
            });
            let Some(made) = made else {
                bail!(
                    "{shown} is offered, and {} has no {name}",
                    module.join("::")
                );
            };
            let key = (module.to_vec(), name.to_owned());
            self.types.entry(key).or_insert_with(|| shown.to_owned());
            self.made(shown, made);
        }
        Ok(())
    }

    fn define(&mut self, module: &[String], item: &Item, name: &str, shown: &str) {
        let key = (module.to_vec(), name.to_owned());
        if let Item::Struct(_) | Item::Enum(_) | Item::Trait(_) | Item::Union(_) = item {
            if let Some(first) = self.types.get(&key) {
                let line = format!("use {first} as {shown}");
                return self.line(line);
            }
            self.types.insert(key, shown.to_owned());
        }
        match item {
            Item::Struct(it) => {
                let private = it.fields.iter().any(|field| !is_public(&field.vis));
                let rest = if private { " { .. }" } else { "" };
                let generics = text(&it.generics);
                self.line(format!(
                    "struct {shown}{generics}{rest}{}",
                    marks(&it.attrs)
                ));
                for (number, field) in it.fields.iter().enumerate() {
                    if is_public(&field.vis) && !is_hidden(&field.attrs) {
                        let name = field.ident.as_ref().map(|name| name.unraw().to_string());
                        let name = name.unwrap_or_else(|| number.to_string());
                        self.line(format!("field {shown}.{name}: {}", text(&field.ty)));
                    }
                }
            }
            Item::Enum(it) => {
                self.line(format!(
                    "enum {shown}{}{}",
                    text(&it.generics),
                    marks(&it.attrs)
                ));
                for variant in &it.variants {
                    let fields = match &variant.fields {
                        Fields::Unit => String::new(),
                        Fields::Named(_) => format!(" {}", text(&variant.fields)),
                        Fields::Unnamed(_) => text(&variant.fields),
                    };
                    let marks = marks(&variant.attrs);
                    self.line(format!("variant {shown}::{}{fields}{marks}", variant.ident));
                }
            }
            Item::Trait(it) => {
                let bounds = text(&it.supertraits);
                self.line(format!("trait {shown}{}: {bounds}", text(&it.generics)));
                for item in &it.items {
                    match item {
                        TraitItem::Fn(it) => {
                            let provided = if it.default.is_some() {
                                " (provided)"
                            } else {
                                ""
                            };
                            self.function(shown, &it.sig, provided);
                        }
                        other => self.line(format!("of {shown}: {}", text(other))),
                    }
                }
            }
            Item::Fn(it) => {
                let shown = shown.rsplit_once("::").map_or("", |(module, _)| module);
                self.function(shown, &it.sig, "");
            }
            Item::Const(it) => self.line(format!("const {shown}: {}", text(&it.ty))),
            Item::Static(it) => self.line(format!("static {shown}: {}", text(&it.ty))),
            Item::Type(it) => {
                self.line(format!(
                    "type {shown}{} = {}",
                    text(&it.generics),
                    text(&it.ty)
                ));
            }
            _ => {}
        }
    }

    fn function(&mut self, of: &str, signature: &syn::Signature, more: &str) {
        let written = text(signature);
        let (qualifiers, rest) = written.split_once("fn ").unwrap_or(("", &written));
        self.line(format!("{qualifiers}fn {}{more}", join(of, rest)));
    }

    /// Lists what the offered types implement, wherever that is written.
    fn implementations(&mut self) {
        for (module, known) in self.modules {
            for item in &known.items {
                if let Item::Impl(it) = item
                    && let Type::Path(of) = &*it.self_ty
                    && let Some(Found::Item(defined, name)) =
                        self.find(module, &segments(&of.path), MOST_RENAMED)
                    && let Some(shown) = self.types.get(&(defined, name)).cloned()
                {
                    self.implementation(module, it, &shown);
                }
            }
        }
    }

    fn implementation(&mut self, module: &[String], it: &ItemImpl, shown: &str) {
        if let Some((_, of, _)) = &it.trait_ {
            // A trait of the crate's own that is not offered makes no difference to anybody.
            let is_offered = match self.find(module, &segments(of), MOST_RENAMED) {
                Some(Found::Item(defined, name)) => self.types.contains_key(&(defined, name)),
                _ => true,
            };
            if is_offered {
                let (generics, of) = (text(&it.generics), text(of));
                self.line(format!("impl{generics} {of} for {shown}"));
            }
            return;
        }
        for item in &it.items {
            match item {
                ImplItem::Fn(it) if is_public(&it.vis) && !is_hidden(&it.attrs) => {
                    self.function(shown, &it.sig, "");
                }
                ImplItem::Const(it) if is_public(&it.vis) && !is_hidden(&it.attrs) => {
                    self.line(format!("const {shown}::{}: {}", it.ident, text(&it.ty)));
                }
                _ => {}
            }
        }
    }

    /// Lists what a macro is given that makes something at `shown`: a line for each row of its table.
    fn made(&mut self, shown: &str, given: &syn::Macro) {
        let name = text(&given.path);
        let mut row = proc_macro2::TokenStream::new();
        for token in given.tokens.clone() {
            if matches!(&token, proc_macro2::TokenTree::Punct(mark) if mark.as_char() == ',') {
                self.line(format!("macro {shown} {name}! {}", text(&row)));
                row = proc_macro2::TokenStream::new();
            } else {
                row.extend([token]);
            }
        }
        if !row.is_empty() {
            self.line(format!("macro {shown} {name}! {}", text(&row)));
        }
    }

    fn line(&mut self, line: String) {
        self.lines.insert(line);
    }

    /// Where a path that stands in a module leads, by way of `following` names at most that `use`s have brought there; none
    /// if it is of another crate.
    fn find(&self, here: &[String], path: &[String], following: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.inside(&[], rest, following),
            "self" => self.inside(here, rest, following),
            "super" => self.inside(&here[..here.len().checked_sub(1)?], rest, following),
            _ => self.inside(here, path, following),
        }
    }

    fn inside(&self, module: &[String], path: &[String], following: usize) -> Option<Found> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Found::Module(module.to_vec()));
        };
        if name == "super" {
            return self.find(module, path, following);
        }
        let below = [module, std::slice::from_ref(name)].concat();
        if self.modules.contains_key(&below) {
            return self.inside(&below, rest, following);
        }
        let items = &self.modules.get(module)?.items;
        let defines = |item: &Item| match item {
            Item::Macro(it) => is_made_by(it, name),
            other => name_of(other).is_some_and(|it| it == name),
        };
        if rest.is_empty() && items.iter().any(defines) {
            return Some(Found::Item(module.to_vec(), name.clone()));
        }
        let following = following.checked_sub(1)?;
        let used = items.iter().filter_map(|item| match item {
            Item::Use(it) if it.leading_colon.is_none() => Some(leaves(&it.tree)),
            _ => None,
        });
        let (path, _) = used.flatten().find(|(_, known_as)| known_as == name)?;
        self.find(module, &[&path, rest].concat(), following)
    }
}

/// The path that a line is about, without what follows it.
fn path_of(line: &str) -> &str {
    let after = line
        .split_once(" for ")
        .filter(|_| line.starts_with("impl"));
    let rest = after.map_or(line, |(_, path)| path);
    let path = rest
        .split([' ', '(', '<', '{'])
        .find(|word| !KINDS.contains(word));
    path.unwrap_or(rest)
}

/// The paths of a `use`, and the names that it gives them.
fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    let named = |name: &syn::Ident, known_as: &syn::Ident| match name == "self" {
        true => (Vec::new(), String::new()),
        false => (vec![name.to_string()], known_as.to_string()),
    };
    match tree {
        UseTree::Path(path) => {
            let first = path.ident.to_string();
            let below = leaves(&path.tree).into_iter().map(|(rest, name)| {
                let known_as = if name.is_empty() { first.clone() } else { name };
                ([vec![first.clone()], rest].concat(), known_as)
            });
            below.collect()
        }
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        UseTree::Name(name) => vec![named(&name.ident, &name.ident)],
        UseTree::Rename(rename) => {
            vec![(vec![rename.ident.to_string()], rename.rename.to_string())]
        }
        // Nothing is offered by one: whoever reads the list should see each name.
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
    }
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments
        .iter()
        .map(|it| it.ident.to_string())
        .collect()
}

/// Whether a macro that is called here is given this name.
fn is_made_by(called: &syn::ItemMacro, name: &str) -> bool {
    called.ident.is_none() && names(&called.mac.tokens, name)
}

/// Whether this name is among tokens, at any depth.
fn names(tokens: &proc_macro2::TokenStream, name: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(it) => it == name,
        proc_macro2::TokenTree::Group(group) => names(&group.stream(), name),
        _ => false,
    })
}

/// What attributes say of how a type may be used.
fn marks(attributes: &[Attribute]) -> String {
    let mut marks = BTreeSet::new();
    for attribute in attributes {
        if attribute.path().is_ident("non_exhaustive") {
            marks.insert("non_exhaustive".to_owned());
        } else if attribute.path().is_ident("derive")
            && let Ok(derived) =
                attribute.parse_args_with(Punctuated::<syn::Path, syn::Token![,]>::parse_terminated)
        {
            marks.extend(derived.iter().map(text));
        }
    }
    match marks.is_empty() {
        true => String::new(),
        false => format!(" [{}]", Vec::from_iter(marks).join(", ")),
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|argument| argument == "hidden")
    })
}

fn name_of(item: &Item) -> Option<&syn::Ident> {
    named(item).map(|(name, _)| name)
}

fn public_name(item: &Item) -> Option<String> {
    let (name, visibility) = named(item)?;
    is_public(visibility).then(|| name.to_string())
}

fn named(item: &Item) -> Option<(&syn::Ident, &Visibility)> {
    Some(match item {
        Item::Const(it) => (&it.ident, &it.vis),
        Item::Enum(it) => (&it.ident, &it.vis),
        Item::Fn(it) => (&it.sig.ident, &it.vis),
        Item::Static(it) => (&it.ident, &it.vis),
        Item::Struct(it) => (&it.ident, &it.vis),
        Item::Trait(it) => (&it.ident, &it.vis),
        Item::Type(it) => (&it.ident, &it.vis),
        Item::Union(it) => (&it.ident, &it.vis),
        _ => return None,
    })
}

fn join(module: &str, name: &str) -> String {
    match (module, name) {
        ("", name) => name.to_owned(),
        (module, "") => module.to_owned(),
        (module, name) => format!("{module}::{name}"),
    }
}

/// What the lines begin with, and functions may.
const KINDS: &[&str] = &[
    "async", "const", "enum", "field", "fn", "macro", "of", "static", "struct", "trait", "type",
    "unsafe", "use", "variant",
];

/// How many names may stand for one another, one after the other: two that stand for each other are an end, not a loop.
const MOST_RENAMED: usize = 16;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn listed(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        listing(directory.path(), Path::new("lib.rs")).unwrap()
    }

    #[test]
    fn what_is_offered_is_listed_by_its_path_with_all_that_can_break_who_uses_it() {
        let lines = listed(&[
            ("lib.rs", "pub mod a; mod b; pub use b::{deep::Deep, Plain as Renamed};"),
            (
                "a.rs",
                "/// A type.
                 #[derive(Debug, Clone)] #[non_exhaustive]
                 pub struct Open { /// Its size.
                     pub size: u8, own: u8 }
                 impl Open { pub async fn grow(&mut self, by: u8,) -> Option<u8> { None } fn own(&self) {} }
                 pub enum Kind { One, Two(u8), Three { a: u8, } }
                 impl std::fmt::Display for Kind {}
                 pub trait Does { fn must(&self); fn may(&self) {} }
                 pub(crate) struct Inner; impl Inner { pub fn nobody(&self) {} }
                 #[cfg(test)] pub struct Test;",
            ),
            (
                "b.rs",
                "pub mod deep; pub struct Plain(pub u8); trait Own {} impl Own for Plain {}
                 use deep::Deep; impl From<Plain> for Deep {} pub fn unseen() {}",
            ),
            ("b/deep.rs", "macro_rules! table { () => {} } table! { pub enum Deep { Up = 1, Down = 2, } }"),
        ]);
        let expected = [
            "macro Deep table! pub enum Deep { Up = 1, Down = 2 }",
            "impl From<Plain> for Deep",
            "struct Renamed",
            "field Renamed.0: u8",
            "trait a::Does: ",
            "fn a::Does::may(&self) (provided)",
            "fn a::Does::must(&self)",
            "enum a::Kind",
            "impl std::fmt::Display for a::Kind",
            "variant a::Kind::One",
            "variant a::Kind::Three { a: u8 }",
            "variant a::Kind::Two(u8)",
            "struct a::Open { .. } [Clone, Debug, non_exhaustive]",
            "field a::Open.size: u8",
            "async fn a::Open::grow(&mut self, by: u8) -> Option<u8>",
        ];
        let sorted = |lines: &[&str]| {
            lines
                .iter()
                .map(|it| it.to_string())
                .collect::<BTreeSet<_>>()
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(sorted(&lines), sorted(&expected));
    }

    #[test]
    fn what_is_hidden_and_what_is_only_of_the_crate_is_not_listed() {
        let lines = listed(&[
            (
                "lib.rs",
                "#[doc(hidden)] pub mod a; pub mod b; mod c { pub struct Unreachable; }
                 pub use a::Seen; pub struct Type; impl Type { #[doc(hidden)] pub fn hidden(&self) {} }",
            ),
            ("a.rs", "pub struct Seen; pub struct Unseen;"),
            ("b.rs", "#![doc(hidden)] pub struct Unseen;"),
        ]);
        assert_eq!(lines, ["struct Seen", "struct Type"]);
    }
}
