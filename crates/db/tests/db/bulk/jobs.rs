//! Jobs: what a run has committed is skipped by the next one, whatever came between, and nothing is written twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use paystrata_db::{
    BULK_SCHEMA, BadRows, Bulk, BulkCause, BulkOptions, BulkReport, Conflict, Db, Progress, TableName,
};
use tokio::sync::Semaphore;

use super::{Note, chunks_of, made, notes, open};
use crate::cluster::Cluster;
use crate::support::{config, count, plain, with_database};

/// No key: what is written twice stands twice.
const NOTE: &str = "CREATE TABLE note (id int8, body text)";

fn job(rows: usize) -> BulkOptions {
    BulkOptions { job: Some("load".to_owned()), ..chunks_of(rows) }
}

#[test]
fn a_load_cut_by_a_crash_of_the_server_is_completed_by_running_it_again() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let cluster = Arc::new(Cluster::start());
        cluster.run_on("primary", &format!("{BULK_SCHEMA}; {NOTE}")).await;
        let url = cluster.url("primary");
        let db = Db::connect(config(&url)).await.expect("connect");
        let table: Bulk<Note> = open(&db, "note").await;
        let (server, has_crashed) = (Arc::clone(&cluster), AtomicBool::new(false));
        let crash_at_half = move |report: &BulkReport| {
            if report.accepted >= 100_000 && !has_crashed.swap(true, Ordering::SeqCst) {
                server.crash("primary");
            }
        };
        // Not for long: this server stays away.
        let chunk_timeout = Duration::from_secs(10);
        let progress: Option<Progress> = Some(Arc::new(crash_at_half));
        let options = BulkOptions { lanes_max: 2, progress, chunk_timeout, ..job(10_000) };
        let error = table.insert_many(notes(0..200_000), &options).await.expect_err("the server is gone");
        let done = error.done.affected;
        assert!((100_000..200_000).contains(&done), "{error:?}");
        db.close().await;

        cluster.boot("primary");
        let db = Db::connect(config(&url)).await.expect("connect");
        let table: Bulk<Note> = open(&db, "note").await;
        // Other chunks than before, and the same rows.
        let report = table.insert_many(notes(0..200_000), &job(7_000)).await.expect("the rest");
        assert!(report.skipped >= done, "{} of {done} skipped", report.skipped);
        assert_eq!(report.skipped + report.affected, 200_000);
        let again = table.insert_many(notes(0..200_000), &job(7_000)).await.expect("nothing is left");
        assert_eq!((again.skipped, again.affected, again.chunks), (200_000, 0, 0));
        db.close().await;

        let admin = plain(&url).await;
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 200_000);
        assert_eq!(count(&admin, "SELECT count(DISTINCT id) FROM note").await, 200_000);
        let told = "SELECT sum(rows)::int8 FROM paystrata_bulk_chunk WHERE job = 'load'";
        assert_eq!(count(&admin, told).await, 200_000);
    });
}

#[test]
fn a_load_goes_on_by_itself_when_the_server_is_back_in_time() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let cluster = Arc::new(Cluster::start());
        cluster.run_on("primary", &format!("{BULK_SCHEMA}; {NOTE}")).await;
        let url = cluster.url("primary");
        let db = Db::connect(config(&url)).await.expect("connect");
        let table: Bulk<Note> = open(&db, "note").await;
        let server = Arc::clone(&cluster);
        // With one lane nothing is under way at that moment whose commit could be in doubt.
        let restart_once = move |report: &BulkReport| {
            if report.chunks == 5 {
                server.crash("primary");
                server.boot("primary");
            }
        };
        let options = BulkOptions { progress: Some(Arc::new(restart_once)), ..chunks_of(1_000) };
        let report = table.insert_many(notes(0..10_000), &options).await.expect("it goes on");
        assert_eq!((report.chunks, report.affected), (10, 10_000));
        db.close().await;
        let admin = plain(&url).await;
        assert_eq!(count(&admin, "SELECT count(DISTINCT id) FROM note").await, 10_000);
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 10_000);
    });
}

#[test]
fn a_run_that_begins_takes_over_and_the_older_one_writes_nothing_more() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, &format!("{BULK_SCHEMA}; {NOTE}")).await;
        let table: Bulk<Note> = open(&db, "note").await;
        // The first run stops in the middle of its second chunk until the second run is done.
        let (go_on, reached) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gates = (Arc::clone(&go_on), Arc::clone(&reached));
        let held = stream::iter(notes(0..1_000)).then(move |note| {
            let gates = (Arc::clone(&gates.0), Arc::clone(&gates.1));
            async move {
                if note.id == 150 {
                    gates.1.add_permits(1);
                    gates.0.acquire().await.expect("open").forget();
                }
                Ok::<_, std::convert::Infallible>(note)
            }
        });
        let older = {
            let table = table.clone();
            tokio::spawn(async move { table.insert_stream(held, &job(100)).await })
        };
        reached.acquire().await.expect("open").forget();
        let newer = table.insert_many(notes(0..1_000), &job(130)).await.expect("load");
        go_on.add_permits(1);
        let error = older.await.expect("a task").expect_err("taken over");
        assert!(matches!(&error.cause, BulkCause::TakenOver { job } if job == "load"), "{error:?}");
        assert_eq!(error.done.affected + newer.affected, 1_000);
        assert_eq!(newer.skipped, error.done.affected);
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 1_000);
        assert_eq!(count(&admin, "SELECT count(DISTINCT id) FROM note").await, 1_000);
    });
}

#[test]
fn a_job_that_failed_on_a_row_goes_on_once_the_row_is_mended() {
    with_database(|bed| async move {
        let make = format!("{BULK_SCHEMA}; CREATE TABLE note (id int8, body text CHECK (body <> 'bad'))");
        let (db, _) = made(&bed, &make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let with = |body: &str| {
            let body = body.to_owned();
            notes(0..500).map(
                move |note| if note.id == 333 { Note { body: Some(body.clone()), ..note } } else { note },
            )
        };
        let error = table.insert_many(with("bad"), &job(100)).await.expect_err("a bad row");
        assert!(matches!(&error.cause, BulkCause::Rejected(rejected) if rejected.row == 333), "{error:?}");
        let report = table.insert_many(with("good"), &job(100)).await.expect("the rest");
        assert_eq!((report.skipped, report.affected), (300, 200));
        assert_eq!(count(&bed.admin().await, "SELECT count(DISTINCT id) FROM note").await, 500);
    });
}

#[test]
fn rows_quarantined_by_an_earlier_run_are_neither_tried_nor_kept_again() {
    with_database(|bed| async move {
        let make = format!("{BULK_SCHEMA}; CREATE TABLE note (id int8 CHECK (id <> 42), body text)");
        let (db, _) = made(&bed, &make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        let options = BulkOptions { bad_rows: BadRows::Quarantine, ..job(100) };
        let cut = stream::iter(notes(0..200)).map(Ok).chain(stream::iter([Err("cut")]));
        let error = table.insert_stream(cut, &options).await.expect_err("cut");
        assert_eq!((error.done.affected, error.done.rejected.len()), (199, 1));
        let report = table.insert_many(notes(0..300), &options).await.expect("the rest");
        assert_eq!((report.skipped, report.affected, report.rejected.len()), (200, 100, 0));
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 299);
        assert_eq!(count(&admin, "SELECT row FROM paystrata_bulk_rejected").await, 42);
    });
}

#[test]
fn a_job_belongs_to_its_work() {
    with_database(|bed| async move {
        let make = format!("{BULK_SCHEMA}; {NOTE}; CREATE TABLE other (id int8 PRIMARY KEY, body text)");
        let (db, _) = made(&bed, &make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        table.insert_many(notes(0..10), &job(100)).await.expect("load");
        let other: Bulk<Note> =
            Bulk::open(&db, &TableName::in_schema("public", "other")).await.expect("fits");
        let error = other.insert_many(notes(0..10), &job(100)).await.expect_err("another table");
        let told = "bulk refused: job load belongs to other work than insert into \"public\".\"other\"";
        assert_eq!(error.to_string(), told);
        let conflict = Conflict { key: &["id"], update: &[] };
        assert!(other.upsert_many(notes(0..10), conflict, &job(100)).await.is_err());
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM other").await, 0);
    });
}
