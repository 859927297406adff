//! The edge of the service: bodies beyond the bound, callers nobody knows, routes and methods that do not exist, request
//! ids. Every refusal is a problem with the id of its request.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::{Caller, check_form, check_problem, new_key, transfer, until};
use crate::stage::{KEY, Stage};

const BODY_BYTES_MAX: usize = 1 << 20;

/// Sends exactly these bytes and gives status and body of the answer, which must come though the request never ends.
async fn raw(stage: &Stage, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(stage.service.address).await.expect("connect");
    stream.write_all(request).await.expect("send");
    let mut received = Vec::new();
    let mut chunk = [0_u8; 4_096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
            return (status, body);
        }
        let read = stream.read(&mut chunk).await.expect("receive");
        assert!(read > 0, "the connection was closed without an answer: {text}");
        received.extend_from_slice(&chunk[..read]);
    }
}

fn head(framing: &str) -> Vec<u8> {
    let key = new_key();
    format!(
        "POST /v1/payments HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nidempotency-key: {key}\r\n{framing}\r\n\r\n"
    )
    .into_bytes()
}

#[tokio::test]
async fn an_announced_body_beyond_the_bound_is_refused_before_it_is_sent() {
    let stage = Stage::start().await;
    for bytes in [BODY_BYTES_MAX + 1, 1 << 40] {
        let (status, body) = raw(&stage, &head(&format!("content-length: {bytes}"))).await;
        assert_eq!((status, &body["code"]), (413, &json!("body_too_large")), "{body}");
    }
}

#[tokio::test]
async fn a_chunked_body_is_refused_as_soon_as_it_passes_the_bound() {
    let stage = Stage::start().await;
    let mut request = head("transfer-encoding: chunked");
    for _ in 0..=BODY_BYTES_MAX / 0x8000 {
        request.extend_from_slice(b"8000\r\n");
        request.resize(request.len() + 0x8000, b' ');
        request.extend_from_slice(b"\r\n");
    }
    // No last chunk: the service must not wait for one.
    let (status, body) = raw(&stage, &request).await;
    assert_eq!((status, &body["code"]), (413, &json!("body_too_large")), "{body}");
}

/// The memory of bodies is bounded in sum: one that does not fit beside the others is refused unread, and fits once they
/// are done.
#[tokio::test]
async fn bodies_over_the_bound_of_all_are_refused_before_they_are_sent() {
    const BODIES_BYTES_MAX: usize = 65_536;
    let bound = BODIES_BYTES_MAX.to_string();
    let stage = Stage::start_with(&[
        ("PAYSTRATA__HTTP__BODY_BYTES_MAX", &bound),
        ("PAYSTRATA__HTTP__BATCH_BODY_BYTES_MAX", &bound),
        ("PAYSTRATA__HTTP__BODIES_BYTES_MAX", &bound),
    ])
    .await;
    let (from, to) = (stage.account("USD", 10).await, stage.account("USD", 0).await);
    let left = || async { json!(stage.service.app.bodies.left()) };
    let mut slow = TcpStream::connect(stage.service.address).await.expect("connect");
    let mut most = head("content-length: 65000");
    most.resize(most.len() + 64_900, b' ');
    slow.write_all(&most).await.expect("send");
    let is_small = |left: &Value| left.as_u64().is_some_and(|left| left <= 636);
    until("the share of the slow one", left, is_small).await;
    // What is announced is refused before it is sent, what is not as soon as it passes what is left.
    let mut chunk = head("transfer-encoding: chunked");
    chunk.extend_from_slice(b"3e8\r\n");
    chunk.resize(chunk.len() + 1_000, b' ');
    for request in [head("content-length: 1000"), chunk] {
        let (status, body) = raw(&stage, &request).await;
        assert_eq!(
            (status, &body["code"], &body["retryable"]),
            (503, &json!("unavailable"), &json!(true)),
            "{body}"
        );
    }
    let mut body = transfer(&from, &to, 1).to_string().into_bytes();
    body.resize(1_000, b' ');
    let key = new_key();
    let headers = [("idempotency-key", key.as_str())];
    let send = || stage.send(Method::POST, "/v1/payments", &headers, Some(body.clone()));
    let refused = send().await;
    check_problem(&refused, 503, "unavailable", None);
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM payments").await, 0);
    drop(slow);
    until("all shares back", left, |left| *left == json!(BODIES_BYTES_MAX)).await;
    assert_eq!(send().await.json()["status"], "succeeded");
    until("all shares back", left, |left| *left == json!(BODIES_BYTES_MAX)).await;
}

/// A length that is only announced holds nothing, and batches that did send much leave room for payments.
#[tokio::test]
async fn slow_batches_keep_no_payment_out() {
    const BODIES_BYTES_MAX: usize = 4 << 20;
    let stage = Stage::start_with(&[
        ("PAYSTRATA__HTTP__BATCH_BODY_BYTES_MAX", "3145728"),
        ("PAYSTRATA__HTTP__BODIES_BYTES_MAX", &BODIES_BYTES_MAX.to_string()),
    ])
    .await;
    let (from, to) = (stage.account("USD", 10).await, stage.account("USD", 0).await);
    let batch = |framing: &str| {
        String::from_utf8(head(framing)).expect("it is text").replace("/v1/payments ", "/v1/payments/batch ")
    };
    let mut slow = Vec::new();
    for framing in [["content-length: 3145728"; 4], ["transfer-encoding: chunked"; 4]].concat() {
        let mut stream = TcpStream::connect(stage.service.address).await.expect("connect");
        stream.write_all(batch(framing).as_bytes()).await.expect("send");
        slow.push(stream);
    }
    slow[0].write_all(&vec![b' '; 3_100_000]).await.expect("send");
    let left = || async { json!(stage.service.app.bodies.left()) };
    let is_held = |left: &Value| left.as_u64().is_some_and(|left| left <= 1_094_304);
    until("the share of the one that sends", left, is_held).await;
    let (status, body) = raw(&stage, batch("content-length: 1048577").as_bytes()).await;
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")), "{body}");
    let body = transfer(&from, &to, 1).to_string().into_bytes();
    let paid = stage.send(Method::POST, "/v1/payments", &[("idempotency-key", &new_key())], Some(body)).await;
    assert_eq!(paid.json()["status"], "succeeded", "{}", paid.json());
    drop(slow);
    until("all shares back", left, |left| *left == json!(BODIES_BYTES_MAX)).await;
}

#[tokio::test]
async fn a_body_of_exactly_the_bound_is_read() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10).await, stage.account("USD", 0).await);
    let mut body = transfer(&from, &to, 1).to_string().into_bytes();
    body.resize(BODY_BYTES_MAX, b' ');
    let reply =
        stage.send(Method::POST, "/v1/payments", &[("idempotency-key", &new_key())], Some(body)).await;
    assert_eq!(reply.json()["status"], "succeeded", "{}", reply.json());
}

#[tokio::test]
async fn a_body_that_ends_early_does_nothing() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10).await, stage.account("USD", 0).await);
    let body = transfer(&from, &to, 1).to_string();
    let mut request = head(&format!("content-length: {}", body.len() + 1));
    request.extend_from_slice(body.as_bytes());
    let mut stream = TcpStream::connect(stage.service.address).await.expect("connect");
    stream.write_all(&request).await.expect("send");
    stream.shutdown().await.expect("end the sending half");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("receive");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(crate::scene::count(&stage, "SELECT count(*) FROM payments").await, 0);
}

#[tokio::test]
async fn callers_without_a_valid_key_learn_nothing() {
    let stage = Stage::start().await;
    let account = stage.account("USD", 10).await;
    let nobody = Caller::nobody(&stage);
    for caller in [
        nobody.clone(),
        nobody.clone().header("authorization", b"Bearer "),
        nobody.clone().header("authorization", b"Bearer sk_wrong"),
        nobody.clone().header("authorization", b"Basic c2tfZGV2X3BheXN0cmF0YTo="),
        nobody.clone().header("authorization", KEY.as_bytes()),
        nobody.clone().header("authorization", format!("Bearer {KEY}x").as_bytes()),
        nobody.clone().header("authorization", b"Bearer \xff\xfe"),
    ] {
        for (method, path) in [
            (Method::GET, format!("/v1/accounts/{account}")),
            (Method::GET, "/v1/accounts".to_owned()),
            (Method::POST, "/v1/accounts".to_owned()),
            (Method::POST, "/v1/payments".to_owned()),
            (Method::POST, "/v1/payments/batch".to_owned()),
            (Method::GET, "/v1/payments/pay_1".to_owned()),
            (Method::GET, "/v1/ledger/trial-balance".to_owned()),
        ] {
            let reply = caller.send(method, &path, "").await;
            check_problem(&reply, 401, "unauthorized", Some("Authorization"));
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    let lower = nobody.header("authorization", format!("bearer {KEY}").as_bytes());
    assert_eq!(
        lower.send(Method::GET, "/v1/accounts", "").await.status,
        StatusCode::OK,
        "schemes have no case"
    );
}

#[tokio::test]
async fn a_revoked_key_is_no_key() {
    let stage = Stage::start().await;
    let key = "sk_short_lived_0123456789abcdef";
    let caller = Caller::new_merchant(&stage, key).await;
    let revoke = "UPDATE api_keys SET revoked_at = now() WHERE label = 'first'";
    crate::scene::sql(&stage).await.execute(revoke, &[]).await.expect("read the database");
    // It was never used before, so no cache knows it; a replica may, until it has replayed the revocation.
    let status = || async { json!(caller.send(Method::GET, "/v1/accounts", "").await.status.as_u16()) };
    until("401", status, |status| *status == 401).await;
}

#[tokio::test]
async fn what_does_not_exist_and_what_cannot_be_done_are_problems() {
    let stage = Stage::start().await;
    let id = "acc_00000000000070008000000000000000";
    for (method, path, status, code) in [
        (Method::GET, "/".to_owned(), 404, "not_found"),
        (Method::GET, "/v1".to_owned(), 404, "not_found"),
        (Method::POST, "/v1/payment".to_owned(), 404, "not_found"),
        (Method::GET, "/v1/payments/".to_owned(), 404, "not_found"),
        (Method::GET, format!("/v1/accounts/{id}"), 404, "not_found"),
        (Method::GET, format!("/v1/accounts/{id}/entries"), 404, "not_found"),
        (Method::DELETE, "/v1/payments".to_owned(), 405, "method_not_allowed"),
        (Method::PUT, format!("/v1/accounts/{id}"), 405, "method_not_allowed"),
        (Method::GET, "/v1/payments/batch/x".to_owned(), 404, "not_found"),
        (Method::GET, "/v1/payments/pay_1/void".to_owned(), 405, "method_not_allowed"),
    ] {
        let reply = stage.send(method.clone(), &path, &[], None).await;
        check_problem(&reply, status, code, None);
        if status == 405 {
            assert!(reply.headers.get("allow").is_some_and(|methods| !methods.is_empty()), "{method} {path}");
        }
    }
}

/// Paths and queries that no decoder likes are refused like any other, not by a bare line of text.
#[tokio::test]
async fn undecodable_paths_and_queries_are_problems() {
    let stage = Stage::start().await;
    for path in [
        "/v1/accounts/%FF",
        "/v1/accounts/%FF/entries",
        "/v1/payments/%FF",
        "/v1/merchants/%FF/stats",
        "/v1/payments?status=%FF",
        "/v1/payments?%FF=1",
        "/v1/accounts?customer=%00",
        "/v1/payments?merchant_reference=a%00b",
    ] {
        let (head, key) = (format!("GET {path} HTTP/1.1"), KEY);
        let request = format!("{head}\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n");
        let (status, body) =
            tokio::time::timeout(std::time::Duration::from_secs(20), raw(&stage, request.as_bytes()))
                .await
                .unwrap_or_else(|_| panic!("{path}: the answer has no JSON body"));
        assert!(matches!(status, 200 | 400 | 404), "{path}: {status} {body}");
        assert!(status == 200 || body["request_id"].is_string(), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_request_id_is_echoed_when_decent_and_made_when_not() {
    let stage = Stage::start().await;
    let caller = Caller::with_key(&stage, KEY);
    let ask = async |id: &[u8]| {
        let caller = caller.clone().header("x-request-id", id);
        let found = caller.send(Method::GET, "/v1/accounts", "").await;
        let missing = caller.send(Method::GET, "/v1/accounts/acc_1", "").await;
        check_form(&missing);
        [found, missing].map(|reply| reply.headers["x-request-id"].clone())
    };
    assert_eq!(ask(b"req-1_a.b:c").await, ["req-1_a.b:c", "req-1_a.b:c"]);
    let longest = "x".repeat(128);
    assert_eq!(ask(longest.as_bytes()).await, [longest.as_str(), longest.as_str()]);
    for bad in [b"".as_slice(), b"a b", b"<script>", &[b'x'; 129], b"\xff\xfe"] {
        let [first, second] = ask(bad).await;
        assert!(!first.is_empty() && first.as_bytes() != bad, "{first}");
        assert_ne!(first, second, "each request has an id of its own");
    }
}

/// Whoever calls chooses the method, with or without a key: it must not use up the series of a route that was not asked
/// for yet.
#[tokio::test]
async fn invented_methods_leave_room_for_the_routes_in_the_metrics() {
    let stage = Stage::start().await;
    for number in 0..80 {
        let method = Method::from_bytes(format!("MADE{number}").as_bytes()).expect("a method");
        let reply = stage.send(method, "/v1/payments", &[], None).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(stage.get("/v1/ledger/trial-balance", &[]).await.status, StatusCode::OK);
    let metrics = format!("http://{}/metrics", stage.service.operator_address);
    let metrics = crate::stage::client().get(metrics).send().await.expect("ask").text().await.expect("read");
    let counts = |method: &str, route: &str| {
        let is_it = |line: &&str| {
            line.contains("_count")
                && line.contains(&format!("\"{method}\""))
                && line.contains(&format!("\"{route}\""))
        };
        metrics.lines().find(is_it).and_then(|line| line.rsplit_once(' ')).map(|(_, count)| count.to_owned())
    };
    assert_eq!(counts("_OTHER", "/v1/payments").as_deref(), Some("80"), "{metrics}");
    assert_eq!(counts("GET", "/v1/ledger/trial-balance").as_deref(), Some("1"), "{metrics}");
    assert!(!metrics.contains("MADE"), "{metrics}");
}
