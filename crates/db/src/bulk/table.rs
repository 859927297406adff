//! The table that rows go to or come from: checked once against the catalog, so that a column that is missing or holds
//! another type is named before anything is sent. It reads the catalog only.

use std::fmt;

use postgres_types::Type;

use super::error::BulkCause;
use super::options::Method;
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

    /// The server knows none that is empty or has a NUL in it.
    fn is_no_name(&self) -> bool {
        let mut parts = self.schema.iter().chain([&self.table]);
        parts.any(|part| part.is_empty() || part.contains('\0'))
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
    /// Its foreign keys to itself: a row that breaks one may refer to another of its chunk.
    pub(super) own_references: Vec<String>,
    /// It has rules for `INSERT`, of which COPY takes no notice.
    pub(super) has_insert_rules: bool,
}

/// One column, in the order of the `Row`.
#[derive(Clone, Debug)]
pub(super) struct TargetColumn {
    pub(super) name: &'static str,
    /// The type that it had when it was looked up.
    pub(super) oid: u32,
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
    "SELECT n.nspname::text, c.relname::text, c.relkind::text, \
        EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3' AND r.ev_enabled IN ('O', 'A')) \
     FROM pg_catalog.pg_class c \
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
        a.attgenerated <> '', a.attidentity = 'a', a.atttypid \
     FROM pg_catalog.pg_attribute a JOIN base b ON b.attnum = a.attnum \
     JOIN pg_catalog.pg_type t ON t.oid = b.typid WHERE a.attrelid = to_regclass($1) AND t.typtype <> 'd'",
    &[Type::TEXT],
);

/// Those of its partitions, and of the tables that it is a partition of, among them.
static OWN_REFERENCES: Statement = Statement::new(
    "WITH RECURSIVE family (oid) AS ( \
        (SELECT to_regclass($1)::oid UNION SELECT relid::oid FROM pg_partition_ancestors(to_regclass($1))) \
        UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN family f ON i.inhparent = f.oid) \
     SELECT DISTINCT conname::text FROM pg_catalog.pg_constraint WHERE contype = 'f' \
        AND conrelid IN (SELECT oid FROM family) AND confrelid IN (SELECT oid FROM family)",
    &[Type::TEXT],
);

/// Texts of whatever name: the same bytes.
pub(super) const TEXTS: [Type; 3] = [Type::TEXT, Type::VARCHAR, Type::BPCHAR];

static ARRAYS: Statement =
    Statement::new("SELECT oid, typarray FROM pg_catalog.pg_type WHERE oid = ANY($1)", &[Type::OID_ARRAY]);

/// A column as the catalog has it.
struct Found {
    name: String,
    /// Of the type below its domain, if it is of one.
    base_oid: u32,
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
        if name.is_no_name() {
            return Err(refused(format!("{name} is no name of a table")));
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
        let own = connection.query(&OWN_REFERENCES, &[&text]).await.map_err(BulkCause::Database)?;
        let own_references = own.iter().map(|row| row.get(0)).collect();
        let oids = columns.iter().map(|column| column.value_type().oid());
        let oids: Vec<u32> = oids.chain(TEXTS.iter().map(Type::oid)).collect();
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
            found.matched(name, column, array_of)
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let sql = format!("{}.{}", quoted(&schema), quoted(&relation));
        Ok(Self { sql, relation, columns, own_references, has_insert_rules: table.get(3) })
    }

    /// Refuses columns that nobody but Postgres may write.
    pub(super) fn check_writable(&self, positions: impl IntoIterator<Item = usize>) -> Result<(), BulkCause> {
        let mut columns = positions.into_iter().map(|position| &self.columns[position]);
        match columns.find(|column| column.generated) {
            Some(column) => Err(refused(format!("column {} is generated", quoted(column.name)))),
            None => Ok(()),
        }
    }

    /// Refuses an insert that would be copied, where the rows of another method would meet the table's rules.
    pub(super) fn check_rules(&self, asked: Method) -> Result<(), BulkCause> {
        if self.has_insert_rules && (asked == Method::Copy || !self.has_arrays()) {
            return Err(refused(format!("{} has rules for INSERT, and COPY would not obey them", self.sql)));
        }
        Ok(())
    }

    /// Rows can be sent as arrays.
    pub(super) fn has_arrays(&self) -> bool {
        self.columns.iter().all(|column| column.array_type.is_some())
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
            base_oid: row.get(1),
            oid: row.get(6),
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
        array_of: impl Fn(u32) -> Option<Type>,
    ) -> Result<TargetColumn, BulkCause> {
        let declared = column.value_type();
        let text = |oid| TEXTS.iter().find(|text| text.oid() == oid);
        let declared_text = text(declared.oid()).is_some();
        let own_text = text(self.base_oid).filter(|_| declared_text);
        let same = self.base_oid == declared.oid() || own_text.is_some();
        // An enum's bytes are its label, those of json its text.
        let alike = declared_text && (self.is_enum || self.base_oid == Type::JSON.oid());
        if !same && !alike {
            return Err(refused(format!(
                "column {} of table {table} is {}, and the row declares {declared}",
                quoted(column.name()),
                self.full_type
            )));
        }
        Ok(TargetColumn {
            name: column.name(),
            oid: self.oid,
            // A parameter of another text's type would be converted, and lose its blanks, where a COPY keeps them.
            value_type: own_text.unwrap_or(declared).clone(),
            array_type: array_of(own_text.unwrap_or(declared).oid()),
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

    #[test]
    fn what_is_empty_or_has_a_nul_is_no_name() {
        for name in [TableName::new(""), TableName::new("a\0"), TableName::in_schema("", "a")] {
            assert!(name.is_no_name(), "{name:?}");
        }
        assert!(!TableName::in_schema(" ", "\"").is_no_name());
    }
}
