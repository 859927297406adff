//! Replies of the simulated Authorize.Net in the order of its schema.
//! Text where the real one sends text, numbers where it sends numbers.

use serde::Serialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::simulator::ledger::{Kind, Status, Transaction};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Messages<'a> {
    result_code: &'static str,
    message: [Message<'a>; 1],
}

#[derive(Serialize)]
struct Message<'a> {
    code: &'a str,
    text: &'a str,
}

fn messages<'a>(code: &'a str, text: &'a str) -> Messages<'a> {
    let result_code = if code.starts_with('I') { "Ok" } else { "Error" };
    Messages { result_code, message: [Message { code, text }] }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs always serialise")
}

/// A reply without a transaction.
pub(super) fn envelope(ref_id: Option<&str>, code: &str, text: &str) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        ref_id: Option<&'a str>,
        messages: Messages<'a>,
    }
    json(&Envelope { ref_id, messages: messages(code, text) })
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TransactionResponse {
    pub(super) response_code: &'static str,
    pub(super) auth_code: String,
    pub(super) avs_result_code: String,
    pub(super) cvv_result_code: String,
    pub(super) cavv_result_code: &'static str,
    pub(super) trans_id: String,
    #[serde(rename = "refTransID")]
    pub(super) ref_trans_id: String,
    pub(super) trans_hash: &'static str,
    pub(super) test_request: &'static str,
    pub(super) account_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<[TransactionMessage; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[TransactionError; 1]>,
}

#[derive(Debug, Serialize)]
struct TransactionMessage {
    code: &'static str,
    description: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TransactionError {
    error_code: &'static str,
    error_text: &'static str,
}

impl TransactionResponse {
    /// Refused before it became a transaction.
    pub(super) fn error(code: &'static str, text: &'static str) -> Self {
        let errors = Some([TransactionError { error_code: code, error_text: text }]);
        Self { response_code: "3", trans_id: "0".to_owned(), test_request: "0", errors, ..Self::default() }
    }

    pub(super) fn of(transaction: &Transaction) -> Self {
        let (response_code, messages, errors) = match transaction.status {
            Status::Declined => {
                let text = "This transaction has been declined.";
                ("2", None, Some([TransactionError { error_code: "2", error_text: text }]))
            }
            Status::Held => {
                let description = "Your order has been received. Thank you for your business!";
                ("4", Some([TransactionMessage { code: "252", description }]), None)
            }
            _ => {
                let description = "This transaction has been approved.";
                ("1", Some([TransactionMessage { code: "1", description }]), None)
            }
        };
        Self {
            response_code,
            auth_code: transaction.auth_code.clone(),
            avs_result_code: transaction.avs.clone(),
            cvv_result_code: transaction.cvv.clone(),
            trans_id: transaction.id.to_string(),
            ref_trans_id: transaction.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            test_request: "0",
            account_number: format!("XXXX{}", transaction.last4),
            messages,
            errors,
            ..Self::default()
        }
    }

    /// A capture or void of `parent`: the same id, `code` 1 the first time and 311 or 310 again.
    pub(super) fn of_parent(parent: &Transaction, code: &'static str, description: &'static str) -> Self {
        let messages = Some([TransactionMessage { code, description }]);
        let ref_trans_id = parent.id.to_string();
        Self { response_code: "1", messages, errors: None, ref_trans_id, ..Self::of(parent) }
    }

    pub(super) fn write(&self, ref_id: Option<&str>) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Reply<'a> {
            transaction_response: &'a TransactionResponse,
            #[serde(skip_serializing_if = "Option::is_none")]
            ref_id: Option<&'a str>,
            messages: Messages<'a>,
        }
        let messages = match self.response_code {
            "3" => messages("E00027", "The transaction was unsuccessful."),
            _ => messages("I00001", "Successful."),
        };
        json(&Reply { transaction_response: self, ref_id, messages })
    }
}

pub(super) fn status_text(transaction: &Transaction) -> &'static str {
    match (transaction.status, transaction.kind) {
        (Status::Authorized, _) => "authorizedPendingCapture",
        (Status::Captured, _) => "capturedPendingSettlement",
        (Status::Settled, _) => "settledSuccessfully",
        (Status::Held, Kind::Authorize) => "FDSAuthorizedPendingReview",
        (Status::Held, _) => "FDSPendingReview",
        (Status::Declined, _) => "declined",
        (Status::Voided, _) => "voided",
        (Status::Expired, _) => "expired",
        (Status::RefundPending, _) => "refundPendingSettlement",
        (Status::RefundSettled, _) => "refundSettledSuccessfully",
    }
}

fn number(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("amounts are JSON numbers")
}

fn moment(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).expect("UTC times of this century are RFC 3339")
}

#[derive(Serialize)]
struct DetailsReply<'a> {
    transaction: Details<'a>,
    messages: Messages<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    trans_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ref_trans_id: Option<String>,
    #[serde(rename = "submitTimeUTC")]
    submit_time_utc: String,
    transaction_type: &'static str,
    transaction_status: &'static str,
    response_code: u8,
    response_reason_code: u8,
    auth_code: &'a str,
    #[serde(rename = "AVSResponse")]
    avs_response: &'a str,
    card_code_response: &'a str,
    order: Order<'a>,
    auth_amount: Box<RawValue>,
    settle_amount: Box<RawValue>,
    tax_exempt: bool,
    payment: Payment,
    recurring_billing_specified: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    invoice_number: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    credit_card: CreditCard,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreditCard {
    card_number: String,
    expiration_date: &'static str,
}

pub(super) fn details(transaction: &Transaction) -> String {
    let (response_code, response_reason_code) = match transaction.status {
        Status::Declined => (2, 2),
        Status::Held => (4, 252),
        _ => (1, 1),
    };
    let transaction_type = match transaction.kind {
        Kind::Purchase => "authCaptureTransaction",
        Kind::Authorize => "authOnlyTransaction",
        Kind::Refund => "refundTransaction",
    };
    let settled = transaction.captured.unwrap_or(transaction.amount);
    json(&DetailsReply {
        transaction: Details {
            trans_id: transaction.id.to_string(),
            ref_trans_id: transaction.parent.map(|parent| parent.to_string()),
            submit_time_utc: moment(transaction.submitted_at),
            transaction_type,
            transaction_status: status_text(transaction),
            response_code,
            response_reason_code,
            auth_code: &transaction.auth_code,
            avs_response: &transaction.avs,
            card_code_response: &transaction.cvv,
            order: Order { invoice_number: &transaction.reference },
            auth_amount: number(&transaction.amount.text()),
            settle_amount: number(&settled.text()),
            tax_exempt: false,
            payment: Payment {
                credit_card: CreditCard {
                    card_number: format!("XXXX{}", transaction.last4),
                    expiration_date: "XXXX",
                },
            },
            recurring_billing_specified: false,
        },
        messages: messages("I00001", "Successful."),
    })
}

pub(super) fn list(transactions: &[&Transaction], total: usize) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reply<'a> {
        transactions: Vec<Summary<'a>>,
        total_num_in_result_set: usize,
        messages: Messages<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        trans_id: String,
        #[serde(rename = "submitTimeUTC")]
        submit_time_utc: String,
        transaction_status: &'static str,
        invoice_number: &'a str,
        account_type: &'static str,
        account_number: String,
        settle_amount: Box<RawValue>,
    }
    if transactions.is_empty() {
        return envelope(None, "I00004", "No records found.");
    }
    let summaries = transactions.iter().map(|transaction| Summary {
        trans_id: transaction.id.to_string(),
        submit_time_utc: moment(transaction.submitted_at),
        transaction_status: status_text(transaction),
        invoice_number: &transaction.reference,
        account_type: "Visa",
        account_number: format!("XXXX{}", transaction.last4),
        settle_amount: number(&transaction.captured.unwrap_or(transaction.amount).text()),
    });
    json(&Reply {
        transactions: summaries.collect(),
        total_num_in_result_set: total,
        messages: messages("I00001", "Successful."),
    })
}

pub(super) fn batches(batches: &[(u64, OffsetDateTime)]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reply<'a> {
        batch_list: Vec<Batch>,
        messages: Messages<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Batch {
        batch_id: String,
        #[serde(rename = "settlementTimeUTC")]
        settlement_time_utc: String,
        settlement_state: &'static str,
    }
    if batches.is_empty() {
        return envelope(None, "I00004", "No records found.");
    }
    let batch_list = batches.iter().map(|(id, settled_at)| Batch {
        batch_id: id.to_string(),
        settlement_time_utc: moment(*settled_at),
        settlement_state: "settledSuccessfully",
    });
    json(&Reply { batch_list: batch_list.collect(), messages: messages("I00001", "Successful.") })
}
