//! One cache's announcements in Redis. All that the store keeps of them is under one hash tag, so that one
//! script numbers an announcement, keeps it and tells everyone.
//! Refuses to know what an announcement says. Given to caches by `RedisTier`.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use redis::{Cmd, Value};

use super::{
    Owner,
    exec::{Operation, run},
    frame,
    keys::Keys,
    link::Live,
    scripts::{By, Script},
    slots::slot_of,
};
use crate::{
    backplane::{Announcement, Line, Listener, Mark, Snapshot, Swath, Sweep},
    tier::{TierError, TierFuture, Void},
};

/// Tags whose sweeps are kept. Each costs about 100 bytes; over it the oldest are dropped and all that
/// is tagged and as old as they is void.
const TAGS_MAX: usize = 16_384;

/// Prefixes whose sweeps are kept: each entry of a node is held against all of them.
const PREFIXES_MAX: usize = 64;

/// Announcements that can be heard again: at 1,000 a second, what was missed in four seconds.
const LOG_MAX: usize = 4_096;

/// Bytes of them, whatever their number.
const LOG_BYTES_MAX: usize = 4 << 20;

pub(super) struct RedisLine {
    owner: Arc<Owner>,
    channel: String,
    /// State, tags, prefixes, log.
    keys: [String; 4],
    slot: u16,
}

impl fmt::Debug for RedisLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisLine").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// One call of a script over the keys of a line.
struct Call<'a> {
    line: &'a RedisLine,
    script: &'a Script,
    arguments: Vec<&'a [u8]>,
}

impl Operation for Call<'_> {
    type Answer = Value;

    fn command(&self, _members: &[usize], live: &Live, by: By) -> Cmd {
        let mut command = self.script.call(by, self.line.keys.iter().map(String::as_bytes));
        // Random, because a counter would repeat after the server has lost it.
        let incarnation = format!("{:016x}", rand::random::<u64>().max(1));
        command.arg(&live.server.0[..]).arg(incarnation);
        for argument in &self.arguments {
            command.arg(argument);
        }
        command
    }

    fn answers(&self, _members: &[usize], _live: &Live, value: Value) -> Option<Vec<Value>> {
        Some(vec![value])
    }
}

impl RedisLine {
    /// `name` is that of namespace and cache, escaped.
    pub(super) fn new(owner: Arc<Owner>, name: &str, database: i64) -> Self {
        let keys = ["line", "tags", "prefixes", "log"].map(|kind| format!("{{{name}}}:{kind}"));
        // Keys are a database's own, channels are the server's: without it caches of two databases would hear each other.
        let channel = if database == 0 { name.to_owned() } else { format!("{name}:{database}") };
        Self { owner, channel, slot: slot_of(keys[0].as_bytes()), keys }
    }

    async fn call(&self, script: &Script, arguments: Vec<&[u8]>) -> Result<Value, TierError> {
        let call = Call { line: self, script, arguments };
        run(&self.owner.router, &Keys::of_slot(self.slot), &call)
            .await
            .pop()
            .unwrap_or(Err(TierError::Failed))
    }

    async fn attach(&self) -> Result<Snapshot, TierError> {
        let answer = self.call(&self.owner.scripts.attach, Vec::new()).await?;
        snapshot(answer).ok_or(TierError::Failed)
    }

    async fn announce(&self, announcement: &Announcement) -> Result<Mark, TierError> {
        let bounds = [TAGS_MAX, PREFIXES_MAX, LOG_MAX, LOG_BYTES_MAX].map(|bound| bound.to_string());
        let sweeps: Vec<Vec<u8>> = announcement.sweeps.iter().map(sweep_argument).collect();
        let mut arguments = vec![self.channel.as_bytes(), &announcement.body[..]];
        arguments.extend(bounds.iter().map(String::as_bytes));
        arguments.extend(sweeps.iter().map(Vec::as_slice));
        let answer = self.call(&self.owner.scripts.announce, arguments).await?;
        mark(answer).ok_or(TierError::Failed)
    }

    async fn pulse(&self, body: &Bytes) -> Result<Mark, TierError> {
        let said = self.owner.subscription.echo().say(body);
        let arguments = vec![self.channel.as_bytes(), &body[..]];
        let answer = self.call(&self.owner.scripts.pulse, arguments).await?;
        said.taken();
        mark(answer).ok_or(TierError::Failed)
    }

    async fn replay(&self, since: Mark) -> Result<Option<Vec<(u64, Bytes)>>, TierError> {
        let incarnation = format!("{:016x}", since.incarnation);
        let sequence = since.sequence.to_string();
        let arguments = vec![incarnation.as_bytes(), sequence.as_bytes()];
        match self.call(&self.owner.scripts.replay, arguments).await? {
            Value::Nil => Ok(None),
            Value::Array(bodies) => {
                let numbered = (since.sequence + 1..).zip(bodies).map(|(sequence, body)| match body {
                    Value::BulkString(body) => Ok((sequence, Bytes::from(body))),
                    _ => Err(TierError::Failed),
                });
                numbered.collect::<Result<_, _>>().map(Some)
            }
            _ => Err(TierError::Failed),
        }
    }
}

impl Line for RedisLine {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn is_up(&self) -> bool {
        self.owner.router.link(self.slot).is_some_and(|link| link.is_up())
    }

    fn attach(&self) -> TierFuture<'_, Snapshot> {
        Box::pin(self.attach())
    }

    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark> {
        Box::pin(self.announce(announcement))
    }

    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>> {
        Box::pin(self.replay(mark))
    }

    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark> {
        Box::pin(self.pulse(body))
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        self.owner.subscription.add(&self.channel, self.slot, listener);
    }
}

/// Kind, way, text.
fn sweep_argument((swath, how): &(Swath, Void)) -> Vec<u8> {
    let (kind, text) = match swath {
        Swath::All => (b'A', &[][..]),
        Swath::Tag(tag) => (b'T', tag.as_bytes()),
        Swath::Prefix(prefix) => (b'P', &prefix[..]),
    };
    let how = match how {
        Void::Remove => b'R',
        Void::Expire => b'E',
    };
    [&[kind, how], text].concat()
}

fn mark(answer: Value) -> Option<Mark> {
    let Value::Array(fields) = answer else { return None };
    let [Value::BulkString(incarnation), Value::BulkString(sequence)] = &fields[..] else { return None };
    Some(Mark { incarnation: frame::hex(incarnation)?, sequence: frame::decimal(sequence)? })
}

fn snapshot(answer: Value) -> Option<Snapshot> {
    let Value::Array(fields) = answer else { return None };
    let [incarnation, sequence, forgotten, cleared, tags, prefixes] = <[Value; 6]>::try_from(fields).ok()?;
    let mark = mark(Value::Array(vec![incarnation, sequence]))?;
    let Value::BulkString(forgotten) = forgotten else { return None };
    let Value::Array(cleared) = cleared else { return None };
    let mut sweeps = Vec::new();
    for (how, sequence) in [Void::Remove, Void::Expire].into_iter().zip(cleared) {
        let Value::BulkString(sequence) = sequence else { return None };
        let sequence = frame::decimal(&sequence)?;
        if sequence > 0 {
            sweeps.push(Sweep { swath: Swath::All, how, sequence });
        }
    }
    let tag = |text: &[u8]| Some(Swath::Tag(std::str::from_utf8(text).ok()?.into()));
    let prefix = |text: &[u8]| Some(Swath::Prefix(Bytes::copy_from_slice(text)));
    sweeps.extend(kept(tags, tag)?);
    sweeps.extend(kept(prefixes, prefix)?);
    Some(Snapshot { mark, sweeps, forgotten_sequence: frame::decimal(&forgotten)? })
}

/// Members of a sorted set, each with its way in front and its score after it.
fn kept(answer: Value, swath: impl Fn(&[u8]) -> Option<Swath>) -> Option<Vec<Sweep>> {
    let Value::Array(fields) = answer else { return None };
    let pairs = fields.chunks_exact(2).map(|pair| {
        let [Value::BulkString(member), Value::BulkString(score)] = pair else { return None };
        let (how, text) = member.split_first()?;
        let how = if *how == b'E' { Void::Expire } else { Void::Remove };
        Some(Sweep { swath: swath(text)?, how, sequence: frame::decimal(score)? })
    });
    pairs.collect()
}
