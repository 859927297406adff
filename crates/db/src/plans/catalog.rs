//! What the catalog says of a table's columns and indexes. It reads and changes nothing. Called by the advisor and by
//! creation.

use postgres_types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::plan::TableName;

/// An index that stands.
#[derive(Clone, Debug)]
pub(super) struct ExistingIndex {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// A whole B-tree over plain columns, in use: its first columns serve as an index of their own.
    pub(super) serves_prefixes: bool,
}

/// Types that a B-tree orders to any use; documents and shapes are left out.
const COLUMNS_SQL: &str = "SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped \
    AND (t.typcategory IN ('N', 'S', 'D', 'B', 'E', 'T', 'I') OR t.typname IN ('uuid', 'bytea')) \
    ORDER BY a.attnum";

const INDEXES_SQL: &str = "SELECT ic.relname::text, \
    am.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL, \
    ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place) \
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
        WHERE k.place <= i.indnkeyatts ORDER BY k.place) \
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam \
    JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2 ORDER BY ic.relname";

/// Columns that an index may be made on, in the table's order.
pub(super) async fn columns(client: &Client, table: &TableName) -> Result<Vec<String>, Error> {
    asked(client, COLUMNS_SQL, table).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Every index of the table.
pub(super) async fn indexes(client: &Client, table: &TableName) -> Result<Vec<ExistingIndex>, Error> {
    let read = |row: &Row| {
        Ok(ExistingIndex {
            name: row.try_get(0)?,
            serves_prefixes: row.try_get(1)?,
            columns: row.try_get(2)?,
        })
    };
    asked(client, INDEXES_SQL, table).await?.iter().map(read).collect()
}

async fn asked(client: &Client, sql: &str, table: &TableName) -> Result<Vec<Row>, Error> {
    let values: [(&(dyn ToSql + Sync), Type); 2] = [(&table.schema, Type::TEXT), (&table.name, Type::TEXT)];
    client.query_typed(sql, &values).await
}
