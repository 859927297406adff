//! The routes of accounts: wire to domain and back. Decides nothing.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::{create, get, list, store::AccountFilter, wire};
use crate::app::App;
use crate::engine::{Answer, Decision, KeepRefusal, Refusal};
use crate::http::answer::{self, Delivery};
use crate::http::auth::Caller;
use crate::http::fields::Fields;
use crate::http::idempotency::{self, Asked};
use crate::http::limits::Body;
use crate::http::page::{Cursor, Query};
use crate::http::path::PathId;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::ids::AccountId;

/// `POST /v1/accounts`
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let fields = Fields::parse(&body)?;
    let claim = idempotency::key_of(&headers)?.map(|key| {
        let secret = app.config.security.fingerprint_key.expose().as_bytes();
        let asked = Asked {
            merchant_id: caller.merchant.0,
            route: wire::CREATE,
            path: None,
            fields: &fields,
            secret,
        };
        asked.claim(&key).keeping(kept(request_id.0))
    });
    let open = wire::read_open(fields, caller.merchant)?;
    // An opening balance moves money: opened twice for one wish, it would be there twice.
    if claim.is_none() && open.opening_balance.is_some() {
        return Err(idempotency::missing());
    }
    let reply = create::create(&app, claim, open).await?;
    match reply.decision {
        Decision::Answered(answer) | Decision::RefusalKept(answer) => {
            Ok(answer::written(answer, Delivery::First, reply.token))
        }
        Decision::Replayed(answer) => Ok(answer::written(answer, Delivery::Replay, reply.token)),
        Decision::Refused(Refusal::KeyReused(field)) => Err(idempotency::reused(wire::CREATE, field)),
        Decision::Refused(refusal) => Err(problem_of(&refusal)),
        // Opening an account is answered in the commit that opens it.
        _ => Err(idempotency::in_progress()),
    }
}

/// The only refusal besides a reused key: the external account cannot give the opening balance.
fn problem_of(refusal: &Refusal) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "limit_exceeded", refusal.to_string())
        .at("/opening_balance")
}

/// As it is kept under the key: the id of the request that was refused is part of the bytes.
fn kept(request_id: String) -> KeepRefusal {
    KeepRefusal::new(move |refusal| {
        let problem = problem_of(refusal);
        let status_code = problem.status.as_u16();
        Answer { status_code, body: problem.body(&request_id).into(), payment: None }
    })
}

/// `GET /v1/accounts/{id}`
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id: AccountId = id.parse().map_err(|_| Problem::not_found("account"))?;
    Query::parse(query.as_deref())?.finish()?;
    let token = answer::token_of(&headers)?;
    let document = get::get(&app, caller.merchant, id, token).await?;
    let document = document.ok_or_else(|| Problem::not_found("account"))?;
    let body = Bytes::copy_from_slice(&document.body);
    let etag = app.config.http.etag_enabled.then_some(&*document.etag);
    Ok(answer::document(&headers, etag, body))
}

/// `GET /v1/accounts`
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref())?;
    let filter = AccountFilter {
        customer: query.take("customer")?,
        kind: query.take("kind")?,
        status: query.take("status")?,
    };
    let before = query.take::<Cursor>("cursor")?.map(|cursor| Uuid::from_u128(cursor.0));
    let limit = query.rows("limit")?;
    query.finish()?;
    let token = answer::token_of(&headers)?;
    let page = list::list(&app, caller.merchant, &filter, before, limit, token).await.map_err(|error| {
        tracing::error!(?error, "list accounts");
        Problem::unread(&error, "The accounts cannot be read now.")
    })?;
    let rows: Vec<Bytes> = page.rows.iter().map(wire::render).collect();
    let next = page.next.map(|id| Cursor(id.as_u128()));
    Ok(answer::json_streamed(answer::list_body(&rows, next), app.config.http.streaming_threshold_bytes))
}
