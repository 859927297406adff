//! The ledger as it is read: entries of an account, the trial balance, and the audit that folds every entry again.
//! Writes nothing.

pub mod handler;
pub mod store;
pub mod verify;
