//! What the contract allows as an answer to each step. A contradiction is a defect of the service: the run that finds one
//! ends with 1. Judges one answer, or a pair of them; sends nothing.

use http::StatusCode;

use super::client::Answer;
use super::plan::{Flaw, PlannedRail};

/// What a good answer counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A payment was created; its status.
    Accepted(String),
    /// A payment was created and failed; its failure code.
    Failed(String),
    /// Nothing was created; the problem's code.
    Refused(String),
}

/// Statuses in which an automatic payment may be answered.
const STATUSES: [&str; 4] = ["succeeded", "processing", "requires_review", "failed"];
/// The simulator that this generator runs against is always there and injects no such fault: a payment that fails with
/// this was given up by the service itself.
const GATEWAY_UNAVAILABLE: &str = "gateway_unavailable";
/// A well-formed payment is refused only where the service has no such gateway.
const RAIL_UNAVAILABLE: &str = "rail_unavailable";

/// Judges the answer to a well-formed payment.
///
/// # Errors
/// What contradicts the contract.
pub fn payment(rail: PlannedRail, answer: &Answer) -> Result<Finding, String> {
    if answer.status != StatusCode::CREATED {
        let code = refused(answer)?;
        let tolerated = rail != PlannedRail::Book && code == RAIL_UNAVAILABLE;
        return if tolerated {
            Ok(Finding::Refused(code))
        } else {
            Err(told("a well-formed payment was refused", answer))
        };
    }
    let status = answer.text("status").unwrap_or_default();
    if answer.text("id").is_none() || !STATUSES.contains(&status.as_str()) {
        return Err(told("a created payment has no id or no such status", answer));
    }
    if status != "failed" {
        let wrong = (rail == PlannedRail::Book && status != "succeeded")
            || (rail == PlannedRail::DeclinedCard && status == "succeeded");
        return if wrong {
            Err(told("a payment has the wrong status", answer))
        } else {
            Ok(Finding::Accepted(status))
        };
    }
    match answer.text("failure_code") {
        Some(code) if code == GATEWAY_UNAVAILABLE => {
            Err(told("a payment failed for a gateway that was there", answer))
        }
        Some(code) => Ok(Finding::Failed(code)),
        None => Err(told("a failed payment names no failure code", answer)),
    }
}

/// Judges the answer to a payment of more than anybody has.
///
/// # Errors
/// What contradicts the contract.
pub fn overdraw(answer: &Answer) -> Result<Finding, String> {
    match payment(PlannedRail::Book, answer)? {
        Finding::Failed(code) if code == "insufficient_funds" => Ok(Finding::Failed(code)),
        _ => Err(told("an overdraw did not fail for lack of funds", answer)),
    }
}

/// Judges the answer to a row that must be refused.
///
/// # Errors
/// What contradicts the contract.
pub fn bad_row(flaw: Flaw, answer: &Answer) -> Result<Finding, String> {
    let expected = match flaw {
        Flaw::UnknownAccount => "account_not_found",
        Flaw::NegativeAmount | Flaw::OverLimit => "amount_out_of_range",
        Flaw::FloatAmount => "invalid_request",
        Flaw::CurrencyMismatch => "currency_mismatch",
    };
    let code = refused(answer)?;
    if code == expected {
        Ok(Finding::Refused(code))
    } else {
        Err(told(&format!("a row with {flaw:?} was not refused as {expected}"), answer))
    }
}

/// Judges the second answer under a key with the same request.
///
/// # Errors
/// What contradicts the contract.
pub fn duplicate(first: &Answer, second: &Answer) -> Result<(), String> {
    if first.status != second.status || first.body != second.body {
        return Err(format!(
            "{}; first: {}",
            told("a duplicate was answered otherwise", second),
            shown(first)
        ));
    }
    // What is refused before it reaches the ledger claims no key, and is decided anew.
    if first.status.is_success() && !second.replayed {
        return Err(told("a duplicate is not marked as replayed", second));
    }
    Ok(())
}

/// Judges the answer to another request under a used key.
///
/// # Errors
/// What contradicts the contract.
pub fn reused_key(answer: &Answer) -> Result<Finding, String> {
    let code = refused(answer)?;
    if answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Err(told("a reused key was not refused with 422", answer));
    }
    Ok(Finding::Refused(code))
}

/// Judges the answer to a refund of part of a payment that succeeded.
///
/// # Errors
/// What contradicts the contract.
pub fn refund(answer: &Answer) -> Result<Finding, String> {
    if answer.status == StatusCode::CREATED {
        let status = answer.text("status").unwrap_or_default();
        let refunded = ["partially_refunded", "refunded"].contains(&status.as_str());
        return if refunded {
            Ok(Finding::Accepted(status))
        } else {
            Err(told("a refund left the wrong status", answer))
        };
    }
    let code = refused(answer)?;
    // The receiver may have spent it meanwhile.
    if code == "insufficient_funds" {
        Ok(Finding::Refused(code))
    } else {
        Err(told("a refund was refused", answer))
    }
}

/// The code of a refusal.
fn refused(answer: &Answer) -> Result<String, String> {
    if answer.status.is_client_error() {
        return Ok(answer.code());
    }
    let what = if answer.status.is_server_error() { "the service failed" } else { "it was not refused" };
    Err(told(what, answer))
}

fn told(what: &str, answer: &Answer) -> String {
    format!("{what}: {}", shown(answer))
}

fn shown(answer: &Answer) -> String {
    let body: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
    format!("{} {body}", answer.status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Answer {
        Answer::of(status, &format!(r#"{{"code":"{code}"}}"#))
    }

    const SUCCEEDED: &str = r#"{"id":"pay_1","status":"succeeded","failure_code":null}"#;
    const SHORT: &str = r#"{"id":"pay_1","status":"failed","failure_code":"insufficient_funds"}"#;

    #[test]
    fn payments_are_judged_by_their_rail() {
        use PlannedRail::{Book, Card, DeclinedCard, VelocityPay};
        let processing = r#"{"id":"pay_1","status":"processing"}"#;
        let declined = r#"{"id":"pay_1","status":"failed","failure_code":"declined"}"#;
        let unavailable = r#"{"id":"pay_1","status":"failed","failure_code":"gateway_unavailable"}"#;
        for (rail, answer, good) in [
            (Book, Answer::of(201, SUCCEEDED), true),
            (Book, Answer::of(201, SHORT), true),
            (Book, Answer::of(201, processing), false),
            (VelocityPay, Answer::of(201, processing), true),
            (DeclinedCard, Answer::of(201, declined), true),
            (Card, Answer::of(201, unavailable), false),
            (VelocityPay, Answer::of(201, unavailable), false),
            (DeclinedCard, Answer::of(201, SUCCEEDED), false),
            (Card, problem(422, "rail_unavailable"), true),
            (Book, problem(422, "rail_unavailable"), false),
            (Card, problem(422, "invalid_request"), false),
            (Book, problem(500, "internal"), false),
            (Book, Answer::of(200, SUCCEEDED), false),
            (Book, Answer::of(201, r#"{"id":"pay_1","status":"failed","failure_code":null}"#), false),
            (Book, Answer::of(201, r#"{"status":"succeeded"}"#), false),
        ] {
            assert_eq!(payment(rail, &answer).is_ok(), good, "{rail:?} {answer:?}");
        }
    }

    #[test]
    fn overdraw_must_fail_for_lack_of_funds() {
        assert_eq!(overdraw(&Answer::of(201, SHORT)), Ok(Finding::Failed("insufficient_funds".to_owned())));
        assert!(overdraw(&Answer::of(201, SUCCEEDED)).is_err());
        assert!(overdraw(&problem(422, "insufficient_funds")).is_err());
    }

    #[test]
    fn bad_row_must_be_refused_with_its_own_code() {
        for (flaw, code) in [
            (Flaw::UnknownAccount, "account_not_found"),
            (Flaw::NegativeAmount, "amount_out_of_range"),
            (Flaw::OverLimit, "amount_out_of_range"),
            (Flaw::FloatAmount, "invalid_request"),
            (Flaw::CurrencyMismatch, "currency_mismatch"),
        ] {
            assert!(bad_row(flaw, &problem(422, code)).is_ok(), "{flaw:?}");
            assert!(bad_row(flaw, &problem(422, "something_else")).is_err(), "{flaw:?}");
            assert!(bad_row(flaw, &Answer::of(201, SUCCEEDED)).is_err(), "{flaw:?}");
            assert!(bad_row(flaw, &problem(500, code)).is_err(), "{flaw:?}");
        }
    }

    #[test]
    fn duplicate_must_be_the_same_bytes_and_say_so() {
        let first = Answer::of(201, SUCCEEDED);
        let replay = Answer { replayed: true, ..first.clone() };
        assert_eq!(duplicate(&first, &replay), Ok(()));
        assert!(duplicate(&first, &first).is_err());
        assert!(duplicate(&first, &Answer { replayed: true, ..Answer::of(201, SHORT) }).is_err());
        assert!(duplicate(&first, &Answer { status: StatusCode::OK, ..replay }).is_err());
        let unavailable = problem(422, "rail_unavailable");
        assert_eq!(duplicate(&unavailable, &unavailable), Ok(()));
    }

    #[test]
    fn reused_key_must_be_refused_with_422() {
        assert!(reused_key(&problem(422, "idempotency_key_reuse")).is_ok());
        assert!(reused_key(&problem(409, "idempotency_key_reuse")).is_err());
        assert!(reused_key(&Answer::of(201, SUCCEEDED)).is_err());
    }

    #[test]
    fn refund_must_show_in_the_status() {
        assert!(refund(&Answer::of(201, r#"{"id":"pay_1","status":"partially_refunded"}"#)).is_ok());
        assert!(refund(&Answer::of(201, SUCCEEDED)).is_err());
        assert!(refund(&problem(422, "insufficient_funds")).is_ok());
        assert!(refund(&problem(422, "amount_out_of_range")).is_err());
    }
}
