//! Indexes that could help a statement: one column each, and pairs that begin with a column compared for equality.
//! It knows names and texts only; whether one helps, the planner says. Called by the advisor and by creation.

use std::fmt;

use sha2::{Digest, Sha256};

use super::conditions::Compared;
use super::plan::TableName;

/// A B-tree index that does not stand yet: a table and its columns, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexColumns {
    /// The table.
    pub table: TableName,
    /// The columns, in order.
    pub columns: Vec<String>,
}

/// Names of indexes begin so if this crate made them.
pub(super) const NAME_PREFIX: &str = "advised_";
/// The server cuts longer names.
const TABLE_LETTERS_MAX: usize = 30;

impl IndexColumns {
    /// `CREATE INDEX CONCURRENTLY`, with the name that creation would give it.
    #[must_use]
    pub fn create_sql(&self) -> String {
        format!("CREATE INDEX CONCURRENTLY {} ON {}", quoted(&self.name()), self.target())
    }

    /// As HypoPG takes it.
    pub(super) fn hypothetical_sql(&self) -> String {
        format!("CREATE INDEX ON {}", self.target())
    }

    /// The same for the same table and columns, always.
    #[must_use]
    pub fn name(&self) -> String {
        let mut digest = Sha256::new();
        for part in [&self.table.schema, &self.table.name].into_iter().chain(&self.columns) {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        let digest = digest.finalize();
        let table: String = self.table.name.chars().take(TABLE_LETTERS_MAX).collect();
        // Thirty letters may have four bytes each, and the server cuts at 63 bytes.
        let table = if table.len() > TABLE_LETTERS_MAX { "table" } else { &table };
        format!("{NAME_PREFIX}{table}_{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
    }

    /// An index on `existing` serves everything that this one would.
    pub(super) fn is_prefix_of(&self, existing: &[String]) -> bool {
        existing.starts_with(&self.columns)
    }

    fn target(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quoted(column)).collect();
        format!("{} ({})", quoted_table(&self.table), columns.join(", "))
    }
}

impl fmt::Display for IndexColumns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.table, self.columns.join(", "))
    }
}

/// All indexes worth a try for a table of a statement.
pub(super) fn candidates(table: &TableName, compared: &Compared) -> Vec<IndexColumns> {
    let Compared { equal, range, order } = compared;
    let all = || equal.iter().chain(range).chain(order);
    let make = |columns: Vec<String>| IndexColumns { table: table.clone(), columns };
    let singles = all().map(|column| make(vec![column.clone()]));
    let pairs = equal.iter().flat_map(|first| {
        let seconds = all().filter(move |second| *second != first);
        seconds.map(move |second| make(vec![first.clone(), second.clone()]))
    });
    singles.chain(pairs).collect()
}

/// A name as SQL takes it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn quoted_table(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName { schema: "public".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn pairs_begin_with_a_column_compared_for_equality() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let compared = Compared { equal: list(&["a", "b"]), range: list(&["r"]), order: list(&["o"]) };
        let found: Vec<String> =
            candidates(&table("t"), &compared).iter().map(|one| one.columns.join(",")).collect();
        assert_eq!(found, ["a", "b", "r", "o", "a,b", "a,r", "a,o", "b,a", "b,r", "b,o"]);
    }

    #[test]
    fn a_name_is_the_same_for_the_same_columns_and_fits() {
        let make = |table: TableName, columns: [&str; 2]| IndexColumns {
            table,
            columns: columns.map(str::to_owned).into(),
        };
        let name = make(table("t"), ["a", "b"]).name();
        assert_eq!(name, make(table("t"), ["a", "b"]).name());
        assert_ne!(name, make(table("t"), ["ab", ""]).name());
        for odd in ["x".repeat(63), "ü".repeat(31)] {
            let name = make(table(&odd), ["a", "b"]).name();
            assert!(name.len() <= 63 && name.starts_with(NAME_PREFIX), "{name}");
        }
        let odd = make(table("a\"b"), ["c d", "e"]);
        assert!(odd.hypothetical_sql().ends_with(r#""public"."a""b" ("c d", "e")"#), "{odd}");
    }
}
