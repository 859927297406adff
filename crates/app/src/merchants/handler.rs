//! `GET /v1/merchants/{id}/stats`: totals by currency and status, from the materialized view, with their age.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::store::read_stats;
use crate::app::App;
use crate::engine::PaymentStatus;
use crate::http::answer;
use crate::http::auth::Caller;
use crate::http::page::Query;
use crate::http::path::PathId;
use crate::http::problem::Problem;
use crate::ids::MerchantId;
use crate::money::Currency;

#[derive(Serialize)]
struct StatsBody {
    merchant: String,
    object: &'static str,
    as_of: String,
    data: Vec<StatsLine>,
}

#[derive(Serialize)]
struct StatsLine {
    currency: &'static str,
    status: &'static str,
    payments: i64,
    amount: i64,
    captured: i64,
    refunded: i64,
}

/// The route. `me` stands for the caller.
pub async fn stats(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(query.as_deref())?.finish()?;
    let asked: Option<MerchantId> = if id == "me" { Some(caller.merchant) } else { id.parse().ok() };
    if asked != Some(caller.merchant) {
        return Err(Problem::not_found("merchant"));
    }
    let token = answer::token_of(&headers)?;
    let merchant = caller.merchant.0;
    let read = app.db.read_with(token, |connection| async move { read_stats(&connection, merchant).await });
    let (rows, as_of) = read.await.map_err(|error: paystrata_db::Error| {
        tracing::error!(?error, "read merchant stats");
        Problem::unread(&error, "The statistics cannot be read now.")
    })?;
    let mut data = Vec::with_capacity(rows.len());
    for row in rows {
        let (Ok(currency), Ok(status)) =
            (Currency::from_numeric(row.currency), PaymentStatus::from_code(row.status))
        else {
            tracing::error!(row.currency, row.status, "read merchant stats: unknown code");
            return Err(Problem::internal());
        };
        data.push(StatsLine {
            currency: currency.code(),
            status: status.as_str(),
            payments: row.payments,
            amount: row.amount,
            captured: row.captured,
            refunded: row.refunded,
        });
    }
    let body = StatsBody {
        merchant: caller.merchant.to_string(),
        object: "merchant_stats",
        as_of: as_of.to_string(),
        data,
    };
    Ok(answer::json(StatusCode::OK, serde_json::to_vec(&body).expect("strings and numbers are always JSON")))
}
