//! `engine`: the write path that moves money. Read by the start of the ledger engine.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::setting::{DefaultValue::Fixed, count, milliseconds};

section! {
    /// The write path that moves money.
    EngineConfig = "engine" {
        /// Batches committed side by side; each holds one connection to the primary, outside the pools.
        lanes: NonZeroUsize = "lanes" count(1, 64), Fixed("2");
        /// Most commands in one commit.
        batch_max: NonZeroUsize = "batch_max" count(1, 10_000), Fixed("1000");
        /// Most accounts that one commit locks, but for a single command that needs more. Lanes whose batches lock many
        /// wait for each other.
        batch_accounts_max: NonZeroUsize = "batch_accounts_max" count(2, 20_000), Fixed("256");
        /// Most commands waiting for a batch; one more is refused with 503 and `Retry-After`, before any effect.
        queue_max: NonZeroUsize = "queue_max" count(1, 1_000_000), Fixed("8192");
        /// Longest wait of a command for its batch; it is refused then, before any effect. What becomes of a batch after
        /// that (running it again, splitting it) may take as long once more, and a quarter of it is the longest wait for
        /// a row that another session has locked; payments that need the row are then refused.
        queue_timeout: Duration = "queue_timeout_ms" milliseconds(1, 600_000), Fixed("5000");
    }
}
