//! How connections begin and end: prepared ahead, replaced before their end, refused by a full server, closed with the `Db`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use paystrata_db::{Class, Db, Error, Statement};

use crate::support::{LIMIT, ONE, config, count, until, until_count, with_database};

static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
static NAP: Statement = Statement::new("SELECT 1 FROM pg_sleep(2)", &[]);
const OURS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = 'paystrata-db'";

#[test]
fn statements_named_in_the_settings_are_prepared_before_the_first_use() {
    static AHEAD: Statement = Statement::new("SELECT 'ahead'", &[]);
    static REFUSED: Statement = Statement::new("SELECT body FROM not_there_yet", &[]);
    static PREPARED: Statement =
        Statement::new("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%ahead%'", &[]);
    with_database(|bed| async move {
        let mut config = bed.config();
        config.statements_ahead = vec![REFUSED, AHEAD];
        let db = Db::connect(config).await.expect("a statement that the server refuses stops nothing");
        let connection = db.write().await.expect("acquire");
        // The statement that asks is one of them.
        assert_eq!(connection.query_one(&PREPARED, &[]).await.expect("ask").get::<_, i64>(0), 2);
        connection.query_one(&AHEAD, &[]).await.expect("query");
        assert_eq!(connection.query_one(&PREPARED, &[]).await.expect("ask").get::<_, i64>(0), 2);
    });
}

#[test]
fn a_table_that_somebody_has_locked_keeps_no_connection_from_being_made() {
    static HELD: Statement = Statement::new("SELECT x FROM held", &[]);
    static FREE: Statement = Statement::new("SELECT 'free'", &[]);
    static PATIENCE: Statement = Statement::new("SELECT current_setting('lock_timeout')", &[]);
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute("CREATE TABLE held (x int); BEGIN; LOCK TABLE held").await.expect("lock");
        let mut config = bed.config();
        config.statements_ahead = vec![HELD, FREE];
        // It holds the table for as long as this test takes.
        let db = Db::connect(config).await.expect("nobody waits for the table");
        let connection = db.write().await.expect("acquire");
        connection.query_one(&FREE, &[]).await.expect("query");
        assert_eq!(connection.query_one(&PATIENCE, &[]).await.expect("ask").get::<_, String>(0), "0");
        let prepared = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        assert_eq!(count(&admin, prepared).await, 0, "nothing of it is left waiting");
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        assert!(connection.query(&HELD, &[]).await.expect("it is prepared now").is_empty());
    });
}

#[test]
fn connections_are_replaced_one_by_one_before_their_end() {
    const SIZE: usize = 10;
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_min = SIZE;
        config.pool_size_max = SIZE;
        config.connection_lifetime_max = Duration::from_secs(8);
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        let backends = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity \
                        WHERE datname = current_database() AND application_name = 'paystrata-db'";
        let first: String = admin.client.query_one(backends, &[]).await.expect("ask").get(0);
        assert_eq!(count(&admin, OURS).await, 10);
        let done = AtomicBool::new(false);
        let borrowers = (0..4).map(|_| async {
            while !done.load(Ordering::Acquire) {
                let connection = db.write().await.expect("acquire");
                connection.query_one(&ONE, &[]).await.expect("nobody notices");
            }
        });
        let watch = async {
            let renewed = |db: &Db| db.status().nodes[0].pool.renewed;
            while renewed(&db) < 3 {
                let open = count(&admin, OURS).await;
                // A closed one lingers on the server's list for a moment. There may be fewer: a busy machine that makes a
                // probe late has the server taken for gone, and all connections with it.
                assert!(open <= 14, "{open} connections");
            }
            done.store(true, Ordering::Release);
        };
        let both = Box::pin(join(join_all(borrowers), watch));
        tokio::time::timeout(LIMIT, both).await.expect("some are replaced before their end");
        until_count(&admin, &format!("{OURS} AND pid IN ({first})"), 0).await;
        until(&db, |status| status.nodes[0].pool.in_use == 0).await;
    });
}

#[test]
fn pools_that_want_more_than_the_server_has_share_what_there_is() {
    const POOLS: usize = 10;
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let role = format!("few_{}", uuid::Uuid::new_v4().simple());
        // One for each monitor, one for each pool, and ten of the ninety that the pools want besides.
        let create = format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 30; GRANT pg_monitor TO {role}");
        admin.client.batch_execute(&create).await.expect("create the role");
        let before_host = bed.primary_url().find('@').expect("a URL with a user");
        let own_url = format!("postgres://{role}{}", &bed.primary_url()[before_host..]);
        let mut config = config(&own_url);
        config.pool_size_max = 10;
        let pools = join_all((0..POOLS).map(|_| Db::connect(config.clone()))).await;
        let pools: Vec<Db> = pools.into_iter().collect::<Result<_, _>>().expect("there is room for one each");
        let callers = pools.iter().flat_map(|db| (0..10).map(move |_| db)).map(|db| async move {
            for _ in 0..20 {
                let connection = loop {
                    match db.write().await {
                        // A monitor that a busy machine made lose its connection had to wait for room, too.
                        Err(Error::NodeDown { .. }) => {}
                        taken => break taken?,
                    }
                };
                connection.query_one(&ONE, &[]).await?;
            }
            Ok::<_, Error>(())
        });
        for served in join_all(callers).await {
            served.expect("whoever finds the server full waits for a neighbour");
        }
        let sizes: usize = pools.iter().map(|db| db.status().nodes[0].pool.size).sum();
        assert!(sizes <= 20, "{sizes} connections besides the monitors'");
        for db in &pools {
            db.close().await;
        }
        let of_role = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        until_count(&admin, &of_role, 0).await;
        admin.client.batch_execute(&format!("DROP ROLE {role}")).await.expect("drop the role");
    });
}

#[test]
fn closing_lets_work_end_and_then_cancels_it_on_the_server() {
    with_database(|bed| async move {
        let url = format!("{}?options=-c%20client_connection_check_interval%3D0", bed.primary_url());
        let mut config = config(&url);
        config.statement_timeout = 2 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        let run = |statement: &'static Statement| {
            let db = db.clone();
            tokio::spawn(async move { db.write().await?.query_one(statement, &[]).await.map(drop) })
        };
        let (short, endless) = (run(&NAP), run(&SLEEP));
        until_count(&admin, &format!("{OURS} AND state = 'active'"), 2).await;
        let closing = db.close();
        let refused = async {
            // Polled after the closing has begun, and long before it is over.
            assert!(matches!(db.write().await, Err(Error::Closed)));
            assert!(matches!(db.read().await, Err(Error::Closed)));
        };
        join(closing, refused).await;
        short.await.expect("no panic").expect("it had time to end");
        let error = endless.await.expect("no panic").expect_err("it was cancelled");
        assert_eq!((error.class(), error.sqlstate().map(|code| code.code())), (Class::Caller, Some("57014")));
        until_count(&admin, OURS, 0).await;
    });
}
