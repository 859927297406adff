//! Whether what this process says on a line comes back on the connection that listens to it. A connection may be sound and
//! lead to another server than the one that is spoken to: to a primary that has been replaced, for one.
//! Refuses to take what others say for an answer, and what is still on its way for lost. Kept by the listening connections of
//! `redis` and `postgres`.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::flight::lock;

/// Words in a row that must have failed to come back.
const UNHEARD_MIN: usize = 4;

/// Words that are known again when they come back.
const KNOWN_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Echo(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of which it is not known yet whether the server has taken them. The echo may be faster than the answer.
    under_way: Vec<Bytes>,
    /// The last that were taken and not heard.
    unheard: VecDeque<Bytes>,
    unheard_count: usize,
    /// When the first of those was taken.
    unheard_since: Option<Instant>,
}

/// Words on their way to the server. Dropped, they were not taken as far as anybody knows.
pub(crate) struct Said<'a> {
    echo: &'a Echo,
    words: Bytes,
}

impl Echo {
    /// Another connection listens from now on.
    pub(crate) fn begin(&self) {
        *lock(&self.0) = State::default();
    }

    pub(crate) fn say(&self, words: &Bytes) -> Said<'_> {
        lock(&self.0).under_way.push(words.clone());
        Said { echo: self, words: words.clone() }
    }

    pub(crate) fn hear(&self, words: &Bytes) {
        let mut state = lock(&self.0);
        if state.stop_waiting_for(words) || state.unheard.contains(words) {
            state.unheard.clear();
            (state.unheard_count, state.unheard_since) = (0, None);
        }
    }

    /// True if much has been taken, the first of it so long ago, and none has come back since.
    pub(crate) fn is_missing(&self, patience: Duration) -> bool {
        let state = lock(&self.0);
        state.unheard_count >= UNHEARD_MIN
            && state.unheard_since.is_some_and(|taken_at| taken_at.elapsed() > patience)
    }
}

impl State {
    /// True if the words were under way.
    fn stop_waiting_for(&mut self, words: &Bytes) -> bool {
        let place = self.under_way.iter().position(|under_way| under_way == words);
        place.map(|place| self.under_way.swap_remove(place)).is_some()
    }
}

impl Said<'_> {
    /// The server has taken them.
    pub(crate) fn taken(self) {
        let mut state = lock(&self.echo.0);
        // They may have been heard already.
        if !state.stop_waiting_for(&self.words) {
            return;
        }
        if state.unheard.len() == KNOWN_MAX {
            state.unheard.pop_front();
        }
        state.unheard.push_back(self.words.clone());
        state.unheard_count += 1;
        state.unheard_since.get_or_insert_with(Instant::now);
    }
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        lock(&self.echo.0).stop_waiting_for(&self.words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn words(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    #[tokio::test(start_paused = true)]
    async fn echo_is_missing_once_four_words_and_patience_are_spent() {
        let echo = Echo::default();
        (0..3).for_each(|number| echo.say(&words(number)).taken());
        tokio::time::advance(PATIENCE * 2).await;
        assert!(!echo.is_missing(PATIENCE), "three words are few");
        drop(echo.say(&words(3)));
        assert!(!echo.is_missing(PATIENCE), "it was not taken");
        echo.say(&words(3)).taken();
        echo.hear(&words(9));
        assert!(echo.is_missing(PATIENCE), "another's are none");
        echo.hear(&words(2));
        assert!(!echo.is_missing(PATIENCE));
        tokio::time::advance(PATIENCE * 2).await;
        (4..8).for_each(|number| echo.say(&words(number)).taken());
        assert!(!echo.is_missing(PATIENCE), "they were taken just now");
        tokio::time::advance(PATIENCE * 2).await;
        assert!(echo.is_missing(PATIENCE));
        echo.begin();
        assert!(!echo.is_missing(PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn echo_that_is_faster_than_the_answer_counts() {
        let echo = Echo::default();
        for number in 0..8 {
            let said = echo.say(&words(number));
            echo.hear(&words(number));
            said.taken();
        }
        tokio::time::advance(PATIENCE * 2).await;
        assert!(!echo.is_missing(PATIENCE));
    }
}
