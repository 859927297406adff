//! Authorize.Net as the simulator plays it: one endpoint, the first root key selects the method, always HTTP 200.
//! Checks credentials, key order and faults here; the rules of each method have their own file.

mod charge;
mod follow_up;
mod lists;
mod wire;

use time::OffsetDateTime;

use self::wire::{TransactionResponse, envelope};
use super::{
    ByteOrderMark, Shared,
    faults::{FaultKind, Operation, of_amount},
    ledger::Ledger,
    ordered::Ordered,
    reply::Reply,
    schema,
    server::wait,
};

const BYTE_ORDER_MARK: &str = "\u{feff}";
const LOGIN_REFUSED: (&str, &str) =
    ("E00007", "User authentication failed due to invalid authentication values.");
const BUSY: (&str, &str) = ("E00053", "The server is currently too busy, please try again later.");

pub(super) async fn answer(shared: &Shared, body: &[u8]) -> Reply {
    let body = body.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(body);
    let Ok(Ordered::Object(roots)) = serde_json::from_slice::<Ordered>(body) else {
        return marked(shared, envelope(None, "E00003", "The request is not a JSON object."));
    };
    let Some((method, content)) = roots.first() else {
        return marked(shared, envelope(None, "E00004", "The name of the requested API method is invalid."));
    };
    let operation = operation(method, content);
    let struck = shared.faults().strike(operation);
    let fault = struck.or_else(|| amount_fault(shared, operation, content));
    wait(shared, fault).await;
    match fault {
        Some(FaultKind::DropBefore) => return Reply::Drop,
        Some(FaultKind::Http500) => return Reply::html(500, "Internal Server Error"),
        Some(FaultKind::Busy) => return marked(shared, envelope(ref_id(content), BUSY.0, BUSY.1)),
        _ => {}
    }
    let json = perform(shared, method, content, fault);
    marked(shared, json).after(fault)
}

fn perform(shared: &Shared, method: &str, content: &Ordered, fault: Option<FaultKind>) -> String {
    let refuse = |(code, text): (&str, &str)| envelope(ref_id(content), code, text);
    if let Err(text) = schema::check(method, content) {
        return refuse(("E00003", &text));
    }
    let login = content.text(&["merchantAuthentication", "name"]);
    let key = content.text(&["merchantAuthentication", "transactionKey"]);
    if login != Some(&shared.config.login) || key != Some(&shared.config.transaction_key) {
        return refuse(LOGIN_REFUSED);
    }
    let now = OffsetDateTime::now_utc();
    let mut ledger = shared.ledger();
    ledger.tick(now);
    match method {
        "createTransactionRequest" => {
            if ledger.is_full() {
                return refuse(BUSY);
            }
            create(&mut ledger, content, fault, now)
        }
        "updateHeldTransactionRequest" => {
            follow_up::decide_held(&mut ledger, content, now).write(ref_id(content))
        }
        "getTransactionDetailsRequest" => lists::details(&ledger, content),
        "getUnsettledTransactionListRequest" => lists::unsettled(&ledger, content),
        "getSettledBatchListRequest" => lists::batches(&ledger, content),
        "getTransactionListRequest" => lists::batch(&ledger, content),
        "authenticateTestRequest" => envelope(ref_id(content), "I00001", "Successful."),
        _ => refuse(("E00004", "The name of the requested API method is invalid.")),
    }
}

fn create(ledger: &mut Ledger, content: &Ordered, fault: Option<FaultKind>, now: OffsetDateTime) -> String {
    let empty = Ordered::Object(Vec::new());
    let request = content.get("transactionRequest").unwrap_or(&empty);
    let reference = ref_id(content);
    let response = match request.text(&["transactionType"]) {
        Some("authCaptureTransaction" | "authOnlyTransaction") => charge::charge(ledger, request, fault, now),
        Some("refundTransaction") => follow_up::refund(ledger, request, now),
        Some("priorAuthCaptureTransaction") => follow_up::capture(ledger, request, reference, now),
        Some("voidTransaction") => follow_up::void(ledger, request, reference),
        _ => TransactionResponse::error("155", "The transaction type is not supported."),
    };
    response.write(reference)
}

fn ref_id(content: &Ordered) -> Option<&str> {
    content.text(&["refId"])
}

fn operation(method: &str, content: &Ordered) -> Operation {
    match (method, content.text(&["transactionRequest", "transactionType"])) {
        ("createTransactionRequest", Some("authCaptureTransaction")) => Operation::Purchase,
        ("createTransactionRequest", Some("authOnlyTransaction")) => Operation::Authorize,
        ("createTransactionRequest", Some("priorAuthCaptureTransaction")) => Operation::Capture,
        ("createTransactionRequest", Some("voidTransaction")) => Operation::Void,
        ("createTransactionRequest", Some("refundTransaction")) => Operation::Refund,
        ("createTransactionRequest" | "updateHeldTransactionRequest", _) => Operation::Any,
        _ => Operation::Lookup,
    }
}

/// Charges and refunds only, and only the first time a reference is seen, so that a resend gets its answer.
fn amount_fault(shared: &Shared, operation: Operation, content: &Ordered) -> Option<FaultKind> {
    if !matches!(operation, Operation::Purchase | Operation::Authorize | Operation::Refund) {
        return None;
    }
    let amount = content.text(&["transactionRequest", "amount"])?;
    let fault = of_amount(&amount.replace('.', ""))?;
    let reference = content.text(&["transactionRequest", "order", "invoiceNumber"]).or(ref_id(content))?;
    shared.ledger().trigger_once(reference).then_some(fault)
}

fn marked(shared: &Shared, json: String) -> Reply {
    match shared.config.byte_order_mark {
        ByteOrderMark::Sent => Reply::json(200, format!("{BYTE_ORDER_MARK}{json}")),
        ByteOrderMark::Omitted => Reply::json(200, json),
    }
}
