//! What a loader is told, and what it may say besides its answer: how long the answer lives, its tags, its
//! version, its validator, or that it is not to be kept. Says it about this load only; the policy stays as it is.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{Version, flight::lock};

/// What a loader is told, and where it says more than the value. Cheap to clone.
#[derive(Debug)]
pub struct LoadContext<V> {
    floor: Version,
    stale: Option<Arc<Stale<V>>>,
    edits: Arc<Mutex<Edits>>,
}

impl<V> Clone for LoadContext<V> {
    fn clone(&self) -> Self {
        Self { floor: self.floor, stale: self.stale.clone(), edits: Arc::clone(&self.edits) }
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

/// What the loader has said.
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
}

/// Tags of one entry. More of them make every check of it dearer; over it the last ones are refused with the
/// whole entry, which is then not stored.
const TAGS_PER_ENTRY_MAX: usize = 64;

impl<V> LoadContext<V> {
    pub(crate) fn new(floor: Version, stale: Option<Stale<V>>) -> Self {
        Self { floor, stale: stale.map(Arc::new), edits: Arc::default() }
    }

    /// The version that the loaded value must at least reflect. A loader that reads from a replica must choose
    /// one that has replayed it, or read from the primary. [`Version::LATEST`] leaves only the primary.
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// The value that is there already, past its lifetime or about to be. With it the loader may ask the source
    /// whether it has changed, and answer [`Load::NotModified`] if not.
    pub fn stale(&self) -> Option<&Stale<V>> {
        self.stale.as_deref()
    }

    /// Sets how long this answer lives, in every tier, instead of what the policy says.
    pub fn ttl(&self, ttl: Duration) -> &Self {
        self.edit(|edits| edits.ttl = Some(ttl))
    }

    /// Sets for how long after its lifetime this answer is a fallback, instead of what the policy says.
    pub fn grace(&self, grace: Duration) -> &Self {
        self.edit(|edits| edits.grace = Some(grace))
    }

    /// Puts a tag on this answer. At most 64; an answer with more is not stored.
    pub fn tag(&self, tag: impl AsRef<str>) -> &Self {
        self.edit(|edits| {
            if edits.tags.len() >= TAGS_PER_ENTRY_MAX {
                edits.keep = Keep::No;
            } else if !edits.tags.iter().any(|known| **known == *tag.as_ref()) {
                edits.tags.push(Arc::from(tag.as_ref()));
            }
        })
    }

    /// Says which version this answer is.
    pub fn version(&self, version: Version) -> &Self {
        self.edit(|edits| edits.version = version)
    }

    /// Keeps what the source wants to be asked with next time: an ETag, a Last-Modified date.
    pub fn validator(&self, validator: impl AsRef<str>) -> &Self {
        self.edit(|edits| edits.validator = Some(Arc::from(validator.as_ref())))
    }

    /// Has this answer given to those who wait, and not stored.
    pub fn do_not_store(&self) -> &Self {
        self.edit(|edits| edits.keep = Keep::No)
    }

    pub(crate) fn edits(&self) -> Edits {
        lock(&self.edits).clone()
    }

    fn edit(&self, edit: impl FnOnce(&mut Edits)) -> &Self {
        edit(&mut lock(&self.edits));
        self
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
