//! A line in memory: the order of announcements, their sweeps and a log of them, and what each node hears of it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::faults::{Dice, Faults};
use crate::{
    Invalidation,
    backplane::{Announcement, Heard, Interruption, Line, Listener, Mark, Snapshot, Sweep},
    flight::lock,
    tier::TierFuture,
};

/// Announcements that can be asked for again.
const LOG_MAX: usize = 64;

/// The order of announcements of all caches.
#[derive(Debug, Clone)]
pub struct Wire {
    state: Arc<Mutex<Orders>>,
    dice: Arc<Dice>,
    witness: Arc<Mutex<Option<Witness>>>,
}

struct Witness(Hook);

impl fmt::Debug for Witness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Witness")
    }
}

#[derive(Debug, Default)]
struct Orders {
    by_cache: HashMap<Arc<str>, Order>,
    ears: Vec<Weak<Ear>>,
    incarnation: u64,
}

#[derive(Debug, Clone, Default)]
struct Order {
    sequence: u64,
    sweeps: Vec<Sweep>,
    log: Vec<(u64, Bytes)>,
}

/// An announcement as a node heard it.
#[derive(Debug, Clone)]
pub struct Overheard {
    /// Of this cache.
    pub cache: Arc<str>,
    /// Its number.
    pub mark: Mark,
    /// What it says.
    pub change: Invalidation,
}

/// A cache and who listens for it.
type Listening = (Arc<str>, Weak<dyn Listener>);

type Hook = Box<dyn Fn(&Overheard) + Send + Sync>;

/// What one node hears.
pub(crate) struct Ear {
    faults: Arc<Faults>,
    listeners: Mutex<Vec<Listening>>,
    hook: Mutex<Option<Arc<Hook>>>,
    is_deaf: AtomicBool,
    /// Rises with each loss of the subscription; what was queued before is lost with it.
    subscription: AtomicU64,
    inbox: mpsc::UnboundedSender<(u64, Item)>,
    /// Until the task that brings them is started.
    arrivals: Mutex<Option<Arrivals>>,
}

type Arrivals = mpsc::UnboundedReceiver<(u64, Item)>;

impl fmt::Debug for Ear {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ear").field("is_deaf", &self.is_deaf).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Item {
    Said(Arc<str>, Heard),
    Interrupted(Interruption),
}

impl Wire {
    /// A line on which nothing was said.
    pub fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let orders = Orders { incarnation: dice.number() | 1, ..Orders::default() };
        Self { state: Arc::new(Mutex::new(orders)), dice: Arc::new(dice), witness: Arc::default() }
    }

    /// Loses the order, the sweeps and the log, and every subscription; those come back by themselves.
    pub fn restart(&self) {
        let mut state = lock(&self.state);
        state.by_cache.clear();
        state.incarnation = self.dice.number() | 1;
        let ears: Vec<_> = state.ears.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for ear in ears {
            let was_deaf = ear.is_deaf.load(SeqCst);
            ear.deafen();
            if !was_deaf {
                ear.mend();
            }
        }
    }

    /// Has the test told of each announcement in the moment in which it is made.
    pub fn witness(&self, hook: impl Fn(&Overheard) + Send + Sync + 'static) {
        *lock(&self.witness) = Some(Witness(Box::new(hook)));
    }

    /// Forgets the log: what a node has missed is no longer to be had.
    pub fn forget_log(&self) {
        lock(&self.state).by_cache.values_mut().for_each(|order| order.log.clear());
    }

    pub(crate) fn ear(&self, faults: &Arc<Faults>) -> Ear {
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let ear = Ear {
            faults: Arc::clone(faults),
            listeners: Mutex::default(),
            hook: Mutex::default(),
            is_deaf: AtomicBool::new(false),
            subscription: AtomicU64::new(0),
            inbox,
            arrivals: Mutex::default(),
        };
        *lock(&ear.arrivals) = Some(arrivals);
        ear
    }

    pub(crate) fn share(&self, cache: &str, faults: &Arc<Faults>, ear: &Arc<Ear>) -> Share {
        let mut state = lock(&self.state);
        let weak = Arc::downgrade(ear);
        if !state.ears.iter().any(|known| Weak::ptr_eq(known, &weak)) {
            state.ears.push(weak.clone());
            if let Some(arrivals) = lock(&ear.arrivals).take() {
                drop(tokio::spawn(bring(weak, arrivals, Arc::clone(&self.dice))));
            }
        }
        Share {
            wire: self.clone(),
            cache: Arc::from(cache),
            faults: Arc::clone(faults),
            ear: Arc::clone(ear),
        }
    }

    fn mark(&self, cache: &Arc<str>) -> Mark {
        let state = lock(&self.state);
        let sequence = state.by_cache.get(cache).map_or(0, |order| order.sequence);
        Mark { incarnation: state.incarnation, sequence }
    }

    fn say(&self, cache: &Arc<str>, heard: &Heard) {
        let ears: Vec<_> = lock(&self.state).ears.iter().filter_map(Weak::upgrade).collect();
        for ear in ears {
            if !ear.is_deaf.load(SeqCst) && !ear.faults.loses_message(&self.dice) {
                let item = Item::Said(Arc::clone(cache), heard.clone());
                let _closed = ear.inbox.send((ear.subscription.load(SeqCst), item));
            }
        }
    }
}

impl Ear {
    pub(crate) fn deafen(&self) {
        self.is_deaf.store(true, SeqCst);
        let subscription = self.subscription.fetch_add(1, SeqCst) + 1;
        let _closed = self.inbox.send((subscription, Item::Interrupted(Interruption::Lost)));
    }

    /// What was on its way is lost, and it is told so; it goes on hearing.
    pub(crate) fn overflow(&self) {
        let subscription = self.subscription.fetch_add(1, SeqCst) + 1;
        let _closed = self.inbox.send((subscription, Item::Interrupted(Interruption::Overflowed)));
    }

    pub(crate) fn mend(&self) {
        if self.is_deaf.swap(false, SeqCst) {
            let subscribed = Item::Interrupted(Interruption::Subscribed);
            let _closed = self.inbox.send((self.subscription.load(SeqCst), subscribed));
        }
    }

    pub(crate) fn overhear(&self, hook: Hook) {
        *lock(&self.hook) = Some(Arc::new(hook));
    }

    fn listeners(&self, cache: Option<&Arc<str>>) -> Vec<Arc<dyn Listener>> {
        let listeners = lock(&self.listeners);
        let meant = listeners.iter().filter(|(name, _)| cache.is_none_or(|cache| cache == name));
        meant.filter_map(|(_, listener)| listener.upgrade()).collect()
    }

    fn hear(&self, item: &Item) {
        match item {
            Item::Interrupted(cause) => {
                self.listeners(None).iter().for_each(|listener| listener.interrupted(*cause));
            }
            Item::Said(cache, heard) => {
                self.listeners(Some(cache)).iter().for_each(|listener| listener.heard(heard.clone()));
                let hook = lock(&self.hook).clone();
                let Heard::Announcement { mark, body } = heard else { return };
                if let (Some(hook), Ok(change)) = (hook, Invalidation::decode(body)) {
                    hook(&Overheard { cache: Arc::clone(cache), mark: *mark, change });
                }
            }
        }
    }
}

/// Brings one node what is said, in order and after a while, until the node is gone.
async fn bring(ear: Weak<Ear>, mut arrivals: Arrivals, dice: Arc<Dice>) {
    let mut overtaken: Option<Item> = None;
    while let Some((subscription, item)) = arrivals.recv().await {
        let Some(ear) = ear.upgrade() else { return };
        ear.faults.travel(&dice).await;
        if subscription != ear.subscription.load(SeqCst) {
            overtaken = None;
            continue;
        }
        if overtaken.is_none() && matches!(item, Item::Said(..)) && ear.faults.swaps_message(&dice) {
            overtaken = Some(item);
            continue;
        }
        ear.hear(&item);
        if let Some(item) = overtaken.take() {
            ear.hear(&item);
        }
    }
}

/// One cache's share, by one node's way.
#[derive(Debug)]
pub(crate) struct Share {
    wire: Wire,
    cache: Arc<str>,
    faults: Arc<Faults>,
    ear: Arc<Ear>,
}

impl Share {
    fn attach_now(&self) -> Snapshot {
        let mark = self.wire.mark(&self.cache);
        let state = lock(&self.wire.state);
        let sweeps = state.by_cache.get(&self.cache).map_or_else(Vec::new, |order| order.sweeps.clone());
        Snapshot { mark, sweeps, forgotten_sequence: 0 }
    }

    fn announce_now(&self, announcement: &Announcement) -> Mark {
        let mut state = lock(&self.wire.state);
        let incarnation = state.incarnation;
        let order = state.by_cache.entry(Arc::clone(&self.cache)).or_default();
        order.sequence += 1;
        let sequence = order.sequence;
        for (swath, how) in &announcement.sweeps {
            order.sweeps.retain(|sweep| sweep.swath != *swath || sweep.how != *how);
            order.sweeps.push(Sweep { swath: swath.clone(), how: *how, sequence });
        }
        order.log.push((sequence, announcement.body.clone()));
        if order.log.len() > LOG_MAX {
            order.log.remove(0);
        }
        drop(state);
        let mark = Mark { incarnation, sequence };
        if let (Some(witness), Ok(change)) =
            (&*lock(&self.wire.witness), Invalidation::decode(&announcement.body))
        {
            witness.0(&Overheard { cache: Arc::clone(&self.cache), mark, change });
        }
        self.wire.say(&self.cache, &Heard::Announcement { mark, body: announcement.body.clone() });
        mark
    }

    fn replay_now(&self, from: Mark) -> Option<Vec<(u64, Bytes)>> {
        let state = lock(&self.wire.state);
        if state.incarnation != from.incarnation {
            return None;
        }
        let Some(order) = state.by_cache.get(&self.cache) else { return Some(vec![]) };
        let missing: Vec<_> =
            order.log.iter().filter(|(sequence, _)| *sequence > from.sequence).cloned().collect();
        let is_whole = missing.len() as u64 == order.sequence.saturating_sub(from.sequence);
        is_whole.then_some(missing)
    }
}

impl Line for Share {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_up(&self) -> bool {
        !self.faults.is_down()
    }

    fn attach(&self) -> TierFuture<'_, Snapshot> {
        Box::pin(self.faults.call(&self.wire.dice, || self.attach_now()))
    }

    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark> {
        Box::pin(self.faults.call(&self.wire.dice, move || self.announce_now(announcement)))
    }

    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>> {
        Box::pin(self.faults.call(&self.wire.dice, move || self.replay_now(mark)))
    }

    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark> {
        Box::pin(self.faults.call(&self.wire.dice, move || {
            let mark = self.wire.mark(&self.cache);
            self.wire.say(&self.cache, &Heard::Pulse { mark, body: body.clone() });
            mark
        }))
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        lock(&self.ear.listeners).push((Arc::clone(&self.cache), listener));
        let subscribed = Item::Interrupted(Interruption::Subscribed);
        let _closed = self.ear.inbox.send((self.ear.subscription.load(SeqCst), subscribed));
    }
}
