//! Everything that this process logs, in memory. One test of a process may install it; the runner gives each test a
//! process of its own, and under a runner that does not, the tests that need it share it.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Clone, Debug, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

static INSTALLED: LazyLock<Captured> = LazyLock::new(|| {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_span_events(FmtSpan::FULL)
        .with_writer(captured.clone())
        .finish();
    // Records of the `log` crate come through as well, where that bridge is built in.
    subscriber.try_init().expect("nobody else in this binary listens");
    captured
});

impl Captured {
    pub(crate) fn install() -> Self {
        INSTALLED.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Captured {
    type Writer = Self;
    fn make_writer(&'writer self) -> Self {
        self.clone()
    }
}
