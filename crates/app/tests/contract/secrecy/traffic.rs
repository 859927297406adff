//! Requests that carry secrets: card payments of every end, changes, and cards where no card belongs. Gives what was
//! answered, each with the place it came from; looks for nothing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::{Caller, new_key};

/// Passes the Luhn check, and stands nowhere else in this repository.
pub(crate) const CARD: &str = "4929720483561208";
/// As long as Authorize.Net's transaction keys may be.
pub(crate) const GATEWAY_KEY: &str = "gw-secrecy-2ab91";

/// The place of an answer, and its bytes as text.
pub(crate) type Answers = Vec<(String, String)>;

fn card(zip: &str) -> Value {
    json!({"number": CARD, "expiration": "2099-12", "code": "7391", "billing_zip": zip})
}

fn payment(to: &str, amount: i64, card: &Value) -> Value {
    json!({"to": to, "amount": amount, "currency": "USD", "rail": "authorize_net", "card": card})
}

/// Card payments that are approved, declined, held, lost and never arrive; a batch; a change of each kind.
pub(crate) async fn use_everything(caller: &Caller) -> Answers {
    let (from, to) = (caller.account("USD", 100_000).await, caller.account("USD", 0).await);
    let mut answers = Vec::new();
    let mut keep = |place: &str, reply: &crate::stage::Reply| {
        assert!(reply.status.is_success(), "{place}: {}", reply.json());
        answers.push((place.to_owned(), String::from_utf8_lossy(&reply.bytes).into_owned()));
    };
    for (amount, zip) in
        [(1_000, "46201"), (1_000, "46282"), (1_000, "46299"), (1_077, "46201"), (1_078, "46201")]
    {
        let key = new_key();
        for _ in 0..2 {
            let body = payment(&to, amount, &card(zip));
            keep("a card payment", &caller.post("/v1/payments", &key, &body).await);
        }
    }
    let batch = json!({"payments": [payment(&to, 1_500, &card("46201"))]});
    keep("a batch", &caller.post("/v1/payments/batch", &new_key(), &batch).await);
    for changes in [["capture", "refunds"].as_slice(), &["void"]] {
        let mut card_hold = payment(&to, 2_000, &card("46201"));
        card_hold["capture"] = json!(false);
        let book_hold = json!({
            "from": from, "to": to, "amount": 5, "currency": "USD", "rail": "velocity_pay", "capture": false
        });
        for hold in [card_hold, book_hold] {
            let held = caller.post("/v1/payments", &new_key(), &hold).await;
            keep("a hold", &held);
            for change in changes {
                let path = format!("/v1/payments/{}/{change}", crate::scene::id_of(&held));
                keep(change, &caller.post(&path, &new_key(), &json!({})).await);
            }
            let path = format!("/v1/payments/{}", crate::scene::id_of(&held));
            keep("a payment", &caller.send(Method::GET, &path, "").await);
        }
    }
    for path in ["/v1/payments?page=1", "/v1/accounts", "/v1/merchants/me/stats", "/v1/ledger/trial-balance"]
    {
        keep(path, &caller.send(Method::GET, path, "").await);
    }
    answers
}

/// Requests with the card's number in a field, body or path where it does not belong, or in a card that is no card.
pub(crate) async fn misplace_cards(caller: &Caller) -> Answers {
    let to = caller.account("USD", 0).await;
    let mut bodies: Vec<(&str, String)> = [
        CARD.to_owned(),
        format!("\"{CARD}\""),
        format!("[\"{CARD}\"]"),
        format!("{{\"a\":{CARD}"),
        format!("{CARD} {{}}"),
    ]
    .map(|body| ("/v1/payments", body))
    .into();
    for field in ["rail", "currency", "from", "to", "capture", "amount", "metadata"] {
        let mut body = payment(&to, 1_000, &card("46201"));
        body[field] = json!(CARD);
        bodies.push(("/v1/payments", body.to_string()));
    }
    for wrong in [
        json!({"number": format!("{CARD}1"), "expiration": "2099-12"}),
        json!({"number": CARD, "expiration": CARD}),
        json!({"number": CARD, "expiration": "2099-12", "code": CARD}),
        json!({"number": CARD, "expiration": "2099-12", "billing_zip": format!("<{CARD}>")}),
        json!([CARD]),
    ] {
        bodies.push(("/v1/payments", payment(&to, 1_000, &wrong).to_string()));
    }
    bodies.push(("/v1/payments/batch", json!({"payments": [{"card": CARD}, CARD]}).to_string()));
    bodies.push(("/v1/payments/batch", json!({"mode": CARD, "payments": []}).to_string()));
    bodies.push(("/v1/accounts", json!({"currency": CARD}).to_string()));
    let mut answers = Vec::new();
    for (path, body) in bodies {
        let keyed = caller.clone().header("idempotency-key", new_key().as_bytes());
        let reply = keyed.send(Method::POST, path, body.clone()).await;
        let place = format!("{path} {}", body.replace(CARD, "CARD"));
        answers.push((place, String::from_utf8_lossy(&reply.bytes).into_owned()));
    }
    for path in
        ["payments/CARD", "payments?status=CARD", "payments?account=CARD", "accounts?cursor=CARD", "CARD"]
    {
        let reply = caller.send(Method::GET, &format!("/v1/{}", path.replace("CARD", CARD)), "").await;
        answers.push((path.to_owned(), String::from_utf8_lossy(&reply.bytes).into_owned()));
    }
    answers
}
