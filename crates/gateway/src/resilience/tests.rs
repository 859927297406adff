//! The stack against scripted attempts: what is retried, what is not, and what the caller is told.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    AttemptFailure, CallFailure, Completed, Deadline, NotSentReason, OperationClass, Patience,
    ResilienceSettings, Stack, Written,
};
use crate::{observer::NoObserver, outcome::UnknownReason, request::Reference};

const UNWRITTEN: (Written, UnknownReason) = (Written::Nothing, UnknownReason::ConnectionLost);
const LOST: (Written, UnknownReason) = (Written::Maybe, UnknownReason::ConnectionLost);

fn keyed() -> OperationClass {
    OperationClass::IdempotentWrite(Reference::new("R1").unwrap())
}

fn stack() -> Stack {
    Stack::new("test", ResilienceSettings::default(), Arc::new(NoObserver))
}

/// Plays the failures in order, then succeeds; tells the result and the number of attempts.
async fn play(
    stack: &Stack,
    class: OperationClass,
    failures: &[(Written, UnknownReason)],
) -> (Result<&'static str, CallFailure>, usize) {
    let mut script: VecDeque<_> = failures.iter().copied().collect();
    let mut attempts = 0;
    let result = stack
        .run(&class, Deadline::after(Duration::from_secs(60)), |_| {
            attempts += 1;
            let next = script.pop_front();
            async move {
                match next {
                    Some((Written::Nothing, reason)) => Err(AttemptFailure::unwritten(reason)),
                    Some((Written::Maybe, reason)) => Err(AttemptFailure::uncertain(reason, None)),
                    None => Ok("done"),
                }
            }
        })
        .await;
    (result.map(|completed| completed.value), attempts)
}

#[tokio::test(start_paused = true)]
async fn unsafe_write_is_resent_only_while_nothing_was_written() {
    let stack = stack();
    assert_eq!(play(&stack, OperationClass::UnsafeWrite, &[UNWRITTEN, UNWRITTEN]).await, (Ok("done"), 3));
    let (result, attempts) = play(&stack, OperationClass::UnsafeWrite, &[LOST]).await;
    assert_eq!((result, attempts), (Err(CallFailure::unknown(UnknownReason::ConnectionLost)), 1));
}

#[tokio::test(start_paused = true)]
async fn keyed_write_and_read_are_resent_after_a_lost_reply() {
    let stack = stack();
    assert_eq!(play(&stack, keyed(), &[LOST, LOST]).await, (Ok("done"), 3));
    assert_eq!(play(&stack, OperationClass::Read, &[LOST]).await, (Ok("done"), 2));
}

#[tokio::test(start_paused = true)]
async fn lost_reply_outweighs_a_later_refused_connection() {
    let (result, attempts) = play(&stack(), keyed(), &[LOST, UNWRITTEN, UNWRITTEN]).await;
    assert_eq!((result, attempts), (Err(CallFailure::unknown(UnknownReason::ConnectionLost)), 3));
}

#[tokio::test(start_paused = true)]
async fn refused_connections_end_as_not_sent() {
    let (result, attempts) = play(&stack(), OperationClass::UnsafeWrite, &[UNWRITTEN; 3]).await;
    assert_eq!(attempts, 3);
    assert_eq!(result, Err(CallFailure::not_sent(NotSentReason::Connect, None)));
}

#[tokio::test(start_paused = true)]
async fn spent_deadline_sends_nothing() {
    let result: Result<Completed<()>, _> = stack()
        .run(&keyed(), Deadline::after(Duration::ZERO), |_| async { unreachable!("must not be sent") })
        .await;
    assert_eq!(result, Err(CallFailure::not_sent(NotSentReason::DeadlineSpent, None)));
}

#[tokio::test(start_paused = true)]
async fn attempts_share_the_deadline() {
    let stack = stack();
    let mut granted = Vec::new();
    let deadline = Deadline::after(Duration::from_secs(15));
    let result: Result<Completed<()>, _> = stack
        .run(&OperationClass::Read, deadline, |timeout| {
            granted.push(timeout);
            async move {
                tokio::time::sleep(timeout).await;
                Err(AttemptFailure::uncertain(UnknownReason::Timeout, None))
            }
        })
        .await;
    assert_eq!(result, Err(CallFailure::unknown(UnknownReason::Timeout)));
    assert_eq!(granted.len(), 2, "the deadline leaves no room for a third");
    assert_eq!(granted[0], Duration::from_secs(10));
    assert!(granted[1] <= Duration::from_secs(5), "{granted:?}");
}

#[tokio::test(start_paused = true)]
async fn failing_writes_open_the_breaker_for_writes_only() {
    let stack = stack();
    for _ in 0..20 {
        play(&stack, OperationClass::UnsafeWrite, &[LOST]).await.0.unwrap_err();
    }
    let (result, attempts) = play(&stack, OperationClass::UnsafeWrite, &[]).await;
    assert_eq!(attempts, 0);
    assert!(matches!(
        result,
        Err(CallFailure::NotSent { reason: NotSentReason::BreakerOpen, retry_after: Some(_) })
    ));
    assert_eq!(play(&stack, OperationClass::Read, &[]).await, (Ok("done"), 1));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_gives_its_slot_back() {
    let stack = stack();
    let class = keyed();
    let endless = async {
        let _slot = stack.reserve(Patience::Brief).await.unwrap();
        assert_eq!(stack.stats().in_flight, 1);
        let endless = |_| async { std::future::pending::<Result<(), AttemptFailure>>().await };
        stack.run(&class, Deadline::after(Duration::from_secs(60)), endless).await
    };
    tokio::time::timeout(Duration::from_millis(1), endless).await.unwrap_err();
    assert_eq!(stack.stats().in_flight, 0);
}
