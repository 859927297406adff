//! Waiting for another node that loads a key, in growing steps, within the policy's `lease_wait`. Refuses to know whether it
//! has finished: that is asked of the tier after each step. Called by `consult`.

use std::time::Duration;

use tokio::time::sleep;

use crate::Policy;

/// First pause before asking again whether the other node has finished; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// What is left of the wait.
pub(crate) struct Patience {
    left: Duration,
    pause: Duration,
}

impl Patience {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self { left: policy.lease_wait, pause: PAUSE_MIN }
    }

    /// Pauses once; false when the time is used up.
    pub(crate) async fn pause(&mut self) -> bool {
        let pause = self.pause.min(self.left);
        if pause.is_zero() {
            return false;
        }
        sleep(pause).await;
        self.left -= pause;
        self.pause *= 2;
        true
    }
}
