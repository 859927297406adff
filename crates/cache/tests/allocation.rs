//! A hit allocates nothing: neither `get` nor `get_or_load`, with a value that does not either; but for the hits that make
//! a thread's copies, which are counted here too.
//! In a binary of its own, because it replaces the allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::Future,
    hint::black_box,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use paystrata_cache::{Cache, LoadContext, Policy, Version};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; it passes everything on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _exiting = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[tokio::test]
async fn hit_allocates_nothing_and_is_ready_at_once() {
    let cache: Cache<String, Arc<String>> = Cache::builder("values").build();
    let load = |_| async { Ok::<_, Infallible>(Some(Arc::new("value".to_owned()))) };
    cache.get_or_load("key", load).await.unwrap();
    // Take this thread's stripe of the counters and its places, and make its copy.
    black_box(cache.get("key"));
    black_box(cache.get("key"));

    let got = allocations(|| assert!(black_box(cache.get("key")).is_some()));
    assert_eq!(got, 0, "get");

    let loaded = allocations(|| {
        let mut context = Context::from_waker(Waker::noop());
        let read = std::pin::pin!(cache.get_or_load("key", load));
        assert!(matches!(black_box(read.poll(&mut context)), Poll::Ready(Ok(Some(_)))));
    });
    assert_eq!(loaded, 0, "get_or_load");
    assert!(allocations(|| drop(black_box(Box::new(1)))) > 0, "the allocator counts");
}

/// Counts what polling a future once takes, which must be ready then.
fn allocations_of<T>(read: impl Future<Output = T>) -> usize {
    let read = std::pin::pin!(read);
    allocations(|| {
        let mut context = Context::from_waker(Waker::noop());
        assert!(black_box(read.poll(&mut context)).is_ready());
    })
}

#[tokio::test]
async fn hit_allocates_nothing_after_sweeps_over_others_whatever_the_entry_carries() {
    let cache: Cache<String, Arc<String>> = Cache::builder("values").build();
    let load = |context: LoadContext<Arc<String>>| async move {
        context.tag("kept").version(Version(7));
        Ok::<_, Infallible>(Some(Arc::new("value".to_owned())))
    };
    cache.get_or_load("key", load).await.unwrap();
    for sweep in 0..3 {
        match sweep {
            0 => drop(cache.tag("other").remove()),
            1 => drop(cache.prefix("other").expire()),
            _ => drop(cache.pattern("*other*").remove()),
        }
        // The first look after each spells the key, and finds that it is not meant; the next ones make the thread's copy.
        (0..3).for_each(|_| assert!(black_box(cache.get("key")).is_some()));
        for (what, taken) in [
            ("get", allocations(|| assert!(black_box(cache.get("key")).is_some()))),
            ("get_or_load", allocations_of(cache.get_or_load("key", load))),
        ] {
            assert_eq!(taken, 0, "{what} after sweep {sweep}");
        }
    }
}

#[tokio::test]
async fn other_ways_to_a_hit_allocate_nothing_either() {
    // What is not there is remembered for as long as the test takes.
    let policy = Policy { negative_ttl: Duration::from_secs(3_600), ..Policy::default() };
    let cache: Cache<u64, Arc<String>> = Cache::builder("values").policy(policy).build();
    let load = |_| async { Ok::<_, Infallible>(Some(Arc::new("value".to_owned()))) };
    let nothing = |_| async { Ok::<_, Infallible>(None::<Arc<String>>) };
    cache.get_or_load(&1, load).await.unwrap();
    cache.get_or_load(&2, nothing).await.unwrap();
    (0..3).for_each(|_| assert!(black_box(cache.get(&1)).is_some()));
    // A thread that looks closer for the first time takes a place for it.
    black_box(cache.lookup(&2));
    assert_eq!(allocations_of(cache.get_or_load_entry(&1, load)), 0, "get_or_load_entry");
    assert_eq!(allocations_of(cache.get_or_load(&2, nothing)), 0, "that there is none");
    let function = cache.wrap(|key: u64, _: LoadContext<Arc<String>>| async move {
        Ok::<_, Infallible>(Some(Arc::new(key.to_string())))
    });
    assert_eq!(allocations_of(function.call(1)), 0, "a cached function");
}

/// Of what the first hits of a thread make: its places, and its stripe of the counters.
const OF_THE_THREAD: usize = 8;

/// A cache that holds so many keys, and the keys.
async fn filled(count: usize) -> (Cache<String, Arc<String>>, Vec<String>) {
    let cache = Cache::builder("values").build();
    let keys: Vec<String> =
        (0..count).map(|key| format!("a key that is longer than nothing {key:06}")).collect();
    for key in &keys {
        let load = |_| async { Ok::<_, Infallible>(Some(Arc::new("value".to_owned()))) };
        cache.get_or_load(key, load).await.expect("the loader does not fail");
    }
    (cache, keys)
}

#[tokio::test]
async fn only_the_hit_that_makes_a_copy_clones_the_key() {
    const KEYS: usize = 1_000;
    let (cache, keys) = filled(KEYS).await;
    let read_all =
        || allocations(|| keys.iter().for_each(|key| assert!(black_box(cache.get(key)).is_some())));
    let first = read_all();
    assert!(first <= OF_THE_THREAD, "what is read once is not copied: {first}");
    let more: usize = (0..20).map(|_| read_all()).sum();
    assert!(more <= KEYS + OF_THE_THREAD, "a key is cloned once: {more}");
    assert!(more > KEYS / 4, "there are copies: {more}");
    // Some keys found no place among their neighbours. They do not push out what is hit as often as they are.
    let later: usize = (0..200).map(|_| read_all()).sum();
    assert_eq!(later, 0, "what fits the places is copied once and for all");
}

#[tokio::test]
async fn keys_beyond_the_places_take_over_the_memory_of_those_they_push_out() {
    const KEYS: usize = 10_000;
    const PASSES: usize = 20;
    let (cache, keys) = filled(KEYS).await;
    let read_all = || keys.iter().for_each(|key| assert!(black_box(cache.get(key)).is_some()));
    read_all();
    let cloned = allocations(|| (0..PASSES).for_each(|_| read_all()));
    assert!(cloned <= 2_048 + OF_THE_THREAD, "{cloned}");
    assert!(cloned > 256, "there are copies: {cloned}");
}
