//! Memory per entry beyond key and value: what the thread that builds and fills a cache asks the allocator for, less what
//! the entries are. Averaged over sizes of a doubling, because tables grow in doublings and one size flatters or hurts.

use std::sync::Arc;

use super::allocator::asked;
use super::keys::{Key, MapKey, Value, values};
use super::reader::fill;
use super::sides::{Side, foyer::Foyer, moka::MokaFuture, moka::MokaSync, ours::Ours, quick::Quick};
use crate::report::{Better, CaseReport, PeerFigures, Summary};

/// Four steps of a quarter, from 100,000 entries to just under its double.
const SIZES: [usize; 4] = [100_000, 125_000, 150_000, 175_000];

/// The cases, by kind of key.
pub(super) async fn measure() -> anyhow::Result<Vec<CaseReport>> {
    let values = values(SIZES[SIZES.len() - 1]);
    Ok(vec![case::<u64>(&values).await?, case::<String>(&values).await?])
}

async fn case<K: MapKey>(values: &[Value]) -> anyhow::Result<CaseReport> {
    let peers = vec![
        PeerFigures { name: Quick::<K>::NAME, figures: per_entry::<K, Quick<K>>(values).await? },
        PeerFigures { name: MokaSync::<K>::NAME, figures: per_entry::<K, MokaSync<K>>(values).await? },
        PeerFigures { name: MokaFuture::<K>::NAME, figures: per_entry::<K, MokaFuture<K>>(values).await? },
        PeerFigures { name: Foyer::<K>::NAME, figures: per_entry::<K, Foyer<K>>(values).await? },
    ];
    Ok(CaseReport {
        case: format!("memory beyond key and value, {}", K::NAME),
        unit: "bytes/entry",
        better: Better::Lower,
        ours: per_entry::<K, Ours<K>>(values).await?,
        peers,
        target: None,
    })
}

/// The mean over the sizes.
async fn per_entry<K: Key, S: Side<K>>(values: &[Value]) -> anyhow::Result<Summary> {
    let mut runs = Vec::with_capacity(SIZES.len());
    for size in SIZES {
        runs.push(beyond::<K, S>(&values[..size]).await?);
    }
    // The mean stands where other cases have medians: the sizes are steps of one curve, and not repeats.
    #[expect(clippy::cast_precision_loss, reason = "four")]
    let mean = runs.iter().sum::<f64>() / runs.len() as f64;
    Ok(Summary { runs: vec![mean] })
}

#[expect(clippy::cast_precision_loss, reason = "bytes and entries are far below 2^52")]
async fn beyond<K: Key, S: Side<K>>(values: &[Value]) -> anyhow::Result<f64> {
    let entries = values.len();
    let before = asked();
    let side = S::build(entries)?;
    // All on this thread: nothing of it is awaited by a task.
    fill(&side, values).await;
    let taken = asked().bytes - before.bytes;
    let mut held = 0_usize;
    for number in 0..entries as u64 {
        let book = K::book(&[number]);
        held += usize::from(side.read(K::probe(&book, 0)).await);
    }
    anyhow::ensure!(held * 2 > entries, "{} kept only {held} of {entries} entries", S::NAME);
    let own = size_of::<K>() + K::HEAP_BYTES + size_of::<Arc<[u8; 64]>>();
    Ok(taken as f64 / held as f64 - own as f64)
}
