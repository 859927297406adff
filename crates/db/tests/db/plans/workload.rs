//! The workload that a server itself has counted. What counts has to be there when the server starts, so the servers that all tests
//! share count nothing.

use std::sync::Arc;

use paystrata_db::plans::{AdviseOptions, HypoPg, PlanError, Workload, advise};
use paystrata_db::{Db, Statement, Type};

use super::on;
use crate::failover::on_cluster;
use crate::support::{plain, until, with_database};

static FIND: Statement = Statement::new("SELECT id FROM visit WHERE k = $1", &[Type::INT4]);

const SETUP: &str = "CREATE EXTENSION pg_stat_statements; \
    CREATE TABLE visit AS SELECT i AS id, i % 5000 AS k FROM generate_series(1, 50000) i; ANALYZE visit";

#[test]
fn a_server_that_counts_nothing_has_no_workload_and_one_that_was_started_without_it_says_so() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("workload").await.expect("session");
        assert!(Workload::from_server(&session).await.expect("ask").is_none());
        on(&session, "CREATE EXTENSION pg_stat_statements").await;
        let refused = Workload::from_server(&session).await.expect_err("it is installed, and counts nothing");
        let PlanError::Refused(error) = &refused else { panic!("{refused}") };
        assert_eq!(error.code().map(|code| code.code()), Some("55000"));
    });
}

#[test]
fn what_a_server_has_counted_is_told_with_its_calls_and_can_be_advised_on() {
    on_cluster(|cluster, config| async move {
        const SERVERS: [&str; 2] = ["primary", "replica"];
        for name in SERVERS {
            cluster.run_on(name, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await;
        }
        let same = Arc::clone(&cluster);
        let restart = move || {
            for name in SERVERS {
                same.stop(name);
                same.boot(name);
            }
        };
        tokio::task::spawn_blocking(restart).await.expect("restart");
        let db = Db::connect(config).await.expect("connect");
        let session = db.session("workload").await.expect("session");
        on(&session, SETUP).await;

        let connection = db.write().await.expect("connection");
        for k in 0..7 {
            connection.query(&FIND, &[&k]).await.expect("find");
        }
        // Values in a text are counted as parameters.
        for k in 0..3 {
            on(&session, &format!("SELECT max(id) FROM visit WHERE k = {k}")).await;
        }
        // Neither of these is a statement that an index could help here.
        on(&session, "INSERT INTO visit VALUES (0, 0)").await;
        cluster.run_on("primary", "CREATE DATABASE elsewhere").await;
        let url = cluster.url("primary");
        let (server, _database) = url.rsplit_once('/').expect("a URL ends in a database");
        let stranger = plain(&format!("{server}/elsewhere")).await;
        stranger.client.batch_execute("SELECT 1 AS elsewhere").await.expect("ask elsewhere");

        let counted = Workload::from_server(&session).await.expect("ask").expect("it is installed");
        let calls = |sql: &str| counted.statements.iter().find(|one| one.sql == sql).map(|one| one.calls);
        assert_eq!(calls(FIND.sql()), Some(7), "{counted:?}");
        assert_eq!(calls("SELECT max(id) FROM visit WHERE k = $1"), Some(3), "{counted:?}");
        for left_out in ["INSERT", "CREATE", "elsewhere"] {
            assert!(counted.statements.iter().all(|one| !one.sql.contains(left_out)), "{counted:?}");
        }

        // What is read from a replica is counted there and nowhere else.
        let token = session.token().await.expect("token");
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        let reader = plain(&cluster.url("replica")).await;
        for k in 0..5 {
            let find = format!("SELECT max(id) FROM visit WHERE k = {k}");
            reader.client.batch_execute(&find).await.expect("find");
        }
        let together = db.counted_workload().await.expect("ask").expect("it is installed");
        let calls = |sql: &str| together.statements.iter().find(|one| one.sql == sql).map(|one| one.calls);
        assert_eq!(calls(FIND.sql()), Some(7), "{together:?}");
        assert_eq!(calls("SELECT max(id) FROM visit WHERE k = $1"), Some(3 + 5), "{together:?}");

        // Its texts are those that the server plans, values or not.
        let advice = advise(&session, &counted, &AdviseOptions::default()).await.expect("advice");
        assert_eq!(advice.hypopg, HypoPg::Absent);
        assert!(advice.unweighed.iter().any(|one| one.to_string() == "public.visit (k)"), "{advice}");
    });
}
