//! The routes of payments: wire to domain and back. Decides nothing.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;
use uuid::Uuid;

use super::list::Part;
use super::model::{Done, Occasion, PaymentError};
use super::store::PaymentFilter;
use super::{capture, create, get, list, refund, void, wire};
use crate::app::App;
use crate::clock::Timestamp;
use crate::engine::{KeyClaim, PaymentRecord, Refusal, Side, find_payment};
use crate::http::answer::{self, Delivery};
use crate::http::auth::Caller;
use crate::http::fields::Fields;
use crate::http::idempotency::{self, Asked, KeyedRoute};
use crate::http::limits::Body;
use crate::http::page::{self, Cursor, Query};
use crate::http::path::PathId;
use crate::http::problem::Problem;
use crate::ids::{AccountId, PaymentId};

/// `POST /v1/payments`
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let key = idempotency::required_key_of(&headers)?;
    let fields = Fields::parse(&body)?;
    let claim = claim(&app, caller, wire::CREATE, None, &fields, &key);
    let new = match wire::read_payment(fields, Timestamp::now().to_datetime().date()) {
        Ok(new) => new,
        Err(problem) => return kept_or(&app, claim, problem).await,
    };
    match create::create(&app, caller.merchant, claim.clone(), new).await {
        Err(error @ PaymentError::RailUnavailable(_)) => {
            kept_or(&app, claim, problem_of(error, wire::CREATE)).await
        }
        done => done.map(respond).map_err(|error| problem_of(error, wire::CREATE)),
    }
}

/// The answer that was kept under the key when the same request was still acceptable: a card expires, a rail is switched
/// off, and the key must go on answering. Else the problem.
async fn kept_or(app: &Arc<App>, claim: KeyClaim, problem: Problem) -> Result<Response, Problem> {
    let known = create::known(app, &claim).await.map_err(|error| problem_of(error, wire::CREATE))?;
    let Some(reply) = known else { return Err(problem) };
    let done = create::finish(app, reply, None, Instant::now()).await;
    done.map(respond).map_err(|error| problem_of(error, wire::CREATE))
}

/// `POST /v1/payments/{id}/capture`
pub async fn capture(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::CAPTURE, &id, &headers, &body).await?;
    let amount = wire::read_optional_amount(fields)?;
    let done = capture::capture(&app, claim, payment, amount).await;
    done.map(respond).map_err(|error| problem_of(error, wire::CAPTURE))
}

/// `POST /v1/payments/{id}/void`
pub async fn void(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::VOID, &id, &headers, &body).await?;
    fields.finish()?;
    let done = void::void(&app, claim, payment).await;
    done.map(respond).map_err(|error| problem_of(error, wire::VOID))
}

/// `POST /v1/payments/{id}/refunds`
pub async fn refund(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::REFUND, &id, &headers, &body).await?;
    let amount = wire::read_optional_amount(fields)?;
    let done = refund::refund(&app, claim, payment, amount).await;
    done.map(respond).map_err(|error| problem_of(error, wire::REFUND))
}

/// What the three changes of an existing payment share: the key, the payment from the primary, the body's fields.
async fn change(
    app: &App,
    caller: Caller,
    route: KeyedRoute,
    id: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(KeyClaim, PaymentRecord, Fields), Problem> {
    let key = idempotency::required_key_of(headers)?;
    let id: PaymentId = id.parse().map_err(|_| Problem::not_found("payment"))?;
    // These routes take a body without fields, and no body at all means the same.
    let fields = if body.is_empty() { Fields::none(String::new()) } else { Fields::parse(body)? };
    let claim = claim(app, caller, route, Some(id.0), &fields, &key);
    let read = async {
        let connection = app.db.write().await?;
        find_payment(&connection, caller.merchant.0, id.0).await
    };
    let payment = read.await.map_err(|error| {
        tracing::error!(?error, "find payment");
        Problem::unavailable("The payment cannot be read now. Nothing was done.")
    })?;
    Ok((claim, payment.ok_or_else(|| Problem::not_found("payment"))?, fields))
}

pub(super) fn claim(
    app: &App,
    caller: Caller,
    route: KeyedRoute,
    path: Option<Uuid>,
    fields: &Fields,
    key: &str,
) -> KeyClaim {
    let secret = app.config.security.fingerprint_key.expose().as_bytes();
    Asked { merchant_id: caller.merchant.0, route, path, fields, secret }.claim(key)
}

pub(super) fn respond(done: Done) -> Response {
    let delivery = match done.occasion {
        Occasion::First => Delivery::First,
        Occasion::Replay => Delivery::Replay,
    };
    answer::written(done.answer, delivery, done.token)
}

/// `GET /v1/payments/{id}`
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id: PaymentId = id.parse().map_err(|_| Problem::not_found("payment"))?;
    let mut query = Query::parse(query.as_deref())?;
    let names: Option<String> = query.take("fields")?;
    query.finish()?;
    let token = answer::token_of(&headers)?;
    let found = get::get(&app, caller.merchant, id, token).await;
    let document = found?.ok_or_else(|| Problem::not_found("payment"))?;
    let body = match names {
        Some(names) => get::narrow(&document.body, &names).ok_or_else(Problem::internal)?,
        None => Bytes::copy_from_slice(&document.body),
    };
    if !app.config.http.etag_enabled {
        return Ok(answer::json(StatusCode::OK, body));
    }
    Ok(answer::conditional(&headers, &document.etag, body))
}

const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");
const PAGE: HeaderName = HeaderName::from_static("x-page");
const SIZE: HeaderName = HeaderName::from_static("x-size");

/// `GET /v1/payments`
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref())?;
    let filter = PaymentFilter {
        status: query.take("status")?,
        rail: query.take("rail")?,
        currency: query.take("currency")?,
        merchant_reference: query.take("merchant_reference")?,
        account: query.take::<AccountId>("account")?.map(|id| id.0),
        since: query.take::<Timestamp>("created_from")?,
        until: query.take::<Timestamp>("created_to")?,
    };
    let part = read_part(&mut query)?;
    query.finish()?;
    let token = answer::token_of(&headers)?;
    let page = list::list(&app, caller.merchant, &filter, part, token).await.map_err(|error| {
        tracing::error!(?error, "list payments");
        Problem::unavailable("The payments cannot be read now.")
    })?;
    let rows: Vec<Bytes> = page.rows.iter().map(wire::render).collect();
    let next = page.next.map(|id| Cursor(id.as_u128()));
    let body = answer::list_body(&rows, next);
    let mut response = answer::json_streamed(body, app.config.http.streaming_threshold_bytes);
    if let (Part::Page { number, size }, Some(total)) = (part, page.total) {
        for (name, value) in [(TOTAL_COUNT, total), (PAGE, number), (SIZE, size)] {
            response.headers_mut().insert(name, HeaderValue::from(value));
        }
    }
    Ok(response)
}

fn read_part(query: &mut Query) -> Result<Part, Problem> {
    if !query.has("page") && !query.has("size") {
        let below = query.take::<Cursor>("cursor")?.map(|cursor| Uuid::from_u128(cursor.0));
        return Ok(Part::After { below, limit: query.rows("limit")? });
    }
    let (number, size) = (query.take::<i64>("page")?.unwrap_or(1), query.rows("size")?);
    if number < 1 || number.saturating_mul(size) > page::DEPTH_MAX {
        let detail =
            format!("must be at least 1 and reach at most {} rows deep; use \"cursor\"", page::DEPTH_MAX);
        return Err(page::invalid("page", &detail));
    }
    Ok(Part::Page { number, size })
}

/// What a payment error means over HTTP. One code has one status.
#[must_use]
pub fn problem_of(error: PaymentError, route: KeyedRoute) -> Problem {
    match error {
        PaymentError::Engine(error) => error.into(),
        PaymentError::InProgress => idempotency::in_progress(),
        PaymentError::RailUnavailable(rail) => {
            let detail = format!("The rail \"{}\" is not configured on this service.", rail.as_str());
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "rail_unavailable", detail).at("/rail")
        }
        PaymentError::Refused(refusal) => problem_of_refusal(&refusal, route),
    }
}

fn problem_of_refusal(refusal: &Refusal, route: KeyedRoute) -> Problem {
    let unprocessable = |code, detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
    let pointer = |side: &Side| match side {
        Side::From => "/from",
        Side::To => "/to",
    };
    match refusal {
        Refusal::KeyReused(field) => idempotency::reused(route, *field),
        Refusal::AccountNotFound(side) => {
            unprocessable("account_not_found", "No such account of this merchant.").at(pointer(side))
        }
        Refusal::AccountClosed(side) => {
            unprocessable("account_closed", "The account is closed.").at(pointer(side))
        }
        Refusal::CurrencyMismatch(side) => {
            unprocessable("currency_mismatch", "The account has another currency.").at(pointer(side))
        }
        Refusal::SameAccount => {
            unprocessable("same_account", "Sender and receiver are the same account.").at("/to")
        }
        Refusal::PaymentNotFound => Problem::not_found("payment"),
        Refusal::WrongState(status) => {
            let detail = format!("The payment is {}: this cannot be done now.", status.as_str());
            Problem::new(StatusCode::CONFLICT, "wrong_state", detail)
        }
        Refusal::MoreThanLeft(left) => {
            unprocessable("amount_out_of_range", &format!("At most {left} minor units are left."))
                .at("/amount")
        }
        Refusal::InsufficientFunds => {
            unprocessable("insufficient_funds", "The receiver's available balance is less than the refund.")
        }
        Refusal::LimitExceeded => unprocessable("limit_exceeded", "A balance would pass its bound."),
        Refusal::WouldFail(failure) => unprocessable(failure.as_str(), "The payment would fail."),
        Refusal::StaleFence => idempotency::in_progress(),
    }
}
