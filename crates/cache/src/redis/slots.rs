//! Which of the 16,384 slots of a Redis Cluster a key is in, and which primary has it.
//! Refuses to connect to anything. Called by `router`.

use std::collections::HashMap;

use redis::Value;

/// Slots of a cluster, by its specification.
pub(super) const SLOTS: u16 = 16_384;

/// Stands for a slot that nobody serves.
const NOBODY: u16 = u16::MAX;

/// Host and port.
pub(super) type Place = (String, u16);

/// The slot of a key: CRC-16/XMODEM of what stands between the first `{` and the next `}`, or of all
/// of it if there is nothing between them.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>, appendix A.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

/// The primaries of a cluster and what they serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotMap {
    pub(super) primaries: Vec<Place>,
    /// Of each slot, which of them.
    owners: Vec<u16>,
}

impl SlotMap {
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|owner| usize::from(*owner))
    }

    /// Reads the answer to `CLUSTER SLOTS`, in which the host that was asked may go unnamed.
    pub(super) fn from_answer(answer: Value, asked_host: &str) -> Option<Self> {
        let Value::Array(mut ranges) = answer else { return None };
        // Redis 6 lists them in any order, and maps of several nodes must be comparable.
        ranges.sort_by_key(|range| match range {
            Value::Array(range) => range.first().and_then(integer),
            _ => None,
        });
        let mut map = Self { primaries: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] };
        let mut numbers = HashMap::<Place, u16>::new();
        for range in ranges {
            let Value::Array(mut range) = range else { return None };
            if range.len() < 3 {
                return None;
            }
            let Value::Array(primary) = range.swap_remove(2) else { return None };
            let place = place(primary, asked_host)?;
            let next = u16::try_from(map.primaries.len()).ok()?;
            let number = *numbers.entry(place).or_insert_with_key(|place| {
                map.primaries.push(place.clone());
                next
            });
            let (first, last) = (integer(&range[0])?, integer(&range[1])?);
            map.owners.get_mut(usize::from(first)..=usize::from(last))?.fill(number);
        }
        (!map.primaries.is_empty()).then_some(map)
    }
}

fn place(primary: Vec<Value>, asked_host: &str) -> Option<Place> {
    let mut parts = primary.into_iter();
    let host: Option<String> = redis::from_redis_value(parts.next()?).ok()?;
    let port = integer(&parts.next()?)?;
    let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked_host.to_owned());
    Some((host, port))
}

fn integer(value: &Value) -> Option<u16> {
    redis::from_redis_value_ref(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_that_of_the_specification() {
        let check = |key: &str, slot| assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        check("123456789", 0x31c3);
        check("foo", 12_182);
        check("{foo}.bar", 12_182);
        check("a{foo}{bar}", 12_182);
        check("", 0);
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn map_is_read_and_unnamed_host_is_the_one_asked() {
        let range = |first, last, host: &[u8], port| {
            let primary = vec![Value::BulkString(host.to_vec()), Value::Int(port)];
            Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(primary)])
        };
        let answer =
            Value::Array(vec![range(0, 9, b"a", 1), range(10, 10, b"", 2), range(12, 16_383, b"a", 1)]);
        let map = SlotMap::from_answer(answer, "asked").unwrap();
        assert_eq!(map.primaries, [("a".to_owned(), 1), ("asked".to_owned(), 2)]);
        let owners = [0, 9, 10, 11, 12, 16_383].map(|slot| map.owner(slot));
        assert_eq!(owners, [Some(0), Some(0), Some(1), None, Some(0), Some(0)]);
        for broken in [range(0, 16_384, b"a", 1), range(5, 1, b"a", 1), Value::Int(1), Value::Array(vec![])] {
            assert_eq!(SlotMap::from_answer(Value::Array(vec![broken]), "asked"), None);
        }
        assert_eq!(SlotMap::from_answer(Value::Array(vec![]), "asked"), None);
    }
}
