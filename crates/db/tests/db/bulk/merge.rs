//! Upserts and updates: who wins among duplicates, what is missing, and that no temporary table stays.

use futures_util::{StreamExt as _, stream};
use paystrata_db::{BadRows, Bulk, BulkCause, BulkOptions, Conflict, Method};

use super::{Note, chunks_of, made, notes, open};
use crate::support::{Plain, count, until_count, with_database};

const NOTE: &str = "CREATE TABLE note (id int8 PRIMARY KEY, body text, kept text DEFAULT 'kept')";
const TEMPORARY: &str = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'";
const BY_ID: Conflict<'_> = Conflict { key: &["id"], update: &["body"] };

fn note(id: i64, body: &str) -> Note {
    Note { id, body: Some(body.to_owned()) }
}

async fn body_of(admin: &Plain, id: i64) -> Option<String> {
    let row = admin.client.query_one("SELECT body FROM note WHERE id = $1", &[&id]).await;
    row.expect("the row").get(0)
}

#[test]
fn of_rows_with_one_key_the_last_wins_in_a_chunk_and_between_chunks() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, NOTE).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        admin.client.batch_execute("INSERT INTO note VALUES (1, 'old', 'mine')").await.expect("insert");
        let rows = || [note(1, "a"), note(2, "a"), note(1, "b"), note(3, "a"), note(1, "c"), note(2, "b")];
        for (chunk, affected) in [(100, 3), (2, 6), (4, 3 + 2)] {
            let report = table.upsert_many(rows(), BY_ID, &chunks_of(chunk)).await.expect("upsert");
            assert_eq!((report.accepted, report.affected), (6, affected), "chunks of {chunk}");
            assert_eq!(body_of(&admin, 1).await.as_deref(), Some("c"));
            assert_eq!(body_of(&admin, 2).await.as_deref(), Some("b"));
            assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 3);
        }
        let mine = "SELECT count(*) FROM note WHERE kept = CASE id WHEN 1 THEN 'mine' ELSE 'kept' END";
        assert_eq!(count(&admin, mine).await, 3, "columns that are not named are left alone");
        assert_eq!(count(&admin, TEMPORARY).await, 0);
    });
}

#[test]
fn without_columns_to_update_what_is_there_stays() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, NOTE).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        admin.client.batch_execute("INSERT INTO note VALUES (1, 'old')").await.expect("insert");
        let conflict = Conflict { key: &["id"], update: &[] };
        let report = table.upsert_many([note(1, "new"), note(2, "new")], conflict, &chunks_of(10)).await;
        assert_eq!(report.expect("upsert").affected, 1);
        assert_eq!(body_of(&admin, 1).await.as_deref(), Some("old"));
    });
}

#[test]
fn rows_without_a_key_are_no_duplicates_of_each_other() {
    #[derive(Clone, Debug)]
    struct Loose {
        a: Option<i64>,
        b: Option<i64>,
    }
    paystrata_db::row!(Loose { a: INT8, b: INT8 });
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE loose (a int8, b int8, UNIQUE (a, b))").await;
        let table: Bulk<Loose> = open(&db, "loose").await;
        let rows = [
            (Some(1), None),
            (Some(1), None),
            (None, None),
            (None, None),
            (Some(1), Some(1)),
            (Some(1), Some(1)),
        ];
        let rows = rows.map(|(a, b)| Loose { a, b });
        let conflict = Conflict { key: &["a", "b"], update: &["b"] };
        let report = table.upsert_many(rows, conflict, &BulkOptions::default()).await.expect("upsert");
        assert_eq!(report.affected, 5);
    });
}

#[test]
fn a_hundred_thousand_updates_are_one_statement_and_missing_keys_are_reported() {
    with_database(|bed| async move {
        // Counts the statements that update.
        let make = format!(
            "{NOTE}; CREATE TABLE statements (at timestamptz); INSERT INTO note SELECT g, 'old' FROM generate_series(0, 99_999) g; \
             CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 INSERT INTO statements VALUES (now()); RETURN NULL; END $$; \
             CREATE TRIGGER t AFTER UPDATE ON note FOR EACH STATEMENT EXECUTE FUNCTION counted()"
        ).replace("99_999", "99999");
        let (db, copies) = made(&bed, &make).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        let absent = |place: i64| place % 1_000 == 7;
        let rows = notes(0..100_000)
            .map(move |note| if absent(note.id) { Note { id: -note.id, ..note } } else { note });
        let report = table.update_many(rows, &["id"], &BulkOptions::default()).await.expect("update");
        assert_eq!((report.accepted, report.affected, report.missing_count), (100_000, 99_900, 100));
        let expected: Vec<u64> = (0..100).map(|thousand| thousand * 1_000 + 7).collect();
        assert_eq!(report.missing, expected);
        assert_eq!((copies.take(), report.chunks), (1, 1));
        assert_eq!(count(&admin, "SELECT count(*) FROM statements").await, 1);
        assert_eq!(
            count(&admin, "SELECT count(*) FROM note WHERE body = 'note ' || id AND kept = 'kept'").await,
            99_900
        );
        assert_eq!(count(&admin, TEMPORARY).await, 0);
    });
}

#[test]
fn of_updates_with_one_key_the_last_wins_and_an_empty_input_updates_nothing() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, NOTE).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        admin.client.batch_execute("INSERT INTO note VALUES (1, 'old'), (2, 'old')").await.expect("insert");
        let rows = [note(1, "a"), note(9, "a"), note(1, "b"), note(9, "b")];
        let report = table.update_many(rows, &["id"], &BulkOptions::default()).await.expect("update");
        assert_eq!((report.affected, report.missing), (1, vec![3]));
        assert_eq!(body_of(&admin, 1).await.as_deref(), Some("b"));
        let report = table.update_many([], &["id"], &BulkOptions::default()).await.expect("nothing to do");
        assert_eq!((report.affected, report.missing_count, report.chunks), (0, 0, 0));
    });
}

#[test]
fn a_trigger_that_raises_on_a_row_names_it_and_leaves_no_table() {
    with_database(|bed| async move {
        let make = format!(
            "{NOTE}; INSERT INTO note SELECT g, 'old' FROM generate_series(0, 999) g; \
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF new.id = 617 THEN RAISE check_violation USING CONSTRAINT = 'not_this_one'; END IF; RETURN new; END $$; \
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        let (db, copies) = made(&bed, &make).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        let named = "row 617 rejected: SQLSTATE 23514, constraint not_this_one";
        let options = BulkOptions::default();
        let error =
            table.update_many(notes(0..1_000), &["id"], &options).await.expect_err("the trigger raises");
        assert_eq!(error.to_string(), named);
        // Halves: twice ten of them at most, after the whole.
        assert!(copies.take() <= 1 + 2 * 10);
        let error =
            table.upsert_many(notes(0..1_000), BY_ID, &options).await.expect_err("the trigger raises");
        assert_eq!(error.to_string(), named);
        assert_eq!(count(&admin, "SELECT count(*) FROM note WHERE body <> 'old'").await, 0);
        assert_eq!(count(&admin, TEMPORARY).await, 0);

        let report = BulkOptions { bad_rows: BadRows::Report, ..options };
        let updated = table.update_many(notes(0..1_001), &["id"], &report).await.expect("the others");
        assert_eq!((updated.affected, updated.missing, updated.rejected.len()), (999, vec![1_000], 1));
        let upserted = table.upsert_many(notes(0..1_000), BY_ID, &report).await.expect("the others");
        assert_eq!((upserted.affected, upserted.rejected[0].row), (999, 617));
        assert_eq!(count(&admin, TEMPORARY).await, 0);
    });
}

#[test]
fn a_value_that_its_column_refuses_is_named_while_it_is_copied() {
    with_database(|bed| async move {
        let (db, copies) = made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY, body varchar(6))").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let rows = (0..1_000).map(|id| note(id, if id == 321 { "too long" } else { "short" }));
        let error = table.upsert_many(rows, BY_ID, &BulkOptions::default()).await.expect_err("too long");
        assert_eq!(error.to_string(), "row 321 rejected: SQLSTATE 22001, column body");
        assert_eq!(copies.take(), 3);
    });
}

#[test]
fn parallel_upserts_of_the_same_keys_end_without_a_deadlock_told() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, NOTE).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let all = stream::iter(0..6).map(|turn| {
            let table = table.clone();
            async move {
                let ids = (0..2_000).map(move |place| if turn % 2 == 0 { place } else { 1_999 - place });
                table.upsert_many(ids.map(|id| note(id, "x")), BY_ID, &chunks_of(500)).await
            }
        });
        let reports: Vec<_> = all.buffer_unordered(3).collect().await;
        assert!(
            reports.iter().all(|report| report.as_ref().is_ok_and(|report| report.affected == 2_000)),
            "{reports:?}"
        );
    });
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8, body text)").await;
        let (table, options): (Bulk<Note>, _) = (open(&db, "note").await, BulkOptions::default());
        let refused = async |key: &[&str], update: &[&str], options: &BulkOptions| {
            let conflict = Conflict { key, update };
            table.upsert_many(notes(0..1), conflict, options).await.expect_err("refused").to_string()
        };
        let unknown = "bulk refused: the key names \"ID\", which the row does not have";
        assert_eq!(refused(&["ID"], &[], &options).await, unknown);
        let unknown = "bulk refused: the columns to update names \"x\", which the row does not have";
        assert_eq!(refused(&["id"], &["x"], &options).await, unknown);
        assert!(refused(&["id", "id"], &[], &options).await.contains("twice"));
        assert!(refused(&[], &[], &options).await.contains("the key names no column"));
        let lanes = BulkOptions { lanes_max: 2, method: Method::Auto, ..BulkOptions::default() };
        assert!(refused(&["id"], &["body"], &lanes).await.contains("lanes_max"));
        assert_eq!(refused(&["id"], &["body"], &options).await, "rows 0 to 0 refused: SQLSTATE 42P10");
        let error =
            table.update_many(notes(0..1), &["id", "body"], &options).await.expect_err("nothing to set");
        assert!(matches!(error.cause, BulkCause::Settings { .. }), "{error:?}");
        until_count(&bed.admin().await, TEMPORARY, 0).await;
    });
}
