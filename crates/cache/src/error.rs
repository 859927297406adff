//! Why a read did not come back with an answer, and why a value that was set was not taken. A failing shared tier is never among the reasons:
//! it costs speed and is counted, and the loader is asked instead.

use std::{sync::Arc, time::Duration};

/// Why [`get_or_load`](crate::Cache::get_or_load) has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError<E> {
    /// The loader failed. Everyone who waited for that load gets the same error, and so does whoever asks
    /// while it is remembered.
    #[error("load failed: {0}")]
    Load(#[source] Arc<E>),
    /// This caller waited for a load that another caller's loader, with another error type, failed.
    #[error("load failed in a loader with another error type")]
    LoadElsewhere,
    /// The loader has taken longer than the policy's `load_timeout`. It goes on.
    #[error("load took longer than {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The loader panicked. The next read loads again.
    #[error("loader panicked")]
    Panicked,
    /// The loader said that the value has not changed, or answered fewer keys than it was asked for.
    #[error("loader gave no answer to what it was asked")]
    Unanswered,
    /// As many loads run and wait as the policy allows. Nothing was tried.
    #[error("too many loads in flight")]
    Overloaded,
    /// The load was stopped with the runtime it ran on.
    #[error("load was stopped")]
    Stopped,
}

impl<E> CacheError<E> {
    /// One word for it, for labels of figures and fields of spans; says nothing of the loader's error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Load(_) | Self::LoadElsewhere => "load_failed",
            Self::Timeout { .. } => "timeout",
            Self::Panicked => "panicked",
            Self::Unanswered => "unanswered",
            Self::Overloaded => "overloaded",
            Self::Stopped => "stopped",
        }
    }

    /// True if the same call may well succeed in a moment, because nothing is wrong with the key.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Overloaded | Self::Stopped)
    }
}

impl<E> Clone for CacheError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Load(error) => Self::Load(Arc::clone(error)),
            Self::LoadElsewhere => Self::LoadElsewhere,
            Self::Timeout { after } => Self::Timeout { after: *after },
            Self::Panicked => Self::Panicked,
            Self::Unanswered => Self::Unanswered,
            Self::Overloaded => Self::Overloaded,
            Self::Stopped => Self::Stopped,
        }
    }
}

/// Why [`Cache::set`](crate::Cache::set) has stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetRefused {
    /// Something newer is known of the key, or a change of the key that nobody has numbered, which may be newer. It was an
    /// invalidation instead: what was cached of the key is void, here and on the other nodes.
    #[error("something newer is known of the key")]
    Overtaken,
    /// Over 64 tags. It was an invalidation instead.
    #[error("more tags than an entry may have")]
    TooManyTags,
    /// Under [`Write::Behind`](crate::Write::Behind): as many values, or as heavy ones, wait to be written as may, or the weigher
    /// could not weigh this one. Nothing was done.
    #[error("too many values wait to be written")]
    Full,
    /// Under [`Write::Behind`](crate::Write::Behind): the cache was closed. Nothing was done.
    #[error("the cache was closed")]
    Closed,
    /// Under [`Write::Behind`](crate::Write::Behind) of a policy that was edited for the call: the cache has no
    /// [`Writer`](crate::Writer). Nothing was done.
    #[error("the cache has no writer")]
    NoWriter,
}

impl SetRefused {
    /// True if the same call may well succeed in a moment.
    pub fn is_retryable(self) -> bool {
        self == Self::Full
    }
}
