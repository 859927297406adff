//! Judges the messages of the other nodes: which to apply, and whether one before it is missing.
//! Sequences count per publisher, so one that restarts (and draws a new origin) starts afresh.
//! Holds no cache and clears nothing itself. Called by `backplane`.

use std::collections::HashMap;

use ahash::RandomState;

use super::message::{Body, Message};

/// Publishers remembered. A fleet is far smaller; over it, the next judgement assumes a gap.
const PEERS_MAX: usize = 4_096;

/// What is known of the other nodes, for one cache.
#[derive(Debug)]
pub(crate) struct Peers {
    own: u64,
    known: HashMap<u64, Peer, RandomState>,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    sequence: u64,
    heard_us: u64,
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is ours: it proves that messages come through, and changes nothing.
    Own,
    /// Do what it says.
    Apply,
    /// A message before this one is missing: anything may have changed.
    Gap,
}

impl Peers {
    pub(crate) fn new(own: u64) -> Self {
        Self { own, known: HashMap::default() }
    }

    pub(crate) fn judge(&mut self, message: &Message, now_us: u64) -> Verdict {
        if message.origin == self.own {
            return Verdict::Own;
        }
        if message.body == Body::Goodbye {
            self.known.remove(&message.origin);
            return Verdict::Apply;
        }
        let previous = self.known.get(&message.origin).map(|peer| peer.sequence);
        if previous.is_none() && self.known.len() >= PEERS_MAX {
            self.known.clear();
            return Verdict::Gap;
        }
        // A publisher heard for the first time has said nothing that this node should have heard:
        // L1 was empty when the subscription came up. Its sequence is kept from then on, over gaps
        // and new subscriptions too: what is lost right after those would otherwise go unnoticed.
        let previous = previous.unwrap_or(message.sequence);
        let expected = match message.body {
            Body::Heartbeat => previous,
            _ => previous.saturating_add(1),
        };
        let sequence = previous.max(message.sequence);
        self.known.insert(message.origin, Peer { sequence, heard_us: now_us });
        // A lower sequence is a repetition by a publisher that did not hear the answer.
        if message.sequence > expected { Verdict::Gap } else { Verdict::Apply }
    }

    /// Counts the silence of every peer from now: it was this node that did not hear.
    pub(crate) fn excuse_silence(&mut self, now_us: u64) {
        self.known.values_mut().for_each(|peer| peer.heard_us = now_us);
    }

    /// Forgets the peers that have been silent for longer than `limit_us`; how many there were.
    pub(crate) fn forget_silent(&mut self, now_us: u64, limit_us: u64) -> usize {
        let before = self.known.len();
        self.known.retain(|_, peer| now_us.saturating_sub(peer.heard_us) <= limit_us);
        before - self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    const OWN: u64 = 1;
    const PEER: u64 = 2;

    fn message(origin: u64, sequence: u64, body: Body) -> Message {
        Message { origin, sequence, sent_us: 0, cache: String::new(), body }
    }

    fn check(said: &[(u64, Body)], verdicts: &[Verdict]) {
        let mut peers = Peers::new(OWN);
        let judged: Vec<_> = said
            .iter()
            .map(|(sequence, body)| peers.judge(&message(PEER, *sequence, body.clone()), 0))
            .collect();
        assert_eq!(judged, verdicts, "{said:?}");
    }

    fn clear() -> Body {
        Body::Clear(Version::NONE)
    }

    #[test]
    fn unbroken_sequence_is_applied_and_a_jump_is_a_gap() {
        use Verdict::{Apply, Gap};
        check(&[(7, clear()), (8, clear()), (8, Body::Heartbeat)], &[Apply, Apply, Apply]);
        check(&[(7, clear()), (9, clear()), (10, clear())], &[Apply, Gap, Apply]);
        check(&[(7, clear()), (8, Body::Heartbeat), (9, clear())], &[Apply, Gap, Apply]);
        check(&[(7, Body::Heartbeat), (9, clear())], &[Apply, Gap]);
    }

    #[test]
    fn repetition_is_applied_again_and_hides_no_gap_after_it() {
        use Verdict::{Apply, Gap};
        check(&[(7, clear()), (7, clear()), (9, clear())], &[Apply, Apply, Gap]);
        check(&[(7, clear()), (6, Body::Heartbeat), (8, clear())], &[Apply, Apply, Apply]);
    }

    #[test]
    fn own_messages_change_nothing() {
        let mut peers = Peers::new(OWN);
        assert_eq!(peers.judge(&message(OWN, 9, clear()), 0), Verdict::Own);
    }

    #[test]
    fn silent_peer_is_noticed_once_and_one_that_said_goodbye_never() {
        let mut peers = Peers::new(OWN);
        peers.judge(&message(PEER, 1, clear()), 0);
        peers.judge(&message(3, 1, clear()), 0);
        peers.judge(&message(3, 1, Body::Goodbye), 5);
        assert_eq!(peers.forget_silent(10, 10), 0);
        assert_eq!(peers.forget_silent(11, 10), 1);
        assert_eq!(peers.forget_silent(99, 10), 0);

        peers.judge(&message(PEER, 1, clear()), 100);
        peers.excuse_silence(200);
        assert_eq!(peers.forget_silent(210, 10), 0);
    }

    #[test]
    fn number_of_peers_is_bounded() {
        let mut peers = Peers::new(OWN);
        let verdicts = (0..=PEERS_MAX as u64).map(|n| peers.judge(&message(10 + n, 1, clear()), 0));
        assert_eq!(verdicts.filter(|verdict| *verdict == Verdict::Gap).count(), 1);
        assert!(peers.known.len() <= PEERS_MAX);
    }
}
