//! Results of reads, kept in the real cache over the real database: scenario 38 of the data layer's reference, and tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_app::results::Results;
use paystrata_cache::Clock;
use paystrata_db::results::{CachedQuery, QueryCache, ResultError, ResultOptions, Written};
use paystrata_db::{
    Config, Db, Error, NodeState, Observer, QuerySeen, Statement, Token, TransactionOptions, Type,
};
use tokio_postgres::{Client, NoTls};

use crate::stage::{new_database, service_url};

static SIZE: Statement = Statement::new("SELECT 100 / size, size FROM city WHERE id = $1", &[Type::INT8]);
static RESIZE: Statement =
    Statement::new("UPDATE city SET size = $2 WHERE id = $1", &[Type::INT8, Type::INT8]);

const BYTES_MAX: u64 = 1 << 20;
const HOUR: ResultOptions = ResultOptions::living(Duration::from_secs(3_600));

/// Of the primary, and of a replica to read from.
type Urls = (String, Option<String>);

/// Counts the queries that reach a server.
#[derive(Debug, Default)]
struct Queries(AtomicUsize);

impl Observer for Queries {
    fn query(&self, seen: &QuerySeen<'_>) {
        if seen.sql == SIZE.sql() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// One node and its cache.
struct Node {
    queries: Arc<Queries>,
    results: Arc<Results>,
    cached: QueryCache,
    sizes: CachedQuery<Option<i64>>,
}

impl Node {
    async fn start(urls: &Urls, options: ResultOptions) -> Self {
        let queries = Arc::new(Queries::default());
        let mut config = Config::new(urls.0.parse().expect("a URL"));
        config.replica_urls = urls.1.iter().map(|url| url.parse().expect("a URL")).collect();
        (config.pool_size_min, config.pool_size_max) = (1, 4);
        config.monitor_interval = Duration::from_millis(20);
        let observer = Arc::clone(&queries);
        let db = Db::connect_observed(config, observer).await.expect("connect");
        let up = db.status_when(Duration::from_secs(30), |status| {
            status.nodes.iter().all(|node| node.state == NodeState::Up)
        });
        up.await.expect("both servers answer");
        let results = Arc::new(Results::new(&db, BYTES_MAX, Clock::tokio()));
        let port: Arc<Results> = Arc::clone(&results);
        let cached = QueryCache::new(&db, port);
        let sizes = cached.query(&SIZE, &["city"], options, |rows| {
            rows.first().map(|row| row.try_get::<_, i64>(1)).transpose()
        });
        Self { queries, results, sizes: sizes.expect("a query"), cached }
    }

    async fn resize(&self, size: i64) -> Token {
        let resized = self.cached.transaction(TransactionOptions::default(), &["city"], |tx| async move {
            tx.execute(&RESIZE, &[&1_i64, &size]).await
        });
        resized.await.expect("a write").token
    }

    async fn size(&self) -> Option<i64> {
        *self.sizes.get(&[&1_i64]).await.expect("a read").value
    }

    async fn size_after(&self, token: Token) -> Option<i64> {
        *self.sizes.get_after(token, &[&1_i64]).await.expect("a read").value
    }

    fn queries(&self) -> usize {
        self.queries.0.load(Ordering::SeqCst)
    }
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// A database with one city of size 1.
async fn city() -> (Urls, Client) {
    let (primary, replica) = new_database().await;
    let admin = client(&primary).await;
    let fill = "CREATE TABLE city (id int8 PRIMARY KEY, size int8 NOT NULL); INSERT INTO city VALUES (1, 1)";
    admin.batch_execute(fill).await.expect("make the table");
    ((primary, Some(replica)), admin)
}

/// The node's first read, from the primary: a replica may not have the table yet.
async fn first_read(node: &Node) {
    node.cached.invalidate(&["city"], Written::Unknown);
    assert_eq!(node.size().await, Some(1));
}

#[tokio::test]
async fn a_write_is_seen_by_every_read_that_begins_after_it_has_returned() {
    let (urls, _admin) = city().await;
    let node = Node::start(&urls, HOUR).await;
    first_read(&node).await;
    for size in 2..100 {
        node.resize(size).await;
        assert_eq!(node.size().await, Some(size));
        // The second one is the cache's.
        let queries = node.queries();
        assert_eq!((node.size().await, node.queries()), (Some(size), queries));
    }
}

#[tokio::test]
async fn a_thousand_misses_at_once_are_one_query() {
    let (urls, _admin) = city().await;
    let node = Node::start(&urls, HOUR).await;
    let token = node.resize(7).await;
    for read in join_all((0..1_000).map(|_| node.size())).await {
        assert_eq!(read, Some(7));
    }
    assert_eq!(node.queries(), 1);
    // And so are a thousand that bring the same token, for which what is kept is too old.
    let later = Node::start(&urls, HOUR).await.resize(8).await;
    assert!(later > token);
    for read in join_all((0..1_000).map(|_| node.size_after(later))).await {
        assert_eq!(read, Some(8));
    }
    assert_eq!(node.queries(), 2);
}

#[tokio::test]
async fn a_read_with_a_token_never_gets_a_result_from_before_it() {
    let (urls, _admin) = city().await;
    let (reader, writer) = (Node::start(&urls, HOUR).await, Node::start(&urls, HOUR).await);
    first_read(&reader).await;
    let mut before = None;
    for size in 2..60 {
        let token = writer.resize(size).await;
        // The reader's node is told of nothing.
        assert_eq!(reader.size().await, Some(size - 1), "the life of what is kept is an hour");
        assert_eq!(reader.size_after(token).await, Some(size));
        // What was loaded for it serves the others too, and whoever brings an older token.
        let queries = reader.queries();
        assert_eq!(reader.size().await, Some(size));
        if let Some(before) = before.replace(token) {
            assert_eq!(reader.size_after(before).await, Some(size));
        }
        assert_eq!(reader.queries(), queries);
    }
}

/// Tokens come from callers, and one may say anything.
#[tokio::test]
async fn a_token_that_no_server_gave_does_not_make_a_result_newer_than_it_is() {
    let (urls, _admin) = city().await;
    let (reader, writer) = (Node::start(&urls, HOUR).await, Node::start(&urls, HOUR).await);
    first_read(&reader).await;
    for (size, far) in (2..).zip([u64::MAX, u64::MAX - 1, 1 << 60]) {
        let known = writer.resize(size).await;
        let invented = Token { lsn: far, ..known };
        let told = reader.sizes.get_after(invented, &[&1_i64]).await.expect("a read");
        assert_eq!(*told.value, Some(size));
        assert!(told.as_of < invented, "{:?}", told.as_of);
        let token = writer.resize(size + 100).await;
        assert_eq!(reader.size_after(token).await, Some(size + 100), "after one from {far:x}");
    }
}

#[tokio::test]
async fn a_failed_query_is_not_kept() {
    let (urls, admin) = city().await;
    // What is changed past the layer has no token; a replica would have it later.
    let urls = (urls.0, None);
    let node = Node::start(&urls, HOUR).await;
    node.resize(0).await;
    for failures in 1..=3 {
        match node.sizes.get(&[&1_i64]).await {
            Err(ResultError::Database(error)) => {
                assert_eq!(error.sqlstate().map(|state| state.code()), Some("22012"));
            }
            other => panic!("nothing can be divided by zero: {other:?}"),
        }
        assert_eq!(node.queries(), failures, "each asks again");
    }
    // Nobody tells the cache.
    admin.execute("UPDATE city SET size = 5", &[]).await.expect("mend");
    assert_eq!(node.size().await, Some(5));
}

#[tokio::test]
async fn a_result_lives_as_long_as_it_was_told() {
    let (urls, admin) = city().await;
    // What is changed past the layer has no token; a replica would have it later.
    let urls = (urls.0, None);
    let life = Duration::from_secs(600);
    let node = Node::start(&urls, ResultOptions::living(life)).await;
    first_read(&node).await;
    admin.execute("UPDATE city SET size = 2", &[]).await.expect("change past the layer");
    let advance = |by: Duration| async move {
        tokio::time::pause();
        tokio::time::advance(by).await;
        tokio::time::resume();
    };
    let almost = Duration::from_secs(60);
    advance(life - almost).await;
    assert_eq!((node.size().await, node.queries()), (Some(1), 1));
    advance(almost + Duration::from_millis(50)).await;
    assert_eq!((node.size().await, node.queries()), (Some(2), 2));
}

/// Nobody is connected to the database any more, and nobody can connect.
async fn take_down(urls: &Urls) {
    let admin = client(&service_url("PAYSTRATA_TEST_PRIMARY_URL")).await;
    let name = urls.0.rsplit_once('/').expect("a URL with a database").1;
    let down = format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    admin.batch_execute(&down).await.expect("take the database down");
    let replica = client(&service_url("PAYSTRATA_TEST_REPLICA_URL")).await;
    let is_closed = format!("SELECT NOT datallowconn FROM pg_database WHERE datname = '{name}'");
    while !replica.query_one(&is_closed, &[]).await.expect("ask").get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    replica.batch_execute(&end).await.expect("end the sessions");
}

#[tokio::test]
async fn a_stale_result_is_given_while_the_database_is_down_where_that_was_asked_for() {
    let (urls, _admin) = city().await;
    let life = Duration::from_secs(600);
    let lenient = ResultOptions { stale_if_error: Duration::from_secs(3_600), ..ResultOptions::living(life) };
    let (strict, lenient) =
        (Node::start(&urls, ResultOptions::living(life)).await, Node::start(&urls, lenient).await);
    first_read(&strict).await;
    first_read(&lenient).await;
    let as_of = lenient.sizes.get(&[&1_i64]).await.expect("kept").as_of;
    take_down(&urls).await;
    tokio::time::pause();
    tokio::time::advance(2 * life).await;
    tokio::time::resume();
    assert!(strict.sizes.get(&[&1_i64]).await.is_err());
    let stale = lenient.sizes.get(&[&1_i64]).await.expect("a fallback");
    assert_eq!((*stale.value, stale.is_stale), (Some(1), true));
    // It does for a token that it contains, and for no other.
    assert!(lenient.sizes.get_after(as_of, &[&1_i64]).await.is_ok_and(|old| old.is_stale));
    let later = Token { lsn: as_of.lsn + 1, ..as_of };
    assert!(lenient.sizes.get_after(later, &[&1_i64]).await.is_err());
    // What a write has voided is a fallback for nobody.
    lenient.cached.invalidate(&["city"], Written::At(later));
    assert!(lenient.sizes.get(&[&1_i64]).await.is_err());
}

#[tokio::test]
async fn a_write_that_is_dropped_voids_and_one_that_failed_does_not() {
    let (urls, _admin) = city().await;
    let node = Node::start(&urls, HOUR).await;
    first_read(&node).await;
    let refused = node.cached.transaction(TransactionOptions::default(), &["city"], |_| async {
        Err::<(), _>(Error::RowCount { expected: "none", found: 1 })
    });
    refused.await.expect_err("it says so");
    assert_eq!((node.size().await, node.queries()), (Some(1), 1));
    let begun = tokio::sync::Notify::new();
    let dropped = node.cached.transaction(TransactionOptions::default(), &["city"], |tx| {
        let begun = &begun;
        async move {
            tx.execute(&RESIZE, &[&1_i64, &2_i64]).await?;
            begun.notify_one();
            std::future::pending::<Result<(), Error>>().await
        }
    });
    tokio::select! {
        _ = dropped => panic!("it waits for ever"),
        () = begun.notified() => {}
    }
    assert_eq!((node.size().await, node.queries()), (Some(1), 2));
}

#[tokio::test]
async fn what_is_kept_has_a_bound() {
    let (urls, _admin) = city().await;
    let node = Node::start(&urls, HOUR).await;
    node.resize(1).await;
    // Each absent city is a result of no rows; its key and bookkeeping are what weighs.
    for id in 0..12_000_i64 {
        node.sizes.get(&[&id]).await.expect("a read");
    }
    let [(_, stats), _] = node.results.stats();
    assert!(stats.bytes <= BYTES_MAX, "{stats:?}");
    assert!(stats.entries > 1_000, "{stats:?}");
}
