//! What the cache asks of the line over which nodes tell each other what is void. Every
//! announcement is numbered by the store behind the line, without gaps, so that a node that missed
//! one notices at the next one or at the next pulse, asks for what it missed, and knows when that
//! is no longer to be had.
//! Refuses to know what an announcement says beyond what must outlive every entry: its sweeps.
//! Implemented by `redis`, `postgres` and the test kit; called by `courier` and `horizon`.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use crate::{
    Version,
    tier::{TierFuture, Void},
};

/// A place in the order of all announcements of one cache.
///
/// The incarnation changes whenever the store behind the line may have forgotten something (it was
/// restarted, restored, failed over or emptied). Marks of different incarnations cannot be compared,
/// and whatever was stored under another incarnation is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mark {
    /// Random; zero means that nothing is known yet.
    pub incarnation: u64,
    /// The number of the last announcement that counts.
    pub sequence: u64,
}

/// Many keys voided at once, by an epoch that outlives them. What was loaded before it is void.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Swath {
    /// Every key.
    All,
    /// Keys whose encoded form begins so.
    Prefix(Bytes),
    /// Entries with this tag.
    Tag(Arc<str>),
}

/// One sweep, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// What it goes over.
    pub swath: Swath,
    /// What it leaves.
    pub how: Void,
    /// The number of the announcement that made it.
    pub sequence: u64,
}

/// What a node that has just come needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Where the order of announcements stands.
    pub mark: Mark,
    /// All sweeps that are kept; of each swath and way the last one.
    pub sweeps: Vec<Sweep>,
    /// Sweeps of tags, and with them [cutoffs](Announcement::sweeps) of keys, up to this number may have been dropped
    /// for want of room: what is older is void.
    pub forgotten_sequence: u64,
}

/// Something to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What is void, for nodes to read.
    pub body: Bytes,
    /// What of it must be kept, by the store behind the line, for nodes still to come. A key that was not voided in
    /// every shared tier is among them as a tag of a reserved name.
    pub sweeps: Vec<(Swath, Void)>,
    /// Of the write behind it.
    pub version: Version,
}

/// Something heard on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An announcement and its number.
    Announcement { mark: Mark, body: Bytes },
    /// A sign of life: the store stands at `mark`, and the body tells who sent it when.
    Pulse { mark: Mark, body: Bytes },
    /// Something that is neither; another release may have sent it.
    Unreadable,
}

/// Why a node may not have heard everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The line has come up, for the first time or again.
    Subscribed,
    /// The line is down.
    Lost,
    /// More came than could be taken.
    Overflowed,
}

/// Listens on behalf of one cache. Never blocks; called in the order of the line.
pub trait Listener: Send + Sync {
    /// Something was said about this cache.
    fn heard(&self, heard: Heard);

    /// Something may not have been heard.
    fn interrupted(&self, cause: Interruption);
}

/// A line to which caches are attached by name.
pub trait Backplane: Send + Sync + fmt::Debug {
    /// The share of the cache with this name.
    fn line(&self, cache: &str) -> Arc<dyn Line>;
}

/// One cache's share of a backplane. Futures may be dropped at any point.
pub trait Line: Send + Sync + fmt::Debug {
    /// For figures and spans: `redis`, `postgres`.
    fn kind(&self) -> &'static str;

    /// False while there is no point in asking.
    fn is_up(&self) -> bool;

    /// Where the order stands, and the sweeps that are kept. One round trip.
    fn attach(&self) -> TierFuture<'_, Snapshot>;

    /// Numbers the announcement, keeps its sweeps and its body, and tells every listener, in one step.
    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark>;

    /// The announcements after `mark`, in order and without gaps, up to the present. `None` if some are
    /// no longer to be had, or if the incarnation is another.
    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>>;

    /// Tells every listener where the order stands, with a body that comes back to the sender too.
    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark>;

    /// Lets the listener hear, from when it is told `Subscribed`, until it is dropped.
    fn listen(&self, listener: Weak<dyn Listener>);
}
