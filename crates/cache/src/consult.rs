//! The shared tiers' part in loads, for one key or many: ask them in their order, claim what they do not have, and
//! judge what they have by what this node knows to be void.
//! Their failures are counted and otherwise pass for a miss. Never asks them about a key that this node has changed
//! and they have not been told of yet. Called by `read`, `batch` and `load`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    CacheKey, Policy, Version,
    answer::Answer,
    clock::micros,
    judge::{Asker, Judged, Terms, judge},
    lead::{Held, Lead, Purpose},
    patience::Patience,
    stats::count,
    store::Store,
    tier::{Claim, Found, Over, Payload, Settlement, TierError, Token},
    tier_side::TierSide,
    write_back::Writing,
};

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
    /// Where the fallback lies as it is, and only needs another life.
    pub(crate) lies_in: Option<Record>,
    /// Somebody asks for a version: the load may fail for the floor alone, which others do not need.
    pub(crate) is_wished: bool,
}

/// What a tier has of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) tier: usize,
    pub(crate) terms: Terms,
}

/// What is known of one key on the way down the tiers.
struct Quest<V> {
    token: Token,
    floor: Version,
    /// True if a tier has told its floor.
    is_aided: bool,
    fallback: Option<Answer<V>>,
    /// The record that is the fallback as it is.
    lies_in: Option<Record>,
    over: Over,
    /// Another node has claimed it.
    is_held: bool,
    found: Option<(Answer<V>, Payload)>,
    /// Set on this node and not written yet: nobody else knows of it.
    unwritten: Option<Answer<V>>,
}

/// Asks the tiers from `first_tier` on about every key that is led, and says of each what is to be done. Takes up what it
/// finds from lower tiers into the ones above.
pub(crate) async fn consult<K: CacheKey, V: Clone + Send + Sync + 'static>(
    leads: &mut [Lead<K, V>],
    first_tier: usize,
) -> Vec<Verdict<V>> {
    let Some(first) = leads.first() else { return vec![] };
    let store = Arc::clone(&first.store);
    let mut quests: Vec<Quest<V>> = leads.iter().map(Quest::begin).collect();
    for index in first_tier..store.fleet.tiers.len() {
        ask_tier(&store, index, leads, &mut quests).await;
    }
    let mut taken_up = Vec::new();
    let verdicts =
        leads.iter_mut().zip(quests).map(|(lead, quest)| quest.verdict(lead, &mut taken_up)).collect();
    crate::write_back::spawn(&store.fleet, taken_up);
    verdicts
}

/// As `consult`, of one key, from the first tier on.
pub(crate) async fn consult_one<K: CacheKey, V: Clone + Send + Sync + 'static>(
    lead: &mut Lead<K, V>,
) -> Verdict<V> {
    let store = Arc::clone(&lead.store);
    let mut quest = Quest::begin(lead);
    for index in 0..store.fleet.tiers.len() {
        if quest.is_answered() {
            break;
        }
        ask_one(&store, index, lead, &mut quest).await;
    }
    let mut taken_up = Vec::new();
    let verdict = quest.verdict(lead, &mut taken_up);
    crate::write_back::spawn(&store.fleet, taken_up);
    verdict
}

/// What is claimed at first, of each tier anew: that what one has will not do says nothing of the next. Who refreshes looks
/// first: another node may have done so, and then nothing is loaded.
fn over_of(purpose: Purpose) -> Over {
    match purpose {
        // Until what is loaded lies there, nobody is to find what was there before.
        Purpose::Reload => Over::Value,
        Purpose::Renew => Over::Ahead,
        Purpose::Read | Purpose::Peek | Purpose::Refresh | Purpose::Reflect | Purpose::Adopt => Over::Nothing,
    }
}

/// The part of a life by which two lives of one value may differ because of the trips to where it lies.
const LIFE_SLACK: f64 = 0.125;

/// True if a value of a tier lives on so much longer than what this node has that it was loaded later, and was not only
/// given another life by chance.
pub(crate) fn is_later<V>(policy: &Policy, found: &Answer<V>, known: Option<&Answer<V>>) -> bool {
    let part = policy.jitter.clamp(0.0, 1.0) * 2.0 + LIFE_SLACK;
    let Some(known) = known else { return true };
    // Its own life may be much shorter than the policy's: the loader says so.
    let own = Duration::from_micros(known.life.expires_us.saturating_sub(known.life.loaded_us));
    let slack = policy.l1_ttl.min(policy.ttl).min(own).as_secs_f64() * part;
    let slack_us = micros(Duration::try_from_secs_f64(slack).unwrap_or(Duration::MAX));
    found.life.expires_us > known.life.expires_us.saturating_add(slack_us)
}

impl<V: Clone> Quest<V> {
    fn begin<K: CacheKey>(lead: &Lead<K, V>) -> Self {
        Self {
            token: Token::random(),
            floor: Version::NONE,
            is_aided: false,
            fallback: lead.flight.fallback().cloned(),
            lies_in: None,
            over: over_of(lead.purpose),
            is_held: false,
            found: None,
            unwritten: lead.unwritten(),
        }
    }

    /// What is to be done with a key that all tiers were asked about.
    fn verdict<K: CacheKey>(self, lead: &mut Lead<K, V>, taken_up: &mut Vec<Writing>) -> Verdict<V> {
        if let Some(answer) = self.unwritten {
            return Verdict::Found(answer);
        }
        if let Some((answer, payload)) = self.found {
            // Only tiers above the one that had it hold a claim.
            if !lead.held.is_empty() {
                let settlement = Settlement::Value { bytes: payload.bytes, lifetime: payload.remaining };
                taken_up.push(Writing::of(lead, settlement, answer.life.grace()));
            }
            return Verdict::Found(answer);
        }
        match self.fallback {
            Some(answer) if self.is_held => Verdict::Stale(Answer { is_stale: true, ..answer }),
            _ => Verdict::Load(self.plan(lead)),
        }
    }

    fn plan<K: CacheKey>(self, lead: &Lead<K, V>) -> Plan<V> {
        let now_us = lead.store.clock.now_us();
        let floors = &lead.store.floors;
        // Looked at before and after the floor is read: one that begins or ends in between may be in it.
        let is_wished = || floors.wishes.floor(lead.hash) != Version::NONE;
        let was_wished = is_wished();
        // A node that hears nothing does not know what a replica must have replayed.
        let is_deaf =
            lead.store.fleet.line.is_some() && now_us >= lead.store.fleet.horizon.trusted_until_us();
        // Who orders a load wants no copy, and no replica's either.
        let is_ordered = lead.purpose == Purpose::Reload;
        let own = match (is_deaf || is_ordered, self.is_aided) {
            (true, _) => Version::LATEST,
            (false, true) => floors.aided_floor(lead.hash, now_us),
            (false, false) => floors.unaided_floor(lead.hash, now_us),
        };
        let is_wished = was_wished || is_wished();
        Plan { floor: self.floor.max(own), fallback: self.fallback, lies_in: self.lies_in, is_wished }
    }
}

impl<V> Quest<V> {
    /// True if no further tier need be asked.
    fn is_answered(&self) -> bool {
        let is_seen_to = self.is_held && self.fallback.is_some();
        self.found.is_some() || self.unwritten.is_some() || is_seen_to
    }

    /// Who loads for the fleet is asked of the first tier again each time, and of no other.
    fn begin_look(&mut self, tier: usize) {
        self.is_held &= tier > 0;
    }

    /// Unless something newer is there to fall back on.
    fn fall_back_on(&mut self, answer: Answer<V>, lies_in: Option<Record>) {
        if !answer.is_older_than(self.fallback.as_ref()) {
            (self.fallback, self.lies_in) = (Some(answer), lies_in);
        }
    }

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
    let mut wanted: Vec<usize> = (0..leads.len()).filter(|at| !quests[*at].is_answered()).collect();
    wanted.iter().for_each(|at| quests[*at].over = over_of(leads[*at].purpose));
    loop {
        wanted.retain(|at| may_ask(store, tier, &leads[*at]));
        let mut again = Vec::new();
        // Before any is asked, because an answer changes what is asked next.
        let groups = [Over::Nothing, Over::Ahead, Over::Value, Over::Poison].map(|over| {
            let group = wanted.iter().copied().filter(|at| quests[*at].over == over);
            (over, group.collect::<Vec<usize>>())
        });
        for (over, group) in groups {
            ask_group(store, index, &group, over, leads, quests, &mut again).await;
        }
        let is_waiting = index == 0 && again.iter().any(|at| quests[*at].is_held);
        if is_waiting {
            let patience = patience.get_or_insert(Patience::of(&leads[0].policy));
            // Nobody who starts to read now will get a voided load's result: no point in waiting.
            again.retain(|at| !quests[*at].is_held || !leads[*at].flight.is_overtaken());
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

/// As `ask_tier`, about one key.
async fn ask_one<K: CacheKey, V: Clone + Send + Sync + 'static>(
    store: &Store<K, V>,
    index: usize,
    lead: &mut Lead<K, V>,
    quest: &mut Quest<V>,
) {
    let tier = &store.fleet.tiers[index];
    let mut patience: Option<Patience> = None;
    quest.over = over_of(lead.purpose);
    loop {
        if !may_ask(store, tier, lead) {
            return;
        }
        let asked = Asked { store, tier, index, asked_us: store.clock.now_us(), token: quest.token };
        let claim = asked.claim(lead, quest.over);
        asked.is_sent(lead, claim);
        let found = tier.read_one(&lead.key_bytes, claim).await;
        Asked::is_answered(lead, found.as_ref());
        let Ok(found) = found else {
            store.observer.tier_failed(&store.name, tier.name());
            return;
        };
        quest.begin_look(index);
        if take_answer(&asked, lead, quest, found) == Next::GoOn {
            return;
        }
        let is_waiting = index == 0 && quest.is_held;
        // Nobody who starts to read now will get a voided load's result: no point in waiting.
        if is_waiting && lead.flight.is_overtaken() {
            return;
        }
        let patience = patience.get_or_insert(Patience::of(&lead.policy));
        if is_waiting && !patience.pause().await {
            return;
        }
    }
}

/// True if what this tier says of the key is worth a question; counted if not.
fn may_ask<K: CacheKey, V: Clone>(store: &Store<K, V>, tier: &TierSide, lead: &Lead<K, V>) -> bool {
    let may_ask = tier.is_up() && store.fleet.trusts_tiers_with(&lead.key_bytes, lead.mark);
    if !may_ask {
        count(&tier.counters.bypassed);
    }
    may_ask
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
    let asked = Asked { store, tier, index, asked_us: store.clock.now_us(), token: quests[*first].token };
    let claim = asked.claim(&leads[*first], over);
    group.iter().for_each(|at| asked.is_sent(&mut leads[*at], claim));
    let answers = tier.read(&keys, claim).await;
    if answers.iter().any(Result::is_err) {
        store.observer.tier_failed(&store.name, tier.name());
    }
    for (at, found) in group.iter().zip(answers) {
        Asked::is_answered(&mut leads[*at], found.as_ref());
        let Ok(found) = found else { continue };
        let (lead, quest) = (&mut leads[*at], &mut quests[*at]);
        quest.begin_look(index);
        let next = take_answer(&asked, lead, quest, found);
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

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Asked<'_, K, V> {
    /// What is claimed on the way, if a loader may be called.
    fn claim(&self, lead: &Lead<K, V>, over: Over) -> Option<Claim> {
        // It outlives what a caller waits for, and the trip back. A load that takes longer is stored in process only: a
        // node that dies with a claim must not keep the others from loading for that long.
        let lease = lead.policy.load_timeout.saturating_add(self.tier.options.timeout.saturating_mul(2));
        lead.purpose.may_load().then_some(Claim { token: self.token, lease, over })
    }

    /// From now until the answer the claim may stand without anybody knowing, the lead's end included.
    fn is_sent(&self, lead: &mut Lead<K, V>, claim: Option<Claim>) {
        lead.asked = claim.map(|_| self.held());
    }

    /// What was answered, or never sent, is in no doubt.
    fn is_answered(lead: &mut Lead<K, V>, told: Result<&Found, &TierError>) {
        let asked = lead.asked.take();
        if matches!(told, Err(TierError::TimedOut | TierError::Failed)) {
            lead.doubtful.extend(asked);
        }
    }

    fn held(&self) -> Held {
        Held { tier: self.index, token: self.token }
    }

    fn judge(&self, lead: &Lead<K, V>, payload: &Payload) -> Judged<V> {
        let asker = Asker {
            key: &lead.key_bytes,
            policy: &lead.policy,
            mark: lead.mark,
            stamp: lead.flight.stamp,
            asked_us: self.asked_us,
            tier: self.index,
        };
        judge(self.store, &asker, payload, lead.idle())
    }
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
        Found::Value(payload) => match asked.judge(lead, &payload) {
            // It could not be claimed, and will not do.
            Judged::Fresh(..) if matches!(lead.purpose, Purpose::Reload | Purpose::Renew) => Next::GoOn,
            Judged::Fresh(answer, _)
                if lead.purpose == Purpose::Refresh
                    && !is_later(&lead.policy, &answer, quest.fallback.as_ref()) =>
            {
                quest.reclaim(Over::Ahead, may_claim)
            }
            Judged::Fresh(answer, _) if lead.is_too_old(&answer) => quest.reclaim(Over::Ahead, may_claim),
            Judged::Fresh(answer, _) => {
                counters.hit(answer.value.as_ref());
                quest.found = Some((answer, payload));
                Next::GoOn
            }
            Judged::Fallback(answer, terms) => {
                count(&counters.stale);
                quest.fall_back_on(answer, terms.map(|terms| Record { tier: asked.index, terms }));
                quest.reclaim(Over::Value, may_claim)
            }
            Judged::Poison => {
                count(&counters.poisoned);
                quest.reclaim(Over::Poison, may_claim)
            }
            Judged::Swept => {
                count(&counters.swept);
                quest.reclaim(Over::Poison, may_claim)
            }
            Judged::Void => quest.reclaim(Over::Poison, may_claim),
        },
        Found::Nothing => {
            count(&counters.misses);
            Next::GoOn
        }
        Found::Claimed { floor, fallback } => {
            if quest.over == Over::Nothing {
                count(&counters.misses);
            }
            lead.held.push(asked.held());
            learn(asked, lead, quest, floor, fallback);
            Next::GoOn
        }
        Found::Held { floor, fallback } => {
            count(&counters.held);
            learn(asked, lead, quest, floor, fallback);
            // Only the first tier decides who loads for the fleet, and nobody decides it for whom another's load will not do.
            quest.is_held |= asked.index == 0 && lead.purpose != Purpose::Reload;
            if asked.index > 0 || !quest.is_held || quest.fallback.is_some() {
                return Next::GoOn;
            }
            // What the other node has stored by then is another value: it is looked at before it is claimed over.
            quest.over = over_of(lead.purpose);
            Next::AskAgain
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
    let (answer, terms) = match asked.judge(lead, &payload) {
        // It is as good as it was, but somebody has found that it is to be loaded anew.
        Judged::Fresh(answer, terms)
            if answer.value.is_some() && answer.life.grace_ends_us > answer.life.expires_us =>
        {
            (Answer { life: answer.life.as_fallback(0), is_stale: true, ..answer }, Some(terms))
        }
        Judged::Fallback(answer, terms) => (answer, terms),
        Judged::Poison => return count(&asked.tier.counters.poisoned),
        Judged::Swept => return count(&asked.tier.counters.swept),
        Judged::Fresh(..) | Judged::Void => return,
    };
    if quest.fallback.is_none() {
        quest.fall_back_on(answer, terms.map(|terms| Record { tier: asked.index, terms }));
    }
}
