//! What is told of the statements behind the service: which were slow, and which index would pay for a workload.

use std::process::Output;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::process::Command;

use crate::scene::{count, sql, until};
use crate::stage::{Settings, Stage, settings};

const LONG: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_statement_that_waited_is_told_as_slow_and_without_values() {
    let stage =
        Stage::start_with(&[("PAYSTRATA__DB__SLOW_QUERY_MS", "50"), ("PAYSTRATA__DB__REPLICA_URLS", "")])
            .await;
    stage.account("USD", 1_000).await;
    let holder = sql(&stage).await;
    let lock = "BEGIN; LOCK TABLE account_profiles IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(lock).await.expect("lock a table");
    let listing = stage.get("/v1/accounts?customer=somebody", &[]);
    let holding = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted
                         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                         AND relation = 'account_profiles'::regclass";
        until("the list waits", async || json!(count(&stage, waiting).await), |count| *count == 1).await;
        tokio::time::sleep(LONG).await;
        holder.batch_execute("COMMIT").await.expect("give the table back");
    };
    let (reply, ()) = tokio::join!(listing, holding);
    assert_eq!(reply.status, StatusCode::OK);
    let app = &stage.service.app;
    let seen = app.slow_log.end_window(&app.db).await;
    let list = seen.iter().find(|one| one.text.contains("account_profiles") && one.text.contains("limit"));
    let list = list.unwrap_or_else(|| panic!("the list is not among {seen:#?}"));
    assert_eq!((list.calls, list.slow), (1, 1), "{list:?}");
    assert!(!format!("{seen:?}").contains("somebody"), "{seen:?}");
}

/// The program's own command, and what it was told to build.
async fn advise(settings: &Settings, workload: &str, options: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("workload.sql");
    std::fs::write(&file, workload).expect("write the workload");
    let mut command = Command::new(env!("CARGO_BIN_EXE_paystrata"));
    command.args(["db", "advise", "--workload"]).arg(&file).args(options);
    command.env_clear().envs(settings).current_dir(folder.path()).kill_on_drop(true);
    let Output { status, stdout, stderr } = command.output().await.expect("run the program");
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).expect("text"))
}

#[tokio::test]
async fn an_index_is_advised_for_a_workload_and_built_only_when_told() {
    const SETUP: &str = "CREATE EXTENSION hypopg; CREATE TABLE parcels AS
        SELECT i AS id, i % 5000 AS customer FROM generate_series(1, 100000) i; ANALYZE parcels";
    const BUILT: &str = "SELECT count(*) FROM pg_indexes WHERE tablename = 'parcels'";
    let stage = Stage::start().await;
    sql(&stage).await.batch_execute(SETUP).await.expect("make a table without an index");
    let settings = settings(&stage.primary_url, "", &stage.simulator.url());
    let workload = "-- calls: 5000\nSELECT id FROM parcels WHERE customer = $1;\n";

    let (code, page) = advise(&settings, workload, &[]).await;
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("CREATE INDEX CONCURRENTLY") && page.contains("5000 calls"), "{page}");
    assert_eq!(count(&stage, BUILT).await, 0, "advice builds nothing");

    let (code, page) = advise(&settings, workload, &["--create"]).await;
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("public.parcels (customer): Built"), "{page}");
    assert_eq!(count(&stage, BUILT).await, 1);

    let (code, page) = advise(&settings, workload, &[]).await;
    assert!(code == Some(0) && page.contains("no index to advise"), "{page}");
    let (code, said) = advise(&settings, "-- calls: many\nSELECT 1;", &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("many") && said.contains("workload.sql"), "what is wrong, and where: {said}");
}
