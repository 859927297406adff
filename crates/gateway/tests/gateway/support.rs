//! A simulator and clients of it, and requests with sensible parts.
//! Each test has its own simulator on its own port, so tests share nothing.

use std::{sync::Arc, time::Duration};

use paystrata_gateway::{
    Amount, Attempt, AuthorizeNet, AuthorizeNetConfig, Capture, Card, CardFields, Charge, Currency, Gateway,
    Lookup, LookupOutcome, Method, NoObserver, Outcome, Reference, Refund, Secret, TransactionId,
    TransactionState, VelocityPay, VelocityPayConfig, Verb, Void,
    simulator::{Fault, FaultKind, Operation, Simulator, SimulatorConfig, Trigger},
};
use time::OffsetDateTime;

pub(crate) const VISA: &str = "4111111111111111";

/// Long enough never to be the reason of a failure on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn simulator() -> Simulator {
    Simulator::start(SimulatorConfig::default()).await.unwrap()
}

pub(crate) fn authorize_net(endpoint: String) -> AuthorizeNet {
    let config = AuthorizeNetConfig::new(endpoint, Secret::from("simulator"), Secret::from("simulator-key"));
    AuthorizeNet::new(config, Arc::new(NoObserver)).unwrap()
}

pub(crate) fn velocity_pay(base_url: String) -> VelocityPay {
    let config = VelocityPayConfig::new(base_url, Secret::from("simulator-api-key"));
    VelocityPay::new(config, Arc::new(NoObserver)).unwrap()
}

pub(crate) async fn with_authorize_net() -> (Simulator, AuthorizeNet) {
    let simulator = simulator().await;
    let gateway = authorize_net(simulator.authorize_net_endpoint());
    (simulator, gateway)
}

pub(crate) async fn with_velocity_pay() -> (Simulator, VelocityPay) {
    let simulator = simulator().await;
    let gateway = velocity_pay(simulator.velocity_pay_base_url());
    (simulator, gateway)
}

pub(crate) fn usd(minor_units: i64) -> Amount {
    Amount::new(minor_units, Currency::new("USD", 2).unwrap()).unwrap()
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::new(text).unwrap()
}

pub(crate) fn card(number: &str, code: Option<&str>, billing_zip: Option<&str>) -> Card {
    let fields = CardFields { number, expiration: "2099-12", code, billing_zip };
    Card::parse(fields, OffsetDateTime::now_utc().date()).unwrap()
}

pub(crate) fn charge(name: &str, amount: Amount) -> Charge {
    card_charge(name, amount, card(VISA, Some("900"), None))
}

pub(crate) fn card_charge(name: &str, amount: Amount, card: Card) -> Charge {
    let attempt = Attempt::First;
    Charge { reference: reference(name), amount, method: Method::Card(card), attempt, deadline: DEADLINE }
}

pub(crate) fn transfer(name: &str, amount: Amount, source: &str) -> Charge {
    let method = Method::Accounts { source: source.to_owned(), destination: "acc_payee".to_owned() };
    Charge { method, ..charge(name, amount) }
}

pub(crate) fn capture(name: &str, parent: &TransactionId, amount: Amount) -> Capture {
    let (reference, parent) = (reference(name), parent.clone());
    Capture { reference, parent, amount, attempt: Attempt::First, deadline: DEADLINE }
}

pub(crate) fn void(name: &str, parent: &TransactionId) -> Void {
    Void { reference: reference(name), parent: parent.clone(), attempt: Attempt::First, deadline: DEADLINE }
}

pub(crate) fn refund(name: &str, parent: &TransactionId, amount: Amount) -> Refund {
    Refund {
        reference: reference(name),
        parent: parent.clone(),
        amount,
        card_last4: None,
        attempt: Attempt::First,
        deadline: DEADLINE,
    }
}

pub(crate) fn lookup(verb: Verb, name: &str, amount: Amount, parent: Option<&TransactionId>) -> Lookup {
    Lookup {
        verb,
        reference: reference(name),
        amount,
        parent: parent.cloned(),
        parent_amount: parent.map(|_| amount),
        transaction: None,
        since: OffsetDateTime::now_utc() - Duration::from_secs(60),
        deadline: DEADLINE,
    }
}

pub(crate) fn next(operation: Operation, kind: FaultKind) -> Fault {
    Fault { operation, kind, when: Trigger::Next(1) }
}

pub(crate) fn approved(outcome: Outcome) -> TransactionId {
    match outcome {
        Outcome::Approved { transaction, .. } => transaction,
        other => panic!("not approved: {other:?}"),
    }
}

pub(crate) fn decline_code(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Declined { code, .. } => code,
        other => panic!("not declined: {other:?}"),
    }
}

pub(crate) async fn state(gateway: &dyn Gateway, query: Lookup) -> TransactionState {
    match gateway.lookup(query).await {
        LookupOutcome::Found { state, .. } => state,
        other => panic!("not found: {other:?}"),
    }
}
