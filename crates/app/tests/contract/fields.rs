//! Bodies are read strictly: unknown and repeated fields, wrong types, and texts or metadata beyond their bounds are
//! refused by pointer, and nothing is created.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::scene::{card_payment, check_problem, new_key, pay, payment, transfer, with};
use crate::stage::{Reply, Stage};

async fn post_raw(stage: &Stage, path: &str, body: &str) -> Reply {
    stage.send(Method::POST, path, &[("idempotency-key", &new_key())], Some(body.as_bytes().to_vec())).await
}

async fn accounts(stage: &Stage) -> (String, String) {
    (stage.account("USD", 1_000).await, stage.account("USD", 0).await)
}

#[tokio::test]
async fn a_field_that_is_unknown_or_of_the_wrong_type_is_named() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let good = transfer(&from, &to, 1);
    let long = "x".repeat(256);
    for (change, param) in [
        (json!({"amonut": 1}), "/amonut"),
        (json!({"Amount": 1}), "/Amount"),
        (json!({"a/b~c": 1}), "/a~1b~0c"),
        (json!({"from": null}), "/from"),
        (json!({"to": null}), "/to"),
        (json!({"currency": null}), "/currency"),
        (json!({"from": 5}), "/from"),
        (json!({"to": ["x"]}), "/to"),
        (json!({"currency": "dollars"}), "/currency"),
        (json!({"rail": "sepa"}), "/rail"),
        (json!({"rail": 1}), "/rail"),
        (json!({"capture": "later"}), "/capture"),
        (json!({"capture": 1}), "/capture"),
        (json!({"merchant_reference": ""}), "/merchant_reference"),
        (json!({"merchant_reference": 7}), "/merchant_reference"),
        (json!({"merchant_reference": long}), "/merchant_reference"),
        (json!({"merchant_reference": "a\nb"}), "/merchant_reference"),
        (json!({"merchant_reference": "a\u{0}b"}), "/merchant_reference"),
        (json!({"metadata": "x"}), "/metadata"),
        (json!({"metadata": {"a": "\u{0}"}}), "/metadata"),
        (json!({"card": {"number": "4111111111111111", "expiration": "2099-12"}}), "/card"),
        (json!({"rail": "authorize_net"}), "/from"),
    ] {
        let reply = stage.post("/v1/payments", &new_key(), &with(&good, &change)).await;
        check_problem(&reply, 422, "invalid_request", Some(param));
    }
    assert_eq!(stage.get("/v1/payments", &[]).await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_card_is_checked_field_by_field_before_anything_happens() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let good = card_payment(&to, 100, "46201");
    for (card, param) in [
        (json!(null), "/card"),
        (json!(5), "/card"),
        (json!({}), "/card/number"),
        (json!({"number": "4111111111111111"}), "/card/expiration"),
        (json!({"number": "4111111111111112", "expiration": "2099-12"}), "/card/number"),
        (json!({"number": "4111", "expiration": "2099-12"}), "/card/number"),
        (json!({"number": "4111111111111111", "expiration": "12/99"}), "/card/expiration"),
        (json!({"number": "4111111111111111", "expiration": "2001-01"}), "/card/expiration"),
        (json!({"number": "4111111111111111", "expiration": "2099-12", "code": "12"}), "/card/code"),
        (
            json!({"number": "4111111111111111", "expiration": "2099-12", "billing_zip": "<>"}),
            "/card/billing_zip",
        ),
        (json!({"number": "4111111111111111", "expiration": "2099-12", "name": "x"}), "/card/name"),
    ] {
        let reply = stage.post("/v1/payments", &new_key(), &with(&good, &json!({"card": card}))).await;
        check_problem(&reply, 422, "invalid_request", Some(param));
    }
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM gateway_operations").await, 0);
}

/// A gateway's token is read alike as a text and as a field, and a card number is none.
#[tokio::test]
async fn a_token_is_checked_in_both_of_its_forms_before_anything_happens() {
    let stage = Stage::start().await;
    let to = stage.account("USD", 0).await;
    let good = card_payment(&to, 100, "46201");
    let wallet = "e".repeat(8_192);
    let (spaced, hyphenated) = ("4111 1111 1111 1111", "4111-1111-1111-1111");
    for token in
        ["", "a\u{0}b", "line\nbreak", "caf\u{e9}", &wallet[..], "4111111111111111", spaced, hyphenated]
    {
        let token = if token == wallet { format!("{token}e") } else { token.to_owned() };
        for (card, param) in [(json!(token), "/card"), (json!({"token": token}), "/card/token")] {
            let reply = stage.post("/v1/payments", &new_key(), &with(&good, &json!({"card": card}))).await;
            check_problem(&reply, 422, "invalid_request", Some(param));
            assert!(
                token.len() < 2 || !reply.json()["detail"].to_string().contains(&token),
                "it is not repeated"
            );
        }
    }
    let number = json!({"card": {"token": 4_111_111_111_111_111_i64}});
    let reply = stage.post("/v1/payments", &new_key(), &with(&good, &number)).await;
    check_problem(&reply, 422, "invalid_request", Some("/card/token"));
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM gateway_operations").await, 0);
    // As long as a wallet's may be, and all digits, as those of the gateway's own form may be.
    for (amount, token) in [(200, &wallet[..]), (300, "9471471570959063005001")] {
        for (cents, card) in [(0, json!(token)), (1, json!({"token": token}))] {
            pay(&stage, &with(&good, &json!({"amount": amount + 10 * cents, "card": card}))).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_is_told_from_one_that_is_no_json() {
    let stage = Stage::start().await;
    for path in ["/v1/payments", "/v1/payments/batch", "/v1/accounts"] {
        for (body, status, code) in [
            ("", 400, "malformed_json"),
            ("{", 400, "malformed_json"),
            ("{}{}", 400, "malformed_json"),
            ("\u{feff}{}", 400, "malformed_json"),
            ("[]", 422, "invalid_request"),
            ("5", 422, "invalid_request"),
            ("null", 422, "invalid_request"),
        ] {
            let reply = post_raw(&stage, path, body).await;
            assert_eq!(
                (reply.status.as_u16(), reply.json()["code"].as_str()),
                (status, Some(code)),
                "{path} {body}"
            );
            crate::scene::check_form(&reply);
        }
    }
    let reply = stage
        .send(
            Method::POST,
            "/v1/payments",
            &[("idempotency-key", "k")],
            Some(b"{\"from\":\"\xff\"}".to_vec()),
        )
        .await;
    assert_eq!((reply.status, &reply.json()["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_json")));
}

/// Two amounts in one request must not be settled by chance, at whatever depth they stand.
#[tokio::test]
async fn a_field_that_stands_twice_is_refused_at_every_depth() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let head = format!(r#""from":"{from}","to":"{to}","currency":"USD""#);
    let card = r#""expiration":"2099-12","number":"4111111111111111","number":"4242424242424242""#;
    for (path, body, param) in [
        ("/v1/payments", format!(r#"{{{head},"amount":1,"amount":2}}"#), "/amount"),
        ("/v1/payments", format!(r#"{{{head},"amount":1,"metadata":{{"a":1,"a":2}}}}"#), "/metadata/a"),
        (
            "/v1/payments",
            format!(
                r#"{{"to":"{to}","currency":"USD","amount":1,"rail":"authorize_net","card":{{{card}}}}}"#
            ),
            "/card/number",
        ),
        ("/v1/accounts", r#"{"currency":"USD","currency":"EUR"}"#.to_owned(), "/currency"),
        ("/v1/payments/batch", r#"{"mode":"atomic","mode":"independent","payments":[]}"#.to_owned(), "/mode"),
        (
            "/v1/payments/batch",
            format!(r#"{{"payments":[{{{head},"amount":1}},{{{head},"amount":1,"amount":2}}]}}"#),
            "/payments/1/amount",
        ),
    ] {
        check_problem(&post_raw(&stage, path, &body).await, 422, "invalid_request", Some(param));
    }
    let paid = crate::scene::count(&stage, "SELECT count(*) FROM payments WHERE amount = 2").await;
    assert_eq!(paid, 0, "neither of two amounts was chosen");
}

#[tokio::test]
async fn texts_and_metadata_fit_up_to_their_bounds() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    // `{"a":""}` is 8 bytes of canonical JSON.
    let metadata = |bytes: usize| json!({"metadata": {"a": "x".repeat(bytes - 8)}});
    let reference = json!({"merchant_reference": "r".repeat(255)});
    for change in [metadata(16_384), reference] {
        let paid = pay(&stage, &with(&transfer(&from, &to, 1), &change)).await;
        let shown = payment(&stage, paid["id"].as_str().expect("a text")).await;
        for (field, value) in change.as_object().expect("an object") {
            assert_eq!(&shown[field], value);
        }
    }
    let nul = |metadata: Value| json!({"metadata": metadata});
    for change in [metadata(16_385), nul(json!({"a": [["\u{0}"]]})), nul(json!({"a": {"\u{0}": 1}}))] {
        let over = with(&transfer(&from, &to, 1), &change);
        let reply = stage.post("/v1/payments", &new_key(), &over).await;
        check_problem(&reply, 422, "invalid_request", Some("/metadata"));
    }
}

#[tokio::test]
async fn metadata_comes_back_with_the_same_meaning() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let metadata: Value = json!({
        "text": "\"quotes\" \\u0000 \\ and \u{1f600} and \u{7f}", "deep": [[{"": null}]], "number": 1.25, "large": u64::MAX
    });
    let paid = pay(&stage, &with(&transfer(&from, &to, 1), &json!({"metadata": metadata}))).await;
    assert_eq!(paid["metadata"], metadata);
    assert_eq!(payment(&stage, paid["id"].as_str().expect("a text")).await["metadata"], metadata);
    let absent = pay(&stage, &transfer(&from, &to, 1)).await;
    assert_eq!(absent["metadata"], json!({}));
}

/// Two bodies that differ in a digit must neither be taken for one another nor come back as one number.
#[tokio::test]
async fn a_number_in_metadata_that_cannot_be_kept_exactly_is_refused_by_pointer() {
    let stage = Stage::start().await;
    let (from, to) = accounts(&stage).await;
    let head = format!(r#""from":"{from}","to":"{to}","amount":1,"currency":"USD""#);
    for number in
        ["12345678901234567890123", "18446744073709551617", "0.10000000000000000001", "1e400", "1e-400"]
    {
        for (path, body, param) in [
            ("/v1/payments", format!(r#"{{{head},"metadata":{{"n":{number}}}}}"#), "/metadata/n"),
            (
                "/v1/accounts",
                format!(r#"{{"currency":"USD","metadata":{{"a":[0,{number}]}}}}"#),
                "/metadata/a/1",
            ),
            (
                "/v1/payments/batch",
                format!(r#"{{"payments":[{{{head}}},{{{head},"metadata":{{"n":{number}}}}}]}}"#),
                "/payments/1/metadata/n",
            ),
        ] {
            check_problem(&post_raw(&stage, path, &body).await, 422, "invalid_request", Some(param));
        }
    }
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM payments").await, 0);
    for (number, shown) in [
        ("0.30000000000000004", "0.30000000000000004"),
        ("18446744073709551615", "18446744073709551615"),
        ("1.10", "1.1"),
    ] {
        let body = format!(r#"{{{head},"metadata":{{"n":{number}}}}}"#);
        let reply = post_raw(&stage, "/v1/payments", &body).await;
        let text = String::from_utf8(reply.bytes).expect("JSON is text");
        assert!(text.contains(&format!(r#""metadata":{{"n":{shown}}}"#)), "{number}: {text}");
    }
}
