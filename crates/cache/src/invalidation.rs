//! What is to be void, as a value that can be built without effect, spelled as bytes, kept in an outbox row or
//! sent with a NOTIFY inside the caller's own transaction, and applied on any node later.
//! The same bytes are what nodes announce to each other. Refuses nothing; applied by `invalidate`.
//!
//! ```text
//! "PA" format u8 | origin u64 | count u32, count x (how u8, version u64, key) | count u32, count x (swath u8, how u8, version u64, bytes)
//! ```
//! Keys and names are a length u32 and their bytes; numbers are big-endian. Bytes after the last field are an
//! error, so that a longer message of a later release is not taken for a shorter one.

use std::{marker::PhantomData, ops::Deref};

use bytes::Bytes;

use crate::{
    CacheKey, Version,
    backplane::{Announcement, Swath},
    cutoffs,
    key::decoded,
    patterns,
    store::KeyForm,
    tags::name_of,
    tier::Void,
    wire::{Reader, Unreadable, put_bytes},
};

const HEAD: [u8; 3] = *b"PA\x01";

/// Keys, tags, prefixes, or everything, to be removed or expired.
///
/// A key goes into it as the bytes that its own type [spells](CacheKey::encode), and whether that is the type of the cache's keys
/// nobody can check here: take [`KeyedInvalidation`] where the type is known. Integers are spelled at their full width and
/// without a word about their sign, so `7_i64` is the key `7_u64` and `-1_i64` is `u64::MAX`, but `7_i32` and `7_u32` are no `u64`.
///
/// - Bytes that a cache cannot read as a key of its own may mean any of them. It takes them for everything, in the shared tiers
///   too, which is right and dear: it counts them in [`unreadable_keys`](crate::Stats::unreadable_keys), tells its
///   [observer](crate::Observer::keys_unreadable), and logs a warning the first time. Nodes that start later know of it where a node
///   of the cache has applied the change; where only the line was told, they may believe a record from before it.
/// - Bytes that it reads as *another* key void that one, and nobody notices: eight bytes of a `u64` may be text to a cache of
///   `String`, and any bytes are a key of `Vec<u8>`.
///
/// ```
/// # use paystrata_cache::{Invalidation, Version};
/// let change = Invalidation::at(Version(42)).remove(&7_u64).expire_tag("org:9");
/// let bytes = change.encode();
/// assert_eq!(Invalidation::decode(&bytes), Ok(change));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalidation {
    /// Who announces it; zero while nobody has.
    pub(crate) origin: u64,
    pub(crate) version: Version,
    pub(crate) keys: Vec<KeyOrder>,
    pub(crate) sweeps: Vec<SweepOrder>,
}

/// One key to be voided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyOrder {
    pub(crate) key: Bytes,
    pub(crate) how: Void,
    pub(crate) version: Version,
}

/// One sweep to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SweepOrder {
    pub(crate) swath: Swath,
    pub(crate) how: Void,
    pub(crate) version: Version,
}

/// Keys of a change that are none of the cache's: which of its own are meant nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unread {
    pub(crate) keys: usize,
    /// The newest of the writes behind them.
    pub(crate) version: Version,
}

impl Invalidation {
    /// Of nothing yet, because of the write `version`.
    pub fn at(version: Version) -> Self {
        Self { version, ..Self::default() }
    }

    /// And of this key: nobody reads its old value again.
    #[must_use]
    pub fn remove<K: CacheKey>(self, key: &K) -> Self {
        self.key(key.encode(), Void::Remove)
    }

    /// And of this key: its old value stays a fallback for loads that fail.
    #[must_use]
    pub fn expire<K: CacheKey>(self, key: &K) -> Self {
        self.key(key.encode(), Void::Expire)
    }

    /// And of all entries with this tag.
    #[must_use]
    pub fn remove_tag(self, tag: &str) -> Self {
        self.sweep(Swath::Tag(name_of(tag).into()), Void::Remove)
    }

    /// And of all entries with this tag, which stay fallbacks.
    #[must_use]
    pub fn expire_tag(self, tag: &str) -> Self {
        self.sweep(Swath::Tag(name_of(tag).into()), Void::Expire)
    }

    /// And of all keys whose encoded form begins so.
    #[must_use]
    pub fn remove_prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        self.sweep(Swath::Prefix(Bytes::copy_from_slice(prefix.as_ref())), Void::Remove)
    }

    /// And of all keys whose encoded form begins so, which stay fallbacks.
    #[must_use]
    pub fn expire_prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        self.sweep(Swath::Prefix(Bytes::copy_from_slice(prefix.as_ref())), Void::Expire)
    }

    /// And of all keys whose encoded form looks so, as [`Cache::pattern`](crate::Cache::pattern) reads it.
    #[must_use]
    pub fn remove_pattern(self, pattern: impl AsRef<[u8]>) -> Self {
        self.sweep(patterns::swath_of(pattern.as_ref()), Void::Remove)
    }

    /// And of all keys whose encoded form looks so, which stay fallbacks.
    #[must_use]
    pub fn expire_pattern(self, pattern: impl AsRef<[u8]>) -> Self {
        self.sweep(patterns::swath_of(pattern.as_ref()), Void::Expire)
    }

    /// And of everything.
    #[must_use]
    pub fn remove_all(self) -> Self {
        self.sweep(Swath::All, Void::Remove)
    }

    /// True if it voids nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sweeps.is_empty()
    }

    /// What is handed to a line by somebody who has voided none of it in the shared tiers: an outbox's relay, or a
    /// transaction ([`TransactionOutbox`](crate::TransactionOutbox)). Nodes that hear it, and nodes that come
    /// later, do not believe what lies in a shared tier from before it.
    ///
    /// The store behind the line keeps 16,384 such keys and tags of a cache. What was stored before the oldest
    /// of them is void, so under a flood of changes values live in shared tiers for as long as it takes to change so
    /// many different keys.
    pub fn announcement(&self) -> Announcement {
        self.clone().cutting_off().announced()
    }

    /// And of what shared tiers have of its keys from before the announcement.
    pub(crate) fn cutting_off(mut self) -> Self {
        let cutoff = |order: &KeyOrder| SweepOrder {
            swath: cutoffs::swath_of(&order.key),
            how: order.how,
            // The key's own order says it; this one raises no floor of others.
            version: Version::NONE,
        };
        self.sweeps.retain(|order| cutoffs::digest_of(&order.swath).is_none());
        self.sweeps.extend(self.keys.iter().map(cutoff));
        self
    }

    /// As it is announced, word for word.
    pub(crate) fn announced(&self) -> Announcement {
        let sweeps = self.sweeps.iter().map(|order| (order.swath.clone(), order.how)).collect();
        let versions = self.keys.iter().map(|order| order.version);
        let version = versions.chain(self.sweeps.iter().map(|order| order.version)).max().unwrap_or_default();
        Announcement { body: self.encode(), sweeps, version }
    }

    /// Has `void` see to each key that is one of the cache's. Gives what is left.
    pub(crate) fn read_keys<K: CacheKey>(&self, mut void: impl FnMut(&K, &KeyOrder)) -> Unread {
        let mut unread = Unread::default();
        for order in &self.keys {
            match decoded::<K>(&order.key) {
                Some(key) => void(&key, order),
                None => {
                    let version = unread.version.max(order.version);
                    unread = Unread { keys: unread.keys + 1, version };
                }
            }
        }
        unread
    }

    pub(crate) fn key(mut self, key: Bytes, how: Void) -> Self {
        let version = self.version;
        self.keys.push(KeyOrder { key, how, version });
        self
    }

    pub(crate) fn sweep(mut self, swath: Swath, how: Void) -> Self {
        let version = self.version;
        self.sweeps.push(SweepOrder { swath, how, version });
        self
    }

    /// As bytes, for an outbox row, or for a NOTIFY if they are few.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.extend(HEAD);
        out.extend(self.origin.to_be_bytes());
        out.extend(self.version.0.to_be_bytes());
        out.extend(length(self.keys.len()).to_be_bytes());
        for order in &self.keys {
            out.push(how_byte(order.how));
            out.extend(order.version.0.to_be_bytes());
            put_bytes(&mut out, &order.key);
        }
        out.extend(length(self.sweeps.len()).to_be_bytes());
        for order in &self.sweeps {
            let (kind, bytes): (u8, &[u8]) = match &order.swath {
                Swath::All => (0, &[]),
                Swath::Prefix(prefix) => (1, prefix),
                Swath::Tag(tag) => (2, tag.as_bytes()),
            };
            out.push(kind);
            out.push(how_byte(order.how));
            out.extend(order.version.0.to_be_bytes());
            put_bytes(&mut out, bytes);
        }
        out.into()
    }

    /// What [`encode`](Self::encode) spelled so.
    ///
    /// # Errors
    ///
    /// If the bytes are not an invalidation as this release writes them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.array()? != HEAD {
            return Err(Unreadable);
        }
        let (origin, version) = (reader.number()?, Version(reader.number()?));
        // Grown as they are found: a count that lies must not reserve memory.
        let (mut keys, mut sweeps) = (Vec::new(), Vec::new());
        for _ in 0..reader.count()? {
            let (how, version) = (how_of(reader.array()?)?, Version(reader.number()?));
            keys.push(KeyOrder { key: Bytes::copy_from_slice(reader.bytes()?), how, version });
        }
        for _ in 0..reader.count()? {
            let [kind] = reader.array()?;
            let (how, version) = (how_of(reader.array()?)?, Version(reader.number()?));
            let bytes = reader.bytes()?;
            let swath = match kind {
                0 => Swath::All,
                1 => Swath::Prefix(Bytes::copy_from_slice(bytes)),
                2 => Swath::Tag(std::str::from_utf8(bytes).map_err(|_| Unreadable)?.into()),
                _ => return Err(Unreadable),
            };
            sweeps.push(SweepOrder { swath, how, version });
        }
        reader.end()?;
        Ok(Self { origin, version, keys, sweeps })
    }
}

impl From<&Invalidation> for Announcement {
    fn from(change: &Invalidation) -> Self {
        change.announcement()
    }
}

/// An [`Invalidation`] for caches whose keys are `K`, which takes no others. Whatever reads an invalidation reads this one too.
/// [`Cache::invalidation`](crate::Cache::invalidation) begins one where the cache is at hand.
///
/// ```
/// # use paystrata_cache::{Invalidation, KeyedInvalidation, Version};
/// let change = KeyedInvalidation::<u64>::at(Version(42)).remove(&7).expire_tag("org:9");
/// assert_eq!(Invalidation::decode(&change.encode()), Ok(change.into()));
/// ```
///
/// ```compile_fail
/// # use paystrata_cache::{KeyedInvalidation, Version};
/// let id: i32 = 7;
/// let change = KeyedInvalidation::<u64>::at(Version(42)).remove(&id);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedInvalidation<K> {
    change: Invalidation,
    of: PhantomData<fn() -> K>,
}

impl<K: CacheKey> KeyedInvalidation<K> {
    /// Of nothing yet, because of the write `version`.
    pub fn at(version: Version) -> Self {
        Self { change: Invalidation::at(version), of: PhantomData }
    }

    /// And of this key: nobody reads its old value again.
    #[must_use]
    pub fn remove<Q: KeyForm<K> + ?Sized>(self, key: &Q) -> Self {
        Self { change: self.change.remove::<K>(&key.to_owned()), ..self }
    }

    /// And of this key: its old value stays a fallback for loads that fail.
    #[must_use]
    pub fn expire<Q: KeyForm<K> + ?Sized>(self, key: &Q) -> Self {
        Self { change: self.change.expire::<K>(&key.to_owned()), ..self }
    }
}

/// What names no key is said as it is to an invalidation of any keys.
macro_rules! said_alike {
    ($($verb:ident($($name:ident: $kind:ty)?);)*) => {
        impl<K: CacheKey> KeyedInvalidation<K> {
            $(
                #[doc = concat!("As [`Invalidation::", stringify!($verb), "`].")]
                #[must_use]
                pub fn $verb(self $(, $name: $kind)?) -> Self {
                    Self { change: self.change.$verb($($name)?), ..self }
                }
            )*
        }
    };
}

said_alike! {
    remove_tag(tag: &str);
    expire_tag(tag: &str);
    remove_prefix(prefix: impl AsRef<[u8]>);
    expire_prefix(prefix: impl AsRef<[u8]>);
    remove_pattern(pattern: impl AsRef<[u8]>);
    expire_pattern(pattern: impl AsRef<[u8]>);
    remove_all();
}

/// It is one, and the only thing it does not do is to take a key of another type.
impl<K> Deref for KeyedInvalidation<K> {
    type Target = Invalidation;

    fn deref(&self) -> &Invalidation {
        &self.change
    }
}

impl<K> From<KeyedInvalidation<K>> for Invalidation {
    fn from(keyed: KeyedInvalidation<K>) -> Self {
        keyed.change
    }
}

fn how_byte(how: Void) -> u8 {
    match how {
        Void::Remove => 0,
        Void::Expire => 1,
    }
}

fn how_of([byte]: [u8; 1]) -> Result<Void, Unreadable> {
    match byte {
        0 => Ok(Void::Remove),
        1 => Ok(Void::Expire),
        _ => Err(Unreadable),
    }
}

/// More than four billion would be unreadable, which makes the receivers drop everything.
fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Invalidation {
        Invalidation::at(Version(7))
            .remove(&String::from("a"))
            .expire(&String::new())
            .remove_tag("t")
            .expire_tag("u")
            .remove_prefix("p:")
            .expire_prefix("")
            .remove_all()
    }

    #[test]
    fn every_invalidation_is_read_back() {
        for change in [Invalidation::default(), all_kinds()] {
            assert_eq!(Invalidation::decode(&change.encode()), Ok(change));
        }
    }

    #[test]
    fn cut_or_lengthened_bytes_are_unreadable() {
        let bytes = all_kinds().encode();
        for length in 0..bytes.len() {
            assert_eq!(Invalidation::decode(&bytes[..length]), Err(Unreadable), "{length}");
        }
        assert_eq!(Invalidation::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
    }

    #[test]
    fn count_that_lies_reserves_no_memory() {
        let mut bytes = Invalidation::default().encode().to_vec();
        let end = bytes.len();
        bytes[end - 8..end - 4].fill(0xff);
        assert_eq!(Invalidation::decode(&bytes), Err(Unreadable));
    }

    #[test]
    fn what_takes_keys_of_one_type_only_is_spelled_as_what_takes_any() {
        let keyed = KeyedInvalidation::<String>::at(Version(7))
            .remove("a")
            .expire("")
            .remove_tag("t")
            .expire_tag("u")
            .remove_prefix("p:")
            .expire_prefix("")
            .remove_all();
        assert_eq!((keyed.encode(), Invalidation::from(keyed)), (all_kinds().encode(), all_kinds()));
        let keyed = KeyedInvalidation::<u64>::at(Version(7)).remove_pattern("a?c").expire_pattern("*");
        assert_eq!(*keyed, Invalidation::at(Version(7)).remove_pattern("a?c").expire_pattern("*"));
    }

    /// The keys of a cache that a change names, and those that are none of its keys.
    fn read<K: CacheKey>(change: &Invalidation) -> (Vec<K>, Unread) {
        let mut keys = Vec::new();
        let unread = change.read_keys::<K>(|key, _| keys.push(key.clone()));
        (keys, unread)
    }

    #[test]
    fn integer_of_another_width_is_no_key_and_one_of_another_sign_is() {
        let change = Invalidation::at(Version(5)).remove(&7_i32).remove(&7_u32).remove(&"7".to_owned());
        assert_eq!(read::<u64>(&change), (vec![], Unread { keys: 3, version: Version(5) }));
        let change = Invalidation::at(Version(5)).remove(&7_i64).remove(&-1_i64).remove(&7_usize);
        assert_eq!(read::<u64>(&change), (vec![7, u64::MAX, 7], Unread::default()));
        assert_eq!(read::<i64>(&Invalidation::default().remove(&7_u64)), (vec![7], Unread::default()));
    }

    #[test]
    fn key_of_another_type_whose_bytes_are_a_key_too_is_taken_for_it() {
        let change = Invalidation::default().remove(&7_u64);
        let text = "\0\0\0\0\0\0\0\u{7}".to_owned();
        assert_eq!(read::<String>(&change), (vec![text], Unread::default()));
        assert_eq!(read::<Vec<u8>>(&change), (vec![7_u64.to_be_bytes().to_vec()], Unread::default()));
        assert_eq!(read::<String>(&Invalidation::default().remove(&u64::MAX)).1.keys, 1);
    }

    /// The second key and the second tag have versions of their own.
    const FORMAT_1: [&str; 15] = [
        "504101",
        "0102030405060708 0000000000000007",
        "00000002",
        "00 0000000000000007 00000001 61",
        "01 0000000000000008 00000000",
        "00000009",
        "02 00 0000000000000007 00000001 74",
        "02 01 0000000000000009 00000001 75",
        "01 00 0000000000000007 00000002 703a",
        "01 01 0000000000000007 00000000",
        "00 00 0000000000000007 00000000",
        // The tag that stands for the pattern `a?c`: a zero byte, "glob:" and its bytes in hexadecimal digits.
        "02 01 0000000000000007 0000000c 00 676c6f623a 363133663633",
        "00 01 0000000000000007 00000000",
        // Those that stand for the keys: a zero byte, "key:" and the 32 digits of XXH3-128, here of "a" and of nothing.
        "02 00 0000000000000000 00000025 00 6b65793a 6139366661663730356166313638333465366336333262363165393634653166",
        "02 01 0000000000000000 00000025 00 6b65793a 3939616130366433303134373938643836303031633332343436386434393766",
    ];

    /// Nodes of two releases exchange them, and outboxes keep them: a form that changes needs another number.
    #[test]
    fn invalidation_is_spelled_as_format_1_has_it() {
        let mut change = all_kinds().expire_pattern("a?c").sweep(Swath::All, Void::Expire);
        change.origin = 0x0102_0304_0506_0708;
        change.keys[1].version = Version(8);
        change.sweeps[1].version = Version(9);
        let change = change.cutting_off();
        let spelled: String = change.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(spelled, FORMAT_1.concat().replace(' ', ""));
    }
}
