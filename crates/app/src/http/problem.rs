//! The one error of the HTTP edge: RFC 9457 `application/problem+json` with `code`, `param`, `request_id` and
//! `retryable`. Holds only what may leave the service; causes are logged where they are handled.

use std::error::Error;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::request_id::{REQUEST_ID, RequestId};
use crate::documents::ReadError;
use crate::engine::EngineError;

/// Seconds a refused caller is asked to wait: long enough for a queue of a few thousand to drain.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An answer that is not a success. `param` is a JSON pointer into the body, or the name of a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable machine word; one code has one status.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// What is at fault.
    pub param: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl Problem {
    /// A problem that stays one however often it is asked.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), param: None, retryable: false }
    }

    /// Names what is at fault.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says that trying again is worth it; the answer carries `Retry-After`.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The body is not what the route takes.
    pub fn invalid(param: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail).at(param)
    }

    /// Nothing of that name belongs to the caller.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("No such {what}."))
    }

    /// No effect, try again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retryable()
    }

    /// A read that failed, past the cache: what the caller's token stands for is lost, or it may be tried again.
    pub fn unread(error: &(dyn Error + 'static), detail: &'static str) -> Self {
        if paystrata_db::is_write_lost(error) { Self::write_lost() } else { Self::unavailable(detail) }
    }

    fn write_lost() -> Self {
        let detail = "A failover of the database has lost this write, or may have. \
                      Read without the token: what is there, is there.";
        Self::new(StatusCode::PRECONDITION_FAILED, "write_lost", detail).at("Paystrata-Token")
    }

    /// Something here is broken; the cause is in the log under the request id.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The service failed to handle this request.")
    }

    /// The body as bytes, for one request.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'problem> {
            r#type: &'static str,
            title: &'problem str,
            status: u16,
            detail: &'problem str,
            code: &'problem str,
            param: Option<&'problem str>,
            request_id: &'problem str,
            retryable: bool,
        }
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            param: self.param.as_deref(),
            request_id,
            retryable: self.retryable,
        };
        serde_json::to_vec(&body).expect("a struct of strings and numbers is always JSON")
    }

    /// A whole HTTP/1.1 answer, after which the connection closes: for where no server speaks yet.
    #[must_use]
    pub fn last_answer(&self, request_id: &RequestId) -> Vec<u8> {
        let RequestId(id) = request_id;
        let body = self.body(id);
        let retry_after =
            if self.retryable { format!("retry-after: {RETRY_AFTER_SECONDS}\r\n") } else { String::new() };
        let mut answer = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\n{retry_after}{REQUEST_ID}: {id}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            self.status,
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&body);
        answer
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded => Self::unavailable("Too many commands are waiting. Nothing was done."),
            EngineError::ShuttingDown => Self::unavailable("The service is shutting down. Nothing was done."),
            EngineError::Unavailable => {
                Self::unavailable("The database cannot be reached. Nothing was done.")
            }
            EngineError::OutcomeUnknown => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome_unknown",
                "The outcome of the commit is not known. Ask again with the same Idempotency-Key.",
            )
            .retryable(),
            EngineError::Rejected => Self::internal(),
        }
    }
}

impl From<ReadError> for Problem {
    /// Logs the cause: nothing of it leaves the service.
    fn from(error: ReadError) -> Self {
        tracing::error!(?error, "serve read");
        match error {
            ReadError::Overloaded => Self::unavailable("Too many reads are waiting."),
            ReadError::WriteLost => Self::write_lost(),
            ReadError::Failed(_) => Self::unavailable("This cannot be read now."),
        }
    }
}

impl IntoResponse for Problem {
    /// The body is written by the request-id layer, which knows the id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2: a 401 says how to authenticate.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use paystrata_db::{Error, Token};

    use super::*;
    use crate::accounts::store::AccountReadError;

    #[test]
    fn lost_write_is_told_however_deep_it_lies_and_nothing_else_is_taken_for_one() {
        let (token, fork) = (Token { timeline: 1, lsn: 2 }, Token { timeline: 2, lsn: 1 });
        let lost = AccountReadError::Database(Error::WriteLost { token, fork });
        let problem = Problem::from(ReadError::account(lost));
        assert_eq!(
            (problem.status, problem.code, problem.retryable),
            (StatusCode::PRECONDITION_FAILED, "write_lost", false)
        );
        assert_eq!(problem.param.as_deref(), Some("Paystrata-Token"));
        let problem = Problem::from(ReadError::account(AccountReadError::Database(Error::Closed)));
        assert_eq!((problem.code, problem.retryable), ("unavailable", true));
    }
}
