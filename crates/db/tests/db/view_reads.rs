//! Views read with their age, and tables kept as views by keys.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use paystrata_db::Statement;
use paystrata_db::views::{Delta, Ended, IfOlder, Refresh, View, ViewError, Views, When};

use crate::support::{Bed, Plain, count, plain, until_count, with_database};
use crate::views::{cities, view};

static CITIES: Statement = Statement::new("SELECT cities FROM totals", &[]);

const HOUR: Duration = Duration::from_secs(3_600);
const RUNS: &str = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM runs";

fn totals() -> View {
    view("totals", Refresh::Concurrent, When::OnDemand)
}

async fn cities_read(views: &Views, age_max: Duration) -> (i64, bool) {
    let read = views.read("totals", age_max, IfOlder::Refresh).await.expect("a read");
    let row = read.connection.query_one(&CITIES, &[]).await.expect("the view is populated");
    (row.get(0), read.is_refreshed)
}

#[test]
fn a_view_that_was_never_populated_is_refused_or_refreshed_first() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let views = Views::new(&bed.replicated().await, vec![totals()]).expect("a registry");
        let replica = plain(&bed.replica_url()).await;
        let tables = "SELECT count(*) FROM pg_class WHERE relname = 'view_refreshes'";
        until_count(&replica, tables, 1).await;
        let refused = views.read("totals", Duration::MAX, IfOlder::Refuse).await;
        assert!(matches!(refused, Err(ViewError::NeverRefreshed { .. })), "{refused:?}");
        assert_eq!(cities_read(&views, HOUR).await, (10, true));
        until_count(&replica, "SELECT count(*) FROM view_refreshes WHERE refreshes = 1", 1).await;
        assert_eq!(cities_read(&views, HOUR).await, (10, false));
        assert_eq!(count(&admin, RUNS).await, 1);
    });
}

#[test]
fn a_read_tells_the_age_and_refuses_or_refreshes_what_is_older() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let views = Views::new(&bed.primary_only().await, vec![totals()]).expect("a registry");
        assert_eq!(cities_read(&views, HOUR).await, (10, true));
        let grow = "INSERT INTO city VALUES (11, 'x', 1); \
                    UPDATE view_refreshes SET refreshed_at = refreshed_at - interval '2 hours'";
        admin.client.batch_execute(grow).await.expect("let time pass");
        match views.read("totals", HOUR, IfOlder::Refuse).await {
            Err(ViewError::TooOld { age, age_max, .. }) => assert!(age >= 2 * HOUR && age_max == HOUR),
            other => panic!("it is two hours old: {other:?}"),
        }
        let read = views.read("totals", 4 * HOUR, IfOlder::Refuse).await.expect("young enough");
        assert!(read.age >= 2 * HOUR && !read.is_refreshed, "{read:?}");
        drop(read);
        assert_eq!(cities_read(&views, 4 * HOUR).await, (10, false));
        assert_eq!(cities_read(&views, HOUR).await, (11, true));
        assert_eq!(cities_read(&views, HOUR).await, (11, false));
        assert!(views.read("totals", HOUR, IfOlder::Refuse).await.is_ok_and(|read| read.age < HOUR));
    });
}

#[test]
fn many_readers_of_two_nodes_wait_for_one_refresh() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let nodes =
            try_join_all((0..2).map(|_| async { Views::new(&bed.primary_only().await, vec![totals()]) }));
        let nodes = nodes.await.expect("registries");
        let reads = join_all((0..40).map(|number| cities_read(&nodes[number % 2], HOUR))).await;
        assert!(reads.iter().all(|(cities, _)| *cities == 10), "{reads:?}");
        assert_eq!(count(&admin, RUNS).await, 1);
    });
}

#[test]
fn what_a_view_is_made_from_is_refreshed_for_its_reader() {
    with_database(|bed| async move {
        let admin = cities(&bed).await;
        let made = "CREATE MATERIALIZED VIEW twice AS SELECT cities * 2 AS cities FROM totals WITH NO DATA; \
             CREATE MATERIALIZED VIEW four AS SELECT cities * 2 AS cities FROM twice WITH NO DATA; \
             CREATE MATERIALIZED VIEW apart AS SELECT 1 AS one WITH NO DATA";
        admin.client.batch_execute(made).await.expect("make the views");
        let (mut twice, mut four) =
            (view("twice", Refresh::Plain, When::OnDemand), view("four", Refresh::Plain, When::OnDemand));
        twice.made_from = vec!["totals".to_owned()];
        four.made_from = vec!["twice".to_owned()];
        let apart = view("apart", Refresh::Plain, When::OnDemand);
        let views = vec![four, twice, apart, totals()];
        let views = Views::new(&bed.primary_only().await, views).expect("a registry");
        views.read("four", HOUR, IfOlder::Refresh).await.expect("a read");
        assert_eq!(count(&admin, "SELECT cities FROM four").await, 40);
        let status = views.status().await.expect("status");
        for known in status {
            assert_eq!(known.refreshes, i64::from(known.view != "apart"), "{}", known.view);
        }
    });
}

/// The sizes of countries, kept by country.
async fn sizes(bed: &Bed) -> (Plain, Views) {
    let admin = cities(bed).await;
    let made = "CREATE TABLE country (name text PRIMARY KEY, cities int8 NOT NULL, size numeric NOT NULL); \
         CREATE TABLE country_log (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL); \
         CREATE FUNCTION log_country() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF TG_OP <> 'INSERT' THEN INSERT INTO country_log (key) VALUES (OLD.country); END IF; \
             IF TG_OP <> 'DELETE' THEN INSERT INTO country_log (key) VALUES (NEW.country); END IF; \
             RETURN NULL; END $$; \
         CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON city FOR EACH ROW EXECUTE FUNCTION log_country()";
    admin.client.batch_execute(made).await.expect("make the view");
    let delta = Delta {
        log: "country_log".to_owned(),
        key: "name".to_owned(),
        key_type: "text".to_owned(),
        select: "SELECT country, count(*), sum(size) FROM city WHERE country = ANY($1) GROUP BY country",
        all_keys: "SELECT DISTINCT country FROM city",
    };
    let view = view("country", Refresh::Delta(delta), When::OnDemand);
    (admin, Views::new(&bed.primary_only().await, vec![view]).expect("a registry"))
}

/// Rows in which the kept table and the query differ.
const WRONG: &str = "SELECT count(*) FROM country FULL JOIN \
     (SELECT country AS name, count(*) AS cities, sum(size) AS size FROM city GROUP BY country) AS now USING (name) \
     WHERE (country.cities, country.size) IS DISTINCT FROM (now.cities, now.size)";

async fn rows_written(views: &Views) -> i64 {
    match views.refresh("country").await {
        Ok(Ended::Refreshed { rows_written: Some(rows), .. }) => rows,
        other => panic!("nobody else refreshes it: {other:?}"),
    }
}

#[test]
fn only_the_rows_of_changed_keys_are_made_anew() {
    with_database(|bed| async move {
        let (admin, views) = sizes(&bed).await;
        assert_eq!((rows_written(&views).await, count(&admin, WRONG).await), (3, 0));
        assert_eq!(rows_written(&views).await, 0);
        for (change, rows) in [
            ("INSERT INTO city VALUES (11, 'new', 5)", 1),
            ("UPDATE city SET country = 'country 1' WHERE id = 11", 1),
            ("UPDATE city SET size = size + 1 WHERE country = 'country 2'", 1),
            ("DELETE FROM city WHERE country = 'country 0'", 0),
            ("UPDATE city SET country = 'moved' WHERE id IN (1, 2)", 3),
        ] {
            admin.client.batch_execute(change).await.expect(change);
            assert_eq!((rows_written(&views).await, count(&admin, WRONG).await), (rows, 0), "{change}");
        }
        let status = views.status().await.expect("status").remove(0);
        assert_eq!((status.refreshes, status.rows_written), (6, Some(3)), "one found nothing to do");
        // A query that has changed is followed by a table made anew.
        let forget = "DELETE FROM view_refreshes; UPDATE country SET cities = 99";
        admin.client.batch_execute(forget).await.expect("forget");
        assert_eq!((rows_written(&views).await, count(&admin, WRONG).await), (3, 0));
    });
}

#[test]
fn a_change_that_commits_around_a_refresh_is_in_the_next_one() {
    with_database(|bed| async move {
        let (admin, views) = sizes(&bed).await;
        rows_written(&views).await;
        // An entry with a lower number than those that are taken, invisible until later.
        admin.client.batch_execute("BEGIN; UPDATE city SET size = 100 WHERE id = 1").await.expect("begin");
        let other = bed.admin().await;
        other.client.batch_execute("UPDATE city SET size = 200 WHERE id = 4").await.expect("change");
        assert_eq!((rows_written(&views).await, count(&other, WRONG).await), (1, 0));
        admin.client.batch_execute("COMMIT").await.expect("commit");
        assert_eq!(count(&other, WRONG).await, 1);
        assert_eq!((rows_written(&views).await, count(&other, WRONG).await), (1, 0));
    });
}

#[test]
fn under_writes_a_kept_table_ends_equal_to_its_query() {
    const WRITES: i64 = 300;
    with_database(|bed| async move {
        let (admin, views) = sizes(&bed).await;
        let other = bed.admin().await;
        let writes = async {
            for id in 1..=WRITES {
                let change = format!(
                    "INSERT INTO city VALUES ({0}, 'country {1}', {0}); \
                     UPDATE city SET country = 'country {2}', size = size + 1 WHERE id = {3}; \
                     DELETE FROM city WHERE id = {4}",
                    id + 100,
                    id % 7,
                    id % 5,
                    id % 10 + 1,
                    id + 50
                );
                other.client.batch_execute(&change).await.expect("change");
            }
        };
        let refreshes = async {
            for _ in 0..20 {
                rows_written(&views).await;
            }
        };
        tokio::join!(writes, refreshes);
        rows_written(&views).await;
        assert_eq!(count(&admin, WRONG).await, 0);
        assert_eq!(count(&admin, "SELECT count(*) FROM country_log").await, 0);
    });
}
