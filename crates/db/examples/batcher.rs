//! Writes of many callers in one commit, each answered with an outcome of its own: a bad one fails alone.
//!
//! `DATABASE_URL=postgres://app@127.0.0.1/app cargo run -p paystrata-db --example batcher`; it makes and drops a
//! table `example_city`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use futures_util::future::join_all;
use paystrata_db::{Batcher, CoalesceOptions, Config, Db, Statement, TransactionOptions, Type};

static MAKE: Statement = Statement::new(
    "CREATE TABLE IF NOT EXISTS example_city (id int8 GENERATED ALWAYS AS IDENTITY, name text NOT NULL CHECK (name <> ''))",
    &[],
);
static DROP: Statement = Statement::new("DROP TABLE example_city", &[]);
/// One statement for the whole batch, one row back for each item, in their order.
static ADD: Statement = Statement::new(
    "INSERT INTO example_city (name) SELECT name FROM unnest($1) WITH ORDINALITY AS new (name, place) \
     ORDER BY place RETURNING id",
    &[Type::TEXT_ARRAY],
);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set: the URL of a primary")?;
    let db = Db::connect(Config::new(url.parse()?)).await?;
    db.write().await?.execute(&MAKE, &[]).await?;
    let cities: Batcher<String, i64> = Batcher::new(
        &db,
        CoalesceOptions::default(),
        TransactionOptions::default(),
        |tx, names| async move {
            println!("a transaction of {} items", names.len());
            let rows = tx.query(&ADD, &[&&*names]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        },
    )?;
    let names = ["Ghent", "Bruges", "", "Antwerp"];
    let outcomes = join_all(names.map(|name| cities.submit(name.to_owned()))).await;
    for (name, outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(added) => println!("{name:?} is city {}, visible to reads after {}", added.value, added.token),
            Err(error) if error.outcome_is_unknown() => println!("{name:?} may have been added: {error}"),
            Err(error) => println!("{name:?} was not added: {error}"),
        }
    }
    db.write().await?.execute(&DROP, &[]).await?;
    db.close().await;
    Ok(())
}
