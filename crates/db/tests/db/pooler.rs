//! Through PgBouncer in transaction mode: what works, what is refused and says why, and what goes around it.

use paystrata_db::tokio_postgres::types::FromSql;
use paystrata_db::{
    Connection, Db, Error, Migration, Migrator, PoolerMode, Statement, ToSql, TransactionError,
    TransactionOptions, Type,
};

use crate::bouncer::{Bouncer, SERVERS};
use crate::support::{Bed, LIMIT, config, count, url, with_database};
use crate::two_processes;

const CLIENTS: i64 = 100;
const ROUNDS: i64 = 10;

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('glad', 'sad'); \
    CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner bigint NOT NULL, mood mood NOT NULL, \
        tags text[] NOT NULL, body jsonb NOT NULL)";

static ADD: Statement = Statement::new(
    "INSERT INTO note (owner, mood, tags, body) VALUES ($1, $2::text::mood, $3, $4::text::jsonb) RETURNING id, mood",
    &[Type::INT8, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT],
);
static READ: Statement =
    Statement::new("SELECT id, mood, tags, body::text, ARRAY[mood] FROM note WHERE id = $1", &[Type::UUID]);
static TURN: Statement =
    Statement::new("UPDATE note SET mood = 'sad' WHERE id = $1 AND owner = $2", &[Type::UUID, Type::INT8]);
static COUNT: Statement =
    Statement::new("SELECT count(*) FROM note WHERE owner = $1 AND mood = 'sad'", &[Type::INT8]);
static LOCK: Statement = Statement::new("SELECT pg_advisory_lock($1)", &[Type::INT8]);
static LOCK_IN_TRANSACTION: Statement = Statement::new("SELECT pg_advisory_xact_lock($1)", &[Type::INT8]);

/// A value of the database's own type, as text.
#[derive(Debug, PartialEq, Eq)]
struct Mood(String);

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8(raw.to_vec())?))
    }

    fn accepts(found: &Type) -> bool {
        found.name() == "mood"
    }
}

async fn pooled(server: &str, pooler: &str) -> Db {
    let mut config = config(server);
    config.pooler_url = Some(url(pooler));
    config.pool_size_max = 40;
    // Nothing here measures time: a busy machine must not fail it.
    config.statement_timeout = LIMIT;
    Db::connect(config).await.expect("connect through the pooler")
}

fn bouncer(bed: &Bed) -> Bouncer {
    Bouncer::start(&bed.primary_url(), "transaction", "")
}

/// A connection once there is one: a server that answers no probe in time is waited for.
async fn connection(db: &Db) -> Result<Connection, Error> {
    loop {
        match db.write().await {
            Err(error) if error.is_not_sent() => tokio::task::yield_now().await,
            taken => return taken,
        }
    }
}

async fn one_client(db: Db, owner: i64) -> Result<(), Error> {
    for round in 0..ROUNDS {
        let (tags, body) = (vec!["a".to_owned(), round.to_string()], format!("{{\"round\": {round}}}"));
        let values: [&(dyn ToSql + Sync); 4] = [&owner, &"glad", &tags, &body];
        let row = connection(&db).await?.query_one(&ADD, &values).await?;
        let (id, mood): (uuid::Uuid, Mood) = (row.get(0), row.get(1));
        assert_eq!(mood, Mood("glad".to_owned()));
        let turned = db.transaction(TransactionOptions::default(), |tx| async move {
            tx.query_one(&LOCK_IN_TRANSACTION, &[&owner]).await?;
            let turned = tx.execute(&TURN, &[&id, &owner]).await?;
            let row = tx.query_one(&READ, &[&id]).await?;
            assert_eq!(row.get::<_, Mood>(1), Mood("sad".to_owned()));
            Ok::<_, Error>(turned)
        });
        let turned = turned.await.map_err(|error| panic!("client {owner}, round {round}: {error:?}"));
        assert_eq!(turned?.value, 1);
        let row = connection(&db).await?.query_one(&READ, &[&id]).await?;
        assert_eq!((row.get::<_, Vec<String>>(2), row.get::<_, Vec<Mood>>(4).len()), (tags, 1));
    }
    Ok(())
}

async fn load(db: &Db, first_owner: i64) {
    let clients =
        (first_owner..first_owner + CLIENTS).map(|owner| tokio::spawn(one_client(db.clone(), owner)));
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic").expect("no error, least of all 42P05, 26000 or 08P01");
    }
    let connection = connection(db).await.expect("connection");
    let row = connection.query_one(&COUNT, &[&first_owner]).await.expect("count");
    assert_eq!(row.get::<_, i64>(0), ROUNDS);
}

/// One process of the load. Alone it brings its own pooler; told of a shared one it uses that.
#[test]
fn a_hundred_clients_share_ten_servers_without_a_stale_name() {
    with_database(|bed| async move {
        let first_owner = i64::from(std::process::id()) * CLIENTS;
        if let Some((pooler, server)) = two_processes::shared() {
            return load(&pooled(&server, &pooler).await, first_owner).await;
        }
        let bouncer = bouncer(&bed);
        bed.admin().await.client.batch_execute(SCHEMA).await.expect("schema");
        load(&pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await, first_owner).await;
    });
}

#[test]
fn two_processes_of_a_hundred_clients_share_ten_servers_without_a_stale_name() {
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let admin = bed.admin().await;
        admin.client.batch_execute(SCHEMA).await.expect("schema");
        let (pooler, server) = (bouncer.through(&bed.primary_url()), bed.primary_url());
        two_processes::pass(
            "pooler::a_hundred_clients_share_ten_servers_without_a_stale_name",
            &pooler,
            &server,
        )
        .await;
        let all = count(&admin, "SELECT count(*) FROM note WHERE mood = 'sad'").await;
        assert_eq!(all, 2 * CLIENTS * ROUNDS);
        let servers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'paystrata-db'";
        assert!(count(&admin, servers).await <= i64::from(SERVERS));
    });
}

#[test]
fn a_pooler_says_what_it_is() {
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let db = pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await;
        let seen = db.pooler().await.expect("its console answers").expect("there is one");
        assert_eq!(seen.mode, PoolerMode::Transaction);
        assert!(seen.version.starts_with("PgBouncer 1."), "{seen:?}");
        assert_eq!(bed.primary_only().await.pooler().await.expect("nobody is asked"), None);
    });
}

#[test]
fn a_pooler_in_statement_mode_is_refused_at_the_start() {
    with_database(|bed| async move {
        let bouncer = Bouncer::start(&bed.primary_url(), "statement", "");
        let mut config = bed.config();
        config.pooler_url = Some(url(&bouncer.through(&bed.primary_url())));
        let refused = Db::connect(config).await.expect_err("no transaction would hold");
        assert!(refused.to_string().contains("pool_mode"), "{refused}");
    });
}

#[test]
fn a_pooler_named_as_the_server_is_recognised_though_it_swallows_the_settings() {
    with_database(|bed| async move {
        for settings in ["", "ignore_startup_parameters = options"] {
            let bouncer = Bouncer::start(&bed.primary_url(), "transaction", settings);
            let refused = Db::connect(config(&bouncer.through(&bed.primary_url()))).await;
            let refused = refused.expect_err("it is no server").to_string();
            assert!(refused.contains("is a pooler and not a server"), "{refused}");
            assert!(refused.contains("pooler_url"), "{refused}");
        }
    });
}

#[test]
fn what_belongs_to_a_session_is_refused_behind_a_pooler_and_only_there() {
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let db = pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await;
        let refused = db.write().await.expect("connection").query_one(&LOCK, &[&1_i64]).await;
        let refused = refused.expect_err("it would stay on somebody's connection");
        assert!(matches!(refused, Error::NeedsSession { .. }), "{refused}");
        assert!(refused.to_string().contains("pg_advisory_xact_lock"), "{refused}");
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(count(&bed.admin().await, held).await, 0);
        // A session goes to the server itself, and keeps what it is given.
        let session = db.session("worker").await.expect("session");
        session.client().query_one(LOCK.sql(), &[&1_i64]).await.expect("lock");
        session.client().batch_execute("LISTEN news").await.expect("listen");
        assert_eq!(count(&bed.admin().await, held).await, 1);
    });
}

#[test]
fn migrations_go_around_the_pooler() {
    static MIGRATOR: Migrator = Migrator::new(&[
        Migration::from_file("0001_note.sql", "CREATE TABLE note (body int)"),
        Migration::from_file(
            "0002_index.sql",
            "-- no-transaction\nCREATE INDEX CONCURRENTLY note_body ON note (body);\
             \nCREATE TABLE told AS SELECT current_setting('application_name') AS name;",
        ),
    ]);
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let db = pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await;
        let session = db.session("migrate").await.expect("session");
        assert_eq!(MIGRATOR.up(&session).await.expect("up").len(), 2);
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM told WHERE name = 'paystrata-db/migrate'").await, 1);
        // The lock is the session's, and is given back: behind a pooler it would stay with a stranger.
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(count(&admin, held).await, 0);
        assert_eq!(MIGRATOR.up(&session).await.expect("nothing left"), []);
    });
}

#[test]
fn a_type_made_later_is_known_once_old_connections_are_replaced() {
    static LATE: Statement = Statement::new("SELECT 'x'::late", &[]);
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let db = pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await;
        bed.admin().await.client.batch_execute("CREATE TYPE late AS ENUM ('x')").await.expect("a type");
        let refused = db.write().await.expect("connection").query_one(&LATE, &[]).await;
        let refused = refused.expect_err("the connection is older than the type");
        assert!(refused.is_retryable(), "{refused:?}");
        // It has left the pool, and its successor learns the type when it is made.
        db.write().await.expect("connection").query_one(&LATE, &[]).await.expect("known");
    });
}

#[test]
fn a_pooler_that_is_away_is_told_as_that_and_the_closure_has_not_run() {
    with_database(|bed| async move {
        let bouncer = bouncer(&bed);
        let db = pooled(&bed.primary_url(), &bouncer.through(&bed.primary_url())).await;
        drop(bouncer);
        let runs = std::sync::atomic::AtomicUsize::new(0);
        let told = db.transaction(TransactionOptions::default(), |_tx| async {
            runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok::<_, Error>(())
        });
        let told = told.await;
        let Err(TransactionError::Database(error)) = &told else { panic!("{told:?}") };
        assert!(error.is_not_sent(), "{error:?}");
        assert!(told.is_err_and(|error| error.is_retryable()));
        assert_eq!(runs.into_inner(), 0);
    });
}
