//! Purchases and authorizations: card checks, the duplicate window, the sandbox's trigger zips and card codes.
//! Takes any card that passes Luhn, as the sandbox does; no processor is behind it.

use std::hash::{DefaultHasher, Hash, Hasher};

use time::OffsetDateTime;

use super::wire::TransactionResponse;
use crate::{
    card::{is_expired, passes_luhn},
    simulator::{
        faults::FaultKind,
        ledger::{Kind, Ledger, Money, Status, Transaction},
        ordered::Ordered,
    },
};

const DECLINE_ZIP: &str = "46282";
/// Ours: the sandbox has no trigger for the fraud filters.
const HOLD_ZIP: &str = "46299";
const DUPLICATE_WINDOW_DEFAULT_S: u64 = 120;
const DUPLICATE_WINDOW_MAX_S: u64 = 28_800;

pub(super) fn charge(
    ledger: &mut Ledger,
    request: &Ordered,
    fault: Option<FaultKind>,
    now: OffsetDateTime,
) -> TransactionResponse {
    let kind = match request.text(&["transactionType"]) {
        Some("authOnlyTransaction") => Kind::Authorize,
        _ => Kind::Purchase,
    };
    let Some(amount) = amount(request) else {
        return TransactionResponse::error("5", "A valid amount is required.");
    };
    let last4 = match payment(request, now) {
        Ok(last4) => last4,
        Err((code, text)) => return TransactionResponse::error(code, text),
    };
    if let Some(refusal) = duplicate(ledger, request, now) {
        return refusal;
    }
    let zip = request.text(&["billTo", "zip"]).unwrap_or_default();
    let status = match (fault, zip, kind) {
        (Some(FaultKind::Decline), _, _) | (_, DECLINE_ZIP, _) => Status::Declined,
        (Some(FaultKind::Hold), _, _) | (_, HOLD_ZIP, _) => Status::Held,
        (_, _, Kind::Authorize) => Status::Authorized,
        (_, _, Kind::Purchase | Kind::Refund) => Status::Captured,
    };
    let reference = request.text(&["order", "invoiceNumber"]).unwrap_or_default().to_owned();
    let id = ledger.add(now, |id| Transaction {
        id,
        kind,
        status,
        reference: reference.clone(),
        parent: None,
        currency: request.text(&["currencyCode"]).unwrap_or("USD").to_owned(),
        amount,
        captured: (status == Status::Captured).then_some(amount),
        refunded_scaled: 0,
        auth_code: if status == Status::Declined { String::new() } else { auth_code(id) },
        last4,
        avs: avs(zip).to_owned(),
        cvv: cvv(request.text(&["payment", "creditCard", "cardCode"])).to_owned(),
        submitted_at: now,
        operations: Vec::new(),
    });
    ledger.duplicates.insert(fingerprint(request), (now, id));
    if status != Status::Declined {
        ledger.count(&reference, |effects| match kind {
            Kind::Authorize => effects.authorize += 1,
            Kind::Purchase | Kind::Refund => effects.purchase += 1,
        });
    }
    ledger.get(id).map_or_else(|| TransactionResponse::error("153", "lost"), TransactionResponse::of)
}

/// A positive amount.
pub(super) fn amount(request: &Ordered) -> Option<Money> {
    request.text(&["amount"]).and_then(Money::parse).filter(|money| money.units > 0)
}

/// The last four digits of a payable card or token, or the refusal's code and text.
fn payment(request: &Ordered, now: OffsetDateTime) -> Result<String, (&'static str, &'static str)> {
    if let Some(token) = request.text(&["payment", "opaqueData", "dataValue"]) {
        return if token.is_empty() { Err(("33", "A token is required.")) } else { Ok("0000".to_owned()) };
    }
    let number = request.text(&["payment", "creditCard", "cardNumber"]).unwrap_or_default();
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !(13..=16).contains(&number.len()) || !passes_luhn(number) {
        return Err(("6", "The credit card number is invalid."));
    }
    let expiration = request.text(&["payment", "creditCard", "expirationDate"]).unwrap_or_default();
    match is_expired(expiration, now.date()) {
        Err(_) => Err(("7", "Credit card expiration date is invalid.")),
        Ok(true) => Err(("8", "The credit card has expired.")),
        Ok(false) => Ok(number[number.len() - 4..].to_owned()),
    }
}

/// Reason 11; with the original's id and codes when the window was given explicitly.
pub(super) fn duplicate(
    ledger: &Ledger,
    request: &Ordered,
    now: OffsetDateTime,
) -> Option<TransactionResponse> {
    let explicit = window(request);
    let window_s = explicit.unwrap_or(DUPLICATE_WINDOW_DEFAULT_S).min(DUPLICATE_WINDOW_MAX_S);
    let (seen_at, original) = ledger.duplicates.get(&fingerprint(request))?;
    if (now - *seen_at).whole_seconds() >= i64::try_from(window_s).unwrap_or(i64::MAX) {
        return None;
    }
    let mut refusal = TransactionResponse::error("11", "A duplicate transaction has been submitted.");
    if let (Some(_), Some(original)) = (explicit, ledger.get(*original)) {
        refusal.trans_id = original.id.to_string();
        refusal.auth_code.clone_from(&original.auth_code);
        refusal.avs_result_code.clone_from(&original.avs);
        refusal.cvv_result_code.clone_from(&original.cvv);
    }
    Some(refusal)
}

fn window(request: &Ordered) -> Option<u64> {
    let settings = match request.get("transactionSettings")?.get("setting")? {
        Ordered::Array(settings) => settings.as_slice(),
        one => std::slice::from_ref(one),
    };
    let setting =
        settings.iter().find(|setting| setting.text(&["settingName"]) == Some("duplicateWindow"))?;
    setting.text(&["settingValue"])?.parse().ok()
}

/// What Authorize.Net compares. A hash, so that no card number is kept.
pub(super) fn fingerprint(request: &Ordered) -> u64 {
    const COMPARED: [&[&str]; 13] = [
        &["transactionType"],
        &["amount"],
        &["payment", "creditCard", "cardNumber"],
        &["payment", "creditCard", "expirationDate"],
        &["payment", "opaqueData", "dataValue"],
        &["refTransId"],
        &["order", "invoiceNumber"],
        &["poNumber"],
        &["customer", "id"],
        &["billTo", "firstName"],
        &["billTo", "lastName"],
        &["billTo", "address"],
        &["billTo", "zip"],
    ];
    let mut hasher = DefaultHasher::new();
    for path in COMPARED {
        request.text(path).hash(&mut hasher);
    }
    window(request).hash(&mut hasher);
    hasher.finish()
}

/// Six characters, as issuers give.
pub(super) fn auth_code(id: u64) -> String {
    format!("{:06X}", id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40)
}

fn avs(zip: &str) -> &'static str {
    match zip {
        "46201" => "A",
        "46203" => "E",
        "46204" => "G",
        "46205" => "N",
        "46206" => "P",
        "46207" => "R",
        "46208" => "S",
        "46209" => "U",
        "46211" => "W",
        "46214" => "X",
        "46217" => "Z",
        _ => "Y",
    }
}

fn cvv(code: Option<&str>) -> &'static str {
    match code {
        None | Some("904") => "P",
        Some("901") => "N",
        Some("902") => "S",
        Some("903") => "U",
        Some(_) => "M",
    }
}
