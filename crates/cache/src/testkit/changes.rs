//! The changes that the users of a simulation make: writes of one key, commits that announce themselves, and sweeps. Each says what
//! its own node must not see any more, and has the checker learn what the others must not.
//! Refuses to judge what is read. Called by the simulator's users.

use std::sync::Arc;

use rand::{RngExt, rngs::StdRng};
use tokio::task::JoinHandle;

use super::{
    demands::{Bar, covered, order},
    reads::Verbs,
    simulator::World,
    source::{Left, Seen, tags},
};
use crate::{
    CacheKey, Confirmation, Invalidation, Reach, Version, backplane::Swath, flight::lock, patterns,
    tier::Void,
};

/// By which ways the users of a simulation change values, besides those that name the version of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// By no others.
    Numbered,
    /// They void what a predicate means.
    Predicates,
    /// Two nodes write values behind, each of them its own keys. Sweeps have no version, and no node has more changes to tell than
    /// there is room for: where a change is known that covers a value that waits and is newer, but is no write of its key, the
    /// writing node loads what the source has from before that value, and has it until the value is written.
    Behind,
}

impl World {
    /// Commits, and voids or sets, and says what this node must not see any more.
    pub(super) fn write(&self, node: usize, key: u64, dice: &mut StdRng) -> Confirmation {
        let node = self.on(node);
        let is_set = dice.random_range(0..10) < 3;
        let version = self.source.commit(key, if is_set { Left::Something } else { self.left(dice) });
        let tick = if is_set { 0 } else { self.source.tick() };
        // A value set before the write of a later version is not older than what that one voided.
        let bar = Bar { version, tick };
        lock(&self.changes).by_version.insert(version, (key, bar));
        let (confirmation, how) = match (is_set, dice.random_range(0..4)) {
            (true, _) => {
                let seen = Seen { version, read_tick: self.source.tick() };
                let [one, other] = tags(key);
                let tags = [one.as_str(), other.as_str()];
                // Also on a node that writes behind: this is written already.
                let through = node.cache.under(&Arc::new(self.plan.policy.clone()));
                let set = through.set_tagged(key, seen, Version(version), &tags);
                // One that is refused has voided the key all the same.
                (set.unwrap_or_else(|_refused| Confirmation::of_nobody()), Void::Remove)
            }
            (false, 0) => (node.cache.expire_many([&key], Version(version)), Void::Expire),
            (false, _) => (node.cache.invalidate_many([&key], Version(version)), Void::Remove),
        };
        order(&node.told, key, bar, how);
        confirmation
    }

    /// Draws nothing where only one verb is asked for, as reads do.
    pub(super) fn left(&self, dice: &mut StdRng) -> Left {
        let is_deleted = self.plan.verbs == Verbs::All && dice.random_range(0..4) == 0;
        if is_deleted { Left::Nothing } else { Left::Something }
    }

    /// Commits, and announces in the same step, as a transaction does that has its outbox in the store: nobody has
    /// voided the tier. Without a line there is nobody to announce it to.
    pub(super) async fn commit_outside(&self, key: u64, left: Left) {
        let version = self.source.commit(key, left);
        if !self.plan.has_line {
            return;
        }
        let bar = Bar { version, tick: self.source.tick() };
        lock(&self.changes).by_version.insert(version, (key, bar));
        let change = Invalidation::at(Version(version)).remove(&key);
        let announced = self.outside.announce(&change.announcement()).await;
        assert!(announced.is_ok(), "nothing ever goes wrong with this way");
    }

    pub(super) fn sweep(&self, node: usize, dice: &mut StdRng) -> Confirmation {
        let node = self.on(node);
        let key = dice.random_range(0..self.plan.keys);
        let version = match self.plan.ways {
            Ways::Numbered | Ways::Predicates => Version(self.source.commit(u64::MAX, Left::Something)),
            Ways::Behind => Version::NONE,
        };
        let bar = Bar { version: 0, tick: self.source.tick() };
        if version != Version::NONE {
            lock(&self.changes).by_version.insert(version.0, (u64::MAX, bar));
        }
        let kinds = if self.plan.verbs == Verbs::All { 6 } else { 5 };
        let swath = match dice.random_range(0..kinds) {
            0 => Swath::All,
            1 => Swath::Prefix(key.encode()),
            2 => Swath::Prefix(key.encode().slice(..7)),
            3 => Swath::Tag(Arc::from("even")),
            5 => patterns::swath_of(&[b"*", &key.encode()[4..]].concat()),
            _ => Swath::Tag(Arc::from(format!("key:{key}"))),
        };
        let covering = match &swath {
            Swath::All => node.cache.prefix([]),
            Swath::Prefix(prefix) => node.cache.prefix(prefix),
            // A pattern is one of a reserved name.
            Swath::Tag(tag) => match patterns::glob_of(&swath) {
                Some(glob) => node.cache.pattern(glob.pattern()),
                None => node.cache.tag(tag),
            },
        };
        let covering = covering.at(version);
        let (confirmation, how) = match dice.random_range(0..3) {
            0 => (covering.expire(), Void::Expire),
            _ => (covering.remove(), Void::Remove),
        };
        let keys = covered(&swath, self.plan.keys);
        keys.iter().for_each(|key| order(&node.told, *key, bar, how));
        if version == Version::NONE {
            let demands = keys.into_iter().map(|key| (key, bar)).collect();
            drop(self.watch(node.origin, node.cache.confirm(), how, demands));
        }
        confirmation
    }

    /// What users do besides, as the plan has it; they may wait until the others were told.
    pub(super) async fn change_besides(&self, place: usize, dice: &mut StdRng) {
        let is_awaited = dice.random_range(0..2) == 0;
        let watching = match self.plan.ways {
            Ways::Numbered => None,
            Ways::Predicates => Some(self.void_by_predicate(place, dice)),
            Ways::Behind if dice.random_range(0..4) == 0 => Some(self.watch_written(place)),
            Ways::Behind => {
                if let Some(confirmation) = self.set_behind(place, dice)
                    && is_awaited
                {
                    let _reach = confirmation.await;
                }
                None
            }
        };
        if let Some(watching) = watching
            && is_awaited
        {
            let _ended = watching.await;
        }
    }

    /// Has the checker learn when the others have been told of a change that its announcement does not name. Without a line
    /// they are not.
    pub(super) fn watch(
        &self,
        origin: u64,
        confirmation: Confirmation,
        how: Void,
        demands: Vec<(u64, Bar)>,
    ) -> JoinHandle<()> {
        let world = self.clone();
        tokio::spawn(async move {
            if confirmation.await == Reach::Fleet && world.plan.has_line {
                lock(&world.report).confirmed += demands.len() as u64;
                lock(&world.changes).confirm(origin, how, &demands);
            }
        })
    }
}
