//! Index advice.

use paystrata_db::plans::{Advice, AdviseOptions, HypoPg, Refusal, Workload, WorkloadStatement, advise};

use super::on;
use crate::support::{Bed, count, until, with_database};

const INDEXES: &str = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";

fn workload(statements: &[(&str, u64)]) -> Workload {
    let statement = |(sql, calls): &(&str, u64)| WorkloadStatement { sql: (*sql).to_owned(), calls: *calls };
    Workload { statements: statements.iter().map(statement).collect() }
}

async fn advice(bed: &Bed, setup: &str, statements: &[(&str, u64)], options: &AdviseOptions) -> Advice {
    let db = bed.primary_only().await;
    let session = db.session("advise").await.expect("session");
    on(&session, setup).await;
    on(&session, "SELECT pg_stat_force_next_flush()").await;
    advise(&session, &workload(statements), options).await.expect("advice")
}

fn advised(advice: &Advice) -> Vec<String> {
    advice.indexes.iter().map(|one| one.index.to_string()).collect()
}

fn refusal<'a>(advice: &'a Advice, index: &str) -> Option<&'a Refusal> {
    advice.rejected.iter().find(|one| one.index.to_string() == index).map(|one| &one.why)
}

#[test]
fn a_selective_statement_on_a_million_rows_gets_its_index_and_nothing_is_created() {
    const SETUP: &str = "CREATE EXTENSION hypopg; \
        CREATE UNLOGGED TABLE big AS SELECT i AS id, i % 50000 AS customer, now() AS at FROM generate_series(1, 1000000) i; \
        ANALYZE big";
    with_database(|bed| async move {
        let statements = [("SELECT id FROM big WHERE customer = $1 ORDER BY id", 5_000)];
        let advice = advice(&bed, SETUP, &statements, &AdviseOptions::default()).await;
        assert!(
            matches!(&advice.hypopg, HypoPg::Installed { version } if version.starts_with("1.")),
            "{advice}"
        );
        let [index] = &advice.indexes[..] else { panic!("one index: {advice}") };
        assert_eq!(index.index.to_string(), "public.big (customer)");
        let [helped] = &index.helps[..] else { panic!("one statement: {advice}") };
        assert!(helped.cost_with < helped.cost_without / 10.0 && index.size > 1 << 20, "{advice}");
        let page = advice.to_string();
        assert!(page.contains("CREATE INDEX CONCURRENTLY") && page.contains("5000 calls"), "{page}");
        assert_eq!(count(&bed.admin().await, INDEXES).await, 0);
    });
}

#[test]
fn small_tables_and_columns_that_have_an_index_get_none() {
    const SETUP: &str = "CREATE EXTENSION hypopg; \
        CREATE TABLE small AS SELECT i AS id, i AS k FROM generate_series(1, 200) i; \
        CREATE TABLE big AS SELECT i AS id, i % 1000 AS kind FROM generate_series(1, 50000) i; \
        CREATE INDEX big_kind_id ON big (kind, id); ANALYZE small; ANALYZE big";
    with_database(|bed| async move {
        // Nothing is too cheap to be looked at.
        let options = AdviseOptions { cost_min: 0.0, ..AdviseOptions::default() };
        let statements = [
            ("SELECT * FROM small WHERE k = $1", 1_000_000),
            ("SELECT * FROM big WHERE kind = $1", 1_000_000),
        ];
        let advice = advice(&bed, SETUP, &statements, &options).await;
        assert_eq!(advice.indexes.len(), 0, "{advice}");
        assert_eq!(
            refusal(&advice, "public.small (k)"),
            Some(&Refusal::SmallTable { rows: 200.0 }),
            "{advice}"
        );
        let by = "big_kind_id".to_owned();
        assert_eq!(refusal(&advice, "public.big (kind)"), Some(&Refusal::Indexed { by }), "{advice}");
    });
}

#[test]
fn a_table_written_far_more_than_it_is_read_gets_none_and_the_same_one_read_more_does() {
    const SETUP: &str = "CREATE EXTENSION hypopg; CREATE TABLE w (id int, k int, n int) WITH (autovacuum_enabled = off); \
        INSERT INTO w SELECT i, i % 5000, 0 FROM generate_series(1, 50000) i; \
        UPDATE w SET n = n + 1; UPDATE w SET n = n + 1; UPDATE w SET n = n + 1; ANALYZE w";
    with_database(|bed| async move {
        let sql = "SELECT * FROM w WHERE k = $1";
        let rare = advice(&bed, SETUP, &[(sql, 10)], &AdviseOptions::default()).await;
        assert_eq!(rare.indexes.len(), 0, "{rare}");
        let Some(Refusal::Writes { saves, write_cost }) = refusal(&rare, "public.w (k)") else {
            panic!("{rare}")
        };
        // 50,000 inserted and three times updated, at four each.
        assert!(*saves > 0.0 && *write_cost >= 800_000.0, "{rare}");
        let often = advice(&bed, "", &[(sql, 1_000_000)], &AdviseOptions::default()).await;
        assert_eq!(often.indexes.len(), 1, "{often}");
    });
}

/// A replica counts no rows written: by its own counters the index would cost nothing.
#[test]
fn a_replica_plans_and_the_writes_that_it_weighs_are_those_that_the_primary_has_counted() {
    const SETUP: &str = "CREATE EXTENSION hypopg; CREATE TABLE w (id int, k int, n int) WITH (autovacuum_enabled = off); \
        INSERT INTO w SELECT i, i % 5000, 0 FROM generate_series(1, 50000) i; \
        UPDATE w SET n = n + 1; UPDATE w SET n = n + 1; UPDATE w SET n = n + 1; ANALYZE w";
    with_database(|bed| async move {
        let db = bed.replicated().await;
        let session = db.session("setup").await.expect("session");
        on(&session, SETUP).await;
        on(&session, "SELECT pg_stat_force_next_flush()").await;
        let token = session.token().await.expect("token");
        let status = until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;

        let sql = "SELECT * FROM w WHERE k = $1";
        let rare = workload(&[(sql, 10)]);
        let told = db.advise(&rare, &AdviseOptions::default()).await.expect("advice");
        assert_eq!(told.node, status.nodes[1].id);
        assert!(matches!(told.hypopg, HypoPg::Installed { .. }) && told.indexes.is_empty(), "{told}");
        let Some(Refusal::Writes { write_cost, .. }) = refusal(&told, "public.w (k)") else {
            panic!("{told}")
        };
        assert!(*write_cost >= 800_000.0, "{told}");
        let often = workload(&[(sql, 1_000_000)]);
        let told = db.advise(&often, &AdviseOptions::default()).await.expect("advice");
        assert_eq!(advised(&told), ["public.w (k)"], "{told}");
        let per_call = told.indexes[0].saves_per_call();
        assert!(
            per_call > 100.0 && per_call < 10_000.0,
            "one scan of the table is a thousand or two: {told}"
        );

        // Without a replica the primary does it.
        let told = bed.primary_only().await.advise(&rare, &AdviseOptions::default()).await.expect("advice");
        assert_eq!(told.node, status.nodes[0].id);
    });
}

#[test]
fn a_column_covered_by_a_pair_that_pays_gets_no_index_of_its_own() {
    const SETUP: &str = "CREATE EXTENSION hypopg; CREATE UNLOGGED TABLE t AS \
        SELECT i AS id, i % 100 AS a, (i / 100) % 100 AS c FROM generate_series(1, 200000) i; ANALYZE t";
    with_database(|bed| async move {
        let both = ("SELECT id FROM t WHERE a = $1 AND c = $2", 100_000);
        let one = ("SELECT sum(id) FROM t WHERE a = $1", 100_000);
        let alone = advice(&bed, SETUP, &[one], &AdviseOptions::default()).await;
        assert_eq!(advised(&alone), ["public.t (a)"], "{alone}");
        let together = advice(&bed, "", &[one, both], &AdviseOptions::default()).await;
        assert_eq!(advised(&together), ["public.t (a, c)"], "{together}");
        assert!(matches!(refusal(&together, "public.t (a)"), Some(Refusal::Covered { .. })), "{together}");
    });
}

#[test]
fn without_hypopg_it_says_so_and_names_what_it_saw() {
    const SETUP: &str =
        "CREATE TABLE t AS SELECT i AS id, i % 5000 AS k FROM generate_series(1, 50000) i; ANALYZE t";
    with_database(|bed| async move {
        let statements =
            [("SELECT * FROM t WHERE k = $1", 9), ("SELECT nothing FROM nowhere WHERE x = 'secret'", 5)];
        let advice = advice(&bed, SETUP, &statements, &AdviseOptions::default()).await;
        assert_eq!((&advice.hypopg, advice.indexes.len()), (&HypoPg::Absent, 0));
        assert_eq!(advice.unweighed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["public.t (k)"]);
        let page = advice.to_string();
        assert!(page.contains("HypoPG is not installed") && page.contains("no plan for"), "{page}");
        assert!(!page.contains("secret"), "{page}");
    });
}

#[test]
fn a_column_is_not_refused_for_a_pair_that_is_refused_itself() {
    const SETUP: &str = "CREATE EXTENSION hypopg; CREATE TABLE t WITH (autovacuum_enabled = off) AS \
        SELECT i AS id, i % 100 AS a, (i / 100) % 100 AS c FROM generate_series(1, 200000) i; \
        UPDATE t SET id = id + 1; ANALYZE t";
    with_database(|bed| async move {
        let both = ("SELECT id FROM t WHERE a = $1 AND c = $2", 1);
        let one = ("SELECT sum(id) FROM t WHERE a = $1", 1_000_000);
        let advice = advice(&bed, SETUP, &[one, both], &AdviseOptions::default()).await;
        assert_eq!(advised(&advice), ["public.t (a)"], "{advice}");
        assert!(matches!(refusal(&advice, "public.t (a, c)"), Some(Refusal::Writes { .. })), "{advice}");
    });
}
