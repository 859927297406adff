//! The routes of payments: wire to domain and back. Decides nothing.

pub(super) mod refusal;

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::refusal::problem_of;
use super::create::Means;
use super::list::Part;
use super::model::{Done, Occasion, PaymentError};
use super::store::PaymentFilter;
use super::wire::Unfit;
use super::{capture, create, get, list, refund, void, wire};
use crate::app::App;
use crate::clock::Timestamp;
use crate::engine::{KeyClaim, PaymentRecord, find_payment};
use crate::http::answer::{self, Delivery};
use crate::http::auth::Caller;
use crate::http::fields::Fields;
use crate::http::idempotency::{self, Asked, KeyedRoute};
use crate::http::limits::Body;
use crate::http::page::{self, Cursor, Query};
use crate::http::path::PathId;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::ids::{AccountId, PaymentId};

/// `POST /v1/payments`
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let key = idempotency::required_key_of(&headers)?;
    let fields = Fields::parse(&body)?;
    let claim = claim(&app, caller, wire::CREATE, None, &fields, &key)
        .keeping(refusal::kept(wire::CREATE, request_id.0));
    let new = match wire::read_payment(fields, Timestamp::now().to_datetime().date()) {
        Ok(new) => new,
        Err(Unfit::Ever(problem)) => return Err(problem),
        Err(Unfit::Now(problem)) => return kept_or(&app, &claim, wire::CREATE, problem).await,
    };
    let done = create::create(&app, caller.merchant, claim.clone(), new).await;
    answered(&app, &claim, wire::CREATE, done).await
}

/// The answer, or what was answered before, or the problem.
async fn answered(
    app: &Arc<App>,
    claim: &KeyClaim,
    route: KeyedRoute,
    done: Result<Done, PaymentError>,
) -> Result<Response, Problem> {
    let done = create::or_kept(app, claim, done).await;
    done.map(respond).map_err(|error| problem_of(error, route))
}

/// The answer that was kept under the key when the same request was still acceptable: a card expires, and the key must go
/// on answering. Else the problem; while the key cannot be asked, neither: the card may have been charged.
async fn kept_or(
    app: &Arc<App>,
    claim: &KeyClaim,
    route: KeyedRoute,
    problem: Problem,
) -> Result<Response, Problem> {
    let known = create::known(app, claim).await.map_err(|error| problem_of(error, route))?;
    let Some(reply) = known else { return Err(problem) };
    let done = create::finish(app, reply, Means::default(), Instant::now()).await;
    done.map(respond).map_err(|error| problem_of(error, route))
}

/// `POST /v1/payments/{id}/capture`
pub async fn capture(
    State(app): State<Arc<App>>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::CAPTURE, &id, &headers, &body).await?;
    let claim = claim.keeping(refusal::kept(wire::CAPTURE, request_id.0));
    let amount = wire::read_optional_amount(fields)?;
    let done = capture::capture(&app, claim.clone(), payment, amount).await;
    answered(&app, &claim, wire::CAPTURE, done).await
}

/// `POST /v1/payments/{id}/void`
pub async fn void(
    State(app): State<Arc<App>>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::VOID, &id, &headers, &body).await?;
    let claim = claim.keeping(refusal::kept(wire::VOID, request_id.0));
    fields.finish()?;
    let done = void::void(&app, claim.clone(), payment).await;
    answered(&app, &claim, wire::VOID, done).await
}

/// `POST /v1/payments/{id}/refunds`
pub async fn refund(
    State(app): State<Arc<App>>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    PathId(id): PathId,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (claim, payment, fields) = change(&app, caller, wire::REFUND, &id, &headers, &body).await?;
    let claim = claim.keeping(refusal::kept(wire::REFUND, request_id.0));
    let amount = wire::read_optional_amount(fields)?;
    let done = refund::refund(&app, claim.clone(), payment, amount).await;
    answered(&app, &claim, wire::REFUND, done).await
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
    let etag = app.config.http.etag_enabled.then_some(&*document.etag);
    Ok(answer::document(&headers, etag, body))
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
        Problem::unread(&error, "The payments cannot be read now.")
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
