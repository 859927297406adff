//! The connection on which a node hears the line, for all caches attached to it. Whatever could have cost a
//! notification (a lost connection, a full queue, a body that is not to be had) is told to the
//! listeners; nothing is assumed to have arrived, and a connection on which this node's own pulses do not come back is replaced.
//! Supervised by a task that `PostgresTier` owns.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client,
    types::{ToSql, Type},
};

use super::{
    PostgresOptions,
    dial::{Dial, Dialed, Messages},
    sql,
};
use crate::{
    backplane::{Heard, Interruption, Listener, Mark},
    complaint::{Complaint, Outlook},
    echo::Echo,
};

/// Notifications that may wait to be applied. A node that is this far behind has to catch up by replay.
const QUEUE_MAX: usize = 4_096;

/// First and longest pause between attempts to listen.
const RELISTEN_MIN: Duration = Duration::from_millis(25);
const RELISTEN_MAX: Duration = Duration::from_secs(1);

pub(super) struct Ear {
    dial: Dial,
    schema: String,
    connect_timeout: Duration,
    silence_max: Duration,
    echo: Echo,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    is_up: bool,
    all: Vec<(Arc<str>, Weak<dyn Listener>)>,
}

/// A notification, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Notice {
    kind: Kind,
    mark: Mark,
    body: Bytes,
    cache: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Announcement,
    Pulse,
    /// The body did not fit: it is in the log.
    Reference,
}

/// The connection is of no more use.
struct Lost;

impl Ear {
    pub(super) fn new(dial: Dial, options: &PostgresOptions) -> Self {
        Self {
            dial,
            schema: options.schema.clone(),
            connect_timeout: options.connect_timeout,
            silence_max: options.silence_max,
            echo: Echo::default(),
            listeners: Mutex::default(),
        }
    }

    /// Knows the pulses of this node, which should come back.
    pub(super) fn echo(&self) -> &Echo {
        &self.echo
    }

    /// It is told at once if the line is up.
    pub(super) fn add(&self, cache: &str, listener: Weak<dyn Listener>) {
        let mut listeners = self.lock();
        listeners.all.retain(|(_, listener)| listener.strong_count() > 0);
        // Before anything else is told: what is heard goes to those who are entered.
        if let (true, Some(listener)) = (listeners.is_up, listener.upgrade()) {
            listener.interrupted(Interruption::Subscribed);
        }
        listeners.all.push((cache.into(), listener));
    }

    /// Keeps listening. Never returns; dropped with the tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        let (mut pause, mut complaint) = (RELISTEN_MIN, Complaint::of("postgres, the line"));
        loop {
            if let Some(Dialed { client, messages }) = self.dialed(&mut complaint).await {
                let (sender, mut queue) = mpsc::channel(QUEUE_MAX);
                let overflowed = AtomicBool::new(false);
                let listening = async {
                    self.subscribe(&client, &mut complaint).await?;
                    pause = RELISTEN_MIN;
                    complaint.connected();
                    self.pass_on(&client, &mut queue, &overflowed).await
                };
                tokio::select! {
                    () = drive(messages, sender, &overflowed) => {}
                    _lost = listening => {}
                }
                if std::mem::take(&mut self.lock().is_up) {
                    tracing::warn!("no longer listening to the announcements of the cache");
                    self.each(None, |listener| listener.interrupted(Interruption::Lost));
                }
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RELISTEN_MAX);
        }
    }

    async fn dialed(&self, complaint: &mut Complaint) -> Option<Dialed> {
        let Ok(dialed) = timeout(self.connect_timeout, self.dial.dial()).await else {
            complaint.tell(&"no answer in time", Outlook::Passing);
            return None;
        };
        dialed.map_err(|error| complaint.tell(&error, Outlook::Passing)).ok()
    }

    async fn subscribe(&self, client: &Client, complaint: &mut Complaint) -> Result<(), Lost> {
        let listening = timeout(self.connect_timeout, client.batch_execute(&sql::listen(&self.schema))).await;
        let listening = listening.map_err(|_elapsed| Lost)?;
        // A replica refuses; it would never hear anything.
        listening.map_err(|error| complaint.tell(&error, Outlook::Passing)).map_err(|()| Lost)?;
        self.echo.begin();
        let listeners: Vec<_> = {
            let mut listeners = self.lock();
            listeners.is_up = true;
            listeners.all.iter().filter_map(|(_, listener)| listener.upgrade()).collect()
        };
        listeners.iter().for_each(|listener| listener.interrupted(Interruption::Subscribed));
        Ok(())
    }

    /// Tells the listeners what comes, in its order, until the connection proves to be dead.
    async fn pass_on(
        &self,
        client: &Client,
        queue: &mut mpsc::Receiver<String>,
        overflowed: &AtomicBool,
    ) -> Result<(), Lost> {
        let mut heard_at = Instant::now();
        loop {
            let notice = timeout(self.silence_max, queue.recv()).await;
            // Before what came after it, which may vouch for what was lost.
            if overflowed.swap(false, Ordering::AcqRel) {
                self.each(None, |listener| listener.interrupted(Interruption::Overflowed));
            }
            match notice {
                Ok(Some(notice)) => self.tell(client, &notice).await,
                Ok(None) => return Err(Lost),
                Err(_silent) => {
                    tracing::trace!(
                        silence_ms = heard_at.elapsed().as_millis(),
                        "asking whether the line lives"
                    );
                    self.ask_for_life(client).await?;
                }
            }
            heard_at = Instant::now();
            if queue.is_empty() && self.echo.is_missing(self.silence_max) {
                // What the server had told before it answers is queued by then.
                self.ask_for_life(client).await?;
                if queue.is_empty() && self.echo.is_missing(self.silence_max) {
                    return Err(Lost);
                }
            }
        }
    }

    async fn ask_for_life(&self, client: &Client) -> Result<(), Lost> {
        let alive = timeout(self.silence_max, client.batch_execute("")).await;
        alive.map_err(|_elapsed| Lost)?.map_err(|_dead| Lost)
    }

    async fn tell(&self, client: &Client, payload: &str) {
        let Some(Notice { kind, mark, body, cache }) = Notice::read(payload) else {
            self.each(None, |listener| listener.heard(Heard::Unreadable));
            return;
        };
        let heard = match kind {
            Kind::Announcement => Heard::Announcement { mark, body },
            Kind::Pulse => {
                self.echo.hear(&body);
                Heard::Pulse { mark, body }
            }
            Kind::Reference if !self.is_wanted(&cache) => return,
            Kind::Reference => match self.fetch(client, &cache, mark).await {
                Some(body) => Heard::Announcement { mark, body },
                None => {
                    self.each(Some(&cache), |listener| listener.interrupted(Interruption::Overflowed));
                    return;
                }
            },
        };
        self.each(Some(&cache), |listener| listener.heard(heard.clone()));
    }

    async fn fetch(&self, client: &Client, cache: &str, mark: Mark) -> Option<Bytes> {
        let (incarnation, sequence) = (mark.incarnation.cast_signed(), i64::try_from(mark.sequence).ok()?);
        let body = sql::fill(sql::BODY, &self.schema);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&cache, Type::TEXT), (&incarnation, Type::INT8), (&sequence, Type::INT8)];
        let rows = timeout(self.silence_max, client.query_typed(&body, &parameters)).await.ok()?.ok()?;
        rows.first()?.try_get::<_, &[u8]>(0).ok().map(Bytes::copy_from_slice)
    }

    fn is_wanted(&self, cache: &str) -> bool {
        let listeners = self.lock();
        listeners.all.iter().any(|(name, listener)| **name == *cache && listener.strong_count() > 0)
    }

    fn each(&self, cache: Option<&str>, tell: impl Fn(&dyn Listener)) {
        // Told outside of the lock: a listener takes locks of its own.
        let listeners: Vec<_> = {
            let listeners = self.lock();
            let of = |name: &str| cache.is_none_or(|cache| cache == name);
            listeners
                .all
                .iter()
                .filter(|(name, _)| of(name))
                .filter_map(|(_, listener)| listener.upgrade())
                .collect()
        };
        listeners.iter().for_each(|listener| tell(&**listener));
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drives the connection, so that answers come, and queues what is told. Never waits for the listeners.
async fn drive(mut messages: Messages, queue: mpsc::Sender<String>, overflowed: &AtomicBool) {
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notification(notification) = message
            && queue.try_send(notification.payload().to_owned()).is_err()
        {
            overflowed.store(true, Ordering::Release);
        }
    }
}

impl Notice {
    /// `kind|incarnation|sequence|body|cache`, numbers and body in hexadecimal.
    fn read(payload: &str) -> Option<Self> {
        let mut parts = payload.splitn(5, '|');
        let kind = match parts.next()? {
            "A" => Kind::Announcement,
            "P" => Kind::Pulse,
            "R" => Kind::Reference,
            _ => return None,
        };
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let mark = Mark { incarnation: number()?, sequence: number()? };
        let body = unhex(parts.next()?)?;
        Some(Self { kind, mark, body, cache: parts.next()?.to_owned() })
    }
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_and_what_is_none_is_refused() {
        let notice = |kind, body: &'static [u8], cache: &str| {
            let mark = Mark { incarnation: u64::MAX, sequence: 16 };
            Some(Notice { kind, mark, body: Bytes::from_static(body), cache: cache.to_owned() })
        };
        let read = Notice::read;
        assert_eq!(read("A|ffffffffffffffff|10|00ff|a|b"), notice(Kind::Announcement, b"\0\xff", "a|b"));
        assert_eq!(read("P|ffffffffffffffff|10||"), notice(Kind::Pulse, b"", ""));
        assert_eq!(read("R|ffffffffffffffff|10||ä"), notice(Kind::Reference, b"", "ä"));
        for given in
            ["", "A", "A|1|1|0|c", "A|1|1|0g|c", "A|x|1||c", "B|1|1||c", "A|1|1|", "A|10000000000000000|1||c"]
        {
            assert_eq!(read(given), None, "{given}");
        }
    }
}
