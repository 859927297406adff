//! Through PgBouncer in transaction mode: clients that copy rows among others that do not, from two processes over few server
//! connections.

use paystrata_db::{
    Bulk, BulkOptions, Connection, Db, Error, Method, Statement, TableName, TransactionOptions, Type,
};
use tokio::task::{JoinSet, yield_now};
use uuid::Uuid;

use crate::bouncer::{Bouncer, SERVERS};
use crate::support::{LIMIT, config, count, url, with_database};
use crate::two_processes;

const CLIENTS: i64 = 50;
const ROUNDS: i64 = 4;
/// Rows of one client in one round, in two chunks.
const COPIED: i64 = 40;

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('glad', 'sad'); \
    CREATE TABLE note (id uuid PRIMARY KEY, owner bigint NOT NULL, mood mood NOT NULL, tags text[] NOT NULL)";

#[derive(Clone, Debug)]
struct Note {
    id: Uuid,
    owner: i64,
    mood: String,
    tags: Vec<String>,
}

paystrata_db::row!(Note { id: UUID, owner: INT8, mood: TEXT, tags: TEXT_ARRAY });

static TURN: Statement =
    Statement::new("UPDATE note SET mood = 'sad' WHERE id = $1 AND owner = $2", &[Type::UUID, Type::INT8]);
static READ: Statement =
    Statement::new("SELECT owner, mood::text, tags, ARRAY[mood] FROM note WHERE id = $1", &[Type::UUID]);
static COUNT: Statement = Statement::new(
    "SELECT count(*), count(*) FILTER (WHERE mood = 'sad') FROM note WHERE owner = $1",
    &[Type::INT8],
);

async fn pooled(server: &str, pooler: &str) -> Db {
    let mut config = config(server);
    config.pooler_url = Some(url(pooler));
    config.pool_size_max = 25;
    // Nothing here measures time: a busy machine must not fail it.
    config.statement_timeout = LIMIT;
    Db::connect(config).await.expect("connect through the pooler")
}

/// A connection once there is one: a server that answers no probe in time is waited for.
async fn connection(db: &Db) -> Connection {
    loop {
        match db.write().await {
            Err(error) if error.is_not_sent() => yield_now().await,
            taken => return taken.expect("a connection"),
        }
    }
}

/// Copies rows, changes one of them and reads it, again and again. No error is among it, least of all 42P05, 26000 or 08P01.
async fn one_client(db: Db, notes: Bulk<Note>, owner: i64) {
    let options = BulkOptions {
        method: Method::Copy,
        chunk_rows_max: 20,
        chunk_timeout: 2 * LIMIT,
        ..BulkOptions::default()
    };
    for round in 0..ROUNDS {
        let tags = vec![format!("round {round}")];
        let row = || Note { id: Uuid::new_v4(), owner, mood: "glad".to_owned(), tags: tags.clone() };
        let rows: Vec<Note> = (0..COPIED).map(|_| row()).collect();
        let id = rows[0].id;
        let report = Box::pin(notes.insert_many(rows, &options)).await;
        let report = report.unwrap_or_else(|error| panic!("client {owner}, round {round}: {error:?}"));
        assert_eq!(i64::try_from(report.affected).expect("few"), COPIED);

        let patient = TransactionOptions { timeout: 2 * LIMIT, ..TransactionOptions::default() };
        let turned = db.transaction(patient, |tx| async move {
            let turned = tx.execute(&TURN, &[&id, &owner]).await?;
            let row = tx.query_one(&READ, &[&id]).await?;
            Ok::<_, Error>((turned, row.get::<_, String>(1)))
        });
        let turned = turned.await.unwrap_or_else(|error| panic!("client {owner}, round {round}: {error:?}"));
        assert_eq!(turned.value, (1, "sad".to_owned()));

        let row = connection(&db).await.query_one(&READ, &[&id]).await.expect("read");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, Vec<String>>(2)), (owner, tags));
    }
    let row = connection(&db).await.query_one(&COUNT, &[&owner]).await.expect("count");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (ROUNDS * COPIED, ROUNDS));
}

async fn load(db: &Db) {
    let notes: Bulk<Note> = Bulk::open(db, &TableName::new("note")).await.expect("it fits");
    let first_owner = i64::from(std::process::id()) * CLIENTS;
    let mut clients = JoinSet::new();
    for owner in first_owner..first_owner + CLIENTS {
        clients.spawn(one_client(db.clone(), notes.clone(), owner));
    }
    clients.join_all().await;
}

/// One process of the load. Alone it brings its own pooler; told of a shared one it uses that.
#[test]
fn clients_that_copy_share_ten_servers_with_others() {
    with_database(|bed| async move {
        if let Some((pooler, server)) = two_processes::shared() {
            return load(&pooled(&server, &pooler).await).await;
        }
        let bouncer = Bouncer::start(&bed.primary_url(), "transaction", "");
        bed.admin().await.client.batch_execute(SCHEMA).await.expect("schema");
        load(&pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await).await;
    });
}

/// Scenario 28 of the reference.
#[test]
fn clients_of_two_processes_copy_among_others_without_a_stale_name() {
    with_database(|bed| async move {
        let bouncer = Bouncer::start(&bed.primary_url(), "transaction", "");
        let admin = bed.admin().await;
        admin.client.batch_execute(SCHEMA).await.expect("schema");
        let (pooler, server) = (bouncer.through(&bed.primary_url()), bed.primary_url());
        two_processes::pass(
            "pooled_mixture::clients_that_copy_share_ten_servers_with_others",
            &pooler,
            &server,
        )
        .await;
        let all = count(&admin, "SELECT count(*) FROM note").await;
        assert_eq!(all, 2 * CLIENTS * ROUNDS * COPIED);
        let servers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'paystrata-db'";
        assert!(count(&admin, servers).await <= i64::from(SERVERS));
    });
}
