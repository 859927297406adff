//! The service's own schema in an empty database: its migrations, and the partitions that payments of now fall into.

use anyhow::Context as _;
use tokio_postgres::Client;

/// The service's migrations, in order.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../../../app/migrations/0001_merchants_and_accounts.sql"),
    include_str!("../../../../app/migrations/0002_payments_and_entries.sql"),
    include_str!("../../../../app/migrations/0003_gateways_and_fraud.sql"),
    include_str!("../../../../app/migrations/0004_merchant_stats.sql"),
];

/// This month and the next: a run that crosses midnight of the last day must not fail.
const PARTITIONS: &str = "DO $$
DECLARE
    relation text;
    month timestamptz;
    low text;
    high text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['payments', 'entries', 'outbox'] LOOP
        FOR step IN 0..1 LOOP
            month := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + step * interval '1 month';
            low := lpad(to_hex((date_part('epoch', month) * 1000)::bigint), 12, '0') || repeat('0', 20);
            high := lpad(to_hex((date_part('epoch', month + interval '1 month') * 1000)::bigint), 12, '0') || repeat('0', 20);
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                           relation || '_' || step, relation, low::uuid, high::uuid);
        END LOOP;
    END LOOP;
END $$";

pub(super) async fn create(_settings: &tokio_postgres::Config, client: &Client) -> anyhow::Result<()> {
    for migration in MIGRATIONS {
        client.batch_execute(migration).await.context("run a migration")?;
    }
    client.batch_execute(PARTITIONS).await.context("make partitions")
}
