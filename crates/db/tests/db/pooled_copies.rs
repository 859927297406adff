//! Rows that are copied through PgBouncer: they arrive, bad ones are named, and nothing of it stays on the server connection, which
//! others use next.

use futures_util::TryStreamExt as _;
use paystrata_db::{BadRows, Bulk, BulkOptions, Conflict, Db, Method, Statement, TableName};

use crate::bouncer::Bouncer;
use crate::support::{LIMIT, url, with_database};

#[derive(Clone, Debug, PartialEq)]
struct Note {
    id: i64,
    body: String,
}

paystrata_db::row!(Note { id: INT8, body: TEXT });

/// Names that the driver gave; newer poolers keep some of their own.
static NAMES: Statement =
    Statement::new("SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'PGBOUNCER%'", &[]);
static TABLES: Statement = Statement::new("SELECT count(*) FROM pg_class WHERE relpersistence = 't'", &[]);

fn note(id: i64, body: &str) -> Note {
    Note { id, body: body.to_owned() }
}

/// Scenario 28 of the reference: what the load of many clients has no part of.
#[test]
fn rows_are_copied_through_a_pooler_and_leave_nothing_on_its_server_connection() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let make = "CREATE TABLE note (id int8 PRIMARY KEY, body text NOT NULL)";
        admin.client.batch_execute(make).await.expect("create");
        // One for all, so that whoever asks last meets what is left there.
        let bouncer = Bouncer::start(&bed.primary_url(), "transaction", "default_pool_size = 1");
        let mut config = bed.config();
        config.pooler_url = Some(url(&bouncer.through(&bed.primary_url())));
        config.statement_timeout = LIMIT;
        let db = Db::connect(config).await.expect("connect through the pooler");
        let table: Bulk<Note> = Bulk::open(&db, &TableName::new("note")).await.expect("it fits");

        let options = BulkOptions {
            method: Method::Copy,
            bad_rows: BadRows::Report,
            chunk_rows_max: 500,
            chunk_timeout: 2 * LIMIT,
            ..BulkOptions::default()
        };
        let rows = (0..1_000).map(|place| note(place % 997, "old"));
        let report = table.insert_many(rows, &options).await.expect("load");
        let places: Vec<u64> = report.rejected.iter().map(|rejected| rejected.row).collect();
        assert_eq!((report.affected, places), (997, vec![997, 998, 999]));

        let conflict = Conflict { key: &["id"], update: &["body"] };
        let report = table.upsert_many((990..1_000).map(|id| note(id, "new")), conflict, &options).await;
        assert_eq!(report.expect("upsert").affected, 10);
        let changed = [note(1, "new"), note(-1, "new")];
        let report = table.update_many(changed, &["id"], &options).await.expect("update");
        assert_eq!((report.affected, report.missing), (1, vec![1]));

        let read = table.copy_out(Some("body = 'new'"), report.token, &options).await.expect("read");
        let mut read: Vec<Note> = read.try_collect().await.expect("rows");
        read.sort_by_key(|note| note.id);
        let expected: Vec<Note> = std::iter::once(1).chain(990..1_000).map(|id| note(id, "new")).collect();
        assert_eq!(read, expected);

        let connection = db.write().await.expect("a connection");
        for left in [&NAMES, &TABLES] {
            let number: i64 = connection.query_one(left, &[]).await.expect("count").get(0);
            assert_eq!(number, 0, "{}", left.sql());
        }
    });
}
