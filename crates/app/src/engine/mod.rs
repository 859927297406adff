//! The ledger engine: the write path of the service. Everything that moves money passes through here, in batches of
//! whatever is waiting: one batch is one transaction. The engine owns its commands and outcomes and all SQL on balances,
//! payments, entries, keys, operations, the outbox and the notices of changes. It names no domain folder and knows no HTTP.
//!
//! ```text
//! submit -> queue of a lane -> batch -> load (keys, payments, operations, accounts locked in sorted order)
//!                                    -> decide (pure, in arrival order, on the locked rows)
//!                                    -> write  (set-based) + COMMIT -> answer every caller
//! ```
//! A refusal or a failure is a value. An SQL error is never one command's outcome unless that command alone causes it.

mod answers;
mod backlog;
mod batch;
mod blocked;
mod book;
mod columns;
mod command;
mod decide;
mod key;
mod lane;
mod load;
mod model;
mod notices;
mod operations;
mod proof;
mod queue;
mod settle;
mod write;

pub use answers::{find_answers, forget_old_keys};
pub use book::external_account;
pub use command::{
    Answer, Capture, Command, CreatePayment, Decision, Dispatch, EngineError, Evidence, FraudDecision, Group,
    GroupOutcome, OpenAccount, Pin, PlannedOperation, Refund, Refusal, Reply, Settlement, Side, Submission,
    Verdict, Void,
};
pub use key::{Fingerprint, FingerprintBuilder, KeepRefusal, KeyClaim, PATH_FIELD, ROUTE_FIELD};
pub(crate) use load::{PAYMENT_COLUMNS, payment_from_row};
pub use model::{
    AccountRecord, AccountStatus, CaptureMode, ChargeOutcome, FailureCode, OperationKind, OperationStatus,
    PaymentRecord, PaymentStatus, Rail, Reason, UnknownCode,
};
pub use notices::{Changed, Notice, Notices, fold_notices, forget_notices, overdue_notices};
pub use operations::{
    DueOperation, OperationError, claim_due_operations, count_absence, find_payment, hand_over,
};
pub use queue::{Commit, Engine, EngineConfig, EngineObserver, EngineStats, Render};
