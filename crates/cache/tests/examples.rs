//! The examples run to their end and say what they are there to show. They are built together with the tests, and use the
//! servers of `cargo xtask test`.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Long enough for any machine; no test measures time by it.
const LIMIT: Duration = Duration::from_secs(60);

fn program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("the path of this test");
    let profile = own.parent().and_then(Path::parent).expect("it stands in the folder of its profile");
    profile.join("examples").join(name)
}

fn server(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run through `cargo xtask test`"))
}

async fn run(name: &str, variable: Option<(&str, String)>) -> String {
    let program = program(name);
    let running = Command::new(&program).envs(variable).kill_on_drop(true).output();
    let ended = timeout(LIMIT, running).await.unwrap_or_else(|_| panic!("{name} does not end"));
    let output = ended.unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn check(said: &str, expected: &[&str]) {
    let mut rest = said;
    for line in expected {
        let Some(at) = rest.find(line) else { panic!("{line:?} is not there, or not in this place: {said}") };
        rest = &rest[at + line.len()..];
    }
}

#[tokio::test]
async fn process_alone() {
    let said = run("l1_only", None).await;
    check(&said, &["1000 answers", "None is left", "as new as Version(42)", "from Loader"]);
    let said = run("tags", None).await;
    check(&said, &["acme is void", "bell/eve: from Local", "stale: true", "the store is down"]);
    let said = run("batch", None).await;
    check(&said, &["loading [1, 2, 404]", "loading [3, 500]", "8 of 8 found"]);
}

#[tokio::test]
async fn nodes_over_redis() {
    let url = server("PAYSTRATA_TEST_REDIS_URL");
    let said = run("redis", Some(("REDIS_URL", url.clone()))).await;
    check(
        &said,
        &["voided: Fleet", "from Loader", "from Tier(0)", "from Local", "voided: Fleet", "second: None"],
    );
    let said = run("two_processes", Some(("REDIS_URL", url))).await;
    check(
        &said,
        &["reads version 1 from Local", "reads version 2 from Loader", "reads version 3 from Local"],
    );
}

#[tokio::test]
async fn news_of_a_commit() {
    let url = server("PAYSTRATA_TEST_PRIMARY_URL");
    let said = run("commit_coupled", Some(("DATABASE_URL", url))).await;
    let (rolled_back, anew) = (r#"after renaming to "": Some("Ada")"#, r#"loaded anew: Some("Grace")"#);
    check(&said, &[rolled_back, r#"before: Some("Ada")"#, r#"after renaming to "Grace": None"#, anew]);
}
