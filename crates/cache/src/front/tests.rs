//! A copy of a key is given up by whatever changes the key, on every thread, before the change returns.

use std::{
    convert::Infallible,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{CREDIT, Front, Fronts, MISSED, NAP_MAX, NAP_MIN};
use crate::{
    Cache, Policy, Version,
    hash::{Probe, hash_of},
};

/// Hits after which a thread has copied a key.
const WARM: usize = 10;

fn cache() -> Cache<u64, u64> {
    Cache::builder("hot").policy(Policy { grace: Duration::from_secs(60), ..Policy::default() }).build()
}

/// A cache whose key 1 this thread has a copy of.
async fn warmed() -> Cache<u64, u64> {
    let cache = cache();
    let load = |context: crate::LoadContext<u64>| async move {
        context.tag("even");
        Ok::<_, Infallible>(Some(2))
    };
    cache.get_or_load(&1, load).await.unwrap();
    warm(&cache);
    cache
}

fn warm(cache: &Cache<u64, u64>) {
    (0..WARM).for_each(|_| assert!(cache.get(&1).is_some()));
    assert!(has_copy(cache), "no copy was made");
}

fn has_copy(cache: &Cache<u64, u64>) -> bool {
    cache.store.local.fronts.read(&Probe::of(&1), |_| true, |_| ()).is_ok()
}

async fn check(change: impl AsyncFnOnce(&Cache<u64, u64>), expected: Option<u64>) {
    let cache = warmed().await;
    change(&cache).await;
    assert_eq!(cache.get(&1), expected);
    assert_eq!(cache.get_with(&1, |value| *value), expected);
    let load = |_| async { Ok::<_, Infallible>(Some(99)) };
    assert_eq!(cache.get_or_load(&1, load).await.unwrap(), Some(expected.unwrap_or(99)));
}

#[test]
fn copies_have_a_mebibyte_or_a_part_of_the_room_and_never_most_of_it() {
    let bytes_max = |room| Fronts::<u64, u64>::new(room).bytes_max;
    for (room, expected) in
        [(0, 0), (1_000, 500), (1 << 20, 1 << 19), (1 << 22, 1 << 20), (1 << 26, 1 << 20), (1 << 30, 1 << 24)]
    {
        assert_eq!(bytes_max(room), expected, "{room}");
    }
}

#[tokio::test]
async fn small_cache_has_copies_too() {
    let policy = Policy { l1_bytes_max: 20_000, ..Policy::default() };
    let cache = Cache::<u64, u64>::builder("small").policy(policy).build();
    for key in 1..=20 {
        drop(cache.set(key, key, Version::NONE));
    }
    for _ in 0..WARM {
        (1..=20).for_each(|key| assert!(cache.get(&key).is_some()));
    }
    assert!(has_copy(&cache));
}

#[tokio::test]
async fn whatever_voids_a_key_ends_its_copies() {
    // Not awaited on purpose: a verb has voided here when it returns.
    check(async |cache| drop(cache.invalidate(&1)), None).await;
    check(async |cache| drop(cache.expire(&1)), None).await;
    check(async |cache| drop(cache.tag("even").remove()), None).await;
    check(async |cache| drop(cache.tag("even").expire()), None).await;
    check(async |cache| drop(cache.clear()), None).await;
    check(async |cache| drop(cache.expire_all()), None).await;
    check(async |cache| drop(cache.invalidate_if(|_, value| *value == 2)), None).await;
    check(async |cache| drop(cache.set(1, 5, Version::NONE)), Some(5)).await;
}

#[tokio::test]
async fn copy_of_what_l1_has_let_go_of_ends_with_the_key_too() {
    // Of another group than key 1: putting one of its own would end the copy.
    let group = |key: u64| hash_of(&key) >> 32 & 1_023;
    type Change = fn(&Cache<u64, u64>);
    let changes: [Change; 3] = [
        |cache| drop(cache.invalidate(&1)),
        |cache| drop(cache.expire(&1)),
        // No walk through L1 finds it.
        |cache| drop(cache.invalidate_if(|_, value| *value == 2)),
    ];
    for change in changes {
        let policy = Policy { l1_bytes_max: 64 << 10, grace: Duration::from_secs(60), ..Policy::default() };
        let weigher = |key: &u64, _: &u64| if *key == 1 { 0 } else { 4 << 10 };
        let cache: Cache<u64, u64> = Cache::builder("small").policy(policy).weigher(weigher).build();
        drop(cache.set(1, 2, Version::NONE));
        warm(&cache);
        let others = (2..10_000).filter(|key| group(*key) != group(1));
        others.take(1_000).for_each(|key| drop(cache.set(key, key, Version::NONE)));
        assert!(cache.store.local.peek(&Probe::of(&1)).is_none(), "L1 still has it");
        assert!(has_copy(&cache), "no copy to be ended");
        change(&cache);
        assert_eq!(cache.get(&1), None);
    }
}

#[tokio::test]
async fn hits_of_copies_are_counted() {
    let cache = warmed().await;
    let before = cache.stats().hits;
    (0..1_000).for_each(|_| assert_eq!(cache.get_with(&1, |value| *value), Some(2)));
    assert_eq!(cache.stats().hits, before + 1_000);
}

#[tokio::test]
async fn closure_that_reads_and_changes_the_same_key_sees_its_own_change() {
    let cache = warmed().await;
    let seen = cache.get_with(&1, |lent| {
        drop(cache.invalidate(&1));
        (*lent, cache.get(&1), cache.get_with(&1, |value| *value))
    });
    assert_eq!(seen, Some((2, None, None)));
}

#[tokio::test]
async fn value_whose_drop_reads_the_cache_is_replaced() {
    struct Nosy(Cache<u64, Arc<Self>>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            assert!(self.0.get(&2).is_none());
        }
    }
    let cache: Cache<u64, Arc<Nosy>> = Cache::builder("nosy").build();
    for _ in 0..3 {
        drop(cache.set(1, Arc::new(Nosy(cache.clone())), Version::NONE));
        (0..WARM).for_each(|_| assert!(cache.get(&1).is_some()));
    }
    // The values hold the cache that holds them.
    drop(cache.clear());
    (0..WARM).for_each(|_| assert!(cache.get(&1).is_none()));
}

#[test]
fn no_thread_reads_less_than_what_was_set_before() {
    const ROUNDS: u64 = 20_000;
    let (cache, published, over) = (cache(), AtomicU64::new(1), AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    drop(cache.set(1, 1, Version::NONE));
    let (begun, copies) = (Barrier::new(3), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                warm(&cache);
                begun.wait();
                while !over.load(SeqCst) {
                    let floor = published.load(SeqCst);
                    // A set takes the old value away before it puts the new one in.
                    if let Some(seen) = cache.get_with(&1, |value| *value) {
                        assert!(seen >= floor, "{seen} was read after {floor} was set");
                    }
                    copies.fetch_add(u64::from(has_copy(&cache)), SeqCst);
                }
            });
        }
        begun.wait();
        for round in 2..ROUNDS {
            drop(cache.set(1, round, Version::NONE));
            published.store(round, SeqCst);
            // Long enough unchanged for the readers to take copies.
            if round % 1_000 == 0 {
                let before = copies.load(SeqCst);
                while copies.load(SeqCst) == before {
                    std::thread::yield_now();
                }
            }
        }
        over.store(true, SeqCst);
    });
}

/// How many of so many reads asked for a copy, where every `nth` finds one.
fn asked(front: &mut Front<u64, u64>, reads: u32, nth: u32) -> u32 {
    let mut asked = 0;
    for read in 1..=reads {
        if front.is_asleep() {
            continue;
        }
        asked += 1;
        if read % nth == 0 { front.has_found() } else { front.has_missed() }
    }
    asked
}

#[test]
fn thread_whose_reads_find_copies_goes_on_with_them_and_one_whose_reads_do_not_asks_ever_less() {
    let mut front = Front::new();
    assert_eq!(asked(&mut front, 1 << 20, 2), 1 << 20);
    let mut front = Front::new();
    assert_eq!(asked(&mut front, CREDIT / MISSED, u32::MAX), CREDIT / MISSED);
    assert_eq!(asked(&mut front, NAP_MIN, u32::MAX), 0);
    assert_eq!(asked(&mut front, CREDIT / MISSED / 2, u32::MAX), CREDIT / MISSED / 2);
    assert_eq!(asked(&mut front, 2 * NAP_MIN, u32::MAX), 0, "twice as long");
    // One in ten is too few, however long it goes on: the naps grow.
    let mut front = Front::new();
    let _first = asked(&mut front, 1 << 20, 10);
    assert!(asked(&mut front, NAP_MAX, 10) < NAP_MAX / 16);
    assert!(front.next_nap > NAP_MIN);
    // Once enough find one again, the next nap is short.
    while front.is_asleep() {}
    assert_eq!(asked(&mut front, 1 << 20, 2), 1 << 20);
    assert_eq!(front.next_nap, NAP_MIN);
}

#[tokio::test]
async fn values_that_are_long_by_themselves_are_not_copied() {
    let cache: Cache<u64, [u64; 64]> = Cache::builder("long").build();
    drop(cache.set(1, [7; 64], Version::NONE));
    (0..WARM).for_each(|_| assert!(cache.get(&1).is_some()));
    assert!(cache.store.local.fronts.read(&Probe::of(&1), |_| true, |_| ()).is_err());
}
