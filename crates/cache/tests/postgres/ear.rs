//! A listener that writes down what it hears.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use paystrata_cache::backplane::{Heard, Interruption, Line, Listener, Mark};

use crate::server::until;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    Heard(Heard),
    Interrupted(Interruption),
}

#[derive(Debug, Default)]
pub(crate) struct Notebook {
    notes: Mutex<Vec<Note>>,
}

impl Listener for Notebook {
    fn heard(&self, heard: Heard) {
        self.notes.lock().unwrap().push(Note::Heard(heard));
    }

    fn interrupted(&self, cause: Interruption) {
        self.notes.lock().unwrap().push(Note::Interrupted(cause));
    }
}

impl Notebook {
    /// A notebook on this line, which is up when this returns.
    pub(crate) async fn on(line: &Arc<dyn Line>) -> Arc<Self> {
        let notebook = Arc::new(Self::default());
        let listener: Arc<dyn Listener> = Arc::clone(&notebook) as Arc<dyn Listener>;
        let weak: Weak<dyn Listener> = Arc::downgrade(&listener);
        line.listen(weak);
        notebook.until_noted(Note::Interrupted(Interruption::Subscribed)).await;
        until(async || line.is_up()).await;
        notebook
    }

    pub(crate) fn notes(&self) -> Vec<Note> {
        self.notes.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.notes.lock().unwrap().clear();
    }

    pub(crate) async fn until_noted(&self, note: Note) {
        until(async || self.notes().contains(&note)).await;
    }

    /// The announcements that were heard, once the one with this number is among them.
    pub(crate) async fn announced(&self, last: u64) -> Vec<(Mark, Bytes)> {
        let of = |note: Note| match note {
            Note::Heard(Heard::Announcement { mark, body }) => Some((mark, body)),
            _ => None,
        };
        until(async || self.notes().into_iter().filter_map(of).any(|(mark, _)| mark.sequence == last)).await;
        self.notes().into_iter().filter_map(of).collect()
    }
}
