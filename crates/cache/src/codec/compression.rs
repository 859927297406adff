//! Compression of encoded values, bounded on the way back: no more is allocated than the size that was
//! declared and allowed, and a value that does not have exactly that size is none.
//! Refuses to choose what is compressed. Called by `Codec`.

#[cfg(feature = "zstd")]
use std::cell::RefCell;

/// How large values are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 blocks: quick.
    #[cfg(feature = "lz4")]
    Lz4,
    /// Zstandard at a level from 1 to 22; 1 or 3 for a cache. Smaller and slower. Each thread that
    /// compresses keeps a context of about 1 MiB.
    #[cfg(feature = "zstd")]
    Zstd { level: i32 },
}

/// How a payload was packed, as the envelope says it. What this build cannot unpack is named too, so
/// that it is told from garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Lz4,
    Zstd,
}

impl Compression {
    /// `None` if it is not smaller. What is gained must pay for the declared size, too.
    pub(super) fn pack(self, plain: &[u8]) -> Option<(Packing, Vec<u8>)> {
        /// Size of the longest size.
        const SIZE_BYTES_MAX: usize = 10;
        let packed: Option<(Packing, Vec<u8>)> = match self {
            Self::None => None,
            #[cfg(feature = "lz4")]
            Self::Lz4 => Some((Packing::Lz4, lz4_flex::block::compress(plain))),
            #[cfg(feature = "zstd")]
            Self::Zstd { level } => zstd_pack(plain, level).map(|packed| (Packing::Zstd, packed)),
        };
        packed.filter(|(_, packed)| packed.len() + SIZE_BYTES_MAX < plain.len())
    }
}

impl Packing {
    /// Exactly `plain_bytes` bytes, which the caller has found to be within bounds.
    pub(super) fn unpack(self, packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
        match self {
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4_unpack(packed, plain_bytes),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd_unpack(packed, plain_bytes),
            #[cfg(not(all(feature = "lz4", feature = "zstd")))]
            _ => {
                let _not_in_this_build = (packed, plain_bytes);
                None
            }
        }
    }
}

#[cfg(feature = "lz4")]
fn lz4_unpack(packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    /// A byte of an LZ4 block stands for 255 at most; a declared size beyond that is not worth memory.
    const GROWTH_MAX: usize = 255;
    if plain_bytes / GROWTH_MAX > packed.len() {
        return None;
    }
    let mut plain = vec![0; plain_bytes];
    let length = lz4_flex::block::decompress_into(packed, &mut plain).ok()?;
    (length == plain_bytes).then_some(plain)
}

#[cfg(feature = "zstd")]
fn zstd_pack(plain: &[u8], level: i32) -> Option<Vec<u8>> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(zstd::bulk::Compressor::new(level).ok()?),
        };
        compressor.set_compression_level(level).ok()?;
        compressor.compress(plain).ok()
    })
}

#[cfg(feature = "zstd")]
fn zstd_unpack(packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(zstd::bulk::Decompressor::new().ok()?),
        };
        let mut plain = Vec::with_capacity(plain_bytes);
        // Never writes beyond the capacity.
        let length = decompressor.decompress_to_buffer(packed, &mut plain).ok()?;
        (length == plain_bytes).then_some(plain)
    })
}
