//! Which columns of a table a plan compares, and how: read from the conditions that the server writes into its plan.
//! It need not be exact: whatever it finds is weighed by the planner afterwards, and what it misses is not advised.
//! Called by the advisor.

use super::plan::Plan;

/// Columns by how an index could serve them; each stands once, where it serves best.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Compared for equality, with a value or a column of another table.
    pub(super) equal: Vec<String>,
    /// Compared by order.
    pub(super) range: Vec<String>,
    /// Sorted by.
    pub(super) order: Vec<String>,
}

/// More columns of one table are not tried: pairs grow with the square.
const COLUMNS_MAX: usize = 6;

/// What the plan compares of the table that it calls `alias`.
pub(super) fn compared(plan: &Plan, alias: &str, columns: &[String]) -> Compared {
    let mut found = Compared::default();
    for column in columns {
        let names = spellings(alias, column);
        let uses = plan.nodes().flat_map(|node| &node.conditions).flat_map(|(_, text)| uses(text, &names));
        let uses: Vec<Use> = uses.collect();
        let is_sorted = || {
            let mut keys = plan.nodes().filter(|node| node.kind.contains("Sort")).flat_map(|node| &node.keys);
            keys.any(|key| names.iter().any(|name| key.split(' ').next() == Some(name)))
        };
        if uses.contains(&Use::Equal) {
            found.equal.push(column.clone());
        } else if uses.contains(&Use::Range) {
            found.range.push(column.clone());
        } else if is_sorted() {
            found.order.push(column.clone());
        }
    }
    for list in [&mut found.equal, &mut found.range, &mut found.order] {
        list.truncate(COLUMNS_MAX);
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Equal,
    Range,
}

/// The server quotes a name only where it must.
fn spellings(alias: &str, column: &str) -> [String; 4] {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (alias_quoted, column_quoted) = (quoted(alias), quoted(column));
    [
        format!("{alias}.{column}"),
        format!("{alias}.{column_quoted}"),
        format!("{alias_quoted}.{column}"),
        format!("{alias_quoted}.{column_quoted}"),
    ]
}

fn uses(text: &str, names: &[String]) -> Vec<Use> {
    let mut found = Vec::new();
    for name in names {
        for (at, _) in text.match_indices(name.as_str()) {
            let (before, after) = (&text[..at], &text[at + name.len()..]);
            let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '"' | '.');
            let is_whole = !before.ends_with(is_part) && !after.starts_with(is_part);
            if is_whole {
                found.extend(operator_behind(after).or_else(|| operator_before(before)));
            }
        }
    }
    found
}

/// `t.a = ..`, `(t.a)::text = ..`, `t.a IS NULL`.
fn operator_behind(after: &str) -> Option<Use> {
    let mut rest = after.trim_start_matches(')');
    if let Some(cast) = rest.strip_prefix("::") {
        let end = cast.find([' ', ')']).unwrap_or(cast.len());
        rest = cast[end..].trim_start_matches(')');
    }
    let rest = rest.trim_start();
    if rest.starts_with("IS NULL") {
        return Some(Use::Equal);
    }
    let end = rest.find(' ').unwrap_or(rest.len());
    operator(&rest[..end])
}

/// `.. = t.a`, as a join writes it.
fn operator_before(before: &str) -> Option<Use> {
    let before = before.trim_end_matches('(').trim_end();
    operator(before.rsplit(' ').next()?)
}

fn operator(word: &str) -> Option<Use> {
    match word {
        "=" => Some(Use::Equal),
        "<" | ">" | "<=" | ">=" => Some(Use::Range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, expected: [&[&str]; 3]) {
        let text =
            format!(r#"[{{"Plan": {{"Node Type": "Sort", "Total Cost": 1, "Plan Rows": 1, {node}}}}}]"#);
        let plan = Plan::read(&text).expect("a plan");
        let columns = ["a", "ab", "b", "Odd", "c"].map(str::to_owned);
        let found = compared(&plan, "t", &columns);
        assert_eq!([found.equal, found.range, found.order], expected.map(|list| list.to_vec()), "{node}");
    }

    #[test]
    fn columns_are_found_by_how_they_are_compared() {
        check(r#""Filter": "((t.b > $3) AND (t.a = $1))""#, [&["a"], &["b"], &[]]);
        check(r#""Filter": "((t.a)::text = $2)""#, [&["a"], &[], &[]]);
        check(r#""Filter": "(t.a = ANY ($4))", "Sort Key": ["t.a", "t.c DESC"]"#, [&["a"], &[], &["c"]]);
        check(r#""Hash Cond": "(u.a = t.\"Odd\")""#, [&["Odd"], &[], &[]]);
        check(r#""Filter": "(t.ab = 1)""#, [&["ab"], &[], &[]]);
        check(r#""Filter": "((x.t.a = 1) OR (tt.b = 2) OR (t.c ~~ 'x%'))""#, [&[], &[], &[]]);
        check(r#""Filter": "(t.c IS NULL)""#, [&["c"], &[], &[]]);
    }
}
