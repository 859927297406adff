//! Many rows at once: what is written, what is named when it is not, and what is left behind. Each file one area.

mod copy_out;
mod dropped;
mod insert;
mod jobs;
mod merge;
mod rejected;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use paystrata_db::{Bulk, BulkOptions, Db, Observer, QuerySeen, Row, TableName};

use crate::support::Bed;

/// A row of most tables here.
#[derive(Clone, Debug, PartialEq)]
struct Note {
    id: i64,
    body: Option<String>,
}

paystrata_db::row!(Note { id: INT8, body: TEXT });

fn notes(ids: std::ops::Range<i64>) -> impl Iterator<Item = Note> + Clone {
    ids.map(|id| Note { id, body: Some(format!("note {id}")) })
}

/// Chunks of so many rows.
fn chunks_of(rows: usize) -> BulkOptions {
    BulkOptions { chunk_rows_max: rows, ..BulkOptions::default() }
}

/// Counts COPYs: each attempt at loading rows, whether it succeeded or not.
#[derive(Debug, Default)]
struct Copies(AtomicUsize);

impl Observer for Copies {
    fn query(&self, seen: &QuerySeen<'_>) {
        self.0.fetch_add(usize::from(seen.sql == "COPY FROM STDIN"), Ordering::SeqCst);
    }
}

impl Copies {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// A database with the tables of `make`.
async fn made(bed: &Bed, make: &str) -> (Db, Arc<Copies>) {
    bed.admin().await.client.batch_execute(make).await.expect("make the tables");
    let copies = Arc::new(Copies::default());
    let observer = Arc::clone(&copies);
    (Db::connect_observed(bed.config(), observer).await.expect("connect"), copies)
}

async fn open<R: Row>(db: &Db, table: &str) -> Bulk<R> {
    Bulk::open(db, &TableName::new(table)).await.expect("the table fits")
}

/// Polls a future so often, and gives what it gave. Dropped after it if it has given nothing.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // The last poll has woken nobody yet: the drop comes now.
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
