//! The audit behind `paystrata verify`: folds every entry again and compares. Reads one snapshot of the primary, changes
//! nothing, names what differs. Sorted by how bad it is: money first.

use paystrata_db::Session;
use paystrata_db::tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::ids::{AccountId, PaymentId};

/// Findings shown per check; the count is always whole.
const SHOWN_MAX: i64 = 20;

/// One thing that must hold, as a query for what breaks it.
struct Check {
    /// What holds if the query is empty.
    promise: &'static str,
    /// Rows (id uuid, what text): what breaks it.
    broken: &'static str,
    /// What the id names.
    names: Names,
}

#[derive(Clone, Copy)]
enum Names {
    Account,
    Payment,
    Nothing,
}

const CHECKS: &[Check] = &[
    Check {
        promise: "debits equal credits in every currency",
        broken: "SELECT NULL::uuid, format('currency %s is off by %s', currency, sum(posted))
                   FROM accounts GROUP BY currency HAVING sum(posted) <> 0",
        names: Names::Nothing,
    },
    Check {
        promise: "every balance is the fold of its entries, and no entry is missing",
        broken: "SELECT a.id, format('posted %s, entries sum to %s; %s entries counted, %s found',
                                     a.posted, coalesce(f.total, 0), a.entry_count, coalesce(f.entries, 0))
                   FROM accounts a
                   LEFT JOIN (SELECT account, sum(amount) AS total, count(*) AS entries FROM
                                (SELECT debit_account AS account, -amount AS amount FROM entries
                                  UNION ALL SELECT credit_account, amount FROM entries) sides
                              GROUP BY account) f ON f.account = a.id
                  WHERE a.posted <> coalesce(f.total, 0) OR a.entry_count <> coalesce(f.entries, 0)",
        names: Names::Account,
    },
    Check {
        promise: "every entry states the balance that its predecessors lead to",
        broken: "SELECT account, format('entry %s states %s, the entries up to it sum to %s', seq, after, running)
                   FROM (SELECT account, seq, after, sum(amount) OVER (PARTITION BY account ORDER BY seq) AS running,
                                row_number() OVER (PARTITION BY account ORDER BY seq) AS place
                           FROM (SELECT debit_account AS account, debit_seq AS seq, -amount AS amount,
                                        debit_after AS after FROM entries
                                  UNION ALL
                                 SELECT credit_account, credit_seq, amount, credit_after FROM entries) sides) chain
                  WHERE after <> running OR seq <> place",
        names: Names::Account,
    },
    Check {
        promise: "every entry belongs to an account",
        broken: "SELECT side.account, 'entries of an account that does not exist'
                   FROM (SELECT debit_account AS account FROM entries UNION SELECT credit_account FROM entries) side
                   LEFT JOIN accounts a ON a.id = side.account WHERE a.id IS NULL",
        names: Names::Account,
    },
    Check {
        promise: "no balance is below its limit",
        broken: "SELECT id, format('posted %s minus held %s is below -%s', posted, held, overdraft_limit)
                   FROM accounts WHERE posted - held < -overdraft_limit OR held < 0",
        names: Names::Account,
    },
    Check {
        promise: "every hold belongs to a payment under way",
        broken: "SELECT a.id, format('held %s, payments under way hold %s', a.held, coalesce(h.total, 0))
                   FROM accounts a
                   LEFT JOIN (SELECT account, sum(amount) AS total FROM
                                (SELECT from_account AS account, amount FROM payments WHERE status IN (1, 2, 3)
                                  UNION ALL SELECT to_account, refunding FROM payments WHERE refunding > 0) open
                              GROUP BY account) h ON h.account = a.id
                  WHERE a.held <> coalesce(h.total, 0)",
        names: Names::Account,
    },
    Check {
        promise: "every payment moved exactly what it says",
        broken: "SELECT p.id, format('captured %s and refunded %s, entries moved %s and %s back', p.captured,
                                     p.refunded, coalesce(e.moved, 0), coalesce(e.back, 0))
                   FROM payments p
                   LEFT JOIN (SELECT p.id, sum(e.amount) FILTER (WHERE e.debit_account = p.from_account) AS moved,
                                     sum(e.amount) FILTER (WHERE e.debit_account = p.to_account) AS back
                                FROM entries e JOIN payments p ON p.id = e.payment_id GROUP BY p.id) e ON e.id = p.id
                  WHERE p.captured <> coalesce(e.moved, 0) OR p.refunded <> coalesce(e.back, 0)",
        names: Names::Payment,
    },
    Check {
        promise: "every entry's payment exists",
        broken: "SELECT e.payment_id, 'entries of a payment that does not exist'
                   FROM entries e LEFT JOIN payments p ON p.id = e.payment_id
                  WHERE e.payment_id IS NOT NULL AND p.id IS NULL",
        names: Names::Payment,
    },
    Check {
        promise: "every state change has its event, without gaps",
        broken: "SELECT p.id, format('version %s, %s events up to number %s', p.version, coalesce(o.events, 0),
                                     coalesce(o.last, 0))
                   FROM payments p
                   LEFT JOIN (SELECT payment_id, count(*) AS events, max(sequence) AS last
                                FROM outbox GROUP BY payment_id) o ON o.payment_id = p.id
                  WHERE p.version <> coalesce(o.events, 0) OR p.version <> coalesce(o.last, 0)",
        names: Names::Payment,
    },
    Check {
        promise: "every payment that waits for a gateway has an operation that asks",
        broken: "SELECT p.id, 'processing or in review, and no open operation'
                   FROM payments p
                  WHERE p.status IN (1, 2) AND p.rail <> 1 AND NOT EXISTS
                        (SELECT FROM gateway_operations o WHERE o.payment_id = p.id AND o.status IN (1, 2, 3, 7))",
        names: Names::Payment,
    },
    Check {
        promise: "every refund under way has an operation that asks",
        broken: "SELECT p.id, format('refunds of %s under way, open operations of %s', p.refunding,
                                     coalesce(o.total, 0))
                   FROM payments p
                   LEFT JOIN (SELECT payment_id, sum(amount) AS total FROM gateway_operations
                               WHERE kind = 5 AND status IN (1, 2, 3, 7) GROUP BY payment_id) o ON o.payment_id = p.id
                  WHERE p.refunding <> coalesce(o.total, 0)",
        names: Names::Payment,
    },
];

/// What the audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Accounts looked at.
    pub accounts: i64,
    /// Payments looked at.
    pub payments: i64,
    /// Entries looked at.
    pub entries: i64,
    /// The promises that hold.
    pub kept: Vec<&'static str>,
    /// The promises that do not.
    pub broken: Vec<Broken>,
}

/// A promise that does not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which.
    pub promise: &'static str,
    /// How many things break it.
    pub count: i64,
    /// The first of them, each naming its account or payment.
    pub shown: Vec<String>,
}

/// Audits everything in one snapshot. Reads every entry: seconds per million.
///
/// # Errors
/// The database refused or was not reached.
pub async fn verify(session: &Session) -> Result<Audit, Error> {
    let client = session.client();
    // Every check reads whole tables, of which the planner may know nothing yet: a nested loop would be quadratic.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;
        SET LOCAL enable_seqscan = on; SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'";
    client.batch_execute(begin).await?;
    let counts = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM payments), (SELECT count(*) FROM entries)";
    let counts = client.query_one(counts, &[]).await?;
    let mut audit = Audit {
        accounts: counts.get(0),
        payments: counts.get(1),
        entries: counts.get(2),
        ..Audit::default()
    };
    for check in CHECKS {
        let query = format!(
            "SELECT *, count(*) OVER () FROM ({}) AS broken (id, what) LIMIT {SHOWN_MAX}",
            check.broken
        );
        let rows = client.query(&query, &[]).await?;
        match rows.first() {
            None => audit.kept.push(check.promise),
            Some(first) => audit.broken.push(Broken {
                promise: check.promise,
                count: first.get(2),
                shown: rows.iter().map(|row| describe(row, check.names)).collect(),
            }),
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(audit)
}

fn describe(row: &Row, names: Names) -> String {
    let what: &str = row.get(1);
    match (row.get::<_, Option<Uuid>>(0), names) {
        (Some(id), Names::Account) => format!("{}: {what}", AccountId(id)),
        (Some(id), Names::Payment) => format!("{}: {what}", PaymentId(id)),
        _ => what.to_owned(),
    }
}
