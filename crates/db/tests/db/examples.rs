//! The examples run to their end and say what they are there to show. They are built together with the tests.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Bed, with_database};

/// Long enough for any machine; no test measures time by it.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs an example on a database of its own; `expected` stands in what it says, in this order.
fn shows(name: &'static str, expected: &'static [&'static str]) {
    with_database(async move |bed: Bed| {
        if name == "advice" {
            bed.admin().await.client.batch_execute("CREATE EXTENSION hypopg").await.expect("it is installed");
        }
        let own = std::env::current_exe().expect("the path of this test");
        let profile = own.parent().and_then(Path::parent).expect("it stands in the folder of its profile");
        let mut program = Command::new(profile.join("examples").join(name));
        program.env("DATABASE_URL", bed.primary_url()).env("REPLICA_URL", bed.replica_url());
        let running = program.kill_on_drop(true).output();
        let output = timeout(LIMIT, running).await.expect("it ends").expect("it can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let mut rest = &*said;
        for words in expected {
            let at = rest
                .find(words)
                .unwrap_or_else(|| panic!("{words:?} is not there, or not in its place: {said}"));
            rest = &rest[at + words.len()..];
        }
    });
}

#[test]
fn advice() {
    shows("advice", &["CREATE INDEX", "approval was not given"]);
}

#[test]
fn batcher() {
    shows("batcher", &["a transaction of", "\"Ghent\" is city", "\"\" was not added", "\"Antwerp\" is city"]);
}

#[test]
fn bulk() {
    let done =
        &["inserted 100000", "upserted 3", "for rows [1]", "refused:", "2000 rows stand", "skipped 2000"];
    shows("bulk", done);
}

#[test]
fn loader() {
    shows("loader", &["row by row: ", "8 ", "side by side, in one statement: [\"city 3\""]);
}

#[test]
fn routing() {
    shows("routing", &["a write goes to", "in recovery: false", "a read goes to", "Up"]);
}

#[test]
fn tokens() {
    shows("tokens", &["there are 1 notes", "there are 2 notes", "there are 3 notes"]);
}
