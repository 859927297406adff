//! The Lua scripts that move a key between its states, and what they answer.
//! Refuses anything but one round trip per call (two after the server has lost its scripts).
//! Called by `redis::remote`.

use redis::Script;

use crate::FLOOR_LIFE;

/// The scripts, each with the prelude in front. `Script` sends the hash, and the text only if the
/// server does not know it.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) read: Script,
    pub(super) write: Script,
    pub(super) tombstone: Script,
    pub(super) clear: Script,
}

const PRELUDE: &str = include_str!("lua/prelude.lua");

impl Scripts {
    pub(super) fn new() -> Self {
        let floor_life_ms = FLOOR_LIFE.as_millis();
        let script =
            |text: &str| Script::new(&format!("local FLOOR_LIFE_MS = {floor_life_ms}\n{PRELUDE}\n{text}"));
        Self {
            read: script(include_str!("lua/read.lua")),
            write: script(include_str!("lua/write.lua")),
            tombstone: script(include_str!("lua/tombstone.lua")),
            clear: script(include_str!("lua/clear.lua")),
        }
    }
}

/// A number as the scripts compare it: 16 hex digits.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// The number of 16 hex digits; anything else is the highest, which is never too low for a floor.
pub(super) fn from_hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or(u64::MAX)
}
