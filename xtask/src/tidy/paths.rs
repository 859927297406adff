//! Which modules of its own crate a file names: in `use` lines, in paths, and in the words of macros.
//! Resolves `crate::`, `self::`, `super::` and the crate's own name; judges nothing.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, Macro, Path, UseTree};

/// A top-level module of the crate, named at a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) module: String,
}

/// The modules that the file names. `file` is its path below `src`, as `payments/create.rs`.
pub(super) fn named_modules(file: &str, syntax: &syn::File, crate_name: &str) -> Vec<Named> {
    let mut collector = Collector { place: module_path(file), crate_name, found: Vec::new() };
    collector.visit_file(syntax);
    collector.found.sort();
    collector.found.dedup();
    collector.found
}

/// The module that a file is, from the crate root down; empty for the root itself.
pub(super) fn module_path(file: &str) -> Vec<String> {
    let plain = file.strip_suffix(".rs").unwrap_or(file);
    let mut parts: Vec<String> = plain.split('/').map(str::to_owned).collect();
    let root = parts.len() == 1 && matches!(parts[0].as_str(), "lib" | "main");
    if root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

struct Collector<'a> {
    /// Where the visitor stands, inline modules included.
    place: Vec<String>,
    crate_name: &'a str,
    found: Vec<Named>,
}

impl Collector<'_> {
    fn note(&mut self, segments: &[String], line: usize) {
        let Some((first, rest)) = segments.split_first() else { return };
        let module = match first.as_str() {
            "crate" => rest.first().cloned(),
            "self" | "super" => self.relative(segments),
            name if name == self.crate_name => rest.first().cloned(),
            _ => None,
        };
        if let Some(module) = module.filter(|module| self.place.first() != Some(module)) {
            self.found.push(Named { line, module });
        }
    }

    fn relative(&self, segments: &[String]) -> Option<String> {
        let mut place: Vec<&String> = self.place.iter().collect();
        let mut rest = segments.iter().skip_while(|segment| *segment == "self").peekable();
        while rest.next_if(|segment| *segment == "super").is_some() {
            place.pop();
        }
        place.extend(rest);
        place.first().map(|module| (*module).clone())
    }

    fn note_use(&mut self, tree: &UseTree, prefix: &[String]) {
        let extended = |name: &syn::Ident| {
            let mut path = prefix.to_vec();
            path.push(name.to_string());
            path
        };
        match tree {
            UseTree::Path(path) => self.note_use(&path.tree, &extended(&path.ident)),
            UseTree::Name(name) => self.note(&extended(&name.ident), name.span().start().line),
            UseTree::Rename(rename) => self.note(&extended(&rename.ident), rename.span().start().line),
            UseTree::Glob(glob) => self.note(prefix, glob.span().start().line),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.note_use(item, prefix)),
        }
    }

    /// Macro arguments are no syntax tree: looks for `crate :: name` in their words.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                TokenTree::Ident(word) if *word == "crate" => {
                    let is_colon = |at: usize| matches!(trees.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
                    if let Some(TokenTree::Ident(module)) = trees.get(index + 3)
                        && is_colon(index + 1)
                        && is_colon(index + 2)
                    {
                        let path = ["crate".to_owned(), module.to_string()];
                        self.note(&path, word.span().start().line);
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.note_use(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.place.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.place.pop();
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A path of one word names a value in scope, or is the `crate` of `pub(crate)`.
        if segments.len() > 1 {
            self.note(&segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.note_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::{module_path, named_modules};

    fn check(file: &str, source: &str, expected: &[(usize, &str)]) {
        let syntax = syn::parse_file(source).expect("the snippet parses");
        let found = named_modules(file, &syntax, "paystrata_app");
        let found: Vec<(usize, &str)> =
            found.iter().map(|named| (named.line, named.module.as_str())).collect();
        assert_eq!(found, expected, "{file}: {source}");
    }

    #[test]
    fn files_know_their_module() {
        assert_eq!(module_path("lib.rs"), Vec::<String>::new());
        assert_eq!(module_path("money.rs"), ["money"]);
        assert_eq!(module_path("payments/mod.rs"), ["payments"]);
        assert_eq!(module_path("payments/create.rs"), ["payments", "create"]);
    }

    #[test]
    fn use_lines_are_resolved() {
        check("engine/mod.rs", "use crate::payments::Payment;", &[(1, "payments")]);
        check(
            "engine/mod.rs",
            "use crate::{\n    ids::Id,\n    http as web,\n};",
            &[(2, "ids"), (3, "http")],
        );
        check("engine/batch.rs", "use super::command::Command;", &[]);
        check("engine/batch.rs", "use super::super::ledger::Entry;", &[(1, "ledger")]);
        check("engine/mod.rs", "use super::ledger;", &[(1, "ledger")]);
        check("engine/mod.rs", "use std::sync::Arc; use tokio::time;", &[]);
        check("main.rs", "use paystrata_app::router;", &[(1, "router")]);
        check("lib.rs", "pub use self::money::Amount;", &[(1, "money")]);
        check("engine/mod.rs", "use crate::accounts::*;", &[(1, "accounts")]);
    }

    #[test]
    fn paths_in_code_types_and_macros_count() {
        check("engine/mod.rs", "fn f() { crate::payments::create(); }", &[(1, "payments")]);
        check("engine/mod.rs", "struct S(Vec<crate::accounts::Id>);", &[(1, "accounts")]);
        check("engine/mod.rs", "fn f() { vec![g(crate::ledger::x())]; }", &[(1, "ledger")]);
        check("engine/mod.rs", "pub(crate) fn f() {} pub(super) fn g() {}", &[]);
    }

    #[test]
    fn inline_modules_are_one_level_deeper() {
        check("engine/mod.rs", "mod tests { use super::*; use super::super::fraud; }", &[(1, "fraud")]);
    }
}
