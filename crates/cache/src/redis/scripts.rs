//! The Lua scripts: each is sent by its hash, and by its text when the server does not know it.
//! Refuses to be sent with keys of more than one slot. Called by the operations on records and lines.

use redis::Cmd;

use crate::FLOOR_LIFE;

/// One script.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    hash: String,
}

/// All scripts, each with what it shares with others in front.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) settle: Script,
    pub(super) void: Script,
    pub(super) put: Script,
    pub(super) attach: Script,
    pub(super) announce: Script,
    pub(super) pulse: Script,
    pub(super) replay: Script,
}

const RECORD: &str = include_str!("lua/record.lua");
const LINE: &str = include_str!("lua/line.lua");

impl Scripts {
    pub(super) fn new() -> Self {
        let floor_life = format!("local FLOOR_LIFE_MS = {}\n", FLOOR_LIFE.as_millis());
        let record = |text: &str| Script::new(format!("{floor_life}{RECORD}\n{text}"));
        let line = |text: &str| Script::new(format!("{LINE}\n{text}"));
        Self {
            claim: record(include_str!("lua/claim.lua")),
            settle: record(include_str!("lua/settle.lua")),
            void: record(include_str!("lua/void.lua")),
            put: record(include_str!("lua/put.lua")),
            attach: line(include_str!("lua/attach.lua")),
            announce: line(include_str!("lua/announce.lua")),
            pulse: line(include_str!("lua/pulse.lua")),
            replay: line(include_str!("lua/replay.lua")),
        }
    }
}

/// How a script is named in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum By {
    Hash,
    /// After the server has said that it does not know the hash.
    Text,
}

impl Script {
    fn new(text: String) -> Self {
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    /// The beginning of a call, up to its keys; arguments follow.
    pub(super) fn call<'a>(&self, by: By, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Cmd {
        let mut command = match by {
            By::Hash => redis::cmd("EVALSHA"),
            By::Text => redis::cmd("EVAL"),
        };
        command.arg(match by {
            By::Hash => &self.hash,
            By::Text => &self.text,
        });
        command.arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        command
    }
}
