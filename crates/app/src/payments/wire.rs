//! Payments as JSON: what requests may hold, and how a payment is shown. The only file that knows field names.

use bytes::Bytes;
use paystrata_gateway::{Card, CardError, CardFields, Secret, passes_luhn};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use time::Date;

use super::model::{CardSource, NewPayment};
use crate::engine::{CaptureMode, PaymentRecord, Rail};
use crate::http::fields::{Fields, out_of_range};
use crate::http::idempotency::KeyedRoute;
use crate::http::problem::Problem;
use crate::ids::{AccountId, PaymentId};
use crate::money::{Amount, Currency};

/// The routes as idempotency keys know them. Append only.
pub const CREATE: KeyedRoute = KeyedRoute {
    name: "POST /v1/payments",
    fields: &[
        "from",
        "to",
        "amount",
        "currency",
        "rail",
        "merchant_reference",
        "card",
        "capture",
        "metadata",
    ],
};
/// A batch as a whole.
pub const BATCH: KeyedRoute = KeyedRoute { name: "POST /v1/payments/batch", fields: &["mode", "payments"] };
/// `POST /v1/payments/{id}/capture`
pub const CAPTURE: KeyedRoute = KeyedRoute { name: "POST /v1/payments/{id}/capture", fields: &["amount"] };
/// `POST /v1/payments/{id}/void`
pub const VOID: KeyedRoute = KeyedRoute { name: "POST /v1/payments/{id}/void", fields: &[] };
/// `POST /v1/payments/{id}/refunds`
pub const REFUND: KeyedRoute = KeyedRoute { name: "POST /v1/payments/{id}/refunds", fields: &["amount"] };

/// What a token is unless the request says otherwise: the gateway's own payment form.
const TOKEN_DESCRIPTOR_DEFAULT: &str = "COMMON.ACCEPT.INAPP.PAYMENT";

/// A wallet's token is an encrypted document in base64: a few kilobytes. A gateway's own form makes shorter ones.
const TOKEN_BYTES_MAX: usize = 8_192;
/// ISO/IEC 7812.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 12..=19;

/// Why a payment is not taken as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It never was what this route takes: nothing can have been done under its key.
    Ever(Problem),
    /// It may have been at another time, and its key may hold the answer: a card expires, and a version may take less than
    /// the one before it. Whoever makes a rule narrower says this.
    Now(Problem),
}

impl Unfit {
    /// What the caller is told, unless the key knows more.
    #[must_use]
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Ever(problem) | Self::Now(problem) => problem,
        }
    }
}

impl From<Problem> for Unfit {
    fn from(problem: Problem) -> Self {
        Self::Ever(problem)
    }
}

/// Reads one payment to create; `today` decides whether a card has expired.
///
/// # Errors
/// The first field at fault.
pub fn read_payment(mut fields: Fields, today: Date) -> Result<NewPayment, Unfit> {
    let rail = fields.text("rail")?.unwrap_or(Rail::Book);
    let from = fields.text("from")?;
    let to = fields.required_text("to")?;
    let amount = required_amount(&mut fields)?;
    let currency: Currency = fields.required_text("currency")?;
    let capture = read_capture(&mut fields)?;
    let card = read_card(&mut fields, today)?;
    let payment = NewPayment {
        from,
        to,
        amount,
        currency,
        rail,
        capture,
        card,
        merchant_reference: fields.text("merchant_reference")?,
        metadata: fields.metadata("metadata")?,
    };
    check_rail(&payment, &fields)?;
    fields.finish()?;
    Ok(payment)
}

/// What each rail needs and does not take.
fn check_rail(payment: &NewPayment, fields: &Fields) -> Result<(), Problem> {
    let rail = payment.rail.as_str();
    let charges_card = payment.rail == Rail::AuthorizeNet;
    if charges_card && payment.from.is_some() {
        return Err(Problem::invalid(
            fields.pointer("from"),
            format!("must be absent on rail {rail}: the card pays"),
        ));
    }
    if !charges_card && payment.from.is_none() {
        return Err(fields.missing("from"));
    }
    if charges_card && payment.card.is_none() {
        return Err(fields.missing("card"));
    }
    if !charges_card && payment.card.is_some() {
        return Err(Problem::invalid(fields.pointer("card"), format!("is not taken on rail {rail}")));
    }
    if payment.from == Some(payment.to) {
        let detail = "Sender and receiver are the same account.";
        return Err(Problem::new(http::StatusCode::UNPROCESSABLE_ENTITY, "same_account", detail)
            .at(fields.pointer("to")));
    }
    Ok(())
}

fn required_amount(fields: &mut Fields) -> Result<Amount, Problem> {
    read_amount(fields)?.ok_or_else(|| fields.missing("amount"))
}

fn read_amount(fields: &mut Fields) -> Result<Option<Amount>, Problem> {
    let Some(number) = fields.integer("amount")? else { return Ok(None) };
    Amount::new(number).map(Some).map_err(|error| out_of_range(fields.pointer("amount"), &error.to_string()))
}

fn read_capture(fields: &mut Fields) -> Result<CaptureMode, Problem> {
    match fields.take("capture") {
        None | Some(Value::Bool(true)) => Ok(CaptureMode::Automatic),
        Some(Value::Bool(false)) => Ok(CaptureMode::Manual),
        Some(Value::String(word)) if word.parse::<CaptureMode>().is_ok() => {
            Ok(word.parse().expect("it parsed a moment ago"))
        }
        Some(_) => {
            let detail = "must be true (capture at once, the default) or false (authorise only)";
            Err(Problem::invalid(fields.pointer("capture"), detail))
        }
    }
}

fn read_card(fields: &mut Fields, today: Date) -> Result<Option<CardSource>, Unfit> {
    let pointer = fields.pointer("card");
    let token = |value: Secret, descriptor: Option<String>| {
        let descriptor = descriptor.unwrap_or_else(|| TOKEN_DESCRIPTOR_DEFAULT.to_owned());
        CardSource::Token { descriptor, value }
    };
    let value = match fields.take("card") {
        None => return Ok(None),
        Some(text @ Value::String(_)) => return Ok(Some(token(read_token(&text, pointer)?, None))),
        Some(value) => value,
    };
    let mut card = Fields::of(value, pointer)?;
    if let Some(text) = card.take("token") {
        let value = read_token(&text, card.pointer("token"))?;
        let descriptor = card.text("descriptor")?;
        card.finish()?;
        return Ok(Some(token(value, descriptor)));
    }
    let number: String = card.required_text("number")?;
    let expiration: String = card.required_text("expiration")?;
    let code: Option<String> = card.text("code")?;
    let billing_zip: Option<String> = card.text("billing_zip")?;
    let given = CardFields {
        number: &number,
        expiration: &expiration,
        code: code.as_deref(),
        billing_zip: billing_zip.as_deref(),
    };
    let parsed = Card::parse(given, today).map_err(|error| {
        let problem = Problem::invalid(card.pointer(error.field()), error.to_string());
        if error == CardError::Expired { Unfit::Now(problem) } else { Unfit::Ever(problem) }
    })?;
    card.finish()?;
    Ok(Some(CardSource::Card(parsed)))
}

/// A gateway's token, in whichever place it stands. A card number is none: taken for one it would go round every check of
/// a card, the blocklist among them.
fn read_token(value: &Value, pointer: String) -> Result<Secret, Unfit> {
    let Value::String(text) = value else { return Err(Problem::invalid(pointer, "must be a string").into()) };
    let is_printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !is_printable {
        let detail = format!("a token has 1 to {TOKEN_BYTES_MAX} printable ASCII characters");
        return Err(Unfit::Now(Problem::invalid(pointer, detail)));
    }
    if is_card_number(text) {
        let detail = "is a card number, not a token: send it as \"number\", with an \"expiration\"";
        return Err(Unfit::Now(Problem::invalid(pointer, detail)));
    }
    Ok(Secret::from(text.as_str()))
}

/// As people write one, too: in groups, between spaces or hyphens.
fn is_card_number(text: &str) -> bool {
    let digits: String = text.chars().filter(|letter| !matches!(letter, ' ' | '-')).collect();
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits && CARD_DIGITS.contains(&digits.len()) && passes_luhn(&digits)
}

/// Reads the body of a capture or refund: an amount, or nothing for all of it.
///
/// # Errors
/// The first field at fault.
pub fn read_optional_amount(mut fields: Fields) -> Result<Option<Amount>, Problem> {
    let amount = read_amount(&mut fields)?;
    fields.finish()?;
    Ok(amount)
}

#[derive(Serialize)]
struct PaymentBody<'payment> {
    id: String,
    object: &'static str,
    status: &'static str,
    amount: i64,
    amount_captured: i64,
    amount_refunded: i64,
    currency: &'static str,
    from: Option<String>,
    to: String,
    rail: &'static str,
    failure_code: Option<&'static str>,
    merchant_reference: Option<&'payment str>,
    outcome: Option<&'static str>,
    gateway: Option<GatewayBody<'payment>>,
    metadata: &'payment RawValue,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
struct GatewayBody<'payment> {
    name: &'static str,
    transaction: Option<&'payment str>,
    card_last_four: Option<&'payment str>,
}

/// A payment as the API shows it, and as its answer is kept.
#[must_use]
pub fn render(payment: &PaymentRecord) -> Bytes {
    let metadata = payment.metadata.as_deref().unwrap_or("{}");
    let created_at = payment.created_at();
    let body = PaymentBody {
        id: PaymentId(payment.id).to_string(),
        object: "payment",
        status: payment.status.as_str(),
        amount: payment.amount,
        amount_captured: payment.captured,
        amount_refunded: payment.refunded,
        currency: payment.currency.code(),
        from: (payment.rail != Rail::AuthorizeNet).then(|| AccountId(payment.from).to_string()),
        to: AccountId(payment.to).to_string(),
        rail: payment.rail.as_str(),
        failure_code: payment.failure.map(crate::engine::FailureCode::as_str),
        merchant_reference: payment.merchant_reference.as_deref(),
        outcome: payment.outcome.map(crate::engine::ChargeOutcome::as_str),
        gateway: (payment.rail != Rail::Book).then(|| GatewayBody {
            name: payment.rail.as_str(),
            transaction: payment.gateway_transaction.as_deref(),
            card_last_four: payment.card_last_four.as_deref(),
        }),
        metadata: serde_json::from_str(metadata).expect("metadata was read as JSON before it was stored"),
        created_at: created_at.to_string(),
        updated_at: payment.updated_at.unwrap_or(created_at).to_string(),
    };
    serde_json::to_vec(&body).expect("strings, numbers and JSON text are always JSON").into()
}
