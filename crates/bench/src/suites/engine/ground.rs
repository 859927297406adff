//! The ground both sides stand on: a database of its own with the service's schema, funded accounts and the peer's
//! function. Brought into the same state before every turn, and dropped at the end.

use anyhow::Context as _;
use paystrata_app::engine::external_account;
use paystrata_app::ids::MerchantId;
use paystrata_app::money::{Currency, OVERDRAFT_UNBOUNDED};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{pgbench, schema};
use crate::database;

/// Accounts of the uniform mix: more than fit the processor's caches, few enough to open in a second.
pub(crate) const ACCOUNTS: usize = 100_000;
/// Minor units on every account: a million payments of the largest amount from one account.
const OPENING_BALANCE: i64 = 1_000_000_000;
/// Positions are added to it, so that each is twelve decimal digits, which are hexadecimal digits too.
const POSITION_BASE: usize = 100_000_000_000;

/// Settled the same way before every turn: no dead rows, fresh statistics, nothing left to write back.
const SETTLE: [&str; 2] = ["VACUUM (ANALYZE)", "CHECKPOINT"];

/// The database of one run of the suite.
#[derive(Debug)]
pub(crate) struct Ground {
    /// How to connect to it.
    pub(crate) settings: tokio_postgres::Config,
    /// Owner of every account.
    pub(crate) merchant: MerchantId,
    /// Of every account.
    pub(crate) currency: Currency,
    /// Ids by position.
    pub(crate) accounts: Vec<Uuid>,
    /// First 24 characters of every account's id in its hyphenated form; the position is the rest.
    pub(crate) account_prefix: String,
    pub(crate) client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
    server: tokio_postgres::Config,
    name: String,
}

impl Ground {
    /// Makes the database and fills it.
    pub(crate) async fn lay(server: &tokio_postgres::Config) -> anyhow::Result<Self> {
        let name = format!("paystrata_bench_engine_{}", std::process::id());
        database::administer(
            server,
            &[format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")],
        )
        .await?;
        let mut settings = server.clone();
        settings.dbname(&name).application_name("paystrata-bench");
        let (client, connection) = settings.connect(NoTls).await.context("connect to the new database")?;
        let merchant = MerchantId::new();
        let account_prefix = account_prefix(merchant.0);
        let accounts = (1..=ACCOUNTS).map(|position| account_id(&account_prefix, position)).collect();
        let ground = Self {
            settings,
            merchant,
            currency: "USD".parse().expect("USD is a currency"),
            accounts,
            account_prefix,
            client,
            connection: tokio::spawn(connection),
            server: server.clone(),
            name,
        };
        if let Err(error) = ground.fill().await {
            ground.clear().await.context("drop the database after a failure")?;
            return Err(error);
        }
        Ok(ground)
    }

    async fn fill(&self) -> anyhow::Result<()> {
        schema::create(&self.connection_text()?).await.context("create the schema")?;
        self.client
            .execute("INSERT INTO merchants (id, name) VALUES ($1, 'bench')", &[&self.merchant.0])
            .await?;
        self.open_accounts().await.context("open accounts")?;
        self.client
            .batch_execute(&pgbench::function(self.merchant.0))
            .await
            .context("create the peer's function")?;
        self.settle().await
    }

    /// Opens all accounts with the entries that an opening balance has, in one statement per table.
    async fn open_accounts(&self) -> Result<(), tokio_postgres::Error> {
        let world = external_account(self.merchant.0, self.currency);
        let (merchant, currency) = (&self.merchant.0, self.currency.numeric());
        let count = i64::try_from(ACCOUNTS).expect("a hundred thousand fits");
        let client = &self.client;
        client
            .execute(
                "INSERT INTO accounts (id, merchant_id, posted, overdraft_limit, entry_count, currency)
                 VALUES ($1, $2, -$3::int8 * $4::int8, $5, $3, $6)",
                &[&world, merchant, &count, &OPENING_BALANCE, &OVERDRAFT_UNBOUNDED, &currency],
            )
            .await?;
        client
            .execute(
                "INSERT INTO accounts (id, merchant_id, posted, entry_count, currency)
                 SELECT id, $2, $3, 1, $4 FROM unnest($1::uuid[]) AS id",
                &[&self.accounts, merchant, &OPENING_BALANCE, &currency],
            )
            .await?;
        client
            .execute(
                "INSERT INTO account_profiles (account_id, merchant_id, kind)
                 SELECT id, $2, 'standard' FROM unnest($1::uuid[] || $3::uuid) AS id",
                &[&self.accounts, merchant, &world],
            )
            .await?;
        client
            .execute(
                "INSERT INTO entries (id, debit_account, credit_account, amount, debit_seq, credit_seq, debit_after,
                                      credit_after)
                 SELECT id, $2, id, $3, place, 1, -place * $3, $3
                   FROM unnest($1::uuid[]) WITH ORDINALITY AS opened (id, place)",
                &[&self.accounts, &world, &OPENING_BALANCE],
            )
            .await?;
        Ok(())
    }

    /// Brings the database into the state in which every turn begins.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        for statement in SETTLE {
            self.client.batch_execute(statement).await.with_context(|| format!("run {statement}"))?;
        }
        Ok(())
    }

    /// Drops the database.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        drop(self.client);
        // How this connection ends makes no difference any more.
        let _ = self.connection.await;
        database::administer(&self.server, &[format!("DROP DATABASE {} WITH (FORCE)", self.name)]).await
    }

    /// The settings as libpq's `key='value'` text.
    pub(crate) fn connection_text(&self) -> anyhow::Result<String> {
        database::connection_text(&self.settings)
    }
}

/// The time of `now`, so that ids fall into a partition that exists, and the version of a UUIDv7.
fn account_prefix(now: Uuid) -> String {
    let text = now.hyphenated().to_string();
    format!("{}-7000-8000-", &text[..13])
}

fn account_id(prefix: &str, position: usize) -> Uuid {
    let text = format!("{prefix}{}", POSITION_BASE + position);
    Uuid::try_parse(&text).expect("eight, four, four, four and twelve hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_ids_are_ordered_and_keep_the_time() {
        let now = Uuid::now_v7();
        let prefix = account_prefix(now);
        let (first, last) = (account_id(&prefix, 1), account_id(&prefix, ACCOUNTS));
        assert!(first < last);
        assert_eq!(first.as_bytes()[..6], now.as_bytes()[..6]);
        assert_eq!(first.get_version_num(), 7);
        assert_eq!(last.to_string(), format!("{prefix}100000100000"));
    }
}
