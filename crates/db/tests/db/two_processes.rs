//! A load that two processes make at once, each of them this program with one of its tests. It knows nothing of the load.

use std::process::{Command, Stdio};

/// Of a process that shares a pooler with another: the pooler's URL, and that of the server behind it.
const POOLER: &str = "PAYSTRATA_TEST_SHARED_POOLER";
const SERVER: &str = "PAYSTRATA_TEST_SHARED_SERVER";

/// The pooler and the server that this process is to use, if another has started it.
pub(crate) fn shared() -> Option<(String, String)> {
    std::env::var(POOLER).ok().zip(std::env::var(SERVER).ok())
}

/// Runs the test of this name in two processes, which share a pooler, until it has passed in both.
pub(crate) async fn pass(test: &str, pooler: &str, server: &str) {
    let process = || {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test])
            .env(POOLER, pooler)
            .env(SERVER, server)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a process")
    };
    let processes = [process(), process()];
    let ended = tokio::task::spawn_blocking(|| processes.map(|process| process.wait_with_output()));
    for output in ended.await.expect("no panic") {
        let output = output.expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
