//! Merchants: who owns accounts and payments, and by which API keys they are known. Keys are stored as digests and
//! checked through a small cache, so that a request costs no query.

pub mod handler;
pub mod keys;
pub mod refresh;
pub mod store;
