//! Bad rows: named by their place, code, column and constraint, found without going row by row, and the others loaded.

use std::sync::Arc;

use paystrata_db::{BULK_SCHEMA, BadRows, Bulk, BulkCause, BulkOptions, Conflict, Method, Rejected};

use super::{Note, chunks_of, made, notes, open};
use crate::support::{Bed, count, with_database};

/// What a rejected row is known by: place, code, column, constraint.
type Known<'a> = (u64, &'a str, Option<&'a str>, Option<&'a str>);

fn known(rejected: &Rejected) -> Known<'_> {
    let refusal = &rejected.refusal;
    (rejected.row, refusal.sqlstate.code(), refusal.column.as_deref(), refusal.constraint.as_deref())
}

fn with(bad_rows: BadRows, options: BulkOptions) -> BulkOptions {
    BulkOptions { bad_rows, ..options }
}

#[test]
fn a_duplicate_among_a_million_is_named_and_quarantine_loads_the_rest() {
    with_database(|bed| async move {
        let make = format!("{BULK_SCHEMA}; CREATE TABLE note (id int8 PRIMARY KEY, body text)");
        let (db, copies) = made(&bed, &make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let rows =
            || notes(0..1_000_000).map(|note| if note.id == 777_777 { Note { id: 5, ..note } } else { note });
        let expected = (777_777, "23505", None, Some("note_pkey"));

        let error = table.insert_many(rows(), &BulkOptions::default()).await.expect_err("a duplicate");
        let BulkCause::Rejected(rejected) = &error.cause else { panic!("{error:?}") };
        assert_eq!(known(rejected), expected);
        assert_eq!(error.done.affected, 700_000, "the chunks before stand");
        // Seven chunks, the one with the row, and then those up to the row, and the row alone.
        assert_eq!(copies.take(), 7 + 1 + 2);

        bed.admin().await.client.batch_execute("TRUNCATE note").await.expect("empty");
        let options = BulkOptions { job: Some("million".to_owned()), ..BulkOptions::default() };
        let report = table.insert_many(rows(), &with(BadRows::Quarantine, options)).await.expect("load");
        assert_eq!((report.accepted, report.affected), (999_999, 999_999));
        assert_eq!(report.rejected.iter().map(known).collect::<Vec<_>>(), [expected]);
        assert_eq!(copies.take(), 10 + 3);
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 999_999);
        let kept = "SELECT count(*) FROM paystrata_bulk_rejected WHERE job = 'million' AND row = 777777 \
            AND sqlstate = '23505' AND constraint_name = 'note_pkey' \
            AND fields = ARRAY[int8send(5), convert_to('note 777777', 'UTF8')]";
        assert_eq!(count(&admin, kept).await, 1);
    });
}

/// Rejected by each means that there is, among 300 rows, of which the 200th and the 250th are bad.
async fn check(bed: &Bed, make: &str, expected: (&str, Option<&str>, Option<&str>)) {
    let (db, _) = made(bed, make).await;
    let table: Bulk<Note> = open(&db, "note").await;
    let rows = || {
        notes(0..300).map(|note| {
            let body = if [200, 250].contains(&note.id) { "bad" } else { "ok" };
            Note { body: Some(body.to_owned()), ..note }
        })
    };
    let (code, column, constraint) = expected;
    let stand = "SELECT count(*) FROM note";
    for method in [Method::Insert, Method::Unnest, Method::Copy] {
        // Only COPY knows where it is when a conversion fails.
        let column = column.filter(|_| method == Method::Copy || code == "23502");
        let expected = |row| (row, code, column, constraint);
        let options = || BulkOptions { method, ..chunks_of(128) };
        let error = table.insert_many(rows(), &options()).await.expect_err(make);
        let BulkCause::Rejected(rejected) = &error.cause else { panic!("{make}: {error:?}") };
        assert_eq!(known(rejected), expected(200), "{make} {method:?}");
        assert_eq!(count(&bed.admin().await, stand).await, 128, "{make} {method:?}");
        bed.admin().await.client.batch_execute("DELETE FROM note").await.expect("empty");

        let report = table.insert_many(rows(), &with(BadRows::Report, options())).await.expect(make);
        let rejected: Vec<_> = report.rejected.iter().map(known).collect();
        assert_eq!(rejected, [expected(200), expected(250)], "{make} {method:?}");
        assert_eq!(report.accepted, 298, "{make} {method:?}");
        assert_eq!(count(&bed.admin().await, stand).await, 298, "{make} {method:?}");
        bed.admin().await.client.batch_execute("DELETE FROM note").await.expect("empty");
    }
    db.close().await;
    bed.admin().await.client.batch_execute("DROP TABLE note").await.expect("drop");
}

const RAISE: &str = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF new.body = 'bad' THEN RAISE 'a bad body: %', new.body; END IF; RETURN new; END $$;";

#[test]
fn whatever_rejects_a_row_it_is_named_and_the_others_are_loaded() {
    with_database(|bed| async move {
        let checked = "CREATE TABLE note (id int8, body text CONSTRAINT good CHECK (body <> 'bad'))";
        check(&bed, checked, ("23514", None, Some("good"))).await;
        check(&bed, "CREATE TABLE note (id int8, body varchar(2))", ("22001", Some("body"), None)).await;
        let partitioned = "CREATE TABLE note (id int8, body text) PARTITION BY LIST (body); \
            CREATE TABLE note_ok PARTITION OF note FOR VALUES IN ('ok')";
        check(&bed, partitioned, ("23514", None, None)).await;
        let before = format!(
            "{RAISE} CREATE TABLE note (id int8, body text); \
             CREATE TRIGGER t BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        check(&bed, &before, ("P0001", None, None)).await;
    });
}

#[test]
fn a_large_chunks_bad_row_is_named_with_its_column() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8, body varchar(2))").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let body = |id| if id == 7_000 { "bad" } else { "ok" };
        let rows = notes(0..10_000).map(|note| Note { body: Some(body(note.id).to_owned()), ..note });
        let error = table.insert_many(rows, &BulkOptions::default()).await.expect_err("too long");
        let BulkCause::Rejected(rejected) = &error.cause else { panic!("{error:?}") };
        assert_eq!(known(rejected), (7_000, "22001", Some("body"), None));
    });
}

#[test]
fn what_is_checked_after_the_rows_is_found_in_halves() {
    with_database(|bed| async move {
        let after = format!(
            "{RAISE} CREATE TABLE note (id int8, body text); \
             CREATE TRIGGER t AFTER INSERT ON note FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        check(&bed, &after, ("P0001", None, None)).await;
        let known = "CREATE TABLE IF NOT EXISTS good (body text PRIMARY KEY); \
            INSERT INTO good VALUES ('ok') ON CONFLICT DO NOTHING;";
        let key = format!("{known} CREATE TABLE note (id int8, body text CONSTRAINT known REFERENCES good)");
        check(&bed, &key, ("23503", None, Some("known"))).await;
        let deferred = format!(
            "{known} CREATE TABLE note (id int8, body text CONSTRAINT late REFERENCES good DEFERRABLE INITIALLY DEFERRED)"
        );
        check(&bed, &deferred, ("23503", None, Some("late"))).await;
    });
}

struct Child {
    id: i64,
    parent: Option<i64>,
}

paystrata_db::row!(Child { id: INT8, parent: INT8 });

#[test]
fn a_row_that_refers_to_another_of_its_chunk_is_not_taken_for_a_bad_one() {
    with_database(|bed| async move {
        let make = "CREATE TABLE family (id int8 PRIMARY KEY, parent int8 REFERENCES family); \
                    INSERT INTO family VALUES (1000)";
        let (db, _) = made(&bed, make).await;
        let table: Bulk<Child> = open(&db, "family").await;
        // Children before their parents, parents before their children, and two bad rows that have the chunk taken apart.
        let up = (0..50).map(|id| Child { id, parent: (id < 49).then_some(id + 1) });
        let bad = [Child { id: 1000, parent: None }, Child { id: 500, parent: Some(5_000) }];
        let down = (100..150).map(|id| Child { id, parent: Some(if id == 100 { 49 } else { id - 1 }) });
        let options = with(BadRows::Report, chunks_of(1_000));
        let report = table.insert_many(up.chain(bad).chain(down), &options).await.expect("load");
        let rejected: Vec<_> =
            report.rejected.iter().map(|one| (one.row, one.refusal.sqlstate.code())).collect();
        assert_eq!(rejected, [(50, "23505"), (51, "23503")]);
        assert_eq!(report.accepted, 100);
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM family").await, 101);
    });
}

/// A family of which each later row of a key is to win.
struct Named {
    id: i64,
    parent: Option<i64>,
    name: String,
}

paystrata_db::row!(Named { id: INT8, parent: INT8, name: TEXT });

#[test]
fn a_row_that_had_to_wait_for_another_of_its_chunk_does_not_win_over_a_later_one() {
    with_database(|bed| async move {
        let make = "CREATE TABLE family (id int8 PRIMARY KEY, parent int8 REFERENCES family, name text CHECK (name <> 'bad'))";
        let (db, _) = made(&bed, make).await;
        let table: Bulk<Named> = open(&db, "family").await;
        let row = |id, parent, name: &str| Named { id, parent, name: name.to_owned() };
        let rows = vec![
            row(1, Some(2), "old"),
            row(9, None, "bad"),
            row(1, None, "new"),
            row(2, None, "parent"),
            row(3, Some(4), "other"),
            row(4, Some(2), "child"),
            row(5, Some(77), "orphan"),
        ];
        let options = with(BadRows::Report, chunks_of(1_000));
        let report = table
            .upsert_many(rows, Conflict { key: &["id"], update: &["parent", "name"] }, &options)
            .await
            .expect("load");
        let rejected: Vec<_> =
            report.rejected.iter().map(|one| (one.row, one.refusal.sqlstate.code())).collect();
        assert_eq!(rejected, [(1, "23514"), (6, "23503")]);
        let admin = bed.admin().await;
        let stand = "SELECT string_agg(id || ':' || name, ' ' ORDER BY id) FROM family";
        let stand: String = admin.client.query_one(stand, &[]).await.expect("read").get(0);
        assert_eq!(stand, "1:new 2:parent 3:other 4:child");
        assert_eq!((report.accepted, report.affected), (5, 4));
    });
}

#[test]
fn chunks_side_by_side_do_not_pass_the_limit_together() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8 PRIMARY KEY, body text); INSERT INTO note SELECT 100 * n FROM generate_series(0, 7) n";
        let (db, _) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        // Each chunk has one row that is there already.
        let options = |rejected_max| BulkOptions { lanes_max: 4, rejected_max, ..chunks_of(100) };
        let error =
            table.insert_many(notes(0..800), &with(BadRows::Report, options(7))).await.expect_err("eight");
        assert!(matches!(error.cause, BulkCause::TooManyRejected { limit: 7 }), "{error:?}");
        assert!(error.done.rejected.len() <= 7, "{error:?}");
        bed.admin().await.client.batch_execute("DELETE FROM note WHERE id % 100 <> 0").await.expect("empty");
        let report =
            table.insert_many(notes(0..800), &with(BadRows::Report, options(8))).await.expect("eight may");
        assert_eq!((report.rejected.len(), report.accepted), (8, 792));
    });
}

#[test]
fn a_missing_value_is_named_by_its_column() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8, body text NOT NULL)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        for method in [Method::Insert, Method::Unnest, Method::Copy] {
            let rows = notes(0..50).map(|note| Note { body: note.body.filter(|_| note.id != 31), ..note });
            let options = BulkOptions { method, ..BulkOptions::default() };
            let error = table.insert_many(rows, &options).await.expect_err("a missing value");
            assert_eq!(error.to_string(), "row 31 rejected: SQLSTATE 23502, column body", "{method:?}");
        }
    });
}

#[test]
fn text_with_a_nul_is_refused_before_it_is_sent() {
    with_database(|bed| async move {
        let make = format!("{BULK_SCHEMA}; CREATE TABLE note (id int8, body text)");
        let (db, copies) = made(&bed, &make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let rows = || {
            notes(0..4_000)
                .map(|note| if note.id == 1_500 { Note { body: Some("a\0b".into()), ..note } } else { note })
        };
        let error = table.insert_many(rows(), &BulkOptions::default()).await.expect_err("a NUL");
        assert_eq!(error.to_string(), "row 1500: column body: the text contains a NUL character");
        assert_eq!(copies.take(), 0, "nothing was sent");
        let options = BulkOptions { job: Some("nul".to_owned()), ..BulkOptions::default() };
        let report = table.insert_many(rows(), &with(BadRows::Quarantine, options)).await.expect("load");
        assert_eq!(
            report.rejected.iter().map(known).collect::<Vec<_>>(),
            [(1_500, "22021", Some("body"), None)]
        );
        assert_eq!((report.affected, copies.take()), (3_999, 1));
        let kept = "SELECT count(*) FROM paystrata_bulk_rejected WHERE row = 1500 AND fields IS NULL";
        assert_eq!(count(&bed.admin().await, kept).await, 1);
    });
}

#[test]
fn errors_and_reports_hold_no_values() {
    with_database(|bed| async move {
        let make = format!(
            "{RAISE} CREATE TABLE note (id int8, body text UNIQUE); CREATE TABLE raised (id int8, body text); \
             CREATE TRIGGER t BEFORE INSERT ON raised FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        let (db, _) = made(&bed, &make).await;
        let secret = |id, body: &str| Note { id, body: Some(body.to_owned()) };
        for (table, rows) in [
            ("note", vec![secret(1, "4111-secret"), secret(2, "4111-secret")]),
            ("note", vec![secret(1, "4111-secret\0")]),
            ("raised", vec![secret(987_654_321, "bad")]),
        ] {
            let table: Bulk<Note> = open(&db, table).await;
            let error = table.insert_many(rows.clone(), &BulkOptions::default()).await.expect_err("refused");
            let report = table.insert_many(rows, &with(BadRows::Report, BulkOptions::default())).await;
            let mut told = format!("{error} {error:?} {report:?}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                told.push_str(&format!(" {cause} {cause:?}"));
                source = cause.source();
            }
            for value in ["4111", "987654321", "a bad body"] {
                assert!(!told.contains(value), "{told}");
            }
        }
    });
}

#[test]
fn more_bad_rows_than_may_be_end_the_load_and_leave_nothing_of_their_chunk() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8 CHECK (id % 10 <> 3), body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let options = BulkOptions { rejected_max: 25, ..chunks_of(100) };
        let error = table.insert_many(notes(0..1_000), &with(BadRows::Report, options)).await;
        let error = error.expect_err("a tenth is bad");
        assert!(matches!(error.cause, BulkCause::TooManyRejected { limit: 25 }), "{error:?}");
        assert_eq!((error.done.chunks, error.done.rejected.len()), (2, 20));
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM note").await, 180);
    });
}

#[test]
fn lanes_side_by_side_name_one_bad_row_and_load_the_others() {
    with_database(|bed| async move {
        let (db, _) =
            made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY CHECK (id <> 7311), body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let options = || BulkOptions { lanes_max: 3, ..chunks_of(500) };
        let error = table.insert_many(notes(0..20_000), &options()).await.expect_err("one is bad");
        let BulkCause::Rejected(rejected) = &error.cause else { panic!("{error:?}") };
        assert_eq!(known(rejected), (7_311, "23514", None, Some("note_id_check")));
        let admin = bed.admin().await;
        let stand = count(&admin, "SELECT count(*) FROM note").await;
        assert_eq!(error.done.affected, stand.cast_unsigned(), "what is told to stand stands");
        admin.client.batch_execute("TRUNCATE note").await.expect("empty");
        let report =
            table.insert_many(notes(0..20_000), &with(BadRows::Report, options())).await.expect("load");
        assert_eq!((report.affected, report.rejected.len()), (19_999, 1));
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 19_999);
    });
}

#[test]
fn a_failure_of_all_rows_is_not_looked_for_in_parts() {
    with_database(|bed| async move {
        let (db, copies) = made(&bed, "CREATE TABLE note (id int8, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        bed.admin()
            .await
            .client
            .batch_execute("ALTER TABLE note DROP COLUMN body")
            .await
            .expect("drop a column");
        let error = table.insert_many(notes(0..5_000), &with(BadRows::Report, BulkOptions::default())).await;
        let error = error.expect_err("the column is gone");
        assert_eq!(error.to_string(), "rows 0 to 4999 refused: SQLSTATE 42703");
        assert_eq!(Arc::clone(&copies).take(), 1);
    });
}

/// None of them may refer to another row of its chunk, so none is kept for later.
#[test]
fn rows_without_their_parents_elsewhere_are_named_at_once_and_counted() {
    with_database(|bed| async move {
        let make = "CREATE TABLE parent (id int8 PRIMARY KEY); \
                    CREATE TABLE note (id int8 CONSTRAINT of_parent REFERENCES parent, body text)";
        let (db, copies) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let rows = || notes(0..20_000);
        let error = table.insert_many(rows(), &BulkOptions::default()).await.expect_err("no parent");
        let BulkCause::Rejected(rejected) = &error.cause else { panic!("{error:?}") };
        assert_eq!(known(rejected), (0, "23503", None, Some("of_parent")));
        assert!(copies.take() < 20, "it was found by halving once");
        let few = BulkOptions { rejected_max: 10, ..BulkOptions::default() };
        let error = table.insert_many(rows(), &with(BadRows::Report, few)).await.expect_err("too many");
        assert!(matches!(error.cause, BulkCause::TooManyRejected { limit: 10 }), "{error:?}");
        assert!(copies.take() < 30);
    });
}

#[test]
fn a_row_that_a_trigger_refuses_with_a_code_of_its_own_is_named() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text); \
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF new.id = 77 THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '45000'; END IF; RETURN new; END $$; \
             CREATE TRIGGER refuse BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION refuse()";
        let (db, _) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let report = table.insert_many(notes(0..3_000), &with(BadRows::Report, chunks_of(3_000))).await;
        let report = report.expect("the others are loaded");
        assert_eq!(report.rejected.iter().map(known).collect::<Vec<_>>(), [(77, "45000", None, None)]);
        assert_eq!(report.accepted, 2_999);
    });
}
