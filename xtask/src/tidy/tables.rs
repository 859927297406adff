//! The tables of scenarios in the `tests` folders: no row is missing, each row names tests that are there or says what no test
//! shows, and every verb of the cache that is waited for has a row. What a scenario means is left to who reads it.

use super::census::Names;
use super::finding::Finding;

/// A document with tables of scenarios.
pub(super) struct Document {
    /// The crate that it belongs to. Names of tests begin below it.
    package: &'static str,
    /// The rows of its tables, in order: a letter, and the numbers with it. Those between them were given up.
    rows: &'static [(char, &'static [u32])],
}

/// Every document with tables of scenarios.
pub(super) const DOCUMENTS: [Document; 2] = [
    Document {
        package: "cache",
        rows: &[(
            'T',
            &[
                1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29, 30, 31,
                33, 34, 35, 36, 37, 38, 39, 41, 42, 44, 45, 49, 50, 51, 52, 53, 55, 57, 58, 61, 62, 63, 65,
                66, 67, 68, 69, 72, 73, 74, 75, 77, 78, 79, 80, 81,
            ],
        )],
    },
    Document {
        package: "db",
        rows: &[
            (
                'S',
                &[
                    1, 2, 3, 5, 6, 8, 9, 11, 12, 13, 14, 16, 17, 18, 20, 21, 23, 24, 26, 28, 29, 30, 31, 32,
                    35, 37, 38, 39, 42, 44, 45,
                ],
            ),
            // What users of other layers complain of most.
            ('C', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            // What no other layer was found to have.
            ('P', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
        ],
    },
];

/// The document whose tables have a row for each verb.
const VERBS: &str = "cache";
const VERBS_SOURCE: &str = "crates/cache/src/";

impl Document {
    /// Relative to the workspace root.
    pub(super) fn path(&self) -> String {
        format!("crates/{}/tests/README.md", self.package)
    }

    /// Judges the tables. `sources` are the verbs' files, as [`has_verbs`] tells them, with their text.
    pub(super) fn check(&self, text: &str, tests: &Names, sources: &[String]) -> Vec<Finding> {
        let (rows, mut complaints) = rows(text);
        for row in &rows {
            complaints.extend(self.tests_complaint(row, tests));
        }
        complaints.extend(self.number_complaint(&rows));
        if self.package == VERBS {
            complaints.extend(verb_complaints(&rows, sources));
        }
        let finding =
            |Complaint { line, message }| Finding { path: self.path(), line, rule: "scenario", message };
        complaints.into_iter().map(finding).collect()
    }

    fn tests_complaint(&self, row: &Row<'_>, tests: &Names) -> Option<Complaint> {
        let name = row.name;
        if row.tests.is_empty() {
            let message = format!("{name} names no test and does not say what no test shows");
            return row.open.is_empty().then_some(Complaint { line: row.line, message });
        }
        // A test of another crate is told with its crate.
        let is_test = |test: &str| tests.has(&format!("{}::{test}", self.package)) || tests.has(test);
        let quoted =
            |part: &str| part.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).is_some_and(is_test);
        let absent = row.tests.split(", ").find(|part| !quoted(part))?;
        let message =
            format!("{name} names {absent}, and no test is called so: write `binary::module::test`");
        Some(Complaint { line: row.line, message })
    }

    /// Complains of the first numbered row that is not the one that belongs there.
    fn number_complaint(&self, rows: &[Row<'_>]) -> Option<Complaint> {
        let named = |(letter, numbers): &(char, &[u32])| -> Vec<String> {
            numbers.iter().map(|number| format!("{letter}{number}")).collect()
        };
        let wanted: Vec<String> = self.rows.iter().flat_map(named).collect();
        let found: Vec<&Row<'_>> = rows.iter().filter(|row| !row.is_of_verbs()).collect();
        let name_at = |at: usize| found.get(at).map(|row| row.name);
        let at = (0..wanted.len().max(found.len()))
            .find(|&at| name_at(at) != wanted.get(at).map(String::as_str))?;
        let line = found.get(at).or(found.last()).map_or(1, |row| row.line);
        let (found, wanted) =
            (name_at(at).unwrap_or("nothing"), wanted.get(at).map_or("nothing", String::as_str));
        let message = format!("{found} stands where {wanted} belongs: `tidy/tables.rs` lists the rows");
        Some(Complaint { line, message })
    }
}

/// True for the files that are read for verbs: those of the cache itself, which know no server.
pub(super) fn has_verbs(path: &str) -> bool {
    path.strip_prefix(VERBS_SOURCE).is_some_and(|file| !file.contains('/'))
}

/// Each verb that callers wait for, that is, what is public and asynchronous, has a row.
fn verb_complaints(rows: &[Row<'_>], sources: &[String]) -> Vec<Complaint> {
    let signatures = sources.iter().flat_map(|text| text.split("pub async fn ").skip(1));
    let verbs: Vec<&str> = signatures.filter_map(|rest| rest.split(['<', '(']).next()).collect();
    let line = rows.last().map_or(1, |row| row.line);
    if verbs.is_empty() {
        let message = format!("no verb is found in {VERBS_SOURCE}: mend `tidy/tables.rs`");
        return vec![Complaint { line, message }];
    }
    let has_row =
        |verb: &str| rows.iter().any(|row| row.is_of_verbs() && row.name.contains(&format!("`{verb}`")));
    let without = verbs.into_iter().filter(|verb| !has_row(verb));
    without.map(|verb| Complaint { line, message: format!("the verb `{verb}` has no row") }).collect()
}

/// A row of a table that has a column of tests.
struct Row<'a> {
    line: usize,
    /// What stands first: a number, or verbs.
    name: &'a str,
    tests: &'a str,
    /// What no test shows, in words.
    open: &'a str,
}

impl Row<'_> {
    /// Scenarios have a number, verbs are code.
    fn is_of_verbs(&self) -> bool {
        self.name.starts_with('`')
    }
}

struct Complaint {
    line: usize,
    message: String,
}

/// The rows of all tables of the text that have a column of tests, and complaints of those that cannot be read.
fn rows(text: &str) -> (Vec<Row<'_>>, Vec<Complaint>) {
    let (mut rows, mut complaints) = (Vec::new(), Vec::new());
    let mut head: Vec<&str> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let Some(cells) = cells(text) else {
            head.clear();
            continue;
        };
        if head.is_empty() {
            head = cells;
            continue;
        }
        let cell =
            |title: &str| head.iter().position(|head| *head == title).and_then(|at| cells.get(at).copied());
        if cells.len() != head.len() {
            let message = format!("{} cells under a head of {}", cells.len(), head.len());
            complaints.push(Complaint { line, message });
        } else if let Some(tests) = cell("Tests").filter(|tests| *tests != "---") {
            rows.push(Row {
                line,
                name: cells[0],
                tests,
                open: cell("What no test shows").unwrap_or_default(),
            });
        }
    }
    (rows, complaints)
}

/// The cells of a line, if it is one of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.trim_end().strip_prefix('|')?;
    Some(inside.strip_suffix('|').unwrap_or(inside).split('|').map(str::trim).collect())
}

#[cfg(test)]
mod tests;
