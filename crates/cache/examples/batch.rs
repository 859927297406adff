//! Many keys in one call: what is there is taken from there, and the rest is loaded together, with an answer or an
//! error for each.
//!
//! `cargo run -p paystrata-cache --example batch`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use futures_util::stream;
use paystrata_cache::{Cache, LoadContext, Pace};

/// One statement for all keys, say. Answers in the order of the keys; 404 has no row, and 500 cannot be read.
async fn load(
    keys: Vec<u64>,
    _context: LoadContext<String>,
) -> Result<Vec<Result<Option<String>, Row>>, Row> {
    println!("  loading {keys:?}");
    let answer = |key| match key {
        404 => Ok(None),
        500 => Err(Row::Unreadable),
        key => Ok(Some(format!("row {key}"))),
    };
    Ok(keys.into_iter().map(answer).collect())
}

#[derive(Debug, thiserror::Error)]
enum Row {
    #[error("row cannot be read")]
    Unreadable,
}

#[tokio::main]
async fn main() {
    let rows: Cache<u64, String> = Cache::builder("rows").build();

    println!("three keys, one of them twice:");
    println!("  {:?}", rows.get_or_load_many(&[1, 2, 1, 404], load).await);

    println!("two are there, one is known not to be, and two are not:");
    let wanted = [1, 2, 404, 3, 500];
    for (key, answer) in wanted.iter().zip(rows.get_or_load_many(&wanted, load).await) {
        println!("  {key}: {answer:?}");
    }

    println!("before the first request comes, batch by batch:");
    let pace = Pace { batch: 4, ..Pace::default() };
    let progress = rows.warm(stream::iter(10..18), pace, load, |progress| println!("  {progress:?}")).await;
    println!("  {} of {} found", progress.found, progress.keys);
}
