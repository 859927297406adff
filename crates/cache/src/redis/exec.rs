//! Carries an operation on many keys to the servers that have them: grouped by server and, in a
//! cluster, by slot; one key goes with those of other callers, several make a pipeline of their own.
//! Follows redirections, takes keys apart of which some have moved, and sends scripts that a server has lost.
//! Refuses to repeat anything that may have been done. Called by `share` and `line`.

use std::sync::Arc;

use ahash::AHashMap;
use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::{
    failure::{Redirect, Turn, code_of},
    keys::Keys,
    lane::Wish,
    link::{Link, Live},
    router::Router,
    scripts::By,
    slots::Place,
};
use crate::tier::TierError;

/// Times that one key may be sent: with others, alone, to where its slot moves, by a map that is behind, by the
/// new map. More means that the cluster does not agree with itself.
const ROUNDS_MAX: u32 = 6;

/// Keys in one command: a script over this many holds the server for about a millisecond.
pub(super) const GROUP_MAX: usize = 128;

/// What is done to keys.
pub(super) trait Operation: Sync {
    /// What it gives for one key.
    type Answer: Send;

    /// The command for the keys of these numbers, which may go together.
    fn command(&self, members: &[usize], live: &Live, by: By) -> Cmd;

    /// What is wanted of the key of this number, alone.
    fn wish(&self, member: usize, live: &Live) -> Wish {
        Wish::Command(self.command(&[member], live, By::Hash))
    }

    /// Reads the answer, one for each.
    fn answers(&self, members: &[usize], live: &Live, value: Value) -> Option<Vec<Self::Answer>>;

    /// What an error of this code gives for a key, if it is an answer too.
    fn excuse(&self, _code: &str) -> Option<Self::Answer> {
        None
    }
}

/// Keys that one command is for.
struct Group {
    members: Vec<usize>,
    sending: Sending,
}

/// Groups for one server.
struct Batch {
    link: Arc<Link>,
    live: Arc<Live>,
    groups: Vec<Group>,
}

/// How it went for the keys of a group.
enum Outcome<A> {
    Done(Vec<A>),
    Excused(A),
    Failed(TierError),
    Elsewhere(Redirect),
    /// Some of the keys are here and some not: their slot moves.
    Apart,
    ScriptUnknown,
}

/// A key that is still to be sent, and where its next sending goes.
#[derive(Clone)]
struct Pending {
    member: usize,
    sending: Sending,
    asked_host: String,
}

/// Whether a key goes with others of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Welcome,
    /// Its slot moves, and others of it may be elsewhere.
    None,
}

/// How keys are sent.
#[derive(Clone)]
struct Sending {
    by: By,
    company: Company,
    /// What has led them to where they go.
    redirect: Option<Redirect>,
}

impl Sending {
    const FIRST: Self = Self { by: By::Hash, company: Company::Welcome, redirect: None };

    /// Sent on for this once.
    fn is_asking(&self) -> bool {
        self.redirect.as_ref().is_some_and(|redirect| redirect.kind == Turn::Ask)
    }
}

impl Pending {
    fn all(keys: usize) -> Vec<Self> {
        let first = |member| Self { member, sending: Sending::FIRST, asked_host: String::new() };
        (0..keys).map(first).collect()
    }
}

/// Runs an operation on one key.
pub(super) async fn run_one<O>(router: &Router, key: &Keys, operation: &O) -> Result<O::Answer, TierError>
where
    O: Operation,
    O::Answer: Clone,
{
    match try_shortest(router, key.slot(0), operation).await {
        Some(result) => result,
        // In a place of its own, because the short way is to be small: it is allocated for each read.
        None => Box::pin(run_all(router, key, operation)).await.pop().unwrap_or(Err(TierError::Failed)),
    }
}

/// Runs an operation; the answers are in the order of the keys.
pub(super) async fn run<O>(router: &Router, keys: &Keys, operation: &O) -> Vec<Result<O::Answer, TierError>>
where
    O: Operation,
    O::Answer: Clone,
{
    if keys.len() == 1 {
        return vec![run_one(router, keys, operation).await];
    }
    run_all(router, keys, operation).await
}

async fn run_all<O>(router: &Router, keys: &Keys, operation: &O) -> Vec<Result<O::Answer, TierError>>
where
    O: Operation,
    O::Answer: Clone,
{
    let mut results: Vec<Result<O::Answer, TierError>> =
        (0..keys.len()).map(|_| Err(TierError::Down)).collect();
    let mut batches = match router {
        Router::One(link) => alone(link, keys.len()),
        Router::Cluster(_) => grouped(router, keys, &Pending::all(keys.len())),
    };
    for round in 0..ROUNDS_MAX {
        let mut pending = Vec::new();
        let mut is_lost = false;
        for (batch, outcomes) in batches.iter().zip(send_all(&batches, operation).await) {
            for (group, outcome) in batch.groups.iter().zip(outcomes) {
                let Some(sending) = settle(group, outcome, &mut results) else { continue };
                is_lost |= sending.redirect.as_ref().is_some_and(|redirect| redirect.kind == Turn::Moved);
                let asked_host = batch.live.host();
                pending.extend(group.members.iter().map(|member| Pending {
                    member: *member,
                    sending: sending.clone(),
                    asked_host: asked_host.to_owned(),
                }));
            }
        }
        if pending.is_empty() {
            break;
        }
        if is_lost && round > 0 {
            router.next_map().await;
        } else if is_lost {
            router.doubt();
        }
        batches = grouped(router, keys, &pending);
    }
    results
}

/// The short way for one key; none if it takes the long one.
async fn try_shortest<O: Operation>(
    router: &Router,
    slot: u16,
    operation: &O,
) -> Option<Result<O::Answer, TierError>> {
    let link = router.link(slot)?;
    let live = link.live()?;
    let value = match link.one(&live, operation.wish(0, &live)).await {
        Ok(value) => value,
        Err(error) => return Some(Err(error)),
    };
    match read(&link, &live, operation, &[0], value) {
        Outcome::Done(mut answers) => answers.pop().map(Ok),
        Outcome::Excused(answer) => Some(Ok(answer)),
        Outcome::Failed(error) => Some(Err(error)),
        Outcome::Elsewhere(_) | Outcome::Apart | Outcome::ScriptUnknown => None,
    }
}

/// Keys for a server that has them all.
fn alone(link: &Arc<Link>, keys: usize) -> Vec<Batch> {
    let Some(live) = link.live() else { return Vec::new() };
    let group =
        |begin| Group { members: (begin..keys.min(begin + GROUP_MAX)).collect(), sending: Sending::FIRST };
    let groups = (0..keys).step_by(GROUP_MAX).map(group).collect();
    vec![Batch { link: Arc::clone(link), live, groups }]
}

/// Enters what is final; gives what is to be done with the rest.
fn settle<A: Clone>(
    group: &Group,
    outcome: Outcome<A>,
    results: &mut [Result<A, TierError>],
) -> Option<Sending> {
    let mut each = |answer: Result<A, TierError>| {
        for member in &group.members {
            results[*member] = answer.clone();
        }
    };
    match outcome {
        Outcome::Done(answers) => {
            for (member, answer) in group.members.iter().zip(answers) {
                results[*member] = Ok(answer);
            }
            None
        }
        Outcome::Excused(answer) => {
            each(Ok(answer));
            None
        }
        Outcome::Failed(error) => {
            each(Err(error));
            None
        }
        // Counts as failed unless the next round does better.
        Outcome::Elsewhere(redirect) => {
            each(Err(TierError::Failed));
            // Before Redis 7 one key that has moved sends all of them on, and those that have not would be changed where
            // nobody looks yet.
            let is_of_all = group.members.len() == 1 || redirect.kind == Turn::Moved;
            let company = if redirect.kind == Turn::Ask { Company::None } else { Company::Welcome };
            let redirect = Some(redirect).filter(|_| is_of_all);
            Some(Sending { by: group.sending.by, company, redirect })
        }
        Outcome::Apart => {
            each(Err(TierError::Failed));
            (group.members.len() > 1).then_some(Sending {
                by: group.sending.by,
                company: Company::None,
                redirect: None,
            })
        }
        Outcome::ScriptUnknown => {
            each(Err(TierError::Failed));
            let is_first = group.sending.by == By::Hash;
            is_first.then(|| Sending { by: By::Text, ..group.sending.clone() })
        }
    }
}

/// Sorts keys by server, and by what may stand in one command. Keys without a server are left out.
fn grouped(router: &Router, keys: &Keys, pending: &[Pending]) -> Vec<Batch> {
    let mut batches = Vec::<Batch>::with_capacity(1);
    // Of each batch, the group that a slot's keys go to. A server alone takes keys of all slots.
    let mut open = AHashMap::<(usize, u16, By), usize>::new();
    for Pending { member, sending, asked_host } in pending {
        let Sending { by, company, redirect } = sending;
        let slot = keys.slot(*member);
        let named = redirect.as_ref().and_then(|redirect| router.link_at(&place(redirect, asked_host)));
        // Whoever sends a caller on for this once has nothing more to say.
        let owner = || if sending.is_asking() { None } else { router.link(slot) };
        let Some(link) = named.or_else(owner) else { continue };
        let number = batches.iter().position(|batch| Arc::ptr_eq(&batch.link, &link)).or_else(|| {
            let live = link.live()?;
            batches.push(Batch { link, live, groups: Vec::with_capacity(1) });
            Some(batches.len() - 1)
        });
        let Some(number) = number else { continue };
        let groups = &mut batches[number].groups;
        let slot = if router.is_cluster() { slot } else { 0 };
        let begin = || Group { members: Vec::with_capacity(1), sending: sending.clone() };
        let mut at = groups.len();
        if *company == Company::None {
            groups.push(begin());
        } else {
            let last = open.entry((number, slot, *by)).or_insert(usize::MAX);
            if groups.get(*last).is_none_or(|group| group.members.len() == GROUP_MAX) {
                *last = groups.len();
                groups.push(begin());
            }
            at = *last;
        }
        groups[at].members.push(*member);
    }
    batches
}

fn place(redirect: &Redirect, asked_host: &str) -> Place {
    let host = if redirect.host.is_empty() { asked_host } else { &redirect.host };
    (host.to_owned(), redirect.port)
}

async fn send_all<O: Operation>(batches: &[Batch], operation: &O) -> Vec<Vec<Outcome<O::Answer>>> {
    match batches {
        [batch] => vec![send(batch, operation).await],
        batches => join_all(batches.iter().map(|batch| send(batch, operation))).await,
    }
}

async fn send<O: Operation>(batch: &Batch, operation: &O) -> Vec<Outcome<O::Answer>> {
    let Batch { link, live, groups } = batch;
    let mut commands = Vec::with_capacity(groups.len());
    for group in groups {
        if group.sending.is_asking() {
            commands.push(redis::cmd("ASKING"));
        }
        commands.push(operation.command(&group.members, live, group.sending.by));
    }
    let mut values = match link.many(live, commands).await {
        Ok(values) => values.into_iter(),
        Err(error) => return groups.iter().map(|_| Outcome::Failed(error)).collect(),
    };
    let outcome = |group: &Group| {
        if group.sending.is_asking() {
            values.next();
        }
        let value = values.next()?;
        Some(read(link, live, operation, &group.members, value))
    };
    let outcomes = groups.iter().map(outcome);
    outcomes.map(|outcome| outcome.unwrap_or(Outcome::Failed(TierError::Failed))).collect()
}

fn read<O: Operation>(
    link: &Link,
    live: &Arc<Live>,
    operation: &O,
    members: &[usize],
    value: Value,
) -> Outcome<O::Answer> {
    let Value::ServerError(error) = &value else {
        let answers = operation.answers(members, live, value);
        let answers = answers.filter(|answers| answers.len() == members.len());
        return answers.map_or(Outcome::Failed(TierError::Failed), Outcome::Done);
    };
    let code = code_of(error);
    link.heed(live, code);
    if code == "NOSCRIPT" {
        return Outcome::ScriptUnknown;
    }
    if code == "TRYAGAIN" {
        return Outcome::Apart;
    }
    if let Some(redirect) = Redirect::from_error(error) {
        return Outcome::Elsewhere(redirect);
    }
    if let Some(answer) = operation.excuse(code) {
        return Outcome::Excused(answer);
    }
    tracing::debug!(code, "redis refused a command");
    Outcome::Failed(TierError::Failed)
}
