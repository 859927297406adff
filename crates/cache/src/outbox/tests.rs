//! What is pending, shown, announced and confirmed, and what a waiter is told.

use super::*;
use crate::{backplane::Swath, tier::Void};

fn key(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

fn push(outbox: &Outbox, sweeps: &Sweeps, keys: &[Bytes], version: u64) -> (u64, Pushed) {
    let order =
        |key: &Bytes| (KeyOrder { key: key.clone(), how: Void::Remove, version: Version(version) }, None);
    outbox.push(keys.iter().map(order).collect::<Vec<_>>(), vec![], sweeps)
}

/// The next batch, when every tier has been told of everything.
fn next(outbox: &Outbox) -> Option<Arc<Batch>> {
    outbox.next_batch(outbox.show(), |_| true, true)
}

/// What the next batch has, which is given back.
fn sent(outbox: &Outbox) -> Vec<(Bytes, Version)> {
    let Some(batch) = next(outbox) else { return vec![] };
    outbox.give_back(&batch);
    let keys = batch.keys.iter();
    keys.map(|announced| (announced.order.key.clone(), announced.order.version)).collect()
}

/// Who waits until an order is done.
fn waiting(outbox: &Arc<Outbox>, number: u64) -> tokio::task::JoinHandle<()> {
    let outbox = Arc::clone(outbox);
    tokio::spawn(async move { outbox.done(number).await })
}

#[test]
fn values_over_the_bound_are_dropped_and_no_key_is_given_up_for_them() {
    let (outbox, sweeps) = (Outbox::new(1_000), Sweeps::default());
    let large = Putting {
        bytes: Bytes::from(vec![0; 1 << 20]),
        lifetime: Duration::from_secs(1),
        grace: Duration::ZERO,
        set_us: 0,
    };
    for number in 0..20 {
        let order = KeyOrder { key: key(number), how: Void::Remove, version: Version(1) };
        let (_, pushed) = outbox.push([(order, Some(large.clone()))], vec![], &sweeps);
        assert_eq!(pushed, Pushed::Queued);
    }
    let bytes = lock(&outbox.state).bytes;
    assert!(bytes <= PENDING_BYTES_MAX, "{bytes}");
    assert_eq!((outbox.pending(), outbox.overflows()), (20, 0));
}

#[test]
fn key_blocks_until_its_batch_is_confirmed() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    push(&outbox, &sweeps, &[key(1), key(2)], 5);
    let batch = next(&outbox).unwrap();
    assert!(outbox.blocks(&key(1)) && !outbox.blocks(&key(3)));
    outbox.confirm(&batch);
    assert!(!outbox.blocks(&key(1)));
    assert_eq!(outbox.pending(), 0);
}

#[test]
fn key_pushed_again_while_it_is_sent_stays_pending_with_the_higher_version() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    push(&outbox, &sweeps, &[key(1)], 5);
    let batch = next(&outbox).unwrap();
    push(&outbox, &sweeps, &[key(1)], 4);
    outbox.confirm(&batch);
    assert!(outbox.blocks(&key(1)));
    assert_eq!(sent(&outbox), [(key(1), Version(5))]);
}

#[test]
fn overflow_sweeps_everything_and_what_was_under_way_proves_nothing() {
    let (outbox, sweeps) = (Outbox::new(2), Sweeps::default());
    push(&outbox, &sweeps, &[key(1), key(2)], 5);
    let keys = next(&outbox).unwrap();
    assert_eq!(push(&outbox, &sweeps, &[key(3)], 7).1, Pushed::Overflowed);
    outbox.confirm(&keys);
    assert!(sweeps.pending().is_over(&key(99)));
    let clear = next(&outbox).unwrap();
    let [(_, SweepOrder { swath: Swath::All, version: Version(7), .. })] = &clear.sweeps[..] else {
        panic!("{clear:?}")
    };
    outbox.confirm(&clear);
    assert_eq!((outbox.pending(), outbox.overflows()), (0, 1));
}

#[test]
fn batches_are_bounded_in_keys_and_bytes_and_make_progress() {
    let (outbox, sweeps) = (Outbox::new(10_000), Sweeps::default());
    let keys: Vec<_> = (0..1_000).map(key).collect();
    push(&outbox, &sweeps, &keys, 1);
    assert_eq!(sent(&outbox).len(), BATCH_KEYS_MAX);
    let mut rounds = 0;
    while let Some(batch) = next(&outbox) {
        outbox.confirm(&batch);
        rounds += 1;
    }
    assert_eq!(rounds, 2);

    let long = Bytes::from(vec![b'x'; BATCH_BYTES_MAX + 1]);
    push(&outbox, &sweeps, &[long, key(1)], 1);
    assert_eq!(sent(&outbox).len(), 1, "one key too long for a batch goes alone");
}

#[test]
fn bytes_are_bounded_as_well() {
    let (outbox, sweeps) = (Outbox::new(usize::MAX), Sweeps::default());
    let long = Bytes::from(vec![b'x'; PENDING_BYTES_MAX]);
    assert_eq!(push(&outbox, &sweeps, &[long], 1).1, Pushed::Queued);
    assert_eq!(push(&outbox, &sweeps, &[key(1)], 1).1, Pushed::Overflowed);
}

#[tokio::test(start_paused = true)]
async fn waiter_wakes_when_its_order_is_done_and_not_before() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(10)), Sweeps::default());
    push(&outbox, &sweeps, &[key(1)], 5);
    let first = next(&outbox).unwrap();
    let (number, _) = push(&outbox, &sweeps, &[key(2)], 5);
    let waiting = waiting(&outbox, number);
    tokio::task::yield_now().await;
    outbox.confirm(&first);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    outbox.confirm(&next(&outbox).unwrap());
    waiting.await.unwrap();
}
#[tokio::test(start_paused = true)]
async fn waiter_of_a_key_that_was_given_up_wakes_with_the_sweep_and_not_before() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(2)), Sweeps::default());
    push(&outbox, &sweeps, &[key(1)], 5);
    let first = next(&outbox).unwrap();
    let (number, _) = push(&outbox, &sweeps, &[key(2)], 5);
    assert_eq!(push(&outbox, &sweeps, &[key(3)], 5).1, Pushed::Overflowed);
    let waiting = waiting(&outbox, number);
    outbox.confirm(&first);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    outbox.confirm(&next(&outbox).unwrap());
    waiting.await.unwrap();
    assert!(outbox.may_have_given_up(number));
}

#[test]
fn value_that_is_older_than_a_pending_change_of_its_key_is_not_put() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    let put = |version, bytes: &'static [u8]| {
        let order = KeyOrder { key: key(1), how: Void::Remove, version: Version(version) };
        let put = Putting {
            bytes: Bytes::from_static(bytes),
            lifetime: Duration::from_secs(1),
            grace: Duration::ZERO,
            set_us: 0,
        };
        outbox.push([(order, Some(put))], vec![], &sweeps);
    };
    let pending = || lock(&outbox.state).keys[&key(1)].put.as_ref().map(|put| put.bytes.clone());
    put(5, b"five");
    put(4, b"four");
    assert_eq!(pending(), None);
    put(6, b"six");
    assert_eq!(pending(), Some(Bytes::from_static(b"six")));
    push(&outbox, &sweeps, &[key(1)], 7);
    put(6, b"six");
    assert_eq!(pending(), None);
}

#[test]
fn tier_is_shown_what_is_new_and_what_it_was_told_late_as_it_is_now() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    push(&outbox, &sweeps, &[key(1), key(2)], 5);
    let mut late = BTreeSet::new();
    let mut numbers = outbox.numbers((0, outbox.show()), &mut late, 0);
    let shown = outbox.orders(&mut numbers, BATCH_KEYS_MAX);
    assert_eq!(shown.iter().map(|shown| shown.order.key.clone()).collect::<Vec<_>>(), [key(1), key(2)]);
    let last = shown[1].number;
    // The first has failed; the second is given again, with a value.
    late.insert(shown[0].number);
    push(&outbox, &sweeps, &[key(2)], 6);
    let mut numbers = outbox.numbers((last, outbox.show()), &mut late, 0);
    let again: Vec<_> = outbox
        .orders(&mut numbers, BATCH_KEYS_MAX)
        .into_iter()
        .map(|shown| (shown.order.key, shown.order.version))
        .collect();
    assert_eq!(again, [(key(2), Version(6)), (key(1), Version(5))]);
    // What is confirmed is shown to nobody.
    let up_to = outbox.show();
    assert_eq!(outbox.confirm_told(&(1..=up_to).collect::<Vec<_>>(), up_to), []);
    assert!(outbox.numbers((0, up_to), &mut late, 0).is_empty() && late.is_empty());
    assert_eq!(outbox.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn key_is_shown_once_and_who_is_told_it_as_it_is_has_been_told_what_it_was() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(10)), Sweeps::default());
    let (first, _) = push(&outbox, &sweeps, &[key(1)], 5);
    // The tier was away when it was shown the first, and is told both when it is back.
    let mut late = BTreeSet::from([first]);
    let shown_to = outbox.show();
    let (second, _) = push(&outbox, &sweeps, &[key(1)], 6);
    let up_to = outbox.show();
    let mut numbers = outbox.numbers((shown_to, up_to), &mut late, 0);
    let shown = outbox.orders(&mut numbers, BATCH_KEYS_MAX);
    let [Shown { number, earlier: Some(earlier), order, .. }] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!((*earlier, *number, order.version), (first, second, Version(6)));
    let waiting = waiting(&outbox, first);
    // It is given again once more before that is confirmed: what it was has been told all the same.
    let (third, _) = push(&outbox, &sweeps, &[key(1)], 7);
    assert_eq!(outbox.confirm_told(&[first, second], up_to), []);
    waiting.await.unwrap();
    assert!(outbox.blocks(&key(1)));
    assert_eq!(outbox.confirm_told(&[third], outbox.show()), []);
    assert_eq!(outbox.pending(), 0);
    outbox.done(third).await;
}

#[test]
fn what_failed_is_shown_behind_what_is_new_and_from_where_it_failed_on() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    push(&outbox, &sweeps, &[key(1), key(2), key(3)], 5);
    let shown_to = outbox.show();
    let mut late: BTreeSet<u64> = (1..=3).collect();
    push(&outbox, &sweeps, &[key(4)], 5);
    assert_eq!(outbox.numbers((shown_to, outbox.show()), &mut late, 2), [4, 2, 3, 1]);
}

#[test]
fn what_a_tier_has_yet_to_be_told_goes_in_a_batch_of_its_own_behind_the_rest() {
    let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
    let (first, _) = push(&outbox, &sweeps, &[key(1)], 5);
    push(&outbox, &sweeps, &[key(2), key(3)], 5);
    let next = |told| outbox.next_batch(outbox.show(), |number| number != first, told);
    let told = next(true).unwrap();
    assert_eq!((told.keys.len(), told.is_told), (2, true));
    outbox.confirm(&told);
    assert!(outbox.blocks(&key(1)) && !outbox.blocks(&key(2)));
    assert!(next(true).is_none());
    let untold = next(false).unwrap();
    assert_eq!((untold.keys.len(), untold.is_told), (1, false));
}

#[tokio::test(start_paused = true)]
async fn key_that_is_given_again_in_every_round_is_announced_in_every_round() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(10)), Sweeps::default());
    let mut waiting = Vec::new();
    for version in 1..20 {
        let (number, _) = push(&outbox, &sweeps, &[key(1)], version);
        waiting.push(tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.done(number).await }
        }));
        let shown_to = outbox.show();
        // Twice more while the tiers are told.
        push(&outbox, &sweeps, &[key(1)], version);
        push(&outbox, &sweeps, &[key(1)], version + 1);
        let batch = outbox
            .next_batch(shown_to, |number| number <= shown_to, true)
            .expect("what was shown is announced");
        assert_eq!((batch.keys.len(), batch.is_told), (1, true));
        if version % 3 == 0 {
            outbox.give_back(&batch);
            continue;
        }
        push(&outbox, &sweeps, &[key(1)], version + 1);
        outbox.confirm(&batch);
        assert!(outbox.blocks(&key(1)), "the later orders are pending");
    }
    let last = waiting.pop().expect("the last");
    for waiter in waiting {
        waiter.await.unwrap();
    }
    let up_to = outbox.show();
    assert_eq!(outbox.confirm_told(&(1..=up_to).collect::<Vec<_>>(), up_to), []);
    last.await.unwrap();
    let state = lock(&outbox.state);
    assert!(state.keys.is_empty() && state.order.is_empty() && state.waited_for.is_empty(), "{state:?}");
    assert_eq!(state.bytes, 0);
}

#[test]
fn rounds_and_what_is_announced_in_them_are_bounded() {
    let (outbox, sweeps) = (Outbox::new(100_000), Sweeps::default());
    let keys: Vec<_> = (0..2 * ROUND_KEYS_MAX + 1).map(key).collect();
    push(&outbox, &sweeps, &keys, 1);
    for expected in [ROUND_KEYS_MAX, ROUND_KEYS_MAX, 1] {
        let up_to = outbox.show();
        let swath = sweeps.begin(Swath::Tag("t".into()), Void::Remove);
        outbox.push([], vec![SweepOrder { swath, how: Void::Remove, version: Version(1) }], &sweeps);
        let (mut keys, mut swept) = (0, 0);
        while let Some(batch) = outbox.next_batch(up_to, |_| true, true) {
            keys += batch.keys.len();
            swept += batch.sweeps.len();
            outbox.confirm(&batch);
        }
        assert_eq!(keys, expected);
        assert!(swept <= 2, "the one that came during the round waits for a later one");
    }
}

#[tokio::test(start_paused = true)]
async fn batch_that_is_given_back_is_announced_again_as_it_is_by_then() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(10)), Sweeps::default());
    let (number, _) = push(&outbox, &sweeps, &[key(1), key(2)], 5);
    let waiting = waiting(&outbox, number);
    let batch = next(&outbox).unwrap();
    push(&outbox, &sweeps, &[key(1)], 6);
    outbox.give_back(&batch);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished() && outbox.pending() == 2);
    let again = next(&outbox).unwrap();
    let versions: Vec<_> = again.keys.iter().map(|announced| announced.order.version).collect();
    assert_eq!(versions, [Version(5), Version(6)]);
    outbox.confirm(&again);
    waiting.await.unwrap();
    assert_eq!(outbox.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn batch_whose_keys_were_given_up_meanwhile_gives_back_its_waiters() {
    let (outbox, sweeps) = (Arc::new(Outbox::new(2)), Sweeps::default());
    let (first, _) = push(&outbox, &sweeps, &[key(1), key(2)], 5);
    let waiting = waiting(&outbox, first);
    let batch = next(&outbox).unwrap();
    let (number, pushed) = push(&outbox, &sweeps, &[key(3)], 7);
    assert_eq!(pushed, Pushed::Overflowed);
    outbox.give_back(&batch);
    let clear = next(&outbox).unwrap();
    assert_eq!((clear.keys.len(), clear.sweeps.len()), (0, 1));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    outbox.confirm(&clear);
    waiting.await.unwrap();
    outbox.done(number).await;
    assert_eq!(outbox.pending(), 0);
}
