//! The bytes of a value in a shared tier: who wrote it under which mark, its tags, its version, a
//! checksum, and the value as JSON. Whatever cannot be read is `Poisoned`, never an error.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Version;

/// What is sealed beside a value.
#[derive(Debug, Clone)]
pub struct SealedFields<'a> {
    pub key: &'a [u8],
    pub incarnation: u64,
    pub stamp: u64,
    pub version: Version,
    pub grace: Duration,
    pub tags: &'a [Arc<str>],
    pub validator: Option<&'a str>,
}

/// What was sealed.
#[derive(Debug, Clone)]
pub struct Opened<V> {
    pub value: Option<V>,
    pub incarnation: u64,
    pub stamp: u64,
    pub version: Version,
    pub grace: Duration,
    pub tags: Vec<Arc<str>>,
    pub validator: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes are not a value of this cache")]
pub struct Poisoned;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value cannot be encoded")]
pub struct CodecError;

#[derive(Serialize, Deserialize)]
struct Head {
    key: Vec<u8>,
    incarnation: u64,
    stamp: u64,
    version: u64,
    grace_ms: u64,
    tags: Vec<String>,
    validator: Option<String>,
}

/// How values of one type become bytes and back.
#[derive(Debug)]
pub struct Codec<V> {
    encode: fn(&V) -> Option<Vec<u8>>,
    decode: fn(&[u8]) -> Option<V>,
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<V: Serialize + DeserializeOwned> Codec<V> {
    pub fn json() -> Self {
        Self {
            encode: |value| serde_json::to_vec(value).ok(),
            decode: |bytes| serde_json::from_slice(bytes).ok(),
        }
    }
}

impl<V> Codec<V> {
    pub fn seal(&self, fields: &SealedFields<'_>, value: Option<&V>) -> Result<Bytes, CodecError> {
        let head = Head {
            key: fields.key.to_vec(),
            incarnation: fields.incarnation,
            stamp: fields.stamp,
            version: fields.version.0,
            grace_ms: u64::try_from(fields.grace.as_millis()).unwrap_or(u64::MAX),
            tags: fields.tags.iter().map(ToString::to_string).collect(),
            validator: fields.validator.map(str::to_owned),
        };
        let head = serde_json::to_vec(&head).map_err(|_| CodecError)?;
        let mut out = Vec::new();
        out.extend(u32::try_from(head.len()).map_err(|_| CodecError)?.to_be_bytes());
        out.extend(head);
        out.push(u8::from(value.is_some()));
        if let Some(value) = value {
            out.extend((self.encode)(value).ok_or(CodecError)?);
        }
        Ok(out.into())
    }

    pub fn open(&self, key: &[u8], bytes: &[u8]) -> Result<Opened<V>, Poisoned> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Poisoned)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Poisoned)?;
        let (head, rest) = rest.split_at_checked(length).ok_or(Poisoned)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| Poisoned)?;
        if head.key != key {
            return Err(Poisoned);
        }
        let value = match rest.split_first().ok_or(Poisoned)? {
            (0, []) => None,
            (1, payload) => Some((self.decode)(payload).ok_or(Poisoned)?),
            _ => return Err(Poisoned),
        };
        Ok(Opened {
            value,
            incarnation: head.incarnation,
            stamp: head.stamp,
            version: Version(head.version),
            grace: Duration::from_millis(head.grace_ms),
            tags: head.tags.into_iter().map(Arc::from).collect(),
            validator: head.validator.map(Arc::from),
        })
    }
}
