//! Accounts: opening them with every field, reading, listing and their entries. Payments appear here only to make
//! entries.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::scene::{Caller, balance, check_problem, count, id_of, new_key, pay, transfer, until};
use crate::stage::Stage;

const OTHER_KEY: &str = "sk_other_0123456789abcdef0123456789abcdef";

async fn list(stage: &Stage, query: &str) -> Value {
    let reply = stage.get(&format!("/v1/accounts?{query}"), &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
    reply.json()
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("an array").iter().map(|row| row["id"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn an_account_keeps_every_field_it_was_opened_with() {
    let stage = Stage::start().await;
    let body = json!({
        "currency": "KWD", "customer": "cus_1", "kind": "wallet", "overdraft_limit": 250,
        "opening_balance": 5000, "metadata": {"b": [1, null], "a": "ä"}
    });
    let reply = stage.post("/v1/accounts", &new_key(), &body).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let opened = reply.json();
    for (field, expected) in [
        ("object", json!("account")),
        ("currency", json!("KWD")),
        ("status", json!("active")),
        ("customer", json!("cus_1")),
        ("kind", json!("wallet")),
        ("overdraft_limit", json!(250)),
        ("metadata", json!({"a": "ä", "b": [1, null]})),
    ] {
        assert_eq!(opened[field], expected, "{field}");
    }
    assert_eq!(opened["balance"], balance(5000, 0));
    let id = id_of(&reply);
    let read = stage.get(&format!("/v1/accounts/{id}"), &[]).await;
    assert_eq!(read.bytes, reply.bytes, "reading an account shows what opening it answered");
}

#[tokio::test]
async fn an_opening_balance_comes_from_the_external_account_of_its_currency() {
    let stage = Stage::start().await;
    let account = stage.account("JPY", 700).await;
    let entries = stage.get(&format!("/v1/accounts/{account}/entries"), &[]).await.json();
    assert_eq!(entries["data"].as_array().expect("an array").len(), 1);
    let entry = &entries["data"][0];
    assert_eq!((&entry["amount"], &entry["balance_after"]), (&json!(700), &json!(700)));
    assert_eq!((&entry["payment"], &entry["account"]), (&Value::Null, &json!(account)));
    let trial = stage.get("/v1/ledger/trial-balance", &[]).await.json();
    let expected = json!([{"currency": "JPY", "debits": 700, "credits": 700, "difference": 0}]);
    assert_eq!(trial["data"], expected);
    stage.verify().await;
}

#[tokio::test]
async fn opening_under_a_key_is_done_once_and_without_one_each_time_if_no_money_moves() {
    let stage = Stage::start_uncached().await;
    let (key, body) = (new_key(), json!({"currency": "USD", "opening_balance": 10}));
    let first = stage.post("/v1/accounts", &key, &body).await;
    let again = stage.post("/v1/accounts", &key, &body).await;
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let other = json!({"currency": "USD", "opening_balance": 11});
    let reply = stage.post("/v1/accounts", &key, &other).await;
    check_problem(&reply, 422, "idempotency_key_reuse", Some("/opening_balance"));
    let keyless =
        |body: Value| stage.send(Method::POST, "/v1/accounts", &[], Some(body.to_string().into_bytes()));
    let reply = keyless(body).await;
    check_problem(&reply, 400, "idempotency_key_required", Some("Idempotency-Key"));
    let empty = || keyless(json!({"currency": "USD", "opening_balance": 0}));
    let (one, two) = (empty().await, empty().await);
    assert_eq!((one.status, two.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_ne!(id_of(&one), id_of(&two));
    let opened = count(&stage, "SELECT count(*) FROM account_profiles WHERE kind = 'standard'").await;
    assert_eq!(opened, 3, "the one that moves money was not opened");
    stage.verify().await;
}

#[tokio::test]
async fn what_an_account_cannot_be_is_refused_by_field() {
    let stage = Stage::start().await;
    for (body, code, param) in [
        (json!({}), "invalid_request", "/currency"),
        (json!({"currency": "usd"}), "invalid_request", "/currency"),
        (json!({"currency": "XXX"}), "invalid_request", "/currency"),
        (json!({"currency": 840}), "invalid_request", "/currency"),
        (json!({"currency": "USD", "kind": "external"}), "invalid_request", "/kind"),
        (json!({"currency": "USD", "kind": ""}), "invalid_request", "/kind"),
        (json!({"currency": "USD", "customer": "x".repeat(256)}), "invalid_request", "/customer"),
        (json!({"currency": "USD", "overdraft_limit": -1}), "amount_out_of_range", "/overdraft_limit"),
        (json!({"currency": "USD", "overdraft_limit": 1.5}), "invalid_request", "/overdraft_limit"),
        (json!({"currency": "USD", "opening_balance": -1}), "amount_out_of_range", "/opening_balance"),
        (json!({"currency": "USD", "opening_balance": i64::MAX}), "amount_out_of_range", "/opening_balance"),
        (json!({"currency": "USD", "metadata": []}), "invalid_request", "/metadata"),
        (json!({"currency": "USD", "status": "closed"}), "invalid_request", "/status"),
    ] {
        let reply = stage.post("/v1/accounts", &new_key(), &body).await;
        check_problem(&reply, 422, code, Some(param));
    }
    assert_eq!(ids(&list(&stage, "").await), Vec::<&str>::new(), "nothing was opened");
}

#[tokio::test]
async fn an_account_is_answered_with_304_until_its_balance_changes() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let path = format!("/v1/accounts/{from}");
    let first = stage.get(&path, &[]).await;
    let etag = first.headers["etag"].clone();
    let known = stage.get(&path, &[("if-none-match", &etag)]).await;
    assert_eq!((known.status, known.bytes.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(known.headers["etag"], etag);
    // The comparison is weak: some caches drop the mark.
    let strong = etag.trim_start_matches("W/").to_owned();
    for sent in [strong.clone(), format!("\"other\", {strong}"), "*".to_owned()] {
        let known = stage.get(&path, &[("if-none-match", &sent)]).await;
        assert_eq!(known.status, StatusCode::NOT_MODIFIED, "{sent}");
    }
    let unknown = stage.get(&path, &[("if-none-match", "\"other\"")]).await;
    assert_eq!(unknown.status, StatusCode::OK);
    for body in
        [transfer(&from, &to, 1), crate::scene::with(&transfer(&from, &to, 1), &json!({"capture": false}))]
    {
        let etag = stage.get(&path, &[]).await.headers["etag"].clone();
        pay(&stage, &body).await;
        let changed = stage.get(&path, &[("if-none-match", &etag)]).await;
        assert_eq!(changed.status, StatusCode::OK, "both a posting and a hold change the balance");
        assert_ne!(changed.headers["etag"], etag);
    }
    assert_eq!(stage.balance(&from).await, balance(99, 1));
}

#[tokio::test]
async fn without_etags_an_account_is_answered_whole_and_still_kept_from_shared_caches() {
    for (enabled, tagged) in [("true", true), ("false", false)] {
        let stage = Stage::start_with(&[("PAYSTRATA__HTTP__ETAG_ENABLED", enabled)]).await;
        let path = format!("/v1/accounts/{}", stage.account("USD", 100).await);
        let first = stage.get(&path, &[]).await;
        assert_eq!(first.headers["cache-control"], "private, no-cache");
        assert_eq!(first.headers.contains_key("etag"), tagged);
        let asked = stage.get(&path, &[("if-none-match", "*")]).await;
        assert_eq!(asked.status, if tagged { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        assert_eq!(asked.headers["cache-control"], "private, no-cache");
    }
}

#[tokio::test]
async fn another_merchant_finds_none_of_it() {
    let stage = Stage::start().await;
    let other = Caller::new_merchant(&stage, OTHER_KEY).await;
    let (mine, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let payment = pay(&stage, &transfer(&mine, &to, 1)).await;
    let payment = payment["id"].as_str().expect("a text");
    // Read by the owner first: what is cached for one merchant must not be served to another.
    assert_eq!(stage.get(&format!("/v1/accounts/{mine}"), &[]).await.status, StatusCode::OK);
    assert_eq!(stage.get(&format!("/v1/payments/{payment}"), &[]).await.status, StatusCode::OK);
    for path in [
        format!("/v1/accounts/{mine}"),
        format!("/v1/accounts/{mine}/entries"),
        format!("/v1/payments/{payment}"),
    ] {
        check_problem(&other.send(Method::GET, &path, "").await, 404, "not_found", None);
    }
    for change in ["capture", "void", "refunds"] {
        let path = format!("/v1/payments/{payment}/{change}");
        check_problem(&other.post(&path, &new_key(), &json!({})).await, 404, "not_found", None);
    }
    let theirs = other.account("USD", 5).await;
    for (body, param) in [(transfer(&mine, &theirs, 1), "/from"), (transfer(&theirs, &mine, 1), "/to")] {
        let reply = other.post("/v1/payments", &new_key(), &body).await;
        check_problem(&reply, 422, "account_not_found", Some(param));
    }
    // A replica may not have replayed it yet.
    let listed = async || other.send(Method::GET, "/v1/accounts", "").await.json();
    let listed = until("the account in the list", listed, |seen| !ids(seen).is_empty()).await;
    assert_eq!(ids(&listed), [theirs.as_str()]);
    assert_eq!(other.send(Method::GET, "/v1/payments", "").await.json()["data"], json!([]));
    assert_eq!(stage.get(&format!("/v1/payments/{payment}"), &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn accounts_are_listed_newest_first_by_filter_and_cursor() {
    let stage = Stage::start().await;
    let mut opened = Vec::new();
    for index in 0..7 {
        let body = json!({
            "currency": "USD", "customer": format!("cus_{}", index % 2), "kind": if index < 4 { "a" } else { "b" }
        });
        let reply = stage.post("/v1/accounts", &new_key(), &body).await;
        let token = reply.headers["paystrata-token"].clone();
        opened.push((id_of(&reply), token));
    }
    // Later reads carry the last write's token: a replica that is behind must not hide what this test opened.
    let token = opened.last().expect("seven were opened").1.clone();
    let all: Vec<&str> = opened.iter().rev().map(|(id, _)| id.as_str()).collect();
    let list = async |query: &str| {
        let reply = stage.get(&format!("/v1/accounts?{query}"), &[("paystrata-token", &token)]).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
        reply.json()
    };
    assert_eq!(ids(&list("").await), all);
    assert_eq!(ids(&list("customer=cus_1").await), [all[1], all[3], all[5]]);
    assert_eq!(ids(&list("kind=b").await), all[..3]);
    assert_eq!(ids(&list("kind=b&customer=cus_0").await), [all[0], all[2]]);
    assert_eq!(ids(&list("status=active").await), all);
    assert_eq!(ids(&list("status=closed").await), Vec::<&str>::new());
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("limit=3{cursor}")).await;
        seen.extend(ids(&page).iter().map(|id| (*id).to_owned()));
        assert_eq!(page["has_more"], json!(page["next_cursor"].is_string()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, all, "pages of three are the whole list without gap or repeat");
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("cursor=!", "cursor"),
        ("status=open", "status"),
        ("color=red", "color"),
        ("kind=a&kind=b", "kind"),
    ] {
        let reply = stage.get(&format!("/v1/accounts?{query}"), &[]).await;
        check_problem(&reply, 400, "invalid_parameter", Some(param));
    }
}

#[tokio::test]
async fn entries_are_signed_and_each_states_the_balance_after_it() {
    let stage = Stage::start().await;
    let (a, b) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let mut payments = Vec::new();
    for (from, to, amount) in [(&a, &b, 30), (&b, &a, 10), (&a, &b, 25)] {
        payments.push(pay(&stage, &transfer(from, to, amount)).await["id"].clone());
    }
    let last = stage.post("/v1/payments", &new_key(), &transfer(&a, &b, 5)).await;
    payments.push(last.json()["id"].clone());
    let token = last.headers["paystrata-token"].clone();
    let read = async |account: &str, query: &str| {
        let path = format!("/v1/accounts/{account}/entries?{query}");
        stage.get(&path, &[("paystrata-token", &token)]).await.json()
    };
    let short = |list: &Value| -> Vec<(i64, i64, Value)> {
        let rows = list["data"].as_array().expect("an array").iter();
        let number = |value: &Value| value.as_i64().expect("a whole number");
        rows.map(|row| (number(&row["amount"]), number(&row["balance_after"]), row["payment"].clone()))
            .collect()
    };
    let expected = vec![
        (-5, 50, payments[3].clone()),
        (-25, 55, payments[2].clone()),
        (10, 80, payments[1].clone()),
        (-30, 70, payments[0].clone()),
        (100, 100, Value::Null),
    ];
    let whole = read(&a, "").await;
    assert_eq!(short(&whole), expected);
    assert_eq!(short(&read(&b, "").await).len(), 4);
    let mut seen = Vec::new();
    let mut page = read(&a, "limit=2").await;
    loop {
        seen.extend(short(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        page = read(&a, &format!("limit=2&cursor={next}")).await;
    }
    assert_eq!(seen, expected);
    let side = |list: &Value, index: usize| list["data"][index]["id"].as_str().expect("a text").to_owned();
    assert_ne!(
        side(&whole, 0),
        side(&read(&b, "").await, 0),
        "each side of a double entry has an id of its own"
    );
}
