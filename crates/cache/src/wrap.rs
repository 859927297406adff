//! A cached form of an async function, in one line: the arguments are the key, the function is the loader.
//! Holds nothing but the function and the cache. Made by [`cached`] and [`Cache::wrap`].

use std::{fmt, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};

use crate::{Cache, CacheError, CacheKey, Load, LoadContext, Loaded, Policy, hash::Probe};

type Function<K, V, E> = dyn Fn(K, LoadContext<V>) -> BoxFuture<'static, Result<Load<V>, E>> + Send + Sync;

type Tags<K> = dyn Fn(&K, &mut dyn FnMut(&str)) + Send + Sync;

/// A function whose answers are cached. Cheap to clone.
pub struct Cached<K, V, E> {
    cache: Cache<K, V>,
    function: Arc<Function<K, V, E>>,
    /// Shared, so that a hit copies one pointer.
    tags: Arc<[Arc<Tags<K>>]>,
}

impl<K, V, E> Clone for Cached<K, V, E> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), function: Arc::clone(&self.function), tags: Arc::clone(&self.tags) }
    }
}

impl<K, V, E> fmt::Debug for Cached<K, V, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cached").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// The cached form of an async function, under a policy, in this process. Its arguments are the key; several of them make
/// a tuple.
///
/// ```
/// # use std::convert::Infallible;
/// use paystrata_cache::{Policy, cached};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// async fn rate(from: String, to: String) -> Result<f64, Infallible> {
///     Ok(if from == to { 1.0 } else { 1.08 })
/// }
///
/// let rate = cached("rates", Policy::default(), |(from, to)| rate(from, to)).tagged("rates");
///
/// assert_eq!(rate.call(("EUR".to_owned(), "USD".to_owned())).await.unwrap(), Some(1.08));
/// drop(rate.cache().tag("rates").remove());
/// # }
/// ```
///
/// With shared tiers, or if the function wants to be told what it must reflect, [`Cache::wrap`] a cache that was built.
///
/// # Panics
///
/// Where the policy does not fit together, as [`CacheBuilder::build`](crate::CacheBuilder::build). A
/// [`refresh_every`](Policy::refresh_every) is always refused here, for it takes [`keep_fresh`](crate::CacheBuilder::keep_fresh),
/// and so is [`Write::Behind`](crate::Write::Behind), which takes a [`writer`](crate::CacheBuilder::writer): build a cache
/// with those, and wrap it.
pub fn cached<K, V, F, Fut, A, E>(name: impl Into<Arc<str>>, policy: Policy, function: F) -> Cached<K, V, E>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<A, E>> + Send + 'static,
    A: Into<Load<V>> + 'static,
{
    Cache::builder(name).policy(policy).build().wrap(move |key, _context| function(key))
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The cached form of `function`, in this cache. Arguments are keys: several of them make a tuple. The function is
    /// told what it must reflect, and may say how long its answer lives, as any loader.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use paystrata_cache::{Cache, LoadContext};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// async fn name(id: u64, context: LoadContext<String>) -> Result<Option<String>, Infallible> {
    ///     context.tag("people");
    ///     Ok(Some(format!("user {id}, as of {:?}", context.floor())))
    /// }
    ///
    /// let name = Cache::builder("names").build().wrap(name).tagged_by(|id| [format!("user:{id}")]);
    ///
    /// assert!(name.call(7).await.unwrap().is_some());
    /// drop(name.cache().invalidate(&7));
    /// # }
    /// ```
    pub fn wrap<F, Fut, A, E>(self, function: F) -> Cached<K, V, E>
    where
        F: Fn(K, LoadContext<V>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + 'static,
    {
        let function = move |key, context| {
            let called = function(key, context);
            async move { called.await.map(Into::into) }.boxed()
        };
        Cached { cache: self, function: Arc::new(function), tags: Arc::new([]) }
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static, E: Send + Sync + 'static> Cached<K, V, E> {
    /// Puts a tag on every answer.
    #[must_use]
    pub fn tagged(self, tag: impl Into<Arc<str>>) -> Self {
        let tag = tag.into();
        self.with_tags(Arc::new(move |_key, put| put(&tag)))
    }

    /// Puts tags on every answer that follow from its arguments.
    #[must_use]
    pub fn tagged_by<I: IntoIterator<Item: AsRef<str>>>(
        self,
        tags: impl Fn(&K) -> I + Send + Sync + 'static,
    ) -> Self {
        self.with_tags(Arc::new(move |key, put| tags(key).into_iter().for_each(|tag| put(tag.as_ref()))))
    }

    fn with_tags(self, tags: Arc<Tags<K>>) -> Self {
        Self { tags: self.tags.iter().cloned().chain([tags]).collect(), ..self }
    }

    /// The function's answer for `key`, from the cache or from the function; `None` if the function has none.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_load`].
    pub async fn call(&self, key: K) -> Result<Option<V>, CacheError<E>> {
        // Before there is anything to load with: that copies the key, and pointers that all threads share.
        if let Some(value) = self.cache.hit(&Probe::of(&key), &self.cache.store.moment()) {
            return Ok(Some(value));
        }
        let load = self.loader(&key);
        self.cache.get_or_load(&key, load).await
    }

    /// As [`call`](Self::call), and tells where the answer comes from, how old it is, and whether it is past its lifetime.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_load`].
    pub async fn call_entry(&self, key: K) -> Result<Loaded<V>, CacheError<E>> {
        let load = self.loader(&key);
        self.cache.get_or_load_entry(&key, load).await
    }

    fn loader(
        &self,
        key: &K,
    ) -> impl FnOnce(LoadContext<V>) -> BoxFuture<'static, Result<Load<V>, E>> + Send + 'static + use<K, V, E>
    {
        let (function, tags, argument) = (Arc::clone(&self.function), Arc::clone(&self.tags), key.clone());
        move |context: LoadContext<V>| {
            for tags in tags.iter() {
                tags(&argument, &mut |tag| {
                    context.tag(tag);
                });
            }
            function(argument, context)
        }
    }

    /// The cache behind it, to invalidate.
    pub fn cache(&self) -> &Cache<K, V> {
        &self.cache
    }
}
