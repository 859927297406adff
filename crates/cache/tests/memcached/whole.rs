//! What two nodes that share a tier must do, whatever the tier is made of: whole caches on real servers. Waits for what
//! must come; measures no time. Knows no server; used by the tests of Redis, memcached and Postgres.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Cache, LineOptions, LoadContext, Policy, TierOptions, Version, backplane::Backplane, tier::Tier,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

pub(crate) type Numbers = Cache<String, u64>;

/// Long enough for anything that happens at all; no test measures time by it.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("source is broken")]
struct Broken;

/// A cache that waits long for its servers, once it has heard of them.
pub(crate) async fn node(tier: Arc<dyn Tier>, line: Arc<dyn Backplane>) -> Numbers {
    let policy = Policy {
        jitter: 0.0,
        grace: Duration::from_secs(600),
        ttl: Duration::from_secs(600),
        max_stale: LIMIT,
        load_timeout: LIMIT,
        ..Policy::default()
    };
    let cache = Cache::builder("whole")
        .policy(policy)
        .tier_with(tier, TierOptions { timeout: LIMIT, ..TierOptions::default() })
        .backplane_with(line, LineOptions { timeout: LIMIT, heartbeat: Duration::from_millis(50) })
        .build();
    until("the line is heard", || cache.stats().backplane_silence.is_some()).await;
    cache
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn told(cache: &Numbers) {
    until("the change is told", || cache.stats().pending_invalidations == 0).await;
}

/// As a loader that answers at once.
pub(crate) async fn read(cache: &Numbers, key: &str, told: u64) -> Option<u64> {
    cache.get_or_load(key, move |_| async move { Ok::<_, Broken>(Some(told)) }).await.unwrap()
}

/// Both must share the tier and the line.
pub(crate) async fn check(one: &Numbers, other: &Numbers) {
    overtaken_load_is_stored_nowhere(one, other).await;
    batches_take_from_the_tier_what_is_left_of_it(one, other).await;
    expired_value_is_a_fallback_and_a_removed_one_is_not(one, other).await;
}

async fn overtaken_load_is_stored_nowhere(one: &Numbers, other: &Numbers) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let reader = tokio::spawn({
        let (cache, begun, go) = (one.clone(), Arc::clone(&begun), Arc::clone(&go));
        let load = |_| async move {
            begun.notify_one();
            go.notified().await;
            Ok::<_, Broken>(Some(1))
        };
        async move { cache.get_or_load("overtaken", load).await }
    });
    begun.notified().await;
    drop(other.invalidate_many(["overtaken"], Version(5)));
    told(other).await;
    go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap(), Some(1), "who came before may see it");
    until("the first node has heard", || one.stats().remote_invalidations > 0).await;
    assert_eq!(one.get("overtaken"), None);
    let stored = other.stats().tiers[0].stored;
    assert_eq!(read(other, "overtaken", 2).await, Some(2));
    until("it is stored", || other.stats().tiers[0].stored > stored).await;
    assert_eq!(read(one, "overtaken", 3).await, Some(2));
}

async fn batches_take_from_the_tier_what_is_left_of_it(one: &Numbers, other: &Numbers) {
    let keys: Vec<String> = (0..300).map(|key| key.to_string()).collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let read_all = async |cache: &Numbers| {
        let noted = Arc::clone(&asked);
        let load = move |keys: Vec<String>, _: LoadContext<u64>| {
            let answers: Vec<_> = keys.iter().map(|key| Ok(key.parse::<u64>().ok())).collect();
            noted.lock().unwrap().extend(keys);
            async move { Ok::<_, Broken>(answers) }
        };
        let answers = cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
        assert!((0..).zip(&answers).all(|(key, answer)| *answer.as_ref().unwrap() == Some(key)));
        std::mem::take(&mut *asked.lock().unwrap())
    };
    let stored = one.stats().tiers[0].stored;
    assert_eq!(read_all(one).await, keys);
    until("all are stored", || one.stats().tiers[0].stored == stored + 300).await;
    assert_eq!(read_all(other).await, Vec::<String>::new());
    drop(one.invalidate_many(keys[..150].iter().map(String::as_str), Version(9)));
    told(one).await;
    until("the other has heard", || keys[..150].iter().all(|key| other.get(key.as_str()).is_none())).await;
    assert_eq!(read_all(other).await, &keys[..150]);
}

async fn expired_value_is_a_fallback_and_a_removed_one_is_not(one: &Numbers, other: &Numbers) {
    let stored = one.stats().tiers[0].stored;
    for key in ["expired", "removed"] {
        assert_eq!(read(one, key, 1).await, Some(1));
    }
    until("both are stored", || one.stats().tiers[0].stored == stored + 2).await;
    drop(one.expire("expired"));
    drop(one.invalidate("removed"));
    told(one).await;
    for cache in [one, other] {
        let calls = Arc::new(AtomicUsize::new(0));
        let failing = async |key: &str| {
            let calls = Arc::clone(&calls);
            let load = move |_| async move {
                calls.fetch_add(1, SeqCst);
                Err::<Option<u64>, _>(Broken)
            };
            cache.get_or_load_entry(key, load).await
        };
        let loaded = failing("expired").await.unwrap();
        assert_eq!((loaded.value, loaded.is_stale), (Some(1), true));
        assert!(failing("removed").await.is_err());
        assert!(calls.load(SeqCst) > 0);
    }
}
