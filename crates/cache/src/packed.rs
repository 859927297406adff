//! An entry as small as it gets: out of the processor's cache, a hit costs the lines it takes. Instants become spans
//! after the load, of 26 significant bits: exact to the microsecond up to 67 seconds, and longer ones by less than one part in
//! thirty million too long. A grace is never lost by that: it ends a step later instead. Called by `local`, `kept` and `front`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    life::{Life, State},
    local::{Entry, Traits},
};

/// An [`Entry`], packed: 40 bytes beside its value.
#[derive(Debug, Clone)]
pub(crate) struct Packed<V> {
    value: V,
    stamp: Stamp,
    loaded_us: u64,
    traits: Option<Arc<Traits>>,
    check: Short,
    expires: Short,
    grace_ends: Short,
    /// With the state of its life in the highest bit: what weighs 2 GiB or more counts as that.
    weight: u32,
}

const FALLBACK: u32 = 1 << 31;

/// The number of a sweep that, like all before it, does not mean the entry. It rises in place, whatever is done with the entry
/// at that moment: it says only what is true of it.
#[derive(Debug)]
struct Stamp(AtomicU64);

impl Clone for Stamp {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Relaxed)))
    }
}

/// A span of microseconds, as a number and by how many bits it is shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Short(u32);

/// Bits of the number; the others are for the shift.
pub(crate) const NUMBER_BITS: u32 = 26;
const NUMBER: u32 = (1 << NUMBER_BITS) - 1;

impl Short {
    /// Rounded up.
    fn of(us: u64) -> Self {
        let shift = (u64::BITS - us.leading_zeros()).saturating_sub(NUMBER_BITS);
        let number = us.div_ceil(1 << shift);
        // Rounded up to one bit more: the same with the next shift.
        let (number, shift) =
            if number > u64::from(NUMBER) { (number >> 1, shift + 1) } else { (number, shift) };
        let number = u32::try_from(number).unwrap_or(NUMBER);
        Self(number | (shift << NUMBER_BITS))
    }

    /// The next one; of what is endless, itself.
    fn longer(self) -> Self {
        Self::of(self.us().saturating_add(1))
    }

    #[inline]
    fn us(self) -> u64 {
        let (number, shift) = (self.0 & NUMBER, self.0 >> NUMBER_BITS);
        // What was rounded up beyond all numbers is endless.
        if shift > u64::BITS - NUMBER_BITS { u64::MAX } else { u64::from(number) << shift }
    }

    /// That long after `begin_us`.
    #[inline]
    fn after(self, begin_us: u64) -> u64 {
        begin_us.saturating_add(self.us())
    }
}

/// What of an entry says whether it needs a second look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) check_us: u64,
    pub(crate) stamp: u64,
    pub(crate) is_tagged: bool,
}

impl<V> Packed<V> {
    pub(crate) fn of(entry: Entry<V>) -> Self {
        let Life { check_us, expires_us, grace_ends_us, loaded_us, stamp, state } = entry.life;
        let span_us = |at_us: u64| at_us.saturating_sub(loaded_us);
        let after = |at_us: u64| Short::of(span_us(at_us));
        let (expires, grace_ends) = (after(expires_us), after(grace_ends_us));
        // What is expired is known by its grace to be a fallback.
        let is_grace_lost = grace_ends == expires && span_us(grace_ends_us) > span_us(expires_us);
        let grace_ends = if is_grace_lost { grace_ends.longer() } else { grace_ends };
        let weight = u32::try_from(entry.weight()).unwrap_or(u32::MAX).min(FALLBACK - 1);
        let state = if state == State::Fallback { FALLBACK } else { 0 };
        Self {
            stamp: Stamp(AtomicU64::new(stamp)),
            loaded_us,
            check: after(check_us),
            expires,
            grace_ends,
            weight: weight | state,
            traits: entry.traits,
            value: entry.value,
        }
    }

    #[inline]
    pub(crate) fn value(&self) -> &V {
        &self.value
    }

    pub(crate) fn into_value(self) -> V {
        self.value
    }

    #[inline]
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { check_us: self.check_us(), stamp: self.stamp(), is_tagged: self.traits.is_some() }
    }

    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.0.load(Relaxed)
    }

    /// Takes note that no sweep up to `newest` means the entry, if it is the one that was `judged`.
    pub(crate) fn restamp(&self, judged: &Entry<V>, newest: u64) {
        let traits = [&self.traits, &judged.traits].map(|traits| traits.as_ref().map(Arc::as_ptr));
        if traits[0] == traits[1] && self.life() == judged.life {
            // Of two that were judged at once it may keep the lower one, and is looked at once more.
            let _raised = self.stamp.0.compare_exchange(judged.life.stamp, newest, Relaxed, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn check_us(&self) -> u64 {
        self.check.after(self.loaded_us)
    }

    #[inline]
    pub(crate) fn traits(&self) -> Option<&Traits> {
        self.traits.as_deref()
    }

    pub(crate) fn loaded_us(&self) -> u64 {
        self.loaded_us
    }

    pub(crate) fn weight(&self) -> u64 {
        u64::from(self.weight & !FALLBACK)
    }

    pub(crate) fn life(&self) -> Life {
        let at = |span: Short| span.after(self.loaded_us);
        Life {
            check_us: at(self.check),
            expires_us: at(self.expires),
            grace_ends_us: at(self.grace_ends),
            loaded_us: self.loaded_us,
            stamp: self.stamp(),
            state: if self.weight & FALLBACK == 0 { State::Good } else { State::Fallback },
        }
    }

    pub(crate) fn entry(&self) -> Entry<V>
    where
        V: Clone,
    {
        Entry::new(self.value.clone(), self.life(), self.traits.clone(), self.weight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_is_never_shortened_and_lengthened_by_less_than_a_part_in_thirty_million() {
        let corners = (0..u64::BITS)
            .flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) | (1 << (bit / 2))]);
        for us in corners.chain([59_999_999, 3_600_000_000, u64::MAX - 1, u64::MAX]) {
            let short = Short::of(us);
            let error = short.us().checked_sub(us).expect("never shorter");
            assert!(u128::from(error) * 30_000_000 <= u128::from(us), "{us}: {error}");
            assert!(us > 67_000_000 || error == 0, "{us} is exact");
            assert_eq!(Short::of(short.us()).us(), short.us(), "packed again, {us} stays what it is");
        }
        assert_eq!(Short::of(u64::MAX).us(), u64::MAX, "endless stays endless");
    }

    #[test]
    fn grace_is_never_lost_and_lengthened_by_less_than_a_part_in_sixteen_million() {
        let corners = (0..u64::BITS).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        // The last one that is not endless, too.
        let last = u64::from(NUMBER) << (u64::BITS - NUMBER_BITS);
        for life_us in corners.chain([3_600_000_000, last - 1, last]) {
            for (grace_us, loaded_us) in [(0, 0), (1, 0), (1_000, 0), (1, 1_000_000)] {
                let expires_us = loaded_us + life_us;
                let life = Life {
                    check_us: expires_us,
                    expires_us,
                    grace_ends_us: expires_us + grace_us,
                    loaded_us,
                    stamp: 7,
                    state: State::Good,
                };
                let packed = Packed::of(Entry::new((), life, None, 0)).life();
                let has_grace = packed.grace_ends_us > packed.expires_us;
                assert_eq!(has_grace, grace_us > 0, "{life:?}, {packed:?}");
                let error = packed.grace_ends_us.checked_sub(life.grace_ends_us).expect("never shorter");
                let span_us = life_us + grace_us;
                assert!(u128::from(error) * 16_000_000 <= u128::from(span_us), "{life:?}: {error}");
                let again = Packed::of(Entry::new((), packed, None, 0)).life();
                assert_eq!(again, packed, "packed again, it stays what it is");
            }
        }
    }

    #[test]
    fn there_is_no_grace_after_what_is_endless_nor_before_the_load() {
        let fresh = Life {
            check_us: 0,
            expires_us: u64::MAX,
            grace_ends_us: u64::MAX,
            loaded_us: 1_000_000,
            stamp: 7,
            state: State::Good,
        };
        let over = Life { expires_us: 1, grace_ends_us: 2, state: State::Fallback, ..fresh };
        for (life, ends_us) in [
            (fresh, u64::MAX),
            (Life { expires_us: u64::MAX - 1, ..fresh }, u64::MAX),
            (over, 1_000_000),
            (Life { grace_ends_us: 1_000_000, ..over }, 1_000_000),
        ] {
            let packed = Packed::of(Entry::new((), life, None, 0)).life();
            assert_eq!((packed.expires_us, packed.grace_ends_us), (ends_us, ends_us), "{life:?}");
            assert_eq!(Packed::of(Entry::new((), packed, None, 0)).life(), packed);
        }
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let life = Life {
            check_us: 1_500_000,
            expires_us: 2_000_000,
            grace_ends_us: u64::MAX,
            loaded_us: 1_000_000,
            stamp: 7,
            state: State::Fallback,
        };
        let packed = Packed::of(Entry::new("value", life, None, 48));
        assert_eq!((packed.life(), packed.weight(), *packed.value()), (life, 48, "value"));
        assert!(size_of::<Packed<u64>>() <= 48);
    }
}
