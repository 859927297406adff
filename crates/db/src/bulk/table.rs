//! The table that rows go to or come from: checked once against the catalog, so that a column that is missing or holds
//! another type is named before anything is sent. It reads the catalog only.

use std::fmt;

use postgres_types::Type;

use super::error::BulkCause;
use super::row::Column;
use crate::connection::Connection;
use crate::statement::Statement;

/// A table's name, with or without its schema. Names are taken as they are, upper case, spaces and quotes included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// A table on the search path.
    #[must_use]
    pub fn new(table: &str) -> Self {
        Self { schema: None, table: table.to_owned() }
    }

    /// A table of a schema.
    #[must_use]
    pub fn in_schema(schema: &str, table: &str) -> Self {
        Self { schema: Some(schema.to_owned()), table: table.to_owned() }
    }

    fn quoted(&self) -> String {
        let schema = self.schema.as_deref().map(|schema| format!("{}.", quoted(schema))).unwrap_or_default();
        format!("{schema}{}", quoted(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.quoted())
    }
}

/// A name as SQL takes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the catalog says of the table and of the columns that a `Row` names.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Schema and name, quoted.
    pub(super) sql: String,
    /// Its bare name, as the server's reports have it.
    pub(super) relation: String,
    pub(super) columns: Vec<TargetColumn>,
}

/// One column, in the order of the `Row`.
#[derive(Clone, Debug)]
pub(super) struct TargetColumn {
    pub(super) name: &'static str,
    pub(super) value_type: Type,
    /// The array of the values' type, where there is one that can be taken apart into rows again.
    pub(super) array_type: Option<Type>,
    /// What a parameter has to be cast to, where assignment alone would not do.
    pub(super) cast: Option<String>,
    /// Postgres computes it.
    pub(super) generated: bool,
    /// Written only by who says so.
    pub(super) identity_always: bool,
}

static TABLE: Statement = Statement::new(
    "SELECT n.nspname::text, c.relname::text, c.relkind::text FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
    &[Type::TEXT],
);

/// Domains are followed to the type below them.
static COLUMNS: Statement = Statement::new(
    "WITH RECURSIVE base (attnum, typid) AS ( \
        SELECT attnum, atttypid FROM pg_catalog.pg_attribute \
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped \
        UNION ALL SELECT b.attnum, t.typbasetype FROM base b \
        JOIN pg_catalog.pg_type t ON t.oid = b.typid WHERE t.typtype = 'd') \
     SELECT a.attname::text, t.oid, t.typtype::text, format_type(a.atttypid, NULL), \
        a.attgenerated <> '', a.attidentity = 'a' \
     FROM pg_catalog.pg_attribute a JOIN base b ON b.attnum = a.attnum \
     JOIN pg_catalog.pg_type t ON t.oid = b.typid WHERE a.attrelid = to_regclass($1) AND t.typtype <> 'd'",
    &[Type::TEXT],
);

static ARRAYS: Statement =
    Statement::new("SELECT oid, typarray FROM pg_catalog.pg_type WHERE oid = ANY($1)", &[Type::OID_ARRAY]);

/// A column as the catalog has it.
struct Found {
    name: String,
    oid: u32,
    is_enum: bool,
    full_type: String,
    generated: bool,
    identity_always: bool,
}

fn refused(problem: String) -> BulkCause {
    BulkCause::Settings { problem }
}

impl Target {
    /// Looks the table and the columns up.
    pub(super) async fn find(
        connection: &Connection,
        name: &TableName,
        columns: &'static [Column],
    ) -> Result<Self, BulkCause> {
        if columns.is_empty() {
            return Err(refused(format!("the row for table {name} has no columns")));
        }
        let text = name.quoted();
        let table = connection.query_opt(&TABLE, &[&text]).await.map_err(BulkCause::Database)?;
        let table = table.ok_or_else(|| refused(format!("there is no table {name}")))?;
        let (schema, relation, kind): (String, String, String) = (table.get(0), table.get(1), table.get(2));
        if !["r", "p"].contains(&kind.as_str()) {
            return Err(refused(format!("{name} is not a table")));
        }
        let found = connection.query(&COLUMNS, &[&text]).await.map_err(BulkCause::Database)?;
        let found: Vec<Found> = found.iter().map(Found::of_row).collect();
        let oids: Vec<u32> = columns.iter().map(|column| column.value_type().oid()).collect();
        let arrays = connection.query(&ARRAYS, &[&oids]).await.map_err(BulkCause::Database)?;
        let array_of = |oid: u32| {
            let row = arrays.iter().find(|row| row.get::<_, u32>(0) == oid)?;
            Type::from_oid(row.get(1))
        };
        let columns = columns.iter().map(|column| {
            let same_name = |found: &&Found| found.name == column.name();
            let found = found
                .iter()
                .find(same_name)
                .ok_or_else(|| refused(format!("table {name} has no column {}", quoted(column.name()))))?;
            found.matched(name, column, array_of(column.value_type().oid()))
        });
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { sql: format!("{}.{}", quoted(&schema), quoted(&relation)), relation, columns })
    }

    /// Refuses columns that nobody but Postgres may write.
    pub(super) fn check_writable(&self, positions: impl IntoIterator<Item = usize>) -> Result<(), BulkCause> {
        let mut columns = positions.into_iter().map(|position| &self.columns[position]);
        match columns.find(|column| column.generated) {
            Some(column) => Err(refused(format!("column {} is generated", quoted(column.name)))),
            None => Ok(()),
        }
    }

    /// The positions of columns that the caller names for `what`.
    pub(super) fn positions(&self, what: &str, names: &[&str]) -> Result<Vec<usize>, BulkCause> {
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            let position = self.columns.iter().position(|column| column.name == *name);
            let position = position.ok_or_else(|| {
                refused(format!("{what} names {}, which the row does not have", quoted(name)))
            })?;
            if positions.contains(&position) {
                return Err(refused(format!("{what} names {} twice", quoted(name))));
            }
            positions.push(position);
        }
        Ok(positions)
    }
}

impl Found {
    fn of_row(row: &tokio_postgres::Row) -> Self {
        Self {
            name: row.get(0),
            oid: row.get(1),
            is_enum: row.get::<_, &str>(2) == "e",
            full_type: row.get(3),
            generated: row.get(4),
            identity_always: row.get(5),
        }
    }

    /// Binary COPY converts nothing: the declared type must be the column's own, or one with the same bytes.
    fn matched(
        &self,
        table: &TableName,
        column: &Column,
        array_type: Option<Type>,
    ) -> Result<TargetColumn, BulkCause> {
        let declared = column.value_type();
        let texts = [Type::TEXT, Type::VARCHAR, Type::BPCHAR];
        let is_text = |oid| texts.iter().any(|text| text.oid() == oid);
        let declared_text = is_text(declared.oid());
        let same = self.oid == declared.oid() || (declared_text && is_text(self.oid));
        // An enum's bytes are its label, those of json its text.
        let alike = declared_text && (self.is_enum || self.oid == Type::JSON.oid());
        if !same && !alike {
            return Err(refused(format!(
                "column {} of table {table} is {}, and the row declares {declared}",
                quoted(column.name()),
                self.full_type
            )));
        }
        Ok(TargetColumn {
            name: column.name(),
            value_type: declared.clone(),
            array_type,
            // Never to a type with a length: such a cast cuts in silence what an assignment refuses.
            cast: (!same).then(|| self.full_type.clone()),
            generated: self.generated,
            identity_always: self.identity_always,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
        assert_eq!(TableName::in_schema("My Schema", "T.x").to_string(), "\"My Schema\".\"T.x\"");
    }
}
