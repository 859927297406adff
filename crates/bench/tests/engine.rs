//! Suite `engine` on real servers, as short as it gets and unoptimised: that it still runs on the service's schema, that both
//! sides' payments pass its audit, and what report and exit code say. The figures mean nothing here and are not looked at.
//! Needs the services that `cargo xtask test` starts.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `cargo xtask test`"))
}

fn bench(json: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paystrata-bench"));
    command.args(["engine", "--quick", "--check", "--commit", "abc", "--json", json]);
    command.arg("--pg-bin").arg(PathBuf::from(variable("PG_BIN")));
    command.args(["--primary-url", &variable("PAYSTRATA_TEST_PRIMARY_URL")]);
    command
}

#[test]
fn the_engine_suite_runs_on_this_schema_and_its_verdict_is_its_exit_code() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("report.json");
    let output = bench(file.to_str().expect("a path in UTF-8")).output().expect("the program starts");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("the report is there")).expect("JSON");
    assert_eq!((&report["schema"], &report["commit"]), (&1.into(), &"abc".into()));
    let suites = report["suites"].as_array().expect("suites");
    assert_eq!(suites.len(), 1, "{said}");
    assert_eq!(suites[0]["suite"], "engine");
    // Without this note the ledger was not audited; with money missing there is no suite.
    let notes = suites[0]["notes"].to_string();
    assert!(notes.contains("verified afterwards over both sides"), "{notes}");
    let cases = suites[0]["cases"].as_array().expect("cases");
    for (name, peers) in
        [("uniform, 512 callers", 1), ("hot, 512 callers", 1), ("p99 at 80 % of top rate", 0)]
    {
        let case = cases.iter().find(|case| case["case"] == name).unwrap_or_else(|| panic!("{name}: {said}"));
        assert_eq!(case["peers"].as_object().map(serde_json::Map::len), Some(peers), "{case}");
        assert!(case["met"].is_boolean(), "{case}");
    }
    let missed = cases.iter().any(|case| case["met"] == false);
    assert_eq!(output.status.code(), Some(i32::from(missed)), "{said}");
}

#[test]
fn a_report_that_cannot_be_written_costs_no_measurement() {
    let output = bench("/nonexistent/report.json").output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/nonexistent/report.json"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("payments/s"), "{said}");
}
