//! What is over and what nobody asks for is dropped all the same, and told.

use std::sync::{Arc, Mutex};

use paystrata_cache::{Cache, Clock, Maintenance, Observer, Policy};
use tokio::time::{advance, sleep};

use crate::kit::{Numbers, SECOND, Teller, alone, exact, settle};

#[derive(Debug, Default)]
struct Ear(Mutex<Vec<Maintenance>>);

impl Observer for Ear {
    fn maintained(&self, cache: &str, done: &Maintenance) {
        assert_eq!(cache, "numbers");
        self.0.lock().unwrap().push(*done);
    }
}

fn maintained(ear: &Arc<Ear>) -> Numbers {
    Cache::builder("numbers")
        .policy(exact(Policy { ttl: 10 * SECOND, negative_ttl: 10 * SECOND, ..Policy::default() }))
        .clock(Clock::tokio())
        .observer(Arc::<Ear>::clone(ear))
        .weigher(|_, _| 1_000)
        .maintain_every(60 * SECOND)
        .build()
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_dropped_in_the_background_and_told() {
    let (ear, teller) = (Arc::new(Ear::default()), Teller::default());
    let cache = maintained(&ear);
    for key in 0..2_000 {
        teller.value(&cache, &key.to_string(), 1).await;
    }
    teller.read(&cache, "absent", Ok(None)).await.unwrap();
    advance(55 * SECOND).await;
    teller.value(&cache, "fresh", 1).await;
    sleep(7 * SECOND).await;
    let told = ear.0.lock().unwrap().clone();
    let [done] = told[..] else { panic!("{told:?}") };
    assert_eq!((done.seen, done.entries, done.absences), (2_002, 2_000, 1));
    assert!(done.bytes > 2_000_000 && !done.took.is_zero(), "{done:?}");
    assert_eq!((cache.stats().entries, cache.get("fresh")), (1, Some(1)));
}

// A sweep touches no entry; what it voided goes here.
#[tokio::test(start_paused = true)]
async fn what_a_sweep_has_voided_is_dropped() {
    let (ear, teller) = (Arc::new(Ear::default()), Teller::default());
    let cache = maintained(&ear);
    teller.value(&cache, "a:1", 1).await;
    teller.value(&cache, "b:1", 1).await;
    drop(cache.prefix("a:").remove());
    assert_eq!(cache.maintain().await.entries, 1);
    assert_eq!((cache.stats().entries, cache.get("b:1")), (1, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn look_of_the_maintenance_is_no_read() {
    let (cache, teller) = (alone(Policy { tti: 10 * SECOND, ..Policy::default() }), Teller::default());
    teller.value(&cache, "k", 1).await;
    for _ in 0..3 {
        advance(3 * SECOND).await;
        assert_eq!(cache.drop_expired(), 0);
        cache.explain("k").await;
    }
    advance(SECOND).await;
    assert_eq!(cache.drop_expired(), 1);
}

#[tokio::test(start_paused = true)]
async fn maintenance_ends_with_the_cache() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(maintained(&Arc::default()));
    settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
}
