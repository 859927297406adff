//! Values that the nodes of a simulation write behind: who writes which key, what waits, what its writer makes of it, and what of all
//! that a promise says. Every key has one writing node at a time: more is not promised to agree before all is written. Held to are:
//!
//! - A value is taken, unless too many wait; then it is refused before anything is done.
//! - The writer is given the newest value of a key, and none after a newer one.
//! - What waits is counted; a node that is closed writes all of it, and one that is dropped says how much is lost.
//!
//! What readers must see of it is judged in `reads`, by the books that are kept here. Called by the simulator's users.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::{RngExt, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Report,
    demands::{Bar, order},
    faults::Dice,
    simulator::{Node, World},
    source::{Seen, Source, tags},
};
use crate::{
    CacheBuilder, Confirmation, Observer, Policy, SetRefused, Version, Write, WriteFailed, Writer,
    WriterOptions, flight::lock, tier::Void,
};

/// Places whose nodes write behind; the keys are divided among them.
const WRITING_PLACES: u64 = 2;

/// What one call of the writer may take.
const CALL_MAX: Duration = Duration::from_millis(20);

/// Longer than a writer fails that fails now and then.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// What one node was given to write, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Books {
    entries: Mutex<Entries>,
    /// Of how many values it was told that they are lost.
    told_lost: AtomicUsize,
    /// The writer does not fail any more.
    is_mended: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    /// By key and version.
    given: HashMap<(u64, u64), Given>,
    /// The newest version of each key that waits.
    waiting: HashMap<u64, u64>,
    /// The version of each key that the writer was given last.
    asked: HashMap<u64, u64>,
    /// Keys and versions that were written since somebody asked whether the others were told.
    written: Vec<(u64, u64)>,
    /// The first thing that the writer should not have been asked. It is told later: a panic here would only be asked again.
    broken: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Given {
    read_tick: u64,
    own: Own,
}

/// A value that the reading node has set itself: when it left the queue, if it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    gone: Option<Gone>,
}

#[derive(Debug, Clone, Copy)]
struct Gone {
    tick: u64,
    at: Instant,
}

impl Own {
    /// The value as it was read last: as long as it waits, it may be read in the queue at any time, whatever was voided before.
    pub(super) fn as_read(self, seen: Seen) -> Seen {
        Seen { read_tick: self.gone.map_or(u64::MAX, |gone| gone.tick), ..seen }
    }

    /// True if it waited less than `bound` before that instant.
    pub(super) fn waited_within(self, bound: Duration, at: Instant) -> bool {
        self.gone.is_none_or(|gone| gone.at + bound >= at)
    }
}

impl Entries {
    fn leave(&mut self, key: u64, version: u64, gone: Gone) {
        if let Some(given) = self.given.get_mut(&(key, version)) {
            given.own = Own { gone: Some(gone) };
        }
    }
}

impl Books {
    /// What is known of a value, if this node has set it.
    pub(super) fn own(&self, key: u64, seen: Seen) -> Option<Own> {
        let given = lock(&self.entries).given.get(&(key, seen.version)).copied();
        given.filter(|given| given.read_tick == seen.read_tick).map(|given| given.own)
    }

    /// True if this node has set a value of this version.
    pub(super) fn has_set(&self, key: u64, version: u64) -> bool {
        lock(&self.entries).given.contains_key(&(key, version))
    }

    /// Keys and versions that wait.
    pub(super) fn waiting(&self) -> Vec<(u64, u64)> {
        lock(&self.entries).waiting.iter().map(|(key, version)| (*key, *version)).collect()
    }

    pub(super) fn mend(&self) {
        self.is_mended.store(true, SeqCst);
    }

    /// What the writer was asked and should not have been.
    pub(super) fn broken(&self) -> Option<String> {
        lock(&self.entries).broken.clone()
    }

    fn has_room(&self, key: u64, waiting_max: usize) -> bool {
        let entries = lock(&self.entries);
        entries.waiting.contains_key(&key) || entries.waiting.len() < waiting_max
    }

    /// The cache has taken the value: it waits in the place of the one before it.
    fn take(&self, key: u64, seen: Seen, tick: u64) {
        let gone = Gone { tick, at: Instant::now() };
        let mut entries = lock(&self.entries);
        let given = Given { read_tick: seen.read_tick, own: Own { gone: None } };
        entries.given.insert((key, seen.version), given);
        if let Some(replaced) = entries.waiting.insert(key, seen.version) {
            entries.leave(key, replaced, gone);
        }
    }

    /// The writer is asked to write these.
    fn ask(&self, values: &[(u64, Seen, Version)]) {
        let mut entries = lock(&self.entries);
        let keys: HashSet<u64> = values.iter().map(|(key, ..)| *key).collect();
        let mut is_right = keys.len() == values.len();
        for (key, seen, Version(version)) in values {
            let is_newest = entries.waiting.get(key) == Some(version) && seen.version == *version;
            let earlier = entries.asked.insert(*key, *version);
            is_right &= is_newest && earlier.is_none_or(|earlier| earlier <= *version);
        }
        if !is_right {
            let waiting = entries.waiting.clone();
            entries
                .broken
                .get_or_insert_with(|| format!("the writer was given {values:?} while {waiting:?} waited"));
        }
    }

    /// The writer says that it has written these: what is still the newest of its key waits no longer. Gives how many those are.
    fn wrote(&self, values: &[(u64, Seen, Version)], tick: u64) -> u64 {
        let gone = Gone { tick, at: Instant::now() };
        let (mut entries, mut written) = (lock(&self.entries), 0);
        for (key, _, Version(version)) in values {
            if entries.waiting.get(key) == Some(version) {
                entries.waiting.remove(key);
                entries.leave(*key, *version, gone);
                entries.written.push((*key, *version));
                written += 1;
            }
        }
        written
    }

    fn take_written(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut lock(&self.entries).written)
    }
}

impl Observer for Books {
    fn writes_lost(&self, _cache: &str, values: usize) {
        self.told_lost.fetch_add(values, SeqCst);
    }
}

/// Writes to the source: late, twice, or not at all, as the dice have it.
struct Pen {
    source: Arc<Source>,
    books: Arc<Books>,
    report: Arc<Mutex<Report>>,
    dice: Dice,
}

/// What goes wrong with one call of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Nothing,
    Fails,
    /// It takes longer than it may, and nothing is written.
    Hangs,
    /// It is written, and nobody learns so.
    AnswerLost,
    /// The same, because it takes longer than it may.
    AnswerLate,
}

impl Pen {
    fn draw(&self) -> Mishap {
        if self.books.is_mended.load(SeqCst) {
            return Mishap::Nothing;
        }
        match self.dice.roll(16) {
            0 => Mishap::Fails,
            1 => Mishap::Hangs,
            2 => Mishap::AnswerLost,
            3 => Mishap::AnswerLate,
            _ => Mishap::Nothing,
        }
    }

    async fn write_all(&self, values: &[(u64, Seen, Version)]) -> Result<(), WriteFailed> {
        self.books.ask(values);
        let mishap = self.draw();
        let pause = |long: Mishap| {
            if mishap == long { 2 * CALL_MAX } else { Duration::from_micros(self.dice.roll(5_000)) }
        };
        sleep(pause(Mishap::Hangs)).await;
        if mishap == Mishap::Fails {
            return Err(WriteFailed);
        }
        for (key, _, Version(version)) in values {
            self.source.commit_late(*key, *version);
        }
        sleep(pause(Mishap::AnswerLate)).await;
        if mishap == Mishap::AnswerLost {
            return Err(WriteFailed);
        }
        // Nothing is awaited from here on: the cache takes them off its queue in the same step.
        let written = self.books.wrote(values, self.source.tick());
        lock(&self.report).written += written;
        Ok(())
    }
}

impl Writer<u64, Seen> for Pen {
    fn write<'a>(&'a self, values: &'a [(u64, Seen, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>> {
        Box::pin(self.write_all(values))
    }
}

impl World {
    /// Has a node that is being built write behind.
    pub(super) fn writing_behind(
        &self,
        building: CacheBuilder<u64, Seen>,
        books: &Arc<Books>,
        seed: u64,
    ) -> CacheBuilder<u64, Seen> {
        let pen = Pen {
            source: Arc::clone(&self.source),
            books: Arc::clone(books),
            report: Arc::clone(&self.report),
            dice: Dice::new(seed),
        };
        let options = WriterOptions {
            timeout: CALL_MAX,
            pending_max: self.waiting_max(),
            flush: FLUSH_MAX,
            ..WriterOptions::default()
        };
        building
            .policy(Policy { write: Write::Behind, ..self.plan.policy.clone() })
            // A node with more to tell than this would void everything because of the newest of it: see `Ways::Behind`.
            .pending_keys_max(usize::try_from(self.plan.keys).unwrap_or(usize::MAX))
            .observer(Arc::<Books>::clone(books))
            .writer_with(Arc::new(pen), options)
    }

    fn waiting_max(&self) -> usize {
        if self.plan.seed.is_multiple_of(2) { 1 } else { 2 }
    }

    /// Sets a value that is to be written behind, of a key that nobody else writes so. None if it is not taken, or if this node has no
    /// such key.
    pub(super) fn set_behind(&self, place: usize, dice: &mut StdRng) -> Option<Confirmation> {
        let is_own = |key: &u64| key % WRITING_PLACES == place as u64;
        let keys: Vec<u64> = (0..self.plan.keys).filter(is_own).collect();
        // Whoever was there before may have yet to write what it was given.
        if keys.is_empty() || !self.is_alone(place) {
            return None;
        }
        let (node, key) = (self.on(place), keys[dice.random_range(0..keys.len())]);
        let version = self.source.number();
        // Of the others, until it is written: that what they read was read after this.
        let of_others = Bar { version: self.source.last_write(key, u64::MAX).0, tick: self.source.tick() };
        lock(&self.changes).by_version.insert(version, (key, of_others));
        let seen = Seen { version, read_tick: self.source.tick() };
        let has_room = node.books.has_room(key, self.waiting_max());
        let known = node.cache.lookup(&key);
        let [one, other] = tags(key);
        let set = node.cache.set_tagged(key, seen, Version(version), &[one.as_str(), other.as_str()]);
        match &set {
            Ok(_) => {
                node.books.take(key, seen, self.source.tick());
                order(&node.told, key, Bar { version, tick: 0 }, Void::Remove);
                lock(&self.report).taken += 1;
            }
            Err(refused) => {
                let is_as_it_was = *refused == SetRefused::Full && node.cache.lookup(&key) == known;
                assert!(is_as_it_was, "seed {}: version {version} of key {key}: {refused}", self.plan.seed);
                lock(&self.report).full += 1;
            }
        }
        assert_eq!(set.is_ok(), has_room, "seed {}: room for version {version} of key {key}", self.plan.seed);
        self.check_books(&node);
        set.ok()
    }

    /// Has the checker learn when the others have been told of what was written: from then on they must see it.
    pub(super) fn watch_written(&self, place: usize) -> JoinHandle<()> {
        let node = self.on(place);
        self.check_books(&node);
        let demand = |(key, version)| (key, Bar { version, tick: 0 });
        let demands = node.books.take_written().into_iter().map(demand).collect();
        self.watch(node.origin, node.cache.confirm(), Void::Remove, demands)
    }

    /// What waits is what was taken and has not been written, and the writer was asked for nothing else.
    pub(super) fn check_books(&self, node: &Node) {
        let seed = self.plan.seed;
        let (pending, waiting) = (node.cache.stats().pending_writes, node.books.waiting());
        assert_eq!(pending, waiting.len() as u64, "seed {seed}: {waiting:?} wait");
        assert_eq!(node.books.broken(), None, "seed {seed}");
    }

    /// Of a node that is gone. One that was closed has written everything; of another's values it is told that they are lost.
    pub(super) fn close_books(&self, books: &Books, was_closed: bool) {
        let (seed, left) = (self.plan.seed, books.waiting());
        assert!(!was_closed || left.is_empty(), "seed {seed}: {left:?} were not written on close");
        assert_eq!(books.told_lost.load(SeqCst), left.len(), "seed {seed}: {left:?} are lost");
        assert_eq!(books.broken(), None, "seed {seed}");
        lock(&self.report).lost += left.len() as u64;
        let mut changes = lock(&self.changes);
        for (key, version) in left {
            let lost = changes.lost.entry(key).or_default();
            *lost = (*lost).max(version);
        }
    }
}
