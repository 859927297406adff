//! P11: a card number, an API key and the database's password go in, and come out nowhere: not in logs at their most
//! talkative, not in answers, metrics, debug prints or the printed configuration, and not in any column of the database.

mod capture;
mod traffic;

use std::process::Stdio;

use paystrata_app::config::{Config, LoadOptions};
use paystrata_gateway::simulator::{Simulator, SimulatorConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use self::capture::Captured;
use self::traffic::{CARD, GATEWAY_KEY, misplace_cards, use_everything};
use crate::scene::{Caller, count, sql, until};
use crate::stage::{KEY, Settings, Stage, new_database, settings, start_service};

const API_KEY: &str = "sk_secrecy_9f1c2b7a64d84e0bb1a37c55";
const PASSWORD: &str = "pw-secrecy-58c01d";
const FINGERPRINT_KEY: &str = "fingerprint-secrecy-0123456789abcdef";
const SECRETS: [&str; 5] = [CARD, API_KEY, PASSWORD, GATEWAY_KEY, FINGERPRINT_KEY];
/// Operations that the resolver has still to ask about; those held for review stay.
const OPEN: &str = "SELECT count(*) FROM gateway_operations WHERE status IN (1, 2)";

/// What was found where it must not be.
#[derive(Debug, Default)]
struct Leaks(Vec<String>);

impl Leaks {
    /// Looks for every secret in a text.
    fn look(&mut self, place: &str, text: &str) {
        for secret in SECRETS.iter().chain([&KEY]) {
            if let Some(at) = text.find(secret) {
                let start = text[..at].char_indices().rev().nth(150).map_or(0, |(start, _)| start);
                let (before, name) = (&text[start..at], &secret[..3]);
                self.0.push(format!("{place} holds {name}.., after: {before}"));
            }
        }
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.0.is_empty(), "{} leaks:\n{}", self.0.len(), self.0.join("\n"));
    }
}

async fn simulator() -> Simulator {
    let config = SimulatorConfig {
        transaction_key: GATEWAY_KEY.to_owned(),
        api_key: GATEWAY_KEY.to_owned(),
        ..SimulatorConfig::default()
    };
    Simulator::start(config).await.expect("start the simulator")
}

/// The settings of a test with every secret in its place.
fn secret_settings(primary: &str, replica: &str, simulator: &Simulator) -> Settings {
    // The test servers trust loopback, so any password opens them.
    let with_password = |url: &str| url.replacen("://postgres@", &format!("://postgres:{PASSWORD}@"), 1);
    let (primary, replica) = (with_password(primary), with_password(replica));
    assert!(primary.contains(PASSWORD) && replica.contains(PASSWORD));
    let mut given = settings(&primary, &replica, &simulator.url());
    for (name, value) in [
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TRANSACTION_KEY", GATEWAY_KEY),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__API_KEY", GATEWAY_KEY),
        ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", FINGERPRINT_KEY),
    ] {
        given.insert(name.to_owned(), value.to_owned());
    }
    given
}

async fn secret_stage() -> (Stage, Settings) {
    let simulator = simulator().await;
    let (primary, replica) = new_database().await;
    let given = secret_settings(&primary, &replica, &simulator);
    (Stage::of(start_service(given.clone()).await, simulator, primary), given)
}

/// Every column of every table, each row as text.
async fn dump(stage: &Stage) -> String {
    let client = sql(stage).await;
    // `escape` shows bytes that are text as that text.
    client.batch_execute("SET bytea_output = 'escape'").await.expect("choose how bytes are shown");
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let mut text = String::new();
    for table in client.query(tables, &[]).await.expect("list the tables") {
        let rows = format!("SELECT t::text FROM \"{}\" t", table.get::<_, &str>(0));
        for row in client.query(&rows, &[]).await.expect("read a table") {
            text.push_str(row.get(0));
            text.push('\n');
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_that_went_in_comes_out_anywhere() {
    let captured = Captured::install();
    let (stage, given) = secret_stage().await;
    let caller = Caller::new_merchant(&stage, API_KEY).await;
    let mut leaks = Leaks::default();
    for (place, text) in use_everything(&caller).await {
        leaks.look(&place, &text);
    }
    until("resolution", async || json!(count(&stage, OPEN).await), |open| *open == 0).await;
    let operator = format!("http://{}", stage.service.operator_address);
    for path in ["/metrics", "/readyz", "/healthz", "/v1/performance/metrics"] {
        let reply = crate::stage::client().get(format!("{operator}{path}")).send().await.expect("ask");
        leaks.look(path, &reply.text().await.expect("read the operator's answer"));
    }
    let options = LoadOptions { file: None, directory: "/nonexistent".into(), environment: given };
    let config = Config::load(options).expect("the settings are valid");
    leaks.look("the printed configuration", &config.print_redacted());
    leaks.look("Debug of the configuration", &format!("{config:?}{config:#?}"));
    // The service and not the stage: the simulator beside it knows its keys, as a gateway does.
    leaks.look("Debug of the service", &format!("{:?}{:#?}", stage.service, stage.service));
    let stored = dump(&stage).await;
    assert!(stored.contains(&CARD[12..]), "the dump shows what is stored, last four digits included");
    leaks.look("the database", &stored);
    let logged = captured.text();
    assert!(logged.contains("TRACE") && logged.contains("paystrata"), "the capture hears the whole process");
    leaks.look("the log", &logged);
    leaks.check();
}

/// A card number that was put into the wrong field is one all the same: the refusal names the field, not its content.
#[tokio::test]
async fn a_card_number_in_the_wrong_place_is_not_repeated() {
    let captured = Captured::install();
    let (stage, _) = secret_stage().await;
    let caller = Caller::new_merchant(&stage, API_KEY).await;
    let mut leaks = Leaks::default();
    for (place, text) in misplace_cards(&caller).await {
        leaks.look(&place, &text);
    }
    leaks.look("the log", &captured.text());
    leaks.look("the database", &dump(&stage).await);
    leaks.check();
}

/// The program as it is shipped, told to log everything: what its own subscriber lets through counts, whatever the
/// filter says.
#[tokio::test]
async fn the_program_at_its_most_talkative_logs_no_secret() {
    let simulator = simulator().await;
    let (primary, replica) = new_database().await;
    let folder = tempfile::tempdir().expect("make a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_paystrata"));
    let filter = "trace,tokio_postgres=trace,tokio_postgres::query=trace";
    command
        .arg("serve")
        .env_clear()
        .envs(secret_settings(&primary, &replica, &simulator))
        .env("PAYSTRATA__TELEMETRY__LOG_FORMAT", "json")
        .env("PAYSTRATA__TELEMETRY__LOG_FILTER", filter)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("start the program");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let (mut log, mut address) = (String::new(), None);
    while address.is_none() {
        let line = lines.next_line().await.expect("read the log").expect("the program serves before it ends");
        let told: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        address = told["fields"]["operator_address"]
            .as_str()
            .and(told["fields"]["address"].as_str())
            .map(str::to_owned);
        log.push_str(&line);
        log.push('\n');
    }
    let reading = tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            log.push_str(&line);
            log.push('\n');
        }
        log
    });
    let caller = Caller::at(format!("http://{}", address.expect("it was told")), KEY);
    use_everything(&caller).await;
    misplace_cards(&caller).await;
    child.kill().await.expect("end the program");
    let log = reading.await.expect("read the log to its end");
    assert!(log.contains("\"TRACE\""), "the program logs as it was told");
    let mut leaks = Leaks::default();
    leaks.look("the log", &log);
    leaks.check();
}
