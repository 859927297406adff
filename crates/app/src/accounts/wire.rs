//! Accounts as JSON: what a request may hold, and how an account is shown. The only file that knows field names.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::engine::{AccountRecord, OpenAccount};
use crate::http::fields::{Fields, out_of_range};
use crate::http::idempotency::KeyedRoute;
use crate::http::problem::Problem;
use crate::ids::{self, AccountId, MerchantId};
use crate::money::{AMOUNT_MAX, Amount, Currency};

/// The route as idempotency keys know it.
pub const CREATE: KeyedRoute = KeyedRoute {
    name: "POST /v1/accounts",
    fields: &["currency", "customer", "kind", "overdraft_limit", "opening_balance", "metadata"],
};

/// What an account is unless told otherwise.
const KIND_DEFAULT: &str = "standard";
/// The service's own.
const KIND_RESERVED: &str = "external";

/// Reads the body of `POST /v1/accounts`.
///
/// # Errors
/// The first field at fault.
pub fn read_open(mut fields: Fields, merchant: MerchantId) -> Result<OpenAccount, Problem> {
    let currency: Currency = fields.required_text("currency")?;
    let kind: String = fields.text("kind")?.unwrap_or_else(|| KIND_DEFAULT.to_owned());
    if kind == KIND_RESERVED {
        return Err(Problem::invalid(fields.pointer("kind"), "is reserved for the service's own accounts"));
    }
    let overdraft_limit = fields.integer("overdraft_limit")?.unwrap_or(0);
    if !(0..=AMOUNT_MAX).contains(&overdraft_limit) {
        let detail = format!("must be from 0 to {AMOUNT_MAX} minor units");
        return Err(out_of_range(fields.pointer("overdraft_limit"), &detail));
    }
    let opening_balance = match fields.integer("opening_balance")? {
        None | Some(0) => None,
        Some(balance) => {
            let amount = Amount::new(balance);
            Some(
                amount
                    .map_err(|error| out_of_range(fields.pointer("opening_balance"), &error.to_string()))?,
            )
        }
    };
    let open = OpenAccount {
        id: AccountId::new().0,
        merchant_id: merchant.0,
        currency,
        overdraft_limit,
        opening_balance,
        kind,
        customer: fields.text("customer")?,
        metadata: fields.metadata("metadata")?,
    };
    fields.finish()?;
    Ok(open)
}

#[derive(Serialize)]
struct AccountBody<'account> {
    id: String,
    object: &'static str,
    currency: &'static str,
    status: &'static str,
    kind: &'account str,
    customer: Option<&'account str>,
    overdraft_limit: i64,
    balance: BalanceBody,
    metadata: &'account RawValue,
    created_at: String,
}

#[derive(Serialize)]
struct BalanceBody {
    posted: i64,
    held: i64,
    available: i64,
}

/// An account as the API shows it.
#[must_use]
pub fn render(account: &AccountRecord) -> Bytes {
    let metadata = account.metadata.as_deref().unwrap_or("{}");
    let body = AccountBody {
        id: AccountId(account.id).to_string(),
        object: "account",
        currency: account.currency.code(),
        status: account.status.as_str(),
        kind: &account.kind,
        customer: account.customer.as_deref(),
        overdraft_limit: account.overdraft_limit,
        balance: BalanceBody {
            posted: account.posted,
            held: account.held,
            available: account.posted - account.held,
        },
        metadata: serde_json::from_str(metadata).expect("metadata was read as JSON before it was stored"),
        created_at: Timestamp::from_ms(ids::created_ms(account.id)).to_string(),
    };
    serde_json::to_vec(&body).expect("strings, numbers and JSON text are always JSON").into()
}
