//! The state machine of payments as tables: every state against every change, and every gateway operation against every
//! word of the gateway, whatever it said before. Driven through the engine, which decides under lock.

use paystrata_app::engine::{
    Capture, CaptureMode, ChargeOutcome, Command, CreatePayment, Decision, Evidence, FailureCode,
    FraudDecision, OpenAccount, OperationKind, PaymentRecord, PlannedOperation, Rail, Refund, Refusal,
    Settlement, Submission, Verdict, Void,
};
use paystrata_app::money::Amount;
use uuid::Uuid;

use crate::stage::Stage;

/// Of every payment here; partial changes are of 60.
const AMOUNT: i64 = 100;
/// So long that the resolver never meets an operation of these tests.
const NEVER_MS: i64 = 86_400_000;

/// The engine with two accounts, of which the first has plenty.
pub(crate) struct Desk {
    pub(crate) stage: Stage,
    merchant: Uuid,
    from: Uuid,
    to: Uuid,
}

fn amount(minor_units: i64) -> Option<Amount> {
    Some(Amount::new(minor_units).expect("a positive amount"))
}

/// An operation that nobody sends.
pub(crate) fn plan() -> PlannedOperation {
    let id = Uuid::now_v7();
    // The last 20 digits of a UUIDv7 hold its 62 random bits.
    PlannedOperation { id, reference: id.simple().to_string()[12..].to_owned(), lease_ms: NEVER_MS }
}

/// An account to open.
pub(crate) fn account(merchant_id: Uuid, opening_balance: i64) -> OpenAccount {
    OpenAccount {
        id: Uuid::now_v7(),
        merchant_id,
        currency: "USD".parse().expect("a currency"),
        overdraft_limit: 0,
        opening_balance: Amount::new(opening_balance).ok(),
        kind: "standard".to_owned(),
        customer: None,
        metadata: None,
    }
}

impl Desk {
    pub(crate) async fn open() -> Self {
        let stage = Stage::start().await;
        let merchant = Uuid::now_v7();
        let (from, to) = (account(merchant, 10_000_000), account(merchant, 0));
        let desk = Self { stage, merchant, from: from.id, to: to.id };
        for account in [from, to] {
            desk.submit(Command::OpenAccount(Box::new(account))).await;
        }
        desk
    }

    async fn submit(&self, command: Command) -> Decision {
        let submission = Submission { claim: None, command };
        self.stage.service.app.engine.submit(submission).await.expect("a decision").decision
    }

    async fn create(
        &self,
        rail: Rail,
        capture: CaptureMode,
        verdict: Verdict,
    ) -> (PaymentRecord, Option<Sent>) {
        let create = CreatePayment {
            id: Uuid::now_v7(),
            merchant_id: self.merchant,
            from: Some(self.from),
            to: self.to,
            amount: Amount::new(AMOUNT).expect("a positive amount"),
            currency: "USD".parse().expect("a currency"),
            rail,
            capture,
            fraud: FraudDecision { verdict, score: 0, reasons: Vec::new() },
            operation: (rail != Rail::Book).then(plan),
            merchant_reference: None,
            card_last_four: None,
            metadata: None,
        };
        payment_of(self.submit(Command::CreatePayment(Box::new(create))).await)
    }

    async fn change(&self, payment: &PaymentRecord, change: Change) -> Decision {
        let operation = (payment.rail != Rail::Book).then(plan);
        let payment = payment.clone();
        self.submit(match change {
            Change::Capture => Command::Capture(Capture { payment, amount: None, operation }),
            Change::Capture60 => Command::Capture(Capture { payment, amount: amount(60), operation }),
            Change::Void => Command::Void(Void { payment, operation }),
            Change::Refund => Command::Refund(Refund { payment, amount: None, operation }),
            Change::Refund60 => Command::Refund(Refund { payment, amount: amount(60), operation }),
        })
        .await
    }

    pub(crate) async fn settle(
        &self,
        payment: &PaymentRecord,
        sent: &Sent,
        outcome: ChargeOutcome,
        fence: i32,
    ) -> Decision {
        let settlement = Settlement {
            payment: payment.clone(),
            operation_id: sent.id,
            key_digest: None,
            fence,
            outcome,
            retry_in_ms: NEVER_MS,
            evidence: Evidence::default(),
            refusals: None,
        };
        self.submit(Command::Settle(settlement)).await
    }

    /// A new payment in one of the states of the table, by the shortest way.
    async fn payment_in(&self, state: State) -> PaymentRecord {
        use CaptureMode::{Automatic, Manual};
        use State as S;
        let (rail, capture) = match state {
            S::AuthorizedBook | S::CapturedInPart | S::Cancelled => (Rail::Book, Manual),
            S::SucceededBook | S::Failed | S::PartiallyRefunded | S::Refunded => (Rail::Book, Automatic),
            S::AuthorizedGateway | S::Capturing | S::Voiding => (Rail::VelocityPay, Manual),
            S::Purchasing | S::Unknown | S::Review | S::SucceededGateway | S::Refunding => {
                (Rail::VelocityPay, Automatic)
            }
        };
        let verdict = if state == S::Failed { Verdict::Reject } else { Verdict::Allow };
        let (mut payment, sent) = self.create(rail, capture, verdict).await;
        let outcome = match state {
            S::Unknown => Some(ChargeOutcome::Unknown),
            S::Review => Some(ChargeOutcome::Held),
            S::AuthorizedGateway | S::Capturing | S::Voiding | S::SucceededGateway | S::Refunding => {
                Some(ChargeOutcome::Approved)
            }
            _ => None,
        };
        if let Some(outcome) = outcome {
            let sent = sent.expect("gateway rails send");
            payment = payment_of(self.settle(&payment, &sent, outcome, sent.fence).await).0;
        }
        let change = match state {
            S::Capturing => Some(Change::Capture),
            S::CapturedInPart => Some(Change::Capture60),
            S::Voiding | S::Cancelled => Some(Change::Void),
            S::Refunding | S::PartiallyRefunded => Some(Change::Refund60),
            S::Refunded => Some(Change::Refund),
            _ => None,
        };
        match change {
            Some(change) => payment_of(self.change(&payment, change).await).0,
            None => payment,
        }
    }
}

/// A gateway operation as committed.
pub(crate) struct Sent {
    pub(crate) id: Uuid,
    pub(crate) fence: i32,
}

fn payment_of(decision: Decision) -> (PaymentRecord, Option<Sent>) {
    match decision {
        Decision::Answered(answer) => (*answer.payment.expect("a payment was touched"), None),
        Decision::Send(dispatch) => {
            let sent = Sent { id: dispatch.operation.id, fence: dispatch.fence };
            (dispatch.payment, Some(sent))
        }
        other => panic!("the way to a state is open: {other:?}"),
    }
}

/// A decision in a few words.
pub(crate) fn told(decision: &Decision) -> String {
    match decision {
        Decision::Answered(answer) => answer.payment.as_ref().expect("a payment").status.as_str().to_owned(),
        Decision::Send(dispatch) => format!("asks, {}", dispatch.payment.status.as_str()),
        Decision::Refused(Refusal::WrongState(_)) => "refused".to_owned(),
        Decision::Refused(Refusal::MoreThanLeft(left)) => format!("at most {left}"),
        Decision::Refused(Refusal::RefundUnderWay(left)) => format!("now at most {left}"),
        Decision::Refused(Refusal::StaleFence) => "stale".to_owned(),
        other => format!("{other:?}"),
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Capture,
    Capture60,
    Void,
    Refund,
    Refund60,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Purchasing,
    Unknown,
    Review,
    AuthorizedBook,
    AuthorizedGateway,
    Capturing,
    Voiding,
    SucceededBook,
    SucceededGateway,
    CapturedInPart,
    Refunding,
    Failed,
    Cancelled,
    PartiallyRefunded,
    Refunded,
}

const CHANGES: [Change; 5] =
    [Change::Capture, Change::Capture60, Change::Void, Change::Refund, Change::Refund60];

const NO: &str = "refused";
#[rustfmt::skip]
const TABLE: &[(State, &str, [&str; 5])] = &[
    // state                    as shown              capture             capture 60          void                refund              refund 60
    (State::Purchasing,        "processing",         [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::Unknown,           "processing",         [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::Review,            "requires_review",    [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::AuthorizedBook,    "authorized",         ["succeeded",        "succeeded",        "cancelled",        NO,                 NO]),
    (State::AuthorizedGateway, "authorized",         ["asks, processing", "asks, processing", "asks, processing", NO,                 NO]),
    (State::Capturing,         "processing",         [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::Voiding,           "processing",         [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::SucceededBook,     "succeeded",          [NO,                 NO,                 NO,                 "refunded",         "partially_refunded"]),
    (State::SucceededGateway,  "succeeded",          [NO,                 NO,                 NO,                 "asks, succeeded",  "asks, succeeded"]),
    (State::CapturedInPart,    "succeeded",          ["succeeded",        "succeeded",        NO,                 "refunded",         "refunded"]),
    (State::Refunding,         "succeeded",          [NO,                 NO,                 NO,                 "asks, succeeded",  "now at most 40"]),
    (State::Failed,            "failed",             [NO,                 NO,                 NO,                 NO,                 NO]),
    (State::Cancelled,         "cancelled",          [NO,                 NO,                 "cancelled",        NO,                 NO]),
    (State::PartiallyRefunded, "partially_refunded", [NO,                 NO,                 NO,                 "refunded",         "at most 40"]),
    (State::Refunded,          "refunded",           [NO,                 NO,                 NO,                 NO,                 NO]),
];

#[tokio::test]
async fn every_state_takes_exactly_the_changes_of_the_table() {
    let desk = Desk::open().await;
    for (state, shown, results) in TABLE {
        for (change, expected) in CHANGES.into_iter().zip(results) {
            let payment = desk.payment_in(*state).await;
            assert_eq!(payment.status.as_str(), *shown, "{state:?}");
            let decision = desk.change(&payment, change).await;
            assert_eq!(told(&decision), *expected, "{state:?} + {change:?}");
        }
    }
    desk.stage.verify().await;
}

#[rustfmt::skip]
const SETTLEMENTS: &[(OperationKind, [&str; 5])] = &[
    // operation                approved              declined      held               not sent      unknown
    (OperationKind::Purchase,  ["succeeded",          "failed",     "requires_review", "failed",     "processing"]),
    (OperationKind::Authorize, ["authorized",         "failed",     "requires_review", "failed",     "processing"]),
    (OperationKind::Capture,   ["succeeded",          "authorized", "processing",      "authorized", "processing"]),
    (OperationKind::Void,      ["cancelled",          "authorized", "processing",      "authorized", "processing"]),
    (OperationKind::Refund,    ["partially_refunded", "succeeded",  "succeeded",       "succeeded",  "succeeded"]),
];

/// A payment with an operation of this kind that was sent and not answered.
pub(crate) async fn under_way(desk: &Desk, kind: OperationKind) -> (PaymentRecord, Sent) {
    let (first, change) = match kind {
        OperationKind::Purchase => (CaptureMode::Automatic, None),
        OperationKind::Authorize => (CaptureMode::Manual, None),
        OperationKind::Capture => (CaptureMode::Manual, Some(Change::Capture)),
        OperationKind::Void => (CaptureMode::Manual, Some(Change::Void)),
        OperationKind::Refund => (CaptureMode::Automatic, Some(Change::Refund60)),
    };
    let (payment, sent) = desk.create(Rail::VelocityPay, first, Verdict::Allow).await;
    let sent = sent.expect("gateway rails send");
    let Some(change) = change else { return (payment, sent) };
    let approved = desk.settle(&payment, &sent, ChargeOutcome::Approved, sent.fence).await;
    let (payment, sent) = payment_of(desk.change(&payment_of(approved).0, change).await);
    (payment, sent.expect("gateway rails send"))
}

#[tokio::test]
async fn every_word_of_a_gateway_leads_to_the_state_of_the_table() {
    let desk = Desk::open().await;
    let before = [None, Some(ChargeOutcome::Unknown), Some(ChargeOutcome::Held)];
    for (kind, results) in SETTLEMENTS {
        let first = matches!(kind, OperationKind::Purchase | OperationKind::Authorize);
        for (outcome, expected) in ChargeOutcome::ALL.iter().zip(results) {
            for earlier in before {
                let (mut payment, sent) = under_way(&desk, *kind).await;
                if let Some(earlier) = earlier {
                    payment = payment_of(desk.settle(&payment, &sent, earlier, sent.fence).await).0;
                }
                let case = format!("{kind:?}, {earlier:?} then {outcome:?}");
                let stale = desk.settle(&payment, &sent, *outcome, sent.fence - 1).await;
                assert_eq!(told(&stale), "stale", "{case}: under an older fence");
                let decision = desk.settle(&payment, &sent, *outcome, sent.fence).await;
                // Nothing new was learned about a payment that is under review.
                let in_review =
                    first && earlier == Some(ChargeOutcome::Held) && *outcome == ChargeOutcome::Unknown;
                assert_eq!(told(&decision), if in_review { "requires_review" } else { expected }, "{case}");
                let settled = payment_of(decision).0;
                let failure = match (first, outcome) {
                    (true, ChargeOutcome::Declined) => Some(FailureCode::Declined),
                    (true, ChargeOutcome::NotSent) => Some(FailureCode::GatewayUnavailable),
                    _ => None,
                };
                assert_eq!(
                    (settled.failure, settled.refunding),
                    (failure, open_refund(*kind, *outcome)),
                    "{case}"
                );
                let open = matches!(outcome, ChargeOutcome::Held | ChargeOutcome::Unknown);
                let shown = if first || open { *outcome } else { ChargeOutcome::Approved };
                assert_eq!(settled.outcome, Some(shown), "{case}: what was said to a later change passes");
                if !open {
                    let again = desk.settle(&settled, &sent, ChargeOutcome::Approved, sent.fence).await;
                    assert_eq!(told(&again), "stale", "{case}: what is settled stays settled");
                }
            }
        }
    }
    desk.stage.verify().await;
}

fn open_refund(kind: OperationKind, outcome: ChargeOutcome) -> i64 {
    let open = matches!(outcome, ChargeOutcome::Held | ChargeOutcome::Unknown);
    if kind == OperationKind::Refund && open { 60 } else { 0 }
}
