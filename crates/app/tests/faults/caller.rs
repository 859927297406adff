//! An HTTP client of the service that survives what fault tests do: a connection that breaks is a value.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::ground::{LIMIT, until};
use crate::stage::{KEY, Reply, client};

/// A client of one node.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    http: reqwest::Client,
    pub(crate) base: String,
}

impl Caller {
    pub(crate) fn new(base: String) -> Self {
        Self { http: client(), base }
    }

    /// One request of the development merchant; `None` when no whole answer came.
    ///
    /// # Panics
    /// No answer and no broken connection either: the service hangs.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<Reply> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let exchange = async {
            let response = request.send().await.ok()?;
            let status = response.status();
            let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
            let headers: BTreeMap<_, _> =
                response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            let bytes = response.bytes().await.ok()?.to_vec();
            Some(Reply { status, headers, bytes })
        };
        timeout(LIMIT, exchange).await.unwrap_or_else(|_| panic!("{path} hangs"))
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Option<Reply> {
        self.send(Method::POST, path, &[("idempotency-key", key)], Some(body)).await
    }

    /// As [`Self::post`], by a client that comes again with its key while it is told to: with short waits, a busy machine
    /// refuses a payment now and then.
    pub(crate) async fn insist(&self, path: &str, key: &str, body: &Value) -> Reply {
        until("an answer that is no refusal for now", async || is_lasting(self.post(path, key, body).await?))
            .await
    }

    /// As [`Self::get`], with the same patience.
    pub(crate) async fn read(&self, path: &str) -> Reply {
        until("a read that is no refusal for now", async || is_lasting(self.get(path).await)).await
    }

    /// A read that must be answered.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).await.unwrap_or_else(|| panic!("{path}: no answer"))
    }

    /// A read after the write that answered with `token`.
    pub(crate) async fn get_after(&self, path: &str, token: &str) -> Reply {
        let read = self.send(Method::GET, path, &[("paystrata-token", token)], None).await;
        read.unwrap_or_else(|| panic!("{path}: no answer"))
    }

    /// Pays from one account to another, under a new key, and must succeed.
    pub(crate) async fn pay(&self, from: &str, to: &str, amount: i64) -> Reply {
        let body = book_payment(from, to, amount, &new_key());
        let reply = self.post("/v1/payments", &new_key(), &body).await.expect("an answer");
        assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::CREATED, &json!("succeeded")));
        reply
    }

    /// Opens an account and gives its id.
    pub(crate) async fn account(&self, opening_balance: i64) -> String {
        let body = json!({"currency": "USD", "opening_balance": opening_balance});
        let reply = self.insist("/v1/accounts", &new_key(), &body).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        text(&reply.json()["id"])
    }

    pub(crate) async fn accounts(&self, count: usize, opening_balance: i64) -> Vec<String> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(self.account(opening_balance).await);
        }
        ids
    }

    /// The posted balance as the read path shows it.
    pub(crate) async fn posted(&self, account: &str) -> i64 {
        posted(&self.get(&format!("/v1/accounts/{account}")).await)
    }
}

fn is_lasting(reply: Reply) -> Option<Reply> {
    let passes = matches!(reply.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
    (!passes).then_some(reply)
}

/// The body of a book payment; its reference names it in the database.
pub(crate) fn book_payment(from: &str, to: &str, amount: i64, reference: &str) -> Value {
    json!({"from": from, "to": to, "amount": amount, "currency": "USD", "merchant_reference": reference})
}

/// The posted balance that an account's document shows.
pub(crate) fn posted(account: &Reply) -> i64 {
    assert_eq!(account.status, StatusCode::OK, "{}", account.json());
    account.json()["balance"]["posted"].as_i64().expect("a balance is a whole number")
}

pub(crate) fn new_key() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
