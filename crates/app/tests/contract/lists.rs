//! Reading many: payments by page and by cursor, filters, narrowed documents, merchant statistics, the trial balance.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{Caller, card_payment, change, check_problem, new_key, pay, transfer, with};
use crate::stage::{Reply, Stage};

const OTHER_KEY: &str = "sk_other_0123456789abcdef0123456789abcdef";

/// A stage with eleven payments, the newest first, and the token of the last.
struct Gallery {
    stage: Stage,
    accounts: [String; 3],
    payments: Vec<Value>,
    token: String,
}

impl Gallery {
    async fn open() -> Self {
        let stage = Stage::start().await;
        let accounts = [
            stage.account("USD", 1_000).await,
            stage.account("USD", 0).await,
            stage.account("USD", 1_000).await,
        ];
        let (mut payments, mut token) = (Vec::new(), String::new());
        for index in 0..11 {
            let from = if index % 3 == 0 { &accounts[2] } else { &accounts[0] };
            // The fifth asks for more than there is, the last is only authorised.
            let amount = if index == 4 { 5_000 } else { 1 + index };
            let extra = json!({"merchant_reference": format!("order {}", index % 2), "capture": index != 10});
            let body = with(&transfer(from, &accounts[1], amount), &extra);
            let reply = stage.post("/v1/payments", &new_key(), &body).await;
            token.clone_from(&reply.headers["paystrata-token"]);
            payments.insert(0, reply.json());
        }
        Self { stage, accounts, payments, token }
    }

    async fn read(&self, query: &str) -> Reply {
        let reply =
            self.stage.get(&format!("/v1/payments?{query}"), &[("paystrata-token", &self.token)]).await;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {}", reply.json());
        reply
    }

    async fn check(&self, query: &str, expected: impl Fn(usize, &Value) -> bool) {
        let wanted: Vec<&Value> = self
            .payments
            .iter()
            .enumerate()
            .filter(|(index, one)| expected(*index, one))
            .map(|(_, one)| one)
            .collect();
        let body = self.read(query).await.json();
        assert_eq!(body["data"].as_array().expect("an array").iter().collect::<Vec<_>>(), wanted, "{query}");
    }
}

#[tokio::test]
async fn payments_are_listed_newest_first_by_every_filter() {
    let gallery = Gallery::open().await;
    gallery.check("", |_, _| true).await;
    gallery.check("status=failed", |_, one| one["status"] == "failed").await;
    gallery.check("status=authorized", |index, _| index == 0).await;
    gallery
        .check("status=succeeded&merchant_reference=order%201", |_, one| {
            one["status"] == "succeeded" && one["merchant_reference"] == "order 1"
        })
        .await;
    gallery.check("rail=book&currency=USD", |_, _| true).await;
    gallery.check("rail=velocity_pay", |_, _| false).await;
    gallery.check("currency=EUR", |_, _| false).await;
    let (sender, receiver) = (json!(gallery.accounts[2]), &gallery.accounts[1]);
    gallery.check(&format!("account={}", gallery.accounts[2]), |_, one| one["from"] == sender).await;
    gallery.check(&format!("account={receiver}"), |_, _| true).await;
    gallery.check("created_from=2001-01-01T00:00:00Z", |_, _| true).await;
    gallery.check("created_to=2001-01-01T00:00:00Z", |_, _| false).await;
    gallery.check("created_from=2999-01-01T00:00:00Z", |_, _| false).await;
    let middle = gallery.payments[5]["created_at"].as_str().expect("a text");
    let since = |one: &Value| one["created_at"].as_str().expect("a text") >= middle;
    gallery.check(&format!("created_from={middle}"), |_, one| since(one)).await;
    gallery.check(&format!("created_to={middle}"), |_, one| !since(one)).await;
}

#[tokio::test]
async fn numbered_pages_tell_the_total_and_cover_the_list_once() {
    let gallery = Gallery::open().await;
    let (mut seen, mut number) = (Vec::new(), 1);
    loop {
        let reply = gallery.read(&format!("page={number}&size=4")).await;
        let told = ["x-total-count", "x-page", "x-size"].map(|name| reply.headers[name].clone());
        assert_eq!(told, ["11".to_owned(), number.to_string(), "4".to_owned()]);
        let page = reply.json();
        seen.extend(page["data"].as_array().expect("an array").clone());
        if page["has_more"] == false {
            break;
        }
        number += 1;
    }
    assert_eq!((seen, number), (gallery.payments.clone(), 3));
    let beyond = gallery.read("page=9&size=4").await;
    assert_eq!((&beyond.json()["data"], beyond.headers["x-total-count"].as_str()), (&json!([]), "11"));
    let filtered = gallery.read("page=1&size=2&status=failed").await;
    assert_eq!(
        (filtered.headers["x-total-count"].as_str(), &filtered.json()["has_more"]),
        ("1", &json!(false))
    );
}

#[tokio::test]
async fn a_cursor_covers_the_list_once_though_new_payments_arrive() {
    let gallery = Gallery::open().await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gallery.read(&format!("limit=4{cursor}")).await;
        assert!(!page.headers.contains_key("x-total-count"), "counting is what a cursor saves");
        let page = page.json();
        seen.extend(page["data"].as_array().expect("an array").clone());
        assert_eq!(page["has_more"], json!(page["next_cursor"].is_string()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        pay(&gallery.stage, &transfer(&gallery.accounts[0], &gallery.accounts[1], 1)).await;
    }
    assert_eq!(seen, gallery.payments);
}

#[tokio::test]
async fn an_account_is_listed_with_all_it_sent_and_received_page_by_page() {
    let mut gallery = Gallery::open().await;
    let [first, second, third] = gallery.accounts.clone();
    // Both sides in turn, one more that fails, and a card, which has no sender of ours.
    let mut token = String::new();
    for body in [
        transfer(&second, &first, 1),
        transfer(&first, &second, 1),
        transfer(&second, &first, 100_000),
        transfer(&third, &first, 1),
        card_payment(&second, 500, "12345"),
    ] {
        let reply = gallery.stage.post("/v1/payments", &new_key(), &body).await;
        token.clone_from(&reply.headers["paystrata-token"]);
        gallery.payments.insert(0, reply.json());
    }
    gallery.token = token;
    for account in [&first, &second, &third] {
        let touches = |one: &Value| one["from"] == json!(account) || one["to"] == json!(account);
        let wanted: Vec<Value> = gallery.payments.iter().filter(|one| touches(one)).cloned().collect();
        let (mut by_cursor, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = gallery.read(&format!("account={account}&limit=2{cursor}")).await.json();
            by_cursor.extend(page["data"].as_array().expect("an array").clone());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(by_cursor, wanted);
        let page = gallery.read(&format!("account={account}&page=2&size=3")).await;
        assert_eq!(page.headers["x-total-count"], wanted.len().to_string());
        assert_eq!(page.json()["data"].as_array().expect("an array")[..], wanted[3..wanted.len().min(6)]);
        gallery
            .check(&format!("account={account}&status=failed"), |_, one| {
                one["status"] == "failed" && touches(one)
            })
            .await;
    }
}

#[tokio::test]
async fn bad_parameters_of_a_list_are_named() {
    let gallery = Gallery::open().await;
    for (query, param) in [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=1001&size=100", "page"),
        ("page=9223372036854775807&size=1000", "page"),
        ("page=x", "page"),
        ("page=1&size=0", "size"),
        ("page=1&size=1001", "size"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=abc", "cursor"),
        ("page=1&cursor=AAAAAAAAAAAAAAAAAAAAAA", "cursor"),
        ("status=paid", "status"),
        ("rail=sepa", "rail"),
        ("currency=usd", "currency"),
        ("account=1", "account"),
        ("created_from=yesterday", "created_from"),
        ("statsu=failed", "statsu"),
        ("status=failed&status=succeeded", "status"),
    ] {
        let reply = gallery.stage.get(&format!("/v1/payments?{query}"), &[]).await;
        check_problem(&reply, 400, "invalid_parameter", Some(param));
    }
    assert_eq!(
        gallery.read("page=1000&size=100").await.json()["data"],
        json!([]),
        "the depth bound itself is allowed"
    );
}

#[tokio::test]
async fn another_merchants_payments_are_not_listed() {
    let gallery = Gallery::open().await;
    let other = Caller::new_merchant(&gallery.stage, OTHER_KEY).await;
    for query in ["", "page=1&size=5", "merchant_reference=order%201"] {
        let reply = other.send(reqwest::Method::GET, &format!("/v1/payments?{query}"), "").await;
        assert_eq!(reply.json()["data"], json!([]));
    }
    let by_account = format!("/v1/payments?account={}", gallery.accounts[0]);
    assert_eq!(other.send(reqwest::Method::GET, &by_account, "").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_payment_is_narrowed_to_the_fields_asked_for_and_answered_with_304() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 100).await, stage.account("USD", 0).await);
    let paid = pay(&stage, &transfer(&from, &to, 5)).await;
    let id = paid["id"].as_str().expect("a text");
    let narrowed = stage.get(&format!("/v1/payments/{id}?fields=status,amount,nonsense"), &[]).await;
    assert_eq!(narrowed.json(), json!({"status": "succeeded", "amount": 5}));
    let path = format!("/v1/payments/{id}");
    let etag = stage.get(&path, &[]).await.headers["etag"].clone();
    let several = format!("\"other\", {etag}");
    for known in [etag.as_str(), "*", several.as_str()] {
        assert_eq!(
            stage.get(&path, &[("if-none-match", known)]).await.status,
            StatusCode::NOT_MODIFIED,
            "{known}"
        );
    }
    change(&stage, id, "refunds", &json!({"amount": 1})).await;
    let changed = stage.get(&path, &[("if-none-match", &etag)]).await;
    assert_eq!((changed.status, &changed.json()["status"]), (StatusCode::OK, &json!("partially_refunded")));
    assert!(changed.headers["cache-control"].contains("private"), "{:?}", changed.headers);
    let reply = stage.get(&format!("{path}?field=status"), &[]).await;
    check_problem(&reply, 400, "invalid_parameter", Some("field"));
    for unknown in ["pay_1", "acc_00000000000000000000000000000000", &"pay_0".repeat(9)] {
        check_problem(&stage.get(&format!("/v1/payments/{unknown}"), &[]).await, 404, "not_found", None);
    }
}

#[tokio::test]
async fn merchant_statistics_add_up_after_a_refresh() {
    let gallery = Gallery::open().await;
    let stage = &gallery.stage;
    let id = gallery.payments[1]["id"].as_str().expect("a text");
    let token = change(stage, id, "refunds", &json!({"amount": 2})).await.headers["paystrata-token"].clone();
    let before = paystrata_app::clock::Timestamp::now().to_string();
    stage.service.app.views.refresh("merchant_stats").await.expect("refresh the view");
    // The refresh is a write of its own: a later token makes sure that it is seen.
    drop(token);
    let token =
        stage.post("/v1/accounts", &new_key(), &json!({"currency": "USD"})).await.headers["paystrata-token"]
            .clone();
    let reply = stage.get("/v1/merchants/me/stats", &[("paystrata-token", &token)]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
    let stats = reply.json();
    assert!(stats["as_of"].as_str().expect("a text") >= before.as_str(), "{stats} is from before {before}");
    let mut expected: Vec<Value> = Vec::new();
    for (status, payments, amount, captured, refunded) in [
        ("authorized", 1, 11, 0, 0),
        ("succeeded", 8, 40, 40, 0),
        ("failed", 1, 5_000, 0, 0),
        ("partially_refunded", 1, 10, 10, 2),
    ] {
        expected.push(json!({
            "currency": "USD", "status": status, "payments": payments, "amount": amount, "captured": captured,
            "refunded": refunded
        }));
    }
    let sorted = |mut rows: Vec<Value>| {
        rows.sort_by_key(ToString::to_string);
        rows
    };
    assert_eq!(sorted(stats["data"].as_array().expect("an array").clone()), sorted(expected));
    let own = format!("/v1/merchants/{}/stats", stats["merchant"].as_str().expect("a text"));
    assert_eq!(stage.get(&own, &[]).await.status, StatusCode::OK);
    let other = format!("/v1/merchants/{}/stats", paystrata_app::ids::MerchantId::new());
    check_problem(&stage.get(&other, &[]).await, 404, "not_found", None);
}

#[tokio::test]
async fn the_trial_balance_of_every_currency_is_zero_and_counts_only_ones_own() {
    let gallery = Gallery::open().await;
    let stage = &gallery.stage;
    stage.account("EUR", 77).await;
    let other = Caller::new_merchant(stage, OTHER_KEY).await;
    other.account("USD", 5).await;
    let trial = stage.get("/v1/ledger/trial-balance", &[]).await.json();
    let expected = json!([
        {"currency": "USD", "debits": 2_000, "credits": 2_000, "difference": 0},
        {"currency": "EUR", "debits": 77, "credits": 77, "difference": 0},
    ]);
    assert_eq!(trial["data"], expected);
    assert!(trial["as_of"].is_string());
    stage.verify().await;
}

#[tokio::test]
async fn a_long_list_is_whole_whether_compressed_or_streamed() {
    let stage = Stage::start_with(&[("PAYSTRATA__HTTP__STREAMING_THRESHOLD_BYTES", "1000")]).await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let payments: Vec<Value> = (0..300).map(|_| transfer(&from, &to, 1)).collect();
    let reply = stage.post("/v1/payments/batch", &new_key(), &json!({"payments": payments})).await;
    let token = reply.headers["paystrata-token"].clone();
    let listed = stage.get("/v1/payments?limit=1000", &[("paystrata-token", &token)]).await;
    assert_eq!(listed.json()["data"].as_array().map(Vec::len), Some(300));
    let gzip = [("accept-encoding", "gzip"), ("paystrata-token", token.as_str())];
    let compressed = stage.get("/v1/payments?limit=1000", &gzip).await;
    assert_eq!(compressed.headers["content-encoding"], "gzip");
    assert!(compressed.bytes.starts_with(&[0x1f, 0x8b]) && compressed.bytes.len() < listed.bytes.len() / 4);
}

#[tokio::test]
async fn reads_that_take_no_parameter_refuse_one_by_its_name() {
    let stage = Stage::start().await;
    let account = format!("/v1/accounts/{}", stage.account("USD", 1).await);
    for path in [account.as_str(), "/v1/merchants/me/stats", "/v1/ledger/trial-balance"] {
        let refused = stage.get(&format!("{path}?fields=id"), &[]).await;
        check_problem(&refused, 400, "invalid_parameter", Some("fields"));
        assert_eq!(stage.get(path, &[]).await.status, StatusCode::OK);
    }
}
