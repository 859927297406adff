//! Values that are written behind: none is lost in silence, none that is older is written over a newer one, reads see them
//! before they are written, and a writer that hangs holds up nobody for ever.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::future::{BoxFuture, FutureExt};
use paystrata_cache::{
    Cache, Clock, Observer, Policy, SetRefused, Version, Write, WriteFailed, Writer, WriterOptions,
    testkit::Site,
};
use tokio::{sync::Notify, time::sleep};

use crate::kit::{Numbers, SECOND, Teller, alone, exact, listener, settle, trips, wait_for};

/// Where values are written to, and what goes wrong with it.
#[derive(Default)]
pub(crate) struct Table {
    rows: Mutex<Vec<(String, u64, Version)>>,
    fails: AtomicBool,
    panics: AtomicBool,
    /// Calls wait until they are let go.
    waits: AtomicBool,
    /// Is never taken.
    poison: AtomicU64,
    go: Notify,
    calls: AtomicUsize,
}

impl Writer<String, u64> for Table {
    fn write<'a>(&'a self, values: &'a [(String, u64, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>> {
        async move {
            self.calls.fetch_add(1, SeqCst);
            assert!(!self.panics.load(SeqCst), "the table panics");
            if self.waits.load(SeqCst) {
                self.go.notified().await;
            }
            let poison = self.poison.load(SeqCst);
            if self.fails.load(SeqCst) || values.iter().any(|(_, value, _)| *value == poison && poison > 0) {
                return Err(WriteFailed);
            }
            self.rows.lock().unwrap().extend_from_slice(values);
            Ok(())
        }
        .boxed()
    }
}

impl Table {
    pub(crate) fn let_go(&self) {
        self.waits.store(false, SeqCst);
        self.go.notify_one();
    }

    fn values(&self) -> Vec<u64> {
        self.rows.lock().unwrap().iter().map(|(_, value, _)| *value).collect()
    }
}

/// Counts the values that a cache says are lost.
#[derive(Debug, Default)]
struct Lost(AtomicUsize);

impl Observer for Lost {
    fn writes_lost(&self, _cache: &str, values: usize) {
        self.0.fetch_add(values, SeqCst);
    }
}

fn brief() -> Policy {
    exact(Policy { write: Write::Behind, ttl: SECOND, l1_ttl: SECOND, ..Policy::default() })
}

fn behind(table: &Arc<Table>, options: WriterOptions) -> (Numbers, Arc<Lost>) {
    let lost = Arc::<Lost>::default();
    let builder = Cache::builder("behind").policy(brief()).clock(Clock::tokio());
    let builder = builder.observer(Arc::<Lost>::clone(&lost));
    (builder.writer_with(Arc::<Table>::clone(table), options).build(), lost)
}

/// A cache that writes behind to a table whose calls wait.
pub(crate) fn slow_table(policy: Policy) -> (Numbers, Arc<Table>) {
    let table = Arc::<Table>::default();
    table.waits.store(true, SeqCst);
    let builder = Cache::builder("behind").policy(exact(policy)).clock(Clock::tokio());
    (builder.writer_with(Arc::<Table>::clone(&table), WriterOptions::default()).build(), table)
}

fn set(cache: &Numbers, key: &str, value: u64, version: Version) -> Option<SetRefused> {
    cache.set(key.to_owned(), value, version).err()
}

// T78
#[tokio::test(start_paused = true)]
async fn values_are_written_newest_of_each_key_and_flushed_on_close() {
    let table = Arc::<Table>::default();
    let (cache, lost) = behind(&table, WriterOptions::default());
    table.fails.store(true, SeqCst);
    for version in 1..=3 {
        assert_eq!(set(&cache, "k", version * 10, Version(version)), None);
    }
    assert_eq!(set(&cache, "k", 20, Version(2)), Some(SetRefused::Overtaken));
    assert_eq!(cache.stats().pending_writes, 1);
    wait_for(|| table.calls.load(SeqCst) == 2).await;
    table.fails.store(false, SeqCst);
    cache.close().await;
    assert_eq!(*table.rows.lock().unwrap(), [("k".to_owned(), 30, Version(3))]);
    assert_eq!((cache.stats().pending_writes, lost.0.load(SeqCst)), (0, 0));
    assert_eq!(set(&cache, "k", 40, Version(4)), Some(SetRefused::Closed));
}

#[tokio::test(start_paused = true)]
async fn changes_of_other_keys_and_unnumbered_ones_lose_no_write() {
    let table = Arc::<Table>::default();
    let (cache, _) = behind(&table, WriterOptions::default());
    for number in 0..5_000 {
        drop(cache.invalidate(&format!("other {number}")));
    }
    drop(cache.invalidate("k0"));
    for number in 0..500 {
        assert_eq!(set(&cache, &format!("k{number}"), number, Version(1)), None);
    }
    cache.close().await;
    assert_eq!(table.values().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn value_that_comes_during_the_write_of_another_of_its_version_is_written_after_it() {
    let table = Arc::<Table>::default();
    let (cache, _) = behind(&table, WriterOptions::default());
    table.waits.store(true, SeqCst);
    assert_eq!(set(&cache, "k", 1, Version::NONE), None);
    settle().await;
    assert_eq!(set(&cache, "k", 2, Version::NONE), None);
    table.waits.store(false, SeqCst);
    table.go.notify_one();
    wait_for(|| cache.stats().pending_writes == 0).await;
    assert_eq!(table.values(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn value_over_the_bound_is_refused_before_anything_is_done() {
    let table = Arc::<Table>::default();
    let (cache, _) = behind(&table, WriterOptions { pending_max: 1, ..WriterOptions::default() });
    table.fails.store(true, SeqCst);
    assert_eq!(Teller::default().value(&cache, "b", 7).await, 7);
    assert_eq!(set(&cache, "a", 1, Version(1)), None);
    assert_eq!(set(&cache, "b", 2, Version(2)), Some(SetRefused::Full));
    assert_eq!(cache.get("b"), Some(7), "what was true is still true");
    assert_eq!(set(&cache, "a", 3, Version(3)), None, "it takes the place of another one");
    table.fails.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
    assert_eq!((set(&cache, "b", 2, Version(4)), table.values()), (None, vec![3]));
}

#[tokio::test(start_paused = true)]
async fn values_are_refused_by_their_weight_and_the_heaviest_is_taken_alone() {
    let table = Arc::<Table>::default();
    let options = WriterOptions { pending_bytes_max: 3_000, ..WriterOptions::default() };
    let builder = Cache::builder("heavy").policy(brief()).clock(Clock::tokio());
    // A value is its own weight.
    let builder = builder.weigher(|_: &String, value: &u64| usize::try_from(*value).unwrap());
    let cache: Numbers = builder.writer_with(Arc::<Table>::clone(&table), options).build();
    table.fails.store(true, SeqCst);
    assert_eq!(set(&cache, "a", 1_000, Version(1)), None);
    assert_eq!(set(&cache, "b", 1_000, Version(2)), None);
    assert_eq!(set(&cache, "c", 1_000, Version(3)), Some(SetRefused::Full));
    assert_eq!(set(&cache, "b", 1_001, Version(4)), None, "what it takes the place of does not count");
    assert_eq!(set(&cache, "b", 9_000, Version(5)), Some(SetRefused::Full));
    assert_eq!(cache.get("b"), Some(1_001));
    table.fails.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
    table.fails.store(true, SeqCst);
    assert_eq!(set(&cache, "d", 9_000, Version(6)), None, "none other waits");
    assert_eq!(set(&cache, "e", 1, Version(7)), Some(SetRefused::Full));
    table.fails.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
    assert_eq!((set(&cache, "e", 1, Version(8)), set(&cache, "f", 1, Version(9))), (None, None));
}

#[tokio::test(start_paused = true)]
async fn cache_without_a_writer_takes_no_write() {
    let cache = alone(Policy::default()).with(|policy| policy.write = Write::Behind);
    assert_eq!(set(&cache, "k", 1, Version(1)), Some(SetRefused::NoWriter));
    assert_eq!(cache.get("k"), None);
}

// T78
#[tokio::test(start_paused = true)]
async fn what_is_not_written_when_the_cache_is_dropped_or_closed_is_told() {
    let table = Arc::<Table>::default();
    table.fails.store(true, SeqCst);
    let (cache, lost) = behind(&table, WriterOptions::default());
    for (number, key) in ["a", "b"].into_iter().enumerate() {
        assert_eq!(set(&cache, key, number as u64, Version(1)), None);
    }
    settle().await;
    drop(cache);
    assert_eq!(lost.0.load(SeqCst), 2);

    let (cache, lost) = behind(&table, WriterOptions::default());
    assert_eq!(set(&cache, "c", 1, Version(1)), None);
    cache.close().await;
    assert_eq!((lost.0.load(SeqCst), cache.stats().pending_writes), (1, 1));
    drop(cache);
    assert_eq!(lost.0.load(SeqCst), 1, "once");
}

#[tokio::test(start_paused = true)]
async fn writer_that_hangs_or_panics_is_asked_again_and_holds_up_no_close() {
    let table = Arc::<Table>::default();
    let (cache, lost) = behind(&table, WriterOptions::default());
    table.waits.store(true, SeqCst);
    assert_eq!(set(&cache, "a", 1, Version(1)), None);
    wait_for(|| table.calls.load(SeqCst) == 2).await;
    table.waits.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
    table.panics.store(true, SeqCst);
    assert_eq!(set(&cache, "b", 2, Version(2)), None);
    wait_for(|| table.calls.load(SeqCst) == 5).await;
    table.panics.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
    assert_eq!(table.values(), [1, 2]);
    table.waits.store(true, SeqCst);
    assert_eq!(set(&cache, "c", 3, Version(3)), None);
    cache.close().await;
    assert_eq!(lost.0.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn reads_see_what_waits_to_be_written_before_they_ask_the_loader() {
    let table = Arc::<Table>::default();
    let (cache, _) = behind(&table, WriterOptions::default());
    table.fails.store(true, SeqCst);
    assert_eq!(set(&cache, "k", 1, Version(5)), None);
    let teller = Teller::default();
    // Its time in L1 is over.
    sleep(2 * SECOND).await;
    assert_eq!((cache.get("k"), teller.value(&cache, "k", 9).await, teller.calls()), (None, 1, 0));
    assert_eq!(cache.get("k"), Some(1));
    // It is void, but what is to be written is what the source will say.
    drop(cache.invalidate("k"));
    assert_eq!(cache.get("k"), None);
    assert_eq!(cache.read("k").await.and_then(|loaded| loaded.value), Some(1));
    drop(cache.clear());
    let load = |keys: Vec<String>, _context| async move {
        Ok::<_, crate::kit::Broken>(keys.into_iter().map(|_| Ok(Some(9))).collect::<Vec<_>>())
    };
    let many = cache.get_or_load_many(&["k".to_owned(), "other".to_owned()], load).await;
    let many: Vec<_> = many.into_iter().map(Result::unwrap).collect();
    assert_eq!(many, [Some(1), Some(9)]);
    // Somebody has written something newer.
    drop(cache.invalidate_many(["k"], Version(6)));
    assert_eq!((teller.value(&cache, "k", 6).await, teller.calls()), (6, 1));
    table.fails.store(false, SeqCst);
    wait_for(|| cache.stats().pending_writes == 0).await;
}

/// Whoever closes a cache may have no patience for it.
#[tokio::test(start_paused = true)]
async fn close_that_is_dropped_half_way_goes_on_and_loses_nothing_in_silence() {
    for polls in 1..40 {
        let table = Arc::<Table>::default();
        let (cache, lost) = behind(&table, WriterOptions { flush: SECOND, ..WriterOptions::default() });
        table.fails.store(true, SeqCst);
        assert_eq!(set(&cache, "k", 1, Version(1)), None);
        let mut closing = Box::pin(cache.close());
        for _ in 0..polls {
            if (&mut closing).now_or_never().is_some() {
                break;
            }
            sleep(SECOND / 20).await;
        }
        drop(closing);
        if polls % 2 == 0 {
            // Two at once end together, and it is told once.
            tokio::join!(cache.close(), cache.close());
        }
        drop(cache);
        wait_for(|| lost.0.load(SeqCst) > 0).await;
        sleep(5 * SECOND).await;
        assert_eq!((lost.0.load(SeqCst), table.values().len()), (1, 0), "after {polls} polls");
    }
}

/// Whoever closes a cache may not be polled for long.
#[tokio::test(start_paused = true)]
async fn close_that_is_not_polled_keeps_neither_the_writer_nor_another_close_from_its_end() {
    let table = Arc::<Table>::default();
    let (cache, lost) = behind(&table, WriterOptions { flush: 60 * SECOND, ..WriterOptions::default() });
    table.fails.store(true, SeqCst);
    assert_eq!(set(&cache, "k", 1, Version(1)), None);
    let mut parked = Box::pin(cache.close());
    assert!((&mut parked).now_or_never().is_none());
    sleep(SECOND).await;
    assert!((&mut parked).now_or_never().is_none());
    table.fails.store(false, SeqCst);
    wait_for(|| table.values().len() == 1).await;
    let begun = tokio::time::Instant::now();
    cache.close().await;
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    parked.await;
    assert_eq!((cache.stats().pending_writes, lost.0.load(SeqCst)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn once_it_is_written_other_nodes_forget_what_they_loaded_from_before() {
    let (site, table) = (Site::new(1), Arc::<Table>::default());
    let other = listener(&site, Policy::default()).await;
    let one: Numbers = Cache::builder("numbers")
        .policy(exact(Policy { write: Write::Behind, ..Policy::default() }))
        .clock(Clock::tokio())
        .backplane(Arc::new(site.link()))
        .writer(Arc::<Table>::clone(&table))
        .build();
    wait_for(|| one.stats().backplane_silence.is_some()).await;
    table.fails.store(true, SeqCst);
    assert_eq!(set(&one, "k", 2, Version(5)), None);
    trips().await;
    // The source does not have it yet.
    assert_eq!(Teller::default().value(&other, "k", 1).await, 1);
    table.fails.store(false, SeqCst);
    wait_for(|| one.stats().pending_writes == 0).await;
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
}

#[tokio::test(start_paused = true)]
async fn value_that_is_never_taken_keeps_no_other_from_being_written() {
    let table = Arc::<Table>::default();
    let (cache, lost) = behind(&table, WriterOptions { flush: SECOND, ..WriterOptions::default() });
    table.poison.store(300, SeqCst);
    for number in 1..=1_000 {
        assert_eq!(set(&cache, &number.to_string(), number, Version(number)), None);
    }
    wait_for(|| cache.stats().pending_writes == 1).await;
    let mut written = table.values();
    written.sort_unstable();
    assert_eq!(written, (1..=1_000).filter(|value| *value != 300).collect::<Vec<u64>>(), "each once");
    // One that can be written takes its place, and the queue is empty.
    assert_eq!(set(&cache, "300", 301, Version(2_000)), None);
    wait_for(|| cache.stats().pending_writes == 0).await;
    cache.close().await;
    assert_eq!(lost.0.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_loaded_past_a_value_that_waits_goes_once_that_is_written() {
    let (cache, table) = slow_table(brief());
    assert_eq!(set(&cache, "k", 50, Version(5)), None);
    // Newer than what waits, and no write of the key: the loader is asked, and has what was there before.
    drop(cache.prefix("k").at(Version(6)).remove());
    let old = |_| async { Ok::<_, Infallible>(Some(1)) };
    assert_eq!(cache.get_or_load("k", old).await.unwrap(), Some(1));
    assert_eq!(cache.get("k"), Some(1));
    table.let_go();
    wait_for(|| cache.stats().pending_writes == 0).await;
    settle().await;
    assert_eq!(cache.get("k"), None, "from before the write");
    let new = |_| async { Ok::<_, Infallible>(Some(50)) };
    assert_eq!(cache.get_or_load("k", new).await.unwrap(), Some(50));
}

/// Whatever is newer where it is written to, this node may not have heard of it: a value that was read while it waited is read anew.
#[tokio::test(start_paused = true)]
async fn value_that_was_read_while_it_waited_is_loaded_once_it_is_written_and_one_that_was_not_stays() {
    let (cache, table) = slow_table(brief());
    for key in ["read", "kept"] {
        assert_eq!(set(&cache, key, 50, Version(5)), None);
    }
    drop(cache.invalidate("read"));
    let never = |_| async { Ok::<_, Infallible>(None) };
    assert_eq!(cache.get_or_load("read", never).await.unwrap(), Some(50), "it waits");
    assert_eq!(cache.get("read"), Some(50));
    table.let_go();
    wait_for(|| cache.stats().pending_writes == 0).await;
    settle().await;
    assert_eq!((cache.get("read"), cache.get("kept")), (None, Some(50)));
}
