//! The change and the news of it in one transaction: a rollback tells nobody, and a process that dies right after
//! its commit has told everybody. Announcements have the order of commits.
//!
//! `DATABASE_URL=postgres://127.0.0.1/test cargo run -p paystrata-cache --features postgres --example commit_coupled`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, error::Error, io, sync::Arc, time::Duration};

use paystrata_cache::{
    Cache, Invalidation, Version,
    postgres::{PostgresOptions, PostgresTier},
};
use tokio_postgres::{Client, Config, NoTls};

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
    let change = Invalidation::at(version).remove(&id);
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
    let (mut client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    PostgresTier::create_schema(&client, "paystrata_cache").await?;
    let table = "CREATE TEMP SEQUENCE people_written;
                 CREATE TEMP TABLE people (id bigint PRIMARY KEY, name text, written bigint);
                 INSERT INTO people VALUES (7, 'Ada', nextval('people_written'))";
    client.batch_execute(table).await?;

    // Another node: it knows of the change what the line tells it, and nothing else.
    let line = PostgresTier::connect(config, PostgresOptions::default())?;
    let build = || Cache::<i64, String>::builder("people").backplane(Arc::new(line.clone())).build();
    let (writer, people) = (build(), build());
    let load = |_context| async { Ok::<_, io::Error>(Some("Ada".to_owned())) };
    // What is loaded before the line is up is dropped when it is.
    while people.explain(&7).await.mark.incarnation == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for name in ["", "Grace"] {
        people.get_or_load(&7, load).await?;
        println!("cached before: {:?}", people.get(&7));
        rename(&mut client, (&writer, &line), (7, name)).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        println!("cached after renaming to {name:?}: {:?}", people.get(&7));
    }
    people.close().await;
    writer.close().await;
    Ok(())
}
