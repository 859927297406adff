//! Details, the unsettled list, settled batches and their transactions.
//! Reads only; a page beyond the end is empty.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::wire;
use crate::simulator::{ledger::Ledger, ordered::Ordered};

const PAGE_MAX: usize = 1000;

pub(super) fn details(ledger: &Ledger, content: &Ordered) -> String {
    let found = content.text(&["transId"]).and_then(|text| text.parse().ok()).and_then(|id| ledger.get(id));
    match found {
        Some(transaction) => wire::details(transaction),
        None => wire::envelope(None, "E00040", "The record cannot be found."),
    }
}

/// Limit and number of the page, from 1.
fn paging(content: &Ordered) -> (usize, usize) {
    let number = |name| content.text(&["paging", name]).and_then(|text| text.parse::<usize>().ok());
    (number("limit").unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX), number("offset").unwrap_or(1).max(1))
}

pub(super) fn unsettled(ledger: &Ledger, content: &Ordered) -> String {
    let (limit, page) = paging(content);
    let (transactions, total) = ledger.unsettled_page(limit, page);
    wire::list(&transactions, total)
}

pub(super) fn batch(ledger: &Ledger, content: &Ordered) -> String {
    let (limit, page) = paging(content);
    let batch = content.text(&["batchId"]).and_then(|text| text.parse().ok());
    match batch.and_then(|batch| ledger.batch_page(batch, limit, page)) {
        Some((transactions, total)) => wire::list(&transactions, total),
        None => wire::envelope(None, "E00040", "The record cannot be found."),
    }
}

pub(super) fn batches(ledger: &Ledger, content: &Ordered) -> String {
    let moment = |name| content.text(&[name]).and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let first = moment("firstSettlementDate").unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let last = moment("lastSettlementDate").unwrap_or_else(OffsetDateTime::now_utc);
    // By day, as the real list: the time of day is not looked at.
    let listed =
        ledger.batches.iter().filter(|batch| (first.date()..=last.date()).contains(&batch.settled_at.date()));
    let listed: Vec<_> = listed.map(|batch| (batch.id, batch.settled_at)).collect();
    wire::batches(&listed)
}
