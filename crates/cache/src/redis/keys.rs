//! Keys as Redis sees them, one after another in a single buffer: a batch allocates twice, not per key.
//! Refuses to let a key choose its slot. Built by `share` and `line`, read by `exec` and the operations.

use super::slots::slot_of;

/// Keys with their slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys {
    buffer: Vec<u8>,
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    begin: usize,
    slot: u16,
}

/// Whether slots are of any use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    Needed,
    Unused,
}

impl Keys {
    /// The keys, each behind the prefix. Braces, which would choose a slot, and the sign that they are
    /// written with, are written otherwise, so that different keys stay different.
    pub(super) fn new<'a>(prefix: &[u8], slots: Slots, keys: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let (bytes, count) = keys.clone().fold((0, 0), |(bytes, count), key| (bytes + key.len(), count + 1));
        let buffer = Vec::with_capacity(bytes + prefix.len() * count);
        let mut all = Self { buffer, places: Vec::with_capacity(count) };
        for key in keys {
            let begin = all.buffer.len();
            all.buffer.extend_from_slice(prefix);
            if key.iter().any(|byte| matches!(byte, b'{' | b'%')) {
                key.iter().for_each(|byte| all.push_escaped(*byte));
            } else {
                all.buffer.extend_from_slice(key);
            }
            let slot = if slots == Slots::Needed { slot_of(&all.buffer[begin..]) } else { 0 };
            all.places.push(Place { begin, slot });
        }
        all
    }

    /// One place in a slot, for operations that know their keys themselves.
    pub(super) fn of_slot(slot: u16) -> Self {
        Self { buffer: Vec::new(), places: vec![Place { begin: 0, slot }] }
    }

    fn push_escaped(&mut self, byte: u8) {
        match byte {
            b'{' => self.buffer.extend_from_slice(b"%7B"),
            b'%' => self.buffer.extend_from_slice(b"%25"),
            byte => self.buffer.push(byte),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn get(&self, number: usize) -> &[u8] {
        let end = self.places.get(number + 1).map_or(self.buffer.len(), |next| next.begin);
        &self.buffer[self.places[number].begin..end]
    }

    pub(super) fn slot(&self, number: usize) -> u16 {
        self.places[number].slot
    }

    /// Those of these numbers.
    pub(super) fn select(&self, numbers: &[usize]) -> Self {
        let mut some = Self { buffer: Vec::new(), places: Vec::with_capacity(numbers.len()) };
        for number in numbers {
            some.places.push(Place { begin: some.buffer.len(), slot: self.slot(*number) });
            some.buffer.extend_from_slice(self.get(*number));
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_the_buffer_and_braces_choose_no_slot() {
        let given = [&b"a"[..], b"", b"{t}x", b"%7Bt}x", b"b"];
        let keys = Keys::new(b"p:", Slots::Needed, given.into_iter());
        let expected = [&b"p:a"[..], b"p:", b"p:%7Bt}x", b"p:%257Bt}x", b"p:b"];
        assert!((0..keys.len()).map(|number| keys.get(number)).eq(expected));
        assert!((0..keys.len()).all(|number| keys.slot(number) == slot_of(expected[number])));
        let some = keys.select(&[4, 2]);
        assert_eq!((some.len(), some.get(0), some.get(1)), (2, &b"p:b"[..], &b"p:%7Bt}x"[..]));
        assert_eq!(some.slot(1), keys.slot(2));
    }
}
