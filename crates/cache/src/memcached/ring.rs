//! Which of several servers holds a key: the one that scores highest with it (rendezvous hashing,
//! Thaler and Ravishankar 1998), so that one server more or less moves only that server's share.
//! A dead server keeps its keys: moving them while some nodes still reach it would let two servers
//! hold one key, and an invalidation reach only one of them. Called by `share`.

/// Servers by name, each scored for a key.
#[derive(Debug)]
pub(super) struct Ring {
    seeds: Vec<u64>,
}

impl Ring {
    /// The order of the names does not matter to what is held where.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self { seeds: names.map(|name| hash(name.as_bytes())).collect() }
    }

    /// The index of the server that holds the key, and a hash of the key to choose a connection by.
    pub(super) fn place(&self, key: &[u8]) -> (usize, u64) {
        let key = hash(key);
        let scores = self.seeds.iter().map(|seed| mix(key ^ seed));
        let best = scores.enumerate().max_by_key(|(_, score)| *score);
        (best.map_or(0, |(index, _)| index), key)
    }
}

/// FNV-1a, mixed. Every node and every release must place a key alike, so this is part of the format.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The finaliser of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(names: &[&'static str]) -> Vec<&'static str> {
        let ring = Ring::new(names.iter().copied());
        (0..3_000u32).map(|number| names[ring.place(&number.to_le_bytes()).0]).collect()
    }

    #[test]
    fn placement_is_part_of_the_format() {
        let ring = Ring::new(["a:11211", "b:11211", "c:11211"].into_iter());
        let placed: Vec<_> = (0..8u8).map(|number| ring.place(&[number]).0).collect();
        assert_eq!(placed, PLACED);
    }

    const PLACED: [usize; 8] = [2, 0, 2, 1, 0, 1, 0, 2];

    #[test]
    fn a_server_less_moves_only_its_own_keys() {
        let (all, less) = (holders(&["a", "b", "c"]), holders(&["c", "a"]));
        for (before, after) in all.iter().zip(&less) {
            assert!(before == after || *before == "b", "{before} -> {after}");
        }
        for name in ["a", "b", "c"] {
            let share = all.iter().filter(|holder| **holder == name).count();
            assert!((800..1_200).contains(&share), "{name} holds {share} of 3,000");
        }
    }
}
