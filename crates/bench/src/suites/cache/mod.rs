//! Suite `cache`: `paystrata-cache` against bare quick_cache, moka, foyer, hitbox, multi-tier-cache and cached in process,
//! and against the bare multiplexed connection in Redis. Void when a read that must hit misses, when a stampede loads
//! twice, or when reads of the second tier reach the loader.
//!
//! ```text
//! allocator  counts what each thread asks for
//! keys       the keys, values and orders that all sides are given
//! sides      the contenders, one file each
//! reader     a filled cache read in a loop
//! processors a processor for each reading thread
//! hits       the first tier: get, get_or_load, one hot key, allocations
//! memory     bytes per entry
//! ratio      hit ratios over traces
//! stampede   many callers, one load
//! remote     the second tier
//! ```

mod allocator;
mod hits;
mod keys;
mod memory;
mod processors;
mod ratio;
mod reader;
mod remote;
mod sides;
mod stampede;

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use self::reader::Turn;
use crate::machine;
use crate::report::SuiteReport;
use crate::suite::{Context, Effort, Suite};

/// One line of `suite::SUITES`.
pub const SUITE: Suite = Suite {
    name: "cache",
    about: "hits, second tier, stampedes, memory and hit ratio against the caches a user would otherwise pick",
    run,
};

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    rounds: u64,
    turn: Turn,
    /// Entries of the set that fits no processor's cache.
    entries: usize,
    /// One turn of the second tier.
    remote: Duration,
    /// Length of a trace.
    requests: usize,
}

impl Sizes {
    fn of(effort: Effort) -> Self {
        let milliseconds = Duration::from_millis;
        match effort {
            Effort::Full => Self {
                rounds: 5,
                turn: Turn { warm_up: milliseconds(50), duration: milliseconds(200) },
                entries: 1_000_000,
                remote: Duration::from_secs(2),
                requests: 1_000_000,
            },
            Effort::Quick => Self {
                rounds: 3,
                turn: Turn { warm_up: milliseconds(10), duration: milliseconds(30) },
                entries: 200_000,
                remote: milliseconds(500),
                requests: 200_000,
            },
        }
    }
}

fn run(context: &Context) -> BoxFuture<'_, anyhow::Result<SuiteReport>> {
    Box::pin(async move {
        let sizes = Sizes::of(context.effort);
        let mut notes = vec![machine::others_busy().await];
        let mut cases = Box::pin(hits::measure(context, sizes, &mut notes))
            .await
            .context("measure hits of the first tier")?;
        cases.extend(remote::measure(context, sizes, &mut notes).await.context("measure the second tier")?);
        cases.push(stampede::measure(context, sizes).await.context("measure stampedes")?);
        if context.effort == Effort::Full {
            cases.extend(memory::measure().await.context("measure memory")?);
        }
        cases.extend(ratio::measure(context, sizes).await.context("measure hit ratios")?);
        notes.push(format!(
            "{} rounds; turns of {:?} after {:?}; {} entries out of CPU cache; values of {} bytes behind an Arc",
            sizes.rounds,
            sizes.turn.duration,
            sizes.turn.warm_up,
            sizes.entries,
            keys::VALUE_BYTES
        ));
        Ok(SuiteReport { suite: SUITE.name, cases, notes })
    })
}
