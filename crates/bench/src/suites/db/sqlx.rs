//! `sqlx` as a peer: a pool that pings nobody at a checkout, prepared statements that it keeps, and arrays for many rows.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::time::OffsetDateTime;
use tokio_postgres::config::Host;
use uuid::Uuid;

use super::Sizes;
use super::bulk::Filling;
use super::ground::Ground;
use super::reads;
use super::rows::{ROWS, Record};
use crate::measure::Contender;

const CONNECTIONS: u32 = 16;
const ARRAYS: &str = "INSERT INTO record (id, payment, amount, note, at)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::text[], $5::timestamptz[])";

/// A pool of its own on the ground.
pub(super) async fn pool(ground: &Ground) -> anyhow::Result<PgPool> {
    let settings = &ground.settings;
    let options = PgConnectOptions::new_without_pgpass();
    let options = match settings.get_hosts() {
        [Host::Tcp(name)] => options.host(name),
        [Host::Unix(folder)] => options.socket(folder),
        _ => anyhow::bail!("the connection URL must name one host"),
    };
    let mut options = options.port(settings.get_ports().first().copied().unwrap_or(5432));
    if let Some(user) = settings.get_user() {
        options = options.username(user);
    }
    if let Some(word) = settings.get_password() {
        options = options.password(std::str::from_utf8(word).context("the password is no text")?);
    }
    if let Some(name) = settings.get_dbname() {
        options = options.database(name);
    }
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
    pool.connect_with(options).await.context("connect sqlx")
}

/// One key at a time.
pub(super) fn single(ground: &Ground, pool: PgPool, sizes: Sizes) -> Box<dyn Contender + '_> {
    let read = move |key: i32| {
        let pool = pool.clone();
        async move { Ok(sqlx::query(reads::ONE.sql()).bind(key).fetch_optional(&pool).await?.is_some()) }
    };
    reads::through("sqlx", read, ground, sizes)
}

/// All rows by one statement over arrays.
pub(super) fn arrays<'run>(
    ground: &'run Ground,
    pool: &'run PgPool,
    rows: &'run [Record],
) -> Box<dyn Contender + 'run> {
    let load = Box::new(move || -> futures_util::future::BoxFuture<'run, _> {
        Box::pin(async move {
            let begun = Instant::now();
            let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
            let payments: Vec<Uuid> = rows.iter().map(|row| row.payment).collect();
            let amounts: Vec<i64> = rows.iter().map(|row| row.amount).collect();
            let notes: Vec<&str> = rows.iter().map(|row| row.note.as_str()).collect();
            let times: Vec<OffsetDateTime> = rows.iter().map(|row| row.at.into()).collect();
            let insert = sqlx::query(ARRAYS).bind(ids).bind(payments).bind(amounts).bind(notes).bind(times);
            let done = insert.execute(pool).await?;
            let time = begun.elapsed();
            ensure!(done.rows_affected() == ROWS as u64, "{} rows were inserted: void", done.rows_affected());
            Ok(time)
        })
    });
    Box::new(Filling { name: "sqlx UNNEST", ground, load })
}
