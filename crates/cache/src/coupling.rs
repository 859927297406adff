//! Changes whose news is part of the transaction that makes them: a rollback tells nobody, and a process that dies right
//! after its commit has told everybody. What carries the news is the application's: a table that it relays, or
//! NOTIFY (`PostgresTier`).
//! Refuses to know when a transaction commits; whoever commits says so. Called by applications.

use std::{future::Future, sync::atomic::Ordering::Relaxed};

use crate::{
    Cache, CacheKey, Confirmation, Invalidation, KeyedInvalidation, Version,
    backplane::{Announcement, Swath},
    cutoffs,
    store::Store,
    tier::Void,
};

/// Keeps an announcement in a transaction of the application's own store, so that it is announced if that commits and
/// not at all if it does not. `Tx` is the transaction as it is passed on: `&Transaction`, or `&mut Transaction`.
///
/// An outbox of your own keeps the cache's name and [`Announcement::body`] in a row. Whatever relays such rows
/// hands each of them to the line with [`Invalidation::decode`], [`Invalidation::announcement`] and
/// [`Line::announce`](crate::backplane::Line::announce), or, on a node that has the cache, to [`Cache::apply`]; it
/// deletes the row afterwards. Told twice, it does nothing worse.
///
/// ```
/// use std::{cell::RefCell, convert::Infallible};
///
/// use paystrata_cache::{Cache, TransactionOutbox, Version, backplane::Announcement};
///
/// /// A transaction that is nothing but the rows it adds to an outbox.
/// struct Transaction(RefCell<Vec<(String, bytes::Bytes)>>);
///
/// struct Table;
///
/// impl TransactionOutbox<&Transaction> for Table {
///     type Error = Infallible;
///
///     async fn keep(&self, transaction: &Transaction, cache: &str, said: &Announcement) -> Result<(), Infallible> {
///         transaction.0.borrow_mut().push((cache.to_owned(), said.body.clone()));
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let names: Cache<u64, String> = Cache::builder("names").build();
/// let transaction = Transaction(RefCell::default());
/// let change = names.invalidation(Version(42)).remove(&7);
/// let coupled = names.invalidate_in(&Table, &transaction, change).await.unwrap();
/// // Commit, and say so; dropped instead, nothing was done here.
/// let rows = transaction.0.into_inner();
/// coupled.committed();
/// assert_eq!(rows[0].0, "names");
/// // What the relay does with the row.
/// names.apply(&rows[0].1).unwrap().await;
/// # }
/// ```
pub trait TransactionOutbox<Tx> {
    /// Of the application's store.
    type Error;

    /// Keeps it, under the name of the cache it is for.
    fn keep(
        &self,
        transaction: Tx,
        cache: &str,
        announcement: &Announcement,
    ) -> impl Future<Output = Result<(), Self::Error>>;
}

/// A change that will be announced when its transaction commits. Tell it of the commit, and this node knows at once
/// instead of when it hears the announcement. Dropped, it does nothing: after a rollback, that is right.
#[derive(Debug)]
#[must_use = "this node's reads see the change at once only if it is told of the commit"]
pub struct Coupled<K, V> {
    cache: Cache<K, V>,
    change: Invalidation,
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Begins a change of this cache's keys and no others, because of the write `version`: to be kept in a transaction, or
    /// anywhere, and applied later. Does nothing by itself.
    pub fn invalidation(&self, version: Version) -> KeyedInvalidation<K> {
        KeyedInvalidation::at(version)
    }

    /// Keeps `change` in the caller's transaction. Nothing is void yet: call [`Coupled::committed`] after the commit.
    ///
    /// # Errors
    ///
    /// Those of the outbox.
    pub async fn invalidate_in<Tx, O: TransactionOutbox<Tx>>(
        &self,
        outbox: &O,
        transaction: Tx,
        change: impl Into<Invalidation>,
    ) -> Result<Coupled<K, V>, O::Error> {
        let change = change.into();
        if !change.is_empty() {
            outbox.keep(transaction, &self.store.name, &change.announcement()).await?;
        }
        Ok(Coupled { cache: self.clone(), change })
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Coupled<K, V> {
    /// The transaction has committed: when this returns, no read that starts later on this node sees what it changed
    /// as it was.
    ///
    /// Where there are shared tiers, their records are voided too, and the change is announced once more;
    /// await the confirmation to know that it was. Without, the announcement of the transaction is all there is to tell.
    pub fn committed(self) -> Confirmation {
        if self.cache.store.fleet.tiers.is_empty() {
            self.cache.store.void_by(&self.change);
            return Confirmation::of_nobody();
        }
        self.cache.invalidate_by(&self.change)
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// This node's part of a change, after the shared tiers are blocked for it.
    pub(crate) fn void_by(&self, change: &Invalidation) {
        self.counters.invalidations.fetch_add(change.keys.len() as u64, Relaxed);
        let unread =
            change.read_keys::<K>(|key, order| self.void(key, order.how, order.version, change.origin));
        if unread.keys > 0 {
            self.sweep(&Swath::All, Void::Remove, unread.version, change.origin);
            self.tell_unread(unread.keys);
        }
        for order in change.sweeps.iter().filter(|order| cutoffs::digest_of(&order.swath).is_none()) {
            self.sweep(&order.swath, order.how, order.version, change.origin);
        }
    }
}
