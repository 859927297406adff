//! Webhooks of Authorize.Net: the signature over the raw bytes, and the few facts an event carries.
//! An event is a hint: it carries no timestamp under its signature, so the receiver keeps notification ids and asks
//! the gateway before it moves money. Checks nothing but the bytes it is given.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha512;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::{
    request::{Reference, TransactionId},
    secret::Secret,
};

const SIGNATURE_PREFIX: &str = "sha512=";
/// Hexadecimal digits of a SHA-512.
const SIGNATURE_DIGITS: usize = 128;

/// Why a webhook is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The header is not `sha512=` and 128 hexadecimal digits.
    #[error("the webhook signature is malformed")]
    Malformed,
    /// The signature is not that of these bytes.
    #[error("the webhook signature does not match its body")]
    Mismatch,
}

/// Checks the `X-ANET-Signature` header against the raw body, in constant time and without regard to case.
/// The key is the Signature Key as shown in the merchant interface: its text, not the bytes it spells.
pub fn verify_webhook(signature_key: &Secret, header: &str, raw_body: &[u8]) -> Result<(), SignatureError> {
    let (prefix, digits) =
        header.split_at_checked(SIGNATURE_PREFIX.len()).ok_or(SignatureError::Malformed)?;
    let hexadecimal = digits.len() == SIGNATURE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !prefix.eq_ignore_ascii_case(SIGNATURE_PREFIX) || !hexadecimal {
        return Err(SignatureError::Malformed);
    }
    let mut mac = Hmac::<Sha512>::new_from_slice(signature_key.expose().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(raw_body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let equal = digits.to_ascii_lowercase().as_bytes().ct_eq(expected.as_bytes());
    if bool::from(equal) { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// What an event says. Parse only after [`verify_webhook`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    /// Unique per event: the guard against replays.
    pub notification_id: String,
    /// Such as `net.authorize.payment.authcapture.created`.
    pub event_type: String,
    /// The transaction, for events about one.
    pub transaction: Option<TransactionId>,
    /// Our reference, where the charge carried one.
    pub reference: Option<Reference>,
    /// The amount as written, such as `10.00`.
    pub amount_text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEvent {
    notification_id: String,
    event_type: String,
    payload: WirePayload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePayload {
    entity_name: Option<String>,
    id: Option<String>,
    invoice_number: Option<String>,
    auth_amount: Option<Box<RawValue>>,
}

impl WebhookEvent {
    /// Reads an event; `None` when it is not one.
    pub fn parse(raw_body: &[u8]) -> Option<Self> {
        let event: WireEvent = serde_json::from_slice(raw_body).ok()?;
        let payload = event.payload;
        let about_transaction = payload.entity_name.as_deref() == Some("transaction");
        let id = payload.id.filter(|_| about_transaction);
        Some(Self {
            notification_id: event.notification_id,
            event_type: event.event_type,
            transaction: id.and_then(|id| TransactionId::new(id).ok()),
            reference: payload.invoice_number.and_then(|text| Reference::new(text).ok()),
            amount_text: payload.auth_amount.map(|raw| raw.get().trim_matches('"').to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{SignatureError, WebhookEvent, verify_webhook};
    use crate::secret::Secret;

    /// Published vector.
    const KEY: &str = "2679A5D5785C9B26CF921E1754765CDDB265C9C88400786923E5343B315954FAFB4B7BF608818F6A21766741E8637DC206F286C725908C777ED4127D8562163D";
    const BODY: &str = r#"{"notificationId":"f813b98f-3552-4eeb-ba40-acb4704eeba3","eventType":"net.authorize.payment.authcapture.created","eventDate":"2017-03-08T17:35:37.155999Z","webhookId":"63d6fea2-aa13-4b1d-a204-f5fbc15942b7","payload":{"responseCode":1,"authCode":"8VTPDC","avsResponse":"Y","authAmount":10.00,"entityName":"transaction","id":"60019392075"}}"#;
    const SIGNATURE: &str = "sha512=9607C69D2734514554CE13D923D19939563F2FD6567D239F49F0DF0D08865632A0FB98061B4620CC52C47BB8BF6E2B69A15A67E4C98E81D7D65111076C515C6A";

    fn check(header: &str, body: &str, expected: Result<(), SignatureError>) {
        assert_eq!(verify_webhook(&Secret::from(KEY), header, body.as_bytes()), expected, "{header}");
    }

    #[test]
    fn published_vector_passes_in_either_case() {
        check(SIGNATURE, BODY, Ok(()));
        check(&SIGNATURE.to_ascii_lowercase(), BODY, Ok(()));
    }

    #[test]
    fn altered_bodies_keys_and_signatures_are_refused() {
        check(SIGNATURE, &BODY.replace("10.00", "10.01"), Err(SignatureError::Mismatch));
        check(&SIGNATURE.replace("9607", "9608"), BODY, Err(SignatureError::Mismatch));
        let lower_key = Secret::from(KEY.to_ascii_lowercase());
        assert_eq!(verify_webhook(&lower_key, SIGNATURE, BODY.as_bytes()), Err(SignatureError::Mismatch));
        check(&SIGNATURE[..100], BODY, Err(SignatureError::Malformed));
        check(&SIGNATURE.replace("sha512", "sha256"), BODY, Err(SignatureError::Malformed));
        check("", BODY, Err(SignatureError::Malformed));
        check("sha512=äöü", BODY, Err(SignatureError::Malformed));
    }

    #[test]
    fn event_keeps_the_amount_as_written() {
        let event = WebhookEvent::parse(BODY.as_bytes()).unwrap();
        assert_eq!(event.amount_text.as_deref(), Some("10.00"));
        assert_eq!(event.transaction.unwrap().as_str(), "60019392075");
        assert_eq!(WebhookEvent::parse(b"{}"), None);
    }
}
