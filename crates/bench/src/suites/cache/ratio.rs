//! Hit ratios: the same trace against each cache with room for the same number of entries, a miss being followed by an
//! insert. Not timed, and the same in each run but for what a cache itself leaves to chance.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Sizes;
use super::keys::{Key, Value, values};
use super::sides::{
    Side,
    cached::CachedLru,
    foyer::Foyer,
    moka::MokaSync,
    ours::Ours,
    plain::{PlainLfu, PlainLru},
    quick::Quick,
};
use crate::load::zipf::Zipf;
use crate::report::{Better, CaseReport, PeerFigures, Summary, Target};
use crate::suite::Context;

const SEED: u64 = 20_251_122;
/// Room for so many entries.
const ROOM: usize = 10_000;
/// Keys of the Zipf traces: ten times the room.
const KEYS: usize = 100_000;
/// Of the scan mix: after so many draws by Zipf's law comes a scan of as many keys that nobody asks for again.
const SCAN: usize = 5_000;
/// The loop is a tenth longer than there is room: the worst case of LRU, which then never hits.
const LOOP: u64 = 11_000;
/// The policy is quick_cache's: what stands around it may cost it nothing but noise.
const OF_QUICK_AT_LEAST: f64 = 0.99;

/// The cases, by trace.
pub(super) async fn measure(context: &Context, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let traces = [
        ("Zipf 0.9", zipf(0.9, sizes.requests)),
        ("Zipf 1.1", zipf(1.1, sizes.requests)),
        ("Zipf 1.0 with scans", scans(sizes.requests)),
        ("loop 10 % over room", (0..LOOP).cycle().take(sizes.requests).collect()),
    ];
    let mut cases = Vec::new();
    for (name, trace) in traces {
        cases.push(case(name, &trace).await?);
        context.progress(&format!("hit ratio, {name}"));
    }
    Ok(cases)
}

fn zipf(exponent: f64, requests: usize) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(KEYS, exponent), StdRng::seed_from_u64(SEED));
    (0..requests).map(|_| zipf.draw(&mut random) as u64).collect()
}

fn scans(requests: usize) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(KEYS, 1.0), StdRng::seed_from_u64(SEED));
    // Never met by a draw, and never twice.
    let mut scanned = KEYS as u64 + random.random_range(0..1_000);
    let mut trace = Vec::with_capacity(requests);
    while trace.len() < requests {
        trace.extend((0..SCAN).map(|_| zipf.draw(&mut random) as u64));
        trace.extend(scanned..scanned + SCAN as u64);
        scanned += SCAN as u64;
    }
    trace
}

async fn case(name: &str, trace: &[u64]) -> anyhow::Result<CaseReport> {
    let value = &values(1)[0];
    let peers = vec![
        peer::<Quick<u64>>(trace, value).await?,
        peer::<MokaSync<u64>>(trace, value).await?,
        peer::<Foyer<u64>>(trace, value).await?,
        peer::<CachedLru<u64>>(trace, value).await?,
        peer::<PlainLru>(trace, value).await?,
        peer::<PlainLfu>(trace, value).await?,
    ];
    let ours = peer::<Ours<u64>>(trace, value).await?.figures;
    let target = Some(Target::RatioAtLeast { peer: Quick::<u64>::NAME, ratio: OF_QUICK_AT_LEAST });
    let case = format!("hit ratio, {name}");
    Ok(CaseReport { case, unit: "% hits", better: Better::Higher, ours, peers, target })
}

async fn peer<S: Side<u64>>(trace: &[u64], value: &Value) -> anyhow::Result<PeerFigures> {
    let percent = percent_of_hits(&S::build(ROOM)?, trace, value).await;
    Ok(PeerFigures { name: S::NAME, figures: Summary { runs: vec![percent] } })
}

#[expect(clippy::cast_precision_loss, reason = "a trace is short")]
async fn percent_of_hits(side: &impl Side<u64>, trace: &[u64], value: &Value) -> f64 {
    let mut hits = 0_usize;
    for number in trace {
        let key = u64::of(*number);
        if side.read(&key).await {
            hits += 1;
        } else {
            side.insert(key, Arc::clone(value)).await;
        }
    }
    100.0 * hits as f64 / trace.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loop_over_the_room_never_hits_lru_and_what_fits_always_does() {
        let value = &values(1)[0];
        let side = PlainLru::build(10).unwrap();
        let trace = |length: u64| (0..length).cycle().take(1_100).collect::<Vec<_>>();
        assert!(percent_of_hits(&side, &trace(11), value).await < 1e-9);
        let side = PlainLru::build(11).unwrap();
        assert!((percent_of_hits(&side, &trace(11), value).await - 99.0).abs() < 1e-9);
    }

    #[test]
    fn scans_are_half_of_the_mix_and_come_once() {
        let trace = scans(40_000);
        let mut scanned: Vec<u64> = trace.iter().copied().filter(|key| *key >= KEYS as u64).collect();
        assert_eq!(scanned.len() * 2, trace.len());
        scanned.dedup();
        assert_eq!(scanned.len() * 2, trace.len());
    }
}
