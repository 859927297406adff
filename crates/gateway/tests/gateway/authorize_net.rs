//! Authorize.Net against the simulator over real HTTP: approvals, declines, reviews, captures, voids, refunds.

use crate::support::{
    VISA, approved, authorize_net, capture, card, card_charge, charge, decline_code, lookup, next, refund,
    state, usd, void, with_authorize_net,
};
use paystrata_gateway::{
    Amount, Attempt, Currency, DeclineCategory, Effect, Gateway, LookupOutcome, Method, Outcome, Secret,
    TransactionState, UnknownReason, Verb,
    simulator::{FaultKind, Operation},
};

#[tokio::test]
async fn purchase_is_approved_once_and_found_by_reference() {
    let (simulator, gateway) = with_authorize_net().await;
    let outcome = gateway.purchase(charge("P1", usd(1050))).await;
    let Outcome::Approved { auth_code: Some(code), effect: Effect::Captured, evidence, .. } = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(code.len(), 6);
    assert!(evidence.as_str().starts_with("{\"transactionResponse\""), "{evidence:?}");
    assert_eq!(simulator.effects("P1").purchase, 1);
    assert_eq!(simulator.effects("P1").total(), 1);
    let LookupOutcome::Found { state, transaction, amount, .. } =
        gateway.lookup(lookup(Verb::Purchase, "P1", usd(1050), None)).await
    else {
        panic!("not found")
    };
    assert_eq!((state, amount), (TransactionState::Captured, Some(usd(1050))));
    assert_eq!(transaction, approved(outcome));
    let unknown = gateway.lookup(lookup(Verb::Purchase, "P2", usd(1050), None)).await;
    assert_eq!(unknown, LookupOutcome::Absent);
    simulator.shutdown().await;
}

#[tokio::test]
async fn all_sandbox_cards_are_approved() {
    let (simulator, gateway) = with_authorize_net().await;
    let numbers = [
        "370000000000002",
        "6011000000000012",
        "3088000000000017",
        "38000000000006",
        "4007000000027",
        "4111111111111111",
        "5424000000000015",
        "2223000010309703",
        "2223000010309711",
    ];
    for (index, number) in numbers.into_iter().enumerate() {
        let name = format!("C{index}");
        approved(gateway.purchase(card_charge(&name, usd(500), card(number, None, None))).await);
        assert_eq!(simulator.effects(&name).total(), 1, "{number}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn tokens_are_approved_and_accounts_are_refused_unsent() {
    let (simulator, gateway) = with_authorize_net().await;
    let token = Method::Token {
        descriptor: "COMMON.ACCEPT.INAPP.PAYMENT".to_owned(),
        value: Secret::from("nonce-1"),
    };
    approved(gateway.purchase(paystrata_gateway::Charge { method: token, ..charge("T1", usd(500)) }).await);
    let outcome = gateway.purchase(crate::support::transfer("T2", usd(500), "acc_payer")).await;
    assert_eq!(decline_code(&outcome), "unsupported_method");
    assert_eq!(gateway.stats().attempts, 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn verification_letters_follow_zip_and_code() {
    let (simulator, gateway) = with_authorize_net().await;
    let zips = [
        ("46201", "A"),
        ("46203", "E"),
        ("46204", "G"),
        ("46205", "N"),
        ("46206", "P"),
        ("46207", "R"),
        ("46208", "S"),
        ("46209", "U"),
        ("46211", "W"),
        ("46214", "X"),
        ("46217", "Z"),
        ("94105", "Y"),
    ];
    for (zip, letter) in zips {
        let outcome = gateway.purchase(card_charge(zip, usd(500), card(VISA, None, Some(zip)))).await;
        let Outcome::Approved { evidence, .. } = &outcome else { panic!("{outcome:?}") };
        let expected = format!("\"avsResultCode\":\"{letter}\"");
        assert!(evidence.as_str().contains(&expected), "{zip}: {evidence:?}");
    }
    for (code, letter) in [("900", "M"), ("901", "N"), ("902", "S"), ("903", "U"), ("904", "P")] {
        let outcome = gateway.purchase(card_charge(code, usd(500), card(VISA, Some(code), None))).await;
        let Outcome::Approved { evidence, .. } = &outcome else { panic!("{outcome:?}") };
        let expected = format!("\"cvvResultCode\":\"{letter}\"");
        assert!(evidence.as_str().contains(&expected), "{code}: {evidence:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn decline_zip_is_declined_without_effect() {
    let (simulator, gateway) = with_authorize_net().await;
    let outcome = gateway.purchase(card_charge("D1", usd(500), card(VISA, None, Some("46282")))).await;
    assert!(
        matches!(&outcome, Outcome::Declined { code, category: DeclineCategory::Card, .. } if code == "2"),
        "{outcome:?}"
    );
    assert_eq!(simulator.effects("D1").total(), 0);
    assert_eq!(
        state(&gateway, lookup(Verb::Purchase, "D1", usd(500), None)).await,
        TransactionState::Declined
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn held_charge_is_held_and_can_be_voided() {
    let (simulator, gateway) = with_authorize_net().await;
    let outcome = gateway.purchase(card_charge("H1", usd(500), card(VISA, None, Some("46299")))).await;
    let Outcome::Held { transaction, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(state(&gateway, lookup(Verb::Purchase, "H1", usd(500), None)).await, TransactionState::Held);
    assert_eq!(approved(gateway.void(void("H1v", &transaction)).await), transaction);
    assert_eq!(state(&gateway, lookup(Verb::Purchase, "H1", usd(500), None)).await, TransactionState::Voided);
    simulator.shutdown().await;
}

#[tokio::test]
async fn wrong_credentials_are_an_account_matter() {
    let (simulator, _) = with_authorize_net().await;
    let config = paystrata_gateway::AuthorizeNetConfig::new(
        simulator.authorize_net_endpoint(),
        Secret::from("simulator"),
        Secret::from("wrong-key"),
    );
    let gateway =
        paystrata_gateway::AuthorizeNet::new(config, std::sync::Arc::new(paystrata_gateway::NoObserver));
    let outcome = gateway.unwrap().purchase(charge("W1", usd(500))).await;
    assert!(
        matches!(&outcome, Outcome::Declined { code, category: DeclineCategory::Account, .. } if code == "E00007"),
        "{outcome:?}"
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn amounts_are_written_by_exponent() {
    let (simulator, gateway) = with_authorize_net().await;
    for (name, code, exponent) in [("J1", "JPY", 0), ("U1", "USD", 2), ("K1", "KWD", 3)] {
        let amount = Amount::new(1234, Currency::new(code, exponent).unwrap()).unwrap();
        approved(gateway.purchase(charge(name, amount)).await);
        let LookupOutcome::Found { amount: shown, evidence, .. } =
            gateway.lookup(lookup(Verb::Purchase, name, amount, None)).await
        else {
            panic!("{code} not found")
        };
        assert_eq!(shown, Some(amount));
        let expected = format!("\"authAmount\":{}", amount.to_decimal_text());
        assert!(evidence.as_str().contains(&expected), "{evidence:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn authorization_is_captured_once() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.authorize(charge("A1", usd(1000))).await);
    assert_eq!(simulator.effects("A1").authorize, 1);
    let query = || lookup(Verb::Capture, "A1c", usd(600), Some(&parent));
    assert_eq!(gateway.lookup(query()).await, LookupOutcome::Absent);
    assert_eq!(decline_code(&gateway.capture(capture("A1x", &parent, usd(1001))).await), "47");
    assert_eq!(approved(gateway.capture(capture("A1c", &parent, usd(600))).await), parent);
    assert_eq!(
        approved(gateway.capture(capture("A1c", &parent, usd(600))).await),
        parent,
        "a repeat is done already"
    );
    assert_eq!(decline_code(&gateway.capture(capture("A1d", &parent, usd(700))).await), "311");
    assert_eq!(simulator.effects("A1c").capture, 1);
    assert_eq!(simulator.effects("A1d").total(), 0);
    assert_eq!(state(&gateway, query()).await, TransactionState::Captured);
    simulator.shutdown().await;
}

#[tokio::test]
async fn what_became_of_a_parent_that_is_not_shown_is_not_known() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.authorize(charge("L1", usd(1000))).await);
    let (other, stranger) = with_authorize_net().await;
    for verb in [Verb::Capture, Verb::Void, Verb::Refund] {
        let told = stranger.lookup(lookup(verb, "L1c", usd(1000), Some(&parent))).await;
        assert!(matches!(told, LookupOutcome::Unknown { .. }), "{verb:?}: {told:?}");
    }
    simulator.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn repeated_void_is_done_already() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("V1", usd(1000))).await);
    assert_eq!(
        gateway.lookup(lookup(Verb::Void, "V1v", usd(1000), Some(&parent))).await,
        LookupOutcome::Absent
    );
    for _ in 0..2 {
        let outcome = gateway.void(void("V1v", &parent)).await;
        assert!(matches!(&outcome, Outcome::Approved { effect: Effect::Voided, .. }), "{outcome:?}");
    }
    assert_eq!(simulator.effects("V1v").void, 1);
    let query = lookup(Verb::Void, "V1v", usd(1000), Some(&parent));
    assert_eq!(state(&gateway, query).await, TransactionState::Voided);
    simulator.shutdown().await;
}

#[tokio::test]
async fn void_of_an_authorization_that_has_lapsed_is_done() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.authorize(charge("V3", usd(1000))).await);
    simulator.expire_authorizations();
    assert_eq!(approved(gateway.void(void("V3v", &parent)).await), parent);
    let query = lookup(Verb::Void, "V3v", usd(1000), Some(&parent));
    assert_eq!(state(&gateway, query).await, TransactionState::Expired);
    assert_eq!(
        gateway.lookup(lookup(Verb::Capture, "V3c", usd(1000), Some(&parent))).await,
        LookupOutcome::Absent
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn void_by_somebody_else_is_no_refund_of_a_part() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("R3", usd(1000))).await);
    approved(gateway.void(void("R3v", &parent)).await);
    let part = lookup(Verb::Refund, "R3a", usd(400), Some(&parent));
    let part = paystrata_gateway::Lookup { parent_amount: Some(usd(1000)), ..part };
    assert_eq!(gateway.lookup(part).await, LookupOutcome::Absent);
    let whole = lookup(Verb::Refund, "R3b", usd(1000), Some(&parent));
    assert_eq!(state(&gateway, whole).await, TransactionState::Voided);
    simulator.shutdown().await;
}

#[tokio::test]
async fn settled_charge_cannot_be_voided() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("V2", usd(1000))).await);
    simulator.settle();
    assert_eq!(decline_code(&gateway.void(void("V2v", &parent)).await), "16");
    assert_eq!(
        state(&gateway, lookup(Verb::Purchase, "V2", usd(1000), None)).await,
        TransactionState::Settled
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn refunds_of_a_settled_charge_stay_within_it() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("R1", usd(1000))).await);
    simulator.settle();
    let outcome = gateway.refund(refund("R1a", &parent, usd(600))).await;
    assert!(matches!(&outcome, Outcome::Approved { effect: Effect::Refunded, .. }), "{outcome:?}");
    assert_ne!(approved(outcome), parent, "a credit is a transaction of its own");
    assert_eq!(decline_code(&gateway.refund(refund("R1b", &parent, usd(401))).await), "55");
    approved(gateway.refund(refund("R1c", &parent, usd(400))).await);
    let query = lookup(Verb::Refund, "R1a", usd(600), Some(&parent));
    assert_eq!(state(&gateway, query).await, TransactionState::Refunded);
    assert_eq!(simulator.effects("R1a").refund, 1);
    assert_eq!(simulator.effects("R1b").refund, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn whole_refund_of_an_unsettled_charge_is_a_void() {
    let (simulator, gateway) = with_authorize_net().await;
    let parent = approved(gateway.purchase(charge("R2", usd(1000))).await);
    assert_eq!(decline_code(&gateway.refund(refund("R2a", &parent, usd(400))).await), "54");
    let outcome = gateway.refund(refund("R2b", &parent, usd(1000))).await;
    assert!(matches!(&outcome, Outcome::Approved { effect: Effect::Voided, .. }), "{outcome:?}");
    assert_eq!(
        decline_code(&gateway.refund(refund("R2c", &parent, usd(1000))).await),
        "54",
        "another refund"
    );
    let resend = paystrata_gateway::Refund { attempt: Attempt::Resend, ..refund("R2b", &parent, usd(1000)) };
    assert_eq!(approved(gateway.refund(resend).await), parent, "the same refund again");
    assert_eq!(simulator.effects("R2b").void, 1);
    let query = lookup(Verb::Refund, "R2b", usd(1000), Some(&parent));
    assert_eq!(state(&gateway, query).await, TransactionState::Voided);
    simulator.shutdown().await;
}

#[tokio::test]
async fn lookup_with_another_amount_is_a_contradiction() {
    let (simulator, gateway) = with_authorize_net().await;
    approved(gateway.purchase(charge("X1", usd(1000))).await);
    assert_eq!(
        gateway.lookup(lookup(Verb::Purchase, "X1", usd(999), None)).await,
        LookupOutcome::Unknown { reason: UnknownReason::Contradiction }
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn duplicate_adopts_its_original() {
    let (simulator, gateway) = with_authorize_net().await;
    let original = approved(gateway.purchase(charge("Q1", usd(1000))).await);
    assert_eq!(approved(gateway.purchase(charge("Q1", usd(1000))).await), original);
    assert_eq!(simulator.effects("Q1").total(), 1);
    // The original was declined: so is its duplicate.
    let declined = || card_charge("Q2", usd(1000), card(VISA, None, Some("46282")));
    decline_code(&gateway.purchase(declined()).await);
    assert_eq!(decline_code(&gateway.purchase(declined()).await), "declined");
    // The original was voided since: nobody can say what the caller wants.
    gateway.void(void("Q1v", &original)).await;
    let outcome = gateway.purchase(charge("Q1", usd(1000))).await;
    assert!(matches!(&outcome, Outcome::Unknown { reason: UnknownReason::Contradiction, .. }), "{outcome:?}");
    assert_eq!(simulator.effects("Q1").purchase, 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn duplicate_that_cannot_be_verified_is_unknown() {
    let (simulator, gateway) = with_authorize_net().await;
    approved(gateway.purchase(charge("Q3", usd(1000))).await);
    for _ in 0..3 {
        simulator.set_fault(next(Operation::Lookup, FaultKind::Http500));
    }
    let outcome = gateway.purchase(charge("Q3", usd(1000))).await;
    assert!(
        matches!(&outcome, Outcome::Unknown { reason: UnknownReason::DuplicateUnverified, .. }),
        "{outcome:?}"
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn refused_resend_proves_nothing_about_the_first_send() {
    let (simulator, gateway) = with_authorize_net().await;
    approved(gateway.purchase(charge("S1", usd(1000))).await);
    let config = paystrata_gateway::AuthorizeNetConfig::new(
        simulator.authorize_net_endpoint(),
        Secret::from("simulator"),
        Secret::from("rotated"),
    );
    let rotated =
        paystrata_gateway::AuthorizeNet::new(config, std::sync::Arc::new(paystrata_gateway::NoObserver));
    let resend = paystrata_gateway::Charge { attempt: Attempt::Resend, ..charge("S1", usd(1000)) };
    let outcome = rotated.unwrap().purchase(resend).await;
    assert!(matches!(&outcome, Outcome::Unknown { reason: UnknownReason::ResendRefused, .. }), "{outcome:?}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn replies_without_a_byte_order_mark_are_read_too() {
    let config = paystrata_gateway::simulator::SimulatorConfig {
        byte_order_mark: paystrata_gateway::simulator::ByteOrderMark::Omitted,
        ..Default::default()
    };
    let simulator = paystrata_gateway::simulator::Simulator::start(config).await.unwrap();
    approved(authorize_net(simulator.authorize_net_endpoint()).purchase(charge("B1", usd(500))).await);
    simulator.shutdown().await;
}
