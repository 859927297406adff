//! Where statements go: writes to the primary, reads to a replica that is fresh enough, and what is known of each server.
//!
//! `DATABASE_URL=postgres://app@127.0.0.1/app REPLICA_URL=postgres://app@127.0.0.1:5433/app \
//!  cargo run -p paystrata-db --example routing`; without `REPLICA_URL` the primary serves the reads.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use paystrata_db::{Config, Db, Statement};

static WHERE: Statement = Statement::new("SELECT pg_is_in_recovery()", &[]);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set: the URL of a primary")?;
    let mut config = Config::new(url.parse()?);
    if let Ok(replica) = env::var("REPLICA_URL") {
        config.replica_urls = vec![replica.parse()?];
    }
    let replicas = config.replica_urls.len();
    let db = Db::connect(config).await?;
    if replicas > 0 {
        // Reads go to the primary until a replica has answered its first probe.
        let up = db.status_when(std::time::Duration::from_secs(5), |status| {
            status.nodes.iter().all(|node| node.role.is_some())
        });
        if up.await.is_err() {
            println!("the replica does not answer: the primary serves the reads");
        }
    }
    for (what, connection) in [("a write", db.write().await?), ("a read", db.read().await?)] {
        let is_replica: bool = connection.query_one(&WHERE, &[]).await?.get(0);
        println!(
            "{what} goes to {}, as {:?}; in recovery: {is_replica}",
            connection.node(),
            connection.role()
        );
    }
    for node in db.status().nodes {
        println!(
            "{}: {:?}, {:?}, lag {:?}, {} of {} connections in use",
            node.id, node.state, node.role, node.lag, node.pool.in_use, node.pool.size_max
        );
    }
    db.close().await;
    Ok(())
}
