//! Replies of Authorize.Net, read leniently: numbers come as text or as numbers, unknown fields and words are kept
//! or passed over. `responseCode` decides, not `resultCode`. Judges; asks nothing further.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::codes;
use crate::{outcome::UnknownReason, request::TransactionId};

/// The id of what is not stored: rejected before processing, or test mode.
const NO_TRANSACTION: &str = "0";

/// Text of a value that is a JSON string in one reply and a number in another: `"1"`, `1`, `10.00`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text(Option<String>);

impl Text {
    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str(text).map(|text| Self(Some(text))).map_err(serde::de::Error::custom)
            }
            Some(b'0'..=b'9' | b'-') => Ok(Self(Some(text.to_owned()))),
            _ => Ok(Self(None)),
        }
    }
}

/// A reply of any method.
pub(super) trait Answer: DeserializeOwned {
    /// The gateway says that it could not serve now.
    fn is_busy(&self) -> bool;
}

#[derive(Debug, Deserialize)]
pub(super) struct Messages {
    #[serde(default)]
    message: Vec<Message>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    code: Text,
    #[serde(default)]
    text: Text,
}

impl Messages {
    fn code(&self) -> Option<&str> {
        self.message.first()?.code.as_str()
    }

    fn text(&self) -> Option<&str> {
        self.message.first()?.text.as_str()
    }

    fn is_busy(&self) -> bool {
        self.code().is_some_and(codes::is_busy)
    }
}

/// `createTransactionResponse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateReply {
    #[serde(default)]
    transaction_response: Option<TransactionResponse>,
    messages: Messages,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionResponse {
    #[serde(default)]
    response_code: Text,
    #[serde(default)]
    auth_code: Text,
    #[serde(default)]
    trans_id: Text,
    #[serde(default)]
    messages: Option<Vec<TransactionMessage>>,
    #[serde(default)]
    errors: Option<Vec<TransactionError>>,
}

#[derive(Debug, Deserialize)]
struct TransactionMessage {
    #[serde(default)]
    code: Text,
    #[serde(default)]
    description: Text,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionError {
    #[serde(default)]
    error_code: Text,
    #[serde(default)]
    error_text: Text,
}

impl Answer for CreateReply {
    fn is_busy(&self) -> bool {
        self.response_code().is_none() && self.messages.is_busy()
    }
}

/// What a `createTransactionResponse` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Approved {
        transaction: TransactionId,
        auth_code: Option<String>,
    },
    Held {
        transaction: TransactionId,
    },
    Declined {
        code: String,
        reason: String,
    },
    /// The same void or capture was made before (310, 311).
    AlreadyDone {
        code: String,
    },
    /// Reason 11, with the original's id where the window was explicit.
    Duplicate {
        original: Option<TransactionId>,
    },
    Unclear(UnknownReason),
}

impl CreateReply {
    fn response_code(&self) -> Option<&str> {
        self.transaction_response.as_ref()?.response_code.as_str()
    }

    /// The reason code and words: errors first, then the transaction's messages, then the envelope's.
    fn reason(&self) -> (&str, &str) {
        let response = self.transaction_response.as_ref();
        let error = response.and_then(|response| response.errors.as_ref()?.first());
        let message = response.and_then(|response| response.messages.as_ref()?.first());
        let code = error
            .and_then(|error| error.error_code.as_str())
            .or_else(|| message.and_then(|message| message.code.as_str()))
            .or_else(|| self.messages.code());
        let words = error
            .and_then(|error| error.error_text.as_str())
            .or_else(|| message.and_then(|message| message.description.as_str()))
            .or_else(|| self.messages.text());
        (code.unwrap_or_default(), words.unwrap_or_default())
    }

    pub(super) fn judge(&self) -> Judgement {
        let (code, words) = self.reason();
        let id = self.transaction_response.as_ref().and_then(|response| response.trans_id.as_str());
        let transaction =
            id.filter(|text| *text != NO_TRANSACTION).and_then(|id| TransactionId::new(id).ok());
        match (self.response_code(), code, transaction) {
            (Some("1"), codes::ALREADY_VOIDED | codes::ALREADY_CAPTURED, _) => {
                Judgement::AlreadyDone { code: code.to_owned() }
            }
            (Some("1"), _, Some(transaction)) => {
                Judgement::Approved { transaction, auth_code: self.auth_code() }
            }
            (Some("1"), _, None) if id == Some(NO_TRANSACTION) => Judgement::Declined {
                code: "test_mode".to_owned(),
                reason: "The account is in test mode: nothing was charged.".to_owned(),
            },
            // Only part of the amount was approved, which was not asked for.
            (Some("4"), codes::PARTLY_APPROVED, _) => Judgement::Unclear(UnknownReason::Contradiction),
            (Some("4"), _, Some(transaction)) => Judgement::Held { transaction },
            (Some("3"), codes::DUPLICATE, original) => Judgement::Duplicate { original },
            (Some("2" | "3"), codes::ALREADY_VOIDED | codes::ALREADY_CAPTURED, _) => {
                Judgement::AlreadyDone { code: code.to_owned() }
            }
            (Some("2" | "3"), _, _) => Judgement::declined(code, words),
            (None, code, _) if codes::is_refusal_before_processing(code) => Judgement::declined(code, words),
            // Also an approval whose id is not there or cannot be read: the card may be charged.
            _ => Judgement::Unclear(UnknownReason::Malformed),
        }
    }

    fn auth_code(&self) -> Option<String> {
        self.transaction_response.as_ref()?.auth_code.as_str().map(str::to_owned)
    }
}

impl Judgement {
    fn declined(code: &str, words: &str) -> Self {
        /// Longer words are a schema error that quotes half the request.
        const REASON_CHARACTERS_MAX: usize = 300;
        Self::Declined { code: code.to_owned(), reason: words.chars().take(REASON_CHARACTERS_MAX).collect() }
    }
}

/// `getTransactionDetailsResponse`.
#[derive(Debug, Deserialize)]
pub(super) struct DetailsReply {
    #[serde(default)]
    transaction: Option<Details>,
    messages: Messages,
}

/// One transaction as the gateway shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Details {
    #[serde(default)]
    pub(super) trans_id: Text,
    #[serde(default)]
    pub(super) transaction_status: Text,
    #[serde(default)]
    pub(super) auth_code: Text,
    #[serde(default)]
    pub(super) auth_amount: Text,
    #[serde(default)]
    pub(super) settle_amount: Text,
    #[serde(default)]
    order: Option<OrderDetails>,
    #[serde(default)]
    payment: Option<PaymentDetails>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderDetails {
    #[serde(default)]
    invoice_number: Text,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PaymentDetails {
    #[serde(default)]
    credit_card: Option<CardDetails>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CardDetails {
    #[serde(default)]
    card_number: Text,
}

impl Details {
    pub(super) fn invoice_number(&self) -> Option<&str> {
        self.order.as_ref()?.invoice_number.as_str()
    }

    pub(super) fn card_last4(&self) -> Option<&str> {
        let masked = self.payment.as_ref()?.credit_card.as_ref()?.card_number.as_str()?;
        masked.len().checked_sub(4).and_then(|start| masked.get(start..))
    }
}

impl Answer for DetailsReply {
    fn is_busy(&self) -> bool {
        self.transaction.is_none() && self.messages.is_busy()
    }
}

impl DetailsReply {
    /// `None` when there is no such transaction.
    pub(super) fn into_details(self) -> Result<Option<Details>, UnknownReason> {
        match self.transaction {
            Some(details) => Ok(Some(details)),
            None if self.messages.code() == Some(codes::NOT_FOUND) => Ok(None),
            None => Err(UnknownReason::Malformed),
        }
    }
}

/// One page of `getUnsettledTransactionListResponse` or `getTransactionListResponse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListReply {
    #[serde(default)]
    transactions: Option<Vec<Summary>>,
    #[serde(default)]
    total_num_in_result_set: Text,
    messages: Messages,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    #[serde(default)]
    pub(super) trans_id: Text,
    #[serde(default, rename = "submitTimeUTC")]
    pub(super) submit_time_utc: Text,
    #[serde(default)]
    pub(super) transaction_status: Text,
    #[serde(default)]
    pub(super) invoice_number: Text,
}

impl Answer for ListReply {
    fn is_busy(&self) -> bool {
        self.messages.is_busy()
    }
}

impl ListReply {
    pub(super) fn total(&self) -> Option<u64> {
        self.total_num_in_result_set.as_str()?.parse().ok()
    }

    /// No records (I00004) is an empty page; any other reply without a list is no answer.
    pub(super) fn into_transactions(self) -> Result<Vec<Summary>, UnknownReason> {
        match (self.transactions, self.messages.code()) {
            (Some(transactions), _) => Ok(transactions),
            (None, Some(codes::NO_RECORDS | codes::SUCCESSFUL)) => Ok(Vec::new()),
            (None, _) => Err(UnknownReason::Malformed),
        }
    }
}

/// `getSettledBatchListResponse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchesReply {
    #[serde(default)]
    batch_list: Option<Vec<Batch>>,
    messages: Messages,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    #[serde(default)]
    pub(super) batch_id: Text,
}

impl Answer for BatchesReply {
    fn is_busy(&self) -> bool {
        self.messages.is_busy()
    }
}

impl BatchesReply {
    pub(super) fn into_batches(self) -> Result<Vec<Batch>, UnknownReason> {
        match (self.batch_list, self.messages.code()) {
            (Some(batches), _) => Ok(batches),
            (None, Some(codes::NO_RECORDS | codes::SUCCESSFUL)) => Ok(Vec::new()),
            (None, _) => Err(UnknownReason::Malformed),
        }
    }
}

#[cfg(test)]
mod tests;
