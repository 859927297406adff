//! Whether a materialized view reads what its `made_from` says, by the server's catalog: one that it reads and does not name
//! would make its age too young, and one that it names and does not read would keep it waiting for nothing. It looks through plain
//! views and sees nothing of what functions read; of a delta view, whose query the catalog does not know, it asks nothing.
//! Called by `refresh`.

use postgres_types::{ToSql, Type};

use super::Refresh;
use super::error::ViewError;
use super::refresh::Run;

/// A registered relation that is read and not named, and one that is named and not read. The latter is not told of a view in which
/// there is a function, an operator or a type that somebody has made (what those read, nobody knows), nor of partitions and their
/// parents. What lies in a schema that is closed to this role is passed over, or one such name would stop every view.
const SOURCES_SQL: &str = "WITH RECURSIVE used (catalog, object) AS ( \
        SELECT 'pg_class'::regclass::oid, to_regclass($1)::oid \
        UNION SELECT refclassid, refobjid FROM used \
            JOIN pg_class ON catalog = 'pg_class'::regclass AND pg_class.oid = object \
                AND (relkind = 'v' OR object = to_regclass($1)::oid) \
            JOIN pg_rewrite ON ev_class = object AND ev_type = '1' \
            JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid), \
     read AS (SELECT object FROM used WHERE catalog = 'pg_class'::regclass AND object <> to_regclass($1)::oid), \
     named AS (SELECT name, to_regclass(name)::oid AS object FROM unnest($3) AS name), \
     known AS (SELECT name, CASE WHEN name LIKE '%.%' \
            AND NOT has_schema_privilege(to_regnamespace(split_part(name, '.', 1))::oid, 'USAGE') THEN NULL \
            ELSE to_regclass(name)::oid END AS object FROM unnest($2) AS name) \
     SELECT (SELECT min(name) FROM known WHERE object IN (SELECT object FROM read) \
            AND NOT EXISTS (SELECT FROM named WHERE named.object = known.object)), \
        (SELECT min(name) FROM named WHERE named.object NOT IN (SELECT object FROM read) \
            AND EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'm') \
            AND NOT EXISTS (SELECT FROM pg_inherits WHERE named.object IN (inhrelid, inhparent)) \
            AND NOT EXISTS (SELECT FROM used WHERE catalog IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass) \
                AND used.object >= 16384))";

impl Run<'_> {
    /// Costs a query of the catalog.
    pub(super) async fn check_sources(&self) -> Result<(), ViewError> {
        let view = self.view;
        if matches!(view.refresh, Refresh::Delta(_)) {
            return Ok(());
        }
        let values: [(&(dyn ToSql + Sync), Type); 3] = [
            (&view.name, Type::TEXT),
            (&self.registered, Type::TEXT_ARRAY),
            (&view.made_from, Type::TEXT_ARRAY),
        ];
        let row = self.query_one(SOURCES_SQL, &values).await?;
        let (undeclared, unread): (Option<String>, Option<String>) =
            self.decode(|| Ok((row.try_get(0)?, row.try_get(1)?)))?;
        let view = view.name.clone();
        match (undeclared, unread) {
            (Some(source_view), _) => Err(ViewError::UndeclaredSource { view, source_view }),
            (None, Some(source_view)) => Err(ViewError::UnreadSource { view, source_view }),
            (None, None) => Ok(()),
        }
    }
}
