//! The routes of the ledger: an account's entries and the trial balance. Decides nothing.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use paystrata_db::{Connection, Error};
use serde::Serialize;
use uuid::Uuid;

use super::store::{EntrySide, list_entries, owner_of, sum_balances};
use crate::app::App;
use crate::clock::Timestamp;
use crate::http::answer;
use crate::http::auth::Caller;
use crate::http::page::{Cursor, Query};
use crate::http::path::PathId;
use crate::http::problem::Problem;
use crate::ids::{self, AccountId, EntryId, PaymentId};
use crate::money::Currency;

#[derive(Serialize)]
struct EntryBody {
    id: String,
    object: &'static str,
    payment: Option<String>,
    account: String,
    amount: i64,
    balance_after: i64,
    created_at: String,
}

/// `GET /v1/accounts/{id}/entries`
pub async fn entries(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let account: AccountId = id.parse().map_err(|_| Problem::not_found("account"))?;
    let mut query = Query::parse(query.as_deref())?;
    let before = query
        .take::<Cursor>("cursor")?
        .map_or(i64::MAX, |cursor| i64::try_from(cursor.0).unwrap_or(i64::MAX));
    let limit = query.rows("limit")?;
    query.finish()?;
    let token = answer::token_of(&headers)?;
    // One more than asked tells whether there is a next page.
    let read = |connection: Arc<Connection>| async move {
        read_entries(&connection, account, before, limit + 1).await
    };
    let found = async {
        let found = app.db.read_with(token, read).await?;
        if found.is_some() {
            return Ok(found);
        }
        // The token may tell of an older write, and the replica may not have replayed this one's: only the primary can
        // say that there is no such account.
        read_entries(&app.db.write().await?, account, before, limit + 1).await
    };
    let found = found.await.map_err(|error: Error| {
        tracing::error!(?error, "list entries");
        Problem::unread(&error, "The entries cannot be read now.")
    })?;
    let Some((_, mut rows)) = found.filter(|(owner, _)| *owner == caller.merchant.0) else {
        return Err(Problem::not_found("account"));
    };
    let asked = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > asked;
    rows.truncate(asked);
    let next =
        rows.last().filter(|_| has_more).map(|row| Cursor(u128::try_from(row.seq).unwrap_or_default()));
    let bodies: Vec<Bytes> = rows.iter().map(|row| render(account, row)).collect();
    Ok(answer::json_streamed(answer::list_body(&bodies, next), app.config.http.streaming_threshold_bytes))
}

/// The account's owner and a page of its entries; `None` where this node knows no such account.
async fn read_entries(
    connection: &Connection,
    account: AccountId,
    before: i64,
    limit: i64,
) -> Result<Option<(Uuid, Vec<EntrySide>)>, Error> {
    let Some(owner) = owner_of(connection, account.0).await? else { return Ok(None) };
    Ok(Some((owner, list_entries(connection, account.0, before, limit).await?)))
}

fn render(account: AccountId, row: &EntrySide) -> Bytes {
    let body = EntryBody {
        id: EntryId(side_id(row)).to_string(),
        object: "entry",
        payment: row.payment_id.map(|id| PaymentId(id).to_string()),
        account: account.to_string(),
        amount: row.amount,
        balance_after: row.balance_after,
        created_at: Timestamp::from_ms(ids::created_ms(row.id)).to_string(),
    };
    serde_json::to_vec(&body).expect("strings and numbers are always JSON").into()
}

/// The two sides of a double entry share an id but for the last bit, which is set on the credit.
fn side_id(row: &EntrySide) -> Uuid {
    let pair = row.id.as_u128() & !1;
    Uuid::from_u128(if row.amount > 0 { pair | 1 } else { pair })
}

#[derive(Serialize)]
struct TrialBody {
    object: &'static str,
    data: Vec<TrialLineBody>,
    as_of: String,
}

#[derive(Serialize)]
struct TrialLineBody {
    currency: &'static str,
    debits: i128,
    credits: i128,
    difference: i128,
}

/// `GET /v1/ledger/trial-balance`: read from the primary, because a sum that is asked for as proof must be the last one.
pub async fn trial_balance(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Query::parse(query.as_deref())?.finish()?;
    let as_of = Timestamp::now();
    let unavailable = |error: Error| {
        tracing::error!(?error, "sum balances");
        Problem::unavailable("The ledger cannot be read now.")
    };
    let connection = app.db.write().await.map_err(unavailable)?;
    let lines = sum_balances(&connection, caller.merchant.0).await.map_err(unavailable)?;
    let mut data = Vec::with_capacity(lines.len());
    for line in lines {
        let Ok(currency) = Currency::from_numeric(line.currency) else {
            tracing::error!(line.currency, "sum balances: unknown currency");
            return Err(Problem::internal());
        };
        let (debits, credits, difference) = (line.debits, line.credits, line.difference);
        data.push(TrialLineBody { currency: currency.code(), debits, credits, difference });
    }
    let body = TrialBody { object: "trial_balance", data, as_of: as_of.to_string() };
    Ok(answer::json(StatusCode::OK, serde_json::to_vec(&body).expect("strings and numbers are always JSON")))
}
