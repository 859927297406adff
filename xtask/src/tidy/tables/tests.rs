//! A table that is whole, and each way in which one is not.

use super::super::census::{Census, Names};
use super::{DOCUMENTS, Document, has_verbs};

const CACHE: Document = Document { package: "cache", rows: &[('T', &[1, 3]), ('C', &[1])] };
const GOOD: &str = "\
# Scenarios

| | What is given | Tests | What no test shows |
|---|---|---|---|
| T1 | one | `local::wins`, `src::front::copied` | |
| T3 | two | `app::book::paid` | how fast |

| | The complaint | Tests | What no test shows |
|---|---|---|---|
| C1 | three | | all of it |

| Verb | Tests |
|---|---|
| `read`, `read_many` | `local::wins` |
| `set` of a key | `local::wins` |

| Other | Table |
|---|---|
| `nothing` | to see |
";

fn tests() -> Names {
    let mut census = Census::default();
    for (path, source) in [
        ("crates/cache/tests/local.rs", "#[test] fn wins() {} fn no_test() {}"),
        ("crates/cache/src/lib.rs", "mod front;"),
        ("crates/cache/src/front.rs", "mod tests { #[test] fn copied() {} }"),
        ("crates/app/tests/book.rs", "#[test] fn paid() {}"),
    ] {
        census.read(path, &syn::parse_file(source).expect("the snippet parses"));
    }
    census.names()
}

/// The lines of the findings and their messages, where the cache has the verbs `read`, `read_many` and `set`.
fn findings(text: &str) -> Vec<(usize, String)> {
    let sources = [
        "impl Cache { pub async fn read(&self) {} pub async fn read_many<Q>(&self) {} }".to_owned(),
        "impl Cache { pub async fn set(&self) {} pub fn peek(&self) {} async fn load() {} }".to_owned(),
    ];
    let findings = CACHE.check(text, &tests(), &sources);
    findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
}

/// One finding, in that line, with these words, where the table has something else instead of this.
fn check(this: &str, other: &str, line: usize, words: &str) {
    assert!(GOOD.contains(this), "{this}");
    let found = findings(&GOOD.replacen(this, other, 1));
    let [(found_line, message)] = &found[..] else { panic!("{this} to {other}: {found:?}") };
    assert_eq!(*found_line, line, "{this} to {other}: {message}");
    assert!(message.contains(words), "{this} to {other}: {message}");
}

#[test]
fn whole_tables_pass() {
    let found = findings(GOOD);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn row_that_is_missing_new_twice_or_elsewhere_is_found() {
    check("| T3 | two | `app::book::paid` | how fast |\n", "", 9, "C1 stands where T3 belongs");
    check("| T3 |", "| T2 |", 6, "T2 stands where T3 belongs");
    check("| T1 |", "| T3 |", 5, "T3 stands where T1 belongs");
    check("| C1 | three | | all of it |\n", "", 6, "nothing stands where C1 belongs");
    let twice = "| C1 | three | | all of it |\n| C1 | three | | all of it |\n";
    check("| C1 | three | | all of it |\n", twice, 11, "C1 stands where nothing belongs");
    check("| | What is given | Tests |", "| | What is given | Shown by |", 10, "C1 stands where T1 belongs");
}

#[test]
fn test_that_is_not_there_is_found() {
    let calls = "no test is called so";
    check("`local::wins`, ", "`local::loses`, ", 5, calls);
    check("`local::wins`, ", "`local::no_test`, ", 5, calls);
    check("`local::wins`, ", "`local::*`, ", 5, calls);
    check("`local::wins`, ", "local::wins, ", 5, calls);
    check("`local::wins`, ", "`local::wins` and ", 5, calls);
    check("`src::front::copied`", "`front::copied`", 5, calls);
    check("`app::book::paid`", "`app::book::lost`", 6, calls);
    check("many` | `local::wins`", "many` | `local::loses`", 14, calls);
}

#[test]
fn row_without_a_test_says_what_no_test_shows() {
    check("| all of it |", "| |", 10, "C1 names no test");
    check("| `set` of a key | `local::wins` |", "| `set` of a key | |", 15, "`set` of a key names no test");
}

#[test]
fn verb_without_a_row_is_found() {
    check("`read_many`", "`read_more`", 15, "the verb `read_many` has no row");
    check("| `set` of a key | `local::wins` |\n", "", 14, "the verb `set` has no row");
    check("`set` of a key", "`reset` of a key", 15, "the verb `set` has no row");
    let found = CACHE.check(GOOD, &tests(), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].message.contains("no verb is found"), "{}", found[0]);
}

#[test]
fn row_with_a_cell_too_many_or_too_few_is_found() {
    check("| `nothing` | to see |", "| `nothing` | to see | here |", 19, "3 cells under a head of 2");
    check("| `nothing` | to see |", "| `nothing` |", 19, "1 cells under a head of 2");
}

#[test]
fn verbs_are_read_from_the_cache_itself() {
    assert!(has_verbs("crates/cache/src/read.rs"));
    for path in ["crates/cache/src/redis/line.rs", "crates/db/src/read.rs", "crates/cache/tests/local.rs"] {
        assert!(!has_verbs(path), "{path}");
    }
}

#[test]
fn other_crates_have_no_verbs_to_show() {
    let [_, db] = &DOCUMENTS;
    let findings = db.check("", &tests(), &[]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].message.contains("nothing stands where S1 belongs"), "{}", findings[0]);
}
