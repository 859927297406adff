//! Looks, some time afterwards, whether the indexes that were built here pay: how often all servers together have used them,
//! against what the writes to their tables cost. One that does not pay is dropped, concurrently, if told so.
//! What was not built here is left alone whatever it is called. Nothing is judged while a server cannot be asked, or has not
//! counted for long enough: an index that only a replica reads would look like one that nobody uses.

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::{Client, Row};

use super::candidate::{NAME_PREFIX, quoted};
use super::create::{
    Approval, is_old, is_worth_another_try, lock, note, oldest_transaction_seconds, sweep, unlock,
    written_sql,
};
use super::explain::EXPLAIN_TIMEOUT;
use super::plan::TableName;
use super::sessions::session_on;
use super::verdict::{Fate, IndexFigures, Reviewed, Verdict};
use crate::db::Db;
use crate::error::Error;
use crate::node::NodeId;
use crate::session::Session;

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
    /// While a transaction has been open on any server for longer than this, no index that was judged is dropped. On the
    /// primary the drop would wait for it; a replica would cease to replay, and in the end cancel it, if it has so much as
    /// read the table.
    pub transaction_age_max: Duration,
}

impl Default for ReviewOptions {
    /// Not approved, a week, 50 scans, 4.0, 3 s, transactions up to a minute old.
    fn default() -> Self {
        Self {
            approval: Approval::default(),
            age_min: Duration::from_secs(7 * 86_400),
            scans_unused_max: 50,
            write_cost: 4.0,
            lock_timeout: Duration::from_secs(3),
            transaction_age_max: Duration::from_secs(60),
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

/// Why there is no review, or no whole one.
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
    /// A server refused before anything was judged. Nothing was dropped.
    #[error("review the indexes that were built here")]
    Refused(#[from] tokio_postgres::Error),
    /// A server refused after all had been judged, and from then on nothing was dropped.
    #[error("the review of the indexes that were built here ended early")]
    Stopped {
        /// All indexes, with what was done about each until then. The one whose drop was refused is said to stand.
        review: Review,
        /// Why it ended.
        #[source]
        source: tokio_postgres::Error,
    },
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
    /// Rows written to its table that cost each of its indexes something, since it stands or the primary's counters began.
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

/// Who is asked before an index is dropped, and told to.
#[derive(Clone, Copy)]
struct Servers<'a> {
    primary: &'a Client,
    elsewhere: &'a [Session],
}

const SESSION_NAME: &str = "review";
const DAY_SECONDS: f64 = 86_400.0;
/// Shorter times tell nothing of what happens in a day.
const COUNTED_SECONDS_MIN: f64 = 1.0;

const HAS_AUDIT_SQL: &str = "SELECT to_regclass('index_audit') IS NOT NULL";
/// By identity: one that a person has made anew under the same name is theirs. Fewer rows written than when it was built
/// are those of counters that began anew since; where nobody knows how many there were, none is held against it. The part of
/// a partitioned index stands as long as that does.
const OURS_SQL: &str = concat!(
    "SELECT c.oid, n.nspname::text, t.relname::text, c.relname::text, a.statement, \
    a.saves_per_call, extract(epoch FROM clock_timestamp() - a.at)::float8, \
    CASE WHEN w.rows_written < a.rows_written THEN w.rows_written \
        ELSE w.rows_written - coalesce(a.rows_written, w.rows_written) END \
    FROM (SELECT DISTINCT ON (schema_name, index_name) \
            schema_name, index_name, act, at, statement, index_oid, saves_per_call, rows_written \
        FROM index_audit WHERE act IN ('built', 'taken back', 'swept') \
        ORDER BY schema_name, index_name, at DESC) AS a \
    JOIN pg_namespace n ON n.nspname = a.schema_name \
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = a.index_name AND c.oid = a.index_oid \
    JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_class t ON t.oid = i.indrelid \
    CROSS JOIN LATERAL (SELECT ",
    written_sql!(),
    " AS rows_written) AS w \
    WHERE a.act = 'built' AND i.indisvalid AND NOT c.relispartition AND starts_with(c.relname, $1) \
    ORDER BY n.nspname, c.relname"
);
/// Counters begin when they are reset by hand, which a database knows, and after a crash, which what the server counts for all
/// databases knows: a crash sets back all of that, a person one kind at a time.
const COUNTS_SQL: &str = "SELECT c.oid, pg_stat_get_numscans(c.oid), \
    extract(epoch FROM clock_timestamp() - greatest(least(w.stats_reset, a.stats_reset, b.stats_reset), \
        pg_stat_get_db_stat_reset_time(d.oid)))::float8 \
    FROM unnest($1::oid[]) AS wanted(oid) JOIN pg_class c ON c.oid = wanted.oid \
    CROSS JOIN pg_stat_wal w CROSS JOIN pg_stat_archiver a CROSS JOIN pg_stat_bgwriter b \
    JOIN pg_database d ON d.datname = current_database()";

/// Judges every index that [`create_index`](super::create_index) has built and that still stands, and drops those that do not
/// pay if [`ReviewOptions::approval`] is given. It asks each server of `db` on a session of its own: give it a `Db` that
/// knows all servers that anybody reads from. Dropped halfway, it leaves what is known to the next one.
///
/// # Errors
/// [`ReviewError`]; nothing was dropped, but for [`ReviewError::Stopped`], which has the review.
pub async fn review_indexes(db: &Db, options: &ReviewOptions) -> Result<Review, ReviewError> {
    let primary = db.session(SESSION_NAME).await?;
    let client = primary.client();
    if !client.query_typed_one(HAS_AUDIT_SQL, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(Review::default());
    }
    // From here on the session ends with whatever fails, and the lock with it.
    if !lock(client, options.lock_timeout).await? {
        return Err(ReviewError::Busy);
    }
    let mut review = Review::default();
    let ours = ours(client).await?;
    let elsewhere = if ours.is_empty() { Vec::new() } else { sessions_elsewhere(db, primary.node()).await? };
    let counted_here = counts(client, &ours).await?;
    let mut counted_elsewhere = Vec::new();
    for session in &elsewhere {
        counted_elsewhere.push(counts(session.client(), &ours).await?);
    }
    review.indexes = ours
        .into_iter()
        .map(|index| {
            let figures = index.figures(&counted_here, &counted_elsewhere, options);
            judged(index, figures, options)
        })
        .collect();
    // Not before everybody has answered.
    let done = if options.approval == Approval::Given {
        Servers { primary: client, elsewhere: &elsewhere }.act_on(&mut review, options).await
    } else {
        Ok(())
    };
    // Where it cannot be given back it ends with the session.
    let unlocked = unlock(client).await;
    match done.and(unlocked) {
        Ok(()) => Ok(review),
        Err(source) => Err(ReviewError::Stopped { review, source }),
    }
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

/// Who is in the way of a leftover ends no review: the next one sweeps again.
async fn sweep_or_leave(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    match sweep(client).await {
        Err(error) if is_worth_another_try(&error) => Ok(Vec::new()),
        outcome => outcome,
    }
}

async fn sessions_elsewhere(db: &Db, primary: &NodeId) -> Result<Vec<Session>, ReviewError> {
    let mut sessions = Vec::new();
    for (place, member) in db.shared.members.iter().enumerate() {
        let node = &member.node.id;
        if node != primary {
            let session = session_on(db, place, SESSION_NAME).await;
            sessions.push(session.map_err(|source| ReviewError::Unseen { node: node.clone(), source })?);
        }
    }
    Ok(sessions)
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
        let writing = counted_here.map_or(self.age_seconds, |count| count.seconds.min(self.age_seconds));
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

impl Servers<'_> {
    async fn oldest_transaction_seconds(&self) -> Result<i64, tokio_postgres::Error> {
        let mut oldest = oldest_transaction_seconds(self.primary).await?;
        for session in self.elsewhere {
            oldest = oldest.max(oldest_transaction_seconds(session.client()).await?);
        }
        Ok(oldest)
    }

    /// Sweeps, and takes back what does not pay, until something is refused.
    async fn act_on(self, review: &mut Review, options: &ReviewOptions) -> Result<(), tokio_postgres::Error> {
        review.swept = sweep_or_leave(self.primary).await?;
        for index in &mut review.indexes {
            if !matches!(index.verdict, Verdict::Unused | Verdict::Dear) {
                continue;
            }
            let seconds = self.oldest_transaction_seconds().await?;
            let is_held_up = is_old(seconds, options.transaction_age_max);
            index.fate = if is_held_up { Fate::Stuck } else { take_back(self.primary, index).await? };
        }
        Ok(())
    }
}

fn judged(index: Ours, figures: IndexFigures, options: &ReviewOptions) -> Reviewed {
    let verdict = figures.verdict(options);
    let Ours { table, name, statement, .. } = index;
    Reviewed { table, name, statement, figures, verdict, fate: Fate::Stands }
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
        // Four scans a day here, and 25 there; 300 rows a day, at 4.0 each. Here all of it since the index stands, which is
        // for a shorter time than the counters.
        assert!(figures.saves_a_day.is_some_and(|saves| (saves - 290.0).abs() < 1e-6), "{figures:?}");
        assert!((figures.writes_cost_a_day - 1_200.0).abs() < 1e-6, "{figures:?}");
        assert_eq!(figures.verdict(&options), Verdict::Young);
        let figures = ours(10.0).figures(&here, &[], &options);
        assert_eq!((figures.counted, figures.verdict(&options)), (10 * DAY, Verdict::Unused));
    }

    #[test]
    fn writes_are_weighed_over_the_time_in_which_they_were_counted() {
        let cost = |counting_days| {
            let here = [count(7, 0, counting_days)];
            ours(10.0).figures(&here, &[], &ReviewOptions::default()).writes_cost_a_day
        };
        // Counters older than the index, and counters that began two days ago.
        assert!((cost(30.0) - 1_200.0).abs() < 1e-6, "{}", cost(30.0));
        assert!((cost(2.0) - 6_000.0).abs() < 1e-6, "{}", cost(2.0));
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
