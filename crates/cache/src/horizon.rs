//! How far this node has heard: the mark up to which it has applied every announcement, without a gap.
//! Announcements are applied in order; one that is missing is asked for, and if it is no longer to be had,
//! everything this node holds is dropped. Refuses to touch entries itself. Fed by the line, driven by `courier`.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        },
    },
};

use bytes::Bytes;

use crate::{
    backplane::Mark,
    flight::lock,
    wire::{Pulse, Stays},
};

/// Announcements kept while the node finds out where the order stands. Over it, it asks for them again.
const MEANWHILE_MAX: usize = 1_024;

/// Peers remembered. A fleet is far smaller; over it, the others are forgotten, and their silence unnoticed.
const PEERS_MAX: usize = 4_096;

/// What one node has heard.
#[derive(Debug)]
pub(crate) struct Horizon {
    heard: Mutex<Heard>,
    /// Loads take their stamp from here. Apart from `heard`, which is locked while voids are applied.
    mark: Mutex<Mark>,
    /// That of `mark`, without the lock.
    incarnation: AtomicU64,
    /// The last one that was known: `mark` may have none for a while.
    last_incarnation: AtomicU64,
    /// How often what sweeps are judged by was taken from a snapshot.
    adoptions: AtomicU64,
    /// Every announcement made before this instant has been applied here.
    vouched_us: AtomicU64,
    /// L1 is served without a second look before this instant: `vouched_us` and the bound on staleness.
    trusted_until_us: AtomicU64,
    max_stale_us: u64,
    /// Something is missing, or may be.
    wants: AtomicBool,
}

#[derive(Debug, Default)]
struct Heard {
    mark: Mark,
    /// The highest number that was heard of.
    highest: u64,
    /// Set while a snapshot is awaited: what was announced meanwhile.
    meanwhile: Option<Vec<(Mark, Bytes)>>,
    peers: HashMap<u64, u64>,
}

/// What an announcement calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Do what it says.
    Apply,
    /// It was applied before.
    Known,
    /// Do what it says; one before it is missing.
    Gap,
    /// Do what it says; it belongs to another order than those before it.
    OrderLost,
}

impl Horizon {
    /// Of a node with a line: nothing is trusted until something was heard.
    pub(crate) fn with_line(max_stale_us: u64) -> Self {
        Self::new(Mark::default(), max_stale_us, 0)
    }

    /// Of a node that nobody else can surprise.
    pub(crate) fn alone() -> Self {
        Self::new(Mark::default(), u64::MAX, u64::MAX)
    }

    fn new(mark: Mark, max_stale_us: u64, trusted_until_us: u64) -> Self {
        Self {
            heard: Mutex::new(Heard { mark, ..Heard::default() }),
            mark: Mutex::new(mark),
            incarnation: AtomicU64::new(mark.incarnation),
            last_incarnation: AtomicU64::new(mark.incarnation),
            adoptions: AtomicU64::new(0),
            vouched_us: AtomicU64::new(0),
            trusted_until_us: AtomicU64::new(trusted_until_us),
            max_stale_us,
            wants: AtomicBool::new(false),
        }
    }

    /// The stamp of a load that begins now.
    pub(crate) fn mark(&self) -> Mark {
        *lock(&self.mark)
    }

    fn set_mark(&self, mark: Mark) {
        let mut known = lock(&self.mark);
        *known = mark;
        self.incarnation.store(mark.incarnation, SeqCst);
        if mark.incarnation != 0 {
            self.last_incarnation.store(mark.incarnation, Relaxed);
        }
    }

    /// True if this node has known another order than this one.
    pub(crate) fn is_another(&self, incarnation: u64) -> bool {
        let last = self.last_incarnation.load(Relaxed);
        last != 0 && last != incarnation
    }

    /// What a judgement of a shared tier's record is good for: if it gives the same before and after, and the record is of
    /// this incarnation, the sweeps that it was held against were all of one order, and whole.
    pub(crate) fn order(&self) -> (u64, u64) {
        (self.adoptions.load(SeqCst), self.incarnation.load(SeqCst))
    }

    #[inline]
    pub(crate) fn trusted_until_us(&self) -> u64 {
        self.trusted_until_us.load(Relaxed)
    }

    pub(crate) fn vouched_us(&self) -> u64 {
        self.vouched_us.load(Relaxed)
    }

    pub(crate) fn max_stale_us(&self) -> u64 {
        self.max_stale_us
    }

    /// Without a line: what the shared tiers hold was stored under another mark from now on.
    pub(crate) fn renew(&self) {
        let mark = Mark { incarnation: rand::random::<u64>() | 1, sequence: 0 };
        self.set_mark(mark);
        lock(&self.heard).mark = mark;
    }

    /// Nothing in the shared tiers can be judged until the node has attached again.
    pub(crate) fn lose(&self) {
        let mut heard = lock(&self.heard);
        heard.mark = Mark::default();
        self.set_mark(Mark::default());
        drop(heard);
        self.want();
    }

    /// Has the courier see what is missing.
    pub(crate) fn want(&self) {
        self.wants.store(true, Relaxed);
    }

    pub(crate) fn take_want(&self) -> bool {
        self.wants.swap(false, AcqRel)
    }

    pub(crate) fn has_want(&self) -> bool {
        self.wants.load(Acquire)
    }

    /// Judges an announcement and has `apply` carried out before the horizon moves.
    pub(crate) fn announced(&self, mark: Mark, body: &Bytes, apply: impl FnOnce()) -> Step {
        let mut heard = lock(&self.heard);
        if let Some(meanwhile) = &mut heard.meanwhile {
            if meanwhile.len() < MEANWHILE_MAX {
                meanwhile.push((mark, body.clone()));
            }
            apply();
            return Step::Apply;
        }
        if mark.incarnation != heard.mark.incarnation {
            // Whatever this node judges shared tiers by belongs to an order that is over.
            let was_known = heard.mark.incarnation != 0;
            heard.mark = Mark::default();
            self.set_mark(Mark::default());
            apply();
            self.want();
            return if was_known { Step::OrderLost } else { Step::Gap };
        }
        heard.highest = heard.highest.max(mark.sequence);
        if mark.sequence <= heard.mark.sequence {
            return Step::Known;
        }
        apply();
        if mark.sequence > heard.mark.sequence + 1 {
            self.want();
            return Step::Gap;
        }
        heard.mark = mark;
        self.set_mark(mark);
        Step::Apply
    }

    /// A sign of life. True if it shows that something is missing.
    pub(crate) fn pulsed(&self, mark: Mark, pulse: Option<Pulse>, own: u64, now_us: u64) -> bool {
        let mut heard = lock(&self.heard);
        // It says that nothing up to its mark is missing here. What was announced after it may have come before it: a line
        // that numbers and sends in two steps is overtaken.
        let is_current = heard.meanwhile.is_none()
            && mark.incarnation == heard.mark.incarnation
            && mark.sequence <= heard.mark.sequence;
        let is_behind = mark.incarnation != heard.mark.incarnation || mark.sequence > heard.mark.sequence;
        if mark.incarnation == heard.mark.incarnation {
            heard.highest = heard.highest.max(mark.sequence);
        }
        if mark.incarnation != heard.mark.incarnation && heard.meanwhile.is_none() {
            heard.mark = Mark::default();
            self.set_mark(Mark::default());
        }
        let Some(pulse) = pulse else { return is_behind };
        if pulse.origin == own {
            if is_current {
                self.vouched_us.fetch_max(pulse.sent_us, Relaxed);
                self.trusted_until_us.fetch_max(pulse.sent_us.saturating_add(self.max_stale_us), Relaxed);
            }
        } else if pulse.stays == Stays::No {
            heard.peers.remove(&pulse.origin);
        } else {
            if heard.peers.len() >= PEERS_MAX {
                heard.peers.clear();
            }
            heard.peers.insert(pulse.origin, now_us);
        }
        is_behind && heard.meanwhile.is_none()
    }

    /// Forgets the peers that have been silent for longer than the bound; how many there were.
    pub(crate) fn forget_silent(&self, now_us: u64) -> usize {
        let mut heard = lock(&self.heard);
        let before = heard.peers.len();
        heard.peers.retain(|_, heard_us| now_us.saturating_sub(*heard_us) <= self.max_stale_us);
        before - heard.peers.len()
    }

    /// Counts the silence of every peer from now: it was this node that did not hear.
    pub(crate) fn excuse_silence(&self, now_us: u64) {
        lock(&self.heard).peers.values_mut().for_each(|heard_us| *heard_us = now_us);
    }

    /// From here on announcements are kept for after the snapshot.
    pub(crate) fn await_snapshot(&self) {
        let mut heard = lock(&self.heard);
        heard.meanwhile.get_or_insert_default();
    }

    /// The snapshot did not come.
    pub(crate) fn give_up_snapshot(&self) {
        lock(&self.heard).meanwhile = None;
        self.want();
    }

    /// Takes the snapshot's mark for the horizon, after `adopt` has taken in what it says; gives what was
    /// announced meanwhile.
    pub(crate) fn attached(&self, mark: Mark, adopt: impl FnOnce()) -> Vec<(Mark, Bytes)> {
        let mut heard = lock(&self.heard);
        // Nothing is judged by a mark whose sweeps are only half taken in.
        self.set_mark(Mark::default());
        self.adoptions.fetch_add(1, SeqCst);
        adopt();
        heard.mark = mark;
        heard.highest = mark.sequence;
        self.set_mark(mark);
        heard.meanwhile.take().unwrap_or_default()
    }

    /// True if announcements are known to be missing.
    pub(crate) fn is_behind(&self) -> bool {
        let heard = lock(&self.heard);
        heard.highest > heard.mark.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { incarnation: 1, sequence }
    }

    fn attached() -> Horizon {
        let horizon = Horizon::with_line(10);
        horizon.await_snapshot();
        assert_eq!(horizon.attached(mark(5), || {}), []);
        horizon
    }

    #[test]
    fn announcements_in_order_move_the_horizon_and_a_missing_one_stops_it() {
        let horizon = attached();
        let body = Bytes::new();
        assert_eq!(horizon.announced(mark(6), &body, || {}), Step::Apply);
        assert_eq!(horizon.announced(mark(6), &body, || {}), Step::Known);
        assert_eq!(horizon.announced(mark(8), &body, || {}), Step::Gap);
        assert_eq!(horizon.mark(), mark(6));
        assert!(horizon.is_behind() && horizon.take_want() && !horizon.take_want());
        assert_eq!(horizon.announced(mark(7), &body, || {}), Step::Apply);
        assert_eq!(horizon.announced(mark(8), &body, || {}), Step::Apply);
        assert!(!horizon.is_behind());
    }

    #[test]
    fn nothing_is_judged_by_an_order_that_is_known_to_be_over() {
        let horizon = attached();
        let other = Mark { incarnation: 2, sequence: 1 };
        assert_eq!(horizon.announced(other, &Bytes::new(), || {}), Step::OrderLost);
        assert_eq!((horizon.mark(), horizon.take_want()), (Mark::default(), true));

        let horizon = attached();
        assert!(horizon.pulsed(other, None, 1, 0));
        assert_eq!(horizon.mark(), Mark::default());
    }

    #[test]
    fn own_pulse_vouches_only_when_nothing_is_missing() {
        let horizon = attached();
        let pulse = Some(Pulse { origin: 1, sent_us: 100, stays: Stays::Yes });
        assert!(horizon.pulsed(mark(6), pulse, 1, 0));
        assert_eq!(horizon.trusted_until_us(), 0);
        assert_eq!(horizon.announced(mark(6), &Bytes::new(), || {}), Step::Apply);
        assert!(!horizon.pulsed(mark(6), pulse, 1, 0));
        assert_eq!(horizon.trusted_until_us(), 110);
    }

    #[test]
    fn own_pulse_that_an_announcement_has_overtaken_vouches_and_one_of_another_order_does_not() {
        let horizon = attached();
        let pulse = |sent_us| Some(Pulse { origin: 1, sent_us, stays: Stays::Yes });
        assert_eq!(horizon.announced(mark(6), &Bytes::new(), || {}), Step::Apply);
        assert!(!horizon.pulsed(mark(5), pulse(100), 1, 0));
        assert_eq!(horizon.trusted_until_us(), 110);
        assert!(horizon.pulsed(Mark { incarnation: 2, sequence: 3 }, pulse(200), 1, 0));
        assert_eq!(horizon.trusted_until_us(), 110);
    }

    #[test]
    fn what_is_announced_while_a_snapshot_is_awaited_is_kept() {
        let horizon = Horizon::with_line(10);
        horizon.await_snapshot();
        assert_eq!(horizon.announced(mark(7), &Bytes::from_static(b"x"), || {}), Step::Apply);
        assert_eq!(horizon.attached(mark(6), || {}), [(mark(7), Bytes::from_static(b"x"))]);
    }

    #[test]
    fn silent_peer_is_noticed_once_and_one_that_said_goodbye_never() {
        let horizon = attached();
        let pulse = |origin, stays| Some(Pulse { origin, sent_us: 0, stays });
        horizon.pulsed(mark(5), pulse(2, Stays::Yes), 1, 0);
        horizon.pulsed(mark(5), pulse(3, Stays::Yes), 1, 0);
        horizon.pulsed(mark(5), pulse(3, Stays::No), 1, 5);
        assert_eq!(
            (horizon.forget_silent(10), horizon.forget_silent(11), horizon.forget_silent(99)),
            (0, 1, 0)
        );
        horizon.pulsed(mark(5), pulse(2, Stays::Yes), 1, 100);
        horizon.excuse_silence(200);
        assert_eq!(horizon.forget_silent(210), 0);
    }
}
