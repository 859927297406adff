//! The connection on which announcements come in, apart from the commands because a subscribed connection
//! is bound to what it is subscribed to. Tells its listeners when it comes up, when it goes, and when
//! more came than could be taken; a connection that has gone silent without an end is asked and, if
//! this node's own pulses do not come back on it, replaced.
//! Refuses to read what it passes on. Supervised by a task that `RedisTier` owns.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{RedisOptions, dial::Dialed, failure::Failure, frame, lock, router::Router};
use crate::{
    backplane::{Heard, Interruption, Listener},
    complaint::Complaint,
    echo::Echo,
};

/// Messages that may wait to be applied. Applying one takes microseconds; a node that is this far
/// behind is better off asking for what it missed.
const QUEUE_MAX: usize = 4_096;

/// Pings are between these apart, whatever is set.
const HEARTBEAT_MIN: Duration = Duration::from_millis(5);
const HEARTBEAT_MAX: Duration = Duration::from_secs(86_400);

/// Pause between attempts to subscribe, at first and at most.
const RESUBSCRIBE_MIN: Duration = Duration::from_millis(25);
const RESUBSCRIBE_MAX: Duration = Duration::from_secs(1);

/// Heartbeats that may fail to come before the connection is asked whether it is alive.
const SILENT_HEARTBEATS_MAX: u32 = 4;

/// The least silence that is looked into, however short the heartbeat: a busy machine may stall a
/// task for tenths of a second.
const SILENCE_MIN: Duration = Duration::from_secs(1);

pub(super) struct Subscription {
    router: Arc<Router>,
    channels: Mutex<HashMap<String, Channel>>,
    changed: Notify,
    echo: Echo,
    command_timeout: Duration,
    connect_timeout: Duration,
    heartbeat: Duration,
    silence_max: Duration,
}

struct Channel {
    slot: u16,
    seats: Vec<Seat>,
}

/// A listener, and whether it has been told that it hears.
struct Seat {
    listener: Weak<dyn Listener>,
    is_told: bool,
}

/// A connection to subscribe on, and what comes over it.
struct Open {
    dialed: Dialed,
    pushes: mpsc::Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
}

impl Subscription {
    pub(super) fn new(router: Arc<Router>, options: &RedisOptions) -> Self {
        Self {
            router,
            channels: Mutex::default(),
            changed: Notify::new(),
            echo: Echo::default(),
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            heartbeat: options.heartbeat,
            silence_max: options.heartbeat.saturating_mul(SILENT_HEARTBEATS_MAX).max(SILENCE_MIN),
        }
    }

    pub(super) fn add(&self, channel: &str, slot: u16, listener: Weak<dyn Listener>) {
        let seat = Seat { listener, is_told: false };
        let begin = || Channel { slot, seats: Vec::new() };
        lock(&self.channels).entry(channel.to_owned()).or_insert_with(begin).seats.push(seat);
        self.changed.notify_one();
    }

    /// Knows the pulses of this node, which should come back.
    pub(super) fn echo(&self) -> &Echo {
        &self.echo
    }

    /// Keeps a subscription up. Never returns; dropped with the tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        let (mut pause, mut complaint) = (RESUBSCRIBE_MIN, Complaint::of("redis, the line"));
        loop {
            match self.open().await {
                Ok(open) => {
                    pause = RESUBSCRIBE_MIN;
                    complaint.connected();
                    let Err(failure) = self.listen(open).await;
                    tracing::warn!(%failure, "lost the subscription to invalidations");
                    self.lose();
                }
                Err(failure) => complaint.tell(&failure, failure.outlook()),
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RESUBSCRIBE_MAX);
        }
    }

    async fn open(&self) -> Result<Open, Failure> {
        let slot = lock(&self.channels).values().next().map_or(0, |channel| channel.slot);
        let endpoint = self.router.subscribe_at(slot).ok_or(Failure::Nowhere)?;
        let overflowed = Arc::new(AtomicBool::new(false));
        let (sender, pushes) = mpsc::channel(QUEUE_MAX);
        let flag = Arc::clone(&overflowed);
        // Runs on the connection's own task: it must not wait, so a full queue loses the message
        // and says so.
        let push = move |info: PushInfo| {
            let sent = sender.try_send(info);
            if let Err(mpsc::error::TrySendError::Full(_)) = &sent {
                flag.store(true, Ordering::Release);
            }
            sent
        };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.connect_timeout))
            .set_push_sender(push);
        // RESP3, because it lets a PING travel on a subscribed connection.
        let endpoint = endpoint.speaking(ProtocolVersion::RESP3);
        let dialed = endpoint.connect(config, self.connect_timeout).await?;
        self.echo.begin();
        Ok(Open { dialed, pushes, overflowed })
    }

    /// Passes messages on until the connection is of no more use.
    async fn listen(&self, mut open: Open) -> Result<Infallible, Failure> {
        let mut subscribed = HashSet::new();
        let mut beat = interval(self.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        loop {
            self.subscribe(&mut open.dialed.connection, &mut subscribed).await?;
            self.tell_newcomers(&subscribed);
            tokio::select! {
                biased;
                push = open.pushes.recv() => {
                    let push = push.ok_or(Failure::Nowhere)?;
                    heard_at = Instant::now();
                    // Before the message itself, which may vouch for those that were lost.
                    if open.overflowed.swap(false, Ordering::Acquire) {
                        self.each_seat(|listener| listener.interrupted(Interruption::Overflowed));
                    }
                    self.pass_on(push)?;
                }
                () = self.changed.notified() => {}
                _ = beat.tick() => {
                    if heard_at.elapsed() > self.silence_max || self.echo.is_missing(self.silence_max) {
                        self.explain_silence(&mut open).await?;
                    }
                }
            }
        }
    }

    /// Subscribes to what has listeners, and leaves what has none.
    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        subscribed: &mut HashSet<String>,
    ) -> Result<(), Failure> {
        let wanted: HashSet<String> = {
            let mut channels = lock(&self.channels);
            channels.retain(|_, channel| {
                channel.seats.retain(|seat| seat.listener.strong_count() > 0);
                !channel.seats.is_empty()
            });
            if channels.len() == subscribed.len() && channels.keys().all(|name| subscribed.contains(name)) {
                return Ok(());
            }
            channels.keys().cloned().collect()
        };
        for channel in wanted.difference(subscribed) {
            connection.subscribe(channel).await?;
        }
        for channel in subscribed.difference(&wanted) {
            connection.unsubscribe(channel).await?;
        }
        *subscribed = wanted;
        Ok(())
    }

    fn tell_newcomers(&self, subscribed: &HashSet<String>) {
        let mut newcomers = Vec::new();
        for (name, channel) in lock(&self.channels).iter_mut() {
            for seat in channel.seats.iter_mut().filter(|seat| !seat.is_told && subscribed.contains(name)) {
                seat.is_told = true;
                newcomers.extend(seat.listener.upgrade());
            }
        }
        for listener in newcomers {
            listener.interrupted(Interruption::Subscribed);
        }
    }

    fn lose(&self) {
        let mut losers = Vec::new();
        for seat in lock(&self.channels).values_mut().flat_map(|channel| &mut channel.seats) {
            if std::mem::take(&mut seat.is_told) {
                losers.extend(seat.listener.upgrade());
            }
        }
        for listener in losers {
            listener.interrupted(Interruption::Lost);
        }
    }

    /// Finds out what it means that nothing has come for long, or nothing of what this node says.
    ///
    /// Whatever came before the answer to the PING is queued by then, so that a process that was merely
    /// stalled does not take itself for deaf.
    async fn explain_silence(&self, open: &mut Open) -> Result<(), Failure> {
        let asking = redis::cmd("PING");
        let answer =
            timeout(self.command_timeout, asking.query_async::<()>(&mut open.dialed.connection)).await;
        answer.map_err(|_elapsed| Failure::Slow)??;
        let is_deaf = self.echo.is_missing(self.silence_max);
        if is_deaf && open.pushes.is_empty() { Err(Failure::Slow) } else { Ok(()) }
    }

    fn pass_on(&self, push: PushInfo) -> Result<(), Failure> {
        match push.kind {
            PushKind::Disconnection => return Err(Failure::Nowhere),
            PushKind::Message => {}
            _ => return Ok(()),
        }
        let (channel, frame) = match <[Value; 2]>::try_from(push.data) {
            Ok([Value::BulkString(channel), Value::BulkString(frame)]) => (channel, Bytes::from(frame)),
            _ => return Ok(()),
        };
        let Ok(channel) = std::str::from_utf8(&channel) else { return Ok(()) };
        let heard = frame::decode(frame);
        if let Heard::Pulse { body, .. } = &heard {
            self.echo.hear(body);
        }
        for listener in self.listeners_of(channel) {
            listener.heard(heard.clone());
        }
        Ok(())
    }

    /// Only those who have been told that they hear.
    fn listeners_of(&self, channel: &str) -> Vec<Arc<dyn Listener>> {
        let channels = lock(&self.channels);
        let seats = channels.get(channel).map_or(&[][..], |channel| &channel.seats);
        seats.iter().filter(|seat| seat.is_told).filter_map(|seat| seat.listener.upgrade()).collect()
    }

    fn each_seat(&self, tell: impl Fn(&dyn Listener)) {
        // Told outside of the lock: a listener takes locks of its own.
        let listeners: Vec<_> = {
            let channels = lock(&self.channels);
            let seats = channels.values().flat_map(|channel| &channel.seats);
            seats.filter(|seat| seat.is_told).filter_map(|seat| seat.listener.upgrade()).collect()
        };
        for listener in listeners {
            tell(&*listener);
        }
    }
}
