//! Bytes from a shared tier never make `open` take more memory than the codec allows, whatever lengths
//! they claim. In a binary of its own, because it replaces the allocator.

#![cfg(feature = "messagepack")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
};

use paystrata_cache::codec::{Codec, SealedFields};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

thread_local! {
    static LARGEST_BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Watching;

#[expect(unsafe_code, reason = "an allocator cannot be written without; it passes everything on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _exiting = LARGEST_BYTES.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

const KEY: &[u8] = b"key";

/// Values decoded by serde reserve at most 1 MiB on the word of a length; the rest has to be there.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// An envelope around `payload` whose checksum holds, made from one around nothing.
fn forged(nothing: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&nothing[..nothing.len() - 8], payload].concat();
    bytes[3] |= 1;
    let sum = xxh3_64_with_seed(&bytes, xxh3_64(KEY));
    bytes.extend(sum.to_be_bytes());
    bytes
}

#[test]
fn claimed_lengths_reserve_no_memory() {
    type Value = (Vec<Vec<u64>>, HashMap<String, Vec<String>>, String, Vec<[u64; 4]>);
    let codec = Codec::<Value>::messagepack();
    let fields = SealedFields { key: KEY, ..SealedFields::default() };
    let nothing = codec.seal(&fields, None).unwrap();
    let good = rmp_serde::to_vec_named(&Value::default()).unwrap();
    assert!(codec.open(KEY, &forged(&nothing, &good)).is_ok(), "forgeries are taken for real");
    let mut random = StdRng::seed_from_u64(7);
    // Markers of MessagePack that claim a length: text, array, map, bytes, each with 32 bits.
    let claims = [0xdb_u8, 0xdd, 0xdf, 0xc6];
    for round in 0..20_000_usize {
        let mut payload = vec![0x94];
        for _ in 0..round % 6 {
            payload.push(claims[random.random_range(0..claims.len())]);
            let claimed = random.random::<u32>() >> (round % 32);
            payload.extend(claimed.to_be_bytes());
        }
        let tail: [u8; 16] = random.random();
        payload.extend(&tail[..round % 17]);
        let sealed = forged(&nothing, &payload);
        LARGEST_BYTES.set(0);
        let _either = codec.open(KEY, &sealed);
        let largest = LARGEST_BYTES.get();
        assert!(largest <= RESERVED_BYTES_MAX, "{largest} bytes for {payload:02x?}");
    }
}
