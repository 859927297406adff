//! P11: no card number, card code or credential in a debug print, an event or evidence, whatever happens.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use crate::support::{VISA, authorize_net, card, card_charge, lookup, next, transfer, usd, velocity_pay};
use paystrata_gateway::{
    AuthorizeNetConfig, Gateway, Request, Secret, VelocityPayConfig, Verb,
    simulator::{FaultKind, Operation},
};

const CODE: &str = "9047";

/// What must never be seen. The code is looked for as JSON writes it, since ports and durations hold four digits too.
const SECRETS: [&str; 5] = [VISA, "\"9047\"", "simulator-key", "simulator-api-key", "90210-7777"];

fn check(text: &str) {
    // Debug prints escape the quotes.
    let text = text.replace('\\', "");
    for secret in SECRETS {
        assert!(!text.contains(secret), "`{secret}` in: {text}");
    }
}

/// Collects everything that is traced.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn requests_and_configurations_print_no_secret() {
    let charge = card_charge("S1", usd(1000), card(VISA, Some(CODE), Some("90210-7777")));
    check(&format!("{charge:?}"));
    check(&format!("{:?}", Request::Purchase(charge)));
    let config =
        AuthorizeNetConfig::new("http://127.0.0.1:1/", Secret::from("login"), Secret::from("simulator-key"));
    check(&format!("{config:?}"));
    check(&format!("{:?}", VelocityPayConfig::new("http://127.0.0.1:1/", Secret::from("simulator-api-key"))));
    check(&format!("{:#?}", authorize_net("http://127.0.0.1:1/".to_owned())));
    check(&format!("{:#?}", velocity_pay("http://127.0.0.1:1/".to_owned())));
}

#[tokio::test]
async fn traces_and_outcomes_hold_no_secret() {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let simulator = crate::support::simulator().await;
    let cards = authorize_net(simulator.authorize_net_endpoint());
    let transfers = velocity_pay(simulator.velocity_pay_base_url());
    let faults = [FaultKind::DropAfter, FaultKind::Http500, FaultKind::Truncated, FaultKind::Decline];
    for (index, kind) in faults.into_iter().enumerate() {
        simulator.set_fault(next(Operation::Purchase, kind));
        let name = format!("S{index}");
        let charge = card_charge(&name, usd(1000), card(VISA, Some(CODE), Some("90210-7777")));
        check(&format!("{:?}", cards.purchase(charge).await));
        check(&format!("{:?}", cards.lookup(lookup(Verb::Purchase, &name, usd(1000), None)).await));
        simulator.set_fault(next(Operation::Purchase, kind));
        check(&format!("{:?}", transfers.purchase(transfer(&name, usd(1000), "acc_payer")).await));
    }
    simulator.shutdown().await;

    let traced = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert!(traced.contains("gateway attempt"), "the subscriber saw the attempts: {traced}");
    check(&traced);
}

#[tokio::test]
async fn echoed_requests_are_masked_in_evidence() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echoing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}}}") {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "the request ended early");
            request.extend_from_slice(&chunk[..read]);
        }
        let head = format!("HTTP/1.1 500 Oops\r\ncontent-length: {}\r\n\r\n", request.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let gateway = authorize_net(format!("http://{address}/"));
    let outcome =
        gateway.purchase(card_charge("S9", usd(1000), card(VISA, Some(CODE), Some("90210-7777")))).await;
    let request = echoing.await.unwrap();
    assert!(request.contains(VISA) && request.contains(SECRETS[1]), "the request carries them");
    let text = format!("{outcome:?}");
    assert!(text.contains("createTransactionRequest"), "the echo is kept as evidence: {text}");
    check(&text);
}
