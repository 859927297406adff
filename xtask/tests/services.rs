//! Faults of private services, on real PostgreSQL and Redis: what a killed run leaves behind is adopted or
//! mended, and nothing that holds data is removed. Runs the `xtask` binary as a user would.

mod kill;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use kill::kill;
use serde_json::Value;

/// A services directory that is stopped and removed when the test ends, however it ends.
struct Services(PathBuf);

impl Services {
    fn new(name: &str) -> Services {
        // Short and open to all: the services may run as another user.
        let path = PathBuf::from(format!("/tmp/xtask-{name}-{}", std::process::id()));
        Services(path)
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("services").args(arguments).arg("--dir").arg(&self.0);
        command.output().expect("xtask starts")
    }

    fn up(&self) -> Value {
        let output = self.call(&["up", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("up --json prints JSON")
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.call(&["down"]);
        drop(fs::remove_dir_all(&self.0));
    }
}

fn pid(report: &Value, service: &str) -> u64 {
    report[service]["pid"].as_u64().expect("a running service has a pid")
}

fn sql(report: &Value, service: &str, statement: &str) -> String {
    let bin = PathBuf::from(report["postgres_bin"].as_str().expect("up names the programs"));
    let url = report[service]["url"].as_str().expect("a running service has a URL");
    let output = Command::new(bin.join("psql"))
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement])
        .output()
        .expect("psql runs");
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Asks the replica once it has replayed what the primary has now.
fn sql_on_caught_up_replica(report: &Value, statement: &str) -> String {
    let written = sql(report, "primary", "select pg_current_wal_lsn()");
    let reached = format!("select pg_last_wal_replay_lsn() >= '{written}'");
    while sql(report, "replica", &reached) != "t" {
        std::thread::yield_now();
    }
    sql(report, "replica", statement)
}

#[test]
fn running_services_are_adopted_and_keep_their_ports_over_a_stop() {
    let services = Services::new("adopt");
    let first = services.up();
    sql(&first, "primary", "create table kept (n int); insert into kept values (7)");
    assert_eq!(sql_on_caught_up_replica(&first, "select n from kept"), "7");

    // A killed run may have lost its state file as well.
    fs::remove_file(services.0.join("state.json")).expect("up wrote its state");
    let second = services.up();
    for service in ["primary", "replica", "redis"] {
        assert_eq!(pid(&first, service), pid(&second, service), "{service} is adopted");
    }

    assert!(services.call(&["down"]).status.success());
    assert_eq!(services.call(&["status"]).status.code(), Some(3));
    let third = services.up();
    assert_ne!(pid(&first, "primary"), pid(&third, "primary"));
    assert_eq!(sql(&third, "primary", "select n from kept"), "7");
    assert_eq!(services.call(&["status"]).status.code(), Some(0));
}

#[test]
fn killed_services_come_back_with_their_data() {
    let services = Services::new("killed");
    let before = services.up();
    sql(&before, "primary", "create table kept (n int); insert into kept values (1)");
    for service in ["primary", "replica", "redis"] {
        kill(pid(&before, service));
    }
    // The stale pid file now names a process that lives and is no PostgreSQL: this test.
    let pid_file = services.0.join("primary/data/postmaster.pid");
    let stale = fs::read_to_string(&pid_file).expect("a killed server leaves its pid file");
    let (_, rest) = stale.split_once('\n').expect("the pid stands on its own line");
    fs::write(&pid_file, format!("{}\n{rest}", std::process::id())).expect("pid file can be written");

    let after = services.up();
    assert_eq!(sql(&after, "primary", "select n from kept"), "1");
    sql(&after, "primary", "insert into kept values (2)");
    assert_eq!(sql_on_caught_up_replica(&after, "select count(*) from kept"), "2");
}

#[test]
fn query_that_outlives_its_killed_server_does_not_keep_the_next_one_from_starting() {
    let services = Services::new("orphan");
    let before = services.up();
    sql(&before, "primary", "create table kept (n int); insert into kept values (1)");
    let bin = before["postgres_bin"].as_str().expect("up names the programs");
    let url = before["primary"]["url"].as_str().expect("a running service has a URL");
    // Never waits for anything, so it does not notice that its postmaster is gone.
    let busy = "select sum(i) from (select generate_series(1, 100000000000) as i) as numbers";
    let mut client =
        Command::new(format!("{bin}/psql")).args(["-X", "-d", url, "-c", busy]).spawn().expect("psql runs");
    while sql(&before, "primary", "select count(*) from pg_stat_activity where query like 'select sum(i)%'")
        == "0"
    {
        std::thread::yield_now();
    }
    kill(pid(&before, "primary"));

    let after = services.up();
    assert_eq!(sql(&after, "primary", "select n from kept"), "1");
    client.kill().ok();
    client.wait().expect("psql has ended");
}

#[test]
fn replica_is_rebuilt_when_it_cannot_follow_and_the_primary_keeps_its_data() {
    let services = Services::new("rebuild");
    let report = services.up();
    sql(&report, "primary", "create table kept (n int); insert into kept values (1)");

    // Promoted: it has left the primary's timeline.
    sql(&report, "replica", "select pg_promote(true)");
    let report = services.up();
    assert_eq!(sql(&report, "replica", "select pg_is_in_recovery()"), "t");

    // Its slot is gone: the primary may have dropped log that it needs.
    kill(pid(&report, "replica"));
    while sql(&report, "primary", "select count(*) from pg_replication_slots where active") != "0" {
        std::thread::yield_now();
    }
    sql(&report, "primary", "select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    let report = services.up();
    sql(&report, "primary", "insert into kept values (2)");
    assert_eq!(sql_on_caught_up_replica(&report, "select count(*) from kept"), "2");

    // Its files are damaged.
    services.call(&["down"]);
    fs::remove_file(services.0.join("replica/data/global/pg_control")).expect("a cluster has a control file");
    let report = services.up();
    assert_eq!(sql_on_caught_up_replica(&report, "select count(*) from kept"), "2");
}

#[test]
fn half_made_directories_are_made_anew_and_foreign_ones_are_refused() {
    let services = Services::new("half");
    for role in ["primary", "replica"] {
        let partial = services.0.join(role).join("data.partial");
        fs::create_dir_all(&partial).expect("temp directory can be written");
        fs::write(partial.join("PG_VERSION"), "15\n").expect("temp directory can be written");
    }
    let report = services.up();
    assert_eq!(sql(&report, "replica", "select pg_is_in_recovery()"), "t");
    services.call(&["down"]);

    // Without the marker nobody can say that the directory is ours to use or to remove.
    let marker = services.0.join("primary/data/paystrata-complete");
    let kept = fs::read(&marker).expect("a finished directory has its marker");
    fs::remove_file(&marker).expect("the marker can be removed");
    let said = services.said(&["up"]);
    assert!(said.contains("rm -r") && said.contains("primary/data"), "{said}");
    assert!(services.0.join("primary/data/PG_VERSION").is_file());
    fs::write(&marker, kept).expect("the marker can be put back");
    services.up();
}

#[test]
fn only_what_is_wanted_is_started() {
    let services = Services::new("only");
    let output = services.call(&["up", "--only", "redis", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("up --json prints JSON");
    assert!(report["redis"]["port"].is_u64() && report["primary"].is_null() && report["replica"].is_null());
    let environment = report["env"].as_object().expect("env is an object");
    assert!(environment.contains_key("PAYSTRATA_TEST_REDIS_URL"));
    assert!(!environment.contains_key("PAYSTRATA_TEST_PRIMARY_URL"));
}

#[test]
fn two_calls_at_once_end_with_one_set_of_services() {
    let services = Services::new("twice");
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| services.up());
        let second = services.up();
        (first.join().expect("the other call succeeds"), second)
    });
    for service in ["primary", "replica", "redis"] {
        assert_eq!(pid(&first, service), pid(&second, service));
    }
}
