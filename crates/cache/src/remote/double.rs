//! A remote tier in memory, for the model tests: the same states and moves as the scripts of Redis,
//! on the test's clock, with faults that the test turns on: down, deaf, answers lost, messages lost.
//! Every wait draws its length from a seed, so that a run can be repeated.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Answer, Ask, Dispatch, OnValue, Remote, RemoteError, Tier, Token, WriteBack, Written,
    backplane::Listener, courier::Timing, message::Message,
};
use crate::{FLOOR_LIFE, GapCause, Version, flight::lock};

/// The server that all nodes of a test share.
#[derive(Debug)]
pub(crate) struct Server {
    entries: Mutex<HashMap<Bytes, Entry>>,
    floor: Mutex<(Version, Option<Instant>)>,
    /// The highest floor of any tombstone that may be about.
    highest: Mutex<(Version, Option<Instant>)>,
    nodes: Mutex<Vec<Arc<Node>>>,
    dice: Mutex<StdRng>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    floor: Version,
    floor_until: Option<Instant>,
    state: State,
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Tombstone,
    Lease(Token, Instant),
    Value(Bytes, Instant),
}

/// One node's way to the server, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) down: AtomicBool,
    /// Out of 100: commands that are carried out but whose answer is lost.
    pub(crate) lost_answers: AtomicU64,
    /// Out of 100: messages that vanish without a trace.
    pub(crate) lost_messages: AtomicU64,
    deaf: AtomicBool,
    inbox: mpsc::UnboundedSender<(u64, Item)>,
    /// Rises with each loss of the subscription; what was queued before is lost with it.
    subscription: AtomicU64,
}

#[derive(Debug, Clone)]
enum Item {
    Said(Bytes),
    Resubscribed,
}

/// A tier that leads from one node to the server.
#[derive(Debug, Clone)]
pub(crate) struct Double {
    pub(crate) server: Arc<Server>,
    pub(crate) node: Arc<Node>,
    ears: Arc<Ears>,
}

type Heard = Box<dyn Fn(&Message) + Send + Sync>;

/// Who listens on one node, and the test's own ear, told of each message after the listeners.
#[derive(Default)]
struct Ears {
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
    test: Mutex<Option<Heard>>,
}

impl std::fmt::Debug for Ears {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Ears")
    }
}

impl Server {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            floor: Mutex::default(),
            highest: Mutex::default(),
            nodes: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
        })
    }

    /// A new node, with a task that brings it its messages.
    pub(crate) fn node(self: &Arc<Self>) -> Double {
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let node = Arc::new(Node {
            down: AtomicBool::new(false),
            lost_answers: AtomicU64::new(0),
            lost_messages: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            inbox,
            subscription: AtomicU64::new(0),
        });
        lock(&self.nodes).push(Arc::clone(&node));
        let double = Double { server: Arc::clone(self), node, ears: Arc::default() };
        tokio::spawn(double.clone().bring(arrivals));
        double
    }

    /// Loses everything, as a restart without persistence does.
    pub(crate) fn restart(&self) {
        lock(&self.entries).clear();
        *lock(&self.floor) = (Version::LATEST, Some(Instant::now() + FLOOR_LIFE));
    }

    fn roll(&self, sides: u64) -> u64 {
        lock(&self.dice).random_range(0..sides)
    }

    async fn travel(&self) {
        let pause_us = self.roll(3_000);
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
    }

    fn floor(&self) -> Version {
        live(*lock(&self.floor))
    }

    fn publish(&self, message: &Bytes) {
        for node in &*lock(&self.nodes) {
            let vanishes = self.roll(100) < node.lost_messages.load(SeqCst);
            if !node.deaf.load(SeqCst) && !vanishes {
                let _closed = node.inbox.send((node.subscription.load(SeqCst), Item::Said(message.clone())));
            }
        }
    }
}

fn live((floor, until): (Version, Option<Instant>)) -> Version {
    if until.is_some_and(|until| until > Instant::now()) { floor } else { Version::NONE }
}

impl Node {
    /// Cuts the subscription; what was on its way is lost.
    pub(crate) fn deafen(&self) {
        self.deaf.store(true, SeqCst);
        self.subscription.fetch_add(1, SeqCst);
    }

    /// Subscribes again.
    pub(crate) fn mend_hearing(&self) {
        if self.deaf.swap(false, SeqCst) {
            let _closed = self.inbox.send((self.subscription.load(SeqCst), Item::Resubscribed));
        }
    }
}

impl Entry {
    fn live_floor(&self) -> Version {
        live((self.floor, self.floor_until))
    }
}

impl Double {
    /// Has the test told of each message, once it has been applied on this node.
    pub(crate) fn overhear(&self, heard: impl Fn(&Message) + Send + Sync + 'static) {
        *lock(&self.ears.test) = Some(Box::new(heard));
    }

    async fn bring(self, mut arrivals: mpsc::UnboundedReceiver<(u64, Item)>) {
        while let Some((subscription, item)) = arrivals.recv().await {
            self.server.travel().await;
            if subscription != self.node.subscription.load(SeqCst) {
                continue;
            }
            let listeners: Vec<_> = lock(&self.ears.listeners).iter().filter_map(Weak::upgrade).collect();
            match item {
                Item::Resubscribed => {
                    listeners.iter().for_each(|listener| listener.missed(GapCause::Resubscribed));
                }
                Item::Said(bytes) => {
                    let message = Message::decode(&bytes).expect("a message that we wrote is readable");
                    listeners.iter().for_each(|listener| listener.heard(&message));
                    if let Some(heard) = &*lock(&self.ears.test) {
                        heard(&message);
                    }
                }
            }
        }
    }

    /// Travels there, acts, and travels back, with whatever goes wrong on the way.
    async fn call<T>(&self, act: impl FnOnce() -> T) -> Result<T, RemoteError> {
        self.server.travel().await;
        if self.node.down.load(SeqCst) {
            return Err(RemoteError::Failed);
        }
        let answer = act();
        self.server.travel().await;
        let is_lost = self.server.roll(100) < self.node.lost_answers.load(SeqCst);
        if is_lost { Err(RemoteError::TimedOut) } else { Ok(answer) }
    }

    fn read_now(&self, key: &Bytes, ask: Ask) -> Answer {
        let now = Instant::now();
        let mut entries = lock(&self.server.entries);
        let entry = entries.entry(key.clone()).or_default();
        let floor = entry.live_floor().max(self.server.floor());
        match &entry.state {
            State::Value(payload, until) if *until > now && ask.on_value == OnValue::Return => {
                Answer::Value { payload: payload.clone(), remaining: *until - now }
            }
            State::Lease(_, until) if *until > now => Answer::Held { floor },
            _ => {
                entry.state = State::Lease(ask.token, now + ask.lease);
                Answer::Leased { floor }
            }
        }
    }

    fn write_now(&self, key: &Bytes, token: Token, write: WriteBack) -> Written {
        let mut entries = lock(&self.server.entries);
        let Some(entry) = entries.get_mut(key) else { return Written::Refused };
        if !matches!(entry.state, State::Lease(held, _) if held == token) {
            return Written::Refused;
        }
        entry.state = match write {
            WriteBack::Value { payload, lifetime } => State::Value(payload, Instant::now() + lifetime),
            WriteBack::Release => State::Tombstone,
        };
        Written::Stored
    }

    fn dispatch_now(&self, dispatch: Dispatch<'_>, message: &Bytes) {
        let until = Some(Instant::now() + FLOOR_LIFE);
        let mut entries = lock(&self.server.entries);
        match dispatch {
            Dispatch::Tombstones(keys) => {
                for (key, version) in keys {
                    let entry = entries.entry(key.clone()).or_default();
                    let floor = entry.live_floor().max(*version);
                    *entry = Entry { floor, floor_until: until, state: State::Tombstone };
                    let mut highest = lock(&self.server.highest);
                    *highest = (live(*highest).max(floor), until);
                }
            }
            Dispatch::NewEpoch(version) => {
                entries.clear();
                let highest = live(*lock(&self.server.highest));
                let floor = self.server.floor().max(version).max(highest);
                *lock(&self.server.floor) = (floor, until);
            }
            Dispatch::Tell => {}
        }
        self.server.publish(message);
    }
}

impl Remote for Double {
    fn is_up(&self) -> bool {
        !self.node.down.load(SeqCst)
    }

    fn read<'a>(&'a self, key: &'a Bytes, ask: Ask) -> BoxFuture<'a, Result<Answer, RemoteError>> {
        Box::pin(self.call(move || self.read_now(key, ask)))
    }

    fn write<'a>(
        &'a self,
        key: &'a Bytes,
        token: Token,
        write: WriteBack,
    ) -> BoxFuture<'a, Result<Written, RemoteError>> {
        Box::pin(self.call(move || self.write_now(key, token, write)))
    }

    fn dispatch<'a>(
        &'a self,
        dispatch: Dispatch<'a>,
        message: Bytes,
    ) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(self.call(move || self.dispatch_now(dispatch, &message)))
    }
}

impl Tier for Double {
    fn remote(&self, _cache: &str) -> Arc<dyn Remote> {
        Arc::new(self.clone())
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        lock(&self.ears.listeners).push(listener);
    }

    fn timing(&self) -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            confirmation: Duration::from_millis(50),
            command: Duration::from_millis(10),
        }
    }

    /// Small, so that the model runs into it.
    fn pending_keys_max(&self) -> usize {
        3
    }
}
