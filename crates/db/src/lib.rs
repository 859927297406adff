//! A Postgres data layer: one [`Db`] over a primary and its replicas, with bounded pools, reads that see the caller's own
//! writes, transactions whose end is known, migrations, and monthly partitions. It needs PostgreSQL 15 or later.
//! It knows nothing of what is stored, builds no SQL for its callers, and never falls back from TLS: a URL that demands it gets it,
//! with the feature `tls`, or no connection.
//!
//! ```no_run
//! use paystrata_db::{Config, Db, Error, Statement, TransactionOptions, Type};
//!
//! static ADD: Statement = Statement::new("INSERT INTO city (name) VALUES ($1)", &[Type::TEXT]);
//! static COUNT: Statement = Statement::new("SELECT count(*) FROM city", &[]);
//!
//! async fn found(db: &Db, name: &str) -> Result<i64, Box<dyn std::error::Error>> {
//!     let added = db.transaction(TransactionOptions::default(), |tx| async move {
//!         tx.execute(&ADD, &[&name]).await
//!     });
//!     let token = added.await?.token;
//!     // From a replica if one has replayed the insert, else from the primary; never without it.
//!     Ok(db.read_after(token).await?.query_one(&COUNT, &[]).await?.get(0))
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("postgres://app@127.0.0.1:5432/app".parse()?);
//! config.replica_urls = vec!["postgres://app@127.0.0.1:5433/app".parse()?];
//! let db = Db::connect(config).await?;
//! found(&db, "Ghent").await?;
//! db.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! The **[guide]** has a page for each question: what is behind a `Db`, what is promised, what a call costs, tokens over HTTP, batches,
//! bulk loads, cached results, views, partitions, migrations, poolers, watching it, and limits.
//!
//! # What holds
//!
//! - **A read with a token sees the write.** A replica serves it only if it was seen to have replayed the position on the
//!   same timeline and is still the same server process; otherwise the primary does.
//! - **"Committed" is true.** It is said only after the server's record of the transaction says so; a commit whose connection
//!   breaks is looked up by its transaction id; what cannot be known, because a failover or a crash may have given the id to
//!   another transaction, is called unknown.
//! - **Any future may be dropped at any await.** The statement is cancelled on the server and its transaction rolled
//!   back; the pool's slot is free at once, and the connection comes back only when the wire has told that it is clean.
//! - **Everything is bounded**: connections, waits, dials, reads on the primary, reruns, prepared statements, sweeps.
//!   The bounds stand in `config.rs`, each with its reason. A refusal names server, phase and pool.
//! - **A replaced primary gets no writes.** Servers are told apart by what they say of themselves; a timeline older than one
//!   already seen is fenced while the process lives, and two primaries on one timeline are refused both.
//!
//! # Beside it
//!
//! [`views`] keeps materialized views fresh and tells their age; [`results`] puts a cache between, which you choose, without giving
//! up read-your-writes; [`repeats`] finds look-ups per row in tests; [`partitions`] makes months ahead, watches them, and
//! detaches old ones.
//! The examples `advice`, `batcher`, `bulk`, `loader`, `routing` and `tokens` run against a database of yours.
//!
//! # What it costs
//!
//! A statement is one round trip, and two when it is new to its connection. A transaction adds two around its statements:
//! one to begin and learn its id, one to commit and learn the token. A causal read adds none while the monitors' last probe
//! suffices, and else waits for one probe, 20 ms at most. Every server carries one more connection and ten
//! small probes a second. Short reads of many callers go further through [`Db::query`], where they share connections. [`Loader`] and [`Batcher`] spread one statement, or one commit, over all callers of a moment; [`Bulk`]
//! loads many rows of one caller at the speed of COPY, and names the bad one.
//!
//! # What it does not do
//!
//! - Behind a pooler in transaction mode, statements travel unnamed and are planned every time. Types of the database's own
//!   (enums) are looked up once for each connection, when it is made; after `CREATE TYPE` the first statements that give such a
//!   value fail as retryable, while older connections are replaced. What belongs to a session is refused there.
//! - Lag is measured against the primary's position as this process saw it; while no primary answers, replicas serve
//!   reads without a token whatever their age.
//! - [`Bulk`] encodes types that are built into Postgres, and enums as text; it needs the right to make temporary tables for
//!   upserts and updates, and refuses views. Row-level security refuses COPY.
//! - Each URL must lead to one server. A balancer in front of several would make their states look like one.
//! - With asynchronous replication a failover can lose commits that were acknowledged; only the server's settings can prevent that.
//!
//! # Features
//!
//! - `plans`: EXPLAIN as values with findings, a slow log, and index advice (the `plans` module). Adds `serde_json`.
//! - `tls`: TLS to servers and poolers whose [`ConnectionUrl`] demands it. Adds `rustls` with `ring`, and installs nothing in the process. A
//!   connection, and a cancel, then costs two round trips more and a handshake's computing on both sides.

mod acquire;
mod bench;
mod breaker;
mod bulk;
mod cancel;
mod coalesce;
mod config;
mod connection;
mod db;
mod dial;
mod error;
mod forks;
pub mod guide;
mod holders;
mod incarnation;
mod lag;
mod lanes;
mod migrate;
mod monitor;
mod node;
mod observe;
pub mod partitions;
#[cfg(feature = "plans")]
pub mod plans;
mod pool;
mod pooler;
mod primary;
mod read;
mod renew;
pub mod repeats;
pub mod results;
mod route;
mod session;
mod session_words;
mod share;
mod socket;
mod sqlstate;
mod statement;
mod statement_cache;
mod status;
mod sweep;
mod tap;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod token;
mod transaction;
mod url;
mod usage;
pub mod views;

pub use bulk::{
    BULK_SCHEMA, BadRows, Bulk, BulkCause, BulkError, BulkOptions, BulkReport, Column, Conflict, FieldError,
    FieldProblem, FieldReader, FieldWriter, Method, Progress, Refusal, Rejected, Row, TableName,
};
pub use coalesce::{BatchError, Batcher, CoalesceOptions, Items, LoadError, Loader};
pub use config::Config;
pub use connection::{Connection, Values};
pub use db::Db;
pub use error::{AcquirePhase, Error, is_write_lost, read_from_floor};
pub use holders::{Doing, Holder, Holders};
pub use incarnation::{History, PrimaryLife};
pub use migrate::{
    Applied, MigrateError, Migration, MigrationState, MigrationStatus, Migrator, NO_TRANSACTION,
    Transactional,
};
pub use node::{NodeId, NodeState, Role};
pub use observe::{AcquireSeen, Observer, QuerySeen, TransactionEnd, TransactionSeen};
pub use pooler::{PoolerMode, PoolerSeen};
pub use postgres_types::{ToSql, Type};
pub use route::NoPrimary;
pub use session::Session;
pub use sqlstate::{Class, classify};
pub use statement::Statement;
pub use status::{NodeStatus, PoolStatus, Status};
pub use token::{Token, TokenError};
pub use tokio_postgres;
pub use transaction::{
    CommitOutcome, CommitTicket, Committed, Isolation, Transaction, TransactionError, TransactionOptions,
};
pub use url::{ConnectionUrl, UrlError};
