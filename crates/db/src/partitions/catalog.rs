//! What the server's catalog says of a table's partitions. It reads and locks nothing of the tables themselves.
//! Called by all functions of this module, which put no other names into statements than those that passed here.

use super::{Month, Partition, PartitionError, TABLE_NAME_MAX};
use crate::session::Session;

pub(super) struct Children {
    /// The monthly partitions, oldest first.
    pub(super) months: Vec<Child>,
    /// The default partition, as a statement names it.
    pub(super) default: Option<String>,
}

pub(super) struct Child {
    pub(super) partition: Partition,
    /// Its table as a statement names it: quoted, and with its schema unless the search path leads there.
    pub(super) path: String,
    /// A concurrent detach was begun: it is running, or was cut off.
    pub(super) is_detaching: bool,
}

pub(super) async fn children(session: &Session, table: &str) -> Result<Children, PartitionError> {
    check_name(table)?;
    let sql = format!(
        "SELECT child.relname::text, inhrelid::regclass::text, inhdetachpending, inhrelid = partdefid \
         FROM pg_partitioned_table LEFT JOIN pg_inherits ON inhparent = partrelid \
         LEFT JOIN pg_class AS child ON child.oid = inhrelid WHERE partrelid = '{table}'::regclass"
    );
    let failed = |source| PartitionError::Postgres { table: table.to_owned(), source };
    let rows = session.client().query_typed(&sql, &[]).await.map_err(failed)?;
    if rows.is_empty() {
        return Err(PartitionError::NotPartitioned { table: table.to_owned() });
    }
    let mut children = Children { months: Vec::new(), default: None };
    for row in rows {
        // A table without partitions gives one row of nulls.
        let Some(name) = row.try_get::<_, Option<String>>(0).map_err(failed)? else { continue };
        let path: String = row.try_get(1).map_err(failed)?;
        let is_detaching: bool = row.try_get(2).map_err(failed)?;
        let is_default: bool = row.try_get(3).map_err(failed)?;
        if is_default {
            children.default = Some(path);
        } else if let Some(month) = month_of(table, &name) {
            children.months.push(Child { partition: Partition { month, name }, path, is_detaching });
        }
    }
    children.months.sort_by_key(|child| child.partition.month);
    Ok(children)
}

// Names are put into statements as they are, so nothing that would need quoting may pass.
fn check_name(table: &str) -> Result<(), PartitionError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let opens_well = table.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    if opens_well && table.len() <= TABLE_NAME_MAX && table.bytes().all(plain) {
        Ok(())
    } else {
        Err(PartitionError::TableName { table: table.to_owned() })
    }
}

fn month_of(table: &str, name: &str) -> Option<Month> {
    let (year, month) = name.strip_prefix(table)?.strip_prefix('_')?.split_once('_')?;
    let well_formed = year.len() == 4 && month.len() == 2;
    well_formed.then(|| Month::new(year.parse().ok()?, month.parse().ok()?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_reach_a_statement() {
        for table in ["payments", "_p", "p2"] {
            assert!(check_name(table).is_ok(), "{table}");
        }
        for table in ["", "2p", "Payments", "a.b", "a b", "a\"b", "a'b", "a;b", "\u{e9}", &"a".repeat(56)] {
            assert!(check_name(table).is_err(), "{table}");
        }
    }

    #[test]
    fn the_month_is_read_back_from_the_name() {
        assert_eq!(month_of("payments", "payments_2026_11"), Month::new(2026, 11));
        for name in
            ["payments_default", "payments_2026_13", "payments_26_11", "other_2026_11", "payments2026_11"]
        {
            assert_eq!(month_of("payments", name), None, "{name}");
        }
    }
}
