//! VelocityPay against the simulator over real HTTP: one effect under one key, whatever happens to the reply.

use crate::support::{
    approved, capture, charge, decline_code, lookup, next, refund, state, transfer, usd, void,
    with_velocity_pay,
};
use paystrata_gateway::{
    Effect, Gateway, LookupOutcome, NoObserver, Outcome, Secret, TransactionState, UnknownReason,
    VelocityPay, VelocityPayConfig, Verb,
    simulator::{Fault, FaultKind, Operation, Trigger},
};

#[tokio::test]
async fn transfer_is_approved_once_and_found() {
    let (simulator, gateway) = with_velocity_pay().await;
    let first = approved(gateway.purchase(transfer("T1", usd(1000), "acc_payer")).await);
    let again = approved(gateway.purchase(transfer("T1", usd(1000), "acc_payer")).await);
    assert_eq!(first, again);
    assert_eq!(simulator.effects("T1").total(), 1);
    assert_eq!(
        state(&gateway, lookup(Verb::Purchase, "T1", usd(1000), None)).await,
        TransactionState::Captured
    );
    assert_eq!(gateway.lookup(lookup(Verb::Purchase, "T2", usd(1000), None)).await, LookupOutcome::Absent);
    simulator.shutdown().await;
}

#[tokio::test]
async fn lost_reply_is_retried_under_the_same_key() {
    for kind in [FaultKind::DropAfter, FaultKind::DropBefore, FaultKind::Http502, FaultKind::Truncated] {
        let (simulator, gateway) = with_velocity_pay().await;
        simulator.set_fault(next(Operation::Purchase, kind));
        approved(gateway.purchase(transfer("T3", usd(1000), "acc_payer")).await);
        assert_eq!(simulator.effects("T3").total(), 1, "{kind:?}");
        assert_eq!(gateway.stats().retries, 1, "{kind:?}");
        simulator.shutdown().await;
    }
}

#[tokio::test]
async fn replies_lost_for_good_are_unknown_with_one_effect() {
    let (simulator, gateway) = with_velocity_pay().await;
    let when = Trigger::Probability(1.0);
    simulator.set_fault(Fault { operation: Operation::Purchase, kind: FaultKind::DropAfter, when });
    let outcome = gateway.purchase(transfer("T4", usd(1000), "acc_payer")).await;
    assert!(
        matches!(&outcome, Outcome::Unknown { reason: UnknownReason::ConnectionLost, .. }),
        "{outcome:?}"
    );
    assert_eq!(simulator.effects("T4").total(), 1);
    assert_eq!(
        state(&gateway, lookup(Verb::Purchase, "T4", usd(1000), None)).await,
        TransactionState::Captured
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn key_with_another_body_is_a_contradiction() {
    let (simulator, gateway) = with_velocity_pay().await;
    approved(gateway.purchase(transfer("T5", usd(1000), "acc_payer")).await);
    let outcome = gateway.purchase(transfer("T5", usd(1001), "acc_payer")).await;
    assert!(matches!(&outcome, Outcome::Unknown { reason: UnknownReason::Contradiction, .. }), "{outcome:?}");
    assert_eq!(simulator.effects("T5").total(), 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn declined_and_held_accounts_are_told_apart() {
    let (simulator, gateway) = with_velocity_pay().await;
    let outcome = gateway.purchase(transfer("T6", usd(1000), "acc_declined")).await;
    assert_eq!(decline_code(&outcome), "do_not_honor");
    let outcome = gateway.purchase(transfer("T7", usd(1000), "acc_held")).await;
    assert!(matches!(&outcome, Outcome::Held { .. }), "{outcome:?}");
    assert_eq!(state(&gateway, lookup(Verb::Purchase, "T7", usd(1000), None)).await, TransactionState::Held);
    assert_eq!(decline_code(&gateway.purchase(charge("T8", usd(1000))).await), "unsupported_method");
    assert_eq!(simulator.effects("T6").total(), 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn follow_ups_have_one_effect_each_and_are_found() {
    let (simulator, gateway) = with_velocity_pay().await;
    let parent = approved(gateway.authorize(transfer("A1", usd(1000), "acc_payer")).await);
    let query = |verb, name, amount| lookup(verb, name, amount, Some(&parent));
    assert_eq!(gateway.lookup(query(Verb::Capture, "A1c", usd(600))).await, LookupOutcome::Absent);
    assert_eq!(gateway.lookup(query(Verb::Void, "A1v", usd(1000))).await, LookupOutcome::Absent);
    simulator.set_fault(next(Operation::Capture, FaultKind::DropAfter));
    approved(gateway.capture(capture("A1c", &parent, usd(600))).await);
    assert_eq!(simulator.effects("A1c").capture, 1);
    assert_eq!(state(&gateway, query(Verb::Capture, "A1c", usd(600))).await, TransactionState::Captured);
    let outcome = gateway.refund(refund("A1r", &parent, usd(200))).await;
    assert!(matches!(&outcome, Outcome::Approved { effect: Effect::Refunded, .. }), "{outcome:?}");
    assert_eq!(decline_code(&gateway.refund(refund("A1s", &parent, usd(401))).await), "amount_out_of_range");
    approved(gateway.refund(refund("A1t", &parent, usd(400))).await);
    assert_eq!(state(&gateway, query(Verb::Refund, "A1r", usd(200))).await, TransactionState::Refunded);
    assert_eq!(decline_code(&gateway.void(void("A1v", &parent)).await), "wrong_state");

    let other = approved(gateway.purchase(transfer("B1", usd(1000), "acc_payer")).await);
    approved(gateway.void(void("B1v", &other)).await);
    approved(gateway.void(void("B1v", &other)).await);
    assert_eq!(simulator.effects("B1v").void, 1);
    simulator.shutdown().await;
}

#[tokio::test]
async fn wrong_key_is_an_account_matter() {
    let (simulator, _) = with_velocity_pay().await;
    let config = VelocityPayConfig::new(simulator.velocity_pay_base_url(), Secret::from("wrong"));
    let gateway = VelocityPay::new(config, std::sync::Arc::new(NoObserver)).unwrap();
    assert_eq!(decline_code(&gateway.purchase(transfer("W1", usd(1000), "acc_payer")).await), "unauthorized");
    simulator.shutdown().await;
}

#[tokio::test]
async fn void_of_what_holds_nothing_any_more_is_done() {
    let (simulator, gateway) = with_velocity_pay().await;
    for (name, undo) in [("X1", true), ("X2", false)] {
        let parent = approved(gateway.authorize(transfer(name, usd(1000), "acc_payer")).await);
        if undo {
            approved(gateway.void(void(&format!("{name}a"), &parent)).await);
        } else {
            simulator.expire_authorizations();
        }
        assert_eq!(approved(gateway.void(void(&format!("{name}b"), &parent)).await), parent);
        // One that never arrived is found done likewise.
        let query = lookup(Verb::Void, &format!("{name}c"), usd(1000), Some(&parent));
        let expected = if undo { TransactionState::Voided } else { TransactionState::Expired };
        assert_eq!(state(&gateway, query).await, expected);
    }
    simulator.shutdown().await;
}
