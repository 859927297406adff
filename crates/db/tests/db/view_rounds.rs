//! Rounds of refreshes that are due: what two nodes do that meet in them, and whether there is anything to do.

use std::time::Duration;

use paystrata_db::Error;
use paystrata_db::views::{Ended, Refresh, Report, Skipped, Views, When};
use tokio::task::JoinHandle;

use crate::support::{Bed, LIMIT, Plain, count, until_count, with_database};
use crate::views::{BLOCKED, RUNS, cities, is_refreshed, node, view, when_due};

/// A round of this node that has come to a view of the table `held`, which `admin` keeps locked until it commits.
async fn stuck_round(bed: &Bed, admin: &Plain, node: &Views) -> JoinHandle<Result<Vec<Report>, Error>> {
    admin.client.batch_execute("BEGIN; LOCK TABLE held").await.expect("lock");
    let node = node.clone();
    let stuck = tokio::spawn(async move { node.refresh_due().await });
    until_count(&bed.admin().await, BLOCKED, 1).await;
    stuck
}

/// Two nodes that found the same views due go through them in turn: what the one has done, the other does not do again.
#[test]
fn of_two_nodes_that_found_a_view_due_the_later_one_leaves_it_alone() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let slow = "CREATE TABLE held (x int); CREATE MATERIALIZED VIEW slow AS SELECT count(*) FROM held WITH NO DATA";
        admin.client.batch_execute(slow).await.expect("make a view");
        let every = |name: &str| view(name, Refresh::Plain, When::Every(10 * LIMIT));
        let views = || vec![every("slow"), every("totals")];
        let (one, other) = (node(&bed, views()).await, node(&bed, views()).await);
        // The first is stuck at its first view, which the other leaves to it.
        let stuck = stuck_round(&bed, &admin, &one).await;
        let passed = other.refresh_due().await.expect("a round");
        assert!(matches!(passed[0].ended, Ok(Ended::Skipped { why: Skipped::Busy, .. })), "{passed:?}");
        assert!(is_refreshed(&passed[1].ended), "{passed:?}");
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        let late = stuck.await.expect("a task").expect("a round");
        assert!(is_refreshed(&late[0].ended), "{late:?}");
        assert!(matches!(late[1].ended, Ok(Ended::Skipped { why: Skipped::Done, .. })), "{late:?}");
        assert_eq!(count(&admin, RUNS).await, 1);
    });
}

/// The one was refreshed by another process before the other, which it is made from.
#[test]
fn a_view_that_was_refreshed_before_its_source_is_refreshed_again() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let tables = "CREATE TABLE held (x int); CREATE MATERIALIZED VIEW base AS SELECT count(*) AS n FROM held WITH NO DATA; \
             CREATE UNIQUE INDEX ON base (n); CREATE MATERIALIZED VIEW derived AS SELECT n * 2 AS n FROM base WITH NO DATA";
        admin.client.batch_execute(tables).await.expect("make the views");
        admin.client.batch_execute("REFRESH MATERIALIZED VIEW base").await.expect("an older state");
        let every = |name: &str, refresh| view(name, refresh, When::Every(Duration::from_secs(3)));
        let views = || {
            let mut derived = every("derived", Refresh::Plain);
            derived.made_from = vec!["base".to_owned()];
            // It can be read while it is refreshed.
            vec![every("base", Refresh::Concurrent), derived]
        };
        let (one, other) = (node(&bed, views()).await, node(&bed, views()).await);
        assert!(one.refresh_due().await.expect("a round").iter().all(|report| is_refreshed(&report.ended)));
        admin.client.batch_execute("INSERT INTO held VALUES (1)").await.expect("change");
        // Both are due again.
        tokio::time::sleep(Duration::from_millis(3_200)).await;
        let stuck = stuck_round(&bed, &admin, &one).await;
        let passed = other.refresh_due().await.expect("a round");
        assert!(is_refreshed(&passed[1].ended), "from the older state: {passed:?}");
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        let late = stuck.await.expect("a task").expect("a round");
        assert!(late.iter().all(|report| is_refreshed(&report.ended)), "{late:?}");
        assert_eq!(count(&admin, "SELECT n::int8 FROM derived").await, 2);
    });
}

#[test]
fn changes_of_heirs_are_seen_and_what_cannot_be_told_is_taken_for_a_change() {
    const COUNTED: &str = "SELECT pg_stat_force_next_flush()";
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let tables = "CREATE TABLE reading (id int8); CREATE TABLE heir () INHERITS (reading); CREATE TABLE grandchild () INHERITS (heir); \
             CREATE VIEW shown AS SELECT id FROM reading; \
             CREATE MATERIALIZED VIEW readings AS SELECT count(*) AS readings FROM reading";
        admin.client.batch_execute(tables).await.expect("make the tables");
        let mut readings =
            view("readings", Refresh::Plain, When::OnChange { pause: Duration::from_millis(1) });
        readings.tables = vec!["reading".to_owned()];
        let views = node(&bed, vec![readings.clone()]).await;
        assert_eq!(when_due(&views, "readings").await, "refreshed");
        assert_eq!(when_due(&views, "readings").await, "Unchanged");
        let inserted = format!("INSERT INTO grandchild VALUES (7); {COUNTED}");
        admin.client.batch_execute(&inserted).await.expect("change the table");
        assert_eq!(when_due(&views, "readings").await, "refreshed");
        assert_eq!(when_due(&views, "readings").await, "Unchanged");
        readings.tables = vec!["shown".to_owned()];
        let views = node(&bed, vec![readings]).await;
        for _ in 0..2 {
            assert_eq!(when_due(&views, "readings").await, "refreshed", "nothing counts what a view shows");
        }
    });
}
