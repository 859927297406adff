//! The rules themselves: pure functions from facts to reasons. A reason is a sentence fragment that names what the rule
//! saw and its bound; it never holds a card number.

use uuid::Uuid;

use super::blocklist::Blocklist;
use crate::ids::{AccountId, MerchantId};

/// The score of a payment that a rule rejects outright.
pub(super) const SCORE_MAX: i16 = 1_000;

/// What the rules look at, taken once per payment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'payment> {
    /// Who asks for it.
    pub merchant: MerchantId,
    /// Digest of the key that it is asked for under: sent again, it is the same payment.
    pub key: Uuid,
    /// Absent when a card pays.
    pub from: Option<AccountId>,
    /// Receiver.
    pub to: AccountId,
    /// Minor units.
    pub amount: i64,
    /// First six digits of the card.
    pub card_bin: Option<&'payment str>,
}

pub(super) fn blocked(facts: &Facts<'_>, blocklist: &Blocklist) -> Vec<String> {
    if blocklist.is_empty() {
        return Vec::new();
    }
    let accounts = facts.from.into_iter().chain([facts.to]).map(|id| format!("account:{id}"));
    let card = facts.card_bin.map(|bin| format!("bin:{bin}"));
    accounts
        .chain(card)
        .filter(|entry| blocklist.contains(entry))
        .map(|entry| format!("{entry} is blocked"))
        .collect()
}

pub(super) fn amount_above(facts: &Facts<'_>, amount_max: i64) -> Option<String> {
    (facts.amount > amount_max).then(|| format!("amount {} is above {amount_max}", facts.amount))
}

pub(super) fn too_many(count: u64, count_max: u64) -> Option<String> {
    (count > count_max).then(|| format!("{count} payments in the window, at most {count_max}"))
}
