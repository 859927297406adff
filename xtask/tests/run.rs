//! `cargo xtask run` as a user lives with it: the printed commands move money, SIGTERM and Ctrl-C drain and stop
//! everything in order, data outlives a stop and a crash of all processes, and nothing is removed by a start that cannot
//! succeed.
//! Uses the programs that `cargo xtask test` has built, so that no test waits for a build.

mod kill;
mod place;

use std::net::{Ipv4Addr, TcpListener};

use kill::{is_alive, kill};
use place::{Place, Run, shell};
use serde_json::Value;

const ROLES: [&str; 5] = ["app", "simulator", "replica", "primary", "redis"];

/// Pastes what the greeting prints, and gives the payment that this made.
fn pay(run: &Run<'_>) -> Value {
    let (_, commands) = run.greeting.split_once("Make a payment (paste all of it):\n").expect("it says how");
    let (commands, _) = commands.split_once("\n\n").expect("an empty line ends the commands");
    let said = shell(commands);
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    let (_, body) = said.split_once("\r\n\r\n").expect("curl -i prints head and body");
    let payment: Value = serde_json::from_str(body).expect("the body is JSON");
    assert_eq!((payment["status"].as_str(), payment["amount"].as_i64()), (Some("succeeded"), Some(1250)));
    payment
}

fn read_back(place: &Place, payment: &Value) -> Value {
    let id = payment["id"].as_str().expect("a payment has an id");
    serde_json::from_str(&shell(&format!("{} {}/v1/payments/{id}", curl(), place.api()))).expect("JSON")
}

fn curl() -> &'static str {
    "curl -s -H 'Authorization: Bearer sk_dev_paystrata'"
}

fn sql(place: &Place, text: &str) {
    let psql = "PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -1) psql -v ON_ERROR_STOP=1";
    shell(&format!("{psql} {} -c \"{text}\"", place.primary_url()));
}

/// Makes the simulator answer the next call late, starts a charge over it, and returns once it is there.
fn charge_under_way(place: &Place, to: &str) -> std::process::Child {
    let simulator = format!("http://127.0.0.1:{}", place.state()["simulator"]["port"]);
    let late = r#"{"operation":"any","kind":"delay","delay_ms":1000,"when":{"next":1}}"#;
    shell(&format!("curl -sf {simulator}/control/faults -d '{late}'"));
    let body = format!(
        r#"{{"to":"{to}","amount":4200,"currency":"USD","rail":"authorize_net",
            "card":{{"number":"4111111111111111","expiration":"2099-12","code":"900"}}}}"#
    );
    let charge = format!("{} {}/v1/payments -H 'Idempotency-Key: late' -d '{body}'", curl(), place.api());
    let child = place::bash(&charge).stdout(std::process::Stdio::piped()).spawn().expect("bash runs");
    // The fault is gone when it has struck.
    while shell(&format!("curl -sf {simulator}/control/faults")) != "[]" {
        std::thread::yield_now();
    }
    child
}

#[test]
fn printed_commands_pay_and_a_signal_drains_and_stops_everything_in_order() {
    let place = Place::new("run");
    let run = Run::start(&place, &[]);
    let payment = pay(&run);
    let pids = place.pids();
    assert_eq!(pids.len(), ROLES.len());
    let refusal = place.refused(&[]);
    assert!(refusal.contains("another `cargo xtask run` uses"), "{refusal}");
    let listed = shell(&format!(
        "PAYSTRATA__PROFILE=development PAYSTRATA__DB__PRIMARY_URL={} '{}' migrate --status",
        place.primary_url(),
        place.programs().join("paystrata").display()
    ));
    assert!(listed.contains("0001 ") && listed.contains(" UTC") && !listed.contains("UTC,"), "{listed}");

    let charge = charge_under_way(&place, payment["to"].as_str().expect("it has a payee"));
    let said = run.stop();
    let answer = charge.wait_with_output().expect("curl ends");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("the charge is answered");
    assert_eq!(answer["status"], "succeeded", "{answer}");

    let places: Vec<_> = ["the service", "the simulator", "the replica", "the primary", "Redis"]
        .into_iter()
        .map(|what| said.find(&format!("ok  stop {what} (")).unwrap_or_else(|| panic!("{what}: {said}")))
        .collect();
    assert!(places.is_sorted(), "{said}");
    for (role, pid) in pids {
        assert!(!is_alive(pid), "{role} still runs");
    }
    let log = place.log("app.log");
    assert!(log.contains("draining") && log.contains("stopped") && !log.contains("in time"), "{log}");

    let run = Run::start(&place, &[]);
    assert_eq!(read_back(&place, &payment), payment);
    assert_eq!(read_back(&place, &answer)["status"], "succeeded");
    pay(&run);
    let (pids, said) = (place.pids(), run.interrupt());
    assert!(said.contains("ok  stop the service (") && said.contains("ok  stop the primary ("), "{said}");
    assert!(pids.values().all(|pid| !is_alive(*pid)), "{said}");
}

#[test]
fn killed_run_is_taken_over_with_its_data() {
    let place = Place::new("run-killed");
    let run = Run::start(&place, &[]);
    let payment = pay(&run);

    // Only the tool: what it started lives on.
    run.kill();
    let orphans = place.pids();
    let run = Run::start(&place, &[]);
    assert!(run.told().contains("stop the service, left by a killed run"), "{}", run.told());
    for (role, pid) in &orphans {
        let kept = ["replica", "primary", "redis"].contains(&role.as_str());
        assert_eq!(is_alive(*pid), kept, "{role}");
    }
    assert_eq!(read_back(&place, &payment), payment);

    // Everything.
    run.kill();
    for (_, pid) in place.pids() {
        kill(pid);
    }
    let mut run = Run::start(&place, &[]);
    assert_eq!(read_back(&place, &payment), payment);

    // A part: what serves goes on, and it is said.
    kill(place.pids()["simulator"]);
    run.said("the simulator is gone");
    pay(&run);
    kill(place.pids()["app"]);
    let (code, said) = run.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the service ended by itself") && said.contains("ok  stop the primary"), "{said}");
}

#[test]
fn start_that_cannot_succeed_removes_nothing_and_fresh_removes_everything() {
    let place = Place::new("run-fresh");
    let run = Run::start(&place, &[]);
    let payment = pay(&run);
    run.stop();

    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, place.port)).expect("the port is free again");
    let refusal = place.refused(&["--fresh"]);
    let named = [place.port.to_string(), "--port".to_owned(), format!("(pid {})", std::process::id())];
    for part in named {
        assert!(refusal.contains(&part), "{part} is not in {refusal}");
    }
    drop(holder);
    let refusal = place.refused(&["--fresh", "--programs", "/nonexistent"]);
    assert!(refusal.contains("/nonexistent/paystrata"), "{refusal}");

    // As if the data had been made by a version with another text of its first migration.
    let run = Run::start(&place, &[]);
    assert_eq!(read_back(&place, &payment), payment);
    sql(&place, "UPDATE schema_migrations SET checksum = decode(repeat('00', 32), 'hex') WHERE version = 1");
    run.stop();
    let refusal = place.refused(&[]);
    assert!(refusal.contains("was changed after it was applied") && refusal.contains("--fresh"), "{refusal}");

    let run = Run::start(&place, &["--fresh"]);
    assert_eq!(read_back(&place, &payment)["status"], 404);
    pay(&run);
    run.stop();
}

#[test]
fn seeded_payments_are_told_and_audited_before_the_run_ends() {
    let place = Place::new("run-seed");
    let seeding = ["--seed-payments", "400", "--seed", "7", "--exit-after-seed"];
    let output = place.command(&seeding).output().expect("xtask starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["accepted", "refused", "verified: "] {
        assert!(printed.contains(part), "{part} is not in {printed}");
    }
    // A tampered balance is named, and is no success.
    let run = Run::start(&place, &[]);
    let edit =
        "UPDATE accounts SET posted = posted + 1 WHERE id = (SELECT min(id::text)::uuid FROM accounts)";
    sql(&place, edit);
    run.stop();
    let output =
        place.command(&["--seed-payments", "1", "--exit-after-seed"]).output().expect("xtask starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("acc_") && printed.contains("paystrata verify: FAILED"), "{printed}");
}
