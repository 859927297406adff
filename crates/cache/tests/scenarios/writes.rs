//! Values that the caller sets: through to the shared tiers, or behind to the caller's own store.

use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt};
use paystrata_cache::{Cache, Clock, Policy, Version, Write, WriteFailed, Writer, testkit::Site};

use crate::kit::{Numbers, Teller, node, settle, trips, wait_for};

#[tokio::test(start_paused = true)]
async fn value_that_is_set_is_stored_in_every_tier_or_voids_what_is_there() {
    for (write, found) in [(Write::Through, 2), (Write::Void, 3)] {
        let site = Site::new(1);
        let policy = || Policy { write, ..Policy::default() };
        let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
        let teller = Teller::default();
        teller.value(&one, "k", 1).await;
        trips().await;
        teller.value(&other, "k", 1).await;
        one.set("k".to_owned(), 2, Version(5)).await;
        trips().await;
        assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
        assert_eq!(teller.value(&other, "k", 3).await, found);
    }
}

// T55
#[tokio::test(start_paused = true)]
async fn write_that_is_repeated_late_does_not_replace_what_a_peer_wrote_meanwhile() {
    let site = Site::new(2);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    link.faults.set_down(true);
    drop(one.set("k".to_owned(), 5, Version(5)));
    settle().await;
    other.set("k".to_owned(), 6, Version(6)).await;
    link.faults.set_down(false);
    wait_for(|| one.stats().pending_invalidations == 0).await;
    trips().await;
    assert_eq!(one.stats().tiers[0].refused, 1);
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&third, "k", 7).await, 6);
}

#[derive(Default)]
struct Table {
    rows: Mutex<Vec<(String, u64, Version)>>,
    fails: Mutex<u32>,
}

impl Writer<String, u64> for Table {
    fn write<'a>(&'a self, values: &'a [(String, u64, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>> {
        async move {
            let mut fails = self.fails.lock().unwrap();
            if *fails > 0 {
                *fails -= 1;
                return Err(WriteFailed);
            }
            self.rows.lock().unwrap().extend_from_slice(values);
            Ok(())
        }
        .boxed()
    }
}

// T78
#[tokio::test(start_paused = true)]
async fn values_set_behind_are_written_newest_of_each_key_and_flushed_on_close() {
    let table = Arc::new(Table { fails: Mutex::new(2), ..Table::default() });
    let cache: Numbers = Cache::builder("behind")
        .policy(Policy { write: Write::Behind, ..Policy::default() })
        .clock(Clock::tokio())
        .writer(Arc::<Table>::clone(&table))
        .build();
    for version in 1..=3 {
        drop(cache.set("k".to_owned(), version * 10, Version(version)));
    }
    assert_eq!((cache.get("k"), cache.stats().pending_writes), (Some(30), 1));
    cache.close().await;
    assert_eq!(*table.rows.lock().unwrap(), [("k".to_owned(), 30, Version(3))]);
    assert_eq!(cache.stats().pending_writes, 0);
}
