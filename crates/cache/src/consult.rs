//! The shared tiers' part in loads, for one key or many: ask them in their order, claim what they do not have, and
//! judge what they have by what this node knows to be void.
//! Their failures are counted and otherwise pass for a miss. Never asks them about a key that this node has changed
//! and they have not been told of yet. Called by `read`, `batch` and `load`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    CacheKey, Policy, Version,
    answer::{Answer, Origin},
    clock::micros,
    codec::Opened,
    epoch::Left,
    lead::{Held, Lead, Purpose},
    life::{Life, Span, State},
    local::Traits,
    stats::count,
    store::Store,
    tier::{Claim, Found, Over, Payload, Settlement, Token},
    tier_side::TierSide,
    write_back::Writing,
};

/// First pause before asking again whether the other node has finished; it doubles each time.
const HELD_PAUSE_MIN: Duration = Duration::from_millis(2);

/// What the tiers say of one key.
pub(crate) enum Verdict<V> {
    /// Here it is.
    Found(Answer<V>),
    /// Somebody else loads it, and this will do until then.
    Stale(Answer<V>),
    /// Call the loader.
    Load(Plan<V>),
}

/// What a load is to reflect and may fall back on.
pub(crate) struct Plan<V> {
    pub(crate) floor: Version,
    pub(crate) fallback: Option<Answer<V>>,
    /// True if the fallback lies in the tiers as it is and only needs another life there.
    pub(crate) may_extend: bool,
}

/// What is known of one key on the way down the tiers.
struct Quest<V> {
    token: Token,
    floor: Version,
    /// True if a tier has told its floor.
    is_aided: bool,
    fallback: Option<Answer<V>>,
    may_extend: bool,
    over: Over,
    /// Another node has claimed it.
    is_held: bool,
    found: Option<(Answer<V>, Payload)>,
    /// Set on this node and not written yet: nobody else knows of it.
    unwritten: Option<Answer<V>>,
}

/// Asks the tiers about every key that is led, and says of each what is to be done. Takes up what it finds from lower
/// tiers into the ones above.
pub(crate) async fn consult<K: CacheKey, V: Clone + Send + Sync + 'static>(
    leads: &mut [Lead<K, V>],
) -> Vec<Verdict<V>> {
    let Some(first) = leads.first() else { return vec![] };
    let store = Arc::clone(&first.store);
    let mut quests: Vec<Quest<V>> = leads.iter().map(Quest::begin).collect();
    for index in 0..store.fleet.tiers.len() {
        ask_tier(&store, index, leads, &mut quests).await;
    }
    let mut taken_up = Vec::new();
    let verdicts = leads.iter_mut().zip(quests).map(|(lead, quest)| {
        if let Some(answer) = quest.unwritten {
            return Verdict::Found(answer);
        }
        if let Some((answer, payload)) = quest.found {
            let settlement = Settlement::Value { bytes: payload.bytes, lifetime: payload.remaining };
            // Only tiers above the one that had it hold a claim.
            taken_up.push(Writing::of(lead, settlement));
            return Verdict::Found(answer);
        }
        if quest.is_held
            && let Some(answer) = quest.fallback
        {
            return Verdict::Stale(Answer { is_stale: true, ..answer });
        }
        Verdict::Load(quest_plan(lead, quest.floor, quest.is_aided, quest.fallback, quest.may_extend))
    });
    let verdicts = verdicts.collect();
    crate::write_back::spawn(&store.fleet, taken_up);
    verdicts
}

fn quest_plan<K: CacheKey, V: Clone>(
    lead: &Lead<K, V>,
    floor: Version,
    is_aided: bool,
    fallback: Option<Answer<V>>,
    may_extend: bool,
) -> Plan<V> {
    let now_us = lead.store.clock.now_us();
    let floors = &lead.store.floors;
    // A node that hears nothing does not know what a replica must have replayed.
    let is_deaf = lead.store.fleet.line.is_some() && now_us >= lead.store.fleet.horizon.trusted_until_us();
    let own = match (is_deaf, is_aided) {
        (true, _) => Version::LATEST,
        (false, true) => floors.aided_floor(lead.hash, now_us),
        (false, false) => floors.unaided_floor(lead.hash, now_us),
    };
    Plan { floor: floor.max(own), fallback, may_extend }
}

/// Whoever loads ahead of time claims what is there.
fn over_of(purpose: Purpose) -> Over {
    match purpose {
        Purpose::Refresh | Purpose::Renew => Over::Value,
        Purpose::Read | Purpose::Peek | Purpose::Adopt => Over::Nothing,
    }
}

impl<V: Clone> Quest<V> {
    fn begin<K: CacheKey>(lead: &Lead<K, V>) -> Self {
        let over = over_of(lead.purpose);
        let floor = Version::NONE;
        let fallback = lead.flight.fallback.get().cloned();
        Self {
            token: Token::random(),
            floor,
            is_aided: false,
            fallback,
            may_extend: false,
            over,
            is_held: false,
            found: None,
            unwritten: lead.unwritten(),
        }
    }
}

impl<V> Quest<V> {
    /// Claims what is there, because it will not do, unless that was tried.
    fn reclaim(&mut self, over: Over, may_claim: bool) -> Next {
        if !may_claim || self.over == over || self.over == Over::Poison {
            return Next::GoOn;
        }
        self.over = over;
        Next::AskAgain
    }
}

/// Asks one tier about the keys that are still wanted, again while another node holds one, within `lease_wait`.
async fn ask_tier<K: CacheKey, V: Clone + Send + Sync + 'static>(
    store: &Store<K, V>,
    index: usize,
    leads: &mut [Lead<K, V>],
    quests: &mut [Quest<V>],
) {
    let tier = &store.fleet.tiers[index];
    let mut patience: Option<Patience> = None;
    let is_wanted = |at: &usize| quests[*at].found.is_none() && quests[*at].unwritten.is_none();
    let mut wanted: Vec<usize> = (0..leads.len()).filter(is_wanted).collect();
    loop {
        wanted.retain(|at| {
            let lead = &leads[*at];
            let is_asked = tier.is_up() && store.fleet.trusts_tiers_with(&lead.key_bytes, lead.mark);
            if !is_asked {
                count(&tier.counters.bypassed);
            }
            is_asked
        });
        let mut again = Vec::new();
        // Before any is asked, because an answer changes what is asked next.
        let groups = [Over::Nothing, Over::Value, Over::Poison].map(|over| {
            let group = wanted.iter().copied().filter(|at| quests[*at].over == over);
            (over, group.collect::<Vec<usize>>())
        });
        for (over, group) in groups {
            ask_group(store, index, &group, over, leads, quests, &mut again).await;
        }
        let is_waiting = again.iter().any(|at| quests[*at].is_held);
        if is_waiting {
            let limit = leads[0].policy.lease_wait;
            let patience = patience.get_or_insert(Patience { left: limit, pause: HELD_PAUSE_MIN });
            // Nobody who starts to read now will get a voided load's result: no point in waiting.
            again.retain(|at| !quests[*at].is_held || !leads[*at].flight.is_voided());
            if !patience.pause().await {
                again.retain(|at| !quests[*at].is_held);
            }
        }
        if again.is_empty() {
            return;
        }
        wanted = again;
    }
}

/// One round trip for keys of which the same may be claimed.
async fn ask_group<K: CacheKey, V: Clone + Send + Sync + 'static>(
    store: &Store<K, V>,
    index: usize,
    group: &[usize],
    over: Over,
    leads: &mut [Lead<K, V>],
    quests: &mut [Quest<V>],
    again: &mut Vec<usize>,
) {
    let Some(first) = group.first() else { return };
    let tier = &store.fleet.tiers[index];
    let keys: Vec<Bytes> = group.iter().map(|at| leads[*at].key_bytes.clone()).collect();
    let policy = &leads[*first].policy;
    // It outlives what a caller waits for, and the trip back. A load that takes longer is stored in process only: a
    // node that dies with a claim must not keep the others from loading for that long.
    let lease = policy.load_timeout.saturating_add(tier.options.timeout * 2);
    let token = quests[*first].token;
    let asked_us = store.clock.now_us();
    let claim = leads[*first].purpose.may_load().then_some(Claim { token, lease, over });
    let Ok(answers) = tier.read(&keys, claim).await else {
        store.observer.tier_failed(&store.name, tier.kind());
        return;
    };
    for (at, found) in group.iter().zip(answers) {
        let (lead, quest) = (&mut leads[*at], &mut quests[*at]);
        quest.is_held = false;
        let next = take_answer(&Asked { store, tier, index, asked_us, token }, lead, quest, found);
        if next == Next::AskAgain {
            again.push(*at);
        }
    }
}

/// What was asked, and where.
struct Asked<'a, K, V> {
    store: &'a Store<K, V>,
    tier: &'a TierSide,
    index: usize,
    asked_us: u64,
    token: Token,
}

/// Whether the same tier is asked again about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    AskAgain,
}

fn take_answer<K: CacheKey, V: Clone + Send + Sync + 'static>(
    asked: &Asked<'_, K, V>,
    lead: &mut Lead<K, V>,
    quest: &mut Quest<V>,
    found: Found,
) -> Next {
    let counters = &asked.tier.counters;
    let may_claim = lead.purpose.may_load();
    match found {
        Found::Value(payload) => match read_payload(asked, lead, &payload) {
            Read::Fresh(answer) => {
                count(&counters.hits);
                quest.found = Some((answer, payload));
                Next::GoOn
            }
            Read::Fallback(answer, extends) => {
                count(&counters.stale);
                quest.fallback = Some(answer);
                quest.may_extend = extends;
                quest.reclaim(Over::Value, may_claim)
            }
            Read::Void => quest.reclaim(Over::Poison, may_claim),
        },
        Found::Nothing => {
            count(&counters.misses);
            Next::GoOn
        }
        Found::Claimed { floor, fallback } => {
            if quest.over == Over::Nothing {
                count(&counters.misses);
            }
            lead.held.push(Held { tier: asked.index, token: asked.token });
            learn(asked, lead, quest, floor, fallback);
            quest.over = over_of(lead.purpose);
            Next::GoOn
        }
        Found::Held { floor, fallback } => {
            count(&counters.held);
            learn(asked, lead, quest, floor, fallback);
            // Only the first tier decides who loads for the fleet.
            quest.is_held = asked.index == 0;
            let is_waiting = quest.is_held && quest.fallback.is_none();
            if is_waiting { Next::AskAgain } else { Next::GoOn }
        }
    }
}

fn learn<K: CacheKey, V: Clone + Send + Sync + 'static>(
    asked: &Asked<'_, K, V>,
    lead: &Lead<K, V>,
    quest: &mut Quest<V>,
    floor: Version,
    fallback: Option<Payload>,
) {
    let store = asked.store;
    // LATEST ends with the record in the tier, which is younger than this node's own record of it would be.
    if floor != Version::LATEST {
        store.floors.raise(lead.hash, floor, store.clock.now_us());
    }
    quest.floor = quest.floor.max(floor);
    quest.is_aided = true;
    let Some(payload) = fallback else { return };
    let (answer, may_extend) = match read_payload(asked, lead, &payload) {
        // It is as good as it was, but somebody has found that it is to be loaded anew.
        Read::Fresh(answer)
            if answer.value.is_some() && answer.life.grace_ends_us > answer.life.expires_us =>
        {
            (Answer { life: answer.life.as_fallback(0), is_stale: true, ..answer }, true)
        }
        Read::Fallback(answer, may_extend) => (answer, may_extend),
        Read::Fresh(_) | Read::Void => return,
    };
    if quest.fallback.is_none() {
        quest.may_extend = may_extend;
        quest.fallback = Some(answer);
    }
}

/// What bytes from a tier are.
enum Read<V> {
    Fresh(Answer<V>),
    /// Past its lifetime or expired by a sweep; whether it may be extended as it is.
    Fallback(Answer<V>, bool),
    Void,
}

fn read_payload<K: CacheKey, V: Clone + Send + Sync + 'static>(
    asked: &Asked<'_, K, V>,
    lead: &Lead<K, V>,
    payload: &Payload,
) -> Read<V> {
    let (store, counters) = (asked.store, &asked.tier.counters);
    let Some(codec) = &store.codec else { return Read::Void };
    let Ok(opened) = codec.open(&lead.key_bytes, &payload.bytes) else {
        count(&counters.poisoned);
        return Read::Void;
    };
    let sweeps = &store.fleet.sweeps;
    let tags: Box<[_]> = opened.tags.iter().map(|tag| sweeps.tags.intern(tag)).collect();
    let left = sweeps.left_there(&lead.key_bytes, &tags, opened.stamp);
    // Asked after the sweeps: by then they may be those of another order, which says nothing of this value.
    let is_ours = opened.incarnation == lead.mark.incarnation
        && opened.incarnation == store.fleet.horizon.mark().incarnation;
    let left = if is_ours { left } else { Left::Nothing };
    if left == Left::Nothing {
        count(&counters.swept);
        return Read::Void;
    }
    let traits =
        Traits { tags, version: opened.version, validator: opened.validator.clone(), idle: lead.idle() };
    let fresh_left = payload.remaining.saturating_sub(opened.grace);
    let is_fresh = left == Left::Whole && !fresh_left.is_zero();
    let life =
        life_of(&lead.policy, &opened, fresh_left, asked.asked_us, lead.flight.stamp, payload.remaining);
    // It was judged by what had been announced when the line was heard last.
    let loaded_us = match &store.fleet.line {
        Some(_) => life.loaded_us.min(store.fleet.horizon.vouched_us()),
        None => life.loaded_us,
    };
    let life = Life { loaded_us, ..life };
    let life = if is_fresh { life } else { life.as_fallback(0) };
    let answer = Answer {
        value: opened.value,
        life,
        traits: traits.shared(),
        origin: Origin::Tier(asked.index),
        is_stale: !is_fresh,
    };
    if is_fresh {
        return Read::Fresh(answer);
    }
    // The knowledge that nothing is there is no fallback.
    if answer.value.is_none() || opened.grace.is_zero() {
        return Read::Void;
    }
    Read::Fallback(answer, left == Left::Whole)
}

/// The life in process of a value of a tier: never beyond what the tier has left of it.
fn life_of<V>(
    policy: &Policy,
    opened: &Opened<V>,
    fresh_left: Duration,
    asked_us: u64,
    stamp: u64,
    remaining: Duration,
) -> Life {
    let span = match &opened.value {
        Some(_) => Span::of_value(policy, None),
        None => Span::of_nothing(policy, None),
    };
    let span = span.within(fresh_left, opened.grace);
    let life = Life::begin(policy, span, asked_us, asked_us, stamp);
    let ends_us = asked_us.saturating_add(micros(remaining));
    Life { grace_ends_us: life.grace_ends_us.min(ends_us).max(life.expires_us), state: State::Good, ..life }
}

/// Waiting for another node, in growing steps, within a bound.
struct Patience {
    left: Duration,
    pause: Duration,
}

impl Patience {
    /// Pauses once; false when the time is used up.
    async fn pause(&mut self) -> bool {
        let pause = self.pause.min(self.left);
        if pause.is_zero() {
            return false;
        }
        sleep(pause).await;
        self.left -= pause;
        self.pause *= 2;
        true
    }
}
