//! P11: a card number, an API key and the database's password go in, and come out nowhere: not in logs at their most
//! talkative, not in answers, metrics, debug prints or the printed configuration, and not in any column of the database.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use paystrata_app::config::{Config, LoadOptions};
use reqwest::Method;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::scene::{Caller, change, new_key, sql, until};
use crate::stage::{Stage, new_database, settings, start_service};

/// Passes the Luhn check, and stands nowhere else in this repository.
const CARD: &str = "4929720483561203";
const CODE: &str = "7391";
const API_KEY: &str = "sk_secrecy_9f1c2b7a64d84e0bb1a37c55";
const PASSWORD: &str = "pw-secrecy-58c01d";
const GATEWAY_KEY: &str = "gw-secrecy-2ab91";
const FINGERPRINT_KEY: &str = "fingerprint-secrecy-0123456789abcdef";
const SECRETS: [&str; 5] = [CARD, API_KEY, PASSWORD, GATEWAY_KEY, FINGERPRINT_KEY];

/// Everything the process logs, in memory.
#[derive(Clone, Debug, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn install() -> Self {
        let captured = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_writer(captured.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other test of this binary listens");
        captured
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Captured {
    type Writer = Self;
    fn make_writer(&'writer self) -> Self {
        self.clone()
    }
}

#[track_caller]
fn check(place: &str, text: &str, secrets: &[&str]) {
    for secret in secrets {
        if let Some(at) = text.find(secret) {
            let around = &text[text[..at].char_indices().rev().nth(200).map_or(0, |(start, _)| start)..at];
            panic!("{place} holds a secret, after: {around}");
        }
    }
}

fn with_password(url: &str) -> String {
    // The test servers trust loopback, so any password opens them.
    url.replacen("://postgres@", &format!("://postgres:{PASSWORD}@"), 1)
}

fn card(number: &str, zip: &str) -> Value {
    json!({"number": number, "expiration": "2099-12", "code": CODE, "billing_zip": zip})
}

/// Card payments of every end, refusals of every kind, and each kind of change.
async fn use_everything(stage: &Stage, caller: &Caller) -> Vec<(String, String)> {
    let to = caller.account("USD", 0).await;
    let from = caller.account("USD", 100_000).await;
    let mut answers = Vec::new();
    let base = |amount: i64, card: Value| json!({"to": to, "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card});
    for (amount, zip) in
        [(1_000, "46201"), (1_000, "46282"), (1_000, "46299"), (1_077, "46201"), (1_078, "46201")]
    {
        let body = base(amount, card(CARD, zip));
        let reply = caller.post("/v1/payments", &new_key(), &body).await;
        assert_eq!(reply.status, 201, "{}", reply.json());
        answers.push(("payment".to_owned(), String::from_utf8_lossy(&reply.bytes).into_owned()));
    }
    let mut misplaced = Vec::new();
    for (field, value) in [
        ("rail", json!(CARD)),
        ("currency", json!(CARD)),
        ("from", json!(CARD)),
        ("to", json!(CARD)),
        ("capture", json!(CARD)),
        ("amount", json!(CARD)),
        ("metadata", json!(CARD)),
        ("card", json!({"number": format!("{CARD}1"), "expiration": "2099-12"})),
        ("card", json!({"number": CARD, "expiration": CARD})),
        ("card", json!({"number": CARD, "expiration": "2099-12", "code": CARD})),
        ("card", json!({"number": CARD, "expiration": "2099-12", "billing_zip": format!("<{CARD}>")})),
    ] {
        let mut body = base(1_000, card(CARD, "46201"));
        body[field] = value;
        misplaced.push(("/v1/payments".to_owned(), body.to_string()));
    }
    for body in [CARD.to_owned(), format!("\"{CARD}\""), format!("[\"{CARD}\"]"), format!("{{\"a\":{CARD}")] {
        misplaced.push(("/v1/payments".to_owned(), body));
    }
    let batch = json!({"payments": [base(1_000, card(CARD, "46201")), {"card": CARD}, CARD]});
    misplaced.push(("/v1/payments/batch".to_owned(), batch.to_string()));
    for (path, body) in misplaced {
        let keyed = caller.clone().header("idempotency-key", new_key().as_bytes());
        let reply = keyed.send(Method::POST, &path, body.clone()).await;
        let place = format!("the answer to {}", body.replace(CARD, "CARD"));
        answers.push((place, String::from_utf8_lossy(&reply.bytes).into_owned()));
    }
    for path in [
        format!("/v1/payments/{CARD}"),
        format!("/v1/payments?status={CARD}"),
        format!("/v1/accounts?cursor={CARD}"),
    ] {
        let reply = caller.send(Method::GET, &path, "").await;
        answers.push((path.replace(CARD, "CARD"), String::from_utf8_lossy(&reply.bytes).into_owned()));
    }
    let held = json!({"from": from, "to": to, "amount": 5, "currency": "USD", "rail": "velocity_pay", "capture": false});
    let held = caller.post("/v1/payments", &new_key(), &held).await.json();
    for name in ["capture", "refunds"] {
        let path = format!("/v1/payments/{}/{name}", held["id"].as_str().expect("a text"));
        assert!(caller.post(&path, &new_key(), &json!({})).await.status.is_success());
    }
    change(stage, "pay_1", "void", &json!({})).await;
    answers
}

/// Every text and byte column of every table, each row as text.
async fn dump(stage: &Stage) -> String {
    let client = sql(stage).await;
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let mut text = String::new();
    for table in client.query(tables, &[]).await.expect("read the database") {
        let table: &str = table.get(0);
        // `escape` shows bytes that are text as that text.
        client.batch_execute("SET bytea_output = 'escape'").await.expect("choose how bytes are shown");
        for row in
            client.query(&format!("SELECT t::text FROM \"{table}\" t"), &[]).await.expect("read the database")
        {
            text.push_str(row.get(0));
            text.push('\n');
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_that_went_in_comes_out_anywhere() {
    let captured = Captured::install();
    let simulator = paystrata_gateway::simulator::SimulatorConfig {
        transaction_key: GATEWAY_KEY.to_owned(),
        api_key: GATEWAY_KEY.to_owned(),
        ..Default::default()
    };
    let simulator =
        paystrata_gateway::simulator::Simulator::start(simulator).await.expect("start the simulator");
    let (primary, replica) = new_database().await;
    let mut given = settings(&with_password(&primary), &with_password(&replica), &simulator.url());
    for (name, value) in [
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TRANSACTION_KEY", GATEWAY_KEY),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__API_KEY", GATEWAY_KEY),
        ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", FINGERPRINT_KEY),
    ] {
        given.insert(name.to_owned(), value.to_owned());
    }
    let options = LoadOptions { file: None, directory: "/nonexistent".into(), environment: given.clone() };
    let config = Config::load(options).expect("the settings are valid");
    let stage = Stage::of(start_service(given).await, simulator, primary);
    let caller = Caller::new_merchant(&stage, API_KEY).await;
    let answers = use_everything(&stage, &caller).await;
    for (place, text) in &answers {
        check(place, text, &SECRETS);
    }
    let open = "SELECT count(*) FROM gateway_operations WHERE status IN (1, 2)";
    until("resolution", async || json!(crate::scene::count(&stage, open).await), |open| *open == 0).await;

    let operator = format!("http://{}", stage.service.operator_address);
    for path in ["/metrics", "/readyz", "/healthz", "/v1/performance/metrics"] {
        let reply = crate::stage::client()
            .get(format!("{operator}{path}"))
            .send()
            .await
            .expect("ask the operator route");
        check(path, &reply.text().await.expect("read it"), &SECRETS);
    }
    check("the printed configuration", &config.print_redacted(), &SECRETS);
    check("Debug of the configuration", &format!("{config:?}{config:#?}"), &SECRETS);
    // The service and not the stage: the simulator beside it is told its keys as a test would be.
    check("Debug of the service", &format!("{:?}{:#?}", stage.service, stage.service), &SECRETS);
    let stored = dump(&stage).await;
    assert!(stored.contains(&CARD[12..]), "the dump shows what is stored, last four digits included");
    check("the database", &stored, &SECRETS);
    let logged = captured.text();
    assert!(logged.contains("TRACE") && logged.contains("paystrata"), "the capture hears the whole process");
    check("the log", &logged, &SECRETS);
}
