//! Holds the tables of scenarios and of verbs (`tests/README.md`) to the tests, and to the verbs, that there are.

use std::{fs, path::Path};

/// The project's scenarios; the numbers between them were given up.
const SCENARIOS: [u32; 61] = [
    1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29, 30, 31, 33, 34, 35,
    36, 37, 38, 39, 41, 42, 44, 45, 49, 50, 51, 52, 53, 55, 57, 58, 61, 62, 63, 65, 66, 67, 68, 69, 72, 73,
    74, 75, 77, 78, 79, 80, 81,
];

/// True if the file of the path has a test of that name: `redis::lines::name`, or `src::races::name`.
fn is_test(path: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some((module, name)) = path.rsplit_once("::") else { return false };
    let module = module.replace("::", "/");
    let file = if module.starts_with("src/") { module } else { format!("tests/{module}") };
    let Ok(text) = fs::read_to_string(root.join(format!("{file}.rs"))) else { return false };
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else { return false };
    let attributes = before.rsplit_once("\n\n").map_or(before, |(_, attributes)| attributes);
    ["#[test]", "#[tokio::test"].iter().any(|attribute| attributes.contains(attribute))
}

#[test]
fn every_scenario_has_a_test_and_every_test_that_is_named_exists() {
    let table = include_str!("../README.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| T")).collect();
    let number = |row: &&str| row.split(' ').nth(1).and_then(|number| number[1..].parse().ok());
    assert_eq!(rows.iter().filter_map(number).collect::<Vec<u32>>(), SCENARIOS);
    rows.into_iter().for_each(check_tests);
}

/// Each test that the last column of a row names is there.
fn check_tests(row: &str) {
    let tests = row.rsplit_once("| `").expect("a row ends with its tests").1;
    for test in tests.trim_end_matches(" |").split(", ") {
        let test = test.trim_matches('`');
        assert!(is_test(test), "{test} is named in a row of the table and is not there: {row}");
    }
}

/// The verbs that a caller of the cache waits for: what is public and asynchronous in the files of `src` itself, which know
/// no server.
fn verbs() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(source).unwrap().map(|file| file.unwrap().path());
    let texts = files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap());
    let name = |rest: &str| rest.split(['<', '(']).next().unwrap_or_default().to_owned();
    texts.flat_map(|text| text.split("pub async fn ").skip(1).map(name).collect::<Vec<_>>()).collect()
}

#[test]
fn every_verb_that_is_waited_for_has_a_test_whose_caller_goes_away() {
    let table = include_str!("../README.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let verbs = verbs();
    assert!(verbs.len() > 10, "{verbs:?}");
    for verb in verbs {
        let is_of_it =
            |row: &&str| row.split(" | ").next().is_some_and(|first| first.contains(&format!("`{verb}`")));
        assert!(rows.iter().any(is_of_it), "{verb} has no row");
    }
    rows.into_iter().for_each(check_tests);
}

#[test]
fn name_of_no_test_is_noticed() {
    assert!(is_test("scenarios::table::name_of_no_test_is_noticed"));
    for path in ["scenarios::table::is_test", "scenarios::table::other", "scenarios::none::other", "other"] {
        assert!(!is_test(path), "{path}");
    }
}
