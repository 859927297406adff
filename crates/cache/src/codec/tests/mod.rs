//! Tests of the envelope, of the fingerprints and of the bytes of each released format.

mod damage;
mod envelope;
mod format;
mod shapes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Codec, Compression, Encoding, EncodingError, Schema, SealedFields};
use crate::Version;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    id: u64,
    owner: Arc<str>,
    limits: Option<Vec<u32>>,
    state: State,
    notes: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Open,
    Closed { reason: String },
    Moved(u64),
}

fn account() -> Account {
    Account {
        id: 7,
        owner: "Ada".into(),
        limits: Some(vec![1, 70_000]),
        state: State::Closed { reason: "asked for".to_owned() },
        notes: [("first".to_owned(), -1)].into(),
    }
}

fn tags() -> [Arc<str>; 2] {
    ["org:7".into(), "\u{e9}t\u{e9}".into()]
}

fn fields(tags: &[Arc<str>]) -> SealedFields<'_> {
    SealedFields {
        key: b"account:7",
        incarnation: 0x0102_0304_0506_0708,
        stamp: 300,
        version: Version(0x01_8d50_60a0),
        grace: Duration::from_secs(90),
        lifetime: None,
        tags,
        validator: Some("W/\"5\""),
    }
}

fn compressions() -> Vec<Compression> {
    vec![
        Compression::None,
        #[cfg(feature = "lz4")]
        Compression::Lz4,
        #[cfg(feature = "zstd")]
        Compression::Zstd { level: 1 },
    ]
}

fn codecs() -> Vec<Codec<Account>> {
    vec![
        Codec::custom(Schema::named("account", 1), Backwards),
        #[cfg(feature = "messagepack")]
        Codec::messagepack(),
        #[cfg(feature = "json")]
        Codec::json(),
    ]
}

/// JSON from its end: stands for an encoding of the user's.
struct Backwards;

impl<V: Serialize + DeserializeOwned> Encoding<V> for Backwards {
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        let text = serde_json::to_string_pretty(value)?;
        out.extend(text.bytes().rev());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Option<V> {
        let text: Vec<u8> = bytes.iter().rev().copied().collect();
        serde_json::from_slice(&text).ok()
    }
}
