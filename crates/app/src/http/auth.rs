//! Authentication: `Authorization: Bearer <key>` to a merchant. Knows keys only long enough to digest them.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{StatusCode, header};

use super::problem::Problem;
use crate::app::App;
use crate::ids::MerchantId;

/// The merchant that calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Owner of everything the request may name.
    pub merchant: MerchantId,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = header.and_then(|text| {
            let (scheme, key) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return Err(unauthorized("This request needs an \"Authorization: Bearer <key>\" header."));
        };
        let merchant = app.keys.merchant_of(&app.db, key).await.map_err(|error| {
            tracing::error!(?error, "check api key");
            Problem::unavailable("The key cannot be checked now.")
        })?;
        merchant.map(|merchant| Self { merchant }).ok_or_else(|| unauthorized("This key is not valid."))
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).at("Authorization")
}
