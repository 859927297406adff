//! VelocityPay as the simulator plays it; the wire format is written down at `crate::velocity_pay`.
//! Keeps the first answer under each idempotency key; never keeps a refusal that moved nothing by mistake of the body.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Shared,
    control::query_value,
    faults::{FaultKind, Operation, of_amount},
    ledger::{self, Kind, Ledger, Money, Remembered, Status, Transaction},
    reply::Reply,
    server::{Asked, wait},
};

const ID_PREFIX: &str = "vch_";
/// An account whose name contains this is declined.
const DECLINED_ACCOUNT: &str = "declined";
/// An account whose name contains this is held.
const HELD_ACCOUNT: &str = "held";

#[derive(Deserialize)]
struct ChargeBody {
    reference: String,
    amount: i64,
    currency: String,
    source: String,
    destination: String,
    capture: bool,
}

#[derive(Deserialize)]
struct FollowUpBody {
    reference: String,
    amount: Option<i64>,
}

/// A refusal: status, code, message.
struct Refusal(u16, &'static str, &'static str);

impl Refusal {
    fn reply(&self) -> Reply {
        Reply::value(self.0, &json!({ "error": { "code": self.1, "message": self.2 } }))
    }
}

pub(super) async fn answer(shared: &Shared, asked: &Asked<'_>) -> Reply {
    let operation = operation(asked);
    let struck = shared.faults().strike(operation);
    let fault = struck.or_else(|| amount_fault(shared, operation, asked.body));
    wait(shared, fault).await;
    match fault {
        Some(FaultKind::DropBefore) => return Reply::Drop,
        Some(FaultKind::Http500) => return Reply::html(500, "Internal Server Error"),
        Some(FaultKind::Busy) => return Refusal(503, "busy", "Try again later.").reply().retry_later(),
        _ => {}
    }
    perform(shared, asked, fault).unwrap_or_else(|refusal| refusal.reply()).after(fault)
}

fn operation(asked: &Asked<'_>) -> Operation {
    match (asked.method, asked.path.rsplit('/').next()) {
        (&Method::GET, _) => Operation::Lookup,
        (_, Some("capture")) => Operation::Capture,
        (_, Some("void")) => Operation::Void,
        (_, Some("refund")) => Operation::Refund,
        _ => match serde_json::from_slice::<ChargeBody>(asked.body) {
            Ok(body) if !body.capture => Operation::Authorize,
            _ => Operation::Purchase,
        },
    }
}

fn amount_fault(shared: &Shared, operation: Operation, body: &[u8]) -> Option<FaultKind> {
    if !matches!(operation, Operation::Purchase | Operation::Authorize | Operation::Refund) {
        return None;
    }
    let body: FollowUpBody = serde_json::from_slice(body).ok()?;
    let fault = of_amount(&body.amount?.to_string())?;
    shared.ledger().trigger_once(&body.reference).then_some(fault)
}

fn perform(shared: &Shared, asked: &Asked<'_>, fault: Option<FaultKind>) -> Result<Reply, Refusal> {
    let bearer = asked.authorization.and_then(|header| header.strip_prefix("Bearer "));
    if bearer != Some(&shared.config.api_key) {
        return Err(Refusal(401, "unauthorized", "The API key is not known."));
    }
    let now = OffsetDateTime::now_utc();
    let mut ledger = shared.ledger();
    ledger.tick(now);
    if asked.method == Method::GET {
        return find(&ledger, asked);
    }
    if asked.method != Method::POST {
        return Err(Refusal(405, "method_not_allowed", "Use GET or POST."));
    }
    if ledger.is_full() {
        return Err(Refusal(503, "busy", "The simulator is full."));
    }
    let key = asked.idempotency_key.filter(|key| !key.is_empty() && key.len() <= 255);
    let key = key.ok_or(Refusal(400, "idempotency_key_missing", "Idempotency-Key is required."))?;
    let body_hash = hash(asked);
    if let Some(remembered) = ledger.remembered.get(key) {
        if remembered.body_hash != body_hash {
            return Err(Refusal(422, "idempotency_key_reused", "The key was used with another body."));
        }
        let reply = Reply::json(remembered.status, remembered.answer.clone());
        return Ok(reply.with_header("idempotent-replayed", "true"));
    }
    let (status, id) = match asked.path.split('/').collect::<Vec<_>>()[..] {
        ["charges"] => (201, charge(&mut ledger, asked.body, fault, now)?),
        ["charges", id, action] => (200, follow_up(&mut ledger, id, action, asked.body, now)?),
        _ => return Err(Refusal(404, "not_found", "No such resource.")),
    };
    let answer = ledger.get(id).map(render).unwrap_or_default().to_string();
    ledger.remembered.insert(key.to_owned(), Remembered { body_hash, status, answer: answer.clone() });
    Ok(Reply::json(status, answer))
}

fn hash(asked: &Asked<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    asked.path.hash(&mut hasher);
    asked.body.hash(&mut hasher);
    hasher.finish()
}

fn find(ledger: &Ledger, asked: &Asked<'_>) -> Result<Reply, Refusal> {
    let not_found = Refusal(404, "not_found", "No such resource.");
    match asked.path.split('/').collect::<Vec<_>>()[..] {
        ["charges"] => {
            let reference = query_value(asked.query, "reference");
            let reference = reference.ok_or(Refusal(400, "reference_missing", "Say ?reference=."))?;
            let charges: Vec<Value> = ledger
                .by_reference
                .get(reference)
                .and_then(|id| ledger.get(*id))
                .map(render)
                .into_iter()
                .collect();
            Ok(Reply::value(200, &json!({ "data": charges })))
        }
        ["charges", id] => parse_id(id)
            .and_then(|id| ledger.get(id))
            .map(|charge| Reply::value(200, &render(charge)))
            .ok_or(not_found),
        _ => Err(not_found),
    }
}

fn parse_id(text: &str) -> Option<u64> {
    text.strip_prefix(ID_PREFIX)?.parse().ok()
}

fn charge(
    ledger: &mut Ledger,
    body: &[u8],
    fault: Option<FaultKind>,
    now: OffsetDateTime,
) -> Result<u64, Refusal> {
    let body: ChargeBody = serde_json::from_slice(body)
        .map_err(|_| Refusal(400, "body_malformed", "The body is not a charge."))?;
    if body.amount <= 0 {
        return Err(Refusal(422, "amount_out_of_range", "An amount is positive."));
    }
    let named = |word: &str| body.source.contains(word) || body.destination.contains(word);
    let status = match fault {
        Some(FaultKind::Decline) => Status::Declined,
        Some(FaultKind::Hold) => Status::Held,
        _ if named(DECLINED_ACCOUNT) => Status::Declined,
        _ if named(HELD_ACCOUNT) => Status::Held,
        _ if body.capture => Status::Captured,
        _ => Status::Authorized,
    };
    let amount = Money { units: body.amount, decimals: 0 };
    if status != Status::Declined {
        ledger.count(&body.reference, |effects| {
            if body.capture { effects.purchase += 1 } else { effects.authorize += 1 }
        });
    }
    Ok(ledger.add(now, |id| Transaction {
        id,
        kind: if body.capture { Kind::Purchase } else { Kind::Authorize },
        status,
        reference: body.reference,
        parent: None,
        currency: body.currency,
        amount,
        captured: (status == Status::Captured).then_some(amount),
        refunded_scaled: 0,
        auth_code: String::new(),
        last4: String::new(),
        avs: String::new(),
        cvv: String::new(),
        submitted_at: now,
        operations: Vec::new(),
    }))
}

fn follow_up(
    ledger: &mut Ledger,
    id: &str,
    action: &str,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<u64, Refusal> {
    let body: FollowUpBody = serde_json::from_slice(body)
        .map_err(|_| Refusal(400, "body_malformed", "The body has no reference."))?;
    let not_found = Refusal(404, "not_found", "No such charge.");
    let wrong_state = Refusal(422, "wrong_state", "The charge is in no state for this.");
    let out_of_range = Refusal(422, "amount_out_of_range", "The amount exceeds what is left of the charge.");
    let id = parse_id(id).ok_or(not_found)?;
    let charge = ledger.get(id).cloned().ok_or(Refusal(404, "not_found", "No such charge."))?;
    let amount =
        body.amount.map_or(charge.captured.unwrap_or(charge.amount), |units| Money { units, decimals: 0 });
    let kind = match (action, charge.status) {
        ("capture", Status::Authorized) if amount.units <= 0 || amount.units > charge.amount.units => {
            return Err(out_of_range);
        }
        ("capture", Status::Authorized) => {
            ledger.capture(id, amount, now);
            ledger.count(&body.reference, |effects| effects.capture += 1);
            "capture"
        }
        ("void", Status::Authorized | Status::Captured | Status::Held) => {
            change(ledger, id, |charge| charge.status = Status::Voided);
            ledger.count(&body.reference, |effects| effects.void += 1);
            "void"
        }
        ("refund", Status::Captured | Status::Settled) => {
            let taken = charge.captured.unwrap_or(charge.amount).scaled();
            let refunded = charge.refunded_scaled + amount.scaled();
            if amount.units <= 0 || refunded > taken {
                return Err(out_of_range);
            }
            change(ledger, id, |charge| {
                charge.refunded_scaled = refunded;
                if refunded == taken {
                    charge.status = Status::RefundSettled;
                }
            });
            ledger.count(&body.reference, |effects| effects.refund += 1);
            "refund"
        }
        (_, Status::Voided) => return Err(Refusal(422, "charge_voided", "The charge is voided already.")),
        (_, Status::Expired) => return Err(Refusal(422, "charge_expired", "The authorization has expired.")),
        _ => return Err(wrong_state),
    };
    ledger.by_reference.insert(body.reference.clone(), id);
    let amount = (kind != "void").then_some(amount.units);
    let operation = ledger::Operation { reference: body.reference, kind, amount };
    change(ledger, id, |charge| charge.operations.push(operation));
    Ok(id)
}

fn change(ledger: &mut Ledger, id: u64, edit: impl FnOnce(&mut Transaction)) {
    if let Some(charge) = ledger.get_mut(id) {
        edit(charge);
    }
}

fn render(charge: &Transaction) -> Value {
    let status = match charge.status {
        Status::Authorized => "authorized",
        Status::Captured => "captured",
        Status::Settled => "settled",
        Status::Held => "held",
        Status::Declined => "declined",
        Status::Voided => "voided",
        Status::Expired => "expired",
        Status::RefundPending | Status::RefundSettled => "refunded",
    };
    let operations: Vec<Value> = charge
        .operations
        .iter()
        .map(|operation| {
            json!({ "reference": operation.reference, "kind": operation.kind, "amount": operation.amount })
        })
        .collect();
    // Amounts of VelocityPay are whole minor units: ten thousand ten-thousandths each.
    let refunded = i64::try_from(charge.refunded_scaled / 10_000).unwrap_or(i64::MAX);
    json!({
        "id": format!("{ID_PREFIX}{}", charge.id),
        "reference": charge.reference,
        "status": status,
        "amount": charge.amount.units,
        "captured": charge.captured.map_or(0, |money| money.units),
        "refunded": refunded,
        "currency": charge.currency,
        "decline_code": (charge.status == Status::Declined).then_some("do_not_honor"),
        "operations": operations,
    })
}
