//! A processor for each reading thread. Left to the scheduler, two threads that begin at the same moment can share one for
//! as long as a turn lasts, and what they share then costs nothing.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on the `nth` of the processors that it may use. Threads that it starts inherit that.
pub(super) fn keep_to(nth: u8) -> anyhow::Result<()> {
    let allowed = sched_getaffinity(None).context("ask which processors may be used")?;
    let mut of_allowed = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let processor = of_allowed.nth(usize::from(nth));
    let processor =
        processor.with_context(|| format!("there is no processor for thread {nth} of its own"))?;
    let mut own = CpuSet::new();
    own.set(processor);
    sched_setaffinity(None, &own).context("keep to one processor")
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::keep_to;

    #[test]
    fn thread_is_kept_to_one_processor_and_one_too_many_is_refused() {
        let kept = std::thread::spawn(|| {
            keep_to(0).unwrap();
            (sched_getaffinity(None).unwrap().count(), keep_to(1).is_err())
        });
        assert_eq!(kept.join().unwrap(), (1, true));
    }
}
