//! What can be made to go wrong, when, and how often.
//! Decides only; the server carries the decision out. Random faults come from the simulator's seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Faults that can be set at once; the oldest is forgotten beyond it.
const FAULTS_MAX: usize = 64;
/// What an amount ending in 79 waits.
const SLOW: Duration = Duration::from_secs(3);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Every operation.
    Any,
    /// Authorize and capture.
    Purchase,
    /// Hold.
    Authorize,
    /// Take held money.
    Capture,
    /// Undo.
    Void,
    /// Give back.
    Refund,
    /// Details, lists and searches.
    Lookup,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The reply comes later; nothing else changes.
    Delay {
        /// How much later.
        delay_ms: u64,
    },
    /// The connection is closed before the request has any effect.
    DropBefore,
    /// The effect happens and the connection is closed without a reply.
    DropAfter,
    /// HTTP 500 with an HTML body; no effect.
    Http500,
    /// HTTP 502 with an HTML body; the effect happens.
    Http502,
    /// The effect happens; the reply's JSON is cut in half.
    Truncated,
    /// The effect happens; the reply is 10 MB of spaces.
    HugeBody,
    /// Too busy (E00053, or 503 with `Retry-After`); no effect.
    Busy,
    /// A charge is declined.
    Decline,
    /// A charge is held for review.
    Hold,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The next so many requests of the operation.
    Next(u32),
    /// Each request with this chance, 0 to 1.
    Probability(f64),
}

/// One fault, as `POST /control/faults` takes it:
/// `{"operation":"purchase","kind":"drop_after","when":{"next":1}}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Which requests.
    pub operation: Operation,
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// When.
    pub when: Trigger,
}

#[derive(Debug)]
pub(super) struct Faults {
    set: Vec<Fault>,
    random: StdRng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { set: Vec::new(), random: StdRng::seed_from_u64(seed) }
    }

    pub(super) fn set(&mut self, fault: Fault) {
        if self.set.len() == FAULTS_MAX {
            self.set.remove(0);
        }
        self.set.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.set.clear();
    }

    pub(super) fn all(&self) -> &[Fault] {
        &self.set
    }

    /// The first fault that strikes this request.
    pub(super) fn strike(&mut self, operation: Operation) -> Option<FaultKind> {
        let random = &mut self.random;
        let struck = self.set.iter_mut().find_map(|fault| {
            if fault.operation != Operation::Any && fault.operation != operation {
                return None;
            }
            let strikes = match &mut fault.when {
                Trigger::Next(left) => left.checked_sub(1).map(|rest| *left = rest).is_some(),
                Trigger::Probability(chance) => random.random::<f64>() < *chance,
            };
            strikes.then_some(fault.kind)
        });
        self.set.retain(|fault| fault.when != Trigger::Next(0));
        struck
    }
}

/// The fault that the last two digits of an amount ask for.
pub(super) fn of_amount(digits: &str) -> Option<FaultKind> {
    match digits.len().checked_sub(2).and_then(|start| digits.get(start..)) {
        Some("77") => Some(FaultKind::DropAfter),
        Some("78") => Some(FaultKind::DropBefore),
        Some("79") => {
            Some(FaultKind::Delay { delay_ms: u64::try_from(SLOW.as_millis()).unwrap_or(u64::MAX) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, FaultKind, Faults, Operation, Trigger};

    #[test]
    fn next_faults_strike_their_operation_so_often() {
        let mut faults = Faults::new(1);
        faults.set(Fault { operation: Operation::Void, kind: FaultKind::Http500, when: Trigger::Next(2) });
        assert_eq!(faults.strike(Operation::Purchase), None);
        assert_eq!(faults.strike(Operation::Void), Some(FaultKind::Http500));
        assert_eq!(faults.strike(Operation::Void), Some(FaultKind::Http500));
        assert_eq!(faults.strike(Operation::Void), None);
        assert!(faults.all().is_empty());
    }

    #[test]
    fn random_faults_repeat_with_their_seed() {
        let draw = |seed| {
            let mut faults = Faults::new(seed);
            let when = Trigger::Probability(0.5);
            faults.set(Fault { operation: Operation::Any, kind: FaultKind::DropAfter, when });
            (0..64).map(|_| faults.strike(Operation::Refund).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn wire_form_of_a_fault_is_flat() {
        let json = r#"{"operation":"purchase","kind":"delay","delay_ms":5,"when":{"probability":0.5}}"#;
        let fault: Fault = serde_json::from_str(json).unwrap();
        assert_eq!(fault.kind, FaultKind::Delay { delay_ms: 5 });
        assert_eq!(serde_json::to_string(&fault).unwrap(), json);
    }
}
