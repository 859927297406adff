//! Plans of a statement, what is wrong with it, the index that would help, and whether those that were built pay: on a table of
//! its own, which it removes again.
//! Nothing is built, for nobody has approved it.
//!
//! ```text
//! DATABASE_URL=postgres://postgres@127.0.0.1:5432/postgres cargo run -p paystrata-db --features plans --example advice
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use paystrata_db::plans::{
    AdviseOptions, CreateError, CreateOptions, Measure, ReviewOptions, SlowLog, SlowLogOptions, Thresholds,
    create_index, review_indexes,
};
use paystrata_db::{Config, Db, Statement, Type};

static FIND: Statement = Statement::new("SELECT id FROM example_order WHERE customer = $1", &[Type::INT4]);

const SETUP: &str = "CREATE TABLE example_order AS \
    SELECT i AS id, i % 5000 AS customer FROM generate_series(1, 200000) i; ANALYZE example_order";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL")
        .map_err(|_| "DATABASE_URL is not set: the URL of a primary to play in")?;
    // It sees every statement of this `Db`. A service also spawns `log.run(&db)`, which ends its windows.
    let log = SlowLog::new(SlowLogOptions::default());
    let db = Db::connect_observed(Config::new(url.parse()?), log.clone()).await?;
    let session = db.session("advice").await?;
    session.client().batch_execute(SETUP).await?;
    let shown = show(&db, &log).await;
    session.client().batch_execute("DROP TABLE example_order").await?;
    db.close().await;
    shown
}

async fn show(db: &Db, log: &SlowLog) -> Result<(), Box<dyn Error>> {
    for customer in 0..100 {
        db.read().await?.query(&FIND, &[&customer]).await?;
    }

    println!("What is wrong with it:");
    let explained = db.explain(&FIND, &[&7], Measure::Reads).await?;
    for finding in explained.findings(&Thresholds::default()) {
        println!("- {finding}\n  {}", finding.advice());
    }

    // With `db.counted_workload()` it would be what all processes have asked, where the servers count that.
    println!("\nWhat would help all that was asked so far:");
    let advice = db.advise(&log.workload(), &AdviseOptions::default()).await?;
    println!("{advice}");

    if let Some(best) = advice.indexes.first() {
        let session = db.session("advice").await?;
        // What the review compares with, weeks after the index was built.
        let saves_per_call = Some(best.saves_per_call());
        let options = CreateOptions { saves_per_call, ..CreateOptions::default() };
        match create_index(&session, &best.index, &options).await {
            Err(CreateError::NotApproved) => println!("{} is not built: approval was not given", best.index),
            other => println!("{other:?}"),
        }
    }

    println!("\nWhether what was built here pays:");
    print!("{}", review_indexes(db, &ReviewOptions::default()).await?);
    Ok(())
}
