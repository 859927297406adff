//! Whether what this process says on a line comes back on the connection that listens to it. A connection may be sound and
//! lead to another server than the one that is spoken to: to a primary that has been replaced, for one.
//! Refuses to take what others say for an answer. Kept by the listening connections of `redis` and `postgres`.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::flight::lock;

/// Words that may fail to come back in a row.
const UNHEARD_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Echo(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The last that were said and not heard.
    unheard: VecDeque<Bytes>,
    /// Since when none has been heard.
    heard_at: Instant,
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { unheard: VecDeque::new(), heard_at: Instant::now() }))
    }

    /// Another connection listens from now on.
    pub(crate) fn begin(&self) {
        *lock(&self.0) = State { unheard: VecDeque::new(), heard_at: Instant::now() };
    }

    /// Goes before the call: the echo may be faster than its answer.
    pub(crate) fn say(&self, words: &Bytes) {
        let mut state = lock(&self.0);
        if state.unheard.len() == UNHEARD_MAX {
            state.unheard.pop_front();
        }
        state.unheard.push_back(words.clone());
    }

    /// It seems that the server did not take it.
    pub(crate) fn unsay(&self, words: &Bytes) {
        lock(&self.0).unheard.retain(|unheard| unheard != words);
    }

    pub(crate) fn hear(&self, words: &Bytes) {
        let mut state = lock(&self.0);
        if state.unheard.contains(words) {
            *state = State { unheard: VecDeque::new(), heard_at: Instant::now() };
        }
    }

    /// True if much was said and nothing has come back for so long. What is on its way counts as not heard.
    pub(crate) fn is_missing(&self, patience: Duration) -> bool {
        let state = lock(&self.0);
        state.unheard.len() == UNHEARD_MAX && state.heard_at.elapsed() > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn echo_is_missing_once_four_words_and_patience_are_spent() {
        let (echo, patience) = (Echo::new(), Duration::from_secs(1));
        let words = |number: u8| Bytes::copy_from_slice(&[number]);
        (0..3).for_each(|number| echo.say(&words(number)));
        tokio::time::advance(patience * 2).await;
        assert!(!echo.is_missing(patience), "three words are few");
        echo.say(&words(3));
        echo.hear(&words(9));
        assert!(echo.is_missing(patience), "another's are none");
        echo.unsay(&words(3));
        assert!(!echo.is_missing(patience), "it was not taken");
        echo.say(&words(3));
        echo.hear(&words(2));
        assert!(!echo.is_missing(patience));
        (4..8).for_each(|number| echo.say(&words(number)));
        assert!(!echo.is_missing(patience), "something was heard just now");
        tokio::time::advance(patience * 2).await;
        assert!(echo.is_missing(patience));
        echo.begin();
        assert!(!echo.is_missing(patience));
    }
}
