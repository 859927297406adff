//! Loads against invalidations, sets and sweeps of one key, in the orders that a scheduler (shuttle) finds: between any
//! two locks and atomics of one thread the others may do anything. What runs is the cache itself, from `board` to
//! `finish`, without the tasks and time limits around a load. Refuses what shuttle cannot tell: orders that a processor
//! makes of relaxed atomics.
//!
//! `cargo nextest run -p paystrata-cache --no-default-features --features shuttle --lib races::`, which `cargo xtask test`
//! runs too. `PAYSTRATA_TEST_ORDERS` says how many orders are tried of each; one that fails is printed as shuttle's
//! `replay` takes it.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use shuttle::{
    Config, Runner,
    future::block_on,
    scheduler::{PctScheduler, RandomScheduler},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
};

use crate::{
    Cache, Load, Policy, Version,
    answer::Answer,
    consult::{Verdict, consult_one},
    context::Edits,
    flight::Outcome,
    hash::Probe,
    lead::{Boarding, Lead, Purpose},
    load::{Called, Ending, finish},
    read::Landed,
};

const KEY: u64 = 7;

#[derive(Debug)]
struct Broken;

/// What loaders read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// What was committed last.
    Primary,
    /// The first version for ever, unless the floor leads to the primary.
    LaggingReplica,
    /// Nothing: they fail.
    Down,
}

/// A cache, the truth, and what this node has been told of it. Versions only rise.
struct World {
    cache: Cache<u64, u64>,
    committed: AtomicU64,
    removed: AtomicU64,
    expired: AtomicU64,
}

/// How a change is made known to the cache.
#[derive(Clone, Copy)]
enum Change {
    Remove(fn(&Cache<u64, u64>, Version)),
    Expire(fn(&Cache<u64, u64>, Version)),
}

impl World {
    fn new(policy: &Policy) -> Self {
        let policy = Policy {
            jitter: 0.0,
            l1_bytes_max: 64 << 10,
            negative_entries_max: 16,
            grace: Duration::from_secs(60),
            error_ttl: Duration::ZERO,
            ..policy.clone()
        };
        let cache = Cache::builder("races").policy(policy).build();
        Self { cache, committed: AtomicU64::new(0), removed: AtomicU64::new(0), expired: AtomicU64::new(0) }
    }

    /// Commits, and then tells.
    fn write(&self, change: Change) {
        let version = self.committed.fetch_add(1, SeqCst) + 1;
        let (told, tell) = match change {
            Change::Remove(tell) => (&self.removed, tell),
            Change::Expire(tell) => (&self.expired, tell),
        };
        tell(&self.cache, Version(version));
        told.fetch_max(version, SeqCst);
    }

    /// Reads, and compares with what had been told when it began.
    fn read(&self, source: Source) {
        let removed = self.removed.load(SeqCst);
        let expired = self.expired.load(SeqCst).max(removed);
        let (version, is_stale) = match self.hit() {
            Some(version) => (version, false),
            None => match self.get_or_load(source) {
                Some(answer) => (answer.value.expect("no loader says that there is none"), answer.is_stale),
                None => return,
            },
        };
        let least = if is_stale { removed } else { expired };
        assert!(
            version >= least,
            "a read that began after {least} was told saw {version} (stale: {is_stale})"
        );
    }

    /// What a read comes to that need look no further.
    fn hit(&self) -> Option<u64> {
        self.cache.hit(&Probe::of(&KEY), &self.cache.store.moment())
    }

    fn get_or_load(&self, source: Source) -> Option<Answer<u64>> {
        let (store, policy) = (&self.cache.store, &self.cache.policy);
        if let Some(answer) = self.cache.looked_at(&Probe::of(&KEY)) {
            return Some(answer);
        }
        loop {
            let waiter = match store.board(&KEY, policy, Purpose::Read, None) {
                Boarding::Found(look) => match store.settled_by(look) {
                    Some((answer, _)) => return Some(answer),
                    None => continue,
                },
                Boarding::Joined(waiter) => waiter,
                Boarding::Lead(lead) => {
                    let waiter = lead.waiter();
                    self.load(lead, source);
                    waiter
                }
                Boarding::Full => panic!("there is room for more than these"),
            };
            let outcome = block_on(waiter.outcome());
            match store.judged::<Broken>(&KEY, policy, &waiter, outcome) {
                Landed::Answered(answer) => return Some(answer),
                Landed::Refused(_) => return None,
                Landed::Nothing | Landed::Again => {}
            }
        }
    }

    /// Loads anew what is there, as a read that comes late in a lifetime does.
    fn refresh(&self, source: Source) {
        let boarding = self.cache.store.board(&KEY, &self.cache.policy, Purpose::Refresh, None);
        if let Boarding::Lead(lead) = boarding {
            self.load(lead, source);
        }
    }

    /// Orders a load of what is committed when it is asked for, and by then at least.
    fn reload(&self) {
        let committed = self.committed.load(SeqCst);
        let boarding = self.cache.store.board(&KEY, &self.cache.policy, Purpose::Reload, None);
        let Boarding::Lead(lead) = boarding else { panic!("an order joins nothing and finds nothing") };
        let waiter = lead.waiter();
        // Whatever lags, the floor leads to the primary.
        self.load(lead, Source::LaggingReplica);
        let Outcome::Loaded(answer) = block_on(waiter.outcome()) else { panic!("the primary answers") };
        assert!(answer.value.is_some_and(|version| version >= committed), "{answer:?} before {committed}");
    }

    /// What the task of a load does.
    fn load(&self, mut lead: Lead<u64, u64>, source: Source) {
        let verdict = consult_one(&mut lead).now_or_never();
        let Some(Verdict::Load(plan)) = verdict else { panic!("without tiers there is only the loader") };
        lead.offer_fallback(&plan);
        let begun_us = self.cache.store.clock.now_us();
        let ending = match source {
            Source::LaggingReplica if plan.floor == Version::NONE => Ending::Answered(Load::Found(0)),
            Source::Primary | Source::LaggingReplica => {
                Ending::Answered(Load::Found(self.committed.load(SeqCst)))
            }
            Source::Down => Ending::Failed(Arc::new(Broken)),
        };
        let edits = Edits { tags: vec![Arc::from("tag")], ..Edits::default() };
        let called = Called { ending, begun_us, took: Duration::ZERO };
        let writing = finish(&mut lead, &plan, &edits, called, &tracing::Span::none());
        drop(writing);
    }

    /// When all is quiet, what is held is the last version, or nothing but a fallback that may be one.
    fn check_end(&self, source: Source) {
        let last = self.committed.load(SeqCst);
        let held = self.cache.get(&KEY);
        assert!(held.is_none_or(|held| held == last), "{held:?} is held for ever, and {last} is true");
        if let Some(stale) = self.cache.get_stale(&KEY) {
            let removed = self.removed.load(SeqCst);
            assert!(stale.value.is_some_and(|version| version >= removed), "{stale:?} came back");
        }
        self.read(source);
    }
}

/// Tries many orders of these threads, each of which begins once the world is made and `before` has been done.
fn explore(policy: &Policy, before: fn(&World), threads: &[fn(&World)], source_after: Source) {
    let orders = std::env::var("PAYSTRATA_TEST_ORDERS").map_or(1_000, |text| text.parse().expect("a number"));
    // Frames of unoptimised code are large.
    let config = || {
        let mut config = Config::new();
        config.stack_size = 1 << 18;
        config.silence_warnings = true;
        config
    };
    let (policy, threads) = (policy.clone(), threads.to_vec());
    let test = move || {
        let world = Arc::new(World::new(&policy));
        before(&world);
        let run = |work: &fn(&World)| {
            let (world, work) = (Arc::clone(&world), *work);
            thread::spawn(move || work(&world))
        };
        let running: Vec<_> = threads.iter().map(run).collect();
        for thread in running {
            thread.join().expect("it does not fail");
        }
        world.check_end(source_after);
    };
    Runner::new(RandomScheduler::new(orders), config()).run(test.clone());
    // Few changes of thread, at the worst moments.
    Runner::new(PctScheduler::new(3, orders), config()).run(test);
}

/// Two readers on a replica that lags, or on the primary, while a change is made; with an empty cache, and with an old
/// value in it.
fn check_reads_against(write: fn(&World)) {
    let stale: fn(&World) = |world| world.read(Source::LaggingReplica);
    let current: fn(&World) = |world| world.read(Source::Primary);
    explore(&Policy::default(), |_| {}, &[stale, write, stale], Source::LaggingReplica);
    explore(&Policy::default(), |_| {}, &[current, write, current], Source::Primary);
    explore(&Policy::default(), stale, &[stale, write, stale], Source::LaggingReplica);
}

const REMOVE: Change = Change::Remove(|cache, version| drop(cache.invalidate_many([&KEY], version)));
const EXPIRE: Change = Change::Expire(|cache, version| drop(cache.expire_many([&KEY], version)));
const SET: Change = Change::Remove(|cache, version| drop(cache.set(KEY, version.0, version)));

#[test]
fn removal_of_a_key_beats_every_load_that_began_before_it() {
    check_reads_against(|world| world.write(REMOVE));
}

#[test]
fn expiry_of_a_key_beats_every_load_that_began_before_it() {
    check_reads_against(|world| world.write(EXPIRE));
}

#[test]
fn value_that_is_set_beats_every_load_that_began_before_it() {
    check_reads_against(|world| world.write(SET));
}

#[test]
fn sweep_of_a_tag_beats_every_load_that_began_before_it() {
    check_reads_against(|world| {
        world.write(Change::Remove(|cache, version| drop(cache.tag("tag").at(version).remove())));
    });
}

/// A value that was judged by one sweep is not looked at closer again until the next, also where two are made at once.
#[test]
fn sweep_is_missed_by_no_value_that_another_sweep_leaves() {
    let reader: fn(&World) = |world| world.read(Source::Primary);
    let of_another: fn(&World) = |world| drop(world.cache.tag("another").remove());
    let sweep: fn(&World) = |world| {
        world.write(Change::Remove(|cache, version| drop(cache.tag("tag").at(version).remove())));
    };
    explore(&Policy::default(), reader, &[reader, of_another, sweep], Source::Primary);
    explore(
        &Policy::default(),
        reader,
        &[|world| (0..4).for_each(|_| world.read(Source::Primary)), sweep, of_another],
        Source::Primary,
    );
}

#[test]
fn expiry_meets_a_value_that_is_judged_meanwhile() {
    let reader: fn(&World) = |world| world.read(Source::Primary);
    let of_another: fn(&World) = |world| drop(world.cache.tag("another").remove());
    let expiry: fn(&World) = |world| world.write(EXPIRE);
    explore(&Policy::default(), reader, &[reader, of_another, expiry], Source::Primary);
}

/// Reads often enough that the thread has a copy.
#[test]
fn change_is_seen_by_whoever_reads_a_copy_of_its_own() {
    let often: fn(&World) = |world| (0..4).for_each(|_| world.read(Source::Primary));
    for write in [
        (|world| world.write(REMOVE)) as fn(&World),
        |world| world.write(EXPIRE),
        |world| world.write(SET),
        |world| world.write(Change::Remove(|cache, version| drop(cache.tag("tag").at(version).remove()))),
    ] {
        explore(&Policy::default(), often, &[often, write, often], Source::Primary);
    }
}

#[test]
fn sweep_of_a_prefix_beats_every_load_that_began_before_it() {
    check_reads_against(|world| {
        world.write(Change::Remove(|cache, version| drop(cache.prefix([0; 4]).at(version).remove())));
    });
}

#[test]
fn sweep_of_everything_beats_every_load_that_began_before_it() {
    check_reads_against(|world| {
        world.write(Change::Remove(|cache, version| drop(cache.prefix([]).at(version).remove())));
    });
    // A clear raises no floor, so that only the primary will do.
    let reader: fn(&World) = |world| world.read(Source::Primary);
    let writer: fn(&World) = |world| world.write(Change::Remove(|cache, _| drop(cache.clear())));
    explore(&Policy::default(), |_| {}, &[reader, writer, reader], Source::Primary);
}

#[test]
fn removal_by_predicate_beats_every_load_that_began_before_it() {
    // It raises no floor of a key that it does not find, so that only the primary will do.
    let reader: fn(&World) = |world| world.read(Source::Primary);
    let writer: fn(&World) = |world| {
        world.write(Change::Remove(|cache, _| drop(cache.invalidate_if(|key, _| *key == KEY))));
    };
    explore(&Policy::default(), |_| {}, &[reader, writer, reader], Source::Primary);
    explore(&Policy::default(), reader, &[reader, writer, reader], Source::Primary);
}

#[test]
fn ordered_load_joins_none_that_began_before_it_and_a_removal_beats_it() {
    let reader: fn(&World) = |world| world.read(Source::LaggingReplica);
    let order: fn(&World) = |world| world.reload();
    let writer: fn(&World) = |world| world.write(REMOVE);
    explore(&Policy::default(), |_| {}, &[reader, order, writer], Source::LaggingReplica);
    explore(&Policy::default(), reader, &[order, order, writer], Source::LaggingReplica);
}

#[test]
fn newest_of_two_changes_at_once_wins() {
    let reader: fn(&World) = |world| world.read(Source::LaggingReplica);
    let writers: [fn(&World); 3] =
        [|world| world.write(REMOVE), |world| world.write(SET), |world| world.write(EXPIRE)];
    for (one, other) in [(0, 1), (1, 1), (1, 2)] {
        let threads = [reader, writers[one], writers[other]];
        explore(&Policy::default(), |_| {}, &threads, Source::LaggingReplica);
    }
}

#[test]
fn removal_beats_a_refresh_that_began_before_it() {
    // Due as soon as it is stored.
    let policy = Policy { refresh_at: 1e-12, ..Policy::default() };
    let threads: [fn(&World); 3] = [
        |world| world.refresh(Source::LaggingReplica),
        |world| world.write(REMOVE),
        |world| world.read(Source::LaggingReplica),
    ];
    explore(&policy, |world| world.read(Source::Primary), &threads, Source::LaggingReplica);
}

#[test]
fn removal_takes_the_fallback_that_a_failing_load_is_about_to_store_again() {
    let before: fn(&World) = |world| {
        world.read(Source::Primary);
        world.write(EXPIRE);
    };
    let failing: fn(&World) = |world| world.read(Source::Down);
    let removing: fn(&World) = |world| world.write(REMOVE);
    explore(&Policy::default(), before, &[failing, removing, failing], Source::Down);
}
