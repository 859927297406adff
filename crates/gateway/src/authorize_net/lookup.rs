//! What became of an attempt: by transaction id where it is known, by the parent for captures and voids, otherwise by
//! searching the unsettled list and then the settled batches for the invoice number.
//! Says `Absent` only after a complete search; never adopts a record with another amount.

use std::time::Duration;

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{
    AuthorizeNet, codes,
    reply::{BatchesReply, Details, ListReply, Summary, Text},
    wire::{Envelope, Paging, Sorting},
};
use crate::{
    amount::Amount,
    evidence::Evidence,
    outcome::{LookupOutcome, TransactionState, UnknownReason},
    request::{Lookup, Reference, TransactionId, Verb},
    resilience::{OperationClass, deadline::Deadline, failure::CallFailure},
};

/// The gateway's own page limit.
const PAGE_TRANSACTIONS: usize = 1000;
/// 20 000 transactions: beyond, a search costs more than a person's look.
const PAGES_MAX: usize = 20;
/// Several batches a day over the longest range the gateway accepts.
const BATCHES_MAX: usize = 128;
/// The longest range of a batch list.
const BATCH_RANGE_MAX: Duration = Duration::from_secs(31 * 86_400);
/// Their clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

pub(super) async fn run(gateway: &AuthorizeNet, query: &Lookup) -> LookupOutcome {
    let deadline = Deadline::after(query.deadline);
    let found = match (query.verb, &query.parent, &query.transaction) {
        (Verb::Capture | Verb::Void, Some(parent), _) => {
            return of_parent(gateway, query, parent, deadline).await;
        }
        (_, _, Some(transaction)) => gateway
            .details(transaction, deadline)
            .await
            .map(|found| found.map(|(details, evidence)| (transaction.clone(), details, evidence))),
        (Verb::Refund, Some(parent), None) => match of_parent(gateway, query, parent, deadline).await {
            LookupOutcome::Absent => search(gateway, &query.reference, query.since, deadline).await,
            told => return told,
        },
        _ => search(gateway, &query.reference, query.since, deadline).await,
    };
    match found {
        Err(failure) => failure.into_lookup(),
        Ok(None) => LookupOutcome::Absent,
        Ok(Some((_, details, _))) if details.invoice_number() != Some(query.reference.as_str()) => {
            LookupOutcome::Unknown { reason: UnknownReason::Contradiction }
        }
        Ok(Some((transaction, details, evidence))) => {
            show(transaction, &details, &details.auth_amount, query.amount, evidence)
        }
    }
}

/// A capture, a void and a refund by void leave their mark on the parent only.
async fn of_parent(
    gateway: &AuthorizeNet,
    query: &Lookup,
    parent: &TransactionId,
    deadline: Deadline,
) -> LookupOutcome {
    let (details, evidence) = match gateway.details(parent, deadline).await {
        Err(failure) => return failure.into_lookup(),
        // It was approved once: that it is not shown says nothing of what was done to it since.
        Ok(None) => return LookupOutcome::Unknown { reason: UnknownReason::Contradiction },
        Ok(Some(found)) => found,
    };
    let state = codes::state(details.transaction_status.as_str().unwrap_or_default());
    match (query.verb, state) {
        (_, TransactionState::Other(_)) => LookupOutcome::Unknown { reason: UnknownReason::Contradiction },
        // What has lapsed holds nothing any more, as if it had been voided.
        (Verb::Void, TransactionState::Voided | TransactionState::Expired) => {
            show(parent.clone(), &details, &details.auth_amount, query.amount, evidence)
        }
        // Only a refund of the whole is made by a void: of a part, somebody else's void says nothing.
        (Verb::Refund, TransactionState::Voided) if query.parent_amount == Some(query.amount) => {
            show(parent.clone(), &details, &details.auth_amount, query.amount, evidence)
        }
        (
            Verb::Capture,
            TransactionState::Captured | TransactionState::Settled | TransactionState::Voided,
        ) => show(parent.clone(), &details, &details.settle_amount, query.amount, evidence),
        _ => LookupOutcome::Absent,
    }
}

fn show(
    transaction: TransactionId,
    details: &Details,
    shown: &Text,
    expected: Amount,
    evidence: Evidence,
) -> LookupOutcome {
    let state = codes::state(details.transaction_status.as_str().unwrap_or_default());
    let currency = expected.currency();
    let amount = shown.as_str().and_then(|text| currency.parse_minor_units(text));
    // A decline moved nothing and an undone charge may be shown with any amount; all others must agree.
    let is_nothing = [TransactionState::Declined, TransactionState::Voided, TransactionState::Expired];
    let must_agree = !is_nothing.contains(&state);
    if must_agree && amount != Some(expected.minor_units()) {
        return LookupOutcome::Unknown { reason: UnknownReason::Contradiction };
    }
    let amount = amount.and_then(|minor_units| Amount::new(minor_units, currency).ok());
    let auth_code = details.auth_code.as_str().map(str::to_owned);
    LookupOutcome::Found { state, transaction, amount, auth_code, evidence }
}

type Found = Option<(TransactionId, Details, Evidence)>;

/// Finds the transaction with this invoice number, or tells that there is none since `since`.
pub(super) async fn search(
    gateway: &AuthorizeNet,
    reference: &Reference,
    since: OffsetDateTime,
    deadline: Deadline,
) -> Result<Found, CallFailure> {
    let since = since.to_offset(UtcOffset::UTC) - CLOCK_SKEW;
    let mut found = scan(gateway, List::Unsettled, reference, since, deadline).await?;
    // Settled lists come second: what settles between the two scans is then seen in the second.
    if found.is_none() {
        for batch in batches(gateway, since, deadline).await? {
            found = scan(gateway, List::Batch(&batch), reference, since, deadline).await?;
            if found.is_some() {
                break;
            }
        }
    }
    let Some(transaction) = found else { return Ok(None) };
    let details = gateway.details(&transaction, deadline).await?;
    Ok(details.map(|(details, evidence)| (transaction, details, evidence)))
}

#[derive(Clone, Copy)]
enum List<'a> {
    Unsettled,
    Batch(&'a str),
}

/// Pages through a list, newest first. A record that moved money is preferred to a declined one of the same invoice.
async fn scan(
    gateway: &AuthorizeNet,
    list: List<'_>,
    reference: &Reference,
    since: OffsetDateTime,
    deadline: Deadline,
) -> Result<Option<TransactionId>, CallFailure> {
    let incomplete = Err(CallFailure::unknown(UnknownReason::SearchIncomplete));
    let mut declined = None;
    let mut total_before = 0;
    for offset in 1..=PAGES_MAX {
        let paging = Paging { limit: PAGE_TRANSACTIONS, offset };
        let (merchant_authentication, sorting) = (gateway.credentials(), Sorting::NEWEST_FIRST);
        let envelope = match list {
            List::Unsettled => Envelope::Unsettled { merchant_authentication, sorting, paging },
            List::Batch(batch_id) => Envelope::Batch { merchant_authentication, batch_id, sorting, paging },
        };
        let (page, _): (ListReply, _) = gateway.call(&OperationClass::Read, deadline, &envelope).await?;
        let total = page.total().unwrap_or(0);
        if total < total_before {
            // Records left the list while it was read, so that others slipped past between two pages.
            return incomplete;
        }
        total_before = total;
        let page = page.into_transactions().map_err(CallFailure::unknown)?;
        for summary in
            page.iter().filter(|summary| summary.invoice_number.as_str() == Some(reference.as_str()))
        {
            let Some(transaction) = identify(summary) else { return incomplete };
            match codes::state(summary.transaction_status.as_str().unwrap_or_default()) {
                TransactionState::Declined => declined = Some(transaction),
                _ => return Ok(Some(transaction)),
            }
        }
        let ends_before_since = page.last().and_then(submitted_at).is_some_and(|submitted| submitted < since);
        if page.len() < PAGE_TRANSACTIONS || ends_before_since {
            return Ok(declined);
        }
    }
    incomplete
}

fn identify(summary: &Summary) -> Option<TransactionId> {
    summary.trans_id.as_str().and_then(|text| TransactionId::new(text).ok())
}

fn submitted_at(summary: &Summary) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(summary.submit_time_utc.as_str()?, &Rfc3339).ok()
}

async fn batches(
    gateway: &AuthorizeNet,
    since: OffsetDateTime,
    deadline: Deadline,
) -> Result<Vec<String>, CallFailure> {
    let now = OffsetDateTime::now_utc() + CLOCK_SKEW;
    if now - since > BATCH_RANGE_MAX {
        return Err(CallFailure::unknown(UnknownReason::SearchIncomplete));
    }
    let (Some(first_settlement_date), Some(last_settlement_date)) = (written(since), written(now)) else {
        return Err(CallFailure::unknown(UnknownReason::SearchIncomplete));
    };
    let envelope = Envelope::Batches {
        merchant_authentication: gateway.credentials(),
        first_settlement_date: &first_settlement_date,
        last_settlement_date: &last_settlement_date,
    };
    let (reply, _): (BatchesReply, _) = gateway.call(&OperationClass::Read, deadline, &envelope).await?;
    let batches = reply.into_batches().map_err(CallFailure::unknown)?;
    if batches.len() > BATCHES_MAX {
        return Err(CallFailure::unknown(UnknownReason::SearchIncomplete));
    }
    Ok(batches.iter().filter_map(|batch| batch.batch_id.as_str().map(str::to_owned)).collect())
}

/// `YYYY-MM-DDTHH:MM:SSZ`; the schema takes whole seconds.
fn written(moment: OffsetDateTime) -> Option<String> {
    moment.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}
