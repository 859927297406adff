//! Exchanging claims for what was loaded: one call per tier for however many keys. A claim that was voided
//! meanwhile is refused by the tier, and nothing is stored. Called by `load`, `batch` and `consult`.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;

use crate::{
    CacheKey,
    extend::Extension,
    fleet::Fleet,
    flight::lock,
    lead::{Held, Lead},
    stats::count,
    tier::{Settlement, Stored, Token},
};

/// What becomes of the claims on one key.
#[derive(Debug)]
pub(crate) struct Writing {
    key: Bytes,
    held: Vec<Held>,
    /// Perhaps held, and released: under which floor they would stand is not known.
    doubtful: Vec<Held>,
    settlement: Settlement,
    /// The part of its lifetime that is grace.
    grace: Duration,
    /// Told to the other nodes once no tier has refused.
    extension: Option<Extension>,
}

impl Writing {
    /// Takes the claims off the lead.
    pub(crate) fn of<K: CacheKey, V: Clone>(
        lead: &mut Lead<K, V>,
        settlement: Settlement,
        grace: Duration,
    ) -> Self {
        Self {
            key: lead.key_bytes.clone(),
            held: std::mem::take(&mut lead.held),
            doubtful: std::mem::take(&mut lead.doubtful),
            settlement,
            grace,
            extension: None,
        }
    }

    /// True if there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.has_no_claims() && self.extension.is_none()
    }

    fn has_no_claims(&self) -> bool {
        self.held.is_empty() && self.doubtful.is_empty()
    }

    /// Of those that are perhaps held, if there are any.
    pub(crate) fn of_doubtful(&self) -> Option<Self> {
        let doubtful = self.doubtful.clone();
        let (key, grace) = (self.key.clone(), self.grace);
        let release =
            Self { key, held: vec![], doubtful, settlement: Settlement::Release, grace, extension: None };
        (!release.doubtful.is_empty()).then_some(release)
    }

    pub(crate) fn extending(self, extension: Option<Extension>) -> Self {
        Self { extension, ..self }
    }
}

/// Carries them out in the background.
pub(crate) fn spawn(fleet: &Arc<Fleet>, mut writings: Vec<Writing>) {
    writings.retain(|writing| !writing.has_no_claims());
    if !writings.is_empty() {
        let fleet = Arc::clone(fleet);
        drop(tokio::spawn(async move { write_back(&fleet, writings).await }));
    }
}

/// Carries them out. A tier that fails is not asked again: the lease ends by itself.
pub(crate) async fn write_back(fleet: &Fleet, writings: Vec<Writing>) {
    let refused = Mutex::<HashSet<Bytes>>::default();
    let refused = &refused;
    let tiers = fleet.tiers.iter().enumerate().map(|(index, tier)| {
        let mut claims: Vec<(Bytes, Token, Settlement)> = Vec::new();
        for writing in &writings {
            let held = writing.held.iter().filter(|held| held.tier == index);
            claims.extend(held.map(|held| (writing.key.clone(), held.token, fitting(fleet, index, writing))));
            let doubtful = writing.doubtful.iter().filter(|held| held.tier == index);
            claims.extend(doubtful.map(|held| (writing.key.clone(), held.token, Settlement::Release)));
        }
        async move {
            if claims.is_empty() {
                return;
            }
            let stored = tier.settle(&claims).await;
            for ((key, _, settlement), stored) in claims.iter().zip(stored) {
                match (settlement, stored) {
                    (Settlement::Release | Settlement::Outdate, _) | (_, Err(_)) => {}
                    (_, Ok(Stored::Yes)) => count(&tier.counters.stored),
                    (_, Ok(Stored::Refused)) => {
                        count(&tier.counters.refused);
                        lock(refused).insert(key.clone());
                    }
                }
            }
        }
    });
    join_all(tiers).await;
    let refused = std::mem::take(&mut *lock(refused));
    for Writing { key, extension, .. } in writings {
        // What has overtaken it is on its way to the others.
        if let Some(extension) = extension.filter(|_| !refused.contains(&key) && !fleet.outbox.blocks(&key)) {
            fleet.extend(extension);
        }
    }
}

/// The settlement as this tier takes it.
fn fitting(fleet: &Fleet, index: usize, writing: &Writing) -> Settlement {
    let options = &fleet.tiers[index].options;
    // What voids the claim is on its way.
    if fleet.outbox.blocks(&writing.key) {
        return Settlement::Outdate;
    }
    let lifetime_max = options.ttl.saturating_add(writing.grace);
    match writing.settlement.clone() {
        Settlement::Value { bytes, .. } if bytes.len() > options.value_bytes_max => {
            count(&fleet.tiers[index].counters.oversize);
            Settlement::Outdate
        }
        Settlement::Value { bytes, lifetime } => {
            Settlement::Value { bytes, lifetime: lifetime.min(lifetime_max) }
        }
        Settlement::Extend { lifetime } => Settlement::Extend { lifetime: lifetime.min(lifetime_max) },
        settlement @ (Settlement::Release | Settlement::Outdate) => settlement,
    }
}
