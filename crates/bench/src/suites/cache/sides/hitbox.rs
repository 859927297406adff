//! hitbox over its moka backend, read through its typed backend call, with its binary format and without compression.
//! Flattered: its keys are built beforehand, and its state machine around that call is left out.

use std::hint::black_box;

use hitbox::{CacheContext, CacheKey, CacheValue, KeyPart};
use hitbox_backend::CacheBackend;
use hitbox_backend::format::BincodeFormat;
use hitbox_moka::MokaBackend;

use super::Side;
use crate::suites::cache::keys::{Key, TEXT_BYTES, Value};

impl Key for CacheKey {
    type Probe = Self;
    type Book = Vec<Self>;
    const NAME: &'static str = "CacheKey";
    const HEAP_BYTES: usize = TEXT_BYTES;

    fn of(number: u64) -> Self {
        Self::new("acc", 0, vec![KeyPart::new("id", Some(format!("{number:020}")))])
    }

    fn book(numbers: &[u64]) -> Vec<Self> {
        numbers.iter().copied().map(Self::of).collect()
    }

    #[inline]
    fn probe(book: &Vec<Self>, place: usize) -> &Self {
        &book[place]
    }
}

pub(in crate::suites::cache) struct Hitbox {
    backend: MokaBackend<BincodeFormat>,
}

impl Side<CacheKey> for Hitbox {
    const NAME: &'static str = "hitbox";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let builder = MokaBackend::builder().max_entries(entries_max as u64).value_format(BincodeFormat);
        Ok(Self { backend: builder.build() })
    }

    async fn insert(&self, key: CacheKey, value: Value) {
        let mut context = CacheContext::default().boxed();
        let value = CacheValue::new(value.to_vec(), None, None);
        // A value that is not stored shows as a miss when it is read.
        let _ = self.backend.set::<Vec<u8>>(&key, &value, &mut context).await;
    }

    #[inline]
    async fn read(&self, probe: &CacheKey) -> bool {
        let mut context = CacheContext::default().boxed();
        matches!(black_box(self.backend.get::<Vec<u8>>(probe, &mut context).await), Ok(Some(_)))
    }
}
