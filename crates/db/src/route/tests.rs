//! Tables over the routing choices.

use std::time::{Duration, Instant};

use super::*;
use crate::node::{Facts, NodeId};

fn seen(state: NodeState, role: Role, timeline: u32, lsn: u64) -> Observation {
    let facts = Facts { role, timeline, lsn, incarnation: 1, system_id: 7, left_at: None };
    Observation {
        state,
        facts: Some(facts),
        lag: Some(Duration::ZERO),
        is_behind: false,
        since: Instant::now(),
        probed_at: None,
        last_error: None,
    }
}

fn primary(timeline: u32) -> Observation {
    seen(NodeState::Up, Role::Primary, timeline, 100)
}

fn replica(timeline: u32, lsn: u64) -> Observation {
    seen(NodeState::Up, Role::Replica, timeline, lsn)
}

fn of_cluster(system_id: u64, seen: Observation) -> Observation {
    Observation { facts: seen.facts.map(|facts| Facts { system_id, ..facts }), ..seen }
}

fn down() -> Observation {
    seen(NodeState::Down, Role::Primary, 1, 100)
}

/// Which of them.
fn chosen(fence: &Fence, nodes: &[Observation]) -> Result<usize, NoPrimary> {
    fence.choose_primary(nodes.iter().map(Observation::standing)).map(|primary| primary.index)
}

#[test]
fn the_primary_is_the_one_server_out_of_recovery() {
    let table = [
        (vec![primary(1), replica(1, 90)], Ok(0)),
        (vec![replica(1, 90), primary(1)], Ok(1)),
        (vec![down(), replica(1, 90)], Err(NoPrimary::OnlyReplicas)),
        (vec![down(), down()], Err(NoPrimary::AllDown)),
        (vec![primary(1), primary(1)], Err(NoPrimary::SplitBrain)),
        (vec![primary(1), primary(2)], Ok(1)),
        (vec![primary(2), primary(1), primary(1)], Ok(0)),
    ];
    for (nodes, expected) in table {
        assert_eq!(chosen(&Fence::default(), &nodes), expected, "{nodes:?}");
    }
}

#[test]
fn a_replaced_primary_stays_fenced_when_its_successor_is_gone() {
    let fence = Fence::default();
    assert_eq!(chosen(&fence, &[primary(1), replica(1, 90)]), Ok(0));
    assert_eq!(chosen(&fence, &[down(), primary(2)]), Ok(1));
    assert_eq!(chosen(&fence, &[primary(1), down()]), Err(NoPrimary::Fenced));
    assert_eq!(chosen(&fence, &[replica(2, 90), primary(2)]), Ok(1));
}

#[test]
fn a_primary_of_another_cluster_is_refused() {
    let fence = Fence::default();
    assert_eq!(chosen(&fence, &[primary(1)]), Ok(0));
    assert_eq!(chosen(&fence, &[of_cluster(8, primary(9))]), Err(NoPrimary::OtherCluster));
    assert_eq!(chosen(&fence, &[primary(1)]), Ok(0), "the stranger's timeline must not raise the fence");
}

#[test]
fn a_primary_is_fenced_by_a_replica_of_its_successor() {
    let fence = Fence::default();
    assert_eq!(chosen(&fence, &[primary(1), replica(1, 90)]), Ok(0));
    assert_eq!(chosen(&fence, &[primary(1), replica(2, 90)]), Err(NoPrimary::Fenced));
    assert_eq!(chosen(&fence, &[primary(1), down()]), Err(NoPrimary::Fenced), "it is not forgotten");
    assert_eq!(chosen(&fence, &[primary(2), replica(1, 90)]), Ok(0));
    let of_another = of_cluster(8, replica(9, 90));
    assert_eq!(chosen(&fence, &[primary(2), of_another]), Ok(0), "a stranger's timeline says nothing");
}

#[test]
fn which_cluster_is_meant_says_the_server_that_is_named_first() {
    let stranger = || of_cluster(8, primary(9));
    assert_eq!(chosen(&Fence::default(), &[primary(1), stranger()]), Ok(0));
    assert_eq!(chosen(&Fence::default(), &[replica(1, 90), stranger()]), Err(NoPrimary::OtherCluster));
    assert_eq!(chosen(&Fence::default(), &[replica(1, 90), stranger(), primary(1)]), Ok(2));
    // It is away: then the others must agree.
    assert_eq!(chosen(&Fence::default(), &[down(), primary(1)]), Ok(1));
    assert_eq!(chosen(&Fence::default(), &[down(), primary(1), stranger()]), Err(NoPrimary::OtherCluster));
    let (fence, of_strangers) = (Fence::default(), || of_cluster(8, replica(5, 90)));
    let strangers = [down(), of_cluster(8, primary(1)), of_strangers()];
    assert_eq!(chosen(&fence, &strangers), Err(NoPrimary::Fenced));
    assert_eq!(chosen(&fence, &[primary(1), of_strangers()]), Ok(0), "what strangers follow raises no fence");
}

#[test]
fn a_late_replica_serves_no_reads_unless_there_is_no_primary() {
    let mut late = replica(1, 90);
    late.is_behind = true;
    assert!(!serves_reads(&late, Some(1)));
    assert!(serves_reads(&late, None));
    assert!(serves_reads(&replica(1, 90), Some(1)));
    assert!(!serves_reads(&replica(1, 90), Some(2)), "it follows the old history");
    assert!(!serves_reads(&primary(1), Some(1)));
    assert!(!serves_reads(&seen(NodeState::Down, Role::Replica, 1, 90), None));
}

#[test]
fn only_a_replica_that_has_replayed_the_token_on_its_timeline_may_serve_it() {
    let token = Token { timeline: 1, lsn: 90 };
    assert!(has_replayed(&replica(1, 90), token));
    assert!(has_replayed(&replica(1, 91), token));
    assert!(!has_replayed(&replica(1, 89), token));
    assert!(!has_replayed(&replica(2, 99), token));
    assert!(!has_replayed(&replica(0, 99), token));
    assert!(!has_replayed(&seen(NodeState::Down, Role::Replica, 1, 99), token));
}

#[test]
fn of_two_different_draws_the_cheaper_wins() {
    assert_eq!(cheaper_of_two(&[], |_| 0), None);
    assert_eq!(cheaper_of_two(&[5.0], |_| 0), Some(0));
    let scores = [3.0, 1.0, 2.0];
    for first in 0..3 {
        for step in 0..2 {
            let mut draws = [first, step].into_iter();
            let chosen =
                cheaper_of_two(&scores, |_| draws.next().expect("two draws")).expect("there are candidates");
            let second = (first + 1 + step) % 3;
            assert_ne!(first, second);
            assert!(scores[chosen] <= scores[first] && scores[chosen] <= scores[second]);
        }
    }
}

#[test]
fn load_latency_and_youth_raise_the_price() {
    let start = Instant::now();
    let later = start + Duration::from_secs(60);
    let node = Node::new(NodeId::new("a:1"), Duration::from_secs(1), start);
    let mut observed = replica(1, 90);
    observed.since = start;
    let score = |observed: &Observation, now| scores([(&node, observed)].into_iter(), now)[0];
    let calm = score(&observed, later);
    node.enter();
    assert!(score(&observed, later) > calm);
    node.leave();
    assert!(score(&observed, start) > calm, "a server that just appeared is spared");
    node.record_latency(Duration::from_millis(20), later);
    assert!(score(&observed, later) > calm);
}

#[test]
fn a_server_without_answers_is_not_taken_for_the_quickest() {
    let start = Instant::now();
    let now = start + Duration::from_secs(60);
    let node = |name| Node::new(NodeId::new(name), Duration::from_secs(1), start);
    let (settled, new) = (node("a:1"), node("b:1"));
    settled.record_latency(Duration::from_millis(2), now);
    let (mut old, mut young) = (replica(1, 90), replica(1, 90));
    (old.since, young.since) = (start, now);
    let price = |young: &Observation| scores([(&settled, &old), (&new, young)].into_iter(), now);
    let prices = price(&young);
    assert!(prices[1] >= 9.9 * prices[0], "a tenth of the share: {prices:?}");
    young.since = start;
    let prices = price(&young);
    assert!(prices[1] < prices[0], "in the end it is tried: {prices:?}");
}

#[test]
fn a_server_of_another_cluster_is_told_once_a_primary_was_chosen() {
    let fence = Fence::default();
    let mut stranger = replica(1, 1_000);
    stranger.facts = stranger.facts.map(|facts| Facts { system_id: 8, ..facts });
    assert_eq!(chosen(&fence, &[primary(1), stranger.clone()]), Ok(0));
    assert!(fence.is_of_this_cluster(&replica(1, 90)) && !fence.is_of_this_cluster(&stranger));
}
