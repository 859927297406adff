//! Amounts on the wire: only whole numbers of minor units from 1 to 10^15 - 1 are amounts, in every currency, and what is
//! no amount leaves no trace.

use paystrata_app::ids::AccountId;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::scene::{balance, check_problem, count, new_key, pay, sql, transfer, velocity_payment, with};
use crate::stage::{Reply, Stage};

async fn post_raw(stage: &Stage, path: &str, body: String) -> Reply {
    stage.send(Method::POST, path, &[("idempotency-key", &new_key())], Some(body.into_bytes())).await
}

/// What is written for an amount, and the code that it is refused with. 400 is for what is not JSON at all.
const NO_AMOUNTS: &[(&str, u16, &str)] = &[
    ("0", 422, "amount_out_of_range"),
    ("-1", 422, "amount_out_of_range"),
    ("-9223372036854775808", 422, "amount_out_of_range"),
    ("1000000000000000", 422, "amount_out_of_range"),
    ("9223372036854775807", 422, "amount_out_of_range"),
    ("9223372036854775808", 422, "amount_out_of_range"),
    ("18446744073709551615", 422, "amount_out_of_range"),
    ("99999999999999999999999", 422, "amount_out_of_range"),
    ("-99999999999999999999", 422, "amount_out_of_range"),
    ("1.5", 422, "invalid_request"),
    ("1.0", 422, "invalid_request"),
    ("1e3", 422, "invalid_request"),
    ("1e400", 422, "invalid_request"),
    ("-1e400", 422, "invalid_request"),
    ("1e-400", 422, "invalid_request"),
    ("-0", 422, "invalid_request"),
    ("\"5\"", 422, "invalid_request"),
    ("\"1,00\"", 422, "invalid_request"),
    ("true", 422, "invalid_request"),
    ("[5]", 422, "invalid_request"),
    ("{\"value\":5}", 422, "invalid_request"),
    ("null", 422, "invalid_request"),
    ("NaN", 400, "malformed_json"),
    ("Infinity", 400, "malformed_json"),
    ("+5", 400, "malformed_json"),
    ("05", 400, "malformed_json"),
    ("0x5", 400, "malformed_json"),
    ("", 400, "malformed_json"),
];

#[tokio::test]
async fn what_is_no_amount_is_refused_by_pointer_and_stored_nowhere() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100_000).await, stage.account("USD", 0).await);
    let keys = count(&stage, "SELECT count(*) FROM idempotency_keys").await;
    for (amount, status, code) in NO_AMOUNTS {
        let body = format!(r#"{{"from":"{from}","to":"{to}","amount":{amount},"currency":"USD"}}"#);
        let param = (*status == 422).then_some("/amount");
        check_problem(&post_raw(&stage, "/v1/payments", body).await, *status, code, param);
    }
    let missing = with(&transfer(&from, &to, 1), &json!({"amount": null})).to_string();
    check_problem(&post_raw(&stage, "/v1/payments", missing).await, 422, "invalid_request", Some("/amount"));
    for table in ["payments", "entries WHERE payment_id IS NOT NULL", "outbox", "gateway_operations"] {
        assert_eq!(count(&stage, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(count(&stage, "SELECT count(*) FROM idempotency_keys").await, keys, "no key was used up");
    assert_eq!(stage.balance(&from).await, balance(100_000, 0));
}

#[tokio::test]
async fn captures_and_refunds_read_amounts_as_strictly() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100_000).await, stage.account("USD", 0).await);
    let hold = pay(&stage, &with(&transfer(&from, &to, 50_000), &json!({"capture": false}))).await;
    let paid = pay(&stage, &transfer(&from, &to, 50_000)).await;
    for (amount, status, code) in NO_AMOUNTS.iter().filter(|(amount, ..)| *amount != "null") {
        for (payment, change) in [(&hold, "capture"), (&paid, "refunds")] {
            let path = format!("/v1/payments/{}/{change}", payment["id"].as_str().expect("a text"));
            let reply = post_raw(&stage, &path, format!(r#"{{"amount":{amount}}}"#)).await;
            check_problem(&reply, *status, code, (*status == 422).then_some("/amount"));
        }
    }
    assert_eq!(stage.balance(&from).await, balance(50_000, 50_000));
}

#[tokio::test]
async fn the_largest_amount_can_be_paid() {
    let stage = Stage::start_with(&[("PAYSTRATA__FRAUD__AMOUNT_MAX", "999999999999999")]).await;
    let (from, to) = (stage.account("USD", 999_999_999_999_999).await, stage.account("USD", 0).await);
    assert_eq!(pay(&stage, &transfer(&from, &to, 999_999_999_999_999)).await["status"], "succeeded");
    assert_eq!(stage.balance(&to).await, balance(999_999_999_999_999, 0));
    stage.verify().await;
}

#[tokio::test]
async fn minor_units_are_kept_whatever_the_currencys_exponent() {
    let stage = Stage::start().await;
    for currency in ["JPY", "USD", "KWD"] {
        let (from, to) = (stage.account(currency, 1_000).await, stage.account(currency, 0).await);
        let paid = pay(&stage, &with(&transfer(&from, &to, 1), &json!({"currency": currency}))).await;
        assert_eq!((&paid["status"], &paid["amount"]), (&json!("succeeded"), &json!(1)));
        assert_eq!((stage.balance(&from).await, stage.balance(&to).await), (balance(999, 0), balance(1, 0)));
    }
    let trial = stage.get("/v1/ledger/trial-balance", &[]).await;
    assert_eq!(trial.status, StatusCode::OK);
    let lines = trial.json()["data"].as_array().expect("an array").clone();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["difference"] == 0), "{lines:?}");
    stage.verify().await;
}

/// The gateway is sent decimal text: a factor of ten or a hundred would show as another amount at the simulator.
#[tokio::test]
async fn minor_units_survive_the_way_to_both_gateways() {
    let stage = Stage::start().await;
    for (currency, exponent) in [("JPY", 0), ("USD", 2), ("KWD", 3)] {
        let (from, to) = (stage.account(currency, 90_000).await, stage.account(currency, 0).await);
        let change = json!({"currency": currency, "capture": false});
        for body in [
            with(&crate::scene::velocity_payment(&from, &to, 12_345), &change),
            with(&crate::scene::card_payment(&to, 12_345, "46201"), &change),
        ] {
            let held = pay(&stage, &body).await;
            assert_eq!(held["status"], "authorized", "{currency}/{exponent}: {held}");
            let path = held["id"].as_str().expect("a text").to_owned();
            // The gateway compares: more than it authorised is refused, so this passes only if both agree exactly.
            let captured = crate::scene::change(&stage, &path, "capture", &json!({"amount": 12_345})).await;
            assert_eq!(captured.json()["amount_captured"], 12_345, "{}", captured.json());
        }
        assert_eq!(stage.balance(&to).await, balance(2 * 12_345, 0));
    }
    stage.verify().await;
}

/// A balance that may have passed its bound leaves no room for sums. What has not left yet is refused.
#[tokio::test]
async fn no_capture_and_no_refund_lifts_a_balance_above_its_bound() {
    const BALANCE_MAX: i64 = i64::MAX / 2;
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let lift = async |account: &str, posted: i64| {
        let id: AccountId = account.parse().expect("an account id");
        let text = "UPDATE accounts SET posted = $2 WHERE id = $1";
        sql(&stage).await.execute(text, &[&id.0, &posted]).await.expect("lift a balance");
    };
    let paid = pay(&stage, &transfer(&from, &to, 100)).await;
    let refund = format!("/v1/payments/{}/refunds", paid["id"].as_str().expect("a text"));
    let mut captures = Vec::new();
    for body in [transfer(&from, &to, 100), velocity_payment(&from, &to, 100)] {
        let held = pay(&stage, &with(&body, &json!({"capture": false}))).await;
        assert_eq!(held["status"], "authorized", "{held}");
        captures.push(format!("/v1/payments/{}/capture", held["id"].as_str().expect("a text")));
    }
    lift(&to, BALANCE_MAX - 99).await;
    for path in &captures {
        check_problem(&stage.post(path, &new_key(), &json!({})).await, 422, "limit_exceeded", None);
    }
    let asked = "SELECT count(*) FROM gateway_operations WHERE kind = 3";
    assert_eq!(count(&stage, asked).await, 0, "the gateway was not asked");
    lift(&to, 100).await;
    lift(&from, BALANCE_MAX - 99).await;
    check_problem(&stage.post(&refund, &new_key(), &json!({})).await, 422, "limit_exceeded", None);
    lift(&from, 900).await;
    for path in captures.iter().chain([&refund]) {
        let done = stage.post(path, &new_key(), &json!({})).await;
        assert!(done.status.is_success(), "{path}: {}", done.json());
    }
    stage.verify().await;
}
