//! Holds the tables of `tests/README.md` to the tests that there are.

use std::fs;
use std::path::Path;

/// The project's scenarios; the numbers between them were given up.
const SCENARIOS: [u32; 31] = [
    1, 2, 3, 5, 6, 8, 9, 11, 12, 13, 14, 16, 17, 18, 20, 21, 23, 24, 26, 28, 29, 30, 31, 32, 35, 37, 38, 39,
    42, 44, 45,
];
/// What users of other layers complain of most.
const COMPLAINTS: u32 = 15;
/// What no other layer was found to have.
const POINTS: u32 = 14;

struct Row<'a> {
    number: u32,
    tests: Vec<&'a str>,
    /// What no test shows, in words.
    open: &'a str,
}

/// The rows whose first cell is this letter and a number.
fn rows(letter: char) -> Vec<Row<'static>> {
    let is_of_it = |line: &&str| {
        let first = line.strip_prefix("| ").and_then(|rest| rest.strip_prefix(letter));
        first.is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    };
    include_str!("../README.md").lines().filter(is_of_it).map(row).collect()
}

fn row(line: &str) -> Row<'_> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [name, _what, tests, open] = cells[..] else { panic!("four cells: {line}") };
    let number = name[1..].parse().unwrap_or_else(|_| panic!("a letter and a number: {line}"));
    Row { number, tests: tests.split('`').skip(1).step_by(2).collect(), open }
}

/// True if the file of the path has a test of that name: `db::pool::name`, `src::token::name`, or `app::contract::results::name`.
fn is_test(path: &str) -> bool {
    let Some((module, name)) = path.rsplit_once("::") else { return false };
    let module = module.replace("::", "/");
    let file = match module.strip_prefix("app/") {
        Some(of_the_service) => format!("../app/tests/{of_the_service}"),
        None if module.starts_with("src/") => module,
        None => format!("tests/{module}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = fs::read_to_string(root.join(format!("{file}.rs"))) else { return false };
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else { return false };
    let attributes = before.rsplit_once("\n\n").map_or(before, |(_, attributes)| attributes);
    ["#[test]", "#[tokio::test"].iter().any(|attribute| attributes.contains(attribute))
}

#[test]
fn every_row_names_tests_that_exist_or_says_in_words_what_is_missing() {
    let tables = [
        ('S', SCENARIOS.to_vec()),
        ('C', (1..=COMPLAINTS).collect::<Vec<u32>>()),
        ('P', (1..=POINTS).collect::<Vec<u32>>()),
    ];
    for (letter, numbers) in tables {
        let rows = rows(letter);
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), numbers, "{letter}");
        for Row { number, tests, open } in rows {
            assert!(
                !tests.is_empty() || !open.is_empty(),
                "{letter}{number} names no test and gives no reason"
            );
            for test in tests {
                assert!(is_test(test), "{test} is named for {letter}{number} and is not there");
            }
        }
    }
}

#[test]
fn a_name_of_no_test_is_noticed() {
    assert!(is_test("db::table::a_name_of_no_test_is_noticed"));
    assert!(is_test("src::token::text_and_token_agree_both_ways"));
    for path in
        ["db::table::is_test", "db::table::other", "db::none::other", "src::token::parse_lsn", "other"]
    {
        assert!(!is_test(path), "{path}");
    }
}
