//! Whether what a view reads has changed since it was last refreshed, at the cost of no scan: a fingerprint of the server's counters of
//! changed rows, of the files of the tables, and of how often the views below were refreshed. It may find a change where
//! there is none (after a crash, say); a change that is counted never goes unnoticed. Called by `refresh`.

use postgres_types::Type;

use super::error::ViewError;
use super::refresh::Run;
use super::state::Source;
use crate::incarnation::incarnation_sql;

/// Counters of inserted, updated and deleted rows, which count commits and rollbacks, of each table and those that are made from it: partitions and heirs. TRUNCATE
/// is not among them, but gives a table a new file. A crash or a reset begins the counters anew, hence the incarnation and the time of the reset.
/// NULL where nothing is counted: of views, of tables of other servers.
const FINGERPRINT_SQL: &str = concat!(
    "WITH RECURSIVE tables (relation) AS ( \
        SELECT name::regclass::oid FROM unnest($1) AS name \
        UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = relation) \
     SELECT CASE WHEN current_setting('track_counts')::bool \
        AND NOT EXISTS (SELECT FROM pg_class JOIN tables ON relation = oid WHERE relkind NOT IN ('r', 'p', 'm')) \
        THEN concat_ws('/', ",
    incarnation_sql!(),
    ", (SELECT extract(epoch FROM stats_reset) FROM pg_stat_database WHERE datname = current_database()), \
        hashtextextended(coalesce(string_agg(concat_ws(':', relation, pg_relation_filenode(relation), \
            pg_stat_get_tuples_inserted(relation) + pg_stat_get_tuples_updated(relation) \
            + pg_stat_get_tuples_deleted(relation)), ',' ORDER BY relation), ''), 0)) END \
     FROM tables"
);

/// What the sources look like now; None where that cannot be told. Ask before the refresh reads: what changes in between then
/// looks changed the next time.
pub(super) async fn fingerprint(run: &Run<'_>, sources: &[Source]) -> Result<Option<String>, ViewError> {
    let row = run.query_one(FINGERPRINT_SQL, &[(&run.view.tables, Type::TEXT_ARRAY)]).await?;
    let tables: Option<String> = run.decode(|| row.try_get(0))?;
    Ok(tables.map(|mut print| {
        for source in sources {
            print.push_str(&format!(" {}={}", source.view, source.refreshes));
        }
        print
    }))
}
