//! The tests that the guarantees and the decisions name: each must be there. Whether it shows what is promised is left to
//! who reads it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::census::Names;
use super::finding::Finding;

const GUARANTEES: &str = "docs/guarantees.md";
const DECISIONS: &str = "docs/adr";

/// The documents whose names of tests are checked, relative to the workspace root, in order.
pub(super) fn documents(root: &Path) -> Result<Vec<String>> {
    let mut documents = vec![GUARANTEES.to_owned()];
    for entry in fs::read_dir(root.join(DECISIONS)).with_context(|| format!("list {DECISIONS}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            documents.push(format!("{DECISIONS}/{name}"));
        }
    }
    documents.sort();
    Ok(documents)
}

/// Judges one document.
pub(super) fn check(path: &str, text: &str, tests: &Names) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Every part, whichever side of a backtick it is on: one that is missing somewhere must not hide all that follow.
        for name in line.split('`').filter(|part| is_name(part) && !tests.has_like(part)) {
            let message = format!(
                "no test is called `{name}`: write `crate::binary::module::test`, or `*` for its end; the crate is \
                 left out for `app`, and said once where it is the binary's name; a function is told by its `()`"
            );
            findings.push(Finding { path: path.to_owned(), line: index + 1, rule: "named-test", message });
        }
    }
    findings
}

/// True for a path in small letters, as `cache::redis::tls::*`: types and calls have other signs in them. Of such paths only the
/// modules of libraries are no tests; those of ours are named by their package.
fn is_name(part: &str) -> bool {
    let words: Vec<&str> = part.split("::").collect();
    let [first, .., last] = words[..] else { return false };
    let is_of_a_library = first == "std" || first.starts_with("paystrata_");
    let modules = &words[..words.len() - 1];
    let is_end = last == "*" || is_word(last.strip_suffix('*').unwrap_or(last));
    !is_of_a_library && is_end && modules.iter().all(|module| is_word(module))
}

fn is_word(part: &str) -> bool {
    let is_of_a_name = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    !part.is_empty() && part.chars().all(is_of_a_name)
}

#[cfg(test)]
mod tests {
    use super::super::census::{Census, Names};
    use super::check;

    fn tests() -> Names {
        let mut census = Census::default();
        let source = syn::parse_file("#[test] fn change_wins() {}").expect("the snippet parses");
        census.read("crates/cache/tests/local.rs", &source);
        census.names()
    }

    fn lines(text: &str) -> Vec<usize> {
        check("docs/guarantees.md", text, &tests()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn names_of_tests_that_are_there_pass() {
        for text in [
            "- `cache::local::change_wins`: what it shows",
            "`cache::local::*`, `cache::local::change_*`,\n`cache::local::change_wins`",
            "",
        ] {
            assert!(lines(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn names_of_no_test_are_found_where_they_stand() {
        for text in [
            "`cache::local::change_loses`",
            "`local::change_wins`",
            "`cache::local::change_win`",
            "`cache::local`",
            "`cache::local::chance_*`",
            "`cache::elsewhere::*`",
            "`elsewhere::*`: why",
            "one ` too many, `cache::local::change_loses`",
        ] {
            assert_eq!(lines(text), [1], "{text}");
            assert_eq!(lines(&format!("# P1\n\n{text}")), [3], "{text}");
        }
        assert_eq!(
            lines("`cache::a::b`, `cache::local::change_wins`,\n`cache::c::*` and `cache::d::*`"),
            [1, 2, 2]
        );
    }

    #[test]
    fn code_and_files_are_left_alone() {
        for text in [
            "`Cache::invalidate_in`, `tier::Answers`, `Version::LATEST`, `u64::MAX`",
            "`repeats::at_most(n, request)`, `std::mem::take`, `paystrata_db::views`, `forks::known()`",
            "`scenarios/extend.rs`, `max_stale`, `cargo xtask test races::`, a::b in words",
        ] {
            assert!(lines(text).is_empty(), "{text}");
        }
    }
}
