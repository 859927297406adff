//! Monthly partitions on UUIDv7 keys.

use std::time::UNIX_EPOCH;

use paystrata_db::partitions::{Month, PartitionError, detach_before, ensure_months, list};
use uuid::{NoContext, Timestamp, Uuid};

use crate::support::{Bed, with_database};

const TABLE: &str = "CREATE TABLE entry (id uuid PRIMARY KEY, amount bigint NOT NULL CHECK (amount <> 0)) PARTITION BY RANGE (id)";

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
    });
}
