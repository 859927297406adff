//! The audit after a run: no figure counts unless the money is all there. Looks at the rows of both sides alike, with
//! its own queries: it does not ask the code that it judges.

use anyhow::{Context as _, bail};

use super::ground::Ground;

/// A promise, and a query for the number of things that break it.
const CHECKS: [(&str, &str); 5] = [
    ("the trial balance is zero", "SELECT count(*) FROM (SELECT FROM accounts GROUP BY currency HAVING sum(posted) <> 0) off"),
    (
        "every balance is the fold of its entries",
        "SELECT count(*) FROM accounts a LEFT JOIN
            (SELECT account, sum(amount) AS total, count(*) AS entries, max(seq) AS last
               FROM (SELECT debit_account AS account, -amount AS amount, debit_seq AS seq FROM entries
                      UNION ALL SELECT credit_account, amount, credit_seq FROM entries) sides
              GROUP BY account) folded ON folded.account = a.id
          WHERE a.posted <> coalesce(total, 0) OR a.entry_count <> coalesce(entries, 0)
             OR a.entry_count <> coalesce(last, 0) OR a.held <> 0",
    ),
    (
        "every entry states the balance that its predecessors lead to",
        "SELECT count(*) FROM
            (SELECT after, sum(amount) OVER (PARTITION BY account ORDER BY seq) AS running
               FROM (SELECT debit_account AS account, debit_seq AS seq, -amount AS amount, debit_after AS after FROM entries
                      UNION ALL SELECT credit_account, credit_seq, amount, credit_after FROM entries) sides) chain
          WHERE after <> running",
    ),
    ("every payment succeeded", "SELECT count(*) FROM payments WHERE status <> 4 OR captured <> amount OR failure <> 0"),
    (
        "every payment has its entry, its event and its key",
        "SELECT count(*) FROM payments p
           LEFT JOIN entries e ON e.id = p.id AND e.payment_id = p.id AND e.amount = p.amount
                              AND e.debit_account = p.from_account AND e.credit_account = p.to_account
           LEFT JOIN outbox o ON o.payment_id = p.id AND o.sequence = 1 AND o.status = p.status
           LEFT JOIN idempotency_keys k ON k.resource_id = p.id AND k.status_code = 201 AND k.answer IS NOT NULL
          WHERE e.id IS NULL OR o.payment_id IS NULL OR k.digest IS NULL",
    ),
];

/// Rows that there must be exactly one of per acknowledged payment.
const COUNTS: [(&str, &str); 4] = [
    ("payments", "SELECT count(*) FROM payments"),
    ("entries of payments", "SELECT count(*) FROM entries WHERE payment_id IS NOT NULL"),
    ("events", "SELECT count(*) FROM outbox"),
    ("keys", "SELECT count(*) FROM idempotency_keys"),
];

/// Checks everything, and says so in a line.
pub(super) async fn verify(ground: &Ground, acknowledged: u64) -> anyhow::Result<String> {
    for (promise, query) in CHECKS {
        let row =
            ground.client.query_one(query, &[]).await.with_context(|| format!("check that {promise}"))?;
        let broken: i64 = row.get(0);
        if broken != 0 {
            bail!("the run is void: it does not hold that {promise} ({broken} times)");
        }
    }
    for (what, query) in COUNTS {
        let row = ground.client.query_one(query, &[]).await.with_context(|| format!("count {what}"))?;
        let found: i64 = row.get(0);
        if u64::try_from(found).ok() != Some(acknowledged) {
            bail!("the run is void: {acknowledged} payments were acknowledged, and there are {found} {what}");
        }
    }
    Ok(format!("verified afterwards over both sides' {acknowledged} payments: {}", promises()))
}

fn promises() -> String {
    CHECKS.map(|(promise, _)| promise).join("; ")
}
