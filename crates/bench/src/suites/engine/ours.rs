//! Our side: callers in process that submit book payments to the ledger engine and wait for each, in a closed loop.
//! Each caller does what the service's handler does besides HTTP: an id, a fingerprint field by field, a key claim.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use paystrata_app::engine::{
    CaptureMode, Command, CreatePayment, Decision, Engine, EngineConfig, EngineError, EngineObserver,
    EngineStats, FingerprintBuilder, FraudDecision, KeyClaim, PaymentStatus, ROUTE_FIELD, Rail, Reply,
    Submission, Verdict,
};
use paystrata_app::ids::{AccountId, PaymentId};
use paystrata_app::money::Amount;
use paystrata_db::{Config, Db};
use uuid::Uuid;

use super::ground::Ground;
use super::mix::{Draw, Draws, Mix};
use super::render::{RENDER, sample};
use super::{SEED, Sizes};
use crate::closed_loop;
use crate::measure::Contender;

/// Keys the fingerprints, as the service's own secret does.
const FINGERPRINT_KEY: &[u8] = b"benchmark-fingerprint-key-of-32-bytes";
const ROUTE: &[u8] = b"POST /v1/payments";
/// Notes kept: one per measured turn; more turns than this no suite has.
const NOTES_MAX: usize = 256;

/// The engine under measurement, and what it acknowledged.
#[derive(Debug)]
pub(crate) struct Driver {
    db: Db,
    engine: Engine,
    maker: Arc<Maker>,
    acknowledged: Arc<AtomicU64>,
    notes: Mutex<Vec<String>>,
}

/// Makes submissions.
#[derive(Debug)]
pub(crate) struct Maker {
    merchant_id: Uuid,
    currency: paystrata_app::money::Currency,
    accounts: Vec<Uuid>,
}

#[derive(Debug)]
struct Deaf;
impl EngineObserver for Deaf {}

impl Driver {
    pub(crate) async fn start(ground: &Ground, config: &EngineConfig) -> anyhow::Result<Self> {
        let url = ground.connection_text()?.parse().context("read the connection settings")?;
        let db = Db::connect(Config::new(url)).await.context("connect the data layer")?;
        let observer: Arc<dyn EngineObserver> = Arc::new(Deaf);
        let engine = Engine::start(&db, config, RENDER, &observer);
        let accounts = ground.accounts.clone();
        let maker = Maker { merchant_id: ground.merchant.0, currency: ground.currency, accounts };
        Ok(Self { db, engine, maker: Arc::new(maker), acknowledged: Arc::default(), notes: Mutex::default() })
    }

    pub(crate) async fn close(&self) {
        self.engine.close().await;
        self.db.close().await;
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn maker(&self) -> &Arc<Maker> {
        &self.maker
    }

    /// Counts every payment that a caller was told is done.
    pub(crate) fn counter(&self) -> &Arc<AtomicU64> {
        &self.acknowledged
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, text: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX {
            notes.push(text);
        }
    }

    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is stored under a key: the peer stores as much.
    pub(crate) fn about_answers(&self) -> String {
        let (answer, fingerprint) = sizes_of_key_row();
        format!(
            "both sides keep {answer} bytes of answer and {fingerprint} bytes of fingerprint under each key"
        )
    }
}

/// Bytes of answer and of fingerprint under one key.
pub(crate) fn sizes_of_key_row() -> (usize, usize) {
    let draw = Draw { from: 0, to: 1, amount: 500 };
    let maker = Maker {
        merchant_id: Uuid::now_v7(),
        currency: "USD".parse().expect("USD is a currency"),
        accounts: vec![Uuid::now_v7(), Uuid::now_v7()],
    };
    let claim = maker.claim("size", &maker.accounts[0].to_string(), draw);
    (sample().len(), claim.fingerprint.as_bytes().len())
}

impl Maker {
    /// One payment with a key of its own.
    pub(crate) fn submission(&self, draw: Draw) -> Submission {
        let id = PaymentId::new();
        let from = AccountId(self.accounts[draw.from]);
        let claim = self.claim(&id.to_string(), &from.to_string(), draw);
        let create = CreatePayment {
            id: id.0,
            merchant_id: self.merchant_id,
            from: Some(from.0),
            to: self.accounts[draw.to],
            amount: Amount::new(draw.amount).expect("draws are positive and small"),
            currency: self.currency,
            rail: Rail::Book,
            capture: CaptureMode::Automatic,
            fraud: FraudDecision { verdict: Verdict::Allow, score: 0, reasons: Vec::new() },
            operation: None,
            merchant_reference: None,
            card_last_four: None,
            metadata: None,
        };
        Submission { claim: Some(claim), command: Command::CreatePayment(Box::new(create)) }
    }

    /// The fields that a request of this kind carries, hashed as the service hashes them.
    fn claim(&self, key: &str, from: &str, draw: Draw) -> KeyClaim {
        let mut builder = FingerprintBuilder::new(FINGERPRINT_KEY);
        let mut text = String::with_capacity(64);
        builder.field(ROUTE_FIELD, ROUTE);
        builder.field(0, from.as_bytes());
        let _ = write!(text, "{}", AccountId(self.accounts[draw.to]));
        builder.field(1, text.as_bytes());
        text.clear();
        let _ = write!(text, "{}", draw.amount);
        builder.field(2, text.as_bytes());
        builder.field(3, self.currency.code().as_bytes());
        KeyClaim::new(self.merchant_id, key, builder.finish())
    }
}

/// Whether a reply is a payment that was made.
pub(crate) fn is_made(reply: &Result<Reply, EngineError>) -> bool {
    matches!(reply, Ok(Reply { decision: Decision::Answered(answer), .. })
        if answer.payment.as_ref().is_some_and(|payment| payment.status == PaymentStatus::Succeeded))
}

/// A number of callers, each with one payment under way at any time.
#[derive(Debug)]
pub(crate) struct ClosedLoop<'run> {
    pub(crate) driver: &'run Driver,
    pub(crate) ground: &'run Ground,
    pub(crate) mix: Mix,
    pub(crate) callers: usize,
    pub(crate) sizes: Sizes,
}

impl Contender for ClosedLoop<'_> {
    fn name(&self) -> String {
        format!("engine, {}, {} callers", self.mix.name(), self.callers)
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(self.run(round))
    }
}

impl ClosedLoop<'_> {
    async fn run(&self, round: u64) -> anyhow::Result<f64> {
        let Sizes { warm_up, duration, .. } = self.sizes;
        let before = self.driver.engine().stats();
        let done = closed_loop::run(self.callers as u64, warm_up, duration, |caller, course| {
            // Spread, so that no two callers of any round share a seed.
            let mut draws = Draws::new(self.mix, SEED ^ (round << 32) ^ (caller << 8));
            let (engine, maker) = (self.driver.engine().clone(), Arc::clone(self.driver.maker()));
            async move {
                while course.goes_on() {
                    let reply = engine.submit(maker.submission(draws.draw())).await;
                    ensure!(is_made(&reply), "a payment was not made: {reply:?}");
                    course.done();
                }
                Ok(())
            }
        });
        let done = done.await?;
        self.driver.counter().fetch_add(done.count, Ordering::Relaxed);
        let work = difference(self.driver.engine().stats(), before);
        self.driver.note(format!("{}, round {}: {}", self.name(), round + 1, describe(work)));
        Ok(done.per_second)
    }
}

pub(crate) fn difference(after: EngineStats, before: EngineStats) -> EngineStats {
    EngineStats {
        batches: after.batches - before.batches,
        commands: after.commands - before.commands,
        reruns: after.reruns - before.reruns,
        splits: after.splits - before.splits,
        overloads: after.overloads - before.overloads,
        blocked: after.blocked - before.blocked,
        panics: after.panics - before.panics,
    }
}

pub(crate) fn describe(work: EngineStats) -> String {
    let mean = ratio(work.commands, work.batches);
    format!("{} batches, {mean:.0} payments each on average, {} reruns", work.batches, work.reruns)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run stay far under 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> Maker {
        Maker {
            merchant_id: Uuid::now_v7(),
            currency: "USD".parse().unwrap(),
            accounts: vec![Uuid::now_v7(), Uuid::now_v7()],
        }
    }

    #[test]
    fn every_submission_claims_a_key_of_its_own_with_all_its_fields() {
        let maker = maker();
        let draw = Draw { from: 0, to: 1, amount: 500 };
        let (a, b) = (maker.submission(draw).claim.unwrap(), maker.submission(draw).claim.unwrap());
        assert_ne!(a.digest, b.digest);
        assert_eq!(a.fingerprint, b.fingerprint);
        let other = maker.submission(Draw { amount: 501, ..draw }).claim.unwrap();
        assert_eq!(other.fingerprint.first_difference(a.fingerprint.as_bytes()), Some(2));
    }

    #[test]
    fn only_a_succeeded_payment_counts() {
        assert!(!is_made(&Err(EngineError::Overloaded)));
        let token = paystrata_db::Token { timeline: 1, lsn: 1 };
        assert!(!is_made(&Ok(Reply { decision: Decision::InProgress, token })));
    }
}
