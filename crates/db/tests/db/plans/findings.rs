//! One table for each finding: a statement that provokes it, and its neighbour that must not.

use paystrata_db::Session;
use paystrata_db::plans::{Evidence, Finding, Measure, Thresholds};

use super::{on, plan};
use crate::support::with_database;

/// Sets a table up, then looks at statements of it on one session.
fn check<F, Fut>(setup: &'static str, test: F)
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("plans").await.expect("session");
        // One by one: in one transaction the server would count what came before an ANALYZE as changed after it.
        for statement in setup.split("; ") {
            on(&session, statement).await;
        }
        test(session).await;
    });
}

async fn findings(session: &Session, sql: &str, measure: Measure) -> Vec<Finding> {
    let found = plan(session, sql, measure).await.findings(&Thresholds::default());
    for finding in &found {
        assert!(!finding.advice().is_empty() && !finding.to_string().is_empty());
    }
    found
}

/// The one finding among all that is of this kind.
macro_rules! found {
    ($session:expr, $sql:expr, $measure:expr, $kind:pat => $value:expr) => {{
        let all = findings($session, $sql, $measure).await;
        let mut matching = all.iter().filter_map(|finding| match &finding.evidence {
            $kind => Some($value),
            _ => None,
        });
        let first = matching.next();
        assert!(matching.next().is_none(), "twice in {all:#?}");
        first
    }};
}

#[test]
fn a_scan_that_throws_most_away_is_found_and_a_useful_or_small_one_is_not() {
    const SETUP: &str = "CREATE TABLE t AS SELECT i AS id, i % 1000 AS k FROM generate_series(1, 50000) i; \
        CREATE TABLE small AS SELECT * FROM t LIMIT 500; ANALYZE t; ANALYZE small";
    check(SETUP, |session| async move {
        let scan = async |sql: &str, measure| found!(&session, sql, measure, Evidence::SequentialScan { read, kept, counted, .. } => (read.round(), *kept, *counted));
        let counted = scan("SELECT * FROM t WHERE k = 7", Measure::Reads).await;
        assert_eq!(counted, Some((50_000.0, 50.0, true)));
        let (read, kept, counted) = scan("SELECT * FROM t WHERE k = 7", Measure::No).await.expect("expected");
        assert!(read >= 50_000.0 && kept < 500.0 && !counted, "{read} {kept}");
        for sql in ["SELECT * FROM t WHERE k >= 0", "SELECT * FROM t", "SELECT * FROM small WHERE k = 7"] {
            assert_eq!(scan(sql, Measure::Reads).await, None, "{sql}");
        }
        on(&session, "CREATE INDEX ON t (k)").await;
        assert_eq!(scan("SELECT * FROM t WHERE k = 7", Measure::Reads).await, None);
    });
}

#[test]
fn rows_that_nobody_expected_are_found_until_the_planner_knows_better() {
    const SETUP: &str =
        "CREATE TABLE t AS SELECT i % 50 AS a, i % 50 AS b FROM generate_series(1, 100000) i; ANALYZE t";
    check(SETUP, |session| async move {
        let estimate = async |sql: &str| found!(&session, sql, Measure::Reads, Evidence::Misestimate { expected, given } => (*expected, *given));
        let both = "SELECT * FROM t WHERE a = 1 AND b = 1";
        let (expected, given) = estimate(both).await.expect("the columns depend on each other");
        assert!(expected < 200.0 && (given - 2000.0).abs() < 1.0, "{expected} {given}");
        assert_eq!(estimate("SELECT * FROM t WHERE a = 1").await, None);
        // Fewer than expected because nobody wanted more.
        assert_eq!(estimate("SELECT * FROM t WHERE a >= 0 LIMIT 5").await, None);
        on(&session, "CREATE STATISTICS s (dependencies) ON a, b FROM t; ANALYZE t").await;
        assert_eq!(estimate(both).await, None);
    });
}

#[test]
fn work_that_does_not_fit_into_memory_is_found_and_work_that_does_is_not() {
    const SETUP: &str =
        "CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 20000) i; ANALYZE t";
    check(SETUP, |session| async move {
        let spill = async |sql: &str| found!(&session, sql, Measure::Reads, Evidence::Spill { kib, batches } => (*kib, *batches));
        let sort = "SELECT * FROM t ORDER BY body";
        let hash = "SELECT count(*) FROM t x JOIN t y USING (body)";
        on(&session, "SET enable_mergejoin = off; SET enable_nestloop = off; SET work_mem = '64kB'").await;
        let (kib, _) = spill(sort).await.expect("it sorts on disk");
        assert!(kib > 64, "{kib}");
        let (_, batches) = spill(hash).await.expect("it hashes in parts");
        assert!(batches > 1, "{batches}");
        on(&session, "SET work_mem = '64MB'").await;
        for sql in [sort, hash] {
            assert_eq!(spill(sql).await, None, "{sql}");
        }
    });
}

#[test]
fn a_loop_that_reads_much_again_and_again_is_found_and_one_that_looks_up_is_not() {
    const SETUP: &str = "CREATE TABLE outer_side AS SELECT i AS id FROM generate_series(1, 1000) i; \
        CREATE TABLE inner_side AS SELECT i AS k FROM generate_series(1, 1000) i; \
        ANALYZE outer_side; ANALYZE inner_side; SET enable_hashjoin = off; SET enable_mergejoin = off";
    check(SETUP, |session| async move {
        let sql = "SELECT * FROM outer_side JOIN inner_side ON k = id";
        let blown_up = async |measure| found!(&session, sql, measure, Evidence::NestedLoop { loops, rows_each, counted } => (*loops, *rows_each, *counted));
        assert_eq!(blown_up(Measure::Reads).await, Some((1_000.0, 1_000.0, true)));
        assert_eq!(blown_up(Measure::No).await, Some((1_000.0, 1_000.0, false)));
        on(&session, "CREATE INDEX ON inner_side (k); ANALYZE inner_side").await;
        assert_eq!(blown_up(Measure::Reads).await, None);
        assert_eq!(blown_up(Measure::No).await, None);
    });
}

#[test]
fn a_bitmap_that_lost_its_rows_is_found_and_an_exact_one_is_not() {
    // Few rows to a page, so that a little data has many pages.
    const SETUP: &str = "CREATE TABLE t (id int, k int) WITH (fillfactor = 10); \
        INSERT INTO t SELECT i, i % 10 FROM generate_series(1, 80000) i; CREATE INDEX ON t (k); ANALYZE t; \
        SET enable_seqscan = off; SET enable_indexscan = off";
    check(SETUP, |session| async move {
        let lossy = async || {
            let sql = "SELECT sum(id) FROM t WHERE k = 3";
            found!(&session, sql, Measure::Reads, Evidence::LossyBitmap { exact, lossy } => (*exact, *lossy))
        };
        on(&session, "SET work_mem = '64kB'").await;
        let (exact, lost) = lossy().await.expect("64 kB do not hold it");
        assert!(lost > 0 && exact + lost > 1_000, "{exact} {lost}");
        on(&session, "SET work_mem = '16MB'").await;
        assert_eq!(lossy().await, None);
    });
}

#[test]
fn statistics_of_a_table_as_it_no_longer_is_are_found_until_it_is_analyzed() {
    // The server tells its counters a little later than it resets them, unless it is asked to.
    const SETUP: &str = "CREATE TABLE t (id int) WITH (autovacuum_enabled = off); \
        INSERT INTO t SELECT generate_series(1, 2000); SELECT pg_stat_force_next_flush(); ANALYZE t; \
        CREATE TABLE never (id int) WITH (autovacuum_enabled = off); \
        INSERT INTO never SELECT generate_series(1, 2000)";
    check(SETUP, |session| async move {
        let stale = async |sql: &str| {
            on(&session, "SELECT pg_stat_force_next_flush()").await;
            found!(&session, sql, Measure::No, Evidence::StaleStatistics { changed, analyzed } => (*changed, *analyzed))
        };
        assert_eq!(stale("SELECT * FROM t").await, None);
        assert_eq!(stale("SELECT * FROM never").await, Some((2_000.0, None)));
        on(&session, "INSERT INTO t SELECT generate_series(1, 1500)").await;
        assert_eq!(stale("SELECT * FROM t").await, Some((1_500.0, Some(2_000.0))));
        on(&session, "ANALYZE t").await;
        assert_eq!(stale("SELECT * FROM t").await, None);
    });
}

#[test]
fn partitions_read_in_vain_are_found_and_those_wanted_are_not() {
    const SETUP: &str = "CREATE TABLE p (at date NOT NULL, kind int) PARTITION BY RANGE (at); \
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); \
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2026-02-01') TO ('2026-03-01'); \
        CREATE TABLE p3 PARTITION OF p FOR VALUES FROM ('2026-03-01') TO ('2026-04-01'); \
        CREATE TABLE p4 PARTITION OF p FOR VALUES FROM ('2026-04-01') TO ('2026-05-01'); \
        INSERT INTO p SELECT '2026-01-01'::date + i % 120, i % 7 FROM generate_series(1, 4000) i; ANALYZE p";
    check(SETUP, |session| async move {
        let missing = async |sql: &str, measure| found!(&session, sql, measure, Evidence::MissingPruning { key, scanned, useful, .. } => (key.clone(), *scanned, *useful));
        let key = "RANGE (at)".to_owned();
        let without_key = "SELECT * FROM p WHERE kind = 5";
        assert_eq!(missing(without_key, Measure::No).await, Some((key.clone(), 4, None)));
        let wrapped = "SELECT * FROM p WHERE date_trunc('month', at) = '2026-02-01'";
        assert_eq!(missing(wrapped, Measure::Reads).await, Some((key, 4, Some(1))));
        for sql in [
            "SELECT * FROM p WHERE at = '2026-02-03'",
            "SELECT * FROM p",
            "SELECT * FROM p WHERE at >= '2026-01-01'",
            "SELECT * FROM p WHERE at > '2026-02-15' AND kind = 5",
        ] {
            assert_eq!(missing(sql, Measure::Reads).await, None, "{sql}");
        }
    });
}
