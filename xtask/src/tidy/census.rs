//! Which tests there are, and by which names documents may speak of them. Reads source files; what is named is judged by
//! `tidy::named` and `tidy::tables`.

use std::collections::BTreeSet;
use std::slice;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemFn, ItemMod, Macro};

use super::paths::module_path;

/// The service. Its tests are named without their crate.
const SERVICE: &str = "app";

/// What is found while files are read. A path is the crate, `src` or `tests`, the modules, and the test.
#[derive(Debug, Default)]
pub(super) struct Census {
    tests: Vec<Vec<String>>,
    /// Every module that a file declares. A file that none declares is in no binary, and its tests never run.
    modules: BTreeSet<Vec<String>>,
}

impl Census {
    /// Takes down the tests of a file. `path` is relative to the workspace root.
    pub(super) fn read(&mut self, path: &str, syntax: &syn::File) {
        let Some(place) = place(path) else { return };
        Reader { census: self, place }.visit_file(syntax);
    }

    /// The names of all tests that run.
    pub(super) fn names(&self) -> Names {
        let tests = self.tests.iter().filter(|test| self.is_declared(test));
        Names(tests.flat_map(|test| spellings(test)).collect())
    }

    fn is_declared(&self, test: &[String]) -> bool {
        // The library is `crate`, `src`; a test binary is `crate`, `tests`, and its name.
        let root = if test.get(1).is_some_and(|folder| folder == "tests") { 3 } else { 2 };
        (root + 1..test.len()).all(|depth| self.modules.contains(&test[..depth]))
    }
}

/// The names of the tests, each by every spelling that is understood.
#[derive(Debug)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// True if a test has this very name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// True if a test has the name or, where it ends in `*`, if the name of a test begins so.
    pub(super) fn has_like(&self, name: &str) -> bool {
        let Some(start) = name.strip_suffix('*') else { return self.has(name) };
        self.0.range(start.to_owned()..).next().is_some_and(|first| first.starts_with(start))
    }
}

/// Crate, folder and modules of a file; none if it is neither in `src` nor in `tests`.
fn place(path: &str) -> Option<Vec<String>> {
    let (package, inside) = path.strip_prefix("crates/").unwrap_or(path).split_once('/')?;
    let (folder, file) = inside.split_once('/').filter(|(folder, _)| matches!(*folder, "src" | "tests"))?;
    let mut modules = module_path(file);
    if folder == "tests" && modules.len() == 2 && modules[1] == "main" {
        modules.pop();
    }
    Some([vec![package.to_owned(), folder.to_owned()], modules].concat())
}

/// The names of one test: `cache::scenarios::batch::name` of `crates/cache/tests/scenarios/batch.rs`, `cache::front::tests::name` of
/// `crates/cache/src/front.rs`. The crate is left out where it is the service, and is not said twice where a test binary is
/// called as it is. A unit test may be told by `src` as well, and then `tests`, the module that nearly all are in, may be left out.
fn spellings(test: &[String]) -> Vec<String> {
    let [package, folder, place @ ..] = test else { return Vec::new() };
    let short = place.join("::");
    let mut names = vec![format!("{package}::{short}")];
    if folder == "src" {
        names.push(format!("{package}::src::{short}"));
        if let [modules @ .., inner, name] = place
            && inner == "tests"
        {
            let shorter = [modules, slice::from_ref(name)].concat().join("::");
            names.push(format!("{package}::src::{shorter}"));
        }
    }
    if package == SERVICE || (folder == "tests" && place.first() == Some(package)) {
        names.push(short);
    }
    names
}

struct Reader<'a> {
    census: &'a mut Census,
    /// Where the visitor stands, inline modules included.
    place: Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, name: &Ident) {
        let mut test = self.place.clone();
        test.push(name.to_string());
        self.census.tests.push(test);
    }

    /// Macro arguments are no syntax tree: looks for `#[test] fn name` in their words, as `proptest!` has them.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut is_test = false;
        for pair in trees.windows(2) {
            match pair {
                [TokenTree::Punct(mark), TokenTree::Group(attribute)] if mark.as_char() == '#' => {
                    is_test |= names_test(attribute.stream());
                }
                [TokenTree::Ident(word), TokenTree::Ident(name)] if *word == "fn" => {
                    if is_test {
                        self.note(name);
                    }
                    is_test = false;
                }
                _ => {}
            }
        }
    }
}

/// True for `test` and `tokio::test`, and not for `cfg(test)`.
fn names_test(attribute: TokenStream) -> bool {
    attribute.into_iter().any(|tree| matches!(tree, TokenTree::Ident(word) if word == "test"))
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|last| last.ident == "test")
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.place.push(item.ident.to_string());
        self.census.modules.insert(self.place.clone());
        visit::visit_item_mod(self, item);
        self.place.pop();
    }

    /// What stands inside a function is not visited: no test runs there.
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.attrs.iter().any(is_test) {
            self.note(&item.sig.ident);
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.note_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests;
