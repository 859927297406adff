//! Look-ups per row: found where they are, and gone with a loader.

use futures_util::future::try_join_all;
use paystrata_db::repeats::at_most;
use paystrata_db::{CoalesceOptions, Db, LoadError, Loader, Statement, TransactionOptions, Type};

use crate::support::{Bed, with_database};

static VISITS: Statement = Statement::new("SELECT city FROM visit ORDER BY id", &[]);
static NAME: Statement = Statement::new("SELECT name FROM city WHERE id = $1", &[Type::INT8]);
static NAMES: Statement = Statement::new("SELECT id, name FROM city WHERE id = ANY($1)", &[Type::INT8_ARRAY]);

/// Twelve visits to five cities.
async fn scene(bed: &Bed) -> (Db, Loader<i64, String>) {
    let fill = "CREATE TABLE city (id int8 PRIMARY KEY, name text NOT NULL); \
         INSERT INTO city SELECT id, 'city ' || id FROM generate_series(0, 4) id; \
         CREATE TABLE visit (id int8 PRIMARY KEY, city int8 NOT NULL); \
         INSERT INTO visit SELECT id, id % 5 FROM generate_series(1, 12) id";
    bed.admin().await.client.batch_execute(fill).await.expect("make the tables");
    let db = bed.primary_only().await;
    let options = CoalesceOptions { lanes_max: 1, ..CoalesceOptions::default() };
    let names = Loader::new(&db, &NAMES, options, |row| Ok((row.try_get(0)?, row.try_get(1)?)));
    (db, names.expect("a loader"))
}

async fn visited(db: &Db) -> Vec<i64> {
    let rows = db.read().await.expect("read").query(&VISITS, &[]).await.expect("visits");
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_look_up_per_row_is_named_with_its_number_and_its_places() {
    with_database(|bed| async move {
        let (db, _) = scene(&bed).await;
        let request = async {
            for city in visited(&db).await {
                db.read().await.expect("read").query_one(&NAME, &[&city]).await.expect("a name");
            }
        };
        let found = at_most(3, request).await.expect_err("twelve look-ups");
        assert_eq!(found.statements.len(), 1, "the list ran once: {found}");
        let repeat = &found.statements[0];
        assert_eq!((repeat.sql, repeat.runs), (NAME.sql(), 12));
        assert_eq!(repeat.made_at.line(), NAME.place().line());
        let text = format!("{found:?}");
        for part in ["tests/db/repeats.rs", "12 times: SELECT name FROM city", "more than 3 times"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    });
}

#[test]
fn a_read_that_is_sent_again_for_a_slow_neighbour_counts_once() {
    static LONG: Statement = Statement::new("SELECT 1 FROM pg_sleep(0.3)", &[]);
    with_database(|bed| async move {
        let (db, _) = scene(&bed).await;
        db.query_one(None, &NAME, &[&0_i64]).await.expect("a connection to share");
        let request = async {
            let names = (0..20_i64).map(async |visit| db.query_one(None, &NAME, &[&(visit % 5)]).await);
            // In front of them, on the connection that they share.
            tokio::join!(db.query(None, &LONG, &[]), try_join_all(names))
        };
        let (long, names) = at_most(20, request).await.expect("each once");
        assert_eq!((long.expect("a row").len(), names.expect("names").len()), (1, 20));
    });
}

#[test]
fn the_same_through_a_loader_is_two_statements() {
    with_database(|bed| async move {
        let (db, names) = scene(&bed).await;
        let request = async {
            let cities = visited(&db).await;
            Ok::<_, LoadError>(try_join_all(cities.into_iter().map(|city| names.get(city))).await?.len())
        };
        assert_eq!(at_most(1, request).await.expect("no repeats").expect("names"), 12);
        let request = async { names.get_many(visited(&db).await).await.map(|found| found.len()) };
        assert_eq!(at_most(1, request).await.expect("no repeats").expect("names"), 12);
    });
}

#[test]
fn a_loader_that_is_awaited_row_by_row_is_found_out() {
    with_database(|bed| async move {
        let (db, names) = scene(&bed).await;
        let request = async {
            for city in visited(&db).await {
                names.get(city).await.expect("a read");
            }
        };
        let found = at_most(3, request).await.expect_err("twelve batches");
        assert_eq!((found.statements[0].sql, found.statements[0].runs), (NAMES.sql(), 12));
    });
}

#[test]
fn requests_are_counted_apart_and_transactions_too() {
    with_database(|bed| async move {
        let (db, names) = scene(&bed).await;
        // Side by side they share batches; each has a part in few.
        let requests = (0..8).map(|city| at_most(1, names.get(city % 5)));
        for read in try_join_all(requests).await.expect("no repeats") {
            assert!(read.expect("a read").is_some());
        }
        let request = db.transaction(TransactionOptions::default(), |tx| async move {
            for city in 0..4_i64 {
                tx.query_one(&NAME, &[&city]).await?;
            }
            Ok::<_, paystrata_db::Error>(())
        });
        let found = at_most(3, request).await.expect_err("four look-ups");
        assert_eq!(found.statements[0].runs, 4);
    });
}
