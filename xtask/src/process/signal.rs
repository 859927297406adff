//! Signals: counts requests to stop (Ctrl-C, SIGTERM, SIGHUP) and sends signals to processes we started.
//! Holds all the `unsafe` of this tool. Never decides what to stop: callers in `process` do.

use std::sync::atomic::{AtomicU32, Ordering};

static STOP_REQUESTS: AtomicU32 = AtomicU32::new(0);

/// What a signal is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Process(u32),
    /// The process group led by this process.
    Group(u32),
}

/// The signals this tool sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Kill,
}

/// How often this process has been asked to stop. The second request means "now".
pub(crate) fn stop_requests() -> u32 {
    STOP_REQUESTS.load(Ordering::Relaxed)
}

extern "C" fn count_stop_request(_signal: libc::c_int) {
    STOP_REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// From now on a request to stop is counted instead of ending this process, so that what was started
/// can be stopped in order. A signal that our parent chose to ignore (`nohup`) stays ignored.
#[expect(unsafe_code, reason = "std offers no signal handling")]
pub(crate) fn catch_stop_requests() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: zeroed sigaction structs are valid to pass; the handler only adds to an atomic, which is
        // allowed in a signal handler; SA_RESTART keeps blocked calls of std from failing with EINTR.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut before) == 0
                && before.sa_sigaction == libc::SIG_IGN
            {
                continue;
            }
            let handler: extern "C" fn(libc::c_int) = count_stop_request;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Sends the signal; `false` when there is nobody to receive it or we may not.
#[expect(unsafe_code, reason = "std can only kill its own children, and only with SIGKILL")]
pub(crate) fn send(target: Target, signal: Signal) -> bool {
    let (pid, sign) = match target {
        Target::Process(pid) => (pid, 1),
        Target::Group(pid) => (pid, -1),
    };
    // 0 and 1 would address our own group or everything.
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1) else { return false };
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    // SAFETY: kill takes plain integers and touches no memory of ours.
    unsafe { libc::kill(sign * pid, number) == 0 }
}
