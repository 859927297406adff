//! Rows out: typed, of one snapshot, no faster than they are taken.

use futures_util::{StreamExt as _, TryStreamExt as _};
use paystrata_db::{Bulk, BulkCause, BulkOptions, FieldProblem};

use super::{Note, made, notes, open};
use crate::support::{count, until_count, with_database};

const NOTE: &str = "CREATE TABLE note (id int8, body text)";

#[test]
fn rows_come_back_as_they_went_in_and_a_condition_chooses() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, NOTE).await;
        let (table, options): (Bulk<Note>, _) = (open(&db, "note").await, BulkOptions::default());
        let empty = table.copy_out(None, None, &options).await.expect("copy out");
        assert_eq!(empty.count().await, 0);
        let token = table.insert_many(notes(0..5_000), &options).await.expect("load").token;
        let all = table.copy_out(None, token, &options).await.expect("copy out");
        let all: Vec<Note> = all.try_collect().await.expect("all rows");
        assert_eq!(all, notes(0..5_000).collect::<Vec<_>>());
        let some = table.copy_out(Some("id % 1000 = 3 AND body <> 'x'"), token, &options).await;
        let some: Vec<Note> = some.expect("copy out").try_collect().await.expect("some rows");
        assert_eq!(some.iter().map(|note| note.id).collect::<Vec<_>>(), [3, 1_003, 2_003, 3_003, 4_003]);
        assert_eq!(db.status().swept, 0, "connections that were read to the end are used again");
    });
}

#[test]
fn the_server_waits_for_whoever_reads_slowly_and_is_told_when_nobody_reads_any_more() {
    with_database(|bed| async move {
        let make =
            format!("{NOTE}; INSERT INTO note SELECT g, repeat('x', 500) FROM generate_series(1, 100000) g");
        let (db, _) = made(&bed, &make).await;
        let (table, options): (Bulk<Note>, _) = (open(&db, "note").await, BulkOptions::default());
        let mut rows = table.copy_out(None, None, &options).await.expect("copy out");
        rows.next().await.expect("a first row").expect("a row");
        let admin = bed.admin().await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND query LIKE 'COPY%' AND wait_event = 'ClientWrite'";
        until_count(&admin, waiting, 1).await;
        drop(rows);
        let copying = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND query LIKE 'COPY%' AND state <> 'idle'";
        until_count(&admin, copying, 0).await;
        let rows = table.copy_out(Some("id <= 10"), None, &options).await.expect("a connection");
        assert_eq!(rows.count().await, 10);
    });
}

#[test]
fn what_does_not_fit_or_fails_is_told_by_place_without_values() {
    with_database(|bed| async move {
        #[derive(Debug)]
        struct Strict {
            #[expect(dead_code, reason = "only its type counts")]
            id: i64,
            #[expect(dead_code, reason = "only its type counts")]
            body: String,
        }
        impl paystrata_db::Row for Strict {
            const COLUMNS: &'static [paystrata_db::Column] = <Note as paystrata_db::Row>::COLUMNS;
            fn write(&self, _: &mut paystrata_db::FieldWriter<'_>) -> Result<(), paystrata_db::FieldError> {
                Ok(())
            }
            fn read(fields: &mut paystrata_db::FieldReader<'_>) -> Result<Self, paystrata_db::FieldError> {
                Ok(Self { id: fields.take()?, body: fields.take()? })
            }
        }
        let make = format!("{NOTE}; INSERT INTO note VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, 'd')");
        let (db, _) = made(&bed, &make).await;
        let (table, options): (Bulk<Strict>, _) = (open(&db, "note").await, BulkOptions::default());
        let rows: Vec<_> = table.copy_out(None, None, &options).await.expect("copy out").collect().await;
        assert_eq!(rows.len(), 3, "nothing comes after the failure");
        let Err(BulkCause::Value { row: 2, source }) = &rows[2] else { panic!("{rows:?}") };
        assert_eq!((source.column, source.problem), ("body", FieldProblem::NotDecodable));

        let divided = table.copy_out(Some("1 / (id - 3) < 100"), None, &options).await;
        let rows: Vec<_> = divided.expect("it begins").collect().await;
        let Some(Err(BulkCause::Unreadable { refusal, .. })) = rows.last() else { panic!("{rows:?}") };
        assert_eq!(refusal.sqlstate.code(), "22012");
        let Err(wrong) = table.copy_out(Some("nonsense"), None, &options).await else {
            panic!("no such column")
        };
        assert_eq!(wrong.to_string(), "reading ended at row 0: SQLSTATE 42703");
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM note").await, 4);
    });
}
