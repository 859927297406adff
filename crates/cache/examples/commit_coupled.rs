//! The change and the news of it in one transaction: a rollback tells nobody, and a process that dies right after
//! its commit has told everybody. Announcements have the order of commits.
//!
//! `DATABASE_URL=postgres://127.0.0.1/test cargo run -p paystrata-cache --features postgres --example commit_coupled`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, error::Error, sync::Arc, time::Duration};

use paystrata_cache::{
    Cache, Version,
    postgres::{PostgresOptions, PostgresTier},
};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

/// From the table that `rename` writes.
async fn load(client: Arc<Mutex<Client>>, id: i64) -> Result<Option<String>, tokio_postgres::Error> {
    let row = client.lock().await.query_opt("SELECT name FROM people WHERE id = $1", &[&id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// On the node that writes; it has a cache of its own.
async fn rename(
    client: &mut Client,
    (people, line): (&Cache<i64, String>, &PostgresTier),
    (id, name): (i64, &str),
) -> Result<(), Box<dyn Error>> {
    // Renames nobody to nothing.
    let transaction = client.transaction().await?;
    // One sequence for all rows: versions are one order for all keys.
    let sql =
        "UPDATE people SET name = $2, written = nextval('people_written') WHERE id = $1 RETURNING written";
    let version = Version(u64::try_from(transaction.query_one(sql, &[&id, &name]).await?.get::<_, i64>(0))?);
    let change = people.invalidation(version).remove(&id);
    let coupled = people.invalidate_in(line, &transaction, change).await?;
    if name.is_empty() {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
        // The others are told by the commit; this node need not wait to hear it.
        coupled.committed();
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config: Config = env::var("DATABASE_URL")?.parse()?;
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    PostgresTier::create_schema(&client, "paystrata_cache").await?;
    let table = "CREATE TEMP SEQUENCE people_written;
                 CREATE TEMP TABLE people (id bigint PRIMARY KEY, name text, written bigint);
                 INSERT INTO people VALUES (7, 'Ada', nextval('people_written'))";
    client.batch_execute(table).await?;
    // Only the connection that has made a temporary table sees it.
    let client = Arc::new(Mutex::new(client));

    // Another node: it knows of the change what the line tells it, and nothing else.
    let line = PostgresTier::connect(config, PostgresOptions::default())?;
    let build = || Cache::<i64, String>::builder("people").backplane(Arc::new(line.clone())).build();
    let (writer, people) = (build(), build());
    let read = async || {
        let client = Arc::clone(&client);
        people.get_or_load(&7, move |_context| load(client, 7)).await
    };
    // What is loaded before the line is up is dropped when it is.
    people.ready(Duration::from_secs(30)).await?;
    for name in ["", "Grace"] {
        read().await?;
        println!("cached before: {:?}", people.get(&7));
        rename(&mut *client.lock().await, (&writer, &line), (7, name)).await?;
        // The news takes milliseconds, and nobody hears of what was rolled back.
        let mut patience = 0..500;
        while !name.is_empty() && people.get(&7).is_some() && patience.next().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("cached after renaming to {name:?}: {:?}", people.get(&7));
    }
    println!("loaded anew: {:?}", read().await?);
    people.close().await;
    writer.close().await;
    Ok(())
}
