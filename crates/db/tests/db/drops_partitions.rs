//! The keeping of partitions, dropped at any poll: each month is attached or not there, what is half detached is told, and the
//! next call does the rest.

use paystrata_db::partitions::{Month, detach_before, ensure_months, list, watch};
use paystrata_db::{Db, Session};

use crate::drops::{dropped_after, few, strides, whole};
use crate::support::{count, until_count, with_database};

const TABLE: &str =
    "CREATE TABLE entry (id uuid PRIMARY KEY, amount bigint NOT NULL) PARTITION BY RANGE (id)";
const KEEPERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'paystrata-db/partitions'";

fn month(month: u8) -> Month {
    Month::new(2026, month).expect("a valid month")
}

async fn keeper(db: &Db) -> Session {
    db.session("partitions").await.expect("session")
}

#[test]
fn months_whose_making_is_dropped_at_any_poll_are_whole_or_not_there() {
    /// Tables of months that belong to nothing.
    const STRAYS: &str = "SELECT count(*) FROM pg_class WHERE relname LIKE 'entry_2026%' AND relkind = 'r' \
        AND NOT relispartition";
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        // One for all: a making that is dropped leaves the session as it was.
        let session = keeper(&db).await;
        session.client().batch_execute("SET statement_timeout = '72s'").await.expect("set");
        for polls in strides(32) {
            let anew = format!("DROP TABLE IF EXISTS entry; {TABLE}");
            admin.client.batch_execute(&anew).await.expect("make the table");
            let made = dropped_after(polls, ensure_months(&session, "entry", month(1), 2)).await;
            // Served behind whatever was sent.
            let there = list(&session, "entry").await.expect("the session lives on");
            assert_eq!(count(&admin, STRAYS).await, 0, "after {polls} polls");
            let own = session.client().query_one("SELECT current_setting('statement_timeout')", &[]).await;
            assert_eq!(own.expect("a setting").get::<_, &str>(0), "72s", "after {polls} polls");
            let all = ensure_months(&session, "entry", month(1), 2).await.expect("the rest");
            assert_eq!((all.len(), &all[..there.len()]), (3, &there[..]), "after {polls} polls");
            assert_eq!(list(&session, "entry").await.expect("list"), all);
            whole(&db, &admin).await;
            if let Some(made) = made {
                assert_eq!((made.expect("made"), there), (all.clone(), all));
                assert!(polls > 3, "it was dropped in several places");
                return;
            }
        }
        panic!("it never ended");
    });
}

#[test]
fn a_detach_dropped_at_any_poll_is_finished_by_the_next_call() {
    // Concurrently, in two transactions, and under a lock, in one.
    for default in ["", "; CREATE TABLE entry_rest PARTITION OF entry DEFAULT"] {
        with_database(move |bed| async move {
            let (db, admin) = (few(&bed).await, bed.admin().await);
            admin.client.batch_execute(&format!("{TABLE}{default}")).await.expect("make the table");
            let made = ensure_months(&keeper(&db).await, "entry", month(1), 2).await.expect("make");
            let row = format!("INSERT INTO entry VALUES ('{}', 1)", month(1).first_uuid());
            admin.client.batch_execute(&row).await.expect("insert");
            for polls in strides(32) {
                let session = keeper(&db).await;
                let attached = ensure_months(&session, "entry", month(1), 2).await;
                assert_eq!(attached.expect("attach them again"), made);
                let detached = dropped_after(polls, detach_before(&session, "entry", month(3))).await;
                // What the server is about it does to its end.
                drop(session);
                until_count(&admin, KEEPERS, 0).await;
                let session = keeper(&db).await;
                let cut = watch(&session, "entry", Some(month(3))).await.expect("watch");
                // The one that is half detached among them.
                let left = cut.past_retention.expect("it was asked for");
                let rest = detach_before(&session, "entry", month(3)).await.expect("the rest");
                assert_eq!(rest.len(), left, "after {polls} polls: {cut:?}");
                assert_eq!(list(&session, "entry").await.expect("list"), made[2..], "after {polls} polls");
                let end = watch(&session, "entry", Some(month(3))).await.expect("watch");
                assert_eq!((end.past_retention, end.detaching), (Some(0), None), "after {polls} polls");
                assert_eq!(count(&admin, "SELECT count(*) FROM entry_2026_01").await, 1, "it keeps its rows");
                whole(&db, &admin).await;
                if let Some(detached) = detached {
                    assert_eq!((detached.expect("detached"), left), (made[..2].to_vec(), 0));
                    assert!(polls > 2, "it was dropped in several places");
                    return;
                }
            }
            panic!("it never ended");
        });
    }
}
