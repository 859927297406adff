//! Creates one payment: reserve (a place at the gateway, on rails that have one, before anything is committed), open
//! (fraud, then one engine commit), charge (with no database connection held), settle (one engine commit). The charge
//! goes on when the caller hangs up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::panicking;
use std::time::Duration;

use paystrata_db::Token;
use paystrata_gateway::{Method, Overloaded, Patience, Reference, Slot};
use rand::RngExt as _;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::charge;
use super::model::{CardSource, Done, NewPayment, Occasion, PaymentError};
use crate::app::App;
use crate::engine::{
    Command, CreatePayment, Decision, EngineError, FraudDecision, KeyClaim, PlannedOperation, Rail, Reply,
    Submission, find_answers,
};
use crate::fraud::{Facts, Ticket};
use crate::ids::{MerchantId, OperationId, PaymentId};

/// A replay of a request that is still under way waits this long for its answer: most gateways answer sooner.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(5);
const REPLAY_PAUSE_MIN: Duration = Duration::from_millis(20);
const REPLAY_PAUSE_MAX: Duration = Duration::from_millis(320);

/// What a charge needs beside its dispatch: both live in this process only.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// What pays, on card rails.
    pub(super) method: Option<Method>,
    /// The place at the gateway, on rails that have one.
    pub(super) slot: Option<Slot>,
}

/// # Errors
/// Nothing was created, or the engine gave no decision.
pub async fn create(
    app: &Arc<App>,
    merchant: MerchantId,
    claim: KeyClaim,
    new: NewPayment,
) -> Result<Done, PaymentError> {
    create_in(app, merchant, claim, new, Patience::Brief).await
}

/// As [`create`], with more patience for a place at the gateway.
///
/// # Errors
/// As [`create`].
pub async fn create_in(
    app: &Arc<App>,
    merchant: MerchantId,
    claim: KeyClaim,
    new: NewPayment,
    patience: Patience,
) -> Result<Done, PaymentError> {
    let slot = reserve(app, new.rail, patience).await?;
    let (command, ticket) = open(app, merchant, &claim, &new)?;
    let is_book = new.rail == Rail::Book;
    let mut means = Means { method: new.card.as_ref().map(CardSource::to_method), slot };
    let submission = Submission { claim: Some(claim), command: Command::CreatePayment(Box::new(command)) };
    let shared = Arc::clone(app);
    let work = async move {
        let asked = Instant::now();
        let reply = submit_and_wait(&shared, submission, &mut means).await;
        // Only a payment that came to be goes on counting; a replay or a refusal does so no longer than it is under way.
        if matches!(&reply, Ok(Reply { decision: Decision::Answered(_) | Decision::Send(_), .. })) {
            ticket.into_iter().for_each(Ticket::keep);
        }
        finish(&shared, reply?, means, asked).await
    };
    // One commit is all of a book payment: it needs a task of its own only when its caller hangs up.
    if is_book { GoesOn::new(&app.charges, work).await } else { outlive(app, work).await }
}

/// Work that is done in its caller's task, and in one of its own from when the caller hangs up: whoever watches it learns
/// what came of it either way. Shutdown waits for it.
pub(super) struct GoesOn<Work: Future<Output: Send> + Send + 'static> {
    tasks: TaskTracker,
    work: Option<Pin<Box<Work>>>,
}

impl<Work: Future<Output: Send> + Send + 'static> GoesOn<Work> {
    pub(super) fn new(tasks: &TaskTracker, work: Work) -> Self {
        Self { tasks: tasks.clone(), work: Some(Box::pin(work)) }
    }
}

impl<Work: Future<Output: Send> + Send + 'static> Future for GoesOn<Work> {
    type Output = Work::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.work.as_mut().expect("not polled after its end");
        let ended = work.as_mut().poll(context);
        if ended.is_ready() {
            self.work = None;
        }
        ended
    }
}

impl<Work: Future<Output: Send> + Send + 'static> Drop for GoesOn<Work> {
    fn drop(&mut self) {
        // Without a runtime the whole process ends, and so would a new task. What panicked is not polled again.
        if let (Some(work), Ok(runtime), false) = (self.work.take(), Handle::try_current(), panicking()) {
            drop(self.tasks.spawn_on(work, &runtime));
        }
    }
}

/// Runs work that must go on when its caller hangs up, and that shutdown waits for.
///
/// # Errors
/// The work's own; a panic in it leaves an open operation to the resolver, like a crash would.
pub(super) async fn outlive(
    app: &App,
    work: impl Future<Output = Result<Done, PaymentError>> + Send + 'static,
) -> Result<Done, PaymentError> {
    app.charges.spawn(work).await.unwrap_or(Err(PaymentError::Engine(EngineError::OutcomeUnknown)))
}

/// A place for one request at the rail's gateway; none on the book, and on rails that are not configured. Taken before
/// anything is committed, so that a service that has too much to do refuses and fails nobody's payment.
///
/// # Errors
/// No place came free in time. Nothing was done.
async fn reserve(app: &App, rail: Rail, patience: Patience) -> Result<Option<Slot>, PaymentError> {
    let Some(gateway) = app.gateways.of(rail) else { return Ok(None) };
    gateway.reserve(patience).await.map(Some).map_err(|Overloaded| PaymentError::Overloaded)
}

/// Submits a change of an existing payment and charges what has to be charged, whatever becomes of the caller.
///
/// # Errors
/// Nothing was done, or the gateway's answer could not be committed.
pub(super) async fn change(
    app: &Arc<App>,
    claim: KeyClaim,
    rail: Rail,
    command: Command,
) -> Result<Done, PaymentError> {
    let mut means = Means { method: None, slot: reserve(app, rail, Patience::Brief).await? };
    let shared = Arc::clone(app);
    outlive(app, async move {
        let asked = Instant::now();
        let submission = Submission { claim: Some(claim), command };
        let reply = submit_and_wait(&shared, submission, &mut means).await?;
        finish(&shared, reply, means, asked).await
    })
    .await
}

/// What the key says, if it was used before: for requests that are refused today and may have been answered before, when
/// the card was valid or the rail configured, and for work that is made of many commands.
///
/// # Errors
/// The primary could not be asked.
pub(super) async fn known(app: &App, claim: &KeyClaim) -> Result<Option<Reply>, PaymentError> {
    Ok(known_all(app, &[claim]).await?.pop().flatten())
}

/// Goes with an answer that was found on the primary: which commit it came from is not known any more. No replica has it, so
/// what is read with it comes from the primary, where the answer's effects are.
pub(super) const ONLY_PRIMARY: Token = Token { timeline: 0, lsn: 0 };

/// As [`known`], of many keys in one question; in their order.
///
/// # Errors
/// As [`known`].
pub(super) async fn known_all(app: &App, claims: &[&KeyClaim]) -> Result<Vec<Option<Reply>>, PaymentError> {
    let unavailable = |error: paystrata_db::Error| {
        tracing::warn!(%error, "find answer of key");
        PaymentError::Engine(EngineError::Unavailable)
    };
    let connection = app.db.write().await.map_err(unavailable)?;
    let decisions = find_answers(&connection, claims).await.map_err(unavailable)?;
    let reply = |decision| Reply { decision, token: ONLY_PRIMARY };
    Ok(decisions.into_iter().map(|decision| decision.map(reply)).collect())
}

/// What becomes of a request: an answer that was kept under its key stands, whatever today's service says before it looks
/// at the key. A rail is switched off, a gateway has no place free, the rules are not loaded: a replay needs none of them.
///
/// # Errors
/// The given one, or the primary could not be asked.
pub(super) async fn or_kept(
    app: &Arc<App>,
    claim: &KeyClaim,
    done: Result<Done, PaymentError>,
) -> Result<Done, PaymentError> {
    use PaymentError::{Overloaded, RailUnavailable, Unjudged};
    match done {
        Err(error @ (Overloaded | RailUnavailable(_) | Unjudged(_))) => match known(app, claim).await? {
            Some(reply) => finish(app, reply, Means::default(), Instant::now()).await,
            None => Err(error),
        },
        done => done,
    }
}

/// Charges what has to be charged; anything else is decided already. `asked` is when the engine was asked: the lease of
/// a committed operation began after it.
///
/// # Errors
/// Nothing was done, or the gateway's answer could not be committed.
pub(super) async fn finish(
    app: &Arc<App>,
    reply: Reply,
    means: Means,
    asked: Instant,
) -> Result<Done, PaymentError> {
    let token = reply.token;
    match reply.decision {
        Decision::Send(_) if asked.elapsed() > charge::SETTLE_ALLOWANCE => {
            // This process was away for so long that the resolver may own the operation before the gateway could have
            // answered: nothing is sent, and the resolver will find that nothing was.
            tracing::warn!(elapsed = ?asked.elapsed(), "too late to send a committed operation");
            Err(PaymentError::InProgress)
        }
        Decision::Send(dispatch) => charge::charge(app, *dispatch, means, token).await,
        Decision::Answered(answer) | Decision::RefusalKept(answer) => {
            Ok(Done { answer, occasion: Occasion::First, token })
        }
        Decision::Replayed(answer) => Ok(Done { answer, occasion: Occasion::Replay, token }),
        Decision::Refused(refusal) => Err(PaymentError::Refused(refusal)),
        Decision::InProgress => Err(PaymentError::InProgress),
    }
}

/// The command that opens a payment, scored by the fraud rules.
fn open(
    app: &App,
    merchant: MerchantId,
    claim: &KeyClaim,
    new: &NewPayment,
) -> Result<(CreatePayment, Option<Ticket>), PaymentError> {
    let operation = plan(app, new.rail)?;
    let facts = Facts {
        merchant,
        key: claim.digest,
        from: new.from,
        to: new.to,
        amount: new.amount.get(),
        card_bin: new.card.as_ref().and_then(CardSource::bin),
    };
    let scored = app.fraud.rules()?.score(&facts);
    Ok((command(merchant, new, scored.decision, operation), scored.ticket))
}

/// A new payment as the engine takes it.
pub(super) fn command(
    merchant: MerchantId,
    new: &NewPayment,
    fraud: FraudDecision,
    operation: Option<PlannedOperation>,
) -> CreatePayment {
    CreatePayment {
        id: PaymentId::new().0,
        merchant_id: merchant.0,
        from: new.from.map(|id| id.0),
        to: new.to.0,
        amount: new.amount,
        currency: new.currency,
        rail: new.rail,
        capture: new.capture,
        fraud,
        operation,
        merchant_reference: new.merchant_reference.clone(),
        card_last_four: new.card.as_ref().and_then(CardSource::last_four),
        metadata: new.metadata.clone(),
    }
}

/// An operation for a rail that has a gateway.
///
/// # Errors
/// The rail needs a gateway that is not configured.
pub(super) fn plan(app: &App, rail: Rail) -> Result<Option<PlannedOperation>, PaymentError> {
    if rail == Rail::Book {
        return Ok(None);
    }
    app.gateways.of(rail).ok_or(PaymentError::RailUnavailable(rail))?;
    let lease = charge::deadline(app, rail) + 2 * charge::SETTLE_ALLOWANCE;
    Ok(Some(PlannedOperation {
        id: OperationId::new().0,
        reference: attempt_reference().as_str().to_owned(),
        lease_ms: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
    }))
}

/// 20 characters of base 32: 100 random bits, which no two attempts share, in the shortest form that gateways take.
fn attempt_reference() -> Reference {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = rand::rng().random::<u128>();
    let mut text = String::with_capacity(20);
    for _ in 0..20 {
        text.push(char::from(DIGITS[usize::from((random & 31) as u8)]));
        random >>= 5;
    }
    Reference::new(text).expect("twenty letters and digits are a reference")
}

/// Submits, and while the same key is under way elsewhere, waits for its answer within bounds.
async fn submit_and_wait(
    app: &App,
    submission: Submission,
    means: &mut Means,
) -> Result<Reply, PaymentError> {
    let deadline = Instant::now() + REPLAY_WAIT_MAX;
    let mut pause = REPLAY_PAUSE_MIN;
    loop {
        let reply = app.submit(&submission).await?;
        if !matches!(reply.decision, Decision::InProgress) || Instant::now() + pause > deadline {
            return Ok(reply);
        }
        // The first send has a place of its own, and this one will need none.
        means.slot = None;
        sleep(pause).await;
        pause = (pause * 2).min(REPLAY_PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_references_have_the_gateways_form_and_do_not_repeat() {
        let (a, b) = (attempt_reference(), attempt_reference());
        assert_eq!(a.as_str().len(), 20);
        assert_ne!(a, b);
    }
}
