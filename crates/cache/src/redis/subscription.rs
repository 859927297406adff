//! The connection on which a tier hears the other nodes, for all caches attached to it.
//! Whatever could have cost a message (a lost connection, a full queue, unreadable bytes) is told
//! to every listener; nothing is assumed to have arrived. Supervised by a task that `RedisTier` owns.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{RedisOptions, link::Link};
use crate::{
    GapCause,
    flight::lock,
    remote::{backplane::Listener, message::Message},
};

/// Messages that may wait to be applied. Applying one takes microseconds; a node that is this far
/// behind is better off with an empty L1.
const QUEUE_MAX: usize = 4_096;

/// Pause between attempts to subscribe, at first and at most.
const RESUBSCRIBE_MIN: Duration = Duration::from_millis(25);
const RESUBSCRIBE_MAX: Duration = Duration::from_secs(1);

/// Signs of life that may fail to come before the connection is asked whether it is alive.
const SILENT_HEARTBEATS_MAX: u32 = 4;

/// The least silence that is looked into, however short the heartbeat: a busy machine may stall a
/// task for tenths of a second, and a new subscription costs all of L1.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// For how many such silences a connection that is alive is believed.
const SILENCES_ANSWERED_MAX: u32 = 3;

pub(super) struct Subscription {
    client: Client,
    link: Arc<Link>,
    channel: String,
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
    command_timeout: Duration,
    connect_timeout: Duration,
    heartbeat: Duration,
    silence_max: Duration,
}

/// Whether this is the first subscription of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Later,
}

/// The connection is of no more use.
struct Lost;

impl Subscription {
    pub(super) fn new(
        info: ConnectionInfo,
        channel: String,
        link: Arc<Link>,
        options: &RedisOptions,
    ) -> RedisResult<Self> {
        // RESP3, because it lets a PING travel on a subscribed connection.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self {
            client: Client::open(info.set_redis_settings(settings))?,
            link,
            channel,
            listeners: Mutex::default(),
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            heartbeat: options.heartbeat,
            silence_max: (options.heartbeat * SILENT_HEARTBEATS_MAX).max(SILENCE_MIN),
        })
    }

    pub(super) fn add(&self, listener: Weak<dyn Listener>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    /// Keeps a subscription up. Never returns; dropped with the tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut turn = Turn::First;
        let mut pause = RESUBSCRIBE_MIN;
        loop {
            let overflowed = Arc::new(AtomicBool::new(false));
            let (sender, mut pushes) = mpsc::channel(QUEUE_MAX);
            if let Ok(connection) = self.subscribe(sender, Arc::clone(&overflowed)).await {
                self.each_listener(|listener| match turn {
                    Turn::First => listener.subscribed(),
                    Turn::Later => listener.missed(GapCause::Resubscribed),
                });
                turn = Turn::Later;
                pause = RESUBSCRIBE_MIN;
                let Err(Lost) = self.listen(connection, &mut pushes, &overflowed).await;
                tracing::warn!("lost the subscription to invalidations");
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RESUBSCRIBE_MAX);
        }
    }

    async fn subscribe(
        &self,
        sender: mpsc::Sender<PushInfo>,
        overflowed: Arc<AtomicBool>,
    ) -> Result<MultiplexedConnection, Lost> {
        // Runs on the connection's own task: it must not wait, so a full queue loses the message
        // and says so.
        let push = move |info: PushInfo| {
            let sent = sender.try_send(info);
            if let Err(mpsc::error::TrySendError::Full(_)) = &sent {
                overflowed.store(true, Ordering::Release);
            }
            sent
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.connect_timeout))
            .set_push_sender(push);
        let subscribing = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            connection.subscribe(&self.channel).await?;
            connection.set_response_timeout(self.command_timeout);
            RedisResult::Ok(connection)
        };
        match timeout(self.connect_timeout * 2, subscribing).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                tracing::debug!(%error, "subscribe to invalidations");
                Err(Lost)
            }
            Err(_elapsed) => Err(Lost),
        }
    }

    /// Passes messages on until the connection is of no more use.
    async fn listen(
        &self,
        connection: MultiplexedConnection,
        pushes: &mut mpsc::Receiver<PushInfo>,
        overflowed: &AtomicBool,
    ) -> Result<Infallible, Lost> {
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                push = pushes.recv() => {
                    let push = push.ok_or(Lost)?;
                    heard_at = Instant::now();
                    // Before the message itself, which may vouch for those that were lost.
                    if overflowed.swap(false, Ordering::Acquire) {
                        self.each_listener(|listener| listener.missed(GapCause::Overflowed));
                    }
                    if push.kind == PushKind::Disconnection {
                        return Err(Lost);
                    }
                    self.pass_on(&push);
                }
                _ = beat.tick() => {
                    let silence = heard_at.elapsed();
                    if silence > self.silence_max {
                        self.explain_silence(silence, connection.clone(), pushes).await?;
                    }
                }
            }
        }
    }

    /// Finds out what it means that nothing has come for as long as `silence`.
    ///
    /// While commands get through, so do this node's own signs of life, and their absence means
    /// that this connection leads to another server. Whatever came before the answer to the PING is
    /// queued by then, so that a process that was merely stalled does not take itself for deaf.
    async fn explain_silence(
        &self,
        silence: Duration,
        mut connection: MultiplexedConnection,
        pushes: &mpsc::Receiver<PushInfo>,
    ) -> Result<(), Lost> {
        redis::cmd("PING").query_async::<()>(&mut connection).await.map_err(|_| Lost)?;
        let expects_signs =
            self.link.is_up() && lock(&self.listeners).iter().any(|listener| listener.strong_count() > 0);
        let is_deaf = silence > self.silence_max * SILENCES_ANSWERED_MAX && pushes.is_empty();
        if expects_signs && is_deaf { Err(Lost) } else { Ok(()) }
    }

    fn pass_on(&self, push: &PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        let message = match push.data.get(1) {
            Some(Value::BulkString(bytes)) => Message::decode(bytes).ok(),
            _ => None,
        };
        self.each_listener(|listener| match &message {
            Some(message) if message.cache == listener.cache() => listener.heard(message),
            Some(_) => {}
            None => listener.missed(GapCause::Unreadable),
        });
    }

    fn each_listener(&self, tell: impl Fn(&dyn Listener)) {
        // Told outside of the lock: a listener takes locks of its own.
        let listeners: Vec<_> = lock(&self.listeners).iter().filter_map(Weak::upgrade).collect();
        for listener in listeners {
            tell(&*listener);
        }
    }
}
