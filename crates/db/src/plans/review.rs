//! Looks, some time afterwards, whether the indexes that were built here pay: how often all servers together have used them,
//! against what the writes to their tables cost. One that does not pay is dropped, concurrently, if told so.
//! What was not built here is left alone whatever it is called. Nothing is judged while a server cannot be asked, or has not
//! counted for long enough: an index that only a replica reads would look like one that nobody uses.

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::{Client, Row};

use super::candidate::{NAME_PREFIX, quoted};
use super::create::{Approval, is_worth_another_try, lock, note, sweep, unlock};
use super::explain::EXPLAIN_TIMEOUT;
use super::plan::TableName;
use super::sessions::session_on;
use super::verdict::{Fate, IndexFigures, Reviewed, Verdict};
use crate::db::Db;
use crate::error::Error;
use crate::node::NodeId;

/// When an index is judged, and what may be done about it.
#[derive(Clone, Debug)]
pub struct ReviewOptions {
    /// Off unless given: without it nothing is dropped.
    pub approval: Approval,
    /// An index is judged once every server has counted its scans for so long. It should cover what is done seldom: a week for
    /// what runs on Sundays, a month for the end of a month.
    pub age_min: Duration,
    /// An index with no more scans than this, on all servers together, is not used.
    pub scans_unused_max: u64,
    /// What one row written costs for each index on its table, in the planner's units, as
    /// [`AdviseOptions::write_cost`](super::AdviseOptions::write_cost).
    pub write_cost: f64,
    /// Longest wait for a lock.
    pub lock_timeout: Duration,
}

impl Default for ReviewOptions {
    /// Not approved, a week, 50 scans, 4.0, 3 s.
    fn default() -> Self {
        Self {
            approval: Approval::default(),
            age_min: Duration::from_secs(7 * 86_400),
            scans_unused_max: 50,
            write_cost: 4.0,
            lock_timeout: Duration::from_secs(3),
        }
    }
}

/// What a review has found and done.
#[derive(Clone, Debug, Default)]
pub struct Review {
    /// The indexes that were built here and stand, by name.
    pub indexes: Vec<Reviewed>,
    /// What cut builds and cut drops had left, and is dropped now; only with approval.
    pub swept: Vec<String>,
}

/// Why nothing was judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// An index is being built, or taken back, in this database.
    #[error("not reviewed: an index is being built or taken back in this database")]
    Busy,
    /// A server cannot be asked how often it uses the indexes.
    #[error("not reviewed: {node} cannot be asked how often it uses the indexes")]
    Unseen {
        /// Which.
        node: NodeId,
        /// Why not.
        #[source]
        source: Error,
    },
    /// No session on the primary.
    #[error("reach the primary to review indexes")]
    Session(#[from] Error),
    /// A server refused.
    #[error("review the indexes that were built here")]
    Refused(#[from] tokio_postgres::Error),
}

/// An index of ours, by the audit and the catalog.
#[derive(Debug)]
struct Ours {
    oid: u32,
    table: TableName,
    name: String,
    statement: String,
    saves_per_call: Option<f64>,
    age_seconds: f64,
    /// Rows written to its table that cost each of its indexes something, since the primary's counters began.
    rows_written: f64,
}

/// What one server has counted of one index.
#[derive(Debug)]
struct Count {
    oid: u32,
    scans: u64,
    /// Since the server's counters began.
    seconds: f64,
}

const SESSION_NAME: &str = "review";
const DAY_SECONDS: f64 = 86_400.0;
/// Shorter times tell nothing of what happens in a day.
const COUNTED_SECONDS_MIN: f64 = 1.0;

const HAS_AUDIT_SQL: &str = "SELECT to_regclass('index_audit') IS NOT NULL";
/// By identity: one that a person has made anew under the same name is theirs. Updates that touch no index cost it nothing.
const OURS_SQL: &str = "SELECT c.oid, n.nspname::text, t.relname::text, c.relname::text, a.statement, \
    a.saves_per_call, extract(epoch FROM clock_timestamp() - a.at)::float8, \
    (pg_stat_get_tuples_inserted(t.oid) + pg_stat_get_tuples_updated(t.oid) \
        - pg_stat_get_tuples_hot_updated(t.oid))::float8 \
    FROM (SELECT DISTINCT ON (schema_name, index_name) \
            schema_name, index_name, act, at, statement, index_oid, saves_per_call \
        FROM index_audit WHERE act IN ('built', 'taken back', 'swept') \
        ORDER BY schema_name, index_name, at DESC) AS a \
    JOIN pg_namespace n ON n.nspname = a.schema_name \
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = a.index_name AND c.oid = a.index_oid \
    JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_class t ON t.oid = i.indrelid \
    WHERE a.act = 'built' AND i.indisvalid AND starts_with(c.relname, $1) ORDER BY n.nspname, c.relname";
/// Counters begin when they are reset by hand, which a database knows, and after a crash, which what the server counts for all
/// databases knows.
const COUNTS_SQL: &str = "SELECT c.oid, pg_stat_get_numscans(c.oid), \
    extract(epoch FROM clock_timestamp() - greatest(w.stats_reset, pg_stat_get_db_stat_reset_time(d.oid)))::float8 \
    FROM unnest($1::oid[]) AS wanted(oid) JOIN pg_class c ON c.oid = wanted.oid \
    CROSS JOIN pg_stat_wal w JOIN pg_database d ON d.datname = current_database()";

/// Judges every index that [`create_index`](super::create_index) has built and that still stands, and drops those that do not
/// pay if [`ReviewOptions::approval`] is given. It asks each server of `db` on a session of its own: give it a `Db` that
/// knows all servers that anybody reads from. Dropped halfway, it leaves what is known to the next one.
///
/// # Errors
/// [`ReviewError`]; nothing was dropped, but for [`ReviewError::Refused`], which may come after a drop.
pub async fn review_indexes(db: &Db, options: &ReviewOptions) -> Result<Review, ReviewError> {
    let primary = db.session(SESSION_NAME).await?;
    let client = primary.client();
    if !client.query_typed_one(HAS_AUDIT_SQL, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(Review::default());
    }
    // From here on the session ends with whatever fails, and the lock with it.
    if !lock(client).await? {
        return Err(ReviewError::Busy);
    }
    let mut review = Review::default();
    if options.approval == Approval::Given {
        client.batch_execute(&format!("SET lock_timeout = {}", options.lock_timeout.as_millis())).await?;
        review.swept = sweep(client).await?;
    }
    let ours = ours(client).await?;
    if !ours.is_empty() {
        let counted_here = counts(client, &ours).await?;
        let counted_elsewhere = counts_elsewhere(db, primary.node(), &ours).await?;
        for index in ours {
            let figures = index.figures(&counted_here, &counted_elsewhere, options);
            review.indexes.push(judge(client, index, figures, options).await?);
        }
    }
    unlock(client).await?;
    Ok(review)
}

async fn ours(client: &Client) -> Result<Vec<Ours>, tokio_postgres::Error> {
    let read = |row: &Row| {
        Ok(Ours {
            oid: row.try_get(0)?,
            table: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
            name: row.try_get(3)?,
            statement: row.try_get(4)?,
            saves_per_call: row.try_get(5)?,
            age_seconds: row.try_get(6)?,
            rows_written: row.try_get(7)?,
        })
    };
    client.query_typed(OURS_SQL, &[(&NAME_PREFIX, Type::TEXT)]).await?.iter().map(read).collect()
}

async fn counts_elsewhere(db: &Db, primary: &NodeId, ours: &[Ours]) -> Result<Vec<Vec<Count>>, ReviewError> {
    let mut all = Vec::new();
    for (place, member) in db.shared.members.iter().enumerate() {
        let node = &member.node.id;
        if node != primary {
            let session = session_on(db, place, SESSION_NAME).await;
            let session = session.map_err(|source| ReviewError::Unseen { node: node.clone(), source })?;
            all.push(counts(session.client(), ours).await?);
        }
    }
    Ok(all)
}

async fn counts(client: &Client, ours: &[Ours]) -> Result<Vec<Count>, tokio_postgres::Error> {
    client.batch_execute(&format!("SET statement_timeout = {}", EXPLAIN_TIMEOUT.as_millis())).await?;
    let wanted: Vec<u32> = ours.iter().map(|index| index.oid).collect();
    let rows = client.query_typed(COUNTS_SQL, &[(&wanted, Type::OID_ARRAY)]).await?;
    // A drop waits for others by its own limit.
    client.batch_execute("RESET statement_timeout").await?;
    let read = |row: &Row| {
        let scans: i64 = row.try_get(1)?;
        let scans = u64::try_from(scans).unwrap_or(0);
        Ok(Count { oid: row.try_get(0)?, scans, seconds: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}

impl Ours {
    fn figures(&self, here: &[Count], elsewhere: &[Vec<Count>], options: &ReviewOptions) -> IndexFigures {
        let (mut scans, mut scans_a_day, mut shortest) = (0_u64, 0.0, self.age_seconds);
        for counts in std::iter::once(here).chain(elsewhere.iter().map(Vec::as_slice)) {
            // A replica that has yet to replay the index has counted nothing of it.
            let count = counts.iter().find(|count| count.oid == self.oid);
            let seconds = count.map_or(0.0, |count| count.seconds.min(self.age_seconds));
            let found = count.map_or(0, |count| count.scans);
            scans = scans.saturating_add(found);
            scans_a_day += a_day(found, seconds);
            shortest = shortest.min(seconds);
        }
        let counted_here = here.iter().find(|count| count.oid == self.oid);
        let writing = counted_here.map_or(self.age_seconds, |count| count.seconds);
        let written_a_day = self.rows_written * DAY_SECONDS / writing.max(COUNTED_SECONDS_MIN);
        IndexFigures {
            scans,
            // A clock that was set back has counted for no time at all.
            counted: Duration::try_from_secs_f64(shortest).unwrap_or_default(),
            saves_a_day: self.saves_per_call.map(|saves| saves * scans_a_day),
            writes_cost_a_day: written_a_day * options.write_cost,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a weight")]
fn a_day(scans: u64, seconds: f64) -> f64 {
    scans as f64 * DAY_SECONDS / seconds.max(COUNTED_SECONDS_MIN)
}

async fn judge(
    client: &Client,
    index: Ours,
    figures: IndexFigures,
    options: &ReviewOptions,
) -> Result<Reviewed, tokio_postgres::Error> {
    let verdict = figures.verdict(options);
    let Ours { table, name, statement, .. } = index;
    let mut reviewed = Reviewed { table, name, statement, figures, verdict, fate: Fate::Stands };
    let pays_not = matches!(verdict, Verdict::Unused | Verdict::Dear);
    if pays_not && options.approval == Approval::Given {
        reviewed.fate = take_back(client, &reviewed).await?;
    }
    Ok(reviewed)
}

async fn take_back(client: &Client, index: &Reviewed) -> Result<Fate, tokio_postgres::Error> {
    let (schema, name, why) = (&index.table.schema, &index.name, index.why());
    let sql = format!("DROP INDEX CONCURRENTLY {}.{}", quoted(schema), quoted(name));
    // Before the drop, so that a cut one is known to be ours.
    note(client, ["condemned", schema, name, &sql, &why]).await?;
    let Err(error) = client.batch_execute(&sql).await else {
        note(client, ["taken back", schema, name, &sql, &why]).await?;
        return Ok(Fate::TakenBack);
    };
    let told = error.as_db_error().map_or("", |error| error.message());
    note(client, ["failed", schema, name, &sql, told]).await?;
    if is_worth_another_try(&error) { Ok(Fate::Stuck) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn ours(age_days: f64) -> Ours {
        Ours {
            oid: 7,
            table: TableName { schema: "public".to_owned(), name: "note".to_owned() },
            name: "advised_note".to_owned(),
            statement: String::new(),
            saves_per_call: Some(10.0),
            age_seconds: age_days * DAY_SECONDS,
            rows_written: 3_000.0,
        }
    }

    fn count(oid: u32, scans: u64, days: f64) -> Count {
        Count { oid, scans, seconds: days * DAY_SECONDS }
    }

    #[test]
    fn scans_of_all_servers_count_and_the_shortest_count_decides() {
        let options = ReviewOptions::default();
        let here = [count(6, 99, 1.0), count(7, 40, 30.0)];
        let figures = ours(10.0).figures(&here, &[vec![count(7, 100, 4.0)]], &options);
        assert_eq!((figures.scans, figures.counted), (140, 4 * DAY));
        // Four scans a day here since it stands, and 25 there; 100 rows a day, at 4.0 each, since the counters began.
        assert!(figures.saves_a_day.is_some_and(|saves| (saves - 290.0).abs() < 1e-6), "{figures:?}");
        assert!((figures.writes_cost_a_day - 400.0).abs() < 1e-6, "{figures:?}");
        assert_eq!(figures.verdict(&options), Verdict::Young);
        let figures = ours(10.0).figures(&here, &[], &options);
        assert_eq!((figures.counted, figures.verdict(&options)), (10 * DAY, Verdict::Unused));
    }

    #[test]
    fn a_server_that_does_not_know_the_index_yet_has_counted_for_no_time() {
        let options = ReviewOptions::default();
        let figures = ours(10.0).figures(&[count(7, 1_000, 30.0)], &[vec![count(6, 1, 30.0)]], &options);
        assert_eq!((figures.counted, figures.verdict(&options)), (Duration::ZERO, Verdict::Young));
        // A clock was set back.
        let figures = ours(-1.0).figures(&[count(7, 1_000, 30.0)], &[], &options);
        assert_eq!((figures.counted, figures.verdict(&options)), (Duration::ZERO, Verdict::Young));
    }
}
