//! Operations that change records: each is one script over keys that may go together.
//! Refuses to be repeated blindly: `void` may be, the others answer `Refused` the second time.
//! Called by `share`.

use redis::{Cmd, Value};

use super::{
    exec::Operation,
    keys::Keys,
    link::Live,
    milliseconds,
    record::hex,
    scripts::{By, Script},
};
use crate::tier::{Put, Settlement, Stored, Token, Void, Voiding};

/// A write over several records, whose arguments are in the order of the keys.
pub(super) struct Write<'a, T> {
    pub(super) keys: &'a Keys,
    pub(super) orders: &'a [T],
    pub(super) script: &'a Script,
}

/// What one record's order is to its script.
pub(super) trait Order: Sync {
    /// Adds what holds for all records.
    fn add_head_to(_command: &mut Cmd, _live: &Live) {}

    /// Adds the arguments of one.
    fn add_to(&self, command: &mut Cmd);
}

impl<T: Order> Operation for Write<'_, T> {
    type Answer = Stored;

    fn command(&self, members: &[usize], live: &Live, by: By) -> Cmd {
        let mut command = self.script.call(by, members.iter().map(|member| self.keys.get(*member)));
        command.arg(&live.server.0[..]);
        T::add_head_to(&mut command, live);
        for member in members {
            self.orders[*member].add_to(&mut command);
        }
        command
    }

    fn answers(&self, members: &[usize], _live: &Live, value: Value) -> Option<Vec<Stored>> {
        let stored = |value| match value {
            Value::Int(1) => Some(Stored::Yes),
            Value::Int(0) => Some(Stored::Refused),
            _ => None,
        };
        match value {
            Value::Array(values) => values.into_iter().map(stored).collect(),
            // One answer for all.
            value => stored(value).map(|stored| vec![stored; members.len()]),
        }
    }
}

impl Order for (bytes::Bytes, Token, Settlement) {
    fn add_to(&self, command: &mut Cmd) {
        let (how, lifetime_ms, payload) = match &self.2 {
            Settlement::Value { bytes, lifetime } => ("V", milliseconds(*lifetime), &bytes[..]),
            Settlement::Extend { lifetime } => ("E", milliseconds(*lifetime), &[][..]),
            Settlement::Release => ("R", 0, &[][..]),
            Settlement::Outdate => ("O", 0, &[][..]),
        };
        command.arg(&self.1.0.to_be_bytes()[..]).arg(how).arg(lifetime_ms).arg(payload);
    }
}

impl Order for Voiding {
    fn add_to(&self, command: &mut Cmd) {
        command.arg(hex(self.version)).arg(match self.how {
            Void::Remove => "R",
            Void::Expire => "E",
        });
    }
}

impl Order for Put {
    fn add_head_to(command: &mut Cmd, live: &Live) {
        command.arg(if live.is_blind() { "B" } else { "S" });
    }

    fn add_to(&self, command: &mut Cmd) {
        command.arg(hex(self.version)).arg(milliseconds(self.lifetime)).arg(&self.bytes[..]);
    }
}
