//! A Postgres data layer. (Placeholder doc)
mod config;
mod connection;
mod db;
mod dial;
mod error;
mod lag;
mod migrate;
mod monitor;
mod node;
mod observe;
pub mod partitions;
mod pool;
mod read;
mod route;
mod session;
mod sqlstate;
mod statement;
mod statement_cache;
mod status;
mod sweep;
mod token;
mod transaction;
mod url;
mod usage;

pub use config::Config;
pub use connection::{Connection, Values};
pub use db::Db;
pub use error::{AcquirePhase, Error};
pub use migrate::{
    Applied, MigrateError, Migration, MigrationState, MigrationStatus, Migrator, NO_TRANSACTION,
    Transactional,
};
pub use node::{NodeId, NodeState, Role};
pub use observe::{AcquireSeen, Observer, QuerySeen, TransactionEnd, TransactionSeen};
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
