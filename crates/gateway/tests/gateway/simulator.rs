//! The simulator as a user meets it with curl: raw bodies, control endpoints, refusals, the byte order mark.

use paystrata_gateway::simulator::Simulator;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One request on one connection; the whole reply, head and body, or nothing when the connection was cut.
async fn send(simulator: &Simulator, method: &str, path: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(simulator.address()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A cut connection may read as a reset.
    let _ = stream.read_to_end(&mut reply).await;
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    (head.to_owned(), body.to_owned())
}

async fn request(simulator: &Simulator, body: &str) -> Value {
    let (head, body) = send(simulator, "POST", "/xml/v1/request.api", body).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let json = body.strip_prefix('\u{feff}').expect("a byte order mark");
    serde_json::from_str(json).unwrap()
}

const LOGIN: &str = r#""merchantAuthentication":{"name":"simulator","transactionKey":"simulator-key"}"#;

fn purchase(card: &str) -> String {
    format!(
        r#"{{"createTransactionRequest":{{{LOGIN},"refId":"r1","transactionRequest":{{"transactionType":"authCaptureTransaction","amount":"5.00","payment":{{"creditCard":{{{card}}}}},"order":{{"invoiceNumber":"I1"}}}}}}}}"#
    )
}

fn error_code(reply: &Value) -> &str {
    reply["transactionResponse"]["errors"][0]["errorCode"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn bad_cards_are_refused_before_they_become_transactions() {
    let simulator = crate::support::simulator().await;
    for (card, code) in [
        (r#""cardNumber":"4111111111111112","expirationDate":"2099-12""#, "6"),
        (r#""cardNumber":"4111111111111111","expirationDate":"2020-01""#, "8"),
        (r#""cardNumber":"4111111111111111","expirationDate":"tomorrow""#, "7"),
    ] {
        let reply = request(&simulator, &purchase(card)).await;
        assert_eq!(error_code(&reply), code, "{reply}");
        assert_eq!(reply["transactionResponse"]["transId"], "0");
        assert_eq!(reply["messages"]["resultCode"], "Error");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn wrong_key_order_is_refused_as_the_schema_does() {
    let simulator = crate::support::simulator().await;
    let card = r#""expirationDate":"2099-12","cardNumber":"4111111111111111""#;
    let reply = request(&simulator, &purchase(card)).await;
    assert_eq!(reply["messages"]["message"][0]["code"], "E00003");
    let text = reply["messages"]["message"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("The element 'creditCard' in namespace"), "{text}");
    assert_eq!(simulator.effects("I1").total(), 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn duplicate_tells_its_original_only_when_the_window_is_explicit() {
    let simulator = crate::support::simulator().await;
    let plain = purchase(r#""cardNumber":"4111111111111111","expirationDate":"2099-12""#);
    let settings = r#""order":{"invoiceNumber":"I2"},"transactionSettings":{"setting":[{"settingName":"duplicateWindow","settingValue":"28800"}]}"#;
    let explicit = plain.replace(r#""order":{"invoiceNumber":"I1"}"#, settings);
    for (body, tells) in [(plain, false), (explicit, true)] {
        let original = request(&simulator, &body).await["transactionResponse"]["transId"].clone();
        let duplicate = request(&simulator, &body).await;
        assert_eq!(error_code(&duplicate), "11");
        assert_eq!(duplicate["transactionResponse"]["transId"] == original, tells, "{duplicate}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn held_transactions_are_decided_by_request() {
    let simulator = crate::support::simulator().await;
    let body = purchase(r#""cardNumber":"4111111111111111","expirationDate":"2099-12""#).replace(
        r#""order":{"invoiceNumber":"I1"}"#,
        r#""order":{"invoiceNumber":"I1"},"billTo":{"zip":"46299"}"#,
    );
    let held = request(&simulator, &body).await;
    assert_eq!(held["transactionResponse"]["responseCode"], "4");
    let id = held["transactionResponse"]["transId"].as_str().unwrap();
    let decide = |action: &str| {
        format!(
            r#"{{"updateHeldTransactionRequest":{{{LOGIN},"heldTransactionRequest":{{"action":"{action}","refTransId":"{id}"}}}}}}"#
        )
    };
    let details = format!(r#"{{"getTransactionDetailsRequest":{{{LOGIN},"transId":"{id}"}}}}"#);
    assert_eq!(request(&simulator, &decide("approve")).await["messages"]["resultCode"], "Ok");
    let shown = request(&simulator, &details).await;
    assert_eq!(shown["transaction"]["transactionStatus"], "capturedPendingSettlement");
    assert_eq!(shown["transaction"]["authAmount"], json!(5.00));
    assert_eq!(error_code(&request(&simulator, &decide("decline")).await), "16", "it is held no longer");
    simulator.shutdown().await;
}

#[tokio::test]
async fn faults_and_effects_are_reached_over_http() {
    let simulator = crate::support::simulator().await;
    let fault = r#"{"operation":"purchase","kind":"drop_after","when":{"next":1}}"#;
    let (head, body) = send(&simulator, "POST", "/control/faults", fault).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert_eq!(body, fault);
    let body = purchase(r#""cardNumber":"4111111111111111","expirationDate":"2099-12""#);
    let (head, _) = send(&simulator, "POST", "/xml/v1/request.api", &body).await;
    assert_eq!(head, "", "the connection is cut without a reply");
    let (_, effects) = send(&simulator, "GET", "/control/effects?reference=I1", "").await;
    let effects: Value = serde_json::from_str(&effects).unwrap();
    assert_eq!((&effects["total"], &effects["effects"]["purchase"]), (&json!(1), &json!(1)));
    let (_, faults) = send(&simulator, "GET", "/control/faults", "").await;
    assert_eq!(faults, "[]", "it struck once");
    let (_, stats) = send(&simulator, "GET", "/control/stats", "").await;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["dropped"], &stats["transactions"]), (&json!(1), &json!(1)));
    for bad in [
        "{",
        r#"{"operation":"purchase","kind":"nonsense","when":{"next":1}}"#,
        r#"{"operation":"purchase","kind":"busy","when":{"probability":2}}"#,
    ] {
        let (head, _) = send(&simulator, "POST", "/control/faults", bad).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{bad}: {head}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn shut_down_simulator_refuses_connections() {
    let simulator = crate::support::simulator().await;
    let address = simulator.address();
    simulator.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
}
