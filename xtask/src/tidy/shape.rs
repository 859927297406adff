//! The shape of one source file: its length and that of its functions, its first line, its names, and
//! what must not be left in it (ignored tests, unfinished places).

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemMod, Macro, Signature, TraitItemFn};

use super::finding::Finding;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Names that say nothing about what is inside, and so collect everything.
const FORBIDDEN_NAMES: [&str; 9] =
    ["common", "core", "util", "utils", "helper", "helpers", "types", "manager", "managers"];
const UNFINISHED: [&str; 2] = ["todo", "unimplemented"];

/// Judges one file; `path` is relative to the workspace root.
pub(super) fn check(path: &str, text: &str, syntax: &syn::File) -> Vec<Finding> {
    let mut inspector = Inspector { path, findings: Vec::new() };
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        inspector.note(lines, "file-lines", format!("{lines} lines, over {FILE_LINES_MAX}: split it"));
    }
    if !text.starts_with("//!") {
        let message = "open with `//!`: what it does, what it refuses to do, who calls it".to_owned();
        inspector.note(1, "leading-doc", message);
    }
    for part in path.trim_end_matches(".rs").split('/') {
        inspector.check_name(part, 1);
    }
    inspector.visit_file(syntax);
    inspector.findings
}

/// Judges the name of a package.
pub(super) fn check_package(manifest: &str, name: &str) -> Option<Finding> {
    let last = name.strip_prefix("paystrata-").unwrap_or(name);
    let path = manifest.to_owned();
    forbidden_name(last).map(|message| Finding { path, line: 1, rule: "forbidden-name", message })
}

fn forbidden_name(name: &str) -> Option<String> {
    FORBIDDEN_NAMES
        .contains(&name.to_ascii_lowercase().as_str())
        .then(|| format!("nothing is called `{name}`: name what it does"))
}

struct Inspector<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl Inspector<'_> {
    fn note(&mut self, line: usize, rule: &'static str, message: String) {
        self.findings.push(Finding { path: self.path.to_owned(), line, rule, message });
    }

    fn check_name(&mut self, name: &str, line: usize) {
        if let Some(message) = forbidden_name(name) {
            self.note(line, "forbidden-name", message);
        }
    }

    /// From the line of its signature to that of its closing brace; comments and attributes above are free.
    fn check_function(&mut self, signature: &Signature, body: &Block, attributes: &[Attribute]) {
        let first = signature.span().start().line;
        let lines = body.span().end().line + 1 - first;
        if lines > FUNCTION_LINES_MAX {
            let message = format!("`{}` has {lines} lines, over {FUNCTION_LINES_MAX}", signature.ident);
            self.note(first, "function-lines", message);
        }
        for attribute in attributes {
            let conditional = attribute.path().is_ident("cfg_attr")
                && attribute.meta.require_list().is_ok_and(|list| has_word(list.tokens.clone(), "ignore"));
            if attribute.path().is_ident("ignore") || conditional {
                let message = format!("`{}` is ignored: mend it or remove it", signature.ident);
                self.note(attribute.span().start().line, "ignored-test", message);
            }
        }
    }

    fn note_unfinished(&mut self, name: &str, line: usize) {
        if UNFINISHED.contains(&name) {
            self.note(line, "unfinished", format!("`{name}!` is left in: build it"));
        }
    }

    fn check_tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, tree) in trees.iter().enumerate() {
            match (tree, trees.get(index + 1)) {
                (TokenTree::Group(group), _) => self.check_tokens(group.stream()),
                (TokenTree::Ident(word), Some(TokenTree::Punct(mark))) if mark.as_char() == '!' => {
                    self.note_unfinished(&word.to_string(), word.span().start().line);
                }
                _ => {}
            }
        }
    }
}

fn has_word(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|tree| matches!(tree, TokenTree::Ident(ident) if ident == word))
}

impl<'ast> Visit<'ast> for Inspector<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.check_function(&item.sig, &item.block, &item.attrs);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.check_function(&item.sig, &item.block, &item.attrs);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(body) = &item.default {
            self.check_function(&item.sig, body, &item.attrs);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        // A module in a file of its own is judged by that file's name.
        if item.content.is_some() {
            self.check_name(&item.ident.to_string(), item.ident.span().start().line);
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(last) = call.path.segments.last() {
            self.note_unfinished(&last.ident.to_string(), last.ident.span().start().line);
        }
        self.check_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::{check, check_package};

    const GOOD: &str = "//! What it does.\n\nfn f() {}\n";

    fn rules(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let syntax = syn::parse_file(text).expect("the snippet parses");
        check(path, text, &syntax).into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn good_file_has_no_findings() {
        assert_eq!(rules("crates/db/src/pool.rs", GOOD), vec![]);
    }

    #[test]
    fn file_of_501_lines_is_too_long_and_of_500_is_not() {
        let of = |lines: usize| format!("//! x\n{}", "\n".repeat(lines - 1));
        assert_eq!(rules("a.rs", &of(500)), vec![]);
        assert_eq!(rules("a.rs", &of(501)), vec![("file-lines", 501)]);
    }

    #[test]
    fn function_of_71_lines_is_too_long_and_of_70_is_not() {
        let of = |lines: usize| {
            format!("//! x\n/// Doc.\n#[inline]\nfn f() {{\n{}}}\n", "();\n".repeat(lines - 2))
        };
        assert_eq!(rules("a.rs", &of(70)), vec![]);
        assert_eq!(rules("a.rs", &of(71)), vec![("function-lines", 4)]);
        let method = of(71).replace("fn f", "impl S { fn f").replace("\n}\n", "\n}}\n");
        assert_eq!(rules("a.rs", &method), vec![("function-lines", 4)]);
    }

    #[test]
    fn missing_first_line_is_found() {
        assert_eq!(rules("a.rs", "// comment\nfn f() {}\n"), vec![("leading-doc", 1)]);
        assert_eq!(rules("a.rs", ""), vec![("leading-doc", 1)]);
    }

    #[test]
    fn empty_names_are_found_in_paths_modules_and_packages() {
        assert_eq!(rules("crates/db/src/utils.rs", GOOD), vec![("forbidden-name", 1)]);
        assert_eq!(rules("crates/db/tests/common/mod.rs", GOOD), vec![("forbidden-name", 1)]);
        assert_eq!(rules("a.rs", "//! x\nmod helpers { }\n"), vec![("forbidden-name", 2)]);
        assert_eq!(rules("crates/db/src/ledger_types.rs", GOOD), vec![]);
        assert!(check_package("Cargo.toml", "paystrata-core").is_some());
        assert!(check_package("Cargo.toml", "paystrata-cache").is_none());
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(rules("a.rs", "//! x\n#[test]\n#[ignore]\nfn f() {}\n"), vec![("ignored-test", 3)]);
        assert_eq!(rules("a.rs", "//! x\n#[ignore = \"slow\"]\nfn f() {}\n"), vec![("ignored-test", 2)]);
        assert_eq!(rules("a.rs", "//! x\n#[cfg_attr(miri, ignore)]\nfn f() {}\n"), vec![("ignored-test", 2)]);
        assert_eq!(rules("a.rs", "//! x\n#[cfg_attr(miri, inline)]\nfn ignore() {}\n"), vec![]);
    }

    #[test]
    fn unfinished_places_are_found_also_inside_macros() {
        assert_eq!(rules("a.rs", "//! x\nfn f() { todo!() }\n"), vec![("unfinished", 2)]);
        assert_eq!(rules("a.rs", "//! x\nfn f() { std::unimplemented!(\"x\") }\n"), vec![("unfinished", 2)]);
        assert_eq!(rules("a.rs", "//! x\nfn f() { vec![\ntodo!()] }\n"), vec![("unfinished", 3)]);
        assert_eq!(rules("a.rs", "//! todo!\nfn todo() { \"todo!()\"; }\n"), vec![]);
    }
}
