//! What the tests of this binary share beside the stage: bodies, keys, callers of their own, and what a problem must look
//! like. Asserts nothing about money.

use std::time::Duration;

use paystrata_app::http::fields::Fields;
use paystrata_app::http::idempotency::Asked;
use paystrata_app::ids::MerchantId;
use paystrata_app::merchants::store::add_merchant;
use paystrata_app::payments::wire;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::stage::{Reply, Stage};

/// How long an observable condition may take to come true: many times what a loaded machine of two cores needs.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(25);

/// A key that nobody used.
pub(crate) fn new_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A book payment in dollars.
pub(crate) fn transfer(from: &str, to: &str, amount: i64) -> Value {
    json!({"from": from, "to": to, "amount": amount, "currency": "USD"})
}

/// A card payment in dollars. The simulator decides by `zip` and by the last two digits of `amount`.
pub(crate) fn card_payment(to: &str, amount: i64, zip: &str) -> Value {
    let card =
        json!({"number": "4111111111111111", "expiration": "2099-12", "code": "900", "billing_zip": zip});
    json!({"to": to, "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card})
}

/// A payment over VelocityPay in dollars.
pub(crate) fn velocity_payment(from: &str, to: &str, amount: i64) -> Value {
    json!({"from": from, "to": to, "amount": amount, "currency": "USD", "rail": "velocity_pay"})
}

/// A balance as the API shows it.
pub(crate) fn balance(posted: i64, held: i64) -> Value {
    json!({"posted": posted, "held": held, "available": posted - held})
}

/// `value` with some fields replaced; null removes one.
pub(crate) fn with(value: &Value, changes: &Value) -> Value {
    let mut changed = value.clone();
    let fields = changed.as_object_mut().expect("bodies are objects");
    for (name, new) in changes.as_object().expect("changes are an object") {
        if new.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), new.clone());
        }
    }
    changed
}

/// The id of an answer.
pub(crate) fn id_of(reply: &Reply) -> String {
    reply.json()["id"].as_str().unwrap_or_else(|| panic!("no id in {}", reply.json())).to_owned()
}

/// Creates a payment under a new key and gives its answer, which must be 201.
pub(crate) async fn pay(stage: &Stage, body: &Value) -> Value {
    let reply = stage.post("/v1/payments", &new_key(), body).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
    reply.json()
}

/// A payment as it stands.
pub(crate) async fn payment(stage: &Stage, id: &str) -> Value {
    stage.get(&format!("/v1/payments/{id}"), &[]).await.json()
}

/// `POST /v1/payments/{id}/{change}` under a new key.
pub(crate) async fn change(stage: &Stage, id: &str, change: &str, body: &Value) -> Reply {
    stage.post(&format!("/v1/payments/{id}/{change}"), &new_key(), body).await
}

/// Asserts a problem of the right form.
pub(crate) fn check_problem(reply: &Reply, status: u16, code: &str, param: Option<&str>) {
    let body = reply.json();
    let told = (reply.status.as_u16(), body["code"].as_str(), body["param"].as_str());
    assert_eq!(told, (status, Some(code), param), "{}", String::from_utf8_lossy(&reply.bytes));
    check_form(reply);
}

/// Asserts that an answer is a problem as RFC 9457 and the contract write it, whatever it says.
pub(crate) fn check_form(reply: &Reply) {
    let body = reply.json();
    assert_eq!(
        reply.headers.get("content-type").map(String::as_str),
        Some("application/problem+json"),
        "{reply:?}"
    );
    assert_eq!(body["status"], reply.status.as_u16(), "{body}");
    assert_eq!(body["request_id"].as_str(), reply.headers.get("x-request-id").map(String::as_str), "{body}");
    assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    for field in ["type", "title", "detail", "code"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {body}");
    }
    let retryable = body["retryable"].as_bool().unwrap_or_else(|| panic!("retryable of {body}"));
    assert_eq!(reply.headers.contains_key("retry-after"), retryable, "{reply:?}");
}

/// Looks at `state` until it is as `expected` says, and gives it; fails with the last state seen.
pub(crate) async fn until<F, Fut>(what: &str, state: F, expected: impl Fn(&Value) -> bool) -> Value
where
    F: Fn() -> Fut,
    Fut: Future<Output = Value>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = state().await;
        if expected(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not come to pass in {PATIENCE:?}; last seen: {seen}");
        sleep(LOOK).await;
    }
}

/// Waits until a payment has this status.
pub(crate) async fn until_status(stage: &Stage, id: &str, status: &str) -> Value {
    until(&format!("status {status}"), || payment(stage, id), |seen| seen["status"] == status).await
}

/// A connection past the service, to look at what it stored.
pub(crate) async fn sql(stage: &Stage) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&stage.primary_url, NoTls).await.expect("connect to the stage's database");
    tokio::spawn(connection);
    client
}

/// One number from the database.
pub(crate) async fn count(stage: &Stage, query: &str) -> i64 {
    sql(stage).await.query_one(query, &[]).await.expect("count").get(0)
}

/// The same payment with a card whose last month is long over.
pub(crate) fn expired(body: &Value) -> Value {
    let mut changed = body.clone();
    changed["card"]["expiration"] = json!("2001-01");
    changed
}

/// As if `body` had been sent under `key` when it was still acceptable: what the key keeps was paid by another body today,
/// and is made to answer for this one.
pub(crate) async fn backdate(stage: &Stage, key: &str, body: &Value) {
    let client = sql(stage).await;
    let merchant_id = client.query_one("SELECT merchant_id FROM payments LIMIT 1", &[]).await;
    let merchant_id = merchant_id.expect("there is a payment").get(0);
    let fields = Fields::of(body.clone(), String::new()).expect("bodies are objects");
    let secret = stage.service.app.config.security.fingerprint_key.expose().as_bytes();
    let asked = Asked { merchant_id, route: wire::CREATE, path: None, fields: &fields, secret };
    let claim = asked.claim(key);
    let rewrite = "UPDATE idempotency_keys SET fingerprint = $2 WHERE digest = $1";
    let rewritten = client.execute(rewrite, &[&claim.digest, &claim.fingerprint.as_bytes()]).await;
    assert_eq!(rewritten.expect("write the database"), 1, "the key is kept");
}

/// Our name at the gateway of a payment's operation of this kind: 1 purchase, 2 authorize, 3 capture, 4 void, 5 refund.
pub(crate) async fn reference(stage: &Stage, payment: &str, kind: i16) -> String {
    let id: paystrata_app::ids::PaymentId = payment.parse().expect("a payment id");
    let query = "SELECT reference FROM gateway_operations WHERE payment_id = $1 AND kind = $2";
    sql(stage).await.query_one(query, &[&id.0, &kind]).await.expect("find the operation").get(0)
}

/// A second service on the database of `stage`.
pub(crate) async fn another(stage: &Stage, changes: &[(&str, &str)]) -> Stage {
    let database =
        [("PAYSTRATA__DB__PRIMARY_URL", stage.primary_url.as_str()), ("PAYSTRATA__DB__REPLICA_URLS", "")];
    Stage::start_with(&[&database, changes].concat()).await
}

/// A caller with headers of its own: another merchant, or none.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: reqwest::Client,
    base: String,
    headers: HeaderMap,
}

impl Caller {
    /// Nobody: no key is sent.
    pub(crate) fn nobody(stage: &Stage) -> Self {
        Self { client: crate::stage::client(), base: stage.base(), headers: HeaderMap::new() }
    }

    /// With one more header, whose bytes need not be text.
    pub(crate) fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// The holder of a key, at a service that this process does not hold.
    pub(crate) fn at(base: String, key: &str) -> Self {
        let nobody = Self { client: crate::stage::client(), base, headers: HeaderMap::new() };
        nobody.header("authorization", format!("Bearer {key}").as_bytes())
    }

    /// The holder of a key.
    pub(crate) fn with_key(stage: &Stage, key: &str) -> Self {
        Self::nobody(stage).header("authorization", format!("Bearer {key}").as_bytes())
    }

    /// A new merchant.
    pub(crate) async fn new_merchant(stage: &Stage, key: &str) -> Self {
        let connection = stage.service.app.db.write().await.expect("reach the primary");
        add_merchant(&connection, MerchantId::new().0, "Second", key, "first").await.expect("add a merchant");
        Self::with_key(stage, key)
    }

    /// Sends a request.
    pub(crate) async fn send(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        let request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .headers(self.headers.clone())
            .header("content-type", "application/json")
            .body(body.into());
        let response = request.send().await.expect("send a request");
        let status = response.status();
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers =
            response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let bytes = response.bytes().await.expect("read the answer").to_vec();
        Reply { status, headers, bytes }
    }

    /// Opens an account and gives its id.
    pub(crate) async fn account(&self, currency: &str, opening_balance: i64) -> String {
        let body = json!({"currency": currency, "opening_balance": opening_balance}).to_string();
        let keyed = self.clone().header("idempotency-key", new_key().as_bytes());
        let reply = keyed.send(Method::POST, "/v1/accounts", body).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        id_of(&reply)
    }

    /// `POST` under an idempotency key.
    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        let keyed = self.clone().header("idempotency-key", key.as_bytes());
        keyed.send(Method::POST, path, body.to_string()).await
    }
}
