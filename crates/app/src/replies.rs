//! Answers of idempotent requests, kept in this process for a while, so that a client that repeats itself costs the
//! database nothing. An answer never changes, but the database may lose it: a failover, a crash or a restore can take back
//! commits. So an answer is given from here only while the primary lives the very life in which it was committed, and never
//! while that is in doubt; then the engine is asked, as if nothing were kept. Shared with no other node: the shared tier
//! outlives the database it was filled from. Used where commands are submitted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paystrata_cache::{Cache, Observer, Policy, Stats, Version};
use paystrata_db::{Db, PrimaryLife, Token};

use crate::engine::{Answer, Decision, Engine, EngineError, KeyClaim, Reply, Submission};

/// Bytes of bookkeeping counted per reply beside its body.
const OVERHEAD_BYTES: usize = 192;

/// Longest time that a reply is kept: whoever repeats a request does it soon, and keys that are forgotten have to be
/// forgotten everywhere.
const TTL_MAX: Duration = Duration::from_secs(60);

/// What was answered under one key.
#[derive(Clone, Debug)]
struct Kept {
    fingerprint: Box<[u8]>,
    answer: Answer,
    token: Token,
    /// Of the primary, from before the engine was asked.
    life: PrimaryLife,
}

/// The replies of this node.
#[derive(Debug)]
pub struct Replies {
    cache: Cache<[u8; 16], Arc<Kept>>,
    db: Db,
}

impl Replies {
    /// Keeps replies for `ttl`, but a minute at most, in at most so many bytes; a `ttl` of zero keeps none.
    #[must_use]
    pub fn new(bytes_max: u64, ttl: Duration, db: &Db, observer: Arc<dyn Observer>) -> Self {
        // Chance would lengthen the life of an entry, and no crowd waits for one of these.
        let policy =
            Policy { ttl: ttl.min(TTL_MAX), jitter: 0.0, l1_bytes_max: bytes_max, ..Policy::default() };
        let weigh =
            |_: &[u8; 16], kept: &Arc<Kept>| kept.answer.body.len() + kept.fingerprint.len() + OVERHEAD_BYTES;
        let builder = Cache::builder("replies").policy(policy).observer(observer);
        Self { cache: builder.weigher(weigh).build(), db: db.clone() }
    }

    /// Figures of the cache.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.cache.stats()
    }

    /// What the engine says; without asking it if the same was asked under the same key a short while ago.
    ///
    /// # Errors
    /// Only the engine's; a refusal is a decision in the reply.
    pub async fn submit(&self, engine: &Engine, submission: &Submission) -> Result<Reply, EngineError> {
        // Before the engine is asked: if the primary is replaced meanwhile, the reply is kept for a life that has ended.
        let (Some(claim), Some(life)) = (&submission.claim, self.db.primary_life()) else {
            return engine.submit(submission.clone()).await;
        };
        if let Some(reply) = self.find(claim, life) {
            return Ok(reply);
        }
        let reply = engine.submit(submission.clone()).await?;
        self.keep(claim, life, &reply);
        Ok(reply)
    }

    /// Another request under the key is the engine's to refuse: it says what differs.
    fn find(&self, claim: &KeyClaim, life: PrimaryLife) -> Option<Reply> {
        let kept = self.cache.get(claim.digest.as_bytes())?;
        let is_good = kept.life == life && *kept.fingerprint == *claim.fingerprint.as_bytes();
        is_good.then(|| Reply { decision: Decision::Replayed(kept.answer.clone()), token: kept.token })
    }

    fn keep(&self, claim: &KeyClaim, life: PrimaryLife, reply: &Reply) {
        // Anything else can become something else: it is not what is kept under the key.
        let (Decision::Answered(answer) | Decision::RefusalKept(answer) | Decision::Replayed(answer)) =
            &reply.decision
        else {
            return;
        };
        let kept = Kept {
            fingerprint: claim.fingerprint.as_bytes().into(),
            // The body alone: as it was rendered it may lie in twice the room.
            answer: Answer {
                status_code: answer.status_code,
                body: Bytes::copy_from_slice(&answer.body),
                payment: None,
            },
            token: reply.token,
            life,
        };
        // An answer has no versions: whoever keeps it keeps the same.
        drop(self.cache.set(*claim.digest.as_bytes(), Arc::new(kept), Version::NONE));
    }
}
