//! Many payments in one request. `independent`: each stands alone, all are pipelined into the engine, each has a key of
//! its own, so that a batch that was cut is resumed by sending it again. `atomic`: one engine commit, all or none.
//! Book payments from one account are decided in the order of the batch; payments through a gateway are decided as places
//! there come free, in no order.
//! The whole answer is kept under the batch's key once every item has a lasting answer.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use paystrata_db::Token;
use paystrata_gateway::Patience;
use serde_json::Value;
use tokio::time::Instant;

use crate::app::App;
use crate::clock::Timestamp;
use crate::engine::{
    Answer, Command, CreatePayment, Decision, Group, GroupOutcome, KeepRefusal, KeyClaim, PaymentStatus, Pin,
    Rail, Refusal, Reply, Submission, Verdict,
};
use crate::fraud::{Facts, Rules, Ticket};
use crate::http::auth::Caller;
use crate::http::fields::{Fields, batch_size};
use crate::http::idempotency::{self, Asked};
use crate::http::limits::Body;
use crate::http::problem::Problem;
use crate::ids::MerchantId;
use crate::payments::create::Means;
use crate::payments::handler::{claim, problem_of, respond};
use crate::payments::model::{Done, NewPayment, Occasion, PaymentError};
use crate::payments::wire::Unfit;
use crate::payments::{create, wire};

/// Items of one batch in the engine at a time: enough to fill a batch per lane, too few to fill its queue.
const PARALLEL_MAX: usize = 512;
/// The part of a request's time that items wait for places at gateways; the rest is for those that got one.
const WAIT_SHARE: u32 = 2;
/// Parts a batch key from an item's index; no client key can hold it.
const ITEM_SEPARATOR: char = '\u{1f}';
/// Stands in an item's place in the key that ties the batch's own key to its body.
const TIE: &str = "body";

/// `POST /v1/payments/batch`
pub async fn batch(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let key = idempotency::required_key_of(&headers)?;
    let items_max = app.config.http.batch_items_max.get();
    let fields = Fields::parse_items(&body, items_max)?;
    let whole = claim(&app, caller, wire::BATCH, None, &fields, &key);
    // The same fingerprint: hashing a body of many megabytes twice would be felt.
    let tie_key = format!("{key}{ITEM_SEPARATOR}{TIE}");
    let tie = KeyClaim::new(caller.merchant.0, &tie_key, whole.fingerprint.clone());
    let claims = Claims { whole, tie };
    let secret = app.config.security.fingerprint_key.expose().as_bytes();
    let (mode, items) = read_batch(fields, &key, caller.merchant, secret, items_max)?;
    let done = run(&app, caller.merchant, claims, mode, items).await;
    done.map(respond).map_err(|error| problem_of(error, wire::BATCH))
}

/// The keys of a batch beside those of its items. Both have the fingerprint of its body.
#[derive(Debug)]
struct Claims {
    /// The client's own: it has the answer on the whole.
    whole: KeyClaim,
    /// Taken before anything is done: a send that was cut leaves no answer, and another body must not go on in its place.
    tie: KeyClaim,
}

/// What a batch does when an item fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The others go on.
    Independent,
    /// None happens.
    Atomic,
}

/// One item as read: its key, and the payment or what is wrong with it.
#[derive(Debug)]
struct Item {
    claim: KeyClaim,
    payment: Result<NewPayment, Unfit>,
}

impl Item {
    /// Whether its key can have an answer: from a send of this batch that was cut, when it could be taken.
    fn is_asked(&self) -> bool {
        matches!(self.payment, Ok(_) | Err(Unfit::Now(_)))
    }
}

/// What became of one item: bytes that are kept under its own key, unless `passing`.
#[derive(Debug)]
enum Outcome {
    Created { body: Bytes, standing: Standing },
    Refused { body: Bytes, passing: bool },
}

/// What a created payment counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Money has moved, or is authorised to.
    Succeeded,
    /// No money moved, and none will.
    Failed,
    /// Nobody knows yet: a gateway has not answered, or reviews it.
    Pending,
}

impl Standing {
    fn of(status: PaymentStatus) -> Self {
        match status {
            PaymentStatus::Failed | PaymentStatus::Cancelled => Self::Failed,
            PaymentStatus::Processing | PaymentStatus::RequiresReview => Self::Pending,
            PaymentStatus::Authorized
            | PaymentStatus::Succeeded
            | PaymentStatus::PartiallyRefunded
            | PaymentStatus::Refunded => Self::Succeeded,
        }
    }
}

/// Reads `{"mode","payments"}`. What is wrong with the payment in a single item does not refuse the batch. What makes the
/// JSON itself ambiguous does, in whichever item it stands, and `Fields::parse_items` has refused it: a field that stands
/// twice, a number that cannot be kept.
///
/// # Errors
/// The batch itself is malformed or empty.
fn read_batch(
    mut fields: Fields,
    key: &str,
    merchant: MerchantId,
    secret: &[u8],
    items_max: usize,
) -> Result<(Mode, Vec<Item>), Problem> {
    let mode = match fields.text::<String>("mode")?.as_deref() {
        None | Some("independent") => Mode::Independent,
        Some("atomic") => Mode::Atomic,
        Some(_) => return Err(Problem::invalid("/mode", "must be \"independent\" or \"atomic\"")),
    };
    let Some(Value::Array(values)) = fields.take("payments") else {
        return Err(Problem::invalid("/payments", "must be an array of payments"));
    };
    fields.finish()?;
    if values.is_empty() {
        return Err(batch_size(StatusCode::UNPROCESSABLE_ENTITY, "/payments".to_owned(), items_max));
    }
    let today = Timestamp::now().to_datetime().date();
    let read = |(index, value)| {
        let pointer = format!("/payments/{index}");
        let item_key = format!("{key}{ITEM_SEPARATOR}{index}");
        let fields = Fields::of(value, pointer.clone()).unwrap_or_else(|_| Fields::none(pointer));
        let asked =
            Asked { merchant_id: merchant.0, route: wire::CREATE, path: None, fields: &fields, secret };
        Item { claim: asked.claim(&item_key), payment: wire::read_payment(fields, today) }
    };
    Ok((mode, values.into_iter().enumerate().map(read).collect()))
}

/// # Errors
/// The batch's key was used otherwise, or the engine gave no decision on the whole. Under the first nothing is done.
async fn run(
    app: &Arc<App>,
    merchant: MerchantId,
    claims: Claims,
    mode: Mode,
    items: Vec<Item>,
) -> Result<Done, PaymentError> {
    let Claims { whole, tie } = claims;
    if let Some(decision) = create::known(app, &whole).await? {
        return create::finish(app, decision, Means::default(), Instant::now()).await;
    }
    // Refused whole: none of its items could be judged.
    app.fraud.rules()?;
    keep_under(app, tie, StatusCode::PROCESSING, Bytes::new()).await?;
    match mode {
        Mode::Independent => independent(app, merchant, whole, items).await,
        Mode::Atomic => atomic(app, merchant, whole, items).await,
    }
}

/// Keeps the answer on the whole under the batch's key.
async fn keep(app: &Arc<App>, claim: KeyClaim, body: Bytes) -> Result<Done, PaymentError> {
    keep_under(app, claim, StatusCode::OK, body).await
}

/// # Errors
/// The key was used with another body, or the engine gave no decision.
async fn keep_under(
    app: &Arc<App>,
    claim: KeyClaim,
    status: StatusCode,
    body: Bytes,
) -> Result<Done, PaymentError> {
    let pin = Pin { resource_id: claim.digest, status_code: status.as_u16(), body };
    let reply = app.engine.submit(Submission { claim: Some(claim), command: Command::Pin(pin) }).await?;
    create::finish(app, reply, Means::default(), Instant::now()).await
}

/// Every item's lasting answer, a refusal included, is kept under the item's own key in the engine, so that two sends of
/// one batch cannot be told different things.
async fn independent(
    app: &Arc<App>,
    merchant: MerchantId,
    claim: KeyClaim,
    items: Vec<Item>,
) -> Result<Done, PaymentError> {
    let wait_until = Instant::now() + app.config.http.request_timeout / WAIT_SHARE;
    let earlier = earlier(app, &items).await?;
    let items = items.into_iter().zip(earlier).enumerate();
    let results = stream::iter(items).map(|(index, (item, earlier))| async move {
        let is_decided =
            earlier.as_ref().is_some_and(|reply| !matches!(reply.decision, Decision::InProgress));
        let done = match (item.payment, earlier) {
            // What is decided already takes no part in the rules' counts, not even for as long as it is told again. Nor
            // is anything said of what is under way and could not be taken any more: it may be charged at this moment.
            (payment, Some(reply)) if is_decided || payment.is_err() => {
                create::finish(app, reply, Means::default(), Instant::now()).await
            }
            (Err(unfit), _) => return (refused(&unfit.into_problem()), None),
            (Ok(new), _) => {
                let claim = item.claim.keeping(KeepRefusal::new(move |refusal| kept_refusal(refusal, index)));
                let patience = Patience::For(wait_until.saturating_duration_since(Instant::now()));
                let done = create::create_in(app, merchant, claim.clone(), new, patience).await;
                create::or_kept(app, &claim, done).await
            }
        };
        match done {
            Ok(done) => (outcome_of(&done.answer), Some(done.token)),
            Err(error) => (refused_by(error, index), None),
        }
    });
    // Polled in order, so that book payments from one account, which wait for nothing before they are queued, are
    // queued in the order in which they were sent.
    let results: Vec<(Outcome, Option<Token>)> = results.buffered(PARALLEL_MAX).collect().await;
    let token = results.iter().filter_map(|(_, token)| *token).max();
    let outcomes: Vec<Outcome> = results.into_iter().map(|(outcome, _)| outcome).collect();
    let body = render(&outcomes);
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused { passing: true, .. })) {
        // An item met a passing obstacle: sending the batch again under the same key completes it.
        let answer = Answer { status_code: StatusCode::OK.as_u16(), body, payment: None };
        let token = token.unwrap_or(create::ONLY_PRIMARY);
        return Ok(Done { answer, occasion: Occasion::First, token });
    }
    keep(app, claim, body).await
}

/// What the keys of the items say already, in the order of the items, in one question: they may have been paid by a send of
/// this batch that was cut, also those that could not be taken any more.
///
/// # Errors
/// The primary could not be asked: nothing is known of them, and nothing is done.
async fn earlier(app: &Arc<App>, items: &[Item]) -> Result<Vec<Option<Reply>>, PaymentError> {
    let claims: Vec<&KeyClaim> =
        items.iter().filter(|item| item.is_asked()).map(|item| &item.claim).collect();
    let replies = if claims.is_empty() { Vec::new() } else { create::known_all(app, &claims).await? };
    let mut replies = replies.into_iter();
    Ok(items.iter().map(|item| if item.is_asked() { replies.next().flatten() } else { None }).collect())
}

/// The refusal of one item as it is kept.
fn kept_refusal(refusal: &Refusal, index: usize) -> Answer {
    let problem = placed(problem_of(PaymentError::Refused(refusal.clone()), wire::CREATE), index);
    Answer { status_code: problem.status.as_u16(), body: item_error(&problem), payment: None }
}

/// A problem of one payment as a problem of an item: its pointer starts at the batch.
fn placed(mut problem: Problem, index: usize) -> Problem {
    problem.param = problem.param.map(|pointer| format!("/payments/{index}{pointer}"));
    problem
}

/// That a rail is not configured says nothing of the payment, and is not kept of a single one either.
fn refused_by(error: PaymentError, index: usize) -> Outcome {
    let is_ours = matches!(error, PaymentError::RailUnavailable(_));
    let problem = placed(problem_of(error, wire::CREATE), index);
    Outcome::Refused { body: item_error(&problem), passing: is_ours || is_passing(&problem) }
}

fn refused(problem: &Problem) -> Outcome {
    Outcome::Refused { body: item_error(problem), passing: is_passing(problem) }
}

/// A failure of ours is passing even where trying again at once is not worth it: nothing was decided about the item.
fn is_passing(problem: &Problem) -> bool {
    problem.retryable || problem.status.is_server_error()
}

fn outcome_of(answer: &Answer) -> Outcome {
    let body = answer.body.clone();
    if answer.status_code >= StatusCode::BAD_REQUEST.as_u16() {
        return Outcome::Refused { body, passing: false };
    }
    let status = match &answer.payment {
        Some(payment) => Some(payment.status),
        // A replayed item: its body is ours.
        None => status_in(&body),
    };
    Outcome::Created { body, standing: status.map_or(Standing::Pending, Standing::of) }
}

fn status_in(body: &[u8]) -> Option<PaymentStatus> {
    #[derive(serde::Deserialize)]
    struct Status<'body> {
        status: &'body str,
    }
    serde_json::from_slice::<Status<'_>>(body).ok()?.status.parse().ok()
}

async fn atomic(
    app: &Arc<App>,
    merchant: MerchantId,
    claim: KeyClaim,
    items: Vec<Item>,
) -> Result<Done, PaymentError> {
    // Asked before the first item: that they are not loaded yet is no reason to refuse the batch for good.
    let rules = app.fraud.rules()?;
    let count = items.len();
    let (mut members, mut tickets) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (index, item) in items.into_iter().enumerate() {
        match member(rules, merchant, index, item) {
            Ok((member, ticket)) => {
                tickets.push((member.1.fraud.verdict, ticket));
                members.push(member);
            }
            // It depends on the request alone: every send is refused alike.
            Err(problem) => {
                return keep(app, claim, none_applied(count, index, &problem)).await;
            }
        }
    }
    let group = Group { members, render: render_group };
    let submission = Submission { claim: Some(claim), command: Command::CreateAll(group) };
    let shared = Arc::clone(app);
    let work = async move {
        let reply = shared.engine.submit(submission).await;
        // Payments that came to be count, and those that the rules rejected, of which the decision is kept.
        let counts = |verdict: Verdict| match &reply {
            Ok(Reply { decision: Decision::Answered(_), .. }) => true,
            Ok(Reply { decision: Decision::RefusalKept(_), .. }) => verdict == Verdict::Reject,
            _ => false,
        };
        tickets
            .into_iter()
            .filter(|(verdict, _)| counts(*verdict))
            .for_each(|(_, ticket)| ticket.into_iter().for_each(Ticket::keep));
        create::finish(&shared, reply?, Means::default(), Instant::now()).await
    };
    create::GoesOn::new(&app.charges, work).await
}

/// The answer on an all-or-nothing batch, written inside the commit that decides it.
fn render_group(outcome: GroupOutcome<'_>) -> Bytes {
    match outcome {
        GroupOutcome::Applied(answers) => render(&answers.iter().map(outcome_of).collect::<Vec<_>>()),
        GroupOutcome::Refused { refusal, index, count } => {
            let cause = problem_of(PaymentError::Refused(refusal.clone()), wire::CREATE);
            none_applied(count, index, &placed(cause, index))
        }
    }
}

fn member(
    rules: Rules<'_>,
    merchant: MerchantId,
    index: usize,
    item: Item,
) -> Result<((KeyClaim, CreatePayment), Option<Ticket>), Problem> {
    let new = item.payment.map_err(Unfit::into_problem)?;
    if new.rail != Rail::Book {
        let detail = "An atomic batch takes book payments only: a gateway cannot be rolled back.";
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "rail_not_atomic", detail);
        return Err(problem.at(format!("/payments/{index}/rail")));
    }
    let (key, amount) = (item.claim.digest, new.amount.get());
    let facts = Facts { merchant, key, from: new.from, to: new.to, amount, card_bin: None };
    let scored = rules.score(&facts);
    Ok(((item.claim, create::command(merchant, &new, scored.decision, None)), scored.ticket))
}

/// The cause at its place, and every other item set aside because of it.
fn none_applied(count: usize, index: usize, cause: &Problem) -> Bytes {
    let detail = format!("Not applied: item {index} of this atomic batch was refused.");
    let aside = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "batch_aborted", detail);
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| refused(&aside)).collect();
    outcomes[index] = refused(cause);
    render(&outcomes)
}

/// `{"results":[..],"summary":{..}}`; payments go in as the bytes that are kept under their own keys.
fn render(outcomes: &[Outcome]) -> Bytes {
    let mut body = Vec::with_capacity(outcomes.len() * 640);
    body.extend_from_slice(b"{\"results\":[");
    let (mut succeeded, mut failed, mut refused, mut pending) = (0_u64, 0_u64, 0_u64, 0_u64);
    for (index, outcome) in outcomes.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(format!("{{\"index\":{index},").as_bytes());
        match outcome {
            Outcome::Created { body: payment, standing } => {
                body.extend_from_slice(b"\"payment\":");
                body.extend_from_slice(payment);
                match standing {
                    Standing::Succeeded => succeeded += 1,
                    Standing::Failed => failed += 1,
                    Standing::Pending => pending += 1,
                }
            }
            Outcome::Refused { body: error, .. } => {
                body.extend_from_slice(b"\"error\":");
                body.extend_from_slice(error);
                refused += 1;
            }
        }
        body.push(b'}');
    }
    // The contract names three figures; the fourth appears when an item is neither.
    let pending = if pending > 0 { format!(",\"pending\":{pending}") } else { String::new() };
    let summary = format!(
        "],\"summary\":{{\"succeeded\":{succeeded},\"failed\":{failed},\"refused\":{refused}{pending}}}}}"
    );
    body.extend_from_slice(summary.as_bytes());
    body.into()
}

fn item_error(problem: &Problem) -> Bytes {
    let error = serde_json::json!({
        "code": problem.code,
        "status": problem.status.as_u16(),
        "detail": problem.detail,
        "param": problem.param,
        "retryable": problem.retryable,
    });
    error.to_string().into()
}
