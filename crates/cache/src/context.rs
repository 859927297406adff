//! What a loader is told, and what it may say besides its answer: how long the answer lives, its tags, its
//! version, its validator, or that it is not to be kept. Says it about this load only; the policy stays as it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{Version, flight::lock, tags::name_of};

/// What a loader is told, and where it says more than the value. Cheap to clone.
#[derive(Debug)]
pub struct LoadContext<V> {
    floor: Version,
    /// By the keys' places.
    stale: Arc<[Option<Stale<V>>]>,
    said: Arc<Mutex<Said>>,
    /// Which key of a batch it is about; all of them without.
    place: Option<usize>,
}

impl<V> Clone for LoadContext<V> {
    fn clone(&self) -> Self {
        let (stale, said) = (Arc::clone(&self.stale), Arc::clone(&self.said));
        Self { floor: self.floor, stale, said, place: self.place }
    }
}

/// What is there already, past its lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale<V> {
    /// The value.
    pub value: V,
    /// What its loader said to ask with (an ETag, a date), if it did.
    pub validator: Option<Arc<str>>,
    /// The version its loader gave it, if it did.
    pub version: Version,
}

/// What the loader has said: of all keys that it was asked for, and of single ones.
#[derive(Debug, Default)]
struct Said {
    of_all: Edits,
    of_each: HashMap<usize, Edits>,
}

/// What the loader has said of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edits {
    pub(crate) ttl: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) tags: Vec<Arc<str>>,
    pub(crate) version: Version,
    pub(crate) validator: Option<Arc<str>>,
    pub(crate) keep: Keep,
}

/// Whether an answer is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    #[default]
    Yes,
    No,
    /// It has more tags than an entry may have.
    Overtagged,
}

/// Tags of one entry. More of them make every check of it dearer; over it the last ones are refused with the
/// whole entry, which is then not stored.
const TAGS_PER_ENTRY_MAX: usize = 64;

impl<V> LoadContext<V> {
    /// With what is there already of each key, in the order in which the loader is given them.
    pub(crate) fn new(floor: Version, stale: impl Into<Arc<[Option<Stale<V>>]>>) -> Self {
        Self { floor, stale: stale.into(), said: Arc::default(), place: None }
    }

    /// The context of one key of a batch, by its place among the keys that the loader was given. What is said to it holds
    /// for that key, before what is said of all; tags come together. For a place where no key is, it says nothing to anybody.
    #[must_use]
    pub fn of(&self, place: usize) -> Self {
        Self { place: Some(place), ..self.clone() }
    }

    /// The version that the loaded value must at least reflect. A loader that reads from a replica must choose
    /// one that has replayed it, or read from the primary. [`Version::LATEST`] leaves only the primary.
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// The value that is there already, past its lifetime or about to be. With it the loader may ask the source
    /// whether it has changed, and answer [`Load::NotModified`] if not. In a batch of several keys each has its own: see
    /// [`of`](Self::of).
    pub fn stale(&self) -> Option<&Stale<V>> {
        match (self.place, &*self.stale) {
            (Some(place), stale) => stale.get(place)?.as_ref(),
            (None, [only]) => only.as_ref(),
            (None, _) => None,
        }
    }

    /// Sets how long this answer lives, in every tier, instead of what the policy says.
    pub fn ttl(&self, ttl: Duration) -> &Self {
        self.edit(|edits| edits.ttl = Some(ttl))
    }

    /// Sets for how long after its lifetime this answer is a fallback, instead of what the policy says.
    pub fn grace(&self, grace: Duration) -> &Self {
        self.edit(|edits| edits.grace = Some(grace))
    }

    /// Puts a tag on this answer. At most 64; an answer with more is not stored. One of over 256 bytes keeps it out of the shared
    /// tiers. Both are counted ([`Stats::unstorable`](crate::Stats::unstorable)).
    pub fn tag(&self, tag: impl AsRef<str>) -> &Self {
        self.edit(|edits| edits.add_tag(&name_of(tag.as_ref())))
    }

    /// Says which version this answer is.
    pub fn version(&self, version: Version) -> &Self {
        self.edit(|edits| edits.version = version)
    }

    /// Keeps what the source wants to be asked with next time: an ETag, a Last-Modified date. More than 1 KiB keeps the answer
    /// out of the shared tiers.
    pub fn validator(&self, validator: impl AsRef<str>) -> &Self {
        self.edit(|edits| edits.validator = Some(Arc::from(validator.as_ref())))
    }

    /// Has this answer given to those who wait, and not stored.
    pub fn do_not_store(&self) -> &Self {
        self.edit(|edits| edits.keep = Keep::No)
    }

    /// What was said of the key in this place.
    pub(crate) fn edits_of(&self, place: usize) -> Edits {
        let said = lock(&self.said);
        match said.of_each.get(&place) {
            Some(own) => own.clone().over(&said.of_all),
            None => said.of_all.clone(),
        }
    }

    fn edit(&self, edit: impl FnOnce(&mut Edits)) -> &Self {
        let mut said = lock(&self.said);
        match self.place {
            Some(place) if place < self.stale.len() => edit(said.of_each.entry(place).or_default()),
            Some(_) => {}
            None => edit(&mut said.of_all),
        }
        drop(said);
        self
    }
}

impl Edits {
    /// With what was said of all keys where nothing was said of this one.
    fn over(mut self, of_all: &Self) -> Self {
        self.ttl = self.ttl.or(of_all.ttl);
        self.grace = self.grace.or(of_all.grace);
        of_all.tags.iter().for_each(|tag| self.add_tag(tag));
        if self.version == Version::NONE {
            self.version = of_all.version;
        }
        self.validator = self.validator.or_else(|| of_all.validator.clone());
        if of_all.keep != Keep::Yes {
            self.keep = of_all.keep;
        }
        self
    }

    fn add_tag(&mut self, tag: &str) {
        if self.tags.iter().any(|known| **known == *tag) {
            return;
        }
        if self.tags.len() >= TAGS_PER_ENTRY_MAX {
            self.keep = Keep::Overtagged;
        } else {
            self.tags.push(Arc::from(tag));
        }
    }
}

/// What a loader answers. `Option<V>` will do where the third answer is not needed, and `V` where the second is not
/// either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load<V> {
    /// The value.
    Found(V),
    /// There is no such thing.
    Nothing,
    /// What [`LoadContext::stale`] gave is still true: it lives anew, in every tier, and in the nodes that hold it too. They
    /// know it by its version and its validator, so two values of a key that have both in common must be the same.
    NotModified,
}

impl<V> From<V> for Load<V> {
    fn from(value: V) -> Self {
        Self::Found(value)
    }
}

impl<V> From<Option<V>> for Load<V> {
    fn from(found: Option<V>) -> Self {
        found.map_or(Self::Nothing, Self::Found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_one_key_goes_before_what_is_said_of_all() {
        let seconds = Duration::from_secs;
        let context = LoadContext::<u64>::new(Version::NONE, vec![None, None]);
        context.ttl(seconds(60)).grace(seconds(5)).tag("all").validator("shared").version(Version(3));
        context.of(1).ttl(seconds(1)).tag("own").tag("all").validator("own").version(Version(2));
        context.of(2).do_not_store();
        let (first, second) = (context.edits_of(0), context.edits_of(1));
        assert_eq!((first.ttl, first.tags.len(), first.keep), (Some(seconds(60)), 1, Keep::Yes));
        assert_eq!((second.ttl, second.grace), (Some(seconds(1)), Some(seconds(5))));
        let tags: Vec<&str> = second.tags.iter().map(|tag| &**tag).collect();
        assert_eq!((tags, second.validator.as_deref()), (vec!["own", "all"], Some("own")));
        assert_eq!((second.version, second.keep), (Version(2), Keep::Yes));
        assert_eq!(context.edits_of(2), context.edits_of(0), "there is no such key");
    }

    #[test]
    fn tags_over_the_bound_refuse_the_answer_wherever_they_were_said() {
        let context = LoadContext::<u64>::new(Version::NONE, vec![None]);
        (0..40).for_each(|number| drop(context.tag(format!("a{number}")).clone()));
        assert_eq!(context.edits_of(0).keep, Keep::Yes);
        (0..40).for_each(|number| drop(context.of(0).tag(format!("b{number}")).clone()));
        assert_eq!(context.edits_of(0).keep, Keep::Overtagged);
    }
}
