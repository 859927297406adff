//! Where timelines left the one before: what was committed beyond is not in their history. Known from servers that have said
//! where they stopped replaying when they were promoted, which they do until they are started again.
//! Fed by the monitors; asked for tokens of earlier timelines.

use std::sync::{Mutex, PoisonError};

use crate::node::{Facts, Role};
use crate::token::Token;

/// Forks that are remembered: the latest ones.
const FORKS_MAX: usize = 64;

/// The forks that servers have told of. Shared by all monitors of one `Db`.
#[derive(Debug, Default)]
pub(crate) struct Forks {
    known: Mutex<Vec<Fork>>,
}

#[derive(Clone, Copy, Debug)]
struct Fork {
    system_id: u64,
    /// The later one.
    timeline: u32,
    left_at: u64,
}

impl Forks {
    /// Takes note of where a primary left the timeline before its own.
    pub(crate) fn note(&self, facts: &Facts) {
        let Facts { role: Role::Primary, system_id, timeline, left_at: Some(left_at), .. } = *facts else {
            return;
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |fork: &&mut Fork| (fork.system_id, fork.timeline) == (system_id, timeline);
        if let Some(fork) = known.iter_mut().find(same) {
            // After a crash it says how far it has recovered, on its own timeline: that is later.
            fork.left_at = fork.left_at.min(left_at);
            return;
        }
        if known.len() == FORKS_MAX {
            known.remove(0);
        }
        known.push(Fork { system_id, timeline, left_at });
    }

    /// Where the history of this primary left the one that the token is of, if that was before the token's position.
    pub(crate) fn left_before(&self, primary: &Facts, token: Token) -> Option<Token> {
        // "The latest" is the latest there is.
        if token.timeline >= primary.timeline || token.is_latest() {
            return None;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = token.timeline + 1..=primary.timeline;
        let since = known
            .iter()
            .filter(|fork| fork.system_id == primary.system_id && passed.contains(&fork.timeline));
        let first = since.min_by_key(|fork| fork.left_at)?;
        (first.left_at < token.lsn).then_some(Token { timeline: first.timeline, lsn: first.left_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(timeline: u32, left_at: Option<u64>) -> Facts {
        Facts { role: Role::Primary, timeline, lsn: 1_000, incarnation: 1, system_id: 7, left_at }
    }

    fn token(timeline: u32, lsn: u64) -> Token {
        Token { timeline, lsn }
    }

    #[test]
    fn only_what_was_committed_beyond_a_fork_is_lost() {
        let forks = Forks::default();
        let second = primary(2, Some(500));
        assert_eq!(forks.left_before(&second, token(1, 501)), None, "nobody has told of it");
        forks.note(&second);
        assert_eq!(forks.left_before(&second, token(1, 500)), None);
        assert_eq!(forks.left_before(&second, token(1, 501)), Some(token(2, 500)));
        assert_eq!(forks.left_before(&second, token(2, 501)), None, "of its own");
        assert_eq!(forks.left_before(&second, token(1, u64::MAX)), None, "the latest there is");
    }

    #[test]
    fn earliest_fork_on_the_way_decides() {
        let forks = Forks::default();
        forks.note(&primary(2, Some(500)));
        forks.note(&primary(3, Some(900)));
        let third = primary(3, None);
        assert_eq!(forks.left_before(&third, token(1, 600)), Some(token(2, 500)));
        assert_eq!(forks.left_before(&third, token(2, 600)), None);
        assert_eq!(forks.left_before(&third, token(2, 901)), Some(token(3, 900)));
        assert_eq!(forks.left_before(&primary(2, None), token(1, 400)), None);
    }

    #[test]
    fn crash_moves_no_fork_and_strangers_have_their_own() {
        let forks = Forks::default();
        forks.note(&primary(2, Some(500)));
        forks.note(&primary(2, Some(800)));
        forks.note(&primary(2, None));
        forks.note(&Facts { role: Role::Replica, ..primary(2, Some(100)) });
        forks.note(&Facts { system_id: 8, ..primary(2, Some(100)) });
        assert_eq!(forks.left_before(&primary(2, None), token(1, 500)), None);
        assert_eq!(forks.left_before(&primary(2, None), token(1, 600)), Some(token(2, 500)));
    }

    #[test]
    fn forks_beyond_the_bound_are_forgotten_oldest_first() {
        let forks = Forks::default();
        for timeline in 2..=u32::try_from(FORKS_MAX).unwrap() + 2 {
            forks.note(&primary(timeline, Some(u64::from(timeline))));
        }
        assert_eq!(forks.left_before(&primary(2, None), token(1, 600)), None);
        assert_eq!(forks.left_before(&primary(3, None), token(1, 600)), Some(token(3, 3)));
    }
}
