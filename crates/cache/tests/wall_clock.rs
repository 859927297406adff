//! A wall clock that jumps changes no lifetime (T15). In a binary of its own, because it puts its own clock in the place
//! of the system's: one whose times stand still until the test moves them.

#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    sync::atomic::{AtomicI64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant, SystemTime},
};

use paystrata_cache::{Cache, Policy};

/// What the clocks say, in seconds.
static WALL: AtomicI64 = AtomicI64::new(1_700_000_000);
static MONOTONIC: AtomicI64 = AtomicI64::new(1_000);

#[expect(unsafe_code, reason = "the system's function is replaced for this process")]
// SAFETY: it has the signature and the contract of the function whose name it takes.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let is_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let now = if is_wall { &WALL } else { &MONOTONIC };
    // SAFETY: the caller gives a pointer to a timespec.
    unsafe { *time = libc::timespec { tv_sec: now.load(SeqCst), tv_nsec: 0 } };
    0
}

const HOUR: i64 = 3_600;

#[test]
fn jumps_of_the_wall_clock_lengthen_and_shorten_no_lifetime() {
    let (wall, instant) = (SystemTime::now(), Instant::now());
    WALL.fetch_add(HOUR, SeqCst);
    assert_eq!(SystemTime::now().duration_since(wall).unwrap(), Duration::from_secs(3_600), "it is ours");
    assert_eq!(instant.elapsed(), Duration::ZERO);

    let policy = Policy { ttl: Duration::from_secs(60), jitter: 0.0, ..Policy::default() };
    let cache: Cache<u64, u64> = Cache::builder("jumps").policy(policy).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for jump in [HOUR, -HOUR] {
        let load = |_| async { Ok::<_, Infallible>(Some(1)) };
        runtime.block_on(cache.get_or_load(&7, load)).unwrap();
        WALL.fetch_add(jump, SeqCst);
        MONOTONIC.fetch_add(55, SeqCst);
        assert_eq!(cache.get(&7), Some(1), "{jump}");
        MONOTONIC.fetch_add(6, SeqCst);
        // Not at once, if the time is read now and then.
        for _ in 0..1_000_000 {
            if cache.get(&7).is_none() {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(cache.get(&7), None, "{jump}");
    }
}
