//! Random reads, writes and faults on several nodes against the promises themselves. A failing seed is printed.
//! `PAYSTRATA_TEST_SEEDS` says how many seeds are run, `PAYSTRATA_TEST_SEED` the first.

use std::{sync::Arc, time::Duration};

use paystrata_cache::{
    Policy, Stats,
    testkit::{HonestLoader, Report, Simulation},
};

/// Seeds that broke an earlier form of this crate.
const ONCE_BROKEN: [u64; 7] = [
    7_559_710_672_261_473_611,
    8_414_752_384_662_681_983,
    15_410_508_160_324_319_858,
    1_070_730_583_764_454_902,
    2_745_521_883_170_474_863,
    2_455_165_051_249_732_440,
    15_908_147_195_612_679_485,
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a seed or a count is a number"))
}

/// Of every other seed a simulation with fallbacks, of every third one more node, and of every fifth keys on a schedule.
fn simulation(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    if seed.is_multiple_of(2) {
        let policy = Policy {
            grace: Duration::from_secs(30),
            grace_backoff: Duration::from_millis(5),
            ttl: Duration::from_millis(30),
            refresh_at: 0.5,
            soft_timeout: Duration::from_millis(4),
            ..simulation.policy
        };
        simulation.policy = policy;
        simulation.failures = 20;
    }
    if seed.is_multiple_of(5) {
        simulation.policy.refresh_every = Duration::from_millis(10);
    }
    if seed.is_multiple_of(3) {
        simulation.nodes = 3;
    }
    simulation
}

fn add(sum: &mut Stats, report: &Report) {
    for stats in &report.stats {
        sum.hits += stats.hits;
        sum.joins += stats.joins;
        sum.refused_stale_sets += stats.refused_stale_sets;
        sum.gaps += stats.gaps;
        sum.replays += stats.replays;
        sum.pending_overflows += stats.pending_overflows;
        sum.refreshes += stats.refreshes;
        for tier in &stats.tiers {
            sum.bytes += tier.hits;
            sum.entries += tier.refused;
            sum.evictions += tier.swept;
        }
    }
    sum.stale += report.stale;
}

#[test]
fn no_read_sees_what_its_node_was_told_is_void_nor_what_is_older_than_the_bound() {
    let (first, seeds) = (number("PAYSTRATA_TEST_SEED", 1), number("PAYSTRATA_TEST_SEEDS", 1_000));
    let loader = Arc::new(HonestLoader);
    let mut sum = Stats::default();
    for seed in ONCE_BROKEN.into_iter().chain((0..seeds).map(|index| first.wrapping_add(index))) {
        add(&mut sum, &simulation(seed).run(Arc::<HonestLoader>::clone(&loader)));
    }
    // The runs must have been where it is dangerous.
    let visited = [
        sum.hits,
        sum.joins,
        sum.stale,
        sum.refused_stale_sets,
        sum.gaps,
        sum.replays,
        sum.pending_overflows,
        sum.refreshes,
        sum.bytes,
        sum.entries,
        sum.evictions,
    ];
    assert!(seeds < 100 || visited.iter().all(|figure| *figure > 50), "{visited:?}");
}
