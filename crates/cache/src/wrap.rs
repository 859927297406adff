//! A cached form of an async function, in one line: the argument is the key, the function is the loader.
//! Holds nothing but the function and the cache. Made by [`Cache::wrap`].

use std::{fmt, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};

use crate::{Cache, CacheError, CacheKey, LoadContext};

type Function<K, V, E> = dyn Fn(K, LoadContext<V>) -> BoxFuture<'static, Result<Option<V>, E>> + Send + Sync;

/// A function whose answers are cached. Cheap to clone.
pub struct Cached<K, V, E> {
    cache: Cache<K, V>,
    function: Arc<Function<K, V, E>>,
    tags: Arc<[Arc<str>]>,
}

impl<K, V, E> Clone for Cached<K, V, E> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), function: Arc::clone(&self.function), tags: Arc::clone(&self.tags) }
    }
}

impl<K, V, E> fmt::Debug for Cached<K, V, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cached").field("cache", &self.cache).field("tags", &self.tags).finish()
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The cached form of `function`. Arguments are keys: several of them make a tuple.
    ///
    /// ```
    /// # use paystrata_cache::{Cache, Policy};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// async fn rate(from: String, to: String) -> Result<Option<u64>, std::io::Error> {
    ///     Ok(Some((from.len() * to.len()) as u64))
    /// }
    /// let rate = Cache::builder("rates").policy(Policy::default()).build().wrap(|(from, to), _| rate(from, to)).tagged("rates");
    /// assert_eq!(rate.call(("EUR".to_owned(), "USD".to_owned())).await.unwrap(), Some(9));
    /// drop(rate.cache().tag("rates").remove());
    /// # }
    /// ```
    pub fn wrap<F, Fut, E>(self, function: F) -> Cached<K, V, E>
    where
        F: Fn(K, LoadContext<V>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        let function = move |key, context| function(key, context).boxed();
        Cached { cache: self, function: Arc::new(function), tags: Arc::new([]) }
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static, E: Send + Sync + 'static> Cached<K, V, E> {
    /// Puts a tag on every answer.
    #[must_use]
    pub fn tagged(mut self, tag: impl AsRef<str>) -> Self {
        self.tags = self.tags.iter().cloned().chain([Arc::from(tag.as_ref())]).collect();
        self
    }

    /// The function's answer for `key`, from the cache or from the function.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_load`].
    pub async fn call(&self, key: K) -> Result<Option<V>, CacheError<E>> {
        let (function, tags, argument) = (Arc::clone(&self.function), Arc::clone(&self.tags), key.clone());
        let load = move |context: LoadContext<V>| {
            for tag in tags.iter() {
                context.tag(tag);
            }
            function(argument, context)
        };
        self.cache.get_or_load(&key, load).await
    }

    /// The cache behind it, to invalidate.
    pub fn cache(&self) -> &Cache<K, V> {
        &self.cache
    }
}
