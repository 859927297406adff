//! Read your writes: a commit gives a token, and a read that carries it sees the commit, wherever it runs.
//!
//! `DATABASE_URL=postgres://app@127.0.0.1/app REPLICA_URL=postgres://app@127.0.0.1:5433/app \
//!  cargo run -p paystrata-db --example tokens`; it makes and drops a table `example_note`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use paystrata_db::{Config, Db, Statement, Token, TransactionOptions, Type};

static MAKE: Statement = Statement::new("CREATE TABLE IF NOT EXISTS example_note (body text NOT NULL)", &[]);
static DROP: Statement = Statement::new("DROP TABLE example_note", &[]);
static ADD: Statement = Statement::new("INSERT INTO example_note (body) VALUES ($1)", &[Type::TEXT]);
static COUNT: Statement = Statement::new("SELECT count(*) FROM example_note", &[]);

async fn add(db: &Db, body: &str) -> Result<Token, Box<dyn Error>> {
    let added =
        db.transaction(TransactionOptions::default(), |tx| async move { tx.execute(&ADD, &[&body]).await });
    Ok(added.await?.token)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set: the URL of a primary")?;
    let mut config = Config::new(url.parse()?);
    if let Ok(replica) = env::var("REPLICA_URL") {
        config.replica_urls = vec![replica.parse()?];
    }
    let db = Db::connect(config).await?;
    db.write().await?.execute(&MAKE, &[]).await?;
    for body in ["one", "two", "three"] {
        let token = add(&db, body).await?;
        // As it travels in a header or a queue.
        let text = token.to_string();
        let connection = db.read_after(text.parse()?).await?;
        let notes: i64 = connection.query_one(&COUNT, &[]).await?.get(0);
        println!("after {text} there are {notes} notes on {}, as {:?}", connection.node(), connection.role());
    }
    db.write().await?.execute(&DROP, &[]).await?;
    db.close().await;
    Ok(())
}
