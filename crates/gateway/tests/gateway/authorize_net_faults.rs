//! Authorize.Net when things go wrong: what is known to be unsent, what is unknown, and that the effect is one at most.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    approved, authorize_net, charge, lookup, next, refund, state, usd, void, with_authorize_net,
};
use paystrata_gateway::{
    Attempt, AuthorizeNetConfig, Charge, Gateway, LookupOutcome, NoObserver, NotSentReason, Outcome,
    ResilienceSettings, Secret, TransactionState, UnknownReason, Verb,
    simulator::{Fault, FaultKind, Operation, Trigger},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn unknown_reason(outcome: &Outcome) -> UnknownReason {
    match outcome {
        Outcome::Unknown { reason, .. } => *reason,
        other => panic!("not unknown: {other:?}"),
    }
}

/// The fault, what the caller is told, and how many effects there are.
async fn check(kind: FaultKind, expected: UnknownReason, effects: u32) {
    let (simulator, gateway) = with_authorize_net().await;
    simulator.set_fault(next(Operation::Purchase, kind));
    let outcome = gateway.purchase(charge("F1", usd(1000))).await;
    assert_eq!(unknown_reason(&outcome), expected, "{kind:?}");
    assert_eq!(simulator.effects("F1").total(), effects, "{kind:?}");
    assert_eq!(gateway.stats().attempts, 1, "a charge is not sent twice: {kind:?}");
    let told = gateway.lookup(lookup(Verb::Purchase, "F1", usd(1000), None)).await;
    match effects {
        0 => assert_eq!(told, LookupOutcome::Absent, "{kind:?}"),
        _ => assert!(
            matches!(told, LookupOutcome::Found { state: TransactionState::Captured, .. }),
            "{told:?}"
        ),
    }
    // The resolver's other way: the identical request again gives the original or the first effect.
    let resend = Charge { attempt: Attempt::Resend, ..charge("F1", usd(1000)) };
    approved(gateway.purchase(resend).await);
    assert_eq!(simulator.effects("F1").total(), 1, "{kind:?}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn lost_reply_is_unknown_with_one_effect() {
    check(FaultKind::DropAfter, UnknownReason::ConnectionLost, 1).await;
}

#[tokio::test]
async fn lost_request_is_unknown_without_effect() {
    check(FaultKind::DropBefore, UnknownReason::ConnectionLost, 0).await;
}

#[tokio::test]
async fn server_errors_are_unknown() {
    check(FaultKind::Http500, UnknownReason::Status(500), 0).await;
    check(FaultKind::Http502, UnknownReason::Status(502), 1).await;
    check(FaultKind::Busy, UnknownReason::Busy, 0).await;
}

#[tokio::test]
async fn unreadable_replies_are_unknown() {
    check(FaultKind::Truncated, UnknownReason::Malformed, 1).await;
    check(FaultKind::HugeBody, UnknownReason::BodyTooLarge, 1).await;
}

#[tokio::test]
async fn timeout_is_unknown_with_one_effect_and_lookup_finds_it() {
    let (simulator, gateway) = with_authorize_net().await;
    // A proxy that passes the request on and keeps the reply.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = simulator.address();
    let swallowing = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(upstream).await.unwrap();
        let (mut from_client, _to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let mut reply = [0; 4096];
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => panic!("the client left first"),
            read = from_server.read(&mut reply) => assert!(read.unwrap() > 0),
        }
        // The reply is here and goes no further; the client gives up and closes.
        while from_client.read(&mut reply).await.is_ok_and(|read| read > 0) {}
    });
    let hurried = Charge { deadline: Duration::from_secs(1), ..charge("F2", usd(1000)) };
    let outcome = authorize_net(format!("http://{address}/xml/v1/request.api")).purchase(hurried).await;
    assert_eq!(unknown_reason(&outcome), UnknownReason::Timeout);
    swallowing.await.unwrap();
    assert_eq!(simulator.effects("F2").total(), 1);
    let query = lookup(Verb::Purchase, "F2", usd(1000), None);
    assert_eq!(state(&gateway, query).await, TransactionState::Captured);
    simulator.shutdown().await;
}

#[tokio::test]
async fn amounts_trigger_faults_once_per_reference() {
    let (simulator, gateway) = with_authorize_net().await;
    assert_eq!(
        unknown_reason(&gateway.purchase(charge("M77", usd(1077))).await),
        UnknownReason::ConnectionLost
    );
    assert_eq!(simulator.effects("M77").total(), 1);
    assert_eq!(
        unknown_reason(&gateway.purchase(charge("M78", usd(1078))).await),
        UnknownReason::ConnectionLost
    );
    assert_eq!(simulator.effects("M78").total(), 0);
    for (name, minor_units) in [("M77", 1077), ("M78", 1078)] {
        let resend = Charge { attempt: Attempt::Resend, ..charge(name, usd(minor_units)) };
        approved(gateway.purchase(resend).await);
        assert_eq!(simulator.effects(name).total(), 1);
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn lost_replies_of_follow_ups_are_resolved_by_lookup_and_resend() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("G1", usd(1000))).await);
    simulator.set_fault(next(Operation::Void, FaultKind::DropAfter));
    assert_eq!(unknown_reason(&gateway.void(void("G1v", &parent)).await), UnknownReason::ConnectionLost);
    let query = lookup(Verb::Void, "G1v", usd(1000), Some(&parent));
    assert_eq!(state(&gateway, query).await, TransactionState::Voided);

    let settled = approved(gateway.purchase(charge("G2", usd(1000))).await);
    simulator.settle();
    simulator.set_fault(next(Operation::Refund, FaultKind::DropAfter));
    let outcome = gateway.refund(refund("G2r", &settled, usd(400))).await;
    assert_eq!(unknown_reason(&outcome), UnknownReason::ConnectionLost);
    let query = lookup(Verb::Refund, "G2r", usd(400), Some(&settled));
    assert_eq!(state(&gateway, query).await, TransactionState::Refunded);
    let resend = paystrata_gateway::Refund { attempt: Attempt::Resend, ..refund("G2r", &settled, usd(400)) };
    approved(gateway.refund(resend).await);
    assert_eq!(simulator.effects("G2r").total(), 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn effect_that_settled_meanwhile_is_found_in_the_batches() {
    let (simulator, gateway) = with_authorize_net().await;
    simulator.set_fault(next(Operation::Purchase, FaultKind::DropAfter));
    unknown_reason(&gateway.purchase(charge("N1", usd(1000))).await);
    simulator.settle();
    let query = lookup(Verb::Purchase, "N1", usd(1000), None);
    assert_eq!(state(&gateway, query).await, TransactionState::Settled);
    simulator.shutdown().await;
}

#[tokio::test]
async fn lookups_are_retried() {
    let (simulator, gateway) = with_authorize_net().await;
    approved(gateway.purchase(charge("L1", usd(1000))).await);
    simulator.set_fault(next(Operation::Lookup, FaultKind::DropAfter));
    simulator.set_fault(next(Operation::Lookup, FaultKind::Busy));
    let query = lookup(Verb::Purchase, "L1", usd(1000), None);
    assert_eq!(state(&gateway, query).await, TransactionState::Captured);
    assert_eq!(gateway.stats().retries, 2);
    simulator.shutdown().await;
}

#[tokio::test]
async fn lookup_that_fails_says_so() {
    let (simulator, gateway) = with_authorize_net().await;
    let when = Trigger::Probability(1.0);
    simulator.set_fault(Fault { operation: Operation::Lookup, kind: FaultKind::Http500, when });
    assert_eq!(
        gateway.lookup(lookup(Verb::Purchase, "L2", usd(1000), None)).await,
        LookupOutcome::Unknown { reason: UnknownReason::Status(500) }
    );
    simulator.shutdown().await;
}

/// A port that nothing listens on.
async fn dead_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn refused_connection_is_not_sent() {
    let gateway = authorize_net(format!("http://{}/", dead_port().await));
    let outcome = gateway.purchase(charge("E1", usd(1000))).await;
    assert!(matches!(&outcome, Outcome::NotSent { reason: NotSentReason::Connect, .. }), "{outcome:?}");
    assert_eq!(gateway.stats().attempts, 3, "nothing was written, so it may be tried again");
    // For a resend, what was not sent now may have been sent before.
    let resend = Charge { attempt: Attempt::Resend, ..charge("E1", usd(1000)) };
    let outcome = gateway.purchase(resend).await;
    assert_eq!(unknown_reason(&outcome), UnknownReason::NotAsked(NotSentReason::Connect));
}

#[tokio::test]
async fn failed_handshake_is_not_sent() {
    let (simulator, _) = with_authorize_net().await;
    let gateway = authorize_net(simulator.authorize_net_endpoint().replace("http:", "https:"));
    let outcome = gateway.purchase(charge("E2", usd(1000))).await;
    assert!(matches!(&outcome, Outcome::NotSent { reason: NotSentReason::Connect, .. }), "{outcome:?}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn stuck_handshake_is_not_sent_and_stuck_reply_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let hurried = || Charge { deadline: Duration::from_millis(300), ..charge("E3", usd(1000)) };
    let outcome = authorize_net(format!("https://{address}/")).purchase(hurried()).await;
    assert!(matches!(&outcome, Outcome::NotSent { .. }), "{outcome:?}");
    let outcome = authorize_net(format!("http://{address}/")).purchase(hurried()).await;
    assert_eq!(unknown_reason(&outcome), UnknownReason::Timeout);
    holding.abort();
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (simulator, _) = with_authorize_net().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reply = format!(
        "HTTP/1.1 303 See Other\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        simulator.authorize_net_endpoint()
    );
    let redirecting = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        assert!(read > 0);
        stream.write_all(reply.as_bytes()).await.unwrap();
    });
    let outcome = authorize_net(format!("http://{address}/")).purchase(charge("E4", usd(1000))).await;
    assert_eq!(unknown_reason(&outcome), UnknownReason::Status(303));
    redirecting.await.unwrap();
    assert_eq!(simulator.effects("E4").total(), 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn open_breaker_and_full_limit_refuse_unsent() {
    let (simulator, gateway) = with_authorize_net().await;
    let when = Trigger::Probability(1.0);
    simulator.set_fault(Fault { operation: Operation::Purchase, kind: FaultKind::Http500, when });
    for number in 0..20 {
        unknown_reason(&gateway.purchase(charge(&format!("O{number}"), usd(1000))).await);
    }
    let outcome = gateway.purchase(charge("O20", usd(1000))).await;
    assert!(
        matches!(&outcome, Outcome::NotSent { reason: NotSentReason::BreakerOpen, retry_after: Some(_) }),
        "{outcome:?}"
    );

    let endpoint = simulator.authorize_net_endpoint();
    let mut config =
        AuthorizeNetConfig::new(endpoint, Secret::from("simulator"), Secret::from("simulator-key"));
    config.resilience = ResilienceSettings { in_flight_max: 1, waiting_max: 0, ..config.resilience };
    let narrow = paystrata_gateway::AuthorizeNet::new(config, std::sync::Arc::new(NoObserver)).unwrap();
    simulator.clear_faults();
    let (first, second) =
        tokio::join!(narrow.purchase(charge("O30", usd(1000))), narrow.purchase(charge("O31", usd(1000))));
    approved(first);
    assert!(
        matches!(&second, Outcome::NotSent { reason: NotSentReason::ConcurrencyLimit, .. }),
        "{second:?}"
    );
    assert_eq!(simulator.effects("O31").total(), 0);
    simulator.shutdown().await;
}
