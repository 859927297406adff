//! A database per test, and waiting for a condition without sleeping. Nothing here knows what is tested.

use std::time::Duration;

use paystrata_db::tokio_postgres::{self, Client, NoTls};
use paystrata_db::{Config, ConnectionUrl, Db, NodeState, Statement, Status};
use tokio::runtime::Builder;
use tokio_util::task::AbortOnDropHandle;

/// Long enough for anything that happens at all, on a busy machine; no test measures time by it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) static ONE: Statement = Statement::new("SELECT 1", &[]);

/// One test's database.
#[derive(Clone, Debug)]
pub(crate) struct Bed {
    database: String,
}

/// A plain connection, outside of what is tested.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) client: Client,
    _task: AbortOnDropHandle<()>,
}

/// Gives `test` a database of its own and drops it afterwards, also when the test panics.
pub(crate) fn with_database<F, Fut>(test: F)
where
    F: FnOnce(Bed) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    with_database_on(Builder::new_multi_thread(), test);
}

/// As [`with_database`], on a runtime of choice.
pub(crate) fn with_database_on<F, Fut>(mut runtime: Builder, test: F)
where
    F: FnOnce(Bed) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let runtime = runtime.worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let bed = Bed { database: format!("t_{}", uuid::Uuid::new_v4().simple()) };
        let admin = plain(&variable("PAYSTRATA_TEST_PRIMARY_URL")).await;
        admin
            .client
            .batch_execute(&format!("CREATE DATABASE {}", bed.database))
            .await
            .expect("create a database");
        let outcome = tokio::spawn(test(bed.clone())).await;
        let drop_database = format!("DROP DATABASE {} WITH (FORCE)", bed.database);
        admin.client.batch_execute(&drop_database).await.expect("drop the database");
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through `cargo xtask test`"))
}

pub(crate) async fn plain(url: &str) -> Plain {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    let task = tokio::spawn(async move {
        // Its end shows in the client's calls.
        let _ended = connection.await;
    });
    Plain { client, _task: AbortOnDropHandle::new(task) }
}

impl Bed {
    pub(crate) fn primary_url(&self) -> String {
        self.in_database(&variable("PAYSTRATA_TEST_PRIMARY_URL"))
    }

    pub(crate) fn replica_url(&self) -> String {
        self.in_database(&variable("PAYSTRATA_TEST_REPLICA_URL"))
    }

    fn in_database(&self, url: &str) -> String {
        let (server, _database) = url.rsplit_once('/').expect("a URL ends in a database");
        format!("{server}/{}", self.database)
    }

    pub(crate) async fn admin(&self) -> Plain {
        plain(&self.primary_url()).await
    }

    pub(crate) fn config(&self) -> Config {
        config(&self.primary_url())
    }

    /// A `Db` over the primary alone.
    pub(crate) async fn primary_only(&self) -> Db {
        Db::connect(self.config()).await.expect("connect")
    }

    /// A `Db` over primary and replica, both answering.
    pub(crate) async fn replicated(&self) -> Db {
        let mut config = self.config();
        config.replica_urls = vec![url(&self.replica_url())];
        connected(config).await
    }
}

/// Connects and waits until all servers answer: the replica has to replay the making of the database first.
pub(crate) async fn connected(config: Config) -> Db {
    let db = Db::connect(config).await.expect("connect");
    until(&db, |status| status.nodes.iter().all(|node| node.state == NodeState::Up)).await;
    db
}

pub(crate) async fn until(db: &Db, wanted: impl Fn(&Status) -> bool) -> Status {
    db.status_when(LIMIT, wanted).await.unwrap_or_else(|status| panic!("it never came: {status:#?}"))
}

pub(crate) fn url(text: &str) -> ConnectionUrl {
    text.parse().expect("a connection URL")
}

/// Small pools, because many tests share one server, and time for a busy machine: who looks at a limit sets it.
pub(crate) fn config(primary_url: &str) -> Config {
    let mut config = Config::new(url(primary_url));
    config.pool_size_min = 1;
    config.pool_size_max = 4;
    config.acquire_timeout = LIMIT;
    config.connect_timeout = LIMIT;
    config.monitor_interval = Duration::from_millis(20);
    config
}

/// Asks until `sql`, a query for one number, gives `wanted`.
pub(crate) async fn until_count(plain: &Plain, sql: &str, wanted: i64) {
    let asked = tokio::time::timeout(LIMIT, async { while count(plain, sql).await != wanted {} }).await;
    assert!(asked.is_ok(), "{sql} never gave {wanted}");
}

pub(crate) async fn count(plain: &Plain, sql: &str) -> i64 {
    plain.client.query_one(sql, &[]).await.expect("count").get(0)
}
