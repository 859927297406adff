//! How the lists of the API are answered: each of their statements, taken from the service and planned without knowing its
//! values, starts from the index that was made for it. Looks at plans only; what they find is proven in `lists`.

use std::collections::{BTreeMap, BTreeSet};

use paystrata_app::accounts::store::{self as accounts, AccountFilter};
use paystrata_app::clock::Timestamp;
use paystrata_app::engine::{AccountStatus, PaymentStatus, Rail};
use paystrata_app::ledger::store::{LIST_ENTRIES, SUM_BALANCES};
use paystrata_app::merchants::store::FIND_KEY;
use paystrata_app::money::Currency;
use paystrata_app::payments::store::{self as payments, PaymentFilter};
use paystrata_db::{Statement, Type};
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

use crate::scene::{change, count, pay, sql, transfer, until};
use crate::stage::Stage;

/// Eight merchants with a thousand accounts each, of which twenty pay, and two thousand payments each: most of them
/// succeeded, every second with a reference, every seventh by card. Every merchant has 400 API keys.
const FILL: &str = "
CREATE FUNCTION pg_temp.id(kind text, number bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex((extract(epoch FROM date_trunc('month', now(), 'UTC')) * 1000)::bigint + number), 12, '0')
            || '70008' || substr(md5(kind || number), 1, 15))::uuid $$;
CREATE FUNCTION pg_temp.account(merchant bigint, number bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT pg_temp.id('account', merchant + 8 * (number % 20)) $$;
INSERT INTO merchants (id, name) SELECT pg_temp.id('merchant', m), 'Merchant ' || m FROM generate_series(0, 7) m;
INSERT INTO api_keys (digest, merchant_id, label)
    SELECT sha256(i::text::bytea), pg_temp.id('merchant', i % 8), 'test' FROM generate_series(0, 3199) i;
INSERT INTO accounts (id, merchant_id, currency)
    SELECT pg_temp.id('account', i), pg_temp.id('merchant', i % 8), 840 FROM generate_series(0, 7999) i;
INSERT INTO account_profiles (account_id, merchant_id, kind, customer)
    SELECT pg_temp.id('account', i), pg_temp.id('merchant', i % 8), 'kind ' || i % 7,
           CASE WHEN i % 3 = 0 THEN 'customer ' || i / 30 END FROM generate_series(0, 7999) i;
INSERT INTO payments (id, merchant_id, from_account, to_account, amount, currency, rail, status, merchant_reference)
    SELECT pg_temp.id('payment', i), pg_temp.id('merchant', i % 8),
           CASE WHEN i % 7 = 0 THEN pg_temp.id('external', i % 8) ELSE pg_temp.account(i % 8, i / 8) END,
           pg_temp.account(i % 8, i / 8 + 1 + i / 900), 1 + i, 840, CASE WHEN i % 7 = 0 THEN 3 ELSE 1 END,
           CASE i % 17 WHEN 0 THEN 1 WHEN 1 THEN 5 WHEN 2 THEN 8 ELSE 4 END,
           CASE WHEN i / 8 % 2 = 0 THEN 'order ' || i / 32 END
      FROM generate_series(0, 15999) i;
INSERT INTO entries (id, payment_id, debit_account, credit_account, amount, debit_seq, credit_seq, debit_after,
                     credit_after)
    SELECT pg_temp.id('entry', row_number() OVER (ORDER BY id)), id, from_account, to_account, amount,
           row_number() OVER (PARTITION BY from_account ORDER BY id),
           row_number() OVER (PARTITION BY to_account ORDER BY id), 0, 0
      FROM payments WHERE status = 4";

/// What a statement may do with the rows that its index leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    /// Take them in the order of the index until the page is full.
    InOrder,
    /// All of them: a count, or a list that is short.
    Whole,
}

/// A database full enough that reading all of it is not the cheapest plan.
struct Archive {
    client: Client,
    /// Every index: the one of the whole table that it is a part of.
    indexes: BTreeMap<String, Index>,
    /// Tables and partitions with rows; reading an empty one whole costs nothing.
    filled: BTreeSet<String>,
    merchant: Uuid,
    account: Uuid,
}

struct Index {
    whole: String,
    table: String,
}

impl Archive {
    async fn open(stage: &Stage) -> Self {
        let client = sql(stage).await;
        client.batch_execute(FILL).await.expect("fill the tables");
        for table in ["api_keys", "accounts", "account_profiles", "payments", "entries"] {
            client.batch_execute(&format!("VACUUM (ANALYZE) {table}")).await.expect("gather statistics");
        }
        let names = "SELECT part.relname::text, coalesce(whole.relname, part.relname)::text, t.relname::text,
                            t.reltuples > 0
               FROM pg_index i JOIN pg_class part ON part.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
               LEFT JOIN pg_inherits ON inhrelid = part.oid LEFT JOIN pg_class whole ON whole.oid = inhparent";
        let (mut indexes, mut filled) = (BTreeMap::new(), BTreeSet::new());
        for row in client.query(names, &[]).await.expect("read the catalog") {
            let table: String = row.get(2);
            if row.get(3) {
                filled.insert(table.clone());
            }
            indexes.insert(row.get(0), Index { whole: row.get(1), table });
        }
        let row = client.query_one("SELECT pg_temp.id('merchant', 3), pg_temp.account(3, 4)", &[]).await;
        let row = row.expect("name a merchant and one of its accounts");
        client.batch_execute("SET plan_cache_mode = force_generic_plan").await.expect("plan without values");
        Self { client, indexes, filled, merchant: row.get(0), account: row.get(1) }
    }

    /// The generic plan of a statement; `values` are SQL, and those that it has no use for are left out.
    async fn plan(&self, statement: &Statement, values: &[String]) -> Value {
        let types: Vec<&str> = statement.types().iter().map(Type::name).collect();
        let prepare = format!("PREPARE listed ({}) AS {}", types.join(", "), statement.sql());
        self.client.batch_execute(&prepare).await.expect("prepare the statement");
        let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE listed ({})", values[..types.len()].join(", "));
        let answer = self.client.simple_query(&explain).await.expect("explain the statement");
        self.client.batch_execute("DEALLOCATE listed").await.expect("forget the statement");
        let lines = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(&lines.collect::<String>()).expect("a plan in JSON");
        assert!(plan.to_string().contains("$1"), "planned for its values: {plan:#}");
        plan[0]["Plan"].clone()
    }

    /// Asserts that a statement reaches rows through exactly these indexes.
    async fn check(&self, statement: &Statement, values: &[String], reading: Reading, expected: &[&str]) {
        let plan = self.plan(statement, values).await;
        let (mut used, mut faults) = (BTreeSet::new(), Vec::new());
        self.walk(&plan, reading, &mut used, &mut faults);
        assert!(faults.is_empty(), "{faults:?} for {} in {plan:#}", statement.sql());
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, expected, "{} in {plan:#}", statement.sql());
    }

    /// Collects the indexes that lead to rows, and every way of reading that an index was to spare. Tells whether
    /// more rows than a page come from here.
    fn walk(
        &self,
        node: &Value,
        reading: Reading,
        used: &mut BTreeSet<String>,
        faults: &mut Vec<String>,
    ) -> bool {
        let kind = node["Node Type"].as_str().expect("a node has a type");
        let mut has_rows = node["Relation Name"].as_str().is_some_and(|table| self.filled.contains(table));
        if let Some(name) = node["Index Name"].as_str() {
            let index = &self.indexes[name];
            if self.filled.contains(&index.table) {
                used.insert(index.whole.clone());
                has_rows = true;
            }
        }
        for below in node["Plans"].as_array().into_iter().flatten() {
            has_rows |= self.walk(below, reading, used, faults);
        }
        // A bitmap or a sort reads all that matches before it gives the first row of a page.
        let whole = ["Bitmap Heap Scan", "Sort", "Incremental Sort", "Hash"].contains(&kind);
        if has_rows && (kind == "Seq Scan" || (whole && reading == Reading::InOrder)) {
            faults.push(format!("{kind} {}", node["Relation Name"]));
        }
        has_rows && kind != "Limit"
    }

    fn quoted(&self) -> [String; 4] {
        [self.merchant, self.account, Uuid::max(), Uuid::nil()].map(|id| format!("'{id}'"))
    }
}

#[tokio::test]
async fn the_lists_of_the_api_use_their_indexes() {
    let stage = Stage::start().await;
    let archive = Archive::open(&stage).await;
    check_payments(&archive).await;
    check_accounts(&archive).await;
    let values = [archive.quoted()[1].clone(), "1000".to_owned(), "51".to_owned()];
    let expected = ["entries_by_debit", "entries_by_credit"];
    archive.check(&LIST_ENTRIES, &values, Reading::InOrder, &expected).await;
    // As in the service: a merchant with much of the table would have it read whole, and its neighbours with it.
    archive.client.batch_execute("SET enable_seqscan = off").await.expect("plan as the service does");
    let values = [archive.quoted()[0].clone()];
    let expected = ["account_profiles_by_merchant", "accounts_pkey"];
    archive.check(&SUM_BALANCES, &values, Reading::Whole, &expected).await;
    archive.client.batch_execute("RESET enable_seqscan").await.expect("plan by cost again");
    let values = ["sha256('7')".to_owned()];
    archive.check(&FIND_KEY, &values, Reading::InOrder, &["api_keys_pkey"]).await;
    let plan = archive.plan(&FIND_KEY, &values).await;
    assert_eq!(plan["Node Type"], "Index Only Scan", "the index covers the look-up of a key: {plan:#}");
}

/// A table that is analyzed while it is empty looks cheapest to read whole, until the next analyze: what a nightly
/// `vacuumdb` does to next month's partitions.
#[tokio::test]
async fn requests_use_their_indexes_on_tables_that_were_analyzed_while_they_were_empty() {
    const READ_WHOLE: &str = "SELECT coalesce(sum(seq_scan), 0)::int8 FROM pg_stat_user_tables
        WHERE relname ~ '^(payments_|idempotency_keys)'";
    const ENTRIES: &str = "SELECT coalesce(sum(n_tup_ins), 0)::int8 FROM pg_stat_user_tables
        WHERE relname ~ '^entries_'";
    const PAYMENTS: u64 = 10;
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let client = sql(&stage).await;
    client.batch_execute("DELETE FROM idempotency_keys").await.expect("empty the only table that had rows");
    client.batch_execute("VACUUM (ANALYZE)").await.expect("look at empty tables");
    client.batch_execute("SELECT pg_stat_reset()").await.expect("count from here");
    for _ in 0..PAYMENTS {
        let paid = pay(&stage, &transfer(&from, &to, 1)).await;
        let id = paid["id"].as_str().expect("a text");
        let refund = change(&stage, id, "refunds", &serde_json::json!({"amount": 1})).await;
        assert_eq!(refund.status, reqwest::StatusCode::CREATED);
    }
    // A server process tells its counts at the end of a transaction, but not twice a second.
    let told = async || {
        pay(&stage, &transfer(&from, &to, 1)).await;
        count(&stage, ENTRIES).await.into()
    };
    until("counts", told, |seen| seen.as_u64() >= Some(2 * PAYMENTS)).await;
    assert_eq!(count(&stage, READ_WHOLE).await, 0);
}

async fn check_payments(archive: &Archive) {
    const SIDES: &[&str] = &["payments_by_sender", "payments_by_receiver"];
    let [merchant, account, last, first] = archive.quoted();
    let code = |number: i16| number.to_string();
    let none = PaymentFilter::default;
    let status = |status| PaymentFilter { status: Some(status), ..none() };
    let named = PaymentFilter { merchant_reference: Some("order 7".to_owned()), ..none() };
    let of_account = PaymentFilter { account: Some(archive.account), ..none() };
    let both = PaymentFilter { account: Some(archive.account), ..named.clone() };
    let since = PaymentFilter { since: Some(Timestamp::now()), ..of_account.clone() };
    let rest = PaymentFilter { rail: Some(Rail::Book), currency: "USD".parse().ok(), ..none() };
    let mut cases: Vec<(PaymentFilter, &[&str])> = vec![
        (none(), &["payments_pkey"]),
        (rest.clone(), &["payments_pkey"]),
        (status(PaymentStatus::Succeeded), &["payments_pkey"]),
        (named.clone(), &["payments_by_reference"]),
        (PaymentFilter { status: Some(PaymentStatus::Failed), ..named }, &["payments_by_reference"]),
        (of_account.clone(), SIDES),
        (PaymentFilter { status: Some(PaymentStatus::Succeeded), ..of_account.clone() }, SIDES),
        (PaymentFilter { account: Some(archive.account), ..rest }, SIDES),
        (since, SIDES),
        (both, &["payments_by_reference"]),
    ];
    let rare = PaymentStatus::ALL.iter().filter(|one| **one != PaymentStatus::Succeeded);
    cases.extend(rare.map(|one| (status(*one), ["payments_by_status"].as_slice())));
    for (filter, expected) in cases {
        let values = [
            merchant.clone(),
            last.clone(),
            code(filter.status.map_or(0, PaymentStatus::code)),
            code(filter.rail.map_or(0, Rail::code)),
            code(filter.currency.map_or(0, Currency::numeric)),
            "'order 7'".to_owned(),
            account.clone(),
            first.clone(),
            "51".to_owned(),
            "0".to_owned(),
        ];
        // A reference names few payments: the planner may well sort them.
        let reading = if filter.merchant_reference.is_some() { Reading::Whole } else { Reading::InOrder };
        archive.check(payments::list_statement(&filter), &values, reading, expected).await;
        archive.check(payments::count_statement(&filter), &values, Reading::Whole, expected).await;
    }
}

async fn check_accounts(archive: &Archive) {
    let [merchant, _, last, _] = archive.quoted();
    let none = AccountFilter::default;
    for (filter, index) in [
        (none(), "account_profiles_by_merchant"),
        (AccountFilter { status: Some(AccountStatus::Active), ..none() }, "account_profiles_by_merchant"),
        (AccountFilter { customer: Some("customer 3".to_owned()), ..none() }, "account_profiles_by_customer"),
        (AccountFilter { kind: Some("kind 3".to_owned()), ..none() }, "account_profiles_by_kind"),
    ] {
        let values = [&merchant, &last, "'customer 3'", "'kind 3'", "1", "51"].map(ToString::to_string);
        let expected = [index, "accounts_pkey"];
        archive.check(accounts::list_statement(&filter), &values, Reading::InOrder, &expected).await;
    }
}
