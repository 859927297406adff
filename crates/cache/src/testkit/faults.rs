//! What can be wrong with one node's way to the servers, and the dice that decide when it strikes.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{flight::lock, tier::TierError};

/// What is wrong with one node's way. Set at any time, from any thread.
#[derive(Debug)]
pub struct Faults {
    down: AtomicBool,
    tier_down: AtomicBool,
    part_down: AtomicU64,
    part_refusing: AtomicU64,
    voids_max: AtomicU64,
    lost_answers: AtomicU64,
    lost_messages: AtomicU64,
    swapped_messages: AtomicU64,
    delay_us_max: AtomicU64,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            down: AtomicBool::new(false),
            tier_down: AtomicBool::new(false),
            part_down: AtomicU64::new(0),
            part_refusing: AtomicU64::new(0),
            voids_max: AtomicU64::new(u64::MAX),
            lost_answers: AtomicU64::new(0),
            lost_messages: AtomicU64::new(0),
            swapped_messages: AtomicU64::new(0),
            delay_us_max: AtomicU64::new(3_000),
        }
    }

    /// Nothing gets through while this is set.
    pub fn set_down(&self, is_down: bool) {
        self.down.store(is_down, SeqCst);
    }

    /// No call gets through to the tier while this is set; the line is not affected.
    pub fn set_tier_down(&self, is_down: bool) {
        self.tier_down.store(is_down, SeqCst);
    }

    /// Out of 100 keys, so many are on a server that is away: the tier says so of them, and does the rest. Always the same
    /// ones.
    pub fn set_part_down(&self, percent: u64) {
        self.part_down.store(percent, SeqCst);
    }

    /// Out of 100 keys, so many are on a server that refuses everything, as one without memory left does. Always the same
    /// ones, the same as those of [`set_part_down`](Self::set_part_down) first.
    pub fn set_part_refusing(&self, percent: u64) {
        self.part_refusing.store(percent, SeqCst);
    }

    /// A call that voids more keys than this takes longer than anybody waits: as where a tier has to read what it voids, and
    /// each is large.
    pub fn set_voids_max(&self, keys: u64) {
        self.voids_max.store(keys, SeqCst);
    }

    /// Out of 100 calls, so many are carried out and their answer is lost.
    pub fn lose_answers(&self, percent: u64) {
        self.lost_answers.store(percent, SeqCst);
    }

    /// Out of 100 announcements and pulses, so many vanish without a trace.
    pub fn lose_messages(&self, percent: u64) {
        self.lost_messages.store(percent, SeqCst);
    }

    /// Out of 100 announcements and pulses, so many are overtaken by the next.
    pub fn swap_messages(&self, percent: u64) {
        self.swapped_messages.store(percent, SeqCst);
    }

    /// Each way takes up to this long. 3 ms unless set.
    pub fn delay(&self, longest: Duration) {
        self.delay_us_max.store(crate::clock::micros(longest), SeqCst);
    }

    /// Ends all of them but the delay.
    pub fn mend(&self) {
        self.set_down(false);
        self.set_tier_down(false);
        self.set_part_down(0);
        self.set_part_refusing(0);
        self.set_voids_max(u64::MAX);
        self.lose_answers(0);
        self.lose_messages(0);
        self.swap_messages(0);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(SeqCst)
    }

    pub(crate) fn is_tier_down(&self) -> bool {
        self.is_down() || self.tier_down.load(SeqCst)
    }

    /// What the server of this key says, if it is away or refuses.
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<TierError> {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        let place = hasher.finish() % 100;
        let is_refused = place < self.part_refusing.load(SeqCst);
        let is_away = place < self.part_down.load(SeqCst);
        is_away.then_some(TierError::Down).or_else(|| is_refused.then_some(TierError::Failed))
    }

    /// Comes back only from a void of no more keys than can be done.
    pub(crate) async fn carry_voids(&self, keys: usize) {
        if keys as u64 > self.voids_max.load(SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn loses_message(&self, dice: &Dice) -> bool {
        self.is_down() || dice.roll(100) < self.lost_messages.load(SeqCst)
    }

    pub(crate) fn swaps_message(&self, dice: &Dice) -> bool {
        dice.roll(100) < self.swapped_messages.load(SeqCst)
    }

    pub(crate) async fn travel(&self, dice: &Dice) {
        let longest = self.delay_us_max.load(SeqCst);
        if longest > 0 {
            tokio::time::sleep(Duration::from_micros(dice.roll(longest))).await;
        }
    }

    /// As `call`, to the tier.
    pub(crate) async fn call_tier<T>(&self, dice: &Dice, act: impl FnOnce() -> T) -> Result<T, TierError> {
        if self.is_tier_down() { Err(TierError::Down) } else { self.call(dice, act).await }
    }

    /// Travels there, acts, and travels back, with whatever goes wrong on the way.
    pub(crate) async fn call<T>(&self, dice: &Dice, act: impl FnOnce() -> T) -> Result<T, TierError> {
        self.travel(dice).await;
        if self.is_down() {
            return Err(TierError::Failed);
        }
        let answer = act();
        self.travel(dice).await;
        let is_lost = dice.roll(100) < self.lost_answers.load(SeqCst);
        if is_lost { Err(TierError::TimedOut) } else { Ok(answer) }
    }
}

/// Seeded chance.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    pub(crate) fn roll(&self, sides: u64) -> u64 {
        lock(&self.0).random_range(0..sides)
    }

    pub(crate) fn number(&self) -> u64 {
        lock(&self.0).random()
    }
}
