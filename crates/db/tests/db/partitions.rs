//! Monthly partitions on UUIDv7 keys: made, watched, detached, and what stands in the way of each.

use std::error::Error as _;
use std::time::{Duration, UNIX_EPOCH};

use paystrata_db::Session;
use paystrata_db::partitions::{
    AttachLimits, DEFAULT_ROWS_MAX, DefaultPartition, DetachLimits, Month, MonthsAhead, Partition,
    PartitionError, Watched, detach_before, detach_before_within, ensure_months, ensure_months_within, list,
    watch,
};
use uuid::{NoContext, Timestamp, Uuid};

use crate::support::{Bed, LIMIT, Plain, count, with_database};

const TABLE: &str = "CREATE TABLE entry (id uuid PRIMARY KEY, amount bigint NOT NULL CHECK (amount <> 0)) PARTITION BY RANGE (id)";

const DEFAULT: &str = "CREATE TABLE entry_rest PARTITION OF entry DEFAULT";

async fn entry_table(bed: &Bed) {
    bed.admin().await.client.batch_execute(TABLE).await.expect("create the table");
}

fn month(year: i32, month: u8) -> Month {
    Month::new(year, month).expect("a valid month")
}

fn id_at(millis: u64) -> Uuid {
    let nanos = u32::try_from(millis % 1000).expect("below a thousand") * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, millis / 1000, nanos))
}

/// The table with January to March 2026, and a connection outside of what is tested.
struct Quarter {
    session: Session,
    admin: Plain,
    made: Vec<Partition>,
}

async fn quarter(bed: &Bed) -> Quarter {
    entry_table(bed).await;
    let session = bed.primary_only().await.session("partitions").await.expect("session");
    let made = ensure_months(&session, "entry", month(2026, 1), 2).await.expect("make");
    Quarter { session, admin: bed.admin().await, made }
}

async fn run(plain: &Plain, sql: &str) {
    plain.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn insert(session: &Session, millis: u64) {
    let sql = "INSERT INTO entry VALUES ($1, 1)";
    session.client().execute(sql, &[&id_at(millis)]).await.expect("insert");
}

async fn watched(session: &Session) -> Watched {
    watch(session, "entry", Some(month(2026, 2))).await.expect("watch")
}

#[test]
fn a_row_lands_in_the_partition_of_its_ids_month() {
    with_database(|bed| async move {
        entry_table(&bed).await;
        let db = bed.primary_only().await;
        let session = db.session("partitions").await.expect("session");
        let made = ensure_months(&session, "entry", month(2026, 11), 2).await.expect("make");
        let names: Vec<_> = made.iter().map(|partition| partition.name.as_str()).collect();
        assert_eq!(names, ["entry_2026_11", "entry_2026_12", "entry_2027_01"]);
        let (first, end) = (month(2026, 12).first_millisecond(), month(2027, 1).first_millisecond());
        let table = [
            (first - 1, "entry_2026_11"),
            (first, "entry_2026_12"),
            (end - 1, "entry_2026_12"),
            (end, "entry_2027_01"),
        ];
        for (millis, partition) in table {
            let insert = "INSERT INTO entry VALUES ($1, 1) RETURNING tableoid::regclass::text";
            let row = session.client().query_one(insert, &[&id_at(millis)]).await.expect("insert");
            assert_eq!(row.get::<_, &str>(0), partition);
        }
        let refused = session.client().execute("INSERT INTO entry VALUES ($1, 0)", &[&id_at(first)]).await;
        assert!(refused.is_err(), "the table's constraints hold in its partitions");
    });
}

#[test]
fn keepers_that_meet_make_each_partition_once() {
    with_database(|bed| async move {
        entry_table(&bed).await;
        let db = bed.primary_only().await;
        let keep = || async {
            let session = db.session("partitions").await.expect("session");
            ensure_months(&session, "entry", month(2026, 1), 5).await.expect("make")
        };
        let (one, other) = tokio::join!(keep(), keep());
        assert_eq!(one, other);
        let session = db.session("partitions").await.expect("session");
        assert_eq!(list(&session, "entry").await.expect("list"), one);
        assert_eq!(keep().await, one);
    });
}

#[test]
fn old_months_are_detached_and_keep_their_rows() {
    with_database(|bed| async move {
        entry_table(&bed).await;
        let db = bed.primary_only().await;
        let session = db.session("partitions").await.expect("session");
        let made = ensure_months(&session, "entry", month(2026, 1), 3).await.expect("make");
        let old = id_at(month(2026, 1).first_millisecond());
        session.client().execute("INSERT INTO entry VALUES ($1, 1)", &[&old]).await.expect("insert");
        let detached = detach_before(&session, "entry", month(2026, 3)).await.expect("detach");
        assert_eq!(detached, made[..2]);
        assert_eq!(list(&session, "entry").await.expect("list"), made[2..]);
        let kept: i64 = session
            .client()
            .query_one("SELECT count(*) FROM entry_2026_01", &[])
            .await
            .expect("count")
            .get(0);
        assert_eq!(kept, 1);
        assert_eq!(detach_before(&session, "entry", month(2026, 3)).await.expect("nothing left"), []);
    });
}

#[test]
fn names_and_spans_that_cannot_be_meant_are_refused() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("partitions").await.expect("session");
        let now = Month::containing(UNIX_EPOCH);
        let quoted = ensure_months(&session, "entry; DROP TABLE x", now, 1).await;
        assert!(matches!(quoted, Err(PartitionError::TableName { .. })));
        let endless = ensure_months(&session, "entry", now, 100_000).await;
        assert!(matches!(endless, Err(PartitionError::TooManyMonths { months: 100_000 })));
        let missing = list(&session, "entry").await;
        assert!(matches!(missing, Err(PartitionError::Postgres { .. })));
        run(&bed.admin().await, "CREATE TABLE entry (id uuid)").await;
        let plain = watch(&session, "entry", None).await;
        assert!(matches!(plain, Err(PartitionError::NotPartitioned { .. })), "{plain:?}");
    });
}

#[test]
fn watching_tells_how_far_months_reach_what_is_due_and_what_no_month_took() {
    with_database(|bed| async move {
        entry_table(&bed).await;
        let session = bed.primary_only().await.session("partitions").await.expect("session");
        let nothing =
            Watched { months: 0, end: None, gap: None, past_retention: None, detaching: None, default: None };
        assert_eq!(watch(&session, "entry", None).await.expect("watch"), nothing);
        ensure_months(&session, "entry", month(2026, 1), 2).await.expect("make");
        ensure_months(&session, "entry", month(2026, 12), 0).await.expect("make");
        let mut expected = Watched {
            months: 4,
            end: Some(month(2027, 1)),
            gap: Some(month(2026, 4)),
            past_retention: Some(1),
            ..nothing
        };
        assert_eq!(watched(&session).await, expected);
        let admin = bed.admin().await;
        run(&admin, DEFAULT).await;
        insert(&session, month(2026, 5).first_millisecond()).await;
        let rest = |rows| Some(DefaultPartition { name: "entry_rest".to_owned(), rows });
        expected.default = rest(Some(1));
        assert_eq!(watched(&session).await, expected);
        let many = "INSERT INTO entry SELECT ('ffffffff-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1 \
            FROM generate_series(1, 20000) AS n";
        run(&admin, many).await;
        expected.default = rest(Some(DEFAULT_ROWS_MAX + 1));
        assert_eq!(watched(&session).await, expected);
        // What cannot be counted hides nothing else.
        run(&admin, "BEGIN; LOCK TABLE entry_rest").await;
        expected.default = rest(None);
        assert_eq!(watched(&session).await, expected);
    });
}

#[test]
fn rows_in_the_default_partition_stop_their_own_month_alone_and_the_error_names_them() {
    with_database(|bed| async move {
        entry_table(&bed).await;
        let session = bed.primary_only().await.session("partitions").await.expect("session");
        let admin = bed.admin().await;
        run(&admin, DEFAULT).await;
        insert(&session, month(2026, 2).first_millisecond()).await;
        let make = || ensure_months(&session, "entry", month(2026, 1), 2);
        let blocked = make().await.expect_err("a row of February is in the way");
        let PartitionError::DefaultHoldsRows { table, month: of, default, .. } = &blocked else {
            panic!("{blocked:?}")
        };
        assert_eq!((table.as_str(), *of, default.as_str()), ("entry", month(2026, 2), "entry_rest"));
        let text = blocked.to_string();
        for part in ["of entry:", "entry_rest", &month(2026, 2).first_uuid(), &month(2026, 3).first_uuid()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(blocked.source().is_some(), "the server's words are kept");
        let made = list(&session, "entry").await.expect("list");
        assert_eq!(made.iter().map(|made| made.month.month()).collect::<Vec<_>>(), [1, 3]);
        run(&admin, "DELETE FROM entry_rest").await;
        assert_eq!(list(&session, "entry").await.expect("list").len() + 1, make().await.expect("make").len());
        // A row that is wrong in the table to be attached is no fault of the default partition.
        let wrong = "CREATE TABLE entry_2026_04 (LIKE entry INCLUDING ALL); \
            INSERT INTO entry_2026_04 VALUES ('ffffffff-0000-4000-8000-000000000000', 1)";
        run(&admin, wrong).await;
        let refused = ensure_months(&session, "entry", month(2026, 4), 0).await;
        assert!(matches!(refused, Err(PartitionError::Postgres { .. })), "{refused:?}");
    });
}

#[test]
fn beside_a_default_partition_months_are_detached_under_a_lock_that_is_not_waited_for_long() {
    with_database(|bed| async move {
        let Quarter { session, admin, made } = quarter(&bed).await;
        run(&admin, DEFAULT).await;
        run(&admin, "BEGIN; SELECT count(*) FROM entry").await;
        let limits = DetachLimits { timeout: 10 * LIMIT, lock_timeout: Duration::from_millis(1) };
        let locked = detach_before_within(&session, "entry", month(2026, 3), limits).await;
        let locked = locked.expect_err("a reader has the table");
        let PartitionError::Locked { table, partition, default, .. } = &locked else { panic!("{locked:?}") };
        assert_eq!([table, partition, default], ["entry", "entry_2026_01", "entry_rest"]);
        assert_eq!(list(&session, "entry").await.expect("list"), made);
        assert_eq!(watched(&session).await.detaching, None);
        run(&admin, "COMMIT").await;
        assert_eq!(detach_before(&session, "entry", month(2026, 3)).await.expect("detach"), made[..2]);
        assert_eq!(list(&session, "entry").await.expect("list"), made[2..]);
        assert!(watched(&session).await.default.is_some(), "the default partition stays");
    });
}

/// Detaches before `month` until the server notes that one is half done: on a busy machine, the limit may come earlier.
async fn cut_off(session: &Session, before: Month) -> Partition {
    let limits = DetachLimits { timeout: Duration::from_millis(200), ..DetachLimits::default() };
    let cutting = async {
        loop {
            let ended = detach_before_within(session, "entry", before, limits).await;
            assert!(matches!(ended, Err(PartitionError::DetachStopped { .. })), "{ended:?}");
            if let Some(partition) = watched(session).await.detaching {
                return partition;
            }
        }
    };
    tokio::time::timeout(LIMIT, cutting).await.expect("a detach is cut off")
}

#[test]
fn a_detach_that_was_cut_off_is_finished_by_the_next_call() {
    // Whoever read the table keeps its first half waiting, whoever read the partition its second one.
    for read in ["entry", "entry_2026_01"] {
        with_database(move |bed| async move {
            let Quarter { session, admin, made } = quarter(&bed).await;
            insert(&session, month(2026, 1).first_millisecond()).await;
            let own = "SET lock_timeout = '71s'; SET statement_timeout = '72s'";
            session.client().batch_execute(own).await.expect("set");
            run(&admin, &format!("BEGIN; SELECT count(*) FROM {read}")).await;
            assert_eq!(cut_off(&session, month(2026, 2)).await, made[0]);
            assert_eq!(cut_off(&session, month(2026, 2)).await, made[0], "finishing is bounded too");
            assert_eq!(list(&session, "entry").await.expect("list"), made[1..]);
            let half = watched(&session).await;
            assert_eq!((half.months, half.past_retention), (2, Some(1)));
            run(&admin, "COMMIT").await;
            assert_eq!(detach_before(&session, "entry", month(2026, 2)).await.expect("detach"), made[..1]);
            let whole = watched(&session).await;
            assert_eq!((whole.months, whole.past_retention, whole.detaching), (2, Some(0), None));
            assert_eq!(count(&admin, "SELECT count(*) FROM entry_2026_01").await, 1);
            let own = "SELECT current_setting('lock_timeout') || current_setting('statement_timeout')";
            let row = session.client().query_one(own, &[]).await.expect("settings");
            assert_eq!(row.get::<_, &str>(0), "71s72s", "the session's own limits stand again");
        });
    }
}

#[test]
fn what_was_cut_off_is_finished_whatever_its_month_and_though_there_is_a_default_partition() {
    with_database(|bed| async move {
        let Quarter { session, admin, made } = quarter(&bed).await;
        assert_eq!(detach_before(&session, "entry", month(2026, 3)).await.expect("detach"), made[..2]);
        run(&admin, "BEGIN; SELECT count(*) FROM entry").await;
        assert_eq!(cut_off(&session, month(2026, 4)).await, made[2]);
        run(&admin, "COMMIT").await;
        ensure_months(&session, "entry", month(2026, 1), 1).await.expect("attach them again");
        run(&admin, DEFAULT).await;
        let detached = detach_before(&session, "entry", month(2026, 2)).await.expect("detach");
        assert_eq!(detached, [made[0].clone(), made[2].clone()]);
        assert_eq!(list(&session, "entry").await.expect("list"), made[1..2]);
    });
}

#[test]
fn a_month_that_is_half_detached_is_named_and_not_taken_for_made() {
    with_database(|bed| async move {
        let Quarter { session, admin, made } = quarter(&bed).await;
        run(&admin, "BEGIN; SELECT count(*) FROM entry").await;
        assert_eq!(cut_off(&session, month(2026, 2)).await, made[0]);
        run(&admin, "COMMIT").await;
        let make = || ensure_months(&session, "entry", month(2026, 1), 3);
        let named = make().await.expect_err("January is on its way out");
        let PartitionError::Detaching { table, partition } = &named else { panic!("{named:?}") };
        assert_eq!([table, partition], ["entry", "entry_2026_01"]);
        let others = list(&session, "entry").await.expect("list");
        assert_eq!(others.iter().map(|made| made.month.month()).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(detach_before(&session, "entry", month(2026, 1)).await.expect("finish"), made[..1]);
        assert_eq!(make().await.expect("make").len(), 4);
        assert_eq!(list(&session, "entry").await.expect("list").len(), 4);
    });
}

#[test]
fn a_month_that_is_not_made_in_time_is_named_and_leaves_nothing() {
    with_database(|bed| async move {
        let Quarter { session, admin, made } = quarter(&bed).await;
        session.client().batch_execute("SET statement_timeout = '72s'").await.expect("set");
        run(&admin, "BEGIN; LOCK TABLE entry").await;
        let wanted = MonthsAhead { from: month(2026, 1), months: 3 };
        let limits = AttachLimits { timeout: Duration::from_millis(200), lock_timeout: 10 * LIMIT };
        // What stands is seen without a lock.
        let stopped = ensure_months_within(&session, "entry", wanted, limits).await;
        let stopped = stopped.expect_err("the table is locked");
        let PartitionError::AttachStopped { partition, within, .. } = &stopped else { panic!("{stopped:?}") };
        assert_eq!((partition.as_str(), *within), ("entry_2026_04", limits.timeout));
        run(&admin, "COMMIT").await;
        assert_eq!(list(&session, "entry").await.expect("list"), made);
        assert_eq!(count(&admin, "SELECT count(*) FROM pg_class WHERE relname = 'entry_2026_04'").await, 0);
        let own = session.client().query_one("SELECT current_setting('statement_timeout')", &[]).await;
        assert_eq!(own.expect("a setting").get::<_, &str>(0), "72s");
        let patient = AttachLimits { timeout: 10 * LIMIT, ..limits };
        let there = ensure_months_within(&session, "entry", wanted, patient).await.expect("make");
        assert_eq!(list(&session, "entry").await.expect("list"), there);
    });
}

#[test]
fn partitions_that_were_moved_to_another_schema_are_detached_there() {
    with_database(|bed| async move {
        let Quarter { session, admin, made } = quarter(&bed).await;
        run(&admin, "CREATE SCHEMA \"Old\"; ALTER TABLE entry_2026_01 SET SCHEMA \"Old\"").await;
        assert_eq!(detach_before(&session, "entry", month(2026, 2)).await.expect("detach"), made[..1]);
        assert_eq!(list(&session, "entry").await.expect("list"), made[1..]);
        assert_eq!(count(&admin, "SELECT count(*) FROM \"Old\".entry_2026_01").await, 0);
    });
}
