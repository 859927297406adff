//! What the server's catalog knows of tables: size, how old the statistics are, partitions.
//! It asks one statement for any number of tables. Called by `explain` and the advisor.

use std::collections::BTreeSet;

use postgres_types::Type;
use tokio_postgres::Client;

use super::plan::TableName;

/// One table. Counts are the server's own estimates, not counted.
#[derive(Clone, Debug, PartialEq)]
pub struct TableFacts {
    /// Which.
    pub table: TableName,
    /// Rows when it was last analyzed; `None` if it never was.
    pub rows_analyzed: Option<f64>,
    /// Rows that live in it now.
    pub rows_live: f64,
    /// Rows inserted, updated or deleted since it was last analyzed.
    pub rows_changed: f64,
    /// Rows inserted, updated or deleted since the counters began.
    pub rows_written: f64,
    /// Indexes on it.
    pub indexes: u32,
    /// Whether it is an ordinary table, and not part of a partitioned one.
    pub is_plain: bool,
    /// The partitioned table that it belongs to.
    pub partition_of: Option<PartitionFacts>,
}

/// The partitioned table above a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// The topmost table.
    pub root: TableName,
    /// Partitions below it that hold rows.
    pub partitions: u32,
    /// What it is partitioned by, as the server writes it: `RANGE (created_at)`.
    pub key: String,
}

impl TableFacts {
    /// The best guess at the number of rows.
    #[must_use]
    pub fn rows(&self) -> f64 {
        self.rows_analyzed.map_or(self.rows_live, |analyzed| analyzed.max(self.rows_live))
    }
}

const FACTS_SQL: &str = "SELECT n.nspname::text, c.relname::text, c.reltuples::float8, \
    coalesce(pg_stat_get_live_tuples(c.oid), 0)::float8, \
    coalesce(pg_stat_get_mod_since_analyze(c.oid), 0)::float8, \
    (coalesce(pg_stat_get_tuples_inserted(c.oid), 0) + coalesce(pg_stat_get_tuples_updated(c.oid), 0) \
        + coalesce(pg_stat_get_tuples_deleted(c.oid), 0))::float8, \
    (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid), \
    c.relkind = 'r' AND NOT c.relispartition, \
    rn.nspname::text, root.relname::text, \
    CASE WHEN c.relispartition THEN \
        (SELECT count(*) FROM pg_partition_tree(root.oid) AS leaf WHERE leaf.isleaf) END, \
    CASE WHEN c.relispartition THEN pg_get_partkeydef(root.oid) END \
    FROM unnest($1::text[], $2::text[]) AS wanted(schema, name) \
    JOIN pg_namespace n ON n.nspname = wanted.schema \
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name \
    LEFT JOIN pg_class root ON c.relispartition AND root.oid = pg_partition_root(c.oid) \
    LEFT JOIN pg_namespace rn ON rn.oid = root.relnamespace";

/// Facts of those of the tables that exist.
pub(super) async fn table_facts(
    client: &Client,
    names: &BTreeSet<TableName>,
) -> Result<Vec<TableFacts>, tokio_postgres::Error> {
    let schemas: Vec<&str> = names.iter().map(|table| table.schema.as_str()).collect();
    let relations: Vec<&str> = names.iter().map(|table| table.name.as_str()).collect();
    let values: [(&(dyn postgres_types::ToSql + Sync), Type); 2] =
        [(&schemas, Type::TEXT_ARRAY), (&relations, Type::TEXT_ARRAY)];
    let rows = client.query_typed(FACTS_SQL, &values).await?;
    rows.iter().map(read).collect()
}

fn read(row: &tokio_postgres::Row) -> Result<TableFacts, tokio_postgres::Error> {
    let analyzed: f64 = row.try_get(2)?;
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let partition = match row.try_get::<_, Option<i64>>(10)? {
        None => None,
        Some(partitions) => Some(PartitionFacts {
            root: TableName { schema: row.try_get(8)?, name: row.try_get(9)? },
            partitions: count(partitions),
            key: row.try_get(11)?,
        }),
    };
    Ok(TableFacts {
        table: TableName { schema: row.try_get(0)?, name: row.try_get(1)? },
        // The server's way to say "never".
        rows_analyzed: (analyzed >= 0.0).then_some(analyzed),
        rows_live: row.try_get(3)?,
        rows_changed: row.try_get(4)?,
        rows_written: row.try_get(5)?,
        indexes: count(row.try_get(6)?),
        is_plain: row.try_get(7)?,
        partition_of: partition,
    })
}
