//! What a refusal of the write path means over HTTP, and how it is worded when it is kept under a key. One code has one
//! status. Refuses nothing itself. Called by the handlers, and by whoever settles a gateway operation.

use http::StatusCode;
use uuid::Uuid;

use super::super::model::PaymentError;
use super::super::wire;
use crate::engine::{Answer, KeepRefusal, OperationKind, Refusal, Side};
use crate::http::idempotency::{self, KeyedRoute};
use crate::http::problem::Problem;

/// Words a refusal as the problem that its request is answered with, for every later send as well: the id of the request
/// that was refused is part of the bytes.
pub(in crate::payments) fn kept(route: KeyedRoute, request_id: String) -> KeepRefusal {
    KeepRefusal::new(move |refusal| {
        let problem = problem_of_refusal(refusal, route);
        let status_code = problem.status.as_u16();
        Answer { status_code, body: problem.body(&request_id).into(), payment: None }
    })
}

/// As [`kept`], for an operation that is settled when its request is gone: the operation's id stands for the request's.
pub(in crate::payments) fn kept_for_operation(kind: OperationKind, operation_id: Uuid) -> KeepRefusal {
    let route = match kind {
        OperationKind::Purchase | OperationKind::Authorize => wire::CREATE,
        OperationKind::Capture => wire::CAPTURE,
        OperationKind::Void => wire::VOID,
        OperationKind::Refund => wire::REFUND,
    };
    kept(route, operation_id.simple().to_string())
}

/// What a payment error means over HTTP. One code has one status.
#[must_use]
pub fn problem_of(error: PaymentError, route: KeyedRoute) -> Problem {
    match error {
        PaymentError::Engine(error) => error.into(),
        PaymentError::InProgress => idempotency::in_progress(),
        PaymentError::Overloaded => {
            let detail = "Too many payments are under way at this rail's gateway. Nothing was done.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retryable()
        }
        PaymentError::Unjudged(_) => {
            Problem::unavailable("The fraud rules are not loaded yet. Nothing was done.")
        }
        PaymentError::RailUnavailable(rail) => {
            let detail = format!("The rail \"{}\" is not configured on this service.", rail.as_str());
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "rail_unavailable", detail);
            // Only a request that names its rail can be wrong about it.
            if route.fields.contains(&"rail") { problem.at("/rail") } else { problem }
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
            let problem = Problem::new(StatusCode::CONFLICT, "wrong_state", detail);
            if refusal.is_passing() { problem.retryable() } else { problem }
        }
        Refusal::RefundUnderWay(left) => {
            let detail = format!("At most {left} minor units are left while other refunds are under way.");
            Problem::new(StatusCode::CONFLICT, "wrong_state", detail).retryable()
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
        Refusal::MemberDecided => {
            let detail = "This Idempotency-Key was used with mode \"independent\": some of the payments were decided then.";
            unprocessable("idempotency_key_reuse", detail).at("/mode")
        }
        Refusal::Declined => {
            unprocessable("declined", "The gateway declined this. The payment is as it was.")
        }
        Refusal::GatewayUnavailable => {
            let detail = "The gateway was not reached. The payment is as it was; try again with a new Idempotency-Key.";
            unprocessable("gateway_unavailable", detail)
        }
        Refusal::StaleFence => idempotency::in_progress(),
    }
}
