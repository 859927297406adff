//! Operations that read records: plainly, or claiming what is no value in the same step.
//! Refuses to judge payloads. Called by `share`.

use bytes::Bytes;
use redis::{Cmd, Value};

use super::{
    exec::Operation,
    keys::Keys,
    lane::{Wish, read_command},
    link::Live,
    milliseconds,
    record::{Record, version},
    scripts::{By, Script},
    witness::Claiming,
};
use crate::{
    Version,
    tier::{Claim, Found, Over, Payload, Remnant},
};

/// Reads and leaves everything as it is: one `GET`, or an `MGET` for keys that may go together.
pub(super) struct Look<'a> {
    pub(super) keys: &'a Keys,
    /// What is said of a key without a value.
    pub(super) otherwise: Claimed,
}

impl Operation for Look<'_> {
    type Answer = Claimed;

    fn command(&self, members: &[usize], _live: &Live, _by: By) -> Cmd {
        read_command(members.iter().map(|member| self.keys.get(*member)))
    }

    fn wish(&self, member: usize, _live: &Live) -> Wish {
        Wish::Read(self.keys.get(member).into())
    }

    fn answers(&self, members: &[usize], live: &Live, value: Value) -> Option<Vec<Claimed>> {
        let values = match value {
            Value::Array(values) if members.len() > 1 => values,
            value => vec![value],
        };
        let now_ms = live.now_ms();
        let answer = |value| match decode(value, live, now_ms)? {
            Record::Value(payload) => Some(Claimed::Found(Found::Value(payload))),
            Record::Claimed { .. } | Record::Other => Some(self.otherwise.clone()),
        };
        values.into_iter().map(answer).collect()
    }

    fn excuse(&self, code: &str) -> Option<Claimed> {
        (code == "WRONGTYPE").then(|| self.otherwise.clone())
    }
}

/// What lies under keys without a value, for a person who asks.
pub(super) struct Inspect<'a> {
    pub(super) keys: &'a Keys,
}

impl Operation for Inspect<'_> {
    type Answer = Option<Remnant>;

    fn command(&self, members: &[usize], _live: &Live, _by: By) -> Cmd {
        read_command(members.iter().map(|member| self.keys.get(*member)))
    }

    fn wish(&self, member: usize, _live: &Live) -> Wish {
        Wish::Read(self.keys.get(member).into())
    }

    fn answers(&self, members: &[usize], live: &Live, value: Value) -> Option<Vec<Option<Remnant>>> {
        let values = match value {
            Value::Array(values) if members.len() > 1 => values,
            value => vec![value],
        };
        let now_ms = live.now_ms();
        let answer = |value| match value {
            Value::BulkString(raw) => Some(Record::remnant(raw.into(), live.server, now_ms)),
            Value::Nil => Some(None),
            _ => None,
        };
        values.into_iter().map(answer).collect()
    }

    fn excuse(&self, code: &str) -> Option<Option<Remnant>> {
        (code == "WRONGTYPE").then_some(None)
    }
}

fn decode(value: Value, live: &Live, now_ms: u64) -> Option<Record> {
    match value {
        Value::BulkString(raw) => Some(Record::decode(raw.into(), live.server, now_ms)),
        Value::Nil => Some(Record::Other),
        _ => None,
    }
}

/// What a claim takes besides its key: its record, and words.
const CLAIM_BYTES: usize = 110;

/// What came of a wish to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claimed {
    /// An answer.
    Found(Found),
    /// There is a record that only the script can make something of.
    Again,
    /// The server takes no more records.
    NoRoom,
}

/// Reads, and claims. A single key takes one native command, where the server has it and a value is not
/// to be claimed over; everything else takes the script.
pub(super) struct Take<'a> {
    pub(super) keys: &'a Keys,
    pub(super) claim: Claim,
    pub(super) script: &'a Script,
    pub(super) way: Way,
}

/// How a claim is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `SET .. NX GET` where it can be used.
    Shortest,
    /// The script, whatever the record.
    Script,
}

impl Operation for Take<'_> {
    type Answer = Claimed;

    fn command(&self, members: &[usize], live: &Live, by: By) -> Cmd {
        let lease_ms = milliseconds(self.claim.lease).max(1);
        if let [member] = members
            && self.way == Way::Shortest
            && live.claiming == Claiming::Native
        {
            let key = self.keys.get(*member);
            let mut command = Cmd::with_capacity(7, key.len() + CLAIM_BYTES);
            command.arg("SET").arg(key).arg(&Record::fresh_claim(live.server, self.claim.token)[..]);
            command.arg("NX").arg("GET").arg("PX").arg(lease_ms);
            return command;
        }
        let keys = members.iter().map(|member| self.keys.get(*member));
        let mut command = self.script.call(by, keys);
        command.arg(&live.server.0[..]).arg(&self.claim.token.0.to_be_bytes()[..]).arg(lease_ms);
        command.arg(match self.claim.over {
            Over::Nothing => "N",
            Over::Ahead => "A",
            Over::Value => "V",
            Over::Poison => "P",
        });
        command
    }

    fn answers(&self, _members: &[usize], live: &Live, value: Value) -> Option<Vec<Claimed>> {
        match value {
            Value::Array(values) => {
                values.into_iter().map(|value| from_script(value, live).map(Claimed::Found)).collect()
            }
            Value::Nil => Some(vec![Claimed::Found(Found::Claimed {
                floor: floor(Version::NONE, live),
                fallback: None,
            })]),
            value => Some(vec![match decode(value, live, live.now_ms())? {
                Record::Value(payload) => Claimed::Found(Found::Value(payload)),
                // Its own claim, which was made by a call that went unanswered, is for the script.
                Record::Claimed { token, floor: known, fallback } if token != self.claim.token => {
                    Claimed::Found(Found::Held { floor: floor(known, live), fallback })
                }
                Record::Claimed { .. } | Record::Other => Claimed::Again,
            }]),
        }
    }

    fn excuse(&self, code: &str) -> Option<Claimed> {
        match code {
            "WRONGTYPE" => Some(Claimed::Again),
            // It takes no writes for now; what it has can be read all the same.
            "OOM" | "NOREPLICAS" | "MISCONF" => Some(Claimed::NoRoom),
            _ => None,
        }
    }
}

/// No floor is high enough while some may have been lost.
fn floor(known: Version, live: &Live) -> Version {
    if live.is_blind() { Version::LATEST } else { known }
}

fn from_script(value: Value, live: &Live) -> Option<Found> {
    let Value::Array(fields) = value else { return None };
    let [found, known, remaining, payload] = <[Value; 4]>::try_from(fields).ok()?;
    let found: String = redis::from_redis_value(found).ok()?;
    let (Value::BulkString(known), Value::BulkString(payload)) = (known, payload) else { return None };
    let remaining_ms: u64 = redis::from_redis_value(remaining).ok()?;
    let payload = (remaining_ms > 0).then(|| Payload {
        bytes: Bytes::from(payload),
        remaining: std::time::Duration::from_millis(remaining_ms),
    });
    let floor = floor(version(&known), live);
    match found.as_str() {
        "V" => payload.map(Found::Value),
        "C" => Some(Found::Claimed { floor, fallback: payload }),
        "H" => Some(Found::Held { floor, fallback: payload }),
        _ => None,
    }
}
