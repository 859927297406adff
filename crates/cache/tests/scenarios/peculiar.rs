//! Tiers and lines that do what they should in their own way: leases that last longer than was asked for, as memcached's do, a
//! clock that was set back, values of which a batch takes longer than a call may, and a log that takes longer to read than
//! anybody waits.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use paystrata_cache::{
    Cache, Clock, Policy, TierOptions, Version,
    backplane::{Announcement, Backplane, Line, Listener, Mark, Snapshot},
    testkit::{Link, Site},
    tier::{Answers, Claim, Found, Put, Settlement, Stored, Tier, TierFuture, TierShare, Token, Voiding},
};
use tokio::time::{Instant, sleep};

use crate::kit::{Broken, Numbers, SECOND, Teller, exact, node, trips, wait_for};

/// A tier whose leases and values last longer, and whose values take their time.
#[derive(Debug, Clone)]
struct Slow {
    link: Link,
    lease_more: Duration,
    life_more: Duration,
    /// For each value that is read or written.
    trip: Duration,
}

#[derive(Debug)]
struct SlowShare {
    share: Arc<dyn TierShare>,
    slow: Slow,
}

impl Slow {
    fn over(link: Link) -> Self {
        Self { link, lease_more: Duration::ZERO, life_more: Duration::ZERO, trip: Duration::ZERO }
    }
}

impl Tier for Slow {
    fn share(&self, cache: &str) -> Arc<dyn TierShare> {
        Arc::new(SlowShare { share: self.link.share(cache), slow: self.clone() })
    }
}

impl SlowShare {
    fn trips(&self, values: usize) -> impl Future<Output = ()> + Send + 'static {
        sleep(self.slow.trip * u32::try_from(values).unwrap())
    }
}

impl TierShare for SlowShare {
    fn kind(&self) -> &'static str {
        self.share.kind()
    }

    fn is_up(&self) -> bool {
        self.share.is_up()
    }

    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>> {
        let claim = claim.map(|claim| Claim { lease: claim.lease + self.slow.lease_more, ..claim });
        Box::pin(async move {
            self.trips(keys.len()).await;
            let mut answers = self.share.read(keys, claim).await?;
            for answer in &mut answers {
                if let Ok(Found::Value(payload)) = answer {
                    payload.remaining += self.slow.life_more;
                }
            }
            Ok(answers)
        })
    }

    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(async move {
            self.trips(claims.len()).await;
            self.share.settle(claims).await
        })
    }

    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>> {
        self.share.void(keys)
    }

    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>> {
        self.share.put(values)
    }
}

#[tokio::test(start_paused = true)]
async fn batches_of_large_values_are_written_and_read_in_as_many_calls_as_they_need() {
    let (site, loads) = (Site::new(73), Arc::new(AtomicUsize::new(0)));
    let policy = Policy { ttl: 3_600 * SECOND, l1_ttl: SECOND, ..Policy::default() };
    let tier = Slow { trip: Duration::from_millis(2), ..Slow::over(site.link()) };
    let cache: Cache<String, String> = Cache::builder("texts")
        .policy(exact(policy))
        .clock(Clock::tokio())
        .tier_with(Arc::new(tier), TierOptions { timeout: SECOND / 10, ..TierOptions::default() })
        .build();
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let read = async || {
        let calls = Arc::clone(&loads);
        let load = move |keys: Vec<String>, _| {
            calls.fetch_add(keys.len(), SeqCst);
            // Forty of them are what one call may carry.
            async move { Ok::<_, Broken>(vec![Ok::<_, Broken>(Some("x".repeat(26_000))); keys.len()]) }
        };
        let answers = cache.get_or_load_many(names.iter().map(String::as_str), load).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(Option::is_some)));
    };
    for _ in 0..40 {
        let begun = Instant::now();
        read().await;
        assert!(begun.elapsed() < SECOND / 2, "as long as a call and a half, twice, and the load");
        sleep(2 * SECOND).await;
    }
    let tier = &cache.stats().tiers[0];
    assert_eq!((tier.opened, tier.hits + loads.load(SeqCst) as u64), (0, 40 * 200), "{tier:?}");
    assert!(tier.hits > 40 * 20 && tier.errors < 10, "{tier:?}");
}

#[tokio::test(start_paused = true)]
async fn value_with_more_left_than_it_was_given_is_loaded_anew() {
    let site = Site::new(74);
    let node = |life_more| -> Numbers {
        let tier = Slow { life_more, ..Slow::over(site.link()) };
        let builder = Cache::builder("numbers").policy(exact(Policy::default())).clock(Clock::tokio());
        builder.tier(Arc::new(tier)).build()
    };
    let teller = Teller::default();
    assert_eq!(teller.value(&node(Duration::ZERO), "k", 1).await, 1);
    trips().await;
    assert_eq!(teller.value(&node(SECOND), "k", 2).await, 1, "what counting by seconds adds");
    assert_eq!(teller.value(&node(3_600 * SECOND), "k", 3).await, 3);
    trips().await;
    assert_eq!(teller.value(&node(Duration::ZERO), "k", 4).await, 3, "it is overwritten");
}

const PERIOD: Duration = Duration::from_secs(5);

/// A node that keeps its keys fresh, and counts its loads.
fn keeper(site: &Site, loads: &Arc<AtomicUsize>) -> Numbers {
    let policy = Policy { ttl: 60 * SECOND, l1_ttl: 60 * SECOND, refresh_every: PERIOD, ..Policy::default() };
    let loads = Arc::clone(loads);
    let cache = Cache::builder("numbers")
        .policy(exact(policy))
        .clock(Clock::tokio())
        .tier(Arc::new(Slow { lease_more: 2 * SECOND, ..Slow::over(site.link()) }))
        .keep_fresh(move |_key, _context| {
            let number = loads.fetch_add(1, SeqCst) as u64;
            async move { Ok::<_, Broken>(Some(number)) }
        })
        .build();
    assert_eq!(cache.pin(["k".to_owned()]), 1);
    cache
}

#[tokio::test(start_paused = true)]
async fn schedule_skips_no_period_where_leases_outlive_it() {
    let (site, loads) = (Site::new(71), Arc::default());
    let _first = keeper(&site, &loads);
    sleep(PERIOD / 2).await;
    let _second = keeper(&site, &loads);
    for period in 1..=20 {
        sleep(PERIOD).await;
        assert_eq!(loads.load(SeqCst), period, "one load in each period");
    }
}

/// A line whose log is too slow to be read, while `is_slow`.
#[derive(Debug)]
struct SlowLog {
    line: Arc<dyn Line>,
    is_slow: Arc<AtomicBool>,
}

#[derive(Debug)]
struct SlowLogs {
    link: Link,
    is_slow: Arc<AtomicBool>,
}

impl Backplane for SlowLogs {
    fn line(&self, cache: &str) -> Arc<dyn Line> {
        Arc::new(SlowLog { line: self.link.line(cache), is_slow: Arc::clone(&self.is_slow) })
    }
}

impl Line for SlowLog {
    fn kind(&self) -> &'static str {
        self.line.kind()
    }

    fn is_up(&self) -> bool {
        self.line.is_up()
    }

    fn attach(&self) -> TierFuture<'_, Snapshot> {
        self.line.attach()
    }

    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark> {
        self.line.announce(announcement)
    }

    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>> {
        let is_slow = self.is_slow.load(SeqCst);
        Box::pin(async move {
            sleep(if is_slow { 3_600 * SECOND } else { Duration::ZERO }).await;
            self.line.replay(mark).await
        })
    }

    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark> {
        self.line.pulse(body)
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        self.line.listen(listener);
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_cannot_read_the_log_in_time_drops_all_and_hears_again() {
    let (site, is_slow) = (Site::new(72), Arc::new(AtomicBool::new(true)));
    let link = site.link();
    let cache: Numbers = Cache::builder("numbers")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .backplane(Arc::new(SlowLogs { link: link.clone(), is_slow: Arc::clone(&is_slow) }))
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    let ((other, _), teller) = (node(&site, Policy::default()).await, Teller::default());
    teller.value(&cache, "a", 1).await;
    teller.value(&cache, "b", 1).await;
    link.faults.lose_messages(100);
    other.invalidate_many(["a"], Version(5)).await;
    link.faults.lose_messages(0);
    wait_for(|| cache.stats().gaps == 1).await;
    assert_eq!((cache.get("a"), cache.get("b")), (None, None), "what was missed is not known");
    teller.value(&cache, "b", 2).await;
    other.invalidate_many(["a"], Version(6)).await;
    trips().await;
    assert_eq!((cache.get("b"), cache.stats().gaps, cache.stats().replays), (Some(2), 1, 0));
    // One that is slow once is read the next time.
    link.faults.lose_messages(100);
    other.invalidate_many(["a"], Version(7)).await;
    link.faults.lose_messages(0);
    sleep(SECOND / 100).await;
    is_slow.store(false, SeqCst);
    wait_for(|| cache.stats().replays == 1).await;
    assert_eq!((cache.get("b"), cache.stats().gaps), (Some(2), 1));
}
