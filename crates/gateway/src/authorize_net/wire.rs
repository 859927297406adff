//! Requests as Authorize.Net wants them: the order of fields here is the order of `AnetApiSchema.xsd`, and a wrong
//! order is refused with E00003. Holds borrowed secrets for the moment of serialising; derives no `Debug`.

use serde::Serialize;

use crate::{
    amount::Amount,
    card::Card,
    request::{Charge, Method},
};

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Credentials<'a> {
    pub(super) name: &'a str,
    pub(super) transaction_key: &'a str,
}

/// The root key selects the method.
#[derive(Serialize)]
pub(super) enum Envelope<'a> {
    #[serde(rename = "createTransactionRequest", rename_all = "camelCase")]
    Create {
        merchant_authentication: Credentials<'a>,
        ref_id: &'a str,
        transaction_request: &'a Transaction<'a>,
    },
    #[serde(rename = "getTransactionDetailsRequest", rename_all = "camelCase")]
    Details { merchant_authentication: Credentials<'a>, trans_id: &'a str },
    #[serde(rename = "getUnsettledTransactionListRequest", rename_all = "camelCase")]
    Unsettled { merchant_authentication: Credentials<'a>, sorting: Sorting, paging: Paging },
    #[serde(rename = "getSettledBatchListRequest", rename_all = "camelCase")]
    Batches {
        merchant_authentication: Credentials<'a>,
        first_settlement_date: &'a str,
        last_settlement_date: &'a str,
    },
    #[serde(rename = "getTransactionListRequest", rename_all = "camelCase")]
    Batch { merchant_authentication: Credentials<'a>, batch_id: &'a str, sorting: Sorting, paging: Paging },
}

impl<'a> Envelope<'a> {
    pub(super) fn create(
        merchant_authentication: Credentials<'a>,
        ref_id: &'a str,
        transaction_request: &'a Transaction<'a>,
    ) -> Self {
        Self::Create { merchant_authentication, ref_id, transaction_request }
    }

    pub(super) fn details(merchant_authentication: Credentials<'a>, trans_id: &'a str) -> Self {
        Self::Details { merchant_authentication, trans_id }
    }
}

/// Newest first, so that a recent attempt is found on the first page.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sorting {
    order_by: &'static str,
    order_descending: bool,
}

impl Sorting {
    pub(super) const NEWEST_FIRST: Self = Self { order_by: "submitTimeUTC", order_descending: true };
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Paging {
    pub(super) limit: usize,
    /// The number of the page, from 1.
    pub(super) offset: usize,
}

/// `transactionRequestType`; absent parts are left out, present ones keep the schema's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Transaction<'a> {
    transaction_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ref_trans_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Order<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bill_to: Option<Address<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_settings: Option<Settings>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Payment<'a> {
    #[serde(rename_all = "camelCase")]
    CreditCard {
        card_number: &'a str,
        expiration_date: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        card_code: Option<&'a str>,
    },
    #[serde(rename_all = "camelCase")]
    OpaqueData { data_descriptor: &'a str, data_value: &'a str },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    invoice_number: &'a str,
}

#[derive(Serialize)]
struct Address<'a> {
    zip: &'a str,
}

#[derive(Serialize)]
struct Settings {
    setting: [Setting; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Setting {
    setting_name: &'static str,
    setting_value: &'static str,
}

/// 8 hours, the most there is. Given explicitly, the duplicate's reply also carries the original's transId.
const DUPLICATE_WINDOW: Settings =
    Settings { setting: [Setting { setting_name: "duplicateWindow", setting_value: "28800" }] };

impl<'a> Transaction<'a> {
    fn of(transaction_type: &'static str) -> Self {
        Self {
            transaction_type,
            amount: None,
            currency_code: None,
            payment: None,
            ref_trans_id: None,
            order: None,
            bill_to: None,
            transaction_settings: None,
        }
    }

    fn moving(transaction_type: &'static str, amount: Amount) -> Self {
        Self {
            amount: Some(amount.to_decimal_text()),
            currency_code: Some(amount.currency().code().to_owned()),
            ..Self::of(transaction_type)
        }
    }

    /// A charge; `None` for a method this gateway does not have.
    pub(super) fn charge(transaction_type: &'static str, charge: &'a Charge) -> Option<Self> {
        let (payment, zip) = match &charge.method {
            Method::Card(card) => (Payment::of(card), card.billing_zip()),
            Method::Token { descriptor, value } => {
                (Payment::OpaqueData { data_descriptor: descriptor, data_value: value.expose() }, None)
            }
            Method::Accounts { .. } => return None,
        };
        Some(Self {
            payment: Some(payment),
            order: Some(Order { invoice_number: charge.reference.as_str() }),
            bill_to: zip.map(|zip| Address { zip: zip.expose() }),
            transaction_settings: Some(DUPLICATE_WINDOW),
            ..Self::moving(transaction_type, charge.amount)
        })
    }

    pub(super) fn capture(parent: &'a str, amount: Amount) -> Self {
        Self { ref_trans_id: Some(parent), ..Self::moving("priorAuthCaptureTransaction", amount) }
    }

    pub(super) fn void(parent: &'a str) -> Self {
        Self { ref_trans_id: Some(parent), ..Self::of("voidTransaction") }
    }

    pub(super) fn refund(parent: &'a str, amount: Amount, last4: &'a str, reference: &'a str) -> Self {
        Self {
            payment: Some(Payment::CreditCard {
                card_number: last4,
                expiration_date: "XXXX",
                card_code: None,
            }),
            ref_trans_id: Some(parent),
            order: Some(Order { invoice_number: reference }),
            transaction_settings: Some(DUPLICATE_WINDOW),
            ..Self::moving("refundTransaction", amount)
        }
    }
}

impl<'a> Payment<'a> {
    fn of(card: &'a Card) -> Self {
        Self::CreditCard {
            card_number: card.number().expose(),
            expiration_date: card.expiration(),
            card_code: card.code().map(|code| code.expose()),
        }
    }
}
