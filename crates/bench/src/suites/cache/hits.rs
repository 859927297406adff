//! Hits of the first tier: `get` and `get_or_load`, numbers and strings as keys, entries that fit the processor's cache
//! and entries that do not, one thread and two; and one hot key that both threads read.

use std::sync::Arc;

use super::Sizes;
use super::keys::{Key, MapKey, Value, shuffled, values};
use super::reader::{Filled, Hits, Reader, Turn, fill};
use super::sides::{
    Side,
    cached::{CachedLru, CachedTtl},
    foyer::Foyer,
    hitbox::Hitbox,
    moka::{MokaFuture, MokaSync, MokaTtl},
    multi_tier::MultiTier,
    ours::{Loading, Ours, Swept},
    quick::Quick,
};
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, Summary, Target};
use crate::suite::Context;

const SEED: u64 = 20_251_121;
const UNIT: &str = "ns/read";
/// Both processors of the judge's machine.
const THREADS: [u8; 2] = [1, 2];
/// Few enough that all sides stay in the processor's cache.
const SMALL: usize = 1_000;
/// Room over what is put in, so that no shard of any side evicts.
const AMPLE: usize = 4;

/// Peers that are judged together: the fastest of them is the one to beat, by this ratio.
struct Rivals {
    names: &'static [&'static str],
    at_least: f64,
}

/// "At most 1.25 times bare quick_cache's time" is a ratio of 0.8.
const QUICK: Rivals = Rivals { names: &["quick_cache"], at_least: 0.8 };
const RIVALS: [Rivals; 4] = [
    QUICK,
    Rivals { names: &["moka sync", "moka sync ttl", "moka future"], at_least: 10.0 },
    Rivals { names: &["foyer"], at_least: 3.0 },
    Rivals { names: &["cached lru", "cached ttl", "hitbox", "multi-tier-cache"], at_least: 1.0 },
];

/// Every case of hits. Notes say what bare quick_cache itself makes of the peers.
pub(super) async fn measure(
    context: &Context,
    sizes: Sizes,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<CaseReport>> {
    let mut cases = Vec::new();
    for (entries, where_) in [(SMALL, "in CPU cache"), (sizes.entries, "out of CPU cache")] {
        // Shared by all sides: what differs is only how they keep them.
        let values = values(entries);
        let readers = number_readers(&values).await?;
        compare(context, sizes, &readers, &format!("u64, {where_}"), &mut cases, notes).await?;
        drop(readers);
        let readers = text_readers(&values).await?;
        compare(context, sizes, &readers, &format!("String, {where_}"), &mut cases, notes).await?;
    }
    let readers = swept_readers().await?;
    cases
        .push(against_quick(context, sizes, &readers, 1, "get, u64, tagged and swept, 1 thread", 0.8).await?);
    let readers = hot_readers().await?;
    cases.push(against_quick(context, sizes, &readers, 2, "get, one hot key, 2 threads", 1.0).await?);
    Ok(cases)
}

type Readers = Vec<Box<dyn Reader>>;

async fn number_readers(values: &[Value]) -> anyhow::Result<Readers> {
    let book = Arc::new(<u64 as Key>::book(&shuffled(values.len(), SEED)));
    let mut readers = map_readers::<u64>(values, &book).await?;
    readers.push(hitbox_reader(values).await?);
    Ok(readers)
}

async fn text_readers(values: &[Value]) -> anyhow::Result<Readers> {
    let book = Arc::new(<String as Key>::book(&shuffled(values.len(), SEED)));
    let mut readers = map_readers::<String>(values, &book).await?;
    readers.push(reader::<String, MultiTier>(values, &book).await?);
    readers.push(hitbox_reader(values).await?);
    Ok(readers)
}

/// The sides that take any key; ours first.
async fn map_readers<K: MapKey>(values: &[Value], book: &Arc<K::Book>) -> anyhow::Result<Readers> {
    let ours = Ours::<K>::build(values.len() * AMPLE)?;
    fill(&ours, values).await;
    let loading: Loading<K> = ours.loading();
    Ok(vec![
        Box::new(Filled::new(ours, Arc::clone(book), values.len())),
        Box::new(Filled::new(loading, Arc::clone(book), values.len())),
        reader::<K, Quick<K>>(values, book).await?,
        reader::<K, MokaSync<K>>(values, book).await?,
        reader::<K, MokaTtl<K>>(values, book).await?,
        reader::<K, MokaFuture<K>>(values, book).await?,
        reader::<K, Foyer<K>>(values, book).await?,
        reader::<K, CachedLru<K>>(values, book).await?,
        reader::<K, CachedTtl<K>>(values, book).await?,
    ])
}

async fn hitbox_reader(values: &[Value]) -> anyhow::Result<Box<dyn Reader>> {
    let book = Arc::new(<hitbox::CacheKey as Key>::book(&shuffled(values.len(), SEED)));
    reader::<hitbox::CacheKey, Hitbox>(values, &book).await
}

async fn reader<K: Key, S: Side<K>>(
    values: &[Value],
    book: &Arc<K::Book>,
) -> anyhow::Result<Box<dyn Reader>> {
    let side = S::build(values.len() * AMPLE)?;
    fill(&side, values).await;
    Ok(Box::new(Filled::<K, S>::new(side, Arc::clone(book), values.len())))
}

async fn compare(
    context: &Context,
    sizes: Sizes,
    readers: &Readers,
    what: &str,
    cases: &mut Vec<CaseReport>,
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    for threads in THREADS {
        let mut allocations = vec![0.0; readers.len()];
        let summaries = run(context, sizes.rounds, sizes.turn, readers, threads, &mut allocations).await?;
        let figures: Vec<PeerFigures> = readers
            .iter()
            .zip(summaries)
            .map(|(reader, figures)| PeerFigures { name: reader.name(), figures })
            .collect();
        let (ours, peers) = figures.split_at(2);
        let plural = if threads == 1 { "" } else { "s" };
        let load = format!("{what}, {threads} thread{plural}");
        for (verb, side) in ["get", "get_or_load"].into_iter().zip(ours) {
            cases.extend(RIVALS.iter().map(|rivals| judge(format!("{verb}, {load}"), side, peers, rivals)));
        }
        notes.push(floor(&load, peers));
        if threads == 1 {
            cases.extend(allocation_cases(what, &allocations));
            notes.push(allocations_of_peers(what, readers, &allocations));
        }
    }
    Ok(())
}

async fn run(
    context: &Context,
    rounds: u64,
    turn: Turn,
    readers: &Readers,
    threads: u8,
    allocations: &mut [f64],
) -> anyhow::Result<Vec<Summary>> {
    let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
    for (reader, allocations) in readers.iter().zip(allocations) {
        contenders.push(Box::new(Hits { reader: reader.as_ref(), threads, turn, allocations }));
    }
    interleave(rounds, &mut contenders, &mut |line| context.progress(line)).await
}

/// Ours against these rivals; the target is about the fastest.
fn judge(case: String, ours: &PeerFigures, peers: &[PeerFigures], rivals: &Rivals) -> CaseReport {
    let mut peers: Vec<PeerFigures> =
        peers.iter().filter(|peer| rivals.names.contains(&peer.name)).cloned().collect();
    peers.sort_by(|one, other| one.figures.median().total_cmp(&other.figures.median()));
    let fastest = peers.first().map_or(rivals.names[0], |peer| peer.name);
    let target = Some(Target::RatioAtLeast { peer: fastest, ratio: rivals.at_least });
    CaseReport { case, unit: UNIT, better: Better::Lower, ours: ours.figures.clone(), peers, target }
}

/// How far bare quick_cache is ahead of the others: no cache that stands on it can be further ahead.
fn floor(load: &str, peers: &[PeerFigures]) -> String {
    let Some((quick, others)) = peers.split_first() else { return String::new() };
    let ahead = others
        .iter()
        .map(|peer| format!("{:.1}x {}", peer.figures.median() / quick.figures.median(), peer.name));
    format!("{load}: bare quick_cache is {}", ahead.collect::<Vec<_>>().join(", "))
}

/// Ours must allocate nothing; what the others do is said in a note, as a ratio to nothing says nothing.
fn allocation_cases(what: &str, figures: &[f64]) -> Vec<CaseReport> {
    let case = |verb: &str, figure| CaseReport {
        case: format!("allocations, {verb}, {what}"),
        unit: "per read",
        better: Better::Lower,
        ours: Summary { runs: vec![figure] },
        peers: Vec::new(),
        target: Some(Target::FigureAtMost(0.0)),
    };
    vec![case("get", figures[0]), case("get_or_load", figures[1])]
}

fn allocations_of_peers(what: &str, readers: &Readers, figures: &[f64]) -> String {
    let peers = readers.iter().zip(figures).skip(2);
    let each: Vec<String> = peers.map(|(reader, figure)| format!("{} {figure:.2}", reader.name())).collect();
    format!("{what}: allocations per read: {}", each.join(", "))
}

/// Entries that carry something, after sweeps that did not mean them.
async fn swept_readers() -> anyhow::Result<Readers> {
    let values = values(SMALL);
    let book = Arc::new(<u64 as Key>::book(&shuffled(values.len(), SEED)));
    let ours = Swept::<u64>::build(SMALL * AMPLE)?;
    fill(&ours, &values).await;
    ours.sweep_others();
    Ok(vec![
        Box::new(Filled::<u64, _>::new(ours, Arc::clone(&book), values.len())),
        reader::<u64, Quick<u64>>(&values, &book).await?,
    ])
}

/// One key, read by all.
async fn hot_readers() -> anyhow::Result<Readers> {
    let values = values(SMALL);
    let book = Arc::new(<u64 as Key>::book(&[7]));
    let ours = Ours::<u64>::build(SMALL * AMPLE)?;
    fill(&ours, &values).await;
    let quick = Quick::<u64>::build(SMALL * AMPLE)?;
    fill(&quick, &values).await;
    Ok(vec![
        Box::new(Filled::<u64, _>::new(ours, Arc::clone(&book), 1)),
        Box::new(Filled::<u64, _>::new(quick, book, 1)),
    ])
}

/// Ours and bare quick_cache, and nobody else.
async fn against_quick(
    context: &Context,
    sizes: Sizes,
    readers: &Readers,
    threads: u8,
    case: &str,
    ratio: f64,
) -> anyhow::Result<CaseReport> {
    let mut allocations = [0.0; 2];
    let mut summaries = run(context, sizes.rounds, sizes.turn, readers, threads, &mut allocations).await?;
    let peer = QUICK.names[0];
    let peers = vec![PeerFigures { name: peer, figures: summaries.remove(1) }];
    Ok(CaseReport {
        case: case.to_owned(),
        unit: UNIT,
        better: Better::Lower,
        ours: summaries.remove(0),
        peers,
        target: Some(Target::RatioAtLeast { peer, ratio }),
    })
}
