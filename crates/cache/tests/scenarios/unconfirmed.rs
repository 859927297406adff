//! Callers who go away, at each poll of what they wait for after a change, or of the end of a cache: the change has been made
//! here, the others are told of it, and whoever makes the same one next is told so. Those who go away from an answer are in
//! `dropped`; the table of verbs is in `tests/README.md`.

use std::{convert::Infallible, sync::Mutex};

use paystrata_cache::{
    Bytes, Confirmation, Invalidation, LoadContext, Reach, TransactionOutbox, Version,
    backplane::Announcement, testkit::Site,
};
use tokio::{task::yield_now, time::sleep};

use crate::{
    dropped::{Caller, KEYS, Source, at_every_poll, is_idle, narrow},
    kit::{Numbers, SECOND, node, trips},
};

/// Two nodes that have read the first key, which has a tag.
struct Pair {
    one: Numbers,
    other: Numbers,
    source: Source,
}

impl Pair {
    async fn new() -> Self {
        let (site, source) = (Site::new(104), Source::of(1));
        let ((one, _), (other, _)) = (node(&site, narrow()).await, node(&site, narrow()).await);
        let pair = Self { one, other, source };
        pair.both_read(1).await;
        assert_eq!(pair.source.asked(), 1);
        pair
    }

    async fn both_read(&self, expected: u64) {
        for cache in [&self.one, &self.other] {
            let source = self.source.clone();
            let load = move |context: LoadContext<u64>| async move {
                context.tag("t");
                source.tell().await
            };
            assert_eq!(cache.get_or_load(KEYS[0], load).await.unwrap(), Some(expected));
            trips().await;
        }
    }

    /// What L1 of either has.
    fn have(&self) -> (Option<u64>, Option<u64>) {
        (self.one.get(KEYS[0]), self.other.get(KEYS[0]))
    }

    async fn are_idle(&self, caller: Caller) {
        for cache in [&self.one, &self.other] {
            assert_eq!(cache.stats().pending_invalidations, 0, "{caller:?}");
            is_idle(cache, caller).await;
        }
    }
}

fn removal() -> Invalidation {
    Invalidation::at(Version(2)).remove(&KEYS[0].to_owned())
}

/// Every way to void the first key.
const CHANGES: [fn(&Numbers) -> Confirmation; 14] = [
    |cache| cache.invalidate(KEYS[0]),
    |cache| cache.invalidate_many(KEYS, Version(2)),
    |cache| cache.expire(KEYS[0]),
    |cache| cache.expire_many(KEYS, Version(2)),
    |cache| cache.invalidate_if(|key, _| key == KEYS[0]),
    |cache| cache.tag("t").remove(),
    |cache| cache.tag("t").expire(),
    |cache| cache.prefix("a").remove(),
    |cache| cache.prefix("a").expire(),
    |cache| cache.pattern("?").remove(),
    |cache| cache.clear(),
    |cache| cache.expire_all(),
    |cache| cache.invalidate_by(&removal()),
    |cache| cache.apply(&removal().encode()).unwrap(),
];

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_confirmation_of_a_change_may_go_away_at_any_poll() {
    for change in CHANGES {
        at_every_poll(async |caller: Caller| {
            let pair = Pair::new().await;
            pair.source.set(2);
            let confirmation = change(&pair.one);
            assert_eq!(pair.one.get(KEYS[0]), None);
            let reach = caller.waits_for(confirmation.into_future()).await;
            assert!(reach.is_none_or(|reach| reach == Reach::Fleet), "{reach:?}, {caller:?}");
            trips().await;
            assert_eq!(pair.have(), (None, None), "{caller:?}");
            // What is meant by a predicate is not there any more: then there is nobody to be told.
            assert_ne!(change(&pair.one).await, Reach::Queued, "{caller:?}");
            trips().await;
            pair.both_read(2).await;
            assert!(pair.source.asked() <= 3, "{caller:?}");
            pair.are_idle(caller).await;
            reach.is_some()
        })
        .await;
    }
}

/// Every way to set the first key, to the number of a write.
const SETS: [fn(&Numbers, u64) -> Confirmation; 3] = [
    |cache, write| cache.set(KEYS[0].to_owned(), write, Version(write)).unwrap(),
    |cache, write| cache.set_tagged(KEYS[0].to_owned(), write, Version(write), &["t"]).unwrap(),
    |cache, write| cache.set_many([(KEYS[0].to_owned(), write, Version(write))]).remove(0).unwrap(),
];

#[tokio::test(start_paused = true)]
async fn who_sets_a_value_or_asks_how_far_it_got_may_go_away_at_any_poll() {
    for set in SETS {
        at_every_poll(async |caller: Caller| {
            let pair = Pair::new().await;
            let confirmation = set(&pair.one, 2);
            assert_eq!(pair.one.get(KEYS[0]), Some(2));
            let confirmed = caller.waits_for(pair.one.confirm().into_future()).await;
            let reach = caller.waits_for(confirmation.into_future()).await;
            for reach in [reach, confirmed] {
                assert!(reach.is_none_or(|reach| reach == Reach::Fleet), "{reach:?}, {caller:?}");
            }
            trips().await;
            assert_eq!(pair.have(), (Some(2), None), "{caller:?}");
            pair.both_read(2).await;
            assert_eq!(set(&pair.one, 3).await, Reach::Fleet, "{caller:?}");
            assert_eq!(pair.one.confirm().await, Reach::Fleet, "{caller:?}");
            trips().await;
            assert_eq!(pair.have(), (Some(3), None), "{caller:?}");
            pair.both_read(3).await;
            assert_eq!(pair.source.asked(), 1, "what was set is in the tier, {caller:?}");
            pair.are_idle(caller).await;
            confirmed.is_some() && reach.is_some()
        })
        .await;
    }
}

/// The rows that a transaction adds to an outbox.
type Rows = Mutex<Vec<Bytes>>;

/// An outbox that takes a while.
struct Outbox;

impl TransactionOutbox<&Rows> for Outbox {
    type Error = Infallible;

    async fn keep(&self, rows: &Rows, _cache: &str, said: &Announcement) -> Result<(), Infallible> {
        yield_now().await;
        rows.lock().unwrap().push(said.body.clone());
        yield_now().await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_a_change_in_a_transaction_may_go_away_at_any_poll() {
    at_every_poll(async |caller: Caller| {
        let (pair, rows) = (Pair::new().await, Rows::default());
        let rolled_back = caller.waits_for(pair.one.invalidate_in(&Outbox, &rows, removal())).await;
        let is_done = rolled_back.is_some();
        drop(rolled_back);
        trips().await;
        assert_eq!(pair.have(), (Some(1), Some(1)), "nothing has changed, {caller:?}");
        let coupled = pair.one.invalidate_in(&Outbox, &rows, removal()).await.unwrap();
        pair.source.set(2);
        assert_eq!(coupled.committed().await, Reach::Fleet, "{caller:?}");
        trips().await;
        assert_eq!(pair.have(), (None, None), "{caller:?}");
        pair.both_read(2).await;
        pair.are_idle(caller).await;
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_closes_a_cache_may_go_away_at_any_poll() {
    at_every_poll(async |caller: Caller| {
        let pair = Pair::new().await;
        pair.source.set(2);
        drop(pair.one.invalidate(KEYS[0]));
        let is_done = caller.waits_for(pair.one.close()).await.is_some();
        trips().await;
        assert_eq!(pair.have(), (None, None), "what was pending is told, {caller:?}");
        pair.one.close().await;
        pair.both_read(2).await;
        assert!(pair.source.asked() <= 3, "{caller:?}");
        pair.are_idle(caller).await;
        sleep(60 * SECOND).await;
        assert_eq!(pair.other.stats().gaps, 0, "it has taken leave, {caller:?}");
        is_done
    })
    .await;
}
