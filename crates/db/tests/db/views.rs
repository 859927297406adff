//! Refreshes of views: one in the fleet, in order, and nothing left behind by those that fail, are killed or are dropped.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use paystrata_db::Db;
use paystrata_db::views::{Ended, Refresh, Report, SCHEMA_SQL, Skipped, View, ViewError, Views, When};

use crate::failover::on_cluster;
use crate::support::{Bed, LIMIT, Plain, count, plain, until_count, with_database};

/// Refreshes that have begun to compute, from a sequence that the view draws from.
pub(crate) const RUNS: &str = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM runs";
const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// Refreshes that wait for the lock of a table.
pub(crate) const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock' AND query LIKE 'REFRESH%'";

/// Ten cities, and a view of one row over them that has never been refreshed.
pub(crate) async fn cities(bed: &Bed) -> Plain {
    let admin = bed.admin().await;
    make_cities(&admin).await;
    admin
}

async fn make_cities(admin: &Plain) {
    let tables = "CREATE TABLE city (id int8 PRIMARY KEY, country text NOT NULL, size int8 NOT NULL); \
         INSERT INTO city SELECT id, 'country ' || id % 3, id FROM generate_series(1, 10) id; \
         CREATE SEQUENCE runs; \
         CREATE MATERIALIZED VIEW totals AS SELECT 1 AS one, nextval('runs') AS run, \
             (SELECT count(*) FROM city) AS cities WITH NO DATA; \
         CREATE UNIQUE INDEX ON totals (one)";
    admin.client.batch_execute(tables).await.expect("make the tables");
    admin.client.batch_execute(SCHEMA_SQL).await.expect("make the table of refreshes");
}

/// With more time than any test waits for: what ends sooner was ended by something else.
pub(crate) fn view(name: &str, refresh: Refresh, when: When) -> View {
    let mut view = View::new(name, refresh, when);
    (view.timeout, view.lock_timeout) = (10 * LIMIT, 10 * LIMIT);
    view
}

fn totals() -> View {
    view("totals", Refresh::Concurrent, When::OnDemand)
}

fn made_from(name: &str, sources: &[&str]) -> View {
    let mut view = view(name, Refresh::Plain, When::OnDemand);
    view.made_from = sources.iter().map(|source| (*source).to_owned()).collect();
    view
}

pub(crate) async fn node(bed: &Bed, views: Vec<View>) -> Views {
    Views::new(&bed.primary_only().await, views).expect("a registry")
}

async fn eight(bed: &Bed) -> Vec<Views> {
    join_all((0..8).map(|_| node(bed, vec![totals()]))).await
}

pub(crate) fn is_refreshed(ended: &Result<Ended, ViewError>) -> bool {
    matches!(ended, Ok(Ended::Refreshed { .. }))
}

/// Scenario 39 of the reference.
#[test]
fn of_eight_nodes_that_ask_at_once_one_refreshes_and_the_others_are_told_of_the_last_time() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let nodes = eight(&bed).await;
        let Ok(Ended::Refreshed { as_of: first, .. }) = nodes[0].refresh("totals").await else {
            panic!("nobody else refreshes it")
        };
        // The one that refreshes cannot read the table before the others have their answers.
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let mut asked: FuturesUnordered<_> = nodes.iter().map(|node| node.refresh("totals")).collect();
        for _ in 0..7 {
            match asked.next().await.expect("eight answers").expect("a skip is no failure") {
                Ended::Skipped { why, as_of, .. } => {
                    assert_eq!((why, as_of), (Skipped::Busy, Some(first)));
                }
                refreshed => panic!("the table is locked: {refreshed:?}"),
            }
        }
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        match asked.next().await.expect("eight answers") {
            Ok(Ended::Refreshed { as_of, .. }) => assert!(as_of > first),
            other => panic!("the lock is free: {other:?}"),
        }
        assert_eq!(count(&admin, RUNS).await, 2);
    });
}

#[test]
fn however_eight_nodes_meet_there_is_one_refresh() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let nodes = eight(&bed).await;
        for round in 1..=5 {
            let ended = join_all(nodes.iter().map(|node| node.refresh("totals"))).await;
            assert_eq!(ended.iter().filter(|ended| is_refreshed(ended)).count(), 1, "{ended:?}");
            assert!(ended.iter().all(Result::is_ok), "{ended:?}");
            assert_eq!(count(&admin, RUNS).await, round);
        }
    });
}

#[test]
fn when_the_refresher_is_killed_the_lock_is_free_and_the_next_attempt_runs() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let (views, other) = (node(&bed, vec![totals()]).await, bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let killed = tokio::spawn({
            let views = views.clone();
            async move { views.refresh("totals").await }
        });
        until_count(&other, BLOCKED, 1).await;
        assert_eq!(count(&other, LOCKS).await, 1);
        let kill = BLOCKED.replace("count(*)", "count(pg_terminate_backend(pid))");
        assert_eq!(count(&other, &kill).await, 1);
        assert!(killed.await.expect("a task").is_err());
        // The table is still locked: nothing but the end of the connection has freed it.
        until_count(&other, LOCKS, 0).await;
        let status = views.status().await.expect("status").remove(0);
        assert_eq!((status.as_of, status.error.as_deref()), (None, Some("SQLSTATE 57P01")));
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        assert!(is_refreshed(&views.refresh("totals").await));
        let status = views.status().await.expect("status").remove(0);
        assert_eq!((status.refreshes, status.error, status.failed_at), (1, None, None));
    });
}

#[test]
fn a_refresh_that_is_dropped_while_it_runs_is_ended_on_the_server() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let (views, other) = (node(&bed, vec![totals()]).await, bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let dropped = tokio::spawn({
            let views = views.clone();
            async move { views.refresh("totals").await }
        });
        until_count(&other, BLOCKED, 1).await;
        dropped.abort();
        until_count(&other, BLOCKED, 0).await;
        until_count(&other, LOCKS, 0).await;
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        assert_eq!(count(&other, RUNS).await, 0);
        assert!(is_refreshed(&views.refresh("totals").await));
    });
}

/// Polls a future so often, whenever it is woken, and drops it then.
async fn drop_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[test]
fn a_refresh_may_be_dropped_at_any_poll() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let views = node(&bed, vec![totals()]).await;
        let mut polls = 0;
        while drop_after(polls, views.refresh("totals")).await.is_none() {
            until_count(&admin, LOCKS, 0).await;
            polls += 1;
        }
        assert!(polls > 5, "it has that many awaits at least: {polls}");
        assert!(is_refreshed(&views.refresh("totals").await));
        assert_eq!(count(&admin, "SELECT cities FROM totals").await, 10);
    });
}

fn ended(reports: &[Report]) -> Vec<(String, String)> {
    let word = |report: &Report| match &report.ended {
        Ok(Ended::Refreshed { .. }) => "refreshed".to_owned(),
        Ok(Ended::Skipped { why, .. }) => format!("{why:?}"),
        Err(ViewError::Database { source, .. }) => {
            source.sqlstate().map_or_else(|| source.to_string(), |state| state.code().to_owned())
        }
        Err(ViewError::Blocked { by, .. }) => format!("blocked by {by}"),
        Err(error) => error.to_string(),
    };
    reports.iter().map(|report| (report.view.clone(), word(report))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(view, end)| ((*view).to_owned(), (*end).to_owned())).collect()
}

#[test]
fn a_failing_view_stops_those_made_from_it_and_no_others() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let made = "CREATE MATERIALIZED VIEW shares AS SELECT id, 100 / size AS share FROM city WITH NO DATA; \
             CREATE MATERIALIZED VIEW top AS SELECT max(share) AS share FROM shares WITH NO DATA; \
             CREATE MATERIALIZED VIEW summary AS SELECT share FROM top, totals WITH NO DATA; \
             CREATE MATERIALIZED VIEW twice AS SELECT cities * 2 AS cities FROM totals WITH NO DATA; \
             UPDATE city SET size = 0 WHERE id = 7";
        admin.client.batch_execute(made).await.expect("make the views");
        let shares = view("shares", Refresh::Plain, When::OnDemand);
        let views = vec![
            made_from("summary", &["top", "totals"]),
            made_from("top", &["shares"]),
            shares,
            made_from("twice", &["totals"]),
            totals(),
        ];
        let views = node(&bed, views).await;
        let outcome = [
            ("shares", "22012"),
            ("top", "blocked by shares"),
            ("totals", "refreshed"),
            ("summary", "blocked by top"),
            ("twice", "refreshed"),
        ];
        assert_eq!(ended(&views.refresh_all().await), pairs(&outcome));
        let marks: Vec<Option<String>> =
            views.status().await.expect("status").into_iter().map(|status| status.error).collect();
        let expected = [
            Some("SQLSTATE 22012"),
            Some("view top was not refreshed, because shares was not"),
            None,
            Some("view summary was not refreshed, because top was not"),
            None,
        ];
        assert_eq!(marks, expected.map(|mark| mark.map(str::to_owned)));
        assert_eq!(count(&admin, "SELECT cities FROM twice").await, 20);
        // What was never refreshed cannot be read, so that nobody is made from it by name either.
        let alone = views.refresh("top").await;
        assert!(matches!(&alone, Err(ViewError::Blocked { by, .. }) if by == "shares"), "{alone:?}");
        admin.client.batch_execute("UPDATE city SET size = 1 WHERE id = 7").await.expect("mend");
        assert!(views.refresh_all().await.iter().all(|report| is_refreshed(&report.ended)));
        assert!(views.status().await.expect("status").iter().all(|status| status.error.is_none()));
        // What was refreshed once could be read, but is known to be old.
        admin.client.batch_execute("UPDATE city SET size = 0 WHERE id = 7").await.expect("break again");
        assert_eq!(ended(&views.refresh_all().await), pairs(&outcome));
    });
}

#[test]
fn a_view_is_no_younger_than_what_it_is_made_from() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let made = "CREATE MATERIALIZED VIEW twice AS SELECT cities * 2 AS cities FROM totals WITH NO DATA";
        admin.client.batch_execute(made).await.expect("make the view");
        let views = node(&bed, vec![totals(), made_from("twice", &["totals"])]).await;
        let as_of = |ended| match ended {
            Ok(Ended::Refreshed { as_of, .. }) => as_of,
            other => panic!("nobody else refreshes it: {other:?}"),
        };
        let below = as_of(views.refresh("totals").await);
        for _ in 0..2 {
            assert_eq!(as_of(views.refresh("twice").await), below);
        }
    });
}

/// The report of one view, once its time has come.
pub(crate) async fn when_due(views: &Views, name: &str) -> String {
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            let reports = views.refresh_due().await.expect("a round");
            if let Some((_, end)) = ended(&reports).into_iter().find(|(view, _)| view == name) {
                return end;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("{name} never came due"))
}

#[test]
fn what_has_not_changed_is_not_refreshed_when_its_time_comes() {
    const COUNTED: &str = "SELECT pg_stat_force_next_flush()";
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let tables = "CREATE TABLE visit (id int8) PARTITION BY RANGE (id); \
             CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (100); \
             CREATE MATERIALIZED VIEW visits AS SELECT count(*) AS visits FROM visit; \
             CREATE MATERIALIZED VIEW twice AS SELECT visits * 2 AS visits FROM visits";
        admin.client.batch_execute(tables).await.expect("make the tables");
        let when = When::OnChange { pause: Duration::from_millis(1) };
        let mut visits = view("visits", Refresh::Plain, when);
        visits.tables = vec!["visit".to_owned()];
        let mut twice = view("twice", Refresh::Plain, when);
        twice.made_from = vec!["visits".to_owned()];
        // Two registries, so that each waits for one view.
        let (below, above) = (node(&bed, vec![visits.clone()]).await, {
            visits.when = When::OnDemand;
            node(&bed, vec![twice, visits]).await
        });
        assert_eq!(when_due(&below, "visits").await, "refreshed");
        assert_eq!(when_due(&above, "twice").await, "refreshed");
        for _ in 0..2 {
            assert_eq!(when_due(&below, "visits").await, "Unchanged");
            assert_eq!(when_due(&above, "twice").await, "Unchanged");
        }
        let inserted = format!("INSERT INTO visit VALUES (7); {COUNTED}");
        for (change, visits) in [(inserted.as_str(), 1), ("TRUNCATE visit", 0)] {
            admin.client.batch_execute(change).await.expect("change the table");
            assert_eq!(when_due(&above, "twice").await, "Unchanged", "{change}");
            assert_eq!(when_due(&below, "visits").await, "refreshed", "{change}");
            assert_eq!(when_due(&above, "twice").await, "refreshed", "{change}");
            assert_eq!(count(&admin, "SELECT visits FROM twice").await, 2 * visits, "{change}");
            assert_eq!(when_due(&below, "visits").await, "Unchanged", "{change}");
        }
        assert!(is_refreshed(&below.refresh("visits").await), "whoever asks by name gets a refresh");
    });
}

#[test]
fn what_stands_in_the_way_of_a_refresh_is_named() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let made = "CREATE TABLE plain (id int8); CREATE MATERIALIZED VIEW bare AS SELECT id FROM city; \
             CREATE MATERIALIZED VIEW partly AS SELECT id FROM city; \
             CREATE UNIQUE INDEX ON partly (id) WHERE id > 0; CREATE UNIQUE INDEX ON partly ((id + 1)); \
             CREATE MATERIALIZED VIEW shown AS SELECT current_setting('test.note') AS note WITH NO DATA";
        admin.client.batch_execute(made).await.expect("make the views");
        let concurrent = |name| view(name, Refresh::Concurrent, When::OnDemand);
        let mut shown = made_from("shown", &[]);
        shown.settings = vec![("test.note".to_owned(), "it's; here".to_owned())];
        let views =
            vec![concurrent("bare"), concurrent("partly"), concurrent("plain"), concurrent("nowhere"), shown];
        let views = node(&bed, views).await;
        for (name, problem) in [
            (
                "bare",
                "view bare needs a unique index over plain columns, without WHERE, to be refreshed concurrently",
            ),
            (
                "partly",
                "view partly needs a unique index over plain columns, without WHERE, to be refreshed concurrently",
            ),
            ("plain", "plain is no materialized view in this database"),
            ("nowhere", "nowhere is no materialized view in this database"),
            ("unheard_of", "view unheard_of is not registered"),
        ] {
            assert_eq!(views.refresh(name).await.expect_err(name).to_string(), problem);
        }
        assert!(is_refreshed(&views.refresh("shown").await));
        let kept = "SELECT count(*) FROM shown WHERE note = 'it''s; here'";
        assert_eq!(count(&admin, kept).await, 1);
    });
}

async fn four_over_totals(bed: &Bed, sources: &[&str]) -> Views {
    let views = ["near", "far", "hidden", "lone"].map(|name| made_from(name, sources));
    node(bed, views.into_iter().chain([totals()]).collect()).await
}

#[test]
fn what_a_view_is_made_from_is_compared_with_what_it_reads() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let made = "CREATE VIEW passed_on AS SELECT cities FROM totals; \
             CREATE FUNCTION counted() RETURNS int8 LANGUAGE sql AS 'SELECT cities FROM totals'; \
             CREATE MATERIALIZED VIEW near AS SELECT cities FROM totals WITH NO DATA; \
             CREATE MATERIALIZED VIEW far AS SELECT cities FROM passed_on WITH NO DATA; \
             CREATE MATERIALIZED VIEW hidden AS SELECT counted() WITH NO DATA; \
             CREATE MATERIALIZED VIEW lone AS SELECT 1 AS one WITH NO DATA";
        admin.client.batch_execute(made).await.expect("make the views");
        let silent = four_over_totals(&bed, &[]).await;
        assert!(is_refreshed(&silent.refresh("totals").await));
        for name in ["near", "far"] {
            let problem = format!("view {name} reads totals, which its made_from does not name");
            assert_eq!(silent.refresh(name).await.expect_err(name).to_string(), problem);
        }
        for name in ["hidden", "lone"] {
            assert!(is_refreshed(&silent.refresh(name).await), "{name}");
        }
        let told = four_over_totals(&bed, &["totals"]).await;
        for name in ["near", "far", "hidden"] {
            assert!(is_refreshed(&told.refresh(name).await), "{name}");
        }
        let problem = "view lone does not read totals, which its made_from names";
        assert_eq!(told.refresh("lone").await.expect_err("nothing").to_string(), problem);
        let mark = "SELECT count(*) FROM view_refreshes WHERE view = 'lone' AND error = ";
        assert_eq!(count(&admin, &format!("{mark}'{problem}'")).await, 1);
    });
}

#[test]
fn a_refresh_that_takes_too_long_is_given_up_and_leaves_nothing() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let mut slow = totals();
        (slow.timeout, slow.lock_timeout) = (LIMIT, Duration::from_millis(50));
        let views = node(&bed, vec![slow]).await;
        let other = bed.admin().await;
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        match views.refresh("totals").await {
            Err(ViewError::Database { source, .. }) => {
                assert_eq!(source.sqlstate().map(|state| state.code()), Some("55P03"));
            }
            other => panic!("the table is locked: {other:?}"),
        }
        let mut hasty = totals();
        (hasty.timeout, hasty.lock_timeout) = (Duration::from_millis(200), LIMIT);
        let hasty = node(&bed, vec![hasty]).await;
        assert!(hasty.refresh("totals").await.is_err());
        until_count(&other, LOCKS, 0).await;
        assert_eq!(count(&other, RUNS).await, 0);
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        assert!(is_refreshed(&views.refresh("totals").await));
    });
}

#[test]
fn the_keeper_refreshes_what_is_due_until_it_is_dropped() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let every = view("totals", Refresh::Concurrent, When::Every(Duration::from_millis(1)));
        let views = node(&bed, vec![every]).await;
        let keeper = tokio::spawn(async move { views.run().await });
        until_count(&admin, "SELECT count(*) FROM view_refreshes WHERE refreshes >= 2", 1).await;
        keeper.abort();
        assert!(keeper.await.is_err_and(|end| end.is_cancelled()));
        until_count(&admin, LOCKS, 0).await;
    });
}

#[test]
fn a_refresh_whose_commit_is_not_answered_is_not_said_to_have_failed() {
    on_cluster(|cluster, config| async move {
        let admin = plain(&cluster.url("primary")).await;
        make_cities(&admin).await;
        cluster.stop("replica");
        cluster.run_on("primary", "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        cluster.run_on("primary", "SELECT pg_reload_conf()").await;
        until_count(&admin, "SELECT (current_setting('synchronous_standby_names') = '*')::int::bigint", 1)
            .await;
        let db = Db::connect(config).await.expect("the primary is there");
        let view = View { timeout: Duration::from_secs(3), ..totals() };
        let views = Views::new(&db, vec![view]).expect("a registry");
        let unanswered = async {
            loop {
                match views.refresh("totals").await {
                    Err(ViewError::CommitUnknown { .. }) => break,
                    // Commits do not wait yet, or the machine is busy.
                    Ok(_) | Err(ViewError::Timeout { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        tokio::time::timeout(LIMIT, unanswered).await.expect("commits wait for the standby");
        // It was done, and shows once nobody is waited for.
        cluster.run_on("primary", "ALTER SYSTEM RESET synchronous_standby_names").await;
        cluster.run_on("primary", "SELECT pg_reload_conf()").await;
        until_count(&admin, "SELECT count(*) FROM view_refreshes WHERE refreshed_at IS NOT NULL", 1).await;
    });
}
