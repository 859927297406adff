//! What is told of the statements behind the service: which were slow, which index would pay for a workload, and whether one
//! that was built does.

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

/// The server's own chores lock no table that is indexed here.
const PARCELS: &str = "CREATE EXTENSION hypopg; CREATE TABLE parcels WITH (autovacuum_enabled = off) AS
    SELECT i AS id, i % 5000 AS customer FROM generate_series(1, 100000) i; ANALYZE parcels";
const INDEXES: &str = "SELECT count(*) FROM pg_indexes WHERE tablename = 'parcels'";
const WORKLOAD: &str = "-- calls: 5000\nSELECT id FROM parcels WHERE customer = $1;\n";
/// What was built a moment ago has had no time to be used.
const DROP_AT_ONCE: [&str; 5] = ["db", "review", "--days", "0", "--drop"];
const REPLICAS: &str = "PAYSTRATA__DB__REPLICA_URLS";

/// A service whose database has a table without an index, and settings for the program's commands on it, without a replica.
async fn stage_with_parcels() -> (Stage, Settings) {
    let stage = Stage::start().await;
    sql(&stage).await.batch_execute(PARCELS).await.expect("make a table without an index");
    let settings = settings(&stage.primary_url, "", &stage.simulator.url());
    (stage, settings)
}

/// Runs a command of the program: its exit code, and what it said.
async fn paystrata(settings: &Settings, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("make a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_paystrata"));
    command.args(arguments).env_clear().envs(settings).current_dir(folder.path()).kill_on_drop(true);
    let Output { status, stdout, stderr } = command.output().await.expect("run the program");
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).expect("text"))
}

async fn advise(settings: &Settings, workload: &str, options: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("workload.sql");
    std::fs::write(&file, workload).expect("write the workload");
    let file = file.to_str().expect("a path in text");
    let command = ["db", "advise", "--workload", file];
    paystrata(settings, &[&command, options].concat()).await
}

async fn build(settings: &Settings) {
    let (code, page) = advise(settings, WORKLOAD, &["--create"]).await;
    assert!(code == Some(0) && page.contains("public.parcels (customer): Built"), "{page}");
}

#[tokio::test]
async fn an_index_is_advised_for_a_workload_and_built_only_when_told() {
    let (stage, settings) = stage_with_parcels().await;
    let (code, page) = advise(&settings, WORKLOAD, &[]).await;
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("CREATE INDEX CONCURRENTLY") && page.contains("5000 calls"), "{page}");
    assert_eq!(count(&stage, INDEXES).await, 0, "advice builds nothing");

    build(&settings).await;
    assert_eq!(count(&stage, INDEXES).await, 1);
    let promised = "SELECT count(*) FROM index_audit WHERE act = 'built' AND saves_per_call > 0";
    assert_eq!(count(&stage, promised).await, 1, "what a review needs is kept");

    let (code, page) = advise(&settings, WORKLOAD, &[]).await;
    assert!(code == Some(0) && page.contains("no index to advise"), "{page}");
    let (code, said) = advise(&settings, "-- calls: many\nSELECT 1;", &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("many") && said.contains("workload.sql"), "what is wrong, and where: {said}");
}

#[tokio::test]
async fn a_replica_plans_what_is_advised_and_the_primary_builds_it() {
    let (stage, mut settings) = stage_with_parcels().await;
    let app = &stage.service.app;
    settings.insert(REPLICAS.to_owned(), app.config.db.replica_urls[0].expose().to_owned());
    let replica = app.db.status().nodes[1].id.to_string();
    let planned = format!("1 statements planned by {replica}, weighed");
    // It has the table once it has replayed so far.
    let page = until(
        "advice from the replica",
        async || json!(advise(&settings, WORKLOAD, &[]).await.1),
        |page| page.as_str().is_some_and(|page| page.contains(&planned)),
    );
    let page = page.await;
    assert!(page.as_str().is_some_and(|page| page.contains("CREATE INDEX CONCURRENTLY")), "{page}");

    build(&settings).await;
    assert_eq!(count(&stage, INDEXES).await, 1);
}

#[tokio::test]
async fn without_a_workload_and_without_a_server_that_counts_advice_says_what_is_missing() {
    let stage = Stage::start().await;
    let settings = settings(&stage.primary_url, "", &stage.simulator.url());
    let (code, said) = paystrata(&settings, &["db", "advise"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("pg_stat_statements") && said.contains("--workload"), "{said}");
}

#[tokio::test]
async fn an_index_that_was_built_is_reviewed_and_dropped_only_when_told() {
    let (stage, settings) = stage_with_parcels().await;
    let (code, page) = paystrata(&settings, &["db", "review", "--drop"]).await;
    assert!(code == Some(0) && page.contains("no index to review"), "{page}");
    build(&settings).await;

    let (code, page) = paystrata(&settings, &["db", "review", "--drop"]).await;
    assert!(code == Some(0) && page.contains("too young to be judged"), "a week is not over: {page}");
    let (code, page) = paystrata(&settings, &["db", "review", "--days", "0"]).await;
    assert!(code == Some(0) && page.contains("on public.parcels: hardly used ("), "{page}");
    assert_eq!(count(&stage, INDEXES).await, 1, "a review drops nothing");

    let (code, page) = paystrata(&settings, &DROP_AT_ONCE).await;
    assert!(code == Some(0) && page.contains("on public.parcels: hardly used, taken back"), "{page}");
    assert_eq!(count(&stage, INDEXES).await, 0);
}

#[tokio::test]
async fn an_index_whose_drop_gets_no_lock_is_told_and_dropped_by_the_next_review() {
    let (stage, settings) = stage_with_parcels().await;
    build(&settings).await;
    let writer = sql(&stage).await;
    writer.batch_execute("BEGIN; INSERT INTO parcels VALUES (0, 0)").await.expect("write");
    let (code, page) = paystrata(&settings, &DROP_AT_ONCE).await;
    assert!(code == Some(1) && page.contains("not taken back yet"), "{page}");
    assert_eq!(count(&stage, INDEXES).await, 1);

    writer.batch_execute("COMMIT").await.expect("commit");
    let (code, page) = paystrata(&settings, &DROP_AT_ONCE).await;
    assert!(code == Some(0) && page.contains("what was left of it is dropped"), "{page}");
    assert_eq!(count(&stage, INDEXES).await, 0);
}

#[tokio::test]
async fn no_index_is_judged_while_a_server_of_the_settings_cannot_be_asked() {
    let (stage, mut settings) = stage_with_parcels().await;
    build(&settings).await;
    settings.insert(REPLICAS.to_owned(), "postgres://nobody@127.0.0.1:1/nowhere".to_owned());
    let (code, said) = paystrata(&settings, &DROP_AT_ONCE).await;
    assert!(code == Some(1) && said.contains("not reviewed: 127.0.0.1:1"), "{said}");
    assert_eq!(count(&stage, INDEXES).await, 1);
}
