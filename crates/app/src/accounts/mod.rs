//! Accounts: opening, reading and listing them. Balances are changed by the engine alone; this folder shows them.

pub mod create;
pub mod get;
pub mod handler;
pub mod list;
pub mod store;
pub mod wire;
