//! `resolver`, `fraud`, `idempotency`: rules that a payment meets. Read by the payment use cases.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::setting::{DefaultValue::Fixed, Kind, count, days, milliseconds, seconds};
use crate::config::value::BlocklistEntry;

section! {
    /// Asking gateways for outcomes that are not known.
    ResolverConfig = "resolver" {
        /// Time between two looks for payments with an unknown outcome.
        interval: Duration = "interval_ms" milliseconds(10, 600_000), Fixed("2000");
        /// How long after its sender's own limit a request may still reach the gateway: a gateway's "not found" is believed
        /// only then. The limit is the rail's `timeout_ms` and 5 s in which sending may begin.
        not_found_after: Duration = "not_found_after_ms" milliseconds(1, 86_400_000), Fixed("30000");
        /// Questions about one attempt that a gateway may leave without an answer, one after the other, before a person must
        /// look. All but the first are five minutes apart: 300 are a day. "Not found" and "under review" are answers.
        attempts_max: NonZeroU32 = "attempts_max" count(1, 10_000), Fixed("300");
    }
}

section! {
    /// Rules that refuse payments before money moves.
    FraudConfig = "fraud" {
        /// Whether the rules are asked at all.
        enabled: bool = "enabled" Kind::Flag, Fixed("true");
        /// Time that the rules are meant to take for one payment. Beyond it a warning is logged; every rule is asked all the same.
        budget: Duration = "budget_ms" milliseconds(1, 1000), Fixed("5");
        /// Largest amount of one payment, in minor units of its currency.
        amount_max: i64 = "amount_max" Kind::Integer { min: 1, max: i64::MAX, unit: "minor units" }, Fixed("100000000000");
        /// Most payments that one merchant asks for from one account within the velocity window, counted by each process for
        /// itself, also while they are under way, repeats then too; for cards, into one account. The default lets one batch of
        /// a thousand through and stops more than twenty a second; raise it for accounts that are paid by many cards.
        velocity_count_max: NonZeroU32 = "velocity_count_max" count(1, 1_000_000_000), Fixed("1200");
        /// Length of the velocity window.
        velocity_window: Duration = "velocity_window_seconds" seconds(1, 86_400), Fixed("60");
        /// Who is refused by name: `account:acc_..`, `bin:411111` (the first 6 digits of a card).
        blocklist: Vec<BlocklistEntry> = "blocklist" Kind::Blocklist, Fixed("");
    }
}

section! {
    /// Remembering the answers to idempotency keys.
    IdempotencyConfig = "idempotency" {
        /// How long a key gives the same answer. The production profile refuses less than 30.
        retention: Duration = "retention_days" days(1, 3650), Fixed("30");
    }
}
