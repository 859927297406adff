//! A look-up per row of a list, and the same as one query: ask a [`Loader`] side by side. `repeats::at_most`, which tests use,
//! tells one from the other.
//!
//! `DATABASE_URL=postgres://app@127.0.0.1/app cargo run -p paystrata-db --example loader`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use futures_util::future::try_join_all;
use paystrata_db::repeats::at_most;
use paystrata_db::{CoalesceOptions, Config, Db, Loader, Statement, Type};

/// Of a table, usually.
static NAME: Statement = Statement::new("SELECT 'city ' || $1::int8", &[Type::INT8]);
/// The same for many: an array of keys in; key and value of those that exist out.
static NAMES: Statement =
    Statement::new("SELECT id, 'city ' || id FROM unnest($1) AS id", &[Type::INT8_ARRAY]);

async fn row_by_row(db: &Db, cities: &[i64]) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for city in cities {
        names.push(db.read().await?.query_one(&NAME, &[city]).await?.get(0));
    }
    Ok(names)
}

async fn side_by_side(names: &Loader<i64, String>, cities: &[i64]) -> Result<Vec<String>, Box<dyn Error>> {
    let found = try_join_all(cities.iter().map(|city| names.get(*city))).await?;
    Ok(found.into_iter().flatten().collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set: the URL of a primary")?;
    let db = Db::connect(Config::new(url.parse()?)).await?;
    // Made once, and kept: whoever shares it shares its batches.
    let names =
        Loader::new(&db, &NAMES, CoalesceOptions::default(), |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let cities = [3, 1, 4, 1, 5, 9, 2, 6];
    match at_most(1, row_by_row(&db, &cities)).await {
        Ok(_) => println!("row by row: nothing to complain about"),
        Err(repeated) => println!("row by row: {repeated}"),
    }
    println!("side by side, in one statement: {:?}", at_most(1, side_by_side(&names, &cities)).await??);
    db.close().await;
    Ok(())
}
