//! A look at what was built, some time afterwards.

use std::time::{Duration, Instant};

use paystrata_db::plans::{
    Approval, CreateOptions, Created, Fate, IndexColumns, Review, ReviewError, ReviewOptions, Reviewed,
    TableName, Verdict, create_index, review_indexes,
};
use paystrata_db::{Db, Session};

use super::on;
use crate::cluster::free_port;
use crate::support::{Bed, Plain, count, plain, until, until_count, url, with_database};

const SETUP: &str = "CREATE TABLE note (id int, k int) WITH (autovacuum_enabled = off); \
    INSERT INTO note SELECT i, i % 10 FROM generate_series(1, 1000) i";
const STANDING: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'note'::regclass";
const ACTS: &str = "SELECT string_agg(act, ', ' ORDER BY at) FROM index_audit";

fn index() -> IndexColumns {
    let table = TableName { schema: "public".to_owned(), name: "note".to_owned() };
    IndexColumns { table, columns: vec!["k".to_owned()] }
}

/// Builds the index, of which a call saves so much by its advice.
async fn build(session: &Session, saves_per_call: Option<f64>) {
    let options = CreateOptions { approval: Approval::Given, saves_per_call, ..CreateOptions::default() };
    assert_eq!(create_index(session, &index(), &options).await.expect("built"), Created::Built);
}

/// Judges at once. One scan is use enough.
fn at_once(approval: Approval) -> ReviewOptions {
    ReviewOptions { approval, age_min: Duration::ZERO, scans_unused_max: 0, ..ReviewOptions::default() }
}

async fn review(db: &Db, options: &ReviewOptions) -> Review {
    review_indexes(db, options).await.expect("review")
}

fn only(review: &Review) -> &Reviewed {
    let [reviewed] = &review.indexes[..] else { panic!("one index: {review}") };
    assert_eq!(reviewed.name, index().name());
    reviewed
}

/// Has a server read by the index, and waits until that is counted.
async fn scan(server: &Plain) {
    server.client.batch_execute("SET enable_seqscan = off").await.expect("set");
    server.client.batch_execute("SELECT count(*) FROM note WHERE k = 7").await.expect("read");
    server.client.batch_execute("SELECT pg_stat_force_next_flush()").await.expect("flush");
    let scanned = format!("SELECT (pg_stat_get_numscans('{}'::regclass) > 0)::int::bigint", index().name());
    until_count(server, &scanned, 1).await;
}

async fn acts(admin: &Plain) -> String {
    admin.client.query_one(ACTS, &[]).await.expect("audit").get(0)
}

async fn built(bed: &Bed, saves_per_call: Option<f64>) -> (Db, Plain) {
    let db = bed.primary_only().await;
    let session = db.session("index").await.expect("session");
    on(&session, SETUP).await;
    build(&session, saves_per_call).await;
    (db, bed.admin().await)
}

#[test]
fn an_index_that_nobody_uses_is_named_and_taken_back_only_when_told() {
    with_database(|bed| async move {
        let (db, admin) = built(&bed, None).await;
        let seen = review(&db, &at_once(Approval::Withheld)).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Unused, Fate::Stands), "{seen}");
        assert_eq!(count(&admin, STANDING).await, 1);
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Unused, Fate::TakenBack), "{seen}");
        assert_eq!(count(&admin, STANDING).await, 0);
        assert_eq!(acts(&admin).await, "begun, built, condemned, taken back");
        assert!(review(&db, &at_once(Approval::Given)).await.indexes.is_empty());
        // What was taken back may be built again, and is looked at again.
        build(&db.session("index").await.expect("session"), None).await;
        assert_eq!(only(&review(&db, &at_once(Approval::Withheld)).await).fate, Fate::Stands);
    });
}

#[test]
fn a_database_in_which_nothing_was_built_is_left_as_it_is() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert!(seen.indexes.is_empty() && seen.swept.is_empty(), "{seen}");
        let audits = "SELECT count(*) FROM pg_tables WHERE tablename = 'index_audit'";
        assert_eq!(count(&bed.admin().await, audits).await, 0);
    });
}

#[test]
fn an_index_that_only_a_replica_reads_by_is_used() {
    with_database(|bed| async move {
        let db = bed.replicated().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        build(&session, None).await;
        let token = session.token().await.expect("token");
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        scan(&plain(&bed.replica_url()).await).await;
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Pays, Fate::Stands), "{seen}");
        assert_eq!(count(&bed.admin().await, STANDING).await, 1);
    });
}

#[test]
fn an_index_is_not_judged_before_everybody_has_counted_for_long_enough() {
    with_database(|bed| async move {
        let begun = Instant::now();
        let (db, admin) = built(&bed, None).await;
        let patient = ReviewOptions { approval: Approval::Given, ..ReviewOptions::default() };
        let seen = review(&db, &patient).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Young, Fate::Stands), "{seen}");
        assert!(only(&seen).figures.counted <= begun.elapsed(), "no longer than it stands: {seen}");
        // Old enough by itself, and the counters are set back.
        let age = "UPDATE index_audit SET at = at - interval '30 days'";
        admin.client.batch_execute(age).await.expect("age");
        let begun = Instant::now();
        admin.client.batch_execute("SELECT pg_stat_reset()").await.expect("set back");
        let seen = review(&db, &patient).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Young, Fate::Stands), "{seen}");
        assert!(only(&seen).figures.counted <= begun.elapsed(), "no longer than anybody counts: {seen}");
        assert_eq!(count(&admin, STANDING).await, 1);
    });
}

#[test]
fn nothing_is_judged_while_a_server_cannot_be_asked() {
    with_database(|bed| async move {
        let (_db, admin) = built(&bed, None).await;
        let mut config = bed.config();
        config.replica_urls = vec![url(&format!("postgres://nobody@127.0.0.1:{}/nothing", free_port()))];
        let db = Db::connect(config).await.expect("the primary answers");
        let refused = review_indexes(&db, &at_once(Approval::Given)).await.expect_err("it is not known");
        assert!(matches!(refused, ReviewError::Unseen { .. }), "{refused}");
        assert_eq!(count(&admin, STANDING).await, 1);
    });
}

/// Each scan of it saves next to nothing, and then next to everything.
#[test]
fn an_index_whose_writes_cost_more_than_its_scans_save_is_taken_back() {
    const WRITE: &str = "INSERT INTO note SELECT i, i % 10 FROM generate_series(1, 10000) i";
    for (saves_per_call, verdict, fate) in
        [(1e-9, Verdict::Dear, Fate::TakenBack), (1e15, Verdict::Pays, Fate::Stands)]
    {
        with_database(move |bed| async move {
            let (db, admin) = built(&bed, Some(saves_per_call)).await;
            admin.client.batch_execute(WRITE).await.expect("write");
            scan(&admin).await;
            let seen = review(&db, &at_once(Approval::Given)).await;
            assert_eq!((only(&seen).verdict, only(&seen).fate), (verdict, fate), "{seen}");
            assert!(only(&seen).figures.writes_cost_a_day > 0.0, "{seen}");
            assert_eq!(count(&admin, STANDING).await, i64::from(fate == Fate::Stands));
        });
    }
}

#[test]
fn an_index_answers_for_no_row_that_was_written_before_it() {
    with_database(|bed| async move {
        let (db, admin) = (bed.primary_only().await, bed.admin().await);
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        on(&session, "SELECT pg_stat_force_next_flush()").await;
        until_count(&admin, "SELECT pg_stat_get_tuples_inserted('note'::regclass)", 1_000).await;
        build(&session, Some(1e-9)).await;
        scan(&admin).await;
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Pays, Fate::Stands), "{seen}");
        assert!(only(&seen).figures.writes_cost_a_day <= 0.0, "{seen}");
    });
}

#[test]
fn an_index_that_has_become_part_of_a_partitioned_one_is_left_alone() {
    const ATTACH: &str = "CREATE TABLE whole (id int, k int) PARTITION BY RANGE (id); \
        CREATE INDEX whole_k ON whole (k); \
        ALTER TABLE whole ATTACH PARTITION note FOR VALUES FROM (0) TO (1000000)";
    with_database(|bed| async move {
        let (db, admin) = built(&bed, None).await;
        admin.client.batch_execute(ATTACH).await.expect("attach");
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert!(seen.indexes.is_empty() && seen.swept.is_empty(), "{seen}");
        assert_eq!(count(&admin, STANDING).await, 1);
    });
}

#[test]
fn no_index_is_dropped_while_an_old_transaction_reads_on_a_replica() {
    const OLD: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND state = 'idle in transaction' AND clock_timestamp() - xact_start > interval '2 s'";
    with_database(|bed| async move {
        let db = bed.replicated().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        build(&session, None).await;
        let token = session.token().await.expect("token");
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        let (reader, replica) = (plain(&bed.replica_url()).await, plain(&bed.replica_url()).await);
        reader.client.batch_execute("BEGIN; SELECT 1").await.expect("begin");
        until_count(&replica, OLD, 1).await;
        let wary = ReviewOptions { transaction_age_max: Duration::ZERO, ..at_once(Approval::Given) };
        let seen = review(&db, &wary).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Unused, Fate::Stuck), "{seen}");
        reader.client.batch_execute("COMMIT").await.expect("commit");
        assert_eq!(count(&bed.admin().await, STANDING).await, 1);
        assert_eq!(only(&review(&db, &at_once(Approval::Given)).await).fate, Fate::TakenBack);
    });
}

#[test]
fn an_index_that_somebody_made_under_the_name_of_ours_is_left_alone() {
    with_database(|bed| async move {
        let (db, admin) = built(&bed, None).await;
        let drop = format!("DROP INDEX {}", index().name());
        admin.client.batch_execute(&drop).await.expect("drop");
        admin.client.batch_execute(&index().create_sql()).await.expect("create by hand");
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert!(seen.indexes.is_empty() && seen.swept.is_empty(), "{seen}");
        assert_eq!(count(&admin, STANDING).await, 1);
    });
}

#[test]
fn an_index_whose_drop_gets_no_lock_is_dropped_by_the_next_review() {
    with_database(|bed| async move {
        let (db, admin) = built(&bed, None).await;
        // A transaction that has written keeps a concurrent drop waiting once the planner has ceased to use the index.
        admin.client.batch_execute("BEGIN; INSERT INTO note VALUES (0, 0)").await.expect("write");
        let hasty = ReviewOptions { lock_timeout: Duration::from_millis(100), ..at_once(Approval::Given) };
        let seen = review(&db, &hasty).await;
        assert_eq!((only(&seen).verdict, only(&seen).fate), (Verdict::Unused, Fate::Stuck), "{seen}");
        // Nor does a leftover end a review that gets no lock for it either.
        let seen = review(&db, &hasty).await;
        assert!(seen.indexes.is_empty() && seen.swept.is_empty(), "{seen}");
        admin.client.batch_execute("COMMIT").await.expect("commit");
        assert_eq!(count(&admin, STANDING).await, 1);
        let seen = review(&db, &at_once(Approval::Given)).await;
        assert_eq!(seen.swept, [format!("public.{}", index().name())], "{seen}");
        assert_eq!(count(&admin, STANDING).await, 0);
    });
}

/// The one that is refused is the last one by name.
#[test]
fn a_drop_that_is_refused_hides_nothing_that_was_found_or_done() {
    with_database(|bed| async move {
        let (db, admin) = built(&bed, None).await;
        let other = IndexColumns { columns: vec!["id".to_owned()], ..index() };
        let options = CreateOptions { approval: Approval::Given, ..CreateOptions::default() };
        let session = db.session("index").await.expect("session");
        create_index(&session, &other, &options).await.expect("built");
        let (mut first, mut last) = (index().name(), other.name());
        if first > last {
            std::mem::swap(&mut first, &mut last);
        }
        let keep = format!(
            "CREATE FUNCTION keep() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF current_query() LIKE '%{last}%' THEN RAISE EXCEPTION 'it stays'; END IF; END $$; \
             CREATE EVENT TRIGGER keep ON ddl_command_start WHEN TAG IN ('DROP INDEX') EXECUTE FUNCTION keep()"
        );
        admin.client.batch_execute(&keep).await.expect("keep one of them");
        let refused =
            review_indexes(&db, &at_once(Approval::Given)).await.expect_err("it may not be dropped");
        let ReviewError::Stopped { review, source } = &refused else { panic!("{refused:?}") };
        assert_eq!(source.code().map(|code| code.code()), Some("P0001"));
        let found: Vec<_> =
            review.indexes.iter().map(|index| (index.name.as_str(), index.verdict, index.fate)).collect();
        let expected = [
            (first.as_str(), Verdict::Unused, Fate::TakenBack),
            (last.as_str(), Verdict::Unused, Fate::Stands),
        ];
        assert_eq!(found, expected);
        assert_eq!(count(&admin, STANDING).await, 1);
        admin.client.batch_execute("DROP EVENT TRIGGER keep").await.expect("let it go");
        assert_eq!(
            review_indexes(&db, &at_once(Approval::Given)).await.expect("review").indexes[0].fate,
            Fate::TakenBack
        );
    });
}

#[test]
fn who_builds_keeps_a_review_away() {
    with_database(|bed| async move {
        let (db, _admin) = built(&bed, None).await;
        let other = db.session("other").await.expect("session");
        on(&other, "SELECT pg_advisory_lock(x'006462696e646578'::bigint)").await;
        let told = review_indexes(&db, &at_once(Approval::Given)).await.expect_err("it is held");
        assert!(matches!(told, ReviewError::Busy), "{told}");
        on(&other, "SELECT pg_advisory_unlock_all()").await;
        assert_eq!(only(&review(&db, &at_once(Approval::Given)).await).fate, Fate::TakenBack);
    });
}

#[test]
fn an_audit_from_before_indexes_were_taken_back_goes_on() {
    const OLD: &str = "CREATE TABLE index_audit ( \
        at timestamptz NOT NULL DEFAULT clock_timestamp(), \
        act text NOT NULL CHECK (act IN ('begun', 'built', 'failed', 'swept')), \
        schema_name text NOT NULL, index_name text NOT NULL, statement text NOT NULL, detail text NOT NULL); \
        INSERT INTO index_audit (act, schema_name, index_name, statement, detail) \
        VALUES ('built', 'public', 'advised_old', '', '')";
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let old = format!("{SETUP}; CREATE INDEX advised_old ON note (id); {OLD}");
        admin.client.batch_execute(&old).await.expect("as it was");
        let db = bed.primary_only().await;
        // Nobody knows whether it is the same one.
        assert!(review(&db, &at_once(Approval::Given)).await.indexes.is_empty());
        build(&db.session("index").await.expect("session"), None).await;
        assert_eq!(only(&review(&db, &at_once(Approval::Given)).await).fate, Fate::TakenBack);
        assert_eq!(acts(&admin).await, "built, begun, built, condemned, taken back");
        assert_eq!(count(&admin, STANDING).await, 1);
    });
}
